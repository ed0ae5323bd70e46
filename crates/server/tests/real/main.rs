//! A server on a loopback port with a real node and real sandboxes, asked as any client would. Needs root, or a host
//! where an ordinary user may make namespaces.

mod access;
mod client;
mod execs;
mod files;
mod input;
mod lifecycle;
mod sessions;
mod streams;
mod support;

use libtest_mimic::Arguments;
use std::process::ExitCode;

fn main() -> ExitCode {
    // This very program, started as the warden.
    if let Some(code) = csb_warden::entry() {
        return code;
    }
    let mut arguments = Arguments::from_args();
    // Sandboxes of one test must not slow another's.
    arguments.test_threads.get_or_insert(1);
    let trials = [
        access::trials(),
        input::trials(),
        execs::trials(),
        streams::trials(),
        files::trials(),
        sessions::trials(),
        lifecycle::trials(),
    ];
    libtest_mimic::run(&arguments, trials.into_iter().flatten().collect()).exit_code()
}
