//! Files of a sandbox, streamed in both directions.

use crate::{
    Error, Sandbox,
    transport::{Repeat, parse},
};
use bytes::Bytes;
use csb_api::{FileEntryView, FileListView, MkdirRequest, MoveRequest, UnpackView};
use futures_util::{Stream, StreamExt, stream::BoxStream};
use reqwest::{Body, Method, RequestBuilder};
use std::io;

/// Bytes as they arrive.
pub type ByteStream = BoxStream<'static, Result<Bytes, Error>>;

/// Which part of a file to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReadRange {
    /// First byte.
    pub offset: u64,
    /// How many; none: to the end.
    pub length: Option<u64>,
}

/// How to write a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WriteOptions {
    /// Permission bits; the server's default is `0o644`.
    pub mode: Option<u32>,
    /// Adds to the end instead of replacing the file.
    pub append: bool,
}

/// Files of one sandbox, as one of its users.
#[derive(Debug, Clone)]
pub struct Files {
    sandbox: Sandbox,
    user: Option<String>,
}

impl Files {
    pub(crate) fn new(sandbox: Sandbox) -> Self {
        Self { sandbox, user: None }
    }

    /// The same files with the rights of another user inside.
    pub fn as_user(mut self, user: impl Into<String>) -> Self {
        self.user = Some(user.into());
        self
    }

    fn request(&self, method: Method, leaf: &str, path: &str) -> RequestBuilder {
        let query = [("path", Some(path)), ("user", self.user.as_deref())];
        let query: Vec<_> = query.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
        self.sandbox.client.transport.request(method, &format!("{}/{leaf}", self.sandbox.path)).query(&query)
    }

    async fn stream(
        &self,
        what: &'static str,
        build: impl Fn() -> RequestBuilder,
    ) -> Result<(ByteStream, Option<u64>), Error> {
        let response = self.sandbox.client.transport.send(what, Repeat::Always, build).await?;
        let size = response.content_length();
        let bytes = response.bytes_stream();
        Ok((bytes.map(move |b| b.map_err(|e| Error::Lost { what, source: e.into() })).boxed(), size))
    }

    /// Reads a file as it arrives, with its size where the server knows it.
    pub async fn read_stream(&self, path: &str, range: ReadRange) -> Result<(ByteStream, Option<u64>), Error> {
        self.stream("read a file", || {
            let request = self.request(Method::GET, "files", path);
            let request = if range.offset > 0 { request.query(&[("offset", range.offset)]) } else { request };
            match range.length {
                Some(length) => request.query(&[("length", length)]),
                None => request,
            }
        })
        .await
    }

    /// Reads a whole file.
    pub async fn read(&self, path: &str) -> Result<Vec<u8>, Error> {
        let (mut stream, size) = self.read_stream(path, ReadRange::default()).await?;
        let mut all = Vec::with_capacity(size.unwrap_or(0).min(1 << 20) as usize);
        while let Some(bytes) = stream.next().await {
            all.extend_from_slice(&bytes?);
        }
        Ok(all)
    }

    /// Writes a whole file: the old one stays until the new one is complete.
    pub async fn write(
        &self,
        path: &str,
        bytes: impl Into<Bytes>,
        options: WriteOptions,
    ) -> Result<FileEntryView, Error> {
        let bytes = bytes.into();
        // Adding twice is not the same as adding once.
        let repeat = if options.append { Repeat::UnlessSeen } else { Repeat::Always };
        let build = || self.put(path, options).body(bytes.clone());
        self.sandbox.client.transport.json("write a file", repeat, build).await
    }

    /// Writes a file from a stream, which cannot be repeated.
    pub async fn write_stream(
        &self,
        path: &str,
        body: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
        options: WriteOptions,
    ) -> Result<FileEntryView, Error> {
        self.upload("write a file", self.put(path, options), body).await
    }

    fn put(&self, path: &str, options: WriteOptions) -> RequestBuilder {
        let mut query = Vec::new();
        query.extend(options.mode.map(|mode| ("mode", format!("{mode:o}"))));
        query.extend(options.append.then(|| ("append", "true".to_owned())));
        self.request(Method::PUT, "files", path).query(&query)
    }

    async fn upload<T: serde::de::DeserializeOwned>(
        &self,
        what: &'static str,
        request: RequestBuilder,
        body: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
    ) -> Result<T, Error> {
        let transport = &self.sandbox.client.transport;
        let response = match request.body(Body::wrap_stream(body)).send().await {
            Ok(response) if response.status().is_success() => response,
            Ok(response) => return Err(Error::Api(Box::new(crate::transport::refusal(response).await))),
            Err(source) if source.is_connect() => return Err(Error::Connect { url: transport.base.clone(), source }),
            Err(source) => return Err(Error::Lost { what, source: source.into() }),
        };
        let answer = response.bytes().await.map_err(|source| Error::Lost { what, source: source.into() })?;
        parse(&answer)
    }

    /// A directory's entries down to `depth` (none: all the way), at most `limit`.
    pub async fn list(&self, path: &str, depth: Option<u32>, limit: u32) -> Result<FileListView, Error> {
        let depth = match depth {
            Some(depth) => ("depth", depth.to_string()),
            None => ("recursive", "true".to_owned()),
        };
        let query = [depth, ("limit", limit.to_string())];
        let build = || self.request(Method::GET, "files/list", path).query(&query);
        self.sandbox.client.transport.json("list files", Repeat::Always, build).await
    }

    /// What a path is.
    pub async fn stat(&self, path: &str) -> Result<FileEntryView, Error> {
        let build = || self.request(Method::GET, "files/stat", path);
        self.sandbox.client.transport.json("look at a file", Repeat::Always, build).await
    }

    /// Makes a directory and those above it.
    pub async fn make_dir(&self, path: &str) -> Result<(), Error> {
        let body = MkdirRequest { path: path.into(), user: self.user.clone() };
        self.post("make a directory", "files/mkdir", &body, Repeat::Always).await
    }

    /// Moves or renames.
    pub async fn rename(&self, from: &str, to: &str) -> Result<(), Error> {
        let body = MoveRequest { from: from.into(), to: to.into(), user: self.user.clone() };
        self.post("move a file", "files/move", &body, Repeat::UnlessSeen).await
    }

    async fn post(
        &self,
        what: &'static str,
        leaf: &str,
        body: &impl serde::Serialize,
        repeat: Repeat,
    ) -> Result<(), Error> {
        let path = format!("{}/{leaf}", self.sandbox.path);
        self.sandbox.client.transport.post_nothing(what, repeat, &path, body).await
    }

    /// Removes a file, or with `recursive` a directory and all in it.
    pub async fn remove(&self, path: &str, recursive: bool) -> Result<(), Error> {
        let build = || {
            let request = self.request(Method::DELETE, "files", path);
            if recursive { request.query(&[("recursive", true)]) } else { request }
        };
        self.sandbox.client.transport.send("remove a file", Repeat::Always, build).await.map(drop)
    }

    /// A file or directory as a tar stream.
    pub async fn pack(&self, path: &str) -> Result<ByteStream, Error> {
        let (stream, _) = self.stream("pack files", || self.request(Method::GET, "archive", path)).await?;
        Ok(stream)
    }

    /// Unpacks a tar stream into a directory; returns the bytes of its files.
    pub async fn unpack(
        &self,
        path: &str,
        body: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
    ) -> Result<u64, Error> {
        let request = self.request(Method::PUT, "archive", path).header("Content-Type", "application/x-tar");
        let unpacked: UnpackView = self.upload("unpack files", request, body).await?;
        Ok(unpacked.bytes)
    }
}
