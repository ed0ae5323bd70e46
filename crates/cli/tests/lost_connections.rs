//! The client library against a real server through a wire that breaks. Needs root.

mod support;

use csb_client::{Client, Error, Event, shell};
use csb_types::{PtySize, Stream};
use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};
use support::Server;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// Passes bytes on; breaks each connection when so many bytes have come back over it.
struct Wire {
    url: String,
    /// Bytes of answers that each connection lives for.
    budget: Arc<AtomicU64>,
    /// So many next connections bring no answer at all.
    dead: Arc<AtomicUsize>,
    connections: Arc<AtomicUsize>,
}

impl Wire {
    async fn to(server: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let target = server.trim_start_matches("http://").to_owned();
        let (budget, dead, connections) =
            (Arc::new(AtomicU64::new(u64::MAX)), Arc::<AtomicUsize>::default(), Arc::default());
        let wire = Self { url, budget, dead, connections };
        let (limit, dead, count) = (wire.budget.clone(), wire.dead.clone(), wire.connections.clone());
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                let far = TcpStream::connect(&target).await.unwrap();
                let is_dead = dead.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok();
                let limit = if is_dead { Arc::default() } else { limit.clone() };
                tokio::spawn(carry(near, far, limit));
            }
        });
        wire
    }
}

async fn carry(near: TcpStream, far: TcpStream, budget: Arc<AtomicU64>) {
    let (mut near_read, mut near_write) = near.into_split();
    let (mut far_read, mut far_write) = far.into_split();
    let there = async {
        let _ = tokio::io::copy(&mut near_read, &mut far_write).await;
        // A half-closed request is not the end of the answer.
        std::future::pending::<()>().await;
    };
    let back = async {
        let mut buffer = vec![0; 4096];
        let mut passed = 0;
        loop {
            let count = match far_read.read(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(count) => count as u64,
            };
            let allowed = count.min(budget.load(Ordering::SeqCst).saturating_sub(passed));
            if near_write.write_all(&buffer[..allowed as usize]).await.is_err() || allowed < count {
                return;
            }
            passed += allowed;
        }
    };
    // Both ways are dropped at once, in the middle of whatever was under way.
    tokio::select! {
        () = there => {}
        () = back => {}
    }
}

async fn clients(server: &Server) -> (Wire, Client, Client) {
    let direct = Client::builder(server.url()).build().unwrap();
    let token = direct.token(&Default::default()).await.unwrap().access_token;
    let wire = Wire::to(server.url()).await;
    let through = Client::builder(&wire.url).token(token.clone()).build().unwrap();
    (wire, through, Client::builder(server.url()).token(token).build().unwrap())
}

const LINES: &str = "i=0; while [ $i -lt 20000 ]; do echo \"line $i of out\"; [ $((i % 100)) = 0 ] && echo \"line $i of err\" >&2; i=$((i + 1)); done";

fn expected() -> (String, String) {
    let out = (0..20_000).map(|i| format!("line {i} of out\n")).collect();
    let err = (0..20_000).step_by(100).map(|i| format!("line {i} of err\n")).collect();
    (out, err)
}

#[tokio::test]
async fn a_stream_over_a_breaking_wire_is_whole() {
    let server = Server::dev();
    let (wire, through, direct) = clients(&server).await;
    let sandbox = direct.create_sandbox(&Default::default()).await.unwrap();
    let exec = sandbox.start(&shell(LINES)).await.unwrap();
    let exec = through.sandbox(sandbox.id()).exec(exec.id());
    // More than one event: a wire that never lets one through lets nothing through.
    wire.budget.store(90_000, Ordering::SeqCst);

    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut stream = exec.output(0);
    while let Some(chunk) = stream.next().await.unwrap() {
        let text = if chunk.stream == Stream::Stderr { &mut err } else { &mut out };
        text.extend_from_slice(&chunk.bytes);
    }
    let (expected_out, expected_err) = expected();
    assert!(out == expected_out.as_bytes(), "{} bytes of {}", out.len(), expected_out.len());
    assert!(err == expected_err.as_bytes(), "{} bytes of {}", err.len(), expected_err.len());
    assert_eq!(stream.end().and_then(|end| end.exit_code), Some(0));
    assert!(wire.connections.load(Ordering::SeqCst) > 3, "the wire did break");
}

#[tokio::test]
async fn a_terminal_over_a_breaking_wire_is_whole() {
    let server = Server::dev();
    let (wire, through, direct) = clients(&server).await;
    let sandbox = direct.create_sandbox(&Default::default()).await.unwrap();
    let size = PtySize { cols: 80, rows: 24 };
    let request = csb_client::api::ExecRequest {
        pty: Some(csb_client::api::PtySizeRequest { cols: size.cols, rows: size.rows }),
        ..shell(format!("read go; {}", LINES.replace(">&2", "")))
    };
    let exec = sandbox.start(&request).await.unwrap();
    exec.write_stdin("go\n", false).await.unwrap();
    // More than one frame: a wire that never lets one through lets nothing through.
    wire.budget.store(90_000, Ordering::SeqCst);
    let mut link = through.sandbox(sandbox.id()).exec(exec.id()).attach(0).await.unwrap();
    let mut seen = Vec::new();
    let end = loop {
        match link.next().await.unwrap() {
            Event::Output(chunk) => seen.extend_from_slice(&chunk.bytes),
            Event::End(end) => break end,
        }
    };
    let seen = String::from_utf8(seen).unwrap();
    let lines = seen.lines().filter(|line| line.ends_with("of out")).count();
    assert_eq!((lines, end.exit_code), (20_000, Some(0)));
    assert!(wire.connections.load(Ordering::SeqCst) > 3, "the wire did break");
}

#[tokio::test]
async fn a_command_whose_answer_is_lost_runs_once_and_the_caller_is_told() {
    let server = Server::dev();
    let (wire, through, direct) = clients(&server).await;
    let sandbox = direct.create_sandbox(&Default::default()).await.unwrap();
    wire.budget.store(0, Ordering::SeqCst);
    for i in 0..5 {
        let far = through.sandbox(sandbox.id());
        let request = shell(format!("echo {i} >> /workspace/runs"));
        let failed = match i % 2 {
            0 => far.run(&request).await.map(drop),
            _ => far.stream(&request).await.map(drop),
        };
        assert!(matches!(failed, Err(Error::Lost { .. })), "{failed:?}");
    }
    let runs = sandbox.run(&shell("sleep 0.5; sort /workspace/runs")).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&runs.stdout), "0\n1\n2\n3\n4\n");
}

#[tokio::test]
async fn a_sandbox_whose_answer_is_lost_is_not_made_twice() {
    let server = Server::dev();
    let (wire, through, direct) = clients(&server).await;
    wire.dead.store(2, Ordering::SeqCst);
    let made = through.create_sandbox(&Default::default()).await.unwrap();
    let all = direct.all_sandboxes(None).await.unwrap();
    assert_eq!(all.iter().map(|s| s.sandbox_id.as_str()).collect::<Vec<_>>(), [made.id()]);
    assert!(wire.connections.load(Ordering::SeqCst) >= 3, "two answers were lost");
}

#[tokio::test]
async fn a_stream_goes_on_when_the_server_was_killed_and_started_again() {
    let mut server = Server::dev();
    let (_wire, _through, direct) = clients(&server).await;
    let sandbox = direct.create_sandbox(&Default::default()).await.unwrap();
    let script = "echo before; while [ ! -e /tmp/go ]; do sleep 0.02; done; echo after";
    let exec = sandbox.start(&shell(script)).await.unwrap();
    let mut stream = exec.output(0);
    assert_eq!(stream.next().await.unwrap().unwrap().bytes, "before\n");
    let reading = tokio::spawn(async move {
        let mut rest = Vec::new();
        while let Some(chunk) = stream.next().await? {
            rest.extend_from_slice(&chunk.bytes);
        }
        Ok::<_, Error>((rest, stream.end().cloned()))
    });
    // On another thread: the reader meets the server while it is down.
    let server = tokio::task::spawn_blocking(move || {
        server.restart();
        server
    });
    let _server = server.await.unwrap();
    sandbox.run(&shell("touch /tmp/go")).await.unwrap();
    let (rest, end) = reading.await.unwrap().unwrap();
    assert_eq!(String::from_utf8_lossy(&rest), "after\n");
    assert_eq!(end.and_then(|end| end.exit_code), Some(0));
}
