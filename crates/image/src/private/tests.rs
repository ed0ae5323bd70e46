//! Images of the host's directories and of layers, made and forgotten.

use super::*;
use crate::store::Store;
use std::os::unix::fs::MetadataExt;

const TRUST: Duration = Duration::from_secs(60);

struct Place {
    _dir: tempfile::TempDir,
    images: Images,
    host: PathBuf,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let host = dir.path().join("usr");
        std::fs::create_dir(&host).unwrap();
        std::fs::write(host.join("program"), "one").unwrap();
        let images = Images::new(&dir.path().join("templates"), Caps::default());
        Self { _dir: dir, images, host }
    }

    fn image(&self, trust: Duration) -> Result<PathBuf, ImportError> {
        self.images.of_host(&self.host, trust, &mut |_| {})
    }

    /// All files below, by name.
    fn files(&self) -> Vec<String> {
        let mut left = vec![self.images.directory.clone()];
        let mut files = Vec::new();
        while let Some(directory) = left.pop() {
            for path in list(&directory).unwrap() {
                if path.is_dir() {
                    left.push(path);
                } else {
                    files.push(path.file_name().unwrap().to_str().unwrap().to_owned());
                }
            }
        }
        files.sort();
        files
    }
}

#[test]
fn an_image_is_made_once_and_anew_when_the_host_has_changed() {
    let place = Place::new();
    let first = place.image(TRUST).unwrap();
    let made = first.metadata().unwrap().ino();
    std::fs::write(place.host.join("program"), "another").unwrap();
    assert_eq!(place.image(TRUST).unwrap(), first, "taken on trust");
    let second = place.image(Duration::ZERO).unwrap();
    assert_ne!(second, first);
    assert_eq!(place.image(TRUST).unwrap(), second);
    assert_eq!(place.image(Duration::ZERO).unwrap(), second);
    assert_eq!(first.metadata().unwrap().ino(), made, "whoever has just looked it up still finds it");
}

#[test]
fn what_was_replaced_goes_when_nobody_holds_it() {
    let place = Place::new();
    let first = place.image(TRUST).unwrap();
    let held = File::open(&first).unwrap();
    held.lock_shared().unwrap();
    std::fs::write(place.host.join("new"), "").unwrap();
    let second = place.image(Duration::ZERO).unwrap();
    assert_eq!(place.images.prune(GRACE).unwrap(), 0);
    assert_eq!(place.images.prune(Duration::ZERO).unwrap(), 0);
    drop(held);
    assert_eq!(place.images.prune(Duration::ZERO).unwrap(), 1);
    assert!(!first.exists() && second.exists());
}

#[test]
fn many_that_want_the_same_image_get_one() {
    let place = Place::new();
    let all: Vec<PathBuf> = std::thread::scope(|scope| {
        let wanting: Vec<_> = (0..8).map(|_| scope.spawn(|| place.image(TRUST).unwrap())).collect();
        wanting.into_iter().map(|one| one.join().unwrap()).collect()
    });
    assert!(all.iter().all(|image| *image == all[0]));
    let image = all[0].file_name().unwrap().to_str().unwrap();
    let mut expected = [".checked", ".lock", "current", image];
    expected.sort();
    assert_eq!(place.files(), expected);
}

#[test]
fn a_full_disk_leaves_nothing_and_says_so() {
    let mut place = Place::new();
    assert!(rustix::process::geteuid().is_root(), "this test mounts a small file system and needs root");
    let options = [("size", Some("64k"))];
    let small = csb_sys::mount::Tree::new("tmpfs", &options, Default::default()).unwrap();
    use std::os::fd::{AsFd, AsRawFd};
    place.images.directory = format!("/proc/self/fd/{}/.private", small.as_fd().as_raw_fd()).into();
    std::fs::write(place.host.join("large"), [1; 200_000]).unwrap();
    let error = place.image(TRUST).unwrap_err();
    let full = |error: &ImportError| matches!(error, ImportError::Write { source, .. } if source.kind() == io::ErrorKind::StorageFull);
    assert!(full(&error), "{error:?}");
    assert_eq!(place.files(), [".lock"]);
    // There is room again.
    std::fs::remove_file(place.host.join("large")).unwrap();
    place.image(TRUST).unwrap();
}

#[test]
fn what_a_dead_process_left_half_made_is_removed_or_overwritten() {
    let place = Place::new();
    make_directory(&place.images.directory).unwrap();
    let half = place.images.directory.join(NEW);
    std::fs::write(&half, vec![1; 1 << 20]).unwrap();
    let image = place.image(TRUST).unwrap();
    assert!(image.metadata().unwrap().len() < 1 << 20);
    std::fs::write(&half, "half").unwrap();
    place.images.prune(GRACE).unwrap();
    assert!(!half.exists());
}

#[test]
fn images_of_layers_live_and_go_with_their_template() {
    let dir = tempfile::tempdir().unwrap();
    let from = dir.path().join("from");
    std::fs::create_dir(&from).unwrap();
    std::fs::write(from.join("file"), "x").unwrap();
    let store = Store::open(dir.path().join("templates")).unwrap();
    let template = store.import_dir("small", &from).unwrap();
    let private = store.private(&template, TRUST, &mut |_| {}).unwrap();
    assert_eq!(private.layers.len(), template.layers.len());
    assert_eq!(store.private(&template, TRUST, &mut |_| panic!("made again")).unwrap(), private);
    let held = File::open(&private.layers[0]).unwrap();
    held.lock_shared().unwrap();
    store.remove("small").unwrap();
    store.prune(Duration::ZERO).unwrap();
    assert!(private.layers[0].exists(), "a sandbox is mounted from it");
    drop(held);
    store.prune(Duration::ZERO).unwrap();
    assert!(!private.layers[0].exists());
}
