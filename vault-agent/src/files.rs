//! Reading a whole file that must not be endless, and making a name durable.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use zeroize::Zeroizing;

/// All bytes of an open file, wiped when dropped.
///
/// # Errors
/// The kernel's answer, or a file over `limit` bytes.
pub(crate) fn read(file: &File, limit: u64) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(Vec::new());
    file.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("over {limit} bytes")));
    }
    Ok(bytes)
}

/// The same, of a file that must be text.
///
/// # Errors
/// As `read`, or bytes that are not UTF-8.
pub(crate) fn read_text(file: &File, limit: u64) -> io::Result<Zeroizing<String>> {
    let mut bytes = read(file, limit)?;
    match String::from_utf8(std::mem::take(&mut *bytes)) {
        Ok(text) => Ok(Zeroizing::new(text)),
        Err(_) => Err(io::Error::new(io::ErrorKind::InvalidData, "not UTF-8")),
    }
}

/// Makes a name in the directory of `path` durable. Filesystems that can not are let be.
///
/// # Errors
/// A real failure of the disk.
pub(crate) fn sync_directory(path: &Path) -> io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match File::open(directory)?.sync_all() {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOTSUP)) => Ok(()),
        other => other,
    }
}

/// Whether this begins as an age file, armoured or binary.
pub(crate) fn is_sealed(bytes: &[u8]) -> bool {
    bytes.trim_ascii_start().starts_with(b"-----BEGIN AGE ENCRYPTED FILE-----")
        || bytes.starts_with(b"age-encryption.org/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_whole_or_not_at_all() {
        let dir = crate::scratch::Scratch::new();
        let file = || File::open(dir.path("f")).expect("opens");
        dir.file("f", "abc", 0o600);
        assert_eq!(read_text(&file(), 3).expect("fits").as_str(), "abc");
        assert_eq!(read(&file(), 2).expect_err("too long").to_string(), "over 2 bytes");
        std::fs::write(dir.path("f"), b"\xff").expect("write");
        assert_eq!(read_text(&file(), 2).expect_err("no text").to_string(), "not UTF-8");
        assert!(read(&File::open("/dev/zero").expect("opens"), 1000).is_err(), "endless");
    }
}
