//! The way to a Docker Engine, and its refusals in our words.

use crate::BackendError;
use bollard::{API_DEFAULT_VERSION, errors::Error};
use std::sync::{Mutex, PoisonError};

const DEFAULT: &str = "unix:///var/run/docker.sock";
/// A pull is another matter: it sends news all the time.
const PATIENCE_SECONDS: u64 = 120;

/// See the module.
#[derive(Debug)]
pub(super) struct Engine {
    host: String,
    /// Speaks the version that both know.
    known: Mutex<Option<bollard::Docker>>,
}

impl Engine {
    pub(super) fn new(host: Option<&str>) -> Self {
        Self { host: host.unwrap_or(DEFAULT).to_owned(), known: Mutex::default() }
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Option<bollard::Docker>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A client. Each of its requests is a connection of its own, so an engine that was restarted is reached again.
    pub(super) async fn connect(&self) -> Result<bollard::Docker, BackendError> {
        if let Some(docker) = &*self.known() {
            return Ok(docker.clone());
        }
        let Some(path) = self.host.strip_prefix("unix://") else {
            let what = format!(
                "a Docker Engine at `{}`: descriptors cross only to a host of its own, so it is to be `unix:///path`",
                self.host
            );
            return Err(BackendError::Unsupported(what));
        };
        let docker = bollard::Docker::connect_with_unix(path, PATIENCE_SECONDS, API_DEFAULT_VERSION)
            .map_err(|error| self.failed("connect with the Docker Engine", error))?;
        let docker =
            docker.negotiate_version().await.map_err(|error| self.failed("connect with the Docker Engine", error))?;
        *self.known() = Some(docker.clone());
        Ok(docker)
    }

    /// What it means that no container is made of a request.
    pub(super) fn refused(&self, step: &str, error: Error) -> BackendError {
        match self.failed(step, error) {
            BackendError::Failed { step, message } => BackendError::Unavailable {
                what: format!("the Docker Engine did not {step}: {message}"),
                hint: "its log says more; `docker run` of the same image may fail in the same way".into(),
            },
            error => error,
        }
    }

    /// What a failed request means.
    pub(super) fn failed(&self, step: &str, error: Error) -> BackendError {
        // It may be another version by the time it is asked again.
        *self.known() = None;
        match error {
            Error::DockerResponseServerError { message, .. } => BackendError::Failed { step: step.into(), message },
            Error::JsonDataError { .. } | Error::APIVersionParseError {} => {
                BackendError::Failed { step: step.into(), message: error.to_string() }
            }
            error => BackendError::Unavailable {
                what: format!("the Docker Engine at `{}` does not answer: {}", self.host, chain(&error)),
                hint: "start it (`systemctl start docker`), or say where it is: setting `docker.host`, DOCKER_HOST"
                    .into(),
            },
        }
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

fn status(error: &Error) -> Option<u16> {
    match error {
        Error::DockerResponseServerError { status_code, .. } => Some(*status_code),
        _ => None,
    }
}

/// There is no such thing.
pub(super) fn is_absent(error: &Error) -> bool {
    status(error) == Some(404)
}

/// It is so already, or somebody else is at it.
pub(super) fn is_unchanged(error: &Error) -> bool {
    status(error) == Some(409)
}
