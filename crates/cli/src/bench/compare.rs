//! Other programs that isolate, beside ours, in turn in the same run: each round measures everyone once.
//!
//! They do not do the same. bubblewrap makes namespaces alone: no limits, no filter, no user ids of its own. runc and crun make
//! a container of a root file system that has only busybox, with cgroups; runsc (gVisor) the same with a kernel of its own in
//! between; Docker asks its engine for what runc makes, with a filter. All of them without a network.

use super::figures::{Report, Samples};
use crate::{
    failure::{Failure, Outcome},
    progress,
};
use std::{
    fs,
    io::Read,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

const BUSYBOX: &str = "/bin/busybox";

/// Someone who runs `echo x` when asked, in an isolation made for it or in one that is there.
struct Runner {
    name: &'static str,
    /// The command of round N.
    command: Box<dyn Fn(u32) -> Command>,
    samples: Samples,
    /// Undoes what making it took.
    end: Vec<Command>,
}

impl Runner {
    fn new(name: &'static str, command: impl Fn(u32) -> Command + 'static) -> Self {
        Self { name, command: Box::new(command), samples: Samples::default(), end: Vec::new() }
    }
}

/// From the start of each program to its first output.
pub fn run(n: u32) -> Outcome<Vec<Report>> {
    let scratch = Scratch::new()?;
    let mut all = vec![csb()?];
    all.extend(bubblewrap());
    for (name, program) in [("runc run", "runc"), ("crun run", "crun"), ("runsc run", "runsc")] {
        all.extend(scratch.container_run(name, program)?);
    }
    all.extend(scratch.docker_run()?);
    rounds("compare-run", all, n)
}

/// The same for one more command in an isolation that is there.
pub fn exec(n: u32) -> Outcome<Vec<Report>> {
    let scratch = Scratch::new()?;
    let mut all = Vec::new();
    for (name, program) in [("runc exec", "runc"), ("crun exec", "crun"), ("runsc exec", "runsc")] {
        all.extend(scratch.container_exec(name, program)?);
    }
    all.extend(scratch.docker_exec()?);
    rounds("compare-exec", all, n)
}

fn rounds(what: &'static str, mut all: Vec<Runner>, n: u32) -> Outcome<Vec<Report>> {
    let bar = progress::steps(n.into(), what);
    let mut result = Ok(());
    // The first round also reads each program from disk.
    'rounds: for round in 0..=n {
        for runner in &mut all {
            match first_output((runner.command)(round)) {
                Ok(took) if round > 0 => runner.samples.add(took),
                Ok(_) => {}
                Err(failure) => {
                    result = Err(failure);
                    break 'rounds;
                }
            }
        }
        bar.at(round.into());
    }
    for command in all.iter_mut().flat_map(|runner| &mut runner.end) {
        let _ = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
    result.map(|()| all.iter().map(|runner| Report::new(runner.name, &runner.samples)).collect())
}

/// Runs a command that prints `x` and returns how long that took.
pub fn first_output(mut command: Command) -> Outcome<Duration> {
    let name = command.get_program().to_string_lossy().into_owned();
    let fail = |error: std::io::Error| Failure::because(format!("cannot run `{name}`"), &error);
    let start = Instant::now();
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(fail)?;
    let mut output = [0; 2];
    let read = child.stdout.as_mut().map(|pipe| pipe.read_exact(&mut output));
    let took = start.elapsed();
    let end = child.wait_with_output().map_err(fail)?;
    if !end.status.success() || !matches!(read, Some(Ok(()))) || &output != b"x\n" {
        let text = String::from_utf8_lossy(&end.stderr).trim().to_owned();
        return Err(Failure::new(format!("`{name}` did not print `x`: {text}")));
    }
    Ok(took)
}

fn csb() -> Outcome<Runner> {
    let program =
        std::env::current_exe().map_err(|error| Failure::because("cannot find this program's file", &error))?;
    Ok(Runner::new("csb run", move |_| {
        let mut command = Command::new(&program);
        command.args(["run", "--no-stdin", "--", "/bin/echo", "x"]);
        command
    }))
}

fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).chain(["/usr/sbin".into()]).any(|directory| directory.join(program).exists())
}

/// A program that makes containers of bundles, and what each of its commands needs first.
fn oci(program: &str) -> Command {
    let mut command = Command::new(program);
    if program == "runsc" {
        // runc makes an empty network of the bundle's namespace; runsc would configure one there.
        command.arg("--network=none");
    }
    command
}

fn bubblewrap() -> Option<Runner> {
    is_installed("bwrap").then(|| {
        Runner::new("bwrap", |_| {
            let mut command = Command::new("bwrap");
            command.args(["--unshare-all", "--die-with-parent", "--ro-bind", "/usr", "/usr"]);
            for (target, link) in [("usr/bin", "/bin"), ("usr/lib", "/lib"), ("usr/lib64", "/lib64")] {
                command.args(["--symlink", target, link]);
            }
            command.args(["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "/bin/echo", "x"]);
            command
        })
    })
}

/// A root file system with only busybox, and bundles of it.
struct Scratch {
    dir: tempfile::TempDir,
}

impl Scratch {
    fn new() -> Outcome<Self> {
        let made = tempfile::Builder::new().prefix("csb-bench-").tempdir().and_then(|dir| {
            let bin = dir.path().join("rootfs/bin");
            fs::create_dir_all(&bin)?;
            for name in ["proc", "sys", "dev"] {
                fs::create_dir(dir.path().join("rootfs").join(name))?;
            }
            if Path::new(BUSYBOX).exists() {
                fs::copy(BUSYBOX, bin.join("busybox"))?;
                fs::set_permissions(bin.join("busybox"), fs::Permissions::from_mode(0o755))?;
            }
            Ok(dir)
        });
        Ok(Self { dir: made.map_err(|e| Failure::because("cannot make a root file system", &e))? })
    }

    /// A bundle that runs `argv`; none where the program or busybox is absent.
    fn bundle(&self, program: &str, argv: &[&str]) -> Outcome<Option<PathBuf>> {
        if !is_installed(program) || !Path::new(BUSYBOX).exists() {
            return Ok(None);
        }
        let bundle = self.dir.path().join(format!("{program}-{}", argv.len()));
        let fail = |what: String| Failure::new(format!("cannot make a bundle for {program}: {what}"));
        fs::create_dir_all(&bundle).map_err(|e| fail(e.to_string()))?;
        let spec = Command::new(program).arg("spec").current_dir(&bundle).output().map_err(|e| fail(e.to_string()))?;
        if !spec.status.success() {
            return Err(fail(String::from_utf8_lossy(&spec.stderr).into_owned()));
        }
        let path = bundle.join("config.json");
        let text = fs::read(&path).map_err(|e| fail(e.to_string()))?;
        let mut config: serde_json::Value = serde_json::from_slice(&text).map_err(|e| fail(e.to_string()))?;
        config["process"]["terminal"] = false.into();
        config["process"]["args"] = argv.into();
        config["root"]["path"] = self.dir.path().join("rootfs").to_string_lossy().into();
        fs::write(&path, config.to_string()).map_err(|e| fail(e.to_string()))?;
        Ok(Some(bundle))
    }

    fn container_run(&self, name: &'static str, program: &'static str) -> Outcome<Option<Runner>> {
        let Some(bundle) = self.bundle(program, &["/bin/busybox", "echo", "x"])? else { return Ok(None) };
        let make = move |round: u32| {
            let mut command = oci(program);
            command.args(["run", "--bundle"]).arg(&bundle).arg(format!("csb-bench-{}-{round}", std::process::id()));
            command
        };
        works(Runner::new(name, make))
    }

    fn container_exec(&self, name: &'static str, program: &'static str) -> Outcome<Option<Runner>> {
        let Some(bundle) = self.bundle(program, &["/bin/busybox", "sleep", "86400", "1"])? else { return Ok(None) };
        // Its own name also among the control groups, which a container that finds its group there would not remove.
        let id = format!("csb-bench-{program}-{}", std::process::id());
        let mut start = oci(program);
        start.args(["run", "--detach", "--bundle"]).arg(&bundle).arg(&id);
        if !start.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|s| s.success()) {
            eprintln!("csb: {program} cannot start a container on this host; left out");
            return Ok(None);
        }
        let target = id.clone();
        let mut runner = Runner::new(name, move |_| {
            let mut command = oci(program);
            command.args(["exec", &target, "/bin/busybox", "echo", "x"]);
            command
        });
        let mut end = oci(program);
        end.args(["delete", "--force", &id]);
        runner.end.push(end);
        works(runner)
    }

    /// The image that `docker run` starts; none where no engine answers.
    fn docker_image(&self) -> Option<String> {
        if !is_installed("docker") || !Path::new(BUSYBOX).exists() {
            return None;
        }
        if !docker(&["version"]).output().is_ok_and(|output| output.status.success()) {
            eprintln!("csb: docker is left out: no engine answers (scripts/docker.sh starts one)");
            return None;
        }
        let image = format!("csb-bench:{}", std::process::id());
        let tar = self.dir.path().join("rootfs.tar");
        let packed =
            Command::new("tar").arg("-C").arg(self.dir.path().join("rootfs")).arg("-cf").arg(&tar).arg(".").status();
        let imported = Command::new("docker").arg("import").arg(&tar).arg(&image).stdout(Stdio::null()).status();
        (packed.is_ok_and(|s| s.success()) && imported.is_ok_and(|s| s.success())).then_some(image)
    }

    fn docker_run(&self) -> Outcome<Option<Runner>> {
        let Some(image) = self.docker_image() else { return Ok(None) };
        let name = image.clone();
        let mut runner = Runner::new("docker run", move |_| {
            docker(&["run", "--rm", "--network", "none", &name, "/bin/busybox", "echo", "x"])
        });
        runner.end.push(docker(&["rmi", "--force", &image]));
        works(runner)
    }

    fn docker_exec(&self) -> Outcome<Option<Runner>> {
        let Some(image) = self.docker_image() else { return Ok(None) };
        let id = format!("csb-bench-{}", std::process::id());
        let mut start = docker(&["run", "--detach", "--network", "none", "--name", &id, &image]);
        start.args(["/bin/busybox", "sleep", "86400"]).stdout(Stdio::null());
        if !start.status().is_ok_and(|status| status.success()) {
            eprintln!("csb: docker cannot start a container on this host; left out");
            let _ = docker(&["rmi", "--force", &image]).output();
            return Ok(None);
        }
        let target = id.clone();
        let mut runner = Runner::new("docker exec", move |_| docker(&["exec", &target, "/bin/busybox", "echo", "x"]));
        runner.end.extend([docker(&["rm", "--force", &id]), docker(&["rmi", "--force", &image])]);
        works(runner)
    }
}

fn docker(args: &[&str]) -> Command {
    let mut command = Command::new("docker");
    command.args(args);
    command
}

/// Leaves out, with a word about it, who cannot run on this host at all.
fn works(mut runner: Runner) -> Outcome<Option<Runner>> {
    const TRIAL: u32 = u32::MAX;
    match first_output((runner.command)(TRIAL)) {
        Ok(_) => Ok(Some(runner)),
        Err(failure) => {
            for command in &mut runner.end {
                let _ = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
            }
            eprintln!("csb: {} is left out: {failure}", runner.name);
            Ok(None)
        }
    }
}
