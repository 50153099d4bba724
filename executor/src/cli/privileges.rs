//! What the launcher gives up when root starts it without `accounts:` (`spec/operations.md` 11.2),
//! so that no part of Ductile holds a capability that it would not use.

use std::io;

use rustix::thread::{self, CapabilitySet, CapabilitySets};

/// `no_new_privs`, then the bounding, inheritable, ambient, permitted and effective sets of the
/// calling thread, for good: `capset` alone is undone by the next exec of uid 0. The caller has no
/// other thread.
///
/// # Errors
/// The kernel's answer; the caller must not go on then.
pub(super) fn give_up() -> io::Result<()> {
    thread::set_no_new_privs(true)?;
    // Without the right to shrink the bounding set (a start inside a shell that gave its own up)
    // `no_new_privs` alone keeps an exec from gaining what the permitted set lacks.
    if thread::capabilities(None)?.effective.contains(CapabilitySet::SETPCAP) {
        for number in 0..u64::BITS {
            let capability = CapabilitySet::from_bits_retain(1 << number);
            match thread::capability_is_in_bounding_set(capability) {
                Ok(true) => thread::remove_capability_from_bounding_set(capability)?,
                Ok(false) => {}
                Err(rustix::io::Errno::INVAL) => break,
                Err(error) => return Err(error.into()),
            }
        }
    }
    thread::clear_ambient_capability_set()?;
    let none = CapabilitySet::empty();
    thread::set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_in_any_set() {
        // Both are of the thread alone, so the other tests keep what they have.
        let ended = std::thread::spawn(|| {
            let could = thread::capabilities(None).expect("sets").effective.contains(CapabilitySet::SETPCAP);
            give_up().expect("may always be given up");
            give_up().expect("and once more");
            let sets = thread::capabilities(None).expect("sets");
            assert!(sets.effective.is_empty() && sets.permitted.is_empty() && sets.inheritable.is_empty());
            assert!(thread::no_new_privs().expect("flag"));
            let kept = thread::capability_is_in_bounding_set(CapabilitySet::SETUID).expect("known");
            assert!(!could || !kept);
        });
        ended.join().expect("no assertion failed");
    }
}
