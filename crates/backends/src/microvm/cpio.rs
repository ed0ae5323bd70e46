//! Writes what a kernel unpacks as its first file system: an archive in the format `newc` of cpio
//! (`Documentation/driver-api/early-userspace/buffer-format.rst` of Linux).

use std::io::{self, Read, Write};

const DIRECTORY: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const DEVICE: u32 = 0o020_000;

/// An archive that is being written.
pub(super) struct Archive<W> {
    out: W,
    inode: u32,
    written: u64,
}

impl<W: Write> Archive<W> {
    pub(super) fn new(out: W) -> Self {
        Self { out, inode: 1, written: 0 }
    }

    pub(super) fn directory(&mut self, name: &str) -> io::Result<()> {
        self.header(name, DIRECTORY | 0o755, 0, (0, 0))
    }

    /// A device of characters.
    pub(super) fn device(&mut self, name: &str, major: u32, minor: u32) -> io::Result<()> {
        self.header(name, DEVICE | 0o600, 0, (major, minor))
    }

    pub(super) fn file(&mut self, name: &str, size: u64, contents: &mut dyn Read) -> io::Result<()> {
        let length = u32::try_from(size).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
        self.header(name, FILE | 0o755, length, (0, 0))?;
        if io::copy(&mut contents.take(size), &mut self.out)? != size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.written += size;
        self.pad()
    }

    pub(super) fn finish(mut self) -> io::Result<W> {
        self.inode = 0;
        self.header("TRAILER!!!", 0, 0, (0, 0))?;
        Ok(self.out)
    }

    fn header(&mut self, name: &str, mode: u32, size: u32, (major, minor): (u32, u32)) -> io::Result<()> {
        let links = if mode & DIRECTORY != 0 { 2 } else { 1 };
        let length = name.len() as u32 + 1;
        // inode, mode, uid, gid, links, time, size, the device it is on, the device it is, length of its name, checksum
        let fields = [self.inode, mode, 0, 0, links, 0, size, 0, 0, major, minor, length, 0];
        let header: String = fields.iter().map(|field| format!("{field:08x}")).collect();
        write!(self.out, "070701{header}{name}\0")?;
        self.written += 6 + 8 * 13 + u64::from(length);
        self.inode += 1;
        self.pad()
    }

    /// Everything begins at a multiple of four.
    fn pad(&mut self) -> io::Result<()> {
        let rest = self.written.next_multiple_of(4) - self.written;
        self.out.write_all(&[0; 4][..rest as usize])?;
        self.written += rest;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn cpio_lists_what_was_written() {
        let mut archive = Archive::new(Vec::new());
        archive.directory("dev").unwrap();
        archive.device("dev/console", 5, 1).unwrap();
        archive.file("odd", 5, &mut &b"hello"[..]).unwrap();
        archive.file("empty", 0, &mut &b""[..]).unwrap();
        let bytes = archive.finish().unwrap();
        let spawned =
            Command::new("cpio").args(["-itv", "--quiet"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        // As in scripts/test-vm.sh, a host without the program leaves this out.
        let Ok(mut cpio) = spawned else { return };
        cpio.stdin.take().unwrap().write_all(&bytes).unwrap();
        let listed = String::from_utf8(cpio.wait_with_output().unwrap().stdout).unwrap();
        let lines: Vec<&str> = listed.lines().collect();
        assert_eq!(lines.len(), 4, "{listed}");
        assert!(lines[0].starts_with("drwxr-xr-x"), "{listed}");
        assert!(lines[1].starts_with("crw-------") && lines[1].contains("5,   1"), "{listed}");
        assert!(lines[2].contains(" 5 ") && lines[2].ends_with("odd"), "{listed}");
    }

    #[test]
    fn a_file_shorter_than_it_said_is_an_error() {
        let mut archive = Archive::new(Vec::new());
        assert!(archive.file("short", 9, &mut &b"hello"[..]).is_err());
    }
}
