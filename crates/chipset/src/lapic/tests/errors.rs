//! Error reporting.

use super::*;

#[test]
fn illegal_vectors_are_reported_once_and_latched_by_a_write() {
    let mut apic = xapic(0);
    write(&mut apic, 0x370, 0xfe);
    assert_eq!(write(&mut apic, 0x300, 0x400f), None);
    assert_eq!(apic.pending(), Some(0xfe));
    assert_eq!(read(&mut apic, 0x280), 0, "not before a write");
    apic.acknowledge();
    edge(&mut apic, 0x0f);
    assert_eq!(apic.state().irr, VectorSet::default(), "not armed");
    write(&mut apic, 0x280, 0);
    assert_eq!(read(&mut apic, 0x280), 0x60);
    write(&mut apic, 0x280, 0);
    assert_eq!(read(&mut apic, 0x280), 0);
    edge(&mut apic, 0x00);
    assert_eq!(apic.state().irr.highest(), Some(0xfe), "armed again");
}

#[test]
fn illegal_register_addresses() {
    let mut apic = xapic(0);
    assert_eq!(read(&mut apic, 0x40), 0);
    assert_eq!(write(&mut apic, 0x3f0, 0x41), None, "SELF IPI is for x2APIC mode");
    write(&mut apic, 0x280, 0);
    assert_eq!(read(&mut apic, 0x280), 0x80);
}

#[test]
fn illegal_vector_in_the_error_entry_does_not_recurse() {
    let mut apic = xapic(0);
    write(&mut apic, 0x370, 0x05);
    edge(&mut apic, 0x01);
    write(&mut apic, 0x280, 0);
    assert_eq!(read(&mut apic, 0x280), 0x40);
}
