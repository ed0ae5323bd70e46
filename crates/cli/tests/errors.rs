//! What a user reads when something is wrong, word for word, and the exit code that goes with it. Nothing here needs root.

use std::process::{Command, Output, Stdio};

fn csb(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_csb"))
        .args(args)
        .env_clear()
        .env("HOME", "/nonexistent-home")
        .stdin(Stdio::null())
        .output()
        .expect("csb is built with its tests")
}

fn check(args: &[&str], code: i32, stderr: &str) {
    let output = csb(args);
    assert_eq!(String::from_utf8_lossy(&output.stderr), stderr, "csb {args:?}");
    assert_eq!(output.status.code(), Some(code), "csb {args:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "", "csb {args:?}");
}

#[test]
fn a_server_that_is_not_there() {
    check(
        &["ps", "--server", "http://127.0.0.1:1"],
        1,
        "error: cannot reach the server at http://127.0.0.1:1\n  \
           caused by: error sending request for url (http://127.0.0.1:1/api/v1/auth/token)\n  \
           caused by: client error (Connect)\n  \
           caused by: tcp connect error\n  \
           caused by: Connection refused (os error 111)\n\
         hint: start one with `csb serve --dev`, or name another with --server or CSB_SERVER\n",
    );
}

#[test]
fn a_server_elsewhere_needs_a_key_that_was_given_for_it() {
    check(
        &["ps", "--server", "https://sandbox.example.org"],
        1,
        "error: no API key for https://sandbox.example.org\n\
         hint: pass --api-key or set CSB_API_KEY; `csb key create` on the server's host makes one\n",
    );
}

#[test]
fn an_address_that_is_none() {
    check(
        &["ps", "--server", "localhost:8080", "--api-key", "x"],
        1,
        "error: `localhost:8080` is not a server address such as http://127.0.0.1:8080\n",
    );
}

#[test]
fn nothing_to_run() {
    check(
        &["run"],
        2,
        "error: nothing to run was given\n\
         hint: `csb run -- echo hello`, `csb run script.py`, or `csb run --lang python -c 'print(1)'`\n",
    );
}

#[test]
fn a_program_where_a_file_is_expected() {
    check(
        &["run", "ls", "-l"],
        2,
        "error: the language of `ls` is not known by its name\n\
         hint: name it with --lang; to run a program of the sandbox, write `csb run -- ls -l`\n",
    );
}

#[test]
fn a_file_that_is_not_there() {
    check(
        &["run", "/nonexistent/x.py"],
        125,
        "error: cannot read `/nonexistent/x.py`\n  caused by: No such file or directory (os error 2)\n\
         hint: to run a program of the sandbox, write `csb run -- /nonexistent/x.py`\n",
    );
}

#[test]
fn limits_that_cannot_be() {
    check(
        &["run", "--memory", "1k", "--", "true"],
        2,
        "error: memory = 1024 is impossible: it must be between 8388608 and 17592186044416\n",
    );
    check(&["run", "--timeout", "0", "--", "true"], 2, "error: timeout is not valid: it is between 1 ms and 7 days\n");
    let refused = csb(&["run", "--memory", "plenty", "--", "true"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("a size such as `512m`, `1Gi` or `1048576`"));
}

#[test]
fn a_copy_between_two_places_of_this_host() {
    let server = ["--server", "http://127.0.0.1:1", "--api-key", "x"];
    let args: Vec<&str> = ["cp", "a", "b"].into_iter().chain(server).collect();
    check(
        &args,
        2,
        "error: one side is a sandbox's path and the other is not\n\
         hint: for example `csb cp data.csv SANDBOX:/workspace/`\n",
    );
    let args: Vec<&str> = ["cp", "a", "sb:b"].into_iter().chain(server).collect();
    check(
        &args,
        2,
        "error: the path in `sb:b` is not absolute\nhint: the working directory is /workspace: `sb:/workspace/b`\n",
    );
}

#[test]
fn failures_of_csb_have_their_own_code_beside_a_commands() {
    let remote = ["--server", "http://127.0.0.1:1", "--api-key", "x"];
    for words in [&["exec", "sb", "--", "true"][..], &["run-code", "sb", "-c", "1"]] {
        let args: Vec<&str> = words[..1].iter().chain(&remote).chain(&words[1..]).copied().collect();
        assert_eq!(csb(&args).status.code(), Some(125), "{args:?}");
    }
}

#[test]
fn errors_are_json_when_asked_for() {
    let output = csb(&["--json", "run", "ls"]);
    let error: serde_json::Value = serde_json::from_slice(&output.stderr).expect("one JSON object");
    assert_eq!(error["error"]["code"], "usage");
    assert_eq!(error["error"]["message"], "the language of `ls` is not known by its name");
    assert!(error["error"]["hint"].as_str().unwrap().contains("csb run -- ls"));
}

#[test]
fn no_warden_to_stop_is_not_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let output = csb(&["warden", "stop", "--data-dir", dir.path().to_str().unwrap()]);
    assert!(output.status.success());
    assert_eq!(String::from_utf8_lossy(&output.stdout), format!("no warden runs for `{}`\n", dir.path().display()));
}

#[test]
fn completions_name_every_command() {
    for shell in ["bash", "zsh", "fish"] {
        let output = csb(&["completions", shell]);
        assert!(output.status.success());
        let script = String::from_utf8_lossy(&output.stdout).into_owned();
        for command in ["run", "serve", "run-code", "doctor", "template"] {
            assert!(script.contains(command), "{shell}: {command}");
        }
    }
}

#[test]
fn a_reader_that_goes_away_is_no_error_message() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_csb"))
        .args(["completions", "bash"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(141));
}
