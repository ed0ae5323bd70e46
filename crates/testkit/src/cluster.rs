//! A Kubernetes cluster of one node, for tests: what a client of pods sees of the real one, over HTTP on loopback.
//!
//! Real: names that are taken (409), resource versions and stale ones (409), lists and watches by label, with bookmarks and versions
//! that are too old (410), validation of what the API's types can hold (422), admission by quota, runtime class and namespace (403,
//! 404), scheduling by requests, phases and conditions, init containers, volumes (`emptyDir`, `subPath`), security contexts,
//! `pods/exec` over WebSocket (v5 and v4), `pods/eviction`, `pods/resize`, deletion with and without grace. The containers are
//! runc's.
//!
//! Not there: other resources than pods, namespaces, events of a pod and network policies (which are kept, and not enforced: a pod
//! has no network but its loopback), several nodes, images from registries (an image is a directory), the runtime's own system call
//! filter, TLS.
//!
//! `/test/…` does what an administrator, an accident or another tenant would do; see [`api`].

mod api;
mod bundle;
mod exec;
mod kubelet;
mod objects;
mod store;

use std::{collections::BTreeMap, io, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};
use store::Store;

/// What a cluster is made of.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where it keeps pods' files; emptied at the end.
    pub dir: PathBuf,
    /// Images, by name: root directories.
    pub images: BTreeMap<String, Image>,
    /// Namespaces besides `default`.
    pub namespaces: Vec<String>,
    /// Runtime classes; all are runc.
    pub runtime_classes: Vec<String>,
    /// Memory that the node gives to pods, bytes.
    pub memory: u64,
    /// The kubelet's `podPidsLimit`.
    pub pids: u32,
}

/// An image.
#[derive(Debug, Clone, Default)]
pub struct Image {
    /// Its files.
    pub root: PathBuf,
    /// What of the host is shown in it, read-only: from where, as what.
    pub binds: Vec<(PathBuf, PathBuf)>,
    /// `NAME=value` each.
    pub env: Vec<String>,
}

/// A cluster at work.
#[derive(Debug)]
pub struct Cluster {
    /// Where its API server listens.
    pub address: SocketAddr,
    /// Lets a client in.
    pub token: String,
    shared: Arc<Shared>,
    served: tokio::task::JoinHandle<()>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    config: Config,
    token: String,
    store: Store,
    kubelet: kubelet::Kubelet,
    faults: api::Faults,
}

impl Cluster {
    /// Starts one, on a port of its own or that one.
    pub async fn start(config: Config, port: u16) -> io::Result<Self> {
        std::fs::create_dir_all(&config.dir)?;
        let token = hex::encode(rand::random::<[u8; 8]>());
        let store = Store::default();
        for namespace in std::iter::once("default").chain(config.namespaces.iter().map(String::as_str)) {
            let made = store.create("namespaces", "", objects::namespace(namespace));
            made.map_err(|refusal| io::Error::other(refusal.message))?;
        }
        let shared = Arc::new(Shared {
            config,
            token: token.clone(),
            store,
            kubelet: kubelet::Kubelet::default(),
            faults: api::Faults::default(),
        });
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
        let address = listener.local_addr()?;
        let router = api::router(shared.clone());
        let served = tokio::spawn(async move {
            let _ = axum::serve(listener, router).await;
        });
        Ok(Self { address, token, shared, served })
    }

    /// What a client reads to find it.
    pub fn kubeconfig(&self) -> String {
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: test\nclusters:\n- name: test\n  cluster:\n    server: http://{}\n\
             users:\n- name: test\n  user:\n    token: {}\ncontexts:\n- name: test\n  context:\n    cluster: test\n    user: test\n    \
             namespace: default\n",
            self.address, self.token
        )
    }

    /// Ends every container and the API server.
    pub async fn stop(self) -> io::Result<()> {
        self.served.abort();
        for (namespace, name) in self.shared.store.names("pods") {
            let _ = self.shared.store.remove("pods", &namespace, &name);
            self.shared.kubelet.end(&self.shared, &name).await;
        }
        // Tasks of pods that were just made.
        tokio::time::sleep(Duration::from_millis(50)).await;
        let pods = self.shared.config.dir.join("pods");
        for left in std::fs::read_dir(&pods).into_iter().flatten().flatten() {
            self.shared.kubelet.end(&self.shared, &left.file_name().to_string_lossy()).await;
        }
        match std::fs::remove_dir_all(pods) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}
