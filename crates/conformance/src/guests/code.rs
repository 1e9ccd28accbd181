//! Self-modifying and aliased code (SDM 3A 8.1.3), and fetches across pages.

use x86::{Gpr::*, Vector};

use crate::asm::{code16, code32, code64};
use crate::env::{long64, protected32, real};
use crate::guest::guests;
use crate::layout::*;

guests! { "code";
    /// A store to the very next instruction counts (SDM 3A 8.1.3).
    next_instruction: protected32(code32!("
        mov byte ptr [0x8009], 0x43
        nop
        nop
        inc eax
        out 0xf4, al
    ")).reg(Rbx, 1).reg(Rax, 0);

    /// A store further on in the same straight line.
    same_block: long64(code64!("
        mov byte ptr [0x8011], 7
        nop
        nop
        nop
        nop
        nop
        nop
        nop
        nop
        mov al, 1
        out 0xf4, al
    ")).reg(Rax, 7);

    /// A loop that changes itself each time round.
    changing_loop: protected32(code32!("
        mov ecx, 3
     2: mov al, 1
        add ebx, eax
        inc byte ptr [0x8006]
        loop 2b
        out 0xf4, al
    ")).reg(Rbx, 6);

    /// Code that has run is replaced from afar, then run again.
    replaced_subroutine: protected32(code32!("
        mov ecx, 0x9000
        call ecx
        mov ebx, eax
        mov dword ptr [0x9001], 0x22222222
        call ecx
        out 0xf4, al
    ")).code(code32!(at 0x9000; "
        mov eax, 0x11111111
        ret
    ")).reg(Rbx, 0x1111_1111).reg(Rax, 0x2222_2222);

    /// The same through another linear address of the page.
    replaced_through_alias: long64(code64!("
        call 2f
        mov ebx, eax
        mov dword ptr [0xe001], 0x22222222
        call 2f
        out 0xf4, al
     2: mov ecx, 0x9000
        jmp rcx
    ")).code(code64!(at 0x9000; "
        mov eax, 0x11111111
        ret
    ")).page_to(0xe000, 0x9000, KERNEL_PAGE).reg(Rbx, 0x1111_1111).reg(Rax, 0x2222_2222);

    /// Code written by REP STOS.
    replaced_by_string_store: protected32(code32!("
        mov ecx, 0x9000
        call ecx
        mov edi, 0x9000
        mov ecx, 4
        mov al, 0x43
        rep stosb
        mov ecx, 0x9000
        call ecx
        out 0xf4, al
    ")).code(code32!(at 0x9000; "
        nop
        nop
        nop
        nop
        ret
    ")).reg(Rbx, 4);

    /// Code whose page is mapped elsewhere is other code.
    remapped: long64(code64!("
        mov ecx, 0xe000
        call rcx
        mov ebx, eax
        mov dword ptr [0x14070], 0xf063
        invlpg [0xe000]
        call rcx
        out 0xf4, al
    ")).bytes(0xe000, &[0xb8, 1, 0, 0, 0, 0xc3]).bytes(0xf000, &[0xb8, 2, 0, 0, 0, 0xc3]).reg(Rbx, 1).reg(Rax, 2);

    /// A change in the second page of an instruction that crosses pages.
    crossing_instruction_changed: long64(code64!("
        mov ecx, 0xdffe
        call rcx
        mov ebx, eax
        mov byte ptr [0xe000], 9
        call rcx
        out 0xf4, al
    ")).bytes(0xdffe, &[0xb8, 1, 0, 0, 0, 0xc3]).reg(Rbx, 1).reg(Rax, 0x901);

    /// The second page of a crossing instruction is remapped.
    crossing_instruction_remapped: long64(code64!("
        mov ecx, 0xdffe
        call rcx
        mov ebx, eax
        mov dword ptr [0x14070], 0xf063
        invlpg [0xe000]
        call rcx
        out 0xf4, al
    ")).bytes(0xdffe, &[0xb8, 1, 0, 0, 0, 0xc3]).bytes(0xf000, &[5, 0, 0, 0xc3]).reg(Rbx, 1).reg(Rax, 0x501);

    /// The same bytes in 16-bit and 32-bit code are different instructions.
    same_bytes_other_mode: protected32(code32!("
        mov eax, 0x9000
        call eax
        mov ebx, eax
        xor eax, eax
        farcall 0x38, 0x9100
        out 0xf4, al
    ")).bytes(0x9000, &[0xb8, 0x44, 0x33, 0x22, 0x11, 0xc3])
        .bytes(0x9100, &[0xb8, 0x44, 0x33, 0xbb, 0x22, 0x11, 0x66, 0xcb]).reg(Rbx, 0x1122_1122)
        .reg(Rax, 0x3344);

    /// Real mode too.
    real_mode: real(code16!("
        mov byte ptr [0x8006], 7
        mov al, 1
        out 0xf4, al
    ")).reg(Rax, 7);

    /// An interrupt return after patching under TF sees the new code.
    patched_by_handler: protected32(code32!("
     7: ud2
        inc eax
        out 0xf4, al
    ")).handler(6, code32!(at 0xa000; "
        mov word ptr [0x8000], 0x9090
        iretd
    ")).reg(Rax, 1);

    /// A branch into the middle of an instruction.
    overlapping_instructions: protected32(code32!("
        xor ebx, ebx
     2: mov eax, 0x01eb4343
        inc ebx
        cmp ebx, 3
        ja 3f
        jmp 2b + 1
     3: out 0xf4, al
    ")).reg(Rbx, 5);

    /// Running off the end of mapped memory: a fetch fault there.
    running_into_absent_page: long64(code64!("
        mov eax, 0xdffe
        jmp rax
    ")).bytes(0xdffe, &[0x90, 0x90]).page(0xe000, 0).event_at(Vector::PF, Some(0x10), 0xe000);
}
