//! What everyone but the driver holds of a sandbox.

use crate::{Exec, ExecError, FileReader, OpError};
use bytes::Bytes;
use csb_types::{ExecId, ExecSpec, FileEntry, FileError, Limits, Phase, SandboxId, SandboxSpec, StartedBy, Usage};
use futures_util::Stream;
use std::{io, sync::Arc};

/// One sandbox. Clones are the same sandbox; its driver task owns all state.
#[derive(Clone, Debug)]
pub struct Handle {}

impl Handle {
    /// Which.
    pub fn id(&self) -> &SandboxId {
        unimplemented!()
    }
    /// What was asked for, with the limits as they are now.
    pub fn spec(&self) -> Arc<SandboxSpec> {
        unimplemented!()
    }
    /// Where it is in its life.
    pub fn phase(&self) -> Phase {
        unimplemented!()
    }
    /// How it came to be.
    pub fn started_by(&self) -> StartedBy {
        unimplemented!()
    }
    /// From request to ready, µs.
    pub fn start_micros(&self) -> u64 {
        unimplemented!()
    }
    /// When it was handed out, ms since 1970.
    pub fn created_ms(&self) -> i64 {
        unimplemented!()
    }
    /// Starts a command; returns once it runs or was refused.
    pub async fn exec(&self, _spec: ExecSpec) -> Result<Exec, ExecError> {
        unimplemented!()
    }
    /// Running and recently ended execs, oldest first.
    pub fn execs(&self) -> Vec<Exec> {
        unimplemented!()
    }
    /// One of `execs`.
    pub fn find_exec(&self, _id: &ExecId) -> Option<Exec> {
        unimplemented!()
    }
    /// Freezes every process; memory is kept.
    pub async fn pause(&self) -> Result<(), OpError> {
        unimplemented!()
    }
    /// Undoes `pause`.
    pub async fn resume(&self) -> Result<(), OpError> {
        unimplemented!()
    }
    /// Changes memory, CPU and pids limits; the others must stay as they are.
    pub async fn set_limits(&self, _limits: Limits) -> Result<(), OpError> {
        unimplemented!()
    }
    /// What it uses.
    pub async fn usage(&self) -> Result<Usage, OpError> {
        unimplemented!()
    }
    /// Ends it; returns when nothing is left of it. A second call is not an error.
    pub async fn release(&self) -> Result<(), OpError> {
        unimplemented!()
    }
    /// Waits until it is gone, for whatever reason.
    pub async fn gone(&self) {
        unimplemented!()
    }
    /// Streams a regular file; `length` none: to its end. `user` none: uid 1000, here and below.
    pub async fn read_file(
        &self,
        _user: Option<&str>,
        _path: &str,
        _offset: u64,
        _length: Option<u64>,
    ) -> Result<FileReader, FileError> {
        unimplemented!()
    }
    /// Replaces a file at once, or appends to it. An error in `body` leaves the old file.
    pub async fn write_file(
        &self,
        _user: Option<&str>,
        _path: &str,
        _mode: Option<u32>,
        _append: bool,
        _body: impl Stream<Item = io::Result<Bytes>> + Send,
    ) -> Result<FileEntry, FileError> {
        unimplemented!()
    }
    /// Entries of a directory sorted by path, and whether `limit` cut the list. `depth` 1: the directory itself.
    pub async fn list_files(
        &self,
        _user: Option<&str>,
        _path: &str,
        _depth: u32,
        _limit: u32,
    ) -> Result<(Vec<FileEntry>, bool), FileError> {
        unimplemented!()
    }
    /// One entry; links are not followed.
    pub async fn stat_file(&self, _user: Option<&str>, _path: &str) -> Result<FileEntry, FileError> {
        unimplemented!()
    }
    /// Makes a directory and its missing parents.
    pub async fn make_dir(&self, _user: Option<&str>, _path: &str) -> Result<FileEntry, FileError> {
        unimplemented!()
    }
    /// Renames.
    pub async fn move_file(&self, _user: Option<&str>, _from: &str, _to: &str) -> Result<FileEntry, FileError> {
        unimplemented!()
    }
    /// Removes a file, a link or a directory.
    pub async fn remove_file(&self, _user: Option<&str>, _path: &str, _recursive: bool) -> Result<(), FileError> {
        unimplemented!()
    }
    /// Streams a directory or file as a tar archive.
    pub async fn pack(&self, _user: Option<&str>, _path: &str) -> Result<FileReader, FileError> {
        unimplemented!()
    }
    /// Unpacks a tar archive below a directory; returns the bytes of file content written.
    pub async fn unpack(
        &self,
        _user: Option<&str>,
        _path: &str,
        _body: impl Stream<Item = io::Result<Bytes>> + Send,
    ) -> Result<u64, FileError> {
        unimplemented!()
    }
}
