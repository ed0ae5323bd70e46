//! Workspaces that nobody uses: removed when an admin asks, and on schedule.

use super::{App, AppError};
use crate::auth::Identity;
use csb_api::{CleanRequest, CleanView, ErrorCode, FailedWorkspaceView, Role, WorkspaceView, time_from_ms};
use csb_node::Cleaning;
use std::{io, sync::Arc, time::Duration};

const MOST: Duration = Duration::from_secs(3650 * 86400);

impl App {
    /// Removes workspaces that nobody has used for so long, or says which it would.
    pub async fn clean_workspaces(&self, who: &Identity, request: &CleanRequest) -> Result<CleanView, AppError> {
        if who.role != Role::Admin {
            return Err(AppError::new(ErrorCode::RoleDenied, "workspaces of all users are cleaned by admins"));
        }
        let older = request.older_than.duration("older_than", Duration::from_secs(1), MOST)?;
        let dry_run = request.dry_run.unwrap_or(false);
        let done = self.node.clean_workspaces(older, dry_run).await.map_err(|error| match error.kind() {
            io::ErrorKind::ResourceBusy => AppError {
                retry_after: Some(Duration::from_secs(5)),
                ..AppError::new(ErrorCode::Capacity, error.to_string()).hint("wait until that is done")
            },
            _ => AppError::internal(format!("cannot clean workspaces: {error}")),
        })?;
        Ok(view(done, dry_run))
    }
}

fn view(done: Cleaning, dry_run: bool) -> CleanView {
    let bytes = done.removed.iter().map(|one| one.bytes).sum();
    let removed = done.removed.into_iter().map(|one| WorkspaceView {
        path: one.path,
        bytes: one.bytes,
        files: one.files,
        used_at: time_from_ms(one.used_ms),
    });
    let failed = done.failed.into_iter().map(|(path, message)| FailedWorkspaceView { path, message });
    CleanView {
        dry_run,
        removed: removed.collect(),
        bytes,
        recent: done.recent,
        in_use: done.in_use,
        failed: failed.collect(),
    }
}

/// Cleans on schedule until the server stops.
pub(crate) async fn run(app: Arc<App>) {
    let (Some(schedule), Some(idle)) = (app.config.cleanup_schedule.clone(), app.config.cleanup_idle) else { return };
    while let Some(wait) = schedule.until_next() {
        // Not slept in one go: whoever sets the clock means this as well.
        let slice = wait.min(Duration::from_secs(60));
        tokio::select! {
            () = app.stopping.cancelled() => return,
            () = tokio::time::sleep(slice) => {}
        }
        if slice < wait {
            continue;
        }
        match app.node.clean_workspaces(idle, false).await {
            Ok(done) => {
                let bytes: u64 = done.removed.iter().map(|one| one.bytes).sum();
                for one in &done.removed {
                    tracing::info!(
                        workspace = one.path,
                        bytes = one.bytes,
                        files = one.files,
                        "removed: idle for too long"
                    );
                }
                for (workspace, error) in &done.failed {
                    tracing::error!(workspace, error, "a workspace was not removed");
                }
                let (removed, recent, in_use) = (done.removed.len(), done.recent, done.in_use);
                tracing::info!(removed, bytes, recent, in_use, "cleaned workspaces");
            }
            Err(error) => tracing::error!(%error, "cannot clean workspaces"),
        }
    }
}
