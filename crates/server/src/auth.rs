//! Owns who a caller is: tokens (JWT, HS256) and API keys.
//! Knows nothing of what a caller may do with which object.

mod jwt;
mod key;
mod secret;

pub use jwt::Jwt;
pub use key::{generate as generate_key, hash as hash_key};
pub use secret::{SecretError, load_or_make, write_private};

use crate::db::{Db, DbError, KeyRow};
use csb_api::Role;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// How long a key's row is trusted without asking the database again, and so how late a revocation may work.
const KEY_CACHE: Duration = Duration::from_secs(2);
/// Bounds the cache against guessing of keys.
const KEY_CACHE_ENTRIES: usize = 10_000;

/// Who calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The user.
    pub user_id: Arc<str>,
    /// What they may do.
    pub role: Role,
    /// The API key behind the call, if one is.
    pub key_id: Option<String>,
}

impl Identity {
    /// Whether an object of `owner` may be seen.
    pub fn may_see(&self, owner: &str) -> bool {
        self.role == Role::Admin || *self.user_id == *owner
    }
}

/// Why a caller is nobody.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// No credential was sent.
    #[error("no credential was sent")]
    Missing,
    /// It is not readable as a credential.
    #[error("{0}")]
    Malformed(&'static str),
    /// Its signature is wrong, or the key is unknown or revoked.
    #[error("{0}")]
    Invalid(&'static str),
    /// It was good once.
    #[error("the token has expired")]
    Expired,
    /// The database does not answer.
    #[error(transparent)]
    Db(#[from] DbError),
}

/// Finds out who calls.
#[derive(Debug)]
pub struct Authenticator {
    jwt: Jwt,
    db: Db,
    /// Rows by hash and by id.
    cache: Mutex<HashMap<String, (Instant, Option<KeyRow>)>>,
}

impl Authenticator {
    /// With the key that signs tokens.
    pub fn new(jwt: Jwt, db: Db) -> Self {
        Self { jwt, db, cache: Mutex::default() }
    }

    /// The caller behind these header values.
    pub async fn authenticate(
        &self,
        authorization: Option<&str>,
        api_key: Option<&str>,
    ) -> Result<Identity, AuthError> {
        match (authorization, api_key) {
            (None, None) => Err(AuthError::Missing),
            (_, Some(key)) => self.by_key(key).await,
            (Some(value), None) => {
                let token = value
                    .split_once(' ')
                    .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
                    .map(|(_, token)| token.trim())
                    .ok_or(AuthError::Malformed("the Authorization header is not of the form `Bearer <token>`"))?;
                let identity = self.jwt.verify(token)?;
                if let Some(id) = &identity.key_id
                    && self.row(id, Lookup::Id).await?.is_none_or(|row| row.revoked_ms.is_some())
                {
                    return Err(AuthError::Invalid("the API key behind this token was revoked"));
                }
                Ok(identity)
            }
        }
    }

    async fn by_key(&self, key: &str) -> Result<Identity, AuthError> {
        if !key::well_formed(key) {
            return Err(AuthError::Malformed("the X-API-Key header is not of the form `csb_<64 hex digits>`"));
        }
        let row = self.row(&key::hash(key), Lookup::Hash).await?;
        match row {
            Some(row) if row.revoked_ms.is_none() => {
                Ok(Identity { user_id: row.user_id.into(), role: row.role, key_id: Some(row.id) })
            }
            _ => Err(AuthError::Invalid("the API key is unknown or was revoked")),
        }
    }

    /// A token for `identity`, good for the configured time.
    pub fn issue(&self, identity: &Identity) -> Result<String, AuthError> {
        self.jwt.sign(identity)
    }

    /// Forgets what is cached, so that a revocation through this server works at once.
    pub fn forget_keys(&self) {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    async fn row(&self, text: &str, by: Lookup) -> Result<Option<KeyRow>, DbError> {
        let now = Instant::now();
        {
            let cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((at, row)) = cache.get(text)
                && now.duration_since(*at) < KEY_CACHE
            {
                return Ok(row.clone());
            }
        }
        let row = match by {
            Lookup::Hash => self.db.key_by_hash(text).await?,
            Lookup::Id => self.db.key_by_id(text).await?,
        };
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if cache.len() >= KEY_CACHE_ENTRIES {
            cache.clear();
        }
        cache.insert(text.to_owned(), (now, row.clone()));
        Ok(row)
    }
}

#[derive(Clone, Copy)]
enum Lookup {
    Hash,
    Id,
}

/// Whether a text can be a user's id: it stands in logs, metrics and URLs.
pub fn user_id_is_valid(text: &str) -> bool {
    (1..=128).contains(&text.len()) && text.bytes().all(|c| c.is_ascii_alphanumeric() || b"._-@:+".contains(&c))
}

#[cfg(test)]
mod tests;
