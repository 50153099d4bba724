//! Other processes as `/proc` shows them.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

/// The direct children of a process.
pub fn children(parent: u32) -> Vec<u32> {
    all().into_iter().filter(|pid| stat_parent(*pid) == Some(parent)).collect()
}

/// The process and everything below it, parents before children.
pub fn tree(root: u32) -> Vec<u32> {
    let mut found = vec![root];
    let mut next = 0;
    while next < found.len() {
        found.extend(children(found[next]));
        next += 1;
    }
    found
}

/// Every running process whose working directory or program lies below a folder.
pub fn of_folder(folder: &Path) -> Vec<u32> {
    let is_below = |pid: &u32| {
        let link = |name: &str| fs::read_link(format!("/proc/{pid}/{name}"));
        ["cwd", "exe"].iter().any(|name| link(name).is_ok_and(|target| target.starts_with(folder)))
    };
    all().into_iter().filter(|pid| is_below(pid) && lives(*pid)).collect()
}

/// The name that the kernel keeps, 15 bytes at most.
pub fn name(pid: u32) -> Option<String> {
    Some(fs::read_to_string(format!("/proc/{pid}/comm")).ok()?.trim_end().to_owned())
}

/// Whether it runs; a zombie does not.
pub fn lives(pid: u32) -> bool {
    stat(pid).is_some_and(|stat| !stat.starts_with(['Z', 'X']))
}

/// A field of `/proc/PID/status`, for example `CapEff`.
pub fn status_field(pid: u32, field: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    Some(line.trim().to_owned())
}

/// The threads of a process.
pub fn threads(pid: u32) -> Vec<u32> {
    numbers(&format!("/proc/{pid}/task"))
}

/// One open descriptor of another process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Descriptor {
    /// As `/proc/PID/fd/N` points, for example `pipe:[4711]`.
    pub target: String,
    pub readable: bool,
    pub writable: bool,
}

/// All open descriptors by number.
pub fn descriptors(pid: u32) -> BTreeMap<u32, Descriptor> {
    let mut found = BTreeMap::new();
    for number in numbers(&format!("/proc/{pid}/fd")) {
        let Ok(target) = fs::read_link(format!("/proc/{pid}/fd/{number}")) else { continue };
        let Ok(info) = fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}")) else { continue };
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap_or("0").trim();
        let mode = u32::from_str_radix(flags, 8).unwrap_or(0) & 0o3;
        let target = target.to_string_lossy().into_owned();
        found.insert(number, Descriptor { target, readable: mode != 1, writable: mode != 0 });
    }
    found
}

/// Sends a signal; `false` when there is no such process any more.
pub fn signal(pid: u32, signal: Signal) -> bool {
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return false };
    kill_process(pid, signal).is_ok()
}

/// Minor page faults of all children that were reaped. Each child has some, so while this stays
/// the same no child of the process has come and gone.
pub fn faults_of_reaped_children(pid: u32) -> Option<u64> {
    stat(pid)?.split(' ').nth(8)?.parse().ok()
}

/// Argument vector and environment, as raw bytes; empty where they can not be read.
pub fn arguments_and_environment(pid: u32) -> Vec<u8> {
    let mut bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    bytes.extend(fs::read(format!("/proc/{pid}/environ")).unwrap_or_default());
    bytes
}

/// Mode and owner of a path, as `(mode & 07777, uid, gid)`.
///
/// # Panics
/// When it is not there.
pub fn mode_and_owner(path: impl Into<PathBuf>) -> (u32, u32, u32) {
    let path = path.into();
    let data = fs::symlink_metadata(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    (data.mode() & 0o7777, data.uid(), data.gid())
}

fn all() -> Vec<u32> {
    numbers("/proc")
}

fn numbers(folder: &str) -> Vec<u32> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

/// What follows the name in `/proc/PID/stat`: the name may hold anything, so it is cut at the
/// last parenthesis.
fn stat(pid: u32) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(text[text.rfind(')')? + 1..].trim().to_owned())
}

fn stat_parent(pid: u32) -> Option<u32> {
    stat(pid)?.split(' ').nth(1)?.parse().ok()
}

/// Resident memory of a process, in KiB; 0 when it is gone.
pub fn resident_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// What a process has used of the processors, in hundredths of a second.
///
/// # Panics
/// When there is no such process.
pub fn cpu(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("it lives");
    let fields: Vec<&str> = stat[stat.rfind(')').expect("a name")..].split(' ').collect();
    let ticks: u64 = [12, 13].iter().map(|field| fields[*field].parse::<u64>().expect("a number")).sum();
    Duration::from_millis(ticks * 10)
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn this_process_is_found_with_its_descriptors() {
        let mine = std::process::id();
        assert!(lives(mine));
        assert!(tree(stat_parent(mine).expect("a parent")).contains(&mine));
        let (reader, writer) = io::pipe().expect("pipe");
        let open = descriptors(mine);
        let number = |fd: i32| u32::try_from(fd).expect("a number");
        let (reader, writer) = (&open[&number(reader.as_raw_fd())], &open[&number(writer.as_raw_fd())]);
        assert!(reader.readable && !reader.writable && writer.writable && !writer.readable);
        assert_eq!(reader.target, writer.target);
    }
}
