//! Descriptors, gates and task-state segments as they lie in memory, and the
//! checks of SDM 3A chapter 5 that need nothing but a descriptor.

mod checks;
mod gate;
pub mod tss;

pub use checks::{
    check_data_load, check_ldt_load, check_stack_load, check_tss_load, lar_allows, lsl_allows, verr_allows,
    verw_allows,
};
pub use gate::Gate;

use crate::{Segment, SegmentAttributes, Selector, SystemType};

/// An 8-byte descriptor, or the lower half of a 16-byte one (SDM 3A 3.4.5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Descriptor(pub u64);

impl Descriptor {
    /// The accessed bit of code and data segments, in the second byte of the
    /// upper half.
    pub const ACCESSED: u64 = 1 << 40;
    /// The busy bit of TSS descriptors.
    pub const BUSY: u64 = 1 << 41;

    /// Base address; 32 bits of it.
    pub const fn base(self) -> u64 {
        self.0 >> 16 & 0xff_ffff | self.0 >> 32 & 0xff00_0000
    }

    /// Base address of a 16-byte system descriptor whose upper half is `high`.
    pub const fn base64(self, high: u64) -> u64 {
        self.base() | high << 32
    }

    /// Limit in bytes, granularity applied.
    pub const fn limit(self) -> u32 {
        Segment::from_descriptor(Selector::NULL, self.0).limit
    }

    /// Type, privilege level, presence and flags.
    pub const fn attributes(self) -> SegmentAttributes {
        SegmentAttributes::from_bits((self.0 >> 40) as u16 & 0xf0ff)
    }

    /// The system type, unless it is a code or data segment or reserved.
    pub const fn system_type(self) -> Option<SystemType> {
        let attributes = self.attributes();
        if attributes.code_or_data() { None } else { SystemType::from_kind(attributes.kind()) }
    }

    /// Descriptor privilege level.
    pub const fn dpl(self) -> u8 {
        self.attributes().dpl()
    }

    /// Present.
    pub const fn present(self) -> bool {
        self.attributes().present()
    }

    /// The same with the accessed bit set, as loading a segment writes it back.
    pub const fn accessed(self) -> Self {
        Self(self.0 | Self::ACCESSED)
    }

    /// The same with the busy bit set or clear.
    pub const fn with_busy(self, busy: bool) -> Self {
        Self(if busy { self.0 | Self::BUSY } else { self.0 & !Self::BUSY })
    }

    /// The register contents that loading it with `selector` makes.
    pub const fn segment(self, selector: Selector) -> Segment {
        Segment::from_descriptor(selector, self.0)
    }

    /// The register contents of a system segment in IA-32e mode, from both
    /// halves of its descriptor.
    pub const fn system_segment64(self, high: u64, selector: Selector) -> Segment {
        let mut segment = self.segment(selector);
        segment.base = self.base64(high);
        segment
    }
}

/// Whether the upper half of a 16-byte descriptor is well-formed: its type
/// field, bits 8 to 12 of the last doubleword, must be 0 (SDM 3A 8.2.3).
pub const fn upper_half_is_valid(high: u64) -> bool {
    high >> 40 & 0x1f == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_gathered_from_their_pieces() {
        let descriptor = Descriptor(0x1245_8b00_6789_abcd);
        assert_eq!((descriptor.base(), descriptor.limit()), (0x1200_6789, 0x5_abcd));
        assert_eq!(descriptor.system_type(), Some(SystemType::TssBusy));
        assert!(descriptor.present() && descriptor.dpl() == 0);
        assert_eq!(descriptor.with_busy(false).system_type(), Some(SystemType::TssAvailable));
        assert_eq!(descriptor.base64(0xffff_8888), 0xffff_8888_1200_6789);
        let segment = descriptor.system_segment64(0xffff_8888, Selector(0x40));
        assert_eq!((segment.base, segment.limit), (0xffff_8888_1200_6789, 0x5_abcd));
    }

    #[test]
    fn code_and_data_have_no_system_type() {
        let code = Descriptor(0x00af_9a00_0000_ffff);
        assert_eq!(code.system_type(), None);
        assert_eq!(code.accessed().attributes().kind(), 0xb);
        assert_eq!(code.limit(), u32::MAX);
    }

    #[test]
    fn the_upper_halfs_type_is_zero() {
        assert!(upper_half_is_valid(0xffff_8000));
        assert!(!upper_half_is_valid(1 << 40));
        assert!(upper_half_is_valid(1 << 45));
    }
}
