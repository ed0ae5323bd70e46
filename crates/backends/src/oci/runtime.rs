//! OCI runtimes as programs: which are there, and how they are called.

use crate::BackendError;
use csb_types::SandboxId;
use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use tokio::{io::AsyncWriteExt, process::Command};

/// In the order of preference.
const NAMES: [&str; 3] = ["runc", "crun", GVISOR];
/// gVisor's, which puts a kernel of its own between containers and the host's: no descriptor gets through.
pub(super) const GVISOR: &str = "runsc";
const PATIENCE: Duration = Duration::from_secs(60);

/// One of them.
#[derive(Debug, Clone)]
pub(super) struct Runtime {
    pub(super) name: String,
    program: PathBuf,
    /// Where it keeps what it knows of containers.
    state: PathBuf,
}

fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    let places = path.split(':').chain(["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"]);
    places.filter(|place| place.starts_with('/')).map(|place| Path::new(place).join(name)).find(|file| file.is_file())
}

impl Runtime {
    /// The one that is asked for, or the first that there is.
    pub(super) fn choose(asked: Option<&str>, state: &Path) -> Result<Self, BackendError> {
        if let Some(name) = asked
            && !NAMES.contains(&name)
        {
            let what =
                format!("runtime `{}`: it is one of {}", name.chars().take(64).collect::<String>(), NAMES.join(", "));
            return Err(BackendError::Unsupported(what));
        }
        let names: &[&str] = match &asked {
            Some(name) => std::slice::from_ref(name),
            None => &NAMES,
        };
        let found = names.iter().find_map(|name| Some(((*name).to_owned(), find(name)?)));
        let (name, program) = found.ok_or_else(|| BackendError::NotFound {
            what: format!("an OCI runtime ({})", names.join(", ")),
            hint: format!("install it on the server's host: `apt-get install {}`", names[0]),
        })?;
        Ok(Self { state: state.join(&name), name, program })
    }

    /// Those that have written down something of a container.
    pub(super) fn that_know(id: &SandboxId, state: &Path) -> Vec<Self> {
        let names = NAMES.iter().filter(|name| state.join(name).join(id.as_str()).exists());
        names.filter_map(|name| Self::choose(Some(name), state).ok()).collect()
    }

    /// Whether its containers are reached by a relay.
    pub(super) fn is_gvisor(&self) -> bool {
        self.name == GVISOR
    }

    /// Runs it; what it says on standard error is why it failed.
    pub(super) async fn run(&self, step: &str, words: &[&str], input: Option<&str>) -> Result<(), BackendError> {
        self.call(step, words, input).await.map(drop)
    }

    /// Runs it for what it says on standard output.
    pub(super) async fn ask(&self, step: &str, words: &[&str]) -> Result<String, BackendError> {
        let mut out = self.call(step, words, None).await?;
        let mut text = String::new();
        let read = std::io::Seek::rewind(&mut out).and_then(|()| std::io::Read::read_to_string(&mut out, &mut text));
        read.map(|_| text).map_err(|error| BackendError::Failed { step: step.into(), message: error.to_string() })
    }

    async fn call(&self, step: &str, words: &[&str], input: Option<&str>) -> Result<std::fs::File, BackendError> {
        let failed = |message: String| BackendError::Failed { step: step.into(), message };
        let mut command = Command::new(&self.program);
        command.arg("--root").arg(&self.state);
        if self.is_gvisor() {
            // Its socket for servers; no network, and writes where the sandbox's limit counts them.
            command.args(["--host-uds=create", "--network=none", "--overlay2=none"]);
        }
        command.args(words).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").kill_on_drop(true);
        command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
        // The container inherits its streams: a file, not a pipe whose end somebody would wait for.
        let file = || tempfile::tempfile().map_err(|error| failed(error.to_string()));
        let (out, mut said) = (file()?, file()?);
        command.stdout(out.try_clone().map_err(|error| failed(error.to_string()))?);
        command.stderr(said.try_clone().map_err(|error| failed(error.to_string()))?);
        let mut child = command.spawn().map_err(|error| failed(format!("`{}`: {error}", self.program.display())))?;
        if let (Some(input), Some(mut stdin)) = (input, child.stdin.take()) {
            stdin.write_all(input.as_bytes()).await.map_err(|error| failed(error.to_string()))?;
        }
        let status = tokio::time::timeout(PATIENCE, child.wait()).await;
        let status = status.map_err(|_| failed(format!("`{}` does not end", self.name)))?;
        if status.map_err(|error| failed(error.to_string()))?.success() {
            return Ok(out);
        }
        let mut words = String::new();
        let read = std::io::Seek::rewind(&mut said).and_then(|()| std::io::Read::read_to_string(&mut said, &mut words));
        let words = read.map(|_| words.trim().lines().last().unwrap_or("it failed").to_owned());
        Err(failed(format!("{}: {}", self.name, words.unwrap_or_default())))
    }
}
