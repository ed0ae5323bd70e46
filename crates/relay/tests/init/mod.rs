//! An init without a jail: it starts programs as the warden's does, keeps what that keeps, and answers as that does. A file
//! operation is one that returns what it gets.

use csb_sys::packet::Conn;
use csb_types::ExecId;
use csb_wire::{FromInit, ToInit};
use rustix::pty::OpenptFlags;
use std::{
    collections::HashMap,
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::{
            net::UnixStream,
            process::{CommandExt, ExitStatusExt},
        },
    },
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::Instant,
};

struct Record {
    pid: i32,
    ended: Option<(i32, u64)>,
    outputs: Vec<OwnedFd>,
    stdin: Option<OwnedFd>,
}

#[derive(Clone)]
pub struct Init {
    conn: Arc<Conn>,
    execs: Arc<Mutex<HashMap<ExecId, Record>>>,
    started: Arc<AtomicU32>,
}

impl Init {
    pub fn new(conn: Conn, started: Arc<AtomicU32>) -> Self {
        Self { conn: Arc::new(conn), execs: Arc::default(), started }
    }

    fn say(&self, frame: &FromInit, fds: &[&OwnedFd]) {
        let fds: Vec<_> = fds.iter().map(|fd| fd.as_fd()).collect();
        let _ = self.conn.send(&csb_wire::encode(frame), &fds);
    }

    pub fn run(self) {
        self.say(&FromInit::Ready, &[]);
        while let Ok(Some((bytes, fds))) = self.conn.recv() {
            match csb_wire::decode(&bytes).unwrap() {
                ToInit::Exec(plan) if plan.pty.is_some() => self.terminal(plan.id, &plan.argv),
                ToInit::Exec(plan) => self.exec(plan.id, &plan.argv, fds),
                ToInit::File { .. } => drop(thread::spawn(move || {
                    let mut socket = UnixStream::from(fds.into_iter().next().unwrap());
                    let mut from = socket.try_clone().unwrap();
                    let _ = io::copy(&mut from, &mut socket);
                })),
                ToInit::Signal { exec, signal, .. } => {
                    let pid = self.execs.lock().unwrap()[&exec].pid;
                    let _ = csb_sys::process::kill(-pid, signal);
                }
                ToInit::CloseStdin { exec } => {
                    if let Some(record) = self.execs.lock().unwrap().get_mut(&exec) {
                        record.stdin = None;
                    }
                }
                ToInit::Forget { exec } => drop(self.execs.lock().unwrap().remove(&exec)),
                ToInit::Report { .. } => self.report(),
                ToInit::Resize { .. } => {}
            }
        }
    }

    /// One that no program has for its controlling one.
    fn terminal(&self, id: ExecId, argv: &[String]) {
        self.started.fetch_add(1, Ordering::Relaxed);
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = rustix::pty::openpt(flags).unwrap();
        rustix::pty::unlockpt(&master).unwrap();
        let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags).unwrap();
        let mut command = Command::new(&argv[0]);
        command.args(&argv[1..]).stdin(slave.try_clone().unwrap()).stdout(slave.try_clone().unwrap()).stderr(slave);
        let child = command.process_group(0).spawn().unwrap();
        drop(command);
        let outputs = vec![master.try_clone().unwrap()];
        self.run_to_its_end(id, child, outputs, None, &[&master]);
    }

    fn exec(&self, id: ExecId, argv: &[String], fds: Vec<OwnedFd>) {
        self.started.fetch_add(1, Ordering::Relaxed);
        let mut fds = fds.into_iter();
        let (out, err) = (fds.next().unwrap(), fds.next().unwrap());
        let outputs = vec![fds.next().unwrap(), fds.next().unwrap()];
        let (stdin, keep) = (fds.next(), fds.next());
        let mut command = Command::new(&argv[0]);
        command.args(&argv[1..]).stdin(stdin.map_or(Stdio::null(), Stdio::from)).stdout(out).stderr(err);
        let child = command.process_group(0).spawn().unwrap();
        drop(command);
        self.run_to_its_end(id, child, outputs, keep, &[]);
    }

    fn run_to_its_end(
        &self,
        id: ExecId,
        mut child: Child,
        outputs: Vec<OwnedFd>,
        keep: Option<OwnedFd>,
        beside: &[&OwnedFd],
    ) {
        let (pid, since) = (child.id() as i32, Instant::now());
        self.execs.lock().unwrap().insert(id.clone(), Record { pid, ended: None, outputs, stdin: keep });
        self.say(&FromInit::Started { exec: id.clone(), pid }, beside);
        let init = self.clone();
        thread::spawn(move || {
            let status = child.wait().unwrap().into_raw();
            let duration_usec = since.elapsed().as_micros() as u64;
            if let Some(record) = init.execs.lock().unwrap().get_mut(&id) {
                (record.ended, record.stdin) = (Some((status, duration_usec)), None);
            }
            init.say(&FromInit::Exited { exec: id, status, duration_usec }, &[]);
        });
    }

    fn report(&self) {
        for (id, record) in &*self.execs.lock().unwrap() {
            let known = FromInit::Known {
                exec: id.clone(),
                pid: record.pid,
                ended: record.ended,
                age_usec: 1,
                pty: false,
                stdin: record.stdin.is_some(),
            };
            let fds: Vec<&OwnedFd> = record.outputs.iter().chain(&record.stdin).collect();
            self.say(&known, &fds);
        }
        self.say(&FromInit::KnownEnd, &[]);
    }
}
