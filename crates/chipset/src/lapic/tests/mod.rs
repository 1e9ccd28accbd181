//! Tests of the local APIC as a whole, on fake time.

mod errors;
mod local_interrupts;
mod messages;
mod priorities;
mod registers_and_modes;
mod saved_state;
mod timers;

use super::tests_support::Random;
use super::*;

const T0: VmTime = VmTime::ZERO;
const TSC_HZ: u64 = 2_000_000_000;
const BASE_XAPIC: u64 = 0xfee0_0900;
const BASE_X2APIC: u64 = 0xfee0_0d00;

fn config(id: u32) -> LocalApicConfig {
    LocalApicConfig { id, bootstrap: true, physical_address_bits: 46, tsc_hz: TSC_HZ }
}

fn xapic(id: u32) -> LocalApic {
    let mut apic = LocalApic::new(config(id));
    write(&mut apic, 0xf0, 0x1ff);
    apic
}

fn x2apic(id: u32) -> LocalApic {
    let mut apic = LocalApic::new(config(id));
    apic.msr_write(T0, 0x1b, BASE_X2APIC).unwrap();
    apic.msr_write(T0, 0x80f, 0x1ff).unwrap();
    apic
}

fn at(nanos: u64) -> VmTime {
    VmTime::from_nanos(nanos)
}

fn write_at(apic: &mut LocalApic, now: VmTime, offset: u64, value: u32) -> Option<ApicWork> {
    apic.mmio_write(now, offset, &value.to_le_bytes())
}

fn write(apic: &mut LocalApic, offset: u64, value: u32) -> Option<ApicWork> {
    write_at(apic, T0, offset, value)
}

fn read_at(apic: &mut LocalApic, now: VmTime, offset: u64) -> u32 {
    let mut data = [0; 4];
    apic.mmio_read(now, offset, &mut data);
    u32::from_le_bytes(data)
}

fn read(apic: &mut LocalApic, offset: u64) -> u32 {
    read_at(apic, T0, offset)
}

fn fixed(vector: u8, trigger: TriggerMode) -> ApicMessage {
    let delivery = DeliveryMode::Fixed;
    ApicMessage { destination: 0, logical: false, delivery, vector, trigger }
}

fn edge(apic: &mut LocalApic, vector: u8) {
    assert_eq!(apic.deliver(&fixed(vector, TriggerMode::Edge)), None);
}

fn level(apic: &mut LocalApic, vector: u8) {
    assert_eq!(apic.deliver(&fixed(vector, TriggerMode::Level)), None);
}

fn ipi(work: Option<ApicWork>) -> Ipi {
    match work {
        Some(ApicWork::Ipi(ipi)) => ipi,
        other => panic!("no IPI: {other:?}"),
    }
}

/// One random thing done to `apic`; counts in `work` what came out of it.
fn random_step(apic: &mut LocalApic, random: &mut Random, now: VmTime, work: &mut usize) {
    let value = random.next();
    let data = (random.next() >> (value >> 8 & 63)).to_le_bytes();
    let length = (value >> 16 & 7) as usize + 1;
    let offset = random.next() % 0x420;
    match value % 12 {
        0 => apic.mmio_read(now, offset, &mut { data }[..length]),
        1 => *work += apic.mmio_write(now, offset, &data[..length]).iter().len(),
        2 | 3 => *work += apic.mmio_write(now, offset & !0xf, &data[..4]).iter().len(),
        4 => _ = apic.msr_read(now, 0x800 + (offset >> 4) as u32),
        5 | 6 => {
            let result = apic.msr_write(now, 0x800 + (offset >> 4) as u32, u64::from_le_bytes(data));
            *work += result.iter().flatten().count();
        }
        7 => {
            let base = 0xfee0_0000 | u64::from_le_bytes(data) & 0xfff;
            _ = apic.msr_write(now, 0x1b, if value & 0x1000 == 0 { BASE_XAPIC } else { base });
            _ = apic.msr_write(now, 0x80f, 0x1ff);
            apic.mmio_write(now, 0xf0, &[0xff, 1, 0, 0]);
        }
        8 => _ = apic.msr_write(now, 0x6e0, u64::from_le_bytes(data)),
        9 => {
            let message = ApicMessage::from_msi(0xfee0_0000, u32::from(data[0]) | 0x700 & value as u32);
            *work += message.and_then(|message| apic.deliver(&message)).iter().len();
            apic.set_lint0(value & 0x1000 != 0);
            apic.set_lint1(value & 0x2000 != 0);
        }
        10 => {
            *work += apic.acknowledge().iter().len() + apic.eoi().iter().len();
            apic.set_cr8(value >> 40);
            _ = (apic.acknowledge_or_spurious(), apic.accepts_extint());
        }
        _ => {
            apic.advance(now);
            apic.set_tsc_offset(now, u64::from_le_bytes(data));
            _ = apic.matches(value as u32, value & 0x1000 != 0);
            if value & 0xf_0000 == 0 {
                apic.init_reset();
            }
        }
    }
}

#[test]
fn survives_random_states() {
    let mut random = Random::new(0x57a7_e000);
    let mut apic = LocalApic::new(config(0));
    let mut accepted = 0;
    for _ in 0..20_000 {
        let mut state = apic.state();
        let value = random.next();
        state.apic_base = 0xfee0_0000 | value & 0xd00;
        state.lvt[1] = (value >> 8) as u32 & 0x7_00ff;
        state.timer = TimerState {
            initial_count: random.next() as u32,
            divide_configuration: (value >> 32) as u32 & 0xf,
            since: at(random.next()),
            count: random.next() as u32,
            tsc_deadline: random.next(),
            deadline_tick: Some(random.next()),
        };
        accepted += usize::from(apic.set_state(state).is_ok());
        let now = at(random.next());
        _ = (apic.deadline(), read_at(&mut apic, now, 0x390));
        apic.set_tsc_offset(now, random.next());
        apic.advance(at(u64::MAX));
    }
    assert!(accepted > 1000, "the test must reach what it tests: {accepted}");
}

#[test]
fn survives_random_use() {
    let mut random = Random::new(0x1a91_c000);
    let mut apic = LocalApic::new(config(0x1_0003));
    let mut now = T0;
    let mut work = 0;
    for _ in 0..200_000 {
        // Mostly small steps, now and then across years.
        let shift = if random.next().is_multiple_of(1000) { 8 } else { 40 };
        now = now + std::time::Duration::from_nanos(random.next() >> shift);
        random_step(&mut apic, &mut random, now, &mut work);
        assert!(apic.pending().is_none_or(|vector| vector >= 16));
        _ = (apic.deadline(), apic.arbitration_priority());
        let state = apic.state();
        apic.set_state(state).unwrap();
    }
    assert!(work > 1000, "the test must reach what it tests: {work}");
}
