//! KVM's interface (Linux `Documentation/virt/kvm/x86/cpuid.rst`, `msr.rst`,
//! `hypercalls.rst`): the clock, the end of interrupts without a trap, and the
//! hypercalls that mean something on this machine.

mod clock;
mod hypercall;
#[cfg(test)]
mod tests;

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use engine::{Hypercall, MsrFault};
use memory::GuestMemory;
use serde::{Deserialize, Serialize};
use x86::GuestPhysAddr;
use x86::cpuid::CpuidResult;

use crate::{Interface, Moment, Work};
use clock::Scale;

/// Leaf with the signature, and the highest leaf of the range.
const SIGNATURE: u32 = 0x4000_0000;
const HIGHEST: u32 = 0x4000_0010;
const FEATURES: u32 = 0x4000_0001;

/// "KVMKVMKVM", filled up with zeros.
const KVM: [u32; 3] =
    [u32::from_le_bytes(*b"KVMK"), u32::from_le_bytes(*b"VMKV"), u32::from_le_bytes(*b"M\0\0\0")];

/// What is offered, by bit of EAX in [`FEATURES`], in the order of `cpuid.rst`.
const OFFERED: [(u32, &str); 7] = [
    (0, "CLOCKSOURCE"),
    (1, "NOP_IO_DELAY"),
    (3, "CLOCKSOURCE2"),
    (6, "PV_EOI"),
    (11, "PV_SEND_IPI"),
    (13, "PV_SCHED_YIELD"),
    // The clock's pages say that they agree.
    (24, "CLOCKSOURCE_STABLE_BIT"),
];

/// Those of them that are hypercalls.
const CALLS: [u32; 2] = [11, 13];

/// Also offered where vCPUs wait for each other's threads: a spin lock halts
/// after a while, and whoever leaves it kicks.
const PV_UNHALT: u32 = 1 << 7;

/// The registers.
const MSR_WALL_CLOCK: u32 = 0x11;
const MSR_SYSTEM_TIME: u32 = 0x12;
const MSR_WALL_CLOCK_NEW: u32 = 0x4b56_4d00;
const MSR_SYSTEM_TIME_NEW: u32 = 0x4b56_4d01;
/// MSR_KVM_PV_EOI_EN.
pub const MSR_PV_EOI_EN: u32 = 0x4b56_4d04;

/// System time, PV EOI: the structure is in use.
const ENABLED: u64 = 1 << 0;
/// PV EOI: must be zero.
const EOI_RESERVED: u64 = 1 << 1;

/// From what KVM's interface is made.
#[derive(Clone, Debug)]
pub struct KvmConfig {
    /// Frequency of the machine's time-stamp counter.
    pub tsc_hz: u64,
    /// Number of vCPUs.
    pub vcpus: u32,
    /// Whether its hypercalls reach the processors: those that interrupt or
    /// favour another one are offered then.
    pub calls_reach_processors: bool,
    /// There are more vCPUs than the host can run at once.
    pub overcommitted: bool,
    /// What the time of day, since 1970, was when the machine's time began.
    pub epoch: Duration,
}

/// The registers of one vCPU, and its time-stamp counter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct VcpuRegisters {
    system_time: u64,
    pv_eoi: u64,
    tsc_adjust: u64,
}

/// What a snapshot keeps.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KvmState {
    wall_clock: u64,
    vcpus: Vec<VcpuRegisters>,
}

/// KVM's interface.
pub struct Kvm {
    memory: GuestMemory,
    config: KvmConfig,
    scale: Scale,
    state: Mutex<KvmState>,
}

impl Kvm {
    /// The interface of a machine with this memory.
    pub fn new(memory: GuestMemory, config: KvmConfig) -> Self {
        let scale = Scale::of(config.tsc_hz);
        let state = Mutex::new(reset_state(config.vcpus));
        Self { memory, config, scale, state }
    }

    /// What a snapshot keeps.
    pub fn state(&self) -> KvmState {
        self.with(|state| state.clone())
    }

    /// Takes over what a snapshot kept; registers of vCPUs that this machine
    /// does not have are left out.
    pub fn set_state(&self, saved: &KvmState) {
        self.with(|state| {
            *state = reset_state(self.config.vcpus);
            state.wall_clock = saved.wall_clock;
            for (to, from) in state.vcpus.iter_mut().zip(&saved.vcpus) {
                *to = *from;
            }
        });
    }

    fn with<R>(&self, f: impl FnOnce(&mut KvmState) -> R) -> R {
        f(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn with_vcpu<R>(&self, vcpu: u32, f: impl FnOnce(&mut VcpuRegisters) -> R) -> Option<R> {
        self.with(|state| state.vcpus.get_mut(vcpu as usize).map(f))
    }

    /// Brings a vCPU's page up to date. An address that is not memory is the
    /// guest's own loss.
    fn write_page(&self, registers: &VcpuRegisters, now: Moment) {
        if registers.system_time & ENABLED != 0 {
            let at = GuestPhysAddr(registers.system_time & !ENABLED);
            let _ = clock::write_page(&self.memory, at, self.scale, now, registers.tsc_adjust);
        }
    }

    fn set_system_time(&self, vcpu: u32, value: u64, now: Moment) {
        self.with_vcpu(vcpu, |registers| {
            registers.system_time = value;
            self.write_page(registers, now);
        });
    }

    fn set_wall_clock(&self, value: u64) {
        self.with(|state| state.wall_clock = value);
        let _ = clock::write_wall_clock(&self.memory, GuestPhysAddr(value), self.config.epoch);
    }

    fn set_pv_eoi(&self, vcpu: u32, value: u64) -> Result<Option<Work>, MsrFault> {
        if value & EOI_RESERVED != 0 {
            return Err(MsrFault);
        }
        self.with_vcpu(vcpu, |registers| registers.pv_eoi = value);
        let at = GuestPhysAddr(value & !(ENABLED | EOI_RESERVED));
        Ok(Some(Work::SetEoiFlag((value & ENABLED != 0).then_some(at))))
    }
}

fn reset_state(vcpus: u32) -> KvmState {
    KvmState { wall_clock: 0, vcpus: vec![VcpuRegisters::default(); vcpus as usize] }
}

impl Interface for Kvm {
    fn cpuid(&self) -> Vec<(u32, CpuidResult)> {
        let [ebx, ecx, edx] = KVM;
        let reach = self.config.calls_reach_processors;
        let waits = if reach && self.config.overcommitted { PV_UNHALT } else { 0 };
        let offered = OFFERED.iter().filter(|(bit, _)| reach || !CALLS.contains(bit));
        let features = offered.fold(waits, |bits, (bit, _)| bits | 1 << bit);
        vec![
            (SIGNATURE, CpuidResult::new(HIGHEST, ebx, ecx, edx)),
            (FEATURES, CpuidResult::new(features, 0, 0, 0)),
        ]
    }

    fn msr_read(&self, vcpu: u32, index: u32) -> Option<Result<u64, MsrFault>> {
        let of_vcpu = |field: fn(&VcpuRegisters) -> u64| {
            self.with_vcpu(vcpu, |registers| field(registers)).ok_or(MsrFault)
        };
        Some(match index {
            MSR_WALL_CLOCK | MSR_WALL_CLOCK_NEW => Ok(self.with(|state| state.wall_clock)),
            MSR_SYSTEM_TIME | MSR_SYSTEM_TIME_NEW => of_vcpu(|registers| registers.system_time),
            MSR_PV_EOI_EN => of_vcpu(|registers| registers.pv_eoi),
            _ => return None,
        })
    }

    fn msr_write(
        &self,
        vcpu: u32,
        index: u32,
        value: u64,
        now: Moment,
    ) -> Option<Result<Option<Work>, MsrFault>> {
        Some(match index {
            MSR_WALL_CLOCK | MSR_WALL_CLOCK_NEW => {
                self.set_wall_clock(value);
                Ok(None)
            }
            MSR_SYSTEM_TIME | MSR_SYSTEM_TIME_NEW => {
                self.set_system_time(vcpu, value, now);
                Ok(None)
            }
            MSR_PV_EOI_EN => self.set_pv_eoi(vcpu, value),
            _ => return None,
        })
    }

    fn hypercall(&self, _vcpu: u32, call: &mut Hypercall) -> Option<Work> {
        hypercall::perform(call, self.config.vcpus)
    }

    fn reset(&self) {
        self.with(|state| *state = reset_state(self.config.vcpus));
    }

    fn resumed(&self, now: Moment) {
        self.with(|state| state.vcpus.iter().for_each(|registers| self.write_page(registers, now)));
    }

    fn tsc_adjusted(&self, vcpu: u32, adjust: u64, now: Moment) {
        self.with_vcpu(vcpu, |registers| {
            registers.tsc_adjust = adjust;
            self.write_page(registers, now);
        });
    }
}
