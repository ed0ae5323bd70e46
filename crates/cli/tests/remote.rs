//! The commands that talk to a server, against a real one with real sandboxes. Needs root.

mod support;

use std::{fs, io::Read, process::Stdio};
use support::{Server, text};

#[test]
fn a_sandbox_from_its_making_to_its_end() {
    let server = Server::dev();
    let id = server.says(&["create", "--memory", "256m", "--lifetime", "1h", "-l", "purpose=test", "-e", "A=1"]);
    let list: serde_json::Value = serde_json::from_str(&server.says(&["--json", "ps"])).unwrap();
    let only = &list["items"][0];
    assert_eq!((only["sandbox_id"].as_str(), &only["resources"]["memory"]), (Some(id.as_str()), &(256 << 20).into()));
    assert_eq!((&only["metadata"]["purpose"], only["expires_at"].is_string()), (&"test".into(), true));

    let output = server.csb(&["exec", "-n", &id, "--", "sh", "-c", "echo $A; echo err >&2; exit 7"]);
    assert_eq!(
        (text(&output.stdout), text(&output.stderr), output.status.code()),
        ("1\n".into(), "err\n".into(), Some(7))
    );
    assert_eq!(server.says(&["run-code", &id, "-c", "print(6 * 7)"]), "42");

    assert_eq!(server.says(&["pause", &id]), id);
    assert!(server.says(&["ps"]).contains("paused"));
    let refused = server.csb(&["exec", "-n", &id, "--", "true"]);
    assert_eq!(refused.status.code(), Some(125));
    assert!(text(&refused.stderr).starts_with("error: "), "{refused:?}");
    server.says(&["resume", &id]);
    assert!(server.says(&["stats", &id]).contains("256 MiB"));

    assert_eq!(server.says(&["rm", &id]), id);
    assert_eq!(server.says(&["ps", "-q"]), "");
    let again = server.csb(&["rm", &id]);
    assert_eq!(again.status.code(), Some(1));
    assert!(text(&again.stderr).contains(&id), "{again:?}");
}

#[test]
fn stdin_and_binary_output_arrive_unchanged() {
    let server = Server::dev();
    let id = server.says(&["create"]);
    let input: Vec<u8> = (0..400_000u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let output = server.fed(&["exec", &id, "--", "cat"], &input);
    assert!(output.status.success());
    assert!(output.stdout == input, "{} bytes came back of {}", output.stdout.len(), input.len());
}

#[test]
fn exit_codes_tell_csbs_failures_from_the_commands() {
    let server = Server::dev();
    let id = server.says(&["create"]);
    for (args, code) in [
        (&["exec", "-n", &id, "--", "no-such-program"][..], 127),
        (&["exec", "-n", &id, "--", "/etc/passwd"], 126),
        (&["exec", "-n", "-w", "/nowhere", &id, "--", "true"], 125),
        (&["exec", "-n", "--timeout", "200ms", &id, "--", "sleep", "60"], 137),
        (&["exec", "-n", "sb-aaaaaaaaaaaaaaaaaaaa", "--", "true"], 125),
        (&["run-code", &id, "--lang", "cobol", "-c", "x"], 125),
        (&["run-code", &id, "-c", "raise SystemExit(9)"], 9),
    ] {
        let output = server.csb(args);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {}", text(&output.stderr));
    }
}

#[test]
fn files_and_directories_go_in_and_out() {
    let server = Server::dev();
    let id = server.says(&["create"]);
    let here = tempfile::tempdir().unwrap();
    let tree = here.path().join("tree");
    fs::create_dir_all(tree.join("sub")).unwrap();
    fs::write(tree.join("a"), "one").unwrap();
    fs::write(tree.join("sub/b"), vec![7; 3 << 20]).unwrap();
    std::os::unix::fs::symlink("a", tree.join("link")).unwrap();
    let path = |name: &str| here.path().join(name).to_str().unwrap().to_owned();

    server.says(&["cp", &path("tree"), &format!("{id}:/workspace/")]);
    assert_eq!(server.says(&["exec", "-n", &id, "--", "cat", "tree/link"]), "one");
    server.says(&["cp", &format!("{id}:/workspace/tree"), &path("back")]);
    assert_eq!(fs::read(path("back/sub/b")).unwrap(), vec![7; 3 << 20]);
    assert_eq!(fs::read_link(path("back/link")).unwrap().to_str(), Some("a"));

    server.says(&["cp", &format!("{id}:/workspace/tree/a"), here.path().to_str().unwrap()]);
    assert_eq!(fs::read_to_string(path("a")).unwrap(), "one");
    let piped = server.fed(&["cp", "-", &format!("{id}:/tmp/piped")], b"from a pipe");
    assert!(piped.status.success(), "{piped:?}");
    assert_eq!(server.says(&["cp", &format!("{id}:/tmp/piped"), "-"]), "from a pipe");
    let absent = server.csb(&["cp", &format!("{id}:/tmp/absent"), &path("x")]);
    assert_eq!(absent.status.code(), Some(1));
    assert!(!here.path().join("x").exists());
}

#[test]
fn logs_show_what_was_and_follow_what_comes() {
    let server = Server::dev();
    let id = server.says(&["create"]);
    let script = "echo first; while [ ! -e /tmp/go ]; do sleep 0.02; done; echo last";
    let exec = server.says(&["exec", "-d", &id, "--", "sh", "-c", script]);
    // What is there now is shown, and nothing is waited for: the command may not have begun.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    let mut shown = server.says(&["logs", &id]);
    while shown.is_empty() && std::time::Instant::now() < deadline {
        std::thread::sleep(std::time::Duration::from_millis(20));
        shown = server.says(&["logs", &id]);
    }
    assert_eq!(shown, "first");
    let mut follower = server.command(&["logs", "-f", &id, &exec]).stdout(Stdio::piped()).spawn().unwrap();
    server.says(&["exec", "-n", &id, "--", "touch", "/tmp/go"]);
    let mut seen = String::new();
    follower.stdout.take().unwrap().read_to_string(&mut seen).unwrap();
    follower.wait().unwrap();
    assert_eq!(seen, "first\nlast\n");
    assert_eq!(server.says(&["logs", "--from", "6", &id, &exec]), "last");
    assert!(server.says(&["ps", &id]).contains("ended"));
}

#[test]
fn a_terminal_in_a_server_s_sandbox() {
    let server = Server::dev();
    let id = server.says(&["create"]);
    let program = env!("CARGO_BIN_EXE_csb");
    let line = format!("stty rows 33 cols 101; {program} exec -it {id} -- sh -c 'tty; stty size; exit 4'");
    let output = server.inside("script", &["-qec", &line, "/dev/null"]).stdin(Stdio::null()).output().unwrap();
    let shown = text(&output.stdout).replace('\r', "");
    assert!(shown.contains("/dev/pts/") && shown.contains("33 101"), "{shown}");
    assert_eq!(output.status.code(), Some(4));
}

#[test]
fn keys_are_made_listed_and_revoked_by_an_administrator_alone() {
    let server = Server::locked();
    // The administrator's key is found in the data directory.
    let key = server.says(&["key", "create", "--user", "alice", "--name", "laptop"]);
    assert!(key.starts_with("csb_"), "{key}");
    let listed = server.says(&["key", "ls"]);
    assert!(listed.contains("alice") && listed.contains("laptop") && !listed.contains(&key), "{listed}");

    let as_alice = |args: &[&str]| server.command(args).env("CSB_API_KEY", &key).output().unwrap();
    let id = text(&as_alice(&["create"]).stdout).trim().to_owned();
    assert!(text(&as_alice(&["ps"]).stdout).contains(&id));
    assert_eq!(as_alice(&["key", "ls"]).status.code(), Some(1));
    assert!(as_alice(&["rm", &id]).status.success());

    let key_id = listed.lines().find(|line| line.contains("alice")).unwrap().split_whitespace().next().unwrap();
    server.says(&["key", "revoke", key_id]);
    let refused = as_alice(&["ps"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("hint: "), "{refused:?}");
}

#[test]
fn a_second_server_on_the_same_port_or_directory_says_what_to_do() {
    let server = Server::dev();
    let address = server.url().trim_start_matches("http://").to_owned();
    let port = server.command(&["serve", "--dev", "--listen", &address]).env_remove("CSB_SERVER").output().unwrap();
    assert_eq!(port.status.code(), Some(1));
    assert!(text(&port.stderr).contains("hint: something listens there already"), "{port:?}");
    let directory = server.command(&["serve", "--dev", "--listen", "127.0.0.1:0"]).output().unwrap();
    assert_eq!(directory.status.code(), Some(1));
    assert!(text(&directory.stderr).contains("is in use by another server"), "{directory:?}");
}

#[test]
fn sandboxes_outlive_the_server_until_the_warden_is_stopped() {
    let mut server = Server::dev();
    let id = server.says(&["create"]);
    server.says(&["exec", "-n", &id, "--", "sh", "-c", "echo kept > /workspace/f"]);
    server.restart();
    assert_eq!(server.says(&["exec", "-n", &id, "--", "cat", "/workspace/f"]), "kept");
    let refused = server.command(&["warden", "stop"]).output().unwrap();
    assert!(text(&refused.stderr).starts_with("error: a server works in `"), "{refused:?}");
    server.stop();
    let stopped = text(&server.command(&["warden", "stop"]).output().unwrap().stdout);
    assert!(stopped.starts_with("stopped the warden and "), "{stopped}");
    let again = text(&server.command(&["warden", "stop"]).output().unwrap().stdout);
    assert!(again.starts_with("no warden runs"), "{again}");
}

#[test]
fn a_warden_that_was_started_before_its_server_is_the_servers() {
    let mut server = Server::dev();
    server.stop();
    assert!(server.says(&["warden", "stop"]).starts_with("stopped"));
    assert!(server.says(&["warden", "start"]).starts_with("started"));
    assert!(server.says(&["warden", "start"]).contains("already"));
    server.restart();
    let id = server.says(&["create"]);
    assert_eq!(server.says(&["exec", "-n", &id, "--", "echo", "on"]), "on");
    server.stop();
    assert!(server.says(&["--json", "warden", "stop"]).contains("\"stopped\":true"));
}
