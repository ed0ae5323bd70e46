//! The way in: a server's address and a credential.

use crate::{
    Error, Sandbox, Session,
    request::idempotency_key,
    transport::{IDEMPOTENCY_KEY, Repeat, TRIES, Transport},
};
use csb_api::{
    CleanRequest, CleanView, Items, KeyRequest, KeySecretView, KeyView, KindView, LanguageView, Page, PoolView,
    SandboxRequest, SandboxView, SessionRequest, SessionView, TemplateView, TokenRequest, TokenView,
};
use reqwest::{
    Method,
    header::{AUTHORIZATION, HeaderMap, HeaderValue},
};
use std::{fmt, sync::Arc, time::Duration};

/// One server, seen as one user. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    pub(crate) transport: Arc<Transport>,
}

/// Builds a [`Client`].
#[derive(Clone)]
pub struct ClientBuilder {
    server: String,
    api_key: Option<String>,
    token: Option<String>,
    connect_timeout: Duration,
    tries: u32,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Headers hold the credential.
        f.debug_struct("Client").field("server", &self.transport.base).finish_non_exhaustive()
    }
}

impl fmt::Debug for ClientBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientBuilder").field("server", &self.server).finish_non_exhaustive()
    }
}

impl ClientBuilder {
    /// Authenticates with an API key (`csb_…`).
    pub fn api_key(mut self, key: impl Into<Option<String>>) -> Self {
        self.api_key = key.into();
        self
    }

    /// Authenticates with a token from `/api/v1/auth/token`.
    pub fn token(mut self, token: impl Into<Option<String>>) -> Self {
        self.token = token.into();
        self
    }

    /// How long one connection attempt may take; 5 s by default. Requests themselves have no time limit.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How often a request that may be repeated is sent at most; 4 by default, 1 for none repeated.
    pub fn tries(mut self, tries: u32) -> Self {
        self.tries = tries;
        self
    }

    /// Checks the address and the credential; connects to nothing yet.
    pub fn build(self) -> Result<Client, Error> {
        let base = self.server.trim_end_matches('/').to_owned();
        let url = reqwest::Url::parse(&base).ok().filter(|u| matches!(u.scheme(), "http" | "https") && u.has_host());
        let Some(url) = url else { return Err(Error::Url { url: self.server }) };

        let mut headers = HeaderMap::new();
        let mut secret = |name, value: String| {
            let mut value = HeaderValue::from_str(&value).map_err(|_| Error::Credential)?;
            value.set_sensitive(true);
            headers.insert(name, value);
            Ok(())
        };
        if let Some(key) = self.api_key {
            secret(reqwest::header::HeaderName::from_static("x-api-key"), key)?;
        }
        if let Some(token) = self.token {
            secret(AUTHORIZATION, format!("Bearer {token}"))?;
        }

        if rustls::crypto::CryptoProvider::get_default().is_none() {
            // Another thread may have been first; then its provider serves as well.
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        let mut http = reqwest::Client::builder()
            .user_agent(concat!("csb-client/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(self.connect_timeout)
            .redirect(reqwest::redirect::Policy::none())
            // Shorter than the server keeps an idle connection (15 s): one that it closes under a command would leave
            // open whether the command was seen.
            .pool_idle_timeout(std::time::Duration::from_secs(10))
            .tcp_nodelay(true);
        if url.scheme() == "http" {
            // Reading the host's certificates takes milliseconds that a plain connection need not pay. No proxy either:
            // a plain connection is for this host or its own network.
            http = http.tls_certs_only([]).no_proxy();
        }
        let http = http.build().map_err(Error::Setup)?;
        Ok(Client { transport: Arc::new(Transport { http, base, headers, tries: self.tries }) })
    }
}

/// Names the server, for every client.
pub const SERVER_VARIABLE: &str = "CSB_SERVER";
/// Holds an API key, for every client.
pub const API_KEY_VARIABLE: &str = "CSB_API_KEY";
/// Holds a token, for every client; an API key wins.
pub const TOKEN_VARIABLE: &str = "CSB_TOKEN";
/// Where a server is unless told otherwise.
pub const DEFAULT_SERVER: &str = "http://127.0.0.1:8080";

impl Client {
    /// Starts from what `CSB_SERVER`, `CSB_API_KEY` and `CSB_TOKEN` say, as `csb` and the Python SDK do.
    pub fn from_env() -> ClientBuilder {
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let server = variable(SERVER_VARIABLE).unwrap_or_else(|| DEFAULT_SERVER.into());
        match variable(API_KEY_VARIABLE) {
            Some(key) => Self::builder(server).api_key(key),
            None => Self::builder(server).token(variable(TOKEN_VARIABLE)),
        }
    }

    /// Starts from a server's address, such as `http://127.0.0.1:8080`.
    pub fn builder(server: impl Into<String>) -> ClientBuilder {
        ClientBuilder {
            server: server.into(),
            api_key: None,
            token: None,
            connect_timeout: Duration::from_secs(5),
            tries: TRIES,
        }
    }

    /// The server's address.
    pub fn server(&self) -> &str {
        &self.transport.base
    }

    /// Whether the server answers at all; needs no credential.
    pub async fn health(&self) -> Result<(), Error> {
        self.transport.get::<serde_json::Value>("check the server", "/health", &()).await.map(drop)
    }

    /// A token. Needs an API key, or a server started with `--dev` on this host.
    pub async fn token(&self, request: &TokenRequest) -> Result<TokenView, Error> {
        self.transport.post("get a token", Repeat::Always, "/api/v1/auth/token", request).await
    }

    /// Makes a sandbox. Repeated safely: a second try with the same idempotency key returns the first one's sandbox.
    pub async fn create_sandbox(&self, request: &SandboxRequest) -> Result<Sandbox, Error> {
        let view = self.create_sandbox_view(request).await?;
        Ok(self.sandbox(view.sandbox_id))
    }

    /// The same, with all that the server says about it.
    pub async fn create_sandbox_view(&self, request: &SandboxRequest) -> Result<SandboxView, Error> {
        let key = idempotency_key();
        self.transport
            .json("create a sandbox", Repeat::Always, || {
                self.transport.request(Method::POST, "/api/v1/sandboxes").header(IDEMPOTENCY_KEY, &key).json(request)
            })
            .await
    }

    /// A handle of a sandbox known by id; asks the server nothing.
    pub fn sandbox(&self, id: impl Into<String>) -> Sandbox {
        Sandbox::new(self.clone(), id.into())
    }

    /// One page of this user's sandboxes; `cursor` from the page before.
    pub async fn list_sandboxes(
        &self,
        limit: u32,
        cursor: Option<&str>,
        state: Option<&str>,
    ) -> Result<Page<SandboxView>, Error> {
        let mut query = vec![("limit", limit.to_string())];
        query.extend(cursor.map(|c| ("cursor", c.to_owned())));
        query.extend(state.map(|s| ("state", s.to_owned())));
        self.transport.get("list sandboxes", "/api/v1/sandboxes", &query).await
    }

    /// All of this user's sandboxes.
    pub async fn all_sandboxes(&self, state: Option<&str>) -> Result<Vec<SandboxView>, Error> {
        let mut all = Vec::new();
        let mut cursor: Option<String> = None;
        loop {
            let page = self.list_sandboxes(200, cursor.as_deref(), state).await?;
            all.extend(page.items);
            cursor = page.next_cursor;
            if cursor.is_none() {
                return Ok(all);
            }
        }
    }

    /// Makes a session: a sandbox and what outlives it.
    pub async fn create_session(&self, request: &SessionRequest) -> Result<Session, Error> {
        let key = idempotency_key();
        let view: SessionView = self
            .transport
            .json("create a session", Repeat::Always, || {
                self.transport.request(Method::POST, "/api/v1/sessions").header(IDEMPOTENCY_KEY, &key).json(request)
            })
            .await?;
        Ok(Session::new(self.clone(), view.session_id))
    }

    /// A handle of a session known by id.
    pub fn session(&self, id: impl Into<String>) -> Session {
        Session::new(self.clone(), id.into())
    }

    /// One page of this user's sessions.
    pub async fn list_sessions(&self, limit: u32, cursor: Option<&str>) -> Result<Page<SessionView>, Error> {
        let mut query = vec![("limit", limit.to_string())];
        query.extend(cursor.map(|c| ("cursor", c.to_owned())));
        self.transport.get("list sessions", "/api/v1/sessions", &query).await
    }

    /// What sandboxes can start from.
    pub async fn templates(&self) -> Result<Vec<TemplateView>, Error> {
        let page: Items<TemplateView> = self.transport.get("list templates", "/api/v1/templates", &()).await?;
        Ok(page.items)
    }

    /// How sandboxes can be isolated, and which kinds this server has.
    pub async fn kinds(&self) -> Result<Vec<KindView>, Error> {
        let page: Items<KindView> = self.transport.get("list kinds", "/api/v1/kinds", &()).await?;
        Ok(page.items)
    }

    /// Languages `run_code` knows.
    pub async fn languages(&self) -> Result<Vec<LanguageView>, Error> {
        let page: Items<LanguageView> = self.transport.get("list languages", "/api/v1/languages", &()).await?;
        Ok(page.items)
    }

    /// The pool, the number of sandboxes and the warden.
    pub async fn stats(&self) -> Result<PoolView, Error> {
        self.transport.get("read the server's figures", "/api/v1/sandbox/stats", &()).await
    }

    /// Removes directories of `local` sandboxes that nobody has used for long (admin).
    pub async fn clean_workspaces(&self, request: &CleanRequest) -> Result<CleanView, Error> {
        self.transport.post("clean workspaces", Repeat::UnlessSeen, "/api/v1/workspaces/clean", request).await
    }

    /// Makes an API key (admin). The key itself is shown only now.
    pub async fn create_key(&self, request: &KeyRequest) -> Result<KeySecretView, Error> {
        self.transport.post("create an API key", Repeat::UnlessSeen, "/api/v1/keys", request).await
    }

    /// All API keys, without their secrets (admin).
    pub async fn keys(&self) -> Result<Vec<KeyView>, Error> {
        let page: Items<KeyView> = self.transport.get("list API keys", "/api/v1/keys", &()).await?;
        Ok(page.items)
    }

    /// Makes a key useless (admin).
    pub async fn revoke_key(&self, key_id: &str) -> Result<(), Error> {
        let path = format!("/api/v1/keys/{}", crate::request::segment(key_id));
        self.transport
            .send("revoke an API key", Repeat::Always, || self.transport.request(Method::DELETE, &path))
            .await
            .map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_server_addresses_are_accepted() {
        for good in ["http://127.0.0.1:8080", "https://sandbox.example.org/", "http://[::1]:1/"] {
            assert!(Client::builder(good).build().is_ok(), "{good}");
        }
        for bad in ["", "127.0.0.1:8080", "ftp://x", "http://"] {
            assert!(matches!(Client::builder(bad).build(), Err(Error::Url { .. })), "{bad}");
        }
    }

    #[test]
    fn a_credential_is_never_printed() {
        let client = Client::builder("http://127.0.0.1:1").api_key("csb_secret".to_owned()).build().unwrap();
        assert!(!format!("{client:?}").contains("secret"));
        assert!(matches!(
            Client::builder("http://127.0.0.1:1").token("a\nb".to_owned()).build(),
            Err(Error::Credential)
        ));
    }
}
