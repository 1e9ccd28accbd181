//! Single step and breakpoints (SDM 3B 18.2, 18.3).

use x86::{Cr0, Cr4, Dr6, Dr7, Gpr::*, Rflags, Vector};

use crate::asm::{code32, code64};
use crate::env::{long64, protected32, user32};
use crate::guest::{Guest, guests};
use crate::layout::*;

/// Breakpoint 0 at `address`; `control` holds its R/W and LEN bits (DR7 16 to
/// 19).
fn watch(guest: Guest, address: u64, control: u64) -> Guest {
    guest.patch(|s| {
        s.dr[0] = address;
        s.dr7 = Dr7::from_bits_retain(0x402 | control << 16);
    })
}

/// #DB before or after the marked instruction, with `bits` in DR6.
fn debug_event(guest: Guest, bits: u64) -> Guest {
    guest.event(Vector::DB).masked_item("DR6", |s| s.dr6.bits(), 0xe00f, bits)
}

/// A byte store to DATA + 1 with a watch.
fn store(address: u64, control: u64) -> Guest {
    watch(
        protected32(code32!(
            "
        mov byte ptr [0xd001], 5
     7: nop
        out 0xf4, al
    "
        )),
        address,
        control,
    )
}

guests! { "debug";
    /// TF traps after the next instruction; the frame keeps TF (SDM 3B
    /// 18.3.1.4).
    single_step: debug_event(protected32(code32!("
        push 0x102
        popfd
        inc ecx
     7: inc ecx
    ")).reg(Rcx, 1).pushed_flags(Rflags::TF, Rflags::TF).flags(Rflags::TF, Rflags::empty()), 0x4000);

    /// The handler's IRET steps on (SDM 3B 18.3.1.4).
    step_by_step: protected32(code32!("
        push 0x102
        popfd
        nop
        nop
        jmp 2f
     2: push 2
        popfd
        nop
        out 0xf4, al
    ")).handler(1, code32!(at 0xa000; "
        mov eax, [esp]
        out 0xe0, eax
        iretd
    ")).reports(&[0x8007, 0x8008, 0x800a, 0x800c, 0x800d]);

    /// IRET that sets TF traps after the target's first instruction.
    single_step_by_iret: debug_event(protected32(code32!("
        push 0x102
        push 0x08
        push 0x9000
        iretd
    ")).marked_code(code32!(at 0x9000; "inc ecx; 7: inc ecx")).reg(Rcx, 1), 0x4000);

    /// A string instruction traps after each iteration (SDM 3B 18.3.1.4).
    single_step_of_repeat: debug_event(protected32(code32!("
        mov esi, 0xd000
        mov edi, 0xe000
        mov ecx, 3
        push 0x102
        popfd
     7: rep movsb
    ")).reg(Rcx, 2).reg(Rsi, 0xd001).reg(Rdi, 0xe001), 0x4000);

    /// INT n clears TF before the handler: no trap there (SDM 3B 18.3.1.4).
    single_step_into_interrupt: protected32(code32!("
        push 0x102
        popfd
        int 0x40
     7: nop
    ")).event(Vector(0x40)).pushed_flags(Rflags::TF, Rflags::TF);

    /// A faulting instruction under TF delivers its fault, and no trap.
    single_step_of_fault: protected32(code32!("
        push 0x102
        popfd
     7: ud2
    ")).event(Vector::UD).masked_item("DR6", |s| s.dr6.bits(), 0xe00f, 0);

    /// An instruction breakpoint is a fault before the instruction; RF is
    /// pushed as it was, clear (SDM 3B 18.3.1.1).
    instruction_breakpoint: debug_event(watch(protected32(code32!("
        nop
     7: inc ecx
    ")), MAIN + 1, 0), 1).reg(Rcx, 0).pushed_flags(Rflags::RF, Rflags::empty());

    /// A handler that sets RF in the frame passes the breakpoint once (SDM 3B
    /// 18.3.1.1).
    resume_flag: watch(protected32(code32!("
        mov ecx, 2
     2: dec ecx
        jnz 2b
        out 0xf4, al
    ")), MAIN + 5, 0).handler(1, code32!(at 0xa000; "
        out 0xe0, eax
        or dword ptr [esp + 8], 0x10000
        iretd
    ")).with(Rax, 0x77).reports(&[0x77, 0x77]);

    /// Every other fault pushes RF set (SDM 3B 18.3.1.1).
    fault_pushes_resume_flag: protected32(code32!("7: ud2")).event(Vector::UD)
        .pushed_flags(Rflags::RF, Rflags::RF);

    /// A software interrupt does not (SDM 3B 18.3.1.1).
    software_interrupt_leaves_resume_flag: protected32(code32!("
        int 0x40
     7: nop
    ")).event(Vector(0x40)).pushed_flags(Rflags::RF, Rflags::empty());

    /// A trap between two iterations of a string instruction pushes RF set
    /// (SDM 3B 18.3.1.1).
    trap_in_repeat_pushes_resume_flag: protected32(code32!("
        mov edi, 0xd000
        mov ecx, 3
        push 0x102
        popfd
     7: rep stosb
    ")).event(Vector::DB).pushed_flags(Rflags::RF, Rflags::RF);

    /// A store to a watched byte traps after it (SDM 3B 18.3.1.2).
    write_watch: debug_event(store(DATA + 1, 1), 1).memory(DATA + 1, &[5]).pushed_flags(Rflags::RF, Rflags::empty());

    /// A watch of four bytes covers the aligned doubleword (SDM 3B 18.2.5).
    watch_length: debug_event(store(DATA, 0xd), 1);

    /// A store beside it does not trap.
    watch_beside: store(DATA + 2, 1).memory(DATA + 1, &[5]);

    /// A wider access that overlaps the watched byte traps (SDM 3B 18.2.5).
    watch_overlap: debug_event(watch(protected32(code32!("
        mov [0xd000], eax
     7: nop
    ")), DATA + 3, 1), 1);

    /// A write watch ignores reads (SDM 3B 18.2.4).
    write_watch_and_read: watch(protected32(code32!("
        mov eax, [0xd000]
        out 0xf4, al
    ")), DATA, 1);

    /// A read/write watch does not (SDM 3B 18.2.4).
    read_watch: debug_event(watch(protected32(code32!("
        mov eax, [0xd000]
     7: nop
    ")), DATA, 3), 1);

    /// It ignores instruction fetches (SDM 3B 18.2.4).
    read_watch_and_fetch: watch(protected32(code32!("
        nop
        out 0xf4, al
    ")), MAIN, 3);

    /// A watch elsewhere leaves alignment checks as they are (SDM 3A 6.15,
    /// interrupt 17).
    watch_and_alignment: watch(user32(code32!("7: mov eax, [0xd001]")), DATA + 8, 3)
        .patch(|s| s.cr0 |= Cr0::AM).with_flags(Rflags::AC).fault(Vector::AC, 0);

    /// Eight-byte watches exist in 64-bit mode (SDM 3B 18.2.4).
    watch_of_eight: debug_event(watch(long64(code64!("
        mov byte ptr [0xd007], 1
     7: nop
    ")), DATA, 9), 1);

    /// The stack counts as data.
    watch_push: debug_event(watch(protected32(code32!("
        push eax
     7: nop
    ")), STACK - 4, 0xd), 1);

    /// A watched REP traps after the iteration that hit (SDM 3B 18.3.1.2).
    watch_repeat: debug_event(watch(protected32(code32!("
        mov edi, 0xd000
        mov ecx, 4
        cld
     7: rep stosb
    ")), DATA + 1, 1), 1).reg(Rcx, 2).reg(Rdi, DATA + 2);

    /// An I/O breakpoint traps after the access, with CR4.DE (SDM 3B
    /// 18.3.1.3).
    io_breakpoint: debug_event(watch(protected32(code32!("
        out 0xe0, al
     7: nop
    ")).patch(|s| s.cr4 |= Cr4::DE), LOG_PORT.into(), 2), 1);

    /// DR7.GD faults at the next MOV DR and is cleared (SDM 3B 18.2.4).
    general_detect: debug_event(protected32(code32!("7: mov eax, dr0"))
        .patch(|s| s.dr7 = Dr7::from_bits_retain(0x2400)), Dr6::BD.bits())
        .masked_item("DR7", |s| s.dr7.bits(), 0x2000, 0);

    /// INT1 is a trap without DR6 bits, whatever the gate's DPL (SDM 2A, INT
    /// n).
    icebp: debug_event(user32(code32!(".byte 0xf1; 7: nop")), 0);

    /// DR4 is DR6 without CR4.DE (SDM 3B 18.2.2).
    dr4_alias: protected32(code32!("
        .byte 0x0f, 0x21, 0xe0
        out 0xf4, al
    ")).reg(Rax, 0xffff_0ff0);

    /// With CR4.DE it is #UD (SDM 3B 18.2.2).
    dr4_undefined: protected32(code32!("7: .byte 0x0f, 0x21, 0xe0")).patch(|s| s.cr4 |= Cr4::DE).event(Vector::UD);

    /// Fixed bits of DR6 and DR7 (SDM 3B 18.2.3, 18.2.4).
    fixed_bits: protected32(code32!("
        xor eax, eax
        mov dr6, eax
        mov dr7, eax
        mov ebx, dr6
        mov ecx, dr7
        out 0xf4, al
    ")).reg(Rbx, 0xffff_0ff0).reg(Rcx, 0x400);

    /// Bits 63:32 of DR7 must be zero: #GP(0) (SDM 2B, MOV to DR).
    dr7_upper_half: long64(code64!("
        mov rax, 0x100000400
     7: mov dr7, rax
    ")).fault(Vector::GP, 0);

    /// MOV DR in ring 3 is #GP(0) (SDM 2B, MOV to DR).
    ring_3: user32(code32!("7: mov eax, dr7")).fault(Vector::GP, 0);

    /// Delivery of #DB clears nothing but what the manual says: LE and GE stay.
    exact_bits_stay: protected32(code32!("
        mov eax, 0x700
        mov dr7, eax
        mov ebx, dr7
        out 0xf4, al
    ")).reg(Rbx, 0x700);
}
