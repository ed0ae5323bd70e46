//! The half beside the init: it looks like a server to it.

use crate::{
    flow::Outgoing,
    frame::{Event, Flow, MOST_FROM_HOST, Order},
    half::{Ends, Half, Heard, Source},
};
use csb_sys::{packet::Conn, pipe, tty, vsock};
use csb_types::ExecId;
use csb_wire::{ExecPlan, Failure, FileRequest, FromInit, ToInit};
use rustix::net::{AddressFamily, SocketFlags, SocketType, accept_with, socketpair};
use std::{
    collections::HashMap,
    io,
    os::fd::{AsFd, OwnedFd},
    time::{Duration, Instant},
};

/// Between two looks at a port that nobody has open on the host.
const AWAY: Duration = Duration::from_millis(100);
/// The most an ordinary user can make a pipe hold (`fs.pipe-max-size`): what a command wrote before its end is less.
const PIPE: u64 = 1 << 20;

/// Where servers are heard.
#[derive(Debug)]
pub enum Channel {
    /// A listening stream socket; the newest connection is the one there is. Who may connect is seen to by whoever made it.
    Listener(OwnedFd),
    /// A serial port, which servers open and close on the host.
    Port(OwnedFd),
    /// A port of this machine's vsock; the newest connection of its host is the one there is.
    Vsock(vsock::Listener),
}

/// Speaks for the server with the init behind `conn`, until that ends; `once`, until the first stream does.
pub fn guest(conn: Conn, channel: Channel, once: bool) -> io::Result<()> {
    if let Channel::Listener(fd) | Channel::Port(fd) = &channel {
        rustix::io::ioctl_fionbio(fd, true)?;
    }
    let half = Half::new(conn, 0, MOST_FROM_HOST, false)?;
    let mut guest =
        Guest { half, channel, once, back_at: None, state: None, exits: HashMap::new(), have: HashMap::new() };
    loop {
        match guest.turn() {
            Ok(()) => {}
            Err(Gone::Inside(error)) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(Gone::Inside(error)) => return Err(error),
            // A port that no server has opened yet looks like one that was closed.
            Err(Gone::Outside) if guest.once && guest.half.session != 0 => return Ok(()),
            Err(Gone::Outside) => {
                guest.half.part();
                guest.back_at = Some(Instant::now() + AWAY);
            }
        }
    }
}

enum Gone {
    Inside(io::Error),
    Outside,
}

struct Guest {
    half: Half,
    channel: Channel,
    once: bool,
    /// When to look whether the port is open on the host again.
    back_at: Option<Instant>,
    /// Whether the init is ready, or why not.
    state: Option<FromInit>,
    /// Ends that are told once all that was written before them is read, and how much was read then.
    exits: HashMap<ExecId, (FromInit, [u64; 2])>,
    /// What the server that asks for a report has of each command.
    have: HashMap<ExecId, [u64; 2]>,
}

impl Guest {
    fn turn(&mut self) -> Result<(), Gone> {
        let now = Instant::now();
        if let Channel::Port(port) = &self.channel
            && !self.half.has_channel()
            && self.back_at.is_none_or(|at| at <= now)
        {
            let port = port.try_clone().map_err(Gone::Inside)?;
            self.half.join(port).map_err(Gone::Inside)?;
        }
        self.tell_exits();
        let (other, patience) = match &self.channel {
            Channel::Listener(fd) => (Some(fd.as_fd()), None),
            Channel::Vsock(listener) => (Some(listener.as_fd()), None),
            Channel::Port(_) => (None, (!self.half.has_channel()).then_some(AWAY)),
        };
        let seen = self.half.turn(other, patience).map_err(Gone::Inside)?;
        for flow in &seen.over {
            // The command sees the end only when the init's copy is closed as well.
            if let Flow::In(exec) = flow {
                self.half.tell(&ToInit::CloseStdin { exec: exec.clone() }, vec![]);
            }
        }
        if seen.conn {
            while let Some((bytes, fds)) = self.half.next_packet().map_err(Gone::Inside)? {
                if let Ok(frame) = csb_wire::decode(&bytes) {
                    self.event(frame, fds);
                }
            }
        }
        self.half.move_flows(&seen);
        if seen.other {
            self.accept();
        } else if seen.channel {
            for frame in self.half.next_frames().map_err(|_| Gone::Outside)? {
                match self.half.take(frame).map_err(|_| Gone::Outside)? {
                    Some(Heard::Hello { session, got, have, .. }) => self.meet(session, got, &have),
                    Some(Heard::Said(body)) => {
                        if let Ok(order) = csb_wire::decode(&body) {
                            self.order(order);
                        }
                    }
                    None => {}
                }
            }
        }
        Ok(())
    }

    fn accept(&mut self) {
        let accepted = match &self.channel {
            Channel::Listener(listener) => accept_with(listener, SocketFlags::CLOEXEC).ok(),
            Channel::Vsock(listener) => listener.accept().ok().flatten(),
            Channel::Port(_) => None,
        };
        // Broken already: the next one is waited for.
        if let Some(stream) = accepted {
            let _ = self.half.join(stream);
        }
    }

    /// A server says who it is: the one that was here before, or another, which asks for a report of what runs.
    fn meet(&mut self, session: u64, got: u64, have: &[(Flow, u64)]) {
        let new = session != self.half.session;
        if new {
            self.half.begin(session);
            self.half.flows.retain(|flow, _| !matches!(flow, Flow::Call(_)));
            self.half.mute();
        }
        self.half.greet();
        self.half.go_on(got, have);
        if new && let Some(state) = self.state.clone() {
            self.half.say(&Event { frame: state, at: [0; 3] });
        }
    }

    fn order(&mut self, order: Order) {
        match order {
            Order::File { call, user, request } => self.file(call, user, request),
            Order::Init(ToInit::Exec(plan)) => self.exec(plan),
            Order::Init(ToInit::Forget { exec }) => {
                Flow::of(&exec).iter().for_each(|flow| self.half.remove(flow));
                self.exits.remove(&exec);
                self.half.tell(&ToInit::Forget { exec }, vec![]);
            }
            Order::Init(ToInit::Report { have }) => {
                self.have = have.into_iter().collect();
                self.half.tell(&ToInit::Report { have: vec![] }, vec![]);
            }
            // Here, where what is typed next passes: it is to find the new size.
            Order::Init(ToInit::Resize { exec, size }) => {
                if let Some(ends) = self.half.flows.get(&Flow::Out(exec))
                    && ends.source == Source::Terminal
                {
                    // The terminal may have ended.
                    let _ = tty::set_size(&ends.fd, size.cols, size.rows);
                }
            }
            Order::Init(other @ (ToInit::Signal { .. } | ToInit::CloseStdin { .. })) => self.half.tell(&other, vec![]),
            // Comes as an order of its own.
            Order::Init(ToInit::File { .. }) => {}
        }
    }

    fn exec(&mut self, plan: Box<ExecPlan>) {
        let exec = plan.id.clone();
        match self.streams(&plan) {
            Ok(fds) => self.half.tell(&ToInit::Exec(plan), fds),
            Err(error) => {
                Flow::of(&exec).iter().for_each(|flow| self.half.remove(flow));
                let errno = error.raw_os_error().unwrap_or(0);
                let failure = Failure { step: "limit".into(), message: error.to_string(), errno };
                self.say(FromInit::NotStarted { exec, failure }, [0; 3]);
            }
        }
    }

    /// A command's pipes: our ends become flows, the init gets all, in the order of `ToInit::Exec`.
    fn streams(&mut self, plan: &ExecPlan) -> io::Result<Vec<OwnedFd>> {
        if plan.pty.is_some() {
            return Ok(vec![]);
        }
        let (out, out_w) = pipe::pipe()?;
        let (err, err_w) = pipe::pipe()?;
        let mut fds = vec![out_w, err_w, out.try_clone()?, err.try_clone()?];
        if plan.stdin {
            let (read, write) = pipe::pipe()?;
            fds.extend([read, write.try_clone()?]);
            self.half.flows.insert(Flow::In(plan.id.clone()), Ends::new(write, Source::Pipe)?.take(0));
        }
        for (flow, fd) in [(Flow::Out(plan.id.clone()), out), (Flow::Err(plan.id.clone()), err)] {
            self.half.flows.insert(flow, Ends::new(fd, Source::Pipe)?.out(0));
        }
        Ok(fds)
    }

    fn file(&mut self, call: u32, user: Option<String>, request: FileRequest) {
        let pair = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None);
        let made = pair.map_err(io::Error::from).and_then(|(ours, theirs)| {
            self.half.flows.insert(Flow::Call(call), Ends::new(ours, Source::Socket)?.out(0).take(0));
            Ok(theirs)
        });
        match made {
            Ok(theirs) => self.half.tell(&ToInit::File { user, request }, vec![theirs]),
            // Nothing is taken for this flow: the server's end is closed, and it says so.
            Err(_) => self.half.remove(&Flow::Call(call)),
        }
    }

    fn say(&mut self, frame: FromInit, at: [u64; 3]) {
        // The first server hears of all that runs when it asks.
        if self.half.session != 0 {
            self.half.say(&Event { frame, at });
        }
    }

    fn event(&mut self, frame: FromInit, fds: Vec<OwnedFd>) {
        match frame {
            FromInit::Ready | FromInit::Failed(_) => {
                self.state = Some(frame.clone());
                self.say(frame, [0; 3]);
            }
            FromInit::Started { exec, pid } => {
                if let Some(master) = fds.into_iter().next()
                    && let Ok(ends) = Ends::new(master, Source::Terminal)
                {
                    let mut ends = ends.out(0).take(0);
                    ends.ends = false;
                    let flow = Flow::Out(exec.clone());
                    self.half.flows.insert(flow.clone(), ends);
                    self.half.opens(&flow);
                }
                self.say(FromInit::Started { exec, pid }, [0; 3]);
            }
            FromInit::NotStarted { ref exec, .. } => {
                Flow::of(exec).iter().for_each(|flow| self.half.remove(flow));
                self.say(frame, [0; 3]);
            }
            FromInit::Exited { exec, status, duration_usec } => self.exited(exec, status, duration_usec),
            FromInit::Known { exec, pid, ended, age_usec, pty, stdin } => {
                let at = self.resume(&exec);
                let age_usec = ended.map_or(age_usec, |(_, duration)| duration);
                Flow::of(&exec).iter().for_each(|flow| self.half.opens(flow));
                let stdin = stdin && self.half.flows.contains_key(&Flow::In(exec.clone()));
                let known = FromInit::Known { exec: exec.clone(), pid, ended: None, age_usec, pty, stdin };
                self.say(known, at);
                if let Some((status, duration_usec)) = ended {
                    self.exited(exec, status, duration_usec);
                }
            }
            FromInit::KnownEnd => self.say(FromInit::KnownEnd, [0; 3]),
        }
    }

    /// Where the flows of a command go on for the server that asks.
    fn resume(&mut self, exec: &ExecId) -> [u64; 3] {
        let have = self.have.remove(exec).unwrap_or_default();
        let [out, err, input] = Flow::of(exec);
        let mut at = [0; 3];
        if let Some(ends) = self.half.flows.get_mut(&out) {
            at[0] = ends.outgoing.as_mut().map_or(0, |outgoing| outgoing.rewind(have[0]));
            at[2] = ends.incoming.as_ref().map_or(0, |incoming| incoming.next());
        }
        if let Some(ends) = self.half.flows.get_mut(&err) {
            at[1] = ends.outgoing.as_mut().map_or(0, |outgoing| outgoing.rewind(have[1]));
        }
        if let Some(ends) = self.half.flows.get(&input) {
            at[2] = ends.incoming.as_ref().map_or(0, |incoming| incoming.next());
        }
        at
    }

    fn tops(&self, exec: &ExecId) -> [u64; 2] {
        [Flow::Out(exec.clone()), Flow::Err(exec.clone())]
            .map(|flow| self.half.flows.get(&flow).and_then(|ends| ends.outgoing.as_ref()).map_or(0, Outgoing::top))
    }

    fn exited(&mut self, exec: ExecId, status: i32, duration_usec: u64) {
        for flow in [Flow::Out(exec.clone()), Flow::Err(exec.clone())] {
            if let Some(ends) = self.half.flows.get_mut(&flow) {
                ends.quiet = false;
                ends.may_end();
            }
        }
        let tops = self.tops(&exec);
        self.exits.insert(exec.clone(), (FromInit::Exited { exec, status, duration_usec }, tops));
    }

    /// Tells of ends before which all is read; what other processes go on writing is not waited for.
    fn tell_exits(&mut self) {
        let mut told = Vec::new();
        for (exec, (_, from)) in &self.exits {
            let mut waits = false;
            for (flow, from) in [Flow::Out(exec.clone()), Flow::Err(exec.clone())].into_iter().zip(from) {
                let Some(ends) = self.half.flows.get_mut(&flow) else { continue };
                if ends.outgoing.as_ref().is_none_or(Outgoing::is_ended) {
                    continue;
                }
                ends.read();
                let Some(outgoing) = &ends.outgoing else { continue };
                waits |= !ends.quiet && !outgoing.is_ended() && outgoing.top() - from < PIPE;
            }
            if !waits {
                told.push(exec.clone());
            }
        }
        for exec in told {
            let [out, err] = self.tops(&exec);
            if let Some((frame, _)) = self.exits.remove(&exec) {
                self.say(frame, [out, err, 0]);
            }
        }
    }
}
