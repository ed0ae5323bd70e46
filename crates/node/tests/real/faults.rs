//! Servers that are killed, that run for one command only, that run out of descriptors.

use crate::{
    roles,
    support::{Host, Left, trial, within},
};
use csb_types::{ExecId, Phase, SandboxId, StartedBy};
use libtest_mimic::Trial;
use std::{
    collections::{HashMap, HashSet},
    io::{BufRead, BufReader, Read},
    time::Duration,
};

pub fn trials() -> Vec<Trial> {
    vec![
        trial("a_server_killed_again_and_again_loses_and_repeats_no_byte", killed_server),
        trial("a_server_killed_at_any_moment_leaves_what_it_acknowledged_and_nothing_else", killed_churn),
        trial("a_private_warden_ends_with_its_command", private),
        trial("without_descriptors_sandboxes_are_refused_and_come_back", few_descriptors),
    ]
}

async fn killed_server(host: Host) {
    let mut server = roles::spawn("server", &host.dir);
    let mut line = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let (sandbox, exec) = line.trim().split_once(' ').unwrap();
    let (sandbox, exec): (SandboxId, ExecId) = (sandbox.parse().unwrap(), exec.parse().unwrap());
    for round in 0..8 {
        tokio::time::sleep(Duration::from_millis(3 + 17 * round)).await;
        server.kill().unwrap();
        server.wait().unwrap();
        server = roles::spawn("server", &host.dir);
        let mut line = String::new();
        BufReader::new(server.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "again\n");
    }
    server.kill().unwrap();
    server.wait().unwrap();
    let node = host.node(0).await;
    let sandbox = node.get(&sandbox).unwrap();
    assert_eq!(sandbox.started_by(), StartedBy::Cold);
    let exec = sandbox.find_exec(&exec).unwrap();
    let result = within(exec.wait()).await;
    assert_eq!((result.exit_code, result.truncated), (0, false));
    let (out, err) = exec.read_all().await;
    for bytes in [&out, &err] {
        let mut lines = bytes.split(|b| *b == b'\n');
        for i in 1..=roles::LINES {
            assert_eq!(lines.next(), Some(i.to_string().as_bytes()));
        }
        assert_eq!((lines.next(), lines.next()), (Some(&b""[..]), None));
    }
    // The combined order holds all of both.
    let mut reader = exec.output(0);
    let mut total = 0;
    while let Some(chunk) = within(reader.next()).await {
        total += chunk.bytes.len();
    }
    assert_eq!(total, out.len() + err.len());
    within(node.stop_all()).await;
}

async fn killed_churn(host: Host) {
    let mut states: HashMap<SandboxId, String> = HashMap::new();
    for round in 0..12 {
        let mut server = roles::spawn("churn", &host.dir);
        let mut output = BufReader::new(server.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        tokio::time::sleep(Duration::from_millis(60 + 31 * round)).await;
        server.kill().unwrap();
        server.wait().unwrap();
        let mut rest = String::new();
        output.read_to_string(&mut rest).unwrap();
        for line in rest.lines().filter(|line| line.len() > 20) {
            let (state, id) = line.split_once(' ').unwrap();
            if let Ok(id) = id.parse() {
                states.insert(id, state.to_owned());
            }
        }
    }
    let node = host.node(0).await;
    let found: HashSet<SandboxId> = node.list().iter().map(|sandbox| sandbox.id().clone()).collect();
    assert!(states.values().any(|state| state == "created"), "nothing was created");
    for (id, state) in &states {
        match state.as_str() {
            "created" => assert!(found.contains(id), "{id} was acknowledged and is lost"),
            "released" => assert!(!found.contains(id), "{id} was released and is back"),
            _ => {}
        }
    }
    for sandbox in node.list() {
        assert_eq!(sandbox.phase(), Phase::Running);
        // Its execs ran to their ends, watched or not.
        for exec in sandbox.execs() {
            assert_eq!(within(exec.wait()).await.exit_code, 0);
        }
        within(sandbox.release()).await.unwrap();
    }
    let left = Left::now(&host.dir);
    assert_eq!((left.inits, left.cgroups, left.entries), (0, 0, 0));
    within(node.stop_all()).await;
}

async fn private(host: Host) {
    let inside = || -> Vec<String> {
        let names = std::fs::read_dir(&host.dir).unwrap().flatten().map(|e| e.file_name().into_string().unwrap());
        names.filter(|name| name != "templates" && name != "run").collect()
    };
    let output = roles::spawn("private", &host.dir).wait_with_output().unwrap();
    assert!(output.status.success());
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "3 \"in\\n\" \"err\\n\"\nstopped\n");
    assert_eq!(inside(), [""; 0]);
}

async fn few_descriptors(host: Host) {
    let output = roles::spawn("few-descriptors", &host.dir).wait_with_output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "full\nempty\n");
    assert!(output.status.success());
}
