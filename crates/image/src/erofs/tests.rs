//! Trees are written and read back by the kernel. They need root, which alone may mount.

use super::*;
use csb_sys::mount::Tree;
use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};

/// An image of `from`, mounted: its root as a path for as long as the tree lives.
fn mounted(from: &Path, aside: &Path) -> (Tree, PathBuf) {
    assert!(rustix::process::geteuid().is_root(), "these tests mount what they wrote and need root");
    let path = aside.join("image");
    let image = File::options().create(true).truncate(true).read(true).write(true).open(&path).unwrap();
    let mut last = 0;
    let written = write(from, &image, [7; 16], Caps::default(), &mut |bytes| last = bytes).unwrap();
    assert_eq!((written.bytes, last), (image.metadata().unwrap().len(), written.bytes));
    let tree = Tree::of_image(File::open(&path).unwrap()).unwrap();
    let root = PathBuf::from(format!("/proc/self/fd/{}", tree.as_fd().as_raw_fd()));
    (tree, root)
}

/// What can be told of an entry.
#[derive(Debug, PartialEq, Eq)]
struct Facts {
    mode: u32,
    owner: (u32, u32),
    links: u64,
    modified: (i64, i64),
    content: Vec<u8>,
}

fn all(root: &Path) -> BTreeMap<PathBuf, Facts> {
    let mut found = BTreeMap::new();
    let mut left = vec![PathBuf::new()];
    while let Some(path) = left.pop() {
        let full = root.join(&path);
        // The root itself is behind a link of `/proc`.
        let meta = if path == Path::new("") { full.metadata() } else { full.symlink_metadata() }.unwrap();
        let kind = meta.file_type();
        let content = if kind.is_file() {
            std::fs::read(&full).unwrap()
        } else if kind.is_symlink() {
            std::fs::read_link(&full).unwrap().as_os_str().as_bytes().to_vec()
        } else {
            if kind.is_dir() {
                left.extend(std::fs::read_dir(&full).unwrap().map(|entry| path.join(entry.unwrap().file_name())));
            }
            Vec::new()
        };
        let facts = Facts {
            mode: meta.mode(),
            owner: (meta.uid(), meta.gid()),
            links: meta.nlink(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            content,
        };
        found.insert(path, facts);
    }
    found
}

#[test]
fn a_tree_is_read_back_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let from = dir.path().join("from");
    std::fs::create_dir(&from).unwrap();
    for size in [0, 1, 4095, 4096, 4097, 8192, 1_000_000] {
        let content: Vec<u8> = (0..size).map(|i: u32| (i / 7) as u8).collect();
        std::fs::write(from.join(format!("size-{size}")), content).unwrap();
    }
    for length in [1, 31, 2000, 4031, 4032, 4033, 4094] {
        symlink("x".repeat(length), from.join(format!("link-{length}"))).unwrap();
    }
    std::fs::hard_link(from.join("size-1"), from.join("again")).unwrap();
    std::fs::create_dir(from.join("empty")).unwrap();
    std::fs::hard_link(from.join("size-1"), from.join("empty/again")).unwrap();
    // Names before and after `.`, names of one byte and of 255, more than a block of each, and none of text.
    std::fs::create_dir(from.join("many")).unwrap();
    for i in 0..600 {
        for name in [format!("{i}"), format!("!{i}"), format!("-{i:0>250}"), format!("~{i}")] {
            std::fs::write(from.join("many").join(name), "").unwrap();
        }
    }
    std::fs::write(from.join("many").join(std::ffi::OsStr::from_bytes(b"\xff\xfe\n")), "odd").unwrap();
    let deep = (0..200).fold(from.clone(), |path, i| path.join(format!("d{i}")));
    std::fs::create_dir_all(&deep).unwrap();
    std::fs::write(deep.join("bottom"), "here").unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, from.join("fifo"), FileType::Fifo, rustix::fs::Mode::from_raw_mode(0o640), 0)
        .unwrap();
    std::os::unix::fs::chown(from.join("size-4096"), Some(33), Some(65_535)).unwrap();
    std::fs::set_permissions(from.join("many"), std::fs::Permissions::from_mode(0o1777)).unwrap();
    std::fs::set_permissions(from.join("size-0"), std::fs::Permissions::from_mode(0o000)).unwrap();

    let (_tree, root) = mounted(&from, dir.path());
    let (there, here) = (all(&root), all(&from));
    assert_eq!(there.len(), here.len());
    for (path, facts) in here {
        assert_eq!(there[&path], facts, "{}", path.display());
    }
    assert!(root.join("fifo").symlink_metadata().unwrap().file_type().is_fifo());
    assert!(!root.join("many/absent").exists());
}

#[test]
fn what_has_no_place_in_a_sandbox_is_not_kept() {
    let dir = tempfile::tempdir().unwrap();
    let from = dir.path().join("from");
    std::fs::create_dir(&from).unwrap();
    std::fs::write(from.join("set-id"), "").unwrap();
    std::fs::set_permissions(from.join("set-id"), std::fs::Permissions::from_mode(0o6755)).unwrap();
    std::fs::write(from.join("stranger"), "").unwrap();
    std::os::unix::fs::chown(from.join("stranger"), Some(100_000), Some(65_536)).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(from.join("socket")).unwrap();
    let (_tree, root) = mounted(&from, dir.path());
    let mut found = all(&root);
    assert_eq!(found.remove(Path::new("set-id")).unwrap().mode, 0o100_755);
    assert_eq!(found.remove(Path::new("stranger")).unwrap().owner, (65_534, 65_534));
    assert_eq!(found.into_keys().collect::<Vec<_>>(), [PathBuf::new()]);
}

#[test]
fn two_mounts_of_an_image_share_no_inode() {
    let dir = tempfile::tempdir().unwrap();
    let from = dir.path().join("from");
    std::fs::create_dir(&from).unwrap();
    std::fs::write(from.join("file"), "x").unwrap();
    let (_one, first) = mounted(&from, dir.path());
    let other = Tree::of_image(File::open(dir.path().join("image")).unwrap()).unwrap();
    let second = PathBuf::from(format!("/proc/self/fd/{}/file", other.as_fd().as_raw_fd()));
    assert_ne!(first.join("file").metadata().unwrap().dev(), second.metadata().unwrap().dev());
}

#[test]
fn an_image_on_an_overlay_is_mounted_through_a_device_that_goes_with_the_mount() {
    let dir = tempfile::tempdir().unwrap();
    let place = |name: &str| {
        let path = dir.path().join(name);
        std::fs::create_dir(&path).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (lower, upper, work, from) = (place("lower"), place("upper"), place("work"), place("from"));
    std::fs::write(Path::new(&from).join("file"), "through a device").unwrap();
    let options = [("lowerdir", Some(&*lower)), ("upperdir", Some(&*upper)), ("workdir", Some(&*work))];
    let overlay = Tree::new("overlay", &options, Default::default()).unwrap();
    let aside = PathBuf::from(format!("/proc/self/fd/{}", overlay.as_fd().as_raw_fd()));
    let (tree, root) = mounted(Path::new(&from), &aside);
    assert_eq!(std::fs::read(root.join("file")).unwrap(), b"through a device");
    // Major 7: a loop device.
    let device = rustix::fs::major(root.join("file").metadata().unwrap().dev());
    assert_eq!(device, 7);
    let minor = rustix::fs::minor(root.join("file").metadata().unwrap().dev());
    drop(tree);
    let backing = PathBuf::from(format!("/sys/block/loop{minor}/loop/backing_file"));
    // The last close frees it, a moment later.
    for _ in 0..200 {
        if !std::fs::read_to_string(&backing).is_ok_and(|file| file.trim_end().ends_with("/image")) {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("the device is still there");
}

#[test]
fn a_tree_past_its_caps_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let from = dir.path().join("from");
    std::fs::create_dir(&from).unwrap();
    for name in ["a", "b", "c"] {
        std::fs::write(from.join(name), [1; 5000]).unwrap();
    }
    let check = |caps: Caps, expected: &str| {
        let image = tempfile::tempfile().unwrap();
        let error = write(&from, &image, [0; 16], caps, &mut |_| {}).unwrap_err();
        assert_eq!(error.to_string(), expected);
    };
    check(Caps { entries: 3, ..Caps::default() }, "the template has more than 3 entries");
    check(Caps { bytes: 20_000, ..Caps::default() }, "the template is larger than 20000 bytes");
}
