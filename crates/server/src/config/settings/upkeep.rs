//! How a server looks after what it has, and what it says of it.

use super::{
    Setting,
    text::{duration, put},
};
use crate::config::LogFormat;
use std::time::Duration;

pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        key: "reconcile.interval",
        env: "CSB_RECONCILE_INTERVAL",
        default: "30s",
        absent: "",
        about: "How often the database is compared with what runs",
        set: |c, text| put(&mut c.reconcile_interval, duration(text, Duration::from_millis(100))),
    },
    Setting {
        key: "log.format",
        env: "CSB_LOG_FORMAT",
        default: "text",
        absent: "",
        about: "`text` or `json`",
        set: |c, text| {
            c.log_format = match text {
                "text" => LogFormat::Text,
                "json" => LogFormat::Json,
                other => return Err(format!("`{other}` is neither `text` nor `json`")),
            };
            Ok(())
        },
    },
    Setting {
        key: "log.filter",
        env: "CSB_LOG",
        default: "info",
        absent: "",
        about: "What is logged: `warn`, `debug`, `info,csb_node=debug`",
        set: |c, text| {
            tracing_subscriber::EnvFilter::try_new(text).map_err(|e| format!("`{text}`: {e}"))?;
            c.log_filter = text.to_owned();
            Ok(())
        },
    },
];
