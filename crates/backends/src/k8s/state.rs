//! What a pod's status means for a sandbox. Pure.

use crate::BackendError;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodStatus};

use super::body::{BRINGER, CONTAINER};

/// Where a pod is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    /// It may come up yet. What it waits for, in the cluster's words.
    Coming(Option<Wait>),
    /// It will not come up.
    Refused(BackendError),
    /// Its container runs.
    Up,
    /// It is over.
    Gone(String),
}

/// What a pod waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wait {
    /// No node has room for it, or is allowed to have it.
    Node(String),
    /// Something else.
    Other(String),
}

fn container<'a>(list: &'a Option<Vec<ContainerStatus>>, name: &str) -> Option<&'a ContainerStatus> {
    list.iter().flatten().find(|status| status.name == name)
}

fn words(reason: Option<&String>, message: Option<&String>) -> String {
    match (reason, message.map(|message| message.trim())) {
        (Some(reason), Some(message)) if !message.is_empty() => format!("{reason}: {message}"),
        (Some(reason), _) => reason.clone(),
        (None, message) => message.unwrap_or("it gives no reason").to_owned(),
    }
}

/// Why a container that waits will wait for ever, or no longer than until somebody changes something.
fn stuck(image: &str, reason: &str, message: Option<&String>) -> Option<BackendError> {
    let said = words(Some(&reason.to_owned()), message);
    match reason {
        "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull" | "ImageInspectError" => {
            Some(BackendError::NotFound {
                what: format!("image `{image}` ({said})"),
                hint:
                    "name an image that the cluster's nodes can pull; pull secrets belong into the operator's template"
                        .into(),
            })
        }
        "CreateContainerConfigError" | "CreateContainerError" | "RunContainerError" => {
            Some(BackendError::Unavailable {
                what: format!("the node's runtime starts no container of image `{image}`: {said}"),
                hint: "is it an image of the node's architecture, and does the operator's template fit the runtime?"
                    .into(),
            })
        }
        _ => None,
    }
}

/// Why it is over, as far as the cluster knows.
fn end(status: &PodStatus) -> String {
    let sandbox = container(&status.container_statuses, CONTAINER);
    let ended = sandbox.and_then(|status| status.state.as_ref()?.terminated.as_ref());
    // Set on eviction, preemption, a drain and a lost node, and says which.
    let disrupted = status.conditions.iter().flatten().find(|c| c.type_ == "DisruptionTarget" && c.status == "True");
    match (disrupted, &status.reason, ended) {
        (_, Some(reason), _) => words(Some(reason), status.message.as_ref()),
        (Some(why), ..) => words(why.reason.as_ref(), why.message.as_ref()),
        (_, _, Some(ended)) if ended.reason.as_deref() == Some("OOMKilled") => {
            "OOMKilled: its memory ran out, and its node ends the whole container then (kubelet: `singleProcessOOMKill`)".into()
        }
        (_, _, Some(ended)) => {
            let said = words(ended.reason.as_ref(), ended.message.as_ref());
            format!("{said} (exit code {})", ended.exit_code)
        }
        _ => status.message.clone().unwrap_or_else(|| "the cluster gives no reason".into()),
    }
}

/// See the module.
pub(super) fn state(pod: &Pod) -> State {
    let nothing = PodStatus::default();
    let status = pod.status.as_ref().unwrap_or(&nothing);
    if let Some(bringer) = container(&status.init_container_statuses, BRINGER) {
        let ended = bringer.state.as_ref().and_then(|state| state.terminated.as_ref());
        if let Some(ended) = ended.filter(|ended| ended.exit_code != 0) {
            let said = words(ended.reason.as_ref(), ended.message.as_ref());
            return State::Refused(BackendError::Unavailable {
                what: format!("the container that brings `csb` into the pod failed: {said}"),
                hint: "the setting `k8s.program_image` names an image with the same version of `csb` as this server's in its \
                       PATH"
                    .into(),
            });
        }
    }
    if matches!(status.phase.as_deref(), Some("Failed" | "Succeeded")) || pod.metadata.deletion_timestamp.is_some() {
        return State::Gone(end(status));
    }
    let all = status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten());
    let mut waiting = None;
    for one in all {
        let Some(wait) = one.state.as_ref().and_then(|state| state.waiting.as_ref()) else { continue };
        let Some(reason) = &wait.reason else { continue };
        if let Some(error) = stuck(&one.image, reason, wait.message.as_ref()) {
            return State::Refused(error);
        }
        waiting = Some(Wait::Other(words(Some(reason), wait.message.as_ref())));
    }
    let sandbox = container(&status.container_statuses, CONTAINER);
    if sandbox.is_some_and(|one| one.state.as_ref().is_some_and(|state| state.running.is_some())) {
        return State::Up;
    }
    let unplaced = status.conditions.iter().flatten().find(|c| c.type_ == "PodScheduled" && c.status == "False");
    let unplaced = unplaced.map(|c| Wait::Node(words(c.reason.as_ref(), c.message.as_ref())));
    State::Coming(unplaced.or(waiting))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn check(status: Value, expected: impl Fn(&State) -> bool) {
        let pod = serde_json::from_value(json!({ "metadata": { "name": "p" }, "status": status })).unwrap();
        let found = state(&pod);
        assert!(expected(&found), "{found:?}");
    }

    fn says(state: &State, text: &str) -> bool {
        format!("{state:?}").contains(text)
    }

    #[test]
    fn it_is_up_when_its_container_runs_and_no_sooner() {
        check(json!({}), |s| *s == State::Coming(None));
        check(json!({ "phase": "Pending" }), |s| *s == State::Coming(None));
        let image = json!({ "name": CONTAINER, "image": "i", "imageID": "", "ready": false, "restartCount": 0 });
        let with = |state: Value| {
            let mut one = image.clone();
            one["state"] = state;
            json!({ "phase": "Running", "containerStatuses": [one] })
        };
        check(with(json!({ "waiting": { "reason": "ContainerCreating" } })), |s| says(s, "ContainerCreating"));
        check(with(json!({ "running": {} })), |s| *s == State::Up);
        for reason in ["ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"] {
            let waits = with(json!({ "waiting": { "reason": reason, "message": "no such host" } }));
            check(waits, |s| matches!(s, State::Refused(BackendError::NotFound { .. })) && says(s, "no such host"));
        }
        check(with(json!({ "waiting": { "reason": "CreateContainerError" } })), |s| matches!(s, State::Refused(_)));
    }

    #[test]
    fn no_room_is_waited_for_and_named() {
        let message = "0/3 nodes are available: 3 Insufficient memory.";
        let condition =
            json!({ "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message });
        check(
            json!({ "phase": "Pending", "conditions": [condition] }),
            |s| matches!(s, State::Coming(Some(Wait::Node(why))) if why.contains("Insufficient memory")),
        );
    }

    #[test]
    fn an_end_says_why() {
        check(json!({ "phase": "Failed", "reason": "Evicted", "message": "low on memory" }), |s| {
            *s == State::Gone("Evicted: low on memory".into())
        });
        let disrupted = json!({
            "type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager", "message": "the node is lost",
        });
        check(json!({ "phase": "Failed", "conditions": [disrupted] }), |s| says(s, "the node is lost"));
        let ended = |reason: &str| {
            json!({ "phase": "Failed", "containerStatuses": [{
                "name": CONTAINER, "image": "i", "imageID": "", "ready": false, "restartCount": 0,
                "state": { "terminated": { "exitCode": 137, "reason": reason } },
            }] })
        };
        check(ended("OOMKilled"), |s| says(s, "memory ran out"));
        check(ended("Error"), |s| says(s, "exit code 137"));
        let pod = json!({ "metadata": { "name": "p", "deletionTimestamp": "2026-01-01T00:00:00Z" }, "status": { "phase": "Running" } });
        assert!(matches!(state(&serde_json::from_value(pod).unwrap()), State::Gone(_)));
    }

    #[test]
    fn a_program_of_another_version_is_named() {
        check(
            json!({ "phase": "Failed", "initContainerStatuses": [{
                "name": BRINGER, "image": "i", "imageID": "", "ready": false, "restartCount": 0,
                "state": { "terminated": { "exitCode": 1, "reason": "Error", "message": "protocol 3" } },
            }] }),
            |s| matches!(s, State::Refused(_)) && says(s, "protocol 3") && says(s, "k8s.program_image"),
        );
    }
}
