//! Who owns which sandbox, and when it ends. What a sandbox is and does, the node knows.

use super::{After, Db, DbError, During, KeyAnswer, idempotency::write_answer, now_ms};
use csb_api::SandboxState;
use sqlx::{QueryBuilder, Row, Sqlite, SqliteConnection, sqlite::SqliteRow};

/// A sandbox to be stored.
#[derive(Debug, Clone)]
pub struct NewSandbox {
    /// Its id.
    pub id: String,
    /// Whose it is.
    pub user_id: String,
    /// The session it is bound to.
    pub session_id: Option<String>,
    /// When it was made.
    pub created_ms: i64,
    /// When it is to be released.
    pub expires_ms: Option<i64>,
}

/// A stored sandbox that has not ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxRow {
    /// Its id.
    pub id: String,
    /// Whose it is.
    pub user_id: String,
    /// The session it is bound to.
    pub session_id: Option<String>,
    /// When it was made.
    pub created_ms: i64,
    /// When it is to be released.
    pub expires_ms: Option<i64>,
    /// The state last recorded.
    pub state: String,
}

fn row(row: &SqliteRow) -> SandboxRow {
    SandboxRow {
        id: row.get("id"),
        user_id: row.get("user_id"),
        session_id: row.get("session_id"),
        created_ms: row.get("created_ms"),
        expires_ms: row.get("expires_ms"),
        state: row.get("state"),
    }
}

pub(super) async fn insert(connection: &mut SqliteConnection, new: &NewSandbox) -> Result<(), DbError> {
    sqlx::query(
        "INSERT INTO sandboxes (id, user_id, state, session_id, created_ms, expires_ms) \
         VALUES (?, ?, 'running', ?, ?, ?)",
    )
    .bind(&new.id)
    .bind(&new.user_id)
    .bind(&new.session_id)
    .bind(new.created_ms)
    .bind(new.expires_ms)
    .execute(connection)
    .await
    .during("store a sandbox")?;
    Ok(())
}

impl Db {
    /// Stores a running sandbox and, at once with it, the answer to the request that asked for it.
    pub async fn add_sandbox(&self, new: &NewSandbox, answer: Option<&KeyAnswer>) -> Result<(), DbError> {
        let mut tx = self.write.begin().await.during("store a sandbox")?;
        insert(&mut tx, new).await?;
        write_answer(&mut tx, answer).await?;
        tx.commit().await.during("store a sandbox")
    }

    /// A sandbox that has not ended.
    pub async fn sandbox(&self, id: &str) -> Result<Option<SandboxRow>, DbError> {
        let found = sqlx::query("SELECT * FROM sandboxes WHERE id = ? AND state <> 'gone'")
            .bind(id)
            .fetch_optional(&self.read)
            .await;
        Ok(found.during("look up a sandbox")?.as_ref().map(row))
    }

    /// Whose a sandbox is or was.
    pub async fn sandbox_owner(&self, id: &str) -> Result<Option<String>, DbError> {
        let found = sqlx::query("SELECT user_id FROM sandboxes WHERE id = ?").bind(id).fetch_optional(&self.read).await;
        Ok(found.during("look up a sandbox's owner")?.map(|r| r.get("user_id")))
    }

    /// Records a new state of a sandbox that has not ended.
    pub async fn set_sandbox_state(&self, id: &str, state: SandboxState) -> Result<(), DbError> {
        sqlx::query("UPDATE sandboxes SET state = ? WHERE id = ? AND state <> 'gone' AND state <> 'releasing'")
            .bind(state.as_str())
            .bind(id)
            .execute(&self.write)
            .await
            .during("record a sandbox's state")?;
        Ok(())
    }

    /// Records that a sandbox has ended, and unbinds its session.
    pub async fn end_sandbox(&self, id: &str) -> Result<(), DbError> {
        let mut tx = self.write.begin().await.during("record a sandbox's end")?;
        sqlx::query("UPDATE sandboxes SET state = 'gone', ended_ms = ? WHERE id = ? AND state <> 'gone'")
            .bind(now_ms())
            .bind(id)
            .execute(&mut *tx)
            .await
            .during("record a sandbox's end")?;
        sqlx::query("UPDATE sessions SET sandbox_id = NULL WHERE sandbox_id = ?")
            .bind(id)
            .execute(&mut *tx)
            .await
            .during("unbind a session")?;
        tx.commit().await.during("record a sandbox's end")
    }

    /// Sandboxes that have not ended, newest first.
    pub async fn list_sandboxes(
        &self,
        user_id: Option<&str>,
        state: Option<SandboxState>,
        after: Option<&After>,
        limit: u32,
    ) -> Result<Vec<SandboxRow>, DbError> {
        let mut query = QueryBuilder::<Sqlite>::new("SELECT * FROM sandboxes WHERE ");
        match state {
            Some(state) => query.push("state = ").push_bind(state.as_str()),
            None => query.push("state IN ('running', 'paused', 'releasing')"),
        };
        if let Some(user_id) = user_id {
            query.push(" AND user_id = ").push_bind(user_id);
        }
        push_after(&mut query, after);
        query.push(" ORDER BY created_ms DESC, id DESC LIMIT ").push_bind(i64::from(limit));
        let found = query.build().fetch_all(&self.read).await.during("list sandboxes")?;
        Ok(found.iter().map(row).collect())
    }

    /// Sandboxes that have not ended, of every user, by their ids: the first `limit` after one.
    pub async fn live_sandboxes(&self, after: &str, limit: u32) -> Result<Vec<SandboxRow>, DbError> {
        let query = "SELECT * FROM sandboxes WHERE state IN ('running', 'paused', 'releasing') AND id > ? \
                     ORDER BY id LIMIT ?";
        let found = sqlx::query(query).bind(after).bind(i64::from(limit)).fetch_all(&self.read).await;
        Ok(found.during("list live sandboxes")?.iter().map(row).collect())
    }

    /// Ids of sandboxes whose release was begun.
    pub async fn releasing_sandboxes(&self) -> Result<Vec<String>, DbError> {
        let found = sqlx::query("SELECT id FROM sandboxes WHERE state = 'releasing'").fetch_all(&self.read).await;
        Ok(found.during("list releasing sandboxes")?.iter().map(|r| r.get("id")).collect())
    }

    /// Ids of sandboxes whose lifetime has passed.
    pub async fn expired_sandboxes(&self, now_ms: i64) -> Result<Vec<String>, DbError> {
        let found = sqlx::query("SELECT id FROM sandboxes WHERE state IN ('running', 'paused') AND expires_ms <= ?")
            .bind(now_ms)
            .fetch_all(&self.read)
            .await;
        Ok(found.during("list expired sandboxes")?.iter().map(|r| r.get("id")).collect())
    }

    /// Forgets sandboxes that ended before `ended_ms`, and what is kept of their execs.
    pub async fn forget_sandboxes(&self, ended_ms: i64) -> Result<(), DbError> {
        sqlx::query("DELETE FROM sandboxes WHERE state = 'gone' AND ended_ms < ?")
            .bind(ended_ms)
            .execute(&self.write)
            .await
            .during("forget ended sandboxes")?;
        sqlx::query("DELETE FROM handler_results WHERE created_ms < ?")
            .bind(ended_ms)
            .execute(&self.write)
            .await
            .during("forget handlers' results")?;
        Ok(())
    }

    /// Keeps what a handler returned, as JSON.
    pub async fn put_handler_result(&self, exec_id: &str, sandbox_id: &str, answer: &str) -> Result<(), DbError> {
        sqlx::query("INSERT INTO handler_results (exec_id, sandbox_id, answer, created_ms) VALUES (?, ?, ?, ?)")
            .bind(exec_id)
            .bind(sandbox_id)
            .bind(answer)
            .bind(now_ms())
            .execute(&self.write)
            .await
            .during("keep a handler's result")?;
        Ok(())
    }

    /// What a handler returned, as JSON.
    pub async fn handler_result(&self, exec_id: &str) -> Result<Option<String>, DbError> {
        let found = sqlx::query("SELECT answer FROM handler_results WHERE exec_id = ?")
            .bind(exec_id)
            .fetch_optional(&self.read)
            .await;
        Ok(found.during("look up a handler's result")?.map(|r| r.get("answer")))
    }
}

pub(super) fn push_after(query: &mut QueryBuilder<Sqlite>, after: Option<&After>) {
    if let Some(after) = after {
        query.push(" AND (created_ms < ").push_bind(after.created_ms);
        query.push(" OR (created_ms = ").push_bind(after.created_ms);
        query.push(" AND id < ").push_bind(after.id.clone()).push("))");
    }
}
