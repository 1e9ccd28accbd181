//! Events from outside: NMIs, interrupts, INIT and start-up IPIs (SDM 3A 6.7,
//! 6.8, 9.4 and 10.1).

use engine::Signal;
use x86::{Activity, CpuState, Cr0, Dr7, InterruptShadow, Rflags, SegmentName, Selector};

use crate::cpu::Cpu;

/// Whether an NMI can be delivered now.
pub(crate) fn nmi_allowed(cpu: &Cpu) -> bool {
    !cpu.state.nmi_blocked && cpu.state.interrupt_shadow != InterruptShadow::MovSs
}

/// Whether a maskable interrupt can be delivered now.
pub(crate) fn interrupts_allowed(cpu: &Cpu) -> bool {
    cpu.state.rflags.contains(Rflags::IF) && cpu.state.interrupt_shadow == InterruptShadow::None
}

/// Acts on INIT and start-up IPIs that have arrived.
pub(crate) fn take_init_and_sipi(cpu: &mut Cpu) {
    if cpu.signals.take(Signal::Init) {
        init(cpu);
    }
    if let Some(vector) = cpu.signals.take_sipi() {
        start_up(cpu, vector);
    }
}

/// INIT: the state of SDM 3A table 10-1, which leaves caches, FPU, vector
/// registers, time-stamp counter and most MSRs as they are.
fn init(cpu: &mut Cpu) {
    let old = &cpu.state;
    let kept = old.cr0.intersection(Cr0::CD | Cr0::NW);
    let mut state = CpuState {
        cr0: kept | Cr0::ET,
        xcr0: old.xcr0,
        msrs: old.msrs.clone(),
        fpu: old.fpu.clone(),
        ..CpuState::reset()
    };
    state.dr7 = Dr7::FIXED;
    if cpu.id != 0 {
        state.activity = Activity::WaitForSipi;
    }
    cpu.state = state;
    cpu.debug_hits = 0;
    cpu.refresh();
    cpu.paging_changed();
}

/// A start-up IPI is for processors that wait for one (SDM 3A 9.4.4).
fn start_up(cpu: &mut Cpu, vector: u8) {
    if cpu.state.activity != Activity::WaitForSipi {
        return;
    }
    let cs = cpu.state.segment_mut(SegmentName::Cs);
    cs.selector = Selector(u16::from(vector) << 8);
    cs.base = u64::from(vector) << 12;
    cpu.state.rip = 0;
    cpu.state.activity = Activity::Running;
    cpu.refresh();
}
