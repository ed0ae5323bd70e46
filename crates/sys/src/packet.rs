//! Owns `SOCK_SEQPACKET` Unix sockets that carry one frame, and descriptors, a message (unix(7), cmsg(3)).
//!
//! A payload past `INLINE` travels in a memfd beside the message: a datagram larger than the socket buffer would be refused.
//! Knows nothing of what the frames mean.

use crate::check::check;
use rustix::fs::MemfdFlags;
use std::{
    fs::File,
    io::{self, Read, Seek, Write},
    mem,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
    ptr,
};

const INLINE: usize = 32 * 1024;
/// Largest payload accepted from a peer; larger ones end the connection.
const MOST: u64 = 16 << 20;
/// Descriptors taken from one message: `SCM_MAX_FD` is 253, our frames carry at most seven.
const MOST_FDS: usize = 16;

/// Connections that wait to be taken; the kernel has a limit of its own (`net.core.somaxconn`). An init that stands still takes
/// none, and each server that comes meanwhile leaves one.
const BACKLOG: libc::c_int = 4096;

/// One end of a connection.
#[derive(Debug)]
pub struct Conn(OwnedFd);

/// A listening socket.
#[derive(Debug)]
pub struct Listener(OwnedFd);

fn seqpacket() -> io::Result<OwnedFd> {
    // SAFETY: socket(2) takes no pointers; a non-negative result is a new descriptor that nothing else owns.
    unsafe {
        let fd = check(libc::socket(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC, 0))?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

fn address(path: &Path) -> io::Result<libc::sockaddr_un> {
    // SAFETY: all-zero bytes are a valid sockaddr_un.
    let mut address: libc::sockaddr_un = unsafe { mem::zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    let bytes = path.as_os_str().as_bytes();
    if bytes.len() >= address.sun_path.len() {
        let text = format!("socket path `{}` is longer than 107 bytes", path.display());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    for (to, from) in address.sun_path.iter_mut().zip(bytes) {
        *to = *from as libc::c_char;
    }
    Ok(address)
}

impl Listener {
    /// Listens at `path`, which must not exist.
    pub fn bind(path: &Path) -> io::Result<Self> {
        let fd = seqpacket()?;
        let address = address(path)?;
        // SAFETY: `address` is a whole sockaddr_un and outlives the calls.
        unsafe {
            let length = mem::size_of_val(&address) as libc::socklen_t;
            check(libc::bind(fd.as_raw_fd(), ptr::from_ref(&address).cast(), length))?;
            check(libc::listen(fd.as_raw_fd(), BACKLOG))?;
        }
        Ok(Self(fd))
    }

    /// Whether `accept` answers `WouldBlock` rather than wait.
    pub fn set_nonblocking(&self, on: bool) -> io::Result<()> {
        rustix::io::ioctl_fionbio(&self.0, on).map_err(Into::into)
    }

    /// The next connection; `WouldBlock` when there is none and the listener is non-blocking.
    pub fn accept(&self) -> io::Result<Conn> {
        // SAFETY: no address is asked for; a non-negative result is a new descriptor that nothing else owns.
        unsafe {
            let fd = check(libc::accept4(self.0.as_raw_fd(), ptr::null_mut(), ptr::null_mut(), libc::SOCK_CLOEXEC))?;
            Ok(Conn(OwnedFd::from_raw_fd(fd)))
        }
    }
}

impl From<OwnedFd> for Listener {
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}
impl From<Listener> for OwnedFd {
    fn from(listener: Listener) -> Self {
        listener.0
    }
}
impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<OwnedFd> for Conn {
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}
impl From<Conn> for OwnedFd {
    fn from(conn: Conn) -> Self {
        conn.0
    }
}
impl AsFd for Conn {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
impl AsRawFd for Conn {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl Conn {
    /// Two connected ends.
    pub fn pair() -> io::Result<(Self, Self)> {
        let mut fds = [-1; 2];
        // SAFETY: `fds` has room for the two descriptors, which nothing else owns.
        unsafe {
            check(libc::socketpair(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC, 0, fds.as_mut_ptr()))?;
            Ok((Self(OwnedFd::from_raw_fd(fds[0])), Self(OwnedFd::from_raw_fd(fds[1]))))
        }
    }

    /// Connects to a listener at `path`.
    pub fn connect(path: &Path) -> io::Result<Self> {
        let fd = seqpacket()?;
        let address = address(path)?;
        // SAFETY: `address` is a whole sockaddr_un and outlives the call.
        unsafe {
            let length = mem::size_of_val(&address) as libc::socklen_t;
            check(libc::connect(fd.as_raw_fd(), ptr::from_ref(&address).cast(), length))?;
        }
        Ok(Self(fd))
    }

    /// A second descriptor for the same end.
    pub fn try_clone(&self) -> io::Result<Self> {
        self.0.try_clone().map(Self)
    }

    /// Whether `send` and `recv` answer `WouldBlock` rather than wait. Shared by all clones of this end.
    pub fn set_nonblocking(&self, on: bool) -> io::Result<()> {
        rustix::io::ioctl_fionbio(&self.0, on).map_err(Into::into)
    }

    /// Uid of the process that connected or made the pair (`SO_PEERCRED`).
    pub fn peer_uid(&self) -> io::Result<u32> {
        Ok(rustix::net::sockopt::socket_peercred(&self.0)?.uid.as_raw())
    }

    /// Pid, as we see it, of the process that connected to us, or that listens where we connected (`SO_PEERCRED`); 0: it is in
    /// no PID namespace below ours.
    pub fn peer_pid(&self) -> io::Result<i32> {
        // SAFETY: the kernel writes one ucred of the stated size.
        unsafe {
            let mut peer: libc::ucred = mem::zeroed();
            let mut length = mem::size_of_val(&peer) as libc::socklen_t;
            let option = libc::SO_PEERCRED;
            check(libc::getsockopt(
                self.0.as_raw_fd(),
                libc::SOL_SOCKET,
                option,
                ptr::from_mut(&mut peer).cast(),
                &mut length,
            ))?;
            Ok(peer.pid)
        }
    }

    /// Sends one frame and copies of `fds`.
    pub fn send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        if bytes.len() <= INLINE {
            return self.send_raw(0, bytes, fds);
        }
        let mut overflow = File::from(rustix::fs::memfd_create("csb-frame", MemfdFlags::CLOEXEC)?);
        overflow.write_all(bytes)?;
        overflow.rewind()?;
        let mut all = vec![overflow.as_fd()];
        all.extend_from_slice(fds);
        self.send_raw(1, &(bytes.len() as u64).to_le_bytes(), &all)
    }

    fn send_raw(&self, mark: u8, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mark = [mark];
        let mut parts = [
            libc::iovec { iov_base: mark.as_ptr().cast_mut().cast(), iov_len: 1 },
            libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() },
        ];
        let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        let mut control = ControlBuffer::new();
        // SAFETY: the header's pointers are to `parts`, `bytes` and `control`, which outlive the call; `control` is
        // aligned for cmsghdr and large enough for MOST_FDS descriptors, which `raw` does not exceed.
        unsafe {
            let mut header: libc::msghdr = mem::zeroed();
            header.msg_iov = parts.as_mut_ptr();
            header.msg_iovlen = 2;
            if !raw.is_empty() {
                assert!(raw.len() <= MOST_FDS);
                let size = mem::size_of_val(&raw[..]) as libc::c_uint;
                header.msg_control = control.0.as_mut_ptr().cast();
                header.msg_controllen = libc::CMSG_SPACE(size) as usize;
                let first = libc::CMSG_FIRSTHDR(&header);
                (*first).cmsg_level = libc::SOL_SOCKET;
                (*first).cmsg_type = libc::SCM_RIGHTS;
                (*first).cmsg_len = libc::CMSG_LEN(size) as usize;
                ptr::copy_nonoverlapping(raw.as_ptr().cast::<u8>(), libc::CMSG_DATA(first), size as usize);
            }
            loop {
                if libc::sendmsg(self.0.as_raw_fd(), &header, libc::MSG_NOSIGNAL) >= 0 {
                    return Ok(());
                }
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }

    /// The next frame and its descriptors; `None` when the peer is gone.
    pub fn recv(&self) -> io::Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
        let mut mark = [0u8];
        // Not zeroed: most frames touch one page of it, and in a fork each page touched is a page copied.
        let mut buffer = [mem::MaybeUninit::uninit(); INLINE];
        let Some((bytes, mut fds)) = self.recv_raw(&mut mark, &mut buffer)? else { return Ok(None) };
        let bad = |text: &str| io::Error::new(io::ErrorKind::InvalidData, text.to_owned());
        if mark[0] == 0 {
            return Ok(Some((bytes.to_vec(), fds)));
        }
        if fds.is_empty() || bytes.len() != 8 {
            return Err(bad("a large frame without its memfd"));
        }
        let length = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"));
        if length > MOST {
            return Err(bad("a frame of more than 16 MiB"));
        }
        let mut payload = Vec::with_capacity(length as usize);
        File::from(fds.remove(0)).take(length).read_to_end(&mut payload)?;
        if payload.len() as u64 != length {
            return Err(bad("a large frame cut short"));
        }
        Ok(Some((payload, fds)))
    }

    fn recv_raw<'a>(
        &self,
        mark: &mut [u8; 1],
        buffer: &'a mut [mem::MaybeUninit<u8>],
    ) -> io::Result<Option<(&'a [u8], Vec<OwnedFd>)>> {
        let mut parts = [
            libc::iovec { iov_base: mark.as_mut_ptr().cast(), iov_len: 1 },
            libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() },
        ];
        let mut control = ControlBuffer::new();
        // SAFETY: the header's pointers are to buffers that outlive the call and whose sizes it states; received
        // descriptors are new and owned by nobody else; what is read of the buffer, the kernel has written.
        unsafe {
            let mut header: libc::msghdr = mem::zeroed();
            header.msg_iov = parts.as_mut_ptr();
            header.msg_iovlen = 2;
            header.msg_control = control.0.as_mut_ptr().cast();
            header.msg_controllen = mem::size_of_val(&control.0);
            let mut is_reset = false;
            let length = loop {
                let length = libc::recvmsg(self.0.as_raw_fd(), &mut header, libc::MSG_CMSG_CLOEXEC);
                if length >= 0 {
                    break length as usize;
                }
                let error = io::Error::last_os_error();
                if error.raw_os_error() == Some(libc::ECONNRESET) {
                    if is_reset {
                        return Ok(None);
                    }
                    // Of a peer that died with something of ours unread the kernel says that first, once, and then hands out
                    // what the peer had sent (unix(7)): why an init could not go on, above all.
                    is_reset = true;
                    continue;
                }
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            };
            let mut fds = Vec::new();
            let mut next = libc::CMSG_FIRSTHDR(&header);
            while !next.is_null() {
                if (*next).cmsg_level == libc::SOL_SOCKET && (*next).cmsg_type == libc::SCM_RIGHTS {
                    let data = libc::CMSG_DATA(next);
                    let count = ((*next).cmsg_len - libc::CMSG_LEN(0) as usize) / mem::size_of::<RawFd>();
                    for i in 0..count {
                        fds.push(OwnedFd::from_raw_fd(ptr::read_unaligned(data.cast::<RawFd>().add(i))));
                    }
                }
                next = libc::CMSG_NXTHDR(&header, next);
            }
            if length == 0 {
                return Ok(None);
            }
            if header.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0 {
                let text = "a frame larger than its sender may send, or no descriptor left to receive it";
                return Err(io::Error::new(io::ErrorKind::InvalidData, text));
            }
            // The kernel wrote the mark and, behind it, this much of the buffer.
            Ok(Some((std::slice::from_raw_parts(buffer.as_ptr().cast(), length - 1), fds)))
        }
    }
}

/// Room for `MOST_FDS` descriptors, aligned as cmsghdr needs.
struct ControlBuffer([u64; 16]);

impl ControlBuffer {
    fn new() -> Self {
        Self([0; 16])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_and_large_frames_arrive_whole_with_their_descriptors() {
        for size in [0, 1, INLINE, INLINE + 1, 3 << 20] {
            let (a, b) = Conn::pair().unwrap();
            let file = tempfile();
            let bytes: Vec<u8> = (0..size).map(|i| i as u8).collect();
            a.send(&bytes, &[file.as_fd(), file.as_fd()]).unwrap();
            let (got, fds) = b.recv().unwrap().unwrap();
            assert!(got == bytes, "{size}");
            assert_eq!(fds.len(), 2);
            drop(a);
            assert!(b.recv().unwrap().is_none());
        }
    }

    #[test]
    fn a_nonblocking_end_does_not_wait() {
        let (a, _b) = Conn::pair().unwrap();
        a.set_nonblocking(true).unwrap();
        assert_eq!(a.recv().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn sixteen_descriptors_fit_and_a_missing_memfd_is_an_error() {
        let (a, b) = Conn::pair().unwrap();
        let file = tempfile();
        a.send(b"x", &[file.as_fd(); MOST_FDS - 1]).unwrap();
        assert_eq!(b.recv().unwrap().unwrap().1.len(), MOST_FDS - 1);
        a.send_raw(1, &8u64.to_le_bytes(), &[]).unwrap();
        assert_eq!(b.recv().unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    fn tempfile() -> OwnedFd {
        rustix::fs::memfd_create("test", MemfdFlags::CLOEXEC).unwrap()
    }
}
