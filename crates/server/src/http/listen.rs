//! Owns connections: accepts them, bounds their number and the time their heads take, ends them gracefully.

use super::extract::Peer;
use crate::app::App;
use axum::{Router, body::Body};
use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{io, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tower::ServiceExt as _;

/// A listening socket.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
}

impl Listener {
    /// Binds an address.
    pub async fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = TcpListener::bind(address).await?;
        let address = socket.local_addr()?;
        Ok(Self { socket, address })
    }

    /// Where it listens; the real port when 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// How many connections the process's descriptors allow, leaving as many for sandboxes and files.
fn most_connections(configured: u32) -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
    (u64::from(configured).min(limit / 2)).max(1) as usize
}

/// Serves until the app stops, then lets requests under way end.
pub async fn serve(listeners: Vec<Listener>, router: Router, app: Arc<App>) {
    let room = Arc::new(Semaphore::new(most_connections(app.config.connections)));
    let connections = tokio_util::task::TaskTracker::new();
    let accepting: Vec<_> = listeners
        .into_iter()
        .map(|listener| tokio::spawn(accept(listener, router.clone(), app.clone(), room.clone(), connections.clone())))
        .collect();
    for task in accepting {
        if let Err(error) = task.await {
            tracing::error!(%error, "a listener ended early");
        }
    }
    connections.close();
    if tokio::time::timeout(app.config.shutdown_grace, connections.wait()).await.is_err() {
        tracing::warn!(open = connections.len(), "connections were closed before their requests had ended");
    }
}

async fn accept(
    listener: Listener,
    router: Router,
    app: Arc<App>,
    room: Arc<Semaphore>,
    connections: tokio_util::task::TaskTracker,
) {
    loop {
        // Room first: what cannot be served waits in the kernel's backlog and costs no descriptor.
        let permit = tokio::select! {
            () = app.stopping.cancelled() => return,
            permit = room.clone().acquire_owned() => permit,
        };
        let Ok(permit) = permit else { return };
        let accepted = tokio::select! {
            () = app.stopping.cancelled() => return,
            accepted = listener.socket.accept() => accepted,
        };
        let (stream, remote) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors or memory: accepting again at once would only spin.
                tracing::warn!(%error, "a connection was not accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let peer = Peer { remote, local: stream.local_addr().unwrap_or(listener.address) };
        let (router, app) = (router.clone(), app.clone());
        connections.spawn(async move {
            app.metrics.connections(1);
            connection(stream, peer, router, &app).await;
            app.metrics.connections(-1);
            drop(permit);
        });
    }
}

async fn connection(stream: TcpStream, peer: Peer, router: Router, app: &App) {
    // Output of an exec comes in small pieces; Nagle's algorithm would hold each back for the ACK of the one before.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY");
    }
    let service = service_fn(move |request: Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(peer);
        router.clone().oneshot(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(app.config.header_timeout)
        .max_buf_size(256 * 1024)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = app.stopping.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(remote = %peer.remote, error = crate::app::AppError::chain(&error), "connection");
    }
}
