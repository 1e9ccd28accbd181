//! Call, interrupt, trap and task gates (SDM 3A 5.8.3, 6.11, 6.14.1).

use super::Descriptor;
use crate::{Selector, SystemType};

/// A gate, from 8 bytes or, in IA-32e mode, 16.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gate {
    /// Which kind.
    pub kind: SystemType,
    /// Target code segment, or TSS of a task gate.
    pub selector: Selector,
    /// Target offset; 16 bits for 16-bit gates, 0 for task gates.
    pub offset: u64,
    /// Descriptor privilege level.
    pub dpl: u8,
    /// Present.
    pub present: bool,
    /// Parameters that a call gate copies; 0 in IA-32e mode.
    pub parameters: u8,
    /// Entry of the interrupt stack table, 0 for none; 0 outside IA-32e mode.
    pub ist: u8,
}

impl Gate {
    /// The gate in an 8-byte descriptor; `None` if it is none.
    pub const fn from_legacy(raw: u64) -> Option<Self> {
        let descriptor = Descriptor(raw);
        let Some(kind) = descriptor.system_type() else { return None };
        let low = raw & 0xffff;
        let (offset, parameters) = match kind {
            SystemType::CallGate16 => (low, raw >> 32 & 0x1f),
            SystemType::CallGate => (low | raw >> 32 & 0xffff_0000, raw >> 32 & 0x1f),
            SystemType::InterruptGate16 | SystemType::TrapGate16 => (low, 0),
            SystemType::InterruptGate | SystemType::TrapGate => (low | raw >> 32 & 0xffff_0000, 0),
            SystemType::TaskGate => (0, 0),
            _ => return None,
        };
        Some(Self {
            kind,
            selector: Selector((raw >> 16) as u16),
            offset,
            dpl: descriptor.dpl(),
            present: descriptor.present(),
            parameters: parameters as u8,
            ist: 0,
        })
    }

    /// The gate in a 16-byte descriptor of IA-32e mode, which has call,
    /// interrupt and trap gates only; `None` if it is none.
    pub const fn from_long(low: u64, high: u64) -> Option<Self> {
        let Some(gate) = Self::from_legacy(low) else { return None };
        let ist = match gate.kind {
            SystemType::CallGate => 0,
            SystemType::InterruptGate | SystemType::TrapGate => (low >> 32 & 7) as u8,
            _ => return None,
        };
        Some(Self { offset: gate.offset | high << 32, parameters: 0, ist, ..gate })
    }

    /// Whether it pushes and jumps in 16-bit units.
    pub const fn is_16bit(&self) -> bool {
        matches!(self.kind, SystemType::CallGate16 | SystemType::InterruptGate16 | SystemType::TrapGate16)
    }

    /// Whether entering it clears IF.
    pub const fn clears_if(&self) -> bool {
        matches!(self.kind, SystemType::InterruptGate16 | SystemType::InterruptGate)
    }

    /// Whether an IDT may hold it.
    pub const fn fits_idt(&self) -> bool {
        !matches!(self.kind, SystemType::CallGate16 | SystemType::CallGate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn legacy_gates() {
        let gate = Gate::from_legacy(0x1234_ef00_0008_5678).unwrap();
        assert_eq!((gate.kind, gate.offset, gate.dpl), (SystemType::TrapGate, 0x1234_5678, 3));
        assert!(gate.present && !gate.clears_if() && gate.fits_idt() && gate.selector.0 == 8);
        let gate = Gate::from_legacy(0x1234_8c1f_0010_5678).unwrap();
        assert_eq!((gate.kind, gate.parameters, gate.offset), (SystemType::CallGate, 31, 0x1234_5678));
        let gate = Gate::from_legacy(0x1234_8600_0010_5678).unwrap();
        assert_eq!((gate.offset, gate.is_16bit(), gate.clears_if()), (0x5678, true, true));
        let task = Gate::from_legacy(0x1234_6500_0018_5678).unwrap();
        assert_eq!((task.offset, task.present, task.dpl, task.selector.0), (0, false, 3, 0x18));
        for none in [0x00cf_9a00_0000_ffff, 0x0000_8900_0000_0067, 0x0000_8d00_0000_0000] {
            assert_eq!(Gate::from_legacy(none), None);
        }
    }

    #[test]
    fn long_gates_have_wide_offsets_and_stacks() {
        let gate = Gate::from_long(0x8100_8e03_0010_1234, 0xffff_ffff).unwrap();
        assert_eq!((gate.offset, gate.ist), (0xffff_ffff_8100_1234, 3));
        for kind in [0x84u64, 0x85, 0x86, 0x87] {
            assert_eq!(Gate::from_long(kind << 40, 0), None, "{kind:#x}");
        }
        assert_eq!(Gate::from_long(0x0000_8c1f_0010_0000, 1).map(|g| (g.parameters, g.ist)), Some((0, 0)));
    }
}
