//! Owns how other servers are reached: which ones there are, one request to one of them, which sandboxes are theirs.
//! Knows nothing of what callers may do.

mod endpoint;
mod headers;
mod known;

pub use endpoint::{Ask, Endpoint, FORWARDED, FarError, Payload};
pub use headers::{answered, asked};
pub use known::{Far, FarSession, Known};

use crate::{
    app::AppError,
    config::{Config, base_address},
};
use csb_api::ErrorCode;
use std::{sync::Arc, time::Duration};

/// When a caller is told to try again.
pub const RETRY: Duration = Duration::from_secs(5);

/// All configured servers, and what is theirs.
#[derive(Debug)]
pub struct Remotes {
    endpoints: Vec<Arc<Endpoint>>,
    /// Sandboxes and sessions of theirs.
    pub known: Known,
}

impl Remotes {
    /// As configured. Connects to nothing.
    pub fn new(config: &Config) -> Result<Self, reqwest::Error> {
        let endpoints = config.remotes.iter().map(|server| Endpoint::new(server, config.remote_timeout).map(Arc::new));
        Ok(Self { endpoints: endpoints.collect::<Result<_, _>>()?, known: Known::default() })
    }

    /// The server with this address, as long as it is configured.
    pub fn at(&self, url: &str) -> Option<Arc<Endpoint>> {
        self.endpoints.iter().find(|endpoint| endpoint.url == url).cloned()
    }

    /// The servers that a request names by address or name, in its order; all, where it names none. What is not configured is
    /// refused before anything is connected: a caller must not choose what this host talks to.
    pub fn chosen(&self, asked: &[String]) -> Result<Vec<Arc<Endpoint>>, AppError> {
        if self.endpoints.is_empty() {
            return Err(AppError::new(
                ErrorCode::Unsupported,
                "sandbox kind `remote`: this server knows no other servers",
            )
            .hint("the operator names them in the setting REMOTE_SERVERS"));
        }
        if asked.is_empty() {
            return Ok(self.endpoints.clone());
        }
        let mut chosen: Vec<Arc<Endpoint>> = Vec::new();
        for text in asked {
            let address = base_address(text).ok();
            let found = self.endpoints.iter().find(|e| e.name == *text || address.as_deref() == Some(&e.url));
            let Some(found) = found else {
                let names: Vec<String> = self.endpoints.iter().map(|e| format!("`{}`", e.name)).collect();
                let message = format!("endpoint `{}` is none of this server's", crate::app::cut(text));
                return Err(AppError::new(ErrorCode::InvalidRequest, message).hint(format!(
                    "it has {}; the operator names them in the setting REMOTE_SERVERS",
                    names.join(", ")
                )));
            };
            if !chosen.iter().any(|known| known.url == found.url) {
                chosen.push(found.clone());
            }
        }
        Ok(chosen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Sources;

    fn remotes(list: &str) -> Remotes {
        let env = [("REMOTE_SERVERS", list), ("REMOTE_A_KEY", "csb_a"), ("REMOTE_B_KEY", "csb_b")];
        let env = env.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        Remotes::new(&Config::load(&Sources { env, ..Sources::default() }).unwrap()).unwrap()
    }

    #[test]
    fn only_configured_servers_are_chosen_in_the_order_asked_for() {
        let remotes = remotes("a=http://127.0.0.1:1,b=http://127.0.0.2:2/base/");
        let names = |asked: &[&str]| {
            let asked: Vec<String> = asked.iter().map(|text| (*text).to_owned()).collect();
            remotes.chosen(&asked).map(|found| found.iter().map(|e| e.name.clone()).collect::<Vec<_>>())
        };
        assert_eq!(names(&[]).unwrap(), ["a", "b"]);
        assert_eq!(names(&["http://127.0.0.2:2/base", "a", "HTTP://127.0.0.1:1/"]).unwrap(), ["b", "a"]);
        for bad in [
            "http://127.0.0.1:2",
            "https://127.0.0.1:1",
            "http://127.0.0.1:1@evil.example",
            "http://127.0.0.2:2",
            "c",
            "",
        ] {
            let error = names(&["a", bad]).unwrap_err();
            assert_eq!(error.code, ErrorCode::InvalidRequest, "{bad}");
            assert!(error.hint.unwrap().contains("REMOTE_SERVERS"));
        }
    }
}
