//! What `csb doctor` says of a cluster: whether one is found, answers, and lets this server do what it has to.

use super::{
    K8sSettings,
    cluster::{Access, Cluster},
};
use crate::BackendError;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec};
use kube::{Api, api::PostParams};

/// What is done, by verb, API group, resource and its part.
const DEEDS: [(&str, &str, &str, &str); 9] = [
    ("create", "", "pods", ""),
    ("get", "", "pods", ""),
    ("list", "", "pods", ""),
    ("watch", "", "pods", ""),
    ("delete", "", "pods", ""),
    ("create", "", "pods", "exec"),
    ("patch", "", "pods", "resize"),
    ("create", "networking.k8s.io", "networkpolicies", ""),
    ("get", "networking.k8s.io", "networkpolicies", ""),
];

/// Where the cluster is, if all is well. Makes nothing in it.
pub(super) async fn examine(settings: &K8sSettings) -> Result<String, BackendError> {
    let access = Cluster::default().access(settings).await?;
    let mut namespaces = vec![access.namespace.clone()];
    namespaces.extend(settings.namespaces.iter().filter(|one| **one != access.namespace).cloned());
    for namespace in &namespaces {
        let lacking = lacking(&access, namespace).await?;
        if !lacking.is_empty() {
            return Err(BackendError::Unavailable {
                what: format!("in namespace `{namespace}` this server may not {}", lacking.join(", ")),
                hint: "give it the Role of docs/guides/kubernetes.md".into(),
            });
        }
    }
    let all = namespaces.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    Ok(format!("{}, pods in namespace {all}", access.url))
}

async fn lacking(access: &Access, namespace: &str) -> Result<Vec<String>, BackendError> {
    let reviews: Api<SelfSubjectAccessReview> = Api::all(access.client.clone());
    let mut lacking = Vec::new();
    for (verb, group, resource, part) in DEEDS {
        let asked = ResourceAttributes {
            verb: Some(verb.into()),
            group: Some(group.into()),
            resource: Some(resource.into()),
            subresource: (!part.is_empty()).then(|| part.into()),
            namespace: Some(namespace.into()),
            ..Default::default()
        };
        let spec = SelfSubjectAccessReviewSpec { resource_attributes: Some(asked), ..Default::default() };
        let review = SelfSubjectAccessReview { spec, ..Default::default() };
        let params = PostParams::default();
        let answer = access.ask("say what this server may do", reviews.create(&params, &review)).await?;
        if !answer.status.is_some_and(|status| status.allowed) {
            let part = if part.is_empty() { String::new() } else { format!("/{part}") };
            lacking.push(format!("{verb} {resource}{part}"));
        }
    }
    Ok(lacking)
}
