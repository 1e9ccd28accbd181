//! What a transfer pushes, on a stack that may not be the current one yet.

use x86::{Exception, Segment, SegmentName};

use crate::cpu::{Break, Cpu, Exec, mask};
use crate::tlb::View;

/// Parameters of a call gate, and CS:IP, SS:SP and an error code.
const MAX_ITEMS: usize = 40;
/// SS:RSP, RFLAGS, CS:RIP and an error code.
const MAX_LONG_ITEMS: usize = 6;

/// A frame that is gathered first and written when it is complete, so that no
/// part of it is in memory if it does not fit.
pub(super) struct Frame<const ITEMS: usize = MAX_ITEMS> {
    stack: Segment,
    mask: u64,
    sp: u64,
    view: View,
    /// Error code of a stack fault.
    code: u32,
    items: [(u64, u64, u8); ITEMS],
    len: usize,
}

impl Frame {
    /// A frame on the current stack.
    pub(super) fn here(cpu: &Cpu) -> Self {
        let stack = *cpu.state.segment(SegmentName::Ss);
        Self::with(stack, cpu.stack_mask, cpu.stack_pointer(), cpu.view, 0)
    }

    /// A frame on another privilege level's stack; stack faults carry its
    /// selector.
    pub(super) fn inner(cpu: &Cpu, stack: Segment, sp: u64) -> Self {
        let mask = if stack.attributes.db() { 0xffff_ffff } else { 0xffff };
        let view = cpu.view_at(stack.attributes.dpl());
        Self::with(stack, mask, sp & mask, view, stack.selector.error_code())
    }
}

impl Frame<MAX_LONG_ITEMS> {
    /// A frame on a flat 64-bit stack of privilege level `cpl`.
    pub(super) fn long(cpu: &Cpu, sp: u64, cpl: u8) -> Self {
        let view = if cpl == cpu.cpl() { cpu.view } else { cpu.view_at(cpl) };
        Self::with(Segment::default(), u64::MAX, sp, view, 0)
    }
}

impl<const ITEMS: usize> Frame<ITEMS> {
    fn with(stack: Segment, mask: u64, sp: u64, view: View, code: u32) -> Self {
        Self { stack, mask, sp, view, code, items: [(0, 0, 0); ITEMS], len: 0 }
    }

    /// Adds `bytes` bytes of `value` below what is there.
    pub(super) fn push(&mut self, bytes: u8, value: u64) {
        self.sp = self.sp.wrapping_sub(u64::from(bytes)) & self.mask;
        if let Some(item) = self.items.get_mut(self.len) {
            *item = (self.sp, value & mask(bytes), bytes);
            self.len += 1;
        }
    }

    /// Checks all of the frame, then writes it; gives the new stack pointer.
    pub(super) fn write(&self, cpu: &mut Cpu) -> Exec<u64> {
        for &(offset, _, bytes) in &self.items[..self.len] {
            let lin = self.linear(cpu, offset, u64::from(bytes))?;
            if cpu.tlb.lookup(self.view, true, lin, u64::from(bytes)).is_none() {
                let probed = cpu.probe_linear(self.view, lin, u64::from(bytes), true);
                probed.map_err(|cause| self.stack_fault(cpu, cause))?;
            }
        }
        for &(offset, value, bytes) in &self.items[..self.len] {
            let lin = self.linear(cpu, offset, u64::from(bytes))?;
            match bytes {
                2 => cpu.write_as(self.view, lin, value as u16)?,
                4 => cpu.write_as(self.view, lin, value as u32)?,
                _ => cpu.write_as(self.view, lin, value)?,
            }
        }
        Ok(self.sp)
    }

    fn linear(&self, cpu: &mut Cpu, offset: u64, size: u64) -> Exec<u64> {
        if self.mask == u64::MAX {
            return Ok(offset);
        }
        let attributes = self.stack.attributes;
        let usable = cpu.state.real_or_v86() || attributes.present() && attributes.is_writable();
        if usable && cpu.within_limit(&self.stack, offset, size) {
            return Ok(self.stack.base.wrapping_add(offset) & 0xffff_ffff);
        }
        Err(cpu.raise(Exception::ss(self.code)))
    }

    /// A stack reference that is not canonical is #SS.
    fn stack_fault(&self, cpu: &mut Cpu, cause: Break) -> Break {
        if cause == Break::Fault && cpu.fault == Exception::gp(0) {
            cpu.fault = Exception::ss(self.code);
        }
        cause
    }
}
