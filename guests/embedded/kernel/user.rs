//! A ring-3 task: its own pages, SYSCALL and INT 80h, and a timer interrupt on its way.

use core::arch::global_asm;
use core::ptr::{addr_of, addr_of_mut, read_volatile, write_volatile};

use crate::console::{print, println};
use crate::cpu::wrmsr;
use crate::descriptors::trap_stack;
use crate::interrupts::Frame;
use crate::probe::is;
use crate::report::Report;
use crate::run::{self, Place};
use crate::selectors::{STAR, USER_CODE64};
use crate::timer;

/// MSRs of SYSCALL (SDM 3A 6.8.8).
const IA32_STAR: u32 = 0xC000_0081;
const IA32_LSTAR: u32 = 0xC000_0082;
const IA32_FMASK: u32 = 0xC000_0084;
/// RFLAGS bits that SYSCALL clears: TF, IF, DF, NT, AC.
const FLAGS_CLEARED: u64 = 0x4_4700;

/// Print RSI bytes at RDI.
const CALL_PRINT: u64 = 1;
/// The number of ticks, returned in RAX.
const CALL_TICKS: u64 = 2;

/// Calls by SYSCALL and by INT 80h.
static mut CALLS: [u64; 2] = [0; 2];
/// CS that INT 80h found pushed.
static mut CALLER_CS: u64 = 0;

unsafe extern "C" {
    fn syscall_entry();
    fn user_task();
    static user_message: u8;
    static user_message_end: u8;
}

/// Points SYSCALL at its entry.
pub fn init() {
    // SAFETY: the entry exists and the selectors are in the GDT.
    unsafe {
        wrmsr(IA32_STAR, STAR);
        wrmsr(IA32_LSTAR, syscall_entry as *const () as u64);
        wrmsr(IA32_FMASK, FLAGS_CLEARED);
        write_volatile(addr_of_mut!(SYSCALL_STACK), trap_stack());
    }
}

/// The stack that the SYSCALL entry changes to; the instruction itself changes none.
#[unsafe(no_mangle)]
static mut SYSCALL_STACK: u64 = 0;

// The task prints by SYSCALL, spins until a tick has passed it by (the counter is in a
// page that it may read), and asks for the ticks by INT 80h.
global_asm!(
    ".section .user.text,\"ax\"",
    "user_task:",
    "mov r12, rdi",
    "mov eax, {print}",
    "mov rdi, offset user_message",
    "mov rsi, offset user_message_end",
    "sub rsi, rdi",
    "syscall",
    "mov rax, [TICKS]",
    "2:",
    "pause",
    "cmp rax, [TICKS]",
    "je 2b",
    "mov eax, {ticks}",
    "int 0x80",
    "mov [r12], rax",
    "mov word ptr [r12 + 8], cs",
    "ret",
    ".section .user.data,\"aw\"",
    "user_message: .ascii \"Ring 3 says hello by SYSCALL.\\n\"",
    "user_message_end:",
    ".text",
    // RCX and R11 hold RIP and RFLAGS; arguments in RAX, RDI, RSI.
    "syscall_entry:",
    "mov [saved_user_rsp], rsp",
    "mov rsp, [SYSCALL_STACK]",
    "push rcx",
    "push r11",
    "mov rdx, rsi",
    "mov rsi, rdi",
    "mov rdi, rax",
    "call system_call",
    "pop r11",
    "pop rcx",
    "mov rsp, [saved_user_rsp]",
    "sysretq",
    ".section .bss.user,\"aw\",@nobits",
    ".p2align 3",
    "saved_user_rsp: .skip 8",
    ".text",
    print = const CALL_PRINT,
    ticks = const CALL_TICKS,
);

/// A call by SYSCALL.
#[unsafe(no_mangle)]
extern "C" fn system_call(number: u64, pointer: u64, length: u64) -> u64 {
    count(0);
    serve(number, pointer, length)
}

/// A call by INT 80h; the result goes to RAX of the frame.
pub fn software_call(frame: &mut Frame) {
    count(1);
    // SAFETY: a word that only this handler writes.
    unsafe { write_volatile(addr_of_mut!(CALLER_CS), frame.cs) };
    let [.., rax] = &mut frame.registers;
    *rax = serve(*rax, 0, 0);
}

fn count(kind: usize) {
    // SAFETY: calls do not nest.
    unsafe { CALLS[kind & 1] += 1 };
}

fn serve(number: u64, pointer: u64, length: u64) -> u64 {
    match number {
        CALL_PRINT if in_message(pointer, length) => {
            // SAFETY: checked to lie inside the user's message.
            let text = unsafe { core::slice::from_raw_parts(pointer as *const u8, length as usize) };
            print!("{}", core::str::from_utf8(text).unwrap_or("?\n"));
            0
        }
        CALL_TICKS => timer::ticks(),
        _ => u64::MAX,
    }
}

/// Whether the range is the task's message: a kernel believes no pointer of a user.
fn in_message(pointer: u64, length: u64) -> bool {
    let (start, end) = (addr_of!(user_message) as u64, addr_of!(user_message_end) as u64);
    pointer >= start && pointer.checked_add(length).is_some_and(|last| last <= end)
}

/// Runs the task.
pub fn demonstrate(report: &mut Report) {
    println!("Ring 3: a task with SYSCALL and INT 80h, entered by IRETQ.");
    let before = timer::ticks();
    let outcome = run::run(user_task, Place::Ring3);
    // SAFETY: the task is over.
    let (calls, cs) = unsafe { (read_volatile(addr_of!(CALLS)), read_volatile(addr_of!(CALLER_CS))) };
    let [after, task_cs, _] = outcome.values;
    report.verify("task ended by itself", &[(is("vector", crate::probe::Outcome::NO_FAULT), outcome.vector)]);
    report.verify("system calls", &[(is("syscall", 1), calls[0]), (is("int80", 1), calls[1])]);
    report.verify(
        "ring-3 CS, inside and out",
        &[(is("cs", USER_CODE64.into()), task_cs), (is("pushed", USER_CODE64.into()), cs)],
    );
    report.verify("a tick interrupted it", &[(is("ticked", 1), u64::from(after > before))]);
}
