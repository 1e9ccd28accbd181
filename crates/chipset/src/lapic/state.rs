//! The state of a local APIC that a snapshot keeps.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::msr::apic_base_is_valid;
use super::registers::{
    ApicBase, DEFAULT_BASE, DIVIDE_MASK, ESR_MASK, ICR_LOW_MASK, LVT_MASKED, LVT_REMOTE_IRR, LvtEntry,
    SVR_MASK,
};
use super::{LocalApicConfig, TimerState, VectorSet};

/// All that changes in a local APIC. Registers are as the guest would read
/// them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalApicState {
    /// IA32_APIC_BASE.
    pub apic_base: u64,
    /// Task-priority register.
    pub task_priority: u8,
    /// Logical destination register of xAPIC mode.
    pub logical_destination: u32,
    /// Destination format register.
    pub destination_format: u32,
    /// Spurious-interrupt vector register.
    pub spurious_vector: u32,
    /// In-service register.
    pub isr: VectorSet,
    /// Trigger mode register.
    pub tmr: VectorSet,
    /// Interrupt request register.
    pub irr: VectorSet,
    /// Error status register as last latched by a write.
    pub error_status: u32,
    /// Errors since that write.
    pub errors: u32,
    /// Interrupt command register; in xAPIC mode the destination is in bits
    /// 63:56.
    pub icr: u64,
    /// Local vector table: CMCI, timer, thermal, performance, LINT0, LINT1,
    /// error.
    pub lvt: [u32; 7],
    /// Whether LINT0 and LINT1 are asserted.
    pub lint: [bool; 2],
    /// The timer.
    pub timer: TimerState,
}

/// A saved state that no local APIC can be in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum InvalidState {
    /// IA32_APIC_BASE has reserved bits set or selects no mode.
    #[error("IA32_APIC_BASE cannot be {0:#x}")]
    ApicBase(u64),
    /// A register has bits set that it does not have.
    #[error("{register} has reserved bits set: {value:#x}")]
    Reserved {
        /// The register.
        register: &'static str,
        /// What it was to hold.
        value: u64,
    },
}

impl LocalApicState {
    /// SDM 3A 11.4.7.1.
    pub(super) fn power_on(config: &LocalApicConfig) -> Self {
        let apic_base = ApicBase::new()
            .with_frame(DEFAULT_BASE >> 12)
            .with_enabled(true)
            .with_bsp(config.bootstrap)
            .into_bits();
        Self {
            apic_base,
            task_priority: 0,
            logical_destination: 0,
            destination_format: u32::MAX,
            spurious_vector: 0xff,
            isr: VectorSet::default(),
            tmr: VectorSet::default(),
            irr: VectorSet::default(),
            error_status: 0,
            errors: 0,
            icr: 0,
            lvt: [LVT_MASKED; LvtEntry::COUNT],
            lint: [false; 2],
            timer: TimerState::RESET,
        }
    }

    /// `self`, if an APIC can be in this state.
    pub(super) fn checked(self, config: &LocalApicConfig) -> Result<Self, InvalidState> {
        if !apic_base_is_valid(self.apic_base, config.physical_address_bits) {
            return Err(InvalidState::ApicBase(self.apic_base));
        }
        let registers = [
            ("LDR", self.logical_destination, 0xff00_0000),
            ("SVR", self.spurious_vector, SVR_MASK),
            ("ESR", self.error_status | self.errors, ESR_MASK),
            ("ICR", self.icr as u32, ICR_LOW_MASK),
            ("DCR", self.timer.divide_configuration, DIVIDE_MASK),
        ];
        let entries = LvtEntry::ALL
            .iter()
            .zip(self.lvt)
            .map(|(entry, value)| ("LVT", value, entry.writable() | (entry.read_only() & LVT_REMOTE_IRR)));
        for (register, value, defined) in registers.into_iter().chain(entries) {
            if value & !defined != 0 {
                return Err(InvalidState::Reserved { register, value: value.into() });
            }
        }
        Ok(Self {
            isr: VectorSet::from_words(self.isr.words()),
            tmr: VectorSet::from_words(self.tmr.words()),
            irr: VectorSet::from_words(self.irr.words()),
            ..self
        })
    }
}
