//! What goes over the stream of bytes, and how its pieces are told apart.
//!
//! A frame is postcard and a CRC-32 of it, stuffed so that it holds no zero byte (COBS, Cheshire and Baker 1999), and ended by one.
//! So whoever joins a stream in the midst of a frame, as a server does that finds a serial port as a dead one left it, loses that
//! frame and no other.

use csb_types::ExecId;
use csb_wire::{FromInit, ToInit};
use serde::{Deserialize, Serialize};

/// Raised when a frame's meaning changes.
pub(crate) const VERSION: u32 = 1;
/// Of data in one frame.
pub(crate) const CHUNK: usize = 32 * 1024;
/// The most that a frame of whoever runs in a sandbox takes.
pub(crate) const MOST_FROM_GUEST: usize = 256 * 1024;
/// And one of a server: a command with all its arguments and environment.
pub(crate) const MOST_FROM_HOST: usize = 17 << 20;

/// Bytes that belong together.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) enum Flow {
    /// Of a command: its standard output or, in both directions, its terminal.
    Out(ExecId),
    /// Its standard error.
    Err(ExecId),
    /// Its standard input.
    In(ExecId),
    /// Of a file operation, in both directions.
    Call(u32),
}

impl Flow {
    /// All that a command may have.
    pub(crate) fn of(exec: &ExecId) -> [Self; 3] {
        [Self::Out(exec.clone()), Self::Err(exec.clone()), Self::In(exec.clone())]
    }
}

/// One message between the halves.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum Frame {
    /// The first of each connection. The host's half begins, the guest's answers.
    Hello {
        version: u32,
        /// Which host's half this is: after another one the guest's begins anew.
        session: u64,
        /// Number of the last order or event that arrived.
        got: u64,
        /// How far the bytes of each flow arrived.
        have: Vec<(Flow, u64)>,
    },
    /// An order or an event, by number; sent again after a lost connection until it is known to have arrived.
    Said { number: u64, body: Vec<u8> },
    /// All up to this number arrived.
    Heard { number: u64 },
    /// Bytes of a flow from `offset` on. Those that arrived before are skipped.
    Data { flow: Flow, offset: u64, bytes: Vec<u8> },
    /// There is nothing behind this offset.
    End { flow: Flow, offset: u64 },
    /// The bytes up to this offset need not be sent again, and so many more may come.
    Took { flow: Flow, offset: u64 },
    /// Nobody takes any more of it.
    Broken { flow: Flow },
    /// What has arrived by now? Whoever asks has sent something that is not known to have.
    Ask { number: u32 },
    /// The answer to the question of that number: as in `Hello`, but that an end counts as one byte.
    Have { number: u32, got: u64, have: Vec<(Flow, u64)> },
}

/// An order to the guest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum Order {
    /// For the init; descriptors that go along are made on the other side.
    Init(ToInit),
    /// As `ToInit::File`, whose bytes are flow `Call(call)`.
    File { call: u32, user: Option<String>, request: csb_wire::FileRequest },
}

/// What the guest tells.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Event {
    pub(crate) frame: FromInit,
    /// Offsets of the three flows of the command that it is about. `Known`: where they go on. `Exited`: what was written before.
    pub(crate) at: [u64; 3],
}

/// Puts a frame behind what is to be sent.
pub(crate) fn put(frame: &Frame, to: &mut Vec<u8>) {
    let mut bytes = csb_wire::encode(frame);
    bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
    let begin = to.len();
    to.resize(begin + cobs::max_encoding_length(bytes.len()), 0);
    let length = cobs::encode(&bytes, &mut to[begin..]);
    to.truncate(begin + length);
    to.push(0);
}

/// Cuts a stream into frames.
#[derive(Debug)]
pub(crate) struct Cutter {
    bytes: Vec<u8>,
    most: usize,
    /// What is there belongs to a frame that is too long.
    skipping: bool,
}

impl Cutter {
    /// Frames of more than `most` bytes are skipped.
    pub(crate) fn new(most: usize) -> Self {
        Self { bytes: Vec::new(), most, skipping: false }
    }

    /// Takes more bytes; every frame that is whole, and none of those that are damaged.
    pub(crate) fn push(&mut self, more: &[u8]) -> Vec<Frame> {
        let mut frames = Vec::new();
        for part in more.split_inclusive(|byte| *byte == 0) {
            let (part, whole) = match part.split_last() {
                Some((0, part)) => (part, true),
                _ => (part, false),
            };
            if self.skipping || self.bytes.len() + part.len() > self.most {
                self.skipping = true;
                self.bytes = Vec::new();
            } else {
                self.bytes.extend_from_slice(part);
            }
            if whole {
                let mut bytes = std::mem::take(&mut self.bytes);
                if !std::mem::take(&mut self.skipping) {
                    frames.extend(read(&mut bytes));
                }
                // The next one takes its place, unless that was a large one.
                bytes.clear();
                bytes.shrink_to(2 * CHUNK);
                self.bytes = bytes;
            }
        }
        frames
    }
}

fn read(bytes: &mut [u8]) -> Option<Frame> {
    let length = cobs::decode_in_place(bytes).ok()?;
    let (frame, sum) = bytes[..length].split_last_chunk::<4>()?;
    if crc32fast::hash(frame) != u32::from_le_bytes(*sum) {
        return None;
    }
    csb_wire::decode(frame).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames() -> Vec<Frame> {
        let flow = Flow::Out(ExecId::random());
        let bytes: Vec<u8> = (0..CHUNK).map(|i| (i % 7) as u8).collect();
        vec![
            Frame::Hello { version: VERSION, session: 7, got: 0, have: vec![(flow.clone(), 9)] },
            Frame::Data { flow: flow.clone(), offset: 1, bytes },
            Frame::Data { flow: flow.clone(), offset: 0, bytes: vec![] },
            Frame::End { flow, offset: u64::MAX },
        ]
    }

    #[test]
    fn frames_arrive_whole_however_the_stream_is_cut() {
        let mut stream = Vec::new();
        frames().iter().for_each(|frame| put(frame, &mut stream));
        let expected = {
            let mut cutter = Cutter::new(MOST_FROM_GUEST);
            cutter.push(&stream)
        };
        assert_eq!(expected.len(), 4);
        for size in [1, 2, 1000, 100_000] {
            let mut cutter = Cutter::new(MOST_FROM_GUEST);
            let got: Vec<Frame> = stream.chunks(size).flat_map(|part| cutter.push(part)).collect();
            assert_eq!(got, expected, "pieces of {size}");
        }
    }

    #[test]
    fn a_torn_damaged_or_oversized_frame_takes_no_other_along() {
        let (mut first, mut second) = (Vec::new(), Vec::new());
        let [a, b] = [frames().remove(0), Frame::Heard { number: 3 }];
        put(&a, &mut first);
        put(&b, &mut second);
        // Torn: the rest of a frame whose beginning another reader had, then a delimiter of whoever comes new.
        let torn = [&first[first.len() / 2..], &[0], &second].concat();
        assert_eq!(Cutter::new(MOST_FROM_GUEST).push(&torn), std::slice::from_ref(&b));
        let mut damaged = first.clone();
        damaged[10] ^= 0x40;
        assert_eq!(Cutter::new(MOST_FROM_GUEST).push(&[damaged, second.clone()].concat()), std::slice::from_ref(&b));
        let oversized = [vec![1; 5000], vec![0], second].concat();
        let mut cutter = Cutter::new(1000);
        let got: Vec<Frame> = oversized.chunks(100).flat_map(|part| cutter.push(part)).collect();
        assert_eq!(got, [b]);
    }
}
