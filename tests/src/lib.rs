//! Owns what the black-box tests share: a warden on the wire, sandboxes in it, the attack programs that run inside.
//! Knows nothing of what is right: the tests say that.

pub mod census;
pub mod image;
pub mod probe;
pub mod wire;

/// Where tests keep what takes long to make.
fn target() -> std::path::PathBuf {
    let directory = std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| directory.join("../target"), Into::into);
    let target = target.join("tmp");
    std::fs::create_dir_all(&target).expect("the target directory can be written");
    target
}
