//! Owns the way from a policy to a classic BPF program shaped as a binary search tree.
//! Knows nothing of what the policy is for.
//!
//! Installing a program costs about 0.3 µs for each instruction (the kernel translates it to eBPF, and that to machine
//! code), and every command of a sandbox pays it. So equal ends are shared instead of repeated, and what one test has
//! loaded the next does not load again.

use super::assemble::{Assembler, Node};
use super::policy::{Is, Policy, Rule, Test, Verdict};
use libc::sock_filter;

/// A policy that cannot become a program.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CompileError {
    /// The kernel's limit is `BPF_MAXINSNS`.
    #[error("the filter is too long: {instructions} instructions, 4096 are possible")]
    TooLong {
        /// What it came to.
        instructions: usize,
    },
    /// System calls have six arguments.
    #[error("the rule for system call {number} looks at argument {argument}; there are 0 to 5")]
    NoSuchArgument {
        /// Which system call.
        number: u32,
        /// What it asked for.
        argument: u8,
    },
}

// Offsets in struct seccomp_data (linux/seccomp.h).
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

// linux/audit.h
#[cfg(target_arch = "x86_64")]
pub(super) const OWN_ARCHITECTURE: u32 = 0xC000_003E;
#[cfg(target_arch = "aarch64")]
pub(super) const OWN_ARCHITECTURE: u32 = 0xC000_00B7;

const MOST_INSTRUCTIONS: usize = 4096;

pub(super) fn returned(verdict: Verdict) -> u32 {
    match verdict {
        Verdict::Allow => libc::SECCOMP_RET_ALLOW,
        Verdict::Errno(errno) => libc::SECCOMP_RET_ERRNO | u32::from(errno),
        Verdict::KillProcess => libc::SECCOMP_RET_KILL_PROCESS,
    }
}

pub(super) fn compile(policy: &Policy) -> Result<Vec<sock_filter>, CompileError> {
    for (&number, rule) in &policy.rules {
        if let Some(test) = rule.clauses.iter().flat_map(|clause| &clause.tests).find(|test| test.argument > 5) {
            return Err(CompileError::NoSuchArgument { number, argument: test.argument });
        }
    }
    let mut code = Assembler::default();
    let unknown = Rule::always(policy.unknown);
    let segments = segments(policy, &unknown);
    let decide = search(&mut code, &segments, &mut |code, rule| rule_code(code, rule));
    let own = code.load(NUMBER, decide);
    let foreign = code.ret(returned(policy.foreign));
    let start = code.equal(OWN_ARCHITECTURE, own, foreign);
    code.load(ARCHITECTURE, start);
    let program = code.finish();
    if program.len() > MOST_INSTRUCTIONS {
        return Err(CompileError::TooLong { instructions: program.len() });
    }
    Ok(program)
}

/// Numbers from the first element on, up to the next segment's.
type Segment<T> = (u32, T);

/// The whole space of numbers as segments; neighbours that do the same are one.
fn segments<'a>(policy: &'a Policy, unknown: &'a Rule) -> Vec<Segment<&'a Rule>> {
    let mut segments = Vec::new();
    // One past the last number with a rule; `None` past the end of all numbers.
    let mut next = Some(0);
    for (&number, rule) in &policy.rules {
        if let Some(next) = next
            && number > next
        {
            add(&mut segments, next, unknown);
        }
        add(&mut segments, number, rule);
        next = number.checked_add(1);
    }
    if let Some(next) = next {
        add(&mut segments, next, unknown);
    }
    segments
}

fn add<T: PartialEq>(segments: &mut Vec<Segment<T>>, start: u32, what: T) {
    if segments.last().is_none_or(|(_, last)| *last != what) {
        segments.push((start, what));
    }
}

/// A binary search over segments by what is in the accumulator.
fn search<T: Copy>(
    code: &mut Assembler,
    segments: &[Segment<T>],
    leaf: &mut dyn FnMut(&mut Assembler, T) -> Node,
) -> Node {
    if let [(_, only)] = segments {
        return leaf(code, *only);
    }
    let (lower, upper) = segments.split_at(segments.len() / 2);
    let above = search(code, upper, leaf);
    let below = search(code, lower, leaf);
    code.at_least(upper[0].0, above, below)
}

fn rule_code(code: &mut Assembler, rule: &Rule) -> Node {
    // From the end: a clause that does not fit goes on to the one behind it.
    let mut next = code.ret(returned(rule.otherwise));
    for clause in rule.clauses.iter().rev() {
        let mut fits = code.ret(returned(clause.verdict));
        for test in clause.tests.iter().rev() {
            fits = test_code(code, *test, fits, next);
        }
        next = fits;
    }
    next
}

fn test_code(code: &mut Assembler, test: Test, yes: Node, no: Node) -> Node {
    // Both architectures are little-endian: the lower half comes first.
    let low = ARGUMENTS + 8 * u32::from(test.argument);
    let high = low + 4;
    match test.is {
        Is::Eq32(value) => word(code, low, u32::MAX, &[value], yes, no),
        Is::In32(values) => word(code, low, u32::MAX, values, yes, no),
        Is::Masked32 { mask, value } => word(code, low, mask, &[value], yes, no),
        Is::MaskedIn32 { mask, values } => word(code, low, mask, values, yes, no),
        Is::Eq64(value) => {
            let lower = word(code, low, u32::MAX, &[value as u32], yes, no);
            word(code, high, u32::MAX, &[(value >> 32) as u32], lower, no)
        }
        Is::Masked64 { mask, value } => {
            let lower = word(code, low, mask as u32, &[value as u32], yes, no);
            word(code, high, (mask >> 32) as u32, &[(value >> 32) as u32], lower, no)
        }
    }
}

/// Whether the word at `offset`, under the mask, is one of the values.
fn word(code: &mut Assembler, offset: u32, mask: u32, values: &[u32], yes: Node, no: Node) -> Node {
    // Unmasked, the word is still in the accumulator when the next test looks at it.
    let (yes, no) = match mask {
        u32::MAX => (code.past_load(offset, yes), code.past_load(offset, no)),
        _ => (yes, no),
    };
    let mut values = values.to_vec();
    values.sort_unstable();
    values.dedup();
    let runs = runs(&values);
    let decide = if runs.len() <= values.len() {
        search(code, &runs, &mut |_, member| if member { yes } else { no })
    } else {
        values.iter().rev().fold(no, |next, value| code.equal(*value, yes, next))
    };
    match mask {
        u32::MAX => code.load(offset, decide),
        _ => {
            let masked = code.and(mask, decide);
            code.load(offset, masked)
        }
    }
}

/// A sorted set as segments of members and others.
fn runs(values: &[u32]) -> Vec<Segment<bool>> {
    let mut runs = Vec::new();
    let mut next = Some(0);
    for &value in values {
        if let Some(next) = next
            && value > next
        {
            add(&mut runs, next, false);
        }
        add(&mut runs, value, true);
        next = value.checked_add(1);
    }
    if let Some(next) = next {
        add(&mut runs, next, false);
    }
    runs
}
