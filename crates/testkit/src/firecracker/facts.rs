//! What Firecracker's API takes, as far as machines of ours ask: paths, methods, when, and which fields of which type. Its own words
//! are in its OpenAPI; these are facts of it.

use serde_json::{Map, Value};

/// Where a VMM is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// It is told what the machine is made of.
    Before,
    /// Its machine runs.
    Running,
    /// Its machine stands still.
    Paused,
}

impl Phase {
    /// As `GET /` says it.
    pub fn state(self) -> &'static str {
        match self {
            Self::Before => "Not started",
            Self::Running => "Running",
            Self::Paused => "Paused",
        }
    }
}

enum Is {
    Text,
    Flag,
    Number(u64, u64),
    One(&'static [&'static str]),
    Fields(&'static [Field]),
    Any,
}

/// Name, whether it must be there, what it is.
type Field = (&'static str, bool, Is);

const ANY_NUMBER: Is = Is::Number(0, u64::MAX);

const MACHINE: &[Field] = &[
    ("vcpu_count", true, Is::Number(1, 32)),
    ("mem_size_mib", true, Is::Number(1, u64::MAX)),
    ("smt", false, Is::Flag),
    ("track_dirty_pages", false, Is::Flag),
    ("cpu_template", false, Is::Text),
    ("huge_pages", false, Is::One(&["None", "Transparent", "2M"])),
];
const BOOT: &[Field] =
    &[("kernel_image_path", true, Is::Text), ("initrd_path", false, Is::Text), ("boot_args", false, Is::Text)];
const DRIVE: &[Field] = &[
    ("drive_id", true, Is::Text),
    ("is_root_device", true, Is::Flag),
    // Of what is a file on the host.
    ("path_on_host", true, Is::Text),
    ("is_read_only", true, Is::Flag),
    ("partuuid", false, Is::Text),
    ("cache_type", false, Is::One(&["Unsafe", "Writeback"])),
    ("io_engine", false, Is::One(&["Sync", "Async"])),
    ("rate_limiter", false, Is::Any),
];
const VSOCK: &[Field] =
    &[("guest_cid", true, Is::Number(3, 0xffff_fffe)), ("uds_path", true, Is::Text), ("vsock_id", false, Is::Text)];
const ENTROPY: &[Field] = &[("rate_limiter", false, Is::Any)];
const BALLOON: &[Field] = &[
    ("amount_mib", true, ANY_NUMBER),
    ("deflate_on_oom", true, Is::Flag),
    ("stats_polling_interval_s", false, ANY_NUMBER),
    ("free_page_hinting", false, Is::Flag),
    ("free_page_reporting", false, Is::Flag),
];
const ACTION: &[Field] = &[("action_type", true, Is::One(&["InstanceStart", "FlushMetrics", "SendCtrlAltDel"]))];
const STATE: &[Field] = &[("state", true, Is::One(&["Paused", "Resumed"]))];
const SAVE: &[Field] = &[
    ("snapshot_path", true, Is::Text),
    ("mem_file_path", true, Is::Text),
    ("snapshot_type", false, Is::One(&["Full", "Diff"])),
];
const BACKEND: &[Field] = &[("backend_type", true, Is::One(&["File", "Uffd"])), ("backend_path", true, Is::Text)];
const LOAD: &[Field] = &[
    ("snapshot_path", true, Is::Text),
    // Or `mem_file_path`, which is to be removed.
    ("mem_backend", true, Is::Fields(BACKEND)),
    ("resume_vm", false, Is::Flag),
    ("track_dirty_pages", false, Is::Flag),
    ("network_overrides", false, Is::Any),
    ("vsock_override", false, Is::Any),
    ("clock_realtime", false, Is::Flag),
];

/// Method, path or its beginning, fields of the body, and whether it is for a machine that runs.
const REQUESTS: &[(&str, &str, &[Field], bool)] = &[
    ("PUT", "/machine-config", MACHINE, false),
    ("PUT", "/boot-source", BOOT, false),
    ("PUT", "/drives/", DRIVE, false),
    ("PUT", "/vsock", VSOCK, false),
    ("PUT", "/entropy", ENTROPY, false),
    ("PUT", "/balloon", BALLOON, false),
    ("PUT", "/actions", ACTION, false),
    ("PUT", "/snapshot/load", LOAD, false),
    ("PATCH", "/vm", STATE, true),
    ("PUT", "/snapshot/create", SAVE, true),
];

/// Why the VMM refuses a request; none where it does not.
pub fn refusal(phase: Phase, method: &str, path: &str, body: Option<&Value>) -> Option<String> {
    if (method, path) == ("GET", "/") {
        return body.is_some().then(|| "GET request cannot have a body.".into());
    }
    let known = REQUESTS.iter().find(|(known, begins, ..)| {
        *known == method && (path == *begins || begins.ends_with('/') && path.starts_with(begins))
    });
    let Some((_, begins, fields, running)) = known else {
        return Some(format!("Invalid request method and/or path: {method} {path}."));
    };
    let Some(Value::Object(body)) = body else { return Some("Empty or invalid body.".into()) };
    if let Some(why) = misfit(fields, body) {
        return Some(format!("An error occurred when deserializing the json body of a request: {why}."));
    }
    if begins.ends_with('/') {
        let id = &path[begins.len()..];
        if id.is_empty() || !id.chars().all(|c| c.is_alphanumeric() || c == '_') {
            return Some("API Resource IDs can only contain alphanumeric characters and underscores.".into());
        }
        if body["drive_id"] != id {
            return Some("The id from the path does not match the id from the body!".into());
        }
    }
    match (phase, running) {
        (Phase::Before, true) => Some("The requested operation is not supported before starting the microVM.".into()),
        (Phase::Running | Phase::Paused, false) => {
            Some("The requested operation is not supported after starting the microVM.".into())
        }
        (Phase::Running, true) if path == "/snapshot/create" => {
            Some("Cannot save the microVM state: it is not paused.".into())
        }
        _ => None,
    }
}

fn misfit(fields: &[Field], body: &Map<String, Value>) -> Option<String> {
    if let Some(name) = body.keys().find(|name| !fields.iter().any(|(known, ..)| known == name)) {
        return Some(format!("unknown field `{name}`"));
    }
    fields.iter().find_map(|(name, required, is)| match body.get(*name) {
        None => required.then(|| format!("missing field `{name}`")),
        Some(value) => {
            let fits = match is {
                Is::Text => value.is_string(),
                Is::Flag => value.is_boolean(),
                Is::Number(least, most) => value.as_u64().is_some_and(|number| (least..=most).contains(&&number)),
                Is::One(words) => value.as_str().is_some_and(|word| words.contains(&word)),
                Is::Fields(fields) => return misfit(fields, value.as_object()?),
                Is::Any => true,
            };
            (!fits).then(|| format!("invalid value of `{name}`: {value}"))
        }
    })
}
