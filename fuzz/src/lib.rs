//! What several fuzz targets share: archives made of any fields, and a place where file operations do no harm.
//! Knows nothing of what is right: the targets say that.

use arbitrary::{Arbitrary, Unstructured};
use csb_sys::{mount, ns, process};
use std::{fs, path::Path, sync::Once};

/// The user that hostile work is done as.
const NOBODY: u32 = 65534;

/// Enters, once, a small file system in memory as its root and becomes nobody: what a target writes, it writes there.
///
/// Only the calling thread moves, and its working directory stays outside, where libFuzzer keeps what it finds.
pub fn cage() {
    static ENTERED: Once = Once::new();
    ENTERED.call_once(|| {
        assert!(rustix::process::geteuid().is_root(), "the targets that write files need root, to give it up");
        let place = Path::new("/tmp");
        ns::unshare(process::CLONE_NEWNS).expect("a mount namespace of its own");
        mount::make_all_private().expect("private mounts");
        let options = [("size", Some("8m")), ("nr_inodes", Some("2000")), ("mode", Some("0777"))];
        let tree = mount::Tree::new("tmpfs", &options, mount::Attributes::default()).expect("a file system in memory");
        tree.attach_at(place).expect("a file system in memory");
        rustix::process::chroot(place).expect("a root of its own");
        process::become_user(NOBODY, NOBODY, Some(&[])).expect("the user nobody");
    });
}

/// Removes all that is in the cage.
pub fn sweep() {
    fn open(path: &Path) {
        use std::os::unix::fs::PermissionsExt;
        let _ = fs::set_permissions(path, fs::Permissions::from_mode(0o700));
        for entry in fs::read_dir(path).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                open(&entry.path());
            }
        }
    }
    for entry in fs::read_dir("/").expect("the cage can be read").flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => {
                open(&entry.path());
                fs::remove_dir_all(entry.path()).expect("a directory of the cage can be removed");
            }
            _ => fs::remove_file(entry.path()).expect("a file of the cage can be removed"),
        }
    }
}

/// A name as archives and requests bring it: mostly of few letters, so that names meet.
pub fn name(u: &mut Unstructured<'_>) -> arbitrary::Result<String> {
    if u.ratio(1, 8)? {
        return String::arbitrary(u);
    }
    let parts = ["a", "b", "..", ".", "", "l", "w", "canary", "/", "dir"];
    let mut text = String::new();
    for i in 0..u.int_in_range(1..=4)? {
        if i > 0 || u.ratio(1, 4)? {
            text.push('/');
        }
        text.push_str(u.choose(&parts)?);
    }
    Ok(text)
}

/// A tar archive: any bytes, or entries of any fields with the right checksums.
pub fn tar(u: &mut Unstructured<'_>) -> arbitrary::Result<Vec<u8>> {
    if u.ratio(1, 6)? {
        return Ok(u.bytes(u.len())?.to_vec());
    }
    let mut bytes = Vec::new();
    while !u.is_empty() && bytes.len() < 64 * 1024 {
        entry(u, &mut bytes)?;
    }
    bytes.resize(bytes.len() + 1024, 0);
    Ok(bytes)
}

fn entry(u: &mut Unstructured<'_>, bytes: &mut Vec<u8>) -> arbitrary::Result<()> {
    const KINDS: &[u8] = b"00005512123467gxLKSVDM\0";
    let kind = if u.ratio(1, 16)? { u.arbitrary()? } else { *u.choose(KINDS)? };
    let content = match kind {
        b'x' | b'g' => pax(u)?,
        b'L' | b'K' => name(u)?.into_bytes(),
        _ if u.ratio(1, 2)? => u.bytes(u.len().min(24))?.to_vec(),
        _ => Vec::new(),
    };
    let size = if u.ratio(1, 8)? { u64::from(u.arbitrary::<u32>()?) } else { content.len() as u64 };
    let mut header = [0u8; 512];
    let mut put = |at: usize, most: usize, text: &[u8]| {
        let length = text.len().min(most);
        header[at..at + length].copy_from_slice(&text[..length]);
    };
    put(0, 100, name(u)?.as_bytes());
    put(100, 8, format!("{:07o}\0", u.arbitrary::<u16>()?).as_bytes());
    put(108, 8, format!("{:07o}\0", u.arbitrary::<u16>()?).as_bytes());
    put(116, 8, format!("{:07o}\0", u.arbitrary::<u16>()?).as_bytes());
    put(124, 12, format!("{size:011o}\0").as_bytes());
    put(136, 12, format!("{:011o}\0", u.arbitrary::<u32>()?).as_bytes());
    put(157, 100, name(u)?.as_bytes());
    put(257, 8, if u.ratio(1, 2)? { b"ustar\x0000" } else { b"ustar  \0" });
    if u.ratio(1, 4)? {
        put(345, 155, name(u)?.as_bytes());
    }
    if u.ratio(1, 16)? {
        let at = u.int_in_range(0..=511)?;
        header[at] = u.arbitrary()?;
    }
    header[156] = kind;
    header[148..156].copy_from_slice(b"        ");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    bytes.extend_from_slice(&header);
    bytes.extend_from_slice(&content);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    Ok(())
}

/// Records of an extended header.
fn pax(u: &mut Unstructured<'_>) -> arbitrary::Result<Vec<u8>> {
    let keys = ["path", "linkpath", "size", "uid", "gid", "mtime", "GNU.sparse.map", "GNU.sparse.major"];
    let mut bytes = Vec::new();
    for _ in 0..u.int_in_range(1..=3)? {
        let key = u.choose(&keys)?;
        let value = match *key {
            "path" | "linkpath" => name(u)?,
            _ if u.ratio(1, 4)? => String::arbitrary(u)?,
            _ => u.arbitrary::<i64>()?.to_string(),
        };
        let rest = format!(" {key}={value}\n");
        let mut length = rest.len() + 1;
        while length.to_string().len() + rest.len() != length {
            length += 1;
        }
        bytes.extend_from_slice(format!("{length}{rest}").as_bytes());
    }
    Ok(bytes)
}
