//! The whole program, from its start to the first output of the command it runs.

use super::{
    compare::first_output,
    figures::{Report, Samples},
};
use crate::{
    failure::{Failure, Outcome},
    progress,
};
use std::process::Command;

pub fn run(n: u32) -> Outcome<Report> {
    let program =
        std::env::current_exe().map_err(|error| Failure::because("cannot find this program's file", &error))?;
    let bar = progress::steps(n.into(), "run");
    let mut samples = Samples::default();
    // The first one also reads the program from disk.
    for i in 0..=n {
        let mut command = Command::new(&program);
        command.args(["run", "--no-stdin", "--", "/bin/echo", "x"]);
        let took = first_output(command).map_err(|failure| failure.hint("see `csb doctor`"))?;
        if i > 0 {
            samples.add(took);
        }
        bar.at(i.into());
    }
    Ok(Report { started_by: Some("cold".into()), ..Report::new("run", &samples) })
}
