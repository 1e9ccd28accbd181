//! Real-address mode (SDM 3B 21.1).

use x86::{Gpr::*, Rflags, SegmentName, Vector};

use crate::asm::{code16, code32};
use crate::env::real;
use crate::guest::guests;
use crate::layout::*;

guests! { "real";
    /// Result and flags of an addition that overflows (SDM 2A, ADD).
    arithmetic: real(code16!("
        mov ax, 0x7fff
        add ax, 1
        out 0xf4, al
    ")).reg(Rax, 0x8000).flags(Rflags::ARITHMETIC, Rflags::OF | Rflags::SF | Rflags::PF | Rflags::AF);

    /// A segment's base is its selector times 16 (SDM 3B 21.1.1).
    segment_base: real(code16!("
        mov ax, 0xcff
        mov ds, ax
        mov bx, [0x10]
        out 0xf4, al
    ")).data(0x1234).reg(Rbx, 0x1234).segment(SegmentName::Ds, 0xcff, 0xcff0, 0xffff, 0x93);

    /// Addresses reach past 1 MiB: nothing wraps at the A20 line (SDM 3B 21.1.1).
    above_one_mebibyte: real(code16!("
        mov ax, 0xffff
        mov ds, ax
        mov bx, [0x10]
        out 0xf4, al
    ")).word(0x10_0000, 0xbeef).reg(Rbx, 0xbeef);

    /// A word at offset FFFFh crosses the limit: #GP (SDM 3B 21.1.1).
    word_at_segment_end: real(code16!("
        mov bx, 0xffff
     7: mov ax, [bx]
    ")).event(Vector::GP);

    /// The same through SS is #SS (SDM 3A 6.15, interrupt 12).
    word_at_stack_segment_end: real(code16!("
        mov bp, 0xffff
     7: mov [bp], ax
    ")).event(Vector::SS);

    /// A byte at offset FFFFh is inside the segment (SDM 3B 21.1.1).
    byte_at_segment_end: real(code16!("
        mov bx, 0xffff
        mov al, [bx]
        out 0xf4, al
    ")).bytes(0xffff, &[0x5a]).reg_masked(Rax, 0xff, 0x5a);

    /// A 32-bit address beyond FFFFh is beyond the limit: #GP (SDM 3B 21.1.1).
    address_beyond_limit: real(code16!("
        mov ebx, 0x10000
     7: mov al, [ebx]
    ")).event(Vector::GP);

    /// Segment limits loaded in protected mode stay in force ("unreal mode")
    /// when only the base is loaded anew (SDM 3A 9.9.2).
    unreal_segments: real(code16!("
        cli
        lgdt [0xd000]
        mov eax, cr0
        or al, 1
        mov cr0, eax
        mov bx, 0x08
        mov ds, bx
        and al, 0xfe
        mov cr0, eax
        mov bx, 0
        mov ds, bx
        mov ebx, 0x123450
        mov ecx, [ebx]
        out 0xf4, al
    ")).bytes(0xd000, &[0x0f, 0, 0, 0x06, 0, 0])
        .gdt(8, descriptor(0, 0xf_ffff, WRITABLE, FLAT32))
        .dword(0x12_3450, 0xfeed_f00d)
        .reg(Rcx, 0xfeed_f00d)
        .segment_base(SegmentName::Ds, 0, 0, u32::MAX);

    /// PUSH with SP = 1 cannot be reported on the same stack: shutdown (SDM
    /// 2B, PUSH).
    push_at_one: real(code16!("
        mov sp, 1
        push ax
    ")).triple_fault();

    /// SP wraps within the segment (SDM 1 6.2.1).
    stack_pointer_wraps: real(code16!("
        mov sp, 0
        mov ax, 0x1234
        push ax
        out 0xf4, al
    ")).reg(Rsp, 0xfffe).mem16(0xfffe, 0x1234);

    /// PUSH SP stores the value from before (SDM 2B, PUSH).
    push_sp: real(code16!("
        push sp
        pop ax
        out 0xf4, al
    ")).reg(Rax, STACK).reg(Rsp, STACK);

    /// INT n pushes FLAGS, CS, IP and clears IF, TF and AC (SDM 3B 21.1.4).
    software_interrupt: real(code16!("
        sti
        stc
        int 0x40
     7: nop
    ")).event(Vector(0x40))
        .reg(Rsp, STACK - 6)
        .flags(Rflags::IF | Rflags::CF, Rflags::CF)
        .pushed_cs(0)
        .pushed_flags(Rflags::IF | Rflags::CF, Rflags::IF | Rflags::CF);

    /// A vector beyond the table's limit is #GP (SDM 3B 21.1.4).
    vector_beyond_limit: real(code16!("
        lidt [0xd000]
     7: int 0x40
    ")).bytes(DATA, &[0xff, 0, 0, 0, 0, 0]).event(Vector::GP);

    /// IRET takes IP, CS and FLAGS of 16 bits from the stack (SDM 2A, IRET).
    iret: real(code16!("
        push 0x0cd5
        push 0x0900
        push 0x0000
        iret
    ")).code(code16!(at 0x9000; "out 0xf4, al"))
        .cs(0x900).reg(Rsp, STACK)
        .flags(Rflags::DEFINED, Rflags::from_bits_retain(0xcd7));

    /// IRET with 32-bit operands (SDM 2A, IRET).
    iretd: real(code16!("
        .byte 0x66, 0x68
        .long 0x40000
        push 0
        push 0x0900
        push 0
        push 0x0010
        iretd
    ")).code(code16!(at 0x9010; "out 0xf4, al"))
        .cs(0x900).reg(Rsp, STACK).flags(Rflags::AC | Rflags::CF, Rflags::AC);

    /// A far jump loads CS with base and selector (SDM 2A, JMP).
    far_jump: real(code16!("
        farjmp 0x0900, 0x0020
    ")).code(code16!(at 0x9020; "out 0xf4, al"))
        .segment_base(SegmentName::Cs, 0x900, 0x9000, 0xffff);

    /// A far call pushes CS and IP; a far return with a count releases the
    /// parameters (SDM 2A, CALL; 2B, RET).
    far_call_and_return: real(code16!("
        push 0x1111
        farcall 0x0900, 0x0000
        out 0xf4, al
    ")).code(code16!(at 0x9000; "
        mov bp, sp
        mov ax, [bp]
        mov bx, [bp+2]
        mov cx, [bp+4]
        .byte 0xca, 2, 0
    ")).reg(Rax, 0x8008).reg(Rbx, 0).reg(Rcx, 0x1111).reg(Rsp, STACK).cs(0);

    /// A near jump with a 32-bit target beyond the limit is #GP (SDM 2A, JMP).
    near_jump_beyond_limit: real(code16!("
        mov eax, 0x18000
     7: jmp eax
    ")).event(Vector::GP);

    /// Division by zero faults at the DIV (SDM 3A 6.15, interrupt 0).
    divide_error: real(code16!("
        mov ax, 5
        xor bl, bl
     7: div bl
    ")).event(Vector::DE).reg(Rax, 5);

    /// A quotient that does not fit is #DE (SDM 2A, IDIV).
    quotient_overflow: real(code16!("
        mov ax, 0x8000
        mov bl, 0xff
     7: idiv bl
    ")).event(Vector::DE);

    /// INTO with OF set is a trap: the next instruction's address is saved
    /// (SDM 3A 6.15, interrupt 4).
    into: real(code16!("
        mov al, 0x7f
        inc al
        into
     7: nop
    ")).event(Vector::OF);

    /// BOUND outside its bounds faults at the instruction (SDM 3A 6.15,
    /// interrupt 5).
    bound: real(code16!("
        mov ax, 6
        bound ax, [0xd000]
        mov ax, 7
     7: bound ax, [0xd000]
    ")).dword(DATA, 0x0006_fffe).event(Vector::BR);

    /// UD2 (SDM 3A 6.15, interrupt 6).
    undefined: real(code16!("nop; 7: ud2")).event(Vector::UD);

    /// ARPL, LLDT, LTR, LAR, VERR and their kin do not exist in real mode
    /// (SDM 3B 21.1.3).
    protected_mode_instructions_are_undefined: real(code16!("
        mov bp, 0
     2: mov bx, [bp + 0xd000]
        jmp bx
    ")).word(DATA, 0x9000).word(DATA + 2, 0x9010).word(DATA + 4, 0x9020).word(DATA + 6, 0x9030)
        .word(DATA + 8, 0x9040).word(DATA + 10, 0x9050).word(DATA + 12, 0x9060)
        .code(code16!(at 0x9000; "arpl bx, ax"))
        .code(code16!(at 0x9010; "lldt ax"))
        .code(code16!(at 0x9020; "ltr ax"))
        .code(code16!(at 0x9030; "lar ax, bx"))
        .code(code16!(at 0x9040; "verr ax"))
        .code(code16!(at 0x9050; "str ax"))
        .code(code16!(at 0x9060; "out 0xf4, al"))
        .handler(6, code16!(at 0xa000; "
            pop ax
            out 0xe0, ax
            add sp, 4
            add bp, 2
            mov bx, [bp + 0xd000]
            jmp bx
        "))
        .reports(&[0x9000, 0x9010, 0x9020, 0x9030, 0x9040, 0x9050]);

    /// PUSHA stores the old SP, POPA skips it (SDM 2B, PUSHA, POPA).
    pusha_popa: real(code16!("
        mov ax, 1
        mov cx, 2
        mov dx, 3
        mov bx, 4
        mov bp, 5
        mov si, 6
        mov di, 7
        pusha
        mov bp, sp
        mov word ptr [bp + 6], 0
        mov word ptr [bp + 14], 0x99
        popa
        out 0xf4, al
    ")).reg(Rax, 0x99).reg(Rcx, 2).reg(Rdx, 3).reg(Rbx, 4).reg(Rbp, 5).reg(Rsi, 6).reg(Rdi, 7)
        .reg(Rsp, STACK).mem16(STACK - 16, 7).mem16(STACK - 4, 2);

    /// LDS, LES and LSS load a register and a segment (SDM 2A, LDS).
    load_far_pointers: real(code16!("
        lss sp, [0xd008]
        les di, [0xd004]
        lds si, [0xd000]
        out 0xf4, al
    ")).dword(DATA, 0x1111_2222).dword(DATA + 4, 0x3333_4444).dword(DATA + 8, 0x0055_6666)
        .reg(Rsi, 0x2222).reg(Rdi, 0x4444).reg(Rsp, 0x6666)
        .segment(SegmentName::Ds, 0x1111, 0x1_1110, 0xffff, 0x93)
        .segment(SegmentName::Es, 0x3333, 0x3_3330, 0xffff, 0x93)
        .segment(SegmentName::Ss, 0x55, 0x550, 0xffff, 0x93);

    /// SMSW stores CR0's low word, LMSW cannot clear PE (SDM 2A, LMSW).
    machine_status_word: real(code16!("
        smsw ax
        or al, 1
        lmsw ax
        and al, 0xfe
        lmsw ax
        smsw bx
        out 0xf4, al
    ")).reg(Rbx, 0x31).masked_item("CR0", |s| s.cr0.bits(), 1, 1);

    /// With 16-bit operands, LGDT loads 24 bits of base (SDM 2A, LGDT).
    lgdt_24_bits: real(code16!("
        lgdt [0xd000]
        .byte 0x66
        lidt [0xd000]
        out 0xf4, al
    ")).bytes(DATA, &[0x34, 0x12, 0x78, 0x56, 0x34, 0x92])
        .item("GDTR.base", |s| s.gdtr.base, 0x34_5678)
        .item("GDTR.limit", |s| s.gdtr.limit.into(), 0x1234)
        .item("IDTR.base", |s| s.idtr.base, 0x9234_5678);

    /// LOOP counts in CX or, with the address-size prefix, in ECX (SDM 2A,
    /// LOOP).
    loop_counters: real(code16!("
        mov ecx, 0x10001
     2: inc ax
        loop 2b
        mov edx, ecx
        mov ecx, 3
     3: inc bx
        .byte 0x67
        loop 3b
        out 0xf4, al
    ")).reg(Rax, 1).reg(Rdx, 0x1_0000).reg_masked(Rcx, u64::MAX, 0).reg(Rbx, 3);

    /// CR0.PG without CR0.PE is #GP (SDM 2B, MOV to CR).
    paging_without_protection: real(code16!("
        mov eax, cr0
        or eax, 0x80000000
     7: mov cr0, eax
    ")).event(Vector::GP).masked_item("CR0", |s| s.cr0.bits(), 0x8000_0001, 0);

    /// The way into protected mode (SDM 3A 9.9.1).
    into_protected_mode: real(code16!("
        cli
        lgdt [0xd000]
        mov eax, cr0
        or al, 1
        mov cr0, eax
        farjmp 0x08, 0x9000
    ")).bytes(DATA, &[0x1f, 0, 0, 0x06, 0, 0])
        .gdt(8, descriptor(0, 0xf_ffff, CODE, FLAT32))
        .gdt(16, descriptor(0, 0xf_ffff, WRITABLE, FLAT32))
        .code(code32!(at 0x9000; "
            mov eax, 16
            mov ds, eax
            mov ebx, [0x180000]
            out 0xf4, al
        ")).dword(0x18_0000, 0xcafe_babe)
        .reg(Rbx, 0xcafe_babe)
        .segment(SegmentName::Cs, 8, 0, u32::MAX, 0xc09b)
        .segment(SegmentName::Ds, 16, 0, u32::MAX, 0xc093);

    /// The processor accepts writes to the code segment in real mode (SDM 3B
    /// 21.1.1).
    write_through_cs: real(code16!("
        mov word ptr cs:[0xd000], 0x4321
        out 0xf4, al
    ")).mem16(DATA, 0x4321);

    /// 16-bit addresses wrap at 64 KiB (SDM 1 3.3.7).
    effective_address_wraps: real(code16!("
        mov bx, 0xf000
        mov si, 0xe000
        mov al, [bx + si]
        out 0xf4, al
    ")).data(0x77).reg_masked(Rax, 0xff, 0x77);

    /// A repeated prefix group and a redundant segment override change nothing
    /// (SDM 2A 2.1.1).
    redundant_prefixes: real(code16!("
        .byte 0x26, 0x2e, 0x3e, 0x3e
        mov bx, [0xd000]
        out 0xf4, al
    ")).data(0x5678).reg(Rbx, 0x5678);
}
