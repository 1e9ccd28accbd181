//! KVM's hypercalls (Linux `Documentation/virt/kvm/x86/hypercalls.rst`):
//! number in RAX, arguments in RBX, RCX, RDX, RSI, answer in RAX.

use chipset::lapic::{ApicMessage, DeliveryMode, TriggerMode};
use engine::Hypercall;

use crate::Work;

/// The operations that are offered.
const VAPIC_POLL_IRQ: u64 = 1;
const KICK_CPU: u64 = 5;
const SEND_IPI: u64 = 10;
const SCHED_YIELD: u64 = 11;

/// Errors, by their negated numbers.
const EPERM: i64 = 1;
const EINVAL: i64 = 22;
const ENOSYS: i64 = 1000;

/// An ICR with a destination mode or a shorthand; the caller has none to give.
const ICR_DESTINATION: u64 = 1 << 11 | 3 << 18;

/// Number and arguments, as wide as the caller's mode.
struct Call {
    number: u64,
    args: [u64; 4],
    bits: u32,
}

impl Call {
    fn of(call: &Hypercall) -> Self {
        let (mask, bits) = if call.long { (u64::MAX, 64) } else { (u32::MAX.into(), 32) };
        let args = [call.rbx, call.rcx, call.rdx, call.rsi].map(|arg| arg & mask);
        Self { number: call.rax & mask, args, bits }
    }
}

/// Performs a call in a machine of `vcpus` processors, whose APIC ids are their
/// numbers.
pub(super) fn perform(call: &mut Hypercall, vcpus: u32) -> Option<Work> {
    let request = Call::of(call);
    let (answer, work) = match request.number {
        _ if call.cpl != 0 => (-EPERM, None),
        VAPIC_POLL_IRQ => (0, None),
        KICK_CPU => (0, kick(&request, vcpus)),
        SEND_IPI => send_ipi(&request, vcpus),
        SCHED_YIELD => (0, Some(Work::Yield)),
        _ => (-ENOSYS, None),
    };
    call.rax = if call.long { answer as u64 } else { u64::from(answer as u32) };
    work
}

/// Ends the halt, or the next one, of the processor with the APIC id in the
/// second argument.
fn kick(call: &Call, vcpus: u32) -> Option<Work> {
    let id = u32::try_from(call.args[1]).ok()?;
    (id < vcpus).then_some(Work::Unhalt(id))
}

/// Sends an interrupt to the processors of a bitmap, whose bit 0 is the APIC id
/// in the third argument; answers how many there were.
fn send_ipi(call: &Call, vcpus: u32) -> (i64, Option<Work>) {
    let [low, high, first, icr] = call.args;
    let Some(delivery) = DeliveryMode::from_bits((icr >> 8) as u8).filter(|_| icr & ICR_DESTINATION == 0)
    else {
        return (-EINVAL, None);
    };
    let bitmap = u128::from(low) | u128::from(high) << call.bits;
    let named = (0..2 * call.bits).filter(|bit| bitmap >> bit & 1 != 0);
    let ids = named.filter_map(|bit| u32::try_from(first.checked_add(bit.into())?).ok());
    let message = |destination| ApicMessage {
        destination,
        logical: false,
        delivery,
        vector: icr as u8,
        trigger: TriggerMode::Edge,
    };
    let messages: Vec<_> = ids.filter(|id| *id < vcpus).map(message).collect();
    (messages.len() as i64, Some(Work::Send(messages)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(number: u64, args: [u64; 4]) -> Hypercall {
        let [rbx, rcx, rdx, rsi] = args;
        Hypercall { rax: number, rbx, rcx, rdx, rsi, rdi: 0, r8_to_r10: [0; 3], cpl: 0, long: true }
    }

    fn ids(work: Option<Work>) -> Vec<u32> {
        match work {
            Some(Work::Send(messages)) => messages.iter().map(|message| message.destination).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn unknown_calls_and_user_mode_are_refused() {
        for (number, cpl, answer) in
            [(u64::MAX, 0, -1000), (6, 0, -1000), (99, 0, -1000), (11, 3, -1), (1, 0, 0)]
        {
            let mut call = Hypercall { cpl, ..call(number, [0; 4]) };
            assert_eq!(perform(&mut call, 1), None, "{number}");
            assert_eq!(call.rax as i64, answer, "{number}");
        }
    }

    #[test]
    fn callers_in_32_bit_mode_have_32_bit_registers() {
        let mut call = Hypercall { long: false, ..call(0x5_0000_0063, [0; 4]) };
        perform(&mut call, 1);
        assert_eq!(call.rax, (-1000_i32) as u32 as u64);
        let mut call = Hypercall { long: false, ..call_ipi([0xf_0000_0000, 1, 30, 0x40]) };
        assert_eq!(ids(perform(&mut call, 64)), [62]);
    }

    fn call_ipi(args: [u64; 4]) -> Hypercall {
        call(SEND_IPI, args)
    }

    #[test]
    fn interrupts_go_to_those_in_the_bitmap_that_exist() {
        let mut call = call_ipi([0b1101, 1, 1, 0x4041]);
        let work = perform(&mut call, 66);
        assert_eq!(call.rax, 4);
        let Some(Work::Send(messages)) = &work else { panic!("{work:?}") };
        assert_eq!((messages[0].vector, messages[0].delivery), (0x41, DeliveryMode::Fixed));
        assert_eq!(ids(work), [1, 3, 4, 65]);
        let mut call = call_ipi([u64::MAX, u64::MAX, 0, 0x400]);
        assert_eq!(ids(perform(&mut call, 1)), [0]);
        assert_eq!(call.rax, 1);
        for first in [1, u64::from(u32::MAX), u64::MAX] {
            let mut call = call_ipi([3, 3, first, 0x41]);
            assert!(ids(perform(&mut call, 1)).is_empty(), "{first:#x}");
            assert_eq!(call.rax, 0);
        }
    }

    #[test]
    fn a_kick_is_for_a_processor_that_exists() {
        for (id, work) in [(3, Some(Work::Unhalt(3))), (4, None), (u64::MAX, None)] {
            let mut call = call(KICK_CPU, [0, id, 0, 0]);
            assert_eq!(perform(&mut call, 4), work);
            assert_eq!(call.rax, 0);
        }
    }

    #[test]
    fn the_bitmap_is_the_only_destination() {
        for icr in [1 << 11, 1 << 18, 2 << 18, 3 << 8] {
            let mut call = call_ipi([1, 0, 0, icr]);
            assert_eq!(perform(&mut call, 1), None, "{icr:#x}");
            assert_eq!(call.rax as i64, -22);
        }
    }
}
