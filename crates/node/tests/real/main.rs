//! A node with a real warden and real sandboxes. Needs root, or a host where an ordinary user may make namespaces.

mod execs;
mod faults;
mod files;
mod firecracker;
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
    // In a machine's directory, as its VMM.
    if std::env::args().next().is_some_and(|name| name.ends_with(&format!("/{}", csb_testkit::firecracker::PROGRAM))) {
        return match csb_testkit::firecracker::run() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("firecracker: {error}");
                ExitCode::FAILURE
            }
        };
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
        firecracker::trials(),
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
