//! A file as `stat` shows it: the key under which something worked out from its bytes may be kept.

use rustix::fs::Stat;
use shared::time::Timestamp;

const SECOND: i64 = 1_000_000_000;

/// Device, inode, size, and both times in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Stamp {
    device: u64,
    inode: u64,
    size: i64,
    modified: i64,
    changed: i64,
}

impl Stamp {
    pub(crate) fn of(stat: &Stat) -> Self {
        let nanos = |seconds: i64, nanos: u64| {
            seconds.saturating_mul(SECOND).saturating_add(i64::try_from(nanos).unwrap_or(i64::MAX))
        };
        Self {
            device: stat.st_dev,
            inode: stat.st_ino,
            size: stat.st_size,
            modified: nanos(stat.st_mtime, stat.st_mtime_nsec),
            changed: nanos(stat.st_ctime, stat.st_ctime_nsec),
        }
    }

    /// Not changed within the last second: a later change would show in the times.
    pub(crate) fn settled(&self, now: Timestamp) -> bool {
        let newest = self.modified.max(self.changed);
        now.unix_nanos().saturating_sub(newest) > SECOND
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_settles_after_a_second_and_never_in_the_future() {
        let stamp = Stamp { device: 1, inode: 1, size: 1, modified: 5 * SECOND, changed: 7 * SECOND };
        let check = |at: i64, settled: bool| {
            assert_eq!(stamp.settled(Timestamp::from_unix_nanos(at)), settled, "{at}");
        };
        check(7 * SECOND, false);
        check(8 * SECOND, false);
        check(8 * SECOND + 1, true);
        check(0, false);
    }
}
