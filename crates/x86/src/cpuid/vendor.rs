//! Who made the processor, and what follows from it: where the manuals of Intel
//! and AMD do not say the same of an instruction that both have.
//!
//! A guest trusts what CPUID tells it, so that an engine does what the
//! processors of the vendor do that it shows.

/// Who made the processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vendor {
    /// GenuineIntel.
    Intel,
    /// AuthenticAMD, and HygonGenuine, its descendant.
    Amd,
    /// Any other; it is taken to do as Intel's do.
    Other,
}

impl Vendor {
    const fn is_amd(self) -> bool {
        matches!(self, Self::Amd)
    }

    /// Whether SYSCALL and SYSRET exist in compatibility mode (APM 3 SYSCALL;
    /// SDM 2B SYSCALL: in 64-bit mode only).
    pub const fn has_syscall_in_compatibility_mode(self) -> bool {
        self.is_amd()
    }

    /// Whether SYSENTER and SYSEXIT exist in long mode (SDM 2B SYSENTER; APM 3
    /// SYSENTER: in legacy mode only).
    pub const fn has_sysenter_in_long_mode(self) -> bool {
        !self.is_amd()
    }

    /// Whether an operand-size prefix gives near branches of 64-bit mode 16
    /// bits, and REX.W leaves far pointers in memory at 32 (APM 3 JMP, CALL,
    /// LSS; SDM 2A JMP: the prefix is ignored, and REX.W means 64 bits).
    pub const fn has_short_branches_in_64_bit_mode(self) -> bool {
        self.is_amd()
    }

    /// Whether an instruction breakpoint holds behind MOV SS and POP SS, or
    /// else their shadow hides it (SDM 3B 18.3.1.1).
    pub const fn breaks_in_shadow_of_mov_ss(self) -> bool {
        self.is_amd()
    }

    /// Whether opcode 0F 0D with a register is #UD (APM 3 PREFETCH) instead of
    /// a NOP that is reserved (SDM 2D table A-3).
    pub const fn refuses_prefetch_of_register(self) -> bool {
        self.is_amd()
    }

    /// Whether MOVSXD with operands of 16 bits reads 32 from memory (SDM 2B
    /// MOVSXD: 16; APM 3 MOVSXD knows a source of 32 bits alone).
    pub const fn reads_doubleword_in_short_movsxd(self) -> bool {
        self.is_amd()
    }

    /// Whether EFLAGS.AC wants vectors of 16 bytes and more at multiples of 16,
    /// where the instruction itself wants nothing (APM 2 8.2.18). Intel's
    /// processors check no more than 8 bytes (SDM 3A table 6-7).
    pub const fn checks_alignment_of_vectors(self) -> bool {
        self.is_amd()
    }
}
