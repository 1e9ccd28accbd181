//! Code segments as destinations (SDM 3A 5.8).

use x86::descriptor::Descriptor;
use x86::{Segment, SegmentName, Selector};

use super::descriptors::Fault;
use crate::cpu::{Cpu, Exec};

/// A destination that has passed all checks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target {
    /// CS, its RPL the new CPL.
    pub(super) code: Segment,
    /// Offset in it.
    pub(super) offset: u64,
}

impl Cpu {
    /// Whether a code segment makes 64-bit mode.
    pub(super) fn is_64bit(&self, code: &Segment) -> bool {
        self.state.long_mode() && code.attributes.long()
    }

    /// Whether L and D of a code segment contradict each other.
    pub(super) fn contradictory(&self, descriptor: Descriptor) -> bool {
        let attributes = descriptor.attributes();
        self.state.long_mode() && attributes.long() && attributes.db()
    }

    /// Checks of a direct far JMP or CALL to a code segment at the same
    /// privilege (SDM 3A 5.8.1).
    pub(super) fn check_direct(&mut self, selector: Selector, descriptor: Descriptor) -> Exec {
        use x86::Exception;
        let attributes = descriptor.attributes();
        let cpl = self.cpl();
        let allowed = if attributes.is_conforming() {
            attributes.dpl() <= cpl
        } else {
            attributes.dpl() == cpl && selector.rpl() <= cpl
        };
        if !attributes.is_code() || !allowed || self.contradictory(descriptor) {
            return self.selector_fault(Exception::gp, selector);
        }
        self.check_present(selector, descriptor)
    }

    /// #NP with the selector unless the segment is present.
    pub(super) fn check_present(&mut self, selector: Selector, descriptor: Descriptor) -> Exec {
        if descriptor.present() {
            return Ok(());
        }
        self.selector_fault(x86::Exception::np, selector)
    }

    /// Checks of the code segment that a return goes to (SDM 3A 5.8.6).
    pub(super) fn check_return(&mut self, selector: Selector) -> Exec<Descriptor> {
        use x86::Exception;
        if selector.is_null() {
            return Err(self.gp0());
        }
        let descriptor = self.descriptor(selector, Exception::gp)?;
        let (attributes, rpl) = (descriptor.attributes(), selector.rpl());
        let allowed =
            if attributes.is_conforming() { attributes.dpl() <= rpl } else { attributes.dpl() == rpl };
        if !attributes.is_code() || rpl < self.cpl() || !allowed || self.contradictory(descriptor) {
            return self.selector_fault(Exception::gp, selector);
        }
        self.check_present(selector, descriptor)?;
        Ok(descriptor)
    }

    /// Reads the code segment that a gate names.
    pub(super) fn gate_code(&mut self, selector: Selector, fault: Fault) -> Exec<Descriptor> {
        if selector.is_null() {
            return Err(self.raise(fault(0)));
        }
        let descriptor = self.descriptor(selector, fault)?;
        let attributes = descriptor.attributes();
        let long = self.state.long_mode();
        let fits = attributes.is_code() && attributes.dpl() <= self.cpl();
        if !fits || long && (!attributes.long() || attributes.db()) {
            return self.selector_fault(fault, selector);
        }
        self.check_present(selector, descriptor)?;
        Ok(descriptor)
    }

    /// The privilege level at which code reached through a gate runs.
    pub(super) fn level_in(&self, descriptor: Descriptor) -> u8 {
        if descriptor.attributes().is_conforming() { self.cpl() } else { descriptor.dpl() }
    }

    /// Makes the destination at privilege level `cpl`: #GP(0) if the offset is
    /// outside the segment or not canonical.
    pub(super) fn target(
        &mut self,
        selector: Selector,
        descriptor: Descriptor,
        offset: u64,
        cpl: u8,
    ) -> Exec<Target> {
        self.check_offset(&descriptor.segment(selector), offset)?;
        let mut code = self.access(selector, descriptor)?;
        code.selector = selector.with_rpl(cpl);
        Ok(Target { code, offset })
    }

    /// #GP(0) unless `offset` lies in the code segment.
    pub(super) fn check_offset(&mut self, code: &Segment, offset: u64) -> Exec {
        let inside =
            if self.is_64bit(code) { self.canonical(offset) } else { offset <= u64::from(code.limit) };
        if inside { Ok(()) } else { Err(self.gp0()) }
    }

    /// The destination of a far transfer in real and virtual-8086 mode: #GP(0)
    /// if the offset is beyond the limit.
    pub(super) fn real_target(&mut self, selector: u16, offset: u64) -> Exec<Target> {
        let code = self.real_segment(SegmentName::Cs, selector);
        self.check_offset(&code, offset)?;
        Ok(Target { code, offset })
    }

    /// Goes there. The CPL is that of SS, which the caller has set.
    pub(super) fn go(&mut self, target: Target) {
        *self.state.segment_mut(SegmentName::Cs) = target.code;
        self.next_rip = target.offset;
        self.refresh();
    }
}
