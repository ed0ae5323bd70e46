//! Archives that become templates: whatever is in one, nothing is written beside the layer, and no more than allowed.
#![no_main]

use arbitrary::Unstructured;
use csb_image::Caps;
use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
};

const CAPS: Caps = Caps { bytes: 256 * 1024, entries: 200 };

fn census(path: &Path) -> (u64, u64) {
    let (mut bytes, mut entries) = (0, 0);
    // A directory may refuse its owner.
    let _ = fs::set_permissions(path, fs::Permissions::from_mode(0o700));
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        let meta = entry.metadata().expect("an entry of the layer");
        assert_eq!(meta.mode() & 0o6000, 0, "a set-id bit: {:?}", entry.path());
        entries += 1;
        if meta.is_dir() {
            let (more, others) = census(&entry.path());
            (bytes, entries) = (bytes + more, entries + others);
        } else if meta.is_file() && meta.nlink() == 1 {
            bytes += meta.len();
        }
    }
    (bytes, entries)
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    csb_fuzz::cage();
    fs::write("/canary", "canary").expect("the cage can be written");
    let archive = csb_fuzz::tar(&mut Unstructured::new(data)).unwrap_or_else(|_| data.to_vec());
    let _ = csb_image::fuzzing::import(Path::new("/w"), CAPS, &archive);
    let (bytes, entries) = census(Path::new("/w"));
    // A path may name parents that have no entry of their own.
    assert!(bytes <= CAPS.bytes && entries <= CAPS.entries * 300, "{bytes} bytes, {entries} entries");
    assert_eq!(fs::read("/canary").expect("the canary is there"), b"canary");
    let beside = fs::read_dir("/").expect("the cage can be read").count();
    assert!(beside <= 2, "{beside} entries beside the layer");
    csb_fuzz::sweep();
});
