//! Frames between server, warden and init, and between server and the file helper inside a sandbox.
//!
//! Every frame is one enum value in postcard. Between server, warden and init it travels as one `SOCK_SEQPACKET`
//! message, with descriptors beside it (`csb_sys::Packet`); the file helper speaks length-prefixed frames over a stream socket.
//! Knows nothing of sockets: this crate only turns values into bytes and back.

mod file;
pub mod guest;
mod init;
pub mod machine;
mod plan;
mod warden;

pub use file::{
    CHUNK, FileFrame, FileReply, FileRequest, FrameError, HEADER, MOST_FRAME, Tag, decode_header, encode_header,
};
pub use init::{ExecPlan, FromInit, ToInit};
pub use plan::{Begin, Bind, JailPlan, MOST_DESCRIPTORS, UpperPlan};
pub use warden::{Failure, FromWarden, Jail, Mode, ToWarden};

use serde::{Serialize, de::DeserializeOwned};

/// Raised when a frame's meaning changes; a server and a warden of different versions do not talk.
pub const VERSION: u32 = 5;

/// A frame that is not one of ours, or is cut short.
#[derive(Debug, thiserror::Error)]
#[error("malformed frame")]
pub struct DecodeError(#[source] postcard::Error);

/// A value as a frame's bytes.
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    postcard::to_stdvec(value).expect("frames hold no type that postcard cannot write")
}

/// A frame's bytes as a value; left-over bytes are an error.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    let (value, rest) = postcard::take_from_bytes(bytes).map_err(DecodeError)?;
    if !rest.is_empty() {
        return Err(DecodeError(postcard::Error::DeserializeBadEncoding));
    }
    Ok(value)
}
