//! String instructions (SDM 1 7.3.9; SDM 2B, REP).

use x86::{Gpr::*, Rflags, Vector};

use crate::asm::{code16, code32, code64};
use crate::env::{long64, protected32, real, user32, user64};
use crate::guest::guests;
use crate::layout::*;

guests! { "strings";
    /// REP MOVSB copies upwards (SDM 2B, MOVS).
    move_up: protected32(code32!("
        mov esi, 0xd000
        mov edi, 0xe000
        mov ecx, 5
        rep movsb
        out 0xf4, al
    ")).bytes(DATA, b"hello!").memory(0xe000, b"hello\0").reg(Rcx, 0).reg(Rsi, 0xd005).reg(Rdi, 0xe005);

    /// With DF it goes down (SDM 1 3.4.3.2).
    move_down: protected32(code32!("
        std
        mov esi, 0xd00c
        mov edi, 0xe00c
        mov ecx, 4
        rep movsd
        out 0xf4, al
    ")).bytes(DATA, &[1; 16]).memory(0xe000, &[1; 16]).reg(Rsi, 0xcffc).reg(Rdi, 0xdffc);

    /// Overlapping: the pattern spreads (SDM 2B, MOVS).
    move_overlapping: protected32(code32!("
        mov esi, 0xd000
        mov edi, 0xd002
        mov ecx, 6
        rep movsb
        out 0xf4, al
    ")).bytes(DATA, &[1, 2]).memory(DATA, &[1, 2, 1, 2, 1, 2, 1, 2]);

    /// Overlapping doublewords by one byte.
    move_overlapping_by_one: long64(code64!("
        mov esi, 0xd000
        mov edi, 0xd001
        mov ecx, 2
        rep movsd
        out 0xf4, al
    ")).bytes(DATA, &[1, 2, 3, 4, 5, 6, 7, 8, 9]).memory(DATA, &[1, 1, 2, 3, 4, 4, 6, 7, 8]);

    /// A count of zero touches nothing, not even bad addresses (SDM 2B, REP).
    zero_count: user64(code64!("
        xor ecx, ecx
        mov rsi, 0x800000000000
        mov rdi, rsi
        rep movsb
     7: ud2
    ")).event(Vector::UD).reg(Rsi, 0x8000_0000_0000).reg(Rdi, 0x8000_0000_0000);

    /// A page fault in the middle leaves the registers at the element that
    /// faulted (SDM 2B, REP).
    fault_in_the_middle: long64(code64!("
        mov esi, 0xd000
        mov edi, 0xdff0
        mov ecx, 0x40
     7: rep movsb
    ")).bytes(DATA, &[7; 0x40]).page(0xe000, 0).page_fault(2, 0xe000).reg(Rcx, 0x30).reg(Rsi, 0xd010)
        .reg(Rdi, 0xe000).memory(0xdff0, &[7; 16]);

    /// A faulting read likewise; nothing is written for it.
    read_fault_in_the_middle: long64(code64!("
        mov esi, 0xdff8
        mov edi, 0xc000
        mov ecx, 4
     7: rep movsd
    ")).page(0xe000, 0).page_fault(0, 0xe000).reg(Rcx, 2).reg(Rsi, 0xe000).reg(Rdi, 0xc008);

    /// An element that crosses into the absent page is not written at all.
    fault_in_an_element: long64(code64!("
        mov edi, 0xdffa
        mov ecx, 4
        mov eax, 0x11223344
     7: rep stosd
    ")).page(0xe000, 0).page_fault(2, 0xe000).reg(Rcx, 3).reg(Rdi, 0xdffe).mem32(0xdffa, 0x1122_3344)
        .mem16(0xdffe, 0);

    /// Downwards into an absent page.
    fault_downwards: long64(code64!("
        std
        mov edi, 0xd001
        mov ecx, 0x10
     7: rep stosb
    ")).page(0xc000, 0).page_fault(2, 0xcfff).reg(Rcx, 0xe).reg(Rdi, 0xcfff);

    /// The fault handler maps the page and the instruction goes on.
    fault_and_resume: long64(code64!("
        mov edi, 0xdff0
        mov ecx, 0x20
        mov al, 9
        rep stosb
        out 0xf4, al
    ")).handler(14, code64!(at 0xa000; "
        mov dword ptr [0x14070], 0xe063
        add rsp, 8
        iretq
    ")).page(0xe000, 0).memory(0xdff0, &[9; 0x20]).reg(Rcx, 0).reg(Rdi, 0xe010);

    /// REPE CMPSB stops behind the first difference (SDM 2A, CMPS).
    compare: protected32(code32!("
        mov esi, 0xd000
        mov edi, 0xd010
        mov ecx, 8
        repe cmpsb
        out 0xf4, al
    ")).bytes(DATA, b"abcdefgh").bytes(DATA + 0x10, b"abcXefgh").reg(Rcx, 4).reg(Rsi, 0xd004).reg(Rdi, 0xd014)
        .flags(Rflags::ZF | Rflags::CF, Rflags::empty());

    /// REPE CMPSB of equal strings ends with ZF (SDM 2A, CMPS).
    compare_equal: protected32(code32!("
        mov esi, 0xd000
        mov edi, 0xd010
        mov ecx, 4
        repe cmpsb
        out 0xf4, al
    ")).bytes(DATA, b"abcd").bytes(DATA + 0x10, b"abcd").reg(Rcx, 0).flags(Rflags::ZF, Rflags::ZF);

    /// REPE with a count of zero leaves the flags (SDM 2B, REP).
    compare_nothing: protected32(code32!("
        xor ecx, ecx
        or al, 1
        stc
        repe cmpsb
        out 0xf4, al
    ")).flags(Rflags::ZF | Rflags::CF, Rflags::CF);

    /// REPNE SCASW finds a word (SDM 2B, SCAS).
    scan: protected32(code32!("
        mov edi, 0xd000
        mov ecx, 10
        mov eax, 0x33
        repne scasw
        out 0xf4, al
    ")).bytes(DATA, &[0x11, 0, 0x22, 0, 0x33, 0, 0x33, 0]).reg(Rcx, 7).reg(Rdi, 0xd006)
        .flags(Rflags::ZF, Rflags::ZF);

    /// REP LODSD ends with the last element (SDM 2A, LODS).
    load: protected32(code32!("
        mov esi, 0xd000
        mov ecx, 2
        rep lodsd
        out 0xf4, al
    ")).dword(DATA, 1).dword(DATA + 4, 2).reg(Rax, 2).reg(Rsi, 0xd008);

    /// The address-size prefix makes CX, SI and DI count (SDM 2B, REP).
    sixteen_bit_addresses: protected32(code32!("
        mov esi, 0x1d000
        mov edi, 0x1e000
        mov ecx, 0x10002
        .byte 0x67
        rep movsb
        out 0xf4, al
    ")).word(DATA, 0x2211).memory(0xe000, &[0x11, 0x22]).reg(Rcx, 0x1_0000).reg(Rsi, 0x1_d002).reg(Rdi, 0x1_e002);

    /// DI wraps at 64 KiB (SDM 1 3.3.7).
    wrapping_di: real(code16!("
        mov di, 0xfffe
        mov cx, 4
        mov al, 5
        rep stosb
        out 0xf4, al
    ")).memory(0xfffe, &[5, 5]).memory(0, &[5, 5]).reg(Rdi, 2).reg(Rcx, 0);

    /// In 64-bit mode 32-bit addresses clear the upper halves (SDM 1 3.3.7.1).
    thirty_two_bit_addresses_in_long_mode: long64(code64!("
        mov rsi, 0x10000d000
        mov rdi, 0x10000e000
        mov rcx, 0x100000002
        .byte 0x67
        rep movsb
        out 0xf4, al
    ")).word(DATA, 0x2211).memory(0xe000, &[0x11, 0x22, 0]).reg(Rcx, 0).reg(Rsi, 0xd002).reg(Rdi, 0xe002);

    /// The destination is ES whatever the override says (SDM 2B, MOVS).
    override_only_for_source: protected32(code32!("
        mov eax, 0x70
        mov fs, eax
        mov esi, 0
        mov edi, 0xe000
        mov ecx, 1
        .byte 0x64
        rep movsd
        out 0xf4, al
    ")).gdt(FREE, descriptor(DATA as u32, 0xfff, WRITABLE, SMALL32)).data(0x4455_6677).mem32(0xe000, 0x4455_6677);

    /// A segment limit in the middle: #GP(0) with the elements before it done.
    limit_in_the_middle: protected32(code32!("
        mov eax, 0x70
        mov es, eax
        mov edi, 0xffe
        mov ecx, 5
     7: rep stosb
    ")).gdt(FREE, descriptor(DATA as u32, 0xfff, WRITABLE, SMALL32)).fault(Vector::GP, 0).reg(Rcx, 3)
        .reg(Rdi, 0x1000).mem16(DATA + 0xffe, 0x7070);

    /// REP OUTSB writes each element to the port (SDM 2B, OUTS).
    repeat_out: protected32(code32!("
        mov esi, 0xd000
        mov ecx, 3
        mov edx, 0xe0
        rep outsb
        out 0xf4, al
    ")).bytes(DATA, &[1, 2, 3]).reports(&[1, 2, 3]).reg(Rsi, 0xd003).reg(Rcx, 0);

    /// REP INSD reads each element from the port (SDM 2A, INS).
    repeat_in: protected32(code32!("
        mov edi, 0xd000
        mov ecx, 2
        mov edx, 0xe8
        rep insd
        out 0xf4, al
    ")).mem32(DATA, 0xa1b2_c3d4).mem32(DATA + 4, 0xa2b3_c4d5).reg(Rdi, 0xd008);

    /// INS into a page that cannot be written faults before the port is read
    /// (SDM 2A, INS).
    in_faults_before_reading: long64(code64!("
        mov edi, 0xe000
        mov ecx, 2
        mov edx, 0xe8
     7: rep insb
    ")).page(0xe000, 0x61).page_fault(3, 0xe000).io(&[]).reg(Rcx, 2);

    /// OUTS obeys IOPL: #GP(0) in ring 3 (SDM 2B, OUTS).
    out_in_ring_3: user32(code32!("
        mov esi, 0xd000
        mov edx, 0xe0
     7: outsb
    ")).fault(Vector::GP, 0).io(&[]);

    /// A large copy across many pages.
    large_copy: protected32(code32!("
        mov edi, 0x100000
        mov ecx, 0x4000
        mov eax, 0x01020304
        rep stosd
        mov esi, 0x100000
        mov edi, 0x180003
        mov ecx, 0x4000
        rep movsd
        mov eax, [0x18fffb]
        out 0xf4, al
    ")).reg(Rax, 0x0102_0304).reg(Rdi, 0x19_0003).mem32(0x18_ffff, 0x0102_0304).memory(0x19_0003, &[0]);
}
