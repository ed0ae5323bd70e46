//! A driver against an init that the test plays, over a real socket: no root, no sandbox.

use crate::{ExecError, Handle, Meta, OpError, Readiness, Seat, warden::Link};
use csb_sys::packet::Conn;
use csb_types::{ExecId, ExecSpec, KilledBy, Phase, SandboxId, SandboxSpec, StartedBy};
use csb_wire::{ExecPlan, Failure, FromInit, ToInit};
use std::{
    fs::File,
    future::Future,
    io::Write,
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

const PATIENCE: Duration = Duration::from_secs(20);

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it took too long")
}

/// The other side.
struct Init(Conn);

impl Init {
    fn say(&self, frame: &FromInit, fds: &[OwnedFd]) {
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        self.0.send(&csb_wire::encode(frame), &fds).unwrap();
    }

    /// The next frame. Waits in a thread of its own, as the driver needs this one.
    async fn hear(&self) -> (ToInit, Vec<OwnedFd>) {
        let conn = self.0.try_clone().unwrap();
        let (bytes, fds) = within(tokio::task::spawn_blocking(move || conn.recv())).await.unwrap().unwrap().unwrap();
        (csb_wire::decode(&bytes).unwrap(), fds)
    }

    /// An exec, with its descriptors; it is not started yet.
    async fn hear_exec(&self) -> (ExecPlan, Vec<OwnedFd>) {
        match self.hear().await {
            (ToInit::Exec(plan), fds) => (*plan, fds),
            (other, _) => panic!("{other:?} instead of an exec"),
        }
    }

    fn started(&self, exec: &ExecId) {
        self.say(&FromInit::Started { exec: exec.clone(), pid: 7 }, &[]);
    }

    fn exited(&self, exec: &ExecId, status: i32) {
        self.say(&FromInit::Exited { exec: exec.clone(), status, duration_usec: 1000 }, &[]);
    }
}

/// A directory that a sandbox's spools outlive their driver in.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        let dir = std::env::temp_dir().join(format!("csb-driver-{}", SandboxId::random()));
        std::fs::create_dir(&dir).unwrap();
        Self(dir)
    }

    fn seat(&self, adopted: Option<bool>) -> (Handle, Readiness, Init) {
        let (conn, theirs) = Conn::pair().unwrap();
        let spec = Arc::new(SandboxSpec::default());
        let (handle, readiness) = Handle::seat(Seat {
            id: SandboxId::random(),
            conn,
            keeper: Arc::new(Link::default()),
            meta: Meta { spec, started_by: StartedBy::Cold, start_micros: 0, created_ms: 0 },
            spool: self.0.join("spool"),
            durable: true,
            shelf: Arc::default(),
            last: None,
            adopted,
        })
        .unwrap();
        (handle, readiness, Init(theirs))
    }

    async fn ready(&self) -> (Handle, Init) {
        let (handle, readiness, init) = self.seat(None);
        init.say(&FromInit::Ready, &[]);
        within(readiness.wait()).await.unwrap();
        (handle, init)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Submits an exec; its answer comes later.
fn submit(handle: &Handle, spec: ExecSpec) -> tokio::task::JoinHandle<Result<crate::Exec, ExecError>> {
    let handle = handle.clone();
    tokio::spawn(async move { handle.exec(spec).await })
}

#[tokio::test]
async fn a_sandbox_that_could_not_be_built_says_why() {
    let scratch = Scratch::new();
    let (handle, readiness, init) = scratch.seat(None);
    let failure = Failure { step: "mount the root".into(), message: "no".into(), errno: 5 };
    init.say(&FromInit::Failed(failure.clone()), &[]);
    drop(init);
    assert_eq!(within(readiness.wait()).await, Err(failure));
    // Nobody but the warden can say that nothing is left.
    handle.lost();
    within(handle.gone()).await;
    let (_, readiness, init) = scratch.seat(None);
    drop(init);
    assert_eq!(within(readiness.wait()).await.unwrap_err().message, "it ended at once");
}

#[tokio::test]
async fn what_an_init_said_is_heard_when_the_warden_was_faster_to_tell_its_end() {
    let scratch = Scratch::new();
    let (handle, readiness, init) = scratch.seat(None);
    let failure = Failure { step: "mount the root".into(), message: "no".into(), errno: 5 };
    init.say(&FromInit::Failed(failure.clone()), &[]);
    drop(init);
    handle.lost();
    assert_eq!(within(readiness.wait()).await, Err(failure));
    within(handle.gone()).await;
}

#[tokio::test]
async fn an_exec_s_way_from_request_to_result() {
    let scratch = Scratch::new();
    let (handle, init) = scratch.ready().await;
    let exec = submit(&handle, ExecSpec { stdin: true, ..ExecSpec::argv(["cat"]) });
    let (plan, mut fds) = init.hear_exec().await;
    assert_eq!((plan.argv, plan.stdin, fds.len()), (vec!["cat".to_owned()], true, 6));
    init.started(&plan.id);
    let exec = within(exec).await.unwrap().unwrap();
    assert_eq!((exec.pid(), exec.id()), (7, &plan.id));
    // stdout_w, stderr_w, stdout_r, stderr_r, stdin_r, stdin_w
    exec.write_stdin("to it".into()).await.unwrap();
    let mut taken = [0; 5];
    assert_eq!(rustix::io::read(&fds[4], &mut taken).unwrap(), 5);
    within(exec.close_stdin()).await.unwrap();
    assert_eq!(init.hear().await.0, ToInit::CloseStdin { exec: plan.id.clone() });
    let (err, out) = (File::from(fds.remove(1)), File::from(fds.remove(0)));
    (&out).write_all(b"out").unwrap();
    (&err).write_all(b"err").unwrap();
    // Written before the end is told, so it is there when the end is known.
    init.exited(&plan.id, 0);
    assert_eq!(within(exec.wait()).await.exit_code, 0);
    assert_eq!(exec.read_all().await, (b"out".to_vec(), b"err".to_vec()));
    // A process that got the pipe from the first one writes on; init keeps its copies until nobody can.
    (&out).write_all(b" later").unwrap();
    drop((out, err));
    assert_eq!(init.hear().await.0, ToInit::Forget { exec: plan.id });
    assert_eq!(exec.read_all().await.0, b"out later");
    handle.lost();
    within(handle.gone()).await;
    assert!(!scratch.0.join("spool").exists());
    assert_eq!(exec.read_all().await.0, b"out later");
}

#[tokio::test]
async fn a_refused_exec_is_not_known_afterwards() {
    let scratch = Scratch::new();
    let (handle, init) = scratch.ready().await;
    let exec = submit(&handle, ExecSpec::argv(["nope"]));
    let (plan, _) = init.hear_exec().await;
    let failure = Failure { step: "exec".into(), message: "no such file".into(), errno: libc::ENOENT };
    init.say(&FromInit::NotStarted { exec: plan.id, failure }, &[]);
    assert_eq!(within(exec).await.unwrap().unwrap_err(), ExecError::NotFound { program: "nope".into() });
    assert!(handle.execs().is_empty());
    within(handle.detach()).await;
    let (handle, readiness, init) = scratch.seat(Some(false));
    assert!(matches!(init.hear().await.0, ToInit::Report { .. }));
    init.say(&FromInit::KnownEnd, &[]);
    within(readiness.wait()).await.unwrap();
    assert!(handle.execs().is_empty());
}

#[tokio::test]
async fn a_deadline_kills_the_tree_until_it_is_dead() {
    let scratch = Scratch::new();
    let (handle, init) = scratch.ready().await;
    let spec = ExecSpec { timeout: Some(Duration::from_millis(30)), ..ExecSpec::argv(["sleep"]) };
    let exec = submit(&handle, spec);
    let (plan, fds) = init.hear_exec().await;
    init.started(&plan.id);
    let exec = within(exec).await.unwrap().unwrap();
    // It survives the first one.
    for _ in 0..2 {
        let kill = ToInit::Signal { exec: plan.id.clone(), signal: 9, tree: true };
        assert_eq!(init.hear().await.0, kill);
    }
    drop(fds);
    init.exited(&plan.id, 9);
    assert_eq!(within(exec.wait()).await.killed_by, Some(KilledBy::Timeout));
}

#[tokio::test]
async fn the_next_driver_believes_the_report_and_not_what_was_said_before_it() {
    let scratch = Scratch::new();
    let (handle, init) = scratch.ready().await;
    let mut plans = Vec::new();
    for name in ["ended", "runs", "never"] {
        let exec = submit(&handle, ExecSpec::argv([name]));
        let (plan, fds) = init.hear_exec().await;
        if name != "never" {
            init.started(&plan.id);
            within(exec).await.unwrap().unwrap();
        }
        plans.push((plan.id, fds));
    }
    within(handle.detach()).await;
    let ids: Vec<ExecId> = plans.iter().map(|(id, _)| id.clone()).collect();
    let mut kept = plans.into_iter().map(|(_, mut fds)| {
        let readers = fds.split_off(2);
        (fds, readers)
    });
    let ((ended_w, ended_r), (runs_w, runs_r)) = (kept.next().unwrap(), kept.next().unwrap());
    let mut out = File::from(runs_w.into_iter().next().unwrap());
    out.write_all(b"meanwhile").unwrap();
    drop(ended_w);

    let (handle, readiness, init) = scratch.seat(Some(false));
    // Still in the socket from before.
    init.exited(&ids[1], 0x0900);
    init.started(&ids[2]);
    assert!(matches!(init.hear().await.0, ToInit::Report { .. }));
    let known =
        |id: &ExecId, ended| FromInit::Known { exec: id.clone(), pid: 9, ended, age_usec: 5, pty: false, stdin: false };
    init.say(&known(&ids[0], Some((0x0500, 77_000))), &ended_r);
    init.say(&known(&ids[1], None), &runs_r);
    init.say(&FromInit::KnownEnd, &[]);
    within(readiness.wait()).await.unwrap();
    assert_eq!(handle.execs().len(), 2);
    let ended = within(handle.find_exec(&ids[0]).unwrap().wait()).await;
    assert_eq!((ended.exit_code, ended.duration_ms), (5, 77.0));
    let runs = handle.find_exec(&ids[1]).unwrap();
    assert_eq!((runs.result(), runs.pid(), runs.spec()), (None, 9, &ExecSpec::argv(["runs"])));
    assert_eq!(within(runs.output(0).next()).await.unwrap().bytes, "meanwhile");
    assert_eq!(init.hear().await.0, ToInit::Forget { exec: ids[0].clone() });
    drop(out);
    init.exited(&ids[1], 0);
    assert_eq!(within(runs.wait()).await.exit_code, 0);
}

#[tokio::test]
async fn an_init_that_reads_nothing_costs_a_bounded_number_of_frames() {
    let scratch = Scratch::new();
    let (handle, _init) = scratch.ready().await;
    let mut refused = 0;
    let mut waiting = Vec::new();
    for _ in 0..3000 {
        let exec = submit(&handle, ExecSpec { pty: Some(Default::default()), ..ExecSpec::argv(["x"]) });
        waiting.push(exec);
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    for exec in waiting {
        if exec.is_finished() {
            assert!(matches!(exec.await.unwrap(), Err(ExecError::Internal(text)) if text.contains("no more commands")));
            refused += 1;
        }
    }
    assert!(refused > 1000, "{refused}");
    // The end is not kept from coming by what waits.
    handle.lost();
    within(handle.gone()).await;
}

#[tokio::test]
async fn without_a_warden_operations_fail_by_name_and_the_end_still_comes() {
    let scratch = Scratch::new();
    let (handle, init) = scratch.ready().await;
    let lost = || OpError::Internal("the connection to the warden is lost".into());
    assert_eq!(within(handle.pause()).await, Err(lost()));
    assert_eq!(handle.phase(), Phase::Running);
    let exec = submit(&handle, ExecSpec::argv(["x"]));
    let (plan, _fds) = init.hear_exec().await;
    let release = {
        let handle = handle.clone();
        tokio::spawn(async move { handle.release().await })
    };
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(handle.phase(), Phase::Releasing);
    assert_eq!(within(handle.exec(ExecSpec::argv(["y"]))).await.unwrap_err(), ExecError::Gone);
    init.say(&csb_wire::FromInit::Exited { exec: plan.id, status: 0, duration_usec: 0 }, &[]);
    drop(init);
    handle.lost();
    assert_eq!(within(exec).await.unwrap().unwrap_err(), ExecError::Gone);
    assert_eq!(within(release).await.unwrap(), Ok(()));
    assert_eq!(within(handle.release()).await, Ok(()));
}
