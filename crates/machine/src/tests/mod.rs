//! Tests of the machine as a whole: the wiring on a fake clock, without any
//! engine, and the life with an engine that plays a script.

mod assisted;
mod life;
mod paravirtual;
mod script;
mod together;
mod virtio;
mod wiring;

use std::sync::Arc;
use std::time::Duration;

use chipset::acpi::AcpiBlob;
use engine::{Platform, Signal};
use memory::{GuestMemory, RamLayout};
use x86::GuestPhysAddr;
use x86::cpuid::Speculation;

use crate::board::{Board, BoardConfig};
use crate::config::{Consoles, Paravirt};
use crate::testing::FakeTicks;
use crate::{MachineError, VirtioSlot};

const MIB: u64 = 1 << 20;
const GHZ: u64 = 1_000_000_000;
const LAPIC: u64 = 0xfee0_0000;
const IOAPIC: u64 = 0xfec0_0000;

/// A board whose time stands until it is told to pass: one tick is one
/// nanosecond.
struct Bench {
    board: Board,
    memory: GuestMemory,
    ticks: Arc<FakeTicks>,
}

impl Bench {
    fn new() -> Self {
        Self::with(1, None)
    }

    fn with(cpus: u32, firmware_tables: Option<&AcpiBlob>) -> Self {
        Self::with_devices(cpus, firmware_tables, Vec::new())
    }

    fn with_devices(cpus: u32, firmware_tables: Option<&AcpiBlob>, virtio: Vec<VirtioSlot>) -> Self {
        Self::try_with_devices(cpus, firmware_tables, virtio).unwrap()
    }

    fn try_with_devices(
        cpus: u32,
        firmware_tables: Option<&AcpiBlob>,
        virtio: Vec<VirtioSlot>,
    ) -> Result<Self, MachineError> {
        let ticks = FakeTicks::new(GHZ, 0);
        let memory = GuestMemory::new(2 * MIB).unwrap();
        let board = Board::build(BoardConfig {
            processor: engine::ProcessorLimits::default(),
            cpus,
            ram: RamLayout::new(2 * MIB),
            firmware_tables,
            consoles: Consoles::default(),
            virtio,
            memory: memory.clone(),
            epoch: Duration::ZERO,
            paravirt: Paravirt::Kvm,
            calls_reach_processors: true,
            speculation: Speculation::Immune,
            ticks: ticks.clone(),
            test_device: false,
        })?;
        board.start();
        Ok(Self { board, memory, ticks })
    }

    /// Lets time pass in small steps and does what is due.
    fn pass(&self, time: Duration) {
        const STEP: u64 = 10_000;
        for _ in 0..time.as_nanos().div_ceil(STEP.into()) {
            self.ticks.pass(STEP);
            self.board.timers.due().into_iter().for_each(|id| self.board.expire(id));
        }
    }

    fn out(&self, port: u16, value: u8) {
        self.board.port_write(port, 1, value.into());
    }

    fn inb(&self, port: u16) -> u8 {
        self.board.port_read(port, 1) as u8
    }

    fn apic_write(&self, vcpu: u32, register: u64, value: u32) {
        self.board.mmio_write(vcpu, GuestPhysAddr(LAPIC + register), &value.to_le_bytes());
    }

    fn apic_read(&self, vcpu: u32, register: u64) -> u32 {
        let mut data = [0; 4];
        self.board.mmio_read(vcpu, GuestPhysAddr(LAPIC + register), &mut data);
        u32::from_le_bytes(data)
    }

    fn redirect(&self, input: u32, entry: u64) {
        for (half, value) in [(1, (entry >> 32) as u32), (0, entry as u32)] {
            self.board.mmio_write(0, GuestPhysAddr(IOAPIC), &[(0x10 + 2 * input + half) as u8, 0, 0, 0]);
            self.board.mmio_write(0, GuestPhysAddr(IOAPIC + 0x10), &value.to_le_bytes());
        }
    }

    fn is_pending(&self, vcpu: u32, signal: Signal) -> bool {
        self.board.signals(vcpu).is_pending(signal)
    }

    /// The vector that the boot processor takes, if it is told of one.
    fn interrupt(&self) -> Option<u8> {
        if !self.is_pending(0, Signal::Interrupt) {
            return None;
        }
        let vector = self.board.interrupt_acknowledge(0);
        assert!(vector.is_some(), "announced, but gone");
        vector.map(|vector| vector.0)
    }

    /// Initializes the 8259As: vectors 0x20 to 0x2F, and these inputs open.
    fn init_pics(&self, open: u16) {
        for (base, vector, cascade) in [(0x20, 0x20, 4), (0xa0, 0x28, 2)] {
            self.out(base, 0x11);
            self.out(base + 1, vector);
            self.out(base + 1, cascade);
            self.out(base + 1, 1);
        }
        let [low, high] = (!open).to_le_bytes();
        self.out(0x21, low & !4);
        self.out(0xa1, high);
    }

    /// Counter 0 of the timer: a rate generator of about a kilohertz.
    fn start_pit(&self) {
        self.out(0x43, 0x34);
        self.out(0x40, 0xa9);
        self.out(0x40, 0x04);
    }
}
