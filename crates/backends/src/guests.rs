//! What every container has on the host beside what its runtime keeps: a directory for the socket of its init, a file system for
//! what it writes, and a record by which the next server finds it.
//!
//! ```text
//! DATA/guests/.lock              a node is at work here
//! DATA/guests/SANDBOX/guest.json what it is: written first, removed last
//! DATA/guests/SANDBOX/run/       the init's socket; nothing in the container but its init gets in
//! DATA/guests/SANDBOX/files/     a file system of the sandbox's size: all that it may write to
//! ```
//! Knows nothing of runtimes.

use crate::{BackendError, disk, peer, program::Program};
use csb_image::{ImportError, Private, Store, Template};
use csb_sys::{
    cgroup::{self, Group},
    loopdev::LoopDevice,
    mount::{self, Attributes, Tree},
    packet::Conn,
};
use csb_types::{Kind, Limits, SandboxId, SandboxSpec, Upper, Usage};
use csb_wire::{
    Failure, VERSION,
    guest::{FAILED, NARROW, ONCE, OWNER, SOCKET, USER},
};
use rustix::fs::{FileType, Gid, Mode, OFlags, Uid};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{
    fs::{self, DirBuilder, File},
    io::{self, Read},
    os::{
        fd::OwnedFd,
        unix::{
            ffi::OsStrExt,
            fs::{DirBuilderExt, PermissionsExt},
        },
    },
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

/// An init that has not come up by then will not; a host under load takes seconds.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks at a socket that is not there yet.
const TICK: Duration = Duration::from_millis(2);
/// What connecting to it ends with until it is.
const NOT_YET: [io::ErrorKind; 3] =
    [io::ErrorKind::NotFound, io::ErrorKind::ConnectionRefused, io::ErrorKind::WouldBlock];
/// Longest reason of an init that did not come up, bytes.
const MOST_WORDS: u64 = 4096;
/// Processes of ours in each container: its init and the one that waits for the next command.
const OURS: u64 = 2;
/// A change of the host's programs may reach a sandbox this much later.
const RECENT: Duration = Duration::from_secs(60);
/// Of `csb run`: one directory for each that is at work.
const PRIVATE: &str = "guests-run";

/// Directories of a sandbox's own, where they show inside, their owner and permission bits.
pub(crate) const PLACES: [(&str, &str, u32, u32); 5] = [
    ("workspace", "/workspace", USER, 0o755),
    ("home", "/home/user", USER, 0o755),
    ("tmp", "/tmp", 0, 0o1777),
    ("var-tmp", "/var/tmp", 0, 0o1777),
    ("root", "/root", 0, 0o700),
];

/// All containers of one node.
#[derive(Debug)]
pub struct Guests {
    data_dir: PathBuf,
    root: PathBuf,
    /// Whether they end with this process.
    private: bool,
    /// What this process's records say of who made them.
    maker: Arc<str>,
    /// Whether the records were read before: then a directory without one is being made.
    read: AtomicBool,
    /// Held while this node is at work.
    _lock: File,
}

/// What a sandbox's record holds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct RecordV1 {
    version: u32,
    /// Which backend's.
    pub(crate) kind: Kind,
    /// What its init speaks.
    protocol: u32,
    /// Which runtime made it, where there are several.
    pub(crate) runtime: String,
    /// The runtime's name of it; empty until there is one.
    pub(crate) container: String,
    /// Host pid of its init; 0 until there is one.
    pub(crate) pid: i32,
    /// Which process made it: a word of its own.
    #[serde(default)]
    maker: String,
}

impl RecordV1 {
    /// Refuses what was started by a server of another version.
    pub(crate) fn check_protocol(&self) -> io::Result<()> {
        if self.protocol == VERSION {
            return Ok(());
        }
        Err(io::Error::other("its init speaks another version of the protocol"))
    }
}

/// One sandbox's directory.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) path: PathBuf,
    maker: Arc<str>,
}

fn failed(step: &str) -> impl Fn(io::Error) -> BackendError + '_ {
    move |error| match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => BackendError::NoRoom {
            limit: format!("{step}: {error}"),
            hint: "free some of the data directory's disk, or move it".into(),
        },
        _ => BackendError::Failed { step: step.into(), message: error.to_string() },
    }
}

/// Whether a runtime says, in its own words or the kernel's, that more memory is in use than a new limit allows.
pub(crate) fn uses_more(error: &impl std::fmt::Display) -> bool {
    let said = error.to_string().to_lowercase();
    said.contains("device or resource busy") || said.contains("unable to set memory limit")
}

fn hash(path: &Path) -> String {
    hex::encode(&Sha256::digest(path.as_os_str().as_bytes())[..8])
}

/// Runs what waits for the disk where it keeps nobody else waiting.
pub(crate) async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BackendError> + Send + 'static,
) -> Result<T, BackendError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(BackendError::Failed { step: "work aside".into(), message: error.to_string() }))
}

impl Guests {
    /// Those of a server, which outlive it.
    pub fn lasting(data_dir: &Path) -> io::Result<Arc<Self>> {
        Self::at(data_dir, data_dir.join("guests"), false)
    }

    /// Those of one `csb run`, which end with it.
    pub fn private(data_dir: &Path) -> io::Result<Arc<Self>> {
        Self::at(data_dir, data_dir.join(PRIVATE).join(std::process::id().to_string()), true)
    }

    fn at(data_dir: &Path, root: PathBuf, private: bool) -> io::Result<Arc<Self>> {
        DirBuilder::new().recursive(true).mode(0o700).create(&root)?;
        let lock = File::options().create(true).truncate(false).write(true).open(root.join(".lock"))?;
        // One server at a time is seen to by the node. Here it tells that this process lives.
        if private {
            lock.try_lock()?;
        }
        let data_dir = fs::canonicalize(data_dir)?;
        let root = fs::canonicalize(root)?;
        let maker = SandboxId::random().as_str().into();
        Ok(Arc::new(Self { data_dir, root, private, maker, read: AtomicBool::new(false), _lock: lock }))
    }

    /// Places of `csb run`s that were killed, to be cleaned up like one's own.
    pub(crate) fn orphaned(&self) -> Vec<Arc<Self>> {
        let entries = fs::read_dir(self.data_dir.join(PRIVATE)).into_iter().flatten().flatten();
        let others = entries.map(|entry| entry.path()).filter(|path| *path != self.root);
        others.filter_map(|root| Self::at(&self.data_dir, root, true).ok()).collect()
    }

    /// By which containers of this node are known among all of an engine.
    pub(crate) fn node(&self) -> String {
        hash(&self.root)
    }

    /// By which what is made of this data directory's templates is known.
    pub(crate) fn source(&self) -> String {
        hash(&self.data_dir)
    }

    pub(crate) fn is_private(&self) -> bool {
        self.private
    }

    pub(crate) fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// Directory of all places.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Directory of what a runtime keeps for itself.
    pub(crate) fn state(&self, runtime: &str) -> PathBuf {
        self.root.join(format!(".{runtime}"))
    }

    pub(crate) async fn program(&self) -> Result<Program, BackendError> {
        let data_dir = self.data_dir.clone();
        aside(move || Program::ensure(&data_dir).map_err(failed("copy the program that is a container's init"))).await
    }

    /// A template of this host.
    pub(crate) async fn template(&self, name: &str) -> Result<Template, BackendError> {
        let (directory, name) = (self.data_dir.join("templates"), name.to_owned());
        aside(move || {
            let failed = |message: String| BackendError::Failed { step: "find the template".into(), message };
            let store = Store::open(directory).map_err(|error| failed(error.to_string()))?;
            match &*name {
                "" | "host" => store.recent_host(RECENT).map_err(|error| failed(error.to_string())),
                name => store.get(name).map_err(|error| BackendError::NotFound {
                    what: format!("template `{name}` ({error})"),
                    hint: "`csb template ls` lists them".into(),
                }),
            }
        })
        .await
    }

    /// Images of a template's files, which nothing else has mounted; made for the first who asks.
    pub(crate) async fn images(&self, name: &str) -> Result<Private, BackendError> {
        let template = self.template(name).await?;
        let directory = self.data_dir.join("templates");
        aside(move || {
            let failed = |message: String| BackendError::Failed { step: "make the template's images".into(), message };
            let store = Store::open(directory).map_err(|error| failed(error.to_string()))?;
            store.private(&template, RECENT, &mut |_| {}).map_err(|error| match &error {
                ImportError::Write { source, .. }
                    if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) =>
                {
                    BackendError::NoRoom {
                        limit: format!("disk space of the data directory, for a copy of the template's files ({source})"),
                        hint: "free as much as the template takes (for `host`: as `/usr` does), or move the data directory"
                            .into(),
                    }
                }
                error => failed(error.to_string()),
            })
        })
        .await
    }

    pub(crate) fn place(&self, id: &SandboxId) -> Place {
        Place { path: self.root.join(id.as_str()), maker: self.maker.clone() }
    }

    /// Ids of all that have a record of this kind and were made by an earlier process: what this one made is its own, and may not be
    /// done yet.
    pub(crate) fn records(&self, kind: Kind) -> io::Result<Vec<(SandboxId, RecordV1)>> {
        let mut found = Vec::new();
        let is_first = !self.read.swap(true, Ordering::Relaxed);
        for entry in fs::read_dir(&self.root)? {
            let Some(id) = entry?.file_name().to_str().and_then(|name| name.parse::<SandboxId>().ok()) else {
                continue;
            };
            let place = self.place(&id);
            match place.record() {
                Ok(record) if record.kind == kind && *record.maker != *self.maker => found.push((id, record)),
                Ok(_) => {}
                Err(error) if is_first => {
                    // Nothing is made before it is written, and nothing is left when it is removed.
                    tracing::warn!(sandbox = %id, %error, "removing a container's directory without a record");
                    if let Err(error) = place.remove() {
                        tracing::error!(sandbox = %id, %error, "cannot remove it: the next server tries again");
                    }
                }
                Err(_) => {}
            }
        }
        Ok(found)
    }

    /// Removes what no container needs any more.
    pub(crate) fn tidy(&self) {
        let none = |path: &Path| fs::read_dir(path).map_or(true, |mut entries| entries.next().is_none());
        let empty = fs::read_dir(&self.root)
            .is_ok_and(|entries| entries.flatten().all(|entry| entry.file_name().as_bytes().starts_with(b".")));
        if self.private && empty {
            // Another one finds it, and tries again.
            let _ = fs::remove_dir_all(&self.root);
        }
        if !self.private
            && empty
            && none(&self.data_dir.join(PRIVATE))
            && let Err(error) = crate::program::prune(&self.data_dir)
        {
            tracing::warn!(%error, "cannot remove old versions of the guest program");
        }
    }

    /// Where the writes of a sandbox go: a file system of its own, on disk or in memory.
    pub(crate) async fn upper(&self, id: &SandboxId, spec: &SandboxSpec) -> Result<Tree, BackendError> {
        let limits = spec.limits.clone();
        match spec.decided_upper() {
            Upper::Disk => {
                let image = disk::make(&self.data_dir.join("disks"), id, &limits).await?;
                aside(move || mounted_image(&image.path).map_err(failed("mount the disk image"))).await
            }
            Upper::Memory | Upper::Auto => memory(&limits).map_err(failed("mount what takes the sandbox's writes")),
        }
    }
}

fn mounted_image(image: &Path) -> io::Result<Tree> {
    let file = File::options().read(true).write(true).open(image)?;
    let device = LoopDevice::attach(&file)?;
    // From here on the mount keeps the device.
    Tree::of_device(device.path(), "ext4", &["noinit_itable", "nodiscard"])
}

fn memory(limits: &Limits) -> io::Result<Tree> {
    // A tmpfs as large as the memory limit would end in the OOM killer where ENOSPC is meant.
    let size = limits.disk.min(limits.memory / 4 * 3).to_string();
    let inodes = limits.inodes.to_string();
    let options = [("size", Some(size.as_str())), ("nr_inodes", Some(inodes.as_str())), ("mode", Some("0755"))];
    Tree::new("tmpfs", &options, Attributes::default())
}

impl Place {
    pub(crate) fn run(&self) -> PathBuf {
        self.path.join("run")
    }

    pub(crate) fn files(&self) -> PathBuf {
        self.path.join("files")
    }

    fn record_path(&self) -> PathBuf {
        self.path.join("guest.json")
    }

    pub(crate) fn record(&self) -> io::Result<RecordV1> {
        let record: RecordV1 = serde_json::from_slice(&fs::read(self.record_path())?)?;
        if record.version != 1 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a record of another version"));
        }
        Ok(record)
    }

    /// Makes the directory, with a record that nothing is made yet.
    pub(crate) fn begin(&self, kind: Kind, runtime: &str) -> Result<(), BackendError> {
        let make = || -> io::Result<()> {
            DirBuilder::new().mode(0o700).create(&self.path)?;
            self.write(kind, runtime, "", 0)?;
            DirBuilder::new().mode(0o700).create(self.run())?;
            rustix::fs::chown(self.run(), Some(Uid::from_raw(OWNER)), Some(Gid::from_raw(OWNER)))?;
            DirBuilder::new().mode(0o755).create(self.files())
        };
        make().map_err(failed("make the container's directory"))
    }

    /// Writes down what is known by now.
    pub(crate) fn write(&self, kind: Kind, runtime: &str, container: &str, pid: i32) -> io::Result<()> {
        let (runtime, container, maker) = (runtime.into(), container.into(), (*self.maker).into());
        let record = RecordV1 { version: 1, kind, protocol: VERSION, runtime, container, pid, maker };
        let new = self.path.join("guest.json.new");
        fs::write(&new, serde_json::to_vec(&record)?)?;
        fs::rename(new, self.record_path())
    }

    /// Attaches what takes the sandbox's writes, with its directories in it.
    pub(crate) fn furnish(&self, upper: &Tree) -> Result<(), BackendError> {
        let make = || -> io::Result<()> {
            upper.attach_at(&self.files())?;
            for (name, _, owner, mode) in PLACES {
                let path = self.files().join(name);
                DirBuilder::new().create(&path)?;
                rustix::fs::chown(&path, Some(Uid::from_raw(owner)), Some(Gid::from_raw(owner)))?;
                fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
            }
            Ok(())
        };
        make().map_err(failed("make the sandbox's directories"))
    }

    /// Adds directories to what takes the sandbox's writes.
    pub(crate) fn add(&self, names: impl Iterator<Item = String>) -> Result<(), BackendError> {
        let make = |name: String| -> io::Result<()> {
            let path = self.files().join(name);
            DirBuilder::new().create(&path)?;
            rustix::fs::chown(&path, Some(Uid::from_raw(USER)), Some(Gid::from_raw(USER)))?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
        };
        names.into_iter().try_for_each(make).map_err(failed("make the sandbox's directories"))
    }

    /// Unmounts and removes everything. What is gone already is no error.
    pub(crate) fn remove(&self) -> io::Result<()> {
        let prefix = self.path.as_os_str().as_bytes();
        for mounted in mounts_below(prefix)? {
            mount::detach(&mounted)?;
        }
        // The record last, by which the next server would find the rest.
        let rest = match fs::read_dir(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        for entry in rest {
            let path = entry?.path();
            if path.is_dir() && !path.is_symlink() {
                fs::remove_dir_all(&path)?;
            } else if path != self.record_path() {
                fs::remove_file(&path)?;
            }
        }
        fs::remove_dir_all(&self.path)
    }

    fn dial(&self) -> io::Result<Conn> {
        peer::packets(self.socket()?)
    }

    /// The socket in the directory that the container shares. Whoever took the container over may put a link in its place, to a
    /// socket of the host.
    fn socket(&self) -> io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let socket = rustix::fs::open(self.run().join(SOCKET), flags, Mode::empty())?;
        match FileType::from_raw_mode(rustix::fs::fstat(&socket)?.st_mode) {
            FileType::Socket => Ok(socket),
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "what is there is no socket")),
        }
    }

    /// The last words of an init that did not come up: a plain file, as large as words are.
    fn last_words(&self) -> Option<String> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::fs::open(self.run().join(FAILED), flags, Mode::empty()).ok()?;
        let stat = rustix::fs::fstat(&file).ok()?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return None;
        }
        let mut words = Vec::new();
        File::from(file).take(MOST_WORDS).read_to_end(&mut words).ok()?;
        Some(String::from_utf8_lossy(&words).into_owned())
    }

    /// Connects to an init that was started before.
    pub(crate) fn reconnect(&self, record: &RecordV1) -> io::Result<Conn> {
        record.check_protocol()?;
        self.checked(self.dial()?, record.pid)
    }

    /// As [`Place::reconnect`], by its relay.
    pub(crate) fn rejoin(&self, record: &RecordV1) -> io::Result<Conn> {
        record.check_protocol()?;
        self.relay()
    }

    /// A tenant that is root inside cannot get at the socket. This is for the day that it can.
    fn checked(&self, conn: Conn, pid: i32) -> io::Result<Conn> {
        match conn.peer_pid()? {
            peer if peer == pid && pid > 0 => Ok(conn),
            _ => Err(io::Error::new(io::ErrorKind::PermissionDenied, "what listens is not the container's init")),
        }
    }

    /// Connects to the relay of an init that was started before, or just now.
    pub(crate) fn relay(&self) -> io::Result<Conn> {
        let mut stream = Some(peer::stream(self.socket()?)?.into());
        // It is lost with the container.
        csb_relay::host(Box::new(move || stream.take().ok_or_else(|| io::ErrorKind::NotConnected.into())))
    }

    /// Waits for the init of pid `pid` to listen.
    pub(crate) async fn connect(&self, pid: i32) -> Result<Conn, BackendError> {
        self.wait_for(pid, || self.dial().map(|conn| self.checked(conn, pid))).await
    }

    /// Waits for the relay of the container that process `pid` holds to listen.
    pub(crate) async fn connect_relay(&self, pid: i32) -> Result<Conn, BackendError> {
        self.wait_for(pid, || self.relay().map(Ok)).await
    }

    async fn wait_for(&self, pid: i32, dial: impl Fn() -> io::Result<io::Result<Conn>>) -> Result<Conn, BackendError> {
        let step = "wait for the container's init";
        let failed = |message: String| BackendError::Failed { step: step.into(), message };
        let end = Instant::now() + PATIENCE;
        loop {
            match dial() {
                Ok(conn) => return conn.map_err(|error| failed(error.to_string())),
                Err(error) if NOT_YET.contains(&error.kind()) => {}
                Err(error) => return Err(failed(error.to_string())),
            }
            let why = self.last_words();
            if why.is_some() || !Path::new("/proc").join(pid.to_string()).exists() {
                return Err(failed(why.unwrap_or_else(|| "it ended at once".into())));
            }
            if Instant::now() > end {
                return Err(failed(format!("it did not come up within {} s", PATIENCE.as_secs())));
            }
            tokio::time::sleep(TICK).await;
        }
    }

    /// The control group of a container, whoever made it.
    pub(crate) fn group(&self, record: &RecordV1) -> io::Result<Group> {
        let gone = || io::Error::from_raw_os_error(libc::ENOENT);
        if record.pid == 0 {
            return Err(gone());
        }
        let group = Group::of_process(record.pid).map_err(kernel)?;
        // After its end the pid may be another's.
        if group.id().contains(&record.container) { Ok(group) } else { Err(gone()) }
    }

    /// Counters of a container and of what it wrote.
    pub(crate) fn usage(&self, record: &RecordV1) -> io::Result<Usage> {
        let counters = self.group(record)?.usage().map_err(kernel)?;
        let stat = rustix::fs::statvfs(self.files())?;
        Ok(Usage {
            cpu_usec: counters.cpu_usec,
            memory: counters.memory,
            memory_peak: counters.memory_peak,
            pids: counters.pids.saturating_sub(OURS),
            oom_kills: counters.oom_kills,
            pids_refused: counters.pids_refused,
            disk: (stat.f_blocks - stat.f_bfree.min(stat.f_blocks)) * stat.f_frsize,
            disk_limit: stat.f_blocks * stat.f_frsize,
            inodes_free: stat.f_ffree,
        })
    }
}

fn kernel(error: cgroup::CgroupError) -> io::Error {
    if matches!(error.source.raw_os_error(), Some(libc::ENOENT | libc::ENODEV)) {
        return io::Error::from_raw_os_error(libc::ENOENT);
    }
    io::Error::new(error.source.kind(), format!("{error}: {}", error.source))
}

/// A refusal as a driver of sandboxes knows it.
pub(crate) fn refusal(step: &str, error: &io::Error) -> Failure {
    Failure { step: step.into(), message: error.to_string(), errno: error.raw_os_error().unwrap_or(0) }
}

/// Mount points below a directory, the innermost first.
fn mounts_below(prefix: &[u8]) -> io::Result<Vec<String>> {
    let text = fs::read_to_string("/proc/self/mountinfo")?;
    let points = text.lines().filter_map(|line| line.split(' ').nth(4)).map(unescape);
    let below = |point: &String| point.as_bytes().strip_prefix(prefix).is_some_and(|rest| rest.first() == Some(&b'/'));
    let mut found: Vec<String> = points.filter(below).collect();
    found.reverse();
    Ok(found)
}

/// mountinfo writes space, tab, newline and backslash as three octal digits.
fn unescape(field: &str) -> String {
    ["\\040", "\\011", "\\012", "\\134"]
        .into_iter()
        .zip([" ", "\t", "\n", "\\"])
        .fold(field.to_owned(), |text, (code, plain)| text.replace(code, plain))
}

/// CPU time of a period, and how long that is, for `limits`, µs.
pub(crate) fn quota(limits: &Limits) -> (i64, i64) {
    const PERIOD: i64 = 100_000;
    (i64::from(limits.cpu_milli) * PERIOD / 1000, PERIOD)
}

/// Processes that a container of these limits may have, ours included.
pub(crate) fn pids(limits: &Limits) -> i64 {
    i64::from(limits.pids) + OURS as i64
}

/// What a container's init is started with, behind its program.
pub(crate) fn arguments(guests: &Guests, spec: &SandboxSpec) -> Vec<String> {
    let mut words = vec![spec.limits.nofile.to_string()];
    words.extend((spec.kind == Kind::Hardened).then(|| NARROW.to_owned()));
    words.extend(guests.is_private().then(|| ONCE.to_owned()));
    words
}

/// Refuses a working directory that hides what a container cannot do without.
pub(crate) fn check_work_dir(directory: &str) -> Result<(), BackendError> {
    const NOT_BELOW: [&str; 13] =
        ["bin", "boot", "dev", "etc", "lib", "lib64", "proc", "run", "sbin", "sys", "usr", ".csb", ".csb-run"];
    let path = Path::new(directory);
    let mut parts = path.components().skip(1).map(|part| part.as_os_str().to_str().unwrap_or_default());
    let plain = path.is_absolute()
        && directory.len() <= 512
        && !directory.contains(['\0', '\n'])
        && path.components().skip(1).all(|part| matches!(part, std::path::Component::Normal(_)));
    match parts.next() {
        Some(first) if plain && !NOT_BELOW.contains(&first) => Ok(()),
        _ => Err(BackendError::Unsupported(format!(
            "workDir `{}`: it is a directory such as `/app`, absolute, and none of the system's",
            directory.chars().take(64).collect::<String>()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_working_directory_hides_nothing_of_the_system() {
        for good in ["/app", "/srv/app", "/workspace", "/home/user/x"] {
            assert!(check_work_dir(good).is_ok(), "{good}");
        }
        for bad in ["", "/", "app", "/usr/lib", "/etc", "/a/../etc", "/.csb", "/proc/1", "/dev/shm"] {
            assert!(check_work_dir(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_this_process_makes_is_not_told_of_as_left_by_an_earlier_one() {
        let directory = tempfile::tempdir().unwrap();
        let [old, new, half] = [(); 3].map(|()| SandboxId::random());
        let told = |guests: &Guests| -> Vec<SandboxId> {
            guests.records(Kind::Oci).unwrap().into_iter().map(|(id, _)| id).collect()
        };
        let earlier = Guests::lasting(directory.path()).unwrap();
        earlier.place(&old).begin(Kind::Oci, "runc").unwrap();
        DirBuilder::new().create(earlier.place(&half).path).unwrap();
        drop(earlier);
        let guests = Guests::lasting(directory.path()).unwrap();
        assert_eq!(told(&guests), std::slice::from_ref(&old));
        assert!(!guests.place(&half).path.exists(), "a process that was killed left it without a record");
        // Asked again later, as where something did not answer at first.
        guests.place(&new).begin(Kind::Oci, "runc").unwrap();
        DirBuilder::new().create(guests.place(&half).path).unwrap();
        assert_eq!(told(&guests), [old]);
        assert!(guests.place(&half).path.exists(), "it is being made");
    }

    #[test]
    fn names_of_mounts_are_read_as_the_kernel_writes_them() {
        assert_eq!(unescape("/a\\040b\\134c"), "/a b\\c");
    }

    #[test]
    fn a_link_in_what_a_container_shares_leads_nowhere() {
        use std::os::unix::{fs::symlink, net::UnixListener};
        let directory = tempfile::tempdir().unwrap();
        let place = Place { path: directory.path().join("box"), maker: "test".into() };
        fs::create_dir_all(place.run()).unwrap();
        let (secret, of_the_host) = (directory.path().join("secret"), directory.path().join("host.sock"));
        fs::write(&secret, "a file of the host's").unwrap();
        let _listener = UnixListener::bind(&of_the_host).unwrap();
        symlink(&secret, place.run().join(FAILED)).unwrap();
        symlink(&of_the_host, place.run().join(SOCKET)).unwrap();
        assert_eq!(place.last_words(), None);
        assert!(place.dial().is_err() && place.relay().is_err());
        // Nor does a pipe keep anybody waiting.
        fs::remove_file(place.run().join(FAILED)).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, place.run().join(FAILED), FileType::Fifo, Mode::RWXU, 0).unwrap();
        assert_eq!(place.last_words(), None);
        fs::remove_file(place.run().join(FAILED)).unwrap();
        fs::write(place.run().join(FAILED), "no memory".repeat(10_000)).unwrap();
        assert_eq!(place.last_words().map(|words| words.len() as u64), Some(MOST_WORDS));
    }
}
