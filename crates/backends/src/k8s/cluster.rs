//! The way to a cluster, and its refusals in our words.

use super::K8sSettings;
use crate::BackendError;
use kube::{
    Client, Config, Error,
    config::{KubeConfigOptions, Kubeconfig},
};
use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// For a connection to be made.
const CONNECT: Duration = Duration::from_secs(5);
/// For an answer to anything but a watch or a stream.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// How to reach a cluster.
#[derive(Clone)]
pub(super) struct Access {
    pub(super) client: Client,
    /// Where pods go that name no namespace.
    pub(super) namespace: String,
    /// Its API server, for messages.
    pub(super) url: String,
}

/// See the module.
#[derive(Default)]
pub(super) struct Cluster {
    known: Mutex<Option<Access>>,
}

impl Cluster {
    fn known(&self) -> std::sync::MutexGuard<'_, Option<Access>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A client; the same for all, as it holds the connections. Nothing is asked of the cluster yet.
    pub(super) async fn access(&self, settings: &K8sSettings) -> Result<Access, BackendError> {
        if let Some(access) = &*self.known() {
            return Ok(access.clone());
        }
        let unusable = |error: String| {
            BackendError::Unavailable {
            what: format!("no Kubernetes cluster can be found: {error}"),
            hint: "say where it is: setting `k8s.kubeconfig`, KUBECONFIG; in a pod of the cluster give the server a service \
                   account"
                .into(),
        }
        };
        let options = KubeConfigOptions { context: settings.context.clone(), ..Default::default() };
        let mut config = match &settings.kubeconfig {
            Some(path) => {
                let read = Kubeconfig::read_from(path).map_err(|error| unusable(chain(&error)))?;
                Config::from_custom_kubeconfig(read, &options).await.map_err(|error| unusable(chain(&error)))?
            }
            None => match Config::incluster() {
                Ok(config) => config,
                Err(_) => Config::from_kubeconfig(&options).await.map_err(|error| unusable(chain(&error)))?,
            },
        };
        config.connect_timeout = Some(CONNECT);
        // Watches and commands are silent for as long as nothing happens.
        config.read_timeout = None;
        config.write_timeout = None;
        // A pod that was made and whose answer was lost would be there already.
        config.default_retry = false;
        // What the environment says is meant for others; a proxy of the kubeconfig is not supported.
        config.proxy_url = None;
        let access = Access {
            namespace: settings.namespace.clone().unwrap_or_else(|| config.default_namespace.clone()),
            url: config.cluster_url.to_string(),
            client: Client::try_from(config).map_err(|error| unusable(chain(&error)))?,
        };
        *self.known() = Some(access.clone());
        Ok(access)
    }
}

impl Access {
    /// Waits for an answer, and says what a refusal means. `step` is an infinitive.
    pub(super) async fn ask<T>(
        &self,
        step: &str,
        asked: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, BackendError> {
        match tokio::time::timeout(PATIENCE, asked).await {
            Ok(answer) => answer.map_err(|error| self.refused(step, &error)),
            Err(_) => Err(self.silent(format!("no answer within {} s", PATIENCE.as_secs()))),
        }
    }

    fn silent(&self, why: String) -> BackendError {
        BackendError::Unavailable {
            what: format!("the Kubernetes API at `{}` does not answer: {why}", self.url),
            hint: "`kubectl get --raw /readyz` with the same KUBECONFIG says more".into(),
        }
    }

    /// What a failed request means.
    pub(super) fn refused(&self, step: &str, error: &Error) -> BackendError {
        let Error::Api(status) = error else { return self.silent(chain(error)) };
        let said = &status.message;
        let unavailable = |hint: &str| BackendError::Unavailable {
            what: format!("the cluster did not {step}: {said}"),
            hint: hint.into(),
        };
        match status.code {
            401 => {
                unavailable("the credentials of the kubeconfig or service account are not accepted, or have run out")
            }
            403 if said.contains("quota") || said.contains("maximum") || said.contains("minimum") => {
                BackendError::NoRoom {
                    limit: format!("the cluster's quota or limit range: {said}"),
                    hint:
                        "release sandboxes, ask for less, or have the namespace's ResourceQuota or LimitRange changed"
                            .into(),
                }
            }
            403 if said.contains("PodSecurity") => unavailable(
                "the namespace has to admit pods of level `baseline`: label `pod-security.kubernetes.io/enforce`",
            ),
            403 => unavailable(
                "docs/guides/kubernetes.md lists the rights that the server needs, and what else may refuse",
            ),
            404 if said.starts_with("namespaces ") => BackendError::NotFound {
                what: format!("the namespace ({said})"),
                hint: "make it, or name another: setting `k8s.namespace`".into(),
            },
            429 | 500..=599 => unavailable("it is overloaded or starting; try again"),
            _ => unavailable("is the operator's podTemplate one that this version of Kubernetes takes?"),
        }
    }
}

/// There is no such thing.
pub(super) fn is_absent(error: &Error) -> bool {
    matches!(error, Error::Api(status) if status.code == 404)
}

/// It is there already, or another than was meant.
pub(super) fn is_conflict(error: &Error) -> bool {
    matches!(error, Error::Api(status) if status.code == 409)
}

pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}
