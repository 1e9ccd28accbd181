//! Descriptors in the GDT and the LDT (SDM 3A 3.5).

use x86::descriptor::Descriptor;
use x86::{Exception, Segment, Selector};

use crate::cpu::{Cpu, Exec};

/// Makes an exception from the selector part of an error code.
pub(super) type Fault = fn(u32) -> Exception;

/// Offset of the byte with type, DPL and present bit.
const ACCESS_BYTE: u64 = 5;

impl Cpu {
    /// The linear address of `size` bytes of a descriptor; `None` if they are
    /// outside the table.
    pub(super) fn descriptor_address(&self, selector: Selector, size: u64) -> Option<u64> {
        let (base, limit) = if selector.is_ldt() {
            let ldtr = &self.state.ldtr;
            if !ldtr.attributes.present() {
                return None;
            }
            (ldtr.base, u64::from(ldtr.limit))
        } else {
            (self.state.gdtr.base, u64::from(self.state.gdtr.limit))
        };
        (selector.offset() + size - 1 <= limit).then(|| base.wrapping_add(selector.offset()))
    }

    /// Reads a descriptor; `None` if it is outside its table.
    pub(super) fn find_descriptor(&mut self, selector: Selector) -> Exec<Option<Descriptor>> {
        match self.descriptor_address(selector, 8) {
            Some(at) => self.read_system(at).map(|raw| Some(Descriptor(raw))),
            None => Ok(None),
        }
    }

    /// Reads a descriptor; `fault` with the selector if it is outside its
    /// table.
    pub(super) fn descriptor(&mut self, selector: Selector, fault: Fault) -> Exec<Descriptor> {
        match self.find_descriptor(selector)? {
            Some(descriptor) => Ok(descriptor),
            None => Err(self.raise(fault(selector.error_code()))),
        }
    }

    /// Reads the upper half of a 16-byte descriptor.
    pub(super) fn upper_half(&mut self, selector: Selector, fault: Fault) -> Exec<u64> {
        match self.descriptor_address(selector, 16) {
            Some(at) => self.read_system(at.wrapping_add(8)),
            None => Err(self.raise(fault(selector.error_code()))),
        }
    }

    /// Sets the accessed bit in the table, if it is clear there, and makes the
    /// segment register.
    pub(super) fn access(&mut self, selector: Selector, descriptor: Descriptor) -> Exec<Segment> {
        if descriptor.0 & Descriptor::ACCESSED == 0 {
            self.write_access_byte(selector, descriptor.accessed())?;
        }
        Ok(descriptor.accessed().segment(selector))
    }

    /// Sets or clears the busy bit of a TSS descriptor in the GDT.
    pub(super) fn set_busy(&mut self, selector: Selector, descriptor: Descriptor, busy: bool) -> Exec {
        self.write_access_byte(selector, descriptor.with_busy(busy))
    }

    fn write_access_byte(&mut self, selector: Selector, descriptor: Descriptor) -> Exec {
        match self.descriptor_address(selector, 8) {
            Some(at) => self.write_system(at.wrapping_add(ACCESS_BYTE), (descriptor.0 >> 40) as u8),
            None => Ok(()),
        }
    }

    /// #GP, #NP, ... with a selector.
    pub(super) fn selector_fault<T>(&mut self, fault: Fault, selector: Selector) -> Exec<T> {
        Err(self.raise(fault(selector.error_code())))
    }
}
