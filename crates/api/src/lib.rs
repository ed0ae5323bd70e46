//! The HTTP contract of Cloud Sandbox: requests, views and error codes, and how they become the words of `csb_types`.
//! Knows nothing of handlers, of databases or of running sandboxes.
//!
//! Requests refuse unknown fields, so that a misspelt option is an error and not a silent default.
//! Views accept unknown fields, so that an older client reads a newer server.

mod auth;
mod catalog;
mod error;
mod exec;
mod file;
mod sandbox;
mod scalar;
mod session;
mod workspace;

pub use auth::{KeyRequest, KeySecretView, KeyView, Role, TokenRequest, TokenView};
pub use catalog::{
    CapabilitiesView, HealthView, Items, KindView, LanguageView, Page, PoolStatsView, PoolView, SandboxCounts,
    TemplateView, WardenView,
};
pub use error::{ErrorBody, ErrorCode, ErrorDetail, Invalid};
pub use exec::{
    CommandRequest, Encoding, ExecRequest, ExecResultView, ExecState, ExecView, ExecuteRequest, OutputEvent,
    PtySizeRequest, RunCodeRequest, SessionExecuteRequest, SignalRequest, SignalValue, StdinRequest, WsClient,
    WsServer, encode_pair, encode_text, ws_frame, ws_unframe,
};
pub use file::{FileEntryView, FileListView, MkdirRequest, MoveRequest, UnpackView, parse_mode};
pub use sandbox::{
    Endpoints, IoRequest, IoView, KindName, NetworkName, PatchSandboxRequest, ReleaseRequest, ReleaseView,
    ResourcesRequest, ResourcesView, SandboxKindRequest, SandboxRequest, SandboxState, SandboxView, StartedByName,
    StatsView, StorageName,
};
pub use scalar::{Bytes, Cpus, Seconds, rfc3339, time_from_ms};
pub use session::{SessionRequest, SessionState, SessionView};
pub use workspace::{CleanRequest, CleanView, FailedWorkspaceView, WorkspaceView};
