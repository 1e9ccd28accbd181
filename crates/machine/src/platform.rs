//! The board as the engines see it.

use std::thread;

use engine::{Hypercall, MsrFault, Platform, Signal};
use paravirt::Work;
use x86::{GuestPhysAddr, Vector};

use crate::board::Board;
use crate::processor::Processor;

impl Board {
    fn processor(&self, vcpu: u32) -> Option<&Processor> {
        self.interrupts.processor(vcpu)
    }

    /// Does what a paravirtual interface asked for.
    fn perform(&self, vcpu: u32, work: Option<Work>) {
        match work {
            None => {}
            Some(Work::SetEoiFlag(at)) => {
                if let Some(processor) = self.processor(vcpu) {
                    processor.set_eoi_flag(at);
                }
            }
            Some(Work::Send(messages)) => messages.iter().for_each(|message| self.interrupts.send(message)),
            Some(Work::Unhalt(other)) => {
                if let Some(processor) = self.processor(other) {
                    processor.signals().raise(Signal::Unhalt);
                }
            }
            Some(Work::Yield) => thread::yield_now(),
        }
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

    fn end_of_interrupt(&self, vector: Vector) {
        self.interrupts.end_of_interrupt(vector);
    }

    fn task_priority(&self, vcpu: u32) -> u8 {
        self.processor(vcpu).map_or(0, |processor| processor.apic(|apic, _| apic.cr8() as u8))
    }

    fn set_task_priority(&self, vcpu: u32, priority: u8) {
        if let Some(processor) = self.processor(vcpu) {
            processor.own_apic(|apic, _| apic.set_cr8(priority.into()));
        }
    }

    fn msr_read(&self, vcpu: u32, index: u32) -> Option<Result<u64, MsrFault>> {
        let interface = || self.paravirt.as_ref()?.msr_read(vcpu, index);
        self.interrupts.msr_read(vcpu, index).or_else(interface)
    }

    fn msr_write(&self, vcpu: u32, index: u32, value: u64) -> Option<Result<(), MsrFault>> {
        if let Some(result) = self.interrupts.msr_write(vcpu, index, value) {
            return Some(result);
        }
        let result = self.paravirt.as_ref()?.msr_write(vcpu, index, value, self.clock.moment())?;
        Some(result.map(|work| self.perform(vcpu, work)))
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
        if let Some(interface) = &self.paravirt {
            interface.tsc_adjusted(vcpu, adjust, self.clock.moment());
        }
    }

    fn hypercall(&self, vcpu: u32, call: &mut Hypercall) -> bool {
        let Some(interface) = &self.paravirt else { return false };
        let work = interface.hypercall(vcpu, call);
        self.perform(vcpu, work);
        true
    }

    fn halt(&self, vcpu: u32) {
        if let Some(processor) = self.processor(vcpu) {
            processor.signals().wait(None);
        }
    }
}
