//! The board: all that guest code can reach, wired up and shared by the vCPUs,
//! the timers' thread and the handles.

use std::num::NonZero;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use chipset::acpi::{AcpiBlob, PCI_MEMORY};
use chipset::ioapic::IOAPIC_BASE;
use chipset::lapic::{LAPIC_TIMER_HZ, LocalApicConfig};
use chipset::pci::PciBus;
use chipset::pm::Pm;
use chipset::testdev::TestDevice;
use chipset::{Device, EventSink, Line, VmTime};
use engine::{ProcessorLimits, Signal, VcpuSignals};
use memory::{GuestMemory, RamLayout};
use paravirt::{Interface, Kvm, KvmConfig};
use x86::GuestPhysAddr;
use x86::cpuid::{CpuidConfig, CpuidModel, Feature, Speculation};
use x86::paging::DEFAULT_PHYS_BITS;

use crate::bells::Bells;
use crate::clock::VmClock;
use crate::config::{Consoles, Paravirt};
use crate::control::Control;
use crate::devices::{mount_consoles, mount_legacy, mount_pci, mount_system, mount_test_device};
use crate::firmware::mount_configuration;
use crate::host::HostProcessor;
use crate::interrupts::{ApicTimer, Interrupts};
use crate::load::PLATFORM_IO_APIC;
use crate::mount::{Mounted, Part, PortTarget};
use crate::ports::PortMap;
use crate::processor::Processor;
use crate::serial::{Input, SerialPort};
use crate::timers::{TimerId, Timers};
use crate::virtio_slots::{self, MmioDevices};
use crate::{MachineError, TickSource, VirtioSlot};

/// What ends a halt with interrupts off.
const ENDS_HALT: [Signal; 5] = [Signal::Nmi, Signal::Init, Signal::Sipi, Signal::Unhalt, Signal::Exit];

/// The half-built board, while devices are mounted.
pub(crate) struct Wiring {
    pub(crate) ports: PortMap,
    pub(crate) interrupts: Arc<Interrupts>,
    control: Arc<Control>,
    clock: Arc<VmClock>,
    timers: Arc<Timers>,
    /// Everything that has a timer, in the order of the timers' numbers.
    parts: Vec<Arc<dyn Part>>,
}

impl Wiring {
    fn new(clock: Arc<VmClock>, cpuid: &CpuidModel, cpus: u32, memory: &GuestMemory) -> Self {
        let timers = Arc::new(Timers::new(Arc::clone(&clock)));
        let local_apics = (0..cpus).map(|id| LocalApicConfig {
            id,
            bootstrap: id == 0,
            physical_address_bits: cpuid.phys_bits(),
            tsc_hz: cpuid.tsc_hz(),
        });
        let interrupts = Arc::new(Interrupts::new(PLATFORM_IO_APIC, local_apics, memory, &clock, &timers));
        let signals = interrupts.processors().iter().map(Processor::signals).cloned().collect();
        let control = Arc::new(Control::new(signals));
        let mut wiring =
            Self { ports: PortMap::new(), interrupts, control, clock, timers, parts: Vec::new() };
        wiring.add_apic_timers();
        wiring
    }

    fn add_apic_timers(&mut self) {
        let interrupts = Arc::clone(&self.interrupts);
        for (vcpu, processor) in (0..).zip(interrupts.processors()) {
            let part = ApicTimer { interrupts: Arc::clone(&interrupts), vcpu };
            self.add(processor.timer(), Arc::new(part));
        }
    }

    fn add(&mut self, timer: TimerId, part: Arc<dyn Part>) {
        debug_assert_eq!(timer.index(), self.parts.len(), "timers are registered in this order");
        self.parts.push(part);
    }

    /// A device's end of ISA line `irq`.
    pub(crate) fn line(&self, irq: u8) -> Line {
        self.interrupts.line(irq)
    }

    /// Where devices report what concerns the whole machine.
    pub(crate) fn events(&self) -> EventSink {
        let control = Arc::clone(&self.control);
        Arc::new(move |event| control.event(event))
    }

    /// Puts `device` on the board, at `ports`.
    pub(crate) fn mount<D: Device + 'static>(
        &mut self,
        device: D,
        ports: &[RangeInclusive<u16>],
    ) -> Arc<Mounted<D>> {
        let mounted = Arc::new(Mounted::new(device, Arc::clone(&self.clock), Arc::clone(&self.timers)));
        self.add(mounted.timer(), mounted.clone());
        self.ports.claim(ports, mounted.clone() as Arc<dyn PortTarget>);
        mounted
    }
}

/// What a board is built from.
pub(crate) struct BoardConfig<'a> {
    pub(crate) cpus: u32,
    /// What the engine can offer.
    pub(crate) processor: ProcessorLimits,
    pub(crate) ram: RamLayout,
    /// ACPI tables that firmware is to be told of, if there is firmware.
    pub(crate) firmware_tables: Option<&'a AcpiBlob>,
    pub(crate) consoles: Consoles,
    pub(crate) virtio: Vec<VirtioSlot>,
    pub(crate) memory: GuestMemory,
    /// The time of day, since 1970, when the machine's time begins.
    pub(crate) epoch: Duration,
    pub(crate) paravirt: Paravirt,
    /// Whether a hypercall reaches the processors.
    pub(crate) calls_reach_processors: bool,
    pub(crate) speculation: Speculation,
    pub(crate) ticks: Arc<dyn TickSource>,
    /// Whether there is a device for test kernels.
    pub(crate) test_device: bool,
}

/// The finished board.
pub(crate) struct Board {
    pub(crate) ports: PortMap,
    pub(crate) interrupts: Arc<Interrupts>,
    pub(crate) control: Arc<Control>,
    pub(crate) clock: Arc<VmClock>,
    pub(crate) timers: Arc<Timers>,
    pub(crate) cpuid: Arc<CpuidModel>,
    pub(crate) input: Arc<Input>,
    pub(crate) serial: Arc<Mounted<SerialPort>>,
    pub(crate) power: Arc<Mounted<Pm>>,
    pub(crate) paravirt: Option<Box<dyn Interface>>,
    pci: Arc<Mounted<PciBus>>,
    mmio: MmioDevices,
    pub(crate) bells: Arc<Bells>,
    test_device: Option<Arc<Mounted<TestDevice>>>,
    parts: Vec<Arc<dyn Part>>,
}

impl Board {
    pub(crate) fn build(config: BoardConfig<'_>) -> Result<Self, MachineError> {
        let clock = Arc::new(VmClock::new(Arc::clone(&config.ticks)));
        let paravirt = paravirt(&config, clock.hz());
        let cpuid = cpuid_model(clock.hz(), &config, paravirt.as_deref());
        let input = Arc::new(Input::default());
        let mut wiring = Wiring::new(clock, &cpuid, config.cpus, &config.memory);
        mount_legacy(&mut wiring, epoch_seconds(config.epoch), config.ram);
        let serial = mount_consoles(&mut wiring, config.consoles, Arc::clone(&input));
        let (bus, mmio) = virtio_slots::place(config.virtio, &config.memory, &wiring.interrupts)?;
        let pci = mount_pci(&mut wiring, bus);
        let bells = Arc::new(Bells::new(mmio.bells()));
        let listener = Arc::clone(&bells);
        pci.with(|bus, _| bus.listen(Box::new(move |placed| listener.place(placed))));
        let power = mount_system(&mut wiring);
        let test_device = config.test_device.then(|| mount_test_device(&mut wiring));
        if let Some(tables) = config.firmware_tables {
            mount_configuration(&mut wiring, config.ram, config.cpus, tables)?;
        }
        let Wiring { ports, interrupts, control, clock, timers, parts } = wiring;
        let cpuid = Arc::new(cpuid);
        Ok(Self {
            ports,
            interrupts,
            control,
            clock,
            timers,
            cpuid,
            input,
            serial,
            power,
            paravirt,
            pci,
            mmio,
            bells,
            test_device,
            parts,
        })
    }

    /// Lets the part with timer `id` do what is due.
    pub(crate) fn expire(&self, id: TimerId) {
        if let Some(part) = self.parts.get(id.index()) {
            part.expire();
        }
    }

    /// Platform reset: devices first, then the controllers that their lines
    /// lead to.
    pub(crate) fn reset(&self) {
        self.parts.iter().for_each(|part| part.reset());
        self.mmio.reset();
        self.interrupts.reset();
        self.paravirt.iter().for_each(|interface| interface.reset());
    }

    /// Stops what runs on threads of its own.
    pub(crate) fn stop_devices(&self) {
        self.pci.with(|bus, now| bus.reset(now));
        self.mmio.reset();
    }

    /// What firmware would have done before it started a kernel.
    pub(crate) fn bios_setup(&self) {
        self.interrupts.bios_setup();
        self.pci.with(|bus, _| bus.configure(PCI_MEMORY));
    }

    /// Reads from the buses' memory; false if nothing there decodes it.
    pub(crate) fn bus_read(&self, at: GuestPhysAddr, data: &mut [u8]) -> bool {
        match is_bus(at.0) {
            true => self.pci.with(|bus, _| bus.memory_read(at.0, data)) || self.mmio.read(at.0, data),
            false => self.at_test_device(at, |device, now, offset| device.mmio_read(now, offset, data)),
        }
    }

    /// Writes to the buses' memory; false if nothing there decodes it.
    pub(crate) fn bus_write(&self, at: GuestPhysAddr, data: &[u8]) -> bool {
        match is_bus(at.0) {
            true => self.pci.with(|bus, _| bus.memory_write(at.0, data)) || self.mmio.write(at.0, data),
            false => self.at_test_device(at, |device, now, offset| device.mmio_write(now, offset, data)),
        }
    }

    /// Does something at an offset in the test device's memory; false if `at`
    /// does not lie there.
    fn at_test_device(&self, at: GuestPhysAddr, f: impl FnOnce(&mut TestDevice, VmTime, u64)) -> bool {
        let device = self.test_device.as_ref().filter(|_| TestDevice::MEMORY.contains(&at.0));
        let offset = at.0.wrapping_sub(*TestDevice::MEMORY.start());
        device.map(|device| device.with(|device, now| f(device, now, offset))).is_some()
    }

    /// The signals of vCPU `vcpu`.
    pub(crate) fn signals(&self, vcpu: u32) -> Arc<VcpuSignals> {
        self.interrupts.processor(vcpu).map(Processor::signals).cloned().unwrap_or_default()
    }

    /// Waits, for processor `vcpu` that has halted with interrupts off, until
    /// there is anything but an interrupt.
    pub(crate) fn wait_for_more_than_interrupts(&self, vcpu: u32) {
        let Some(processor) = self.interrupts.processor(vcpu) else { return };
        let signals = processor.signals();
        loop {
            signals.take(Signal::Interrupt);
            // It comes to one before it goes on.
            signals.take(Signal::Safepoint);
            signals.wait(None);
            if ENDS_HALT.iter().any(|&signal| signals.is_pending(signal)) {
                return processor.refresh();
            }
        }
    }

    /// Lets time pass.
    pub(crate) fn start(&self) {
        if self.clock.run() {
            let now = self.clock.moment();
            self.paravirt.iter().for_each(|interface| interface.resumed(now));
        }
        self.timers.start();
    }

    /// Stops time.
    pub(crate) fn stand(&self) {
        self.timers.stand();
        self.clock.freeze();
    }
}

/// Whether an address belongs to the buses: above RAM, below the I/O APIC.
pub(crate) fn is_bus(at: u64) -> bool {
    (u64::from(PCI_MEMORY)..IOAPIC_BASE).contains(&at)
}

fn paravirt(config: &BoardConfig<'_>, tsc_hz: u64) -> Option<Box<dyn Interface>> {
    let memory = config.memory.clone();
    match config.paravirt {
        Paravirt::None => None,
        Paravirt::Kvm => {
            let calls_reach_processors = config.calls_reach_processors;
            let (vcpus, epoch) = (config.cpus, config.epoch);
            let host = thread::available_parallelism().map_or(1, NonZero::get);
            let overcommitted = vcpus as usize > host;
            let config = KvmConfig { tsc_hz, vcpus, overcommitted, calls_reach_processors, epoch };
            Some(Box::new(Kvm::new(memory, config)))
        }
    }
}

fn epoch_seconds(epoch: Duration) -> i64 {
    i64::try_from(epoch.as_secs()).unwrap_or(i64::MAX)
}

fn cpuid_model(tsc_hz: u64, config: &BoardConfig<'_>, paravirt: Option<&dyn Interface>) -> CpuidModel {
    let limits = config.processor;
    let without: Vec<Feature> = limits.without.iter().collect();
    let interface = paravirt.map(Interface::cpuid).unwrap_or_default();
    CpuidModel::new(CpuidConfig {
        phys_bits: limits.phys_bits.min(DEFAULT_PHYS_BITS),
        disable: &without,
        interface: &interface,
        speculation: config.speculation,
        vcpu_count: config.cpus,
        apic_crystal_hz: LAPIC_TIMER_HZ,
        ..CpuidConfig::new(&HostProcessor, tsc_hz)
    })
}
