//! Where an exec's output is kept: one file per stream and an index of their order, made when the first byte comes.
//!
//! Bytes go from the pipe into the file inside one system call, so a killed server loses nothing that left the pipe.
//! (A terminal's bytes pass through our memory: splice(2) from a terminal needs a pipe between.)
//! Knows nothing of processes or of when an exec ends.

mod home;
mod streamed;

pub(crate) use home::Home;

use crate::order::{Cursor, DROPPED, Lane, Order, Piece, RECORD};
use csb_types::ExecId;
use home::MOST_FREE;
use rustix::event::{PollFd, PollFlags, Timespec};
use std::{
    fs::File,
    io::{self, Write},
    os::{fd::AsFd, unix::fs::FileExt},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
};
use streamed::Streamed;
use tokio::sync::Notify;

/// Moved in one go; a pipe holds 64 KiB unless somebody enlarged it.
const GULP: u64 = 256 * 1024;
/// Past so many changes between the streams output counts as too much: each costs memory of ours, not of the sandbox.
const MOST_SWITCHES: usize = 128 * 1024;

/// Bytes of all spools of one sandbox. A sandbox may run many commands at once, each within its own limit.
const MOST_PER_SANDBOX: u64 = 1 << 30;

const EXTENSIONS: [&str; 2] = ["out", "err"];
const INDEX: &str = "idx";

/// One exec's output. Written by one `Writer`, read by any number of readers; streamed, by one.
#[derive(Debug)]
pub(crate) struct Spool {
    home: Arc<Home>,
    id: ExecId,
    streamed: Option<Streamed>,
    state: Mutex<State>,
    /// Woken when bytes were added, and by whoever else wants readers to look again.
    pub(crate) changed: Notify,
}

#[derive(Debug)]
struct State {
    order: Order,
    dropped: bool,
    /// In the index.
    records: u64,
    pinned: bool,
    files: [Option<Arc<File>>; 2],
    /// Whether the files are another's by now.
    gone: bool,
}

impl Spool {
    pub(crate) fn new(home: Arc<Home>, id: ExecId) -> Self {
        let state =
            State { order: Order::new(), dropped: false, records: 0, pinned: false, files: [None, None], gone: false };
        Self { home, id, streamed: None, state: Mutex::new(state), changed: Notify::new() }
    }

    /// For one reader: what that has is not kept, and the writer waits for it. Not where output must outlive a server.
    pub(crate) fn streamed(self) -> Self {
        let streamed = (!self.home.durable).then(Streamed::default);
        Self { streamed, ..self }
    }

    /// The only reader has this piece.
    pub(crate) fn read(&self, piece: &Piece) {
        let Some(streamed) = &self.streamed else { return };
        let file = self.lock().files[piece.lane as usize].clone();
        streamed.read(piece, file.as_deref());
    }

    /// What an earlier server spooled.
    pub(crate) fn recover(home: Arc<Home>, id: ExecId) -> io::Result<Self> {
        let spool = Self::new(home, id);
        let absent_is = |result: io::Result<u64>| match result {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            other => other,
        };
        let size = |extension| absent_is(std::fs::metadata(spool.home.path(&spool.id, extension)).map(|m| m.len()));
        let sizes = [size(EXTENSIONS[0])?, size(EXTENSIONS[1])?];
        let index = match std::fs::read(spool.home.path(&spool.id, INDEX)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            other => other?,
        };
        let (order, dropped, missing) = Order::recover(&index, sizes);
        let records = (index.len() / RECORD + missing.len()) as u64;
        spool.home.used.fetch_add(order.len(), Ordering::Relaxed);
        if !missing.is_empty() {
            let mut file = spool.home.create(&spool.id, INDEX, (index.len() - index.len() % RECORD) as u64)?;
            for record in missing {
                file.write_all(&record.to_le_bytes())?;
            }
        }
        *spool.lock() = State { order, dropped, records, pinned: false, files: [None, None], gone: false };
        Ok(spool)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes of each stream so far.
    pub(crate) fn lens(&self) -> [u64; 2] {
        let state = self.lock();
        Lane::BOTH.map(|lane| state.order.lane_len(lane))
    }

    /// Bytes of both streams so far.
    pub(crate) fn len(&self) -> u64 {
        self.lock().order.len()
    }

    /// Whether output was dropped.
    pub(crate) fn truncated(&self) -> bool {
        self.lock().dropped
    }

    /// What to read next at `cursor`.
    pub(crate) fn next(&self, cursor: &mut Cursor, from: u64, most: u64) -> Option<Piece> {
        let state = self.lock();
        cursor.skip_to(&state.order, from);
        if cursor.seq() < from {
            return None;
        }
        cursor.next(&state.order, most)
    }

    /// A stream's file, for reads at a position.
    pub(crate) fn file(&self, lane: Lane) -> io::Result<Arc<File>> {
        {
            let state = self.lock();
            if let Some(file) = &state.files[lane as usize] {
                return Ok(file.clone());
            }
            if state.gone {
                return Err(io::ErrorKind::NotFound.into());
            }
        }
        File::open(self.home.path(&self.id, EXTENSIONS[lane as usize])).map(Arc::new)
    }

    /// All bytes of one stream so far.
    pub(crate) fn read_lane(&self, lane: Lane) -> io::Result<Vec<u8>> {
        let len = self.lock().order.lane_len(lane);
        if len == 0 {
            return Ok(Vec::new());
        }
        let mut bytes = vec![0; len as usize];
        self.file(lane)?.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    }

    /// Keeps the files open, so that output can be read after `remove`.
    pub(crate) fn pin(&self) {
        self.lock().pinned = true;
        for lane in Lane::BOTH {
            if self.lock().order.lane_len(lane) > 0
                && let Ok(file) = self.file(lane)
            {
                self.lock().files[lane as usize] = Some(file);
            }
        }
    }

    /// Lets go of the files for good: they become another's.
    pub(crate) fn forget(&self) {
        let mut state = self.lock();
        state.files = [None, None];
        state.gone = true;
    }

    /// Closes the files until somebody reads again; nameless ones stay open.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        if self.home.durable && !state.pinned {
            state.files = [None, None];
        }
    }

    /// Removes the files. Called once.
    pub(crate) fn remove(&self) {
        for path in self.take_files() {
            // What cannot be removed now goes with the sandbox's directory.
            let _ = std::fs::remove_file(path);
        }
    }

    /// As `remove`, by one who knows that nobody has this exec any more: a reader with an open file would read what the
    /// next exec writes there. Files pass between execs of one sandbox only.
    pub(crate) fn recycle(self: Arc<Self>) {
        for path in self.take_files() {
            let kept = self.home.free().len() < MOST_FREE && self.home.recycle(&path).is_ok();
            if !kept {
                let _ = std::fs::remove_file(path);
            }
        }
    }

    /// Paths of the files there are, which count no more.
    fn take_files(&self) -> Vec<PathBuf> {
        self.home.used.fetch_sub(self.len(), Ordering::Relaxed);
        if !self.home.durable {
            return Vec::new();
        }
        let (lens, records) = {
            let state = self.lock();
            (Lane::BOTH.map(|lane| state.order.lane_len(lane)), state.records)
        };
        let names = [(EXTENSIONS[0], lens[0]), (EXTENSIONS[1], lens[1]), (INDEX, records)];
        names.into_iter().filter(|(_, there)| *there > 0).map(|(name, _)| self.home.path(&self.id, name)).collect()
    }
}

/// What `Writer::take` did.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// Moved so many bytes into the spool.
    Kept(usize),
    /// Took and dropped so many bytes: the spool is full.
    Dropped(usize),
    /// Took nothing: the reader is to catch up first.
    Waits,
    /// Nothing there now.
    Empty,
    /// Nothing there, and no writer left.
    Ended,
}

/// The one who fills a spool.
#[derive(Debug)]
pub(crate) struct Writer {
    spool: Arc<Spool>,
    most: u64,
    terminal: bool,
    files: [Option<Arc<File>>; 2],
    index: Option<File>,
    /// The host's disk failed us; what comes is dropped.
    failed: bool,
    sink: Option<File>,
}

impl Writer {
    /// Keeps at most `most` bytes; `terminal` says that sources are terminals rather than pipes.
    pub(crate) fn new(spool: Arc<Spool>, most: u64, terminal: bool) -> Self {
        Self { spool, most, terminal, files: [None, None], index: None, failed: false, sink: None }
    }

    /// Bytes that will be kept yet.
    fn room(&self) -> u64 {
        let (len, switches) = {
            let state = self.spool.lock();
            (state.order.len(), state.order.switches())
        };
        if self.failed {
            return 0;
        }
        if let Some(streamed) = &self.spool.streamed {
            return streamed.room(len);
        }
        if switches >= MOST_SWITCHES {
            return 0;
        }
        let shared = MOST_PER_SANDBOX.saturating_sub(self.spool.home.used.load(Ordering::Relaxed));
        self.most.saturating_sub(len).min(shared)
    }

    /// How often the order changed between the streams.
    pub(crate) fn switches(&self) -> usize {
        self.spool.lock().order.switches()
    }

    /// Moves what `source` has now, a bounded piece of it at most.
    pub(crate) fn take(&mut self, lane: Lane, source: impl AsFd) -> io::Result<Taken> {
        let room = self.room();
        if room == 0 && self.spool.streamed.is_some() && !self.failed {
            return Ok(Taken::Waits);
        }
        if room == 0 {
            return self.drop_some(source);
        }
        let other = self.spool.lock().order.would_switch(lane);
        if other || self.files[lane as usize].is_none() {
            // Files are made and runs closed only for bytes that are there: most streams just end.
            match look(&source)? {
                Look::Bytes => {}
                Look::Empty => return Ok(Taken::Empty),
                Look::Ended => return Ok(Taken::Ended),
            }
        }
        match self.keep(lane, &source, room.min(GULP)) {
            Ok(0) => Ok(Taken::Ended),
            Ok(bytes) => {
                self.spool.lock().order.grow(bytes as u64);
                self.spool.home.used.fetch_add(bytes as u64, Ordering::Relaxed);
                self.spool.changed.notify_waiters();
                Ok(Taken::Kept(bytes))
            }
            Err(KeepError::Source(error)) if error.kind() == io::ErrorKind::WouldBlock => Ok(Taken::Empty),
            // A terminal whose last user closed it.
            Err(KeepError::Source(error)) if error.raw_os_error() == Some(libc::EIO) && self.terminal => {
                Ok(Taken::Ended)
            }
            Err(KeepError::Source(error)) => Err(error),
            Err(KeepError::Spool(error)) => {
                tracing::warn!(exec = %self.spool.id, %error, "cannot keep output; it is dropped");
                self.failed = true;
                self.drop_some(source)
            }
        }
    }

    fn keep(&mut self, lane: Lane, source: impl AsFd, most: u64) -> Result<usize, KeepError> {
        let record = self.spool.lock().order.turn_to(lane);
        if let Some(record) = record {
            self.write_index(record).map_err(KeepError::Spool)?;
        }
        let file = match &self.files[lane as usize] {
            Some(file) => file,
            none => {
                let at = self.spool.lock().order.lane_len(lane);
                let file = self.spool.home.create(&self.spool.id, EXTENSIONS[lane as usize], at);
                let file = Arc::new(file.map_err(KeepError::Spool)?);
                self.spool.lock().files[lane as usize] = Some(file.clone());
                debug_assert!(none.is_none());
                self.files[lane as usize].insert(file)
            }
        };
        if self.terminal {
            let mut buffer = [0u8; 16 * 1024];
            let room = buffer.len().min(most as usize);
            let bytes = rustix::io::read(&source, &mut buffer[..room]).map_err(|e| KeepError::Source(e.into()))?;
            (&**file).write_all(&buffer[..bytes]).map_err(KeepError::Spool)?;
            return Ok(bytes);
        }
        csb_sys::pipe::splice(source, &**file, most as usize).map_err(|error| {
            // Only the file can be full, too large or broken; a pipe is empty or it is not.
            match error.kind() {
                io::ErrorKind::WouldBlock => KeepError::Source(error),
                _ => KeepError::Spool(error),
            }
        })
    }

    fn write_index(&mut self, record: u64) -> io::Result<()> {
        if !self.spool.home.durable {
            return Ok(());
        }
        let index = match &mut self.index {
            Some(index) => index,
            none => {
                let at = self.spool.lock().records * RECORD as u64;
                none.insert(self.spool.home.create(&self.spool.id, INDEX, at)?)
            }
        };
        index.write_all(&record.to_le_bytes())?;
        self.spool.lock().records += 1;
        Ok(())
    }

    fn drop_some(&mut self, source: impl AsFd) -> io::Result<Taken> {
        if !self.terminal && self.sink.is_none() {
            // What cannot be kept for want of descriptors cannot be spliced away either; it is dropped all the same, and marked.
            self.sink = File::options().write(true).open("/dev/null").ok();
        }
        let taken = match &self.sink {
            Some(sink) => csb_sys::pipe::splice(&source, sink, GULP as usize),
            None => match look(&source)? {
                // Reading a pipe may wait, but nobody else takes what is there now.
                Look::Bytes => rustix::io::read(&source, &mut [0u8; 16 * 1024]).map_err(io::Error::from),
                Look::Empty => return Ok(Taken::Empty),
                Look::Ended => return Ok(Taken::Ended),
            },
        };
        match taken {
            Ok(0) => Ok(Taken::Ended),
            Ok(bytes) => {
                let first = !std::mem::replace(&mut self.spool.lock().dropped, true);
                if first {
                    // A host whose disk is full cannot take the mark either; the flag in memory holds until a restart.
                    let _ = self.write_index(DROPPED);
                    self.spool.changed.notify_waiters();
                }
                Ok(Taken::Dropped(bytes))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Taken::Empty),
            Err(error) if error.raw_os_error() == Some(libc::EIO) && self.terminal => Ok(Taken::Ended),
            Err(error) => Err(error),
        }
    }
}

enum KeepError {
    Source(io::Error),
    Spool(io::Error),
}

enum Look {
    Bytes,
    Empty,
    Ended,
}

fn look(source: impl AsFd) -> io::Result<Look> {
    let mut polled = [PollFd::new(&source, PollFlags::IN)];
    rustix::event::poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
    let seen = polled[0].revents();
    Ok(if seen.contains(PollFlags::IN) {
        Look::Bytes
    } else if seen.intersects(PollFlags::HUP | PollFlags::ERR) {
        Look::Ended
    } else {
        Look::Empty
    })
}

#[cfg(test)]
mod tests;
