//! API keys: only their SHA-256 is kept. A key has 256 random bits, so a slow hash would protect nothing.

use super::{Db, DbError, During, now_ms};
use csb_api::Role;
use sqlx::{Row, sqlite::SqliteRow};

/// A key to be stored.
#[derive(Debug, Clone)]
pub struct NewKey {
    /// Id for revoking.
    pub id: String,
    /// Hex SHA-256 of the key.
    pub hash: String,
    /// Whose key.
    pub user_id: String,
    /// Its role.
    pub role: Role,
    /// Label for people.
    pub name: Option<String>,
}

/// A stored key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRow {
    /// Id for revoking.
    pub id: String,
    /// Whose key.
    pub user_id: String,
    /// Its role.
    pub role: Role,
    /// Label for people.
    pub name: Option<String>,
    /// When it was made.
    pub created_ms: i64,
    /// When it was revoked.
    pub revoked_ms: Option<i64>,
}

fn row(row: &SqliteRow) -> Result<KeyRow, DbError> {
    let role: String = row.get("role");
    Ok(KeyRow {
        id: row.get("id"),
        user_id: row.get("user_id"),
        role: Role::parse(&role).ok_or(DbError::Row { what: "api_keys.role" })?,
        name: row.get("name"),
        created_ms: row.get("created_ms"),
        revoked_ms: row.get("revoked_ms"),
    })
}

impl Db {
    /// Stores a key.
    pub async fn add_key(&self, key: &NewKey) -> Result<KeyRow, DbError> {
        let created_ms = now_ms();
        sqlx::query("INSERT INTO api_keys (id, hash, user_id, role, name, created_ms) VALUES (?, ?, ?, ?, ?, ?)")
            .bind(&key.id)
            .bind(&key.hash)
            .bind(&key.user_id)
            .bind(key.role.as_str())
            .bind(&key.name)
            .bind(created_ms)
            .execute(&self.write)
            .await
            .during("store an API key")?;
        Ok(KeyRow {
            id: key.id.clone(),
            user_id: key.user_id.clone(),
            role: key.role,
            name: key.name.clone(),
            created_ms,
            revoked_ms: None,
        })
    }

    /// The key with this hash, revoked or not.
    pub async fn key_by_hash(&self, hash: &str) -> Result<Option<KeyRow>, DbError> {
        let found = sqlx::query("SELECT * FROM api_keys WHERE hash = ?").bind(hash).fetch_optional(&self.read).await;
        found.during("look up an API key")?.as_ref().map(row).transpose()
    }

    /// The key with this id, revoked or not.
    pub async fn key_by_id(&self, id: &str) -> Result<Option<KeyRow>, DbError> {
        let found = sqlx::query("SELECT * FROM api_keys WHERE id = ?").bind(id).fetch_optional(&self.read).await;
        found.during("look up an API key")?.as_ref().map(row).transpose()
    }

    /// All keys, oldest first.
    pub async fn keys(&self) -> Result<Vec<KeyRow>, DbError> {
        let found = sqlx::query("SELECT * FROM api_keys ORDER BY created_ms, id").fetch_all(&self.read).await;
        found.during("list API keys")?.iter().map(row).collect()
    }

    /// Revokes a key; none when there is no such key. A second time keeps the first time's date.
    pub async fn revoke_key(&self, id: &str) -> Result<Option<KeyRow>, DbError> {
        sqlx::query("UPDATE api_keys SET revoked_ms = ? WHERE id = ? AND revoked_ms IS NULL")
            .bind(now_ms())
            .bind(id)
            .execute(&self.write)
            .await
            .during("revoke an API key")?;
        self.key_by_id(id).await
    }

    /// Whether an admin's key was ever stored.
    pub async fn has_admin_key(&self) -> Result<bool, DbError> {
        let found = sqlx::query("SELECT 1 FROM api_keys WHERE role = 'admin' LIMIT 1").fetch_optional(&self.read).await;
        Ok(found.during("look for an admin key")?.is_some())
    }
}
