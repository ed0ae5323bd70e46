//! What is allowed in which phase: one pure function.

use csb_types::Phase;

/// What is asked of a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Request {
    /// Start a command.
    Exec,
    /// Do something to a running command, or with files.
    Touch,
    /// Freeze.
    Pause,
    /// Thaw.
    Resume,
    /// Change limits.
    SetLimits,
    /// End it.
    Release,
}

/// Whether it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Do it.
    Accept,
    /// It is so already; success without doing anything.
    AlreadyDone,
    /// Not in this phase.
    Refuse,
}

/// What is allowed in which phase. Counters may be read in every phase but the last; that needs no admission.
pub(crate) fn admit(phase: Phase, request: Request) -> Verdict {
    match (phase, request) {
        (Phase::Gone, Request::Release) => Verdict::AlreadyDone,
        (_, Request::Release) => Verdict::Accept,
        (Phase::Releasing | Phase::Gone, _) => Verdict::Refuse,
        (Phase::Paused, Request::Pause) | (Phase::Running, Request::Resume) => Verdict::AlreadyDone,
        // A frozen init reads no frames: these would hang until somebody resumes.
        (Phase::Paused, Request::Exec | Request::Touch) => Verdict::Refuse,
        (Phase::Paused, Request::Resume | Request::SetLimits) => Verdict::Accept,
        (Phase::Running, Request::Exec | Request::Touch | Request::Pause | Request::SetLimits) => Verdict::Accept,
    }
}

#[cfg(test)]
mod tests {
    use super::{Request::*, Verdict::*, *};

    fn check(phase: Phase, expected: [(Request, Verdict); 6]) {
        for (request, verdict) in expected {
            assert_eq!(admit(phase, request), verdict, "{request:?} while {phase:?}");
        }
    }

    #[test]
    fn a_running_sandbox_takes_everything_and_is_resumed_already() {
        check(
            Phase::Running,
            [
                (Exec, Accept),
                (Touch, Accept),
                (Pause, Accept),
                (Resume, AlreadyDone),
                (SetLimits, Accept),
                (Release, Accept),
            ],
        );
    }

    #[test]
    fn a_paused_sandbox_can_be_resumed_resized_and_released_only() {
        check(
            Phase::Paused,
            [
                (Exec, Refuse),
                (Touch, Refuse),
                (Pause, AlreadyDone),
                (Resume, Accept),
                (SetLimits, Accept),
                (Release, Accept),
            ],
        );
    }

    #[test]
    fn there_is_no_way_back_from_releasing() {
        let refused = |release| {
            [
                (Exec, Refuse),
                (Touch, Refuse),
                (Pause, Refuse),
                (Resume, Refuse),
                (SetLimits, Refuse),
                (Release, release),
            ]
        };
        check(Phase::Releasing, refused(Accept));
        check(Phase::Gone, refused(AlreadyDone));
    }
}
