//! The connection to the warden: requests with their answers, and the news that a sandbox is gone.
//!
//! Knows nothing of what sandboxes are for; a lost connection is reported, what to do about it is the node's business.

use crate::port::Port;
use csb_sys::{packet::Conn, process::PidFd};
use csb_types::{Limits, SandboxId, Usage};
use csb_wire::{Failure, FromWarden, Jail, JailPlan, Mode, ToWarden, VERSION};
use std::{
    collections::HashMap,
    io,
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::sync::{Notify, mpsc, oneshot};

/// The warden does little; one that takes this long hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// Why the warden did not do something.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WardenError {
    /// It tried and failed; nothing of the request is left behind.
    #[error(transparent)]
    Failed(#[from] Failure),
    /// There is no connection, or it ended before the answer.
    #[error("the connection to the warden is lost")]
    Lost,
    /// No answer came in time.
    #[error("the warden does not answer")]
    Silent,
}

/// Why no conversation with the warden came about.
#[derive(Debug, thiserror::Error)]
pub enum HelloError {
    /// The connection broke.
    #[error("the warden does not talk")]
    Io(#[from] io::Error),
    /// It speaks another version.
    #[error("the warden has version {theirs} of the protocol, this program {VERSION}")]
    Version {
        /// The warden's.
        theirs: u32,
    },
}

/// A connection that works, and what the warden held when it was made.
#[derive(Debug)]
pub struct Connected {
    /// The connection.
    pub client: Arc<Client>,
    /// Living sandboxes with the control sockets of their inits.
    pub held: Vec<(Jail, Conn)>,
    /// Sandboxes that ended, asked for or not; closed when the connection ends.
    pub gone: mpsc::UnboundedReceiver<(SandboxId, i32)>,
}

type Answer = Result<(FromWarden, Vec<OwnedFd>), Failure>;

/// One connection to a warden.
#[derive(Debug)]
pub struct Client {
    port: Port,
    pid: i32,
    mode: Mode,
    seq: AtomicU64,
    /// None once the connection has ended.
    waiting: Mutex<Option<HashMap<u64, oneshot::Sender<Answer>>>>,
    stop: Notify,
}

fn malformed(text: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

impl Client {
    /// Says hello and hears what the warden holds.
    pub async fn connect(conn: Conn) -> Result<Connected, HelloError> {
        let port = Port::new(conn)?;
        port.send(&csb_wire::encode(&ToWarden::Hello { version: VERSION }), &[]).await?;
        let next = async || -> io::Result<(FromWarden, Vec<OwnedFd>)> {
            let (bytes, fds) = port.recv().await?.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
            let frame = csb_wire::decode(&bytes).map_err(|_| malformed("a frame that is none of ours"))?;
            Ok((frame, fds))
        };
        let (gone_sender, gone) = mpsc::unbounded_channel();
        let (version, pid, mode) = loop {
            match next().await?.0 {
                FromWarden::Welcome { version, pid, mode, .. } => break (version, pid, mode),
                // News of a sandbox that ended between our connecting and our hello.
                FromWarden::Gone { .. } => {}
                _ => return Err(malformed("no welcome").into()),
            }
        };
        if version != VERSION {
            return Err(HelloError::Version { theirs: version });
        }
        let mut jails = Vec::new();
        loop {
            match next().await? {
                (FromWarden::HeldEnd, _) => break,
                (FromWarden::Held(jail), mut fds) if fds.len() == 1 => jails.push((jail, Conn::from(fds.remove(0)))),
                (FromWarden::Gone { id, status }, _) => {
                    let _ = gone_sender.send((id, status));
                }
                _ => return Err(malformed("not a sandbox the warden holds").into()),
            }
        }
        let waiting = Mutex::new(Some(HashMap::new()));
        let client = Arc::new(Client { port, pid, mode, seq: AtomicU64::new(1), waiting, stop: Notify::new() });
        tokio::spawn(client.clone().read(gone_sender));
        Ok(Connected { client, held: jails, gone })
    }

    fn waiting(&self) -> MutexGuard<'_, Option<HashMap<u64, oneshot::Sender<Answer>>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn read(self: Arc<Self>, gone: mpsc::UnboundedSender<(SandboxId, i32)>) {
        loop {
            let packet = tokio::select! {
                packet = self.port.recv() => packet,
                () = self.stop.notified() => break,
            };
            let (bytes, fds) = match packet {
                Ok(Some(packet)) => packet,
                Ok(None) => break,
                Err(error) => {
                    tracing::error!(%error, "the connection to the warden failed");
                    break;
                }
            };
            let frame: FromWarden = match csb_wire::decode(&bytes) {
                Ok(frame) => frame,
                Err(error) => {
                    tracing::error!(%error, "the warden sent a frame that is none of ours");
                    break;
                }
            };
            let (seq, answer) = match frame {
                FromWarden::Gone { id, status } => {
                    let _ = gone.send((id, status));
                    continue;
                }
                FromWarden::Failed { seq, failure } => (seq, Err(failure)),
                FromWarden::Created { seq, .. } | FromWarden::Done { seq } | FromWarden::Usage { seq, .. } => {
                    (seq, Ok((frame, fds)))
                }
                FromWarden::Welcome { .. } | FromWarden::Held(_) | FromWarden::HeldEnd => continue,
            };
            let waiter = self.waiting().as_mut().and_then(|waiting| waiting.remove(&seq));
            let unheard = match waiter {
                Some(waiter) => waiter.send(answer).err(),
                None => Some(answer),
            };
            // Whoever asked for this sandbox gave up: nobody would ever release it.
            if let Some(Ok((FromWarden::Created { jail, .. }, _))) = unheard {
                let client = self.clone();
                tokio::spawn(async move {
                    if let Err(error) = client.release(&jail.id).await {
                        tracing::error!(sandbox = %jail.id, %error, "cannot release an abandoned sandbox");
                    }
                });
            }
        }
        *self.waiting() = None;
    }

    /// Ends the connection; the warden and its sandboxes live on.
    pub fn disconnect(&self) {
        self.stop.notify_one();
        *self.waiting() = None;
    }

    /// The warden's pid.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// What it can enforce.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    async fn ask(&self, request: impl FnOnce(u64) -> ToWarden) -> Result<(FromWarden, Vec<OwnedFd>), WardenError> {
        let seq = self.seq.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        self.waiting().as_mut().ok_or(WardenError::Lost)?.insert(seq, sender);
        let asked = async {
            self.port.send(&csb_wire::encode(&request(seq)), &[]).await.map_err(|_| WardenError::Lost)?;
            receiver.await.map_err(|_| WardenError::Lost)?.map_err(WardenError::Failed)
        };
        let answer = tokio::time::timeout(PATIENCE, asked).await.unwrap_or(Err(WardenError::Silent));
        if answer.is_err()
            && let Some(waiting) = &mut *self.waiting()
        {
            waiting.remove(&seq);
        }
        answer
    }

    async fn done(&self, request: impl FnOnce(u64) -> ToWarden) -> Result<(), WardenError> {
        self.ask(request).await.map(drop)
    }

    /// Builds a sandbox. Its init still has to say that it is ready.
    pub async fn create(&self, plan: JailPlan) -> Result<(Jail, Conn), WardenError> {
        match self.ask(|seq| ToWarden::Create { seq, plan: Box::new(plan) }).await? {
            (FromWarden::Created { jail, .. }, mut fds) if fds.len() == 1 => Ok((jail, Conn::from(fds.remove(0)))),
            _ => Err(WardenError::Lost),
        }
    }

    /// Ends a sandbox; nothing of it is left then.
    pub async fn release(&self, id: &SandboxId) -> Result<(), WardenError> {
        self.done(|seq| ToWarden::Release { seq, id: id.clone() }).await
    }

    /// Freezes or thaws a sandbox.
    pub async fn freeze(&self, id: &SandboxId, frozen: bool) -> Result<(), WardenError> {
        self.done(|seq| ToWarden::Freeze { seq, id: id.clone(), frozen }).await
    }

    /// Changes memory, CPU and pids limits.
    pub async fn set_limits(&self, id: &SandboxId, limits: Limits) -> Result<(), WardenError> {
        self.done(|seq| ToWarden::SetLimits { seq, id: id.clone(), limits }).await
    }

    /// Reads counters.
    pub async fn usage(&self, id: &SandboxId) -> Result<Usage, WardenError> {
        match self.ask(|seq| ToWarden::Usage { seq, id: id.clone() }).await? {
            (FromWarden::Usage { usage, .. }, _) => Ok(usage),
            _ => Err(WardenError::Lost),
        }
    }

    /// Ends every sandbox and the warden, and waits until nothing of it is open any more: another one may be started at once.
    pub async fn stop(&self) -> Result<(), WardenError> {
        // Opened while it lives, so that the pid is its own.
        let warden = PidFd::open(self.pid).ok();
        self.done(|seq| ToWarden::Stop { seq }).await?;
        if let Some(warden) = warden {
            let _ = tokio::task::spawn_blocking(move || warden.wait(PATIENCE)).await;
        }
        Ok(())
    }
}

/// The way to whichever warden is at work now.
#[derive(Debug, Default)]
pub struct Link(RwLock<Option<Arc<Client>>>);

impl Link {
    /// The connection now.
    pub fn client(&self) -> Result<Arc<Client>, WardenError> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone().ok_or(WardenError::Lost)
    }

    /// Replaces the connection.
    pub fn set(&self, client: Option<Arc<Client>>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = client;
    }
}
