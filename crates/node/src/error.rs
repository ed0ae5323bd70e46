//! Why a node cannot start, or a sandbox not be created.

use csb_backends::BackendError;
use csb_engine::warden::WardenError;
use csb_types::SpecError;
use csb_wire::Failure;
use std::{io, path::PathBuf};

/// Why a node cannot start.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The data directory cannot be used.
    #[error("cannot use data directory `{}`", path.display())]
    DataDir {
        /// Which file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another server works in the data directory.
    #[error("data directory `{}` is in use by another server", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// No warden could be reached or started.
    #[error("cannot reach or start the warden")]
    Warden {
        /// Why.
        source: io::Error,
    },
    /// The warden speaks another version.
    #[error("the warden at work has version {theirs} of the protocol, this program {ours}")]
    Version {
        /// The warden's.
        theirs: u32,
        /// This program's.
        ours: u32,
    },
    /// The template store cannot be used.
    #[error("cannot open the template store: {0}")]
    Templates(String),
    /// The pool's spec is impossible.
    #[error("the pool's sandboxes are not possible")]
    Pool {
        /// Why.
        source: SpecError,
    },
}

/// Why a sandbox was not created.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CreateError {
    /// The request itself is impossible.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// No such template here.
    #[error("template `{name}` is not on this host")]
    NoTemplate {
        /// As asked for.
        name: String,
    },
    /// The request names what it may not have.
    #[error("{what}")]
    NotAllowed {
        /// What, and why not.
        what: String,
    },
    /// Something else that the request names is not here.
    #[error("{what} is not there")]
    Missing {
        /// What, in words.
        what: String,
        /// What to do about it.
        hint: String,
    },
    /// What builds sandboxes of the kind does not answer, or has no room.
    #[error("{what}")]
    Unavailable {
        /// What is wrong.
        what: String,
        /// What to do about it.
        hint: String,
    },
    /// The host has no room for one more.
    #[error("this host has no room for another sandbox: {limit}")]
    Capacity {
        /// Which limit is reached.
        limit: String,
        /// What to do about it.
        hint: String,
    },
    /// This host cannot do what was asked.
    #[error("not supported: {what}")]
    Unsupported {
        /// What, and why not.
        what: String,
    },
    /// A step of building it failed.
    #[error("cannot build the sandbox: {step}: {message}")]
    Jail {
        /// Which step.
        step: String,
        /// The kernel's words.
        message: String,
    },
    /// The warden cannot be reached.
    #[error("the warden is not reachable: {0}")]
    Warden(String),
}

/// How the step begins that mounts a volume; its place follows.
const VOLUME: &str = "mount the volume ";

impl CreateError {
    /// What a failure of the warden or of an init means to the one who asked for a sandbox.
    pub(crate) fn from_failure(failure: &Failure) -> Self {
        let room =
            |limit: &str, hint: &str| Self::Capacity { limit: format!("{limit} ({failure})"), hint: hint.into() };
        // The kernel's answer names neither the table nor the switch.
        if [libc::EPERM, libc::EACCES, libc::ENOSPC, libc::EUSERS].contains(&failure.errno)
            && let Some(denial) = csb_sys::ns::denial(!rustix::process::geteuid().is_root())
        {
            let message = format!("{}: this host denies user namespaces by `{}`", failure.message, denial.setting);
            return Self::Jail { step: failure.step.clone(), message };
        }
        match failure.errno {
            libc::EMFILE | libc::ENFILE => {
                room("open descriptors", "raise `ulimit -n` for the server and start the warden anew")
            }
            libc::ENOMEM => room("memory", "release sandboxes, or lower the memory that each may use"),
            libc::EAGAIN => room("processes", "release sandboxes, or raise `ulimit -u` and `kernel.pid_max`"),
            libc::ENOSPC | libc::EDQUOT => room(
                "disk space, or a kernel table such as mounts or namespaces",
                "`csb doctor` shows the host's limits",
            ),
            libc::ENOTSUP if failure.step == "limit the disk speed" => Self::Unsupported {
                what: "limits of disk speed, for which this host gives the server no cgroup".into(),
            },
            libc::ENOTSUP | libc::EINVAL if failure.step.starts_with("open the volume") => Self::Unsupported {
                what: format!("directories of a file system on which owners cannot be mapped ({failure})"),
            },
            // Between the look at a directory and its use its owner put something else in its place.
            libc::ELOOP | libc::EXDEV | libc::ENOTDIR if failure.step.starts_with("open the volume") => {
                Self::NotAllowed {
                    what: format!("{}: it is no directory, or leads through a symbolic link", failure.step),
                }
            }
            // A place to mount on would have to be made in another volume, whose owner is nobody that we are.
            libc::EOVERFLOW | libc::EROFS if failure.step.starts_with(VOLUME) => Self::Missing {
                what: format!("a directory for {} in the volume that it lies in", &failure.step[VOLUME.len()..]),
                hint: "make it in that volume: nothing is made in a directory of the host to mount another one on"
                    .into(),
            },
            libc::ENODEV if failure.step.starts_with("mount the image") => Self::Unsupported {
                what: "sandbox kind `hardened` on a kernel without EROFS, or without loop devices before Linux 6.12"
                    .into(),
            },
            libc::EUSERS => room("user namespaces", "raise `user.max_user_namespaces`"),
            _ => Self::Jail { step: failure.step.clone(), message: failure.message.clone() },
        }
    }
}

impl From<WardenError> for CreateError {
    fn from(error: WardenError) -> Self {
        match error {
            WardenError::Failed(failure) => Self::from_failure(&failure),
            error => Self::Warden(error.to_string()),
        }
    }
}

impl From<BackendError> for CreateError {
    fn from(error: BackendError) -> Self {
        match error {
            BackendError::Unsupported(what) => Self::Unsupported { what },
            BackendError::NotFound { what, hint } => Self::Missing { what, hint },
            BackendError::Unavailable { what, hint } => Self::Unavailable { what, hint },
            BackendError::NoRoom { limit, hint } => Self::Capacity { limit, hint },
            BackendError::Failed { step, message } => Self::Jail { step, message },
        }
    }
}

/// What it means to the one who asked for a sandbox that nothing can be written down of it.
pub(crate) fn record_failed(error: &io::Error) -> CreateError {
    use io::ErrorKind::{QuotaExceeded, StorageFull};
    let message = format!("it cannot be recorded in the data directory: {error}");
    match error.kind() {
        StorageFull | QuotaExceeded => CreateError::Capacity {
            limit: format!("disk space of the data directory ({error})"),
            hint: "free some, or move the data directory".into(),
        },
        _ => CreateError::Jail { step: "record the sandbox".into(), message },
    }
}

/// An error with its causes, for a field that holds text.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_host_is_told_apart_from_a_failed_step() {
        let failure = |errno| Failure { step: "make the process".into(), message: "no".into(), errno };
        for errno in [libc::EMFILE, libc::ENOMEM, libc::EAGAIN, libc::ENOSPC] {
            let error = CreateError::from_failure(&failure(errno));
            assert!(matches!(&error, CreateError::Capacity { hint, .. } if !hint.is_empty()), "{error}");
        }
        let step = "mount the volume `/data/in`".to_owned();
        let error =
            CreateError::from_failure(&Failure { step, message: "no".into(), errno: libc::EOVERFLOW }).to_string();
        assert_eq!(error, "a directory for `/data/in` in the volume that it lies in is not there");
        let error = CreateError::from_failure(&failure(libc::EPERM));
        assert_eq!(error.to_string(), "cannot build the sandbox: make the process: no");
    }
}
