//! General instructions that engines get wrong most easily.

use x86::{Cr0, Gpr::*, Rflags, Vector};

use crate::asm::{code32, code64};
use crate::env::{long64, protected32, user32, user64};
use crate::expect::FrameItem;
use crate::guest::guests;
use crate::layout::*;

guests! { "general";
    /// CMPXCHG8B that matches (SDM 2A, CMPXCHG8B).
    cmpxchg8b_equal: protected32(code32!("
        lock cmpxchg8b [0xd000]
        out 0xf4, al
    ")).with(Rax, 1).with(Rdx, 2).with(Rbx, 3).with(Rcx, 4).data(0x2_0000_0001).mem64(DATA, 0x4_0000_0003)
        .flags(Rflags::ZF, Rflags::ZF);

    /// CMPXCHG8B that does not loads EDX:EAX.
    cmpxchg8b_different: protected32(code32!("
        cmpxchg8b [0xd000]
        out 0xf4, al
    ")).with(Rax, 9).data(0x2_0000_0001).reg(Rax, 1).reg(Rdx, 2).mem64(DATA, 0x2_0000_0001)
        .flags(Rflags::ZF, Rflags::empty());

    /// CMPXCHG16B (SDM 2A, CMPXCHG8B).
    cmpxchg16b: long64(code64!("
        lock cmpxchg16b [0xd000]
        out 0xf4, al
    ")).with(Rax, 1).with(Rdx, 2).with(Rbx, 3).with(Rcx, 4).qword(DATA, 1).qword(DATA + 8, 2)
        .mem64(DATA, 3).mem64(DATA + 8, 4).flags(Rflags::ZF, Rflags::ZF);

    /// CMPXCHG16B needs 16-byte alignment: #GP(0).
    cmpxchg16b_alignment: long64(code64!("7: cmpxchg16b [0xd008]")).fault(Vector::GP, 0);

    /// CMPXCHG of 32 bits: when it fails in 64-bit mode only RAX is loaded
    /// (SDM 2A, CMPXCHG).
    cmpxchg_different: long64(code64!("
        cmpxchg [0xd000], ebx
        out 0xf4, al
    ")).with(Rax, 0xffff_ffff_0000_0005).data(6).reg(Rax, 6).flags(Rflags::ZF, Rflags::empty());

    /// 32-bit results clear the upper half, 16-bit ones keep it (SDM 1
    /// 3.4.1.1).
    zero_extension: long64(code64!("
        mov rax, -1
        mov rbx, -1
        mov rcx, -1
        mov eax, 1
        mov bx, 1
        mov cl, 1
        out 0xf4, al
    ")).reg(Rax, 1).reg(Rbx, 0xffff_ffff_ffff_0001).reg(Rcx, 0xffff_ffff_ffff_ff01);

    /// CMOVcc of 32 bits clears the upper half even if it moves nothing (SDM
    /// 2A, CMOVcc).
    cmov_zero_extends: long64(code64!("
        mov rax, -1
        xor ecx, ecx
        cmovne eax, ebx
        out 0xf4, al
    ")).reg(Rax, 0xffff_ffff);

    /// BT with a register index reaches beyond the operand, also below it
    /// (SDM 2A, BT).
    bit_string: long64(code64!("
        mov rax, -1
        bts qword ptr [0xd010], rax
        mov eax, 67
        bts dword ptr [0xd010], eax
        out 0xf4, al
    ")).mem64(DATA + 8, 1 << 63).mem64(DATA + 0x18, 8);

    /// Shift counts are masked to 5 bits, to 6 with 64-bit operands (SDM 2B,
    /// SAL).
    shift_counts: long64(code64!("
        mov cl, 33
        mov eax, 1
        shl eax, cl
        mov ebx, 1
        shl rbx, cl
        out 0xf4, al
    ")).reg(Rax, 2).reg(Rbx, 1 << 33);

    /// A shift by zero leaves the flags (SDM 2B, SAL).
    shift_by_zero: long64(code64!("
        stc
        mov cl, 0
        shl eax, cl
        setc bl
        out 0xf4, al
    ")).reg(Rbx, 1);

    /// DIV of 128 bits (SDM 2A, DIV).
    divide_128: long64(code64!("
        div rbx
        out 0xf4, al
    ")).with(Rdx, 1).with(Rax, 0).with(Rbx, 2).reg(Rax, 1 << 63).reg(Rdx, 0);

    /// A quotient that does not fit is #DE and changes nothing.
    divide_overflow: long64(code64!("7: div rbx")).with(Rdx, 2).with(Rbx, 2).event(Vector::DE).reg(Rdx, 2);

    /// The most negative number by minus one is #DE.
    negative_overflow: long64(code64!("
        cqo
     7: idiv rbx
    ")).with(Rax, 1 << 63).with(Rbx, u64::MAX).event(Vector::DE);

    /// BCD adjustment in 32-bit code (SDM 2A, DAA, AAM).
    decimal: protected32(code32!("
        mov al, 0x79
        add al, 0x35
        daa
        setc bl
        mov cl, al
        mov eax, 87
        .byte 0xd4, 0x0a
        out 0xf4, al
    ")).reg_masked(Rcx, 0xff, 0x14).reg_masked(Rbx, 0xff, 1).reg_masked(Rax, 0xffff, 0x0807);

    /// AAM 0 is #DE (SDM 2A, AAM).
    aam_zero: protected32(code32!("7: .byte 0xd4, 0x00")).event(Vector::DE);

    /// XLAT uses DS:[EBX + AL] (SDM 2C, XLAT).
    xlat: protected32(code32!("
        mov ebx, 0xd000
        mov al, 0x80
        xlatb
        out 0xf4, al
    ")).bytes(DATA + 0x80, &[0x5a]).reg_masked(Rax, 0xff, 0x5a);

    /// POP to memory computes its address after ESP has moved (SDM 2B, POP).
    pop_to_stack_memory: protected32(code32!("
        push 0x1111
        push 0x2222
        pop dword ptr [esp]
        out 0xf4, al
    ")).reg(Rsp, STACK - 4).mem32(STACK - 4, 0x2222);

    /// POP ESP takes the value (SDM 2B, POP).
    pop_esp: protected32(code32!("
        push 0x1234
        pop esp
        out 0xf4, al
    ")).reg(Rsp, 0x1234);

    /// ENTER that faults leaves RSP and RBP (SDM 2A, ENTER).
    enter_fault: user64(code64!("
        mov esp, 0xf000
        mov ebp, 0x1234
     7: enter 0, 0
    ")).page(0xe000, 0).page_fault(6, 0xeff8).reg(Rbp, 0x1234).pushed(FrameItem::Sp, u64::MAX, 0xf000);

    /// CALL that cannot push does not jump (SDM 2A, CALL).
    call_fault: user64(code64!("
        mov esp, 0xf000
     7: call 2f
     2: nop
    ")).page(0xe000, 0).page_fault(6, 0xeff8);

    /// Alignment checks in ring 3 with CR0.AM and EFLAGS.AC: #AC(0) (SDM 3A
    /// 6.15, interrupt 17).
    alignment_check: user32(code32!("7: mov eax, [0xd001]")).patch(|s| s.cr0 |= Cr0::AM)
        .with_flags(Rflags::AC).fault(Vector::AC, 0);

    /// Not without EFLAGS.AC.
    alignment_without_ac: user32(code32!("
        mov eax, [0xd001]
     7: ud2
    ")).patch(|s| s.cr0 |= Cr0::AM).event(Vector::UD);

    /// Not without CR0.AM.
    alignment_without_am: user64(code64!("
        mov eax, [0xd001]
     7: ud2
    ")).with_flags(Rflags::AC).event(Vector::UD);

    /// Not in ring 0.
    alignment_in_ring_0: protected32(code32!("
        mov eax, [0xd001]
        out 0xf4, al
    ")).patch(|s| s.cr0 |= Cr0::AM).with_flags(Rflags::AC);

    /// A misaligned word on a doubleword boundary plus two is aligned.
    alignment_of_words: user64(code64!("
        mov ax, [0xd002]
        mov rax, [0xd008]
     7: mov rax, [0xd004]
    ")).patch(|s| s.cr0 |= Cr0::AM).with_flags(Rflags::AC).fault(Vector::AC, 0);

    /// JECXZ, JCXZ and LOOPNE by address size (SDM 2A, Jcc).
    count_jumps: protected32(code32!("
        mov ecx, 0x10000
        .byte 0x67
        jecxz 2f
        ud2
     2: jecxz 3f
        mov eax, 1
     3: mov ecx, 3
        cmp eax, eax
     4: lea ebx, [ebx + 1]
        loopne 4b
        out 0xf4, al
    ")).reg(Rax, 1).reg(Rbx, 1).reg(Rcx, 2);

    /// BOUND in 32-bit code: inside goes on (SDM 2A, BOUND).
    bound: protected32(code32!("
        mov eax, 5
        bound eax, [0xd000]
        mov eax, 11
     7: bound eax, [0xd000]
    ")).dword(DATA, 5).dword(DATA + 4, 10).event(Vector::BR);

    /// INTO in ring 3 through a DPL-3 gate, and without OF nothing.
    into: user32(code32!("
        xor eax, eax
        into
        mov eax, 0x7fffffff
        inc eax
        into
     7: nop
    ")).event(Vector::OF);

    /// XCHG with memory is atomic and swaps (SDM 2B, XCHG).
    exchange: long64(code64!("
        xchg [0xd000], rax
        out 0xf4, al
    ")).with(Rax, 5).data(6).reg(Rax, 6).mem64(DATA, 5);

    /// MOVBE (SDM 2B, MOVBE).
    movbe: long64(code64!("
        movbe eax, [0xd000]
        movbe [0xd004], ax
        out 0xf4, al
    ")).needs(x86::cpuid::Feature::Movbe).data(0x1122_3344).reg(Rax, 0x4433_2211).mem16(DATA + 4, 0x1122);

    /// PUSHF, POPF round trip of ID and AC (SDM 2B, POPF).
    flags_round_trip: user64(code64!("
        pushfq
        xor dword ptr [rsp], 0x240000
        popfq
        pushfq
        pop rax
     7: ud2
    ")).event(Vector::UD).reg_masked(Rax, 0x24_0000, 0x24_0000);

    /// LAHF and SAHF in 64-bit mode (SDM 2A, LAHF).
    lahf_sahf: user64(code64!("
        mov ah, 0xd5
        sahf
        mov ah, 0
        lahf
     7: ud2
    ")).event(Vector::UD).reg_masked(Rax, 0xff00, 0xd700);

    /// RIP-relative addresses count from the next instruction (SDM 2A
    /// 2.2.1.6).
    rip_relative: long64(code64!("
        mov byte ptr [rip + 0x4ff9], 7
        lea rax, [rip]
        out 0xf4, al
    ")).memory(DATA, &[7]).reg(Rax, 0x800e);

    /// MOV with a 64-bit absolute address (SDM 2B, MOV).
    absolute_address: long64(code64!("
        movabs eax, [0xd000]
        out 0xf4, al
    ")).data(0x77).reg(Rax, 0x77);

    /// High bytes AH to BH, and SPL to DIL with REX (SDM 1 3.4.1.1).
    byte_registers: long64(code64!("
        mov eax, 0x1234
        mov bl, ah
        mov sil, al
        out 0xf4, al
    ")).reg_masked(Rbx, 0xff, 0x12).reg_masked(Rsi, 0xff, 0x34);

    /// ADX carries (SDM 2A, ADCX).
    adx: long64(code64!("
        stc
        adcx rax, rbx
        adox rax, rbx
        out 0xf4, al
    ")).needs(x86::cpuid::Feature::Adx).with(Rax, 1).with(Rbx, 2).reg(Rax, 6);

    /// CRC32 and POPCNT.
    crc32: long64(code64!("
        popcnt ecx, ebx
        crc32 eax, bl
        out 0xf4, al
    ")).needs(x86::cpuid::Feature::Sse42).with(Rbx, 0x61).with(Rax, 0xffff_ffff).reg(Rcx, 3)
        .reg(Rax, 0x3e2f_bccf);

    /// RDRAND sets CF and clears the other flags (SDM 2B, RDRAND).
    rdrand: user64(code64!("
     2: rdrand rax
        jnc 2b
     7: ud2
    ")).needs(x86::cpuid::Feature::Rdrand)
        .event(Vector::UD).pushed_flags(Rflags::ARITHMETIC, Rflags::CF);

    /// MONITOR and MWAIT in ring 3 are #UD (SDM 2B, MONITOR).
    monitor_in_ring_3: user64(code64!("7: monitor")).event(Vector::UD);

    /// PAUSE, NOP with memory, PREFETCH never fault (SDM 2B, NOP).
    hints: user64(code64!("
        mov rbx, 0x800000000000
        pause
        nop dword ptr [rbx]
        prefetcht0 [rbx]
        endbr64
     7: ud2
    ")).event(Vector::UD);
}
