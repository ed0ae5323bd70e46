//! The host's half, opened to the fuzzer (feature `fuzzing`): frames as a guest that was taken over may send them.

use crate::{
    flow::WINDOW,
    frame::{Cutter, Event, Flow, Frame, MOST_FROM_GUEST, VERSION},
    host::Host,
};
use csb_types::ExecId;
use csb_wire::FromInit;

const SESSION: u64 = 7;

/// Takes frames made of `data`, and the bytes themselves as a stream.
pub fn guest_says(data: &[u8]) {
    let [raw @ .., mode] = data else { return };
    // As in any Rust program, whose `main` this is not.
    csb_sys::process::ignore_broken_pipes();
    if mode.is_multiple_of(4) {
        Cutter::new(MOST_FROM_GUEST).push(raw);
        return;
    }
    let exec: ExecId = "ex-aaaaaaaaaaaaaaaaaaaa".parse().expect("an id");
    let Ok(mut host) = Host::fuzzed(SESSION, &exec) else { return };
    for (count, words) in raw.chunks_exact(6).enumerate() {
        let offset = u64::from(u16::from_le_bytes([words[2], words[3]])) * u64::from(words[1] | 1);
        let length = usize::from(u16::from_le_bytes([words[4], words[5]]));
        let [out, err, input] = Flow::of(&exec);
        let flow = [out, err, input, Flow::Call(0), Flow::Call(length as u32)][words[1] as usize % 5].clone();
        let frame = match words[0] % 10 {
            0 => Frame::Hello { version: VERSION, session: SESSION, got: offset, have: vec![(flow, length as u64)] },
            1 => Frame::Data { flow, offset, bytes: vec![words[1]; length] },
            2 => Frame::End { flow, offset },
            3 => Frame::Took { flow, offset },
            4 => Frame::Broken { flow },
            5 => Frame::Heard { number: offset },
            6 => Frame::Ask { number: words[2].into() },
            7 => Frame::Have { number: words[2].into(), got: offset, have: vec![(flow, length as u64)] },
            8 => Frame::Said { number: count as u64, body: raw[..length.min(raw.len())].to_vec() },
            _ => Frame::Said { number: offset, body: csb_wire::encode(&event(&exec, words)) },
        };
        if host.guest_says(frame).is_err() {
            break;
        }
        host.check(WINDOW);
    }
}

fn event(exec: &ExecId, words: &[u8]) -> Event {
    let exec = exec.clone();
    let frame = match words[1] % 6 {
        0 => FromInit::Ready,
        1 => FromInit::Started { exec, pid: 2 },
        2 => FromInit::Exited { exec, status: 0, duration_usec: 0 },
        3 => FromInit::Known {
            exec,
            pid: 2,
            ended: None,
            age_usec: 0,
            pty: words[2].is_multiple_of(2),
            stdin: words[3].is_multiple_of(2),
        },
        4 => FromInit::Known {
            exec: ExecId::random(),
            pid: 2,
            ended: Some((0, 0)),
            age_usec: 0,
            pty: words[2].is_multiple_of(2),
            stdin: true,
        },
        _ => FromInit::KnownEnd,
    };
    Event { frame, at: [words[4].into(), words[5].into(), u64::from(words[3]) << 56] }
}
