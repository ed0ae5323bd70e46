//! The store: the `host` template, versions, names, and several processes at once.

use csb_image::{ImportError, Source, Store, StoreError, Template};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

fn store() -> (tempfile::TempDir, Store) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path().join("templates")).unwrap();
    (directory, store)
}

fn archive(content: &str) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_path("content").unwrap();
    header.set_mode(0o644);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(content.len() as u64);
    header.set_cksum();
    let mut builder = tar::Builder::new(Vec::new());
    builder.append(&header, content.as_bytes()).unwrap();
    builder.into_inner().unwrap()
}

fn content(template: &Template) -> String {
    fs::read_to_string(template.layers[0].join("content")).unwrap()
}

fn every_path(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        found.push(entry.path());
        if entry.file_type().unwrap().is_dir() {
            found.extend(every_path(&entry.path()));
        }
    }
    found
}

#[test]
fn the_host_template_has_what_programs_need() {
    let (_directory, store) = store();
    let host = store.ensure_host().unwrap();
    assert_eq!((host.name.as_str(), host.source), ("host", Source::Host));
    assert!(host.binds.iter().any(|bind| bind.host == Path::new("/usr") && bind.guest == Path::new("/usr")));
    for bind in &host.binds {
        assert!(host.layers[0].join(bind.guest.strip_prefix("/").unwrap()).is_dir(), "{bind:?}");
    }
    for program in ["/bin/sh", "/usr/bin/python3", "/usr/bin/env", "/opt/csb/bin/python"] {
        assert!(host.has_file(program), "{program}");
    }
    for file in
        ["/etc/passwd", "/etc/group", "/etc/hosts", "/etc/nsswitch.conf", "/etc/resolv.conf", "/etc/ld.so.cache"]
    {
        assert!(host.has_file(file), "{file}");
    }
    let root = &host.layers[0];
    for (path, mode, owner) in [
        ("", 0o755, 0),
        ("tmp", 0o1777, 0),
        ("var/tmp", 0o1777, 0),
        ("workspace", 0o755, 1000),
        ("home/user", 0o755, 1000),
        ("root", 0o700, 0),
        ("etc/passwd", 0o644, 0),
    ] {
        let known = fs::metadata(root.join(path)).unwrap();
        assert_eq!(known.permissions().mode() & 0o7777, mode, "{path}");
        if rustix::process::geteuid().is_root() {
            assert_eq!(known.uid(), owner, "{path}");
        }
    }
    let passwd = fs::read_to_string(root.join("etc/passwd")).unwrap();
    assert_eq!(passwd.lines().count(), 3, "{passwd}");
}

#[test]
fn the_host_template_tells_nothing_of_the_host() {
    let (_directory, store) = store();
    let host = store.ensure_host().unwrap();
    let root = &host.layers[0];
    for secret in [
        "etc/shadow",
        "etc/shadow-",
        "etc/gshadow",
        "etc/ssh",
        "etc/ssl/private",
        "etc/hostname",
        "etc/machine-id",
        "etc/fstab",
        "etc/sudoers",
        "etc/sudoers.d",
        "etc/pip.conf",
        "etc/npmrc",
        "etc/crypttab",
        "etc/pam.d",
        "etc/cron.d",
    ] {
        assert!(fs::symlink_metadata(root.join(secret)).is_err(), "{secret}");
    }
    assert_eq!(fs::read_to_string(root.join("etc/resolv.conf")).unwrap(), "");
    assert!(!fs::read_to_string(root.join("etc/hosts")).unwrap().contains("127.0.1.1"));
    for empty in ["usr", "proc", "dev", "sys", "run", "tmp", "root", "home/user", "workspace"] {
        assert_eq!(fs::read_dir(root.join(empty)).unwrap().count(), 0, "{empty}");
    }
    for path in every_path(root) {
        let known = fs::symlink_metadata(&path).unwrap();
        assert_eq!(known.mode() & 0o6000, 0, "{path:?} has a set-id bit");
        if known.is_symlink() {
            let target = fs::read_link(&path).unwrap();
            for private in ["/home", "/root", "/opt", "/srv", "/mnt", "/var"] {
                assert!(!target.starts_with(private), "{path:?} -> {target:?}");
            }
        } else if known.is_file() {
            let original = Path::new("/").join(path.strip_prefix(root).unwrap());
            if let Ok(original) = fs::metadata(original) {
                assert_ne!(original.mode() & 0o004, 0, "{path:?} is not for everyone on the host");
            }
        }
    }
}

#[test]
fn the_host_template_is_made_once() {
    let (directory, store) = store();
    let first = store.ensure_host().unwrap();
    assert_eq!(store.ensure_host().unwrap(), first);
    let again = Store::open(directory.path().join("templates")).unwrap();
    assert_eq!(again.ensure_host().unwrap(), first);
    assert_eq!(again.get("host").unwrap(), first);
    assert_eq!(store.prune(Duration::ZERO).unwrap(), 0);
}

#[test]
fn a_host_that_was_compared_a_moment_ago_is_taken_on_trust_for_that_long() {
    let (_directory, store) = store();
    let minute = std::time::Duration::from_secs(60);
    let first = store.recent_host(minute).unwrap();
    let record = first.layers[0].parent().unwrap().join("template.json");
    let mut value: serde_json::Value = serde_json::from_str(&fs::read_to_string(&record).unwrap()).unwrap();
    value["fingerprint"] = "old".into();
    fs::write(&record, value.to_string()).unwrap();
    assert_eq!(store.recent_host(minute).unwrap().layers, first.layers);
    assert_ne!(store.recent_host(std::time::Duration::ZERO).unwrap().layers, first.layers);
}

#[test]
fn a_stale_host_template_is_replaced_and_the_old_one_stays_for_those_on_it() {
    let (_directory, store) = store();
    let first = store.ensure_host().unwrap();
    // As if the host's linker cache had been another one then.
    let record = first.layers[0].parent().unwrap().join("template.json");
    let text = fs::read_to_string(&record).unwrap();
    let mut value: serde_json::Value = serde_json::from_str(&text).unwrap();
    value["fingerprint"] = "old".into();
    fs::write(&record, value.to_string()).unwrap();

    let second = store.ensure_host().unwrap();
    assert_ne!(second.layers, first.layers);
    assert!(first.layers[0].join("etc/passwd").exists());
    assert_eq!(store.prune(Duration::from_secs(300)).unwrap(), 0);
    let holder = fs::File::open(&first.layers[0]).unwrap();
    holder.lock_shared().unwrap();
    assert_eq!(store.prune(Duration::ZERO).unwrap(), 0);
    assert!(first.layers[0].exists());
    drop(holder);
    assert_eq!(store.prune(Duration::ZERO).unwrap(), 1);
    assert!(!first.layers[0].exists() && second.layers[0].exists());
}

#[test]
fn a_version_that_a_container_is_mounted_from_stays() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: mounting takes root");
        return;
    }
    let (directory, store) = store();
    let template = store.import_tar("it", archive("one").as_slice()).unwrap();
    store.import_tar("it", archive("two").as_slice()).unwrap();
    let place = directory.path().join("layer0");
    fs::create_dir(&place).unwrap();
    csb_sys::mount::Tree::copy(rustix::fs::CWD, &template.layers[0], false).unwrap().attach_at(&place).unwrap();
    let removed = store.prune(Duration::ZERO);
    let seen = fs::read_to_string(place.join("content"));
    csb_sys::mount::detach(place.to_str().unwrap()).unwrap();
    assert_eq!((removed.unwrap(), seen.unwrap().as_str()), (0, "one"));
    assert_eq!(store.prune(Duration::ZERO).unwrap(), 1);
}

#[test]
fn names_lead_to_templates_until_they_are_removed() {
    let (_directory, store) = store();
    store.import_tar("python:3.12", archive("one").as_slice()).unwrap();
    store.import_tar("b", archive("b").as_slice()).unwrap();
    let names: Vec<String> = store.list().unwrap().into_iter().map(|template| template.name).collect();
    assert_eq!(names, ["b", "python:3.12"]);

    let old = store.get("python:3.12").unwrap();
    let new = store.import_tar("python:3.12", archive("two").as_slice()).unwrap();
    assert_eq!((content(&old).as_str(), content(&new).as_str()), ("one", "two"));
    assert_eq!(content(&store.get("python:3.12").unwrap()), "two");

    store.remove("python:3.12").unwrap();
    let error = store.get("python:3.12").unwrap_err();
    assert_eq!(error.to_string(), "no template `python:3.12` on this host");
    assert!(matches!(store.remove("python:3.12"), Err(StoreError::NotFound { .. })));
    assert_eq!(content(&new), "two");
    let holder = fs::File::open(&new.layers[1]).unwrap();
    holder.lock_shared().unwrap();
    assert_eq!(store.prune(Duration::ZERO).unwrap(), 1);
    drop(holder);
    assert_eq!(store.prune(Duration::ZERO).unwrap(), 1);
    assert_eq!(store.list().unwrap().len(), 1);
}

#[test]
fn names_that_are_no_names_are_refused() {
    let (_directory, store) = store();
    let long = "x".repeat(65);
    for name in ["", ".", "..", "a/b", "../x", ".staging", "-x", "a b", "ä", "a\0", &long] {
        assert!(matches!(store.import_tar(name, archive("x").as_slice()), Err(ImportError::Name { .. })), "{name:?}");
        assert!(matches!(store.get(name), Err(StoreError::NotFound { .. })), "{name:?}");
    }
    for name in ["host", "adhoc-0123456789abcdef"] {
        let error = store.import_tar(name, archive("x").as_slice()).unwrap_err();
        assert!(matches!(error, ImportError::Reserved { .. }), "{name:?}");
    }
}

#[test]
fn a_path_is_imported_once_and_again_when_it_changes() {
    let (directory, store) = store();
    let file = directory.path().join("image.tar");
    fs::write(&file, archive("one")).unwrap();
    let first = store.resolve_ad_hoc(&file).unwrap();
    assert_eq!(store.resolve_ad_hoc(&file).unwrap(), first);
    assert_eq!(store.get(&first.name).unwrap(), first);
    fs::write(&file, archive("second")).unwrap();
    let second = store.resolve_ad_hoc(&file).unwrap();
    assert_eq!((content(&first).as_str(), content(&second).as_str()), ("one", "second"));

    let tree = directory.path().join("tree");
    fs::create_dir_all(tree.join("deep/er")).unwrap();
    fs::write(tree.join("deep/er/file"), "one").unwrap();
    let first = store.resolve_ad_hoc(&tree).unwrap();
    assert_eq!(store.resolve_ad_hoc(&tree).unwrap(), first);
    fs::write(tree.join("deep/er/file"), "two").unwrap();
    let second = store.resolve_ad_hoc(&tree).unwrap();
    assert_eq!(fs::read_to_string(second.layers[0].join("deep/er/file")).unwrap(), "two");

    // Nobody named them: they are not listed, and go when their source has gone.
    assert_eq!(store.list().unwrap(), []);
    fs::remove_file(&file).unwrap();
    assert_eq!(store.prune(Duration::ZERO).unwrap(), 3);
    assert!(second.layers[0].exists());
}

#[test]
fn paths_that_cannot_be_templates_are_named() {
    let (directory, store) = store();
    let error = store.resolve_ad_hoc(&directory.path().join("absent")).unwrap_err();
    assert!(matches!(error, ImportError::Open { .. }), "{error}");
    let error = store.resolve_ad_hoc(Path::new("/dev/null")).unwrap_err();
    assert!(error.to_string().contains("neither a directory nor a file"), "{error}");
}

#[test]
fn what_a_dead_process_left_half_made_is_removed() {
    let (directory, store) = store();
    let half = directory.path().join("templates/.staging/0001-1-0/image/locked");
    fs::create_dir_all(&half).unwrap();
    fs::set_permissions(&half, fs::Permissions::from_mode(0o000)).unwrap();
    drop(store);
    Store::open(directory.path().join("templates")).unwrap();
    assert!(!directory.path().join("templates/.staging").exists());
}

#[test]
fn several_makers_at_once_get_the_same_host_template() {
    let (_directory, store) = store();
    let templates: Vec<Template> = std::thread::scope(|scope| {
        let makers: Vec<_> = (0..4).map(|_| scope.spawn(|| store.ensure_host().unwrap())).collect();
        makers.into_iter().map(|maker| maker.join().unwrap()).collect()
    });
    assert!(templates.windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn the_store_is_closed_to_other_users() {
    let (directory, _store) = store();
    let mode = fs::metadata(directory.path().join("templates")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}
