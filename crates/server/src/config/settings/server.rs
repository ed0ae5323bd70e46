//! Where a server listens, where it keeps what it knows, and who it believes.

use super::{
    Setting,
    text::{SECOND, duration, flag, put},
};
use crate::config::Secret;
use std::{net::SocketAddr, path::PathBuf};

pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        key: "listen",
        env: "CSB_LISTEN",
        default: "127.0.0.1:8080",
        absent: "",
        about: "Addresses to serve on, separated by commas. Port 0 takes a free one",
        set: |c, text| {
            let list: Result<Vec<SocketAddr>, String> = text
                .split(',')
                .map(|a| {
                    let a = a.trim();
                    // `localhost` alone among names: resolving others at start would make the address a guess.
                    let a = a.strip_prefix("localhost:").map_or(a.to_owned(), |port| format!("127.0.0.1:{port}"));
                    a.parse().map_err(|_| format!("`{a}` is not an address such as `127.0.0.1:8080` or `[::1]:8080`"))
                })
                .collect();
            c.listen = list?;
            Ok(())
        },
    },
    Setting {
        key: "data_dir",
        env: "CSB_DATA_DIR",
        default: "",
        absent: "`$XDG_DATA_HOME/csb`, `~/.local/share/csb` or `/var/lib/csb`",
        about: "Directory of everything the server keeps; made with mode 0700",
        set: |c, text| put(&mut c.data_dir, Ok(PathBuf::from(text))),
    },
    Setting {
        key: "dev",
        env: "CSB_DEV",
        default: "false",
        absent: "",
        about: "Development: loopback only, and a token of role `user` needs no credential",
        set: |c, text| put(&mut c.dev, flag(text)),
    },
    Setting {
        key: "database.url",
        env: "CSB_DATABASE_URL",
        default: "",
        absent: "`state.db` in the data directory",
        about: "`sqlite:///path/to/file`",
        set: |c, text| match text.strip_prefix("sqlite://") {
            Some(path) if path.starts_with('/') => {
                c.database = PathBuf::from(path);
                Ok(())
            }
            _ => Err("this build keeps its state in SQLite: `sqlite:///absolute/path`".into()),
        },
    },
    Setting {
        key: "auth.jwt_secret",
        env: "JWT_SECRET",
        default: "",
        absent: "made at first start, kept in `jwt.secret` (0600)",
        about: "Key that signs tokens, at least 32 bytes. The known default `cloud-sandbox-secret` is refused outside `--dev`",
        set: |c, text| {
            if text.is_empty() {
                return Err("it is empty; leave it out to have one made".into());
            }
            c.jwt_secret = Some(Secret::new(text));
            Ok(())
        },
    },
    Setting {
        key: "auth.token_ttl",
        env: "CSB_TOKEN_TTL",
        default: "24h",
        absent: "",
        about: "How long a token is good",
        set: |c, text| put(&mut c.token_ttl, duration(text, SECOND)),
    },
];
