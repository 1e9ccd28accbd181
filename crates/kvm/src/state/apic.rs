//! The local APIC in the kernel, and what KVM keeps with it: whether the
//! processor runs, waits in HLT, or waits for a start-up IPI.

use engine::LocalApicRegisters;
use kvm_bindings::{
    KVM_MP_STATE_HALTED, KVM_MP_STATE_INIT_RECEIVED, KVM_MP_STATE_RUNNABLE, KVM_MP_STATE_UNINITIALIZED,
    kvm_lapic_state, kvm_mp_state,
};
use kvm_ioctls::VcpuFd;
use x86::Activity;

use super::{Format, Named, StateError, read_sregs, set_apic_base};
use crate::msrs::{self, IA32_TSC_DEADLINE, MSR_KVM_PV_EOI_EN};

/// Registers of the page, each with 16 bytes to itself.
const REGISTERS: usize = 64;
const STRIDE: usize = 16;

// Places in the page (SDM 3A table 11-1), divided by 16.
const SPURIOUS_VECTOR: usize = 0x0f;
const LVT_TIMER: usize = 0x32;
const LVT_LINT0: usize = 0x35;
const INITIAL_COUNT: usize = 0x38;
const CURRENT_COUNT: usize = 0x39;

/// LINT0 unmasked, delivering what the 8259As send.
const EXTINT: u32 = 7 << 8;

/// Reads the local APIC.
pub(crate) fn load(vcpu: &VcpuFd, format: &Format) -> Result<LocalApicRegisters, StateError> {
    let base = read_sregs(vcpu, format)?.apic_base;
    let page = from_kvm(&vcpu.get_lapic().named("KVM_GET_LAPIC")?);
    let read = |index| msrs::read(vcpu, index).named("KVM_GET_MSRS");
    let tsc_deadline = read(IA32_TSC_DEADLINE)?;
    let eoi_flag = if format.eoi_flag { read(MSR_KVM_PV_EOI_EN)? } else { 0 };
    Ok(LocalApicRegisters { base, page, tsc_deadline, eoi_flag })
}

/// Writes the local APIC, all but the deadline: that one counts from when the
/// time-stamp counter is right.
pub(crate) fn store(
    vcpu: &VcpuFd,
    format: &Format,
    registers: &LocalApicRegisters,
) -> Result<(), StateError> {
    set_apic_base(vcpu, format, registers.base)?;
    vcpu.set_lapic(&to_kvm(&registers.page)).named("KVM_SET_LAPIC")?;
    if format.eoi_flag {
        msrs::write(vcpu, MSR_KVM_PV_EOI_EN, registers.eoi_flag).named("KVM_SET_MSRS")?;
    }
    Ok(())
}

fn from_kvm(state: &kvm_lapic_state) -> Vec<u32> {
    let register = |slot: &[std::ffi::c_char]| {
        slot.iter().take(4).rev().fold(0, |value, &byte| value << 8 | u32::from(byte as u8))
    };
    state.regs.chunks_exact(STRIDE).map(register).collect()
}

fn to_kvm(page: &[u32]) -> kvm_lapic_state {
    let mut registers = [0; REGISTERS];
    for (register, value) in registers.iter_mut().zip(page) {
        *register = *value;
    }
    if registers[SPURIOUS_VECTOR] & 1 << 8 == 0 {
        // An APIC that software has not enabled lets the 8259As through in
        // this machine; KVM's does if LINT0 says so.
        registers[LVT_LINT0] = EXTINT;
    }
    if registers[LVT_TIMER] >> 17 & 3 == 0 && registers[CURRENT_COUNT] == 0 {
        // A count that has run out would be started again.
        registers[INITIAL_COUNT] = 0;
    }
    let mut state = kvm_lapic_state::default();
    for (slot, register) in state.regs.chunks_exact_mut(STRIDE).zip(registers) {
        for (byte, value) in slot.iter_mut().zip(register.to_le_bytes()) {
            *byte = value as std::ffi::c_char;
        }
    }
    state
}

/// Reads whether the processor runs. The kernel first takes an INIT or start-up
/// IPI that has come: to be read before the registers.
pub(crate) fn activity(vcpu: &VcpuFd) -> Result<Activity, StateError> {
    Ok(from_mp_state(vcpu.get_mp_state().named("KVM_GET_MP_STATE")?.mp_state))
}

/// Writes whether the processor runs.
pub(crate) fn set_activity(vcpu: &VcpuFd, activity: Activity) -> Result<(), StateError> {
    vcpu.set_mp_state(kvm_mp_state { mp_state: to_mp_state(activity) }).named("KVM_SET_MP_STATE")
}

fn from_mp_state(state: u32) -> Activity {
    match state {
        KVM_MP_STATE_HALTED => Activity::Halted,
        KVM_MP_STATE_UNINITIALIZED | KVM_MP_STATE_INIT_RECEIVED => Activity::WaitForSipi,
        _ => Activity::Running,
    }
}

/// A shut-down processor is never entered.
fn to_mp_state(activity: Activity) -> u32 {
    match activity {
        Activity::Running | Activity::Shutdown => KVM_MP_STATE_RUNNABLE,
        Activity::Halted => KVM_MP_STATE_HALTED,
        Activity::WaitForSipi => KVM_MP_STATE_INIT_RECEIVED,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_survive_the_way_there_and_back() {
        let mut page: Vec<u32> = (0..64).map(|index| 0x8001_f180 + index).collect();
        page[SPURIOUS_VECTOR] = 0x1ff;
        assert_eq!(from_kvm(&to_kvm(&page)), page);
    }

    #[test]
    fn the_8259as_reach_a_processor_whose_apic_is_not_enabled() {
        let mut page = vec![0; 64];
        page[LVT_LINT0] = 1 << 16;
        assert_eq!(from_kvm(&to_kvm(&page))[LVT_LINT0], EXTINT);
        page[SPURIOUS_VECTOR] = 0x1ff;
        assert_eq!(from_kvm(&to_kvm(&page))[LVT_LINT0], 1 << 16);
    }

    #[test]
    fn a_count_that_has_run_out_does_not_start_again() {
        let mut page = vec![0; 64];
        (page[INITIAL_COUNT], page[CURRENT_COUNT]) = (1000, 0);
        assert_eq!(from_kvm(&to_kvm(&page))[INITIAL_COUNT], 0);
        page[CURRENT_COUNT] = 10;
        assert_eq!(from_kvm(&to_kvm(&page))[INITIAL_COUNT], 1000);
        (page[LVT_TIMER], page[CURRENT_COUNT]) = (1 << 17, 0);
        assert_eq!(from_kvm(&to_kvm(&page))[INITIAL_COUNT], 1000, "a periodic one does");
    }

    #[test]
    fn activities_survive_the_way_there_and_back() {
        for activity in [Activity::Running, Activity::Halted, Activity::WaitForSipi] {
            assert_eq!(from_mp_state(to_mp_state(activity)), activity);
        }
        assert_eq!(from_mp_state(KVM_MP_STATE_UNINITIALIZED), Activity::WaitForSipi);
    }
}
