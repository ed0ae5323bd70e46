//! The built program with a data directory apart from the user's, and a look at what it leaves behind.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

/// See the module.
pub struct Csb {
    data: PathBuf,
}

impl Csb {
    pub fn new() -> Self {
        let root = rustix::process::geteuid().is_root();
        assert!(root, "this test needs root: sandboxes' limits are enforced by cgroups");
        // One for all tests and for the next time: making the template of this host takes longer than most tests.
        Self { data: Path::new(env!("CARGO_TARGET_TMPDIR")).join("data") }
    }

    pub fn data_dir(&self) -> &Path {
        &self.data
    }

    /// Another program that will start ours.
    pub fn inside(&self, program: &str, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(args).env("CSB_DATA_DIR", &self.data);
        command
    }

    pub fn command(&self, args: &[&str]) -> Command {
        self.inside(env!("CARGO_BIN_EXE_csb"), args)
    }

    /// `csb run ARGS` without stdin.
    pub fn run(&self, args: &[&str]) -> Output {
        let args: Vec<&str> = ["run"].into_iter().chain(args.iter().copied()).collect();
        self.command(&args).stdin(Stdio::null()).output().unwrap()
    }

    /// `csb run ARGS` with `input` on stdin.
    pub fn fed(&self, args: &[&str], input: &[u8]) -> Output {
        let args: Vec<&str> = ["run"].into_iter().chain(args.iter().copied()).collect();
        feed(self.command(&args), input)
    }
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub fn kill(pid: u32, signal: i32) {
    let pid = rustix::process::Pid::from_raw(pid as i32).unwrap();
    let signal = rustix::process::Signal::from_named_raw(signal).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

/// Processes of this host whose command line holds `mark`, csb's own not counted.
pub fn processes_with(mark: &str) -> usize {
    let list = fs::read_dir("/proc").unwrap().flatten();
    list.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok())
        .filter(|line| text(line).contains(mark) && !text(line).contains("run\0"))
        .count()
}

/// Pid of the warden that a running `csb run` has forked.
pub fn warden_of(pid: u32) -> u32 {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        if let Some(first) = children.split_whitespace().next() {
            return first.parse().unwrap();
        }
        assert!(Instant::now() < deadline, "csb run forks no warden");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Panics when the cgroup of a `csb run`'s warden stays.
pub fn no_cgroup_of(warden: u32) {
    let name = format!("csb-run-{warden}");
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let mut left = Vec::new();
        find(Path::new("/sys/fs/cgroup"), &name, &mut left);
        if left.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "left behind: {left:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn find(directory: &Path, name: &str, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            if entry.file_name() == name {
                found.push(entry.path());
            }
            find(&entry.path(), name, found);
        }
    }
}

/// A server of its own on a free port, ended with its sandboxes when dropped.
pub struct Server {
    data: tempfile::TempDir,
    flags: &'static [&'static str],
    child: Option<Child>,
    url: String,
}

impl Server {
    /// Anyone on this host gets a token.
    pub fn dev() -> Self {
        Self::start(&["--dev"])
    }

    /// A key is needed.
    pub fn locked() -> Self {
        Self::start(&[])
    }

    fn start(flags: &'static [&'static str]) -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "this test needs root: sandboxes' limits are enforced by cgroups"
        );
        let data = tempfile::Builder::new().prefix("csb-test-").tempdir().unwrap();
        let mut server = Self { data, flags, child: None, url: String::new() };
        server.launch("127.0.0.1:0");
        server
    }

    fn launch(&mut self, address: &str) {
        let mut child = Command::new(env!("CARGO_BIN_EXE_csb"))
            .args(["--json", "serve", "--listen", address, "--set", "log.filter=error", "--set", "pool.min=1"])
            .args(self.flags)
            .arg("--data-dir")
            .arg(self.data.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let ready: serde_json::Value = serde_json::from_str(&line).expect("the server says where it is");
        self.url = ready["url"].as_str().unwrap().to_owned();
        self.child = Some(child);
    }

    /// Killed, not asked, and started again at the same address.
    pub fn restart(&mut self) {
        let address = self.url.trim_start_matches("http://").to_owned();
        self.stop();
        self.launch(&address);
    }

    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    pub fn inside(&self, program: &str, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(args).env("CSB_SERVER", &self.url).env("CSB_DATA_DIR", self.data.path()).env_remove("CSB_API_KEY");
        command
    }

    pub fn command(&self, args: &[&str]) -> Command {
        self.inside(env!("CARGO_BIN_EXE_csb"), args)
    }

    pub fn csb(&self, args: &[&str]) -> Output {
        self.command(args).stdin(Stdio::null()).output().unwrap()
    }

    /// Output of a command that succeeds, without the last newline.
    pub fn says(&self, args: &[&str]) -> String {
        let output = self.csb(args);
        assert!(output.status.success(), "csb {args:?}: {}", text(&output.stderr));
        text(&output.stdout).trim_end_matches('\n').to_owned()
    }

    pub fn fed(&self, args: &[&str], input: &[u8]) -> Output {
        feed(self.command(args), input)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
        let _ = self.command(&["warden", "stop"]).stdout(Stdio::null()).status();
    }
}

fn feed(mut command: Command, input: &[u8]) -> Output {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(input).unwrap());
        child.wait_with_output().unwrap()
    })
}
