//! Loads of data and stack segment registers (SDM 3A 5.4 to 5.7, 2B "MOV").

use x86::descriptor::{check_data_load, check_stack_load};
use x86::{Exception, Segment, SegmentAttributes, SegmentName, Selector};

use super::stacks::null_stack;
use crate::cpu::{Cpu, Exec};

/// Access rights of all segments in virtual-8086 mode: present, writable data
/// at privilege level 3.
const V86_ATTRIBUTES: SegmentAttributes = SegmentAttributes::from_bits(0xf3);

/// A segment of virtual-8086 mode (SDM 3B 21.2.1).
pub(super) fn v86_segment(selector: u16) -> Segment {
    Segment { attributes: V86_ATTRIBUTES, ..Segment::real_mode(selector) }
}

impl Cpu {
    /// What loading `name` in real or virtual-8086 mode makes: limit and
    /// rights stay as they are.
    pub(super) fn real_segment(&self, name: SegmentName, selector: u16) -> Segment {
        let old = self.state.segment(name);
        Segment { base: u64::from(selector) << 4, selector: Selector(selector), ..*old }
    }

    /// Loads a segment register other than CS.
    pub(super) fn load_segment(&mut self, name: SegmentName, selector: Selector) -> Exec {
        let segment = if self.state.real_or_v86() {
            self.real_segment(name, selector.0)
        } else if name == SegmentName::Ss {
            self.stack_segment(selector)?
        } else {
            self.data_segment(selector)?
        };
        *self.state.segment_mut(name) = segment;
        self.refresh();
        Ok(())
    }

    fn data_segment(&mut self, selector: Selector) -> Exec<Segment> {
        if selector.is_null() {
            return Ok(Segment::null(selector));
        }
        let descriptor = self.descriptor(selector, Exception::gp)?;
        match check_data_load(descriptor, selector, self.cpl()) {
            Ok(()) => self.access(selector, descriptor),
            Err(fault) => Err(self.raise(fault)),
        }
    }

    /// A null SS is for 64-bit mode at CPL 0 to 2 only, with RPL = CPL.
    fn stack_segment(&mut self, selector: Selector) -> Exec<Segment> {
        let cpl = self.cpl();
        if selector.is_null() {
            if self.long && cpl != 3 && selector.rpl() == cpl {
                return Ok(null_stack(cpl));
            }
            return Err(self.gp0());
        }
        let descriptor = self.descriptor(selector, Exception::gp)?;
        match check_stack_load(descriptor, selector, cpl) {
            Ok(()) => self.access(selector, descriptor),
            Err(fault) => Err(self.raise(fault)),
        }
    }

    /// SS of a return to the outer level `cpl` (SDM 2A "IRET"): null is
    /// allowed on the way to 64-bit code at CPL 0 to 2.
    pub(super) fn outer_stack_segment(
        &mut self,
        selector: Selector,
        cpl: u8,
        to_64bit: bool,
    ) -> Exec<Segment> {
        if selector.is_null() {
            if to_64bit && cpl != 3 {
                return Ok(Segment { selector, ..null_stack(cpl) });
            }
            return Err(self.gp0());
        }
        let descriptor = self.descriptor(selector, Exception::gp)?;
        match check_stack_load(descriptor, selector, cpl) {
            Ok(()) => self.access(selector, descriptor),
            Err(fault) => Err(self.raise(fault)),
        }
    }

    /// Nulls the data segments that the outer level, which is the CPL by now,
    /// must not keep (SDM 3A 5.8.6). The base stays where it was: processors
    /// mark the register unusable, and 64-bit mode goes on to use that of FS
    /// and GS.
    pub(super) fn drop_inner_segments(&mut self) {
        let cpl = self.cpl();
        for name in DATA_SEGMENTS {
            let segment = self.state.segment_mut(name);
            if is_guarded(segment, cpl) {
                *segment = Segment { base: segment.base, ..Segment::null(Selector::NULL) };
            }
        }
        self.refresh();
    }

    /// Whether that would null none if `cpl` were the outer level.
    pub(super) fn keeps_segments_outside(&self, cpl: u8) -> bool {
        !DATA_SEGMENTS.iter().any(|&name| is_guarded(self.state.segment(name), cpl))
    }
}

/// Segments that an outer level may have to lose.
const DATA_SEGMENTS: [SegmentName; 4] = [SegmentName::Es, SegmentName::Fs, SegmentName::Gs, SegmentName::Ds];

fn is_guarded(segment: &Segment, cpl: u8) -> bool {
    let attributes = segment.attributes;
    attributes.present() && !attributes.is_conforming() && attributes.dpl() < cpl
}
