//! The half beside the driver: it looks like an init to it.
//!
//! All that comes from the other half may come from a tenant who has taken its guest over.

use crate::{
    frame::{Event, Flow, MOST_FROM_GUEST, Order, VERSION},
    half::{Ends, Half, Heard, Source},
};
use csb_sys::{packet::Conn, pipe};
use csb_types::ExecId;
use csb_wire::{Failure, FromInit, ToInit};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use std::{
    collections::HashMap,
    io,
    os::fd::OwnedFd,
    thread,
    time::{Duration, Instant},
};

/// Gives the next stream to the guest, connected; called again where one is lost. It may take its time. An error: there will be
/// none any more.
pub type Dial = Box<dyn FnMut() -> io::Result<OwnedFd> + Send>;

/// Commands that a guest may have told of and that nobody asked for: each costs descriptors.
const MOST_STRANGERS: usize = 256;

/// Before the second stream, where the first did not last, and the most before any.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const MOST_PAUSE: Duration = Duration::from_secs(5);
/// A stream that was there for so long was one.
const LASTING: Duration = Duration::from_secs(2);

/// A connection that speaks as an init does with whoever holds it, over the streams that `dial` gives. Both are closed when
/// either is lost for good.
pub fn host(dial: Dial) -> io::Result<Conn> {
    let (ours, theirs) = Conn::pair()?;
    let half = Half::new(ours, rand::random(), MOST_FROM_GUEST, true)?;
    let host = Host { dial, half, exits: HashMap::new(), known: HashMap::new(), calls: 0, asked: false };
    thread::Builder::new().name("csb-relay".into()).spawn(move || {
        let Err(error) = host.run();
        tracing::debug!(%error, "a relay ends");
    })?;
    Ok(theirs)
}

/// Before the next stream. Whoever has taken a guest over may end each at once: that must not keep us busy, nor whoever leads there.
fn next_pause(last: Duration, lasted: Option<Duration>) -> Duration {
    match lasted {
        Some(lasted) if lasted < LASTING => (last * 2).clamp(FIRST_PAUSE, MOST_PAUSE),
        _ => Duration::ZERO,
    }
}

pub(crate) struct Host {
    dial: Dial,
    half: Half,
    /// Ends that are told once what was written before them has been handed on, and up to where that is.
    exits: HashMap<ExecId, (FromInit, [u64; 2])>,
    /// Commands that the inside asked for or was told of; whether a terminal is still to be made.
    known: HashMap<ExecId, bool>,
    calls: u32,
    /// A report is under way.
    asked: bool,
}

fn broken(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text.to_owned())
}

impl Host {
    fn run(mut self) -> Result<std::convert::Infallible, io::Error> {
        let (mut pause, mut begun) = (Duration::ZERO, None);
        loop {
            if !self.half.has_channel() {
                pause = next_pause(pause, begun.map(|begun: Instant| begun.elapsed()));
                self.half.rest(pause)?;
                let channel = (self.dial)()?;
                begun = Some(Instant::now());
                self.half.join(channel)?;
                self.half.greet();
            }
            self.tell_exits();
            let seen = self.half.turn(None, None::<Duration>)?;
            if seen.conn {
                while let Some((bytes, fds)) = self.half.next_packet()? {
                    if let Ok(request) = csb_wire::decode(&bytes) {
                        self.order(request, fds)?;
                    }
                }
            }
            if seen.channel {
                let lost = self.half.next_frames().and_then(|frames| {
                    frames
                        .into_iter()
                        .try_for_each(|frame| self.half.take(frame)?.map_or(Ok(()), |heard| self.hear(heard)))
                });
                if let Err(error) = lost {
                    tracing::debug!(%error, "a relay lost its stream");
                    self.half.part();
                }
            }
            self.half.move_flows(&seen);
        }
    }

    fn order(&mut self, request: ToInit, fds: Vec<OwnedFd>) -> io::Result<()> {
        match request {
            ToInit::Exec(plan) => {
                let exec = plan.id.clone();
                self.known.insert(exec.clone(), plan.pty.is_some());
                if plan.pty.is_none() {
                    let mut fds = fds.into_iter();
                    let (Some(out), Some(err)) = (fds.next(), fds.next()) else { return Ok(()) };
                    let stdin = fds.nth(2);
                    self.output(Flow::Out(exec.clone()), out, 0)?;
                    self.output(Flow::Err(exec.clone()), err, 0)?;
                    if let Some(stdin) = stdin {
                        self.input(Flow::In(exec.clone()), stdin, 0)?;
                    }
                    Flow::of(&exec).iter().for_each(|flow| self.half.opens(flow));
                }
                self.half.say(&Order::Init(ToInit::Exec(plan)));
            }
            ToInit::File { user, request } => {
                let Some(socket) = fds.into_iter().next() else { return Ok(()) };
                let call = self.calls;
                self.calls = self.calls.wrapping_add(1);
                self.half.flows.insert(Flow::Call(call), Ends::new(socket, Source::Socket)?.out(0).take(0));
                self.half.opens(&Flow::Call(call));
                self.half.say(&Order::File { call, user, request });
            }
            // What was written before it goes first.
            ToInit::CloseStdin { exec } => {
                if let Some(ends) = self.half.flows.get_mut(&Flow::In(exec)) {
                    ends.read();
                    ends.may_end();
                }
            }
            ToInit::Forget { exec } => {
                Flow::of(&exec).iter().for_each(|flow| self.half.remove(flow));
                self.known.remove(&exec);
                self.half.say(&Order::Init(ToInit::Forget { exec }));
            }
            ToInit::Report { have } => {
                self.asked = true;
                self.known.extend(have.iter().map(|(exec, _)| (exec.clone(), false)));
                self.half.say(&Order::Init(ToInit::Report { have }));
            }
            other @ (ToInit::Signal { .. } | ToInit::Resize { .. }) => self.half.say(&Order::Init(other)),
        }
        Ok(())
    }

    fn output(&mut self, flow: Flow, fd: OwnedFd, at: u64) -> io::Result<()> {
        let mut ends = Ends::new(fd, Source::Pipe)?.take(at);
        ends.careful = true;
        self.half.flows.insert(flow, ends);
        Ok(())
    }

    fn input(&mut self, flow: Flow, fd: OwnedFd, at: u64) -> io::Result<()> {
        let mut ends = Ends::new(fd, Source::Pipe)?.out(at);
        // A server that goes away has not closed anything.
        ends.ends = false;
        self.half.flows.insert(flow, ends);
        Ok(())
    }

    /// Our side of a terminal: a socket, whose other end is returned.
    fn terminal(&mut self, exec: &ExecId, at: u64, input_at: u64) -> io::Result<OwnedFd> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        let mut ends = Ends::new(ours, Source::Socket)?.take(at).out(input_at);
        (ends.careful, ends.ends) = (true, false);
        self.half.flows.insert(Flow::Out(exec.clone()), ends);
        Ok(theirs)
    }

    fn hear(&mut self, heard: Heard) -> io::Result<()> {
        match heard {
            // The answer to another server's greeting, from before this one.
            Heard::Hello { version: VERSION, session, .. } if session != self.half.session => Ok(()),
            Heard::Hello { .. } if !self.half.was_greeted() => Ok(()),
            Heard::Hello { version, got, have, .. } => {
                if version != VERSION {
                    let message = format!("the program in the guest speaks version {version}, this one {VERSION}");
                    let failure = Failure { step: "speak with the guest".into(), message, errno: 0 };
                    self.half.tell(&FromInit::Failed(failure), vec![]);
                } else {
                    self.half.go_on(got, &have);
                }
                Ok(())
            }
            Heard::Said(body) => {
                let event: Event = csb_wire::decode(&body).map_err(|_| broken("an event that is none"))?;
                self.event(event)
            }
        }
    }

    fn event(&mut self, Event { frame, at }: Event) -> io::Result<()> {
        match frame {
            FromInit::Known { exec, pid, ended: _, age_usec, pty, stdin } => {
                if !self.asked || at.iter().any(|at| *at > u64::MAX / 2) {
                    return Ok(());
                }
                let strangers = self.known.len() >= MOST_STRANGERS && !self.known.contains_key(&exec);
                if strangers || self.half.flows.contains_key(&Flow::Out(exec.clone())) {
                    return Ok(());
                }
                self.known.insert(exec.clone(), false);
                let fds = self.reopen(&exec, pty, stdin, at)?;
                // Its end comes behind its output.
                let known = FromInit::Known { exec, pid, ended: None, age_usec, pty, stdin };
                self.half.tell(&known, fds);
            }
            FromInit::KnownEnd => {
                self.asked = false;
                self.half.tell(&FromInit::KnownEnd, vec![]);
            }
            FromInit::Started { exec, pid } if self.known.contains_key(&exec) => {
                let terminal = self.known.insert(exec.clone(), false) == Some(true);
                let fds = if terminal { vec![self.terminal(&exec, 0, 0)?] } else { vec![] };
                self.half.tell(&FromInit::Started { exec, pid }, fds);
            }
            FromInit::NotStarted { exec, failure } if self.known.remove(&exec).is_some() => {
                Flow::of(&exec).iter().for_each(|flow| self.half.remove(flow));
                self.half.tell(&FromInit::NotStarted { exec, failure }, vec![]);
            }
            FromInit::Exited { ref exec, .. } if self.known.contains_key(exec) => {
                self.exits.insert(exec.clone(), (frame, [at[0], at[1]]));
            }
            frame @ (FromInit::Ready | FromInit::Failed(_)) => self.half.tell(&frame, vec![]),
            // About a command that nobody knows.
            FromInit::Started { .. } | FromInit::NotStarted { .. } | FromInit::Exited { .. } => {}
        }
        Ok(())
    }

    /// New pipes for a command of an earlier server; the ends for this one.
    fn reopen(&mut self, exec: &ExecId, pty: bool, stdin: bool, at: [u64; 3]) -> io::Result<Vec<OwnedFd>> {
        if pty {
            return Ok(vec![self.terminal(exec, at[0], at[2])?]);
        }
        let (out, out_w) = pipe::pipe()?;
        let (err, err_w) = pipe::pipe()?;
        self.output(Flow::Out(exec.clone()), out_w, at[0])?;
        self.output(Flow::Err(exec.clone()), err_w, at[1])?;
        let mut fds = vec![out, err];
        if stdin {
            let (read, write) = pipe::pipe()?;
            rustix::io::ioctl_fionbio(&write, true)?;
            self.input(Flow::In(exec.clone()), read, at[2])?;
            fds.push(write);
        }
        Ok(fds)
    }

    /// Tells of ends whose output has been handed on.
    fn tell_exits(&mut self) {
        let Self { exits, half, .. } = self;
        exits.retain(|exec, (frame, at)| {
            let behind = |flow: Flow, at: u64| {
                let ends = half.flows.get(&flow).filter(|ends| !ends.stalled);
                ends.and_then(|ends| ends.incoming.as_ref()).is_some_and(|incoming| incoming.written() < at)
            };
            let waits = behind(Flow::Out(exec.clone()), at[0]) || behind(Flow::Err(exec.clone()), at[1]);
            if !waits {
                half.tell(frame, vec![]);
            }
            waits
        });
    }
}

#[cfg(feature = "fuzzing")]
impl Host {
    /// With one command and one file operation, and nobody at the other ends.
    pub(crate) fn fuzzed(session: u64, exec: &ExecId) -> io::Result<Self> {
        let (ours, _theirs) = Conn::pair()?;
        let mut half = Half::new(ours, session, MOST_FROM_GUEST, true)?;
        half.greet();
        let dial: Dial = Box::new(|| Err(io::ErrorKind::NotConnected.into()));
        let known = HashMap::from([(exec.clone(), true)]);
        let mut host = Self { dial, half, exits: HashMap::new(), known, calls: 1, asked: true };
        host.output(Flow::Err(exec.clone()), pipe::pipe()?.1, 0)?;
        host.input(Flow::In(exec.clone()), pipe::pipe()?.0, 0)?;
        let flags = SocketFlags::CLOEXEC;
        let (ours, _theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        host.half.flows.insert(Flow::Call(0), Ends::new(ours, Source::Socket)?.out(0).take(0));
        Ok(host)
    }

    pub(crate) fn guest_says(&mut self, frame: crate::frame::Frame) -> io::Result<()> {
        let heard = self.half.take(frame)?;
        heard.map_or(Ok(()), |heard| self.hear(heard))?;
        self.tell_exits();
        Ok(())
    }

    /// However much a guest sends, a flow holds no more than its window, and there are only so many.
    pub(crate) fn check(&self, window: usize) {
        assert!(self.half.flows.len() <= 3 * (MOST_STRANGERS + 1) + 1);
        for ends in self.half.flows.values() {
            assert!(ends.incoming.as_ref().is_none_or(|incoming| incoming.waiting().len() <= window));
        }
    }
}
