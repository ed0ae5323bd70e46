//! How many sandboxes fitted which amount of memory.

use serde::Serialize;
use std::fmt;

/// Memory of small servers, GiB.
const GIBS: [u64; 4] = [1, 2, 4, 8];

/// What was found about one amount of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Budget {
    /// The amount.
    pub gib: u64,
    /// Sandboxes that were there at once and took no more than that, all together.
    pub sandboxes: u32,
    /// Whether one more took more than that; otherwise there were no more, and these are at least as many as fit.
    pub full: bool,
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let least = if self.full { "" } else { "at least " };
        write!(f, "{} GiB: {least}{}", self.gib, self.sandboxes)
    }
}

/// Filled while sandboxes are added.
#[derive(Debug, Default)]
pub struct Budgets {
    full: Vec<Budget>,
    seen: u32,
}

impl Budgets {
    /// With `count` sandboxes, all together take `kib`. False when the largest amount is used up.
    pub fn see(&mut self, count: u32, kib: u64) -> bool {
        while let Some(gib) = GIBS.get(self.full.len())
            && kib > gib << 20
        {
            self.full.push(Budget { gib: *gib, sandboxes: self.seen, full: true });
        }
        self.seen = count;
        self.full.len() < GIBS.len()
    }

    /// Of every amount, those that were not used up included.
    pub fn all(&self) -> Vec<Budget> {
        let rest = GIBS.iter().skip(self.full.len());
        let rest = rest.map(|gib| Budget { gib: *gib, sandboxes: self.seen, full: false });
        self.full.iter().copied().chain(rest).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_amount_is_full_with_the_last_sandbox_that_kept_within_it() {
        let mut budgets = Budgets::default();
        for count in 1..=5 {
            assert!(budgets.see(count, u64::from(count) * 400 * 1024));
        }
        let told: Vec<String> = budgets.all().iter().map(ToString::to_string).collect();
        assert_eq!(told, ["1 GiB: 2", "2 GiB: at least 5", "4 GiB: at least 5", "8 GiB: at least 5"]);
        assert!(!budgets.see(6, 9 << 20));
        assert!(budgets.all().iter().all(|budget| budget.full));
        assert_eq!(budgets.all()[3].sandboxes, 5);
    }
}
