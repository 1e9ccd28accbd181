//! IRR, ISR, priorities and EOI.

use super::*;

#[test]
fn highest_first_and_nested_by_class() {
    let mut apic = xapic(0);
    edge(&mut apic, 0x41);
    edge(&mut apic, 0x52);
    assert_eq!(apic.acknowledge(), Some(0x52));
    assert_eq!(read(&mut apic, 0xa0), 0x50);
    assert_eq!(apic.pending(), None, "a lower class waits");
    edge(&mut apic, 0x5f);
    assert_eq!(apic.pending(), None, "the same class waits");
    edge(&mut apic, 0x60);
    assert_eq!(apic.acknowledge(), Some(0x60));
    assert_eq!(apic.eoi(), None);
    assert_eq!(apic.eoi(), None);
    assert_eq!(apic.acknowledge(), Some(0x5f));
    apic.eoi();
    assert_eq!(apic.acknowledge(), Some(0x41));
}

#[test]
fn task_priority_holds_interrupts_back() {
    let mut apic = xapic(0);
    edge(&mut apic, 0x4f);
    apic.set_cr8(4);
    assert_eq!(apic.cr8(), 4);
    assert_eq!(read(&mut apic, 0x80), 0x40);
    assert_eq!(apic.pending(), None);
    write(&mut apic, 0x80, 0x3f);
    assert_eq!(apic.processor_priority(), 0x3f);
    assert_eq!(apic.pending(), Some(0x4f));
}

#[test]
fn withdrawn_request_gives_the_spurious_vector() {
    let mut apic = xapic(0);
    write(&mut apic, 0xf0, 0x1ef);
    edge(&mut apic, 0x41);
    apic.set_cr8(15);
    assert_eq!(apic.acknowledge(), None);
    assert_eq!(apic.acknowledge_or_spurious(), 0xef);
    assert_eq!(read(&mut apic, 0x170), 0, "not in service");
    apic.set_cr8(0);
    assert_eq!(apic.acknowledge_or_spurious(), 0x41);
}

#[test]
fn arbitration_priority() {
    let mut apic = xapic(0);
    apic.set_cr8(2);
    assert_eq!(apic.arbitration_priority(), 0x20);
    edge(&mut apic, 0x35);
    assert_eq!(apic.arbitration_priority(), 0x30);
    apic.acknowledge();
    assert_eq!(apic.arbitration_priority(), 0x30);
    assert_eq!(read(&mut apic, 0x90), 0x30);
}

#[test]
fn level_eoi_is_broadcast_unless_suppressed() {
    let mut apic = xapic(0);
    level(&mut apic, 0x41);
    assert_eq!(read(&mut apic, 0x1a0), 2, "TMR");
    apic.acknowledge();
    assert_eq!(write(&mut apic, 0xb0, 0), Some(ApicWork::EoiBroadcast(0x41)));
    write(&mut apic, 0xf0, 0x11ff);
    level(&mut apic, 0x41);
    apic.acknowledge();
    assert_eq!(write(&mut apic, 0xb0, 0), None);
    edge(&mut apic, 0x41);
    assert_eq!(read(&mut apic, 0x1a0), 0, "an edge clears TMR");
    assert_eq!(write(&mut apic, 0xb0, 0), None, "nothing in service");
}
