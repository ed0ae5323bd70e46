//! What becomes of our pods in one namespace, as the cluster tells (a watch), for whoever waits for one or drives its sandbox.

use super::{
    Shared,
    body::{NODE, SANDBOX},
    cluster::chain,
    state::{State, state},
};
use csb_types::SandboxId;
use futures_util::TryStreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    api::{ListParams, WatchEvent, WatchParams},
};
use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError, Weak, atomic::Ordering},
    time::Duration,
};
use tokio::sync::{Notify, watch};

/// Longest time without a list: what was missed is found then, and what nobody knows is removed.
const AGAIN: Duration = Duration::from_secs(300);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const MOST_PAUSE: Duration = Duration::from_secs(10);

/// A pod that somebody here has to do with.
#[derive(Debug)]
struct Known {
    namespace: String,
    /// Whether the cluster has said that it is there: what it never had cannot be missing.
    made: bool,
    /// Whether it is we who end it.
    ending: bool,
    state: watch::Sender<State>,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Pods {
    known: Mutex<HashMap<SandboxId, Known>>,
    /// Namespaces that are watched.
    watched: Mutex<HashSet<String>>,
    /// Wakes watches that wait for a cluster that refused: whoever makes a pod waits for news of it.
    wanted: Notify,
}

impl Pods {
    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<SandboxId, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to follow a pod, which may not be there yet.
    pub(super) fn follow(&self, id: &SandboxId, namespace: &str, state: State) -> watch::Receiver<State> {
        let (sender, receiver) = watch::channel(state);
        let known = Known { namespace: namespace.into(), made: false, ending: false, state: sender };
        self.known().insert(id.clone(), known);
        receiver
    }

    /// The cluster has said that a pod is there: from now on a list without it tells of its end.
    pub(super) fn made(&self, id: &SandboxId) {
        if let Some(known) = self.known().get_mut(id) {
            known.made = true;
        }
    }

    /// Where a pod is that is followed.
    pub(super) fn namespace(&self, id: &SandboxId) -> Option<String> {
        self.known().get(id).map(|known| known.namespace.clone())
    }

    /// What is known of a pod that is followed.
    pub(super) fn state(&self, id: &SandboxId) -> Option<State> {
        self.known().get(id).map(|known| known.state.borrow().clone())
    }

    /// It is about to be ended by us, which is no news.
    pub(super) fn ending(&self, id: &SandboxId) {
        if let Some(known) = self.known().get_mut(id) {
            known.ending = true;
        }
    }

    /// It is gone, and nobody follows it any more.
    pub(super) fn forget(&self, id: &SandboxId) {
        self.known().remove(id);
    }

    fn tell(&self, id: &SandboxId, new: State) {
        let mut known = self.known();
        let Some(pod) = known.get_mut(id) else { return };
        pod.made = true;
        let (was_up, ending) = (*pod.state.borrow() == State::Up, pod.ending);
        if let (State::Gone(why), true, false) = (&new, was_up, ending) {
            tracing::warn!(sandbox = %id, why, "the cluster ended a sandbox");
        }
        // What is over stays over.
        pod.state.send_if_modified(|state| {
            let changed = !matches!(state, State::Gone(_)) && *state != new;
            if changed {
                *state = new;
            }
            changed
        });
    }

    /// Whether somebody waits for news of a pod of this namespace that is coming up.
    fn is_awaited(&self, namespace: &str) -> bool {
        let coming = |pod: &Known| !matches!(*pod.state.borrow(), State::Up | State::Gone(_));
        self.known().values().any(|pod| pod.namespace == namespace && coming(pod))
    }

    /// Those of a namespace that a list has to tell of which is asked for now.
    fn expected(&self, namespace: &str) -> Vec<SandboxId> {
        let known = self.known();
        let expected = known.iter().filter(|(_, pod)| pod.made && pod.namespace == namespace);
        expected.map(|(id, _)| id.clone()).collect()
    }

    /// Tells of a list: `expected` are those that had to be on it.
    fn listed(&self, expected: Vec<SandboxId>, there: &HashMap<SandboxId, State>) {
        for (id, state) in there {
            self.tell(id, state.clone());
        }
        for id in expected.into_iter().filter(|id| !there.contains_key(id)) {
            self.tell(&id, State::Gone("its pod was deleted".into()));
        }
    }
}

/// Which sandbox a pod is.
pub(super) fn id(pod: &Pod) -> Option<SandboxId> {
    pod.metadata.labels.as_ref()?.get(SANDBOX)?.parse().ok()
}

/// Starts to watch a namespace, once.
pub(super) fn ensure(shared: &Arc<Shared>, namespace: &str) {
    let mut watched = shared.pods.watched.lock().unwrap_or_else(PoisonError::into_inner);
    if watched.insert(namespace.to_owned()) {
        tokio::spawn(run(Arc::downgrade(shared), namespace.to_owned()));
    } else {
        shared.pods.wanted.notify_waiters();
    }
}

async fn run(shared: Weak<Shared>, namespace: String) {
    let mut pause = FIRST_PAUSE;
    // Ends with the backend.
    while let Some(shared) = shared.upgrade() {
        match follow(&shared, &namespace).await {
            Ok(()) => pause = FIRST_PAUSE,
            Err(error) => {
                tracing::debug!(namespace, error, "cannot watch pods");
                pause = (pause * 2).min(MOST_PAUSE);
            }
        }
        let mut wanted = std::pin::pin!(shared.pods.wanted.notified());
        wanted.as_mut().enable();
        // Whoever began to wait before this line is not heard by `wanted`.
        let pause = if shared.pods.is_awaited(&namespace) { FIRST_PAUSE } else { pause };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = wanted => {}
        }
    }
}

/// Lists, and follows what changes from there, until it is time to list again.
async fn follow(shared: &Arc<Shared>, namespace: &str) -> Result<(), String> {
    let access = shared.cluster.access(&shared.settings).await.map_err(|error| error.to_string())?;
    let pods: Api<Pod> = Api::namespaced(access.client.clone(), namespace);
    let labels = format!("{NODE}={}", shared.node);
    // One that is made while the answer is on its way may be missing from it.
    let expected = shared.pods.expected(namespace);
    let listed = access.ask("list the pods", pods.list(&ListParams::default().labels(&labels))).await;
    let listed = listed.map_err(|error| error.to_string())?;
    for pod in &listed.items {
        let known = id(pod).is_some_and(|id| shared.pods.namespace(&id).is_some());
        if !known && shared.found.load(Ordering::Relaxed) {
            shared.bury(namespace, pod);
        }
    }
    let there = listed.items.iter().filter_map(|pod| Some((id(pod)?, state(pod)))).collect();
    shared.pods.listed(expected, &there);
    let mut version = listed.metadata.resource_version.unwrap_or_default();
    let begun = tokio::time::Instant::now();
    while begun.elapsed() < AGAIN {
        let left = AGAIN.saturating_sub(begun.elapsed()).as_secs().max(1) as u32;
        // The server ends it after so long; a connection that died without a word ends with our own patience.
        let params = WatchParams::default().labels(&labels).timeout(left.min(60));
        let watched = pods.watch(&params, &version).await.map_err(|error| chain(&error))?;
        let mut events = std::pin::pin!(watched);
        let patience = Duration::from_secs(u64::from(left.min(60)) + 15);
        let end = tokio::time::sleep(patience);
        let mut end = std::pin::pin!(end);
        loop {
            let event = tokio::select! {
                event = events.try_next() => event.map_err(|error| chain(&error))?,
                () = &mut end => return Err("the watch went silent".into()),
            };
            match event {
                Some(WatchEvent::Added(pod) | WatchEvent::Modified(pod)) => {
                    version = pod.metadata.resource_version.clone().unwrap_or(version);
                    if let Some(id) = id(&pod) {
                        shared.pods.tell(&id, state(&pod));
                    }
                }
                Some(WatchEvent::Deleted(pod)) => {
                    version = pod.metadata.resource_version.clone().unwrap_or(version);
                    if let Some(id) = id(&pod) {
                        let why = match state(&pod) {
                            State::Gone(why) => why,
                            _ => "its pod was deleted".into(),
                        };
                        shared.pods.tell(&id, State::Gone(why));
                    }
                }
                Some(WatchEvent::Bookmark(mark)) => version = mark.metadata.resource_version,
                // Too old (410), as after a pause: all is listed again.
                Some(WatchEvent::Error(status)) if status.code == 410 => return Ok(()),
                Some(WatchEvent::Error(status)) => return Err(status.message.clone()),
                None => break,
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: char) -> SandboxId {
        format!("sb-{}", name.to_string().repeat(20)).parse().unwrap()
    }

    fn is_gone(pods: &Pods, id: &SandboxId) -> bool {
        matches!(pods.state(id), Some(State::Gone(_)))
    }

    #[test]
    fn a_pod_that_was_deleted_while_nobody_watched_is_gone_though_it_was_never_seen() {
        let (pods, deleted, other) = (Pods::default(), pod('a'), pod('b'));
        for id in [&deleted, &other] {
            pods.follow(id, "default", State::Coming(None));
            pods.made(id);
        }
        pods.listed(pods.expected("default"), &HashMap::from([(other.clone(), State::Up)]));
        assert!(is_gone(&pods, &deleted));
        assert_eq!(pods.state(&other), Some(State::Up));
    }

    #[test]
    fn a_list_says_nothing_of_pods_that_it_need_not_tell_of() {
        let (pods, elsewhere, asked, made) = (Pods::default(), pod('a'), pod('b'), pod('c'));
        pods.follow(&elsewhere, "agents", State::Up);
        pods.made(&elsewhere);
        pods.follow(&asked, "default", State::Coming(None));
        let expected = pods.expected("default");
        // Its answer comes while the list is on its way.
        pods.follow(&made, "default", State::Coming(None));
        pods.made(&made);
        pods.listed(expected, &HashMap::new());
        assert!(![&elsewhere, &asked, &made].into_iter().any(|id| is_gone(&pods, id)));
        pods.listed(pods.expected("default"), &HashMap::new());
        assert!(is_gone(&pods, &made) && !is_gone(&pods, &asked) && !is_gone(&pods, &elsewhere));
    }
}
