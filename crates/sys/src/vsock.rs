//! Listening for the host of a virtual machine (vsock(7)): a stream of bytes without a network.

use crate::check::check;
use rustix::fs::{Mode, OFlags};
use std::{
    io, mem,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    ptr,
};

const DEVICE: &str = "/dev/vsock";
/// `_IO(7, 0xb9)` of `linux/vm_sockets.h`.
const GET_LOCAL_CID: libc::Ioctl = 0x7b9;

/// A port on which the host of this machine is heard, and nobody else.
#[derive(Debug)]
pub struct Listener(OwnedFd);

/// The number by which the host knows this machine; none where it has no such device (yet).
pub fn local_cid() -> io::Result<Option<u32>> {
    let device = match rustix::fs::open(DEVICE, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NODEV | rustix::io::Errno::NXIO) => return Ok(None),
        opened => opened?,
    };
    let mut cid: libc::c_uint = 0;
    // SAFETY: the ioctl writes one unsigned int, which `cid` is.
    check(unsafe { libc::ioctl(device.as_raw_fd(), GET_LOCAL_CID, &raw mut cid) })?;
    // Numbers up to the host's are nobody's, and "any" is what a kernel says that has no device.
    Ok((cid > libc::VMADDR_CID_HOST && cid != libc::VMADDR_CID_ANY).then_some(cid))
}

fn address(cid: u32, port: u32) -> libc::sockaddr_vm {
    // SAFETY: all-zero bytes are a valid sockaddr_vm.
    let mut address: libc::sockaddr_vm = unsafe { mem::zeroed() };
    address.svm_family = libc::AF_VSOCK as libc::sa_family_t;
    address.svm_cid = cid;
    address.svm_port = port;
    address
}

fn socket(flags: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: socket(2) takes no pointers; a non-negative result is a new descriptor that nothing else owns.
    unsafe {
        let fd = check(libc::socket(libc::AF_VSOCK, libc::SOCK_STREAM | libc::SOCK_CLOEXEC | flags, 0))?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

impl Listener {
    /// Listens; nobody is waited for in [`Listener::accept`].
    pub fn bind(port: u32) -> io::Result<Self> {
        let fd = socket(libc::SOCK_NONBLOCK)?;
        let address = address(libc::VMADDR_CID_ANY, port);
        // SAFETY: `address` is a whole sockaddr_vm and outlives the calls.
        unsafe {
            let length = mem::size_of_val(&address) as libc::socklen_t;
            check(libc::bind(fd.as_raw_fd(), ptr::from_ref(&address).cast(), length))?;
            check(libc::listen(fd.as_raw_fd(), 8))?;
        }
        Ok(Self(fd))
    }

    /// The host's next connection, non-blocking; none while there is none. One of somebody else is closed: what runs in this
    /// machine may reach its own ports, too.
    pub fn accept(&self) -> io::Result<Option<OwnedFd>> {
        let mut peer = address(0, 0);
        let mut length = mem::size_of_val(&peer) as libc::socklen_t;
        let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: `peer` and `length` outlive the call, and `length` is the room in `peer`; a non-negative result is a new
        // descriptor that nothing else owns.
        let accepted = unsafe {
            check(libc::accept4(self.0.as_raw_fd(), ptr::from_mut(&mut peer).cast(), &raw mut length, flags))
                .map(|fd| OwnedFd::from_raw_fd(fd))
        };
        match accepted {
            Ok(stream) => Ok((peer.svm_cid == libc::VMADDR_CID_HOST).then_some(stream)),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted
                ) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Another handle of the same port.
    pub fn try_clone(&self) -> io::Result<Self> {
        self.0.try_clone().map(Self)
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs::File, io::Read};

    /// Within one machine, by the number that means "this one" (1): what a tenant could try.
    #[test]
    fn a_program_of_the_machine_itself_is_not_its_host() {
        let port = 0x4353_0000 + std::process::id() % 0x1_0000;
        let Ok(listener) = Listener::bind(port) else {
            eprintln!("left out: this kernel has no AF_VSOCK");
            return;
        };
        assert!(listener.accept().unwrap().is_none(), "nobody is there");
        let stranger = socket(0).unwrap();
        let to = address(libc::VMADDR_CID_LOCAL, port);
        // SAFETY: `to` is a whole sockaddr_vm and outlives the call.
        let connected = unsafe {
            libc::connect(stranger.as_raw_fd(), ptr::from_ref(&to).cast(), mem::size_of_val(&to) as libc::socklen_t)
        };
        if connected != 0 {
            assert!(!std::path::Path::new("/sys/module/vsock_loopback").exists(), "{}", io::Error::last_os_error());
            eprintln!("left out: this kernel has no loopback of vsock");
            return;
        }
        assert!(listener.accept().unwrap().is_none(), "it is let in");
        let mut text = Vec::new();
        let ended = File::from(stranger).read_to_end(&mut text);
        assert!(ended.is_err() || text.is_empty(), "{text:?}");
    }
}
