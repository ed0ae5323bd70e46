//! From what a user asks to what init is told: defaults filled in, environments merged. Pure.

use csb_types::{Command, ExecId, ExecSpec, Kind, SandboxSpec, WORKSPACE};
use csb_wire::{ExecPlan, Failure};
use std::collections::BTreeMap;

use crate::ExecError;

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/opt/csb/bin";

/// The command, decided in every detail. Later environments win: ours, the sandbox's, the exec's.
pub(crate) fn exec_plan(id: ExecId, sandbox: &SandboxSpec, exec: &ExecSpec) -> ExecPlan {
    let mut env: BTreeMap<&str, &str> = BTreeMap::from([("PATH", PATH), ("LANG", "C.UTF-8")]);
    if exec.pty.is_some() {
        env.insert("TERM", "xterm-256color");
    }
    for (name, value) in sandbox.env.iter().chain(&exec.env) {
        env.insert(name, value);
    }
    let argv = match &exec.command {
        Command::Argv(argv) => argv.clone(),
        Command::Shell(line) => vec!["/bin/sh".into(), "-c".into(), line.clone()],
    };
    ExecPlan {
        id,
        argv,
        env: env.into_iter().map(|(name, value)| format!("{name}={value}")).collect(),
        cwd: exec.cwd.clone().unwrap_or_else(|| home(sandbox).into()),
        user: exec.user.clone(),
        pty: exec.pty,
        stdin: exec.stdin && exec.pty.is_none(),
    }
}

/// Where commands start that are not told.
fn home(sandbox: &SandboxSpec) -> &str {
    match sandbox.kind {
        Kind::Docker | Kind::Oci | Kind::K8s => sandbox.options.work_dir.as_deref().unwrap_or(WORKSPACE),
        _ => WORKSPACE,
    }
}

/// What init's refusal means to the one who asked.
pub(crate) fn not_started(plan: &ExecSpec, failure: &Failure) -> ExecError {
    let program = match &plan.command {
        Command::Argv(argv) => argv.first().cloned().unwrap_or_default(),
        Command::Shell(_) => "/bin/sh".into(),
    };
    let room = |what: &str| ExecError::Limit { what: what.into() };
    match (failure.step.as_str(), failure.errno) {
        ("user", _) => ExecError::BadUser { user: plan.user.clone().unwrap_or_else(|| "user".into()) },
        ("cwd", _) => ExecError::BadCwd {
            cwd: plan.cwd.clone().unwrap_or_else(|| WORKSPACE.into()),
            message: failure.message.clone(),
        },
        ("exec", libc::ENOENT | libc::ENOTDIR) => ExecError::NotFound { program },
        ("exec", libc::ENOMEM) => room("memory"),
        ("exec", libc::EACCES | libc::EPERM | libc::ENOEXEC | libc::EISDIR | libc::ELIBBAD | libc::ETXTBSY) => {
            ExecError::NotExecutable { program }
        }
        ("exec", libc::ELOOP | libc::ENAMETOOLONG) => ExecError::NotFound { program },
        // execve(2) asks once more whether its user has too many processes.
        ("fork" | "limit" | "exec", libc::EAGAIN) => room("processes"),
        (_, libc::ENOMEM) => room("memory"),
        (_, libc::EMFILE | libc::ENFILE) => room("open descriptors"),
        ("terminal", libc::ENOSPC) => room("terminals"),
        ("limit", _) => room(&failure.message),
        _ => ExecError::Internal(failure.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use csb_types::PtySize;

    #[test]
    fn the_exec_s_environment_wins_over_the_sandbox_s_and_ours() {
        let set = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        let sandbox = SandboxSpec { env: set(&[("A", "sandbox"), ("B", "sandbox")]), ..Default::default() };
        let exec = ExecSpec { env: set(&[("B", "exec"), ("LANG", "de")]), ..ExecSpec::shell("x y") };
        let plan = exec_plan(ExecId::random(), &sandbox, &exec);
        assert_eq!(plan.env, ["A=sandbox", "B=exec", "LANG=de", &format!("PATH={PATH}")]);
        assert_eq!(plan.argv, ["/bin/sh", "-c", "x y"]);
        assert_eq!(plan.cwd, "/workspace");
    }

    #[test]
    fn a_terminal_is_its_own_stdin() {
        let exec = ExecSpec { pty: Some(PtySize::default()), stdin: true, ..ExecSpec::argv(["sh"]) };
        let plan = exec_plan(ExecId::random(), &SandboxSpec::default(), &exec);
        assert!(!plan.stdin && plan.env.contains(&"TERM=xterm-256color".to_owned()));
    }

    #[test]
    fn refusals_are_named_for_the_one_who_asked() {
        let spec = ExecSpec { user: Some("eve".into()), ..ExecSpec::argv(["nope"]) };
        let refusal =
            |step: &str, errno| not_started(&spec, &Failure { step: step.into(), message: "m".into(), errno });
        assert_eq!(refusal("exec", libc::ENOENT), ExecError::NotFound { program: "nope".into() });
        assert_eq!(refusal("exec", libc::EACCES), ExecError::NotExecutable { program: "nope".into() });
        assert_eq!(refusal("cwd", libc::ENOENT), ExecError::BadCwd { cwd: "/workspace".into(), message: "m".into() });
        assert_eq!(refusal("user", 0), ExecError::BadUser { user: "eve".into() });
        assert_eq!(refusal("fork", libc::EAGAIN), ExecError::Limit { what: "processes".into() });
        assert_eq!(refusal("exec", libc::EAGAIN), ExecError::Limit { what: "processes".into() });
        assert!(matches!(refusal("confine", 1), ExecError::Internal(_)));
    }
}
