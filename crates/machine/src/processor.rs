//! One processor's end of the interrupt fabric: its local APIC, its deadline,
//! and the signals by which its engine hears of them.

use std::sync::{Arc, Mutex};

use chipset::VmTime;
use chipset::lapic::{ApicMessage, ApicWork, CpuSignal, LocalApic, LocalApicConfig};
use engine::{LocalApicRegisters, Signal, VcpuSignals};
use memory::GuestMemory;
use paravirt::EoiFlag;
use x86::GuestPhysAddr;

use crate::clock::VmClock;
use crate::sync::lock;
use crate::timers::{TimerId, Timers};

struct Local {
    /// The local APIC; while the engine has it, what was last handed over.
    apic: LocalApic,
    /// The engine has it.
    lent: bool,
    /// The 8259As' INTR, as it reaches this processor.
    intr: bool,
    /// A message with delivery mode ExtINT has come.
    extint: bool,
    /// How the guest may end interrupts without a trap.
    eoi: EoiFlag,
    last: VmTime,
    armed: Option<VmTime>,
}

impl Local {
    /// Whether the vector of the next interrupt comes from the 8259As.
    fn wants_intr(&self) -> bool {
        self.extint || self.intr && self.apic.accepts_extint()
    }

    /// Whether the engine is to ask for an interrupt. While the guest may end
    /// the one in service on its own, only its thread finds out.
    fn wants_attention(&self) -> bool {
        if self.lent {
            return self.intr;
        }
        let unsure = self.eoi.is_lent() && self.apic.has_requests();
        self.apic.pending().is_some() || self.wants_intr() || unsure
    }

    /// Whether the APIC's page is at `at`.
    fn decodes(&self, at: GuestPhysAddr) -> bool {
        !self.lent && self.apic.base() == Some(at.page().0)
    }

    /// Learns whether the guest has ended the interrupt in service.
    fn take_eoi_back(&mut self) {
        if self.eoi.take_back() {
            self.apic.end_silently();
        }
    }
}

/// A processor as the interrupt fabric sees it.
pub(crate) struct Processor {
    local: Mutex<Local>,
    signals: Arc<VcpuSignals>,
    clock: Arc<VmClock>,
    timers: Arc<Timers>,
    timer: TimerId,
}

impl Processor {
    pub(crate) fn new(
        config: LocalApicConfig,
        memory: GuestMemory,
        clock: Arc<VmClock>,
        timers: Arc<Timers>,
    ) -> Self {
        let (apic, eoi) = (LocalApic::new(config), EoiFlag::new(memory));
        let local =
            Local { apic, lent: false, intr: false, extint: false, eoi, last: VmTime::ZERO, armed: None };
        let timer = timers.register();
        Self { local: Mutex::new(local), signals: Arc::default(), clock, timers, timer }
    }

    /// Where the machine leaves signals for the engine.
    pub(crate) fn signals(&self) -> &Arc<VcpuSignals> {
        &self.signals
    }

    /// Where the APIC timer's deadline is kept.
    pub(crate) fn timer(&self) -> TimerId {
        self.timer
    }

    fn local<R>(&self, f: impl FnOnce(&mut Local, VmTime) -> R) -> R {
        let mut local = lock(&self.local);
        let now = self.clock.now().max(local.last);
        local.last = now;
        let result = f(&mut local, now);
        self.settle(&mut local);
        result
    }

    /// Does something with the local APIC; the engine and the timers follow.
    pub(crate) fn apic<R>(&self, f: impl FnOnce(&mut LocalApic, VmTime) -> R) -> R {
        self.local(|local, now| f(&mut local.apic, now))
    }

    /// The processor takes the pending interrupt of its local APIC.
    pub(crate) fn acknowledge(&self) -> Option<u8> {
        self.own(|local, _| if local.lent { None } else { local.apic.acknowledge() })
    }

    /// The same on the processor's own thread: what the guest has done without
    /// a trap is seen before, and allowed again afterwards.
    pub(crate) fn own_apic<R>(&self, f: impl FnOnce(&mut LocalApic, VmTime) -> R) -> R {
        self.own(|local, now| f(&mut local.apic, now))
    }

    fn own<R>(&self, f: impl FnOnce(&mut Local, VmTime) -> R) -> R {
        self.local(|local, now| {
            local.take_eoi_back();
            let result = f(local, now);
            if !local.lent && local.apic.can_end_silently() {
                local.eoi.lend();
            }
            result
        })
    }

    /// Hands the local APIC to the engine: its registers as they are now. The
    /// interrupt in service that the guest may end on its own is ended if it
    /// has done so.
    pub(crate) fn lend(&self) -> LocalApicRegisters {
        self.local(|local, now| {
            local.take_eoi_back();
            local.lent = true;
            let page = local.apic.page(now);
            let state = local.apic.state();
            LocalApicRegisters {
                base: state.apic_base,
                page: page.to_vec(),
                tsc_deadline: state.timer.tsc_deadline,
                eoi_flag: 0,
            }
        })
    }

    /// Takes the local APIC back.
    ///
    /// # Errors
    /// If that is none.
    pub(crate) fn take_back(&self, registers: &LocalApicRegisters) -> Result<(), String> {
        let page = registers.page.as_slice().try_into();
        let page = page.map_err(|_| "its page has no 64 registers".to_owned())?;
        self.local(|local, now| {
            local.lent = false;
            local
                .apic
                .set_page(now, registers.base, page, registers.tsc_deadline)
                .map_err(|error| error.to_string())?;
            let _ = local.apic.set_lint0(local.intr);
            Ok(())
        })
    }

    /// Moves the flag by which the guest ends interrupts, on the processor's
    /// own thread.
    pub(crate) fn set_eoi_flag(&self, at: Option<GuestPhysAddr>) {
        self.local(|local, _| {
            local.take_eoi_back();
            local.eoi.set(at);
        });
    }

    /// Brings the interrupt level and the deadline to where they must be.
    fn settle(&self, local: &mut Local) {
        let wanted = local.wants_attention();
        if wanted != self.signals.is_pending(Signal::Interrupt) {
            if wanted {
                self.signals.raise(Signal::Interrupt);
            } else {
                self.signals.take(Signal::Interrupt);
            }
        }
        let deadline = local.apic.deadline().filter(|_| !local.lent);
        if deadline != local.armed {
            local.armed = deadline;
            self.timers.arm(self.timer, deadline);
        }
    }

    /// Raises the interrupt level again, if it is due, after somebody took it.
    pub(crate) fn refresh(&self) {
        self.local(|_, _| ());
    }

    /// Whether a message for `destination` is meant for this processor.
    pub(crate) fn matches(&self, message: &ApicMessage) -> bool {
        lock(&self.local).apic.matches(message.destination, message.logical)
    }

    /// What decides among the destinations of a lowest-priority message.
    pub(crate) fn arbitration_priority(&self) -> u8 {
        lock(&self.local).apic.arbitration_priority()
    }

    /// Takes a message.
    pub(crate) fn deliver(&self, message: &ApicMessage) {
        self.local(|local, _| {
            if let Some(signal) = local.apic.deliver(message) {
                self.signal(local, signal);
            }
        });
    }

    fn signal(&self, local: &mut Local, signal: CpuSignal) {
        match signal {
            CpuSignal::Nmi => self.signals.raise(Signal::Nmi),
            CpuSignal::Init => {
                local.apic.init_reset();
                local.eoi.set(None);
                local.extint = false;
                // A start-up IPI that came before it is of no use any more.
                self.signals.take(Signal::Sipi);
                self.signals.raise(Signal::Init);
            }
            CpuSignal::StartUp { vector } => self.signals.raise_sipi(vector),
            CpuSignal::ExtInt => local.extint = true,
        }
    }

    /// Drives the INTR pin, LINT0.
    pub(crate) fn set_intr(&self, level: bool) {
        self.local(|local, _| {
            local.intr = level;
            if local.lent {
                return;
            }
            if let Some(signal) = local.apic.set_lint0(level) {
                self.signal(local, signal);
            }
        });
    }

    /// Whether the 8259As are to be asked for a vector; an ExtINT message is
    /// used up by that.
    pub(crate) fn take_extint(&self) -> bool {
        self.local(|local, _| {
            let wanted = if local.lent { local.intr } else { local.wants_intr() };
            local.extint = false;
            wanted
        })
    }

    /// Reads from the APIC's page; false if `at` lies elsewhere.
    pub(crate) fn mmio_read(&self, at: GuestPhysAddr, data: &mut [u8]) -> bool {
        self.own(|local, now| {
            let hit = local.decodes(at);
            if hit {
                local.apic.mmio_read(now, at.page_offset(), data);
            }
            hit
        })
    }

    /// Writes to the APIC's page, and gives what that asks for.
    pub(crate) fn mmio_write(&self, at: GuestPhysAddr, data: &[u8]) -> Option<ApicWork> {
        self.own(|local, now| {
            if !local.decodes(at) {
                return None;
            }
            local.apic.mmio_write(now, at.page_offset(), data)
        })
    }

    /// The APIC's timer is due.
    pub(crate) fn expire(&self) {
        self.local(|local, now| {
            // The timers have forgotten it.
            local.armed = None;
            local.apic.advance(now);
        });
    }

    /// Platform reset: signals that the engine has not taken are gone.
    pub(crate) fn reset(&self) {
        self.local(|local, now| {
            local.apic.reset();
            local.eoi.set(None);
            local.apic.set_tsc_offset(now, 0);
            (local.intr, local.extint) = (false, false);
        });
        for signal in [Signal::Nmi, Signal::Init, Signal::Sipi, Signal::Unhalt] {
            while self.signals.take(signal) {}
        }
    }
}
