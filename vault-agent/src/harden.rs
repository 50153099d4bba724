//! After shared's first statements: memory that is never written to a swap device.

use rustix::mm::MlockAllFlags;
use rustix::process::Resource;
use shared::log::Level;

use crate::log::say;

/// Locks all memory, present and future, where the limit is infinite (under a finite one a later
/// thread's stack would fail); else says so loudly. Whether it is locked.
pub(crate) fn lock_memory() -> bool {
    // On fault: what is never touched, like the rest of a thread's stack, takes no memory.
    let flags = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT;
    let unlimited = rustix::process::getrlimit(Resource::Memlock).current.is_none();
    let locked = unlimited && rustix::mm::mlockall(flags).is_ok();
    if !locked {
        say(Level::Warn, "memory not locked", &[("hint", "set LimitMEMLOCK=infinity for this service".into())]);
    }
    locked
}
