//! Owns what a node refuses before anything of a sandbox is made: kinds and limits that its host cannot give, and one more
//! than there is room for. Knows nothing of what a user may have.

use crate::{CreateError, Node, hardened, node::Inner};
use csb_backends::Backend;
use csb_engine::{Need, scarce};
use csb_types::{Kind, Limits, SandboxSpec};
use std::{fs::File, sync::Arc};

/// More processes than this may be more than a host has.
const MANY_PIDS: u32 = 8192;

impl Node {
    /// What can be said of a spec without building it.
    pub(crate) fn check(&self, spec: &SandboxSpec) -> Result<(), CreateError> {
        spec.check()?;
        self.check_limits(&spec.limits)?;
        // Of what was asked for, and of what builds it.
        self.check_kind(spec.kind)?;
        self.check_kind(spec.built_as())
    }

    /// Refuses limits that this host cannot give to a single sandbox.
    pub fn check_limits(&self, limits: &Limits) -> Result<(), CreateError> {
        // Read only for those who ask for much: everybody else fits on any host.
        if limits.pids > MANY_PIDS
            && let Some(most) = csb_sys::process::pids_for_sandboxes()
            && limits.pids > most
        {
            let what = format!("{} processes: this host has room for {most} of all sandboxes", limits.pids);
            return Err(CreateError::Unsupported { what: format!("{what} (kernel.pid_max, kernel.threads-max)") });
        }
        Ok(())
    }

    /// Refuses a kind that this host lacks what is needed for.
    pub fn check_kind(&self, kind: Kind) -> Result<(), CreateError> {
        let missing =
            |why: &str| Err(CreateError::Unsupported { what: format!("sandbox kind `{}`: {why}", kind.name()) });
        match kind {
            Kind::Process => Ok(()),
            Kind::Hardened => hardened::check(self.warden().mode),
            Kind::Vfs if self.inner.memory.is_none() => missing("this host has no /dev/shm in memory"),
            Kind::Vfs => Ok(()),
            Kind::Local => self.inner.locals().map(drop),
            Kind::Docker | Kind::Oci | Kind::Microvm | Kind::K8s if self.inner.backend(kind).is_none() => {
                missing("this server is not set up for it")
            }
            Kind::Docker | Kind::Oci | Kind::Microvm | Kind::K8s => Ok(()),
            Kind::Remote => missing("it is another server's"),
        }
    }

    /// As `check_kind`, and asks what builds such sandboxes whether it is there.
    pub async fn find_kind(&self, kind: Kind) -> Result<(), CreateError> {
        self.check_kind(kind)?;
        match self.inner.backend(kind) {
            Some(backend) => Ok(backend.ready().await?),
            None => Ok(()),
        }
    }

    /// What whoever chooses a kind should know of this host, as far as it was found out.
    pub fn note(&self, kind: Kind) -> Option<String> {
        self.inner.backend(kind)?.note()
    }
}

impl Inner {
    /// What builds sandboxes of a kind that the warden does not.
    pub(crate) fn backend(&self, kind: Kind) -> Option<&Arc<dyn Backend>> {
        self.backends.iter().find(|backend| backend.kind() == kind)
    }

    /// Whether the server, and its host, can hold one more.
    pub(crate) fn has_room(&self) -> Result<(), CreateError> {
        self.memory_watch.admit()?;
        if File::open("/dev/null").map_or(true, |probe| scarce(probe, Need::Sandbox)) {
            let hint = "raise `ulimit -n` for the server, or release sandboxes".into();
            return Err(CreateError::Capacity { limit: "open descriptors of the server".into(), hint });
        }
        Ok(())
    }
}
