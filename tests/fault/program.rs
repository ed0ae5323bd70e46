//! The whole program: `csb run`, killed or started by an ordinary user.

use csb_tests::wire::eventually;
use std::{
    fs,
    os::unix::{
        fs::{PermissionsExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

const NOBODY: u32 = 65534;

/// The built program, beside this test's.
fn csb() -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let program = tests.parent().and_then(Path::parent).unwrap().join("csb");
    assert!(program.exists(), "`{}` is not there: `cargo build -p csb`", program.display());
    program
}

/// Commands of sandboxes on this host that were started as `sleep SECONDS`.
fn sleepers(seconds: &str) -> usize {
    let line = format!("sleep\0{seconds}\0");
    let all = fs::read_dir("/proc").unwrap().flatten();
    all.filter(|entry| fs::read(entry.path().join("cmdline")).is_ok_and(|found| found == line.as_bytes())).count()
}

/// Groups of forked wardens that no longer exist.
fn abandoned_groups() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut left = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            let name = entry.file_name().to_string_lossy().into_owned();
            match name.strip_prefix("csb-run-") {
                Some(pid) if !Path::new("/proc").join(pid).exists() => found.push(entry.path()),
                _ => left.push(entry.path()),
            }
        }
    }
    found
}

#[test]
fn csb_run_killed_at_any_moment_leaves_nothing_running() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let run = |words: &[&str]| {
        let mut command = Command::new(csb());
        command.args(["run", "--data-dir"]).arg(&data).arg("--").args(words).stdin(Stdio::null()).stdout(Stdio::null());
        command
    };
    assert!(run(&["true"]).status().unwrap().success());
    let seconds = format!("7{}", std::process::id());
    for step in 0..12u64 {
        let mut child = run(&["sleep", &seconds]).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(step * 12));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    eventually("the commands end with their csb", || sleepers(&seconds) == 0);
    assert!(run(&["true"]).status().unwrap().success());
    eventually("groups are removed by those that follow", || {
        run(&["true"]).status().unwrap();
        abandoned_groups().is_empty()
    });
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(dir.path().to_str().unwrap()), "{mounts}");
}

#[test]
fn csb_run_works_for_an_ordinary_user() {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let home = dir.path().join("home");
    fs::create_dir(&home).unwrap();
    chown(&home, Some(NOBODY), Some(NOBODY)).unwrap();
    // The build directory may be closed to others.
    let program = dir.path().join("csb");
    fs::copy(csb(), &program).unwrap();
    let line = "id -u; echo kept > f; cat f; grep CapEff /proc/self/status; ls /proc/1 2>/dev/null; exit 7";
    let output = Command::new(&program)
        .args(["run", "--", "sh", "-c", line])
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("HOME", &home)
        .current_dir(&home)
        .stdin(Stdio::null())
        .uid(NOBODY)
        .gid(NOBODY)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(
        (text.as_ref(), output.status.code()),
        ("1000\nkept\nCapEff:\t0000000000000000\n", Some(7)),
        "{output:?}"
    );
}
