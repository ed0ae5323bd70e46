//! When to ask the other half what has arrived: a stream may lose a frame and stay connected, as a serial port does that drops
//! bytes. Nobody is asked while nothing is on its way, so an idle sandbox wakes nobody.
//! Knows nothing of frames.

use crate::frame::Flow;
use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

/// After what was sent before it is asked for; an answer that comes takes a fraction of it.
const FIRST: Duration = Duration::from_millis(300);
/// The most between two questions about what waits on a slow reader, or for a half that stands still.
const MOST: Duration = Duration::from_secs(30);

/// The next question's time.
#[derive(Debug)]
pub(crate) struct Timer {
    at: Option<Instant>,
    pause: Duration,
}

impl Timer {
    pub(crate) fn new() -> Self {
        Self { at: None, pause: FIRST }
    }

    /// Something was sent, or is known to have arrived: what comes next is not to wait for a pause that grew before it.
    pub(crate) fn moved(&mut self, now: Instant) {
        self.pause = FIRST;
        self.at = self.at.map(|at| at.min(now + FIRST));
    }

    /// Whether to ask now. `waits`: something is on its way.
    pub(crate) fn is_due(&mut self, waits: bool, now: Instant) -> bool {
        if !waits {
            *self = Self::new();
            return false;
        }
        match self.at {
            Some(at) if at <= now => {
                self.pause = (self.pause * 2).min(MOST);
                self.at = Some(now + self.pause);
                true
            }
            Some(_) => false,
            None => {
                self.at = Some(now + self.pause);
                false
            }
        }
    }

    /// Until the next question.
    pub(crate) fn left(&self, now: Instant) -> Option<Duration> {
        self.at.map(|at| at.saturating_duration_since(now))
    }
}

/// A question on its way: what had been sent before it, and so must have arrived when the answer was given.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) number: u32,
    /// Number of the last order or event.
    pub(crate) said: u64,
    /// See `Outgoing::mark`.
    pub(crate) marks: HashMap<Flow, u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_asked_while_nothing_is_on_its_way() {
        let (mut timer, now) = (Timer::new(), Instant::now());
        assert!(!timer.is_due(false, now));
        assert_eq!(timer.left(now), None);
        assert!(!timer.is_due(true, now));
        assert!(!timer.is_due(false, now + MOST));
        assert_eq!(timer.left(now + MOST), None);
    }

    #[test]
    fn questions_become_rare_and_are_soon_again_when_something_moves() {
        let (mut timer, mut now) = (Timer::new(), Instant::now());
        let mut asked = 0;
        for _ in 0..3600 {
            asked += u32::from(timer.is_due(true, now));
            now += Duration::from_secs(1);
        }
        assert!((100..140).contains(&asked), "{asked} questions in an hour");
        assert!(timer.left(now) > Some(FIRST));
        timer.moved(now);
        assert_eq!(timer.left(now), Some(FIRST));
    }
}
