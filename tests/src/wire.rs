//! A real warden forked for one test, driven frame by frame as a server would, and what runs in its sandboxes.

use csb_sys::{packet::Conn, pipe::pipe};
use csb_types::{ExecId, FileError, Kind, Limits, Net, PtySize, SandboxId, Usage};
use csb_wire::{
    Bind, ExecPlan, FileReply, FileRequest, FromInit, FromWarden, JailPlan, Mode, Tag, ToInit, ToWarden, UpperPlan,
    VERSION, decode, decode_header, encode, encode_header,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::{
    collections::HashMap,
    fs::{self, File},
    io::{Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::{
            fs::{PermissionsExt, chown, symlink},
            net::UnixStream,
        },
    },
    path::{Path, PathBuf},
    sync::Mutex,
    time::{Duration, Instant},
};

/// After this a test calls something hung. Generous: the machine may be busy.
pub const HUNG: Duration = Duration::from_secs(60);

/// A warden and its data directory. Ends, with all its sandboxes, when dropped.
pub struct Warden {
    conn: Conn,
    dir: PathBuf,
    owned: Option<tempfile::TempDir>,
    seq: u64,
    /// What it can enforce.
    pub mode: Mode,
    /// Of the sandboxes that are made without a plan of the test's own.
    kind: Kind,
}

/// One sandbox, driven through its init.
pub struct Sandbox {
    /// Its id.
    pub id: SandboxId,
    /// Host pid of its init.
    pub pid: i32,
    init: Conn,
    /// Ends that arrived while another command was waited for.
    ended: Mutex<HashMap<ExecId, i32>>,
}

/// What a command did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Its stdout.
    pub out: String,
    /// Its stderr.
    pub err: String,
    /// Exit code; 128 + signal.
    pub code: i32,
}

/// A command that goes on while the test does other things.
pub struct Running {
    /// Its id.
    pub id: ExecId,
    /// Its stdout.
    pub out: File,
    _err: File,
}

/// A minimal root file system to put the host's `/usr` on.
pub fn skeleton(root: &Path) {
    for dir in ["usr", "etc", "proc", "dev", "sys", "tmp", "workspace", "home/user", "root", "run", "var/tmp"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    for name in ["bin", "sbin", "lib", "lib64"] {
        symlink(format!("usr/{name}"), root.join(name)).unwrap();
    }
    for dir in ["tmp", "var/tmp"] {
        fs::set_permissions(root.join(dir), fs::Permissions::from_mode(0o1777)).unwrap();
    }
    if rustix::process::geteuid().is_root() {
        for dir in ["workspace", "home/user"] {
            chown(root.join(dir), Some(1000), Some(1000)).unwrap();
        }
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n").unwrap();
    fs::write(root.join("etc/group"), "root:x:0:\nuser:x:1000:\n").unwrap();
}

impl Warden {
    /// Forks one for this test.
    pub fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        skeleton(&dir.path().join("layer"));
        let conn = csb_warden::fork_inherited(dir.path()).unwrap();
        let path = dir.path().to_owned();
        Self::greet(conn, path, Some(dir))
    }

    /// The same, for sandboxes of another kind.
    pub fn start_as(kind: Kind) -> Self {
        let mut warden = Self::start();
        if kind == Kind::Hardened {
            crate::image::of_directory(&warden.dir.join("layer"), &warden.dir.join("layer.image"));
            warden.kind = kind;
        }
        warden
    }

    fn greet(conn: Conn, dir: PathBuf, owned: Option<tempfile::TempDir>) -> Self {
        let mut warden = Self { conn, dir, owned, seq: 0, mode: Mode::Root, kind: Kind::Process };
        warden.send(&ToWarden::Hello { version: VERSION });
        let FromWarden::Welcome { mode, held: 0, .. } = warden.recv().0 else { panic!("no welcome") };
        assert!(matches!(warden.recv().0, FromWarden::HeldEnd));
        warden.mode = mode;
        warden
    }

    /// Its data directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its data directory, for the test to keep when the warden is gone.
    pub fn take_dir(&mut self) -> Option<tempfile::TempDir> {
        self.owned.take()
    }

    /// Sends a frame as it is.
    pub fn send(&mut self, frame: &ToWarden) {
        self.conn.send(&encode(frame), &[]).unwrap();
    }

    /// The next frame, whatever it is.
    pub fn recv(&self) -> (FromWarden, Vec<OwnedFd>) {
        within(&self.conn, "the warden");
        let (bytes, fds) = self.conn.recv().unwrap().expect("the warden is gone");
        (decode(&bytes).unwrap(), fds)
    }

    /// Pid of the warden.
    pub fn pid(&mut self) -> i32 {
        self.send(&ToWarden::Hello { version: VERSION });
        let mut pid = 0;
        loop {
            match self.recv().0 {
                FromWarden::Welcome { pid: own, .. } => pid = own,
                FromWarden::Held(_) => {}
                FromWarden::HeldEnd => return pid,
                other => panic!("{other:?}"),
            }
        }
    }

    /// A plan with the test's skeleton and the host's `/usr`.
    pub fn plan(&self, limits: Limits) -> JailPlan {
        let (layer, usr) = match self.kind {
            Kind::Hardened => ("layer.image", crate::image::of_usr()),
            _ => ("layer", PathBuf::from("/usr")),
        };
        JailPlan {
            id: SandboxId::random(),
            kind: self.kind,
            hostname: "sandbox".into(),
            layers: vec![self.dir.join(layer)],
            binds: vec![Bind { host: usr, guest: "/usr".into() }],
            volumes: vec![],
            upper: UpperPlan::Memory,
            limits,
            net: Net::None,
        }
    }

    /// A directory as plans of this warden's kind have it.
    pub fn source(&self, directory: PathBuf) -> PathBuf {
        match self.kind {
            Kind::Hardened => {
                let image = directory.with_extension(SandboxId::random().as_str());
                crate::image::of_directory(&directory, &image);
                image
            }
            _ => directory,
        }
    }

    /// Builds a sandbox, or says what its builder said.
    pub fn try_create(&mut self, plan: JailPlan) -> Result<Sandbox, String> {
        let id = plan.id.clone();
        self.seq += 1;
        self.send(&ToWarden::Create { seq: self.seq, plan: Box::new(plan) });
        let (jail, control) = loop {
            match self.recv() {
                (FromWarden::Created { jail, .. }, mut fds) => break (jail, fds.remove(0)),
                (FromWarden::Failed { failure, .. }, _) => return Err(failure.to_string()),
                (FromWarden::Gone { .. }, _) => {}
                other => panic!("{other:?}"),
            }
        };
        let sandbox = Sandbox { id, pid: jail.pid, init: Conn::from(control), ended: Mutex::default() };
        match sandbox.next() {
            Some((FromInit::Ready, _)) => Ok(sandbox),
            Some((FromInit::Failed(failure), _)) => {
                self.wait_gone(&sandbox.id);
                Err(failure.to_string())
            }
            other => panic!("{other:?}"),
        }
    }

    /// Builds a sandbox with these limits.
    pub fn create_with(&mut self, limits: Limits) -> Sandbox {
        let plan = self.plan(limits);
        self.try_create(plan).unwrap()
    }

    /// Builds a sandbox with default limits.
    pub fn create(&mut self) -> Sandbox {
        self.create_with(Limits::default())
    }

    /// Ends a sandbox and waits until nothing is left of it.
    pub fn release(&mut self, sandbox: Sandbox) {
        self.seq += 1;
        let seq = self.seq;
        self.send(&ToWarden::Release { seq, id: sandbox.id });
        loop {
            match self.recv().0 {
                FromWarden::Done { seq: done } if done == seq => return,
                FromWarden::Gone { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// Waits until the warden says that a sandbox is gone.
    pub fn wait_gone(&self, id: &SandboxId) {
        loop {
            if let FromWarden::Gone { id: gone, .. } = self.recv().0
                && gone == *id
            {
                return;
            }
        }
    }

    /// Counters of a sandbox.
    pub fn usage(&mut self, sandbox: &Sandbox) -> Usage {
        self.seq += 1;
        self.send(&ToWarden::Usage { seq: self.seq, id: sandbox.id.clone() });
        match self.recv().0 {
            FromWarden::Usage { usage, .. } => usage,
            other => panic!("{other:?}"),
        }
    }

    /// Changes the limits of a sandbox.
    pub fn set_limits(&mut self, sandbox: &Sandbox, limits: Limits) {
        self.seq += 1;
        self.send(&ToWarden::SetLimits { seq: self.seq, id: sandbox.id.clone(), limits });
        let FromWarden::Done { .. } = self.recv().0 else { panic!("limits not set") };
    }

    /// Freezes or thaws a sandbox.
    pub fn freeze(&mut self, sandbox: &Sandbox, frozen: bool) {
        self.seq += 1;
        self.send(&ToWarden::Freeze { seq: self.seq, id: sandbox.id.clone(), frozen });
        let FromWarden::Done { .. } = self.recv().0 else { panic!("not frozen") };
    }

    /// Ends every sandbox and the warden; returns when the warden has closed its end.
    pub fn stop(mut self) {
        self.seq += 1;
        self.send(&ToWarden::Stop { seq: self.seq });
        self.wait_end();
    }

    /// Waits until the warden is gone.
    pub fn wait_end(&self) {
        within(&self.conn, "the warden");
        while let Ok(Some(_)) = self.conn.recv() {
            within(&self.conn, "the warden");
        }
    }
}

/// Waits until a peer has something to say; a peer that hangs fails the test.
fn within(conn: &Conn, whom: &str) {
    let limit = Timespec { tv_sec: HUNG.as_secs() as i64, tv_nsec: 0 };
    let ready = poll(&mut [PollFd::new(conn, PollFlags::IN)], Some(&limit)).unwrap();
    assert!(ready > 0, "{whom} hangs");
}

impl Sandbox {
    /// The next frame of the init; `None` when it is gone.
    pub fn next(&self) -> Option<(FromInit, Vec<OwnedFd>)> {
        within(&self.init, "the init");
        let (bytes, fds) = self.init.recv().unwrap()?;
        Some((decode(&bytes).unwrap(), fds))
    }

    fn recv(&self) -> (FromInit, Vec<OwnedFd>) {
        self.next().expect("the init is gone")
    }

    /// A command as the sandbox's user, with an ordinary environment.
    pub fn plan(&self, argv: &[&str]) -> ExecPlan {
        ExecPlan {
            id: ExecId::random(),
            argv: argv.iter().map(|s| s.to_string()).collect(),
            env: vec!["PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin".into(), "LANG=C.UTF-8".into()],
            cwd: "/workspace".into(),
            user: None,
            pty: None,
            stdin: false,
        }
    }

    /// Starts a command and goes on.
    pub fn start(&self, plan: ExecPlan) -> Result<Running, String> {
        let (out_r, out_w) = pipe().unwrap();
        let (err_r, err_w) = pipe().unwrap();
        let fds = [out_w.as_fd(), err_w.as_fd(), out_r.as_fd(), err_r.as_fd()];
        let id = plan.id.clone();
        self.init.send(&encode(&ToInit::Exec(Box::new(plan))), &fds).unwrap();
        loop {
            match self.recv().0 {
                FromInit::Started { exec, .. } if exec == id => break,
                FromInit::NotStarted { exec, failure } if exec == id => return Err(failure.to_string()),
                FromInit::Exited { exec, status, .. } => drop(self.ended.lock().unwrap().insert(exec, status)),
                other => panic!("{other:?}"),
            }
        }
        Ok(Running { id, out: File::from(out_r), _err: File::from(err_r) })
    }

    /// Runs a command to its end. Its output is read until the last holder of its pipes is gone.
    pub fn run(&self, plan: ExecPlan) -> Result<Output, String> {
        let running = self.start(plan)?;
        let (mut out, mut err) = (running.out, running._err);
        let reader = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            err.read_to_end(&mut bytes).unwrap();
            bytes
        });
        let mut bytes = Vec::new();
        out.read_to_end(&mut bytes).unwrap();
        let errors = reader.join().unwrap();
        let code = self.wait(&running.id);
        let text = |b: Vec<u8>| String::from_utf8_lossy(&b).into_owned();
        Ok(Output { out: text(bytes), err: text(errors), code })
    }

    /// Waits for the end of a command; its exit code.
    pub fn wait(&self, id: &ExecId) -> i32 {
        loop {
            if let Some(status) = self.ended.lock().unwrap().remove(id) {
                self.init.send(&encode(&ToInit::Forget { exec: id.clone() }), &[]).unwrap();
                return csb_sys::process::decode_status(status).unwrap_or_else(|signal| 128 + signal);
            }
            match self.recv().0 {
                FromInit::Exited { exec, status, .. } => drop(self.ended.lock().unwrap().insert(exec, status)),
                other => panic!("{other:?}"),
            }
        }
    }

    /// Sends a signal to a command, or to its whole tree.
    pub fn signal(&self, id: &ExecId, signal: i32, tree: bool) {
        self.init.send(&encode(&ToInit::Signal { exec: id.clone(), signal, tree }), &[]).unwrap();
    }

    /// Runs a shell line.
    pub fn sh(&self, line: &str) -> Output {
        self.run(self.plan(&["sh", "-c", line])).unwrap()
    }

    /// Runs a shell line as another user of the sandbox.
    pub fn sh_as(&self, user: &str, line: &str) -> Output {
        self.run(ExecPlan { user: Some(user.into()), ..self.plan(&["sh", "-c", line]) }).unwrap()
    }

    /// Runs a command in a terminal; everything it wrote.
    pub fn terminal(&self, argv: &[&str]) -> String {
        let plan = ExecPlan { pty: Some(PtySize::default()), ..self.plan(argv) };
        let id = plan.id.clone();
        self.init.send(&encode(&ToInit::Exec(Box::new(plan))), &[]).unwrap();
        let (frame, mut fds) = self.recv();
        let FromInit::Started { .. } = frame else { panic!("{frame:?}") };
        let mut master = File::from(fds.remove(0));
        let mut text = Vec::new();
        let mut buffer = [0; 4096];
        // A terminal whose last writer has gone answers EIO.
        while let Ok(n) = master.read(&mut buffer)
            && n > 0
        {
            text.extend_from_slice(&buffer[..n]);
        }
        self.wait(&id);
        String::from_utf8_lossy(&text).replace("\r\n", "\n")
    }

    /// Puts the attack program into the sandbox.
    pub fn arm(&self) {
        let request = FileRequest::Write { path: "/workspace/probe".into(), mode: Some(0o755), append: false };
        self.file(request, Some(&crate::probe::bytes())).1.unwrap();
    }

    /// Runs one attack to its end.
    pub fn probe(&self, attack: &[&str]) -> Output {
        let argv: Vec<&str> = ["/workspace/probe"].iter().chain(attack).copied().collect();
        self.run(self.plan(&argv)).unwrap()
    }

    /// Starts one attack and waits for its first line.
    pub fn probe_and_go_on(&self, attack: &[&str]) -> (Running, String) {
        let argv: Vec<&str> = ["/workspace/probe"].iter().chain(attack).copied().collect();
        let mut running = self.start(self.plan(&argv)).unwrap();
        let line = running.line();
        (running, line)
    }

    /// One file operation as the sandbox's user.
    pub fn file(&self, request: FileRequest, upload: Option<&[u8]>) -> (Vec<u8>, Result<FileReply, FileError>) {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(HUNG)).unwrap();
        self.init.send(&encode(&ToInit::File { user: None, request }), &[theirs.as_fd()]).unwrap();
        drop(theirs);
        if let Some(bytes) = upload {
            // A helper that refuses at once hangs up before it has all; its answer says why.
            let _ = send_all(&mut ours, bytes);
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
                Tag::Entry => {}
                Tag::End => return (data, decode(&payload).unwrap()),
                Tag::Finish => panic!("the helper has nothing to finish"),
            }
        }
    }

    /// Reads a file.
    pub fn read(&self, path: &str) -> Result<Vec<u8>, FileError> {
        let (data, reply) = self.file(FileRequest::Read { path: path.into(), offset: 0, length: None }, None);
        reply.map(|_| data)
    }

    /// Replaces a file.
    pub fn write(&self, path: &str, bytes: &[u8]) -> Result<FileReply, FileError> {
        self.file(FileRequest::Write { path: path.into(), mode: None, append: false }, Some(bytes)).1
    }

    /// The sandbox still does what sandboxes do: a command, a file, a fork.
    pub fn assert_works(&self) {
        let output = self.sh("echo ok > /tmp/works && cat /tmp/works | cat");
        assert_eq!((output.out.as_str(), output.code), ("ok\n", 0), "{output:?}");
        self.write("/workspace/works", b"still").unwrap();
        assert_eq!(self.read("/workspace/works").unwrap(), b"still");
    }
}

fn send_all(to: &mut UnixStream, bytes: &[u8]) -> std::io::Result<()> {
    for chunk in bytes.chunks(65536) {
        to.write_all(&encode_header(Tag::Data, chunk.len()))?;
        to.write_all(chunk)?;
    }
    to.write_all(&encode_header(Tag::Finish, 0))
}

impl Running {
    /// Its next line of output, without the newline.
    pub fn line(&mut self) -> String {
        let mut line = Vec::new();
        let mut byte = [0];
        while self.out.read(&mut byte).unwrap() == 1 && byte[0] != b'\n' {
            line.push(byte[0]);
        }
        String::from_utf8_lossy(&line).into_owned()
    }
}

/// Tries until it holds; a condition that never holds fails the test with `what`.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < HUNG, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
