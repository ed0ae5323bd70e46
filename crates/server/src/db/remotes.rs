//! Which sandboxes and sessions are another server's, where, and under which ids there.

use super::{Db, DbError, During};
use sqlx::{Row, sqlite::SqliteRow};

/// A sandbox that is, or may be, at another server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteRow {
    /// Our id of it.
    pub id: String,
    /// Base address of the other server.
    pub endpoint: String,
    /// Path that it was asked for at.
    pub route: String,
    /// What was asked, as JSON.
    pub request: String,
    /// Its id there; none while that is not known.
    pub far_id: Option<String>,
    /// The session there that it came with.
    pub far_session: Option<String>,
    /// Its last known view, as JSON.
    pub seen: Option<String>,
    /// When it was asked for.
    pub created_ms: i64,
}

/// A session that is another server's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteSessionRow {
    /// Our id of it.
    pub id: String,
    /// Base address of the other server.
    pub endpoint: String,
    /// Its id there.
    pub far_id: String,
}

fn row(row: &SqliteRow) -> RemoteRow {
    RemoteRow {
        id: row.get("id"),
        endpoint: row.get("endpoint"),
        route: row.get("route"),
        request: row.get("request"),
        far_id: row.get("far_id"),
        far_session: row.get("far_session"),
        seen: row.get("seen"),
        created_ms: row.get("created_ms"),
    }
}

impl Db {
    /// Records what is known of a sandbox elsewhere, in place of what was known before.
    pub async fn put_remote(&self, row: &RemoteRow) -> Result<(), DbError> {
        let mut tx = self.write.begin().await.during("store a remote sandbox")?;
        let gone = sqlx::query("DELETE FROM remote_sandboxes WHERE id = ?").bind(&row.id).execute(&mut *tx).await;
        gone.during("store a remote sandbox")?;
        sqlx::query(
            "INSERT INTO remote_sandboxes (id, endpoint, route, request, far_id, far_session, seen, created_ms) \
             VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(&row.id)
        .bind(&row.endpoint)
        .bind(&row.route)
        .bind(&row.request)
        .bind(&row.far_id)
        .bind(&row.far_session)
        .bind(&row.seen)
        .bind(row.created_ms)
        .execute(&mut *tx)
        .await
        .during("store a remote sandbox")?;
        tx.commit().await.during("store a remote sandbox")
    }

    /// Records the last known view of a remote sandbox.
    pub async fn set_remote_seen(&self, id: &str, seen: &str) -> Result<(), DbError> {
        let set = sqlx::query("UPDATE remote_sandboxes SET seen = ? WHERE id = ?").bind(seen).bind(id);
        set.execute(&self.write).await.during("record a remote sandbox's view")?;
        Ok(())
    }

    /// Forgets a remote sandbox.
    pub async fn forget_remote(&self, id: &str) -> Result<(), DbError> {
        let gone = sqlx::query("DELETE FROM remote_sandboxes WHERE id = ?").bind(id).execute(&self.write).await;
        gone.during("forget a remote sandbox")?;
        Ok(())
    }

    /// All remote sandboxes.
    pub async fn remotes(&self) -> Result<Vec<RemoteRow>, DbError> {
        let found = sqlx::query("SELECT * FROM remote_sandboxes").fetch_all(&self.read).await;
        Ok(found.during("list remote sandboxes")?.iter().map(row).collect())
    }

    /// Records a remote session.
    pub async fn add_remote_session(&self, row: &RemoteSessionRow) -> Result<(), DbError> {
        sqlx::query("INSERT INTO remote_sessions (id, endpoint, far_id) VALUES (?, ?, ?)")
            .bind(&row.id)
            .bind(&row.endpoint)
            .bind(&row.far_id)
            .execute(&self.write)
            .await
            .during("store a remote session")?;
        Ok(())
    }

    /// Forgets a remote session.
    pub async fn forget_remote_session(&self, id: &str) -> Result<(), DbError> {
        let gone = sqlx::query("DELETE FROM remote_sessions WHERE id = ?").bind(id).execute(&self.write).await;
        gone.during("forget a remote session")?;
        Ok(())
    }

    /// All remote sessions.
    pub async fn remote_sessions(&self) -> Result<Vec<RemoteSessionRow>, DbError> {
        let found = sqlx::query("SELECT * FROM remote_sessions").fetch_all(&self.read).await;
        let row =
            |r: &SqliteRow| RemoteSessionRow { id: r.get("id"), endpoint: r.get("endpoint"), far_id: r.get("far_id") };
        Ok(found.during("list remote sessions")?.iter().map(row).collect())
    }
}
