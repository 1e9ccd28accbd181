//! The machine around a guest: a few ports, an MMIO page, scripted interrupts.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use engine::{Hypercall, MsrFault, Platform, Signal, VcpuSignals};
use x86::msr::IA32_APIC_BASE;
use x86::{GuestPhysAddr, Vector};

use crate::layout::{COUNTER_PORT, ECHO_PORT, EXIT_PORT, INTERRUPT_PORT, NMI_PORT, STUB_PORT};

/// One access that the bench saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Io {
    /// A port was read.
    In {
        /// Port.
        port: u16,
        /// Bytes.
        size: u8,
        /// What the guest got.
        value: u32,
    },
    /// A port was written.
    Out {
        /// Port.
        port: u16,
        /// Bytes.
        size: u8,
        /// What the guest wrote.
        value: u32,
    },
    /// Memory-mapped I/O was read.
    Load {
        /// Guest-physical address.
        at: u64,
        /// Bytes.
        size: u8,
    },
    /// Memory-mapped I/O was written.
    Store {
        /// Guest-physical address.
        at: u64,
        /// Bytes.
        size: u8,
        /// What the guest wrote.
        value: u64,
    },
}

impl Io {
    /// The value, as far as 32 bits go.
    pub(crate) fn value(&self) -> u32 {
        match *self {
            Self::In { value, .. } | Self::Out { value, .. } => value,
            Self::Store { value, .. } => value as u32,
            Self::Load { .. } => 0,
        }
    }
}

/// What happened during a run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Record {
    pub(crate) io: Vec<Io>,
    pub(crate) exited: bool,
    interrupts: VecDeque<u8>,
    echo: u32,
    counted: u32,
}

/// The bench's [`Platform`].
pub(crate) struct Bench {
    signals: Arc<VcpuSignals>,
    start: Instant,
    priority: AtomicU8,
    apic_base: AtomicU64,
    record: Mutex<Record>,
}

/// An MSR of the machine, to see that engines ask for those: writes of zero
/// are refused.
pub(crate) const MACHINE_MSR: u32 = 0x4b00_0001;
/// What reads of it give.
pub(crate) const MACHINE_MSR_VALUE: u64 = 0x1122_3344_5566_7788;
/// RAX of the one hypercall that somebody answers, with RBX plus one.
pub(crate) const HYPERCALL: u64 = 0x52_494e_474d;

const fn sized(value: u32, size: u8) -> u32 {
    match size {
        1 => value & 0xff,
        2 => value & 0xffff,
        _ => value,
    }
}

impl Bench {
    pub(crate) fn new(signals: Arc<VcpuSignals>) -> Self {
        Self {
            signals,
            start: Instant::now(),
            priority: AtomicU8::new(0),
            apic_base: AtomicU64::new(0xfee0_0900),
            record: Mutex::default(),
        }
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn into_record(self) -> Record {
        self.record.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Platform for Bench {
    fn port_read(&self, port: u16, size: u8) -> u32 {
        let mut record = self.record();
        let value = match port {
            ECHO_PORT => record.echo,
            COUNTER_PORT => {
                record.counted = record.counted.wrapping_add(1);
                0xa1b2_c3d4_u32.wrapping_add(0x0101_0101_u32.wrapping_mul(record.counted.wrapping_sub(1)))
            }
            _ => u32::MAX,
        };
        let value = sized(value, size);
        record.io.push(Io::In { port, size, value });
        value
    }

    fn port_write(&self, port: u16, size: u8, value: u32) {
        let mut record = self.record();
        match port {
            EXIT_PORT | STUB_PORT => {
                record.exited |= port == EXIT_PORT;
                self.signals.raise(Signal::Exit);
                return;
            }
            INTERRUPT_PORT => {
                record.interrupts.push_back(value as u8);
                self.signals.raise(Signal::Interrupt);
            }
            NMI_PORT => self.signals.raise(Signal::Nmi),
            ECHO_PORT => record.echo = sized(value, size),
            _ => {}
        }
        record.io.push(Io::Out { port, size, value: sized(value, size) });
    }

    fn mmio_read(&self, _vcpu: u32, at: GuestPhysAddr, data: &mut [u8]) {
        for (byte, address) in data.iter_mut().zip(at.0..) {
            *byte = address as u8 ^ 0x5a;
        }
        self.record().io.push(Io::Load { at: at.0, size: data.len() as u8 });
    }

    fn mmio_write(&self, _vcpu: u32, at: GuestPhysAddr, data: &[u8]) {
        let value = data.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte));
        self.record().io.push(Io::Store { at: at.0, size: data.len() as u8, value });
    }

    fn interrupt_acknowledge(&self, _vcpu: u32) -> Option<Vector> {
        let mut record = self.record();
        let vector = record.interrupts.pop_front().map(Vector);
        if record.interrupts.is_empty() {
            self.signals.take(Signal::Interrupt);
        }
        vector
    }

    fn task_priority(&self, _vcpu: u32) -> u8 {
        self.priority.load(Ordering::Relaxed)
    }

    fn set_task_priority(&self, _vcpu: u32, priority: u8) {
        self.priority.store(priority, Ordering::Relaxed);
    }

    fn msr_read(&self, _vcpu: u32, index: u32) -> Option<Result<u64, MsrFault>> {
        match index {
            IA32_APIC_BASE => Some(Ok(self.apic_base.load(Ordering::Relaxed))),
            MACHINE_MSR => Some(Ok(MACHINE_MSR_VALUE)),
            _ => None,
        }
    }

    fn msr_write(&self, _vcpu: u32, index: u32, value: u64) -> Option<Result<(), MsrFault>> {
        match index {
            IA32_APIC_BASE => {
                self.apic_base.store(value, Ordering::Relaxed);
                Some(Ok(()))
            }
            MACHINE_MSR if value == 0 => Some(Err(MsrFault)),
            MACHINE_MSR => Some(Ok(())),
            _ => None,
        }
    }

    fn tsc(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    fn tsc_adjusted(&self, _vcpu: u32, _adjust: u64) {}

    fn hypercall(&self, _vcpu: u32, call: &mut Hypercall) -> bool {
        let known = call.rax == HYPERCALL;
        if known {
            call.rax = call.rbx.wrapping_add(1);
        }
        known
    }

    fn halt(&self, _vcpu: u32) {
        self.signals.wait(None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ports_do_what_the_guests_rely_on() {
        let signals = Arc::new(VcpuSignals::default());
        let bench = Bench::new(Arc::clone(&signals));
        bench.port_write(ECHO_PORT, 2, 0x1_2345);
        assert_eq!(bench.port_read(ECHO_PORT, 1), 0x45);
        assert_eq!(
            [bench.port_read(COUNTER_PORT, 4), bench.port_read(COUNTER_PORT, 2)],
            [0xa1b2_c3d4, 0xc4d5]
        );
        bench.port_write(INTERRUPT_PORT, 1, 0x31);
        assert!(signals.is_pending(Signal::Interrupt));
        assert_eq!(bench.interrupt_acknowledge(0), Some(Vector(0x31)));
        assert!(!signals.is_pending(Signal::Interrupt));
        bench.port_write(EXIT_PORT, 1, 0);
        assert!(signals.is_pending(Signal::Exit));
        let record = bench.into_record();
        assert!(record.exited);
        assert_eq!(record.io.len(), 5);
    }
}
