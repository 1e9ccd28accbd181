//! Selectors and the cached (hidden) part of segment registers (SDM 3A 3.4).

use bitfield_struct::bitfield;
use serde::{Deserialize, Serialize};

/// A segment selector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Selector(pub u16);

impl Selector {
    /// The null selector.
    pub const NULL: Self = Self(0);

    /// Requested privilege level.
    pub const fn rpl(self) -> u8 {
        (self.0 & 3) as u8
    }

    /// The same selector with another RPL.
    pub const fn with_rpl(self, rpl: u8) -> Self {
        Self(self.0 & !3 | (rpl & 3) as u16)
    }

    /// Whether it refers to the LDT.
    pub const fn is_ldt(self) -> bool {
        self.0 & 4 != 0
    }

    /// Offset of the descriptor in its table.
    pub const fn offset(self) -> u64 {
        (self.0 & !7) as u64
    }

    /// Whether it is a null selector (any RPL).
    pub const fn is_null(self) -> bool {
        self.0 & !3 == 0
    }

    /// The selector part of an error code.
    pub const fn error_code(self) -> u32 {
        (self.0 & !3) as u32
    }
}

/// The six segment registers, by their number in instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[allow(missing_docs, reason = "the registers' names")]
pub enum SegmentName {
    Es = 0,
    Cs = 1,
    Ss = 2,
    Ds = 3,
    Fs = 4,
    Gs = 5,
}

impl SegmentName {
    /// All six, by number.
    pub const ALL: [Self; 6] = [Self::Es, Self::Cs, Self::Ss, Self::Ds, Self::Fs, Self::Gs];
}

/// Segment attributes, laid out as bits 8 to 23 of a descriptor's upper half
/// with the limit's four bits left out: the VMX access-rights format (SDM 3C
/// table 25-2).
#[bitfield(u16, order = Lsb)]
#[derive(PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentAttributes {
    /// Segment type.
    #[bits(4)]
    pub kind: u8,
    /// Code or data (clear for a system segment).
    pub code_or_data: bool,
    /// Descriptor privilege level.
    #[bits(2)]
    pub dpl: u8,
    /// Present. Clear in a register that holds a null selector.
    pub present: bool,
    #[bits(4)]
    __: u8,
    /// Available to software.
    pub avl: bool,
    /// 64-bit code segment.
    pub long: bool,
    /// Default operation size (code), big stack pointer (data): 32 bits.
    pub db: bool,
    /// Limit counts 4 KiB pages.
    pub granularity: bool,
}

impl SegmentAttributes {
    /// A code segment.
    pub const fn is_code(self) -> bool {
        self.code_or_data() && self.kind() & 8 != 0
    }

    /// A data segment.
    pub const fn is_data(self) -> bool {
        self.code_or_data() && self.kind() & 8 == 0
    }

    /// A conforming code segment.
    pub const fn is_conforming(self) -> bool {
        self.is_code() && self.kind() & 4 != 0
    }

    /// An expand-down data segment.
    pub const fn is_expand_down(self) -> bool {
        self.is_data() && self.kind() & 4 != 0
    }

    /// A data segment, or a readable code segment.
    pub const fn is_readable(self) -> bool {
        self.is_data() || self.is_code() && self.kind() & 2 != 0
    }

    /// A writable data segment.
    pub const fn is_writable(self) -> bool {
        self.is_data() && self.kind() & 2 != 0
    }
}

/// Types of system segments and gates (SDM 3A table 3-2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the manual's names, in its order")]
pub enum SystemType {
    TssAvailable16 = 1,
    Ldt = 2,
    TssBusy16 = 3,
    CallGate16 = 4,
    TaskGate = 5,
    InterruptGate16 = 6,
    TrapGate16 = 7,
    TssAvailable = 9,
    TssBusy = 11,
    CallGate = 12,
    InterruptGate = 14,
    TrapGate = 15,
}

impl SystemType {
    /// The type with number `kind`, unless reserved.
    pub const fn from_kind(kind: u8) -> Option<Self> {
        Some(match kind {
            1 => Self::TssAvailable16,
            2 => Self::Ldt,
            3 => Self::TssBusy16,
            4 => Self::CallGate16,
            5 => Self::TaskGate,
            6 => Self::InterruptGate16,
            7 => Self::TrapGate16,
            9 => Self::TssAvailable,
            11 => Self::TssBusy,
            12 => Self::CallGate,
            14 => Self::InterruptGate,
            15 => Self::TrapGate,
            _ => return None,
        })
    }
}

/// A segment register: selector and cached descriptor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[repr(C)]
pub struct Segment {
    /// Base address.
    pub base: u64,
    /// Limit in bytes, granularity already applied.
    pub limit: u32,
    /// The visible selector.
    pub selector: Selector,
    /// Access rights.
    pub attributes: SegmentAttributes,
}

impl Segment {
    /// Writable data, present, all of 4 GiB upwards from the base.
    pub const fn is_plain_data(&self) -> bool {
        let attributes = self.attributes;
        self.limit == u32::MAX
            && attributes.present()
            && attributes.is_writable()
            && !attributes.is_expand_down()
    }

    /// A segment as real mode (and virtual-8086 mode) makes it.
    pub const fn real_mode(selector: u16) -> Self {
        Self {
            base: (selector as u64) << 4,
            limit: 0xffff,
            selector: Selector(selector),
            attributes: SegmentAttributes::from_bits(0x93),
        }
    }

    /// A register that holds a null selector.
    pub const fn null(selector: Selector) -> Self {
        Self { base: 0, limit: 0, selector, attributes: SegmentAttributes::new() }
    }

    /// Builds a register from an 8-byte descriptor; granularity is applied.
    pub const fn from_descriptor(selector: Selector, raw: u64) -> Self {
        let attributes = SegmentAttributes::from_bits((raw >> 40) as u16 & 0xf0ff);
        let limit = (raw & 0xffff | raw >> 32 & 0xf_0000) as u32;
        let limit = if attributes.granularity() { limit << 12 | 0xfff } else { limit };
        let base = raw >> 16 & 0xff_ffff | raw >> 32 & 0xff00_0000;
        Self { base, limit, selector, attributes }
    }
}

/// GDTR or IDTR.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[repr(C)]
pub struct DescriptorTable {
    /// Linear base address.
    pub base: u64,
    /// Offset of the last byte.
    pub limit: u16,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flat_code_descriptor_decodes() {
        let seg = Segment::from_descriptor(Selector(8), 0x00cf_9b00_0000_ffff);
        assert_eq!((seg.base, seg.limit), (0, u32::MAX));
        assert!(seg.attributes.is_code() && seg.attributes.db() && seg.attributes.present());
        assert!(!seg.attributes.long() && seg.attributes.granularity());
    }

    #[test]
    fn base_and_limit_are_gathered_from_their_pieces() {
        let seg = Segment::from_descriptor(Selector(8), 0x1245_9300_6789_abcd);
        assert_eq!((seg.base, seg.limit), (0x1200_6789, 0x5_abcd));
    }
}
