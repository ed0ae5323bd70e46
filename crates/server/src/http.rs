//! Owns the HTTP surface: routes, how requests are read, how answers and errors look, streams.
//! Handlers have three moves: read, call `app`, convert.

mod extract;
mod forward;
mod listen;
mod openapi;
mod respond;
mod routes;
mod stream;
mod ws;

pub use listen::{Listener, serve};
pub use openapi::openapi_json;

use crate::app::App;
use axum::{Router, middleware};
use std::sync::Arc;

/// All routes with everything around them.
pub fn router(app: Arc<App>) -> Router {
    let (open, guarded, doc) = openapi::routes();
    let guarded = guarded.layer(middleware::from_fn_with_state(app.clone(), forward::forward));
    let guarded = guarded.layer(middleware::from_fn_with_state(app.clone(), respond::authenticate));
    open.merge(guarded)
        .merge(openapi::docs(doc))
        .fallback(respond::no_route)
        .layer(middleware::from_fn(respond::catch_panic))
        .layer(middleware::from_fn_with_state(app.clone(), respond::surround))
        .with_state(app)
}
