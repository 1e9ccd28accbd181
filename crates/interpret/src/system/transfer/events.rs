//! Events from outside: NMIs, interrupts, INIT and start-up IPIs (SDM 3A 6.7,
//! 6.8).

use engine::Signal;
use x86::{Activity, InterruptShadow, Rflags};

use crate::cpu::Cpu;

/// Accepts the NMIs that have come. While one is in service all others are
/// one (SDM 3A 6.7.1); before that, a second one waits for its turn.
pub(crate) fn accept_nmis(cpu: &mut Cpu) {
    let waits = cpu.state.activity == Activity::WaitForSipi;
    while (cpu.state.nmi_blocked || !cpu.state.nmi_pending || waits) && cpu.signals.take(Signal::Nmi) {
        cpu.state.nmi_pending = true;
    }
}

/// Whether an NMI can be delivered now. The shadow of STI holds it back too,
/// as SDM 2B STI permits: Linux's `sti; hlt` is not to be torn apart.
pub(crate) fn nmi_allowed(cpu: &Cpu) -> bool {
    !cpu.state.nmi_blocked && cpu.state.interrupt_shadow == InterruptShadow::None
}

/// Whether a maskable interrupt can be delivered now.
pub(crate) fn interrupts_allowed(cpu: &Cpu) -> bool {
    cpu.state.rflags.contains(Rflags::IF) && cpu.state.interrupt_shadow == InterruptShadow::None
}

/// Acts on INIT and start-up IPIs that have arrived.
pub(crate) fn take_init_and_sipi(cpu: &mut Cpu) {
    let (has_init, vector) = cpu.signals.take_init_and_sipi();
    if has_init {
        init(cpu);
    }
    if let Some(vector) = vector {
        start_up(cpu, vector);
    }
}

fn init(cpu: &mut Cpu) {
    cpu.state.init(cpu.id == 0);
    cpu.debug_hits = 0;
    cpu.unhalted = false;
    cpu.refresh();
    cpu.paging_changed();
}

fn start_up(cpu: &mut Cpu, vector: u8) {
    if cpu.state.start_up(vector) {
        cpu.refresh();
    }
}
