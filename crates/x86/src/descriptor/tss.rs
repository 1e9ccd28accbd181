//! Task-state segments: where their fields lie (SDM 3A 7.2.1, 7.6, 7.7).

use crate::SystemType;

/// The three layouts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TssKind {
    /// 16-bit.
    Bits16,
    /// 32-bit.
    Bits32,
    /// 64-bit: stacks only.
    Bits64,
}

/// Offset of the link to the previous task, in all layouts but the 64-bit one.
pub const LINK: u64 = 0;

/// Fields of the 16-bit TSS (SDM 3A figure 7-10); general registers from
/// [`AX`](tss16::AX) and segment registers from [`ES`](tss16::ES) follow in
/// their numbers' order, two bytes each.
#[allow(missing_docs, reason = "the manual's names")]
pub mod tss16 {
    pub const SP0: u64 = 2;
    pub const SS0: u64 = 4;
    pub const IP: u64 = 14;
    pub const FLAGS: u64 = 16;
    pub const AX: u64 = 18;
    pub const ES: u64 = 34;
    pub const LDT: u64 = 42;
}

/// Fields of the 32-bit TSS (SDM 3A figure 7-2); general registers from
/// [`EAX`](tss32::EAX) and segment registers from [`ES`](tss32::ES) follow in
/// their numbers' order, four bytes each.
#[allow(missing_docs, reason = "the manual's names")]
pub mod tss32 {
    pub const ESP0: u64 = 4;
    pub const SS0: u64 = 8;
    pub const CR3: u64 = 28;
    pub const EIP: u64 = 32;
    pub const EFLAGS: u64 = 36;
    pub const EAX: u64 = 40;
    pub const ES: u64 = 72;
    pub const LDT: u64 = 96;
    /// Bit 0 raises #DB on a switch to the task.
    pub const DEBUG_TRAP: u64 = 100;
    pub const IO_MAP_BASE: u64 = 102;
}

/// Fields of the 64-bit TSS (SDM 3A figure 7-11).
#[allow(missing_docs, reason = "the manual's names")]
pub mod tss64 {
    pub const RSP0: u64 = 4;
    pub const IST1: u64 = 36;
    pub const IO_MAP_BASE: u64 = 102;
}

/// Where a TSS keeps the stack of a privilege level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StackSlot {
    /// Offset of the stack pointer.
    pub pointer: u64,
    /// Bytes of the stack pointer.
    pub pointer_size: u64,
    /// Offset of the stack segment; `None` in the 64-bit TSS.
    pub segment: Option<u64>,
}

impl StackSlot {
    /// Offset of the last byte that reading it touches; beyond the TSS limit
    /// it is #TS.
    pub const fn last_byte(&self) -> u64 {
        match self.segment {
            Some(segment) => segment + 1,
            None => self.pointer + self.pointer_size - 1,
        }
    }
}

impl TssKind {
    /// The layout of a TSS with this descriptor type.
    pub const fn of(kind: SystemType, long_mode: bool) -> Option<Self> {
        match kind {
            SystemType::TssAvailable16 | SystemType::TssBusy16 if !long_mode => Some(Self::Bits16),
            SystemType::TssAvailable | SystemType::TssBusy => {
                Some(if long_mode { Self::Bits64 } else { Self::Bits32 })
            }
            _ => None,
        }
    }

    /// The smallest limit that a task switch accepts (SDM 3A 7.2.2).
    pub const fn min_limit(self) -> u32 {
        match self {
            Self::Bits16 => 0x2b,
            Self::Bits32 | Self::Bits64 => 0x67,
        }
    }

    /// The stack of privilege level `cpl`, 0 to 2.
    pub const fn stack(self, cpl: u8) -> StackSlot {
        let level = (cpl & 3) as u64;
        match self {
            Self::Bits16 => StackSlot {
                pointer: tss16::SP0 + 4 * level,
                pointer_size: 2,
                segment: Some(tss16::SS0 + 4 * level),
            },
            Self::Bits32 => StackSlot {
                pointer: tss32::ESP0 + 8 * level,
                pointer_size: 4,
                segment: Some(tss32::SS0 + 8 * level),
            },
            Self::Bits64 => StackSlot { pointer: tss64::RSP0 + 8 * level, pointer_size: 8, segment: None },
        }
    }

    /// The stack of interrupt stack table entry `ist`, 1 to 7; 64-bit TSS only.
    pub const fn interrupt_stack(ist: u8) -> StackSlot {
        let entry = (ist & 7).saturating_sub(1) as u64;
        StackSlot { pointer: tss64::IST1 + 8 * entry, pointer_size: 8, segment: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stacks_lie_where_the_manual_draws_them() {
        let slot = TssKind::Bits16.stack(2);
        assert_eq!((slot.pointer, slot.segment, slot.last_byte()), (10, Some(12), 13));
        let slot = TssKind::Bits32.stack(1);
        assert_eq!((slot.pointer, slot.segment, slot.last_byte()), (12, Some(16), 17));
        let slot = TssKind::Bits64.stack(0);
        assert_eq!((slot.pointer, slot.segment, slot.last_byte()), (4, None, 11));
        assert_eq!(TssKind::interrupt_stack(7).last_byte(), 91);
    }

    #[test]
    fn the_layouts_fill_their_limits() {
        assert_eq!(tss16::LDT + 1, u64::from(TssKind::Bits16.min_limit()));
        assert_eq!(tss32::IO_MAP_BASE + 1, u64::from(TssKind::Bits32.min_limit()));
        assert_eq!(tss16::AX + 16, tss16::ES);
        assert_eq!(tss32::EAX + 32, tss32::ES);
        assert_eq!(tss32::ES + 24, tss32::LDT);
    }

    #[test]
    fn the_type_tells_the_layout() {
        assert_eq!(TssKind::of(SystemType::TssBusy16, false), Some(TssKind::Bits16));
        assert_eq!(TssKind::of(SystemType::TssBusy16, true), None);
        assert_eq!(TssKind::of(SystemType::TssAvailable, true), Some(TssKind::Bits64));
        assert_eq!(TssKind::of(SystemType::Ldt, false), None);
    }
}
