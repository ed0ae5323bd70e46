//! Owns how log lines look. Every line written during a request carries the request's id.

use crate::config::{Config, LogFormat};
use std::io::{self, IsTerminal as _};
use tracing_subscriber::{EnvFilter, fmt};

/// Sends log lines to stderr as configured. A second call in one process changes nothing and answers false.
pub fn start(config: &Config) -> bool {
    // The filter was checked when the settings were read.
    let filter = EnvFilter::try_new(&config.log_filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(io::stderr().is_terminal());
    match config.log_format {
        LogFormat::Text => builder.with_target(false).try_init().is_ok(),
        LogFormat::Json => {
            builder.json().flatten_event(true).with_current_span(true).with_span_list(false).try_init().is_ok()
        }
    }
}
