//! Owns what outlives the process: keys, who owns which sandbox, sessions, answers to idempotent requests.
//! The only place with SQL. Knows nothing of HTTP or of running sandboxes.
//!
//! Statements keep to what SQLite, PostgreSQL and MariaDB share, so that the other two join behind the same methods.

mod idempotency;
mod keys;
mod remotes;
mod sandboxes;
mod sessions;

pub use idempotency::{Claim, EXEC_CLAIM, KeyAnswer, Stored};
pub use keys::{KeyRow, NewKey};
pub use remotes::{RemoteRow, RemoteSessionRow};
pub use sandboxes::{NewSandbox, SandboxRow};
pub use sessions::SessionRow;

use sqlx::{
    ConnectOptions, Connection, SqliteConnection, SqlitePool,
    migrate::Migrator,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};
use std::{os::unix::fs::OpenOptionsExt, path::Path, time::Duration};

static MIGRATIONS: Migrator = sqlx::migrate!("./migrations");

/// A failed access to the database.
#[derive(Debug, thiserror::Error)]
pub enum DbError {
    /// It cannot be opened or created.
    #[error("cannot open database `{path}`")]
    Open {
        /// Which.
        path: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A statement failed.
    #[error("database: {what}")]
    Query {
        /// Doing what.
        what: &'static str,
        /// Why.
        source: sqlx::Error,
    },
    /// A row that this build did not write.
    #[error("database: {what} is not readable")]
    Row {
        /// Which column.
        what: &'static str,
    },
}

trait During<T> {
    fn during(self, what: &'static str) -> Result<T, DbError>;
}

impl<T> During<T> for Result<T, sqlx::Error> {
    fn during(self, what: &'static str) -> Result<T, DbError> {
        self.map_err(|source| DbError::Query { what, source })
    }
}

/// The database. Clones share it.
#[derive(Clone, Debug)]
pub struct Db {
    /// SQLite has one writer at a time: queueing for one connection is cheaper than retrying on `SQLITE_BUSY`.
    write: SqlitePool,
    read: SqlitePool,
}

impl Db {
    /// Opens or creates the database file (0600) and brings its tables up to date.
    pub async fn open(path: &Path) -> Result<Self, DbError> {
        let fail = |source: Box<dyn std::error::Error + Send + Sync>| DbError::Open {
            path: path.display().to_string(),
            source,
        };
        // Created by us first: SQLite would give it the umask's rights, and its side files take the file's.
        let made = std::fs::OpenOptions::new().append(true).create(true).mode(0o600).open(path);
        made.map_err(|e| fail(e.into()))?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            .journal_mode(SqliteJournalMode::Wal)
            // A crash of the process loses nothing; a crash of the host may lose the last commits, and with it went
            // the sandboxes that they were about.
            .synchronous(SqliteSynchronous::Normal)
            .foreign_keys(true)
            .busy_timeout(Duration::from_secs(10))
            .disable_statement_logging();
        let pool = |most| SqlitePoolOptions::new().max_connections(most).acquire_timeout(Duration::from_secs(20));
        let write = pool(1).after_release(|connection, _| Box::pin(is_outside_transactions(connection)));
        let write = write.connect_with(options.clone()).await.map_err(|e| fail(e.into()))?;
        MIGRATIONS.run(&write).await.map_err(|e| fail(e.into()))?;
        let read = pool(4).connect_with(options).await.map_err(|e| fail(e.into()))?;
        Ok(Self { write, read })
    }

    /// Waits for statements under way and closes all connections.
    pub async fn close(&self) {
        self.read.close().await;
        self.write.close().await;
    }
}

/// Whether a connection that is given back has ended its transaction; one that has not is closed, and another made.
///
/// SQLite ends a transaction by itself where the disk is full. Of that sqlx knows nothing: its count of transactions stays one too
/// high, and with the next error it leaves one open, in which all later writes would be done and none kept.
async fn is_outside_transactions(connection: &mut SqliteConnection) -> Result<bool, sqlx::Error> {
    // Done after a rollback that is under way.
    connection.ping().await?;
    Ok(!connection.is_in_transaction())
}

/// Milliseconds since 1970.
pub fn now_ms() -> i64 {
    (time::OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000) as i64
}

/// Where a page of a list begins: behind this row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct After {
    /// Its time.
    pub created_ms: i64,
    /// Its id.
    pub id: String,
}

#[cfg(test)]
mod tests;
