//! The first statements of all five programs (design, decision 19).

use std::io;
use std::os::fd::BorrowedFd;

use rustix::fs::Mode;
use rustix::process::{DumpableBehavior, Resource, Rlimit};

/// Undumpable (so that nobody of the same uid reads memory, descriptors or environment), umask
/// 0077, `RLIMIT_CORE=1` (at 0 the kernel still feeds a piped core handler), a panic that ends the
/// process. Called before anything is read from outside.
///
/// # Errors
/// The system call that the kernel refused; a program that can not harden itself must not go on.
pub fn first_statements() -> io::Result<()> {
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    rustix::process::umask(Mode::from_raw_mode(0o077));
    let hard = rustix::process::getrlimit(Resource::Core).maximum.map_or(1, |m| m.min(1));
    rustix::process::setrlimit(Resource::Core, Rlimit { current: Some(hard), maximum: Some(hard) })?;
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        report(info);
        std::process::abort();
    }));
    Ok(())
}

/// Marks an inherited descriptor close-on-exec, so that no child of ours gets it unasked.
///
/// # Errors
/// The kernel's answer, when the descriptor is not open.
pub fn close_on_exec(fd: BorrowedFd<'_>) -> io::Result<()> {
    rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::CLOEXEC)?;
    Ok(())
}
