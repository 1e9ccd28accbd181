//! Real-address mode (SDM 3B 21.1).

use x86::{Gpr::*, Rflags, Vector};

use crate::asm::code16;
use crate::env::real;
use crate::guest::guests;

guests! { "real";
    /// Registers and flags of plain arithmetic (SDM 2A, ADD).
    arithmetic: real(code16!("
        mov ax, 0x7fff
        add ax, 1
        out 0xf4, al
    ")).reg(Rax, 0x8000).flags(Rflags::ARITHMETIC, Rflags::OF | Rflags::SF | Rflags::PF | Rflags::AF);

    /// A word at offset FFFFh crosses the segment limit: #GP (SDM 3B 21.1.1).
    word_at_segment_end: real(code16!("
        mov bx, 0xffff
     7: mov ax, [bx]
    ")).event(Vector::GP);
}
