//! Kind `oci`: containers of an OCI runtime (runc, crun), of a bundle that we write, without an engine.
//!
//! The root is an overlay of the template's layers and the sandbox's own file system, mounted by us; the runtime does the rest.

mod bundle;
mod runtime;

use crate::{
    Backend, BackendError, Guests, Held,
    backend::Building,
    guests::{Place, RecordV1, aside, refusal, uses_more},
    undo::{self, Release},
};
use csb_engine::{Doing, Keeper, warden::WardenError};
use csb_image::{Bind, Private, Template};
use csb_sys::{
    mount::{self, Attributes, Tree, make_beneath, open_beneath},
    packet::Conn,
};
use csb_types::{Kind, Limits, SandboxId, SandboxSpec, Usage};
use csb_wire::{Failure, guest::USER};
use runtime::Runtime;
use rustix::fs::{AtFlags, Gid, Uid};
use std::{
    collections::BTreeSet,
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

/// For what is killed to end, and between two looks.
const DYING: Duration = Duration::from_secs(10);
const TICK: Duration = Duration::from_millis(10);
/// Before each look, after the first, for what a killed server's runtime may still be making.
const SWEEPS: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(10), Duration::from_secs(60)];

/// See the module.
#[derive(Debug)]
pub struct Oci {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    guests: Arc<Guests>,
    /// Held while a container is made, so that nobody removes the group that it will be in.
    making: Arc<tokio::sync::RwLock<()>>,
}

impl Oci {
    /// Nothing is asked of a runtime before a sandbox is.
    pub fn new(guests: Arc<Guests>) -> Self {
        Self { shared: Arc::new(Shared { guests, making: Arc::default() }) }
    }
}

fn failed(step: &str) -> impl Fn(io::Error) -> BackendError + '_ {
    move |error| BackendError::Failed { step: step.into(), message: error.to_string() }
}

/// What a root is mounted from.
enum Lower {
    Shared(Template),
    /// Of kind `hardened`.
    Private(Private),
}

impl Lower {
    fn layers(&self) -> &[PathBuf] {
        match self {
            Self::Shared(template) => &template.layers,
            Self::Private(images) => &images.layers,
        }
    }

    fn binds(&self) -> &[Bind] {
        match self {
            Self::Shared(template) => &template.binds,
            Self::Private(images) => &images.binds,
        }
    }

    /// A mount of one of its layers or binds, read-only.
    fn tree(&self, from: &Path) -> io::Result<Tree> {
        match self {
            Self::Shared(_) => {
                let tree = Tree::copy(rustix::fs::CWD, from, false)?;
                tree.restrict(Attributes::READ_ONLY, None, false)?;
                Ok(tree)
            }
            Self::Private(_) => Tree::of_image(fs::File::open(from)?),
        }
    }
}

/// Mounts the sandbox's root: layers, what takes its writes, and what of the host is shown.
fn mount_root(place: &Place, from: &Lower, upper: &Tree, work_dir: Option<&str>) -> io::Result<()> {
    let files = place.files();
    upper.attach_at(&files)?;
    let (up, work, root) = (files.join("up"), files.join("work"), place.path.join("rootfs"));
    for directory in [&up, &work, &root] {
        DirBuilder::new().mode(0o755).create(directory)?;
    }
    let mut lower = Vec::new();
    for (number, layer) in from.layers().iter().enumerate() {
        // By short names of ours: the option is a list, and as long as a page at most.
        let name = place.path.join(format!("layer{number}"));
        DirBuilder::new().mode(0o755).create(&name)?;
        from.tree(layer)?.attach_at(&name)?;
        lower.push(name.to_string_lossy().into_owned());
    }
    let lower = lower.join(":");
    let (up, work) = (up.to_string_lossy(), work.to_string_lossy());
    let options = [
        ("lowerdir", Some(lower.as_str())),
        ("upperdir", Some(&*up)),
        ("workdir", Some(&*work)),
        ("redirect_dir", Some("on")),
        ("xino", Some("on")),
    ];
    Tree::new("overlay", &options, Attributes::default())?.attach_at(&root)?;
    let inside = mount::open_directory(&root)?;
    for bind in from.binds() {
        from.tree(&bind.host)?.attach(open_beneath(&inside, &bind.guest.to_string_lossy())?)?;
    }
    if let Some(work_dir) = work_dir {
        let made = make_beneath(&inside, work_dir)?;
        let (uid, gid) = (Some(Uid::from_raw(USER)), Some(Gid::from_raw(USER)));
        rustix::fs::chownat(rustix::fs::CWD, proc_path(&made), uid, gid, AtFlags::empty())?;
    }
    Ok(())
}

/// Where a control group may be: in each hierarchy, and at their top where there is one only.
fn places_of(group: &Path) -> impl Iterator<Item = PathBuf> {
    let top = Path::new("/sys/fs/cgroup");
    let hierarchies = fs::read_dir(top).into_iter().flatten().flatten().map(|entry| entry.path());
    hierarchies.chain([top.to_owned()]).map(move |hierarchy| hierarchy.join(group))
}

/// Removes a control group from every hierarchy. A runtime leaves those that it uses for nothing, such as the unified one of a
/// host with both versions.
fn remove_groups(group: &Path) {
    for place in places_of(group) {
        // Refused while there is a process in it, and where it never was.
        let _ = rustix::fs::rmdir(place);
    }
}

/// Pids of what is in a control group of one hierarchy; none where it is not there.
fn processes(place: &Path) -> Vec<i32> {
    let text = fs::read_to_string(place.join("cgroup.procs")).unwrap_or_default();
    // 0: of another PID namespace, which we could not signal either.
    text.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 0).collect()
}

/// Ends what is in a container's control group, whatever its runtime knows of it, and removes the group. A runtime that was killed, or
/// met a full disk, may have made a container that it does not know.
fn clear(groups: &str, id: &SandboxId) -> io::Result<()> {
    let group = Path::new(groups).join(id.as_str());
    if !places_of(&group).any(|place| place.exists()) {
        return Ok(());
    }
    let root = csb_sys::cgroup::Host::detect()?.at_top().root(groups).map_err(io::Error::other)?;
    let inside = root.open(id.as_str()).map_err(io::Error::other)?;
    let end = Instant::now() + DYING;
    loop {
        // Atomic where the runtime put it into the unified hierarchy; gVisor's uses the others alone.
        let _ = inside.kill();
        for process in places_of(&group).flat_map(|place| processes(&place)) {
            // Gone already is what was wanted.
            let _ = csb_sys::process::kill(process, csb_sys::process::SIGKILL);
        }
        remove_groups(&group);
        // Refused by the kernel while there is a process in it, in any hierarchy.
        if !places_of(&group).any(|place| place.exists()) {
            return Ok(());
        }
        if Instant::now() > end {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "its processes do not end"));
        }
        std::thread::sleep(TICK);
    }
}

/// How often the kernel killed for want of memory in a control group, whose processes may all be gone.
fn oom_kills(group: &Path) -> u64 {
    let top = Path::new("/sys/fs/cgroup");
    let files = [top.join(group).join("memory.events"), top.join("memory").join(group).join("memory.oom_control")];
    let texts = files.iter().filter_map(|file| fs::read_to_string(file).ok());
    let counts = texts.flat_map(|text| {
        let count = text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse::<u64>().ok());
        count.into_iter()
    });
    counts.sum()
}

/// A name of what a descriptor is open on, for calls that take no `O_PATH` descriptor.
fn proc_path(fd: &impl std::os::fd::AsRawFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

impl Release for Arc<Shared> {
    async fn release(&self, id: &SandboxId) -> Result<(), BackendError> {
        self.end(id).await
    }
}

impl Shared {
    async fn end(&self, id: &SandboxId) -> Result<(), BackendError> {
        let place = self.guests.place(id);
        if let Ok(record) = place.record()
            && !record.container.is_empty()
        {
            let runtime = self.runtime(Some(&record.runtime))?;
            if let Ok(group) = place.group(&record) {
                // Its end waits for its turns otherwise, or for ever if it stands still.
                let _ = group.kill();
            }
            // A container that is gone already is one that `--force` does not complain of.
            runtime.run("remove the container", &["delete", "--force", &record.container], None).await?;
        }
        let (guests, groups) = (self.guests.clone(), Path::new(&self.group()).to_owned());
        let group = id.clone();
        let alone = self.making.clone().try_write_owned();
        aside(move || {
            clear(&groups.to_string_lossy(), &group).map_err(failed("end the container"))?;
            // It stays where others are in it, or are about to be.
            if alone.is_ok() {
                remove_groups(&groups);
            }
            let removed = place.remove().map_err(failed("remove the container's directory"));
            if guests.is_private() {
                guests.tidy();
            }
            removed
        })
        .await
    }
}

impl Shared {
    fn group(&self) -> String {
        format!("csb-oci-{}", self.guests.node())
    }

    fn runtime(&self, asked: Option<&str>) -> Result<Runtime, BackendError> {
        Runtime::choose(asked, &self.guests.state("oci"))
    }

    /// The runtime that is asked for, or the first that is there, where this process may use any.
    fn ready(&self, asked: Option<&str>) -> Result<Runtime, BackendError> {
        if !rustix::process::geteuid().is_root() {
            let what = "sandbox kind `oci` for an ordinary user: the server needs root";
            return Err(BackendError::Unsupported(what.into()));
        }
        self.runtime(asked)
    }

    async fn create(self: &Arc<Self>, id: &SandboxId, spec: &SandboxSpec) -> Result<Conn, BackendError> {
        if !spec.limits.io.is_none() {
            return Err(BackendError::Unsupported("limits of disk speed in containers of a runtime".into()));
        }
        spec.options.work_dir.as_deref().map_or(Ok(()), crate::guests::check_work_dir)?;
        let runtime = self.ready(spec.options.runtime.as_deref())?;
        let lower = match spec.kind {
            Kind::Hardened => Lower::Private(self.guests.images(&spec.template).await?),
            _ => Lower::Shared(self.guests.template(&spec.template).await?),
        };
        undo::whole(self, id, self.build(id, spec, &runtime, lower)).await
    }

    async fn build(
        &self,
        id: &SandboxId,
        spec: &SandboxSpec,
        runtime: &Runtime,
        lower: Lower,
    ) -> Result<Conn, BackendError> {
        let program = self.guests.program().await?;
        let place = self.guests.place(id);
        place.begin(Kind::Oci, &runtime.name)?;
        let upper = self.guests.upper(id, spec).await?;
        let work_dir = spec.options.work_dir.clone();
        let config = bundle::config(id, spec, &place, &self.guests, &program, runtime.is_gvisor(), &self.group());
        let place = aside(move || {
            mount_root(&place, &lower, &upper, work_dir.as_deref()).map_err(failed("mount the sandbox's root"))?;
            let text = serde_json::to_vec(&config).map_err(|error| failed("write the bundle")(error.into()))?;
            fs::write(place.path.join("config.json"), text).map_err(failed("write the bundle"))?;
            Ok(place)
        })
        .await?;
        let record = |pid| place.write(Kind::Oci, &runtime.name, id.as_str(), pid).map_err(failed("write the record"));
        record(0)?;
        let (bundle, pid_file) = (place.path.to_string_lossy().into_owned(), place.path.join("pid"));
        let pid_path = pid_file.to_string_lossy().into_owned();
        let words = ["create", "--bundle", &bundle, "--pid-file", &pid_path, id.as_str()];
        let refused = |error: BackendError| BackendError::Unavailable {
            what: format!("{} makes no container here: {error}", runtime.name),
            hint: "ask for another runtime (`runtime`): runc or crun".into(),
        };
        {
            let _making = self.making.read().await;
            runtime.run("make the container", &words, None).await.map_err(refused)?;
        }
        runtime.run("start the container", &["start", id.as_str()], None).await.map_err(refused)?;
        let pid = fs::read_to_string(&pid_file).map_err(failed("read the container's pid"))?;
        let pid =
            pid.trim().parse::<i32>().map_err(|error| failed("read the container's pid")(io::Error::other(error)))?;
        record(pid)?;
        if runtime.is_gvisor() { place.connect_relay(pid).await } else { place.connect(pid).await }
    }

    async fn held(self: &Arc<Self>) -> Result<Vec<Held>, BackendError> {
        let mut held = Vec::new();
        for (id, record) in self.guests.records(Kind::Oci).map_err(failed("read the records"))? {
            let place = self.guests.place(&id);
            let joined =
                if record.runtime == runtime::GVISOR { place.rejoin(&record) } else { place.reconnect(&record) };
            match joined {
                Ok(conn) => {
                    let frozen = self.is_frozen(&place, &record).await;
                    held.push(Held { id, conn, frozen });
                }
                Err(error) => {
                    tracing::warn!(sandbox = %id, %error, "removing a container whose init is not reached");
                    if let Err(error) = self.end(&id).await {
                        tracing::error!(sandbox = %id, %error, "cannot remove a container");
                    }
                }
            }
        }
        // Of a server that was killed.
        remove_groups(Path::new(&self.group()));
        self.guests.tidy();
        self.sweep().await;
        let shared = self.clone();
        tokio::spawn(async move {
            for pause in SWEEPS {
                tokio::time::sleep(pause).await;
                shared.sweep().await;
            }
        });
        Ok(held)
    }

    /// Removes containers that nothing tells of: a runtime goes on when the server that asked it is killed, and may have made one when the
    /// next server has cleared away what there was.
    async fn sweep(&self) {
        let groups = self.group();
        let listed =
            places_of(Path::new(&groups)).flat_map(|place| fs::read_dir(place).into_iter().flatten().flatten());
        let ids: BTreeSet<SandboxId> = listed.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
        // What this server makes has a directory before it has a group.
        for id in ids.into_iter().filter(|id| !self.guests.place(id).path.exists()) {
            tracing::warn!(sandbox = %id, "removing a container that nothing tells of");
            for runtime in Runtime::that_know(&id, &self.guests.state("oci")) {
                if let Err(error) = runtime.run("remove the container", &["delete", "--force", id.as_str()], None).await
                {
                    tracing::warn!(sandbox = %id, %error, "a runtime does not remove its container");
                }
            }
            let (groups, name) = (groups.clone(), id.clone());
            let cleared = aside(move || clear(&groups, &name).map_err(failed("end the container"))).await;
            if let Err(error) = cleared {
                tracing::error!(sandbox = %id, %error, "cannot remove a container");
            }
        }
    }

    /// gVisor stands still by itself, the others' containers by the kernel's freezer.
    async fn is_frozen(&self, place: &Place, record: &RecordV1) -> bool {
        if record.runtime == runtime::GVISOR {
            let Ok(runtime) = self.runtime(Some(&record.runtime)) else { return false };
            let state = runtime.ask("look at the container", &["state", &record.container]).await.unwrap_or_default();
            let state: serde_json::Value = serde_json::from_str(&state).unwrap_or_default();
            return state["status"] == "paused";
        }
        place.group(record).and_then(|group| group.is_frozen().map_err(io::Error::other)).unwrap_or(false)
    }

    /// Its record, and the runtime that made it.
    fn known(&self, id: &SandboxId, step: &str) -> Result<(RecordV1, Runtime), WardenError> {
        let record = self.guests.place(id).record().map_err(|error| refusal("find the container", &error))?;
        let runtime = self.runtime(Some(&record.runtime)).map_err(|error| warden(step, error))?;
        Ok((record, runtime))
    }
}

fn warden(step: &str, error: BackendError) -> WardenError {
    let errno = if uses_more(&error) { libc::EBUSY } else { 0 };
    WardenError::Failed(Failure { step: step.into(), message: error.to_string(), errno })
}

impl Keeper for Oci {
    fn release<'a>(&'a self, id: &'a SandboxId) -> Doing<'a, ()> {
        Box::pin(async move { self.shared.end(id).await.map_err(|error| warden("release the container", error)) })
    }

    fn freeze<'a>(&'a self, id: &'a SandboxId, frozen: bool) -> Doing<'a, ()> {
        Box::pin(async move {
            let (word, step) =
                if frozen { ("pause", "pause the container") } else { ("resume", "resume the container") };
            let (record, runtime) = self.shared.known(id, step)?;
            runtime.run(step, &[word, &record.container], None).await.map_err(|error| warden(step, error))
        })
    }

    fn set_limits<'a>(&'a self, id: &'a SandboxId, limits: Limits) -> Doing<'a, ()> {
        Box::pin(async move {
            let step = "change the container's limits";
            if !limits.io.is_none() {
                return Err(refusal(step, &io::Error::from_raw_os_error(libc::ENOTSUP)).into());
            }
            let (record, runtime) = self.shared.known(id, step)?;
            let text = bundle::resources(&limits, runtime.is_gvisor()).to_string();
            let words = ["update", "--resources", "-", &record.container];
            runtime.run(step, &words, Some(&text)).await.map_err(|error| warden(step, error))
        })
    }

    fn why_ended<'a>(&'a self, id: &'a SandboxId) -> Doing<'a, Option<String>> {
        Box::pin(async move {
            let out_of_memory = oom_kills(&Path::new(&self.shared.group()).join(id.as_str())) > 0;
            let why = if out_of_memory { "its container ended: its memory ran out" } else { "its container ended" };
            Ok(Some(why.into()))
        })
    }

    fn usage<'a>(&'a self, id: &'a SandboxId) -> Doing<'a, Usage> {
        Box::pin(async move {
            let step = "read the container's counters";
            let (record, _) = self.shared.known(id, step)?;
            self.shared.guests.place(id).usage(&record).map_err(|error| refusal(step, &error).into())
        })
    }
}

impl Backend for Oci {
    fn kind(&self) -> Kind {
        Kind::Oci
    }

    fn ready(&self) -> Building<'_, ()> {
        Box::pin(async { self.shared.ready(None).map(drop) })
    }

    fn create<'a>(&'a self, id: &'a SandboxId, spec: &'a SandboxSpec) -> Building<'a, Conn> {
        Box::pin(self.shared.create(id, spec))
    }

    fn held(&self) -> Building<'_, Vec<Held>> {
        Box::pin(async {
            for guests in self.shared.guests.orphaned() {
                let other = Shared { guests, making: Arc::default() };
                for (id, _) in other.guests.records(Kind::Oci).unwrap_or_default() {
                    if let Err(error) = other.end(&id).await {
                        tracing::warn!(sandbox = %id, %error, "cannot remove a container that `csb run` left");
                    }
                }
                other.guests.tidy();
            }
            self.shared.held().await
        })
    }
}
