//! Processes of ours that are started in a pod through the API server (`pods/exec`): the bridge to its init, as a descriptor, and
//! the one that tells what the sandbox uses.

use super::{
    body::{self, CONTAINER},
    cluster::{chain, is_absent},
    state::State,
};
use csb_types::Usage;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    api::{AttachParams, AttachedProcess},
};
use std::{fmt, io, os::fd::OwnedFd, pin::Pin, sync::mpsc as blocking, time::Duration};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
    sync::{mpsc, watch},
};

/// Bytes that wait on their way, each direction.
const BUFFER: usize = 256 * 1024;
/// For a process to be started, and for one that is there to answer.
const PATIENCE: Duration = Duration::from_secs(30);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const MOST_PAUSE: Duration = Duration::from_secs(5);
/// Longest answer of the process that counts.
const MOST_ANSWER: usize = 4096;

async fn start(pods: &Api<Pod>, pod: &str, command: Vec<String>) -> Result<AttachedProcess, kube::Error> {
    let params = AttachParams::default()
        .container(CONTAINER)
        .stdin(true)
        .stdout(true)
        .stderr(false)
        .max_stdin_buf_size(BUFFER)
        .max_stdout_buf_size(BUFFER);
    match tokio::time::timeout(PATIENCE, pods.exec(pod, command, &params)).await {
        Ok(started) => started,
        Err(elapsed) => Err(kube::Error::Service(elapsed.into())),
    }
}

/// Whoever asks for a stream, and waits for it in a thread of its own.
type Request = blocking::Sender<io::Result<OwnedFd>>;

fn gone(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, why.to_owned())
}

/// Gives streams to a pod's init, one after another, until the pod is gone. Called where there is a runtime.
pub(super) fn dial(pods: Api<Pod>, pod: String, state: watch::Receiver<State>) -> csb_relay::Dial {
    let (requests, waiting) = mpsc::unbounded_channel::<Request>();
    tokio::spawn(serve(pods, pod, state, waiting));
    Box::new(move || {
        let (reply, answer) = blocking::channel();
        requests.send(reply).map_err(|_| gone("the pod is gone"))?;
        answer.recv().unwrap_or_else(|_| Err(gone("the server ends")))
    })
}

async fn serve(
    pods: Api<Pod>,
    pod: String,
    mut state: watch::Receiver<State>,
    mut waiting: mpsc::UnboundedReceiver<Request>,
) {
    let lasting = state.clone();
    // Whoever has taken a pod over may end each stream at once: the relay waits longer each time before it asks for another.
    while let Some(reply) = waiting.recv().await {
        let made = tokio::select! {
            made = stream(&pods, &pod, &lasting) => made,
            why = ended(&mut state) => Err(gone(&why)),
        };
        let last = made.is_err();
        if reply.send(made).is_err() || last {
            return;
        }
    }
}

/// Why it is over, once it is.
pub(super) async fn ended(state: &mut watch::Receiver<State>) -> String {
    match state.wait_for(|state| matches!(state, State::Gone(_) | State::Refused(_))).await.as_deref() {
        Ok(State::Gone(why)) => why.clone(),
        Ok(State::Refused(error)) => error.to_string(),
        _ => "the server let it go".into(),
    }
}

/// Tries until there is a stream or no pod.
async fn stream(pods: &Api<Pod>, pod: &str, state: &watch::Receiver<State>) -> io::Result<OwnedFd> {
    let mut pause = FIRST_PAUSE;
    loop {
        match start(pods, pod, body::bridge()).await {
            Ok(attached) => return carry(attached, state.clone()),
            Err(error) if is_absent(&error) => return Err(gone("there is no such pod")),
            Err(error) => tracing::debug!(pod, error = chain(&error), "cannot reach a pod's init"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(MOST_PAUSE);
    }
}

/// A descriptor whose bytes go to a process in a pod, and come from there.
fn carry(mut attached: AttachedProcess, mut state: watch::Receiver<State>) -> io::Result<OwnedFd> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    let (mut from, mut to) = UnixStream::from_std(ours)?.into_split();
    let (Some(mut stdin), Some(mut stdout), Some(lost)) = (attached.stdin(), attached.stdout(), attached.take_status())
    else {
        return Err(io::Error::other("the process has no streams"));
    };
    tokio::spawn(async move {
        let up = async {
            let mut buffer = vec![0; BUFFER];
            loop {
                let length = from.read(&mut buffer).await?;
                if length == 0 {
                    return Ok::<(), io::Error>(());
                }
                stdin.write_all(&buffer[..length]).await?;
                stdin.flush().await?;
            }
        };
        let down = tokio::io::copy(&mut stdout, &mut to);
        // When one direction ends both do: there is no half of an init. A node that is lost closes nothing.
        tokio::select! {
            _ = up => {}
            _ = down => {}
            // A connection that breaks ends neither of its streams.
            _ = lost => {}
            _ = ended(&mut state) => {}
        }
        drop(attached);
    });
    Ok(theirs.into())
}

/// The process in a pod that tells what the sandbox uses.
pub(super) struct Counters {
    attached: AttachedProcess,
    /// Ready once the connection is lost.
    lost: Pin<Box<dyn Future<Output = ()> + Send>>,
    stdin: Box<dyn tokio::io::AsyncWrite + Send + Unpin>,
    stdout: BufReader<Box<dyn tokio::io::AsyncRead + Send + Unpin>>,
}

impl fmt::Debug for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Counters").finish_non_exhaustive()
    }
}

impl Counters {
    pub(super) async fn start(pods: &Api<Pod>, pod: &str) -> io::Result<Self> {
        let started = start(pods, pod, body::counters()).await;
        let mut attached = started.map_err(|error| match is_absent(&error) {
            true => io::Error::from_raw_os_error(libc::ENOENT),
            false => io::Error::other(chain(&error)),
        })?;
        let (Some(stdin), Some(stdout), Some(lost)) = (attached.stdin(), attached.stdout(), attached.take_status())
        else {
            return Err(io::Error::other("the process has no streams"));
        };
        let lost = Box::pin(async { drop(lost.await) });
        Ok(Self { attached, lost, stdin: Box::new(stdin), stdout: BufReader::new(Box::new(stdout)) })
    }

    /// What the sandbox uses now. After an error this is of no use any more.
    pub(super) async fn read(&mut self) -> io::Result<Usage> {
        let answer = async {
            self.stdin.write_all(b"\n").await?;
            self.stdin.flush().await?;
            let mut line = Vec::new();
            // A tenant that has taken the container over may say anything, but not fill our memory.
            (&mut self.stdout).take(MOST_ANSWER as u64).read_until(b'\n', &mut line).await?;
            serde_json::from_slice(&line).map_err(io::Error::from)
        };
        tokio::select! {
            usage = answer => usage,
            () = &mut self.lost => Err(io::ErrorKind::ConnectionAborted.into()),
            () = tokio::time::sleep(PATIENCE) => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

impl Drop for Counters {
    fn drop(&mut self) {
        self.attached.abort();
    }
}
