//! Tokens: JWT signed with HS256 and nothing else, so that a forged header cannot choose the algorithm.

use super::{AuthError, Identity};
use csb_api::Role;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, encode, errors::ErrorKind};
use serde::{Deserialize, Serialize};
use std::{fmt, time::Duration};

const ISSUER: &str = "csb";

#[derive(Serialize, Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    role: Role,
    iat: u64,
    exp: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<String>,
}

/// Signs and verifies tokens.
pub struct Jwt {
    sign: EncodingKey,
    verify: DecodingKey,
    rules: Validation,
    ttl: Duration,
}

impl fmt::Debug for Jwt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Jwt").field("ttl", &self.ttl).finish_non_exhaustive()
    }
}

impl Jwt {
    /// With a secret and how long tokens are good.
    pub fn new(secret: &[u8], ttl: Duration) -> Self {
        let mut rules = Validation::new(Algorithm::HS256);
        rules.set_issuer(&[ISSUER]);
        rules.set_required_spec_claims(&["exp", "iss", "sub"]);
        rules.validate_nbf = true;
        rules.leeway = 0;
        Self { sign: EncodingKey::from_secret(secret), verify: DecodingKey::from_secret(secret), rules, ttl }
    }

    /// How long a token is good.
    pub fn ttl(&self) -> Duration {
        self.ttl
    }

    /// A token for `identity`.
    pub fn sign(&self, identity: &Identity) -> Result<String, AuthError> {
        let now = jsonwebtoken::get_current_timestamp();
        let claims = Claims {
            iss: ISSUER.into(),
            sub: identity.user_id.to_string(),
            role: identity.role,
            iat: now,
            exp: now + self.ttl.as_secs(),
            key: identity.key_id.clone(),
        };
        encode(&Header::new(Algorithm::HS256), &claims, &self.sign)
            .map_err(|_| AuthError::Invalid("the token could not be signed"))
    }

    /// Whose token it is.
    pub fn verify(&self, token: &str) -> Result<Identity, AuthError> {
        let claims = decode::<Claims>(token, &self.verify, &self.rules).map_err(|e| match e.kind() {
            ErrorKind::ExpiredSignature => AuthError::Expired,
            _ => AuthError::Invalid("the token is not valid here"),
        })?;
        if !super::user_id_is_valid(&claims.claims.sub) {
            return Err(AuthError::Invalid("the token names no valid user"));
        }
        Ok(Identity { user_id: claims.claims.sub.into(), role: claims.claims.role, key_id: claims.claims.key })
    }
}
