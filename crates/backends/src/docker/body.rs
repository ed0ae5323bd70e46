//! From a spec to what the engine is asked to make. Pure.

use crate::{
    BackendError, Guests,
    guests::{PLACES, Place, pids, quota},
    program::Program,
};
use bollard::models::{
    ContainerCreateBody, ContainerUpdateBody, HealthConfig, HostConfig, HostConfigLogConfig, Mount, MountBindOptions,
    MountType, RestartPolicy, RestartPolicyNameEnum,
};
use csb_image::Bind;
use csb_types::{Limits, SandboxId, SandboxSpec};
use csb_wire::guest::{PROGRAMS, SHARED};
use std::path::Path;

/// Label with the node that a container belongs to. What has another, or none, is never touched.
pub(super) const NODE: &str = "csb.node";
/// Label with the sandbox that it is.
pub(super) const SANDBOX: &str = "csb.sandbox";

/// All that our init needs: to bind its socket, to become commands' users, to end their processes, to give up the rest.
const CAPABILITIES: [&str; 5] = ["DAC_OVERRIDE", "KILL", "SETGID", "SETPCAP", "SETUID"];
/// By these an image's environment would reach into the loader of our init.
const LOADER_VARIABLES: [&str; 5] = ["LD_PRELOAD", "LD_AUDIT", "LD_DEBUG", "LD_PROFILE", "GLIBC_TUNABLES"];

/// What a container is made of.
pub(super) struct Parts {
    pub(super) image: String,
    /// Directories of the host that the image is incomplete without.
    pub(super) binds: Vec<Bind>,
    /// Directories that the image wants to be kept apart; see `image.rs`.
    pub(super) volumes: Vec<String>,
    pub(super) program: Program,
}

fn bind(source: &Path, target: &str, read_only: bool) -> Result<Mount, BackendError> {
    let source = source.to_str().ok_or_else(|| BackendError::Failed {
        step: "make the container".into(),
        message: format!("`{}` is not UTF-8", source.display()),
    })?;
    Ok(Mount {
        target: Some(target.into()),
        source: Some(source.into()),
        typ: Some(MountType::BIND),
        read_only: Some(read_only),
        // What is mounted below would stay writable.
        bind_options: Some(MountBindOptions { non_recursive: Some(true), ..Default::default() }),
        ..Default::default()
    })
}

fn mounts(spec: &SandboxSpec, place: &Place, parts: &Parts) -> Result<Vec<Mount>, BackendError> {
    let mut mounts = vec![
        bind(&parts.program.directory, PROGRAMS, true)?,
        bind(&parts.program.nothing, "/etc/ld.so.preload", true)?,
        bind(&place.run(), SHARED, false)?,
    ];
    for shown in &parts.binds {
        mounts.push(bind(&shown.host, &shown.guest.to_string_lossy(), true)?);
    }
    for (name, target, ..) in PLACES {
        mounts.push(bind(&place.files().join(name), target, false)?);
    }
    if let Some(work_dir) = &spec.options.work_dir
        && !PLACES.iter().any(|(_, target, ..)| target == work_dir)
    {
        mounts.push(bind(&place.files().join("workspace"), work_dir, false)?);
    }
    for (number, target) in parts.volumes.iter().enumerate() {
        mounts.push(bind(&place.files().join(volume(number)), target, false)?);
    }
    for volume in &spec.volumes {
        mounts.push(bind(&volume.host, &volume.guest.to_string_lossy(), volume.read_only)?);
    }
    Ok(mounts)
}

/// Directory of a sandbox's own files that covers one of its image's volumes.
pub(super) fn volume(number: usize) -> String {
    format!("volume{number}")
}

/// The container of a sandbox.
pub(super) fn container(
    id: &SandboxId,
    spec: &SandboxSpec,
    place: &Place,
    guests: &Guests,
    parts: Parts,
) -> Result<ContainerCreateBody, BackendError> {
    let limits = &spec.limits;
    let (quota, period) = quota(limits);
    let mounts = mounts(spec, place, &parts)?;
    let mut entrypoint = parts.program.entrypoint;
    entrypoint.extend(crate::guests::arguments(guests, spec));
    let strings = |words: &[&str]| Some(words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>());
    let host = HostConfig {
        memory: Some(limits.memory as i64),
        // Together with swap: none.
        memory_swap: Some(limits.memory as i64),
        cpu_quota: Some(quota),
        cpu_period: Some(period),
        cpu_shares: limits.cpu_weight.map(shares),
        pids_limit: Some(pids(limits)),
        network_mode: Some(spec.options.network_mode.clone().unwrap_or_else(|| "none".into())),
        cap_drop: strings(&["ALL"]),
        cap_add: strings(&CAPABILITIES),
        security_opt: strings(&["no-new-privileges"]),
        init: Some(false),
        privileged: Some(false),
        // All that is written goes to the sandbox's own file system; what the engine puts into a container, such as
        // `/etc/hosts`, is a file on the host's disk.
        readonly_rootfs: Some(true),
        mounts: Some(mounts),
        shm_size: Some((limits.memory / 2) as i64),
        log_config: Some(HostConfigLogConfig { typ: Some("none".into()), config: None }),
        restart_policy: Some(RestartPolicy { name: Some(RestartPolicyNameEnum::NO), maximum_retry_count: None }),
        ..Default::default()
    };
    Ok(ContainerCreateBody {
        image: Some(parts.image),
        hostname: Some(spec.hostname.clone().unwrap_or_else(|| "sandbox".into())),
        user: Some("0:0".into()),
        working_dir: Some("/".into()),
        // An image's own check would be a program of the image's, run as root beside our init and past its filter.
        healthcheck: Some(HealthConfig { test: strings(&["NONE"]), ..Default::default() }),
        entrypoint: Some(entrypoint),
        cmd: Some(vec![]),
        env: Some(LOADER_VARIABLES.iter().map(|name| format!("{name}=")).collect()),
        labels: Some(
            [(NODE.to_owned(), guests.node()), (SANDBOX.to_owned(), id.as_str().to_owned())].into_iter().collect(),
        ),
        host_config: Some(host),
        ..Default::default()
    })
}

/// The limits of a container that lives.
pub(super) fn update(limits: &Limits) -> ContainerUpdateBody {
    let (quota, period) = quota(limits);
    ContainerUpdateBody {
        memory: Some(limits.memory as i64),
        memory_swap: Some(limits.memory as i64),
        cpu_quota: Some(quota),
        cpu_period: Some(period),
        cpu_shares: limits.cpu_weight.map(shares),
        pids_limit: Some(pids(limits)),
        ..Default::default()
    }
}

/// A weight, of which 100 is the default, as shares, of which 1024 are; 2 is the least.
fn shares(weight: u32) -> i64 {
    (i64::from(weight) * 1024 / 100).max(2)
}
