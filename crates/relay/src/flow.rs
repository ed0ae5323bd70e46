//! The bytes of one flow on their way: kept until the other half has no more need of them, and put in order where they arrive.
//! Knows nothing of descriptors.

use crate::frame::CHUNK;
use std::collections::VecDeque;

/// Bytes of a flow that may be on their way, or kept for the next server.
pub(crate) const WINDOW: usize = 256 * 1024;

/// Towards the other half.
#[derive(Debug)]
pub(crate) struct Outgoing {
    /// Offset of the first byte that is kept.
    base: u64,
    kept: VecDeque<u8>,
    sent: u64,
    /// What is kept is all that there will be.
    ended: bool,
    end_sent: bool,
    end_taken: bool,
    /// Nobody there knows of it yet.
    muted: bool,
}

/// What to send next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    Bytes(u64, Vec<u8>),
    End(u64),
}

impl Outgoing {
    pub(crate) fn new(at: u64) -> Self {
        Self {
            base: at,
            kept: VecDeque::new(),
            sent: at,
            ended: false,
            end_sent: false,
            end_taken: false,
            muted: false,
        }
    }

    /// How much more may be pushed.
    pub(crate) fn room(&self) -> usize {
        if self.ended { 0 } else { WINDOW.saturating_sub(self.kept.len()) }
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.kept.extend(bytes);
    }

    pub(crate) fn end(&mut self) {
        self.ended = true;
    }

    /// Offset behind all that was pushed.
    pub(crate) fn top(&self) -> u64 {
        self.base + self.kept.len() as u64
    }

    pub(crate) fn is_ended(&self) -> bool {
        self.ended
    }

    /// Whether all has arrived, and that this was all.
    pub(crate) fn is_done(&self) -> bool {
        self.end_taken
    }

    pub(crate) fn mute(&mut self) {
        self.muted = true;
    }

    pub(crate) fn is_muted(&self) -> bool {
        self.muted
    }

    /// The next piece to send; from then on it counts as sent.
    pub(crate) fn next(&mut self) -> Option<Piece> {
        if self.muted {
            return None;
        }
        let begin = (self.sent - self.base) as usize;
        if begin < self.kept.len() {
            let bytes: Vec<u8> = self.kept.range(begin..self.kept.len().min(begin + CHUNK)).copied().collect();
            let offset = self.sent;
            self.sent += bytes.len() as u64;
            return Some(Piece::Bytes(offset, bytes));
        }
        let ends = self.ended && !self.end_sent;
        self.end_sent |= ends;
        ends.then(|| Piece::End(self.top()))
    }

    /// All before `offset` is safe; whether that is news. The end counts as one byte.
    pub(crate) fn took(&mut self, offset: u64) -> bool {
        let before = (self.base, self.end_taken);
        self.end_taken |= self.ended && offset > self.top();
        self.end_sent |= self.end_taken;
        let offset = offset.clamp(self.base, self.top());
        self.kept.drain(..(offset - self.base) as usize);
        self.base = offset;
        // What an older word made go again may be there already.
        self.sent = self.sent.max(offset);
        before != (self.base, self.end_taken)
    }

    /// Whether something was sent that is not known to be safe.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.muted && !self.end_taken && (self.sent > self.base || self.end_sent)
    }

    /// Offset behind all that was sent. The end counts as one byte.
    pub(crate) fn mark(&self) -> u64 {
        self.sent + u64::from(self.end_sent)
    }

    /// The other half has all before `have`, when it should have all before `mark`: what got lost goes again.
    pub(crate) fn arrived(&mut self, have: u64, mark: u64) {
        if have < mark && !self.muted {
            self.rewind(have);
        }
    }

    /// What is behind `offset` did not arrive. Where it goes on, which is as near as what is kept allows.
    pub(crate) fn rewind(&mut self, offset: u64) -> u64 {
        self.sent = offset.clamp(self.base, self.top());
        self.end_sent = false;
        self.muted = false;
        self.sent
    }
}

/// From the other half.
#[derive(Debug)]
pub(crate) struct Incoming {
    next: u64,
    waiting: VecDeque<u8>,
    end: Option<u64>,
    /// Up to where the other half was told that all is safe.
    told: u64,
    broken: bool,
}

/// The other half sends what it must not.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unruly;

impl Incoming {
    pub(crate) fn new(at: u64) -> Self {
        Self { next: at, waiting: VecDeque::new(), end: None, told: at, broken: false }
    }

    /// Offset behind all that arrived.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// The same; the end counts as one byte.
    pub(crate) fn arrived(&self) -> u64 {
        self.next + u64::from(self.end.is_some())
    }

    /// Offset behind all that was handed on.
    pub(crate) fn written(&self) -> u64 {
        self.next - self.waiting.len() as u64
    }

    /// What comes behind a gap is left out: the other half learns that it asked in vain, and sends it again.
    pub(crate) fn data(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Unruly> {
        let Some(skip) = self.next.checked_sub(offset) else { return Ok(()) };
        let Some(fresh) = usize::try_from(skip).ok().and_then(|skip| bytes.get(skip..)) else { return Ok(()) };
        if self.broken {
            self.next += fresh.len() as u64;
            return Ok(());
        }
        if self.waiting.len() + fresh.len() > WINDOW || self.end.is_some_and(|_| !fresh.is_empty()) {
            return Err(Unruly);
        }
        self.waiting.extend(fresh);
        self.next += fresh.len() as u64;
        Ok(())
    }

    /// As for bytes, behind a gap it counts for nothing.
    pub(crate) fn end(&mut self, offset: u64) {
        if offset <= self.next {
            self.end = Some(self.next);
        }
    }

    /// What is to be handed on next.
    pub(crate) fn waiting(&self) -> &[u8] {
        self.waiting.as_slices().0
    }

    pub(crate) fn wrote(&mut self, count: usize) {
        self.waiting.drain(..count);
    }

    /// Nobody takes any more.
    pub(crate) fn give_up(&mut self) {
        self.broken = true;
        self.waiting = VecDeque::new();
    }

    pub(crate) fn is_broken(&self) -> bool {
        self.broken
    }

    /// Whether it came to its end and all was handed on.
    pub(crate) fn is_done(&self) -> bool {
        self.end.is_some() && self.waiting.is_empty()
    }

    /// `safe`: up to where nothing can be lost any more. What to tell the other half, if it is worth a frame.
    pub(crate) fn tell(&mut self, safe: u64) -> Option<u64> {
        let safe = if self.broken { self.next } else { safe.min(self.written()) };
        let safe = safe + u64::from(self.end.is_some() && safe == self.next);
        let worth = safe > self.told && (safe - self.told >= WINDOW as u64 / 4 || self.waiting.is_empty());
        if worth {
            self.told = safe;
        }
        worth.then_some(safe)
    }

    /// The other half may not have heard what it was told.
    pub(crate) fn tell_again(&mut self) {
        self.told = 0;
    }

    /// Whether there is something that the other half is still to be told.
    pub(crate) fn owes(&self) -> bool {
        self.told < self.arrived()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_taken_is_sent_again() {
        let mut out = Outgoing::new(10);
        out.push(b"hello world");
        out.end();
        assert_eq!(out.next(), Some(Piece::Bytes(10, b"hello world".to_vec())));
        assert_eq!((out.next(), out.next()), (Some(Piece::End(21)), None));
        out.took(15);
        assert!(!out.is_done());
        assert_eq!(out.rewind(3), 15);
        assert_eq!((out.next(), out.next()), (Some(Piece::Bytes(15, b" world".to_vec())), Some(Piece::End(21))));
        assert_eq!(out.rewind(99), 21);
        assert_eq!(out.next(), Some(Piece::End(21)));
        out.took(u64::MAX);
        assert!(out.is_done());
    }

    #[test]
    fn what_comes_twice_is_taken_once_what_comes_early_not_at_all_and_too_much_is_refused() {
        let mut incoming = Incoming::new(5);
        incoming.data(5, b"abc").unwrap();
        incoming.data(5, b"abcd").unwrap();
        incoming.data(6, b"b").unwrap();
        assert_eq!((incoming.waiting(), incoming.next()), (&b"abcd"[..], 9));
        incoming.data(10, b"x").unwrap();
        incoming.end(10);
        assert_eq!((incoming.waiting(), incoming.arrived()), (&b"abcd"[..], 9));
        assert_eq!(incoming.data(9, &vec![0; WINDOW]), Err(Unruly));
        assert_eq!(incoming.tell(9), None);
        incoming.wrote(4);
        assert_eq!((incoming.tell(7), incoming.tell(7), incoming.owes()), (Some(7), None, true));
        incoming.end(9);
        assert_eq!((incoming.tell(99), incoming.owes(), incoming.is_done()), (Some(10), false, true));
        assert_eq!(incoming.data(9, b"more"), Err(Unruly));
    }

    #[test]
    fn what_got_lost_goes_again_and_what_is_only_not_taken_yet_does_not() {
        let mut out = Outgoing::new(0);
        out.push(b"abcdef");
        out.end();
        assert!(!out.is_waiting());
        while out.next().is_some() {}
        assert!(out.is_waiting());
        let mark = out.mark();
        assert_eq!(mark, 7);
        out.arrived(7, mark);
        assert_eq!((out.next(), out.is_waiting()), (None, true));
        out.arrived(6, mark);
        assert_eq!((out.next(), out.next()), (Some(Piece::End(6)), None));
        out.arrived(2, mark);
        assert_eq!((out.next(), out.next()), (Some(Piece::Bytes(2, b"cdef".to_vec())), Some(Piece::End(6))));
        // Told before, heard after it was thought lost.
        out.arrived(2, mark);
        assert_eq!((out.took(7), out.took(7)), (true, false));
        assert_eq!((out.next(), out.is_waiting(), out.is_done()), (None, false, true));
    }

    #[test]
    fn what_nobody_takes_is_told_as_taken_so_that_its_writer_goes_on() {
        let mut incoming = Incoming::new(0);
        incoming.data(0, b"abc").unwrap();
        incoming.give_up();
        incoming.data(3, &vec![0; 2 * WINDOW]).unwrap();
        assert_eq!(incoming.tell(0), Some(3 + 2 * WINDOW as u64));
    }
}
