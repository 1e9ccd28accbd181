//! Hardware task switching (SDM 3A 7).

use x86::{Cr0, Dr6, Gpr::*, Rflags, SegmentName, Vector};

use crate::asm::{code16, code32};
use crate::env::{protected32, user32};
use crate::guest::{Guest, guests};
use crate::layout::*;

/// An available 32-bit TSS.
const TASK: u64 = descriptor(TSS2 as u32, 0x67, 0x89, 0);

/// A 32-bit TSS whose task starts at 9000h in ring 0, as (offset, value).
const IMAGE: [(u64, u32); 18] = [
    (0x04, OTHER_STACK as u32),
    (0x08, KDATA as u32),
    (0x20, 0x9000),
    (0x24, 0x3),
    (0x28, 0xa0),
    (0x2c, 0xa1),
    (0x30, 0xa2),
    (0x34, 0xa3),
    (0x38, OTHER_STACK as u32),
    (0x3c, 0xa5),
    (0x40, 0xa6),
    (0x44, 0xa7),
    (0x48, KDATA as u32),
    (0x4c, KCODE as u32),
    (0x50, KDATA as u32),
    (0x54, KDATA as u32),
    (0x58, KDATA as u32),
    (0x5c, KDATA as u32),
];

fn with_task(guest: Guest) -> Guest {
    let image = IMAGE.iter().fold(guest, |guest, &(offset, value)| guest.dword(TSS2 + offset, value));
    image.dword(TSS2 + 0x64, 0x68 << 16).gdt(FREE, TASK)
}

/// `JMP 70h:0` with EBX and EDX set; the new task exits.
fn jump() -> Guest {
    with_task(protected32(code32!(
        "
        mov ebx, 0x1111
        mov edx, 0x2222
     7: farjmp 0x70, 0
    "
    )))
    .code(code32!(at 0x9000; "out 0xf4, al"))
}

/// `CALL 70h:0`, then exit.
fn call() -> Guest {
    with_task(protected32(code32!(
        "
        farcall 0x70, 0
        mov ebp, 0x77
        out 0xf4, al
    "
    )))
}

/// A page fault, #GP or the like in ring 0 through a task gate.
fn task_gate(guest: Guest, vector: u8) -> Guest {
    with_task(guest).idt(vector, gate(FREE, 0, 0xe5, 0))
}

/// An exception after the switch, before the new task's first instruction. A
/// third task handles it, because the new task's segments are not to be relied
/// on (SDM 3A 7.3).
fn in_new_task(guest: Guest, vector: Vector, code: u32) -> Guest {
    let image = IMAGE.iter().fold(guest, |guest, &(offset, value)| guest.dword(TSS3 + offset, value));
    image
        .dword(TSS3 + 0x20, 0xa000)
        .gdt(0x80, descriptor(TSS3 as u32, 0x67, 0x89, 0))
        .idt(vector.0, gate(0x80, 0, 0x85, 0))
        .code(code32!(at 0xa000; "
            mov eax, [esp]
            out 0xf4, al
        "))
        .reg(Rax, code.into())
        .mem16(TSS3, FREE)
        .mem32(TSS2 + 0x20, 0x9000)
}

guests! { "tasks";
    /// JMP to a TSS loads all registers (SDM 3A 7.3).
    jump_loads: jump().reg(Rax, 0xa0).reg(Rcx, 0xa1).reg(Rdx, 0xa2).reg(Rbx, 0xa3).reg(Rsp, OTHER_STACK)
        .reg(Rbp, 0xa5).reg(Rsi, 0xa6).reg(Rdi, 0xa7).flags(Rflags::CF | Rflags::NT, Rflags::CF)
        .item("TR", |s| s.tr.selector.0.into(), FREE.into()).item("TR.base", |s| s.tr.base, TSS2)
        .masked_item("CR0", |s| s.cr0.bits(), Cr0::TS.bits(), Cr0::TS.bits())
        .segment(SegmentName::Ss, KDATA, 0, u32::MAX, 0xc093);

    /// It saves the old task's registers (SDM 3A 7.3).
    jump_saves: jump().mem32(TSS + 0x20, 0x8011).mem32(TSS + 0x30, 0x2222).mem32(TSS + 0x34, 0x1111)
        .mem32(TSS + 0x38, STACK as u32).mem16(TSS + 0x4c, KCODE).mem16(TSS + 0x50, KDATA);

    /// Busy bits move from the old to the new task; there is no link (SDM 3A
    /// table 7-2).
    jump_busy_bits: jump().memory(GDT + 0x55, &[0x89]).memory(GDT + 0x75, &[0x8b]).mem16(TSS2, 0);

    /// CALL nests: NT, a link, and the old task stays busy (SDM 3A 7.4).
    call_nests: call().code(code32!(at 0x9000; "out 0xf4, al")).flags(Rflags::NT, Rflags::NT)
        .mem16(TSS2, TSS_SELECTOR).memory(GDT + 0x55, &[0x8b]).memory(GDT + 0x75, &[0x8b]);

    /// IRET with NT returns to the linked task (SDM 3A 7.4).
    call_and_return: call().code(code32!(at 0x9000; "mov ecx, 5; iretd")).reg(Rbp, 0x77).reg(Rcx, 0)
        .flags(Rflags::NT, Rflags::empty()).item("TR", |s| s.tr.selector.0.into(), TSS_SELECTOR.into())
        .memory(GDT + 0x55, &[0x8b]).memory(GDT + 0x75, &[0x89]).mem32(TSS2 + 0x2c, 5).mem32(TSS2 + 0x20, 0x9006);

    /// Through a task gate in the GDT (SDM 3A 7.2.5).
    call_through_gate: with_task(protected32(code32!("farcall 0x78, 0"))).gdt(0x78, gate(FREE, 0, 0x85, 0))
        .code(code32!(at 0x9000; "out 0xf4, al")).reg(Rax, 0xa0).flags(Rflags::NT, Rflags::NT);

    /// Ring 3 may use a gate of DPL 3, though the TSS has DPL 0 (SDM 3A
    /// 7.2.5).
    gate_privilege: with_task(user32(code32!("farcall 0x7b, 0"))).gdt(0x78, gate(FREE, 0, 0xe5, 0))
        .code(code32!(at 0x9000; "out 0xf4, al")).reg(Rax, 0xa0).cs(KCODE);

    /// It may not use the TSS itself: #GP(TSS) (SDM 3A 7.3).
    segment_privilege: with_task(user32(code32!("7: farjmp 0x73, 0"))).fault(Vector::GP, 0x70);

    /// INT n through a task gate (SDM 3A 6.12.2).
    interrupt_task: task_gate(protected32(code32!("int 0x40")), 0x40).code(code32!(at 0x9000; "out 0xf4, al"))
        .reg(Rax, 0xa0).flags(Rflags::NT, Rflags::NT).mem32(TSS + 0x20, 0x8002);

    /// An exception's error code goes to the new stack; the old EIP points to
    /// the fault (SDM 3A 6.12.2, 6.13).
    exception_task: task_gate(protected32(code32!("
        mov eax, 0x100
     7: mov ds, eax
    ")), 13).code(code32!(at 0x9000; "
        mov eax, [esp]
        out 0xf4, al
    ")).reg(Rax, 0x100).reg(Rsp, OTHER_STACK - 4).mem32(TSS + 0x20, 0x8005);

    /// A double fault handled by a task (SDM 3A 6.15, interrupt 8).
    double_fault_task: task_gate(protected32(code32!("ud2")), 8).gate_access(6, 0x0e).gate_access(11, 0x0e)
        .code(code32!(at 0x9000; "
            mov eax, [esp]
            out 0xf4, al
        ")).reg(Rax, 0).reg(Rsp, OTHER_STACK - 4);

    /// A busy TSS is #GP(selector) (SDM 3A 7.3).
    busy: jump().gdt(FREE, descriptor(TSS2 as u32, 0x67, 0x8b, 0)).fault(Vector::GP, 0x70);

    /// An absent TSS is #NP(selector) (SDM 3A 7.3).
    absent: jump().gdt(FREE, descriptor(TSS2 as u32, 0x67, 0x09, 0)).fault(Vector::NP, 0x70);

    /// A TSS with a limit below 67h is #TS(selector) (SDM 3A 7.3).
    too_small: jump().gdt(FREE, descriptor(TSS2 as u32, 0x66, 0x89, 0)).fault(Vector::TS, 0x70);

    /// A TSS in the LDT is #GP(selector) (SDM 3A 7.2.2).
    in_local_table: with_task(protected32(code32!("7: farjmp 0x0c, 0"))).qword(LDT + 8, TASK).fault(Vector::GP, 0x0c);

    /// A bad CS in the new TSS is #TS(selector), in the new task (SDM 3A table
    /// 7-1).
    bad_code_segment: in_new_task(jump().dword(TSS2 + 0x4c, KDATA.into()), Vector::TS, KDATA.into());

    /// A bad DS likewise (SDM 3A table 7-1).
    bad_data_segment: in_new_task(jump().dword(TSS2 + 0x54, 0x100), Vector::TS, 0x100);

    /// An absent DS is #NP(selector), in the new task (SDM 3A table 7-1).
    absent_data_segment: in_new_task(jump().dword(TSS2 + 0x54, 0x78).gdt(0x78, descriptor(0, 0xf_ffff, 0x13, FLAT32)),
        Vector::NP, 0x78);

    /// A bad LDT is #TS(selector) (SDM 3A table 7-1).
    bad_local_table: in_new_task(jump().dword(TSS2 + 0x60, KDATA.into()), Vector::TS, KDATA.into());

    /// The LDT is switched before the segments are loaded (SDM 3A 7.3).
    local_table: jump().dword(TSS2 + 0x60, LDT_SELECTOR.into()).dword(TSS2 + 0x5c, 0x0c)
        .patch(|s| s.ldtr = x86::Segment::null(x86::Selector(0)))
        .qword(LDT + 8, descriptor(0x4444, 0xfff, WRITABLE, SMALL32))
        .item("LDTR", |s| s.ldtr.selector.0.into(), LDT_SELECTOR.into())
        .segment(SegmentName::Gs, 0x0c, 0x4444, 0xfff, 0x4093);

    /// The T flag raises #DB before the new task's first instruction (SDM 3A
    /// 7.2.1).
    trap_flag: jump().dword(TSS2 + 0x64, 0x68 << 16 | 1).event_at(Vector::DB, None, 0x9000)
        .masked_item("DR6", |s| s.dr6.bits(), 0xe00f, Dr6::BT.bits());

    /// A switch clears the local breakpoint enables (SDM 3A 7.3).
    local_breakpoints: jump().patch(|s| {
        s.dr = [0xe000; 4];
        s.dr7 = x86::Dr7::from_bits_retain(0x4ff);
    }).masked_item("DR7", |s| s.dr7.bits(), 0xff, 0xaa);

    /// CR3 comes from the new TSS when paging is on (SDM 3A 7.3).
    page_directory: jump().paged().dword(TSS2 + 0x1c, SPARE_TABLE as u32).dword(SPARE_TABLE, (PT | TABLE) as u32)
        .item("CR3", |s| s.cr3, SPARE_TABLE);

    /// To a ring-3 task: CPL is the RPL of its CS (SDM 3A 7.3).
    user_task: jump().dword(TSS2 + 0x4c, UCODE32.into()).dword(TSS2 + 0x50, UDATA.into())
        .dword(TSS2 + 0x48, UDATA.into()).dword(TSS2 + 0x54, UDATA.into()).dword(TSS2 + 0x58, 0).dword(TSS2 + 0x5c, 0)
        .marked_code(code32!(at 0x9000; "7: cli")).fault(Vector::GP, 0).pushed_cs(UCODE32)
        .reg(Rsp, OTHER_STACK - 24);

    /// To a virtual-8086 task (SDM 3B 21.2.5).
    virtual_8086_task: jump().dword(TSS2 + 0x24, 0x2_3002).dword(TSS2 + 0x20, 0).dword(TSS2 + 0x4c, 0x900)
        .dword(TSS2 + 0x50, 0x700).dword(TSS2 + 0x38, 0x100).dword(TSS2 + 0x54, 0xd00)
        .code(code16!(at 0x9000; "mov bx, [0]; ud2")).data(0x5555).event_at(Vector::UD, None, 4)
        .reg_masked(Rbx, 0xffff, 0x5555).pushed_flags(Rflags::VM, Rflags::VM);

    /// A 16-bit TSS saves and loads words (SDM 3A 7.6).
    sixteen_bit_task: protected32(code32!("
        mov ebx, 0x11112222
        farjmp 0x70, 0
    ")).gdt(FREE, descriptor(TSS2 as u32, 0x2b, 0x81, 0)).bytes(TSS2 + 0x0e, &[0x00, 0x90, 3, 0, 0xa0, 0, 0xa1, 0, 0xa2, 0,
        0xa3, 0, 0x00, 0x78, 0xa5, 0, 0xa6, 0, 0xa7, 0, 0x10, 0, 0x08, 0, 0x10, 0, 0x10, 0])
        .code(code32!(at 0x9000; "out 0xf4, al")).reg_masked(Rax, 0xffff, 0xa0).reg_masked(Rdi, 0xffff, 0xa7)
        .reg_masked(Rsp, 0xffff, OTHER_STACK).memory(GDT + 0x75, &[0x83]).mem32(TSS + 0x34, 0x1111_2222);
}
