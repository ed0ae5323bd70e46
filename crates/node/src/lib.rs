//! Owns all sandboxes of a host: the warden's connection, pools, the ledger, recovery.
//! Knows nothing of HTTP, of users or of databases.

mod admit;
mod awaited;
mod clean;
mod config;
mod error;
mod hardened;
mod ledger;
mod local;
mod lookup;
mod memory;
mod node;
mod plan;
mod pool;
mod pressure;
mod quota;
mod records;
mod sandbox;
mod supervise;
mod templates;
mod tree;
mod workspace;

pub use clean::{Cleaned, Cleaning};
pub use config::{
    NodeConfig, PoolConfig, PoolStats, TemplateInfo, TemplateSource, WardenInfo, WardenSource, WorkspaceConfig,
};
pub use csb_engine::{Chunk, Exec, ExecError, FileReader, Handle, Meta, OpError, OutputReader};
pub use csb_wire::Mode;
pub use error::{CreateError, NodeError};
pub use ledger::known;
pub use local::WakeError;
pub use memory::forget as forget_memory;
pub use node::Node;
pub use pressure::{MemoryStats, Pressure, PressureConfig};
pub use sandbox::Sandbox;
