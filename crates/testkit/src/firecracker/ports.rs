//! Serial ports of QEMU for a machine that is to be saved, which QEMU does with no vhost-user device: `CONNECT NUMBER` leads to the
//! port that pid 1 of a machine takes for that number where there is no vsock. For the host there is no difference.

use csb_wire::machine::{CONTROL_PORT, CONTROL_VSOCK, INIT_PORT, INIT_VSOCK};
use std::{
    io::{self, Read, Write},
    net::Shutdown,
    os::unix::net::{UnixListener, UnixStream},
    sync::{Mutex, PoisonError},
    thread,
};

const PORTS: [(u32, &str, &str); 2] =
    [(INIT_VSOCK, INIT_PORT, "/vm/run/init.sock"), (CONTROL_VSOCK, CONTROL_PORT, "/vm/run/control.sock")];

/// Connections that are open, both ends of each.
static OPEN: Mutex<Vec<(u32, UnixStream)>> = Mutex::new(Vec::new());

pub(super) fn arguments() -> Vec<String> {
    let mut words = vec!["-device".into(), "virtio-serial-device,max_ports=4".into()];
    for (number, name, path) in PORTS {
        words.extend(["-chardev".into(), format!("socket,id=p{number},path={path},server=on,wait=off")]);
        words.extend(["-device".into(), format!("virtserialport,chardev=p{number},name={name}")]);
    }
    words
}

/// Takes connections for as long as this process lives.
pub(super) fn listen(path: &str) -> io::Result<()> {
    let listener = UnixListener::bind(path)?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || connect(stream));
        }
    });
    Ok(())
}

fn close(which: impl Fn(u32) -> bool) {
    let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    for (_, stream) in open.extract_if(.., |(number, _)| which(*number)) {
        // It may have ended.
        let _ = stream.shutdown(Shutdown::Both);
    }
}

/// Ends all connections, as a machine's vsock does that is saved.
pub(super) fn reset() {
    close(|_| true);
}

fn connect(mut stream: UnixStream) -> io::Result<()> {
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') && line.len() < 32 {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        line.extend(byte);
    }
    let line = String::from_utf8_lossy(&line);
    let number = line.trim().strip_prefix("CONNECT ").and_then(|number| number.parse().ok());
    let Some((number, _, path)) = PORTS.into_iter().find(|(known, ..)| Some(*known) == number) else { return Ok(()) };
    // QEMU talks with one at a time.
    close(|open| open == number);
    let guest = UnixStream::connect(path)?;
    OPEN.lock()
        .unwrap_or_else(PoisonError::into_inner)
        .extend([(number, stream.try_clone()?), (number, guest.try_clone()?)]);
    stream.write_all(b"OK 1073741824\n")?;
    let (from, to) = (guest.try_clone()?, stream.try_clone()?);
    thread::spawn(move || pump(from, to));
    pump(stream, guest);
    Ok(())
}

fn pump(mut from: UnixStream, mut to: UnixStream) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        if to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    let _ = (to.shutdown(Shutdown::Both), from.shutdown(Shutdown::Both));
}
