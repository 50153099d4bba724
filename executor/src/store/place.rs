//! Where the database lies: its directory, the modes of its files, and the filesystems that can
//! not carry it.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::error::{StoreError, StoreErrorKind};

/// Makes the directory (0700) and the file (0600) where they are missing, and refuses a network
/// filesystem: the write-ahead log needs memory that all its users share.
pub(super) fn prepare(path: &Path) -> Result<(), StoreError> {
    let directory = directory_of(path);
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(|e| StoreError::io(format!("create directory {}", directory.display()), e))?;
    if let Some(kind) =
        network_kind(directory).map_err(|e| StoreError::io(format!("look at {}", directory.display()), e))?
    {
        return Err(StoreError::plain(
            StoreErrorKind::Other,
            format!("{} is on a network filesystem ({kind}); the database needs a local one", directory.display()),
        ));
    }
    // SQLite gives its log the mode of the database, so the database must be right before.
    match fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(_) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(e) => Err(StoreError::io(format!("create {}", path.display()), e)),
    }
}

/// Takes group and other bits from database, log and its index; as root, also gives them to the
/// owner of the directory, where a failure does not matter.
pub(super) fn tighten(path: &Path) -> Result<(), StoreError> {
    let owner = if rustix::process::geteuid().is_root() { fs::metadata(directory_of(path)).ok() } else { None };
    for file in [path.to_path_buf(), beside(path, "-wal"), beside(path, "-shm")] {
        let metadata = match fs::metadata(&file) {
            Ok(metadata) => metadata,
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(StoreError::io(format!("look at {}", file.display()), e)),
        };
        if metadata.mode() & 0o077 != 0 {
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600))
                .map_err(|e| StoreError::io(format!("change the mode of {}", file.display()), e))?;
        }
        if let Some(owner) = &owner
            && (metadata.uid(), metadata.gid()) != (owner.uid(), owner.gid())
        {
            let _ = std::os::unix::fs::chown(&file, Some(owner.uid()), Some(owner.gid()));
        }
    }
    Ok(())
}

fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Names of `statfs(2)`'s magic numbers of filesystems that live on another host.
const NETWORK: [(u32, &str); 9] = [
    (0x6969, "nfs"),
    (0x517b, "smb"),
    (0xff53_4d42, "cifs"),
    (0xfe53_4d42, "smb2"),
    (0x564c, "ncp"),
    (0x5346_414f, "afs"),
    (0x7375_7245, "coda"),
    (0x00c3_6400, "ceph"),
    (0x0bd0_0bd0, "lustre"),
];

const FUSE: u32 = 0x6573_5546;

/// FUSE also carries local filesystems; these do not.
const NETWORK_FUSE: [&str; 9] = [
    "fuse.sshfs",
    "fuse.rclone",
    "fuse.s3fs",
    "fuse.gcsfuse",
    "fuse.glusterfs",
    "fuse.ceph",
    "fuse.ceph-fuse",
    "fuse.davfs",
    "fuse.davfs2",
];

fn network_kind(directory: &Path) -> io::Result<Option<&'static str>> {
    let magic = u32::try_from(rustix::fs::statfs(directory)?.f_type & 0xffff_ffff).unwrap_or(0);
    if magic != FUSE {
        return Ok(NETWORK.iter().find(|(number, _)| *number == magic).map(|(_, name)| *name));
    }
    let device = fs::metadata(directory)?.dev();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    Ok(network_fuse(&mounts, rustix::fs::major(device), rustix::fs::minor(device)))
}

/// The kind of the mount of that device, when it is one of `NETWORK_FUSE`. A line of mountinfo
/// has the device third and, after a lone `-`, the type.
fn network_fuse(mounts: &str, major: u32, minor: u32) -> Option<&'static str> {
    let device = format!("{major}:{minor}");
    let line = mounts.lines().find(|line| line.split(' ').nth(2) == Some(&device))?;
    let kind = line.split_once(" - ")?.1.split(' ').next()?;
    NETWORK_FUSE.into_iter().find(|name| *name == kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_remote_fuse_mounts_are_network_ones() {
        let mounts = "\n25 1 0:22 / /proc rw - proc proc rw\nbroken\n \
            \n36 25 0:45 / /home/a rw,nosuid - fuse.sshfs host:/a rw,user_id=0\
            \n37 25 0:46 / /b rw,nosuid shared:3 - fuse.fuse-overlayfs fuse-overlayfs rw\n38 25 0:47 / /c rw\n";
        assert_eq!(network_fuse(mounts, 0, 45), Some("fuse.sshfs"));
        assert_eq!(network_fuse(mounts, 0, 46), None);
        assert_eq!(network_fuse(mounts, 0, 47), None);
        assert_eq!(network_fuse(mounts, 9, 9), None);
        assert_eq!(network_fuse("", 0, 45), None);
    }

    #[test]
    fn a_file_without_directory_lies_here() {
        assert_eq!(directory_of(Path::new("a.db")), Path::new("."));
        assert_eq!(directory_of(Path::new("data/a.db")), Path::new("data"));
        assert_eq!(beside(Path::new("data/a.db"), "-wal"), Path::new("data/a.db-wal"));
    }
}
