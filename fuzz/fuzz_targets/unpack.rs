//! Archives that a sandbox's user unpacks: nothing outside the directory is made, changed or removed.
#![no_main]

use arbitrary::Unstructured;
use csb_wire::{FileRequest, Tag, encode_header};
use std::{
    fs,
    io::{Read, Write},
    os::{fd::OwnedFd, unix::net::UnixStream},
};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    csb_fuzz::cage();
    fs::write("/canary", "canary").expect("the cage can be written");
    fs::create_dir("/w").expect("the cage can be written");
    let mut archive = csb_fuzz::tar(&mut Unstructured::new(data)).unwrap_or_else(|_| data.to_vec());
    archive.truncate(96 * 1024);
    let (mut server, helper) = UnixStream::pair().expect("a socket");
    for chunk in archive.chunks(4096) {
        server.write_all(&encode_header(Tag::Data, chunk.len())).expect("the socket takes it");
        server.write_all(chunk).expect("the socket takes it");
    }
    server.write_all(&encode_header(Tag::Finish, 0)).expect("the socket takes it");
    let helper = OwnedFd::from(helper);
    csb_warden::fuzzing::file_operation(&helper, &FileRequest::Unpack { path: "/w".into() }).expect("it answers");
    drop(helper);
    let mut answer = Vec::new();
    server.read_to_end(&mut answer).expect("there is an answer");
    assert!(answer.len() > 5 && answer[0] == Tag::End as u8);
    assert_eq!(fs::read("/canary").expect("the canary is there"), b"canary");
    assert_eq!(fs::read_dir("/").expect("the cage can be read").count(), 2, "something was made outside");
    csb_fuzz::sweep();
});
