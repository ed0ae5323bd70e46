//! `csb cp`: files and directories between this host and a sandbox, streamed.
//!
//! An archive from a sandbox was written by code nobody has read. It is unpacked below one new directory entry, names and links
//! that lead out of it are refused, and only files, directories and symbolic links are made.

use crate::{
    connect,
    failure::{Failure, Outcome},
    options::RemoteArgs,
    print, progress,
};
use bytes::Bytes;
use clap::Args;
use csb_client::{ByteStream, Error, Files, ReadRange, WriteOptions};
use csb_types::FileKind;
use futures_util::{Stream, StreamExt};
use std::{
    fs,
    io::{self, Read, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};
use tokio::sync::mpsc;

const CHUNK: usize = 256 << 10;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  csb cp data.csv SANDBOX:/workspace/        a file into a directory
  csb cp SANDBOX:/workspace/out.png .
  csb cp src SANDBOX:/workspace/src          a directory and all below it
  csb cp SANDBOX:/workspace result           as the new directory `result`
  csb cp SANDBOX:/var/log/x.log -            to stdout")]
pub struct CopyArgs {
    #[command(flatten)]
    remote: RemoteArgs,
    /// User inside, whose rights apply [default: user]
    #[arg(short, long, value_name = "USER")]
    user: Option<String>,
    /// From: PATH, SANDBOX:PATH, or `-` for stdin
    #[arg(value_name = "FROM")]
    from: String,
    /// To: PATH, SANDBOX:PATH, or `-` for stdout
    #[arg(value_name = "TO")]
    to: String,
}

/// One end of a copy.
#[derive(Debug, PartialEq)]
enum Place {
    Here(PathBuf),
    Stdio,
    Inside { sandbox: String, path: String },
}

impl Place {
    fn read(text: &str) -> Outcome<Self> {
        if text == "-" {
            return Ok(Self::Stdio);
        }
        match text.split_once(':') {
            // `./a:b` is a file of this host.
            Some((sandbox, path)) if !sandbox.is_empty() && !sandbox.contains('/') => {
                if !path.starts_with('/') {
                    return Err(Failure::usage(format!("the path in `{text}` is not absolute"))
                        .hint(format!("the working directory is /workspace: `{sandbox}:/workspace/{path}`")));
                }
                Ok(Self::Inside { sandbox: sandbox.into(), path: path.into() })
            }
            _ => Ok(Self::Here(text.into())),
        }
    }
}

pub async fn cp(args: CopyArgs, json: bool) -> Outcome {
    let (from, to) = (Place::read(&args.from)?, Place::read(&args.to)?);
    let client = connect::client(&args.remote).await?;
    let files = |sandbox: &str| {
        let files = client.sandbox(sandbox).files();
        match &args.user {
            Some(user) => files.as_user(user),
            None => files,
        }
    };
    let bytes = match (from, to) {
        (Place::Inside { sandbox, path }, Place::Here(to)) => download(&files(&sandbox), &path, &to).await?,
        (Place::Inside { sandbox, path }, Place::Stdio) => to_stdout(&files(&sandbox), &path).await?,
        (Place::Here(from), Place::Inside { sandbox, path }) => upload(&files(&sandbox), &from, path).await?,
        (Place::Stdio, Place::Inside { sandbox, path }) => from_stdin(&files(&sandbox), &path).await?,
        _ => {
            return Err(Failure::usage("one side is a sandbox's path and the other is not")
                .hint("for example `csb cp data.csv SANDBOX:/workspace/`"));
        }
    };
    if json { print::json(&serde_json::json!({ "bytes": bytes })) } else { Ok(()) }
}

fn local(what: &str, path: &Path, error: &io::Error) -> Failure {
    Failure::because(format!("cannot {what} `{}`", path.display()), error)
}

async fn to_stdout(files: &Files, path: &str) -> Outcome<u64> {
    let (mut stream, _) = files.read_stream(path, ReadRange::default()).await?;
    let mut stdout = crate::stdio::Stdio::stdout();
    let mut bytes = 0;
    while let Some(chunk) = stream.next().await {
        let chunk = chunk?;
        stdout.write_all(&chunk).await.map_err(|e| print::written(&e))?;
        bytes += chunk.len() as u64;
    }
    Ok(bytes)
}

async fn download(files: &Files, path: &str, to: &Path) -> Outcome<u64> {
    let entry = files.stat(path).await?;
    let target = if to.is_dir() && !is_root(path) { to.join(plain_name(&entry.name)?) } else { to.to_owned() };
    if entry.kind == FileKind::Directory {
        return download_directory(files, path, &target).await;
    }
    let (stream, size) = files.read_stream(path, ReadRange::default()).await?;
    let parent = target.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(parent).map_err(|e| local("write into", parent, &e))?;
    let bytes = save(stream, size, file.as_file_mut(), &target).await?;
    let mode = u32::from_str_radix(&entry.mode, 8).unwrap_or(0o644) & 0o777;
    let finish = file.as_file().set_permissions(fs::Permissions::from_mode(mode));
    finish.map_err(|e| local("set the mode of", &target, &e))?;
    file.persist(&target).map_err(|e| local("write", &target, &e.error))?;
    Ok(bytes)
}

fn is_root(path: &str) -> bool {
    path.bytes().all(|b| b == b'/')
}

/// A name that the sandbox chose, as one component here.
fn plain_name(name: &str) -> Outcome<&str> {
    if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']) {
        return Err(Failure::new(format!("the server names the file `{name}`")).hint("name the file to write to"));
    }
    Ok(name)
}

async fn save(mut stream: ByteStream, size: Option<u64>, file: &mut fs::File, target: &Path) -> Outcome<u64> {
    let bar = progress::bytes(size, "downloading");
    let mut bytes = 0;
    while let Some(chunk) = stream.next().await {
        let chunk = chunk?;
        file.write_all(&chunk).map_err(|e| local("write", target, &e))?;
        bytes += chunk.len() as u64;
        bar.at(bytes);
    }
    Ok(bytes)
}

async fn download_directory(files: &Files, path: &str, target: &Path) -> Outcome<u64> {
    fs::create_dir_all(target).map_err(|e| local("make directory", target, &e))?;
    let mut stream = files.pack(path).await?;
    let (sender, receiver) = mpsc::channel::<Bytes>(4);
    let target = target.to_owned();
    let unpacking = tokio::task::spawn_blocking(move || unpack(Received::new(receiver), &target));
    let bar = progress::bytes(None, "downloading");
    let mut seen = 0;
    while let Some(chunk) = stream.next().await {
        let chunk = chunk?;
        seen += chunk.len() as u64;
        bar.at(seen);
        if sender.send(chunk).await.is_err() {
            break;
        }
    }
    drop(sender);
    unpacking.await.map_err(|e| Failure::because("cannot unpack", &e))?
}

/// A channel as a blocking reader.
struct Received {
    receiver: mpsc::Receiver<Bytes>,
    rest: Bytes,
}

impl Received {
    fn new(receiver: mpsc::Receiver<Bytes>) -> Self {
        Self { receiver, rest: Bytes::new() }
    }
}

impl Read for Received {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() {
            match self.receiver.blocking_recv() {
                Some(bytes) => self.rest = bytes,
                None => return Ok(0),
            }
        }
        let count = buffer.len().min(self.rest.len());
        buffer[..count].copy_from_slice(&self.rest.split_to(count));
        Ok(count)
    }
}

fn unpack(archive: impl Read, target: &Path) -> Outcome<u64> {
    let broken = |e: io::Error| Failure::because("the archive from the sandbox cannot be unpacked", &e);
    let mut archive = tar::Archive::new(archive);
    archive.set_preserve_permissions(false);
    archive.set_preserve_ownerships(false);
    archive.set_unpack_xattrs(false);
    let mut bytes = 0;
    for entry in archive.entries().map_err(broken)? {
        let mut entry = entry.map_err(broken)?;
        let kind = entry.header().entry_type();
        if !(kind.is_file() || kind.is_dir() || kind.is_symlink()) {
            continue;
        }
        let path = entry.path().map(|p| p.into_owned()).map_err(broken)?;
        // `unpack_in` resolves the parent and answers false to a path that leads out of the target.
        if !entry.unpack_in(target).map_err(|e| local("unpack", &path, &e))? {
            return Err(Failure::new(format!("the archive names `{}`, which leads out of it", path.display())));
        }
        bytes += entry.header().size().unwrap_or(0);
    }
    Ok(bytes)
}

async fn upload(files: &Files, from: &Path, mut path: String) -> Outcome<u64> {
    let meta = fs::metadata(from).map_err(|e| local("read", from, &e))?;
    let existing = match files.stat(&path).await {
        Ok(entry) => Some(entry.kind),
        Err(error) if error.code() == Some("file_not_found") => None,
        Err(error) => return Err(error.into()),
    };
    if existing == Some(FileKind::Directory) || path.ends_with('/') {
        let name = fs::canonicalize(from).map_err(|e| local("read", from, &e))?;
        let name = name.file_name().and_then(|n| n.to_str()).unwrap_or("root").to_owned();
        path = format!("{}/{name}", path.trim_end_matches('/'));
    }
    if meta.is_dir() {
        files.make_dir(&path).await?;
        return upload_directory(files, from, &path).await;
    }
    let file = fs::File::open(from).map_err(|e| local("read", from, &e))?;
    let options = WriteOptions { mode: Some(meta.permissions().mode() & 0o777), append: false };
    let body = counted(chunks(file), Some(meta.len()), "uploading");
    Ok(files.write_stream(&path, body, options).await.map_err(uploaded)?.size)
}

fn uploaded(error: Error) -> Failure {
    error.into()
}

async fn from_stdin(files: &Files, path: &str) -> Outcome<u64> {
    let body = chunks(io::stdin());
    Ok(files.write_stream(path, body, WriteOptions::default()).await?.size)
}

async fn upload_directory(files: &Files, from: &Path, path: &str) -> Outcome<u64> {
    let (sender, receiver) = mpsc::channel(4);
    let from = from.to_owned();
    tokio::task::spawn_blocking(move || {
        let sink = Sent { sender: sender.clone() };
        if let Err(error) = pack(&from, io::BufWriter::with_capacity(CHUNK, sink)) {
            // An error in the body makes the request fail, so that half a directory never looks whole.
            let _ = sender.blocking_send(Err(error));
        }
    });
    let body = counted(received(receiver), None, "uploading");
    Ok(files.unpack(path, body).await?)
}

fn pack(from: &Path, sink: impl Write) -> io::Result<()> {
    let mut builder = tar::Builder::new(sink);
    builder.follow_symlinks(false);
    builder.append_dir_all(".", from)?;
    builder.into_inner()?.flush()
}

/// A channel as a blocking writer.
struct Sent {
    sender: mpsc::Sender<io::Result<Bytes>>,
}

impl Write for Sent {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let sent = self.sender.blocking_send(Ok(Bytes::copy_from_slice(bytes)));
        sent.map(|()| bytes.len()).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A blocking reader as a stream.
fn chunks(mut reader: impl Read + Send + 'static) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    let (sender, receiver) = mpsc::channel(4);
    tokio::task::spawn_blocking(move || {
        loop {
            let mut buffer = vec![0; CHUNK];
            let chunk = match reader.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => {
                    buffer.truncate(count);
                    Ok(Bytes::from(buffer))
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => Err(error),
            };
            let failed = chunk.is_err();
            if sender.blocking_send(chunk).is_err() || failed {
                break;
            }
        }
    });
    received(receiver)
}

fn received(receiver: mpsc::Receiver<io::Result<Bytes>>) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    futures_util::stream::unfold(receiver, async |mut receiver| Some((receiver.recv().await?, receiver)))
}

fn counted(
    stream: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
    size: Option<u64>,
    what: &'static str,
) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    let bar = progress::bytes(size, what);
    let mut seen = 0;
    stream.inspect(move |chunk| {
        seen += chunk.as_ref().map_or(0, |c| c.len() as u64);
        bar.at(seen);
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_side_with_a_colon_is_a_sandbox_unless_it_is_a_path() {
        let inside = |sandbox: &str, path: &str| Place::Inside { sandbox: sandbox.into(), path: path.into() };
        assert_eq!(Place::read("sb-x:/a:b").unwrap(), inside("sb-x", "/a:b"));
        assert_eq!(Place::read("./a:b").unwrap(), Place::Here("./a:b".into()));
        assert_eq!(Place::read("-").unwrap(), Place::Stdio);
        assert!(Place::read("sb-x:relative").is_err());
    }

    /// Name, kind, where a link points, content.
    type Entry<'a> = (&'a str, tar::EntryType, &'a str, &'a [u8]);

    fn archive(entries: &[Entry]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, kind, link, data) in entries {
            let mut header = tar::Header::new_gnu();
            // Written past the checks of the builder, as a hostile program would.
            header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
            header.as_gnu_mut().unwrap().linkname[..link.len()].copy_from_slice(link.as_bytes());
            header.set_entry_type(*kind);
            header.set_mode(0o6755);
            header.set_size(data.len() as u64);
            header.set_cksum();
            builder.append(&header, *data).unwrap();
        }
        builder.into_inner().unwrap()
    }

    #[test]
    fn a_hostile_archive_writes_nothing_outside_its_directory() {
        use tar::EntryType as T;
        let attempts: [&[Entry]; 4] = [
            &[("../escaped", T::Regular, "", b"x")],
            &[("/escaped-absolute", T::Regular, "", b"x")],
            &[("link", T::Symlink, "..", b""), ("link/escaped", T::Regular, "", b"x")],
            &[("a/../../escaped", T::Regular, "", b"x")],
        ];
        for entries in attempts {
            let top = tempfile::tempdir().unwrap();
            let target = top.path().join("target");
            fs::create_dir(&target).unwrap();
            let _ = unpack(archive(entries).as_slice(), &target);
            assert!(!top.path().join("escaped").exists(), "{:?}", entries[0].0);
            assert!(!Path::new("/escaped-absolute").exists());
        }
    }

    #[test]
    fn an_archive_makes_only_files_directories_and_links_without_special_bits() {
        use tar::EntryType as T;
        let top = tempfile::tempdir().unwrap();
        let entries: &[Entry] = &[
            ("d", T::Directory, "", b""),
            ("d/f", T::Regular, "", b"hello"),
            ("fifo", T::Fifo, "", b""),
            ("hard", T::Link, "/etc/passwd", b""),
        ];
        assert_eq!(unpack(archive(entries).as_slice(), top.path()).unwrap(), 5);
        let file = fs::metadata(top.path().join("d/f")).unwrap();
        assert_eq!((file.len(), file.permissions().mode() & 0o7000), (5, 0));
        assert!(!top.path().join("fifo").exists() && !top.path().join("hard").exists());
    }
}
