//! Finds the server and the credential that a command was given, or that this host has.

use crate::{
    failure::{Failure, Outcome},
    options::{RemoteArgs, data_dir},
};
use csb_client::{Client, DEFAULT_SERVER};
use std::{
    fs,
    io::ErrorKind,
    net::{IpAddr, SocketAddr},
    os::unix::fs::MetadataExt,
    path::Path,
};

/// The key that a server makes at its first start and keeps in its data directory.
const KEY_FILE: &str = "admin.key";

/// A client for the server that `args` name. Credentials, in this order: the given key; the given token; the key in the data directory of a
/// server on this host; a token that a `--dev` server gives to anyone on this host.
pub async fn client(args: &RemoteArgs) -> Outcome<Client> {
    let server = args.server.clone().unwrap_or_else(|| DEFAULT_SERVER.into());
    // A person is waiting, and can see whether the server is there.
    let builder = Client::builder(&server).tries(1);
    if let Some(key) = args.api_key.clone() {
        return Ok(builder.api_key(key).build()?);
    }
    if let Some(token) = args.token.clone() {
        return Ok(builder.token(token).build()?);
    }
    let Some(address) = loopback(&server) else {
        return Err(Failure::new(format!("no API key for {server}"))
            .hint("pass --api-key or set CSB_API_KEY; `csb key create` on the server's host makes one"));
    };
    if let Some(key) = local_key(&data_dir(args.data_dir.as_ref()).join(KEY_FILE), address)? {
        return Ok(builder.api_key(key).build()?);
    }
    let anonymous = builder.clone().build()?;
    match anonymous.token(&Default::default()).await {
        Ok(token) => Ok(builder.token(token.access_token).build()?),
        Err(error) if error.code() == Some("unauthorized") => {
            let failure = Failure::from(error);
            Err(failure.hint(format!(
                "no key was given and none is in `{}`: pass --api-key, set CSB_API_KEY, or name the server's --data-dir",
                data_dir(args.data_dir.as_ref()).display()
            )))
        }
        Err(error) => Err(error.into()),
    }
}

/// The address of a server on this host, if it is one by number or is `localhost`.
fn loopback(server: &str) -> Option<SocketAddr> {
    let rest = server.strip_prefix("http://").or_else(|| server.strip_prefix("https://"))?;
    let authority = rest.split(['/', '?', '#']).next()?;
    let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let default = if server.starts_with("https") { 443 } else { 80 };
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && !port.ends_with(']') => (host, port.parse().ok()?),
        _ => (authority, default),
    };
    let ip: IpAddr = match host {
        "localhost" => IpAddr::from([127, 0, 0, 1]),
        _ => host.trim_start_matches('[').trim_end_matches(']').parse().ok()?,
    };
    ip.is_loopback().then(|| SocketAddr::new(ip, port))
}

/// The key in the data directory, unless someone else's process listens where the server should be: a user of this host
/// could take the port of a server that is down and collect the keys of those who call it.
fn local_key(path: &Path, server: SocketAddr) -> Outcome<Option<String>> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied) => return Ok(None),
        Err(error) => return Err(Failure::because(format!("cannot read `{}`", path.display()), &error)),
    };
    let owner = fs::metadata(path).map(|m| m.uid()).unwrap_or(u32::MAX);
    match listener(server) {
        Some(uid) if uid != owner && uid != 0 => Err(Failure::new(format!(
            "user {uid} of this host listens on {server}, but `{}` belongs to user {owner}",
            path.display()
        ))
        .hint("if you trust that server, pass --api-key")),
        _ => Ok(Some(text.trim().to_owned())),
    }
}

/// Who listens on an address, by `/proc/net/tcp` and `tcp6` (proc(5)); none when nobody does.
fn listener(address: SocketAddr) -> Option<u32> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| fs::read_to_string(path).unwrap_or_default());
    tables.iter().flat_map(|table| table.lines().skip(1)).find_map(|line| listening_uid(line, address))
}

fn listening_uid(line: &str, wanted: SocketAddr) -> Option<u32> {
    const LISTEN: &str = "0A";
    let mut fields = line.split_whitespace();
    let (_, local, _, state) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    let uid = fields.nth(3)?.parse().ok()?;
    let (ip, port) = local.split_once(':')?;
    if state != LISTEN || u16::from_str_radix(port, 16).ok()? != wanted.port() {
        return None;
    }
    // Words of the address in the byte order of the host.
    let words: Option<Vec<u8>> = (0..ip.len() / 8)
        .map(|i| u32::from_str_radix(ip.get(i * 8..i * 8 + 8)?, 16).ok().map(u32::to_ne_bytes))
        .collect::<Option<Vec<[u8; 4]>>>()
        .map(|words| words.concat());
    let ip: IpAddr = match words?.as_slice() {
        v4 if v4.len() == 4 => IpAddr::from(<[u8; 4]>::try_from(v4).ok()?),
        v6 => IpAddr::from(<[u8; 16]>::try_from(v6).ok()?),
    };
    (ip.is_unspecified() || ip.to_canonical() == wanted.ip().to_canonical()).then_some(uid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_this_host_get_its_key() {
        for (server, address) in [
            ("http://127.0.0.1:8080", Some("127.0.0.1:8080")),
            ("http://localhost:99/x", Some("127.0.0.1:99")),
            ("https://[::1]", Some("[::1]:443")),
            ("http://10.0.0.1:8080", None),
            ("http://127.0.0.1.example.org:8080", None),
            ("http://127.0.0.1@example.org", None),
            ("http://example.org", None),
        ] {
            assert_eq!(loopback(server), address.map(|a| a.parse().unwrap()), "{server}");
        }
    }

    #[test]
    fn the_owner_of_a_listening_socket_is_found() {
        let line = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 12345 1";
        assert_eq!(listening_uid(line, "127.0.0.1:8080".parse().unwrap()), Some(1000));
        assert_eq!(listening_uid(line, "127.0.0.1:8081".parse().unwrap()), None);
        let listener_here = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let uid = rustix::process::getuid().as_raw();
        assert_eq!(listener(listener_here.local_addr().unwrap()), Some(uid));
    }
}
