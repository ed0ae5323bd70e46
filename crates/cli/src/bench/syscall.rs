//! What a system call costs inside a sandbox and outside: the same program makes the same calls on both sides, in turn.
//!
//! What a sandbox adds is its filter. For a call that is allowed whatever its arguments the kernel asks a bitmap; where an
//! argument decides, it runs the filter each time (seccomp(2), Linux 5.11).

use crate::{
    failure::{Failure, Outcome},
    print, progress,
};
use serde::{Deserialize, Serialize};
use std::{
    fmt,
    fs::File,
    process::{Command, Stdio},
    time::Instant,
};

/// The calls of one sample: some milliseconds, so that the clock costs nothing and an interruption spoils one sample.
const CALLS: u32 = 20_000;
/// The samples of one program; the median is its answer.
const SAMPLES: usize = 15;

/// The median cost of each call, in nanoseconds, in one program.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Costs {
    getppid: f64,
    read: f64,
    prctl: f64,
}

/// One call on both sides, in nanoseconds.
#[derive(Debug, Serialize)]
struct Row {
    call: &'static str,
    /// What it stands for.
    what: &'static str,
    outside: f64,
    inside: f64,
    added: f64,
}

#[derive(Debug, Serialize)]
pub struct Report {
    bench: &'static str,
    /// Programs that ran on each side.
    n: u32,
    items: Vec<Row>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, row) in self.items.iter().enumerate() {
            let end = if i + 1 < self.items.len() { "\n" } else { "" };
            let Row { call, what, outside, inside, added } = row;
            write!(f, "{call}: {outside:.0} ns outside, {inside:.0} ns inside, {added:.0} ns added ({what}){end}")?;
        }
        Ok(())
    }
}

/// Runs so many programs on each side, one inside after each one outside.
pub fn syscall(n: u32) -> Outcome<Report> {
    let program =
        std::env::current_exe().map_err(|error| Failure::because("cannot find this program's file", &error))?;
    let outside = || {
        let mut command = Command::new(&program);
        command.args(["--json", "bench", "syscall-loop"]);
        command
    };
    let inside = || {
        const GUEST: &str = "/workspace/csb";
        let mut command = Command::new(&program);
        let volume = format!("{}:{GUEST}:ro", program.display());
        command.args(["run", "--no-stdin", "--volume", &volume, "--", GUEST, "--json", "bench", "syscall-loop"]);
        command
    };
    let bar = progress::steps(n.into(), "syscall");
    let (mut without, mut within) = (Vec::new(), Vec::new());
    for i in 1..=n {
        without.push(costs(outside())?);
        within.push(costs(inside()).map_err(|failure| failure.hint("see `csb doctor`"))?);
        bar.at(i.into());
    }
    let row = |call, what, cost: fn(&Costs) -> f64| {
        let of = |all: &[Costs]| median(all.iter().map(cost).collect());
        let (outside, inside) = (of(&without), of(&within));
        Row { call, what, outside, inside, added: round(inside - outside) }
    };
    let items = vec![
        row("getppid", "allowed whatever its arguments", |costs| costs.getppid),
        row("read", "the same; one byte of /dev/zero", |costs| costs.read),
        row("prctl", "allowed by its first argument", |costs| costs.prctl),
    ];
    Ok(Report { bench: "syscall", n, items })
}

/// What the program on each side does: makes the calls, and says what they cost.
pub fn measure() -> Outcome {
    let fail = |what: &'static str| move |error: std::io::Error| Failure::because(what, &error);
    let zero = File::open("/dev/zero").map_err(fail("cannot open /dev/zero"))?;
    let mut byte = [0];
    let costs = Costs {
        getppid: cost(|| _ = rustix::process::getppid()),
        read: cost(|| _ = rustix::io::read(&zero, &mut byte)),
        prctl: cost(|| _ = rustix::process::dumpable_behavior()),
    };
    print::json(&costs)
}

/// Median nanoseconds of one call.
fn cost(mut call: impl FnMut()) -> f64 {
    let mut sample = || {
        let start = Instant::now();
        for _ in 0..CALLS {
            call();
        }
        start.elapsed().as_secs_f64() * 1e9 / f64::from(CALLS)
    };
    sample();
    median((0..SAMPLES).map(|_| sample()).collect())
}

/// Tenths of a nanosecond.
fn round(ns: f64) -> f64 {
    (ns * 10.0).round() / 10.0
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    round(all.get(all.len() / 2).copied().unwrap_or(0.0))
}

fn costs(mut command: Command) -> Outcome<Costs> {
    let fail = |why: String| Failure::new(format!("cannot measure system calls: {why}"));
    let output = command.stdin(Stdio::null()).output().map_err(|error| fail(error.to_string()))?;
    if !output.status.success() {
        return Err(fail(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    serde_json::from_slice(&output.stdout).map_err(|error| fail(error.to_string()))
}
