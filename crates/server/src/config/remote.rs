//! Other servers whose sandboxes this one may hand out, and the credential for each.

use super::{ConfigError, Secret};
use reqwest::Url;
use serde::Deserialize;
use std::path::Path;

/// A server that sandboxes of kind `remote` may be made at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteServer {
    /// How requests and messages name it.
    pub name: String,
    /// Base address without a slash at its end.
    pub url: String,
    /// API key, or a token.
    pub key: Secret,
}

/// An entry of `remote.servers`: a name, where one is given, and an address.
pub(super) type Listed = (Option<String>, String);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    server: Vec<FileServer>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileServer {
    name: Option<String>,
    url: String,
    key: Option<String>,
}

/// An address as it is compared and kept.
pub fn base_address(text: &str) -> Result<String, String> {
    let refuse =
        |why: &str| Err(format!("`{}` is not a server's address: {why}", text.chars().take(200).collect::<String>()));
    let Ok(url) = Url::parse(text.trim()) else { return refuse("it is written as `https://sandbox.example.org`") };
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return refuse("it begins with http:// or https:// and a host");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return refuse("it holds a user or a password; the credential is a setting of its own");
    }
    if url.query().is_some() || url.fragment().is_some() {
        return refuse("it ends before `?` and `#`");
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

/// Reads `name=url,url,…`.
pub(super) fn list(text: &str) -> Result<Vec<Listed>, String> {
    let entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty());
    entries
        .map(|entry| match entry.split_once('=') {
            Some((name, url)) if !name.contains("://") => Ok((Some(checked_name(name.trim())?), base_address(url)?)),
            _ => Ok((None, base_address(entry)?)),
        })
        .collect()
}

fn checked_name(name: &str) -> Result<String, String> {
    let good =
        (1..=64).contains(&name.len()) && name.bytes().all(|c| c.is_ascii_alphanumeric() || b"-_.:".contains(&c));
    if good {
        Ok(name.to_owned())
    } else {
        Err(format!("`{name}` is not a name of 1 to 64 letters, digits, `-`, `_`, `.`"))
    }
}

/// Of an address without a name: its host, and its port where that is not the usual one.
fn name_of(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split('/').next().unwrap_or(rest).to_owned()
}

/// The variable with a server's credential.
pub(super) fn variable(name: &str) -> String {
    let upper: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect();
    format!("REMOTE_{upper}_KEY")
}

/// Whether a variable looks like a credential of a server.
pub(super) fn is_variable(name: &str) -> bool {
    name.starts_with("REMOTE_") && name.ends_with("_KEY")
}

/// All servers in the order in which they are tried: those of the list, then those that only the file has.
pub(super) fn servers(
    listed: &[Listed],
    file: Option<&Path>,
    env: &[(String, String)],
) -> Result<Vec<RemoteServer>, ConfigError> {
    let mut found: Vec<(String, String, Option<String>)> = Vec::new();
    let named = |name: &Option<String>, url: &str| name.clone().unwrap_or_else(|| name_of(url));
    for (name, url) in listed {
        found.push((named(name, url), url.clone(), None));
    }
    if let Some(path) = file {
        let text =
            std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        let syntax = |message| ConfigError::Syntax { path: path.to_owned(), message };
        // The error of the parser quotes the line, and with it perhaps a key.
        let file: File = toml::from_str(&text).map_err(|e: toml::de::Error| syntax(e.message().to_owned()))?;
        for server in file.server {
            let url = base_address(&server.url).map_err(syntax)?;
            let name = match server.name {
                Some(name) => Some(checked_name(&name).map_err(syntax)?),
                None => None,
            };
            match found.iter_mut().find(|(_, known, _)| *known == url) {
                Some(known) => known.2 = server.key,
                None => found.push((named(&name, &url), url, server.key)),
            }
        }
    }
    let mut servers: Vec<RemoteServer> = Vec::new();
    for (name, url, key) in found {
        let variable = variable(&name);
        if let Some(other) = servers.iter().find(|s| s.url == url || self::variable(&s.name) == variable) {
            return Err(ConfigError::Together(format!(
                "remote servers `{}` and `{name}` are not told apart",
                other.name
            )));
        }
        let given = env.iter().find(|(n, _)| *n == variable).map(|(_, v)| v.trim().to_owned());
        let Some(key) = given.or(key).filter(|key| !key.is_empty()) else {
            return Err(ConfigError::Together(format!(
                "remote server `{name}` has no credential: set {variable}, or `key` of its [[server]] in the file that \
                 REMOTE_SERVERS_FILE names. `csb key create` on that server makes one"
            )));
        };
        if !key.bytes().all(|c| c.is_ascii_graphic()) {
            return Err(ConfigError::Together(format!(
                "the credential of remote server `{name}` is not visible ASCII"
            )));
        }
        servers.push(RemoteServer { name, url, key: Secret::new(key) });
    }
    Ok(servers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()
    }

    #[test]
    fn servers_have_names_addresses_and_credentials() {
        let listed = list("edge=https://Edge.example.org:443/, http://127.0.0.1:8081").unwrap();
        let keys = env(&[("REMOTE_EDGE_KEY", "csb_a"), ("REMOTE_127_0_0_1_8081_KEY", "csb_b")]);
        let found = servers(&listed, None, &keys).unwrap();
        let seen: Vec<_> = found.iter().map(|s| (s.name.as_str(), s.url.as_str(), s.key.reveal())).collect();
        assert_eq!(
            seen,
            [("edge", "https://edge.example.org", "csb_a"), ("127.0.0.1:8081", "http://127.0.0.1:8081", "csb_b"),]
        );
        assert!(!format!("{found:?}").contains("csb_"), "a credential is not shown");
    }

    #[test]
    fn the_file_has_further_ones_and_keys() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("servers.toml");
        let text = "[[server]]\nname = \"b\"\nurl = \"https://b\"\nkey = \"csb_b\"\n[[server]]\nurl = \"https://a/\"\nkey = \"csb_a\"";
        std::fs::write(&path, text).unwrap();
        let found = servers(&list("a=https://a").unwrap(), Some(&path), &[]).unwrap();
        let seen: Vec<_> = found.iter().map(|s| (s.name.as_str(), s.key.reveal())).collect();
        assert_eq!(seen, [("a", "csb_a"), ("b", "csb_b")]);
        std::fs::write(&path, "[[server]]\nurl = \"https://a\"\nkey = csb_secret").unwrap();
        let error = servers(&[], Some(&path), &[]).unwrap_err().to_string();
        assert!(!error.contains("csb_secret"), "{error}");
    }

    #[test]
    fn what_is_no_server_is_refused() {
        for bad in ["edge", "ftp://x", "edge=x", "https://u:p@x", "https://x?a", "a b=https://x", "https://"] {
            assert!(list(bad).is_err(), "{bad}");
        }
        let keyless = servers(&list("edge=https://x").unwrap(), None, &[]).unwrap_err().to_string();
        assert!(keyless.contains("REMOTE_EDGE_KEY"), "{keyless}");
        let keys = env(&[("REMOTE_A_B_KEY", "k")]);
        assert!(servers(&list("a-b=https://x,a_b=https://y").unwrap(), None, &keys).is_err());
    }
}
