//! Owns what a filter decides, as data and as one pure function that says the same as the compiled program.
//! Knows nothing of BPF.

use std::collections::BTreeMap;

/// What happens to a system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is made.
    Allow,
    /// It is not made; the caller sees this `errno` (0: it sees success). At most 4095.
    Errno(u16),
    /// The whole process is killed with `SIGSYS`.
    KillProcess,
}

#[cfg(feature = "fuzzing")]
impl Verdict {
    /// As a program returns it.
    pub fn returned(self) -> u32 {
        super::compile::returned(self)
    }
}

/// What must hold of one argument.
///
/// Where the kernel itself takes an `int` or `unsigned int`, the 32-bit forms are right and the 64-bit forms are a
/// hole: a caller may put anything into the upper half of the register (CVE-2019-10063).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Is {
    /// The lower half equals.
    Eq32(u32),
    /// The lower half is one of these.
    In32(&'static [u32]),
    /// The lower half, under the mask, equals.
    Masked32 {
        /// Bits looked at.
        mask: u32,
        /// What they must be.
        value: u32,
    },
    /// The lower half, under the mask, is one of these.
    MaskedIn32 {
        /// Bits looked at.
        mask: u32,
        /// What they may be.
        values: &'static [u32],
    },
    /// All 64 bits equal.
    Eq64(u64),
    /// All 64 bits, under the mask, equal.
    Masked64 {
        /// Bits looked at.
        mask: u64,
        /// What they must be.
        value: u64,
    },
}

impl Is {
    /// Whether it holds for a register's value.
    pub fn holds(self, register: u64) -> bool {
        let low = register as u32;
        match self {
            Self::Eq32(value) => low == value,
            Self::In32(values) => values.contains(&low),
            Self::Masked32 { mask, value } => low & mask == value,
            Self::MaskedIn32 { mask, values } => values.contains(&(low & mask)),
            Self::Eq64(value) => register == value,
            Self::Masked64 { mask, value } => register & mask == value,
        }
    }
}

/// A condition on one argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Test {
    /// Which argument, 0 to 5.
    pub argument: u8,
    /// What must hold.
    pub is: Is,
}

/// A verdict for calls of which every test holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clause {
    /// All of them must hold.
    pub tests: Vec<Test>,
    /// Then this is done.
    pub verdict: Verdict,
}

/// What one system call may do: the first clause that fits decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// In order.
    pub clauses: Vec<Clause>,
    /// When no clause fits.
    pub otherwise: Verdict,
}

impl Rule {
    /// The same verdict whatever the arguments.
    pub fn always(verdict: Verdict) -> Self {
        Self { clauses: Vec::new(), otherwise: verdict }
    }

    /// A rule that starts with this verdict and gets its exceptions from `when`.
    pub fn otherwise(verdict: Verdict) -> Self {
        Self::always(verdict)
    }

    /// Adds a clause after those already there.
    pub fn when(mut self, verdict: Verdict, tests: &[(u8, Is)]) -> Self {
        let tests = tests.iter().map(|&(argument, is)| Test { argument, is }).collect();
        self.clauses.push(Clause { tests, verdict });
        self
    }

    fn decide(&self, arguments: &[u64; 6]) -> Verdict {
        self.clauses
            .iter()
            .find(|clause| clause.tests.iter().all(|test| test.is.holds(arguments[usize::from(test.argument)])))
            .map_or(self.otherwise, |clause| clause.verdict)
    }
}

/// Rules by system call number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// For calls without a rule, among them every x32 call: their numbers have bit 30 set.
    pub unknown: Verdict,
    /// For calls of another architecture (32-bit code on x86-64), whose numbers mean something else.
    pub foreign: Verdict,
    /// Rules of the machine's own architecture.
    pub rules: BTreeMap<u32, Rule>,
}

impl Policy {
    /// A policy without rules.
    pub fn new(unknown: Verdict, foreign: Verdict) -> Self {
        Self { unknown, foreign, rules: BTreeMap::new() }
    }

    /// Adds or replaces the rule of one call.
    pub fn rule(&mut self, number: libc::c_long, rule: Rule) {
        let number = u32::try_from(number).expect("system call numbers are small and positive");
        self.rules.insert(number, rule);
    }

    /// The verdict for one call of the machine's own architecture.
    pub fn decide(&self, number: u32, arguments: &[u64; 6]) -> Verdict {
        self.rules.get(&number).map_or(self.unknown, |rule| rule.decide(arguments))
    }
}
