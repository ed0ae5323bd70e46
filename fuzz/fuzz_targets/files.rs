//! The file helper: any requests with any uploads, one after the other, are each answered by one whole last frame, and leave
//! no temporary file.
#![no_main]

use arbitrary::Unstructured;
use csb_types::FileError;
use csb_wire::{FileReply, FileRequest, HEADER, Tag, decode, decode_header, encode_header};
use std::{
    fs,
    io::{Read, Write},
    os::{
        fd::OwnedFd,
        unix::{fs::symlink, net::UnixStream},
    },
};

fn request(u: &mut Unstructured<'_>) -> arbitrary::Result<FileRequest> {
    let path = csb_fuzz::name(u)?;
    Ok(match u.int_in_range(0..=8)? {
        0 => FileRequest::Read { path, offset: u.arbitrary()?, length: u.arbitrary()? },
        1 => FileRequest::Write { path, mode: u.arbitrary()?, append: u.arbitrary()? },
        2 => FileRequest::List { path, depth: u.arbitrary()?, limit: u.arbitrary()? },
        3 => FileRequest::Stat { path },
        4 => FileRequest::MakeDir { path },
        5 => FileRequest::Move { from: path, to: csb_fuzz::name(u)? },
        6 => FileRequest::Remove { path, recursive: u.arbitrary()? },
        7 => FileRequest::Pack { path },
        _ => FileRequest::Unpack { path },
    })
}

/// All frames of an answer; the last one is the end.
fn end(mut answer: &[u8]) -> Result<FileReply, FileError> {
    loop {
        let (header, rest) = answer.split_first_chunk::<HEADER>().expect("a whole header");
        let (tag, length) = decode_header(*header).expect("a header of ours");
        let (payload, rest) = rest.split_at_checked(length).expect("a whole frame");
        if tag == Tag::End {
            assert!(rest.is_empty(), "frames behind the end");
            return decode(payload).expect("an end");
        }
        answer = rest;
    }
}

fn run(u: &mut Unstructured<'_>) -> arbitrary::Result<()> {
    let _ = symlink("/dir", "/l");
    for _ in 0..6 {
        let request = request(u)?;
        let upload = match request {
            FileRequest::Unpack { .. } => csb_fuzz::tar(&mut Unstructured::new(u.bytes(u.len().min(256))?))?,
            _ => u.bytes(u.len().min(32))?.to_vec(),
        };
        let (mut server, helper) = UnixStream::pair().expect("a socket");
        let helper = OwnedFd::from(helper);
        // Frames as they should be, or any bytes; cut off or ended.
        if u.ratio(7, 8)? {
            let _ = server.write_all(&encode_header(Tag::Data, upload.len()));
        }
        let _ = server.write_all(&upload[..upload.len().min(64 * 1024)]);
        if u.ratio(7, 8)? {
            let _ = server.write_all(&encode_header(Tag::Finish, 0));
        }
        let _ = server.shutdown(std::net::Shutdown::Write);
        let reader = std::thread::spawn(move || {
            let mut answer = Vec::new();
            server.read_to_end(&mut answer).map(|_| answer)
        });
        let done = csb_warden::fuzzing::file_operation(&helper, &request);
        drop(helper);
        let answer = reader.join().expect("the reader ends");
        // A peer that hung up in the middle of a frame may lose the answer with it.
        if let (Ok(()), Ok(answer)) = (done, answer) {
            let _ = end(&answer);
        }
    }
    Ok(())
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    csb_fuzz::cage();
    let _ = run(&mut Unstructured::new(data));
    for entry in fs::read_dir("/").expect("the cage can be read").flatten() {
        assert!(!entry.file_name().to_string_lossy().ends_with(".part"), "a temporary file is left");
    }
    csb_fuzz::sweep();
});
