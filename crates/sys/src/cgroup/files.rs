//! Owns reading and writing the small text files of control groups, relative to a directory.
//! Knows nothing of what is in them.

use rustix::fs::{Mode, OFlags, openat};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

/// Nothing read here is longer but lists of processes, which `read_all` takes.
const SMALL: usize = 4096;

pub fn open(dir: impl AsFd, path: &str, flags: OFlags) -> io::Result<OwnedFd> {
    Ok(openat(dir, path, flags | OFlags::CLOEXEC, Mode::empty())?)
}

/// One `write`: the kernel takes each as one order.
pub fn write(dir: impl AsFd, path: &str, value: &str) -> io::Result<()> {
    rustix::io::write(open(dir, path, OFlags::WRONLY)?, value.as_bytes())?;
    Ok(())
}

pub fn read(dir: impl AsFd, path: &str) -> io::Result<String> {
    let file = open(dir, path, OFlags::RDONLY)?;
    read_again(&file)
}

/// From the file's beginning, wherever it was read before.
pub fn read_again(file: &OwnedFd) -> io::Result<String> {
    let mut buffer = vec![0; SMALL];
    let length = rustix::io::pread(file, &mut buffer, 0)?;
    buffer.truncate(length);
    Ok(String::from_utf8_lossy(&buffer).into_owned())
}

/// However long it is.
pub fn read_all(dir: impl AsFd, path: &str) -> io::Result<String> {
    let mut text = String::new();
    io::Read::read_to_string(&mut std::fs::File::from(open(dir, path, OFlags::RDONLY)?), &mut text)?;
    Ok(text)
}

pub fn number(dir: impl AsFd, path: &str) -> io::Result<u64> {
    let text = read(dir, path)?;
    text.trim()
        .parse()
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, format!("`{}` is not a number", text.trim())))
}

/// The number behind `key` in a file of `key value` lines; 0 where the kernel does not count it.
pub fn keyed(text: &str, key: &str) -> u64 {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::keyed;

    #[test]
    fn a_key_is_matched_whole() {
        let text = "oom_kill_disable 1\nunder_oom 0\noom_kill 7\n";
        assert_eq!((keyed(text, "oom_kill"), keyed(text, "under_oom"), keyed(text, "oom")), (7, 0, 0));
    }
}
