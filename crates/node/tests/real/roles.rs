//! What this program does when a test starts it as something else: a server to be killed, `csb run`, a server with few
//! descriptors. Each says what it did in lines on its standard output.

use csb_node::{CreateError, Node, NodeConfig, PoolConfig, WardenSource};
use csb_types::{ExecSpec, SandboxSpec};
use std::{
    path::PathBuf,
    process::{Child, Command, ExitCode, Stdio},
    sync::Arc,
};

const ROLE: &str = "CSB_TEST_ROLE";
const DIR: &str = "CSB_TEST_DIR";

/// Starts this program in `role`.
pub fn spawn(role: &str, dir: &std::path::Path) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.env(ROLE, role).env(DIR, dir).stdout(Stdio::piped()).stdin(Stdio::null());
    command.spawn().unwrap()
}

/// Plays the role this program was started in, if any. Called while there is one thread.
pub fn play() -> Option<ExitCode> {
    let role = std::env::var(ROLE).ok()?;
    let dir = PathBuf::from(std::env::var_os(DIR)?);
    if role == "half-a-machine" {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(crate::firecracker::begin(&dir));
        return Some(ExitCode::FAILURE);
    }
    let warden = match role.as_str() {
        "private" => WardenSource::Inherited(csb_warden::fork_inherited(&dir).unwrap().into()),
        _ => WardenSource::Daemon,
    };
    if role == "few-descriptors" {
        let limit = rustix::process::Rlimit { current: Some(160), maximum: Some(160) };
        rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let config = NodeConfig {
            data_dir: dir,
            warden,
            pool: PoolConfig::default(),
            default_template: "host".into(),
            aliases: Default::default(),
            backends: vec![],
            workspaces: None,
            pressure: None,
        };
        let node = Node::start(config).await.unwrap();
        match role.as_str() {
            "server" => serve(&node).await,
            "churn" => churn(node).await,
            "private" => private(&node).await,
            "few-descriptors" => few_descriptors(&node).await,
            other => panic!("no role {other}"),
        }
    });
    Some(ExitCode::SUCCESS)
}

/// The command whose output is watched over servers' deaths.
pub const LINES: u32 = 400_000;

async fn serve(node: &Node) {
    if node.list().is_empty() {
        let sandbox = node.create(SandboxSpec::default()).await.unwrap();
        let line = format!("seq 1 {LINES} & seq 1 {LINES} >&2; wait");
        let exec = sandbox.exec(ExecSpec { max_output: 64 << 20, ..ExecSpec::shell(line) }).await.unwrap();
        println!("{} {}", sandbox.id(), exec.id());
    } else {
        println!("again");
    }
    std::future::pending().await
}

async fn churn(node: Arc<Node>) {
    println!("ready");
    for worker in 0..3 {
        let node = node.clone();
        tokio::spawn(async move {
            for i in worker.. {
                let sandbox = node.create(crate::support::small()).await.unwrap();
                println!("created {}", sandbox.id());
                let exec = sandbox.exec(ExecSpec::shell("echo $$; sleep 0.01")).await.unwrap();
                if i % 2 == 0 {
                    exec.wait().await;
                }
                if i % 3 != 2 {
                    println!("releasing {}", sandbox.id());
                    sandbox.release().await.unwrap();
                    println!("released {}", sandbox.id());
                }
            }
        });
    }
    std::future::pending().await
}

async fn private(node: &Node) {
    let sandbox = node.create(SandboxSpec::default()).await.unwrap();
    let spec = ExecSpec { stdin: true, ..ExecSpec::shell("cat; echo err >&2; exit 3") };
    let exec = sandbox.exec(spec).await.unwrap();
    exec.write_stdin("in\n".into()).await.unwrap();
    exec.close_stdin().await.unwrap();
    let result = exec.wait().await;
    let (out, err) = exec.read_all().await;
    let text = |bytes| String::from_utf8(bytes).unwrap();
    println!("{} {:?} {:?}", result.exit_code, text(out), text(err));
    node.stop_all().await;
    println!("stopped");
}

async fn few_descriptors(node: &Node) {
    let mut sandboxes = Vec::new();
    let (limit, hint) = loop {
        match node.create(crate::support::small()).await {
            Ok(sandbox) => sandboxes.push(sandbox),
            Err(CreateError::Capacity { limit, hint }) => break (limit, hint),
            Err(error) => panic!("{error}"),
        }
    };
    assert!(limit.contains("descriptors") && hint.contains("ulimit -n"), "{limit}: {hint}");
    println!("full");
    // Those there are still work.
    for sandbox in &sandboxes {
        let exec = sandbox.exec(ExecSpec::argv(["echo", "hi"])).await.unwrap();
        exec.wait().await;
        assert_eq!(exec.read_all().await.0, b"hi\n");
    }
    for sandbox in sandboxes.drain(..) {
        sandbox.release().await.unwrap();
    }
    let again = node.create(crate::support::small()).await.unwrap();
    let exec = again.exec(ExecSpec::argv(["true"])).await.unwrap();
    assert_eq!(exec.wait().await.exit_code, 0);
    println!("empty");
    node.stop_all().await;
}
