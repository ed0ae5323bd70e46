//! From a spec and a template to what the warden builds. Pure.

use csb_backends::disk::Image;
use csb_image::{Private, Template};
use csb_types::{SandboxId, SandboxSpec, Volume};
use csb_wire::{Bind, JailPlan, UpperPlan};

/// What a sandbox's files are mounted from.
#[derive(Debug)]
pub(crate) enum Lower {
    /// The template's own directories, and the host's.
    Shared(Template),
    /// Images of them.
    Private(Private),
}

/// A sandbox, decided in every detail.
pub(crate) fn jail(
    id: &SandboxId,
    spec: &SandboxSpec,
    lower: &Lower,
    volumes: Vec<Volume>,
    image: Option<&Image>,
) -> JailPlan {
    let (layers, binds) = match lower {
        Lower::Shared(template) => (&template.layers, &template.binds),
        Lower::Private(private) => (&private.layers, &private.binds),
    };
    let bind = |bind: &csb_image::Bind| Bind { host: bind.host.clone(), guest: bind.guest.clone() };
    JailPlan {
        id: id.clone(),
        kind: spec.kind,
        hostname: spec.hostname.clone().unwrap_or_else(|| "sandbox".into()),
        layers: layers.clone(),
        binds: binds.iter().map(bind).collect(),
        volumes: spec.volumes.iter().cloned().chain(volumes).collect(),
        upper: match image {
            Some(image) => UpperPlan::Disk { image: image.path.clone() },
            None => UpperPlan::Memory,
        },
        limits: spec.limits.clone(),
        net: spec.net,
    }
}
