//! Loops through memory, and functions' starts and ends: several turns, or
//! several instructions, that an engine may like to treat as one.

use x86::{Gpr::*, Rflags, Vector};

use crate::asm::{code32, code64};
use crate::env::{long64, protected32, user32, user64};
use crate::expect::FrameItem;
use crate::guest::guests;
use crate::layout::*;

guests! { "loops";
    /// The sum of 255 doublewords, which is no multiple of anything.
    sum: long64(code64!("
        mov esi, 0xd000
     2: add eax, [rsi]
        add rsi, 4
        cmp rsi, 0xd3fc
        jne 2b
        out 0xf4, al
    ")).bytes(DATA, &[1, 2, 0, 0].repeat(256)).reg(Rax, 255 * 0x201).reg(Rsi, 0xd3fc).flags(Rflags::ZF, Rflags::ZF);

    /// The same in 32-bit code, downwards, by a register and an index.
    sum_downwards: protected32(code32!("
        mov ebx, 0xd000
        mov esi, 0x3fc
     2: add eax, [ebx + esi]
        sub esi, 4
        jae 2b
        out 0xf4, al
    ")).bytes(DATA, &[1, 2, 0, 0].repeat(256)).reg(Rax, 256 * 0x201).reg(Rsi, 0xffff_fffc);

    /// A loop is left in the middle of it, with the registers of that turn.
    search: long64(code64!("
        mov esi, 0xd000
     2: movzx eax, byte ptr [rsi]
        inc rsi
        cmp al, 7
        je 3f
        inc ebx
        cmp rsi, 0xe000
        jne 2b
     3: out 0xf4, al
    ")).bytes(0xd0a6, &[7]).reg(Rax, 7).reg(Rbx, 0xa6).reg(Rsi, 0xd0a7);

    /// Elements that cross from one page to the next.
    unaligned: user64(code64!("
        mov esi, 0xdf03
        mov ecx, 100
     2: add rax, [rsi]
        add rsi, 8
        dec ecx
        jnz 2b
     7: ud2
    ")).bytes(0xdf03, &[3, 0, 0, 0, 1, 0, 0, 0].repeat(100)).event(Vector::UD).reg(Rax, 100 * 0x1_0000_0003);

    /// A page fault finds the registers and flags of its turn (SDM 3A 6.5).
    fault_in_a_turn: long64(code64!("
        mov esi, 0xd028
        mov ecx, 0x1000
     7: add rax, [rsi]
        add rsi, 8
        dec ecx
        jnz 7b
    ")).page(0xe000, 0).page_fault(0, 0xe000).bytes(DATA, &[1, 0, 0, 0, 0, 0, 0, 0].repeat(512))
        .reg(Rsi, 0xe000).reg(Rcx, 0x1000 - 507).reg(Rax, 507);

    /// The same where the fault is a write, below a register that moves down.
    fault_in_a_turn_downwards: user64(code64!("
        mov edi, 0xdf38
        mov ecx, 0x1000
     7: mov [rdi - 8], rcx
        lea rdi, [rdi - 8]
        dec rcx
        jnz 7b
    ")).page(0xc000, USER_PAGE & !2).page_fault(7, 0xcff8).reg(Rdi, 0xd000).reg(Rcx, 0x1000 - 0x1e7)
        .memory(0xd000, &(0x1000_u64 - 0x1e6).to_le_bytes());

    /// The handler maps the page and the loop goes on (SDM 3A 6.5).
    fault_and_resume: long64(code64!("
        mov edi, 0xdf80
     2: mov [rdi], edi
        add rdi, 4
        cmp rdi, 0xe080
        jne 2b
        out 0xf4, al
    ")).handler(14, code64!(at 0xa000; "
        inc ebx
        mov dword ptr [0x14070], 0xe063
        add rsp, 8
        iretq
    ")).page(0xe000, 0).reg(Rbx, 1).mem32(0xdffc, 0xdffc).mem32(0xe000, 0xe000).mem32(0xe07c, 0xe07c);

    /// A loop that writes to itself does what is there then (SDM 3A 8.1.3).
    writes_itself: long64(code64!("
        mov edi, 0x9000
        mov edx, 0x90909090
        mov ecx, 19
        mov ebx, 0x9040
        jmp rbx
    ")).code(code64!(at 0x9040; "
     2: inc eax
        nop
        nop
        nop
        nop
        nop
        nop
        nop
        nop
        nop
        nop
        mov [rdi], edx
        add rdi, 4
        dec ecx
        jnz 2b
        out 0xf4, al
    ")).reg(Rax, 17).reg(Rdi, 0x904c);

    /// What a loop writes is what its next turn reads.
    carried: long64(code64!("
        mov esi, 0xd000
     2: mov eax, [rsi]
        lea eax, [rax + rax * 2]
        mov [rsi + 4], eax
        add rsi, 4
        cmp rsi, 0xd040
        jb 2b
        out 0xf4, al
    ")).bytes(DATA, &[1]).mem32(0xd040, 43_046_721);

    /// A loop over a device's registers reads each as often as it says.
    over_mmio: long64(code64!("
        mov esi, 0xe000
     2: mov eax, [rsi]
        add rsi, 4
        cmp rsi, 0xe014
        jne 2b
        out 0xf4, al
    ")).page_to(0xe000, MMIO, KERNEL_PAGE).reg(Rsi, 0xe014);

    /// A function's start and end: registers are saved and come back.
    frame: user64(code64!("
        mov ebx, 0x1b
        mov r12d, 0x12
        mov ebp, 0xb
        call 2f
     7: ud2
     2: push rbp
        mov ebp, edi
        push r12
        mov r12, rsp
        push rbx
        xor ebx, ebx
        push 0x77
        mov rax, rsp
        pop rsi
        pop rbx
        pop r12
        pop rbp
        ret
    ")).event(Vector::UD).reg(Rbx, 0x1b).reg(R12, 0x12).reg(Rbp, 0xb).reg(Rsi, 0x77)
        .reg(Rax, USER_STACK - 40);

    /// A push that faults finds RSP behind those that did not (SDM 3A 6.5).
    frame_faults: user64(code64!("
        mov esp, 0xe010
        push rbp
        mov ebp, 0x55
        push rbx
        mov ebx, 0x66
     7: push 0x77
    ")).page(0xd000, 0).page_fault(6, 0xdff8).pushed(FrameItem::Sp, u64::MAX, 0xe000).reg(Rbp, 0x55).reg(Rbx, 0x66);

    /// Pops likewise.
    frame_end_faults: user64(code64!("
        mov esp, 0xdff0
        pop rbx
        mov ebp, 0x55
        pop rsi
     7: pop rdi
    ")).page(0xe000, 0).page_fault(4, 0xe000).pushed(FrameItem::Sp, u64::MAX, 0xe000).reg(Rbp, 0x55);

    /// In 32-bit code.
    frame_of_32_bits: user32(code32!("
        mov ebx, 0x1b
        call 2f
     7: ud2
     2: push ebx
        mov ebx, 0x77
        push ebx
        mov eax, esp
        pop ecx
        pop ebx
        ret
    ")).event(Vector::UD).reg(Rbx, 0x1b).reg(Rcx, 0x77).reg(Rax, USER_STACK - 12);
}
