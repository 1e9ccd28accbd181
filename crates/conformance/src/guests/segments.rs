//! Segment loads, limits and types in protected mode (SDM 3A 5.3 to 5.7).

use x86::{Gpr::*, SegmentName, Vector};

use crate::asm::{code16, code32};
use crate::env::{protected16, protected32, user32};
use crate::guest::{Guest, guests};
use crate::layout::*;

/// Loads DS with selector 70h, which holds `raw`.
fn load_ds(raw: u64) -> Guest {
    protected32(code32!(
        "
        mov eax, 0x70
     7: mov ds, eax
        out 0xf4, al
    "
    ))
    .gdt(FREE, raw)
}

/// The same in ring 3, with RPL 3; a good load ends with UD2.
fn user_load_ds(raw: u64) -> Guest {
    user32(code32!(
        "
        mov eax, 0x73
     7: mov ds, eax
        ud2
    "
    ))
    .gdt(FREE, raw)
}

/// Loads SS with selector 70h.
fn load_ss(raw: u64) -> Guest {
    protected32(code32!(
        "
        mov eax, 0x70
     7: mov ss, eax
        out 0xf4, al
    "
    ))
    .gdt(FREE, raw)
}

/// Reads a byte through FS, which holds `raw`, at the offset in EBX.
fn read_fs(raw: u64, offset: u64) -> Guest {
    protected32(code32!(
        "
        mov eax, 0x70
        mov fs, eax
     7: mov al, fs:[ebx]
        out 0xf4, al
    "
    ))
    .gdt(FREE, raw)
    .with(Rbx, offset)
}

guests! { "segments";
    /// Base, limit and attributes come from the descriptor (SDM 3A 3.4.5).
    load_data: load_ds(descriptor(0x12_3450, 0x4_5678, WRITABLE, SMALL32))
        .segment(SegmentName::Ds, 0x70, 0x12_3450, 0x4_5678, 0x4093);

    /// Loading sets the accessed bit in the table (SDM 3A 3.4.5.1).
    accessed_bit: load_ds(descriptor(0, 0xffff, 0x92, SMALL32))
        .memory(GDT + 0x75, &[0x93])
        .segment(SegmentName::Ds, 0x70, 0, 0xffff, 0x4093);

    /// The granularity bit scales the limit (SDM 3A 5.3).
    granularity: load_ds(descriptor(0, 0x12, WRITABLE, FLAT32))
        .segment(SegmentName::Ds, 0x70, 0, 0x1_2fff, 0xc093);

    /// A readable code segment may go to DS (SDM 3A 5.5).
    load_readable_code: load_ds(descriptor(0, 0xffff, 0x9b, SMALL32)).segment(SegmentName::Ds, 0x70, 0, 0xffff, 0x409b);

    /// An execute-only code segment may not: #GP(selector) (SDM 2B, MOV).
    load_execute_only: load_ds(descriptor(0, 0xffff, 0x99, SMALL32)).fault(Vector::GP, 0x70);

    /// Nor may a system segment (SDM 2B, MOV).
    load_system_segment: load_ds(descriptor(0, 0xffff, 0x82, 0)).fault(Vector::GP, 0x70);

    /// A segment that is not present is #NP(selector) (SDM 2B, MOV).
    load_absent: load_ds(descriptor(0, 0xffff, 0x13, SMALL32)).fault(Vector::NP, 0x70);

    /// The type is checked before presence (SDM 2B, MOV).
    load_absent_execute_only: load_ds(descriptor(0, 0xffff, 0x19, SMALL32)).fault(Vector::GP, 0x70);

    /// A selector beyond the GDT's limit is #GP(selector) (SDM 2B, MOV).
    load_beyond_gdt: protected32(code32!("
        mov eax, 0x100
     7: mov ds, eax
    ")).fault(Vector::GP, 0x100);

    /// A selector beyond the LDT's limit carries the TI bit in the code.
    load_beyond_ldt: protected32(code32!("
        mov eax, 0x107
     7: mov es, eax
    ")).fault(Vector::GP, 0x104);

    /// A descriptor from the LDT (SDM 3A 3.5.1).
    load_from_ldt: protected32(code32!("
        mov eax, 0x0c
        mov gs, eax
        out 0xf4, al
    ")).qword(LDT + 8, descriptor(0x5000, 0xfff, WRITABLE, SMALL32))
        .segment(SegmentName::Gs, 0x0c, 0x5000, 0xfff, 0x4093);

    /// With a null LDTR every LDT selector is #GP (SDM 3A 3.5.1).
    load_from_null_ldt: protected32(code32!("
        xor eax, eax
        lldt ax
        mov eax, 0x0c
     7: mov gs, eax
    ")).fault(Vector::GP, 0x0c);

    /// A null selector may be loaded (SDM 3A 5.4.1).
    load_null: protected32(code32!("
        mov eax, 3
        mov ds, eax
        mov eax, ds
        out 0xf4, al
    ")).reg(Rax, 3);

    /// Its use is #GP(0) (SDM 3A 5.4.1).
    use_null: protected32(code32!("
        xor eax, eax
        mov ds, eax
     7: mov eax, [0xd000]
    ")).fault(Vector::GP, 0);

    /// A null selector may not go to SS (SDM 2B, MOV).
    load_null_ss: protected32(code32!("
        xor eax, eax
     7: mov ss, eax
    ")).fault(Vector::GP, 0);

    /// MOV to CS is #UD (SDM 2B, MOV).
    move_to_cs: protected32(code32!("
        mov eax, 8
     7: .byte 0x8e, 0xc8
    ")).event(Vector::UD);

    /// SS needs a writable segment: #GP(selector) (SDM 2B, MOV).
    load_ss_read_only: load_ss(descriptor(0, 0xffff, 0x91, SMALL32)).fault(Vector::GP, 0x70);

    /// SS needs DPL = CPL (SDM 2B, MOV).
    load_ss_wrong_dpl: load_ss(descriptor(0, 0xffff, WRITABLE | DPL3, SMALL32)).fault(Vector::GP, 0x70);

    /// SS needs RPL = CPL (SDM 2B, MOV).
    load_ss_wrong_rpl: protected32(code32!("
        mov eax, 0x73
     7: mov ss, eax
    ")).gdt(FREE, descriptor(0, 0xffff, WRITABLE, SMALL32)).fault(Vector::GP, 0x70);

    /// An absent stack segment is #SS(selector) (SDM 2B, MOV).
    load_ss_absent: load_ss(descriptor(0, 0xffff, 0x13, SMALL32)).fault(Vector::SS, 0x70);

    /// A 16-bit stack segment makes pushes use SP (SDM 3A 6.12).
    small_stack_uses_sp: protected32(code32!("
        mov eax, 0x40
        mov ss, eax
        mov esp, 0x12340000
        push 0x55667788
        mov ebx, esp
        out 0xf4, al
    ")).reg(Rbx, 0x1234_fffc).mem32(0xfffc, 0x5566_7788);

    /// Ring 3 may not load a segment of DPL 0 (SDM 3A 5.5).
    user_load_kernel_data: user_load_ds(descriptor(0, 0xffff, WRITABLE, SMALL32)).fault(Vector::GP, 0x70);

    /// Ring 3 may load conforming code of DPL 0 as data (SDM 3A 5.5.1).
    user_load_conforming_code: user_load_ds(descriptor(0, 0xffff, 0x9f, SMALL32))
        .event_at(Vector::UD, None, MAIN + 7).segment(SegmentName::Ds, 0x73, 0, 0xffff, 0x409f);

    /// A weaker RPL counts like a weaker CPL (SDM 3A 5.5).
    rpl_weakens: protected32(code32!("
        mov eax, 0x73
     7: mov ds, eax
    ")).gdt(FREE, descriptor(0, 0xffff, WRITABLE, SMALL32)).fault(Vector::GP, 0x70);

    /// The last byte within the limit can be read (SDM 3A 5.3).
    last_byte_of_segment: read_fs(descriptor(DATA as u32, 0xfff, WRITABLE, SMALL32), 0xfff)
        .bytes(DATA + 0xfff, &[0x42]).reg_masked(Rax, 0xff, 0x42);

    /// The next is #GP(0) (SDM 3A 5.3).
    beyond_limit: read_fs(descriptor(DATA as u32, 0xfff, WRITABLE, SMALL32), 0x1000).fault(Vector::GP, 0);

    /// An expand-down segment starts above its limit (SDM 3A 5.3).
    expand_down_inside: read_fs(descriptor(0, 0xcfff, 0x97, SMALL32), DATA).data(0x33).reg_masked(Rax, 0xff, 0x33);

    /// At the limit it is #GP(0) (SDM 3A 5.3).
    expand_down_at_limit: read_fs(descriptor(0, 0xd000, 0x97, SMALL32), DATA).fault(Vector::GP, 0);

    /// With B = 0 it ends at FFFFh (SDM 3A 5.3).
    expand_down_small_end: read_fs(descriptor(0, 0x0fff, 0x97, SMALL16), 0x1_0000).fault(Vector::GP, 0);

    /// A doubleword that straddles the limit faults as a whole (SDM 3A 5.3).
    straddling_the_limit: protected32(code32!("
        mov eax, 0x70
        mov fs, eax
        mov eax, 0x11223344
     7: mov fs:[0x0ffd], eax
    ")).gdt(FREE, descriptor(DATA as u32, 0xfff, WRITABLE, SMALL32))
        .fault(Vector::GP, 0).mem32(DATA + 0xffd, 0);

    /// Writing a read-only segment is #GP(0) (SDM 3A 5.5).
    write_read_only: protected32(code32!("
        mov eax, 0x70
        mov fs, eax
     7: mov fs:[ebx], al
    ")).gdt(FREE, descriptor(0, 0xffff, 0x91, SMALL32)).with(Rbx, DATA).fault(Vector::GP, 0);

    /// Writing through CS is #GP(0) (SDM 3A 5.5).
    write_code: protected32(code32!("7: mov cs:[0xd000], al")).fault(Vector::GP, 0);

    /// Reading an execute-only CS is #GP(0) (SDM 3A 5.5).
    read_execute_only: protected32(code32!("farjmp 0x70, 0x9000"))
        .gdt(FREE, descriptor(0, 0xf_ffff, 0x99, FLAT32))
        .marked_code(code32!(at 0x9000; "7: mov al, cs:[0xd000]")).fault(Vector::GP, 0);

    /// A stack access beyond the limit is #SS(0) (SDM 3A 6.15, interrupt 12);
    /// the handler runs on another stack here, because it is in ring 0.
    stack_limit: user32(code32!("
        mov eax, 0x73
        mov ss, eax
        mov esp, 0x2000
        push eax
        mov esp, 0x2008
     7: push eax
    ")).gdt(FREE, descriptor(DATA as u32, 0x1fff, WRITABLE | DPL3, SMALL32)).fault(Vector::SS, 0)
        .mem32(DATA + 0x1ffc, 0x73).reg_masked(Rax, 0xff, 0x73);

    /// EBP addresses use SS by default, and its faults (SDM 1 3.7.4).
    ebp_uses_ss: protected32(code32!("
        mov eax, 0x40
        mov ss, eax
        mov ebp, 0x10000
     7: mov al, [ebp]
    ")).fault(Vector::SS, 0);

    /// Execution beyond the code segment's limit is #GP(0) (SDM 3A 5.3).
    fetch_beyond_limit: protected32(code32!("farjmp 0x70, 0x0ffe"))
        .gdt(FREE, descriptor(0x9000, 0xfff, CODE, SMALL32))
        .bytes(0x9ffe, &[0x90, 0x90]).event_at(Vector::GP, Some(0), 0x1000).pushed_cs(0x70);

    /// A jump beyond the limit faults at the jump (SDM 2A, JMP).
    jump_beyond_limit: protected32(code32!("farjmp 0x70, 0x0f00"))
        .gdt(FREE, descriptor(0x9000, 0xfff, CODE, SMALL32))
        .bytes(0x9f00, &[0x90, 0xe9, 0xfb, 0x0f, 0, 0]).event_at(Vector::GP, Some(0), 0xf01);

    /// LDS with a bad selector changes neither register (SDM 2A, LDS).
    lds_faults_before_writing: protected32(code32!("
        mov ebx, 0x1111
     7: lds ebx, [0xd000]
    ")).dword(DATA, 0x2222).word(DATA + 4, 0x100).fault(Vector::GP, 0x100).reg(Rbx, 0x1111);

    /// POP into a segment register: the fault leaves ESP alone (SDM 2B, POP).
    pop_segment_fault: protected32(code32!("
        push 0x100
     7: .byte 0x07
    ")).fault(Vector::GP, 0x100).reg(Rsp, STACK - 4 - 16);

    /// PUSH of a segment register moves ESP by four, POP takes 16 bits of it
    /// (SDM 2B, PUSH).
    push_segment: protected32(code32!("
        .byte 0x1e
        mov ebx, esp
        mov ax, [esp]
        .byte 0x07
        out 0xf4, al
    ")).reg(Rbx, STACK - 4).reg_masked(Rax, 0xffff, KDATA.into()).reg(Rsp, STACK);

    /// 16-bit code: operand-size and address-size prefixes reach 32 bits
    /// (SDM 1 3.6).
    sixteen_bit_code: protected16(code16!("
        mov ax, 0x10
        mov ds, ax
        mov esi, 0x123450
        mov eax, [esi]
        out 0xf4, al
    ")).dword(0x12_3450, 0x8899_aabb).reg(Rax, 0x8899_aabb);

    /// LLDT wants an LDT descriptor: #GP(selector) (SDM 2A, LLDT).
    lldt_wrong_type: protected32(code32!("
        mov eax, 0x10
     7: lldt ax
    ")).fault(Vector::GP, 0x10);

    /// An absent LDT is #NP(selector) (SDM 2A, LLDT).
    lldt_absent: protected32(code32!("
        mov eax, 0x70
     7: lldt ax
    ")).gdt(FREE, descriptor(LDT as u32, 0xff, 0x02, 0)).fault(Vector::NP, 0x70);

    /// LLDT loads base and limit (SDM 2A, LLDT).
    lldt: protected32(code32!("
        mov eax, 0x70
        lldt ax
        sldt ebx
        out 0xf4, al
    ")).gdt(FREE, descriptor(0x3900, 0x1f, 0x82, 0)).reg(Rbx, 0x70)
        .item("LDTR.base", |s| s.ldtr.base, 0x3900).item("LDTR.limit", |s| s.ldtr.limit.into(), 0x1f);

    /// LTR of a busy TSS is #GP(selector) (SDM 2A, LTR).
    ltr_busy: protected32(code32!("
        mov eax, 0x50
     7: ltr ax
    ")).fault(Vector::GP, 0x50);

    /// LTR of a null selector is #GP(0) (SDM 2A, LTR).
    ltr_null: protected32(code32!("
        xor eax, eax
     7: ltr ax
    ")).fault(Vector::GP, 0);

    /// LTR of an absent TSS is #NP(selector) (SDM 2A, LTR).
    ltr_absent: protected32(code32!("
        mov eax, 0x70
     7: ltr ax
    ")).gdt(FREE, descriptor(TSS2 as u32, 0x67, 0x09, 0)).fault(Vector::NP, 0x70);

    /// LTR marks the TSS busy (SDM 2A, LTR).
    ltr: protected32(code32!("
        mov eax, 0x70
        ltr ax
        str ebx
        out 0xf4, al
    ")).gdt(FREE, descriptor(TSS2 as u32, 0x67, 0x89, 0)).reg(Rbx, 0x70)
        .memory(GDT + 0x75, &[0x8b]).item("TR.base", |s| s.tr.base, TSS2);

    /// ENTER with nesting copies frame pointers, LEAVE undoes it (SDM 2A,
    /// ENTER).
    enter_nested: protected32(code32!("
        mov ebp, 0x5800
        mov dword ptr [0x57fc], 0xaaaa
        mov dword ptr [0x57f8], 0xbbbb
        enter 0x10, 3
        mov ebx, esp
        mov ecx, ebp
        leave
        out 0xf4, al
    ")).reg(Rbx, STACK - 32).reg(Rcx, STACK - 4).reg(Rbp, 0x5800).reg(Rsp, STACK)
        .mem32(STACK - 4, 0x5800).mem32(STACK - 8, 0xaaaa).mem32(STACK - 12, 0xbbbb)
        .mem32(STACK - 16, STACK as u32 - 4);
}
