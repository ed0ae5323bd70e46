//! The whole program, from its start to the first output of the command it runs.

use super::figures::{Report, Samples};
use crate::{
    failure::{Failure, Outcome},
    progress,
};
use std::{
    io::Read,
    process::{Command, Stdio},
    time::Instant,
};

pub fn cold(n: u32) -> Outcome<Report> {
    let program =
        std::env::current_exe().map_err(|error| Failure::because("cannot find this program's file", &error))?;
    let bar = progress::steps(n.into(), "cold");
    let mut samples = Samples::default();
    // The first one also reads the program from disk.
    for i in 0..=n {
        let fail = |error: std::io::Error| Failure::because("cannot run `csb run`", &error);
        let start = Instant::now();
        let mut child = Command::new(&program)
            .args(["run", "--no-stdin", "--", "/bin/echo", "x"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(fail)?;
        let mut output = [0; 2];
        let read = child.stdout.as_mut().map(|pipe| pipe.read_exact(&mut output));
        let took = start.elapsed();
        let status = child.wait().map_err(fail)?;
        if !status.success() || !matches!(read, Some(Ok(()))) || &output != b"x\n" {
            return Err(Failure::new("`csb run -- echo x` did not print `x`").hint("see `csb doctor`"));
        }
        if i > 0 {
            samples.add(took);
        }
        bar.at(i.into());
    }
    Ok(Report { started_by: Some("cold".into()), ..Report::new("cold", &samples) })
}
