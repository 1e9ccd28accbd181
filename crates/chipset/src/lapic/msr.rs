//! The MSRs of the local APIC: IA32_APIC_BASE, IA32_TSC_DEADLINE and the
//! register space of x2APIC mode (SDM 3A 11.12).

use thiserror::Error;

use super::registers::{
    ApicBase, DELIVERY_STATUS, DIVIDE_MASK, ICR_LOW_MASK, MSR_APIC_BASE, MSR_TSC_DEADLINE, MSR_X2APIC_FIRST,
    MSR_X2APIC_LAST, Register, SVR_MASK,
};
use super::timer::TimerMode;
use super::{ApicMode, ApicWork, LocalApic, LocalApicState};
use crate::VmTime;

/// The MSR access raises #GP(0).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the access to this MSR raises a general-protection exception")]
pub struct GeneralProtection;

/// Whether `index` is an MSR of the local APIC.
pub const fn owns_msr(index: u32) -> bool {
    matches!(index, MSR_APIC_BASE | MSR_TSC_DEADLINE | MSR_X2APIC_FIRST..=MSR_X2APIC_LAST)
}

impl LocalApic {
    /// RDMSR of one of the APIC's MSRs.
    pub fn msr_read(&mut self, now: VmTime, index: u32) -> Result<u64, GeneralProtection> {
        match index {
            MSR_APIC_BASE => Ok(self.state.apic_base),
            MSR_TSC_DEADLINE => {
                self.advance(now);
                Ok(self.state.timer.tsc_deadline)
            }
            MSR_X2APIC_FIRST..=MSR_X2APIC_LAST if self.mode() == ApicMode::X2Apic => {
                self.advance(now);
                let register = Register::from_index(index - MSR_X2APIC_FIRST).ok_or(GeneralProtection)?;
                self.read_x2apic(now, register)
            }
            _ => Err(GeneralProtection),
        }
    }

    /// WRMSR to one of the APIC's MSRs.
    pub fn msr_write(
        &mut self,
        now: VmTime,
        index: u32,
        value: u64,
    ) -> Result<Option<ApicWork>, GeneralProtection> {
        match index {
            MSR_APIC_BASE => {
                self.advance(now);
                self.write_apic_base(value).map(|()| None)
            }
            MSR_TSC_DEADLINE => {
                self.advance(now);
                if self.timer_mode() == TimerMode::TscDeadline {
                    self.arm_tsc_deadline(now, value);
                    self.advance(now);
                }
                Ok(None)
            }
            MSR_X2APIC_FIRST..=MSR_X2APIC_LAST if self.mode() == ApicMode::X2Apic => {
                self.advance(now);
                let register = Register::from_index(index - MSR_X2APIC_FIRST).ok_or(GeneralProtection)?;
                self.write_x2apic(now, register, value)
            }
            _ => Err(GeneralProtection),
        }
    }

    fn read_x2apic(&self, now: VmTime, register: Register) -> Result<u64, GeneralProtection> {
        match register {
            Register::Id => Ok(self.config.id.into()),
            Register::LogicalDestination => Ok(self.x2apic_logical_id().into()),
            Register::IcrLow => Ok(self.state.icr),
            Register::Eoi
            | Register::SelfIpi
            | Register::IcrHigh
            | Register::DestinationFormat
            | Register::ArbitrationPriority => Err(GeneralProtection),
            other => Ok(self.read_common(now, other).into()),
        }
    }

    fn write_x2apic(
        &mut self,
        now: VmTime,
        register: Register,
        value: u64,
    ) -> Result<Option<ApicWork>, GeneralProtection> {
        let defined = x2apic_write_mask(register).ok_or(GeneralProtection)?;
        if value & !defined != 0 {
            return Err(GeneralProtection);
        }
        Ok(match register {
            Register::IcrLow => self.write_icr(value),
            Register::SelfIpi => self.self_ipi(value as u8),
            other => self.write_common(now, other, value as u32),
        })
    }

    /// Writes IA32_APIC_BASE; SDM 3A figure 11-27 has the legal transitions.
    fn write_apic_base(&mut self, value: u64) -> Result<(), GeneralProtection> {
        if !apic_base_is_valid(value, self.config.physical_address_bits) {
            return Err(GeneralProtection);
        }
        let (old, new) = (ApicBase::from_bits(self.state.apic_base), ApicBase::from_bits(value));
        let into_x2apic = new.x2apic() && !old.enabled();
        let back_to_xapic = old.x2apic() && new.enabled() && !new.x2apic();
        if into_x2apic || back_to_xapic {
            return Err(GeneralProtection);
        }
        if old.enabled() && !new.enabled() {
            // SDM 3A 11.4.3: the state is lost; the pins are still driven.
            let lint = self.state.lint;
            self.state = LocalApicState { lint, ..LocalApicState::power_on(&self.config) };
        }
        self.state.apic_base = value;
        Ok(())
    }
}

/// Whether `value` has no reserved bit set and does not select x2APIC without
/// enabling the APIC.
pub(super) fn apic_base_is_valid(value: u64, physical_address_bits: u8) -> bool {
    const FLAGS: u64 = 0xd00;
    let address_bits = u32::from(physical_address_bits.clamp(32, 52));
    let address_mask = ((1 << address_bits) - 1) & !0xfff;
    let base = ApicBase::from_bits(value);
    value & !(address_mask | FLAGS) == 0 && (base.enabled() || !base.x2apic())
}

/// The bits that may be set in a write to `register` in x2APIC mode (SDM 3A
/// table 11-6); `None` if it cannot be written.
fn x2apic_write_mask(register: Register) -> Option<u64> {
    Some(match register {
        Register::TaskPriority | Register::SelfIpi => 0xff,
        Register::Eoi | Register::ErrorStatus => 0,
        Register::SpuriousVector => SVR_MASK.into(),
        Register::IcrLow => 0xffff_ffff_0000_0000 | u64::from(ICR_LOW_MASK | DELIVERY_STATUS),
        Register::Lvt(entry) => (entry.writable() | entry.read_only()).into(),
        Register::InitialCount => u32::MAX.into(),
        Register::DivideConfiguration => DIVIDE_MASK.into(),
        _ => return None,
    })
}
