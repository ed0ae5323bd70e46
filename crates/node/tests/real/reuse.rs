//! What sandboxes leave for others (namespaces, files, processes made ahead) shows nothing of them.

use crate::support::{Host, run, sh, small, trial, within};
use csb_types::{ExecSpec, Limits, SandboxSpec};
use libtest_mimic::Trial;
use std::collections::HashSet;

pub fn trials() -> Vec<Trial> {
    vec![
        trial("a_used_network_is_not_seen_by_the_next_sandbox", networks),
        trial("output_of_a_sandbox_that_is_gone_stays_its_own", outputs),
        trial("a_process_made_ahead_that_dies_is_replaced", blanks),
        trial("a_program_may_stop_and_kill_all_it_sees_and_the_next_command_runs", parked),
        trial("as_many_processes_as_allowed_and_at_most_the_place_of_the_next_command", exact),
    ]
}

async fn networks(host: Host) {
    // Counters of the one device, and sockets, also those that TCP keeps when they are closed.
    const LOOK: &str = "tail -n +3 /proc/net/dev; tail -n +2 /proc/net/tcp | head -3; \
                        grep -c @ /proc/net/unix; cat /proc/net/ip6_flowlabel \
                        /proc/net/snmp /proc/net/netstat /proc/net/snmp6; cat /proc/sys/net/ipv4/ip_unprivileged_port_start";
    // Leaves something though nothing was sent and no socket is open.
    const LABEL: &str = "
import socket, struct
s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
request = struct.pack('=16sIBBHHHI', bytes(15) + b'\\1', socket.htonl(0x12345), 0, 255, 1, 60, 60, 0)
s.setsockopt(socket.IPPROTO_IPV6, 32, request)
try:
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('192.0.2.1', 9))
except OSError:
    print('labelled')";
    const USE: &str = "
import socket
s = socket.create_server(('127.0.0.1', 4000)); c = socket.create_connection(('127.0.0.1', 4000)); a, _ = s.accept()
u = socket.socket(socket.AF_UNIX); u.bind(b'\\0left'); u.listen()
c.sendall(b'secret'); a.close(); c.close(); s.close()
print('used')";
    let node = host.node(0).await;
    let mut first = None;
    let own: Vec<_> = std::fs::read_dir("/proc/self/ns").unwrap().flatten().collect();
    let own: HashSet<String> =
        own.iter().map(|kind| std::fs::read_link(kind.path()).unwrap().to_string_lossy().into_owned()).collect();
    for i in 0..24 {
        // More at once than wait ahead, so that what the ended ones left is needed.
        let all = futures_util::future::join_all((0..12).map(|_| node.create(small()))).await;
        for (j, sandbox) in all.into_iter().map(Result::unwrap).enumerate() {
            if j % 4 == 0 {
                let seen = sh(&sandbox, LOOK).await.1;
                assert_eq!(*first.get_or_insert_with(|| seen.clone()), seen, "{i} {j}");
            }
            if j % 4 == 2 {
                let inside = sh(&sandbox, "for kind in /proc/self/ns/*; do readlink $kind; done").await.1;
                assert!(inside.lines().count() >= 8 && inside.lines().all(|ns| !own.contains(ns)), "{inside}");
            }
            if j % 4 == 1 {
                assert_eq!(run(&sandbox, ExecSpec::argv(["python3", "-c", USE])).await.1, "used\n");
            }
            if j % 4 == 3 {
                assert_eq!(run(&sandbox, ExecSpec::argv(["python3", "-c", LABEL])).await.1, "labelled\n");
            }
            within(sandbox.release()).await.unwrap();
        }
    }
    let seen = first.unwrap();
    let counters = seen.lines().next().unwrap().trim_start().strip_prefix("lo:").unwrap();
    assert!(counters.split_whitespace().all(|field| field == "0"), "{seen}");
    within(node.stop_all()).await;
}

async fn outputs(host: Host) {
    let node = host.node(0).await;
    let mut held = Vec::new();
    for i in 0..40 {
        let sandbox = node.create(small()).await.unwrap();
        let exec = within(sandbox.exec(ExecSpec::shell(format!("echo out {i}; echo err {i} >&2")))).await.unwrap();
        within(exec.wait()).await;
        // Some read before the end, some only after it, and of some nobody keeps anything.
        if i % 4 == 0 {
            exec.read_all().await;
        }
        within(sandbox.release()).await.unwrap();
        if i % 2 == 0 {
            held.push((i, exec));
        }
        for (i, exec) in &held {
            let (out, err) = exec.read_all().await;
            let expected = (format!("out {i}\n"), format!("err {i}\n"));
            assert_eq!((String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap()), expected);
        }
    }
    within(node.stop_all()).await;
}

async fn blanks(host: Host) {
    let node = host.node(0).await;
    for _ in 0..3 {
        host.kill_waiting().await;
        let sandbox = within(node.create(small())).await.unwrap();
        assert_eq!(sh(&sandbox, "echo hi").await.1, "hi\n");
        within(sandbox.release()).await.unwrap();
    }
    within(node.stop_all()).await;
}

async fn parked(host: Host) {
    let node = host.node(0).await;
    let sandbox = node.create(small()).await.unwrap();
    for signal in ["STOP", "KILL", "TERM", "STOP"] {
        // `kill` the builtin: the shell itself is spared.
        sh(&sandbox, &format!("kill -{signal} -1; true")).await;
        assert_eq!(sh(&sandbox, "echo hi").await.1, "hi\n", "{signal}");
    }
    within(node.stop_all()).await;
}

async fn exact(host: Host) {
    const FORKS: &str = "
import os, time
made = 0
try:
    while True:
        if os.fork() == 0:
            time.sleep(60)
        made += 1
except OSError:
    print(1 + made)
    os.kill(-1, 9)";
    let node = host.node(0).await;
    for pids in [4, 17, 64] {
        let limits = Limits { pids, ..small().limits };
        let sandbox = node.create(SandboxSpec { limits, ..small() }).await.unwrap();
        for _ in 0..3 {
            let (end, made, _) = run(&sandbox, ExecSpec::argv(["python3", "-c", FORKS])).await;
            // The place of the process that waits for the next command is free for some milliseconds after it became one.
            let made: u32 = made.trim().parse().unwrap_or_else(|_| panic!("{end:?}"));
            assert!((pids..=pids + 1).contains(&made), "{made} of {pids}");
        }
        within(sandbox.release()).await.unwrap();
    }
    within(node.stop_all()).await;
}
