//! A node with a real warden and real sandboxes. Needs root, or a host where an ordinary user may make namespaces.

mod execs;
mod faults;
mod files;
mod hardened;
mod lifecycle;
mod local;
mod machine;
mod restart;
mod reuse;
mod roles;
mod support;

use libtest_mimic::{Arguments, Trial};
use std::process::ExitCode;

fn main() -> ExitCode {
    // This very program, started as the warden.
    if let Some(code) = csb_warden::entry() {
        return code;
    }
    if let Some(code) = roles::play() {
        return code;
    }
    let mut arguments = Arguments::from_args();
    // Sandboxes of one test must not slow another's.
    arguments.test_threads.get_or_insert(1);
    let all = [
        execs::trials(),
        faults::trials(),
        files::trials(),
        hardened::trials(),
        lifecycle::trials(),
        local::trials(),
        machine::trials(),
        restart::trials(),
        reuse::trials(),
    ];
    let trials: Vec<Trial> = all.into_iter().flatten().collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}
