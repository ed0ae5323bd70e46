//! File operations of one sandbox: the server's side of the protocol with the file helper.

use bytes::Bytes;
use csb_types::FileError;

/// A file or archive that is being read.
#[derive(Debug)]
pub struct FileReader {}

impl FileReader {
    /// The next piece, never empty; none at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, FileError> {
        unimplemented!()
    }
}
