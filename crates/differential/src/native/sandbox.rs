//! What the child may still do: return from signal handlers, use its pipes,
//! end. Code in the window may call nothing.

use super::syscall;

const fn statement(code: u32, k: u32) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

const fn jump(code: u32, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt, jf, k }
}

const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
const EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
const RETURN: u32 = libc::BPF_RET | libc::BPF_K;
/// AUDIT_ARCH_X86_64.
const ARCH: u32 = 0xc000_003e;

/// Offsets in `seccomp_data`.
const NUMBER_AT: u32 = 0;
const ARCH_AT: u32 = 4;
const IP_HIGH_AT: u32 = 12;

/// The window is below 4 GiB and everything else above: system calls from
/// there, and 32-bit ones from anywhere, are trapped.
static FILTER: [libc::sock_filter; 12] = [
    statement(LOAD, ARCH_AT),
    jump(EQUAL, ARCH, 0, 8),
    statement(LOAD, IP_HIGH_AT),
    jump(EQUAL, 0, 6, 0),
    statement(LOAD, NUMBER_AT),
    jump(EQUAL, libc::SYS_rt_sigreturn as u32, 5, 0),
    jump(EQUAL, libc::SYS_read as u32, 4, 0),
    jump(EQUAL, libc::SYS_write as u32, 3, 0),
    jump(EQUAL, libc::SYS_exit_group as u32, 2, 0),
    jump(EQUAL, libc::SYS_restart_syscall as u32, 1, 0),
    statement(RETURN, libc::SECCOMP_RET_TRAP),
    statement(RETURN, libc::SECCOMP_RET_ALLOW),
];

/// Closes the sandbox around this process.
///
/// # Safety
/// Only in the child: there is no way back.
pub(super) unsafe fn enter() -> bool {
    let program =
        libc::sock_fprog { len: FILTER.len() as u16, filter: (&raw const FILTER).cast_mut().cast() };
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the calls read the structures given and change only this process.
    unsafe {
        let core = [libc::RLIMIT_CORE as usize, (&raw const none).addr(), 0, 0, 0, 0];
        let privileges = [libc::PR_SET_NO_NEW_PRIVS as usize, 1, 0, 0, 0, 0];
        let filter = [
            libc::PR_SET_SECCOMP as usize,
            libc::SECCOMP_MODE_FILTER as usize,
            (&raw const program).addr(),
            0,
            0,
            0,
        ];
        syscall(libc::SYS_setrlimit, core) == 0
            && syscall(libc::SYS_prctl, privileges) == 0
            && syscall(libc::SYS_prctl, filter) == 0
    }
}
