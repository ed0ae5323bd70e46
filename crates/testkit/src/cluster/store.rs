//! Objects, their versions, and who watches them.

use super::objects::{Refusal, now};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};
use tokio::sync::watch;

/// Events that are kept for whoever watches from an earlier version.
const HISTORY: usize = 10_000;

type Key = (String, String, String);

/// What became of an object.
#[derive(Debug, Clone)]
pub(super) struct Event {
    pub(super) version: u64,
    resource: String,
    namespace: String,
    /// `ADDED`, `MODIFIED`, `DELETED`.
    pub(super) kind: &'static str,
    pub(super) object: Value,
}

#[derive(Debug, Default)]
struct Inner {
    version: u64,
    /// Versions up to this one are forgotten.
    compacted: u64,
    objects: BTreeMap<Key, Value>,
    history: VecDeque<Event>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Store {
    inner: Mutex<Inner>,
    news: watch::Sender<u64>,
}

impl Default for Store {
    fn default() -> Self {
        Self { inner: Mutex::default(), news: watch::Sender::new(0) }
    }
}

fn key(resource: &str, namespace: &str, name: &str) -> Key {
    (resource.into(), namespace.into(), name.into())
}

fn text(object: &Value, pointer: &str) -> String {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
}

impl Inner {
    fn put(&mut self, resource: &str, namespace: &str, kind: &'static str, mut object: Value) -> Value {
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        let place = key(resource, namespace, &text(&object, "/metadata/name"));
        match kind {
            "DELETED" => drop(self.objects.remove(&place)),
            _ => drop(self.objects.insert(place, object.clone())),
        }
        let event = Event {
            version: self.version,
            resource: resource.into(),
            namespace: namespace.into(),
            kind,
            object: object.clone(),
        };
        self.history.push_back(event);
        if self.history.len() > HISTORY
            && let Some(old) = self.history.pop_front()
        {
            self.compacted = old.version;
        }
        object
    }
}

/// Whether an object has all the labels of `a=b,c=d`.
pub(super) fn selected(object: &Value, selector: &str) -> bool {
    selector.split(',').filter(|term| !term.is_empty()).all(|term| {
        let (name, value) = term.split_once('=').unwrap_or((term, ""));
        let label = object["metadata"]["labels"].get(name).and_then(Value::as_str);
        if term.contains('=') { label == Some(value.trim_start_matches('=')) } else { label.is_some() }
    })
}

impl Store {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, inner: MutexGuard<'_, Inner>) {
        let version = inner.version;
        drop(inner);
        self.news.send_replace(version);
    }

    pub(super) fn create(&self, resource: &str, namespace: &str, mut object: Value) -> Result<Value, Refusal> {
        let name = text(&object, "/metadata/name");
        let mut inner = self.inner();
        if inner.objects.contains_key(&key(resource, namespace, &name)) {
            return Err(Refusal::exists(resource, &name));
        }
        let uid = hex::encode(rand::random::<[u8; 16]>());
        let uid = format!("{}-{}-{}-{}-{}", &uid[..8], &uid[8..12], &uid[12..16], &uid[16..20], &uid[20..]);
        object["metadata"]["uid"] = uid.into();
        object["metadata"]["creationTimestamp"] = now().into();
        if !namespace.is_empty() {
            object["metadata"]["namespace"] = namespace.into();
        }
        let made = inner.put(resource, namespace, "ADDED", object);
        self.tell(inner);
        Ok(made)
    }

    pub(super) fn get(&self, resource: &str, namespace: &str, name: &str) -> Result<Value, Refusal> {
        let found = self.inner().objects.get(&key(resource, namespace, name)).cloned();
        found.ok_or_else(|| Refusal::absent(resource, name))
    }

    /// Objects of a namespace, of all where it is empty, and the version at which they are that.
    pub(super) fn list(&self, resource: &str, namespace: &str, selector: &str) -> (Vec<Value>, u64) {
        let inner = self.inner();
        let of = |(kind, place, _): &Key| kind == resource && (namespace.is_empty() || place == namespace);
        let found = inner.objects.iter().filter(|(key, object)| of(key) && selected(object, selector));
        (found.map(|(_, object)| object.clone()).collect(), inner.version)
    }

    pub(super) fn names(&self, resource: &str) -> Vec<(String, String)> {
        let inner = self.inner();
        let keys = inner.objects.keys().filter(|(kind, ..)| kind == resource);
        keys.map(|(_, namespace, name)| (namespace.clone(), name.clone())).collect()
    }

    /// Changes an object. `expected` is the version that it is to have, where the caller names one.
    pub(super) fn change(
        &self,
        resource: &str,
        namespace: &str,
        name: &str,
        expected: Option<&str>,
        change: impl FnOnce(&mut Value) -> Result<(), Refusal>,
    ) -> Result<Value, Refusal> {
        let mut inner = self.inner();
        let found = inner.objects.get(&key(resource, namespace, name)).cloned();
        let mut object = found.ok_or_else(|| Refusal::absent(resource, name))?;
        if expected.is_some_and(|expected| *expected != text(&object, "/metadata/resourceVersion")) {
            return Err(Refusal::stale(resource, name));
        }
        let before = object.clone();
        change(&mut object)?;
        if object == before {
            return Ok(object);
        }
        let changed = inner.put(resource, namespace, "MODIFIED", object);
        self.tell(inner);
        Ok(changed)
    }

    pub(super) fn remove(&self, resource: &str, namespace: &str, name: &str) -> Result<Value, Refusal> {
        let mut inner = self.inner();
        let found = inner.objects.get(&key(resource, namespace, name)).cloned();
        let object = found.ok_or_else(|| Refusal::absent(resource, name))?;
        let gone = inner.put(resource, namespace, "DELETED", object);
        self.tell(inner);
        Ok(gone)
    }

    /// Forgets what came before now, as etcd does from time to time.
    pub(super) fn compact(&self) {
        let mut inner = self.inner();
        inner.history.clear();
        inner.compacted = inner.version;
    }

    /// What happened since a version, and up to which; refused where that is no longer known.
    pub(super) fn since(
        &self,
        resource: &str,
        namespace: &str,
        selector: &str,
        version: u64,
    ) -> Result<(Vec<Event>, u64), Refusal> {
        let inner = self.inner();
        if version < inner.compacted {
            return Err(Refusal::too_old(version, inner.compacted));
        }
        let of = |event: &&Event| {
            event.version > version
                && event.resource == resource
                && (namespace.is_empty() || event.namespace == namespace)
                && selected(&event.object, selector)
        };
        Ok((inner.history.iter().filter(of).cloned().collect(), inner.version))
    }

    pub(super) fn news(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }

    /// Sets fields of a pod's status; what is gone needs none.
    pub(super) fn set_status(&self, namespace: &str, name: &str, fields: Value) {
        let _ = self.change("pods", namespace, name, None, |pod| {
            let mut status = pod["status"].take();
            for (field, value) in fields.as_object().into_iter().flatten() {
                status[field] = value.clone();
            }
            pod["status"] = status;
            Ok(())
        });
    }

    /// Sets a condition of a pod.
    pub(super) fn set_condition(
        &self,
        namespace: &str,
        name: &str,
        kind: &str,
        state: bool,
        reason: &str,
        message: &str,
    ) {
        let condition = json!({
            "type": kind, "status": if state { "True" } else { "False" }, "reason": reason, "message": message,
            "lastTransitionTime": now(),
        });
        let _ = self.change("pods", namespace, name, None, |pod| {
            if !pod["status"]["conditions"].is_array() {
                pod["status"]["conditions"] = json!([]);
            }
            if let Some(list) = pod["status"]["conditions"].as_array_mut() {
                list.retain(|one| one["type"] != kind);
                list.push(condition);
            }
            Ok(())
        });
    }
}
