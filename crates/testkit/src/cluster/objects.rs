//! Shapes of the API: refusals, lists, and what it refuses of a pod. Pure.

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

/// What the API answers instead of an object (`Status`).
#[derive(Debug, Clone)]
pub(super) struct Refusal {
    pub(super) code: u16,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

impl Refusal {
    pub(super) fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into() }
    }

    pub(super) fn absent(resource: &str, name: &str) -> Self {
        Self::new(404, "NotFound", format!("{resource} \"{name}\" not found"))
    }

    pub(super) fn exists(resource: &str, name: &str) -> Self {
        Self::new(409, "AlreadyExists", format!("{resource} \"{name}\" already exists"))
    }

    pub(super) fn stale(resource: &str, name: &str) -> Self {
        let what = "the object has been modified; please apply your changes to the latest version and try again";
        Self::new(409, "Conflict", format!("Operation cannot be fulfilled on {resource} \"{name}\": {what}"))
    }

    pub(super) fn too_old(version: u64, oldest: u64) -> Self {
        Self::new(410, "Expired", format!("too old resource version: {version} ({oldest})"))
    }

    pub(super) fn status(&self) -> Value {
        json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": self.code,
            "reason": self.reason, "message": self.message,
        })
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let code = StatusCode::from_u16(self.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (code, Json(self.status())).into_response()
    }
}

/// As the API writes times.
pub(super) fn now() -> String {
    let now = time::OffsetDateTime::now_utc().replace_nanosecond(0).unwrap_or(time::OffsetDateTime::UNIX_EPOCH);
    now.format(&time::format_description::well_known::Rfc3339).unwrap_or_default()
}

pub(super) fn namespace(name: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name }, "status": { "phase": "Active" } })
}

/// Bytes of a quantity such as `64Mi`, thousandths of one such as `500m`.
pub(super) fn bytes(quantity: &Value) -> Option<u64> {
    csb_types::parse_bytes(quantity.as_str()?).ok()
}

pub(super) fn milli(quantity: &Value) -> Option<u32> {
    csb_types::parse_cpus(quantity.as_str()?).ok()
}

/// All containers of a pod.
pub(super) fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    let list = |name: &str| pod["spec"][name].as_array().into_iter().flatten();
    list("initContainers").chain(list("containers"))
}

/// Memory that its node keeps for a pod: its containers together, or the largest of those before them.
pub(super) fn requested(pod: &Value) -> u64 {
    let of = |one: &Value| {
        let resources = &one["resources"];
        bytes(&resources["requests"]["memory"]).or(bytes(&resources["limits"]["memory"])).unwrap_or(0)
    };
    let list = |name: &str| pod["spec"][name].as_array().into_iter().flatten();
    let before = list("initContainers").map(of).max().unwrap_or(0);
    list("containers").map(of).sum::<u64>().max(before)
}

/// Class of service (`status.qosClass`).
pub(super) fn class(pod: &Value) -> &'static str {
    let whole = |one: &Value| {
        let of = |name: &str| (&one["resources"]["limits"][name], &one["resources"]["requests"][name]);
        [of("memory"), of("cpu")]
            .iter()
            .all(|(limit, request)| !limit.is_null() && (limit == request || request.is_null()))
    };
    let any = |one: &Value| one["resources"].as_object().is_some_and(|fields| !fields.is_empty());
    match (containers(pod).all(whole), containers(pod).any(any)) {
        (true, _) => "Guaranteed",
        (false, true) => "Burstable",
        (false, false) => "BestEffort",
    }
}

/// What validation says of a pod.
pub(super) fn check(pod: &Value) -> Result<(), Refusal> {
    let name = pod["metadata"]["name"].as_str().unwrap_or_default();
    let invalid = |what: String| Refusal::new(422, "Invalid", format!("Pod \"{name}\" is invalid: {what}"));
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'.';
    if name.is_empty() || name.len() > 253 || !name.bytes().all(plain) {
        return Err(invalid("metadata.name: Invalid value: a lowercase RFC 1123 subdomain is required".into()));
    }
    serde_json::from_value::<k8s_openapi::api::core::v1::Pod>(pod.clone()).map_err(|error| {
        Refusal::new(400, "BadRequest", format!("Pod in version \"v1\" cannot be handled as a Pod: {error}"))
    })?;
    let volumes: Vec<&str> =
        pod["spec"]["volumes"].as_array().into_iter().flatten().filter_map(|one| one["name"].as_str()).collect();
    for one in containers(pod) {
        let called = one["name"].as_str().unwrap_or_default();
        if one["image"].as_str().is_none_or(str::is_empty) {
            return Err(invalid(format!("spec.containers[{called}].image: Required value")));
        }
        for mount in one["volumeMounts"].as_array().into_iter().flatten() {
            let volume = mount["name"].as_str().unwrap_or_default();
            if !volumes.contains(&volume) {
                return Err(invalid(format!("spec.containers[{called}].volumeMounts.name: Not found: \"{volume}\"")));
            }
        }
        let resources = &one["resources"];
        let more = |request: Option<u64>, limit: Option<u64>| matches!((request, limit), (Some(a), Some(b)) if a > b);
        if more(bytes(&resources["requests"]["memory"]), bytes(&resources["limits"]["memory"])) {
            let what = "resources.requests: Invalid value: must be less than or equal to memory limit";
            return Err(invalid(format!("spec.containers[{called}].{what}")));
        }
    }
    match containers(pod).next() {
        Some(_) => Ok(()),
        None => Err(invalid("spec.containers: Required value".into())),
    }
}

/// A patch laid over an object: a merge patch (RFC 7386) or, `strategic`, one that knows lists by their entries' names.
pub(super) fn patch(object: &mut Value, patch: &Value, strategic: bool) {
    match (object, patch) {
        (Value::Object(fields), Value::Object(changes)) => {
            for (name, change) in changes {
                match change {
                    Value::Null => drop(fields.remove(name)),
                    change => self::patch(fields.entry(name.clone()).or_insert(Value::Null), change, strategic),
                }
            }
        }
        (Value::Array(list), Value::Array(changes))
            if strategic && changes.iter().all(|one| one["name"].is_string()) =>
        {
            for change in changes {
                match list.iter_mut().find(|one| one["name"] == change["name"]) {
                    Some(one) => self::patch(one, change, strategic),
                    None => list.push(change.clone()),
                }
            }
        }
        (object, patch) => *object = patch.clone(),
    }
}
