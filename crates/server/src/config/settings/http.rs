//! What a server bears of its clients.

use super::{
    Setting,
    text::{GIB, bytes, duration, number, put},
};
use std::time::Duration;

pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        key: "http.json_limit",
        env: "CSB_HTTP_JSON_LIMIT",
        default: "4MiB",
        absent: "",
        about: "Largest JSON body; uploads of files are not limited by it",
        set: |c, text| match bytes(text)? {
            limit @ 1024..=GIB => put(&mut c.json_limit, Ok(limit)),
            _ => Err("it is between 1 KiB and 1 GiB".into()),
        },
    },
    Setting {
        key: "http.header_timeout",
        env: "CSB_HTTP_HEADER_TIMEOUT",
        default: "15s",
        absent: "",
        about: "Time for the head of a request to arrive; also how long an idle connection is kept",
        set: |c, text| put(&mut c.header_timeout, duration(text, Duration::from_millis(100))),
    },
    Setting {
        key: "http.body_timeout",
        env: "CSB_HTTP_BODY_TIMEOUT",
        default: "30s",
        absent: "",
        about: "Time for a JSON body to arrive, and longest pause inside an upload",
        set: |c, text| put(&mut c.body_timeout, duration(text, Duration::from_millis(100))),
    },
    Setting {
        key: "http.connections",
        env: "CSB_HTTP_CONNECTIONS",
        default: "8192",
        absent: "",
        about: "Connections at once; never more than half of the descriptors the process may open",
        set: |c, text| put(&mut c.connections, number(text, 1, 1_000_000)),
    },
    Setting {
        key: "http.user_requests",
        env: "CSB_HTTP_USER_REQUESTS",
        default: "4096",
        absent: "",
        about: "Requests of one user under way at once, streams included",
        set: |c, text| put(&mut c.user_requests, number(text, 1, 1_000_000)),
    },
    Setting {
        key: "http.shutdown_grace",
        env: "CSB_HTTP_SHUTDOWN_GRACE",
        default: "10s",
        absent: "",
        about: "How long requests under way may take to end at shutdown",
        set: |c, text| put(&mut c.shutdown_grace, duration(text, Duration::ZERO)),
    },
];
