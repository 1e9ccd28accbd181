//! Saving and restoring.

use super::*;

#[test]
fn comes_back() {
    let mut apic = xapic(2);
    level(&mut apic, 0x41);
    apic.acknowledge();
    write(&mut apic, 0x320, 0x40);
    write(&mut apic, 0x380, 1000);
    let mut other = LocalApic::new(config(2));
    other.set_state(apic.state()).unwrap();
    assert_eq!(other.state(), apic.state());
    assert_eq!(other.deadline(), apic.deadline());
    assert_eq!(other.eoi(), Some(0x41));
}

#[test]
fn impossible_states_are_refused() {
    let good = xapic(0).state();
    let mut apic = xapic(0);
    let bad = LocalApicState { apic_base: 0xfee0_0400, ..good };
    assert_eq!(apic.set_state(bad), Err(InvalidState::ApicBase(0xfee0_0400)));
    for bad in [
        LocalApicState { spurious_vector: 1 << 31, ..good },
        LocalApicState { lvt: [1 << 30; 7], ..good },
        LocalApicState { icr: 1 << 13, ..good },
        LocalApicState { errors: 1, ..good },
    ] {
        assert!(matches!(apic.set_state(bad), Err(InvalidState::Reserved { .. })));
    }
    let bad = LocalApicState { irr: VectorSet::default(), ..good };
    assert_eq!(apic.set_state(bad), Ok(()));
}

#[test]
fn survives_serialization() {
    let mut apic = x2apic(2);
    level(&mut apic, 0x41);
    apic.msr_write(T0, 0x832, 0x4_0040).unwrap();
    apic.msr_write(T0, 0x6e0, u64::MAX).unwrap();
    let text = serde_json::to_string(&apic.state()).unwrap();
    assert_eq!(serde_json::from_str::<LocalApicState>(&text).unwrap(), apic.state());
}
