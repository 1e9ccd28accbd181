//! Delivery of interrupts and exceptions: gates, stack switches, error codes,
//! double and triple faults (SDM 3A 6.12 to 6.15).

use x86::{DescriptorTable, Gpr::*, Rflags, Vector};

use crate::asm::{code32, code64};
use crate::env::{compatibility, long64, protected32, user32, user64};
use crate::expect::FrameItem;
use crate::guest::{Guest, guests};
use crate::layout::*;

/// `INT 40h` in ring 0.
fn int40() -> Guest {
    protected32(code32!(
        "
     7: int 0x40
    "
    ))
}

/// `INT 40h` in ring 3; #TS and #SS are handled in ring 3, without another
/// stack switch.
fn user_int40() -> Guest {
    user32(code32!(
        "
     7: int 0x40
    "
    ))
    .iopl(3)
    .gate_selector(10, UCODE32)
    .gate_selector(12, UCODE32)
}

/// UD2 in ring 0.
fn ud2() -> Guest {
    protected32(code32!("7: ud2"))
}

/// #GP(0) in 64-bit mode by a non-canonical load.
fn gp64() -> Guest {
    long64(code64!(
        "
        mov rbx, 0x800000000000
     7: mov eax, [rbx]
    "
    ))
}

fn limit_idt(guest: Guest, limit: u16) -> Guest {
    guest.patch(|s| s.idtr = DescriptorTable { base: IDT, limit })
}

guests! { "delivery";
    /// An interrupt gate clears IF; the frame keeps it (SDM 3A 6.12.1.3).
    interrupt_gate: protected32(code32!("
        sti
        int 0x40
     7: nop
    ")).event(Vector(0x40)).flags(Rflags::IF, Rflags::empty()).pushed_flags(Rflags::IF, Rflags::IF)
        .pushed_cs(KCODE).reg(Rsp, STACK - 12);

    /// A trap gate does not (SDM 3A 6.12.1.3).
    trap_gate: protected32(code32!("
        sti
        int 0x40
     7: nop
    ")).gate_access(0x40, 0xef).event(Vector(0x40)).flags(Rflags::IF, Rflags::IF);

    /// Delivery clears TF, NT, RF and VM (SDM 3A 6.12.1).
    flags_are_cleared: protected32(code32!("
        int 0x40
     7: nop
    ")).with_flags(Rflags::NT | Rflags::AC | Rflags::DF).event(Vector(0x40))
        .flags(Rflags::NT | Rflags::AC | Rflags::DF, Rflags::AC | Rflags::DF)
        .pushed_flags(Rflags::NT, Rflags::NT);

    /// A 16-bit gate pushes words (SDM 3A 6.12.1).
    sixteen_bit_gate: protected32(code32!("
        int 0x40
     7: nop
    ")).gate_access(0x40, 0xe6).event_anywhere(Vector(0x40), None).reg(Rsp, STACK - 6)
        .mem16(STACK - 6, 0x8002).mem16(STACK - 4, KCODE);

    /// INT n needs a gate DPL of at least CPL: #GP(vector * 8 + 2) (SDM 3A
    /// 6.12.1.2).
    gate_privilege: user32(code32!("7: int 0x20")).gate_access(0x20, 0x8e).fault(Vector::GP, 0x20 * 8 + 2);

    /// An absent gate is #NP (SDM 3A 6.15, interrupt 11).
    absent_gate: int40().gate_access(0x40, 0x6e).fault(Vector::NP, 0x40 * 8 + 2);

    /// A vector beyond the table's limit is #GP (SDM 3A 6.15, interrupt 13).
    beyond_idt: limit_idt(int40(), 0x40 * 8 - 1).fault(Vector::GP, 0x40 * 8 + 2);

    /// A gate that only partly fits is beyond the limit.
    partly_beyond_idt: limit_idt(int40(), 0x40 * 8 + 6).fault(Vector::GP, 0x40 * 8 + 2);

    /// A call gate in the IDT is #GP (SDM 3A 6.11).
    wrong_gate_type: int40().gate_access(0x40, 0xec).fault(Vector::GP, 0x40 * 8 + 2);

    /// A null selector in the gate is #GP(0) (SDM 2A, INT n).
    null_selector_in_gate: int40().gate_selector(0x40, 0).fault(Vector::GP, 0);

    /// A data segment in the gate is #GP(selector) (SDM 2A, INT n).
    data_selector_in_gate: int40().gate_selector(0x40, KDATA).fault(Vector::GP, KDATA.into());

    /// A selector beyond the GDT is #GP(selector) (SDM 2A, INT n).
    selector_beyond_gdt: int40().gate_selector(0x40, 0x200).fault(Vector::GP, 0x200);

    /// An absent code segment is #NP(selector) (SDM 2A, INT n).
    absent_code_segment: int40().gate_selector(0x40, FREE).gdt(FREE, descriptor(0, 0xf_ffff, 0x1b, FLAT32))
        .fault(Vector::NP, FREE.into());

    /// A handler of an outer ring is #GP(selector) (SDM 3A 6.12.1.1).
    outer_handler: int40().gate_selector(0x40, UCODE32).fault(Vector::GP, (UCODE32 & !3).into());

    /// A handler beyond its segment's limit is #GP(0) (SDM 2A, INT n).
    handler_beyond_limit: int40().gate_selector(0x40, FREE).gdt(FREE, descriptor(0, 0xff, CODE, SMALL32))
        .fault(Vector::GP, 0);

    /// While an exception is delivered, codes carry the EXT bit (SDM 3A 6.13).
    external_bit: ud2().gate_access(6, 0x0e).fault(Vector::NP, 6 * 8 + 3);

    /// The EXT bit with a selector (SDM 3A 6.13).
    external_bit_with_selector: ud2().gate_selector(6, KDATA).fault(Vector::GP, u32::from(KDATA) | 1);

    /// INT3 and INTO are software interrupts: no EXT bit (SDM 3A 6.13).
    breakpoint_has_no_external_bit: protected32(code32!("7: int3")).gate_access(3, 0x6e).fault(Vector::NP, 3 * 8 + 2);

    /// INT3 through its DPL-3 gate: the saved EIP is behind it (SDM 3A 6.15,
    /// interrupt 3).
    breakpoint: user32(code32!("int3; 7: nop")).event(Vector::BP);

    /// INT 3 in its two-byte form is an ordinary INT n (SDM 2A, INT n).
    two_byte_breakpoint: user32(code32!("7: .byte 0xcd, 3")).gate_access(3, 0x8e).fault(Vector::GP, 3 * 8 + 2);

    /// INT n pushes no error code, whatever the vector (SDM 3A 6.3.3).
    software_general_protection: protected32(code32!("
        int 13
     7: nop
    ")).event(Vector::GP).reg(Rsp, STACK - 12);

    /// From ring 3, SS0:ESP0 are loaded and the outer ones pushed (SDM 3A
    /// 6.12.1).
    stack_switch: user32(code32!("7: ud2")).event(Vector::UD).pushed_cs(UCODE32)
        .pushed(FrameItem::Sp, u64::MAX, USER_STACK).pushed(FrameItem::Ss, 0xffff, UDATA.into())
        .reg(Rsp, RING0_STACK - 20).cs(KCODE);

    /// A conforming handler runs in ring 3 on the same stack (SDM 3A 6.12.1).
    conforming_handler: user32(code32!("7: ud2")).iopl(3).gate_selector(6, FREE)
        .gdt(FREE, descriptor(0, 0xf_ffff, 0x9f, FLAT32)).event(Vector::UD).reg(Rsp, USER_STACK - 12)
        .cs(FREE | 3);

    /// SS0 null: #TS (SDM 3A 6.15, interrupt 10).
    null_inner_stack: user_int40().tss(8, 0).fault(Vector::TS, 0);

    /// SS0 of another DPL: #TS(selector) (SDM 3A 6.15, interrupt 10).
    inner_stack_privilege: user_int40().tss(8, (UDATA & !3).into()).fault(Vector::TS, (UDATA & !3).into());

    /// SS0 not writable: #TS(selector) (SDM 3A 6.15, interrupt 10).
    inner_stack_read_only: user_int40().tss(8, FREE.into()).gdt(FREE, descriptor(0, 0xf_ffff, 0x91, FLAT32))
        .fault(Vector::TS, FREE.into());

    /// SS0 absent: #SS(selector) (SDM 3A 6.15, interrupt 12).
    inner_stack_absent: user_int40().tss(8, FREE.into()).gdt(FREE, descriptor(0, 0xf_ffff, 0x13, FLAT32))
        .fault(Vector::SS, FREE.into());

    /// A TSS too small for SS0:ESP0: #TS(TSS selector) (SDM 3A 6.15, interrupt
    /// 10).
    task_segment_too_small: user_int40().patch(|s| s.tr.limit = 7).fault(Vector::TS, TSS_SELECTOR.into());

    /// No room on the inner stack: #SS with the stack's selector (SDM 2A,
    /// INT n).
    inner_stack_limit: user_int40().tss(8, FREE.into()).tss(4, 4)
        .gdt(FREE, descriptor(DATA as u32, 0xfff, WRITABLE, SMALL32)).fault(Vector::SS, FREE.into());

    /// Two contributory exceptions make a double fault with code 0 (SDM 3A
    /// table 6-5).
    double_fault: protected32(code32!("
        xor eax, eax
        mov ds, eax
        mov eax, [0xd000]
    ")).gate_access(13, 0x0e).event_anywhere(Vector::DF, Some(0));

    /// After a benign exception they are delivered in turn (SDM 3A table 6-5).
    benign_then_contributory: ud2().gate_selector(6, 0x200).fault(Vector::GP, 0x201);

    /// Page fault, then a contributory exception: a double fault (SDM 3A table
    /// 6-5).
    page_fault_then_contributory: long64(code64!("mov eax, [0xe000]")).page(0xe000, 0).gate_access(14, 0x0e)
        .event_anywhere(Vector::DF, Some(0)).item("CR2", |s| s.cr2, 0xe000);

    /// Contributory exception, then a page fault: the page fault is delivered
    /// (SDM 3A table 6-5).
    contributory_then_page_fault: gp64().bytes(IDT + 13 * 16 + 4, &[1]).qword(TSS + 0x24, 0xf000)
        .page(0xe000, 0).page_fault(2, 0xeff8);

    /// Page fault, then a page fault: a double fault (SDM 3A table 6-5).
    page_fault_twice: long64(code64!("mov eax, [0xe000]")).bytes(IDT + 14 * 16 + 4, &[1])
        .qword(TSS + 0x24, 0xf000).page(0xe000, 0).event_anywhere(Vector::DF, Some(0));

    /// A fault while the double fault is delivered is shutdown (SDM 3A 6.15,
    /// interrupt 8).
    triple_fault: ud2().gate_access(6, 0x0e).gate_access(11, 0x0e).gate_access(8, 0x0e).triple_fault();

    /// With an empty IDT the first exception is shutdown.
    empty_idt: limit_idt(ud2(), 0).triple_fault();

    /// In IA-32e mode SS and RSP are always pushed, on a stack aligned to 16
    /// (SDM 3A 6.14.2).
    long_frame: long64(code64!("
        mov rsp, 0x5ffb
     7: ud2
    ")).event(Vector::UD).reg(Rsp, 0x5ff0 - 40).pushed(FrameItem::Sp, u64::MAX, 0x5ffb)
        .pushed(FrameItem::Ss, u64::MAX, KDATA.into()).pushed_cs(KCODE);

    /// From ring 3, SS becomes a null selector with RPL 0 (SDM 3A 6.14.2).
    long_stack_switch: user64(code64!("7: ud2")).event(Vector::UD).reg(Rsp, RING0_STACK - 40)
        .pushed(FrameItem::Ss, u64::MAX, UDATA.into()).pushed(FrameItem::Sp, u64::MAX, USER_STACK)
        .item("SS", |s| s.segments[2].selector.0.into(), 0).cs(KCODE);

    /// From compatibility mode (SDM 3A 6.14.2).
    compatibility_stack_switch: compatibility(code32!("7: ud2")).event(Vector::UD).pushed_cs(UCODE32)
        .pushed(FrameItem::Sp, u64::MAX, USER_STACK);

    /// The interrupt stack table (SDM 3A 6.14.5).
    interrupt_stack_table: long64(code64!("7: ud2")).bytes(IDT + 6 * 16 + 4, &[1]).event(Vector::UD)
        .reg(Rsp, OTHER_STACK - 40).pushed(FrameItem::Sp, u64::MAX, STACK);

    /// A gate to a 32-bit code segment is #GP in IA-32e mode (SDM 3A 6.14.1).
    long_gate_to_compatibility: long64(code64!("7: int 0x40")).gate_selector(0x40, KCODE32)
        .fault(Vector::GP, KCODE32.into());

    /// 16-bit gates do not exist in IA-32e mode (SDM 3A 6.14.1).
    long_sixteen_bit_gate: long64(code64!("7: int 0x40")).gate_access(0x40, 0xe6)
        .fault(Vector::GP, 0x40 * 8 + 2);

    /// Task gates do not exist in IA-32e mode (SDM 3A 7.7).
    long_task_gate: long64(code64!("7: int 0x40")).gate_access(0x40, 0xe5).fault(Vector::GP, 0x40 * 8 + 2);

    /// A non-canonical RSP0 is #SS(0) (SDM 3A 6.15, interrupt 12).
    long_non_canonical_stack: user64(code64!("7: ud2")).qword(TSS + 4, 0x8000_0000_0000)
        .bytes(IDT + 12 * 16 + 4, &[1]).event_anywhere(Vector::SS, None);

    /// INTO, BOUND, PUSHA and far pointers do not exist in 64-bit mode (SDM 2A
    /// 2.2.1).
    invalid_in_64_bit_mode: long64(code64!("
        mov ebx, 0xd000
        .byte 0xce
        .byte 0x60
        .byte 0x61
        .byte 0x06
        .byte 0x27
        .byte 0x2f
        .byte 0x37
        .byte 0xd6
        out 0xf4, al
    ")).handler(6, code64!(at 0xa000; "
            mov eax, [rsp]
            out 0xe0, eax
            inc qword ptr [rsp]
            iretq
        ")).reports(&[0x8005, 0x8006, 0x8007, 0x8008, 0x8009, 0x800a, 0x800b, 0x800c]);

    /// An external interrupt is delivered before the next instruction when IF
    /// is set (SDM 3A 6.8.1).
    external_interrupt: protected32(code32!("
        sti
        nop
        mov al, 0x31
        out 0xf5, al
     7: nop
        nop
        jmp 7b
    ")).event_anywhere(Vector(0x31), None).pushed_flags(Rflags::IF, Rflags::IF);

    /// With IF clear it waits (SDM 3A 6.8.1).
    masked_interrupt: protected32(code32!("
        mov al, 0x31
        out 0xf5, al
        jmp 2f
     2: mov ecx, 100
     3: loop 3b
        out 0xf4, al
    ")).reg(Rcx, 0);

    /// An interrupt's error codes carry EXT (SDM 3A 6.13).
    external_interrupt_without_gate: protected32(code32!("
        sti
        nop
        mov al, 0x31
        out 0xf5, al
     2: jmp 2b
    ")).gate_access(0x31, 0x0e).event_anywhere(Vector::NP, Some(0x31 * 8 + 3));

    /// An NMI does not ask for IF (SDM 3A 6.7).
    non_maskable: protected32(code32!("
        out 0xf7, al
     2: jmp 2b
    ")).event_anywhere(Vector::NMI, None).item("NMI blocked", |s| s.nmi_blocked.into(), 1);

    /// A second NMI waits for IRET (SDM 3A 6.7.1).
    nmi_blocking: protected32(code32!("
        xor ebx, ebx
        out 0xf7, al
     2: cmp ebx, 2
        jne 2b
        out 0xf4, al
    ")).handler(2, code32!(at 0xa000; "
        inc ebx
        mov eax, ebx
        out 0xe0, eax
        cmp ebx, 1
        jne 2f
        out 0xf7, al
        jmp 3f
     3: mov al, 0x10
        out 0xe0, eax
     2: iretd
    ")).reports(&[1, 0x10, 2]);

    /// HLT resumes with the instruction behind it (SDM 2A, HLT).
    halt_and_wake: protected32(code32!("
        mov al, 0x31
        out 0xf5, al
        sti
        hlt
     7: nop
    ")).event(Vector(0x31));

    /// HLT with interrupts off stays for good.
    halt_for_good: protected32(code32!("cli; hlt")).halts().item("RIP", |s| s.rip, MAIN + 2);

    /// An NMI ends HLT with interrupts off (SDM 2A, HLT).
    halt_and_nmi: protected32(code32!("
        mov ecx, 1
        out 0xf7, al
        jmp 2f
     2: jecxz 3f
        hlt
     3: out 0xf4, al
    ")).handler(2, code32!(at 0xa000; "
        xor ecx, ecx
        iretd
    ")).reg(Rcx, 0);

    /// The highest-priority fault wins: #GP for the limit before #PF (SDM 3A
    /// table 6-2).
    limit_before_page: protected32(code32!("
        mov eax, 0x70
        mov fs, eax
     7: mov eax, fs:[0x2000]
    ")).gdt(FREE, descriptor(0xc000, 0x1fff, WRITABLE, SMALL32)).paged().page(0xe000, 0).fault(Vector::GP, 0);
}
