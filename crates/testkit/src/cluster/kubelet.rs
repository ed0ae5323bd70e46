//! The one node: places pods, runs their containers with runc, tells how they do.

use super::{
    Shared, bundle,
    objects::{bytes, class, now, requested},
};
use csb_sys::mount::{Attributes, Tree, detach};
use serde_json::{Value, json};
use std::{
    collections::{HashMap, HashSet},
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::process::Command;

/// Between two looks at a pod that no node has room for.
const AGAIN: Duration = Duration::from_millis(50);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Kubelet {
    /// Memory that is kept for each pod.
    placed: Mutex<HashMap<String, u64>>,
    /// Pods that are being ended.
    ending: Mutex<HashSet<String>>,
    /// Nobody hears from it any more.
    pub(super) lost: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// runc's name of a container.
pub(super) fn runc_id(pod: &str, container: &str) -> String {
    format!("{pod}-{container}")
}

pub(super) fn runc(shared: &Shared) -> Command {
    let mut command = Command::new("runc");
    command.arg("--root").arg(shared.config.dir.join("runc"));
    command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    command
}

/// A pod that the node has to do with.
struct Work {
    shared: Arc<Shared>,
    pod: Value,
    namespace: String,
    name: String,
    /// `pods/NAME` in the cluster's directory.
    dir: PathBuf,
}

/// How a container ended.
struct End {
    code: i32,
    message: String,
}

/// Starts to look after a pod that was made.
pub(super) fn begin(shared: &Arc<Shared>, pod: Value) {
    let text = |pointer: &str| pod.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (namespace, name) = (text("/metadata/namespace"), text("/metadata/name"));
    let dir = shared.config.dir.join("pods").join(&name);
    let work = Work { shared: shared.clone(), pod, namespace, name, dir };
    tokio::spawn(async move { work.run().await });
}

impl Kubelet {
    /// Ends a pod's containers and removes its files.
    pub(super) async fn end(&self, shared: &Shared, pod: &str) {
        lock(&self.ending).insert(pod.to_owned());
        let dir = shared.config.dir.join("pods").join(pod);
        let listed = fs::read_dir(dir.join("containers")).into_iter().flatten().flatten();
        let names: Vec<String> = listed.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        for container in names {
            let id = runc_id(pod, &container);
            let mut command = runc(shared);
            let _ = command.args(["delete", "--force", &id]).stderr(Stdio::null()).status().await;
            // The runtime leaves those that it uses for nothing.
            let groups = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
            for hierarchy in groups {
                let _ = fs::remove_dir(hierarchy.path().join("csb-test-cluster").join(&id));
            }
        }
        let points = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let below: Vec<&str> = points
            .lines()
            .filter_map(|line| line.split(' ').nth(4))
            .filter(|point| Path::new(point).starts_with(&dir))
            .collect();
        for point in below.iter().rev() {
            let _ = detach(point);
        }
        let _ = fs::remove_dir_all(&dir);
        lock(&self.placed).remove(pod);
    }

    fn is_ending(&self, pod: &str) -> bool {
        lock(&self.ending).contains(pod)
    }

    /// Keeps memory for a pod, if there is room.
    fn place(&self, shared: &Shared, pod: &str, memory: u64) -> Result<(), u64> {
        let mut placed = lock(&self.placed);
        let used: u64 = placed.iter().filter(|(name, _)| *name != pod).map(|(_, memory)| memory).sum();
        if used + memory > shared.config.memory {
            return Err(shared.config.memory.saturating_sub(used));
        }
        placed.insert(pod.to_owned(), memory);
        Ok(())
    }
}

impl Work {
    fn status(&self, fields: Value) {
        if !self.shared.kubelet.lost.load(Ordering::Relaxed) && !self.shared.kubelet.is_ending(&self.name) {
            self.shared.store.set_status(&self.namespace, &self.name, fields);
        }
    }

    fn is_there(&self) -> bool {
        !self.shared.kubelet.is_ending(&self.name)
            && self.shared.store.get("pods", &self.namespace, &self.name).is_ok_and(|pod| {
                pod["metadata"]["uid"] == self.pod["metadata"]["uid"] && pod["metadata"]["deletionTimestamp"].is_null()
            })
    }

    async fn run(self) {
        self.status(json!({ "phase": "Pending", "qosClass": class(&self.pod) }));
        if !self.placed().await {
            return;
        }
        self.shared.store.set_condition(&self.namespace, &self.name, "PodScheduled", true, "", "");
        let _ = self.shared.store.change("pods", &self.namespace, &self.name, None, |pod| {
            pod["spec"]["nodeName"] = "node-1".into();
            Ok(())
        });
        if let Err(error) = self.volumes() {
            return self.status(json!({ "phase": "Failed", "reason": "FailedMount", "message": error.to_string() }));
        }
        let list = |name: &str| self.pod["spec"][name].as_array().cloned().unwrap_or_default();
        let mut done = Vec::new();
        for container in list("initContainers") {
            let end = match self.start(&container, "initContainerStatuses", &done).await {
                Some(child) => self.wait(child, &container).await,
                None => return,
            };
            done.push(self.terminated(&container, &end));
            self.status(json!({ "initContainerStatuses": done }));
            if end.code != 0 {
                return self.status(json!({ "phase": "Failed" }));
            }
        }
        let mut running = Vec::new();
        for container in list("containers") {
            let Some(child) = self.start(&container, "containerStatuses", &[]).await else { return };
            running.push((container, child));
        }
        let statuses: Vec<Value> = running.iter().map(|(container, _)| self.running(container)).collect();
        self.shared.store.set_condition(&self.namespace, &self.name, "Ready", true, "", "");
        self.status(
            json!({ "phase": "Running", "containerStatuses": statuses, "podIP": "10.0.0.2", "startTime": now() }),
        );
        let mut ended = Vec::new();
        let mut failed = false;
        for (container, child) in running {
            let end = self.wait(child, &container).await;
            failed |= end.code != 0;
            ended.push(self.terminated(&container, &end));
        }
        let phase = if failed { "Failed" } else { "Succeeded" };
        self.status(json!({ "phase": phase, "containerStatuses": ended }));
    }

    /// Waits for room; false where the pod is gone before.
    async fn placed(&self) -> bool {
        loop {
            match self.shared.kubelet.place(&self.shared, &self.name, requested(&self.pod)) {
                Ok(()) => return true,
                Err(_) => {
                    let message = "0/1 nodes are available: 1 Insufficient memory. preemption: 0/1 nodes are available: 1 No \
                                   preemption victims found for incoming pod.";
                    self.shared.store.set_condition(
                        &self.namespace,
                        &self.name,
                        "PodScheduled",
                        false,
                        "Unschedulable",
                        message,
                    );
                }
            }
            tokio::time::sleep(AGAIN).await;
            if !self.is_there() {
                return false;
            }
        }
    }

    fn volumes(&self) -> io::Result<()> {
        for volume in self.pod["spec"]["volumes"].as_array().into_iter().flatten() {
            let path = self.dir.join("volumes").join(volume["name"].as_str().unwrap_or_default());
            fs::create_dir_all(&path)?;
            let empty = &volume["emptyDir"];
            if empty["medium"] == "Memory" {
                let size = bytes(&empty["sizeLimit"]).unwrap_or(1 << 30).to_string();
                let options = [("size", Some(size.as_str())), ("mode", Some("0777"))];
                Tree::new("tmpfs", &options, Attributes::default())?.attach_at(&path)?;
            }
            fs::set_permissions(&path, fs::Permissions::from_mode(0o777))?;
        }
        Ok(())
    }

    fn waits(&self, container: &Value, list: &str, before: &[Value], reason: &str, message: &str) {
        let mut all = before.to_vec();
        all.push(json!({
            "name": container["name"], "image": container["image"], "imageID": "", "ready": false, "restartCount": 0,
            "state": { "waiting": { "reason": reason, "message": message } },
        }));
        self.status(json!({ list: all }));
    }

    fn running(&self, container: &Value) -> Value {
        json!({
            "name": container["name"], "image": container["image"], "imageID": "test", "ready": true, "started": true,
            "restartCount": 0, "state": { "running": { "startedAt": now() } }, "resources": container["resources"],
        })
    }

    fn terminated(&self, container: &Value, end: &End) -> Value {
        let reason = match end.code {
            0 => "Completed",
            _ => "Error",
        };
        json!({
            "name": container["name"], "image": container["image"], "imageID": "test", "ready": false, "restartCount": 0,
            "state": { "terminated": { "exitCode": end.code, "reason": reason, "message": end.message } },
        })
    }

    /// Starts a container; none where it cannot be, which is told.
    async fn start(&self, container: &Value, list: &str, before: &[Value]) -> Option<tokio::process::Child> {
        let text = |name: &str| container[name].as_str().unwrap_or_default();
        let Some(image) = self.shared.config.images.get(text("image")) else {
            let message = format!("failed to pull and unpack image \"{}\": not found", text("image"));
            self.waits(container, list, before, "ErrImagePull", &message);
            return None;
        };
        let dir = self.dir.join("containers").join(text("name"));
        let made = self.prepare(container, image, &dir);
        if let Err(error) = made {
            self.waits(container, list, before, "CreateContainerError", &error.to_string());
            return None;
        }
        let log = |name: &str| fs::File::create(dir.join(name)).ok().map_or(Stdio::null(), Stdio::from);
        let mut command = runc(&self.shared);
        command.args(["run", "--bundle"]).arg(&dir).arg(runc_id(&self.name, text("name")));
        let child = command.stdin(Stdio::null()).stdout(log("out")).stderr(log("log")).spawn();
        match child {
            Ok(mut child) => {
                // One that is over at once may be known to runc only between two looks.
                tokio::select! {
                    () = self.created(&dir, text("name")) => {}
                    _ = child.wait() => {}
                }
                Some(child)
            }
            Err(error) => {
                self.waits(container, list, before, "RunContainerError", &error.to_string());
                None
            }
        }
    }

    /// Waits until runc knows the container: `exec` finds it then. One that is over before is never known.
    async fn created(&self, dir: &Path, container: &str) {
        let state = self.shared.config.dir.join("runc").join(runc_id(&self.name, container)).join("state.json");
        // A pid of 0 is none yet. The directory goes with the pod.
        while !fs::read_to_string(&state).is_ok_and(|text| !text.contains("\"init_process_pid\":0,")) && dir.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn prepare(&self, container: &Value, image: &super::Image, dir: &Path) -> io::Result<()> {
        for name in ["rootfs", "up", "work"] {
            fs::create_dir_all(dir.join(name))?;
        }
        fs::write(dir.join("hosts"), "127.0.0.1 localhost\n")?;
        fs::write(dir.join("resolv.conf"), "nameserver 127.0.0.1\n")?;
        fs::write(dir.join("hostname"), "pod\n")?;
        fs::write(dir.join("message"), "")?;
        fs::set_permissions(dir.join("message"), fs::Permissions::from_mode(0o666))?;
        let path = |name: &str| dir.join(name).to_string_lossy().into_owned();
        let (lower, upper, work) = (image.root.to_string_lossy().into_owned(), path("up"), path("work"));
        let options =
            [("lowerdir", Some(lower.as_str())), ("upperdir", Some(upper.as_str())), ("workdir", Some(work.as_str()))];
        Tree::new("overlay", &options, Attributes::default())?.attach_at(&dir.join("rootfs"))?;
        let volumes = self.dir.join("volumes");
        for (from, one) in bundle::volume_mounts(container, &volumes) {
            if !from.exists() {
                return Err(io::Error::other(format!("failed to prepare subPath of volumeMount {one}")));
            }
        }
        let places = bundle::Places { container: dir, volumes: &volumes };
        let config = bundle::config(&self.shared.config, &self.pod, container, image, &places);
        fs::write(dir.join("config.json"), serde_json::to_vec(&config)?)
    }

    async fn wait(&self, mut child: tokio::process::Child, container: &Value) -> End {
        let status = child.wait().await;
        let name = container["name"].as_str().unwrap_or_default();
        let dir = self.dir.join("containers").join(name);
        let code = status.ok().and_then(|status| status.code()).unwrap_or(137);
        let mut message = fs::read_to_string(dir.join("message")).unwrap_or_default();
        if message.is_empty() && code != 0 && container["terminationMessagePolicy"] == "FallbackToLogsOnError" {
            message = fs::read_to_string(dir.join("log")).unwrap_or_default();
        }
        message.truncate(4096);
        End { code, message }
    }
}

/// Gives a living pod's container other limits, and tells of it.
pub(super) async fn resize(shared: &Arc<Shared>, namespace: &str, name: &str) {
    let Ok(pod) = shared.store.get("pods", namespace, name) else { return };
    if shared.kubelet.place(shared, name, requested(&pod)).is_err() {
        let message = "Node didn't have enough capacity: memory";
        return shared.store.set_condition(namespace, name, "PodResizePending", true, "Infeasible", message);
    }
    for container in pod["spec"]["containers"].as_array().into_iter().flatten() {
        let called = container["name"].as_str().unwrap_or_default();
        let mut resources = bundle::resources(container, shared.config.pids);
        if let Some(fields) = resources.as_object_mut() {
            fields.remove("devices");
        }
        let file = shared.config.dir.join("pods").join(name).join("resources.json");
        let written = fs::write(&file, resources.to_string());
        let mut command = runc(shared);
        command.args(["update", "--resources"]).arg(&file).arg(runc_id(name, called));
        let done = command.output().await;
        if written.is_err() || !done.as_ref().is_ok_and(|done| done.status.success()) {
            let said = done.map(|done| String::from_utf8_lossy(&done.stderr).into_owned()).unwrap_or_default();
            return shared.store.set_condition(namespace, name, "PodResizeInProgress", true, "Error", &said);
        }
        let _ = shared.store.change("pods", namespace, name, None, |pod| {
            for one in pod["status"]["containerStatuses"].as_array_mut().into_iter().flatten() {
                if one["name"] == container["name"] {
                    one["resources"] = container["resources"].clone();
                }
            }
            Ok(())
        });
    }
}
