//! A stream that stays connected and loses frames, as a serial port does that drops bytes.

use csb_relay::Dial;
use std::{
    collections::HashMap,
    io::{Read, Write},
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Way {
    ToGuest,
    ToHost,
}

impl Way {
    pub fn back(self) -> Self {
        if self == Self::ToGuest { Self::ToHost } else { Self::ToGuest }
    }
}

#[derive(Default)]
struct Seen {
    /// How many are still to be lost of a kind, and were.
    lose: HashMap<(Way, usize), u32>,
    lost: HashMap<(Way, usize), u32>,
    frames: u32,
    every: Option<u32>,
}

impl Seen {
    fn passes(&mut self, way: Way, kind: usize) -> bool {
        self.frames += 1;
        let left = self.lose.entry((way, kind)).or_default();
        if *left > 0 {
            *left -= 1;
            *self.lost.entry((way, kind)).or_default() += 1;
            return false;
        }
        // No period: what is sent again in turns would lose the same frame each time.
        self.every.is_none_or(|every| !(self.frames.wrapping_mul(0x9e37_79b1) >> 16).is_multiple_of(every))
    }
}

pub struct Lossy {
    socket: PathBuf,
    seen: Arc<Mutex<Seen>>,
    streams: Arc<AtomicU32>,
}

impl Lossy {
    /// Loses the first frames of these kinds, so many of each.
    pub fn new(socket: &Path, lose: Vec<(Way, usize, u32)>) -> Self {
        let lose = lose.into_iter().map(|(way, kind, count)| ((way, kind), count)).collect();
        let seen = Seen { lose, ..Seen::default() };
        Self { socket: socket.to_owned(), seen: Arc::new(Mutex::new(seen)), streams: Arc::default() }
    }

    /// Loses one of so many, whatever it is.
    pub fn every(socket: &Path, every: u32) -> Self {
        let lossy = Self::new(socket, vec![]);
        lossy.seen.lock().unwrap().every = Some(every);
        lossy
    }

    pub fn dial(&self) -> Dial {
        let (socket, seen, streams) = (self.socket.clone(), self.seen.clone(), self.streams.clone());
        Box::new(move || {
            streams.fetch_add(1, Ordering::Relaxed);
            let far = UnixStream::connect(&socket)?;
            let (near, ours) = UnixStream::pair()?;
            let ends = (far.try_clone()?, ours.try_clone()?);
            let seen_there = seen.clone();
            thread::spawn(move || pass(ends.0, ends.1, Way::ToHost, &seen_there));
            let seen = seen.clone();
            thread::spawn(move || pass(ours, far, Way::ToGuest, &seen));
            Ok(OwnedFd::from(near))
        })
    }

    pub fn streams(&self) -> u32 {
        self.streams.load(Ordering::Relaxed)
    }

    pub fn lost(&self, way: Way, kind: usize) -> u32 {
        self.seen.lock().unwrap().lost.get(&(way, kind)).copied().unwrap_or(0)
    }

    pub fn frames(&self) -> u32 {
        self.seen.lock().unwrap().frames
    }
}

/// Frame by frame: each ends with a zero, and begins, unstuffed, with its kind.
fn pass(mut from: UnixStream, mut to: UnixStream, way: Way, seen: &Mutex<Seen>) {
    let (mut frame, mut buffer) = (Vec::new(), [0; 4096]);
    while let Ok(got @ 1..) = from.read(&mut buffer) {
        for byte in &buffer[..got] {
            frame.push(*byte);
            if *byte != 0 {
                continue;
            }
            let whole = std::mem::take(&mut frame);
            // Where the first byte is stuffed, it was a zero.
            let passes = match whole[..] {
                [0] => true,
                [1, ..] => seen.lock().unwrap().passes(way, 0),
                [_, kind, ..] => seen.lock().unwrap().passes(way, kind.into()),
                [] | [_] => unreachable!("no frame of ours is that short"),
            };
            if passes && to.write_all(&whole).is_err() {
                return;
            }
        }
    }
    let _ = to.shutdown(std::net::Shutdown::Both);
}

/// A frame as it is on the stream.
fn frame(bytes: &[u8]) -> Vec<u8> {
    let sum = crc32fast::hash(bytes).to_le_bytes();
    let mut stuffed = cobs::encode_vec(&[bytes, &sum].concat());
    stuffed.push(0);
    stuffed
}

/// The next frame of the host's half, without its sum.
fn next(guest: &mut impl Read) -> Vec<u8> {
    let mut stuffed = Vec::new();
    loop {
        let mut byte = [0];
        guest.read_exact(&mut byte).unwrap();
        match byte[0] {
            // It begins with the end of whatever was on the stream before.
            0 if stuffed.is_empty() => {}
            0 => break,
            byte => stuffed.push(byte),
        }
    }
    let mut bytes = cobs::decode_vec(&stuffed).unwrap();
    bytes.truncate(bytes.len() - 4);
    bytes
}

/// Sends questions without ever reading, up to `most` bytes; how many were taken before nobody did for a while.
pub fn flood(mut guest: UnixStream, most: usize) -> usize {
    // The answer to the host's greeting needs the session that is in it.
    let hello = next(&mut guest);
    guest.write_all(&frame(&hello)).unwrap();
    // An event that is not the next one is answered with what was heard.
    let flood = frame(&[1, 9, 0]).repeat(1000);
    guest.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    let mut sent = 0;
    while sent < most && guest.write_all(&flood).is_ok() {
        sent += flood.len();
    }
    sent
}

/// Leaves `greetings` of the host unanswered, then answers each at once; how many orders it is sent until a question is answered.
pub fn answer_late(guest: UnixStream, greetings: usize) -> usize {
    let mut from = std::io::BufReader::new(guest.try_clone().unwrap());
    let hellos: Vec<Vec<u8>> = (0..greetings).map(|_| next(&mut from)).collect();
    assert!(hellos.iter().all(|hello| hello[0] == 0));
    let answers: Vec<u8> = hellos.iter().flat_map(|hello| frame(hello)).chain(frame(&[7, 1])).collect();
    (&guest).write_all(&answers).unwrap();
    let frames = std::iter::from_fn(|| Some(next(&mut from)));
    frames.take_while(|frame| frame[0] != 8).filter(|frame| frame[0] == 1).count()
}
