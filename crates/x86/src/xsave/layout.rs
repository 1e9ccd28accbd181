//! Sizes and offsets of the state components (SDM 1 13.4, 13.5).

use super::{LEGACY_SIZE, MIN_SIZE};
use crate::Xcr0;
use crate::cpuid::HostCpuid;

/// The place of one extended state component, as in CPUID leaf 0xD.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Component {
    /// Bytes.
    pub size: u32,
    /// Offset in the standard format.
    pub offset: u32,
    /// Starts at a multiple of 64 bytes in the compacted format.
    pub align64: bool,
}

/// The places of all components, by their bit in XCR0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct XsaveLayout {
    components: [Component; 10],
}

/// Sizes of the components that we know; 0 for the others.
const SIZES: [u32; 10] = [0, 0, 256, 0, 0, 64, 512, 1024, 0, 8];

const fn at(size: u32, offset: u32) -> Component {
    Component { size, offset, align64: false }
}

const NONE: Component = at(0, 0);

impl XsaveLayout {
    /// The layout of Intel's processors, MPX's gap included.
    pub const INTEL: Self = Self {
        components: [
            NONE,
            NONE,
            at(256, 576),
            NONE,
            NONE,
            at(64, 1088),
            at(512, 1152),
            at(1024, 1664),
            NONE,
            at(8, 2688),
        ],
    };

    /// The host's layout, so that areas written by host instructions and by
    /// ours agree. AMD has the components of AVX-512 elsewhere than Intel.
    /// What the host lacks, or reports senselessly, is where Intel has it.
    pub fn of_host(host: &dyn HostCpuid) -> Self {
        let mut layout = Self::INTEL;
        if host.cpuid(0, 0).eax < 0xd {
            return layout;
        }
        for (index, slot) in layout.components.iter_mut().enumerate() {
            let leaf = host.cpuid(0xd, index as u32);
            let sane =
                SIZES[index] != 0 && leaf.eax == SIZES[index] && (MIN_SIZE..0x4000).contains(&leaf.ebx);
            if sane {
                *slot = Component { size: leaf.eax, offset: leaf.ebx, align64: leaf.ecx & 2 != 0 };
            }
        }
        if layout.overlaps() { Self::INTEL } else { layout }
    }

    fn overlaps(&self) -> bool {
        let mut ranges: Vec<(u32, u32)> =
            self.components.iter().filter(|c| c.size != 0).map(|c| (c.offset, c.offset + c.size)).collect();
        ranges.sort_unstable();
        ranges.windows(2).any(|pair| pair[0].1 > pair[1].0)
    }

    /// The component with number `index`, from 2 up.
    pub fn component(&self, index: u32) -> Option<Component> {
        self.components.get(index as usize).copied().filter(|component| component.size != 0)
    }

    /// Bytes of an area in standard format that can hold the components in
    /// `mask`.
    pub fn standard_size(&self, mask: Xcr0) -> u32 {
        (2..10)
            .filter(|&i| mask.bits() >> i & 1 != 0)
            .filter_map(|i| self.component(i))
            .fold(MIN_SIZE, |size, component| size.max(component.offset + component.size))
    }

    /// Bytes of an area in compacted format whose XCOMP_BV is `mask`.
    pub fn compacted_size(&self, mask: Xcr0) -> u32 {
        self.compacted_offset(mask, 10)
    }

    /// Where component `index` starts in an area whose XCOMP_BV is `mask`, or
    /// where the area ends for an index above all components.
    pub(super) fn compacted_offset(&self, mask: Xcr0, index: u32) -> u32 {
        let align = |offset: u32, align64: bool| if align64 { offset.next_multiple_of(64) } else { offset };
        let end = (2..index.min(10))
            .filter(|&i| mask.bits() >> i & 1 != 0)
            .filter_map(|i| self.component(i))
            .fold(LEGACY_SIZE + 64, |offset, component| align(offset, component.align64) + component.size);
        align(end, self.component(index).is_some_and(|component| component.align64))
    }
}
