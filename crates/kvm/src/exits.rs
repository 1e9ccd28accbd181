//! What an exit asks for, and the answers of the machine.

use engine::{Callout, Platform, Stop, TraceEvent};
use kvm_bindings as kb;
use x86::msr::{self, IA32_APIC_BASE, IA32_TIME_STAMP_COUNTER};
use x86::{Activity, GuestPhysAddr, Vector};

use crate::failure;
use crate::msrs::is_direct;
use crate::state;
use crate::vcpu::KvmVcpu;

/// The reasons that are counted, by the kernel's names.
const REASONS: [(u32, &str); 15] = [
    (kb::KVM_EXIT_IO, "io"),
    (kb::KVM_EXIT_MMIO, "mmio"),
    (kb::KVM_EXIT_X86_RDMSR, "rdmsr"),
    (kb::KVM_EXIT_X86_WRMSR, "wrmsr"),
    (kb::KVM_EXIT_HLT, "hlt"),
    (kb::KVM_EXIT_IRQ_WINDOW_OPEN, "irq_window_open"),
    (kb::KVM_EXIT_SET_TPR, "set_tpr"),
    (kb::KVM_EXIT_IOAPIC_EOI, "ioapic_eoi"),
    (kb::KVM_EXIT_INTR, "intr"),
    (kb::KVM_EXIT_DEBUG, "debug"),
    (kb::KVM_EXIT_SHUTDOWN, "shutdown"),
    (kb::KVM_EXIT_FAIL_ENTRY, "fail_entry"),
    (kb::KVM_EXIT_INTERNAL_ERROR, "internal_error"),
    (kb::KVM_EXIT_UNKNOWN, "unknown"),
    (u32::MAX, "other"),
];

/// The bits of IA32_MISC_ENABLE that change what CPUID says.
const CPUID_CONTROLS: u64 = msr::MISC_ENABLE_LIMIT_CPUID | msr::MISC_ENABLE_XD_DISABLE;

/// Exits by reason.
#[derive(Clone, Debug, Default)]
pub(crate) struct ExitCounts([u64; REASONS.len()]);

impl ExitCounts {
    fn count(&mut self, reason: u32) {
        let index = REASONS.iter().position(|&(number, _)| number == reason).unwrap_or(REASONS.len() - 1);
        if let Some(slot) = self.0.get_mut(index) {
            *slot += 1;
        }
    }

    /// Counts an entry that a kick ended.
    pub(crate) fn kicked(&mut self) {
        self.count(kb::KVM_EXIT_INTR);
    }

    /// Those that happened, by name.
    pub(crate) fn list(&self) -> Vec<(&'static str, u64)> {
        REASONS
            .iter()
            .zip(self.0)
            .filter(|(_, count)| *count > 0)
            .map(|(&(_, name), count)| (name, count))
            .collect()
    }
}

/// How the vCPU goes on after an exit.
pub(crate) enum Next {
    /// It enters again.
    Enter,
    /// One instruction has been executed: a debug exit.
    Stepped,
    /// It stops.
    Stop(Stop),
}

impl KvmVcpu {
    /// Does what the exit asks for.
    pub(crate) fn handle_exit(&mut self, platform: &dyn Platform) -> Next {
        let reason = self.page.exit_reason();
        self.exits.count(reason);
        match reason {
            kb::KVM_EXIT_IO => self.port(platform),
            kb::KVM_EXIT_MMIO => self.mmio(platform),
            kb::KVM_EXIT_X86_RDMSR => self.rdmsr(platform),
            kb::KVM_EXIT_X86_WRMSR => self.wrmsr(platform),
            kb::KVM_EXIT_HLT => {
                self.stats.count(Callout::Halt);
                self.kept.activity = Activity::Halted;
            }
            kb::KVM_EXIT_IOAPIC_EOI => platform.end_of_interrupt(Vector(self.page.ended_vector())),
            kb::KVM_EXIT_DEBUG => return Next::Stepped,
            kb::KVM_EXIT_IRQ_WINDOW_OPEN | kb::KVM_EXIT_SET_TPR | kb::KVM_EXIT_INTR | kb::KVM_EXIT_NMI => {}
            kb::KVM_EXIT_SHUTDOWN => {
                self.kept.activity = Activity::Shutdown;
                return Next::Stop(Stop::TripleFault);
            }
            _ => return Next::Stop(self.failed_exit(reason)),
        }
        Next::Enter
    }

    fn failed_exit(&self, reason: u32) -> Stop {
        self.guest_failed(&failure::exit(reason, &self.page))
    }

    /// The guest cannot go on: why, and where it was.
    pub(crate) fn guest_failed(&self, why: &str) -> Stop {
        match self.read_state() {
            Ok(state) => Stop::GuestFailed(format!("{why}; {}", failure::situation(&state))),
            Err(_) => Stop::GuestFailed(why.to_owned()),
        }
    }

    fn port(&mut self, platform: &dyn Platform) {
        self.stats.count(Callout::PortIo);
        self.incomplete = true;
        let access = self.page.port_access();
        let (port, size) = (access.port, access.size);
        for index in 0..access.count {
            let value = if access.write {
                let value = self.page.port_data(&access, index);
                platform.port_write(port, size, value);
                value
            } else {
                let value = platform.port_read(port, size);
                self.page.set_port_data(&access, index, value);
                value
            };
            self.trace_io(&TraceEvent::Port { port, size, value, write: access.write });
        }
    }

    fn mmio(&mut self, platform: &dyn Platform) {
        self.stats.count(Callout::Mmio);
        self.incomplete = true;
        self.priority_known = false;
        let mut access = self.page.mmio_access();
        let at = GuestPhysAddr(access.at);
        let data = access.data.get_mut(..access.len).unwrap_or_default();
        if access.write {
            platform.mmio_write(self.id, at, data);
        } else {
            platform.mmio_read(self.id, at, data);
            self.page.set_mmio_data(access.data);
        }
        let value = u64::from_le_bytes(access.data);
        let size = access.len as u8;
        self.trace_io(&TraceEvent::Mmio { at: access.at, size, value, write: access.write });
    }

    fn rdmsr(&mut self, platform: &dyn Platform) {
        self.stats.count(Callout::Msr);
        self.incomplete = true;
        let index = self.page.msr_access().index;
        let value = self.msr_value(platform, index);
        self.page.set_msr_answer(value);
        self.trace_msr(&TraceEvent::Msr { index, value, write: false });
    }

    fn msr_value(&self, platform: &dyn Platform, index: u32) -> Option<u64> {
        if is_direct(index, self.format.local_apic) {
            return None;
        }
        msr::read(&self.model_state(), index, &self.limits)
            .or_else(|| platform.msr_read(self.id, index)?.ok())
    }

    fn wrmsr(&mut self, platform: &dyn Platform) {
        self.stats.count(Callout::Msr);
        self.incomplete = true;
        self.priority_known = false;
        let access = self.page.msr_access();
        let done = self.set_msr(platform, access.index, access.data);
        self.page.set_msr_answer(done.then_some(access.data));
        let value = done.then_some(access.data);
        self.trace_msr(&TraceEvent::Msr { index: access.index, value, write: true });
    }

    /// Writes an MSR that is not in the hardware; false for #GP(0).
    fn set_msr(&mut self, platform: &dyn Platform, index: u32, value: u64) -> bool {
        if index == IA32_TIME_STAMP_COUNTER {
            let adjust = value.wrapping_sub(platform.tsc());
            return self.set_tsc_adjust(platform, adjust);
        }
        if is_direct(index, self.format.local_apic) {
            return false;
        }
        let mut state = self.model_state();
        match msr::write(&mut state, index, value, &self.limits) {
            Some(Ok(())) => {
                let adjust = std::mem::replace(&mut state.msrs.tsc_adjust, self.kept.msrs.tsc_adjust);
                // The kernel takes no other CPUID table once a vCPU has run:
                // what would change CPUID stays as it is.
                let fixed = self.kept.msrs.misc_enable & CPUID_CONTROLS;
                state.msrs.misc_enable = state.msrs.misc_enable & !CPUID_CONTROLS | fixed;
                self.kept.msrs = state.msrs;
                adjust == self.kept.msrs.tsc_adjust || self.set_tsc_adjust(platform, adjust)
            }
            Some(Err(_)) => false,
            None => {
                let done = matches!(platform.msr_write(self.id, index, value), Some(Ok(())));
                if done && index == IA32_APIC_BASE {
                    self.apic_base_changed(platform);
                }
                done
            }
        }
    }

    fn set_tsc_adjust(&mut self, platform: &dyn Platform, adjust: u64) -> bool {
        let delta = adjust.wrapping_sub(self.kept.msrs.tsc_adjust);
        self.kept.msrs.tsc_adjust = adjust;
        platform.tsc_adjusted(self.id, adjust);
        let done = self.tsc.adjust(&self.fd, delta).and_then(|()| self.arm_deadline());
        if let Err(error) = &done {
            self.broken = Some(format!("the kernel refuses an offset of the time-stamp counter ({error})"));
        }
        done.is_ok()
    }

    /// KVM shows in CPUID whether the local APIC is enabled.
    pub(crate) fn apic_base_changed(&mut self, platform: &dyn Platform) {
        if self.format.local_apic {
            return;
        }
        let Some(Ok(base)) = platform.msr_read(self.id, IA32_APIC_BASE) else { return };
        if base == self.apic_base {
            return;
        }
        self.apic_base = base;
        if let Err(error) = state::set_apic_base(&self.fd, &self.format, base) {
            self.broken = Some(format!("the kernel refuses {} ({})", error.request, error.error));
        }
    }

    fn trace_io(&self, event: &TraceEvent) {
        if self.tracing.io
            && let Some(sink) = &self.trace
        {
            sink.event(self.id, event);
        }
    }

    fn trace_msr(&self, event: &TraceEvent) {
        if self.tracing.msr
            && let Some(sink) = &self.trace
        {
            sink.event(self.id, event);
        }
    }
}
