//! All routes. Each handler reads, calls and converts; what it means is decided in `app`.

mod auth;
mod execs;
mod files;
mod sandboxes;
mod server;
mod sessions;
mod simple;
mod workspaces;

use crate::app::App;
use std::sync::Arc;
use utoipa_axum::{router::OpenApiRouter, routes};

/// For anyone.
pub(super) fn open() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(server::health)).routes(routes!(auth::token)).routes(routes!(server::metrics))
}

/// For callers who said who they are.
pub(super) fn guarded() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(auth::list_keys, auth::create_key))
        .routes(routes!(auth::revoke_key))
        .routes(routes!(sandboxes::list, sandboxes::create))
        .routes(routes!(sandboxes::get, sandboxes::delete, sandboxes::patch))
        .routes(routes!(sandboxes::pause))
        .routes(routes!(sandboxes::resume))
        .routes(routes!(sandboxes::stats))
        .routes(routes!(execs::list, execs::create))
        .routes(routes!(execs::get))
        .routes(routes!(execs::result))
        .routes(routes!(execs::output))
        .routes(routes!(execs::stdin))
        .routes(routes!(execs::signal))
        .routes(routes!(execs::resize))
        .routes(routes!(execs::ws))
        .routes(routes!(execs::run_code))
        .routes(routes!(files::read, files::write, files::remove))
        .routes(routes!(files::list))
        .routes(routes!(files::stat))
        .routes(routes!(files::mkdir))
        .routes(routes!(files::rename))
        .routes(routes!(files::pack, files::unpack))
        .routes(routes!(sessions::list, sessions::create))
        .routes(routes!(sessions::get, sessions::delete))
        .routes(routes!(sessions::pause))
        .routes(routes!(sessions::resume))
        .routes(routes!(sessions::execute))
        .routes(routes!(sessions::execution))
        .routes(routes!(simple::acquire))
        .routes(routes!(simple::release))
        .routes(routes!(simple::pool))
        .routes(routes!(simple::execute))
        .routes(routes!(simple::read_file, simple::write_file, simple::remove_file))
        .routes(routes!(server::templates))
        .routes(routes!(server::kinds))
        .routes(routes!(server::languages))
        .routes(routes!(workspaces::clean))
}
