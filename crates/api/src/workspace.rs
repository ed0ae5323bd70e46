//! Directories of `local` sandboxes, and their removal when nobody uses them.

use crate::Seconds;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

/// Removes workspaces.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CleanRequest {
    /// Those that nobody has used for so many seconds.
    pub older_than: Seconds,
    /// Whether to say which, and leave them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dry_run: Option<bool>,
}

/// What a cleaning found and did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CleanView {
    /// Whether nothing was removed.
    pub dry_run: bool,
    /// Those that were removed or, with `dry_run`, would be.
    pub removed: Vec<WorkspaceView>,
    /// Bytes of all of them on the disk.
    pub bytes: u64,
    /// How many were used more recently.
    pub recent: u64,
    /// How many belong to sandboxes that exist.
    pub in_use: u64,
    /// Those that could not be removed.
    pub failed: Vec<FailedWorkspaceView>,
}

/// A workspace.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct WorkspaceView {
    /// Where it is below the server's directory of workspaces: the user's directory and its name.
    #[schema(example = "ann/project")]
    pub path: String,
    /// Bytes on the disk.
    pub bytes: u64,
    /// Files and directories in it.
    pub files: u64,
    /// When something in it was last changed, or a sandbox last began or ceased to use it.
    #[serde(with = "crate::rfc3339")]
    pub used_at: OffsetDateTime,
}

/// A workspace that could not be removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FailedWorkspaceView {
    /// Where it is.
    pub path: String,
    /// Why.
    pub message: String,
}
