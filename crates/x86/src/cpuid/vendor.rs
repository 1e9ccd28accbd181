//! Who made the processor, and what follows from it: where the processors of
//! Intel and AMD do not do the same with an instruction that both have.
//!
//! A guest trusts what CPUID tells it, so that an engine does what the
//! processors of the vendor do that it shows. Where a manual is named below, it
//! says so; the rest the manuals leave open, and is what processors do.

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

    /// Whether an access that begins below 4 GiB and ends above wraps around in
    /// a segment with the highest limit, or else is outside of it. SDM 3A 5.3
    /// leaves that open.
    pub const fn wraps_at_4_gib(self) -> bool {
        !self.is_amd()
    }

    /// Whether a fault in a repeated comparison gives the flags back that the
    /// instruction began with (SDM 2B REP), or else leaves those of the last
    /// comparison.
    pub const fn restores_flags_of_repetition(self) -> bool {
        !self.is_amd()
    }

    /// Whether a repeated instruction with a 32-bit count that comes to
    /// nothing, for the count is 0 or its first element faults, clears the
    /// upper half of RCX all the same.
    pub const fn extends_count_of_nothing(self) -> bool {
        !self.is_amd()
    }

    /// Whether REPE CMPSB reads its source before its destination, which tells
    /// which of two bad operands faults. All other comparisons begin with the
    /// destination.
    pub const fn reads_source_first_in_repe_cmpsb(self) -> bool {
        self.is_amd()
    }

    /// Whether EFLAGS.AC wants vectors of 16 bytes and more at multiples of 16,
    /// where the instruction itself wants nothing (APM 2 8.2.18). Intel's
    /// processors check no more than 8 bytes (SDM 3A table 6-7).
    pub const fn checks_alignment_of_vectors(self) -> bool {
        self.is_amd()
    }

    /// Whether each element that a mask selects is checked for itself: its
    /// alignment and that it ends within its segment. If not, the whole operand
    /// is.
    pub const fn checks_masked_elements(self) -> bool {
        self.is_amd()
    }

    /// Whether FLDENV and FRSTOR look for the page of their first field before
    /// they find that the last one is outside the segment.
    pub const fn loads_environment_field_by_field(self) -> bool {
        self.is_amd()
    }

    /// Whether fields of EVEX that mean nothing are ignored: V' outside of
    /// 64-bit mode, and b beside a register in the place of memory that could
    /// be broadcast. If not, they are #UD (SDM 2A 2.7.11).
    pub const fn ignores_evex_fields(self) -> bool {
        self.is_amd()
    }

    /// Whether MASKMOVDQU reaches its upper quadword first.
    pub const fn masks_upper_quadword_first(self) -> bool {
        !self.is_amd()
    }
}
