//! `csb run`: one sandbox of this process's own, without any server unless `--kind remote` asks for one of a server's.
//!
//! The warden is forked before anything makes a thread; what this process does before the command's first output is what a
//! user waits for, so nothing here starts a thread pool, a logger or an HTTP client.

mod args;
mod elsewhere;
mod relay;

pub use args::RunArgs;

use crate::{
    failure::{Failure, Outcome, exit},
    print, progress,
};
use args::Plan;
use csb_api::ExecResultView;
use csb_backends::{Backend, Docker, DockerSettings, Guests, Microvm, MicrovmSettings, Oci};
use csb_engine::{ExecError, Handle};
use csb_image::Store;
use csb_node::{CreateError, Node, NodeConfig, NodeError, PoolConfig, WardenSource, WorkspaceConfig};
use csb_types::{ExecResult, ExecSpec, FileError, KilledBy, Kind, Limits, format_bytes};
use std::{fs, io, os::unix::fs::DirBuilderExt, path::Path, sync::Arc, time::Duration};

/// As the node has it: a change of the host may reach a sandbox this much later.
const RECENT: Duration = Duration::from_secs(60);

/// Runs it; returns the exit code of the command.
pub fn main(args: RunArgs, json: bool) -> Outcome<u8> {
    let raw: Vec<_> = std::env::args_os().collect();
    let dashed = args.dashed(&raw);
    let mut plan = Plan::read(args, dashed, json)?;
    if let Some(far) = plan.far() {
        return elsewhere::main(far, json);
    }
    make_data_dir(&plan.data_dir)?;
    if let Some(path) = &plan.template_path {
        plan.sandbox.template = import(&plan.data_dir, path)?;
    }
    if matches!(plan.sandbox.kind, Kind::Hardened | Kind::Microvm) && rustix::process::geteuid().is_root() {
        copy(&plan.data_dir, &plan.sandbox.template)?;
    }
    let warden = csb_warden::fork_inherited(&plan.data_dir).map_err(|error| {
        Failure::because("cannot start the process that builds sandboxes", &error)
            .hint("`csb doctor` says what this host lacks")
            .exit(exit::NO_COMMAND)
    })?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::because("cannot start the event loop", &error).exit(exit::NO_COMMAND))?;
    let result = runtime.block_on(async {
        let config = NodeConfig {
            data_dir: plan.data_dir.clone(),
            warden: WardenSource::Inherited(warden.into()),
            pool: PoolConfig::default(),
            default_template: "host".into(),
            aliases: Default::default(),
            backends: backends(&plan)?,
            workspaces: Some(WorkspaceConfig::at(plan.data_dir.join("workspaces"))),
            pressure: None,
        };
        let node = Node::start(config).await.map_err(|e| node_failure(&e))?;
        let result = sandbox(&node, plan, json).await;
        // Also when the command failed: whoever runs this again finds nothing of it.
        node.stop_all().await;
        result
    });
    runtime.shutdown_background();
    // The warden is our only child and ends with its connection: nothing is left once it has gone, not even a zombie.
    let _ = rustix::process::wait(rustix::process::WaitOptions::empty());
    result.map_err(|failure| if failure.code() == exit::FAILED { failure.exit(exit::NO_COMMAND) } else { failure })
}

/// What builds a kind that the warden does not.
fn backends(plan: &Plan) -> Outcome<Vec<Arc<dyn Backend>>> {
    if plan.sandbox.kind == Kind::K8s {
        return Err(Failure::new("`csb run` makes no sandbox of kind `k8s`: a pod would outlive it")
            .hint("start a server (`csb serve`), and use `csb create --kind k8s` and `csb exec`")
            .exit(exit::NO_COMMAND));
    }
    if !matches!(plan.sandbox.built_as(), Kind::Docker | Kind::Oci | Kind::Microvm) {
        return Ok(vec![]);
    }
    let guests = Guests::private(&plan.data_dir)
        .map_err(|error| Failure::because("cannot keep a container's files", &error).exit(exit::NO_COMMAND))?;
    let text = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
    let settings = DockerSettings {
        host: text("DOCKER_HOST"),
        image: text("DOCKER_IMAGE"),
        // Whoever runs this may use the engine as they like.
        pull: vec!["*".into()],
        networks: plan.sandbox.options.network_mode.iter().cloned().collect(),
    };
    Ok(match plan.sandbox.built_as() {
        Kind::Oci => vec![Arc::new(Oci::new(guests))],
        Kind::Microvm => vec![Arc::new(Microvm::new(guests, microvm()?))],
        _ => vec![Arc::new(Docker::new(guests, settings))],
    })
}

/// What the environment says of machines, as a server reads it.
fn microvm() -> Outcome<MicrovmSettings> {
    let config = csb_server::Config::load(&csb_server::Sources::from_process());
    config.map(|config| config.microvm).map_err(|error| Failure::of(&error).exit(exit::USAGE))
}

/// The name of the template that a directory or tar file is imported as, unless that was done before.
fn import(data_dir: &Path, path: &Path) -> Outcome<String> {
    let failed = |error: &dyn std::error::Error| {
        Failure::because(format!("cannot use `{}` as a template", path.display()), error).exit(exit::NO_COMMAND)
    };
    let store = Store::open(data_dir.join("templates")).map_err(|e| failed(&e))?;
    store.resolve_ad_hoc(path).map(|template| template.name).map_err(|e| failed(&e))
}

/// Makes the images of a template's files, unless that was done before. The node would do it as well, but show nothing.
fn copy(data_dir: &Path, name: &str) -> Outcome {
    let failed = |error: &dyn std::error::Error| {
        Failure::because("cannot copy the template's files for a sandbox of their own", error).exit(exit::NO_COMMAND)
    };
    let store = Store::open(data_dir.join("templates")).map_err(|e| failed(&e))?;
    let template = match name {
        "" | "host" => store.recent_host(RECENT).map_err(|e| failed(&e))?,
        // The node says that it is missing, as for any other kind.
        name => match store.get(name) {
            Ok(template) => template,
            Err(_) => return Ok(()),
        },
    };
    let bar = progress::bytes(None, "copying the template, once");
    store.private(&template, RECENT, &mut |bytes| bar.at(bytes)).map(drop).map_err(|e| {
        failed(&e)
            .hint("it takes as much room as the template (for `host`: as /usr) in the data directory (--data-dir)")
    })
}

/// Makes the data directory, for its owner only: what a template's files say is nobody else's business.
fn make_data_dir(path: &Path) -> Outcome {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|error| {
        Failure::because(format!("cannot make directory `{}`", path.display()), &error)
            .hint("name one that can be written with --data-dir or CSB_DATA_DIR")
            .exit(exit::NO_COMMAND)
    })
}

async fn sandbox(node: &Arc<Node>, plan: Plan, json: bool) -> Outcome<u8> {
    let handle = node.create(plan.sandbox.clone()).await.map_err(|e| create_failure(&e))?;
    let result = command(&handle, plan, json).await;
    let released = handle.release().await;
    let code = result?;
    released.map_err(|e| Failure::because("cannot release the sandbox", &e))?;
    Ok(code)
}

async fn command(handle: &Handle, plan: Plan, json: bool) -> Outcome<u8> {
    if let Some(code) = plan.code {
        let body = futures_util::stream::once(std::future::ready(Ok(bytes::Bytes::from(code.text))));
        handle
            .write_file(None, &code.path, Some(0o644), false, body)
            .await
            .map_err(|e: FileError| Failure::because("cannot put the code into the sandbox", &e))?;
    }
    let exec = handle.exec(plan.exec.clone()).await.map_err(|e| exec_failure(&e))?;
    let result = if json {
        let result = relay::quietly(&exec, plan.stdin).await?;
        let (stdout, stderr) = exec.read_all().await;
        print::json(&ExecResultView::new(&result, stdout, stderr))?;
        result
    } else {
        let result = relay::live(&exec, handle, plan.stdin, plan.raw).await?;
        explain(&result, &plan.exec, &plan.sandbox.limits);
        result
    };
    if result.truncated && !plan.bounded {
        // Whoever reads our output must not take a part for the whole.
        let failure = match plan.exec.stream {
            true => Failure::new("output was dropped: the data directory's disk is full"),
            false => Failure::new(format!("output past {} was dropped", format_bytes(plan.exec.max_output))),
        };
        return Err(failure.hint("write it to a file in a volume (-v), or say with --max-output how much is enough"));
    }
    Ok(result.exit_code as u8)
}

/// Says on stderr what ended a command when it was not the command itself.
fn explain(result: &ExecResult, spec: &ExecSpec, limits: &Limits) {
    if let Some(why) = explanation(result, spec, limits) {
        eprintln!("csb: {why}");
    } else if let Some(signal) = result.signal
        && crate::terminal::is_terminal(io::stderr())
    {
        eprintln!("csb: ended by {}", crate::signals::name(signal));
    }
}

fn explanation(result: &ExecResult, spec: &ExecSpec, limits: &Limits) -> Option<String> {
    Some(match result.killed_by? {
        KilledBy::Timeout => format!("killed: timeout after {:?}", spec.timeout.unwrap_or_default()),
        KilledBy::Oom => {
            format!("killed: out of memory (--memory is {})", format_bytes(limits.memory))
        }
        KilledBy::Pids => format!("failed: out of processes (--pids is {})", limits.pids),
        KilledBy::Disk => format!("failed: out of disk space or files (--disk is {})", format_bytes(limits.disk)),
        KilledBy::Signal => return None,
        KilledBy::Released => "killed: the sandbox ended".into(),
    })
}

fn node_failure(error: &NodeError) -> Failure {
    Failure::of(error).hint("`csb doctor` says what this host lacks").exit(exit::NO_COMMAND)
}

fn create_failure(error: &CreateError) -> Failure {
    let failure = Failure::because("cannot start the sandbox", error).exit(exit::NO_COMMAND);
    match error {
        CreateError::Spec(_) => failure.exit(exit::USAGE),
        CreateError::NoTemplate { .. } => failure.hint("`csb template ls` lists them, `csb template add` makes one"),
        CreateError::Capacity { hint, .. }
        | CreateError::Missing { hint, .. }
        | CreateError::Unavailable { hint, .. } => failure.hint(hint.clone()),
        CreateError::NotAllowed { .. } => failure.exit(exit::USAGE),
        CreateError::Jail { .. } => match csb_sys::ns::denial(!rustix::process::geteuid().is_root()) {
            Some(denial) => {
                failure.hint(format!("`{}` allows it, `csb doctor` says what else this host lacks", denial.remedy))
            }
            None => failure.hint("`csb doctor` says what this host lacks"),
        },
        CreateError::Unsupported { .. } | CreateError::Warden(_) => {
            failure.hint("`csb doctor` says what this host lacks")
        }
    }
}

fn exec_failure(error: &ExecError) -> Failure {
    let failure = Failure::of(error);
    match error {
        ExecError::Spec(_) => failure.exit(exit::USAGE),
        ExecError::NotFound { .. } => failure.exit(exit::NOT_FOUND),
        ExecError::NotExecutable { .. } => failure.exit(exit::NOT_EXECUTABLE),
        _ => failure.exit(exit::NO_COMMAND),
    }
}
