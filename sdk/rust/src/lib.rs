//! Client of the Cloud Sandbox API.
//!
//! ```no_run
//! # async fn example() -> Result<(), csb_client::Error> {
//! use csb_client::{Client, shell};
//!
//! let client = Client::from_env().build()?; // CSB_SERVER, CSB_API_KEY or CSB_TOKEN
//! let sandbox = client.create_sandbox(&Default::default()).await?;
//! let result = sandbox.run(&shell("echo $((6 * 7))")).await?;
//! assert_eq!(result.stdout, b"42\n");
//! sandbox.release().await?;
//! # Ok(()) }
//! ```
//!
//! Owns: authentication, retries, streams that survive a lost connection. Knows nothing of how sandboxes are made.
//!
//! **Retries never run a command twice.** Reading and removing are repeated when a connection breaks; creating and starting
//! carry an idempotency key, by which the server does them once, and are repeated. Writing to a command, appending and
//! moving are repeated only when the server cannot have seen the request (no connection was made, or it answered `429`);
//! otherwise the call fails with [`Error::Lost`].

mod attach;
mod client;
mod error;
mod exec;
mod files;
mod output;
mod request;
mod sandbox;
mod session;
mod sse;
mod transport;

pub use attach::{Attachment, Event};
pub use client::{API_KEY_VARIABLE, Client, ClientBuilder, DEFAULT_SERVER, SERVER_VARIABLE, TOKEN_VARIABLE};
pub use csb_api as api;
pub use error::{ApiError, Error};
pub use exec::{Exec, Outcome};
pub use files::{ByteStream, Files, ReadRange, WriteOptions};
pub use output::{Chunk, OutputStream};
pub use request::{argv, code, shell};
pub use sandbox::Sandbox;
pub use session::Session;
