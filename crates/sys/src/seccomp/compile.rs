//! Owns the way from a policy to a classic BPF program shaped as a binary search tree.
//! Knows nothing of what the policy is for.

use super::policy::{Is, Policy, Rule, Test, Verdict};
use libc::sock_filter;

/// A policy that cannot become a program.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CompileError {
    /// One rule needs a longer jump than a conditional BPF instruction has (255).
    #[error("the rule for system call {number} is too long: {instructions} instructions, 250 are possible")]
    RuleTooLong {
        /// Which system call.
        number: u32,
        /// What it came to.
        instructions: usize,
    },
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

// linux/bpf_common.h
const LOAD_WORD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
const JUMP: u16 = 0x05; // BPF_JMP | BPF_JA
const JUMP_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const JUMP_GREATER_EQUAL: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
const RETURN: u16 = 0x06; // BPF_RET | BPF_K

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
const LONGEST_RULE: usize = 250;

pub(super) fn returned(verdict: Verdict) -> u32 {
    match verdict {
        Verdict::Allow => libc::SECCOMP_RET_ALLOW,
        Verdict::Errno(errno) => libc::SECCOMP_RET_ERRNO | u32::from(errno),
        Verdict::KillProcess => libc::SECCOMP_RET_KILL_PROCESS,
    }
}

fn statement(code: u16, k: u32) -> sock_filter {
    sock_filter { code, jt: 0, jf: 0, k }
}

fn branch(code: u16, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

/// A range of system call numbers with one rule, from `start` to the next segment's.
struct Segment {
    start: u32,
    code: Vec<sock_filter>,
}

pub(super) fn compile(policy: &Policy) -> Result<Vec<sock_filter>, CompileError> {
    let segments = segments(policy)?;
    let mut program = vec![
        statement(LOAD_WORD, ARCHITECTURE),
        branch(JUMP_EQUAL, OWN_ARCHITECTURE, 1, 0),
        statement(RETURN, returned(policy.foreign)),
        statement(LOAD_WORD, NUMBER),
    ];
    program.extend(tree(&segments));
    if program.len() > MOST_INSTRUCTIONS {
        return Err(CompileError::TooLong { instructions: program.len() });
    }
    Ok(program)
}

/// The whole space of numbers as segments; neighbours that do the same are one.
fn segments(policy: &Policy) -> Result<Vec<Segment>, CompileError> {
    let unknown = vec![statement(RETURN, returned(policy.unknown))];
    let mut segments: Vec<Segment> = Vec::new();
    let mut add = |start: u32, code: &[sock_filter]| match segments.last_mut() {
        Some(last) if same(&last.code, code) => {}
        _ => segments.push(Segment { start, code: code.to_vec() }),
    };
    let mut next = 0u32;
    for (&number, rule) in &policy.rules {
        if number > next {
            add(next, &unknown);
        }
        add(number, &rule_code(number, rule)?);
        match number.checked_add(1) {
            Some(following) => next = following,
            // The last number there is: nothing follows.
            None => return Ok(segments),
        }
    }
    add(next, &unknown);
    Ok(segments)
}

fn same(a: &[sock_filter], b: &[sock_filter]) -> bool {
    let key = |i: &sock_filter| (i.code, i.jt, i.jf, i.k);
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| key(a) == key(b))
}

/// Expects the number in the accumulator. Lower half first, then the upper.
fn tree(segments: &[Segment]) -> Vec<sock_filter> {
    let [only] = segments else {
        let (lower, upper) = segments.split_at(segments.len() / 2);
        let (below, above) = (tree(lower), tree(upper));
        let mut code = Vec::with_capacity(below.len() + above.len() + 2);
        match u8::try_from(below.len()) {
            Ok(distance) => code.push(branch(JUMP_GREATER_EQUAL, upper[0].start, distance, 0)),
            // Conditional jumps reach 255 instructions, unconditional ones any distance.
            Err(_) => {
                code.push(branch(JUMP_GREATER_EQUAL, upper[0].start, 0, 1));
                code.push(statement(JUMP, below.len() as u32));
            }
        }
        code.extend(below);
        code.extend(above);
        return code;
    };
    only.code.clone()
}

fn rule_code(number: u32, rule: &Rule) -> Result<Vec<sock_filter>, CompileError> {
    let mut code = Vec::new();
    for clause in &rule.clauses {
        let mut clause_code = Vec::new();
        // A failed test goes on behind the clause; where that is, is known only when the clause is complete.
        let mut failures: Vec<usize> = Vec::new();
        for test in &clause.tests {
            if test.argument > 5 {
                return Err(CompileError::NoSuchArgument { number, argument: test.argument });
            }
            test_code(*test, &mut clause_code, &mut failures);
        }
        clause_code.push(statement(RETURN, returned(clause.verdict)));
        let end = clause_code.len();
        if end > LONGEST_RULE {
            return Err(CompileError::RuleTooLong { number, instructions: end });
        }
        for at in failures {
            clause_code[at].jf = (end - at - 1) as u8;
        }
        code.extend(clause_code);
    }
    code.push(statement(RETURN, returned(rule.otherwise)));
    Ok(code)
}

/// Falls through when the test holds; every instruction in `failures` must jump to the clause's end when false.
fn test_code(test: Test, code: &mut Vec<sock_filter>, failures: &mut Vec<usize>) {
    // Both architectures are little-endian: the lower half comes first.
    let low = ARGUMENTS + 8 * u32::from(test.argument);
    let high = low + 4;
    let mut half = |offset: u32, mask: u32, value: u32, code: &mut Vec<sock_filter>| {
        code.push(statement(LOAD_WORD, offset));
        if mask != u32::MAX {
            code.push(statement(AND, mask));
        }
        failures.push(code.len());
        code.push(branch(JUMP_EQUAL, value, 0, 0));
    };
    match test.is {
        Is::Eq32(value) => half(low, u32::MAX, value, code),
        Is::Masked32 { mask, value } => half(low, mask, value, code),
        Is::Eq64(value) => {
            half(high, u32::MAX, (value >> 32) as u32, code);
            half(low, u32::MAX, value as u32, code);
        }
        Is::Masked64 { mask, value } => {
            half(high, (mask >> 32) as u32, (value >> 32) as u32, code);
            half(low, mask as u32, value as u32, code);
        }
        Is::In32(values) => {
            code.push(statement(LOAD_WORD, low));
            match values.split_last() {
                Some((last, others)) => {
                    for (index, value) in others.iter().enumerate() {
                        // Past the remaining comparisons; longer sets end in `RuleTooLong`.
                        code.push(branch(JUMP_EQUAL, *value, (others.len() - index) as u8, 0));
                    }
                    failures.push(code.len());
                    code.push(branch(JUMP_EQUAL, *last, 0, 0));
                }
                // Nothing is in the empty set: this jump is taken whatever the accumulator holds.
                None => {
                    code.push(statement(AND, 0));
                    failures.push(code.len());
                    code.push(branch(JUMP_EQUAL, 1, 0, 0));
                }
            }
        }
    }
}
