//! Pending events, the interrupt shadow and blocked NMIs.

use kvm_bindings::{
    KVM_VCPUEVENT_VALID_NMI_PENDING, KVM_VCPUEVENT_VALID_SHADOW, KVM_X86_SHADOW_INT_MOV_SS,
    KVM_X86_SHADOW_INT_STI, kvm_vcpu_events,
};
use x86::{CpuState, InterruptShadow, PendingEvent, Rflags};

const MOV_SS: u8 = KVM_X86_SHADOW_INT_MOV_SS as u8;
const STI: u8 = KVM_X86_SHADOW_INT_STI as u8;

/// Reads them. AMD's processors have one shadow for both causes and KVM then
/// reports both: with interrupts off it can only be MOV SS.
pub(super) fn get(events: &kvm_vcpu_events, state: &mut CpuState) {
    state.interrupt_shadow = match events.interrupt.shadow & (MOV_SS | STI) {
        0 => InterruptShadow::None,
        MOV_SS => InterruptShadow::MovSs,
        STI => InterruptShadow::Sti,
        _ if state.rflags.contains(Rflags::IF) => InterruptShadow::Sti,
        _ => InterruptShadow::MovSs,
    };
    state.nmi_blocked = events.nmi.masked != 0;
    state.nmi_pending = events.nmi.pending != 0;
    state.pending_event = pending(events);
}

/// Software interrupts are left out: RIP still points at the INT, which
/// happens again.
fn pending(events: &kvm_vcpu_events) -> Option<PendingEvent> {
    let exception = &events.exception;
    if exception.injected != 0 || exception.pending != 0 {
        let error_code = (exception.has_error_code != 0).then_some(exception.error_code);
        return Some(PendingEvent::Exception { vector: exception.nr, error_code });
    }
    if events.nmi.injected != 0 {
        return Some(PendingEvent::Nmi);
    }
    let interrupt = &events.interrupt;
    (interrupt.injected != 0 && interrupt.soft == 0).then_some(PendingEvent::Interrupt(interrupt.nr))
}

/// Writes them.
pub(super) fn put(state: &CpuState) -> kvm_vcpu_events {
    let mut events = kvm_vcpu_events {
        flags: KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW,
        ..Default::default()
    };
    events.interrupt.shadow = match state.interrupt_shadow {
        InterruptShadow::None => 0,
        InterruptShadow::MovSs => MOV_SS,
        InterruptShadow::Sti => STI,
    };
    events.nmi.masked = state.nmi_blocked.into();
    events.nmi.pending = state.nmi_pending.into();
    match state.pending_event {
        None => {}
        Some(PendingEvent::Nmi) => events.nmi.injected = 1,
        Some(PendingEvent::Interrupt(vector)) => {
            events.interrupt.injected = 1;
            events.interrupt.nr = vector;
        }
        Some(PendingEvent::Exception { vector, error_code }) => {
            events.exception.injected = 1;
            events.exception.nr = vector;
            events.exception.has_error_code = error_code.is_some().into();
            events.exception.error_code = error_code.unwrap_or(0);
        }
    }
    events
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_survive_the_way_there_and_back() {
        let exception = |vector, error_code| Some(PendingEvent::Exception { vector, error_code });
        let all = [
            None,
            Some(PendingEvent::Nmi),
            Some(PendingEvent::Interrupt(0x31)),
            exception(1, None),
            exception(14, Some(7)),
        ];
        for pending_event in all {
            for interrupt_shadow in [InterruptShadow::None, InterruptShadow::Sti, InterruptShadow::MovSs] {
                let mut state = CpuState::reset();
                (state.pending_event, state.interrupt_shadow) = (pending_event, interrupt_shadow);
                (state.nmi_blocked, state.nmi_pending) = (true, true);
                let mut back = CpuState::reset();
                get(&put(&state), &mut back);
                assert_eq!(state.differences(&back), []);
            }
        }
    }

    #[test]
    fn a_software_interrupt_happens_again_by_itself() {
        let mut events = kvm_vcpu_events::default();
        (events.interrupt.injected, events.interrupt.soft, events.interrupt.nr) = (1, 1, 0x80);
        let mut state = CpuState::reset();
        get(&events, &mut state);
        assert_eq!(state.pending_event, None);
    }
}
