//! The only unsafe code in Ductile: what rustix has no safe form for. Two things are here: making a
//! child that shares this process's memory until it execs, and the few raw system calls of that
//! child. They are raw because a C library's wrapper would write errno into the thread-local
//! storage that the child shares with its parent.
#![expect(unsafe_code, reason = "clone, setfsuid and raw system calls have no safe form in rustix")]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};

use rustix::io::Errno;
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags};
use rustix::process::Pid;

const STACK: usize = 16 * 1024;
const GUARD: usize = 4096;

unsafe extern "C" {
    fn clone(
        entry: extern "C" fn(*mut c_void) -> c_int,
        stack_top: *mut c_void,
        flags: c_int,
        argument: *mut c_void,
        parent_tid: *mut c_int,
        tls: *mut c_void,
        child_tid: *mut c_int,
    ) -> c_int;
    fn setfsuid(uid: u32) -> c_int;
}

/// Changes the owner that new pipes get; takes effect at once or not at all, and never fails.
pub(crate) fn set_fsuid(uid: u32) {
    // SAFETY: takes an integer and touches no memory.
    unsafe { setfsuid(uid) };
}

/// A child's stack, with an unmapped page below it.
pub(crate) struct Stack(*mut c_void);

impl Stack {
    /// # Errors
    /// No memory.
    pub(crate) fn new() -> io::Result<Self> {
        let flags = MapFlags::PRIVATE | MapFlags::STACK;
        // SAFETY: a fresh anonymous mapping overlaps nothing; its first page is made unusable.
        unsafe {
            let base =
                rustix::mm::mmap_anonymous(ptr::null_mut(), GUARD + STACK, ProtFlags::READ | ProtFlags::WRITE, flags)?;
            rustix::mm::mprotect(base, GUARD, MprotectFlags::empty())?;
            Ok(Self(base))
        }
    }

    fn top(&self) -> *mut c_void {
        // SAFETY: one past the end of the mapping, which clone wants.
        unsafe { self.0.byte_add(GUARD + STACK) }
    }
}

/// A list of C strings with the null that ends it. The pointers stay valid while it lives.
pub(crate) struct Strings {
    pointers: Vec<*const c_char>,
    _owned: Vec<CString>,
}

impl Strings {
    pub(crate) fn new(owned: Vec<CString>) -> Self {
        let pointers = owned.iter().map(|text| text.as_ptr()).chain([ptr::null()]).collect();
        Self { pointers, _owned: owned }
    }
}

/// What the child leaves for its parent in the memory that they share.
#[derive(Default)]
pub(crate) struct Record {
    /// 0, or the number of the step that failed, plus one.
    step: AtomicU32,
    errno: AtomicI32,
    /// The kernel clears it when the child no longer uses this memory.
    tid: AtomicI32,
}

impl Record {
    /// The child's word that a step failed; stored before it ends.
    pub(crate) fn fail(&self, step: u32, errno: Errno) {
        self.errno.store(errno.raw_os_error(), Ordering::Relaxed);
        self.step.store(step + 1, Ordering::Release);
    }

    /// The step that failed, with its errno.
    pub(crate) fn failure(&self) -> Option<(u32, i32)> {
        let step = self.step.load(Ordering::Acquire).checked_sub(1)?;
        Some((step, self.errno.load(Ordering::Relaxed)))
    }
}

/// Makes a child that runs `body(argument)` on `stack` and then ends. It shares this process's
/// memory until it execs or ends, and nothing else: descriptors, credentials, directory and signal
/// dispositions are its own copies.
///
/// The caller keeps `stack`, `argument` and all that it refers to until the child is reaped.
///
/// # Errors
/// The kernel can not make a process.
pub(crate) fn spawn<T>(stack: &Stack, argument: &Child<T>) -> io::Result<(Pid, OwnedFd)> {
    let flags = libc::CLONE_VM | libc::CLONE_PIDFD | libc::CLONE_CHILD_CLEARTID | libc::SIGCHLD;
    let mut pidfd: c_int = -1;
    argument.record.tid.store(1, Ordering::Relaxed);
    // SAFETY: the stack is 16 KiB of the child's own with a guard page; `argument` outlives the
    // child by the caller's contract; the child runs `body` alone, which allocates nothing and
    // makes raw system calls only, so it never touches the thread-local storage that it shares.
    let pid = unsafe {
        clone(
            enter::<T>,
            stack.top(),
            flags,
            ptr::from_ref(argument).cast_mut().cast(),
            &raw mut pidfd,
            ptr::null_mut(),
            argument.record.tid.as_ptr(),
        )
    };
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    let pid = Pid::from_raw(pid).ok_or_else(|| io::Error::other("clone gave no pid"))?;
    // SAFETY: CLONE_PIDFD stored a descriptor that is nobody else's.
    Ok((pid, unsafe { OwnedFd::from_raw_fd(pidfd) }))
}

/// What a child runs, and on what.
pub(crate) struct Child<T> {
    /// Must allocate nothing, take no lock and make raw system calls only; it never returns when
    /// it succeeds.
    pub body: fn(&T, &Record),
    pub plan: T,
    pub record: Record,
}

extern "C" fn enter<T>(argument: *mut c_void) -> c_int {
    // SAFETY: `spawn` passed a `Child<T>` that outlives this child.
    let child = unsafe { &*argument.cast::<Child<T>>() };
    (child.body)(&child.plan, &child.record);
    // SAFETY: ends this process alone: its thread group is its own.
    unsafe { syscall(libc::SYS_exit_group, [127, 0, 0, 0, 0]) };
    127
}

/// Makes these, each 3 or higher, the descriptors 0, 1 and 2.
pub(crate) fn place_streams(streams: [RawFd; 3]) -> Result<(), Errno> {
    for (place, stream) in streams.into_iter().enumerate() {
        // SAFETY: takes integers; the descriptors are this child's own copies.
        unsafe { call(libc::SYS_dup3, [stream.unsigned_abs() as usize, place, 0, 0, 0])? };
    }
    Ok(())
}

/// Marks every descriptor from 3 on close-on-exec.
pub(crate) fn close_on_exec_from_3() -> Result<(), Errno> {
    // SAFETY: takes integers.
    unsafe { call(libc::SYS_close_range, [3, u32::MAX as usize, libc::CLOSE_RANGE_CLOEXEC as usize, 0, 0]) }
}

/// Enters the domain of a ruleset.
pub(crate) fn enter_landlock(ruleset: RawFd) -> Result<(), Errno> {
    // SAFETY: takes integers.
    unsafe { call(libc::SYS_landlock_restrict_self, [ruleset.unsigned_abs() as usize, 0, 0, 0, 0]) }
}

/// The size of the kernel's signal set, in bytes.
const SIGNAL_SET: usize = 8;

/// The kernel's `sigaction`: handler, flags, restorer, mask; all zero is the default.
#[repr(C)]
struct KernelAction([usize; 4]);

/// Gives one signal its default disposition. Signals that have none to set are passed over.
pub(crate) fn default_signal(signal: usize) -> Result<(), Errno> {
    let action = KernelAction([libc::SIG_DFL, 0, 0, 0]);
    // SAFETY: the kernel reads one action and writes none.
    unsafe { call(libc::SYS_rt_sigaction, [signal, ptr::from_ref(&action) as usize, 0, SIGNAL_SET, 0]) }
}

/// Blocks no signal.
pub(crate) fn unblock_signals() -> Result<(), Errno> {
    mask_signals(0)
}

/// Blocks every signal that can be blocked.
pub(crate) fn block_signals() -> Result<(), Errno> {
    mask_signals(u64::MAX)
}

fn mask_signals(set: u64) -> Result<(), Errno> {
    // SAFETY: the kernel reads one set and writes none.
    unsafe {
        call(libc::SYS_rt_sigprocmask, [libc::SIG_SETMASK as usize, ptr::from_ref(&set) as usize, 0, SIGNAL_SET, 0])
    }
}

/// Becomes the program of an open file; returns only when it fails.
pub(crate) fn exec_file(file: RawFd, argv: &Strings, envp: &Strings) -> Errno {
    let flags = libc::AT_EMPTY_PATH.unsigned_abs() as usize;
    exec(file.unsigned_abs() as usize, c"", argv, envp, flags)
}

/// Becomes the program at an absolute path; returns only when it fails.
pub(crate) fn exec_path(path: &CStr, argv: &Strings, envp: &Strings) -> Errno {
    exec(0, path, argv, envp, 0)
}

fn exec(directory: usize, path: &CStr, argv: &Strings, envp: &Strings, flags: usize) -> Errno {
    let (argv, envp) = (argv.pointers.as_ptr() as usize, envp.pointers.as_ptr() as usize);
    // SAFETY: the path and both lists end with a null and live in memory that stays until then.
    let result = unsafe { call(libc::SYS_execveat, [directory, path.as_ptr() as usize, argv, envp, flags]) };
    result.err().unwrap_or(Errno::NOEXEC)
}

/// # Safety
/// As the system call asks of its arguments.
unsafe fn call(number: libc::c_long, arguments: [usize; 5]) -> Result<(), Errno> {
    // SAFETY: the caller's promise.
    let result = unsafe { syscall(number, arguments) };
    if result < 0 { Err(Errno::from_raw_os_error(i32::try_from(-result).unwrap_or(libc::EINVAL))) } else { Ok(()) }
}

/// # Safety
/// As the system call asks of its arguments.
#[cfg(target_arch = "x86_64")]
unsafe fn syscall(number: libc::c_long, [a, b, c, d, e]: [usize; 5]) -> isize {
    let result: isize;
    // SAFETY: the kernel clobbers rcx, r11 and the result's register alone.
    unsafe {
        std::arch::asm!("syscall", inlateout("rax") number => result, in("rdi") a, in("rsi") b, in("rdx") c,
            in("r10") d, in("r8") e, lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    result
}

/// # Safety
/// As the system call asks of its arguments.
#[cfg(target_arch = "aarch64")]
unsafe fn syscall(number: libc::c_long, [a, b, c, d, e]: [usize; 5]) -> isize {
    let result: isize;
    // SAFETY: the kernel clobbers the result's register alone.
    unsafe {
        std::arch::asm!("svc 0", in("x8") number, inlateout("x0") a => result, in("x1") b, in("x2") c,
            in("x3") d, in("x4") e, options(nostack));
    }
    result
}
