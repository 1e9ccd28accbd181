//! Code that one processor writes and another executes.

use crate::asm::code32;
use crate::processors::{End, Several};

pub(super) fn guests() -> Vec<Several> {
    vec![
        Several::new("code_changed_by_the_manual", 2, End::Pass, flag_boot(), flag_other()),
        Several::new("code_changed_behind_cpuid", 2, End::Pass, behind_boot(), behind_other()),
        Several::new("code_changed_under_an_interrupt", 2, End::Pass, ipi_boot(), ipi_other()),
        Several::new("a_loop_that_is_overwritten_ends", 2, End::Pass, loop_boot(), loop_other()),
    ]
}

/// The protocol of SDM 3A 9.1.3: write, set a flag; who sees the flag executes
/// a serializing instruction before the new code.
fn flag_boot() -> crate::asm::Code {
    code32!(at 0x110000; "
        mov byte ptr [0x210000], 0xb8
        mov byte ptr [0x210005], 0xc3
        mov ebp, 0x100100
        call ebp
        xor ecx, ecx
    1:  inc ecx
        mov [0x210001], ecx
        mov [0x7010], ecx
    2:  pause
        cmp [0x7014], ecx
        jne 2b
        mov dl, 0x41
        cmp [0x7018], ecx
        jne 9f
        cmp ecx, 60
        jne 1b
        mov ebp, 0x100110
        jmp ebp
    9:  mov ebp, 0x100120
        jmp ebp
    ")
}

fn flag_other() -> crate::asm::Code {
    code32!(at 0x118000; "
        mov esi, 0
    1:  inc esi
    2:  pause
        cmp [0x7010], esi
        jne 2b
        xor eax, eax
        cpuid
        mov eax, 0x210000
        call eax
        mov [0x7018], eax
        mov [0x7014], esi
        jmp 1b
    ")
}

/// The same, where the changed instruction comes right behind the serializing
/// one.
fn behind_boot() -> crate::asm::Code {
    code32!(at 0x110000; "
        mov ebp, 0x100100
        call ebp
        xor ecx, ecx
    1:  inc ecx
        mov [0x118041], ecx
        mov [0x7010], ecx
    2:  pause
        cmp [0x7014], ecx
        jne 2b
        mov dl, 0x41
        cmp [0x7018], ecx
        jne 9f
        cmp ecx, 60
        jne 1b
        mov ebp, 0x100110
        jmp ebp
    9:  mov ebp, 0x100120
        jmp ebp
    ")
}

fn behind_other() -> crate::asm::Code {
    code32!(at 0x118000; "
        mov esi, 0
    1:  inc esi
        jmp 2f
        .skip 0x30 - (. - 99b)
    2:  mov eax, [0x7010]
        sub eax, esi
        jnz 2b
        nop
        .skip 0x3e - (. - 99b), 0x90
        cpuid
        .byte 0xb8
        .long 0
        mov [0x7018], eax
        mov [0x7014], esi
        jmp 1b
    ")
}

/// A processor that never stops calling what is changed learns of it by an
/// interrupt.
fn ipi_boot() -> crate::asm::Code {
    code32!(at 0x110000; "
        jmp 1f
        .skip 0x10 - (. - 99b)
        // 110010h: the handler.
        lock inc dword ptr [0x7014]
        mov dword ptr [0xfee000b0], 0
        iretd
    1:  mov byte ptr [0x210000], 0xb8
        mov byte ptr [0x210005], 0xc3
        mov eax, 0x40
        mov ebx, 0x110010
        mov ebp, 0x100130
        call ebp
        mov ebp, 0x100100
        call ebp
        xor ecx, ecx
    2:  inc ecx
        mov [0x210001], ecx
        mov dword ptr [0xfee00300], 0xc4040
    3:  pause
        cmp [0x7014], ecx
        jne 3b
        // What it calls from now on is new; it may be in the middle of one.
        mov eax, [0x7010]
        lea ebx, [eax + 2]
    4:  pause
        cmp [0x7010], ebx
        js 4b
        mov dl, 0x41
        cmp [0x7018], ecx
        jne 9f
        cmp ecx, 60
        jne 2b
        mov ebp, 0x100110
        jmp ebp
    9:  mov ebp, 0x100120
        jmp ebp
    ")
}

fn ipi_other() -> crate::asm::Code {
    code32!(at 0x118000; "
        sti
        mov ebx, 0x210000
    1:  call ebx
        mov [0x7018], eax
        inc dword ptr [0x7010]
        jmp 1b
    ")
}

/// A processor that goes round and round sees, soon, that its loop is gone.
fn loop_boot() -> crate::asm::Code {
    code32!(at 0x110000; "
        mov ebp, 0x100100
        call ebp
        xor ecx, ecx
    1:  inc ecx
        mov word ptr [0x210000], 0xfeeb
        mov [0x7010], ecx
    2:  pause
        cmp [0x7014], ecx
        jne 2b
        mov edx, 3000
    3:  pause
        dec edx
        jnz 3b
        mov word ptr [0x210000], 0xc390
    4:  pause
        cmp [0x7018], ecx
        jne 4b
        cmp ecx, 20
        jne 1b
        mov ebp, 0x100110
        jmp ebp
    ")
}

fn loop_other() -> crate::asm::Code {
    code32!(at 0x118000; "
        mov esi, 0
    1:  inc esi
    2:  pause
        cmp [0x7010], esi
        jne 2b
        xor eax, eax
        cpuid
        mov [0x7014], esi
        mov eax, 0x210000
        call eax
        mov [0x7018], esi
        jmp 1b
    ")
}
