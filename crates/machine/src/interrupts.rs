//! The interrupt fabric: device lines to the 8259As and the I/O APIC, their
//! messages and those between processors to the local APICs.
//!
//! As on a PC with an APIC, line *n* of the ISA bus reaches input *n* of both
//! controllers, but the timer's line 0 is input 2 of the I/O APIC (the MADT
//! says so). INTR of the 8259As goes to LINT0 of the boot processor.

use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};

use chipset::ioapic::{IOAPIC_BASE, IoApic};
use chipset::lapic::{self, ApicMessage, ApicWork, DeliveryMode, Ipi, LocalApicConfig};
use chipset::pci::MsiMessage;
use chipset::pic::Pic;
use chipset::{Device, Line, LineTarget, VmTime};
use engine::{Assist, InterruptMessage, MsrFault};
use memory::GuestMemory;
use x86::{GuestPhysAddr, PAGE_SIZE, Vector};

use crate::clock::VmClock;
use crate::mount::{Part, PortTarget};
use crate::processor::Processor;
use crate::sync::lock;
use crate::timers::Timers;

/// Where line 0 is wired to on the I/O APIC.
const TIMER_INPUT: u32 = 2;
/// The line that the cascade occupies on the 8259As.
const CASCADE: u32 = 2;

struct Pics {
    pair: Pic,
    intr: bool,
}

struct Inputs {
    io_apic: IoApic,
    /// The level-triggered messages whose ends the engine was told to tell.
    told: Vec<Option<InterruptMessage>>,
}

/// All interrupt controllers of a machine.
pub(crate) struct Interrupts {
    pics: Mutex<Pics>,
    inputs: Mutex<Inputs>,
    /// Who has the local APICs, if it is the engine.
    lent: RwLock<Option<Arc<dyn Assist>>>,
    processors: Vec<Processor>,
}

impl Interrupts {
    /// Controllers for processors as `local_apics` describes them, the boot
    /// processor first.
    pub(crate) fn new(
        io_apic_id: u8,
        local_apics: impl Iterator<Item = LocalApicConfig>,
        memory: &GuestMemory,
        clock: &Arc<VmClock>,
        timers: &Arc<Timers>,
    ) -> Self {
        let processor =
            |config| Processor::new(config, memory.clone(), Arc::clone(clock), Arc::clone(timers));
        Self {
            pics: Mutex::new(Pics { pair: Pic::new(), intr: false }),
            inputs: Mutex::new(Inputs { io_apic: IoApic::new(io_apic_id), told: Vec::new() }),
            lent: RwLock::default(),
            processors: local_apics.map(processor).collect(),
        }
    }

    /// The device's end of ISA line `irq`.
    pub(crate) fn line(self: &Arc<Self>, irq: u8) -> Line {
        Line::new(Arc::clone(self) as Arc<dyn LineTarget>, irq.into())
    }

    /// All processors, the boot processor first.
    pub(crate) fn processors(&self) -> &[Processor] {
        &self.processors
    }

    /// Processor `vcpu`.
    pub(crate) fn processor(&self, vcpu: u32) -> Option<&Processor> {
        self.processors.get(usize::try_from(vcpu).ok()?)
    }

    /// Does something with the 8259As; INTR follows. Their lock is kept until
    /// then, so that levels arrive in the order in which they changed.
    fn pics<R>(&self, f: impl FnOnce(&mut Pic) -> R) -> R {
        let mut pics = lock(&self.pics);
        let result = f(&mut pics.pair);
        let intr = pics.pair.intr_asserted();
        if intr != pics.intr {
            pics.intr = intr;
            if let Some(boot) = self.processors.first() {
                boot.set_intr(intr);
            }
        }
        result
    }

    /// Does something with the I/O APIC and routes what it sends.
    fn io_apic<M: IntoIterator<Item = ApicMessage>>(&self, f: impl FnOnce(&mut IoApic) -> M) {
        let mut inputs = lock(&self.inputs);
        f(&mut inputs.io_apic).into_iter().for_each(|message| self.send(&message));
    }

    /// Writes to the I/O APIC. Before anything is sent, the engine learns of
    /// which interrupts it has to tell the end.
    fn io_apic_write(&self, offset: u64, data: &[u8]) {
        let mut inputs = lock(&self.inputs);
        let messages = inputs.io_apic.mmio_write(offset, data);
        if let Some(assist) = self.lent().as_deref() {
            inputs.tell(assist);
        }
        messages.iter().for_each(|message| self.send(message));
    }

    fn lent(&self) -> RwLockReadGuard<'_, Option<Arc<dyn Assist>>> {
        self.lent.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the local APICs to the engine, or takes them back. What is sent
    /// meanwhile waits, and reaches whoever has them then.
    ///
    /// # Errors
    /// That of `transfer`; everything then stays where it is.
    pub(crate) fn hand_over<E>(
        &self,
        assist: Option<&Arc<dyn Assist>>,
        transfer: impl FnOnce(&[Processor]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut inputs = lock(&self.inputs);
        let mut lent = self.lent.write().unwrap_or_else(PoisonError::into_inner);
        transfer(&self.processors)?;
        *lent = assist.filter(|assist| assist.has_local_apics()).cloned();
        inputs.told.clear();
        if let Some(assist) = lent.as_deref() {
            inputs.tell(assist);
        }
        Ok(())
    }

    /// A local APIC of the engine has ended a level-triggered interrupt.
    pub(crate) fn end_of_interrupt(&self, vector: Vector) {
        self.io_apic(|io_apic| io_apic.eoi(vector.0));
    }

    /// Takes a message-signalled interrupt of a PCI function.
    pub(crate) fn message(&self, message: MsiMessage) {
        let Some(message) = ApicMessage::from_msi(message.address, message.data) else { return };
        self.pass(&message, |assist, write| assist.signal(write));
    }

    /// Drives input `input` of the I/O APIC, which the 8259As do not have.
    pub(crate) fn set_upper_input(&self, input: u32, level: bool) {
        self.io_apic(|io_apic| io_apic.set_level(input, level));
    }

    /// Drives a line of the 8259As, which the I/O APIC has elsewhere.
    pub(crate) fn set_isa_only(&self, irq: u8, level: bool) {
        self.pics(|pic| pic.set_irq(irq, level));
    }

    /// Delivers a message to the processors that it names.
    pub(crate) fn send(&self, message: &ApicMessage) {
        self.pass(message, |assist, write| assist.deliver(write));
    }

    /// Passes a message to the processors that it names, by `lent` if their
    /// local APICs are the engine's. Nobody hands them over meanwhile, so that
    /// it does not miss them.
    fn pass(&self, message: &ApicMessage, lent: impl FnOnce(&dyn Assist, InterruptMessage)) {
        let owner = self.lent();
        match owner.as_deref() {
            Some(assist) => lent(assist, as_write(message)),
            None => self.route(message, |_, processor| processor.matches(message)),
        }
    }

    fn route(&self, message: &ApicMessage, mut is_destination: impl FnMut(usize, &Processor) -> bool) {
        let destinations =
            self.processors.iter().enumerate().filter(|(index, processor)| is_destination(*index, processor));
        let destinations = destinations.map(|(_, processor)| processor);
        if message.delivery == DeliveryMode::LowestPriority {
            if let Some(one) = destinations.min_by_key(|processor| processor.arbitration_priority()) {
                one.deliver(message);
            }
        } else {
            destinations.for_each(|processor| processor.deliver(message));
        }
    }

    /// Does what a register write of processor `sender` asked for.
    fn perform(&self, sender: u32, work: Option<ApicWork>) {
        match work {
            None => {}
            Some(ApicWork::EoiBroadcast(vector)) => self.io_apic(|io_apic| io_apic.eoi(vector)),
            Some(ApicWork::Ipi(ipi)) => self.send_ipi(sender, &ipi),
        }
    }

    fn send_ipi(&self, sender: u32, ipi: &Ipi) {
        self.route(&ipi.message, |index, processor| {
            let is_sender = u32::try_from(index) == Ok(sender);
            processor.apic(|apic, _| ipi.reaches(apic, is_sender))
        });
    }

    /// The interrupt-acknowledge cycle: the local APIC first, then the 8259As.
    pub(crate) fn acknowledge(&self, vcpu: u32) -> Option<Vector> {
        let processor = self.processor(vcpu)?;
        if let Some(vector) = processor.acknowledge() {
            return Some(Vector(vector));
        }
        if !processor.take_extint() {
            return None;
        }
        self.pics(|pic| pic.intr_asserted().then(|| Vector(pic.acknowledge())))
    }

    /// Memory-mapped reads; what nobody decodes reads as ones.
    pub(crate) fn mmio_read(&self, vcpu: u32, at: GuestPhysAddr, data: &mut [u8]) {
        if let Some(offset) = io_apic_offset(at) {
            lock(&self.inputs).io_apic.mmio_read(offset, data);
        } else if !self.processor(vcpu).is_some_and(|processor| processor.mmio_read(at, data)) {
            data.fill(0xff);
        }
    }

    /// Memory-mapped writes.
    pub(crate) fn mmio_write(&self, vcpu: u32, at: GuestPhysAddr, data: &[u8]) {
        if let Some(offset) = io_apic_offset(at) {
            return self.io_apic_write(offset, data);
        }
        let Some(processor) = self.processor(vcpu) else { return };
        self.perform(vcpu, processor.mmio_write(at, data));
    }

    /// RDMSR of a local APIC's MSR.
    pub(crate) fn msr_read(&self, vcpu: u32, index: u32) -> Option<Result<u64, MsrFault>> {
        let processor = self.processor(vcpu).filter(|_| lapic::owns_msr(index))?;
        Some(processor.own_apic(|apic, now| apic.msr_read(now, index)).map_err(|_| MsrFault))
    }

    /// WRMSR to a local APIC's MSR.
    pub(crate) fn msr_write(&self, vcpu: u32, index: u32, value: u64) -> Option<Result<(), MsrFault>> {
        let processor = self.processor(vcpu).filter(|_| lapic::owns_msr(index))?;
        let outcome = processor.own_apic(|apic, now| apic.msr_write(now, index, value));
        Some(outcome.map(|work| self.perform(vcpu, work)).map_err(|_| MsrFault))
    }

    /// Platform reset. Device lines were reset before.
    pub(crate) fn reset(&self) {
        self.pics(|pic| pic.reset(VmTime::ZERO));
        lock(&self.inputs).io_apic.reset();
        self.processors.iter().for_each(Processor::reset);
    }

    /// What firmware would have done before it started a kernel.
    pub(crate) fn bios_setup(&self) {
        if let Some(boot) = self.processors.first() {
            boot.apic(|apic, _| apic.bios_setup());
        }
    }
}

fn as_write(message: &ApicMessage) -> InterruptMessage {
    let (address, data) = message.to_msi();
    InterruptMessage { address, data }
}

impl Inputs {
    /// Tells the engine of which interrupts it has to tell the end, if they are
    /// not the same as before.
    fn tell(&mut self, assist: &dyn Assist) {
        let messages = self.io_apic.level_messages();
        let messages: Vec<_> = messages.iter().map(|message| message.as_ref().map(as_write)).collect();
        if messages != self.told {
            assist.expect_ends(&messages);
            self.told = messages;
        }
    }
}

fn io_apic_offset(at: GuestPhysAddr) -> Option<u64> {
    at.0.checked_sub(IOAPIC_BASE).filter(|offset| *offset < PAGE_SIZE)
}

impl LineTarget for Interrupts {
    fn set_level(&self, input: u32, level: bool) {
        self.pics(|pic| pic.set_irq(u8::try_from(input).unwrap_or(u8::MAX), level));
        match input {
            0 => self.io_apic(|io_apic| io_apic.set_level(TIMER_INPUT, level)),
            CASCADE => {}
            _ => self.io_apic(|io_apic| io_apic.set_level(input, level)),
        }
    }
}

/// The 8259As at their ports. Their time does not matter.
impl PortTarget for Interrupts {
    fn port_read(&self, port: u16, size: u8) -> u32 {
        self.pics(|pic| pic.port_read(VmTime::ZERO, port, size))
    }

    fn port_write(&self, port: u16, size: u8, value: u32) {
        self.pics(|pic| pic.port_write(VmTime::ZERO, port, size, value));
    }
}

/// A processor's APIC timer among the machine's timers.
pub(crate) struct ApicTimer {
    pub(crate) interrupts: Arc<Interrupts>,
    pub(crate) vcpu: u32,
}

impl Part for ApicTimer {
    fn reset(&self) {}

    fn expire(&self) {
        if let Some(processor) = self.interrupts.processor(self.vcpu) {
            processor.expire();
        }
    }
}
