//! Archives, ordinary and hostile, imported into a store: what comes out, and what must never.

use csb_image::{Caps, ImportError, Source, Store, Template};
use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use tar::{EntryType, Header};

/// A store with a sentinel beside it, which no archive may touch.
struct World {
    directory: tempfile::TempDir,
    store: Store,
}

impl World {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("outside")).unwrap();
        fs::write(directory.path().join("outside/sentinel"), "untouched").unwrap();
        let store = Store::open(directory.path().join("templates")).unwrap();
        Self { directory, store }
    }

    fn outside(&self) -> PathBuf {
        self.directory.path().join("outside")
    }

    /// Imports, and checks what holds whatever was in the archive.
    fn import(&self, archive: &[u8]) -> Result<Template, ImportError> {
        let result = self.store.import_tar("it", archive);
        assert_eq!(fs::read_to_string(self.outside().join("sentinel")).unwrap(), "untouched");
        assert_eq!(fs::read_dir(self.outside()).unwrap().count(), 1, "something was made outside");
        let staging = self.directory.path().join("templates/.staging");
        assert_eq!(fs::read_dir(staging).map_or(0, Iterator::count), 0, "something was left in staging");
        if result.is_err() {
            assert!(self.store.get("it").is_err(), "a failed import left a template");
            assert_eq!(self.store.prune(Duration::ZERO).unwrap(), 0, "a failed import left a version");
        }
        result
    }

    fn refused(&self, archive: &[u8], expected: &str) {
        let error = self.import(archive).unwrap_err();
        let mut text = error.to_string();
        if let Some(cause) = std::error::Error::source(&error) {
            text = format!("{text}: {cause}");
        }
        assert!(text.contains(expected), "`{text}` does not say `{expected}`");
    }
}

/// An archive entry by entry; names are written as they are given, which `tar` itself would refuse to do.
#[derive(Default)]
struct Tar(Vec<u8>);

impl Tar {
    fn raw(mut self, kind: EntryType, name: &[u8], link: &[u8], size: u64, content: &[u8]) -> Self {
        let mut header = Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name);
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link);
        header.set_entry_type(kind);
        header.set_mode(0o6755);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000_000_000);
        header.set_size(size);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }
    fn file(self, name: &str, content: &str) -> Self {
        self.raw(EntryType::Regular, name.as_bytes(), b"", content.len() as u64, content.as_bytes())
    }
    fn directory(self, name: &str) -> Self {
        self.raw(EntryType::Directory, name.as_bytes(), b"", 0, b"")
    }
    fn symlink(self, name: &str, target: &str) -> Self {
        self.raw(EntryType::Symlink, name.as_bytes(), target.as_bytes(), 0, b"")
    }
    fn link(self, name: &str, target: &str) -> Self {
        self.raw(EntryType::Link, name.as_bytes(), target.as_bytes(), 0, b"")
    }
    fn pax(self, records: &[(&str, &str)]) -> Self {
        let mut body = String::new();
        for (key, value) in records {
            let rest = format!(" {key}={value}\n");
            let mut length = rest.len() + 1;
            while format!("{length}{rest}").len() != length {
                length += 1;
            }
            body.push_str(&format!("{length}{rest}"));
        }
        self.raw(EntryType::XHeader, b"PaxHeader", b"", body.len() as u64, body.as_bytes())
    }
    fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

fn top(template: &Template) -> &Path {
    &template.layers[0]
}

#[test]
fn paths_with_dot_dot_are_refused() {
    let world = World::new();
    for name in ["../outside/new", "a/../../outside/new", "..", "a/.."] {
        world.refused(&Tar::default().file(name, "x").end(), "its path holds `..`");
        world.refused(&Tar::default().directory(name).end(), "its path holds `..`");
    }
    world.refused(&Tar::default().link("a", "../outside/sentinel").end(), "its path holds `..`");
}

#[test]
fn absolute_paths_lie_in_the_layer() {
    let world = World::new();
    let name = format!("{}/new", world.outside().display());
    let template = world.import(&Tar::default().file(&name, "x").end()).unwrap();
    assert_eq!(fs::read_to_string(top(&template).join(name.trim_start_matches('/'))).unwrap(), "x");
}

#[test]
fn nothing_is_written_through_a_link_that_the_archive_made() {
    let world = World::new();
    let outside = world.outside();
    let outside = outside.to_str().unwrap();
    for target in [outside, "../../../../outside", "."] {
        let start = || Tar::default().symlink("door", target);
        world.refused(&start().file("door/sentinel", "x").end(), "leads through a symbolic link");
        world.refused(&start().directory("door/new").end(), "leads through a symbolic link");
        world.refused(&start().symlink("door/new", "x").end(), "leads through a symbolic link");
        world.refused(&start().link("door/new", "door").end(), "leads through a symbolic link");
        world.refused(&start().directory("deep").symlink("deep/door", target).file("deep/door/x/y", "").end(), "link");
        world.refused(&start().link("copy", "door/sentinel").end(), "not in the archive before it");
    }
    // The link itself is replaced by a file of its name, and its target is left alone.
    let sentinel = format!("{outside}/sentinel");
    let template = world.import(&Tar::default().symlink("s", &sentinel).file("s", "mine").end()).unwrap();
    assert_eq!(fs::read_to_string(top(&template).join("s")).unwrap(), "mine");
    // A directory of its name replaces it too, and its content goes there.
    let archive = Tar::default().symlink("d", outside).directory("d").file("d/sentinel", "mine").end();
    let template = world.import(&archive).unwrap();
    assert_eq!(fs::read_to_string(top(&template).join("d/sentinel")).unwrap(), "mine");
}

#[test]
fn a_hard_link_reaches_only_what_the_archive_had_before() {
    let world = World::new();
    let sentinel = world.outside().join("sentinel");
    world.refused(&Tar::default().link("a", sentinel.to_str().unwrap()).end(), "not in the archive before it");
    world.refused(&Tar::default().link("a", "etc/later").file("etc/later", "").end(), "not in the archive before it");
    world.refused(&Tar::default().directory("d").link("a", "d").end(), "it links to a directory");
    world.refused(&Tar::default().link("a", "").end(), "the link leads nowhere");

    let template = world.import(&Tar::default().file("a", "x").link("b", "/a").link("a", "./a").end()).unwrap();
    let (a, b) = (top(&template).join("a"), top(&template).join("b"));
    assert_eq!(fs::metadata(a).unwrap().ino(), fs::metadata(b).unwrap().ino());

    // A hard link to a symbolic link, then a write to it: the file outside stays.
    let archive = Tar::default().symlink("s", sentinel.to_str().unwrap()).link("h", "s").file("h", "mine").end();
    world.import(&archive).unwrap();
}

#[test]
fn devices_are_left_out_and_counted() {
    let world = World::new();
    let archive = Tar::default()
        .raw(EntryType::Char, b"dev/mem", b"", 0, b"")
        .raw(EntryType::Block, b"dev/sda", b"", 0, b"")
        .raw(EntryType::Fifo, b"pipe", b"", 0, b"")
        .end();
    let template = world.import(&archive).unwrap();
    assert_eq!(template.skipped, 2);
    assert!(!top(&template).join("dev/mem").exists());
    assert!(fs::symlink_metadata(top(&template).join("pipe")).unwrap().file_type().is_fifo());
}

#[test]
fn set_user_id_bits_are_dropped() {
    let world = World::new();
    let template = world.import(&Tar::default().directory("d").file("d/su", "x").end()).unwrap();
    for path in ["d", "d/su"] {
        let mode = fs::metadata(top(&template).join(path)).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o755, "{path}");
    }
}

#[test]
fn what_is_too_large_is_refused_before_it_is_read() {
    let mut world = World::new();
    // 1 TiB in the header, nothing behind it.
    world.refused(&Tar::default().raw(EntryType::Regular, b"big", b"", 1 << 40, b"").end(), "larger than");
    world.store = world.store.clone().with_caps(Caps { bytes: 1000, entries: 100 });
    world.refused(&Tar::default().file("a", &"x".repeat(600)).file("b", &"x".repeat(600)).end(), "larger than 1000");
    let many = (0..200).fold(Tar::default(), |tar, number| tar.file(&format!("f{number}"), ""));
    world.refused(&many.end(), "more than 100 entries");
}

#[test]
fn long_names_are_taken_and_endless_ones_are_not() {
    let world = World::new();
    let deep = format!("{}/{}", "d".repeat(200), "f".repeat(200));
    let archive = Tar::default()
        .raw(EntryType::GNULongName, b"././@LongLink", b"", deep.len() as u64 + 1, format!("{deep}\0").as_bytes())
        .file("short", "long")
        .pax(&[("path", "from/pax"), ("mtime", "1234567890.5"), ("uid", "1000")])
        .file("other", "pax")
        .end();
    let template = world.import(&archive).unwrap();
    assert_eq!(fs::read_to_string(top(&template).join(deep)).unwrap(), "long");
    let known = fs::metadata(top(&template).join("from/pax")).unwrap();
    assert_eq!((known.mtime(), known.mtime_nsec()), (1_234_567_890, 500_000_000));
    assert_eq!(known.uid(), 1000);
    world.store.remove("it").unwrap();
    world.store.prune(Duration::ZERO).unwrap();

    let endless = Tar::default().raw(EntryType::GNULongName, b"././@LongLink", b"", 1 << 33, b"").end();
    world.refused(&endless, "longer than any path");
    let endless = Tar::default().raw(EntryType::XHeader, b"PaxHeader", b"", 1 << 33, b"").end();
    world.refused(&endless, "longer than any path");
    let hidden = Tar::default().pax(&[("path", "../outside/new")]).file("fine", "x").end();
    world.refused(&hidden, "its path holds `..`");
    let deepest = Tar::default().pax(&[("path", &"d/".repeat(300))]).file("fine", "x").end();
    world.refused(&deepest, "more than 256 directories deep");
}

#[test]
fn archives_that_readers_would_disagree_on_are_refused() {
    let world = World::new();
    world.refused(&Tar::default().pax(&[("size", "0")]).file("a", "xyz").end(), "two sizes differ");
    world.refused(&Tar::default().pax(&[("GNU.sparse.major", "1")]).file("a", "xyz").end(), "sparse");
    world.refused(&Tar::default().raw(EntryType::GNUSparse, b"a", b"", 0, b"").end(), "sparse");
    world.refused(&Tar::default().raw(EntryType::new(b'M'), b"a", b"", 0, b"").end(), "only the tar that made it");
    world.refused(&Tar::default().symlink("a", "").end(), "the link leads nowhere");
    world.refused(&Tar::default().file("a", "").file("a/b", "").end(), "leads through a file");
    world.refused(&Tar::default().directory("a").file("a/b", "").file("a", "").end(), "came before it");
}

#[test]
fn what_is_no_archive_or_ends_early_is_refused() {
    let world = World::new();
    world.refused(b"", "nothing in it");
    world.refused(&[0; 1024], "nothing in it");
    world.refused(&b"hello, this is not an archive at all. ".repeat(40), "cannot read the tar archive");
    world.refused(b"\xfd7zXZ\0\0", "compressed with xz");
    world.refused(b"BZh91AY", "compressed with bzip2");
    let mut cut = Tar::default().file("a", &"x".repeat(5000)).end();
    cut.truncate(2000);
    world.refused(&cut, "cannot read `a`");
    world.refused(b"\x1f\x8b\x08\0garbage", "cannot read the tar archive");
    world.refused(b"\x28\xb5\x2f\xfdgarbage", "cannot read the tar archive");
}

#[test]
fn the_last_of_several_entries_of_one_name_counts() {
    let world = World::new();
    let archive =
        Tar::default().file("a", "first").link("b", "a").file("a", "second").symlink("s", "x").symlink("s", "y").end();
    let template = world.import(&archive).unwrap();
    assert_eq!(fs::read_to_string(top(&template).join("a")).unwrap(), "second");
    assert_eq!(fs::read_to_string(top(&template).join("b")).unwrap(), "first");
    assert_eq!(fs::read_link(top(&template).join("s")).unwrap(), Path::new("y"));
}

#[test]
fn an_image_whose_places_are_links_is_refused() {
    let world = World::new();
    let outside = world.outside();
    let outside = outside.to_str().unwrap();
    for place in ["proc", "dev", "tmp", "workspace", "home", "root", "var"] {
        world.refused(&Tar::default().symlink(place, outside).end(), "a sandbox needs a directory there");
        world.refused(&Tar::default().file(place, "").end(), "a sandbox needs a directory there");
    }
}

#[test]
fn places_and_users_are_right_whatever_the_image_says() {
    let world = World::new();
    let archive = Tar::default()
        .directory("./")
        .directory("tmp/")
        .directory("workspace")
        .directory("root")
        .file("etc/passwd", "root:x:0:0::/root:/bin/sh\nnode:x:1000:1000::/home/node:/bin/bash")
        .end();
    let template = world.import(&archive).unwrap();
    let at = |path: &str| fs::metadata(top(&template).join(path)).unwrap();
    let mode = |path: &str| at(path).permissions().mode() & 0o7777;
    assert_eq!((mode(""), mode("tmp"), mode("workspace"), mode("root")), (0o755, 0o1777, 0o755, 0o700));
    assert_eq!((at("workspace").uid(), at("workspace").gid()), (1000, 1000));
    assert_eq!(
        fs::read_to_string(top(&template).join("etc/passwd")).unwrap(),
        "root:x:0:0::/root:/bin/sh\nnode:x:1000:1000::/home/node:/bin/bash\n\
         user:x:1000:1000:user:/home/user:/bin/sh\n"
    );
    // What the image lacks comes from the layer below it.
    let base = &template.layers[1];
    for path in ["proc", "dev", "sys", "run", "var/tmp", "home/user"] {
        assert!(base.join(path).is_dir(), "{path}");
    }
    assert!(fs::read_to_string(base.join("etc/group")).unwrap().contains("user:x:1000:"));
    assert_eq!(fs::read_link(base.join("opt/csb/bin/python")).unwrap(), Path::new("/usr/bin/python3"));
}

/// A tree as `find -printf` shows it.
fn listing(directory: &Path) -> String {
    let output = Command::new("find")
        .args([".", "-mindepth", "1", "-printf", "%P %y %m %U:%G %s %T@ %l\n"])
        .current_dir(directory)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let mut lines: Vec<String> = text
        .lines()
        // A directory's size is the file system's affair.
        .map(|line| match line.split(' ').collect::<Vec<_>>()[..] {
            [path, "d", mode, owner, _, time, link] => format!("{path} d {mode} {owner} {time} {link}"),
            _ => line.to_owned(),
        })
        .collect();
    lines.sort();
    lines.join("\n")
}

fn sample(directory: &Path) {
    fs::create_dir_all(directory.join("usr/bin")).unwrap();
    fs::create_dir_all(directory.join("opt/empty")).unwrap();
    fs::write(directory.join("usr/bin/tool"), "#!/bin/sh\necho hi\n").unwrap();
    fs::set_permissions(directory.join("usr/bin/tool"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(directory.join("opt/secret"), vec![7; 300_000]).unwrap();
    fs::set_permissions(directory.join("opt/secret"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::hard_link(directory.join("opt/secret"), directory.join("opt/same")).unwrap();
    symlink("usr/bin", directory.join("bin")).unwrap();
    symlink("/nowhere/at all", directory.join("opt/dangling")).unwrap();
    let long = "n".repeat(95);
    fs::create_dir_all(directory.join(&long)).unwrap();
    fs::write(directory.join(&long).join("ünïcode 名前"), "x").unwrap();
    fs::set_permissions(directory.join("opt/empty"), fs::Permissions::from_mode(0o555)).unwrap();
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(directory.join("usr/bin/tool"), Some(1000), Some(33)).unwrap();
    }
}

#[test]
fn archives_that_tar_made_come_out_as_they_went_in() {
    let world = World::new();
    let tree = world.directory.path().join("tree");
    sample(&tree);
    let expected = listing(&tree);
    for (format, compression) in
        [("gnu", None), ("pax", None), ("ustar", None), ("gnu", Some("gzip")), ("pax", Some("zstd"))]
    {
        let tar = Command::new("tar")
            .args(["--create", "--file=-", &format!("--format={format}"), "."])
            .current_dir(&tree)
            .output()
            .unwrap();
        assert!(tar.status.success());
        let archive = match compression {
            None => tar.stdout,
            Some("gzip") => {
                let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                packer.write_all(&tar.stdout).unwrap();
                packer.finish().unwrap()
            }
            Some(_) => zstd::encode_all(tar.stdout.as_slice(), 1).unwrap(),
        };
        let template = world.import(&archive).unwrap();
        let found = listing(top(&template));
        // Only pax keeps fractions of seconds.
        let whole = |text: &str| match format {
            "pax" => text.to_owned(),
            _ => {
                text.split(' ').map(|word| word.split_once('.').map_or(word, |(s, _)| s)).collect::<Vec<_>>().join(" ")
            }
        };
        assert_eq!(whole(&found), whole(&expected), "{format} {compression:?}");
        assert_eq!(template.source, Source::Tar);
        let ino = |path: &str| fs::metadata(top(&template).join(path)).unwrap().ino();
        assert_eq!(ino("opt/secret"), ino("opt/same"));
        assert!(template.has_file("/bin/tool") && !template.has_file("/bin/none"));
    }
    assert_eq!(world.store.prune(Duration::ZERO).unwrap(), 4);
}

#[test]
fn an_archive_is_read_from_a_pipe() {
    let world = World::new();
    let tree = world.directory.path().join("tree");
    sample(&tree);
    let mut tar = Command::new("tar").args(["-cz", "."]).current_dir(&tree).stdout(Stdio::piped()).spawn().unwrap();
    let template = world.store.import_tar("piped", tar.stdout.take().unwrap()).unwrap();
    assert!(tar.wait().unwrap().success());
    assert!(template.has_file("/usr/bin/tool"));
}

#[test]
fn a_directory_comes_out_as_it_went_in() {
    let world = World::new();
    let tree = world.directory.path().join("tree");
    sample(&tree);
    let template = world.store.import_dir("dir", &tree).unwrap();
    assert_eq!(listing(top(&template)), listing(&tree));
    let ino = |path: &str| fs::metadata(top(&template).join(path)).unwrap().ino();
    assert_eq!(ino("opt/secret"), ino("opt/same"));
    assert_ne!(ino("opt/secret"), fs::metadata(tree.join("opt/secret")).unwrap().ino());
    assert_eq!(template.source, Source::Directory);
}

#[test]
fn a_directory_that_holds_the_store_is_refused() {
    let world = World::new();
    let error = world.store.import_dir("dir", world.directory.path()).unwrap_err();
    assert!(matches!(error, ImportError::HoldsStore { .. }), "{error}");
    let error = world.store.import_dir("dir", &world.outside().join("sentinel")).unwrap_err();
    assert!(matches!(error, ImportError::Open { .. }), "{error}");
}
