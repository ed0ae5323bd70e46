//! A real warden, real sandboxes: what a server sees on the wire. Needs root.

use csb_sys::{packet::Conn, pipe::pipe};
use csb_types::{ExecId, Kind, Limits, Net, PtySize, SandboxId};
use csb_wire::{
    Bind, ExecPlan, FileReply, FileRequest, FromInit, FromWarden, JailPlan, Mode, Tag, ToInit, ToWarden, UpperPlan,
    VERSION, decode, decode_header, encode, encode_header,
};
use std::{
    fs::{self, File},
    io::{Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::{
            fs::{PermissionsExt, chown, symlink},
            net::UnixStream,
        },
    },
    path::Path,
};

struct Bench {
    warden: Conn,
    dir: tempfile::TempDir,
    seq: u64,
}

struct Sandbox {
    id: SandboxId,
    init: Conn,
}

fn skeleton(root: &Path) {
    for dir in ["usr", "etc", "proc", "dev", "sys", "tmp", "workspace", "home/user", "root", "run", "var/tmp"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    for name in ["bin", "sbin", "lib", "lib64"] {
        symlink(format!("usr/{name}"), root.join(name)).unwrap();
    }
    for dir in ["tmp", "var/tmp"] {
        fs::set_permissions(root.join(dir), fs::Permissions::from_mode(0o1777)).unwrap();
    }
    for dir in ["workspace", "home/user"] {
        chown(root.join(dir), Some(1000), Some(1000)).unwrap();
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n").unwrap();
    fs::write(root.join("etc/group"), "root:x:0:\nuser:x:1000:\n").unwrap();
}

impl Bench {
    fn new() -> Self {
        assert!(rustix::process::geteuid().is_root(), "these tests make real sandboxes and need root");
        let dir = tempfile::tempdir().unwrap();
        skeleton(&dir.path().join("layer"));
        let warden = csb_warden::fork_inherited(dir.path()).unwrap();
        let mut bench = Self { warden, dir, seq: 0 };
        bench.send(&ToWarden::Hello { version: VERSION });
        let FromWarden::Welcome { mode: Mode::Root, held: 0, .. } = bench.recv().0 else { panic!("no welcome") };
        assert!(matches!(bench.recv().0, FromWarden::HeldEnd));
        bench
    }

    fn send(&mut self, frame: &ToWarden) {
        self.warden.send(&encode(frame), &[]).unwrap();
    }

    fn recv(&self) -> (FromWarden, Vec<OwnedFd>) {
        let (bytes, fds) = self.warden.recv().unwrap().expect("the warden is gone");
        (decode(&bytes).unwrap(), fds)
    }

    fn plan(&self, limits: Limits) -> JailPlan {
        JailPlan {
            id: SandboxId::random(),
            kind: Kind::Process,
            hostname: "sandbox".into(),
            layers: vec![self.dir.path().join("layer")],
            binds: vec![Bind { host: "/usr".into(), guest: "/usr".into() }],
            volumes: vec![],
            upper: UpperPlan::Memory,
            limits,
            net: Net::None,
        }
    }

    fn create(&mut self, plan: JailPlan) -> Sandbox {
        let id = plan.id.clone();
        self.seq += 1;
        self.send(&ToWarden::Create { seq: self.seq, plan: Box::new(plan) });
        let (frame, mut fds) = self.recv();
        let FromWarden::Created { .. } = frame else { panic!("{frame:?}") };
        let init = Conn::from(fds.remove(0));
        let sandbox = Sandbox { id, init };
        match sandbox.recv().0 {
            FromInit::Ready => sandbox,
            other => panic!("{other:?}"),
        }
    }

    fn release(&mut self, sandbox: Sandbox) {
        self.seq += 1;
        self.send(&ToWarden::Release { seq: self.seq, id: sandbox.id });
        let FromWarden::Gone { .. } = self.recv().0 else { panic!("not gone") };
        let FromWarden::Done { .. } = self.recv().0 else { panic!("not done") };
    }
}

#[derive(Debug)]
struct Output {
    out: String,
    err: String,
    code: i32,
}

impl Sandbox {
    fn recv(&self) -> (FromInit, Vec<OwnedFd>) {
        let (bytes, fds) = self.init.recv().unwrap().expect("the init is gone");
        (decode(&bytes).unwrap(), fds)
    }

    fn plan(&self, argv: &[&str]) -> ExecPlan {
        ExecPlan {
            id: ExecId::random(),
            argv: argv.iter().map(|s| s.to_string()).collect(),
            env: vec!["PATH=/usr/local/bin:/usr/bin:/bin".into(), "LANG=C.UTF-8".into()],
            cwd: "/workspace".into(),
            user: None,
            pty: None,
            stdin: false,
        }
    }

    fn run(&self, plan: ExecPlan) -> Result<Output, String> {
        let (out_r, out_w) = pipe().unwrap();
        let (err_r, err_w) = pipe().unwrap();
        let fds = [out_w.as_fd(), err_w.as_fd(), out_r.as_fd(), err_r.as_fd()];
        self.init.send(&encode(&ToInit::Exec(Box::new(plan.clone()))), &fds).unwrap();
        drop((out_w, err_w));
        match self.recv().0 {
            FromInit::Started { exec, .. } => assert_eq!(exec, plan.id),
            FromInit::NotStarted { failure, .. } => return Err(failure.to_string()),
            other => panic!("{other:?}"),
        }
        let (mut out, mut err) = (Vec::new(), Vec::new());
        File::from(out_r).read_to_end(&mut out).unwrap();
        File::from(err_r).read_to_end(&mut err).unwrap();
        let FromInit::Exited { status, .. } = self.recv().0 else { panic!("not exited") };
        self.init.send(&encode(&ToInit::Forget { exec: plan.id }), &[]).unwrap();
        let code = csb_sys::process::decode_status(status).unwrap_or_else(|signal| 128 + signal);
        let text = |b: Vec<u8>| String::from_utf8_lossy(&b).into_owned();
        Ok(Output { out: text(out), err: text(err), code })
    }

    fn sh(&self, line: &str) -> Output {
        self.run(self.plan(&["sh", "-c", line])).unwrap()
    }

    fn file(&self, request: FileRequest, upload: Option<&[u8]>) -> (Vec<u8>, Result<FileReply, csb_types::FileError>) {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        self.init.send(&encode(&ToInit::File { user: None, request }), &[theirs.as_fd()]).unwrap();
        drop(theirs);
        if let Some(bytes) = upload {
            for chunk in bytes.chunks(65536) {
                ours.write_all(&encode_header(Tag::Data, chunk.len())).unwrap();
                ours.write_all(chunk).unwrap();
            }
            ours.write_all(&encode_header(Tag::Finish, 0)).unwrap();
        }
        let mut data = Vec::new();
        loop {
            let mut header = [0; 5];
            ours.read_exact(&mut header).unwrap();
            let (tag, length) = decode_header(header).unwrap();
            let mut payload = vec![0; length];
            ours.read_exact(&mut payload).unwrap();
            match tag {
                Tag::Data => data.extend(payload),
                Tag::End => return (data, decode(&payload).unwrap()),
                other => panic!("{other:?}"),
            }
        }
    }
}

#[test]
fn a_command_runs_confined_and_its_streams_are_kept_apart() {
    let mut bench = Bench::new();
    let sandbox = bench.create(bench.plan(Limits::default()));
    let output = sandbox
        .sh("echo out; echo err >&2; id -u; pwd; hostname; cat /proc/self/status | grep -E 'Cap|NoNewPrivs|Seccomp:'");
    assert_eq!(output.err, "err\n", "{output:?}");
    assert!(output.out.starts_with("out\n1000\n/workspace\nsandbox\n"), "{output:?}");
    for line in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert!(output.out.contains(&format!("{line}:\t0000000000000000")), "{output:?}");
    }
    assert!(output.out.contains("NoNewPrivs:\t1") && output.out.contains("Seccomp:\t2"), "{output:?}");
    assert_eq!(sandbox.sh("exit 7").code, 7);
    assert_eq!(sandbox.sh("kill -9 $$").code, 137);
    bench.release(sandbox);
}

#[test]
fn what_cannot_start_says_why() {
    let mut bench = Bench::new();
    let sandbox = bench.create(bench.plan(Limits::default()));
    assert!(sandbox.run(sandbox.plan(&["no-such-program"])).unwrap_err().starts_with("exec: No such file"));
    assert!(sandbox.run(sandbox.plan(&["/etc/passwd"])).unwrap_err().starts_with("exec: Permission denied"));
    let plan = ExecPlan { cwd: "/nowhere".into(), ..sandbox.plan(&["true"]) };
    assert!(sandbox.run(plan).unwrap_err().starts_with("cwd: "));
    let plan = ExecPlan { user: Some("ghost".into()), ..sandbox.plan(&["true"]) };
    assert!(sandbox.run(plan).unwrap_err().contains("no user `ghost`"));
    let plan =
        ExecPlan { user: Some("root".into()), ..sandbox.plan(&["sh", "-c", "id -u; touch /etc/x && echo wrote"]) };
    assert_eq!(sandbox.run(plan).unwrap().out, "0\nwrote\n");
    bench.release(sandbox);
}

#[test]
fn a_terminal_is_a_terminal() {
    let mut bench = Bench::new();
    let sandbox = bench.create(bench.plan(Limits::default()));
    let mut plan = sandbox.plan(&["sh", "-c", "tty; stty size; test -t 0 && test -t 1 && echo yes"]);
    plan.pty = Some(PtySize { cols: 100, rows: 30 });
    sandbox.init.send(&encode(&ToInit::Exec(Box::new(plan))), &[]).unwrap();
    let (frame, mut fds) = sandbox.recv();
    let FromInit::Started { .. } = frame else { panic!("{frame:?}") };
    let mut master = File::from(fds.remove(0));
    let mut text = String::new();
    let mut buffer = [0; 4096];
    // A terminal whose last writer has gone answers EIO.
    while let Ok(n) = master.read(&mut buffer) {
        text.push_str(&String::from_utf8_lossy(&buffer[..n]));
    }
    assert!(text.contains("/dev/pts/0") && text.contains("30 100") && text.contains("yes"), "{text:?}");
    bench.release(sandbox);
}

#[test]
fn files_are_written_at_once_and_read_back() {
    let mut bench = Bench::new();
    let sandbox = bench.create(bench.plan(Limits::default()));
    let content: Vec<u8> = (0..3_000_000u32).map(|i| i as u8).collect();
    let path = "/workspace/deep/er/file".to_owned();
    let request = FileRequest::Write { path: path.clone(), mode: Some(0o640), append: false };
    let reply = sandbox.file(request, Some(&content)).1.unwrap();
    assert_eq!((reply.bytes, reply.entry.unwrap().mode), (3_000_000, 0o640));
    let (data, reply) = sandbox.file(FileRequest::Read { path, offset: 0, length: None }, None);
    assert!(data == content && reply.is_ok());
    let refused = sandbox.file(FileRequest::Read { path: "/proc/self/status".into(), offset: 0, length: None }, None).1;
    assert_eq!(refused.unwrap_err().code, csb_types::FileErrorCode::NotRegular);
    assert_eq!(sandbox.sh("ls -A /workspace/deep/er").out, "file\n");
    let (tar, reply) = sandbox.file(FileRequest::Pack { path: "/workspace".into() }, None);
    assert!(reply.is_ok());
    let reply = sandbox.file(FileRequest::Unpack { path: "/workspace/copy".into() }, Some(&tar)).1;
    assert!(reply.is_ok(), "{reply:?}");
    assert_eq!(sandbox.sh("cmp /workspace/deep/er/file /workspace/copy/deep/er/file && echo same").out, "same\n");
    bench.release(sandbox);
}

#[test]
fn the_whole_tree_of_an_exec_is_killed_and_nothing_else() {
    let mut bench = Bench::new();
    let sandbox = bench.create(bench.plan(Limits::default()));
    assert_eq!(sandbox.sh("sleep 1000 >/dev/null 2>&1 & echo started").out, "started\n");
    let plan = sandbox.plan(&["sh", "-c", "setsid sleep 2000 & (sleep 3000 &) ; exec sleep 4000"]);
    let id = plan.id.clone();
    let (out_r, out_w) = pipe().unwrap();
    let fds = [out_w.as_fd(), out_w.as_fd(), out_r.as_fd(), out_r.as_fd()];
    sandbox.init.send(&encode(&ToInit::Exec(Box::new(plan))), &fds).unwrap();
    drop(out_w);
    let FromInit::Started { .. } = sandbox.recv().0 else { panic!("not started") };
    // The shell needs a moment to start its children.
    while sandbox.sh("pgrep -c sleep").out.trim() != "4" {}
    sandbox.init.send(&encode(&ToInit::Signal { exec: id, signal: 9, tree: true }), &[]).unwrap();
    let FromInit::Exited { .. } = sandbox.recv().0 else { panic!("not exited") };
    // The killed ones may still be on their way out.
    while sandbox.sh("pgrep -c sleep").out.trim() != "1" {}
    assert_eq!(sandbox.sh("pgrep -a sleep").out.split_whitespace().last(), Some("1000"));
    bench.release(sandbox);
}
