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

#[cfg(test)]
mod tests {
    use super::super::machine::example;
    use super::*;
    use csb_testkit::firecracker::facts::{Phase, refusal};
    use firepilot_models::models;
    use serde::{Serialize, de::DeserializeOwned};
    use serde_json::Value;

    fn saved() -> Machine {
        Machine { state: Some(vec!["/s".into(), "/m".into()]), ..example() }
    }

    /// All that is ever asked, and where the VMM is then.
    fn all() -> Vec<(Phase, Request)> {
        let mut all: Vec<_> = begin(&example()).into_iter().map(|request| (Phase::Before, request)).collect();
        all.extend(begin(&saved()).into_iter().map(|request| (Phase::Before, request)));
        all.extend([
            (Phase::Running, pause(true)),
            (Phase::Paused, save()),
            (Phase::Paused, pause(false)),
            (Phase::Before, describe()),
            (Phase::Paused, describe()),
        ]);
        all
    }

    #[test]
    fn every_request_is_one_that_firecracker_takes() {
        for (phase, Request { method, path, body, .. }) in all() {
            assert_eq!(refusal(phase, method, &path, body.as_ref()), None, "{method} {path}");
        }
        // Which it would not do for any.
        let mut odd = pause(true);
        odd.body = Some(json!({ "state": "Paused", "now": true }));
        assert!(refusal(Phase::Running, odd.method, &odd.path, odd.body.as_ref()).is_some());
        assert!(refusal(Phase::Before, "PATCH", "/vm", pause(true).body.as_ref()).is_some());
        assert!(refusal(Phase::Running, "PUT", "/snapshot/create", save().body.as_ref()).is_some());
    }

    /// What a generated model takes and gives back is what its description has: a field that it does not know is lost.
    fn is<M: Serialize + DeserializeOwned>(body: &Value) {
        let model: M = serde_json::from_value(body.clone()).unwrap();
        assert_eq!(serde_json::to_value(&model).unwrap(), *body);
    }

    #[test]
    fn bodies_are_what_models_of_its_published_description_have() {
        let mut later = vec![];
        for (_, Request { path, body, .. }) in all() {
            let Some(mut body) = body else { continue };
            match path.as_str() {
                "/machine-config" => is::<models::MachineConfiguration>(&body),
                "/boot-source" => is::<models::BootSource>(&body),
                "/vsock" => is::<models::Vsock>(&body),
                "/actions" => is::<models::InstanceActionInfo>(&body),
                "/vm" => is::<models::Vm>(&body),
                "/snapshot/create" => is::<models::SnapshotCreateParams>(&body),
                "/snapshot/load" => is::<models::SnapshotLoadParams>(&body),
                "/balloon" => {
                    later.extend(body.as_object_mut().unwrap().remove("free_page_reporting"));
                    is::<models::Balloon>(&body);
                }
                "/entropy" => later.push(body),
                drive => {
                    assert!(drive.starts_with("/drives/"), "{drive}");
                    is::<models::Drive>(&body);
                }
            }
        }
        assert_eq!(later, [json!({}), json!(true)], "what came after version 1.3");
    }

    #[test]
    fn a_machine_has_no_network_and_its_disks_are_what_they_were() {
        let asked = begin(&example());
        assert!(!asked.iter().any(|request| ["network", "mmds"].iter().any(|word| request.path.contains(word))));
        let read_only: Vec<_> = asked
            .iter()
            .filter(|request| request.path.starts_with("/drives/"))
            .map(|request| request.body.as_ref().unwrap()["is_read_only"].clone())
            .collect();
        assert_eq!(read_only, [true, true, false]);
        // Nothing is changed while it runs, and nothing is weaker than Firecracker's default.
        assert_eq!(asked.last().unwrap().path, "/actions");
        assert!(!arguments().iter().any(|word| word.contains("seccomp")));
    }
}
