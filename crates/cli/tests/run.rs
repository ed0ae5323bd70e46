//! `csb run` as a user meets it: real sandboxes, real processes. Needs root: limits are enforced by cgroups.

mod support;

use std::{
    fs,
    io::{Read, Write},
    process::{Command, Stdio},
    time::{Duration, Instant},
};
use support::{Csb, text};

#[test]
fn output_and_exit_code_are_the_commands() {
    let csb = Csb::new();
    let output = csb.run(&["--", "sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!((text(&output.stdout), text(&output.stderr)), ("out\n".into(), "err\n".into()));
    assert_eq!(output.status.code(), Some(7));
}

#[test]
fn stdin_is_passed_on_to_its_end() {
    let csb = Csb::new();
    let input: Vec<u8> = (0..3_000_000u32).flat_map(|n| n.to_le_bytes()).collect();
    let output = csb.fed(&["--", "sha256sum"], &input);
    let expected = {
        let mut child = Command::new("sha256sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(&input).unwrap();
        child.wait_with_output().unwrap().stdout
    };
    assert_eq!(text(&output.stdout), text(&expected));
}

#[test]
fn a_command_that_reads_nothing_does_not_wait_for_stdin() {
    let csb = Csb::new();
    let mut child = csb.command(&["run", "--", "true"]).stdin(Stdio::piped()).spawn().unwrap();
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_program_that_is_not_there_or_cannot_be_run_has_its_code() {
    let csb = Csb::new();
    let absent = csb.run(&["--", "no-such-program"]);
    assert_eq!(absent.status.code(), Some(127));
    assert_eq!(text(&absent.stderr), "error: no program `no-such-program` in the sandbox\n");
    assert_eq!(csb.run(&["--", "/etc/passwd"]).status.code(), Some(126));
    assert_eq!(csb.run(&["-w", "/nowhere", "--", "true"]).status.code(), Some(125));
    assert_eq!(csb.run(&["-u", "nobody-here", "--", "true"]).status.code(), Some(125));
    assert_eq!(csb.run(&["--template", "no-such", "--", "true"]).status.code(), Some(125));
}

#[test]
fn what_ended_a_command_is_named() {
    let csb = Csb::new();
    for (args, code, stderr) in [
        (&["--timeout", "200ms", "--", "sleep", "60"][..], 137, "csb: killed: timeout after 200ms\n"),
        (&["--", "sh", "-c", "kill -9 $$"], 137, ""),
        (&["--", "sh", "-c", "kill -15 $$"], 143, ""),
        (
            &["--memory", "64m", "--", "python3", "-c", "x = bytearray(1 << 30)"],
            137,
            "csb: killed: out of memory (--memory is 64 MiB)\n",
        ),
    ] {
        let output = csb.run(args);
        assert_eq!((output.status.code(), text(&output.stderr)), (Some(code), stderr.into()), "{args:?}");
    }
    let output = csb.run(&["--disk", "8m", "--", "sh", "-c", "head -c 32m /dev/zero > x"]);
    assert!(
        text(&output.stderr).ends_with("csb: failed: out of disk space or files (--disk is 8 MiB)\n"),
        "{output:?}"
    );
    assert_ne!(output.status.code(), Some(0));
}

#[test]
fn code_runs_by_language_by_file_and_from_stdin() {
    let csb = Csb::new();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("greet.py");
    fs::write(&file, "import sys\nprint('hi', *sys.argv[1:])\nraise SystemExit(3)\n").unwrap();
    let output = csb.run(&[file.to_str().unwrap(), "a", "--b"]);
    assert_eq!((text(&output.stdout), output.status.code()), ("hi a --b\n".into(), Some(3)));
    assert_eq!(text(&csb.run(&["--lang", "bash", "-c", "echo $((6 * 7))"]).stdout), "42\n");
    assert_eq!(text(&csb.run(&["--lang", "js", "-c", "console.log(6 * 7)"]).stdout), "42\n");
    assert_eq!(text(&csb.fed(&["-"], b"print(6 * 7)").stdout), "42\n");
}

#[test]
fn environment_user_and_directory_are_as_asked_and_nothing_of_the_host_shows() {
    let csb = Csb::new();
    let script = "echo $A $B; id -u; pwd; echo \"${CSB_TEST_SECRET-unset}\"; ls /home; ls /root/.ssh 2>/dev/null";
    let mut command = csb.command(&["run", "-e", "A=1", "-e", "B", "-w", "/tmp", "--", "sh", "-c", script]);
    let output = command.env("B", "from here").env("CSB_TEST_SECRET", "s3cret").output().unwrap();
    assert_eq!(text(&output.stdout), "1 from here\n1000\n/tmp\nunset\nuser\n");
    assert_eq!(text(&csb.run(&["-u", "root", "--", "id", "-u"]).stdout), "0\n");
}

#[test]
fn a_volume_is_shown_and_read_only_when_said_so() {
    let csb = Csb::new();
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("in.txt"), "from the host\n").unwrap();
    let volume = format!("{}:/workspace/data:ro", dir.path().display());
    let output =
        csb.run(&["-v", &volume, "-u", "root", "--", "sh", "-c", "cat data/in.txt; echo x > data/new || exit 9"]);
    assert_eq!((text(&output.stdout), output.status.code()), ("from the host\n".into(), Some(9)));
    assert!(!dir.path().join("new").exists());
}

#[test]
fn a_signal_goes_to_the_command_and_its_answer_is_the_exit_code() {
    let csb = Csb::new();
    let script = "trap 'echo caught; exit 42' TERM; echo ready; while :; do sleep 0.05; done";
    let mut child = csb.command(&["run", "-n", "--", "sh", "-c", script]).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut ready = [0; 6];
    stdout.read_exact(&mut ready).unwrap();
    support::kill(child.id(), 15);
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    assert_eq!((rest.as_str(), child.wait().unwrap().code()), ("caught\n", Some(42)));
}

#[test]
fn a_reader_that_goes_away_ends_the_command() {
    let csb = Csb::new();
    let mut child = csb.command(&["run", "-n", "--", "yes"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut some = [0; 4096];
    child.stdout.take().unwrap().read_exact(&mut some).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(141));
}

#[test]
fn output_is_passed_on_however_much_it_is_and_waits_for_a_slow_reader() {
    let csb = Csb::new();
    // Several times what is kept for a reader that lags.
    const BYTES: usize = 160_000_000;
    let script = format!("yes 0123456 | head -c {BYTES}; echo all is written >&2");
    let mut command = csb.command(&["run", "-n", "--", "sh", "-c", &script]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (mut stdout, mut stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let mut first = [0; 8];
    stdout.read_exact(&mut first).unwrap();
    std::thread::sleep(Duration::from_secs(2));
    // It stands still for as long as nobody reads.
    let fd = rustix::event::PollFd::new(&stderr, rustix::event::PollFlags::IN);
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    assert_eq!(rustix::event::poll(&mut [fd], Some(&now)).unwrap(), 0, "the command did not wait");
    let mut rest = Vec::with_capacity(BYTES);
    stdout.read_to_end(&mut rest).unwrap();
    assert_eq!((&first, rest.len() + 8), (b"0123456\n", BYTES));
    assert!(rest.chunks(8).all(|line| line == b"0123456\n"));
    let mut said = String::new();
    stderr.read_to_string(&mut said).unwrap();
    assert_eq!((said.as_str(), child.wait().unwrap().code()), ("all is written\n", Some(0)));
}

/// A root file system with a shell, as small as can be.
fn rootfs() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("bin")).unwrap();
    fs::copy("/bin/busybox", dir.path().join("bin/busybox")).expect("busybox-static is installed");
    for name in ["sh", "cat", "ls"] {
        std::os::unix::fs::symlink("busybox", dir.path().join("bin").join(name)).unwrap();
    }
    fs::write(dir.path().join("mark"), "first\n").unwrap();
    dir
}

#[test]
fn a_directory_or_a_tar_file_is_a_template_without_a_name() {
    let csb = Csb::new();
    let root = rootfs();
    let path = root.path().to_str().unwrap();
    let mark = |template: &str| text(&csb.run(&["--template", template, "--", "cat", "/mark"]).stdout);
    assert_eq!(mark(path), "first\n");
    // Changed since, it is imported anew.
    fs::write(root.path().join("mark"), "second\n").unwrap();
    assert_eq!(mark(path), "second\n");
    let tar = tempfile::Builder::new().suffix(".tar").tempfile().unwrap();
    let packed = csb.inside("tar", &["-C", path, "-cf", tar.path().to_str().unwrap(), "."]).status().unwrap();
    assert!(packed.success());
    assert_eq!(mark(tar.path().to_str().unwrap()), "second\n");
    let listed = csb.command(&["template", "ls", "--local", "-q"]).output().unwrap();
    assert!(!text(&listed.stdout).contains("adhoc"), "{listed:?}");

    let junk = tempfile::Builder::new().suffix(".tar").tempfile().unwrap();
    fs::write(junk.path(), "no tar at all").unwrap();
    for (template, part) in [(junk.path().to_str().unwrap(), "cannot read the tar archive"), ("/dev/null", "neither")] {
        let refused = csb.run(&["--template", template, "--", "true"]);
        assert_eq!(refused.status.code(), Some(125));
        assert!(text(&refused.stderr).contains(part), "{refused:?}");
    }
}

#[test]
fn a_kind_is_what_was_asked_for() {
    let csb = Csb::new();
    let root = rootfs();
    let path = root.path().to_str().unwrap();
    let seen = |kind: &str| {
        let line = ["--kind", kind, "--template", path, "--", "sh", "-c", "cat /mark /proc/vmstat; ls -l /mark >&2"];
        let output = csb.run(&line);
        assert!(output.status.success(), "{output:?}");
        // The owner on the image is the one inside, as in a layer.
        assert!(text(&output.stderr).contains(" root "), "{output:?}");
        text(&output.stdout)
    };
    assert_eq!(seen("hardened"), "first\n");
    assert_ne!(seen("process"), "first\n");
    // Changed since, its image is made anew.
    fs::write(root.path().join("mark"), "second\n").unwrap();
    assert_eq!(seen("hardened"), "second\n");
    assert_eq!(csb.run(&["--kind", "chroot", "--", "true"]).status.code(), Some(2));
    let pod = csb.run(&["--kind", "k8s", "--", "true"]);
    assert_eq!(pod.status.code(), Some(125));
    assert!(text(&pod.stderr).contains("csb serve"), "{pod:?}");
}

#[test]
fn a_template_is_added_listed_replaced_and_forgotten() {
    let csb = Csb::new();
    let root = rootfs();
    let name = format!("t-{}", std::process::id());
    let template = |args: &[&str]| csb.command(&[&["template"], args].concat()).output().unwrap();
    let add = |path: &str| template(&["add", &name, path]);
    assert!(add(root.path().to_str().unwrap()).status.success());
    let run = || csb.run(&["--template", &name, "--", "cat", "/mark"]);
    assert_eq!(text(&run().stdout), "first\n");
    fs::write(root.path().join("mark"), "second\n").unwrap();
    assert_eq!(text(&run().stdout), "first\n", "a template is a copy");
    assert!(add(root.path().to_str().unwrap()).status.success());
    assert_eq!(text(&run().stdout), "second\n");
    assert!(text(&template(&["ls", "--local", "-q"]).stdout).lines().any(|line| line == name));
    assert!(template(&["rm", &name]).status.success());
    let gone = run();
    assert_eq!(gone.status.code(), Some(125));
    assert!(text(&gone.stderr).contains("hint: `csb template ls`"), "{gone:?}");
    for (args, part) in [
        (&["rm", &name][..], "no template"),
        (&["rm", "host"], "always there"),
        (&["add", "host", "/tmp"], "host"),
        (&["add", "../x", "/tmp"], "name"),
        (&["add", "x", "/nowhere-at-all"], "cannot read `/nowhere-at-all`"),
    ] {
        let refused = template(args);
        assert_eq!(refused.status.code(), Some(1), "{args:?}");
        assert!(text(&refused.stderr).contains(part), "{args:?}: {refused:?}");
    }
}

#[test]
fn output_that_was_said_to_be_enough_is_kept_and_the_rest_dropped() {
    let csb = Csb::new();
    let output = csb.run(&["--max-output", "1k", "--", "head", "-c", "9m", "/dev/zero"]);
    assert_eq!((output.stdout.len(), output.status.code()), (1024, Some(0)));
}

#[test]
fn killing_csb_leaves_nothing_running() {
    let csb = Csb::new();
    let mark = format!("86399.{}", std::process::id());
    let mut child = csb
        .command(&["run", "-n", "--", "sh", "-c", &format!("echo ready; sleep {mark}")])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdout.take().unwrap().read_exact(&mut [0; 6]).unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    // The shell said it was ready before it started the other.
    while support::processes_with(&mark) != 2 {
        assert!(Instant::now() < deadline, "the command does not run");
        std::thread::sleep(Duration::from_millis(20));
    }
    let warden = support::warden_of(child.id());
    child.kill().unwrap();
    child.wait().unwrap();
    while support::processes_with(&mark) > 0 {
        assert!(Instant::now() < deadline, "the command runs on");
        std::thread::sleep(Duration::from_millis(20));
    }
    support::no_cgroup_of(warden);
}

#[test]
fn a_volume_in_a_volume_needs_a_directory_there_and_says_so() {
    let (outer, inner) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let csb = Csb::new();
    for read_only in ["", ":ro"] {
        let volumes = [
            format!("{}:/workspace/data{read_only}", outer.path().display()),
            format!("{}:/workspace/data/in/deep", inner.path().display()),
        ];
        let run = || csb.run(&["-v", &volumes[0], "-v", &volumes[1], "--", "ls", "/workspace/data/in"]);
        let refused = run();
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && said.contains("`/workspace/data/in/deep`"), "{said}");
        assert!(said.contains("hint: make it in that volume"), "{said}");
        assert_eq!(fs::read_dir(outer.path()).unwrap().count(), 0);
        fs::create_dir_all(outer.path().join("in/deep")).unwrap();
        assert_eq!(run().stdout, b"deep\n");
        fs::remove_dir_all(outer.path().join("in")).unwrap();
    }
}

#[test]
fn nothing_is_left_of_a_run() {
    let csb = Csb::new();
    let mut child = csb.command(&["run", "--", "cat"]).stdin(Stdio::piped()).spawn().unwrap();
    let warden = support::warden_of(child.id());
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
    support::no_cgroup_of(warden);
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(csb.data_dir().to_str().unwrap()), "{mounts}");
}

#[test]
fn with_json_the_result_is_one_object() {
    let csb = Csb::new();
    let output = csb.run(&["--json", "--", "sh", "-c", "printf '\\377'; echo e >&2; exit 5"]);
    let result: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    assert_eq!(result["exit_code"], 5);
    assert_eq!(
        (&result["encoding"], &result["stdout"], &result["stderr"]),
        (&"base64".into(), &"/w==".into(), &"ZQo=".into())
    );
    assert_eq!(output.status.code(), Some(5));
}

#[test]
fn a_terminal_is_one_and_has_the_callers_size() {
    let csb = Csb::new();
    // `script` gives csb a terminal of its own, as a user's shell would.
    let program = env!("CARGO_BIN_EXE_csb");
    let line = format!("stty rows 33 cols 101; {program} run -it -- sh -c 'tty; stty size; exit 4'");
    let output = csb.inside("script", &["-qec", &line, "/dev/null"]).stdin(Stdio::null()).output().unwrap();
    let shown = text(&output.stdout).replace('\r', "");
    assert!(shown.contains("/dev/pts/") && shown.contains("33 101"), "{shown}");
    assert_eq!(output.status.code(), Some(4));
}
