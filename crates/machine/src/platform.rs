//! The board as the engines see it.

use engine::{Hypercall, MsrFault, Platform};
use x86::{GuestPhysAddr, Vector};

use crate::board::Board;
use crate::processor::Processor;

impl Board {
    fn processor(&self, vcpu: u32) -> Option<&Processor> {
        self.interrupts.processor(vcpu)
    }
}

impl Platform for Board {
    fn port_read(&self, port: u16, size: u8) -> u32 {
        self.ports.read(port, size)
    }

    fn port_write(&self, port: u16, size: u8, value: u32) {
        self.ports.write(port, size, value);
    }

    fn mmio_read(&self, vcpu: u32, at: GuestPhysAddr, data: &mut [u8]) {
        if !self.bus_read(at, data) {
            self.interrupts.mmio_read(vcpu, at, data);
        }
    }

    fn mmio_write(&self, vcpu: u32, at: GuestPhysAddr, data: &[u8]) {
        if !self.bus_write(at, data) {
            self.interrupts.mmio_write(vcpu, at, data);
        }
    }

    fn interrupt_acknowledge(&self, vcpu: u32) -> Option<Vector> {
        self.interrupts.acknowledge(vcpu)
    }

    fn task_priority(&self, vcpu: u32) -> u8 {
        self.processor(vcpu).map_or(0, |processor| processor.apic(|apic, _| apic.cr8() as u8))
    }

    fn set_task_priority(&self, vcpu: u32, priority: u8) {
        if let Some(processor) = self.processor(vcpu) {
            processor.apic(|apic, _| apic.set_cr8(priority.into()));
        }
    }

    fn msr_read(&self, vcpu: u32, index: u32) -> Option<Result<u64, MsrFault>> {
        self.interrupts.msr_read(vcpu, index)
    }

    fn msr_write(&self, vcpu: u32, index: u32, value: u64) -> Option<Result<(), MsrFault>> {
        self.interrupts.msr_write(vcpu, index, value)
    }

    fn tsc(&self) -> u64 {
        self.clock.ticks()
    }

    fn tsc_offset(&self) -> Option<u64> {
        self.clock.tsc_offset()
    }

    fn tsc_adjusted(&self, vcpu: u32, adjust: u64) {
        if let Some(processor) = self.processor(vcpu) {
            processor.apic(|apic, now| apic.set_tsc_offset(now, adjust));
        }
    }

    fn hypercall(&self, _vcpu: u32, _call: &mut Hypercall) -> bool {
        false
    }

    fn halt(&self, vcpu: u32) {
        if let Some(processor) = self.processor(vcpu) {
            processor.signals().wait(None);
        }
    }
}
