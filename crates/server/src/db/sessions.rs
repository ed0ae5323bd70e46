//! Sessions: what a user asked for, and the sandbox bound to it now.

use super::{
    After, Db, DbError, During, KeyAnswer, NewSandbox,
    idempotency::write_answer,
    now_ms,
    sandboxes::{insert, push_after},
};
use csb_api::{SandboxRequest, SessionState};
use sqlx::{QueryBuilder, Row, Sqlite, sqlite::SqliteRow};

/// A stored session.
#[derive(Debug, Clone, PartialEq)]
pub struct SessionRow {
    /// Its id.
    pub id: String,
    /// Whose it is.
    pub user_id: String,
    /// State.
    pub state: SessionState,
    /// The sandbox bound to it.
    pub sandbox_id: Option<String>,
    /// What each of its sandboxes is asked to be.
    pub request: SandboxRequest,
    /// Template its sandboxes start from.
    pub template: String,
    /// Something its user should know.
    pub note: Option<String>,
    /// Lifetime asked for.
    pub timeout_ms: Option<i64>,
    /// When it was made.
    pub created_ms: i64,
    /// When it last changed or ran code.
    pub updated_ms: i64,
    /// When it closes.
    pub expires_ms: Option<i64>,
}

fn row(row: &SqliteRow) -> Result<SessionRow, DbError> {
    let (state, request): (String, String) = (row.get("state"), row.get("request"));
    Ok(SessionRow {
        id: row.get("id"),
        user_id: row.get("user_id"),
        state: SessionState::parse(&state).ok_or(DbError::Row { what: "sessions.state" })?,
        sandbox_id: row.get("sandbox_id"),
        request: serde_json::from_str(&request).map_err(|_| DbError::Row { what: "sessions.request" })?,
        template: row.get("template"),
        note: row.get("note"),
        timeout_ms: row.get("timeout_ms"),
        created_ms: row.get("created_ms"),
        updated_ms: row.get("updated_ms"),
        expires_ms: row.get("expires_ms"),
    })
}

impl Db {
    /// Stores a session, its sandbox and the answer to the request that asked for them, all at once.
    pub async fn add_session(
        &self,
        s: &SessionRow,
        sandbox: &NewSandbox,
        answer: Option<&KeyAnswer>,
    ) -> Result<(), DbError> {
        let mut tx = self.write.begin().await.during("store a session")?;
        insert(&mut tx, sandbox).await?;
        let request = serde_json::to_string(&s.request).map_err(|_| DbError::Row { what: "sessions.request" })?;
        sqlx::query(
            "INSERT INTO sessions (id, user_id, state, sandbox_id, request, template, note, timeout_ms, created_ms, \
             updated_ms, expires_ms) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(&s.id)
        .bind(&s.user_id)
        .bind(s.state.as_str())
        .bind(&s.sandbox_id)
        .bind(request)
        .bind(&s.template)
        .bind(&s.note)
        .bind(s.timeout_ms)
        .bind(s.created_ms)
        .bind(s.updated_ms)
        .bind(s.expires_ms)
        .execute(&mut *tx)
        .await
        .during("store a session")?;
        write_answer(&mut tx, answer).await?;
        tx.commit().await.during("store a session")
    }

    /// A session.
    pub async fn session(&self, id: &str) -> Result<Option<SessionRow>, DbError> {
        let found = sqlx::query("SELECT * FROM sessions WHERE id = ?").bind(id).fetch_optional(&self.read).await;
        found.during("look up a session")?.as_ref().map(row).transpose()
    }

    /// Binds a session that is not closed to a sandbox; false when it is closed or gone.
    pub async fn bind_session(&self, id: &str, sandbox_id: &str, note: Option<&str>) -> Result<bool, DbError> {
        let done = sqlx::query(
            "UPDATE sessions SET sandbox_id = ?, state = 'running', note = ?, updated_ms = ? \
             WHERE id = ? AND state <> 'closed'",
        )
        .bind(sandbox_id)
        .bind(note)
        .bind(now_ms())
        .bind(id)
        .execute(&self.write)
        .await
        .during("bind a session")?;
        Ok(done.rows_affected() == 1)
    }

    /// Records a new state of a session that is not closed.
    pub async fn set_session_state(&self, id: &str, state: SessionState) -> Result<(), DbError> {
        sqlx::query("UPDATE sessions SET state = ?, updated_ms = ? WHERE id = ? AND state <> 'closed'")
            .bind(state.as_str())
            .bind(now_ms())
            .bind(id)
            .execute(&self.write)
            .await
            .during("record a session's state")?;
        Ok(())
    }

    /// Closes a session, with a note why.
    pub async fn close_session(&self, id: &str, note: &str) -> Result<(), DbError> {
        sqlx::query(
            "UPDATE sessions SET state = 'closed', note = ?, updated_ms = ? WHERE id = ? AND state <> 'closed'",
        )
        .bind(note)
        .bind(now_ms())
        .bind(id)
        .execute(&self.write)
        .await
        .during("close a session")?;
        Ok(())
    }

    /// Records that a session was used now.
    pub async fn touch_session(&self, id: &str) -> Result<(), DbError> {
        sqlx::query("UPDATE sessions SET updated_ms = ? WHERE id = ?")
            .bind(now_ms())
            .bind(id)
            .execute(&self.write)
            .await
            .during("record a session's use")?;
        Ok(())
    }

    /// Forgets a session.
    pub async fn remove_session(&self, id: &str) -> Result<(), DbError> {
        let done = sqlx::query("DELETE FROM sessions WHERE id = ?").bind(id).execute(&self.write).await;
        done.during("remove a session")?;
        Ok(())
    }

    /// Sessions, newest first.
    pub async fn list_sessions(
        &self,
        user_id: Option<&str>,
        after: Option<&After>,
        limit: u32,
    ) -> Result<Vec<SessionRow>, DbError> {
        let mut query = QueryBuilder::<Sqlite>::new("SELECT * FROM sessions WHERE 1 = 1");
        if let Some(user_id) = user_id {
            query.push(" AND user_id = ").push_bind(user_id);
        }
        push_after(&mut query, after);
        query.push(" ORDER BY created_ms DESC, id DESC LIMIT ").push_bind(i64::from(limit));
        query.build().fetch_all(&self.read).await.during("list sessions")?.iter().map(row).collect()
    }

    /// Sessions whose lifetime has passed and that are not closed.
    pub async fn expired_sessions(&self, now_ms: i64) -> Result<Vec<SessionRow>, DbError> {
        let found = sqlx::query("SELECT * FROM sessions WHERE state <> 'closed' AND expires_ms <= ?")
            .bind(now_ms)
            .fetch_all(&self.read)
            .await;
        found.during("list expired sessions")?.iter().map(row).collect()
    }

    /// Forgets sessions that closed before `updated_ms`.
    pub async fn forget_sessions(&self, updated_ms: i64) -> Result<(), DbError> {
        sqlx::query("DELETE FROM sessions WHERE state = 'closed' AND updated_ms < ?")
            .bind(updated_ms)
            .execute(&self.write)
            .await
            .during("forget closed sessions")?;
        Ok(())
    }
}
