//! Where a running VMM is met: its process, and the sockets that lead to it and, through it, to its guest.

use super::{
    firecracker,
    settings::Vmm,
    socket::{Until, connect, connect_of},
    vmm,
};
use csb_wire::machine::{CONTROL_VSOCK, INIT_VSOCK, VMM_RUN};
use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::PathBuf,
    time::{Duration, Instant},
};

/// For a guest to take a connection.
const PATIENCE: Duration = Duration::from_secs(5);
/// Of the answer `OK NUMBER`.
const MOST: usize = 32;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seat {
    pub(super) vmm: Vmm,
    /// On the host.
    pub(super) pid: i32,
    /// What its control group is called.
    pub(super) name: String,
    /// Where sockets of ours are that it listens on.
    pub(super) run: PathBuf,
}

impl Seat {
    /// Whether the VMM is there. After its end its pid may be another's; the group says that it is not.
    pub(super) fn lives(&self) -> bool {
        vmm::lives(self.pid) && vmm::is_of(self.pid, &self.name)
    }

    /// A stream to the relay of the sandbox's init.
    pub(super) fn init(&self) -> io::Result<UnixStream> {
        self.stream("init.sock", INIT_VSOCK)
    }

    /// A stream to pid 1 of the machine.
    pub(super) fn control(&self) -> io::Result<UnixStream> {
        self.stream("control.sock", CONTROL_VSOCK)
    }

    fn stream(&self, socket: &str, port: u32) -> io::Result<UnixStream> {
        if !self.lives() {
            return Err(io::Error::from_raw_os_error(libc::ENOENT));
        }
        match self.vmm {
            Vmm::Qemu => connect(&self.run.join(socket)),
            Vmm::Firecracker => {
                let stream = connect_of(self, &format!("{VMM_RUN}/{}", firecracker::VSOCK))?;
                to_port(&stream, port)?;
                Ok(stream)
            }
        }
    }
}

/// Asks for a port of the guest (`docs/vsock.md` of Firecracker); what follows the answer is the guest's.
fn to_port(stream: &UnixStream, port: u32) -> io::Result<()> {
    let mut until = Until { stream, end: Instant::now() + PATIENCE };
    until.write_all(format!("CONNECT {port}\n").as_bytes())?;
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') {
        let mut byte = [0];
        match until.read(&mut byte)? {
            // Nobody listens there yet.
            0 => return Err(io::ErrorKind::ConnectionRefused.into()),
            _ => line.extend(byte),
        }
        if line.len() > MOST {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the VMM does not say that it is connected"));
        }
    }
    if !line.starts_with(b"OK ") {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the VMM does not say that it is connected"));
    }
    stream.set_read_timeout(None)?;
    stream.set_write_timeout(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(said: &[u8], rest: &[u8], expected: Option<io::ErrorKind>) {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(said).unwrap();
        theirs.write_all(rest).unwrap();
        theirs.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(to_port(&ours, 52).err().map(|error| error.kind()), expected, "{said:?}");
        let mut got = vec![0; 11];
        theirs.read_exact(&mut got).unwrap();
        assert_eq!(got, b"CONNECT 52\n");
        if expected.is_none() {
            let mut left = Vec::new();
            let mut ours = ours;
            ours.read_to_end(&mut left).unwrap();
            assert_eq!(left, rest, "what the guest says is not lost");
        }
    }

    #[test]
    fn a_port_is_asked_for_and_nothing_of_the_guest_is_lost() {
        check(b"OK 1073741824\n", b"\0frame\n", None);
        check(b"", b"", Some(io::ErrorKind::ConnectionRefused));
        check(b"NO\n", b"", Some(io::ErrorKind::InvalidData));
        check(&[b'O'; 100], b"", Some(io::ErrorKind::InvalidData));
    }
}
