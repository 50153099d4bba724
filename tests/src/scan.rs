//! Looks for bytes where they must not be: in the memory of processes and in files.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use memchr::memmem::Finder;

const CHUNK: usize = 1 << 20;

/// What was looked at, so that a test can tell an empty result from a scan that read nothing.
#[derive(Debug, Default)]
pub struct Scan {
    pub bytes: u64,
    /// Where it was found: the mapping or the file, with the position.
    pub hits: Vec<String>,
}

/// Scans every readable mapping of a process; needs root. The process goes on meanwhile, so a
/// mapping may be gone when its turn comes.
///
/// # Panics
/// When the process can not be looked into at all.
pub fn memory(pid: u32, needle: &[u8]) -> Scan {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_else(|error| panic!("maps of {pid}: {error}"));
    let memory = File::open(format!("/proc/{pid}/mem")).unwrap_or_else(|error| panic!("memory of {pid}: {error}"));
    let mut scan = Scan::default();
    for line in maps.lines() {
        let mut parts = line.split_ascii_whitespace();
        let (Some(range), Some(rights)) = (parts.next(), parts.next()) else { continue };
        let name = parts.nth(3).unwrap_or("anonymous");
        // These two belong to the kernel and can not be read this way.
        if !rights.starts_with('r') || name == "[vvar]" || name == "[vsyscall]" {
            continue;
        }
        let Some((start, end)) = range.split_once('-') else { continue };
        let (Ok(start), Ok(end)) = (u64::from_str_radix(start, 16), u64::from_str_radix(end, 16)) else { continue };
        scan_range(&memory, start, end, needle, &format!("{pid} {name}"), &mut scan);
    }
    scan
}

/// Scans files, and directories with all that is below them.
///
/// # Panics
/// When one is missing or can not be read.
pub fn files(paths: &[PathBuf], needle: &[u8]) -> Scan {
    let mut scan = Scan::default();
    for path in paths {
        scan_path(path, needle, &mut scan);
    }
    scan
}

fn scan_path(path: &Path, needle: &[u8], scan: &mut Scan) {
    let data = fs::symlink_metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    if data.is_dir() {
        for entry in fs::read_dir(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())) {
            scan_path(&entry.expect("an entry of a directory").path(), needle, scan);
        }
    } else if data.is_file() {
        let file = File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        scan_range(&file, 0, data.len(), needle, &path.display().to_string(), scan);
    }
}

/// Chunks overlap by the needle's length, so that none falls between two.
fn scan_range(source: &File, start: u64, end: u64, needle: &[u8], name: &str, scan: &mut Scan) {
    let finder = Finder::new(needle);
    let mut buffer = vec![0; CHUNK + needle.len()];
    let mut position = start;
    while position < end {
        let want = usize::try_from(end - position).unwrap_or(usize::MAX).min(buffer.len());
        let got = match read_some(source, &mut buffer[..want], position) {
            Ok(got) if got > 0 => got,
            // A mapping that went away, or a page of a file beyond its end.
            _ => break,
        };
        scan.bytes += got as u64;
        scan.hits.extend(finder.find_iter(&buffer[..got]).map(|at| format!("{name} at {:x}", position + at as u64)));
        position +=
            if got > needle.len() && position + (got as u64) < end { (got - needle.len()) as u64 } else { got as u64 };
    }
}

fn read_some(source: &File, buffer: &mut [u8], position: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match source.read_at(&mut buffer[filled..], position + filled as u64) {
            Ok(0) => break,
            Ok(got) => filled += got,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) if filled > 0 => break,
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn a_needle_across_two_chunks_is_found_in_a_file() {
        let scratch = Scratch::new();
        let needle = b"the needle that is looked for";
        for at in [0, 17, CHUNK - 5, CHUNK + 3, 2 * CHUNK + 100] {
            let mut bytes = vec![b'.'; 3 * CHUNK];
            bytes[at..at + needle.len()].copy_from_slice(needle);
            let path = scratch.path().join("hay");
            fs::write(&path, &bytes).expect("write");
            let scan = files(&[scratch.path().to_owned()], needle);
            assert!(!scan.hits.is_empty(), "at {at}");
            assert!(files(&[path], b"another needle").hits.is_empty());
        }
    }

    #[test]
    fn a_value_in_memory_is_found() {
        let needle: Vec<u8> = (0..32).map(|n: u8| n.wrapping_mul(37) ^ 0x5a).collect();
        let scan = memory(std::process::id(), &needle);
        assert!(scan.bytes > 1 << 16 && !scan.hits.is_empty());
    }
}
