//! Files and archives.

use crate::support::{Host, code, sandbox, sandbox_as, sh, trial};
use bytes::Bytes;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use libtest_mimic::Trial;
use serde_json::json;
use std::io;

pub fn trials() -> Vec<Trial> {
    vec![
        trial("files_are_written_read_listed_moved_and_removed", all),
        trial("an_upload_that_breaks_off_leaves_the_old_file", broken),
        trial("a_directory_goes_out_and_in_as_an_archive", archive),
        trial("host_a_gibibyte_passes_without_the_server_growing", gibibyte),
        trial("a_full_disk_is_named_and_the_old_file_stays", full),
    ]
}

async fn all(host: Host) {
    let server = host.dev().await;
    let user = server.user("u").await;
    let id = sandbox(&user).await;
    let base = format!("/api/v1/sandboxes/{id}/files");
    let entry = user.put(&format!("{base}?path=/workspace/d/run.sh&mode=755"), "echo hi\n").await.expect(200);
    for (field, value) in [
        ("name", json!("run.sh")),
        ("path", json!("/workspace/d/run.sh")),
        ("kind", json!("file")),
        ("size", json!(8)),
        ("mode", json!("0755")),
        ("uid", json!(1000)),
        ("target", json!(null)),
    ] {
        assert_eq!(entry[field], value, "{field} of {entry}");
    }
    user.put(&format!("{base}?path=/workspace/d/run.sh&append=true"), "echo ho\n").await.expect(200);
    assert_eq!(sh(&user, &id, "/bin/sh d/run.sh").await["stdout"], "hi\nho\n");
    let part = user.get(&format!("{base}?path=/workspace/d/run.sh&offset=5&length=2")).await;
    assert_eq!((part.text().as_str(), part.header("content-type")), ("hi", Some("application/octet-stream")));
    sh(&user, &id, "ln -s run.sh d/link").await;
    let listed = user.get(&format!("{base}/list?path=/workspace&recursive=true")).await.expect(200);
    let paths: Vec<_> = listed["items"].as_array().unwrap().iter().map(|e| e["path"].as_str().unwrap()).collect();
    assert_eq!(paths, ["/workspace/d", "/workspace/d/link", "/workspace/d/run.sh"]);
    let cut = user.get(&format!("{base}/list?path=/workspace&recursive=true&limit=1")).await.expect(200);
    assert_eq!((&cut["truncated"], cut["items"].as_array().unwrap().len()), (&json!(true), 1));
    let link = user.get(&format!("{base}/stat?path=/workspace/d/link")).await.expect(200);
    assert_eq!((&link["kind"], &link["target"]), (&json!("symlink"), &json!("run.sh")));
    assert_eq!(
        user.post(&format!("{base}/mkdir"), json!({"path": "/workspace/e/f"})).await.expect(200)["kind"],
        "directory"
    );
    let to = json!({"from": "/workspace/d/run.sh", "to": "/workspace/e/f/run.sh"});
    user.post(&format!("{base}/move"), to).await.expect(200);
    assert_eq!(code(&user.delete(&format!("{base}?path=/workspace/e")).await), "not_empty");
    user.delete(&format!("{base}?path=/workspace/e&recursive=true")).await.expect(204);
    assert_eq!(code(&user.get(&format!("{base}/stat?path=/workspace/e")).await), "file_not_found");
    server.stop().await;
}

async fn broken(host: Host) {
    let server = host.dev().await;
    let user = server.user("u").await;
    let id = sandbox(&user).await;
    let path = format!("/api/v1/sandboxes/{id}/files?path=/workspace/f");
    user.put(&path, "old").await.expect(200);
    // Half of what was announced, and then the connection goes.
    let body =
        futures_util::stream::iter([Ok(Frame::data(Bytes::from(vec![b'n'; 500_000]))), Err(io::Error::other("gone"))]);
    let caller = user.with("content-length", "1000000");
    let request = tokio::spawn(async move { caller.open("PUT", &path, StreamBody::new(body)).await.status() });
    assert!(request.await.is_err(), "the client's own failure");
    for _ in 0..20 {
        let seen = sh(&user, &id, "cat f; ls -A").await;
        assert_eq!(seen["stdout"].as_str().unwrap().lines().next(), Some("oldf"), "{seen}");
        if seen["stdout"] == "oldf\n" {
            server.stop().await;
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    panic!("something is left of the broken upload");
}

async fn archive(host: Host) {
    let server = host.dev().await;
    let user = server.user("u").await;
    let id = sandbox(&user).await;
    sh(&user, &id, "mkdir -p a/b; echo deep > a/b/c; ln -s b/c a/l; chmod 700 a/b").await;
    let base = format!("/api/v1/sandboxes/{id}/archive");
    let tar = user.get(&format!("{base}?path=/workspace/a")).await;
    assert_eq!((tar.status, tar.header("content-type")), (200, Some("application/x-tar")));
    let written = user.put(&format!("{base}?path=/workspace/copy"), tar.body.clone()).await.expect(200);
    assert_eq!(written["bytes"], 5);
    assert_eq!(sh(&user, &id, "cat copy/l; stat -c %a copy/b").await["stdout"], "deep\n700\n");
    assert_eq!(code(&user.get(&format!("{base}?path=/nowhere")).await), "file_not_found");
    server.stop().await;
}

fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

async fn gibibyte(host: Host) {
    const PIECE: usize = 256 * 1024;
    const PIECES: usize = (1 << 30) / PIECE;
    let server = host.dev().await;
    let user = server.user("u").await;
    let request = json!({"resources": {"memory": "3Gi", "disk": "2Gi"}, "storage": "memory"});
    let id = sandbox_as(&user, request).await;
    let path = format!("/api/v1/sandboxes/{id}/files?path=/workspace/big");
    let before = resident();
    let piece = Bytes::from(vec![7u8; PIECE]);
    let body = futures_util::stream::iter((0..PIECES).map(move |_| Ok::<_, io::Error>(Frame::data(piece.clone()))));
    let response = user.open("PUT", &path, StreamBody::new(body)).await;
    assert_eq!(response.status(), 200);
    let after_upload = resident();
    let mut download = user.open("GET", &path, http_body_util::Empty::new()).await.into_body();
    let mut read = 0;
    let mut most = after_upload;
    while let Some(frame) = download.frame().await {
        read += frame.unwrap().data_ref().map_or(0, Bytes::len);
        most = most.max(resident());
    }
    assert_eq!(read, 1 << 30);
    // The client's buffers are in the same process.
    assert!(most < before + (48 << 20), "{} MiB more", (most - before) >> 20);
    user.delete(&format!("/api/v1/sandboxes/{id}")).await.expect(204);
    server.stop().await;
}

async fn full(host: Host) {
    let server = host.dev().await;
    let user = server.user("u").await;
    let id = sandbox_as(&user, json!({"resources": {"disk": "4Mi"}})).await;
    let path = format!("/api/v1/sandboxes/{id}/files?path=/workspace/f");
    user.put(&path, "old").await.expect(200);
    assert_eq!(code(&user.put(&path, vec![1u8; 8 << 20]).await), "disk_full");
    assert_eq!(user.get(&path).await.text(), "old");
    server.stop().await;
}
