//! Commands in a sandbox: what is asked, how they look, how their output travels.

mod command;
mod output;
mod request;
mod view;

pub use command::{CommandRequest, PtySizeRequest, SignalRequest, SignalValue, StdinRequest};
pub use output::{Encoding, OutputEvent, WsClient, WsServer, encode_pair, encode_text, ws_frame, ws_unframe};
pub use request::{ExecRequest, ExecuteRequest, RunCodeRequest, SessionExecuteRequest};
pub use view::{ExecResultView, ExecState, ExecView};
