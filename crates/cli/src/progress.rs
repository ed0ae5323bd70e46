//! A progress bar on stderr for what takes longer than a second; nothing where stderr is no terminal.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::{
    cell::OnceCell,
    time::{Duration, Instant},
};

const QUIET: Duration = Duration::from_secs(1);

/// Shows itself when it turns out to be needed.
pub struct Progress {
    since: Instant,
    total: Option<u64>,
    what: &'static str,
    style: &'static str,
    bar: OnceCell<ProgressBar>,
}

/// Counts bytes.
pub fn bytes(total: Option<u64>, what: &'static str) -> Progress {
    let style = match total {
        Some(_) => "{msg} {bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta}",
        None => "{msg} {bytes} {bytes_per_sec}",
    };
    Progress { since: Instant::now(), total, what, style, bar: OnceCell::new() }
}

/// Counts steps.
pub fn steps(total: u64, what: &'static str) -> Progress {
    let style = "{msg} {bar:30} {pos}/{len} {eta}";
    Progress { since: Instant::now(), total: Some(total), what, style, bar: OnceCell::new() }
}

impl Progress {
    /// So much is done.
    pub fn at(&self, done: u64) {
        if self.since.elapsed() < QUIET {
            return;
        }
        let bar = self.bar.get_or_init(|| {
            let bar = ProgressBar::with_draw_target(self.total, ProgressDrawTarget::stderr());
            if let Ok(style) = ProgressStyle::with_template(self.style) {
                bar.set_style(style);
            }
            bar.with_message(self.what)
        });
        bar.set_position(done);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = self.bar.get() {
            bar.finish_and_clear();
        }
    }
}
