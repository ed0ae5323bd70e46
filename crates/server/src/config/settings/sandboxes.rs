//! What a sandbox is where a request does not say, and how many are ready.

use super::{
    Setting,
    text::{kind, name, number, put, words},
};
use csb_types::Kind;

pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        key: "pool.min",
        env: "POOL_MIN_SIZE",
        default: "5",
        absent: "",
        about: "Sandboxes kept ready; 0 turns the pool off",
        set: |c, text| put(&mut c.pool_min, number(text, 0, 10_000)),
    },
    Setting {
        key: "pool.max",
        env: "POOL_MAX_SIZE",
        default: "50",
        absent: "",
        about: "Most sandboxes kept ready when demand is high",
        set: |c, text| put(&mut c.pool_max, number(text, 0, 10_000)),
    },
    Setting {
        key: "pool.kinds",
        env: "POOL_KINDS",
        default: "",
        absent: "`sandbox.kind`, or `process` where that has no pool",
        about: "Kinds of which sandboxes are kept ready, of each as many, separated by commas; all but `local`, which has no process until it is used, and `remote`, whose server has pools",
        set: |c, text| {
            c.pool_kinds.clear();
            for word in words(text) {
                let kind = kind(&word)?;
                if matches!(kind, Kind::Local | Kind::Remote) {
                    return Err(format!("sandboxes of kind `{word}` are not kept ready"));
                }
                if !c.pool_kinds.contains(&kind) {
                    c.pool_kinds.push(kind);
                }
            }
            Ok(())
        },
    },
    Setting {
        key: "templates.default",
        env: "SANDBOX_IMAGE",
        default: "host",
        absent: "",
        about: "Template (or alias) of requests that name none. `host` shares the host's programs read-only; `python:3.11-slim` is an alias of it",
        set: |c, text| put(&mut c.default_template, name(text)),
    },
    Setting {
        key: "sandbox.kind",
        env: "SANDBOX_KIND",
        default: "process",
        absent: "",
        about: "Kind of sandbox where a request names none",
        set: |c, text| put(&mut c.kind, kind(text)),
    },
];
