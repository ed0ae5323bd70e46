//! Output that one reader gets and nobody keeps: how far it may lag, and what it has read given back to the file system.

use crate::order::Piece;
use rustix::fs::FallocateFlags;
use std::{
    fs::File,
    sync::atomic::{AtomicU64, Ordering},
};

/// What the reader may lag behind.
const WINDOW: u64 = 32 << 20;
/// What was read is given back in pieces of this size.
const GIVE_BACK: u64 = 8 << 20;

/// How far the only reader of a streamed exec is.
#[derive(Debug, Default)]
pub(super) struct Streamed {
    seq: AtomicU64,
    /// Bytes of each file that were given back.
    given_back: [AtomicU64; 2],
}

impl Streamed {
    /// How much may be written behind byte `len`.
    pub(super) fn room(&self, len: u64) -> u64 {
        (self.seq.load(Ordering::Relaxed) + WINDOW).saturating_sub(len)
    }

    /// The reader has this piece, of this file.
    pub(super) fn read(&self, piece: &Piece, file: Option<&File>) {
        self.seq.store(piece.seq, Ordering::Relaxed);
        let given_back = &self.given_back[piece.lane as usize];
        let (begin, end) = (given_back.load(Ordering::Relaxed), (piece.offset + piece.len) / 4096 * 4096);
        if end >= begin + GIVE_BACK
            && let Some(file) = file
        {
            // Where the file system cannot do it the file grows on, and a full disk is told like any other.
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            let _ = rustix::fs::fallocate(file, flags, begin, end - begin);
            given_back.store(end, Ordering::Relaxed);
        }
    }
}
