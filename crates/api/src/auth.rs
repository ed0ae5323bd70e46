//! Tokens and API keys.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

/// What a caller may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Own objects only.
    User,
    /// Every user's objects, and API keys.
    Admin,
}

impl Role {
    /// The role's only spelling.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Admin => "admin",
        }
    }

    /// The role with this spelling.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "user" => Some(Self::User),
            "admin" => Some(Self::Admin),
            _ => None,
        }
    }
}

/// Asks for a token.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenRequest {
    /// Whose token; default: the API key's user (with `--dev`: `dev`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "test", max_length = 128)]
    pub user_id: Option<String>,
    /// Role of the token; default: `user`. Never above the API key's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
}

/// A token.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
pub struct TokenView {
    /// For `Authorization: Bearer …`.
    pub access_token: String,
    /// Always `bearer`.
    #[schema(example = "bearer")]
    pub token_type: String,
    /// Seconds until it expires.
    pub expires_in: u64,
    /// Whose it is.
    pub user_id: String,
    /// Its role.
    pub role: Role,
}

/// Makes an API key. Admins only.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct KeyRequest {
    /// Whose key.
    #[schema(max_length = 128)]
    pub user_id: String,
    /// Its role; default `user`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// A label for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 128)]
    pub name: Option<String>,
}

/// An API key without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KeyView {
    /// Id for revoking.
    pub key_id: String,
    /// Whose key.
    pub user_id: String,
    /// Its role.
    pub role: Role,
    /// Label for people.
    pub name: Option<String>,
    /// When it was made.
    #[serde(with = "crate::rfc3339")]
    pub created_at: OffsetDateTime,
    /// When it was revoked.
    #[serde(with = "crate::rfc3339::option", default)]
    pub revoked_at: Option<OffsetDateTime>,
}

/// A new API key. The secret is shown this once; the server keeps only its hash.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
pub struct KeySecretView {
    /// For `X-API-Key`.
    #[schema(example = "csb_…")]
    pub api_key: String,
    /// The rest.
    #[serde(flatten)]
    pub key: KeyView,
}
