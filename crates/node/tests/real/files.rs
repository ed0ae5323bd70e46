//! Files of a sandbox, through the real helper.

use crate::support::{Host, sh, trial, within};
use bytes::Bytes;
use csb_node::FileReader;
use csb_types::{FileErrorCode, FileKind, SandboxSpec};
use futures_util::stream;
use libtest_mimic::Trial;
use std::io;

pub fn trials() -> Vec<Trial> {
    vec![
        trial("files_are_written_read_listed_moved_and_removed", files),
        trial("a_large_file_streams_both_ways", large),
        trial("an_upload_cut_short_leaves_the_old_file", cut_short),
        trial("directories_travel_as_archives", archives),
    ]
}

fn body(text: &str) -> impl futures_util::Stream<Item = io::Result<Bytes>> + Send + use<> {
    stream::iter([Ok(Bytes::copy_from_slice(text.as_bytes()))])
}

async fn all(mut reader: FileReader) -> Vec<u8> {
    let mut bytes = Vec::new();
    while let Some(piece) = within(reader.next()).await.unwrap() {
        assert!(!piece.is_empty());
        bytes.extend_from_slice(&piece);
    }
    assert_eq!(within(reader.next()).await.unwrap(), None);
    bytes
}

async fn files(host: Host) {
    let node = host.node(0).await;
    let sandbox = node.create(SandboxSpec::default()).await.unwrap();
    let path = "/workspace/a/b.txt";
    let entry = within(sandbox.write_file(None, path, Some(0o600), false, body("hello"))).await.unwrap();
    assert_eq!((entry.name.as_str(), entry.kind, entry.size, entry.mode), ("b.txt", FileKind::File, 5, 0o600));
    within(sandbox.write_file(None, path, None, true, body(" world"))).await.unwrap();
    assert_eq!(all(within(sandbox.read_file(None, path, 0, None)).await.unwrap()).await, b"hello world");
    assert_eq!(all(within(sandbox.read_file(None, path, 6, Some(3))).await.unwrap()).await, b"wor");
    assert_eq!(all(within(sandbox.read_file(None, path, 100, None)).await.unwrap()).await, b"");
    within(sandbox.make_dir(None, "/workspace/c/d")).await.unwrap();
    within(sandbox.move_file(None, path, "/workspace/c/e")).await.unwrap();
    let (entries, truncated) = within(sandbox.list_files(None, "/workspace", 9, 100)).await.unwrap();
    let paths: Vec<&str> = entries.iter().map(|e| e.path.as_str()).collect();
    assert_eq!(paths, ["/workspace/a", "/workspace/c", "/workspace/c/d", "/workspace/c/e"]);
    assert!(!truncated);
    let (entries, truncated) = within(sandbox.list_files(None, "/workspace", 9, 2)).await.unwrap();
    assert_eq!((entries.len(), truncated), (2, true));
    let code = async |path: &str| within(sandbox.stat_file(None, path)).await.unwrap_err().code;
    assert_eq!(code(path).await, FileErrorCode::NotFound);
    assert_eq!(code("relative").await, FileErrorCode::BadPath);
    let denied = within(sandbox.write_file(None, "/usr/x", None, false, body("x"))).await.unwrap_err();
    assert!(matches!(denied.code, FileErrorCode::Denied | FileErrorCode::ReadOnly), "{denied}");
    let error = within(sandbox.remove_file(None, "/workspace/c", false)).await.unwrap_err();
    assert_eq!(error.code, FileErrorCode::NotEmpty);
    within(sandbox.remove_file(None, "/workspace/c", true)).await.unwrap();
    assert_eq!(sh(&sandbox, "ls /workspace").await.1, "a\n");
    within(sandbox.release()).await.unwrap();
    let gone = within(sandbox.stat_file(None, "/")).await.unwrap_err();
    assert_eq!(gone.code, FileErrorCode::Gone);
    within(node.stop_all()).await;
}

async fn large(host: Host) {
    let node = host.node(0).await;
    let sandbox = node.create(SandboxSpec::default()).await.unwrap();
    const PIECES: usize = 100;
    let piece = Bytes::from((0..1 << 20).map(|i| (i % 251) as u8).collect::<Vec<u8>>());
    let pieces = stream::iter(vec![piece.clone(); PIECES].into_iter().map(Ok));
    let entry = within(sandbox.write_file(None, "/workspace/big", None, false, pieces)).await.unwrap();
    assert_eq!(entry.size as usize, PIECES << 20);
    let mut reader = within(sandbox.read_file(None, "/workspace/big", 0, None)).await.unwrap();
    let mut at = 0usize;
    while let Some(bytes) = within(reader.next()).await.unwrap() {
        for byte in bytes {
            assert_eq!(byte, piece[at % piece.len()]);
            at += 1;
        }
    }
    assert_eq!(at, PIECES << 20);
    // More than the sandbox may hold.
    let pieces = stream::iter(vec![piece; 400].into_iter().map(Ok));
    let error = within(sandbox.write_file(None, "/workspace/bigger", None, false, pieces)).await.unwrap_err();
    assert_eq!(error.code, FileErrorCode::DiskFull);
    assert_eq!(sh(&sandbox, "ls /workspace").await.1, "big\n");
    within(node.stop_all()).await;
}

async fn cut_short(host: Host) {
    let node = host.node(0).await;
    let sandbox = node.create(SandboxSpec::default()).await.unwrap();
    within(sandbox.write_file(None, "/workspace/f", None, false, body("old"))).await.unwrap();
    let broken = stream::iter([Ok(Bytes::from_static(b"new")), Err(io::Error::other("the client went away"))]);
    let error = within(sandbox.write_file(None, "/workspace/f", None, false, broken)).await.unwrap_err();
    assert!(error.message.contains("went away"), "{error}");
    // Also when the caller just stops.
    let endless = stream::pending::<io::Result<Bytes>>();
    let write = sandbox.write_file(None, "/workspace/f", None, false, endless);
    assert!(tokio::time::timeout(std::time::Duration::from_millis(200), write).await.is_err());
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    assert_eq!(sh(&sandbox, "cat f; ls -A").await.1, "oldf\n");
    within(node.stop_all()).await;
}

async fn archives(host: Host) {
    let node = host.node(0).await;
    let sandbox = node.create(SandboxSpec::default()).await.unwrap();
    sh(&sandbox, "mkdir -p in/x; echo 1 > in/a; echo 2 > in/x/b; ln -s a in/l").await;
    let archive = all(within(sandbox.pack(None, "/workspace/in")).await.unwrap()).await;
    let body = stream::iter([Ok(Bytes::from(archive))]);
    assert!(within(sandbox.unpack(None, "/workspace/out", body)).await.unwrap() > 0);
    assert_eq!(sh(&sandbox, "diff -r in out && cat out/l").await.1, "1\n");
    let body = stream::iter([Ok(Bytes::from_static(&[b'x'; 2048]))]);
    let error = within(sandbox.unpack(None, "/workspace/bad", body)).await.unwrap_err();
    assert_eq!(error.code, FileErrorCode::BadArchive);
    within(node.stop_all()).await;
}
