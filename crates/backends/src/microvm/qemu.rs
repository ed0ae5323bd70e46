//! QEMU's `microvm` machine: what it is started with. Pure. What is asked of it later is in `qmp.rs`.

use super::machine::{INITRAMFS, KERNEL, Machine, command_line};
use csb_wire::machine::{CONTROL_PORT, FIRST_DESCRIPTOR, INIT_PORT, VMM_FILES};

/// Its sockets, in the order of their descriptors.
pub(super) const SOCKETS: [&str; 3] = ["qmp.sock", "init.sock", "control.sock"];
/// Name of the ring of what the guest's console said.
pub(super) const CONSOLE: &str = "console";
const CONSOLE_BYTES: u32 = 64 << 10;

/// Descriptor of a drive, or of what is behind the last, in the VMM.
pub(super) fn descriptor(drive: usize) -> i32 {
    FIRST_DESCRIPTOR + (SOCKETS.len() + drive) as i32
}

/// Behind the program's name.
pub(super) fn arguments(machine: &Machine) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut add = |option: &str, value: String| words.extend([option.to_owned(), value]);
    add("-machine", "microvm,acpi=on,pcie=off,auto-kernel-cmdline=off".into());
    // What is translated is kept in so many MiB; QEMU would take an eighth of the machine's memory.
    add("-accel", if machine.kvm { "kvm" } else { "tcg,tb-size=64" }.into());
    add("-cpu", if machine.kvm { "host" } else { "max" }.into());
    add("-smp", machine.cpus.to_string());
    add("-m", format!("{}M", machine.memory >> 20));
    add("-kernel", format!("{VMM_FILES}/{KERNEL}"));
    add("-initrd", format!("{VMM_FILES}/{INITRAMFS}"));
    add("-append", command_line(machine.tsc_khz.filter(|_| !machine.kvm)));
    // Everything that a machine of ours does not need after its start is refused to the VMM itself.
    add("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny".into());
    add("-display", "none".into());
    for (at, name) in ["qmp", "init", "control"].into_iter().enumerate() {
        let descriptor = FIRST_DESCRIPTOR + at as i32;
        add("-chardev", format!("socket,id={name},fd={descriptor},server=on,wait=off"));
    }
    add("-mon", "chardev=qmp,mode=control".into());
    // In memory: a guest that talks fills no disk of the host.
    add("-chardev", format!("ringbuf,id={CONSOLE},size={CONSOLE_BYTES}"));
    add("-serial", format!("chardev:{CONSOLE}"));
    add("-device", "virtio-serial-device,max_ports=4".into());
    add("-device", format!("virtserialport,chardev=init,name={INIT_PORT}"));
    add("-device", format!("virtserialport,chardev=control,name={CONTROL_PORT}"));
    for (at, drive) in machine.drives.iter().enumerate() {
        let descriptor = descriptor(at);
        add("-add-fd", format!("fd={descriptor},set={descriptor}"));
        let access = if drive.writable { "off" } else { "on" };
        // Opened with the rights that the descriptor has, and no others first.
        let file = format!("file.driver=file,file.filename=/dev/fdset/{descriptor},file.auto-read-only=off");
        add("-blockdev", format!("driver=raw,node-name=disk{at},read-only={access},{file},file.read-only={access}"));
        add("-device", format!("virtio-blk-device,drive=disk{at},serial=csb{at}"));
    }
    // Memory that the guest gave up is the host's again.
    add("-device", "virtio-balloon-device,free-page-reporting=on".into());
    add("-device", "virtio-rng-device".into());
    if machine.state.is_some() {
        add("-incoming", "defer".into());
    }
    words.extend(["-nodefaults", "-no-user-config", "-no-reboot"].map(str::to_owned));
    words
}

#[cfg(test)]
mod tests {
    use super::super::machine::example;
    use super::*;

    #[test]
    fn a_disk_is_written_to_only_where_it_takes_the_sandboxes_writes() {
        let words = arguments(&example());
        let disks: Vec<&String> = words.iter().filter(|word| word.contains("/dev/fdset/")).collect();
        assert_eq!(disks.iter().map(|disk| disk.ends_with("read-only=on")).collect::<Vec<_>>(), [true, true, false]);
        assert!(disks[0].contains("/dev/fdset/6,"), "{disks:?}");
    }

    #[test]
    fn the_vmm_has_no_network_and_its_own_filter() {
        for kvm in [false, true] {
            let words = arguments(&Machine { kvm, ..example() });
            assert!(words.contains(&"-nodefaults".to_owned()));
            assert!(words.iter().any(|word| word.starts_with("on,") && word.contains("spawn=deny")));
            assert!(!words.iter().any(|word| word.contains("netdev") || word.contains("virtio-net")));
            assert!(!command_line(None).contains("mitigations"));
        }
    }
}
