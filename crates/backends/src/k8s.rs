//! Kind `k8s`: pods of a Kubernetes cluster.
//!
//! The cluster makes, limits and ends a pod; our own init is its container's program, brought by an init container. All that is said
//! to it goes through the API server (`pods/exec`, a process that joins the init with us) and one stream. A stream that is lost
//! is made again, so neither a server's restart nor an API server's takes a command along. The cluster is the only record of what
//! there is: pods are found again by their labels.

mod attach;
mod body;
mod cluster;
mod examine;
mod merge;
mod state;
mod watch;

use crate::{
    Backend, BackendError, Held,
    backend::Building,
    guests::refusal,
    undo::{self, Release},
};
use attach::Counters;
use body::NODE;
use cluster::{Access, Cluster, is_absent, is_conflict};
use csb_engine::{Doing, Keeper, warden::WardenError};
use csb_sys::packet::Conn;
use csb_types::{Kind, KindOptions, Limits, SandboxId, SandboxSpec, Usage};
use csb_wire::Failure;
use k8s_openapi::{
    api::{core::v1::Pod, networking::v1::NetworkPolicy},
    apimachinery::pkg::api::resource::Quantity,
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions},
};
use serde_json::Value;
use state::{State, Wait};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use watch::Pods;

/// What an administrator decides.
#[derive(Debug, Clone)]
pub struct K8sSettings {
    /// File that says where the cluster is; none: that of the pod that this server runs in, else what `kubectl` would take.
    pub kubeconfig: Option<PathBuf>,
    /// Which of its contexts; none: its current one.
    pub context: Option<String>,
    /// Namespace of sandboxes that name none; none: the context's.
    pub namespace: Option<String>,
    /// Further ones that may be asked for.
    pub namespaces: Vec<String>,
    /// Image with this program in its PATH; none: the kind is off.
    pub program_image: Option<String>,
    /// Image of sandboxes that name none.
    pub image: Option<String>,
    /// Beginnings of names of images that may be asked for; `*`: all. The name of an image chooses a host that nodes connect to.
    pub images: Vec<String>,
    /// Runtime class of sandboxes that name none.
    pub runtime_class: Option<String>,
    /// Further ones that may be asked for.
    pub runtime_classes: Vec<String>,
    /// A pod that each sandbox's is laid over.
    pub template: Option<Value>,
    /// Fields of a pod that users may give, such as `spec.nodeSelector`.
    pub template_fields: Vec<String>,
    /// How long a pod may take to come up.
    pub patience: Duration,
}

impl Default for K8sSettings {
    fn default() -> Self {
        Self {
            kubeconfig: None,
            context: None,
            namespace: None,
            namespaces: vec![],
            program_image: None,
            image: None,
            images: vec![],
            runtime_class: None,
            runtime_classes: vec![],
            template: None,
            template_fields: vec![],
            patience: Duration::from_secs(120),
        }
    }
}

impl K8sSettings {
    /// Reads an operator's template: YAML or JSON of a Pod, or of what a Deployment has as `template`.
    pub fn read_template(path: &Path) -> Result<Value, String> {
        let text = fs::read_to_string(path).map_err(|error| error.to_string())?;
        let template: Value = serde_saphyr::from_str(&text).map_err(|error| error.to_string())?;
        let known = |name: &String| ["apiVersion", "kind", "metadata", "spec"].contains(&name.as_str());
        let Value::Object(fields) = &template else { return Err("it is no object".into()) };
        if let Some(foreign) = fields.keys().find(|name| !known(name)) {
            return Err(format!("`{foreign}` is no field of a pod"));
        }
        let pod: Result<Pod, _> = serde_json::from_value(template.clone());
        // `containers` is what ours are added to.
        match pod {
            Err(error) if !error.to_string().contains("missing field `containers`") => Err(error.to_string()),
            _ => Ok(template),
        }
    }
}

/// See the module.
#[derive(Debug)]
pub struct K8s {
    shared: Arc<Shared>,
}

struct Shared {
    settings: K8sSettings,
    /// By which pods of this server are known among all of a cluster.
    node: String,
    cluster: Cluster,
    pods: Pods,
    /// Whether the pods of an earlier server are followed: until then one that nobody follows may be a sandbox.
    found: AtomicBool,
    /// Namespaces in which the policy that shuts off pods is known to be.
    shut: Mutex<HashSet<String>>,
    /// Of sandboxes that were asked what they use.
    counters: Mutex<HashMap<SandboxId, Arc<tokio::sync::Mutex<Option<Counters>>>>>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("settings", &self.settings).field("node", &self.node).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The name by which this data directory's pods are known. Made once; random, as paths are the same on many hosts.
fn node(data_dir: &Path) -> io::Result<String> {
    let path = data_dir.join("k8s-node");
    if let Ok(name) = fs::read_to_string(&path) {
        let name = name.trim();
        if name.len() == 16 && name.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Ok(name.to_owned());
        }
    }
    let mut bytes = [0; 8];
    io::Read::read_exact(&mut fs::File::open("/dev/urandom")?, &mut bytes)?;
    let name = hex::encode(bytes);
    let new = data_dir.join("k8s-node.new");
    fs::write(&new, &name)?;
    fs::rename(new, path)?;
    Ok(name)
}

impl K8s {
    /// Where the cluster of these settings is, if one is found, answers, and lets this server do what it has to; nothing is made
    /// in it. May take as long as a cluster that does not answer lets wait.
    pub async fn examine(settings: &K8sSettings) -> Result<String, BackendError> {
        examine::examine(settings).await
    }

    /// Nothing is asked of a cluster before a sandbox is.
    pub fn new(data_dir: &Path, settings: K8sSettings) -> io::Result<Self> {
        let shared = Shared {
            node: node(data_dir)?,
            settings,
            cluster: Cluster::default(),
            pods: Pods::default(),
            found: AtomicBool::new(false),
            shut: Mutex::default(),
            counters: Mutex::default(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }
}

/// What a request names, where it may.
struct Chosen {
    namespace: Option<String>,
    image: String,
    asked: Option<Value>,
}

/// Refuses what the kind does not have, or the operator does not allow.
fn choose(settings: &K8sSettings, spec: &SandboxSpec) -> Result<Chosen, BackendError> {
    let unsupported = |what: String| Err(BackendError::Unsupported(what));
    if settings.program_image.is_none() {
        return unsupported(
            "sandbox kind `k8s`: this server is not set up for it (setting `k8s.program_image`; docs/guides/kubernetes.md)".into(),
        );
    }
    if !spec.limits.io.is_none() {
        return unsupported("limits of disk speed in sandbox kind `k8s`".into());
    }
    if spec.limits.cpu_weight.is_some() {
        return unsupported(
            "`cpu_weight` in sandbox kind `k8s`: a pod's share is what it requests (`resources.requests.cpu`)".into(),
        );
    }
    if !spec.volumes.is_empty() {
        return unsupported("directories of the server's host in sandbox kind `k8s`".into());
    }
    let options = &spec.options;
    let among = |what: &str, asked: &str, usual: Option<&String>, more: &[String], setting: &str| {
        if usual.is_some_and(|usual| usual == asked) || more.iter().any(|one| one == asked) {
            return Ok(());
        }
        let allowed: Vec<String> = usual.into_iter().chain(more).map(|one| format!("`{one}`")).collect();
        let allowed = if allowed.is_empty() { "none".to_owned() } else { allowed.join(", ") };
        let asked: String = asked.chars().take(64).collect();
        Err(BackendError::Unsupported(format!("{what} `{asked}`: this server allows {allowed} (setting `{setting}`)")))
    };
    if let Some(asked) = &options.namespace {
        among("namespace", asked, settings.namespace.as_ref(), &settings.namespaces, "k8s.namespaces")?;
    }
    if let Some(asked) = &options.runtime_class {
        among(
            "runtimeClassName",
            asked,
            settings.runtime_class.as_ref(),
            &settings.runtime_classes,
            "k8s.runtime_classes",
        )?;
    }
    options.work_dir.as_deref().map_or(Ok(()), crate::guests::check_work_dir)?;
    let image = match (&options.image, &settings.image) {
        (Some(asked), usual) => {
            crate::docker::check_image(asked)?;
            let listed = settings.images.iter().any(|start| start == "*" || asked.starts_with(start.as_str()));
            if !listed && usual.as_ref() != Some(asked) {
                return Err(BackendError::Unsupported(format!(
                    "image `{asked}`: this server does not allow it (setting `k8s.images`)"
                )));
            }
            asked.clone()
        }
        (None, Some(usual)) => usual.clone(),
        (None, None) => {
            return Err(BackendError::NotFound {
                what: "an image (the request names none, and the setting `k8s.image` neither)".into(),
                hint: "give `image`, or have the server's setting made".into(),
            });
        }
    };
    let asked = match &options.pod_template {
        None => None,
        Some(text) => {
            let asked = serde_json::from_str(text)
                .map_err(|error| BackendError::Unsupported(format!("podTemplate: it is no JSON: {error}")))?;
            merge::let_through(&asked, &settings.template_fields)?;
            Some(asked)
        }
    };
    Ok(Chosen { namespace: options.namespace.clone(), image, asked })
}

impl Shared {
    async fn access(&self) -> Result<Access, BackendError> {
        self.cluster.access(&self.settings).await
    }

    fn api(&self, access: &Access, namespace: &str) -> Api<Pod> {
        Api::namespaced(access.client.clone(), namespace)
    }

    async fn ready(&self) -> Result<(), BackendError> {
        choose(&self.settings, &SandboxSpec { kind: Kind::K8s, ..Default::default() }).or_else(
            |error| match error {
                // A request may name one.
                BackendError::NotFound { .. } if !self.settings.images.is_empty() => {
                    Ok(Chosen { namespace: None, image: String::new(), asked: None })
                }
                error => Err(error),
            },
        )?;
        let access = self.access().await?;
        let pods = self.api(&access, &access.namespace);
        let ours = ListParams::default().labels(&format!("{NODE}={}", self.node)).limit(1);
        access.ask("list the pods", pods.list(&ours)).await.map(drop)
    }

    async fn create(self: &Arc<Self>, id: &SandboxId, spec: &SandboxSpec) -> Result<Conn, BackendError> {
        let chosen = choose(&self.settings, spec)?;
        let access = self.access().await?;
        let namespace = chosen.namespace.clone().unwrap_or_else(|| access.namespace.clone());
        self.shut(&access, &namespace).await?;
        watch::ensure(self, &namespace);
        undo::whole(self, id, self.build(id, spec, &access, &namespace, chosen)).await
    }

    async fn build(
        &self,
        id: &SandboxId,
        spec: &SandboxSpec,
        access: &Access,
        namespace: &str,
        chosen: Chosen,
    ) -> Result<Conn, BackendError> {
        let rendered = body::pod(&self.settings, &self.node, id, spec, &chosen.image, chosen.asked.as_ref());
        let pod: Pod = serde_json::from_value(rendered)
            .map_err(|error| BackendError::Unsupported(format!("podTemplate: the pod would not be one: {error}")))?;
        let mut state = self.pods.follow(id, namespace, State::Coming(None));
        let pods = self.api(access, namespace);
        access.ask("make the pod", pods.create(&PostParams::default(), &pod)).await?;
        self.pods.made(id);
        let mut waits = None;
        let up = async {
            loop {
                let now = state.borrow_and_update().clone();
                match now {
                    State::Up => return Ok(()),
                    State::Refused(error) => return Err(error),
                    State::Gone(why) => {
                        return Err(BackendError::Unavailable {
                            what: format!("the pod ended before it was ready: {why}"),
                            hint: "`kubectl describe pod` and the namespace's events say more".into(),
                        });
                    }
                    State::Coming(wait) => waits = wait.or(waits.take()),
                }
                if state.changed().await.is_err() {
                    return Err(BackendError::Failed {
                        step: "wait for the pod".into(),
                        message: "it was let go".into(),
                    });
                }
            }
        };
        match tokio::time::timeout(self.settings.patience, up).await {
            Ok(up) => up?,
            Err(_) => return Err(self.late(waits)),
        }
        let dial = attach::dial(pods, body::name(id), state);
        csb_relay::host(dial).map_err(|error| BackendError::Failed {
            step: "connect with the pod's init".into(),
            message: error.to_string(),
        })
    }

    /// What it means that a pod did not come up in time.
    fn late(&self, waits: Option<Wait>) -> BackendError {
        let seconds = self.settings.patience.as_secs();
        match waits {
            Some(Wait::Node(why)) => BackendError::NoRoom {
                limit: format!("no node of the cluster took the pod within {seconds} s: {why}"),
                hint: "release sandboxes, ask for less (`resources.requests`), or add nodes".into(),
            },
            waits => BackendError::Unavailable {
                what: match waits {
                    Some(Wait::Other(why)) => format!("the pod did not come up within {seconds} s: {why}"),
                    _ => format!("the pod did not come up within {seconds} s"),
                },
                hint: "a large image takes long to pull: have it on the nodes, or raise `k8s.start_timeout`".into(),
            },
        }
    }

    /// Makes sure that pods of a namespace are shut off from the network.
    async fn shut(&self, access: &Access, namespace: &str) -> Result<(), BackendError> {
        const STEP: &str = "make the network policy";
        if lock(&self.shut).contains(namespace) {
            return Ok(());
        }
        let policies: Api<NetworkPolicy> = Api::namespaced(access.client.clone(), namespace);
        let wanted: NetworkPolicy = serde_json::from_value(body::policy())
            .map_err(|error| BackendError::Failed { step: STEP.into(), message: error.to_string() })?;
        match tokio::time::timeout(cluster::PATIENCE, policies.create(&PostParams::default(), &wanted)).await {
            Ok(Err(error)) if is_conflict(&error) => {
                let there = access.ask("read the network policy", policies.get(body::POLICY)).await?;
                // Defaults of the API server are not ours to compare.
                let found = there.spec.clone().unwrap_or_default();
                let ours = wanted.spec.unwrap_or_default();
                let same = found.pod_selector == ours.pod_selector
                    && found.policy_types == ours.policy_types
                    && found.ingress.unwrap_or_default().is_empty()
                    && found.egress.unwrap_or_default().is_empty();
                if !same {
                    return Err(BackendError::Unavailable {
                        what: format!(
                            "the network policy `{}` of namespace `{namespace}` lets something through",
                            body::POLICY
                        ),
                        hint: "delete it: the server makes it again".into(),
                    });
                }
            }
            Ok(made) => made.map(drop).map_err(|error| access.refused(STEP, &error))?,
            Err(_) => return access.ask(STEP, std::future::pending()).await,
        }
        lock(&self.shut).insert(namespace.to_owned());
        Ok(())
    }

    /// Namespaces in which pods of ours may be.
    fn namespaces(&self, access: &Access) -> Vec<String> {
        let mut all = vec![access.namespace.clone()];
        all.extend(self.settings.namespaces.iter().filter(|one| **one != access.namespace).cloned());
        all
    }

    async fn end(&self, id: &SandboxId) -> Result<(), BackendError> {
        self.pods.ending(id);
        lock(&self.counters).remove(id);
        let access = self.access().await?;
        let namespaces = match self.pods.namespace(id) {
            Some(namespace) => vec![namespace],
            None => self.namespaces(&access),
        };
        for namespace in namespaces {
            self.remove(&access, &namespace, &body::name(id)).await?;
        }
        self.pods.forget(id);
        Ok(())
    }

    /// Removes a pod that bears this server's label, and no other.
    async fn remove(&self, access: &Access, namespace: &str, name: &str) -> Result<(), BackendError> {
        let pods = self.api(access, namespace);
        let Some(found) = access.ask("find the pod", pods.get_opt(name)).await? else { return Ok(()) };
        if found.labels().get(NODE) != Some(&self.node) {
            tracing::warn!(namespace, name, "a pod that is not of this server is left alone");
            return Ok(());
        }
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            // Not another of the same name.
            preconditions: Some(Preconditions { uid: found.uid(), resource_version: None }),
            ..Default::default()
        };
        match tokio::time::timeout(cluster::PATIENCE, pods.delete(name, &params)).await {
            Ok(Err(error)) if is_absent(&error) || is_conflict(&error) => Ok(()),
            Ok(done) => done.map(drop).map_err(|error| access.refused("delete the pod", &error)),
            Err(_) => access.ask("delete the pod", std::future::pending()).await,
        }
    }

    /// Removes a pod of ours that nobody here knows.
    fn bury(self: &Arc<Self>, namespace: &str, pod: &Pod) {
        let (shared, namespace, name) = (self.clone(), namespace.to_owned(), pod.name_any());
        tokio::spawn(async move {
            tracing::warn!(namespace, name, "removing a pod of this server that nothing tells of");
            let removed = async { shared.remove(&shared.access().await?, &namespace, &name).await };
            if let Err(error) = removed.await {
                tracing::error!(namespace, name, %error, "cannot remove a pod");
            }
        });
    }

    async fn held(self: &Arc<Self>) -> Result<Vec<Held>, BackendError> {
        if self.settings.program_image.is_none() {
            return Ok(vec![]);
        }
        let access = self.access().await?;
        // All of them first: where one namespace does not answer, nothing is taken over yet.
        let mut listed = Vec::new();
        for namespace in self.namespaces(&access) {
            let pods = self.api(&access, &namespace);
            let labels = ListParams::default().labels(&format!("{NODE}={}", self.node));
            let found = access.ask("list the pods", pods.list(&labels)).await?.items;
            listed.push((namespace, pods, found));
        }
        let mut held = Vec::new();
        for (namespace, pods, found) in listed {
            for pod in found {
                let id = watch::id(&pod);
                // Made by this server while its cluster was only just back.
                if id.as_ref().is_some_and(|id| self.pods.namespace(id).is_some()) {
                    continue;
                }
                let found = state::state(&pod);
                let Some(id) = id.filter(|_| found == State::Up) else {
                    self.bury(&namespace, &pod);
                    continue;
                };
                let state = self.pods.follow(&id, &namespace, found);
                self.pods.made(&id);
                let conn = csb_relay::host(attach::dial(pods.clone(), body::name(&id), state));
                match conn {
                    Ok(conn) => held.push(Held { id, conn, frozen: false }),
                    Err(error) => tracing::error!(sandbox = %id, %error, "cannot connect with a pod's init"),
                }
            }
            watch::ensure(self, &namespace);
        }
        self.found.store(true, Ordering::Relaxed);
        Ok(held)
    }

    async fn set_limits(&self, id: &SandboxId, limits: &Limits) -> Result<(), BackendError> {
        let access = self.access().await?;
        let namespace = self.pods.namespace(id).unwrap_or_else(|| access.namespace.clone());
        let pods = self.api(&access, &namespace);
        let name = body::name(id);
        let found = access.ask("find the pod", pods.get(&name)).await?;
        let spec = SandboxSpec { options: requests(&found), ..Default::default() };
        let wanted = body::resize(&spec, limits.memory, limits.cpu_milli);
        let (params, patch) = (PatchParams::default(), Patch::Strategic(&wanted));
        let resized = pods.patch_resize(&name, &params, &patch);
        let resized = match tokio::time::timeout(cluster::PATIENCE, resized).await {
            Ok(Err(error)) if is_absent(&error) => {
                return Err(BackendError::Unsupported(
                    "limits of a living pod on this cluster: it has no `pods/resize` (Kubernetes 1.33)".into(),
                ));
            }
            Ok(done) => done.map_err(|error| access.refused("change the pod's limits", &error))?,
            Err(_) => return access.ask("change the pod's limits", std::future::pending()).await,
        };
        let done = self.resized(&access, &pods, resized, limits).await;
        if done.is_err()
            && let Some((memory, cpu_milli)) = limits_of(&found)
        {
            // What it has counts, not what it was to have: the node would try again.
            let before = Patch::Strategic(body::resize(&spec, memory, cpu_milli));
            if let Err(error) = access.ask("change the limits back", pods.patch_resize(&name, &params, &before)).await {
                tracing::warn!(sandbox = %id, %error, "a pod's limits are not what they are said to be");
            }
        }
        done
    }

    /// Waits for the node to do it, which says when.
    async fn resized(
        &self,
        access: &Access,
        pods: &Api<Pod>,
        mut pod: Pod,
        limits: &Limits,
    ) -> Result<(), BackendError> {
        let name = pod.name_any();
        let until = tokio::time::Instant::now() + cluster::PATIENCE;
        loop {
            match resizing(&pod, limits) {
                Resizing::Done => return Ok(()),
                Resizing::Refused(why) => {
                    return Err(BackendError::NoRoom {
                        limit: format!("the pod's node does not give it: {why}"),
                        hint: "make another sandbox, which may be placed on another node".into(),
                    });
                }
                Resizing::UnderWay if tokio::time::Instant::now() > until => {
                    return Err(BackendError::Failed {
                        step: "change the pod's limits".into(),
                        message: format!("its node has not done it within {} s", cluster::PATIENCE.as_secs()),
                    });
                }
                Resizing::UnderWay => tokio::time::sleep(Duration::from_millis(100)).await,
            }
            pod = access.ask("find the pod", pods.get(&name)).await?;
        }
    }

    /// What the cluster says of the end of a pod. The watch has told, unless its init ended this moment.
    async fn why_ended(&self, id: &SandboxId) -> String {
        let looked = async {
            let namespace = self.pods.namespace(id)?;
            let access = self.access().await.ok()?;
            let pod = self.api(&access, &namespace).get_opt(&body::name(id)).await.ok()?;
            Some(pod.as_ref().map_or_else(|| State::Gone("its pod was deleted".into()), state::state))
        };
        let state = match self.pods.state(id) {
            Some(State::Gone(why)) => Some(State::Gone(why)),
            _ => looked.await,
        };
        match state {
            Some(State::Gone(why)) => format!("the cluster ended it: {why}"),
            Some(State::Refused(error)) => format!("the cluster ended it: {error}"),
            _ => "its init in the pod is not reached any more".into(),
        }
    }

    async fn usage(&self, id: &SandboxId) -> io::Result<Usage> {
        let namespace = self.pods.namespace(id).ok_or_else(|| io::Error::from_raw_os_error(libc::ENOENT))?;
        let access = self.access().await.map_err(|error| io::Error::other(error.to_string()))?;
        let pods = self.api(&access, &namespace);
        let mine = lock(&self.counters).entry(id.clone()).or_default().clone();
        let mut counters = mine.lock().await;
        if let Some(living) = counters.as_mut() {
            match living.read().await {
                Ok(usage) => return Ok(usage),
                // A process that ended, or a connection that broke: another one.
                Err(error) => tracing::debug!(sandbox = %id, %error, "the process that counts is lost"),
            }
        }
        *counters = None;
        let mut new = Counters::start(&pods, &body::name(id)).await?;
        let usage = new.read().await?;
        *counters = Some(new);
        Ok(usage)
    }
}

/// What a pod's container requests now, where that is less than its limits.
fn requests(pod: &Pod) -> KindOptions {
    let container = pod.spec.iter().flat_map(|spec| &spec.containers).find(|one| one.name == body::CONTAINER);
    let Some(resources) = container.and_then(|one| one.resources.as_ref()) else { return KindOptions::default() };
    let of = |list: &Option<BTreeMap<String, Quantity>>, name: &str| {
        list.as_ref().and_then(|list| list.get(name)).map(|quantity| quantity.0.clone())
    };
    let less = |name: &str| {
        let (request, limit) = (of(&resources.requests, name), of(&resources.limits, name));
        request.filter(|request| Some(request) != limit.as_ref())
    };
    KindOptions {
        request_memory: less("memory").and_then(|text| csb_types::parse_bytes(&text).ok()),
        request_cpu_milli: less("cpu").and_then(|text| csb_types::parse_cpus(&text).ok()),
        ..Default::default()
    }
}

/// Bytes of memory and thousandths of a CPU that a pod's container may use.
fn limits_of(pod: &Pod) -> Option<(u64, u32)> {
    let container = pod.spec.as_ref()?.containers.iter().find(|one| one.name == body::CONTAINER)?;
    let limits = container.resources.as_ref()?.limits.as_ref()?;
    let memory = csb_types::parse_bytes(&limits.get("memory")?.0).ok()?;
    Some((memory, csb_types::parse_cpus(&limits.get("cpu")?.0).ok()?))
}

/// How far a change of limits is.
enum Resizing {
    Done,
    UnderWay,
    Refused(String),
}

/// What a pod tells of a change of its limits (`status.containerStatuses[].resources`, condition `PodResizePending`).
fn resizing(pod: &Pod, limits: &Limits) -> Resizing {
    let status = pod.status.clone().unwrap_or_default();
    for condition in status.conditions.iter().flatten().filter(|one| one.status == "True") {
        if condition.type_ == "PodResizePending" {
            let why = condition.message.clone().or(condition.reason.clone()).unwrap_or_default();
            return Resizing::Refused(why);
        }
        if condition.type_ == "PodResizeInProgress" && condition.reason.as_deref() == Some("Error") {
            return Resizing::Refused(condition.message.clone().unwrap_or_default());
        }
    }
    let container = status.container_statuses.iter().flatten().find(|one| one.name == body::CONTAINER);
    let given = container.and_then(|one| one.resources.as_ref()?.limits.clone()).unwrap_or_default();
    let memory = given.get("memory").and_then(|quantity| csb_types::parse_bytes(&quantity.0).ok());
    let cpu = given.get("cpu").and_then(|quantity| csb_types::parse_cpus(&quantity.0).ok());
    match (memory, cpu) {
        (Some(memory), Some(cpu)) if memory == limits.memory && cpu == limits.cpu_milli => Resizing::Done,
        _ => Resizing::UnderWay,
    }
}

fn warden(step: &str) -> impl Fn(BackendError) -> WardenError + '_ {
    move |error| {
        let (errno, hint) = match &error {
            BackendError::Unsupported(_) => (libc::ENOTSUP, ""),
            BackendError::NoRoom { hint, .. } => (libc::EBUSY, hint.as_str()),
            BackendError::Unavailable { hint, .. } => (0, hint.as_str()),
            _ => (0, ""),
        };
        let hint = if hint.is_empty() { String::new() } else { format!("; {hint}") };
        WardenError::Failed(Failure { step: step.into(), message: format!("{error}{hint}"), errno })
    }
}

impl Release for Arc<Shared> {
    async fn release(&self, id: &SandboxId) -> Result<(), BackendError> {
        self.end(id).await
    }
}

impl Keeper for K8s {
    fn release<'a>(&'a self, id: &'a SandboxId) -> Doing<'a, ()> {
        Box::pin(async move { self.shared.end(id).await.map_err(warden("release the pod")) })
    }

    fn freeze<'a>(&'a self, _: &'a SandboxId, _: bool) -> Doing<'a, ()> {
        let refused = refusal("pause the pod", &io::Error::from_raw_os_error(libc::ENOTSUP));
        Box::pin(async move { Err(refused.into()) })
    }

    fn set_limits<'a>(&'a self, id: &'a SandboxId, limits: Limits) -> Doing<'a, ()> {
        Box::pin(async move {
            let step = "change the pod's limits";
            if !limits.io.is_none() || limits.cpu_weight.is_some() {
                return Err(refusal(step, &io::Error::from_raw_os_error(libc::ENOTSUP)).into());
            }
            self.shared.set_limits(id, &limits).await.map_err(warden(step))
        })
    }

    fn why_ended<'a>(&'a self, id: &'a SandboxId) -> Doing<'a, Option<String>> {
        Box::pin(async move { Ok(Some(self.shared.why_ended(id).await)) })
    }

    fn usage<'a>(&'a self, id: &'a SandboxId) -> Doing<'a, Usage> {
        Box::pin(async move {
            self.shared.usage(id).await.map_err(|error| refusal("ask the pod what it uses", &error).into())
        })
    }
}

impl Backend for K8s {
    fn kind(&self) -> Kind {
        Kind::K8s
    }

    fn ready(&self) -> Building<'_, ()> {
        Box::pin(self.shared.ready())
    }

    fn create<'a>(&'a self, id: &'a SandboxId, spec: &'a SandboxSpec) -> Building<'a, Conn> {
        Box::pin(self.shared.create(id, spec))
    }

    fn held(&self) -> Building<'_, Vec<Held>> {
        Box::pin(self.shared.held())
    }
}
