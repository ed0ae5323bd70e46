//! The machine's disks: the plan on the first, the sandbox's files on the others.

use super::{FILES, LAYERS};
use csb_jail::Step;
use csb_sys::mount::{Attributes, Tree, open_beneath};
use csb_wire::{
    Failure,
    machine::{Disk, MAGIC, MOST, MachinePlan, PROBE, PROBED},
};
use std::{
    fs::{self, DirBuilder, File},
    io::{self, Read},
    os::{fd::OwnedFd, unix::fs::DirBuilderExt},
    path::Path,
};

/// Names of all virtio disks, in the order in which they are attached. Drivers meet them in any order.
fn names() -> io::Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/sys/block")? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if !name.starts_with("vd") || !Path::new("/dev").join(&name).exists() {
            continue;
        }
        // QEMU's serial number says which; a VMM that has none attaches them in order.
        let serial = fs::read_to_string(format!("/sys/block/{name}/serial")).unwrap_or_default();
        let number = serial.trim().strip_prefix("csb").and_then(|number| number.parse::<u32>().ok());
        found.push((number, name.len(), name));
    }
    found.sort();
    Ok(found.into_iter().map(|(_, _, name)| format!("/dev/{name}")).collect())
}

/// The plan, as soon as there is a disk that holds one. A machine that is only to show that it runs waits here for its end.
pub(super) fn plan() -> io::Result<Option<MachinePlan>> {
    for name in names()? {
        let mut start = vec![0; MAGIC.len()];
        let mut disk = File::open(name)?;
        if disk.read_exact(&mut start).is_err() || start != MAGIC {
            continue;
        }
        let mut text = Vec::new();
        disk.take(MOST as u64).read_to_end(&mut text)?;
        let end = text.iter().position(|byte| *byte == b'\n').unwrap_or(text.len());
        if &text[..end] == PROBE.as_bytes() {
            println!("{PROBED}");
            loop {
                std::thread::park();
            }
        }
        return Ok(Some(serde_json::from_slice(&text[..end])?));
    }
    Ok(None)
}

/// Paths of so many disks behind the plan's, as soon as all are there.
pub(super) fn devices(number: usize) -> io::Result<Option<Vec<String>>> {
    let mut names = names()?;
    Ok((names.len() == number + 1).then(|| names.split_off(1)))
}

/// The sandbox's root, detached, and what takes its writes.
pub(super) fn root(plan: &MachinePlan, devices: &[String]) -> Result<(Tree, OwnedFd), Failure> {
    let (mut lower, mut binds, mut upper) = (Vec::new(), Vec::new(), None);
    for (disk, device) in plan.disks.iter().zip(devices) {
        let image = || Tree::of_device(device, "erofs", &["ro"]);
        match disk {
            Disk::Layer => {
                let place = format!("{LAYERS}/{}", lower.len());
                make(&place)?;
                image().and_then(|tree| tree.attach_at(place.as_ref())).step("mount a layer")?;
                lower.push(place);
            }
            Disk::Bind(guest) => binds.push((guest, image().step("mount an image of the host's files")?)),
            Disk::Upper => {
                let tree = Tree::of_device(device, "ext4", &["noinit_itable", "nodiscard"]);
                upper = Some(tree.step("mount the disk that takes the sandbox's writes")?);
            }
        }
    }
    let upper = match upper {
        Some(upper) => upper,
        None => memory(plan).step("mount what takes the sandbox's writes")?,
    };
    upper.attach_at(FILES.as_ref()).step("mount what takes the sandbox's writes")?;
    let (up, work) = (format!("{FILES}/up"), format!("{FILES}/work"));
    make(&up)?;
    make(&work)?;
    let lower = lower.join(":");
    let options = [
        ("lowerdir", Some(lower.as_str())),
        ("upperdir", Some(up.as_str())),
        ("workdir", Some(work.as_str())),
        ("redirect_dir", Some("on")),
        ("xino", Some("on")),
    ];
    let root = Tree::new("overlay", &options, Attributes::default()).step("mount the sandbox's root")?;
    let place = Path::new("/root");
    make("/root")?;
    root.attach_at(place).step("mount the sandbox's root")?;
    let inside = csb_sys::mount::open_directory(place).step("mount the sandbox's root")?;
    for (guest, tree) in binds {
        let attached = open_beneath(&inside, guest).and_then(|target| tree.attach(target));
        attached.step(&format!("mount the image of `{guest}`"))?;
    }
    let root = Tree::copy(rustix::fs::CWD, place, true).step("take the sandbox's root")?;
    csb_sys::mount::detach("/root").step("take the sandbox's root")?;
    let files = rustix::fs::open(FILES, rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC, 0.into());
    Ok((root, files.step("open what takes the sandbox's writes")?))
}

/// A tmpfs as large as the memory limit would end in the OOM killer where ENOSPC is meant.
fn memory(plan: &MachinePlan) -> io::Result<Tree> {
    let size = plan.limits.disk.min(plan.limits.memory / 4 * 3).to_string();
    let inodes = plan.limits.inodes.to_string();
    let options = [("size", Some(size.as_str())), ("nr_inodes", Some(inodes.as_str())), ("mode", Some("0755"))];
    Tree::new("tmpfs", &options, Attributes::default())
}

fn make(path: &str) -> Result<(), Failure> {
    DirBuilder::new().mode(0o755).create(path).step("make a directory")
}
