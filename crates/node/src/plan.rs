//! From a spec and a template to what the warden builds. Pure.

use crate::disk::Image;
use csb_image::Template;
use csb_types::{SandboxId, SandboxSpec};
use csb_wire::{Bind, JailPlan, UpperPlan};

/// A sandbox, decided in every detail.
pub(crate) fn jail(id: &SandboxId, spec: &SandboxSpec, template: &Template, image: Option<&Image>) -> JailPlan {
    let bind = |bind: &csb_image::Bind| Bind { host: bind.host.clone(), guest: bind.guest.clone() };
    JailPlan {
        id: id.clone(),
        hostname: spec.hostname.clone().unwrap_or_else(|| "sandbox".into()),
        layers: template.layers.clone(),
        binds: template.binds.iter().map(bind).collect(),
        volumes: spec.volumes.clone(),
        upper: match image {
            Some(image) => UpperPlan::Disk { image: image.path.clone() },
            None => UpperPlan::Memory,
        },
        limits: spec.limits.clone(),
        net: spec.net,
    }
}
