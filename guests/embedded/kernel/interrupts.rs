//! 64-bit interrupt entry: stubs, the common path, and what each vector does.
//!
//! A fault inside a probe is its result: the handler records it and *resumes*, that is,
//! it gives up the fragment and returns to whoever started it (see [`crate::run`]). A
//! page fault in the demand-paged window is served. Device interrupts are counted and
//! acknowledged. Anything else stops the guest with a message.

use core::arch::global_asm;

use crate::cpu;
use crate::probe::Outcome;
use crate::{paging, pic, run, timer};

/// Number of stubs: exceptions and the 16 interrupts of the 8259s.
pub const STUBS: usize = 48;
/// Vectors whose exception pushes an error code (SDM 3A 7.13, table 7-1).
const WITH_ERROR_CODE: u32 = 0x0022_7D00;
/// First vector of the remapped 8259s.
pub const IRQ_BASE: u8 = 0x20;
/// The vector of the local APIC's timer: that of IRQ 15, which stays masked.
pub const APIC_TIMER_VECTOR: u8 = 0x2F;

/// What the stub leaves on the stack.
#[repr(C)]
pub struct Frame {
    /// R15 to RAX.
    pub registers: [u64; 15],
    /// The vector.
    pub vector: u64,
    /// The error code, or 0.
    pub error: u64,
    /// RIP, CS, RFLAGS, RSP, SS as pushed.
    pub rip: u64,
    /// CS as pushed.
    pub cs: u64,
    /// RFLAGS as pushed.
    pub rflags: u64,
    /// RSP as pushed.
    pub rsp: u64,
    /// SS as pushed.
    pub ss: u64,
}

unsafe extern "C" {
    fn stubs64();
    fn software64();
    fn exit64();
    fn gate_target64();
}

/// The entry of a vector.
pub fn stub(vector: usize) -> u64 {
    stubs64 as *const () as u64 + 16 * vector as u64
}

/// The entry of the software interrupts.
pub fn software() -> u64 {
    software64 as *const () as u64
}

/// The entry that ends a ring-3 fragment.
pub fn exit() -> u64 {
    exit64 as *const () as u64
}

/// The call gate's target.
pub fn gate_target() -> u64 {
    gate_target64 as *const () as u64
}

global_asm!(
    ".text",
    ".p2align 4",
    "stubs64:",
    ".set vector64, 0",
    ".rept {stubs}",
    ".p2align 4",
    ".if vector64 < 32 && (({with_error} >> (vector64 & 31)) & 1)",
    ".else",
    "push 0",
    ".endif",
    ".byte 0x6a, vector64",
    "jmp common64",
    ".set vector64, vector64 + 1",
    ".endr",
    "common64:",
    "push rax", "push rbx", "push rcx", "push rdx", "push rsi", "push rdi", "push rbp",
    "push r8", "push r9", "push r10", "push r11", "push r12", "push r13", "push r14", "push r15",
    // Compiled code may use SSE: its state is saved, and TS must not forbid that.
    "clts",
    "cld",
    "mov rdi, rsp",
    "mov rbp, rsp",
    "sub rsp, 512",
    "and rsp, -16",
    "fxsave64 [rsp]",
    "call interrupt",
    "fxrstor64 [rsp]",
    "mov rsp, rbp",
    "pop r15", "pop r14", "pop r13", "pop r12", "pop r11", "pop r10", "pop r9", "pop r8",
    "pop rbp", "pop rdi", "pop rsi", "pop rdx", "pop rcx", "pop rbx", "pop rax",
    "add rsp, 16",
    "iretq",
    // INT 30h and INT 80h with EAX = 0: CS and SS here, and the CS that was pushed.
    // With another EAX it is a system call of the ring-3 task.
    "software64:",
    "test eax, eax",
    "jnz 2f",
    "mov edi, edi",
    "mov rax, [rsp + 8]",
    "mov [rdi + 8], rax",
    "xor eax, eax",
    "mov ax, cs",
    "mov [rdi], rax",
    "mov ax, ss",
    "mov [rdi + 16], rax",
    "iretq",
    "2:",
    "push 0",
    "push {open_vector}",
    "jmp common64",
    "exit64:",
    "jmp resume64",
    // The call gate's target; REX.W RETF takes back what the 64-bit gate pushed.
    "gate_target64:",
    "mov edi, edi",
    "mov rax, [rsp + 8]",
    "mov [rdi + 8], rax",
    "xor eax, eax",
    "mov ax, cs",
    "mov [rdi], rax",
    "mov ax, ss",
    "mov [rdi + 16], rax",
    "retfq",
    stubs = const STUBS,
    with_error = const WITH_ERROR_CODE,
    open_vector = const crate::protected::OPEN_VECTOR,
);

/// Every interrupt and exception comes here.
#[unsafe(no_mangle)]
extern "C" fn interrupt(frame: &mut Frame) {
    match frame.vector as u8 {
        APIC_TIMER_VECTOR => timer::apic_tick(),
        IRQ_BASE => {
            timer::pit_tick();
            pic::end_of_interrupt();
        }
        crate::protected::OPEN_VECTOR => crate::user::software_call(frame),
        14 if paging::serve(cpu::read_cr2(), frame.error) => {}
        vector @ 0..32 => exception(vector, frame),
        vector => panic!("unexpected interrupt {vector:#x}"),
    }
}

/// A fault: the result of the running probe, or the end.
fn exception(vector: u8, frame: &Frame) {
    let outcome = Outcome {
        vector: vector.into(),
        error: frame.error,
        ip: frame.rip,
        cr2: if vector == 14 { cpu::read_cr2() } else { 0 },
        ..Outcome::new()
    };
    if run::record(outcome) {
        run::resume();
    }
    panic!(
        "exception {vector} (error {:#x}) at {:#x}:{:#x}, CR2 {:#x}",
        frame.error,
        frame.cs,
        frame.rip,
        cpu::read_cr2()
    );
}
