//! Images for hardened sandboxes. That of `/usr` is made once and kept in the target directory: it is as large as that.

use csb_image::{Caps, Store, write_image};
use std::{
    fs::File,
    path::{Path, PathBuf},
    time::Duration,
};

/// Writes the image of a directory.
pub fn of_directory(directory: &Path, image: &Path) {
    let image = File::create_new(image).expect("the test's directory can be written");
    write_image(directory, &image, [1; 16], Caps::default(), &mut |_| {}).expect("the directory can be read");
}

/// The image of the host's `/usr`.
pub fn of_usr() -> PathBuf {
    let store = Store::open(crate::target().join("csb-hardened")).expect("the target directory can be written");
    let template = store.recent_host(Duration::from_secs(600)).expect("the host can be read");
    let private = store.private(&template, Duration::from_secs(600), &mut |_| {}).expect("the host can be read");
    let usr = private.binds.into_iter().find(|bind| bind.guest == Path::new("/usr"));
    usr.expect("the template `host` has /usr").host
}
