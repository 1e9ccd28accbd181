//! Processors that do no good, and what the machine's life looks like with
//! them.

use crate::asm::{Code, code32};
use crate::processors::{End, Several};

pub(super) fn guests() -> Vec<Several> {
    vec![
        Several::new("power_off_while_others_spin", 4, End::Pass, power_off(), spin()),
        Several::new("resets_while_others_spin", 3, End::Pass, resets(), spin()),
        Several::new("a_triple_fault_of_another", 3, End::TripleFault, spin_boot(), triple_fault()),
        Several::new("all_halt_for_good", 3, End::Never, halt_boot(), halt()),
        Several::new("all_spin", 3, End::Never, spin_boot(), spin()),
    ]
}

fn power_off() -> Code {
    code32!(at 0x110000; "
        mov ebp, 0x100100
        call ebp
        mov ebp, 0x100110
        jmp ebp
    ")
}

/// The memory behind 5 MiB outlasts a reset.
fn resets() -> Code {
    code32!(at 0x110000; "
        mov dword ptr [0x7000], 0
        mov ebp, 0x100100
        call ebp
        inc dword ptr [0x500000]
        cmp dword ptr [0x500000], 4
        je 1f
        mov dx, 0xcf9
        mov al, 6
        out dx, al
    2:  pause
        jmp 2b
    1:  mov ebp, 0x100110
        jmp ebp
    ")
}

fn spin_boot() -> Code {
    code32!(at 0x110000; "
        mov ebp, 0x100100
        call ebp
    1:  jmp 1b
    ")
}

fn spin() -> Code {
    code32!(at 0x118000; "cli; 1: jmp 1b")
}

/// An interrupt without a table.
fn triple_fault() -> Code {
    code32!(at 0x118000; "
        push 0
        push 0
        lidt [esp]
        int3
    ")
}

fn halt_boot() -> Code {
    code32!(at 0x110000; "
        mov ebp, 0x100100
        call ebp
    1:  cli
        hlt
        jmp 1b
    ")
}

fn halt() -> Code {
    code32!(at 0x118000; "1: cli; hlt; jmp 1b")
}
