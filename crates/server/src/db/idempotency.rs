//! Answers to requests that carried an `Idempotency-Key`.
//!
//! A key is claimed before anything is done and answered afterwards. A claim without an answer belongs to a request
//! under way or, after a restart, to one whose outcome nobody was told. Of those, claims to make a sandbox are forgotten
//! at start, for what they may have left is found by reconciliation; claims to start a command stay, for it may have run.

use super::{Db, DbError, During, now_ms};
use sqlx::{Row, SqliteConnection};

/// A stored answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// HTTP status.
    pub status: u16,
    /// Body, JSON.
    pub answer: String,
}

/// What became of a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// The key is the caller's now; it answers or abandons it.
    Ours,
    /// The same request was answered before.
    Answered(Stored),
    /// The same request is under way since then, ms since 1970; or was, when a server died.
    UnderWay(i64),
    /// The key was used with another request.
    Conflict,
}

/// What the request of a claim to start a command begins with.
pub const EXEC_CLAIM: &str = "exec:";

/// A stored answer and the claim it is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyAnswer {
    /// Whose key.
    pub user_id: String,
    /// The key.
    pub key: String,
    /// The answer.
    pub stored: Stored,
}

/// Answers a claimed key in the transaction that stores what the request made: after a crash both are there or neither.
pub(super) async fn write_answer(connection: &mut SqliteConnection, answer: Option<&KeyAnswer>) -> Result<(), DbError> {
    let Some(answer) = answer else { return Ok(()) };
    sqlx::query("UPDATE idempotency SET status = ?, answer = ? WHERE user_id = ? AND idem_key = ?")
        .bind(i64::from(answer.stored.status))
        .bind(&answer.stored.answer)
        .bind(&answer.user_id)
        .bind(&answer.key)
        .execute(connection)
        .await
        .during("answer an idempotency key")?;
    Ok(())
}

impl Db {
    /// Claims a key for a request, told apart by a hash of its route and body.
    pub async fn claim_key(&self, user_id: &str, key: &str, request: &str) -> Result<Claim, DbError> {
        let inserted =
            sqlx::query("INSERT INTO idempotency (user_id, idem_key, request, created_ms) VALUES (?, ?, ?, ?)")
                .bind(user_id)
                .bind(key)
                .bind(request)
                .bind(now_ms())
                .execute(&self.write)
                .await;
        match inserted {
            Ok(_) => return Ok(Claim::Ours),
            Err(sqlx::Error::Database(e)) if e.is_unique_violation() => {}
            Err(source) => return Err(DbError::Query { what: "claim an idempotency key", source }),
        }
        let found = sqlx::query(
            "SELECT request, status, answer, created_ms FROM idempotency WHERE user_id = ? AND idem_key = ?",
        )
        .bind(user_id)
        .bind(key)
        .fetch_optional(&self.read)
        .await
        .during("look up an idempotency key")?;
        // Gone between the two statements: its owner failed and let it go. The caller asks again.
        let Some(found) = found else { return Ok(Claim::UnderWay(now_ms())) };
        if found.get::<String, _>("request") != request {
            return Ok(Claim::Conflict);
        }
        match (found.get::<Option<i64>, _>("status"), found.get::<Option<String>, _>("answer")) {
            (Some(status), Some(answer)) => Ok(Claim::Answered(Stored { status: status as u16, answer })),
            _ => Ok(Claim::UnderWay(found.get("created_ms"))),
        }
    }

    /// Answers a claimed key.
    pub async fn answer_key(&self, answer: &KeyAnswer) -> Result<(), DbError> {
        let mut connection = self.write.acquire().await.during("answer an idempotency key")?;
        write_answer(&mut connection, Some(answer)).await
    }

    /// Lets a claimed key go: the request failed, and may be tried again under it.
    pub async fn abandon_key(&self, user_id: &str, key: &str) -> Result<(), DbError> {
        sqlx::query("DELETE FROM idempotency WHERE user_id = ? AND idem_key = ? AND status IS NULL")
            .bind(user_id)
            .bind(key)
            .execute(&self.write)
            .await
            .during("let an idempotency key go")?;
        Ok(())
    }

    /// Forgets claims without an answer unless a command may have run for them, and answers older than `created_ms`.
    pub async fn forget_keys(&self, created_ms: i64, unanswered: bool) -> Result<(), DbError> {
        sqlx::query(
            "DELETE FROM idempotency WHERE created_ms < ? OR (? = 1 AND status IS NULL AND substr(request, 1, ?) <> ?)",
        )
        .bind(created_ms)
        .bind(i64::from(unanswered))
        .bind(EXEC_CLAIM.len() as i64)
        .bind(EXEC_CLAIM)
        .execute(&self.write)
        .await
        .during("forget idempotency keys")?;
        Ok(())
    }
}
