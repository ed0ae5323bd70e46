//! API keys for the command line: works on the database directly, beside a running server or without one.

use crate::{
    app::{AppError, key_view, new_key},
    config::Config,
    db::Db,
};
use csb_api::{ErrorCode, KeySecretView, KeyView, Role};

async fn open(config: &Config) -> Result<Db, AppError> {
    let made = crate::make_data_dir(&config.data_dir);
    made.map_err(|e| AppError::new(ErrorCode::Internal, AppError::chain(&e)))?;
    // On the command line the caller is the operator: nothing is hidden.
    Db::open(&config.database).await.map_err(|e| AppError::new(ErrorCode::Internal, AppError::chain(&e)))
}

/// Makes an API key and stores it. The secret is returned this once.
pub async fn create_key(
    config: &Config,
    user_id: &str,
    role: Role,
    name: Option<&str>,
) -> Result<KeySecretView, AppError> {
    let db = open(config).await?;
    let made = new_key(&db, user_id, role, name).await;
    db.close().await;
    made.map(|(api_key, row)| KeySecretView { api_key, key: key_view(row) })
}

/// All keys, oldest first, without their secrets.
pub async fn list_keys(config: &Config) -> Result<Vec<KeyView>, AppError> {
    let db = open(config).await?;
    let keys = db.keys().await;
    db.close().await;
    Ok(keys?.into_iter().map(key_view).collect())
}

/// Revokes a key; a running server follows within two seconds.
pub async fn revoke_key(config: &Config, key_id: &str) -> Result<KeyView, AppError> {
    let db = open(config).await?;
    let row = db.revoke_key(key_id).await;
    db.close().await;
    row?.map(key_view).ok_or_else(|| AppError::new(ErrorCode::KeyNotFound, format!("there is no API key `{key_id}`")))
}
