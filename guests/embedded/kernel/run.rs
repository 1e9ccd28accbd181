//! Runs a fragment in long mode: at ring 0, at ring 3, or at ring 3 in 32-bit code.
//!
//! Ring 3 is entered by IRETQ with the user's stack and left by the fragment's end (an
//! interrupt gate) or by its fault. Either way ends in `resume64`, which puts the
//! stack back to where [`run`] left it, as longjmp would.

use core::arch::global_asm;
use core::ptr::{addr_of, addr_of_mut, read_volatile, write_volatile};

use crate::probe::{Fragment, Outcome};
use crate::protected::{EXIT_VECTOR, USER_FLAGS};
use crate::selectors::*;

/// Where a fragment runs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// 64-bit code at ring 0.
    Ring0,
    /// 64-bit code at ring 3, interrupts enabled, IOPL 0.
    Ring3,
    /// The same with IOPL 3.
    Ring3Iopl3,
    /// 32-bit code at ring 3 (compatibility mode).
    Compatibility,
}

/// RFLAGS.IOPL = 3.
const IOPL3: u32 = 0x3000;

/// The record a fragment writes to; user memory, as ring 3 writes it too.
#[unsafe(link_section = ".user.data")]
static mut RECORD: Outcome = Outcome::new();
/// Whether a fragment is running, so that a fault is its result.
static mut ACTIVE: bool = false;

unsafe extern "C" {
    fn call_kernel64(code: Fragment, record: *mut Outcome);
    fn call_user64(code: Fragment, record: *mut Outcome, cs: u64, start: u64, rflags: u64);
    fn resume64() -> !;
    fn start_user64();
    fn start_user32();
}

/// Runs a fragment and says what came of it.
pub fn run(code: Fragment, place: Place) -> Outcome {
    let record = addr_of_mut!(RECORD);
    // SAFETY: the fragments are this program's own; they keep RSP, and the assembly
    // keeps what the compiler expects to survive a call. One runs at a time.
    unsafe {
        write_volatile(record, Outcome::new());
        write_volatile(addr_of_mut!(ACTIVE), true);
        let (start64, start32) = (start_user64 as *const () as u64, start_user32 as *const () as u64);
        let flags = u64::from(USER_FLAGS);
        match place {
            Place::Ring0 => call_kernel64(code, record),
            Place::Ring3 => call_user64(code, record, USER_CODE64.into(), start64, flags),
            Place::Ring3Iopl3 => {
                call_user64(code, record, USER_CODE64.into(), start64, flags | u64::from(IOPL3))
            }
            Place::Compatibility => call_user64(code, record, USER_CODE32.into(), start32, flags),
        }
        write_volatile(addr_of_mut!(ACTIVE), false);
        read_volatile(record)
    }
}

/// Notes the fault of the running fragment; false if none is running.
pub fn record(outcome: Outcome) -> bool {
    // SAFETY: called by the exception handler, while run() waits.
    unsafe {
        if !read_volatile(addr_of!(ACTIVE)) {
            return false;
        }
        write_volatile(addr_of_mut!(ACTIVE), false);
        write_volatile(addr_of_mut!(RECORD), outcome);
    }
    true
}

/// Gives up the running fragment.
pub fn resume() -> ! {
    // SAFETY: run() is waiting; nothing on the stacks left behind needs care.
    unsafe { resume64() }
}

global_asm!(
    ".text",
    "call_kernel64:",
    "push rbx", "push rbp", "push r12", "push r13", "push r14", "push r15",
    "mov [saved_rsp64], rsp",
    "mov rax, rdi",
    "mov rdi, rsi",
    "call rax",
    "resume64:",
    "cli",
    "cld",
    "mov eax, {data}",
    "mov ds, eax",
    "mov es, eax",
    "mov ss, eax",
    "xor eax, eax",
    "mov fs, eax",
    "mov gs, eax",
    "mov rsp, [saved_rsp64]",
    "push 0x1f80",
    "ldmxcsr [rsp]",
    "pop rax",
    "push 2",
    "popfq",
    "pop r15", "pop r14", "pop r13", "pop r12", "pop rbp", "pop rbx",
    "ret",
    "call_user64:",
    "push rbx", "push rbp", "push r12", "push r13", "push r14", "push r15",
    "mov [saved_rsp64], rsp",
    "mov rax, rdi",
    "mov rdi, rsi",
    "mov r9d, {user_data}",
    "mov ds, r9d",
    "mov es, r9d",
    "push r9",
    "push offset USER_STACK_TOP",
    "push r8",
    "push rdx",
    "push rcx",
    "iretq",
    ".section .user.text,\"ax\"",
    "start_user64:",
    "call rax",
    "int {exit}",
    ".section .user.data,\"aw\"",
    ".p2align 4",
    ".skip 4096",
    ".globl USER_STACK_TOP",
    "USER_STACK_TOP:",
    ".section .bss.run,\"aw\",@nobits",
    ".p2align 3",
    "saved_rsp64: .skip 8",
    ".text",
    data = const KERNEL_DATA,
    user_data = const USER_DATA,
    exit = const EXIT_VECTOR,
);
