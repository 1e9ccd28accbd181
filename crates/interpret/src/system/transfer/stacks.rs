//! The stacks of the privilege levels, as the TSS holds them (SDM 3A 5.8.5,
//! 6.12.1, 6.14.4).

use x86::descriptor::tss::{StackSlot, TssKind};
use x86::{Exception, Segment, SegmentAttributes, Selector, SystemType};

use crate::cpu::{Cpu, Exec};

impl Cpu {
    /// The layout of the current TSS.
    fn tss_kind(&self) -> TssKind {
        let kind = SystemType::from_kind(self.state.tr.attributes.kind());
        kind.and_then(|kind| TssKind::of(kind, self.state.long_mode())).unwrap_or(TssKind::Bits32)
    }

    /// #TS with TR's selector unless the TSS reaches as far as `slot`.
    fn check_slot(&mut self, slot: &StackSlot) -> Exec {
        if slot.last_byte() <= u64::from(self.state.tr.limit) {
            return Ok(());
        }
        self.selector_fault(Exception::ts, self.state.tr.selector)
    }

    /// Reads the stack of privilege level `cpl` from a 16- or 32-bit TSS and
    /// checks its segment.
    pub(super) fn inner_stack(&mut self, cpl: u8) -> Exec<(Segment, u64)> {
        let slot = self.tss_kind().stack(cpl);
        self.check_slot(&slot)?;
        let base = self.state.tr.base;
        let pointer = base.wrapping_add(slot.pointer);
        let sp = if slot.pointer_size == 2 {
            u64::from(self.read_system::<u16>(pointer)?)
        } else {
            u64::from(self.read_system::<u32>(pointer)?)
        };
        let at = base.wrapping_add(slot.segment.unwrap_or(0));
        let selector = Selector(self.read_system(at)?);
        Ok((self.inner_stack_segment(selector, cpl)?, sp))
    }

    fn inner_stack_segment(&mut self, selector: Selector, cpl: u8) -> Exec<Segment> {
        if selector.is_null() {
            return Err(self.raise(Exception::ts(0)));
        }
        let descriptor = self.descriptor(selector, Exception::ts)?;
        let attributes = descriptor.attributes();
        if selector.rpl() != cpl || attributes.dpl() != cpl || !attributes.is_writable() {
            return self.selector_fault(Exception::ts, selector);
        }
        if !attributes.present() {
            return self.selector_fault(Exception::ss, selector);
        }
        self.access(selector, descriptor)
    }

    /// Reads RSP of privilege level `cpl` from the 64-bit TSS.
    pub(super) fn inner_rsp(&mut self, cpl: u8) -> Exec<u64> {
        self.tss_rsp(&TssKind::Bits64.stack(cpl))
    }

    /// Reads an entry, 1 to 7, of the interrupt stack table.
    pub(super) fn interrupt_stack(&mut self, ist: u8) -> Exec<u64> {
        self.tss_rsp(&TssKind::interrupt_stack(ist))
    }

    fn tss_rsp(&mut self, slot: &StackSlot) -> Exec<u64> {
        self.check_slot(slot)?;
        let rsp = self.read_system(self.state.tr.base.wrapping_add(slot.pointer))?;
        if self.canonical(rsp) { Ok(rsp) } else { Err(self.raise(Exception::ss(0))) }
    }
}

/// SS after a transfer to an inner level in IA-32e mode: null, with the level
/// as RPL (SDM 3A 5.8.5.1).
pub(super) fn null_stack(cpl: u8) -> Segment {
    Segment {
        selector: Selector(u16::from(cpl)),
        attributes: SegmentAttributes::new().with_dpl(cpl),
        ..Segment::default()
    }
}
