//! What both halves do: one connection with descriptors on the inside, one stream of bytes towards the other half, and flows
//! between descriptors of this side and that stream. One thread, one poll(2) for all of it.

use crate::{
    ask::{Asked, Timer},
    flow::{Incoming, Outgoing, Piece},
    frame::{self, CHUNK, Cutter, Flow, Frame, VERSION},
};
use csb_sys::{packet::Conn, pipe};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::{SendFlags, Shutdown},
};
use std::{
    collections::{HashMap, VecDeque},
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

/// Bytes that wait for the stream before no more are taken from flows.
const MOST_WAITING: usize = 4 * CHUNK;
/// Orders or events that have not arrived before no more are taken from the inside, and their bytes.
const MOST_UNHEARD: usize = 1024;
const MOST_UNHEARD_BYTES: usize = 32 << 20;
/// Bytes that a half which is not trusted leaves unread, or frames that the inside has not taken, before no more is heard of it:
/// what it says makes us answer, and keep the answers.
const MOST_ANSWERS: usize = 1 << 20;
const MOST_TOLD: usize = 1024;
/// Between two looks at how much of what was handed on has been read.
const LOOK: Duration = Duration::from_millis(10);
const MOST_LOOK: Duration = Duration::from_millis(200);
/// Between two looks at a terminal that nobody has open.
const HANGUP: Duration = Duration::from_millis(20);

/// What a flow's descriptor is, and so what its end means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    Pipe,
    Socket,
    /// A terminal's master: without users it may get some again.
    Terminal,
}

/// A flow on this side.
#[derive(Debug)]
pub(crate) struct Ends {
    pub(crate) fd: OwnedFd,
    pub(crate) source: Source,
    pub(crate) outgoing: Option<Outgoing>,
    pub(crate) incoming: Option<Incoming>,
    /// The end of what is read here is the flow's.
    pub(crate) ends: bool,
    /// Bytes are safe only once the reader of our descriptor has them: it may die, and another may ask for them again.
    pub(crate) careful: bool,
    /// Nobody reads our descriptor any more, and another may ask for what was not read.
    pub(crate) stalled: bool,
    /// Nothing was there at the last look.
    pub(crate) quiet: bool,
    /// Number of the order or event by which the other half learns of this flow; 0 if it knew before.
    pub(crate) opened: u64,
    /// No more can be read.
    at_end: bool,
    read_at: Option<Instant>,
}

impl Ends {
    pub(crate) fn new(fd: OwnedFd, source: Source) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        Ok(Self {
            fd,
            source,
            outgoing: None,
            incoming: None,
            ends: true,
            careful: false,
            stalled: false,
            quiet: false,
            opened: 0,
            at_end: false,
            read_at: None,
        })
    }

    pub(crate) fn out(self, at: u64) -> Self {
        Self { outgoing: Some(Outgoing::new(at)), ..self }
    }

    pub(crate) fn take(self, at: u64) -> Self {
        Self { incoming: Some(Incoming::new(at)), ..self }
    }

    /// From now on the end of what is read here is the flow's.
    pub(crate) fn may_end(&mut self) {
        self.ends = true;
        if self.at_end {
            self.outgoing.iter_mut().for_each(Outgoing::end);
        }
    }

    fn wanted(&self, now: Instant) -> PollFlags {
        let mut wanted = PollFlags::empty();
        let room = self.outgoing.as_ref().is_some_and(|out| out.room() > 0);
        wanted.set(PollFlags::IN, room && !self.at_end && self.read_at.is_none_or(|at| at <= now));
        wanted.set(
            PollFlags::OUT,
            !self.stalled && self.incoming.as_ref().is_some_and(|incoming| !incoming.waiting().is_empty()),
        );
        wanted
    }

    /// Reads what is there, as far as there is room.
    pub(crate) fn read(&mut self) {
        let Some(out) = &mut self.outgoing else { return };
        let mut buffer = [0; CHUNK];
        while !self.at_end {
            let room = out.room().min(CHUNK);
            if room == 0 {
                return;
            }
            match rustix::io::read(&self.fd, &mut buffer[..room]) {
                Ok(0) => self.at_end = true,
                Ok(count) => {
                    self.quiet = false;
                    out.push(&buffer[..count]);
                    continue;
                }
                Err(rustix::io::Errno::AGAIN) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(_) if self.source == Source::Terminal && !self.ends => self.read_at = Some(Instant::now() + HANGUP),
                Err(_) => self.at_end = true,
            }
            self.quiet = true;
            break;
        }
        if self.at_end && self.ends {
            out.end();
        }
    }

    /// Hands on what arrived, as far as it is taken. False: nobody takes any more.
    fn write(&mut self) -> bool {
        let Some(incoming) = &mut self.incoming else { return true };
        while !incoming.waiting().is_empty() && !self.stalled {
            let bytes = incoming.waiting();
            let written = match self.source {
                Source::Socket => rustix::net::send(&self.fd, bytes, SendFlags::NOSIGNAL),
                _ => rustix::io::write(&self.fd, bytes),
            };
            match written {
                Ok(count) => incoming.wrote(count),
                Err(rustix::io::Errno::AGAIN) => return true,
                Err(rustix::io::Errno::INTR) => {}
                Err(_) if self.careful => self.stalled = true,
                Err(_) => {
                    incoming.give_up();
                    return false;
                }
            }
        }
        if incoming.is_done() && self.source == Source::Socket {
            // Its reader may have gone meanwhile.
            let _ = rustix::net::shutdown(&self.fd, Shutdown::Write);
        }
        true
    }

    /// Up to where nothing that arrived can be lost any more.
    fn safe(&self, incoming: &Incoming) -> u64 {
        let written = incoming.written();
        match self.source {
            _ if !self.careful => written,
            _ if self.stalled => 0,
            Source::Socket if pipe::is_taken(&self.fd).unwrap_or(true) => written,
            Source::Socket => 0,
            _ => written.saturating_sub(pipe::unread(&self.fd).unwrap_or(0)),
        }
    }

    fn is_done(&self) -> bool {
        let incoming = |incoming: &Incoming| (incoming.is_done() && !incoming.owes()) || incoming.is_broken();
        self.outgoing.as_ref().is_none_or(Outgoing::is_done) && self.incoming.as_ref().is_none_or(incoming)
    }
}

/// What the other half said, for the side that this half is on.
#[derive(Debug)]
pub(crate) enum Heard {
    /// The first words of a connection: whose half it is.
    Hello { version: u32, session: u64, got: u64, have: Vec<(Flow, u64)> },
    /// An order or an event, the next in order.
    Said(Vec<u8>),
}

/// What there was when something happened.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) conn: bool,
    pub(crate) channel: bool,
    pub(crate) other: bool,
    /// Flows that are over, and closed.
    pub(crate) over: Vec<Flow>,
    flows: Vec<(Flow, PollFlags)>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Half {
    conn: Conn,
    outbox: VecDeque<(Vec<u8>, Vec<OwnedFd>)>,
    channel: Option<OwnedFd>,
    cutter: Cutter,
    most: usize,
    out: VecDeque<u8>,
    /// Both halves of this connection know what the other has.
    greeted: bool,
    /// A greeting of ours is not answered. However many were: one answer is heard, as it makes us send again all that the other
    /// half says it has not.
    greeting: bool,
    /// This half begins, and does not trust the other.
    begins: bool,
    timer: Timer,
    asked: Option<Asked>,
    questions: u32,
    /// A question that is to be answered.
    answer: Option<u32>,
    pub(crate) session: u64,
    number: u64,
    unheard: VecDeque<(u64, Vec<u8>)>,
    got: u64,
    pub(crate) flows: HashMap<Flow, Ends>,
    look: Duration,
}

impl Half {
    /// `most`: bytes of the largest frame that is taken from the other half. `begins`: this is the host's.
    pub(crate) fn new(conn: Conn, session: u64, most: usize, begins: bool) -> io::Result<Self> {
        conn.set_nonblocking(true)?;
        Ok(Self {
            conn,
            outbox: VecDeque::new(),
            channel: None,
            cutter: Cutter::new(most),
            most,
            out: VecDeque::new(),
            greeted: false,
            greeting: false,
            begins,
            timer: Timer::new(),
            asked: None,
            questions: 0,
            answer: None,
            session,
            number: 0,
            unheard: VecDeque::new(),
            got: 0,
            flows: HashMap::new(),
            look: LOOK,
        })
    }

    pub(crate) fn has_channel(&self) -> bool {
        self.channel.is_some()
    }

    /// Does nothing for so long. An error: the inside is gone.
    pub(crate) fn rest(&self, pause: Duration) -> io::Result<()> {
        let end = Instant::now() + pause;
        while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            let mut polled = [PollFd::new(&self.conn, PollFlags::empty())];
            match poll(&mut polled, Timespec::try_from(left).ok().as_ref()) {
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                Ok(_) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Speaks over this stream from now on. A stream may hold what others wrote before, or begin in the midst of it.
    pub(crate) fn join(&mut self, channel: OwnedFd) -> io::Result<()> {
        rustix::io::ioctl_fionbio(&channel, true)?;
        self.part();
        self.channel = Some(channel);
        self.out.push_back(0);
        Ok(())
    }

    /// The stream is lost.
    pub(crate) fn part(&mut self) {
        self.channel = None;
        (self.greeted, self.greeting) = (false, false);
        (self.asked, self.answer) = (None, None);
        self.cutter = Cutter::new(self.most);
        self.out.clear();
    }

    /// Tells what has arrived here. The first frame that counts.
    pub(crate) fn greet(&mut self) {
        self.greeting = true;
        let have = self.have(Incoming::next);
        self.put(&Frame::Hello { version: VERSION, session: self.session, got: self.got, have });
    }

    /// Whether a greeting of ours is still to be answered; from now on none is.
    pub(crate) fn was_greeted(&mut self) -> bool {
        std::mem::take(&mut self.greeting)
    }

    fn have(&self, what: fn(&Incoming) -> u64) -> Vec<(Flow, u64)> {
        let incoming = self.flows.iter().filter_map(|(flow, ends)| Some((flow, ends.incoming.as_ref()?)));
        incoming.map(|(flow, incoming)| (flow.clone(), what(incoming))).collect()
    }

    /// Forgets what was said in another session.
    pub(crate) fn begin(&mut self, session: u64) {
        self.session = session;
        (self.number, self.got) = (0, 0);
        self.unheard.clear();
        self.flows.values_mut().for_each(|ends| ends.opened = 0);
    }

    /// A flow that the other half learns of by what is said next.
    pub(crate) fn opens(&mut self, flow: &Flow) {
        let number = self.number + 1;
        self.flows.get_mut(flow).into_iter().for_each(|ends| ends.opened = number);
    }

    /// The other half has so much: what it has not goes again.
    pub(crate) fn go_on(&mut self, got: u64, have: &[(Flow, u64)]) {
        // A stream that went on before keeps the pause that its questions have come to.
        if !std::mem::replace(&mut self.greeted, true) {
            self.timer = Timer::new();
        }
        self.asked = None;
        self.unheard.retain(|(number, _)| *number > got);
        self.say_again(u64::MAX);
        let have: HashMap<&Flow, u64> = have.iter().map(|(flow, offset)| (flow, *offset)).collect();
        let mut broken = Vec::new();
        for (flow, ends) in &mut self.flows {
            // What was told may be lost.
            ends.incoming.iter_mut().for_each(Incoming::tell_again);
            if ends.incoming.as_ref().is_some_and(Incoming::is_broken) {
                broken.push(Frame::Broken { flow: flow.clone() });
            }
            if let Some(out) = ends.outgoing.as_mut().filter(|out| !out.is_muted()) {
                // What is not known there yet was asked for in what goes again; what is over there will be said to be.
                out.rewind(have.get(flow).copied().unwrap_or(0));
            }
        }
        broken.iter().for_each(|frame| self.put(frame));
    }

    /// What is not known to have arrived, up to this number.
    fn say_again(&mut self, up_to: u64) {
        let unheard = self.unheard.iter().take_while(|(number, _)| *number <= up_to);
        let again: Vec<Frame> =
            unheard.map(|(number, body)| Frame::Said { number: *number, body: body.clone() }).collect();
        again.iter().for_each(|frame| self.put(frame));
    }

    /// Whether the other half must have something by now of which it has not said so.
    fn is_waiting(&self) -> bool {
        let flows = || self.flows.values().filter_map(|ends| ends.outgoing.as_ref()).any(Outgoing::is_waiting);
        match (&self.channel, self.greeted) {
            (None, _) => false,
            (Some(_), true) => !self.unheard.is_empty() || flows(),
            (Some(_), false) => self.begins,
        }
    }

    fn ask(&mut self) {
        // An answer does not come either where the other half takes this connection for one that nobody has begun.
        if self.begins && (!self.greeted || self.asked.is_some()) {
            return self.greet();
        }
        let outgoing = self.flows.iter().filter_map(|(flow, ends)| Some((flow, ends.outgoing.as_ref()?)));
        let marks = outgoing.map(|(flow, out)| (flow.clone(), out.mark())).collect();
        self.questions = self.questions.wrapping_add(1);
        self.asked = Some(Asked { number: self.questions, said: self.number, marks });
        self.put(&Frame::Ask { number: self.questions });
    }

    /// What the other half had when it was asked: what it should have had goes again.
    fn answered(&mut self, number: u32, got: u64, have: Vec<(Flow, u64)>) {
        let Some(asked) = self.asked.take_if(|asked| asked.number == number) else { return };
        self.unheard.retain(|(number, _)| *number > got);
        self.say_again(asked.said);
        let have: HashMap<Flow, u64> = have.into_iter().collect();
        for (flow, ends) in &mut self.flows {
            let (Some(out), Some(mark)) = (&mut ends.outgoing, asked.marks.get(flow)) else { continue };
            match have.get(flow) {
                Some(have) => out.arrived(*have, *mark),
                // It is over there, and its end goes again to hear so; or what opens it goes again as well.
                None => out.arrived(0, *mark),
            }
        }
    }

    fn put(&mut self, frame: &Frame) {
        let mut bytes = Vec::new();
        frame::put(frame, &mut bytes);
        self.out.extend(bytes);
    }

    /// Sends an order or an event.
    pub(crate) fn say<T: serde::Serialize>(&mut self, body: &T) {
        self.number += 1;
        let body = csb_wire::encode(body);
        self.unheard.push_back((self.number, body.clone()));
        if self.greeted {
            self.put(&Frame::Said { number: self.number, body });
            self.timer.moved(Instant::now());
        }
    }

    /// Tells the inside.
    pub(crate) fn tell<T: serde::Serialize>(&mut self, frame: &T, fds: Vec<OwnedFd>) {
        self.outbox.push_back((csb_wire::encode(frame), fds));
    }

    /// Ends what this side gives to a flow.
    pub(crate) fn remove(&mut self, flow: &Flow) {
        self.flows.remove(flow);
    }

    /// Takes bytes of flows, as many as may wait; one chunk of each in turn.
    fn fill(&mut self) {
        let mut more = self.greeted;
        while more {
            more = false;
            let Self { flows, out, .. } = self;
            for (flow, ends) in flows.iter_mut() {
                if out.len() >= MOST_WAITING {
                    return;
                }
                let frame = match ends.outgoing.as_mut().and_then(Outgoing::next) {
                    Some(Piece::Bytes(offset, bytes)) => Frame::Data { flow: flow.clone(), offset, bytes },
                    Some(Piece::End(offset)) => Frame::End { flow: flow.clone(), offset },
                    None => continue,
                };
                more = true;
                self.timer.moved(Instant::now());
                let mut bytes = Vec::new();
                frame::put(&frame, &mut bytes);
                out.extend(bytes);
            }
        }
    }

    /// Tells the other half what of its flows is safe by now; whether there is more to tell later.
    fn answer(&mut self) -> bool {
        if !self.greeted {
            return false;
        }
        let (mut told, mut owes) = (Vec::new(), false);
        for (flow, ends) in &mut self.flows {
            let Some(incoming) = &ends.incoming else { continue };
            if !incoming.owes() {
                continue;
            }
            let safe = ends.safe(incoming);
            let Some(incoming) = &mut ends.incoming else { continue };
            told.extend(incoming.tell(safe).map(|offset| Frame::Took { flow: flow.clone(), offset }));
            owes |= incoming.owes();
        }
        if !told.is_empty() {
            self.look = LOOK;
        }
        told.iter().for_each(|frame| self.put(frame));
        owes
    }

    /// Does what can be done without waiting, then waits for more to do, at most `patience`. An error: the inside is gone.
    pub(crate) fn turn(&mut self, other: Option<BorrowedFd<'_>>, patience: Option<Duration>) -> io::Result<Seen> {
        while let Some((bytes, fds)) = self.outbox.front() {
            let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
            match self.conn.send(bytes, &fds) {
                Ok(()) => drop(self.outbox.pop_front()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        let owes = self.answer();
        let over = self.sweep();
        if let Some(number) = self.answer.take() {
            // What was told may be lost.
            self.flows.values_mut().filter_map(|ends| ends.incoming.as_mut()).for_each(Incoming::tell_again);
            let have = self.have(Incoming::arrived);
            self.put(&Frame::Have { number, got: self.got, have });
        }
        self.fill();
        self.flush();
        let now = Instant::now();
        // What still waits for the stream is not lost.
        if self.timer.is_due(self.is_waiting(), now) && self.out.is_empty() {
            self.ask();
            self.flush();
        }
        let mut patience = patience.into_iter().chain(self.timer.left(now)).min();
        if owes {
            patience = Some(patience.unwrap_or(self.look).min(self.look));
            self.look = (self.look * 2).min(MOST_LOOK);
        }
        if !over.is_empty() {
            // What the side does about it comes first.
            patience = Some(Duration::ZERO);
        }
        Ok(Seen { over, ..self.wait(other, patience)? })
    }

    fn wait(&mut self, other: Option<BorrowedFd<'_>>, mut patience: Option<Duration>) -> io::Result<Seen> {
        let now = Instant::now();
        let mut conn = PollFlags::empty();
        let unheard: usize = self.unheard.iter().map(|(_, body)| body.len()).sum();
        conn.set(PollFlags::IN, self.unheard.len() < MOST_UNHEARD && unheard < MOST_UNHEARD_BYTES);
        conn.set(PollFlags::OUT, !self.outbox.is_empty());
        let mut channel = PollFlags::empty();
        channel.set(PollFlags::IN, !self.begins || self.out.len() < MOST_ANSWERS && self.outbox.len() < MOST_TOLD);
        channel.set(PollFlags::OUT, !self.out.is_empty());
        let flows: Vec<(&Flow, &Ends, PollFlags)> = self
            .flows
            .iter()
            .map(|(flow, ends)| (flow, ends, ends.wanted(now)))
            .filter(|(_, _, wanted)| !wanted.is_empty())
            .collect();
        for at in self.flows.values().filter_map(|ends| ends.read_at).filter(|at| *at > now) {
            patience = Some(patience.unwrap_or(HANGUP).min(at - now));
        }
        let mut polled = vec![PollFd::new(&self.conn, conn)];
        polled.extend(flows.iter().map(|(_, ends, wanted)| PollFd::new(&ends.fd, *wanted)));
        let with_channel = polled.len();
        polled.extend(self.channel.as_ref().map(|fd| PollFd::new(fd, channel)));
        let with_other = polled.len();
        polled.extend(other.as_ref().map(|fd| PollFd::new(fd, PollFlags::IN)));
        let timeout = patience.and_then(|patience| Timespec::try_from(patience).ok());
        match poll(&mut polled, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let any = |place: usize, limit: usize| place < limit && !polled[place].revents().is_empty();
        Ok(Seen {
            conn: any(0, 1),
            channel: any(with_channel, with_other),
            other: any(with_other, polled.len()),
            over: Vec::new(),
            flows: flows
                .iter()
                .zip(&polled[1..])
                .filter(|(_, polled)| !polled.revents().is_empty())
                .map(|((flow, _, _), polled)| ((*flow).clone(), polled.revents()))
                .collect(),
        })
    }

    /// The next frame from the inside and its descriptors; `None` when there is none now. An error: the inside is gone.
    pub(crate) fn next_packet(&self) -> io::Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
        match self.conn.recv() {
            Ok(None) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(packet) => Ok(packet),
            // A frame that arrived without its descriptors, none being left: it is lost, the rest is not.
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::InvalidData) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Moves the bytes of flows that something happened to.
    pub(crate) fn move_flows(&mut self, seen: &Seen) {
        for (flow, flags) in &seen.flows {
            let Some(ends) = self.flows.get_mut(flow) else { continue };
            ends.read_at = None;
            if flags.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
                ends.read();
            }
            let broken = !ends.write();
            if broken {
                self.put(&Frame::Broken { flow: flow.clone() });
            }
        }
    }

    fn flush(&mut self) {
        while let Some(channel) = &self.channel
            && !self.out.is_empty()
        {
            match rustix::io::write(channel, self.out.as_slices().0) {
                Ok(count) => drop(self.out.drain(..count)),
                Err(rustix::io::Errno::INTR) => {}
                // A broken one shows when reading.
                Err(_) => break,
            }
        }
        if self.out.is_empty() && self.out.capacity() > 4 * MOST_WAITING {
            self.out = VecDeque::new();
        }
    }

    /// Reads the stream: frames, each to be taken with [`Half::take`]. An error: the stream is lost.
    pub(crate) fn next_frames(&mut self) -> io::Result<Vec<Frame>> {
        let mut buffer = vec![0; 2 * CHUNK];
        let Some(channel) = &self.channel else { return Ok(vec![]) };
        match rustix::io::read(channel, &mut buffer) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => Ok(self.cutter.push(&buffer[..count])),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(vec![]),
            Err(error) => Err(error.into()),
        }
    }

    /// Acts on a frame of the other half; what is for the side. An error: the stream is of no use any more.
    pub(crate) fn take(&mut self, frame: Frame) -> io::Result<Option<Heard>> {
        let unruly = |_| io::Error::new(io::ErrorKind::InvalidData, "the other half sends what it must not");
        match frame {
            Frame::Hello { version, session, got, have } => {
                return Ok(Some(Heard::Hello { version, session, got, have }));
            }
            // What was on its way in another connection.
            _ if !self.greeted => {}
            Frame::Said { number, body } => {
                let next = number == self.got + 1;
                self.got += u64::from(next);
                self.put(&Frame::Heard { number: self.got });
                return Ok(next.then_some(Heard::Said(body)));
            }
            Frame::Heard { number } => {
                let before = self.unheard.len();
                self.unheard.retain(|(said, _)| *said > number);
                if self.unheard.len() < before {
                    self.timer.moved(Instant::now());
                }
            }
            Frame::Data { flow, offset, bytes } => match self.incoming(&flow) {
                Some(incoming) => {
                    incoming.data(offset, &bytes).map_err(unruly)?;
                    self.hand_on(&flow);
                }
                None => self.put(&Frame::Broken { flow }),
            },
            Frame::End { flow, offset } => match self.incoming(&flow) {
                Some(incoming) => {
                    incoming.end(offset);
                    self.hand_on(&flow);
                }
                None => self.put(&Frame::Broken { flow }),
            },
            Frame::Took { flow, offset } => {
                if let Some(out) = self.flows.get_mut(&flow).and_then(|ends| ends.outgoing.as_mut())
                    && out.took(offset)
                {
                    self.timer.moved(Instant::now());
                }
            }
            Frame::Ask { number } => self.answer = Some(number),
            Frame::Have { number, got, have } => self.answered(number, got, have),
            Frame::Broken { flow } => {
                let first = self.unheard.front().map_or(u64::MAX, |(number, _)| *number);
                // Nobody there knows it yet, if what opens it has not arrived.
                if let Some(ends) = self.flows.get_mut(&flow).filter(|ends| ends.opened < first) {
                    ends.outgoing = None;
                    if ends.source == Source::Socket {
                        // Whoever writes there hears of it.
                        let _ = rustix::net::shutdown(&ends.fd, Shutdown::Read);
                    }
                }
            }
        }
        Ok(None)
    }

    fn incoming(&mut self, flow: &Flow) -> Option<&mut Incoming> {
        self.flows.get_mut(flow).and_then(|ends| ends.incoming.as_mut())
    }

    fn hand_on(&mut self, flow: &Flow) {
        if self.flows.get_mut(flow).is_some_and(|ends| !ends.write()) {
            self.put(&Frame::Broken { flow: flow.clone() });
        }
    }

    /// Closes flows that are over, and says which.
    fn sweep(&mut self) -> Vec<Flow> {
        let over: Vec<Flow> =
            self.flows.iter().filter(|(_, ends)| ends.is_done()).map(|(flow, _)| flow.clone()).collect();
        over.iter().for_each(|flow| drop(self.flows.remove(flow)));
        over
    }

    /// Flows whose bytes are kept for a server that has not asked for them.
    pub(crate) fn mute(&mut self) {
        self.flows.values_mut().filter_map(|ends| ends.outgoing.as_mut()).for_each(Outgoing::mute);
    }
}
