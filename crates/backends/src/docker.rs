//! Kind `docker`: containers of a Docker Engine on this host.
//!
//! The engine makes, limits, pauses and ends a container; everything else is between its init and the sandbox's driver, over a
//! socket that needs no engine. So an engine that leaves containers alone when it is restarted (`live-restore`) takes no command
//! along, and a server that is restarted finds its containers without one.

mod body;
mod engine;
mod image;

pub(crate) use image::check_name as check_image;

use crate::{
    Backend, BackendError, Guests, Held,
    backend::Building,
    guests::{RecordV1, aside, refusal, uses_more},
    undo::{self, Release},
};
use csb_engine::{Doing, Keeper, warden::WardenError};
use csb_sys::packet::Conn;
use csb_types::{Kind, KindOptions, Limits, SandboxId, SandboxSpec, Usage};
use csb_wire::Failure;
use engine::{Engine, is_absent, is_unchanged};
use std::{io, sync::Arc, time::Duration};

/// What an administrator decides.
#[derive(Debug, Clone, Default)]
pub struct DockerSettings {
    /// Where the engine listens: `unix:///path`; none: `/var/run/docker.sock`.
    pub host: Option<String>,
    /// Image of sandboxes that name none; none: this host's programs, as in kind `process`.
    pub image: Option<String>,
    /// Beginnings of names of images that the engine may pull for whoever asks; `*`: of all. A pull takes the host's disk and
    /// connects to a host that the name chooses.
    pub pull: Vec<String>,
    /// Values of `networkMode` that may be asked for; `none` always may.
    pub networks: Vec<String>,
}

/// See the module.
#[derive(Debug)]
pub struct Docker {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    guests: Arc<Guests>,
    engine: Engine,
    settings: DockerSettings,
    /// One at a time makes or pulls images.
    images: tokio::sync::Mutex<()>,
}

impl Docker {
    /// Nothing is asked of the engine before a sandbox is.
    pub fn new(guests: Arc<Guests>, settings: DockerSettings) -> Self {
        let engine = Engine::new(settings.host.as_deref());
        Self { shared: Arc::new(Shared { guests, engine, settings, images: tokio::sync::Mutex::default() }) }
    }
}

impl Release for Arc<Shared> {
    async fn release(&self, id: &SandboxId) -> Result<(), BackendError> {
        self.end(id).await
    }
}

impl Shared {
    /// Removes the container, if it is ours and there, and then what it had here.
    async fn end(&self, id: &SandboxId) -> Result<(), BackendError> {
        let place = self.guests.place(id);
        let record = place.record();
        if record.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) && !place.path.exists() {
            return Ok(());
        }
        let docker = self.engine.connect().await?;
        let known = record.ok().map(|record| record.container).filter(|container| !container.is_empty());
        // Without a record the server died between the two steps; the name is the same.
        self.remove(&docker, &known.unwrap_or_else(|| name(id))).await?;
        let guests = self.guests.clone();
        aside(move || {
            let step = "remove the container's directory";
            let removed =
                place.remove().map_err(|error| BackendError::Failed { step: step.into(), message: error.to_string() });
            if guests.is_private() {
                guests.tidy();
            }
            removed
        })
        .await
    }
}

impl Shared {
    async fn ready(&self) -> Result<bollard::Docker, BackendError> {
        if !rustix::process::geteuid().is_root() {
            return Err(BackendError::Unsupported(
                "sandbox kind `docker` for an ordinary user: the server needs root".into(),
            ));
        }
        self.engine.connect().await
    }

    async fn create(self: &Arc<Self>, id: &SandboxId, spec: &SandboxSpec) -> Result<Conn, BackendError> {
        check(spec, &self.settings)?;
        let docker = self.ready().await?;
        let (image, binds) = self.image(&docker, spec).await?;
        let volumes = self.volumes(&docker, &image, spec).await?;
        let program = self.guests.program().await?;
        undo::whole(self, id, self.build(id, spec, &docker, body::Parts { image, binds, volumes, program })).await
    }

    async fn build(
        &self,
        id: &SandboxId,
        spec: &SandboxSpec,
        docker: &bollard::Docker,
        parts: body::Parts,
    ) -> Result<Conn, BackendError> {
        let place = self.guests.place(id);
        place.begin(Kind::Docker, "")?;
        let upper = self.guests.upper(id, spec).await?;
        place.furnish(&upper)?;
        place.add(parts.volumes.iter().enumerate().map(|(number, _)| body::volume(number)))?;
        let volumes = parts.volumes.clone();
        let body = body::container(id, spec, &place, &self.guests, parts)?;
        let options = bollard::query_parameters::CreateContainerOptions { name: Some(name(id)), ..Default::default() };
        let failed = |step: &'static str| move |error| self.engine.refused(step, error);
        let container = docker.create_container(Some(options), body).await.map_err(failed("make the container"))?.id;
        let record = |pid| {
            let step = "write the container's record".to_owned();
            let written = place.write(Kind::Docker, "", &container, pid);
            written.map_err(|error| BackendError::Failed { step, message: error.to_string() })
        };
        record(0)?;
        self.check_volumes(docker, &container, &volumes).await?;
        docker.start_container(&container, None).await.map_err(failed("start the container"))?;
        let state = docker.inspect_container(&container, None).await.map_err(failed("look at the container"))?.state;
        let pid = state.and_then(|state| state.pid).and_then(|pid| i32::try_from(pid).ok()).unwrap_or(0);
        if pid == 0 {
            return Err(BackendError::Unavailable {
                what: "the container's init ended at once".into(),
                hint: "is the image of this host's architecture?".into(),
            });
        }
        record(pid)?;
        place.connect(pid).await
    }

    /// Ends and removes a container that bears this node's label, and no other.
    async fn remove(&self, docker: &bollard::Docker, container: &str) -> Result<(), BackendError> {
        let failed = |error| self.engine.failed("remove the container", error);
        let found = match docker.inspect_container(container, None).await {
            Err(error) if is_absent(&error) => return Ok(()),
            found => found.map_err(failed)?,
        };
        let labels = found.config.and_then(|config| config.labels).unwrap_or_default();
        if labels.get(body::NODE) != Some(&self.guests.node()) {
            tracing::warn!(container, "a container that is not of this server is left alone");
            return Ok(());
        }
        let options = bollard::query_parameters::RemoveContainerOptions { force: true, v: true, ..Default::default() };
        match docker.remove_container(container, Some(options)).await {
            Err(error) if is_absent(&error) || is_unchanged(&error) => Ok(()),
            done => done.map_err(failed),
        }
    }

    /// Those whose init answers. What is left of others is removed meanwhile: nobody waits for an engine that hangs.
    fn held(self: &Arc<Self>) -> Result<Vec<Held>, BackendError> {
        let failed =
            |error: io::Error| BackendError::Failed { step: "read the records".into(), message: error.to_string() };
        let (mut held, mut dead) = (Vec::new(), Vec::new());
        for (id, record) in self.guests.records(Kind::Docker).map_err(failed)? {
            let place = self.guests.place(&id);
            match place.reconnect(&record) {
                Ok(conn) => {
                    let frozen = place.group(&record).and_then(|group| group.is_frozen().map_err(io::Error::other));
                    held.push(Held { id, conn, frozen: frozen.unwrap_or(false) });
                }
                Err(error) => {
                    tracing::warn!(sandbox = %id, %error, "removing a container whose init is not reached");
                    dead.push(id);
                }
            }
        }
        let shared = self.clone();
        tokio::spawn(async move {
            let mut pause = FIRST_PAUSE;
            loop {
                let mut left = Vec::new();
                for id in dead {
                    if let Err(error) = shared.end(&id).await {
                        tracing::error!(sandbox = %id, %error, "cannot remove a container yet");
                        left.push(id);
                    }
                }
                if left.is_empty() {
                    break;
                }
                // Its engine is away, as may be after the host came up.
                dead = left;
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(MOST_PAUSE);
            }
            if let Err(error) = shared.sweep().await {
                tracing::debug!(%error, "cannot look for containers that are left");
            }
            for guests in shared.guests.orphaned() {
                shared.bury(guests).await;
            }
            shared.guests.tidy();
        });
        Ok(held)
    }

    /// Removes containers of ours that no directory tells of. One that is being made has its directory already.
    async fn sweep(&self) -> Result<(), BackendError> {
        let docker = self.engine.connect().await?;
        let filters = [("label".to_owned(), vec![format!("{}={}", body::NODE, self.guests.node())])];
        let options = bollard::query_parameters::ListContainersOptions {
            all: true,
            filters: Some(filters.into()),
            ..Default::default()
        };
        let failed = |error| self.engine.failed("list the containers", error);
        for found in docker.list_containers(Some(options)).await.map_err(failed)? {
            let label = found.labels.as_ref().and_then(|labels| labels.get(body::SANDBOX));
            let known = label.is_some_and(|label| label.parse().is_ok_and(|id| self.guests.place(&id).path.exists()));
            if let Some(container) = found.id.filter(|_| !known) {
                self.remove(&docker, &container).await?;
            }
        }
        Ok(())
    }

    /// Removes what a `csb run` that was killed left.
    async fn bury(&self, guests: Arc<Guests>) {
        let other = Docker::new(guests, self.settings.clone()).shared;
        for (id, _) in other.guests.records(Kind::Docker).unwrap_or_default() {
            if let Err(error) = other.end(&id).await {
                tracing::warn!(sandbox = %id, %error, "cannot remove a container that `csb run` left");
            }
        }
        other.guests.tidy();
    }

    fn record(&self, id: &SandboxId) -> Result<RecordV1, WardenError> {
        self.guests.place(id).record().map_err(|error| refusal("find the container", &error).into())
    }
}

/// Between two tries to remove what an engine that was away still has.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const MOST_PAUSE: Duration = Duration::from_secs(60);

/// Between two looks at a container that is about to be seen to have ended, and how many.
const LOOK: Duration = Duration::from_millis(50);
const MOST_LOOKS: u32 = 60;

/// What an engine says of a container that ended.
fn ended(state: &bollard::models::ContainerState) -> String {
    let code = state.exit_code.unwrap_or_default();
    match (state.oom_killed, state.error.as_deref().unwrap_or_default()) {
        (Some(true), _) => format!("its container ended (exit code {code}): its memory ran out"),
        (_, "") if state.running == Some(true) => "its init was lost, while its container went on".into(),
        (_, "") => format!("its container ended (exit code {code})"),
        (_, error) => format!("its container ended (exit code {code}): {error}"),
    }
}

/// Of a container, for people and for a server that lost its record.
fn name(id: &SandboxId) -> String {
    format!("csb-{id}")
}

/// Refuses what the kind does not have.
fn check(spec: &SandboxSpec, settings: &DockerSettings) -> Result<(), BackendError> {
    if !spec.limits.io.is_none() {
        return Err(BackendError::Unsupported("limits of disk speed in sandbox kind `docker`".into()));
    }
    let KindOptions { image, network_mode, work_dir, .. } = &spec.options;
    if let Some(image) = image {
        image::check_name(image)?;
    }
    if let Some(network) = network_mode
        && network != "none"
        && !settings.networks.contains(network)
    {
        let allowed = settings.networks.iter().fold("`none`".to_owned(), |text, name| format!("{text}, `{name}`"));
        let what = format!("networkMode `{network}`: this server allows {allowed} (setting `docker.networks`)");
        return Err(BackendError::Unsupported(what));
    }
    work_dir.as_deref().map_or(Ok(()), crate::guests::check_work_dir)
}

fn warden(step: &str) -> impl Fn(BackendError) -> WardenError + '_ {
    move |error| {
        let hint = match &error {
            BackendError::Unavailable { hint, .. } => format!("; {hint}"),
            _ => String::new(),
        };
        WardenError::Failed(Failure { step: step.into(), message: format!("{error}{hint}"), errno: 0 })
    }
}

impl Keeper for Docker {
    fn release<'a>(&'a self, id: &'a SandboxId) -> Doing<'a, ()> {
        Box::pin(async move { self.shared.end(id).await.map_err(warden("release the container")) })
    }

    fn freeze<'a>(&'a self, id: &'a SandboxId, frozen: bool) -> Doing<'a, ()> {
        Box::pin(async move {
            let step = if frozen { "pause the container" } else { "resume the container" };
            let container = self.shared.record(id)?.container;
            let docker = self.shared.engine.connect().await.map_err(warden(step))?;
            let done = match frozen {
                true => docker.pause_container(&container).await,
                false => docker.unpause_container(&container).await,
            };
            match done {
                Err(error) if is_absent(&error) => {
                    Err(refusal(step, &io::Error::from_raw_os_error(libc::ENOENT)).into())
                }
                done => done.map_err(|error| self.shared.engine.failed(step, error)).map_err(warden(step)),
            }
        })
    }

    fn set_limits<'a>(&'a self, id: &'a SandboxId, limits: Limits) -> Doing<'a, ()> {
        Box::pin(async move {
            let step = "change the container's limits";
            if !limits.io.is_none() {
                return Err(refusal(step, &io::Error::from_raw_os_error(libc::ENOTSUP)).into());
            }
            let container = self.shared.record(id)?.container;
            let docker = self.shared.engine.connect().await.map_err(warden(step))?;
            match docker.update_container(&container, body::update(&limits)).await {
                Err(error) if is_absent(&error) => {
                    Err(refusal(step, &io::Error::from_raw_os_error(libc::ENOENT)).into())
                }
                // The kernel's answer, in the engine's words: more is in use than can be reclaimed.
                Err(error) if uses_more(&error) => {
                    Err(refusal(step, &io::Error::from_raw_os_error(libc::EBUSY)).into())
                }
                done => done.map_err(|error| self.shared.engine.failed(step, error)).map_err(warden(step)),
            }
        })
    }

    fn why_ended<'a>(&'a self, id: &'a SandboxId) -> Doing<'a, Option<String>> {
        Box::pin(async move {
            let container = self.shared.record(id)?.container;
            let docker = self.shared.engine.connect().await.map_err(warden("look at the container"))?;
            // We see the end of an init before its engine does.
            let mut looks = 0;
            loop {
                let state = match docker.inspect_container(&container, None).await {
                    Err(error) if is_absent(&error) => {
                        return Ok(Some("its container was removed, not by this server".into()));
                    }
                    found => found.map_err(|error| self.shared.engine.failed("look at the container", error)),
                };
                let state = state.map_err(warden("look at the container"))?.state.unwrap_or_default();
                looks += 1;
                if state.running != Some(true) || looks == MOST_LOOKS {
                    return Ok(Some(ended(&state)));
                }
                tokio::time::sleep(LOOK).await;
            }
        })
    }

    fn usage<'a>(&'a self, id: &'a SandboxId) -> Doing<'a, Usage> {
        Box::pin(async move {
            let record = self.shared.record(id)?;
            let usage = self.shared.guests.place(id).usage(&record);
            usage.map_err(|error| refusal("read the container's counters", &error).into())
        })
    }
}

impl Backend for Docker {
    fn kind(&self) -> Kind {
        Kind::Docker
    }

    fn ready(&self) -> Building<'_, ()> {
        Box::pin(async {
            let docker = self.shared.ready().await?;
            let answered = docker.ping().await;
            answered.map(drop).map_err(|error| self.shared.engine.failed("connect with the Docker Engine", error))
        })
    }

    fn create<'a>(&'a self, id: &'a SandboxId, spec: &'a SandboxSpec) -> Building<'a, Conn> {
        Box::pin(self.shared.create(id, spec))
    }

    fn held(&self) -> Building<'_, Vec<Held>> {
        Box::pin(async { self.shared.held() })
    }
}
