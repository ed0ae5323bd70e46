//! Frames: any bytes are a value that is written and read back the same, or an error.
#![no_main]

use csb_types::{FileEntry, FileError};
use csb_wire::{
    ExecPlan, FileReply, FileRequest, FromInit, FromWarden, HEADER, JailPlan, MOST_FRAME, ToInit, ToWarden, decode,
    decode_header, encode, encode_header,
};
use serde::{Serialize, de::DeserializeOwned};

fn check<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(bytes: &[u8]) {
    if let Ok(value) = decode::<T>(bytes) {
        let again: T = decode(&encode(&value)).expect("what was written can be read");
        assert_eq!(again, value);
    }
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((kind, bytes)) = data.split_first() else { return };
    match kind % 9 {
        0 => check::<ToWarden>(bytes),
        1 => check::<FromWarden>(bytes),
        2 => check::<ToInit>(bytes),
        3 => check::<FromInit>(bytes),
        4 => check::<JailPlan>(bytes),
        5 => check::<ExecPlan>(bytes),
        6 => check::<FileRequest>(bytes),
        7 => check::<Result<FileReply, FileError>>(bytes),
        _ => check::<FileEntry>(bytes),
    }
    if let Some(header) = bytes.first_chunk::<HEADER>()
        && let Ok((tag, length)) = decode_header(*header)
    {
        assert!(length <= MOST_FRAME);
        assert_eq!(encode_header(tag, length), *header);
    }
});
