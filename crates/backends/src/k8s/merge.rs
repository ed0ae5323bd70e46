//! Laying one description of a pod over another, and what of a user's is let through. Pure.

use crate::BackendError;
use serde_json::{Map, Value};

/// By which entries of a list are the same one, the first that they have. As the API server's own merging has it; other lists
/// are replaced.
const KEYS: [(&str, &str); 7] = [
    ("containers", "name"),
    ("initContainers", "name"),
    ("volumes", "name"),
    ("env", "name"),
    ("volumeMounts", "mountPath"),
    ("imagePullSecrets", "name"),
    ("tolerations", "key"),
];

/// `over` on top of `base`: objects by their fields, lists of [`KEYS`] by their entries.
pub(super) fn merge(base: Value, over: &Value) -> Value {
    match (base, over) {
        (Value::Object(mut fields), Value::Object(more)) => {
            for (name, value) in more {
                let merged = match (fields.remove(name), KEYS.iter().find(|(list, _)| list == name)) {
                    (Some(Value::Array(list)), Some((_, key))) if value.is_array() => by_key(list, value, key),
                    (Some(old), _) => merge(old, value),
                    (None, _) => value.clone(),
                };
                fields.insert(name.clone(), merged);
            }
            Value::Object(fields)
        }
        (_, over) => over.clone(),
    }
}

/// Ours are first, in our order: the first container is the one that others take for the pod's.
fn by_key(mut base: Vec<Value>, over: &Value, key: &str) -> Value {
    let mut merged: Vec<Value> = Vec::new();
    for entry in over.as_array().into_iter().flatten() {
        let same = base.iter().position(|one| one.get(key).is_some() && one.get(key) == entry.get(key));
        merged.push(match same {
            Some(place) => merge(base.remove(place), entry),
            None => entry.clone(),
        });
    }
    merged.extend(base);
    Value::Array(merged)
}

/// Refuses what a user's `podTemplate` has besides `allowed` fields, written `spec.nodeSelector`.
pub(super) fn let_through(asked: &Value, allowed: &[String]) -> Result<(), BackendError> {
    let refuse = |what: String| Err(BackendError::Unsupported(format!("podTemplate: {what}")));
    let Value::Object(fields) = asked else { return refuse("it is an object with `metadata` and `spec`".into()) };
    let mut paths = Vec::new();
    for (name, value) in fields {
        match value {
            Value::Object(inner) => paths.extend(inner.keys().map(|field| format!("{name}.{field}"))),
            _ => paths.push(name.clone()),
        }
    }
    if let Some(path) = paths.iter().find(|path| !allowed.contains(path)) {
        let path: String = path.chars().take(64).collect();
        let list = match allowed {
            [] => "none".to_owned(),
            some => some.iter().map(|path| format!("`{path}`")).collect::<Vec<_>>().join(", "),
        };
        return refuse(format!(
            "`{path}` is none of the fields that users may give here: {list} (setting `k8s.pod_template_fields`)"
        ));
    }
    // Annotations with a domain are orders to a cluster's runtimes, networks and admission: another filter, one more network.
    let annotations = asked.pointer("/metadata/annotations").and_then(Value::as_object);
    let order = annotations.and_then(|map| map.keys().find(|key| key.contains(['/', '.'])));
    if let Some(order) = order {
        let order: String = order.chars().take(64).collect();
        return refuse(format!(
            "annotation `{order}`: users may give plain names, as those with a domain tell the cluster what to do"
        ));
    }
    // By its labels a pod is ours, and shut off from the network.
    let ours = |map: &Map<String, Value>| map.keys().find(|key| key.starts_with("csb.")).cloned();
    let labels = asked.pointer("/metadata/labels").and_then(Value::as_object).and_then(ours);
    match labels {
        Some(label) => refuse(format!("label `{label}` is the server's")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn fields_are_laid_over_fields_and_entries_over_entries_of_the_same_name() {
        let base = json!({ "a": 1, "o": { "x": 1, "y": 2 }, "volumes": [{ "name": "v", "k": 1 }, { "name": "w" }], "l": [1, 2] });
        let over = json!({ "o": { "y": 3 }, "volumes": [{ "name": "u" }, { "name": "v", "m": 2 }], "l": [9] });
        assert_eq!(
            merge(base, &over),
            json!({
                "a": 1, "o": { "x": 1, "y": 3 },
                "volumes": [{ "name": "u" }, { "name": "v", "k": 1, "m": 2 }, { "name": "w" }], "l": [9],
            })
        );
    }

    #[test]
    fn a_user_gives_what_is_allowed_and_nothing_else() {
        let allowed = ["spec.nodeSelector".to_owned(), "metadata.labels".to_owned()];
        let check = |asked: Value| let_through(&asked, &allowed).map_err(|error| error.to_string());
        assert_eq!(
            check(json!({ "spec": { "nodeSelector": { "a": "b" } }, "metadata": { "labels": { "t": "1" } } })),
            Ok(())
        );
        for (bad, named) in [
            (json!({ "spec": { "hostNetwork": true } }), "spec.hostNetwork"),
            (json!({ "spec": { "serviceAccountName": "admin" } }), "spec.serviceAccountName"),
            (json!({ "metadata": { "namespace": "kube-system" } }), "metadata.namespace"),
            (json!({ "metadata": { "labels": { "csb.network": "full" } } }), "csb.network"),
            (json!({ "spec": ["nodeSelector"] }), "spec"),
            (json!("text"), "object"),
        ] {
            assert!(check(bad).unwrap_err().contains(named), "{named}");
        }
        assert!(let_through(&json!({ "spec": { "nodeSelector": {} } }), &[]).is_err());
        let annotated = |name: &str| {
            let_through(&json!({ "metadata": { "annotations": { name: "x" } } }), &["metadata.annotations".into()])
        };
        assert!(annotated("team").is_ok());
        for order in [
            "k8s.v1.cni.cncf.io/networks",
            "container.apparmor.security.beta.kubernetes.io/sandbox",
            "io.katacontainers.config.hypervisor.kernel_params",
            "dev.gvisor.flag.network",
        ] {
            assert!(annotated(order).unwrap_err().to_string().contains(order), "{order}");
        }
    }
}
