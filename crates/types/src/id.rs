//! Ids: one spelling each, parsed at the edge.
//!
//! An id is a two-letter prefix and 20 characters of `[a-z2-7]` (100 random bits), joined by `-`, so that it is a
//! valid DNS label, file name and cgroup name.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
const BODY: usize = 20;

/// Why a text is not an id.
#[derive(Debug, thiserror::Error, PartialEq, Eq, Clone)]
#[error("`{text}` is not an id of the form `{prefix}-` and {BODY} characters of a-z2-7")]
pub struct IdError {
    text: String,
    prefix: &'static str,
}

fn random_body() -> String {
    let bits: u128 = rand::random();
    (0..BODY).map(|i| ALPHABET[(bits >> (i * 5)) as usize & 31] as char).collect()
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// A new random id.
            pub fn random() -> Self {
                Self(format!(concat!($prefix, "-{}"), random_body()))
            }

            /// The id's only spelling.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                let body = text.strip_prefix(concat!($prefix, "-"));
                match body {
                    Some(b) if b.len() == BODY && b.bytes().all(|c| ALPHABET.contains(&c)) => Ok(Self(text.to_owned())),
                    _ => Err(IdError { text: text.chars().take(64).collect(), prefix: $prefix }),
                }
            }
        }
        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                text.parse()
            }
        }
        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

id!(
    /// A sandbox: one confined process tree with its files. `sb-…`.
    SandboxId, "sb"
);
id!(
    /// One command in a sandbox. `ex-…`.
    ExecId, "ex"
);
id!(
    /// What a user keeps: a workspace and state that outlive the sandbox bound to it. `se-…`.
    SessionId, "se"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_random_id_parses_as_itself() {
        let id = SandboxId::random();
        assert_eq!(id.as_str().parse::<SandboxId>().unwrap(), id);
    }

    #[test]
    fn anything_but_the_one_spelling_is_refused() {
        let good = SandboxId::random().to_string();
        for bad in [
            "".into(),
            "sb-".into(),
            "../../etc".into(),
            good.to_uppercase(),
            good.replace("sb-", "ex-"),
            format!("{good}a"),
            format!("{good}\0"),
            format!(" {good}"),
        ] {
            assert!(bad.parse::<SandboxId>().is_err(), "{bad:?}");
        }
    }
}
