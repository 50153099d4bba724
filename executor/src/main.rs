//! `ductile-executor`: parses its arguments, runs the service, maps the result to an exit code.
use std::alloc::System;
use std::process::ExitCode;

use zeroizing_alloc::ZeroAlloc;

/// What a plugin printed may hold a secret until it is scrubbed, and no longer (design, section
/// 4.2): buffers that grow or are handed on leave copies, so all memory is wiped when freed.
#[global_allocator]
static ALLOCATOR: ZeroAlloc<System> = ZeroAlloc(System);

fn main() -> ExitCode {
    executor::service::main()
}
