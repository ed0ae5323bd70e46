//! The table of settings: name, variable, default, meaning and how the text is read. Each topic has its part in a file.

mod docker;
mod host;
mod http;
mod k8s;
mod limits;
mod microvm;
mod remote;
mod sandboxes;
mod server;
mod text;
mod upkeep;

use super::Config;

/// One setting.
pub(super) struct Setting {
    /// Name in the file and for `--set`.
    pub key: &'static str,
    /// Environment variable.
    pub env: &'static str,
    /// Default as text; empty: none.
    pub default: &'static str,
    /// What happens without a default, for the reference.
    pub absent: &'static str,
    /// What it means, for the reference.
    pub about: &'static str,
    /// Reads the text.
    pub set: fn(&mut Config, &str) -> Result<(), String>,
}

/// The parts of the table, in the order of the reference.
const TOPICS: [&[Setting]; 10] = [
    server::SETTINGS,
    sandboxes::SETTINGS,
    remote::SETTINGS,
    host::SETTINGS,
    docker::SETTINGS,
    microvm::SETTINGS,
    k8s::SETTINGS,
    limits::SETTINGS,
    http::SETTINGS,
    upkeep::SETTINGS,
];

/// The table.
pub(super) fn all() -> impl Iterator<Item = &'static Setting> {
    TOPICS.into_iter().flatten()
}
