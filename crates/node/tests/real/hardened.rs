//! Sandboxes of the kind `hardened`: made from images of their template, beside others and never instead of them.

use crate::support::{Host, Left, sh, trial, within};
use csb_image::Store;
use csb_node::{CreateError, Node, NodeConfig, PoolConfig, WardenSource};
use csb_types::{ExecSpec, Kind, Limits, Phase, SandboxSpec, StartedBy, Upper};
use libtest_mimic::Trial;
use std::{path::PathBuf, sync::Arc, time::Duration};

pub fn trials() -> Vec<Trial> {
    // An ordinary user may mount no image.
    let root = rustix::process::geteuid().is_root();
    let all = vec![
        trial("a_hardened_sandbox_lives_through_a_restart_and_leaves_nothing", restart),
        trial("a_hardened_sandbox_never_comes_from_a_pool_of_others", ordinary_pool),
        trial("a_pool_of_hardened_sandboxes_is_for_those_who_ask_for_one", hardened_pool),
        trial("a_killed_warden_takes_hardened_sandboxes_along", killed_warden),
        trial("an_image_lives_as_long_as_a_sandbox_of_it", images),
        trial("a_template_that_cannot_be_copied_is_no_sandbox", refused),
    ];
    all.into_iter().map(|trial| trial.with_ignored_flag(!root)).collect()
}

/// A small template with a shell, in place of the host's `/usr`.
pub fn template(host: &Host) -> (Store, PathBuf) {
    let from = host.dir.join("busybox");
    std::fs::create_dir_all(from.join("bin")).unwrap();
    std::fs::copy("/bin/busybox", from.join("bin/busybox")).expect("busybox-static is installed");
    for name in ["sh", "cat", "sleep", "true", "wc", "head", "od"] {
        std::os::unix::fs::symlink("busybox", from.join("bin").join(name)).unwrap();
    }
    let store = Store::open(host.dir.join("templates")).unwrap();
    store.import_dir("small", &from).unwrap();
    (store, from)
}

/// What all here ask for.
pub fn hardened() -> SandboxSpec {
    let limits = Limits { memory: 64 << 20, pids: 32, disk: 16 << 20, inodes: 2000, ..Limits::default() };
    SandboxSpec { kind: Kind::Hardened, template: "small".into(), limits, ..SandboxSpec::default() }
}

async fn node_with(host: &Host, pool: u32, spec: SandboxSpec) -> Arc<Node> {
    let config = NodeConfig {
        data_dir: host.dir.clone(),
        warden: WardenSource::Daemon,
        pool: PoolConfig { min: pool, max: pool, specs: vec![spec] },
        default_template: "host".into(),
        aliases: Default::default(),
        backends: vec![],
        workspaces: None,
        pressure: None,
    };
    Node::start(config).await.unwrap()
}

async fn restart(host: Host) {
    let (_store, from) = template(&host);
    let node = host.node(0).await;
    within(node.create(hardened()).await.unwrap().release()).await.unwrap();
    let before = Left::now(&host.dir);
    let sandbox = node.create(hardened()).await.unwrap();
    assert_eq!(sh(&sandbox, "cat /bin/busybox | wc -c").await.1.trim(), size(&from));
    assert_eq!(
        sh(&sandbox, "echo x > /bin/new; echo y > /tmp/y; cat /tmp/y").await.1,
        "y\n",
        "the root is writable as ever"
    );
    within(sandbox.pause()).await.unwrap();
    within(node.shutdown()).await;

    let node = host.node(0).await;
    let again = node.get(sandbox.id()).expect("the sandbox is found again");
    assert_eq!((again.spec().kind, again.phase()), (Kind::Hardened, Phase::Paused));
    within(again.resume()).await.unwrap();
    assert_eq!(sh(&again, "cat /tmp/y").await.1, "y\n");
    let disk = node.create(SandboxSpec { upper: Upper::Disk, ..hardened() }).await.unwrap();
    assert_eq!(sh(&disk, "echo z > /workspace/z; cat /workspace/z").await.1, "z\n");
    within(disk.release()).await.unwrap();
    within(again.release()).await.unwrap();
    within(async {
        while Left::now(&host.dir).inits != before.inits {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let after = Left::now(&host.dir);
    assert_eq!((after.inits, after.cgroups, after.entries), (0, 0, 0));
    within(node.stop_all()).await;
}

fn size(from: &std::path::Path) -> String {
    from.join("bin/busybox").metadata().unwrap().len().to_string()
}

async fn ordinary_pool(host: Host) {
    pool_of(host, Kind::Process, Kind::Hardened).await;
}

async fn hardened_pool(host: Host) {
    pool_of(host, Kind::Hardened, Kind::Process).await;
}

async fn pool_of(host: Host, ready: Kind, wanted: Kind) {
    template(&host);
    let node = node_with(&host, 1, SandboxSpec { kind: ready, ..hardened() }).await;
    host.filled(&node, 1).await;
    let other = node.create(SandboxSpec { kind: wanted, ..hardened() }).await.unwrap();
    assert_eq!((other.started_by(), other.spec().kind), (StartedBy::Cold, wanted));
    let same = node.create(SandboxSpec { kind: ready, ..hardened() }).await.unwrap();
    assert_eq!((same.started_by(), same.spec().kind), (StartedBy::Claim, ready));
    for sandbox in [&other, &same] {
        // What it is said to be is what it is.
        let seen = sh(sandbox, "cat /proc/vmstat | wc -c").await.1;
        assert_eq!(seen.trim() == "0", sandbox.spec().kind == Kind::Hardened, "{seen}");
    }
    within(node.stop_all()).await;
}

async fn killed_warden(host: Host) {
    template(&host);
    let node = host.node(0).await;
    let sandbox = node.create(hardened()).await.unwrap();
    drop(sandbox.exec(ExecSpec::argv(["sleep", "60"])).await.unwrap());
    let pid = node.warden().pid;
    rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), rustix::process::Signal::KILL).unwrap();
    within(sandbox.gone()).await;
    let next = within(async {
        loop {
            match node.create(hardened()).await {
                Ok(sandbox) => break sandbox,
                Err(CreateError::Warden(_)) => tokio::time::sleep(Duration::from_millis(20)).await,
                Err(error) => panic!("{error}"),
            }
        }
    })
    .await;
    assert_eq!(sh(&next, "echo on").await.1, "on\n");
    within(node.stop_all()).await;
    let after = Left::now(&host.dir);
    assert_eq!((after.inits, after.cgroups, after.entries), (0, 0, 0));
}

async fn images(host: Host) {
    let (store, _) = template(&host);
    let node = host.node(0).await;
    let (a, b, c) = tokio::join!(node.create(hardened()), node.create(hardened()), node.create(hardened()));
    let sandboxes = [a, b, c].map(Result::unwrap);
    let count = |store: &Store| store.prune(Duration::ZERO).unwrap();
    store.remove("small").unwrap();
    assert_eq!(count(&store), 0, "sandboxes are mounted from it");
    for sandbox in &sandboxes {
        assert_eq!(sh(sandbox, "cat /bin/busybox | wc -c").await.0.exit_code, 0);
        within(sandbox.release()).await.unwrap();
    }
    // The warden notices the ends one after the other.
    within(async {
        while count(&store) == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    within(node.stop_all()).await;
}

async fn refused(host: Host) {
    let (store, _) = template(&host);
    let node = host.node(0).await;
    // Something of ours is in the way of the image.
    let layer = store.get("small").unwrap().layers[0].clone();
    let image = layer.with_extension("erofs1");
    std::fs::create_dir_all(image.join("in the way")).unwrap();
    let error = node.create(hardened()).await.unwrap_err();
    assert!(matches!(&error, CreateError::Jail { step, .. } if step == "make the template's images"), "{error}");
    std::fs::remove_dir_all(&image).unwrap();
    let sandbox = node.create(hardened()).await.unwrap();
    assert_eq!(sh(&sandbox, "echo ok").await.1, "ok\n");
    within(node.stop_all()).await;
}
