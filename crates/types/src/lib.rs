//! The words of Cloud Sandbox as types: ids, specs, phases, limits, sizes, results.
//! Knows nothing of I/O, of async or of any transport.

mod capability;
mod exec;
mod file;
mod id;
mod kind;
mod language;
mod limits;
mod sandbox;
mod size;

pub use capability::{Capability, Declaration};
pub use exec::{Command, DEFAULT_OUTPUT_BYTES, ExecPhase, ExecResult, ExecSpec, KilledBy, PtySize, Stream};
pub use file::{FileEntry, FileError, FileErrorCode, FileKind};
pub use id::{ExecId, IdError, SandboxId, SessionId};
pub use kind::{Kind, KindOptions};
pub use language::{FILE_MARK, Language, LanguageError, Languages};
pub use limits::{IoLimits, LimitError, Limits};
pub use sandbox::{Net, Phase, SandboxSpec, SpecError, StartedBy, Upper, Usage, Volume, WORKSPACE};
pub use size::{SizeError, format_bytes, parse_bytes, parse_cpus, parse_duration};
