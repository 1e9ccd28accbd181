//! Port I/O and its protection (SDM 1 19).

use x86::{Gpr::*, Vector};

use crate::asm::{Code, code32, code64};
use crate::bench::Io;
use crate::env::{compatibility, protected32, user32, user64};
use crate::guest::{Guest, guests};
use crate::layout::*;

/// Ring 3 with the permission bits of ports E0h to E7h in `bits`.
fn permitted(code: Code, bits: u8) -> Guest {
    user32(code).bytes(TSS + TSS_IO_MAP + 0x1c, &[bits])
}

guests! { "io";
    /// All sizes, immediate and DX (SDM 2B, OUT).
    sizes: protected32(code32!("
        mov eax, 0x11223344
        mov edx, 0xe0
        out dx, al
        out dx, ax
        out dx, eax
        out 0xe1, al
        out 0xf4, al
    ")).io(&[
        Io::Out { port: 0xe0, size: 1, value: 0x44 },
        Io::Out { port: 0xe0, size: 2, value: 0x3344 },
        Io::Out { port: 0xe0, size: 4, value: 0x1122_3344 },
        Io::Out { port: 0xe1, size: 1, value: 0x44 },
    ]);

    /// IN changes as much of EAX as it reads (SDM 2A, IN).
    partial_registers: protected32(code32!("
        mov eax, 0xffffffff
        in al, 0xe8
        mov ebx, eax
        in ax, 0xe8
        mov ecx, eax
        in eax, 0xe8
        out 0xf4, al
    ")).reg(Rbx, 0xffff_ffd4).reg(Rcx, 0xffff_c4d5).reg(Rax, 0xa3b4_c5d6);

    /// A port without a device reads ones.
    empty_port: protected32(code32!("
        mov edx, 0x1234
        in eax, dx
        out 0xf4, al
    ")).reg(Rax, 0xffff_ffff).io(&[Io::In { port: 0x1234, size: 4, value: u32::MAX }]);

    /// What was written comes back.
    echo: protected32(code32!("
        mov eax, 0xcafe
        out 0xe4, ax
        xor eax, eax
        in ax, 0xe4
        out 0xf4, al
    ")).reg(Rax, 0xcafe);

    /// Ring 3 with IOPL 0 and a set permission bit: #GP(0) (SDM 1 19.5.2).
    denied: permitted(code32!("7: in al, 0xe0"), 0xff).fault(Vector::GP, 0).io(&[]);

    /// With a clear bit it may (SDM 1 19.5.2).
    permitted_by_map: permitted(code32!("
        mov al, 5
        out 0xe0, al
     7: ud2
    "), 0xfe).event(Vector::UD).reports(&[5]);

    /// A wider access needs all its bits (SDM 1 19.5.2).
    needs_all_bits: permitted(code32!("7: in eax, 0xe4"), 0x4f).fault(Vector::GP, 0);

    /// With all of them it may.
    four_clear_bits: permitted(code32!("
        in eax, 0xe4
     7: ud2
    "), 0x0f).event(Vector::UD);

    /// A bitmap that ends before the port's bits: #GP(0) (SDM 1 19.5.2).
    beyond_map: user32(code32!("
        mov edx, 0x400
     7: in al, dx
    ")).fault(Vector::GP, 0);

    /// Two bytes are read from the map: it must be inside the TSS (SDM 1
    /// 19.5.2).
    last_byte_of_map: permitted(code32!("7: in al, 0xf8"), 0).bytes(TSS + TSS_IO_MAP + 0x1f, &[0])
        .patch(|s| s.tr.limit = (TSS_IO_MAP + 0x1f) as u32).fault(Vector::GP, 0);

    /// A map base beyond the limit permits nothing (SDM 1 19.5.2).
    no_map: permitted(code32!("7: in al, 0xe0"), 0).word(TSS + 0x66, 0x1000).fault(Vector::GP, 0);

    /// IOPL 3 permits everything (SDM 1 19.5.1).
    iopl: permitted(code32!("
        in al, 0xe4
     7: ud2
    "), 0xff).iopl(3).event(Vector::UD).io(&[Io::In { port: 0xe4, size: 1, value: 0 }]);

    /// 64-bit mode asks the map of the 64-bit TSS (SDM 1 19.5.2).
    long_mode: user64(code64!("
        mov al, 6
        out 0xe0, al
     7: out 0xe1, al
    ")).bytes(TSS + TSS_IO_MAP + 0x1c, &[0xfe]).fault(Vector::GP, 0).reports(&[6]);

    /// So does compatibility mode.
    compatibility_mode: compatibility(code32!("
        mov al, 6
        out 0xe0, al
     7: out 0xe1, al
    ")).bytes(TSS + TSS_IO_MAP + 0x1c, &[0xfe]).fault(Vector::GP, 0).reports(&[6]);

    /// String I/O to memory-mapped I/O.
    ins_to_mmio: protected32(code32!("
        mov edi, 0x10000004
        mov edx, 0xe8
        insd
        out 0xf4, al
    ")).io(&[
        Io::In { port: 0xe8, size: 4, value: 0xa1b2_c3d4 },
        Io::Store { at: MMIO + 4, size: 4, value: 0xa1b2_c3d4 },
    ]);

    /// REP MOVS between memory-mapped I/O and memory goes element by element.
    copy_from_mmio: protected32(code32!("
        mov esi, 0x10000000
        mov edi, 0xd000
        mov ecx, 2
        rep movsw
        out 0xf4, al
    ")).mem32(DATA, 0x5958_5b5a).io(&[Io::Load { at: MMIO, size: 2 }, Io::Load { at: MMIO + 2, size: 2 }]);
}
