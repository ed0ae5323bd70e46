//! A kernel as the ELF file that some VMMs start: unpacked from a `bzImage`, which holds it compressed
//! (`Documentation/arch/x86/boot.rst` of Linux, fields `payload_offset` and `payload_length`).

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom, Write},
    path::Path,
};

const ELF: &[u8] = b"\x7fELF";
/// Where an image says that it has a header of the boot protocol.
const HEADER: (usize, &[u8]) = (0x202, b"HdrS");
const VERSION: usize = 0x206;
/// The first one with a payload's place.
const WITH_PAYLOAD: u64 = 0x208;
const SETUP_SECTORS: usize = 0x1f1;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;
/// No kernel is larger unpacked; a file that claims to be is none.
const MOST: u64 = 512 << 20;

fn invalid(text: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text.into())
}

/// Writes the ELF file of the kernel in `image` to `to`.
pub(super) fn unpack(image: &Path, to: &mut impl Write) -> io::Result<()> {
    let mut file = File::open(image)?;
    let mut start = vec![0; 0x260];
    let length = read_up_to(&mut file, &mut start)?;
    start.truncate(length);
    if start.starts_with(ELF) {
        file.seek(SeekFrom::Start(0))?;
        return copy(&mut file, to);
    }
    if start.len() < 0x260 || &start[HEADER.0..][..4] != HEADER.1 || number(&start, VERSION, 2) < WITH_PAYLOAD {
        return Err(invalid("it is neither an ELF file nor a bzImage"));
    }
    let sectors = match start[SETUP_SECTORS] {
        0 => 4,
        number => u64::from(number),
    };
    let offset = (sectors + 1) * 512 + number(&start, PAYLOAD_OFFSET, 4);
    file.seek(SeekFrom::Start(offset))?;
    let mut payload = io::BufReader::new(file.take(number(&start, PAYLOAD_LENGTH, 4)));
    let magic = io::BufRead::fill_buf(&mut payload)?.get(..6).unwrap_or_default().to_vec();
    match &magic[..] {
        [0x28, 0xb5, 0x2f, 0xfd, ..] => copy(&mut zstd::Decoder::with_buffer(payload)?.single_frame(), to),
        [0x1f, 0x8b, ..] => copy(&mut flate2::bufread::GzDecoder::new(payload), to),
        [0xfd, b'7', b'z', b'X', b'Z', 0] => Err(invalid("its kernel is packed with xz")),
        _ if magic.starts_with(ELF) => copy(&mut payload, to),
        _ => Err(invalid("its kernel is packed with neither zstd nor gzip")),
    }
}

/// Little-endian, so many bytes.
fn number(bytes: &[u8], at: usize, length: usize) -> u64 {
    bytes[at..at + length].iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

fn read_up_to(file: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match file.read(&mut buffer[length..])? {
            0 => break,
            count => length += count,
        }
    }
    Ok(length)
}

fn copy(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut start = [0; 4];
    from.read_exact(&mut start)?;
    if start != ELF {
        return Err(invalid("what it holds is no ELF file"));
    }
    to.write_all(&start)?;
    if io::copy(&mut from.take(MOST), to)? == MOST {
        return Err(invalid("what it holds is larger than any kernel"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const KERNEL: &[u8] = b"\x7fELF and what a kernel is made of";

    /// An image as the boot protocol lays it out.
    fn image(payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 5 * 512];
        bytes[SETUP_SECTORS] = 1;
        bytes[HEADER.0..][..4].copy_from_slice(HEADER.1);
        bytes[VERSION..][..2].copy_from_slice(&0x20f_u16.to_le_bytes());
        bytes[PAYLOAD_OFFSET..][..4].copy_from_slice(&1536_u32.to_le_bytes());
        bytes[PAYLOAD_LENGTH..][..4].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        bytes.extend(payload);
        bytes.extend([0xaa; 300]);
        bytes
    }

    fn check(bytes: &[u8], expected: Result<&[u8], &str>) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        let mut out = Vec::new();
        match (unpack(file.path(), &mut out), expected) {
            (Ok(()), Ok(kernel)) => assert_eq!(out, kernel),
            (Err(error), Err(words)) => assert!(error.to_string().contains(words), "{error}"),
            (got, _) => panic!("{got:?} instead of {expected:?}"),
        }
    }

    #[test]
    fn a_kernel_is_unpacked_from_what_distributions_ship() {
        // Behind all but gzip's there are four bytes of size.
        let mut zstd = zstd::encode_all(KERNEL, 1).unwrap();
        zstd.extend([34, 0, 0, 0]);
        check(&image(&zstd), Ok(KERNEL));
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(KERNEL).unwrap();
        check(&image(&gzip.finish().unwrap()), Ok(KERNEL));
        check(KERNEL, Ok(KERNEL));
    }

    #[test]
    fn what_is_no_kernel_is_refused() {
        let packed = zstd::encode_all(&b"no kernel"[..], 1).unwrap();
        check(b"no kernel", Err("neither an ELF file"));
        check(b"", Err("neither an ELF file"));
        check(&image(b"\xfd7zXZ\0..."), Err("packed with xz"));
        check(&image(b"something"), Err("neither zstd nor gzip"));
        check(&image(&packed), Err("no ELF file"));
        check(&image(&zstd::encode_all(KERNEL, 1).unwrap()[..20]), Err(""));
    }
}
