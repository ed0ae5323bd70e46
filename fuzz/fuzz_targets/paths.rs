//! Paths: what passes the check of the file helper is plain, and what is opened or made beneath a directory lies beneath it.
#![no_main]

use arbitrary::Unstructured;
use csb_sys::mount::{make_beneath, open_beneath};
use rustix::fs::{Mode, OFlags};
use std::{
    fs,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::{MetadataExt, symlink},
    },
    path::{Component, Path},
};

fn number(fd: &OwnedFd) -> u64 {
    rustix::fs::fstat(fd).expect("an open place").st_ino
}

/// Every inode below, the top included; links are not followed.
fn below(path: &Path, found: &mut Vec<u64>) {
    let meta = fs::symlink_metadata(path).expect("a place of the cage");
    found.push(meta.ino());
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            below(&entry.path(), found);
        } else {
            found.push(entry.metadata().expect("a place of the cage").ino());
        }
    }
}

fn run(u: &mut Unstructured<'_>) -> arbitrary::Result<()> {
    fs::create_dir_all("/w/dir/a").expect("the cage can be written");
    fs::create_dir("/outside").expect("the cage can be written");
    for _ in 0..u.int_in_range(0..=4)? {
        // Links that lead anywhere, as a hostile image has them.
        let (at, to) = (csb_fuzz::name(u)?, csb_fuzz::name(u)?);
        if !at.contains("..") && !at.contains('\0') && !to.contains('\0') {
            let _ = symlink(to, Path::new("/w").join(at.trim_start_matches('/')));
        }
    }
    let root = rustix::fs::open("/w", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).expect("the root is there");
    for _ in 0..4 {
        let path = csb_fuzz::name(u)?;
        if let Some(plain) = csb_warden::fuzzing::clean(&path) {
            assert!(plain.is_absolute() && !path.contains('\0') && path.len() < 4096);
            assert!(!plain.components().any(|part| part == Component::ParentDir));
        }
        let found = if u.arbitrary()? { open_beneath(&root, &path) } else { make_beneath(&root, &path) };
        if let Ok(found) = found {
            let mut inside = Vec::new();
            below(Path::new("/w"), &mut inside);
            assert!(inside.contains(&number(&found)), "`{path}` led to descriptor {} outside", found.as_raw_fd());
        }
        assert_eq!(fs::read_dir("/outside").expect("the place outside").count(), 0);
    }
    Ok(())
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    csb_fuzz::cage();
    let _ = run(&mut Unstructured::new(data));
    csb_fuzz::sweep();
});
