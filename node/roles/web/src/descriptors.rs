//! Marking file descriptors that must not reach an app.
#![allow(unsafe_code)]

use std::io;

/// Every open descriptor from `first` on is closed by the next exec.
///
/// # Errors
/// The system call's; `ENOSYS` on kernels before 5.11.
pub fn close_on_exec_from(first: u32) -> io::Result<()> {
    // SAFETY: close_range takes plain integers. With CLOSE_RANGE_CLOEXEC it only
    // sets a flag on descriptors, so none that is in use becomes invalid here.
    let result = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            libc::c_long::from(first),
            libc::c_long::from(u32::MAX),
            libc::c_long::from(libc::CLOSE_RANGE_CLOEXEC),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
