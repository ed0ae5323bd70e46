//! The API server: who may ask what, and what comes of it.
//!
//! `/test/…`, without a credential, is for what tests do to a cluster from outside:
//!
//! | `POST` | what happens |
//! | --- | --- |
//! | `/test/quota/N` | the namespace's quota is N pods |
//! | `/test/deny/NUMBER` | other than 0: the caller may not start programs in pods, if it asks what it may |
//! | `/test/refuse/CODE` | every request is refused with this status; 0: none |
//! | `/test/evict/POD` | the kubelet evicts a pod for lack of memory |
//! | `/test/cut` | every stream to a container breaks |
//! | `/test/compact` | versions up to now are forgotten, and watches end |
//! | `/test/lose-node` | the kubelet is silent; what watches nodes then deletes its pods |

use super::{
    Shared, exec, kubelet,
    objects::{Refusal, check, class, now, patch},
};
use axum::{
    Json, Router,
    body::Body,
    extract::{Path, Query, Request, State, WebSocketUpgrade},
    http::{HeaderMap, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use bytes::Bytes;
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};
use tokio::sync::{mpsc, watch};

type Answer = Result<Response, Refusal>;
type Words = HashMap<String, String>;

/// What tests set.
#[derive(Debug)]
pub(super) struct Faults {
    quota: AtomicU32,
    refuse: AtomicU32,
    deny: AtomicU32,
    cuts: watch::Sender<u64>,
    lapses: watch::Sender<u64>,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            quota: AtomicU32::new(u32::MAX),
            refuse: AtomicU32::new(0),
            deny: AtomicU32::new(0),
            cuts: watch::Sender::new(0),
            lapses: watch::Sender::new(0),
        }
    }
}

impl Shared {
    /// Changes when every stream to a container is to break.
    pub(super) fn kubelet_cuts(&self) -> watch::Receiver<u64> {
        self.faults.cuts.subscribe()
    }
}

/// Resources that are kept, by path.
const RESOURCES: [(&str, &str, &str, bool); 3] = [
    ("pods", "v1", "Pod", true),
    ("namespaces", "v1", "Namespace", false),
    ("networkpolicies", "networking.k8s.io/v1", "NetworkPolicy", true),
];

pub(super) fn router(shared: Arc<Shared>) -> Router {
    let api = Router::new()
        .route("/api", get(async || Json(json!({ "kind": "APIVersions", "versions": ["v1"] }))))
        .route("/apis", get(async || Json(groups())))
        .route("/api/v1", get(async || Json(discovery("v1"))))
        .route("/apis/networking.k8s.io/v1", get(async || Json(discovery("networking.k8s.io/v1"))))
        .route("/version", get(async || Json(json!({ "major": "1", "minor": "33", "gitVersion": "v1.33.0-csb-test" }))))
        .route("/readyz", get(async || "ok"))
        .route("/api/v1/namespaces", get(async |s, q| list(s, "namespaces", "", q).await))
        .route(
            "/api/v1/namespaces/{ns}",
            get(async |s: State<Arc<Shared>>, Path(name): Path<String>| read(&s, "namespaces", "", &name)),
        )
        .route("/api/v1/pods", get(async |s, q| list(s, "pods", "", q).await))
        .route(
            "/api/v1/namespaces/{ns}/pods",
            get(async |s, Path(ns): Path<String>, q| list(s, "pods", &ns, q).await).post(create_pod),
        )
        .route(
            "/api/v1/namespaces/{ns}/pods/{name}",
            get(async |s: State<Arc<Shared>>, Path((ns, name)): Path<(String, String)>| read(&s, "pods", &ns, &name))
                .delete(delete_pod)
                .put(async |s, p, b| replace(s, p, b).await)
                .patch(patch_pod),
        )
        .route("/api/v1/namespaces/{ns}/pods/{name}/resize", axum::routing::patch(resize_pod))
        .route("/api/v1/namespaces/{ns}/pods/{name}/eviction", post(evict_pod))
        .route("/api/v1/namespaces/{ns}/pods/{name}/exec", get(exec_pod).post(exec_pod))
        .route(
            "/apis/networking.k8s.io/v1/namespaces/{ns}/networkpolicies",
            get(async |s, Path(ns): Path<String>, q| list(s, "networkpolicies", &ns, q).await).post(create_policy),
        )
        .route(
            "/apis/networking.k8s.io/v1/namespaces/{ns}/networkpolicies/{name}",
            get(async |s: State<Arc<Shared>>, Path((ns, name)): Path<(String, String)>| {
                read(&s, "networkpolicies", &ns, &name)
            })
            .delete(async |s: State<Arc<Shared>>, Path((ns, name)): Path<(String, String)>| {
                Ok::<_, Refusal>(Json(s.store.remove("networkpolicies", &ns, &name)?))
            }),
        )
        .route("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", post(review))
        .fallback(async || Refusal::new(404, "NotFound", "the server could not find the requested resource"))
        .layer(middleware::from_fn_with_state(shared.clone(), guard));
    let test = Router::new().route("/test/{what}", post(disturb)).route("/test/{what}/{value}", post(disturb));
    test.merge(api).with_state(shared)
}

/// Lets in whoever has the token.
async fn guard(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let given = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
    // What there is, anybody may ask; `kubectl` says who it is only over TLS.
    let open = ["/api", "/apis", "/api/v1", "/apis/networking.k8s.io/v1", "/version", "/readyz"];
    if open.contains(&request.uri().path()) {
        return next.run(request).await;
    }
    if given != format!("Bearer {}", shared.token) {
        return Refusal::new(401, "Unauthorized", "Unauthorized").into_response();
    }
    match shared.faults.refuse.load(Ordering::Relaxed) as u16 {
        0 => next.run(request).await,
        403 => {
            let what = "pods is forbidden: User \"csb\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\"";
            Refusal::new(403, "Forbidden", what).into_response()
        }
        code => Refusal::new(code, "ServiceUnavailable", "the server is currently unable to handle the request")
            .into_response(),
    }
}

async fn disturb(State(shared): State<Arc<Shared>>, Path(words): Path<Vec<String>>) -> Result<StatusCode, Refusal> {
    let value = words.get(1).map(String::as_str).unwrap_or_default();
    let number = value.parse::<u32>().unwrap_or(0);
    match words[0].as_str() {
        "quota" => shared.faults.quota.store(number, Ordering::Relaxed),
        "deny" => shared.faults.deny.store(number, Ordering::Relaxed),
        "refuse" => shared.faults.refuse.store(number, Ordering::Relaxed),
        "cut" => shared.faults.cuts.send_modify(|count| *count += 1),
        "compact" => {
            shared.store.compact();
            shared.faults.lapses.send_modify(|count| *count += 1);
        }
        "evict" => {
            let message = "The node was low on resource: memory.";
            let status = json!({ "phase": "Failed", "reason": "Evicted", "message": message });
            shared.store.set_status("default", value, status);
            shared.kubelet.end(&shared, value).await;
        }
        "lose-node" => {
            shared.kubelet.lost.store(true, Ordering::Relaxed);
            for (namespace, name) in shared.store.names("pods") {
                let message = "Taint manager: deleting due to NoExecute taint";
                shared.store.set_condition(
                    &namespace,
                    &name,
                    "DisruptionTarget",
                    true,
                    "DeletionByTaintManager",
                    message,
                );
                mark(&shared, &namespace, &name)?;
            }
        }
        what => return Err(Refusal::absent("test", what)),
    }
    Ok(StatusCode::NO_CONTENT)
}

/// What the caller may do: all but what a test denies.
async fn review(State(shared): State<Arc<Shared>>, bytes: Bytes) -> Answer {
    let mut review = body(&bytes)?;
    let denied = shared.faults.deny.load(Ordering::Relaxed) > 0;
    let execs = review["spec"]["resourceAttributes"]["subresource"] == "exec";
    review["status"] = json!({ "allowed": !(denied && execs) });
    Ok((StatusCode::CREATED, Json(review)).into_response())
}

fn groups() -> Value {
    let version = json!({ "groupVersion": "networking.k8s.io/v1", "version": "v1" });
    json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": [
        { "name": "networking.k8s.io", "versions": [version], "preferredVersion": version },
    ] })
}

fn discovery(version: &str) -> Value {
    let of = RESOURCES.iter().filter(|(_, own, ..)| *own == version);
    let verbs = ["create", "delete", "get", "list", "patch", "update", "watch"];
    let resources: Vec<Value> = of
        .map(|(name, _, kind, namespaced)| {
            json!({ "name": name, "singularName": kind.to_lowercase(), "namespaced": namespaced, "kind": kind, "verbs": verbs })
        })
        .collect();
    json!({ "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": resources })
}

fn kind_of(resource: &str) -> (&'static str, &'static str) {
    RESOURCES
        .iter()
        .find(|(name, ..)| *name == resource)
        .map_or(("v1", "Unknown"), |(_, version, kind, _)| (version, kind))
}

fn read(shared: &Shared, resource: &str, namespace: &str, name: &str) -> Answer {
    Ok(Json(shared.store.get(resource, namespace, name)?).into_response())
}

async fn list(
    State(shared): State<Arc<Shared>>,
    resource: &'static str,
    namespace: &str,
    Query(words): Query<Words>,
) -> Answer {
    let word = |name: &str| words.get(name).cloned().unwrap_or_default();
    let selector = word("labelSelector");
    if matches!(word("watch").as_str(), "true" | "1") {
        return watching(shared, resource, namespace.to_owned(), &words);
    }
    let (items, version) = shared.store.list(resource, namespace, &selector);
    let (api, kind) = kind_of(resource);
    let metadata = json!({ "resourceVersion": version.to_string() });
    Ok(Json(json!({ "apiVersion": api, "kind": format!("{kind}List"), "metadata": metadata, "items": items }))
        .into_response())
}

/// A stream of what happens, a JSON object a line.
fn watching(shared: Arc<Shared>, resource: &'static str, namespace: String, words: &Words) -> Answer {
    let word = |name: &str| words.get(name).cloned().unwrap_or_default();
    let (selector, marks) = (word("labelSelector"), matches!(word("allowWatchBookmarks").as_str(), "true" | "1"));
    let patience = Duration::from_secs(word("timeoutSeconds").parse().unwrap_or(300));
    let mut version = word("resourceVersion").parse::<u64>().unwrap_or(0);
    let (sender, receiver) = mpsc::channel::<Result<Bytes, std::convert::Infallible>>(64);
    let line = |kind: &str, object: &Value| Ok(Bytes::from(format!("{}\n", json!({ "type": kind, "object": object }))));
    tokio::spawn(async move {
        let (mut news, mut lapses) = (shared.store.news(), shared.faults.lapses.subscribe());
        let end = tokio::time::sleep(patience);
        let mut end = std::pin::pin!(end);
        let mut mark = tokio::time::interval(Duration::from_secs(1));
        loop {
            match shared.store.since(resource, &namespace, &selector, version) {
                Ok((events, up_to)) => {
                    version = up_to;
                    for event in events {
                        if sender.send(line(event.kind, &event.object)).await.is_err() {
                            return;
                        }
                    }
                }
                Err(refusal) => {
                    let _ = sender.send(line("ERROR", &refusal.status())).await;
                    return;
                }
            }
            tokio::select! {
                changed = news.changed() => if changed.is_err() { return },
                _ = lapses.changed() => return,
                () = &mut end => return,
                () = sender.closed() => return,
                _ = mark.tick() => if marks {
                    let (api, kind) = kind_of(resource);
                    let object = json!({ "apiVersion": api, "kind": kind, "metadata": { "resourceVersion": version.to_string() } });
                    if sender.send(line("BOOKMARK", &object)).await.is_err() {
                        return;
                    }
                },
            }
        }
    });
    let stream = futures_util::stream::unfold(receiver, async |mut receiver| Some((receiver.recv().await?, receiver)));
    Ok(([(header::CONTENT_TYPE, "application/json")], Body::from_stream(stream)).into_response())
}

fn body(bytes: &Bytes) -> Result<Value, Refusal> {
    serde_json::from_slice(bytes).map_err(|error| Refusal::new(400, "BadRequest", error.to_string()))
}

fn in_namespace(shared: &Shared, namespace: &str) -> Result<(), Refusal> {
    shared.store.get("namespaces", "", namespace).map(drop)
}

async fn create_pod(State(shared): State<Arc<Shared>>, Path(ns): Path<String>, bytes: Bytes) -> Answer {
    let mut pod = body(&bytes)?;
    in_namespace(&shared, &ns)?;
    check(&pod)?;
    let name = pod["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let forbidden = |why: String| Refusal::new(403, "Forbidden", format!("pods \"{name}\" is forbidden: {why}"));
    if let Some(runtime) = pod["spec"]["runtimeClassName"].as_str()
        && !shared.config.runtime_classes.iter().any(|known| known == runtime)
    {
        return Err(forbidden(format!("pod rejected: RuntimeClass \"{runtime}\" not found")));
    }
    let (quota, used) = (shared.faults.quota.load(Ordering::Relaxed), shared.store.list("pods", &ns, "").0.len());
    if used as u64 >= u64::from(quota) {
        let what = format!("exceeded quota: sandboxes, requested: pods=1, used: pods={used}, limited: pods={quota}");
        return Err(forbidden(what));
    }
    pod["status"] = json!({ "phase": "Pending", "qosClass": class(&pod) });
    let made = shared.store.create("pods", &ns, pod)?;
    kubelet::begin(&shared, made.clone());
    Ok((StatusCode::CREATED, Json(made)).into_response())
}

async fn create_policy(State(shared): State<Arc<Shared>>, Path(ns): Path<String>, bytes: Bytes) -> Answer {
    let policy = body(&bytes)?;
    in_namespace(&shared, &ns)?;
    serde_json::from_value::<k8s_openapi::api::networking::v1::NetworkPolicy>(policy.clone())
        .map_err(|error| Refusal::new(400, "BadRequest", error.to_string()))?;
    Ok((StatusCode::CREATED, Json(shared.store.create("networkpolicies", &ns, policy)?)).into_response())
}

/// Says that a pod is to go.
fn mark(shared: &Shared, namespace: &str, name: &str) -> Result<Value, Refusal> {
    shared.store.change("pods", namespace, name, None, |pod| {
        pod["metadata"]["deletionTimestamp"] = now().into();
        Ok(())
    })
}

/// Ends a pod after its grace period, which a node that is lost never confirms.
fn ends(shared: &Arc<Shared>, namespace: String, name: String, grace: u64) {
    let shared = shared.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(grace)).await;
        if !shared.kubelet.lost.load(Ordering::Relaxed) {
            shared.kubelet.end(&shared, &name).await;
            let _ = shared.store.remove("pods", &namespace, &name);
        }
    });
}

async fn delete_pod(
    State(shared): State<Arc<Shared>>,
    Path((ns, name)): Path<(String, String)>,
    Query(words): Query<Words>,
    bytes: Bytes,
) -> Answer {
    let options = if bytes.is_empty() { json!({}) } else { body(&bytes)? };
    let pod = shared.store.get("pods", &ns, &name)?;
    if let Some(uid) = options["preconditions"]["uid"].as_str()
        && pod["metadata"]["uid"] != uid
    {
        return Err(Refusal::stale("pods", &name));
    }
    let asked =
        options["gracePeriodSeconds"].as_u64().or(words.get("gracePeriodSeconds").and_then(|text| text.parse().ok()));
    let grace = asked.or(pod["spec"]["terminationGracePeriodSeconds"].as_u64()).unwrap_or(30);
    if grace == 0 {
        // At once, whatever its node says; that hears of it.
        let gone = shared.store.remove("pods", &ns, &name)?;
        let shared = shared.clone();
        tokio::spawn(async move { shared.kubelet.end(&shared, &name).await });
        return Ok(Json(gone).into_response());
    }
    let marked = mark(&shared, &ns, &name)?;
    ends(&shared, ns, name, grace);
    Ok(Json(marked).into_response())
}

async fn replace(State(shared): State<Arc<Shared>>, Path((ns, name)): Path<(String, String)>, bytes: Bytes) -> Answer {
    let new = body(&bytes)?;
    let expected = new["metadata"]["resourceVersion"].as_str().map(ToOwned::to_owned);
    let changed = shared.store.change("pods", &ns, &name, expected.as_deref(), |pod| {
        pod["metadata"]["labels"] = new["metadata"]["labels"].clone();
        pod["metadata"]["annotations"] = new["metadata"]["annotations"].clone();
        Ok(())
    })?;
    Ok(Json(changed).into_response())
}

fn is_strategic(headers: &HeaderMap) -> Result<bool, Refusal> {
    match headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()) {
        Some("application/strategic-merge-patch+json") => Ok(true),
        Some("application/merge-patch+json") => Ok(false),
        other => Err(Refusal::new(415, "UnsupportedMediaType", format!("the body of the request was {other:?}"))),
    }
}

async fn patch_pod(
    State(shared): State<Arc<Shared>>,
    Path((ns, name)): Path<(String, String)>,
    headers: HeaderMap,
    bytes: Bytes,
) -> Answer {
    let (strategic, changes) = (is_strategic(&headers)?, body(&bytes)?);
    let expected = changes["metadata"]["resourceVersion"].as_str().map(ToOwned::to_owned);
    let changed = shared.store.change("pods", &ns, &name, expected.as_deref(), |pod| {
        let spec = pod["spec"].clone();
        patch(pod, &changes, strategic);
        if pod["spec"] != spec {
            let what = "spec: Forbidden: pod updates may not change fields other than image, activeDeadlineSeconds, tolerations";
            return Err(Refusal::new(422, "Invalid", format!("Pod \"{name}\" is invalid: {what}")));
        }
        Ok(())
    })?;
    Ok(Json(changed).into_response())
}

async fn resize_pod(
    State(shared): State<Arc<Shared>>,
    Path((ns, name)): Path<(String, String)>,
    headers: HeaderMap,
    bytes: Bytes,
) -> Answer {
    let (strategic, changes) = (is_strategic(&headers)?, body(&bytes)?);
    let changed = shared.store.change("pods", &ns, &name, None, |pod| {
        let before = class(pod);
        patch(pod, &changes, strategic);
        check(pod)?;
        if class(pod) != before {
            let what = "spec: Invalid value: Pod QOS Class may not change as a result of resizing";
            return Err(Refusal::new(422, "Invalid", format!("Pod \"{name}\" is invalid: {what}")));
        }
        Ok(())
    })?;
    let (of, called) = (shared.clone(), name.clone());
    tokio::spawn(async move { kubelet::resize(&of, &ns, &called).await });
    Ok(Json(changed).into_response())
}

async fn evict_pod(State(shared): State<Arc<Shared>>, Path((ns, name)): Path<(String, String)>) -> Answer {
    shared.store.get("pods", &ns, &name)?;
    shared.store.set_condition(&ns, &name, "DisruptionTarget", true, "EvictionByEvictionAPI", "Eviction API: evicting");
    let pod = mark(&shared, &ns, &name)?;
    ends(&shared, ns, name, pod["spec"]["terminationGracePeriodSeconds"].as_u64().unwrap_or(30));
    let status = json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201 });
    Ok((StatusCode::CREATED, Json(status)).into_response())
}

async fn exec_pod(
    State(shared): State<Arc<Shared>>,
    Path((ns, name)): Path<(String, String)>,
    request: Query<Vec<(String, String)>>,
    upgrade: Result<WebSocketUpgrade, axum::extract::ws::rejection::WebSocketUpgradeRejection>,
) -> Answer {
    let pod = shared.store.get("pods", &ns, &name)?;
    let word = |asked: &str| request.iter().find(|(key, _)| key == asked).map(|(_, value)| value.as_str());
    let is = |asked: &str| matches!(word(asked), Some("true" | "1"));
    let container = exec::container(&pod, word("container").unwrap_or_default())?;
    if shared.kubelet.lost.load(Ordering::Relaxed) {
        return Err(Refusal::new(500, "InternalError", "error dialing backend: dial tcp 10.0.0.1:10250: i/o timeout"));
    }
    let asked = exec::Asked {
        pod: name,
        container,
        command: request.iter().filter(|(key, _)| key == "command").map(|(_, value)| value.clone()).collect(),
        stdin: is("stdin"),
        stdout: is("stdout"),
        stderr: is("stderr"),
    };
    let upgrade = upgrade.map_err(|error| Refusal::new(400, "BadRequest", error.to_string()))?;
    let upgrade = upgrade.protocols(["v5.channel.k8s.io", "v4.channel.k8s.io"]);
    Ok(upgrade.on_upgrade(move |socket| exec::serve(shared, asked, socket)))
}
