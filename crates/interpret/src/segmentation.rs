//! From segment and offset to linear address (SDM 3A 3.4 and 5.3 to 5.5).

use x86::{Exception, Segment, SegmentName};

use crate::cpu::{Cpu, Exec};

impl Cpu {
    /// The linear address of `size` bytes at `segment:offset`, with all checks
    /// of the segment. Canonicality is checked where the page is looked up.
    #[inline(always)]
    pub(crate) fn linear(&mut self, segment: SegmentName, offset: u64, size: u64, write: bool) -> Exec<u64> {
        if self.long {
            return Ok(match segment {
                SegmentName::Fs | SegmentName::Gs => self.state.segment(segment).base.wrapping_add(offset),
                _ => offset,
            });
        }
        if self.flat >> (segment as u8) & 1 != 0 && offset.wrapping_add(size - 1) <= self.flat_end {
            return Ok(offset & 0xffff_ffff);
        }
        self.linear_checked(segment, offset, size, write)
    }

    /// The linear address of something that the segment does not allow.
    #[cold]
    pub(crate) fn without_checks(&self, segment: SegmentName, offset: u64) -> u64 {
        self.state.segment(segment).base.wrapping_add(offset) & self.linear_mask
    }

    #[cold]
    fn linear_checked(&mut self, segment: SegmentName, offset: u64, size: u64, write: bool) -> Exec<u64> {
        let register = *self.state.segment(segment);
        if self.permits(&register, write) && self.within_limit(&register, offset, size) {
            return Ok(register.base.wrapping_add(offset) & 0xffff_ffff);
        }
        let fault = if segment == SegmentName::Ss { Exception::ss(0) } else { Exception::gp(0) };
        Err(self.raise(fault))
    }

    /// Whether the segment allows everything that begins below 4 GiB, but not
    /// what goes on above.
    pub(crate) fn ends_at_4_gib(&self, segment: SegmentName, write: bool) -> bool {
        let register = self.state.segment(segment);
        let whole = register.limit == u32::MAX && !register.attributes.is_expand_down();
        !self.long && whole && self.flat_end != u64::MAX && self.permits(register, write)
    }

    /// Whether the segment's type allows the access. Real mode does not ask.
    fn permits(&self, segment: &Segment, write: bool) -> bool {
        if self.state.real_or_v86() {
            return true;
        }
        let attributes = segment.attributes;
        attributes.present() && if write { attributes.is_writable() } else { attributes.is_readable() }
    }

    /// Whether all of `offset..offset + size` lies inside the segment. With a
    /// limit of 4 GiB - 1 that is the vendor's affair.
    pub(crate) fn within_limit(&self, segment: &Segment, offset: u64, size: u64) -> bool {
        let last = offset.wrapping_add(size - 1);
        let limit = u64::from(segment.limit);
        if segment.attributes.is_expand_down() {
            let top = if segment.attributes.db() { 0xffff_ffff } else { 0xffff };
            offset > limit && last <= top && last >= offset
        } else {
            let wraps = segment.limit == u32::MAX && self.flat_end == u64::MAX;
            wraps || last <= limit && last >= offset
        }
    }
}
