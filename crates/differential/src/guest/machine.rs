//! The machine around the guest: the port by which it ends, memory behind
//! MMIO, an interrupt on demand. Each MMIO access also brings an interrupt, so
//! that repeated string instructions are interrupted between their elements.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use engine::{Hypercall, MsrFault, Platform, Signal, VcpuSignals};
use x86::{GuestPhysAddr, Vector};

use super::tables::{END_PORT, INTERRUPT_VECTOR, MMIO};

/// The guest's [`Platform`].
pub(super) struct Machine {
    signals: Arc<VcpuSignals>,
    mmio: Mutex<Vec<u8>>,
}

impl Machine {
    pub(super) fn new(signals: Arc<VcpuSignals>) -> Self {
        Self { signals, mmio: Mutex::default() }
    }

    /// The memory behind MMIO: the whole window.
    pub(super) fn mmio(&self) -> MutexGuard<'_, Vec<u8>> {
        self.mmio.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Platform for Machine {
    fn port_read(&self, _port: u16, _size: u8) -> u32 {
        u32::MAX
    }

    fn port_write(&self, port: u16, _size: u8, _value: u32) {
        if port == END_PORT {
            self.signals.raise(Signal::Exit);
        }
    }

    fn mmio_read(&self, _vcpu: u32, at: GuestPhysAddr, data: &mut [u8]) {
        self.signals.raise(Signal::Interrupt);
        let mmio = self.mmio();
        let place = mmio.get(at.0.wrapping_sub(MMIO) as usize..).and_then(|rest| rest.get(..data.len()));
        match place {
            Some(bytes) => data.copy_from_slice(bytes),
            None => data.fill(0xff),
        }
    }

    fn mmio_write(&self, _vcpu: u32, at: GuestPhysAddr, data: &[u8]) {
        self.signals.raise(Signal::Interrupt);
        let mut mmio = self.mmio();
        let place =
            mmio.get_mut(at.0.wrapping_sub(MMIO) as usize..).and_then(|rest| rest.get_mut(..data.len()));
        if let Some(bytes) = place {
            bytes.copy_from_slice(data);
        }
    }

    fn interrupt_acknowledge(&self, _vcpu: u32) -> Option<Vector> {
        self.signals.take(Signal::Interrupt).then_some(Vector(INTERRUPT_VECTOR))
    }

    fn task_priority(&self, _vcpu: u32) -> u8 {
        0
    }

    fn set_task_priority(&self, _vcpu: u32, _priority: u8) {}

    fn msr_read(&self, _vcpu: u32, _index: u32) -> Option<Result<u64, MsrFault>> {
        None
    }

    fn msr_write(&self, _vcpu: u32, _index: u32, _value: u64) -> Option<Result<(), MsrFault>> {
        None
    }

    fn tsc(&self) -> u64 {
        0
    }

    fn tsc_adjusted(&self, _vcpu: u32, _adjust: u64) {}

    fn hypercall(&self, _vcpu: u32, _call: &mut Hypercall) -> bool {
        false
    }

    fn halt(&self, _vcpu: u32) {
        self.signals.wait(None);
    }
}
