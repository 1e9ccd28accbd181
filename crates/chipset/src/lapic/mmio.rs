//! The register page of xAPIC mode (SDM 3A 11.4.1): 32-bit registers at
//! 16-byte strides.

use super::registers::{ESR_ILLEGAL_REGISTER, Register, VERSION};
use super::{ApicMode, ApicWork, LocalApic};
use crate::VmTime;

impl LocalApic {
    /// Reads at `offset` in the register page. The manual wants aligned
    /// 32-bit accesses; others see the register in the low four bytes of its
    /// 16-byte slot. Nothing answers in the other modes.
    pub fn mmio_read(&mut self, now: VmTime, offset: u64, data: &mut [u8]) {
        if self.mode() != ApicMode::XApic {
            data.fill(0xff);
            return;
        }
        self.advance(now);
        let value = match register_at(offset) {
            Some(register) => self.read_xapic(now, register),
            None => {
                self.raise_error(ESR_ILLEGAL_REGISTER);
                0
            }
        };
        let slot = value.to_le_bytes().into_iter().chain([0; 12]).skip((offset & 0xf) as usize);
        data.fill(0);
        for (byte, from) in data.iter_mut().zip(slot) {
            *byte = from;
        }
    }

    /// Writes at `offset` in the register page. Only the first four bytes of
    /// an aligned access of at least that size are written; other accesses,
    /// which the manual leaves undefined, do nothing.
    pub fn mmio_write(&mut self, now: VmTime, offset: u64, data: &[u8]) -> Option<ApicWork> {
        let value = u32::from_le_bytes(*data.first_chunk()?);
        if self.mode() != ApicMode::XApic || offset & 0xf != 0 {
            return None;
        }
        self.advance(now);
        match register_at(offset) {
            Some(register) => self.write_xapic(now, register, value),
            None => {
                self.raise_error(ESR_ILLEGAL_REGISTER);
                None
            }
        }
    }

    fn read_xapic(&mut self, now: VmTime, register: Register) -> u32 {
        match register {
            Register::Id => self.config.id << 24,
            Register::LogicalDestination => self.state.logical_destination,
            Register::DestinationFormat => self.state.destination_format,
            Register::ArbitrationPriority => self.arbitration_priority().into(),
            Register::IcrLow => self.state.icr as u32,
            Register::IcrHigh => (self.state.icr >> 32) as u32,
            Register::Eoi => 0,
            Register::SelfIpi => {
                self.raise_error(ESR_ILLEGAL_REGISTER);
                0
            }
            other => self.read_common(now, other),
        }
    }

    fn write_xapic(&mut self, now: VmTime, register: Register, value: u32) -> Option<ApicWork> {
        match register {
            Register::LogicalDestination => self.state.logical_destination = value & 0xff00_0000,
            // Bits 27:0 read as ones.
            Register::DestinationFormat => self.state.destination_format = value | 0x0fff_ffff,
            Register::IcrLow => {
                let high = self.state.icr & !0xffff_ffff;
                return self.write_icr(high | u64::from(value));
            }
            Register::IcrHigh => {
                let low = self.state.icr & 0xffff_ffff;
                self.state.icr = u64::from(value & 0xff00_0000) << 32 | low;
            }
            Register::SelfIpi => self.raise_error(ESR_ILLEGAL_REGISTER),
            other => return self.write_common(now, other, value),
        }
        None
    }

    /// Registers that read alike in both modes.
    pub(super) fn read_common(&self, now: VmTime, register: Register) -> u32 {
        match register {
            Register::Version => VERSION,
            Register::TaskPriority => self.state.task_priority.into(),
            Register::ProcessorPriority => self.processor_priority().into(),
            Register::SpuriousVector => self.state.spurious_vector,
            Register::InService(index) => self.state.isr.word(index),
            Register::TriggerMode(index) => self.state.tmr.word(index),
            Register::InterruptRequest(index) => self.state.irr.word(index),
            Register::ErrorStatus => self.state.error_status,
            Register::Lvt(entry) => self.lvt(entry).into_bits(),
            Register::InitialCount => self.state.timer.initial_count,
            Register::CurrentCount => self.state.timer.current_count(self.timer_mode(), now),
            Register::DivideConfiguration => self.state.timer.divide_configuration,
            _ => 0,
        }
    }

    /// Registers that are written alike in both modes; writes to read-only
    /// ones do nothing.
    pub(super) fn write_common(&mut self, now: VmTime, register: Register, value: u32) -> Option<ApicWork> {
        let mode = self.timer_mode();
        match register {
            Register::TaskPriority => self.state.task_priority = value as u8,
            Register::Eoi => return self.eoi().map(ApicWork::EoiBroadcast),
            Register::SpuriousVector => self.set_svr(value),
            Register::ErrorStatus => self.latch_errors(),
            Register::Lvt(entry) => self.set_lvt(now, entry, value),
            Register::InitialCount => self.state.timer.set_initial_count(mode, value, now),
            Register::DivideConfiguration => self.state.timer.set_divide(mode, value, now),
            _ => {}
        }
        None
    }
}

fn register_at(offset: u64) -> Option<Register> {
    Register::from_index(u32::try_from(offset >> 4).ok()?)
}
