//! Locks on image files, the way QEMU has them (block/file-posix.c), so that
//! its programs see ours and we see theirs.
//!
//! Each of a few permissions has two bytes far up in the file: one is locked
//! by whoever uses the permission, the other by whoever does not want others
//! to use it. All locks are shared ones; a conflict shows when one asks whether
//! an exclusive one were possible.

#![allow(unsafe_code, reason = "locks of open file descriptions have no safe interface")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// The permissions that matter here, as QEMU numbers them.
const READ: i64 = 0;
const WRITE: i64 = 1;
const RESIZE: i64 = 3;

/// Where the bytes are for "uses" and for "others must not".
const USES: i64 = 100;
const FORBIDS: i64 = 200;

fn lock_of(kind: libc::c_int, at: i64) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: at,
        l_len: 1,
        l_pid: 0,
    }
}

/// Takes a shared lock of the byte at `at`; false if that is not possible.
fn share(file: &File, at: i64) -> io::Result<bool> {
    let lock = lock_of(libc::F_RDLCK, at);
    // SAFETY: the descriptor is open as long as `file` is borrowed, and `lock`
    // is a whole `flock` that is only read.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) };
    match result {
        0 => Ok(true),
        _ => refused(io::Error::last_os_error()),
    }
}

/// Whether nobody else has any lock of the byte at `at`.
fn is_free(file: &File, at: i64) -> io::Result<bool> {
    let mut lock = lock_of(libc::F_WRLCK, at);
    // SAFETY: as above; the answer is written to `lock`.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &raw mut lock) };
    match result {
        0 => Ok(lock.l_type == libc::F_UNLCK as libc::c_short),
        _ => refused(io::Error::last_os_error()),
    }
}

/// A conflict is false. A file system that has no locks protects nobody.
fn refused(error: io::Error) -> io::Result<bool> {
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::EACCES) => Ok(false),
        Some(libc::ENOLCK | libc::EOPNOTSUPP | libc::ENOSYS) => Ok(true),
        _ => Err(error),
    }
}

/// Takes the locks of a reader that wants no writer beside it, or of a writer.
/// They last until `file` is closed. False if somebody else is in the way.
pub(crate) fn acquire(file: &File, writing: bool) -> io::Result<bool> {
    let uses: &[i64] = if writing { &[READ, WRITE, RESIZE] } else { &[READ] };
    let forbids = [WRITE, RESIZE];
    for permission in uses {
        if !share(file, USES + permission)? {
            return Ok(false);
        }
    }
    for permission in forbids {
        if !share(file, FORBIDS + permission)? {
            return Ok(false);
        }
    }
    for permission in uses {
        if !is_free(file, FORBIDS + permission)? {
            return Ok(false);
        }
    }
    for permission in forbids {
        if !is_free(file, USES + permission)? {
            return Ok(false);
        }
    }
    Ok(true)
}
