//! Firecracker: what it is started with and asked for. Pure. It is configured and driven by requests alone; kernel, disks and
//! sockets it finds by their names in a root that holds nothing else, so they are the same in all copies of a machine.
//!
//! Requests are of its API of version 1.14 and later (`free_page_reporting`); devices are found through ACPI (1.8). No network
//! interface and no metadata service is asked for, and its own filters of system calls stay on.

use super::{
    api::{Request, SOCKET},
    machine::{INITRAMFS, Machine, command_line},
};
use csb_wire::machine::{VMM_FILES, VMM_RUN};
use serde_json::json;

/// Name of the socket that leads to the guest's vsock.
pub(super) const VSOCK: &str = "vsock.sock";
/// Name of the kernel, an ELF file.
pub(super) const KERNEL: &str = "vmlinux";
/// Names of what a machine's state is written to, and gone on from.
pub(super) const SAVED: [&str; 2] = ["state", "memory"];
pub(super) const LOADED: [&str; 2] = ["loaded-state", "loaded-memory"];
/// It takes no more.
pub(super) const MOST_CPUS: u32 = 32;
/// Any from 3 on; each machine has a VMM of its own, in which there is no other.
const CID: u32 = 3;

/// Name of a disk's file.
pub(super) fn disk(number: usize) -> String {
    format!("disk{number}")
}

fn own(name: &str) -> String {
    format!("{VMM_FILES}/{name}")
}

/// Behind the program's name.
pub(super) fn arguments() -> Vec<String> {
    ["--api-sock", &format!("{VMM_RUN}/{SOCKET}"), "--id", "csb"].map(str::to_owned).to_vec()
}

/// In this order: up to a machine that runs.
pub(super) fn begin(machine: &Machine) -> Vec<Request> {
    if machine.state.is_some() {
        let backend = json!({ "backend_type": "File", "backend_path": own(LOADED[1]) });
        let load = json!({ "snapshot_path": own(LOADED[0]), "mem_backend": backend, "resume_vm": true });
        return vec![Request::put("/snapshot/load", load).long()];
    }
    let mut all = vec![
        Request::put("/machine-config", json!({ "vcpu_count": machine.cpus, "mem_size_mib": machine.memory >> 20 })),
        Request::put(
            "/boot-source",
            json!({
                "kernel_image_path": own(KERNEL),
                "initrd_path": own(INITRAMFS),
                // A guest that ends does it by the keyboard's controller, which is what it has for that.
                "boot_args": command_line(None).replace("reboot=t", "reboot=k"),
            }),
        ),
    ];
    for (number, drive) in machine.drives.iter().enumerate() {
        let id = format!("csb{number}");
        let body = json!({
            "drive_id": id,
            "is_root_device": false,
            "is_read_only": !drive.writable,
            "path_on_host": own(&disk(number)),
        });
        all.push(Request::put(&format!("/drives/{id}"), body));
    }
    all.push(Request::put("/vsock", json!({ "guest_cid": CID, "uds_path": format!("{VMM_RUN}/{VSOCK}") })));
    all.push(Request::put("/entropy", json!({})));
    // Memory that the guest gave up is the host's again.
    let balloon = json!({ "amount_mib": 0, "deflate_on_oom": false, "free_page_reporting": true });
    all.push(Request::put("/balloon", balloon));
    all.push(Request::put("/actions", json!({ "action_type": "InstanceStart" })).long());
    all
}

pub(super) fn pause(paused: bool) -> Request {
    Request::patch("/vm", json!({ "state": if paused { "Paused" } else { "Resumed" } }))
}

/// Its answer has the field `state`: `Not started`, `Running`, `Paused`.
pub(super) fn describe() -> Request {
    Request::get("/")
}

/// Of a machine that stands still.
pub(super) fn save() -> Request {
    let files = json!({ "snapshot_type": "Full", "snapshot_path": own(SAVED[0]), "mem_file_path": own(SAVED[1]) });
    Request::put("/snapshot/create", files).long()
}
