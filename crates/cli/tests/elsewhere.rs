//! `csb run --kind remote`: the sandbox is a server's, the command as if it ran here, and nothing stays. Needs root.

mod support;

use std::{
    io::Read,
    process::{Output, Stdio},
};
use support::{Server, kill, text};

/// `csb run` at a server that cannot be reached, else at this one.
fn run(server: &Server, args: &[&str]) -> Output {
    let endpoint = format!("endpoint=http://127.0.0.1:1,{}", server.url());
    let args: Vec<&str> =
        ["run", "--kind", "remote", "--opt", &endpoint].into_iter().chain(args.iter().copied()).collect();
    server.csb(&args)
}

#[test]
fn a_command_runs_at_the_first_server_that_answers() {
    let server = Server::dev();
    let output = run(&server, &["-n", "-e", "A=1", "--", "sh", "-c", "echo $A; echo err >&2; exit 7"]);
    assert_eq!(
        (text(&output.stdout), text(&output.stderr), output.status.code()),
        ("1\n".into(), "err\n".into(), Some(7))
    );
    let output = run(&server, &["-c", "import sys; print(6 * 7, sys.argv[1:])", "a"]);
    assert_eq!(text(&output.stdout), "42 ['a']\n");
    let output = run(&server, &["--json", "-n", "--", "echo", "hi"]);
    let view: serde_json::Value = serde_json::from_str(&text(&output.stdout)).unwrap();
    assert_eq!((view["stdout"].as_str(), view["exit_code"].as_i64()), (Some("hi\n"), Some(0)));
    for (args, code) in [
        (&["-n", "--", "no-such-program"][..], 127),
        (&["-n", "--", "/etc/passwd"], 126),
        (&["-n", "--timeout", "200ms", "--", "sleep", "60"], 137),
        (&["-n", "--template", "nowhere", "--", "true"], 125),
        (&["-v", "/usr:/x", "--", "true"], 2),
    ] {
        let output = run(&server, args);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {}", text(&output.stderr));
    }
    assert_eq!(server.says(&["ps", "-q"]), "", "every sandbox was released");
}

#[test]
fn stdin_and_a_terminal_are_the_commands() {
    let server = Server::dev();
    let endpoint = format!("endpoint={}", server.url());
    let input: Vec<u8> = (0..400_000u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let output = server.fed(&["run", "--kind", "remote", "--opt", &endpoint, "--", "cat"], &input);
    assert!(output.stdout == input, "{} bytes came back of {}", output.stdout.len(), input.len());
    // The server that is named nowhere else is the one of every other command.
    let output = server.fed(&["run", "--kind", "remote", "-t", "--", "sh", "-c", "tty; read x; echo got $x"], b"it\n");
    let said = text(&output.stdout);
    assert!(said.contains("/dev/pts/") && said.contains("got it"), "{said}");
}

#[test]
fn a_signal_ends_the_command_and_its_sandbox() {
    let server = Server::dev();
    for signal in [2, 15] {
        let mut child = server
            .command(&["run", "--kind", "remote", "-n", "--", "sh", "-c", "echo begun; exec sleep 600"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut begun = [0; 6];
        child.stdout.as_mut().unwrap().read_exact(&mut begun).unwrap();
        kill(child.id(), signal);
        assert_eq!(child.wait().unwrap().code(), Some(128 + signal));
        assert_eq!(server.says(&["ps", "-q"]), "");
    }
    // Nobody reads any more: the command would run for no one.
    let mut child = server
        .command(&["run", "--kind", "remote", "-n", "--", "yes"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(141));
    assert_eq!(server.says(&["ps", "-q"]), "");
}

#[test]
fn no_server_and_no_key_are_told_with_a_hint() {
    let server = Server::locked();
    let mut command = server.command(&["run", "--kind", "remote", "-n", "--", "true"]);
    let output = command.env("CSB_DATA_DIR", "/nonexistent-anywhere").output().unwrap();
    assert_eq!(output.status.code(), Some(125));
    assert!(text(&output.stderr).contains("CSB_API_KEY"), "{}", text(&output.stderr));
    let mut command =
        server.command(&["run", "--kind", "remote", "--opt", "endpoint=http://127.0.0.1:1", "--", "true"]);
    let output = command.env("CSB_API_KEY", "csb_x").stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(125));
    assert!(text(&output.stderr).contains("cannot reach the server at http://127.0.0.1:1"), "{}", text(&output.stderr));
}
