//! Bodies of REST requests: any JSON is refused, or becomes a spec that passes its own check or is refused by it.
#![no_main]

use csb_api::{
    ErrorBody, ExecRequest, ExecuteRequest, KeyRequest, MkdirRequest, MoveRequest, PatchSandboxRequest, PtySizeRequest,
    ReleaseRequest, RunCodeRequest, SandboxRequest, SessionExecuteRequest, SessionRequest, SignalRequest, StdinRequest,
    TokenRequest, WsClient, ws_frame, ws_unframe,
};
use csb_types::{Kind, Limits};
use serde::de::DeserializeOwned;

fn parsed<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    serde_json::from_slice(bytes).ok()
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((kind, bytes)) = data.split_first() else { return };
    match kind % 16 {
        0 => {
            if let Some(spec) = parsed::<SandboxRequest>(bytes).and_then(|request| request.to_spec(Kind::default()).ok())
                && spec.check().is_ok()
            {
                assert_eq!(spec.limits.check(), Ok(()));
            }
        }
        1 => {
            if let Some((spec, _)) = parsed::<ExecRequest>(bytes).and_then(|request| request.to_spec().ok()) {
                let _ = spec.check();
            }
        }
        2 => drop(parsed::<ExecuteRequest>(bytes).map(ExecuteRequest::split)),
        3 => drop(parsed::<SessionExecuteRequest>(bytes).map(SessionExecuteRequest::split)),
        4 => {
            if let Some(Ok(request)) = parsed::<SessionRequest>(bytes).map(|request| request.sandbox_request(Kind::default())) {
                let _ = request.to_spec(Kind::default()).map(|spec| spec.check());
            }
        }
        5 => {
            if let Some(request) = parsed::<PatchSandboxRequest>(bytes) {
                let limits = request.resources.over(&Limits::default());
                let _ = limits.map(|limits| limits.check());
            }
        }
        6 => drop(parsed::<PtySizeRequest>(bytes).map(|request| request.size())),
        7 => drop(parsed::<SignalRequest>(bytes).map(|request| request.signal.number())),
        8 => drop(parsed::<RunCodeRequest>(bytes)),
        9 => drop(parsed::<StdinRequest>(bytes)),
        10 => drop(parsed::<KeyRequest>(bytes)),
        11 => drop(parsed::<MkdirRequest>(bytes)),
        12 => drop((parsed::<MoveRequest>(bytes), parsed::<ReleaseRequest>(bytes))),
        13 => drop((parsed::<TokenRequest>(bytes), parsed::<ErrorBody>(bytes))),
        14 => drop(parsed::<WsClient>(bytes)),
        _ => {
            if let Some((stream, seq, rest)) = ws_unframe(bytes) {
                assert_eq!(ws_frame(stream, seq, rest), bytes);
            }
        }
    }
});
