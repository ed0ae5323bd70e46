//! Samples and what is said of them.

use super::capacity::Budget;
use serde::Serialize;
use std::{fmt, time::Duration};

/// Times of one kind.
#[derive(Debug, Default)]
pub struct Samples(Vec<Duration>);

impl Samples {
    pub fn add(&mut self, sample: Duration) {
        self.0.push(sample);
    }

    /// Medians of the first tenth and of the last, ms.
    pub fn tenths(&self) -> Option<(f64, f64)> {
        let size = self.0.len() / 10;
        let median = |part: &[Duration]| {
            let mut part = part.to_vec();
            part.sort();
            round(part[part.len() / 2].as_secs_f64() * 1e3)
        };
        (size > 0).then(|| (median(&self.0[..size]), median(&self.0[self.0.len() - size..])))
    }

    fn sorted_ms(&self) -> Vec<f64> {
        let mut ms: Vec<f64> = self.0.iter().map(|d| d.as_secs_f64() * 1e3).collect();
        ms.sort_by(f64::total_cmp);
        ms
    }
}

/// One JSON object. Times in ms.
#[derive(Debug, Serialize)]
pub struct Report {
    pub bench: &'static str,
    /// How often.
    pub n: usize,
    pub min: f64,
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub max: f64,
    /// Sandboxes that were there at once and had all run code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub live: Option<usize>,
    /// Memory of the host that each of them took, KiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kib_each: Option<f64>,
    /// From the first request to the last answer, ms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total: Option<f64>,
    /// Sandboxes that were made, ran code and were released, per second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_second: Option<f64>,
    /// Median of the first tenth, ms, and of the last: equal where what is there slows nothing down.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenths: Option<(f64, f64)>,
    /// How the sandboxes started, such as `cold`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_by: Option<String>,
    /// Median and 99th percentile of the same program, started in turn outside any sandbox, ms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outside: Option<(f64, f64)>,
    /// How many fitted which amount of memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budgets: Option<Vec<Budget>>,
}

impl Report {
    /// Nearest-rank percentiles; there is at least one sample.
    pub fn new(bench: &'static str, samples: &Samples) -> Self {
        let ms = samples.sorted_ms();
        let rank = |percent: f64| {
            let at = (percent / 100.0 * ms.len() as f64).ceil() as usize;
            round(ms.get(at.saturating_sub(1)).copied().unwrap_or(0.0))
        };
        Self {
            bench,
            n: ms.len(),
            min: rank(0.0),
            p50: rank(50.0),
            p90: rank(90.0),
            p99: rank(99.0),
            max: rank(100.0),
            live: None,
            kib_each: None,
            total: None,
            per_second: None,
            tenths: None,
            started_by: None,
            outside: None,
            budgets: None,
        }
    }
}

/// Microseconds are as far as the clock means anything.
fn round(ms: f64) -> f64 {
    (ms * 1e3).round() / 1e3
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: p50 {:.2} ms, p99 {:.2} ms, n {}", self.bench, self.p50, self.p99, self.n)?;
        if let Some(how) = &self.started_by {
            write!(f, ", started by {how}")?;
        }
        if let Some((p50, p99)) = self.outside {
            write!(f, ", outside a sandbox p50 {p50:.2} ms, p99 {p99:.2} ms")?;
        }
        if let Some(live) = self.live {
            write!(f, ", {live} live")?;
        }
        if let Some((first, last)) = self.tenths {
            write!(f, ", p50 of the first tenth {first:.2} ms, of the last {last:.2} ms")?;
        }
        if let Some(kib) = self.kib_each {
            write!(f, ", {kib:.0} KiB each")?;
        }
        if let Some(rate) = self.per_second {
            write!(f, ", {rate:.0} a second")?;
        }
        if let Some(total) = self.total {
            write!(f, ", {total:.0} ms in all")?;
        }
        for budget in self.budgets.iter().flatten() {
            write!(f, "\n  {budget}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_samples_that_were_taken() {
        let mut samples = Samples::default();
        for ms in 1..=100 {
            samples.add(Duration::from_millis(ms));
        }
        let report = Report::new("x", &samples);
        assert_eq!((report.n, report.min, report.p50, report.p99, report.max), (100, 1.0, 50.0, 99.0, 100.0));
    }
}
