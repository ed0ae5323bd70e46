//! One command in a sandbox, as everyone but its driver sees it.

use crate::OpError;
use bytes::Bytes;
use csb_types::{ExecId, ExecResult, ExecSpec, PtySize, Stream};

/// One command in a sandbox. Clones are the same exec.
#[derive(Clone, Debug)]
pub struct Exec {}

/// A piece of output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// Position in the combined stream after this chunk: what to resume from.
    pub seq: u64,
    /// Which stream it is from.
    pub stream: Stream,
    /// The bytes; never empty.
    pub bytes: Bytes,
}

/// Reads an exec's output from any position, at its own pace.
#[derive(Debug)]
pub struct OutputReader {}

impl Exec {
    /// Which.
    pub fn id(&self) -> &ExecId {
        unimplemented!()
    }
    /// Pid inside the sandbox.
    pub fn pid(&self) -> i32 {
        unimplemented!()
    }
    /// What was asked for. After a restart of the server without the environment, which is not written to disk.
    pub fn spec(&self) -> &ExecSpec {
        unimplemented!()
    }
    /// When it was started, ms since 1970.
    pub fn started_ms(&self) -> i64 {
        unimplemented!()
    }
    /// How it ended; none while it runs.
    pub fn result(&self) -> Option<ExecResult> {
        unimplemented!()
    }
    /// Waits for its end. All output of its first process can be read by then.
    pub async fn wait(&self) -> ExecResult {
        unimplemented!()
    }
    /// Output from byte `from` of the combined stream on (0: from the start).
    pub fn output(&self, _from: u64) -> OutputReader {
        unimplemented!()
    }
    /// All output so far: stdout (or the terminal's), stderr.
    pub async fn read_all(&self) -> (Vec<u8>, Vec<u8>) {
        unimplemented!()
    }
    /// Writes to its stdin (or terminal); returns when the pipe has taken all bytes.
    pub async fn write_stdin(&self, _bytes: Bytes) -> Result<(), OpError> {
        unimplemented!()
    }
    /// Closes its stdin; on a terminal sends an end-of-file character.
    pub async fn close_stdin(&self) -> Result<(), OpError> {
        unimplemented!()
    }
    /// Sends a signal to its first process's group or, with `tree`, to all its descendants.
    pub async fn signal(&self, _signal: i32, _tree: bool) -> Result<(), OpError> {
        unimplemented!()
    }
    /// Tells its terminal a new size.
    pub fn resize(&self, _size: PtySize) -> Result<(), OpError> {
        unimplemented!()
    }
}

impl OutputReader {
    /// The next piece; none once the exec has ended and all was delivered.
    pub async fn next(&mut self) -> Option<Chunk> {
        unimplemented!()
    }
}
