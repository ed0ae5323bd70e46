//! Other servers, of kind `remote`.

use super::{
    Setting,
    text::{duration, path, put},
};
use crate::config::remote;
use std::time::Duration;

pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        key: "remote.servers",
        env: "REMOTE_SERVERS",
        default: "",
        absent: "none; kind `remote` is off",
        about: "Servers that sandboxes of kind `remote` may be made at, in the order in which they are tried: \
                `name=url` or `url`, separated by commas",
        set: |c, text| put(&mut c.remote_list, remote::list(text)),
    },
    Setting {
        key: "remote.servers_file",
        env: "REMOTE_SERVERS_FILE",
        default: "",
        absent: "none",
        about: "TOML file with such servers and their credentials",
        set: |c, text| put(&mut c.remote_file, Ok(path(text))),
    },
    Setting {
        key: "remote.connect_timeout",
        env: "REMOTE_CONNECT_TIMEOUT",
        default: "5s",
        absent: "",
        about: "How long a connection to such a server may take to be made",
        set: |c, text| put(&mut c.remote_timeout, duration(text, Duration::from_millis(10))),
    },
];
