//! The combined order of an exec's two streams: which bytes of which stream make up bytes `a..b` of both together.
//!
//! Runs of one lane alternate with runs of the other, so a run is known by where it ends. On disk a run's record is
//! written when it is closed, before a byte of the other lane is taken: at most one lane has bytes that no record
//! tells of, and they belong to the run that was open. So a killed server loses neither bytes nor their order.
//! Knows nothing of files or pipes.

/// One of an exec's two outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lane {
    /// Standard output, or a terminal's.
    Out = 0,
    /// Standard error.
    Err = 1,
}

impl Lane {
    pub(crate) const BOTH: [Lane; 2] = [Lane::Out, Lane::Err];

    fn other(self) -> Lane {
        match self {
            Lane::Out => Lane::Err,
            Lane::Err => Lane::Out,
        }
    }
}

/// Bytes of an index record.
pub(crate) const RECORD: usize = 8;
/// The record that says: output was dropped.
pub(crate) const DROPPED: u64 = u64::MAX;

/// Runs so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Order {
    first: Lane,
    /// Where each closed run ends in the combined stream.
    closed: Vec<u64>,
    lens: [u64; 2],
}

impl Order {
    pub(crate) fn new() -> Self {
        Self { first: Lane::Out, closed: Vec::new(), lens: [0, 0] }
    }

    /// Bytes of both lanes.
    pub(crate) fn len(&self) -> u64 {
        self.lens[0] + self.lens[1]
    }

    /// Bytes of one lane.
    pub(crate) fn lane_len(&self, lane: Lane) -> u64 {
        self.lens[lane as usize]
    }

    /// How often the order changed from one lane to the other.
    pub(crate) fn switches(&self) -> usize {
        self.closed.len()
    }

    fn lane_of(&self, run: usize) -> Lane {
        if run.is_multiple_of(2) { self.first } else { self.first.other() }
    }

    fn open_lane(&self) -> Lane {
        self.lane_of(self.closed.len())
    }

    /// Whether turning to `lane` would close a run.
    pub(crate) fn would_switch(&self, lane: Lane) -> bool {
        !(self.len() == 0 && self.closed.is_empty()) && self.open_lane() != lane
    }

    /// Makes `lane` the one that grows. A record to append to the index first, when that closes a run.
    pub(crate) fn turn_to(&mut self, lane: Lane) -> Option<u64> {
        if self.len() == 0 && self.closed.is_empty() {
            self.first = lane;
        }
        if self.open_lane() == lane {
            return None;
        }
        let start = self.closed.last().copied().unwrap_or(0);
        let record = ((self.len() - start) << 1) | self.open_lane() as u64;
        self.closed.push(self.len());
        Some(record)
    }

    /// Adds bytes to the lane last turned to.
    pub(crate) fn grow(&mut self, bytes: u64) {
        let lane = self.open_lane();
        self.lens[lane as usize] += bytes;
    }

    /// The order after a restart: from the index and the sizes of the two files. Also whether output was dropped,
    /// and records still missing from the index (none, unless the index was damaged).
    pub(crate) fn recover(index: &[u8], sizes: [u64; 2]) -> (Self, bool, Vec<u64>) {
        let mut order = Self::new();
        let mut dropped = false;
        for record in index.chunks_exact(RECORD) {
            let record = u64::from_le_bytes(record.try_into().expect("a chunk of RECORD bytes"));
            if record == DROPPED {
                dropped = true;
                continue;
            }
            let lane = if record & 1 == 0 { Lane::Out } else { Lane::Err };
            let left = sizes[lane as usize] - order.lane_len(lane).min(sizes[lane as usize]);
            if order.closed.is_empty() {
                order.first = lane;
            }
            if order.open_lane() == lane {
                order.grow((record >> 1).min(left));
                order.closed.push(order.len());
            }
        }
        let mut missing = Vec::new();
        let rest = |order: &Self, lane: Lane| sizes[lane as usize].saturating_sub(order.lane_len(lane));
        let open = if order.closed.is_empty() && sizes[0] == 0 { Lane::Err } else { order.open_lane() };
        for lane in [open, open.other()] {
            let bytes = rest(&order, lane);
            if bytes > 0 {
                missing.extend(order.turn_to(lane));
                order.grow(bytes);
            }
        }
        (order, dropped, missing)
    }
}

/// Where a reader is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cursor {
    run: usize,
    /// Position in the combined stream.
    seq: u64,
    /// Positions in the lanes.
    lanes: [u64; 2],
}

/// Bytes to read next: `len` bytes of `lane` from `offset`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) lane: Lane,
    pub(crate) offset: u64,
    pub(crate) len: u64,
    /// Position in the combined stream after it.
    pub(crate) seq: u64,
}

impl Cursor {
    pub(crate) fn start() -> Self {
        Self { run: 0, seq: 0, lanes: [0, 0] }
    }

    /// The next piece of at most `most` bytes, if there is one; the cursor moves past it.
    pub(crate) fn next(&mut self, order: &Order, most: u64) -> Option<Piece> {
        loop {
            let end = order.closed.get(self.run).copied();
            let left = end.unwrap_or(order.len()) - self.seq;
            if left > 0 {
                let lane = order.lane_of(self.run);
                let offset = self.lanes[lane as usize];
                let len = left.min(most);
                self.seq += len;
                self.lanes[lane as usize] += len;
                return Some(Piece { lane, offset, len, seq: self.seq });
            }
            end?;
            self.run += 1;
        }
    }

    /// Moves to position `seq`, or to the end if that comes first.
    pub(crate) fn skip_to(&mut self, order: &Order, seq: u64) {
        while self.seq < seq && self.next(order, seq - self.seq).is_some() {}
    }

    pub(crate) fn seq(&self) -> u64 {
        self.seq
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Both files, the index, and what a reader of the combined stream must see.
    #[derive(Default)]
    struct Written {
        files: [Vec<u8>; 2],
        index: Vec<u8>,
        combined: Vec<(usize, u8)>,
    }

    fn write(order: &mut Order, chunks: &[(bool, Vec<u8>)], to: &mut Written) {
        for (err, bytes) in chunks {
            let lane = if *err { Lane::Err } else { Lane::Out };
            if let Some(record) = order.turn_to(lane) {
                to.index.extend(record.to_le_bytes());
            }
            to.files[lane as usize].extend(bytes);
            to.combined.extend(bytes.iter().map(|b| (lane as usize, *b)));
            order.grow(bytes.len() as u64);
        }
    }

    fn read(order: &Order, from: u64, most: u64, files: &[Vec<u8>; 2]) -> Vec<(usize, u8)> {
        let mut cursor = Cursor::start();
        cursor.skip_to(order, from);
        let mut seen = Vec::new();
        while let Some(piece) = cursor.next(order, most) {
            assert!(piece.len > 0);
            let lane = piece.lane as usize;
            let bytes = &files[lane][piece.offset as usize..(piece.offset + piece.len) as usize];
            seen.extend(bytes.iter().map(|b| (lane, *b)));
            assert_eq!(piece.seq - from, seen.len() as u64);
        }
        seen
    }

    fn chunks() -> impl Strategy<Value = Vec<(bool, Vec<u8>)>> {
        prop::collection::vec((any::<bool>(), prop::collection::vec(any::<u8>(), 0..9)), 0..40)
    }

    proptest! {
        #[test]
        fn any_interleaving_is_read_back_from_any_position(chunks in chunks(), at in 0.0..1.0f64, most in 1u64..9) {
            let (mut order, mut written) = (Order::new(), Written::default());
            write(&mut order, &chunks, &mut written);
            let from = (written.combined.len() as f64 * at) as u64;
            prop_assert_eq!(read(&order, from, most, &written.files), &written.combined[from as usize..]);
        }

        #[test]
        fn a_restart_at_any_moment_keeps_the_order(before in chunks(), after in chunks()) {
            let (mut order, mut written) = (Order::new(), Written::default());
            write(&mut order, &before, &mut written);
            let sizes = [written.files[0].len() as u64, written.files[1].len() as u64];
            let (mut order, dropped, missing) = Order::recover(&written.index, sizes);
            prop_assert!(!dropped && missing.is_empty());
            write(&mut order, &after, &mut written);
            prop_assert_eq!(read(&order, 0, 1000, &written.files), &written.combined[..]);
            let sizes = [written.files[0].len() as u64, written.files[1].len() as u64];
            let (order, _, missing) = Order::recover(&written.index, sizes);
            prop_assert!(missing.is_empty());
            prop_assert_eq!(read(&order, 0, 1000, &written.files), &written.combined[..]);
        }

        #[test]
        fn a_damaged_index_loses_no_byte(index in prop::collection::vec(any::<u8>(), 0..100), sizes in [0u64..50, 0u64..50]) {
            let (order, _, _) = Order::recover(&index, sizes);
            prop_assert_eq!([order.lane_len(Lane::Out), order.lane_len(Lane::Err)], sizes);
        }
    }

    #[test]
    fn a_mark_for_dropped_output_survives() {
        let (order, dropped, _) = Order::recover(&DROPPED.to_le_bytes(), [7, 0]);
        assert!(dropped);
        assert_eq!(order.len(), 7);
    }
}
