//! Tests of the local APIC as a whole, on fake time.

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

mod registers_and_modes {
    use super::*;

    #[test]
    fn power_on_state() {
        let mut apic = LocalApic::new(config(3));
        assert_eq!(apic.base(), Some(0xfee0_0000));
        assert_eq!(apic.msr_read(T0, 0x1b), Ok(BASE_XAPIC));
        assert!(!apic.software_enabled());
        let expected = [
            (0x20, 3 << 24),
            (0x30, 0x0106_0015),
            (0x80, 0),
            (0xd0, 0),
            (0xe0, 0xffff_ffff),
            (0xf0, 0xff),
            (0x280, 0),
            (0x2f0, 0x1_0000),
            (0x300, 0),
            (0x320, 0x1_0000),
            (0x330, 0x1_0000),
            (0x340, 0x1_0000),
            (0x350, 0x1_0000),
            (0x360, 0x1_0000),
            (0x370, 0x1_0000),
            (0x380, 0),
            (0x390, 0),
            (0x3e0, 0),
        ];
        for (offset, value) in expected {
            assert_eq!(read(&mut apic, offset), value, "offset {offset:#x}");
        }
    }

    #[test]
    fn reserved_bits_stay_clear_in_memory() {
        let mut apic = xapic(0);
        let expected = [
            (0x80, 0xff),
            (0xd0, 0xff00_0000),
            (0xf0, 0x13ff),
            (0x2f0, 0x1_07ff),
            (0x320, 0x7_00ff),
            (0x330, 0x1_07ff),
            (0x340, 0x1_07ff),
            (0x350, 0x1_a7ff),
            (0x360, 0x1_a7ff),
            (0x370, 0x1_00ff),
            (0x310, 0xff00_0000),
            (0x3e0, 0xb),
        ];
        for (offset, value) in expected {
            write(&mut apic, offset, u32::MAX);
            assert_eq!(read(&mut apic, offset), value, "offset {offset:#x}");
        }
        write(&mut apic, 0xe0, 0);
        assert_eq!(read(&mut apic, 0xe0), 0x0fff_ffff);
    }

    #[test]
    fn odd_accesses_are_tolerated() {
        let mut apic = xapic(0);
        let mut data = [0xaa; 8];
        apic.mmio_read(T0, 0x30, &mut data);
        assert_eq!(data, [0x15, 0, 6, 1, 0, 0, 0, 0]);
        apic.mmio_read(T0, 0x32, &mut data[..2]);
        assert_eq!(data[..2], [6, 1]);
        apic.mmio_read(T0, 0x3f, &mut data);
        assert_eq!(data, [0; 8]);
        assert_eq!(apic.mmio_write(T0, 0x80, &[0x40]), None);
        assert_eq!(apic.mmio_write(T0, 0x84, &[0x40; 4]), None);
        assert_eq!(apic.task_priority(), 0);
        apic.mmio_write(T0, 0x80, &[0x40, 0, 0, 0, 1, 2, 3, 4]);
        assert_eq!(apic.task_priority(), 0x40);
    }

    #[test]
    fn mode_transitions() {
        let mut apic = LocalApic::new(config(0));
        let mut set = |value| apic.msr_write(T0, 0x1b, value);
        assert_eq!(set(0xfee0_0500), Err(GeneralProtection), "EXTD without EN");
        assert_eq!(set(BASE_X2APIC), Ok(None));
        assert_eq!(set(BASE_XAPIC), Err(GeneralProtection), "x2APIC to xAPIC");
        assert_eq!(set(0xfee0_0100), Ok(None), "x2APIC to disabled");
        assert_eq!(set(BASE_X2APIC), Err(GeneralProtection), "disabled to x2APIC");
        assert_eq!(set(BASE_XAPIC), Ok(None));
        for reserved in [1, 1 << 9, 1 << 46, 1 << 63] {
            assert_eq!(set(BASE_XAPIC | reserved), Err(GeneralProtection), "{reserved:#x}");
        }
        assert_eq!(set(0x1_2345_6800), Ok(None));
        assert_eq!(apic.base(), Some(0x1_2345_6000));
    }

    #[test]
    fn disabling_loses_the_state() {
        let mut apic = xapic(0);
        edge(&mut apic, 0x50);
        apic.msr_write(T0, 0x1b, 0xfee0_0100).unwrap();
        assert_eq!(apic.base(), None);
        assert_eq!(apic.pending(), None);
        assert_eq!(read(&mut apic, 0x30), u32::MAX);
        assert_eq!(apic.deliver(&fixed(0x51, TriggerMode::Edge)), None);
        apic.msr_write(T0, 0x1b, BASE_XAPIC).unwrap();
        assert_eq!(read(&mut apic, 0xf0), 0xff);
        assert_eq!(apic.pending(), None);
    }

    #[test]
    fn x2apic_registers_are_msrs_only() {
        let mut apic = x2apic(0x123);
        assert_eq!(apic.base(), None);
        assert_eq!(read(&mut apic, 0x30), u32::MAX);
        write(&mut apic, 0x80, 0x55);
        assert_eq!(apic.task_priority(), 0);
        assert_eq!(apic.msr_read(T0, 0x802), Ok(0x123));
        assert_eq!(apic.msr_read(T0, 0x803), Ok(0x0106_0015));
        assert_eq!(apic.msr_read(T0, 0x80d), Ok(0x0012_0008));
        assert_eq!(xapic(0).msr_read(T0, 0x802), Err(GeneralProtection));
        assert_eq!(xapic(0).msr_write(T0, 0x808, 0), Err(GeneralProtection));
    }

    #[test]
    fn x2apic_illegal_reads() {
        let mut apic = x2apic(0);
        let readable = [2, 3, 8, 0xa, 0xd, 0xf, 0x28, 0x2f, 0x30, 0x38, 0x39, 0x3e];
        for index in 0..0x100 {
            let legal =
                readable.contains(&index) || (0x10..=0x27).contains(&index) || (0x32..=0x37).contains(&index);
            assert_eq!(apic.msr_read(T0, 0x800 + index).is_ok(), legal, "{index:#x}");
        }
    }

    #[test]
    fn x2apic_illegal_writes() {
        let writable = [
            (0x08, 0xff),
            (0x0b, 0),
            (0x0f, 0x13ff),
            (0x28, 0),
            (0x2f, 0x1_17ff),
            (0x30, 0xffff_ffff_000c_dfff_u64),
            (0x32, 0x7_10ff),
            (0x33, 0x1_17ff),
            (0x34, 0x1_17ff),
            (0x35, 0x1_f7ff),
            (0x36, 0x1_f7ff),
            (0x37, 0x1_10ff),
            (0x38, 0xffff_ffff),
            (0x3e, 0xb),
            (0x3f, 0xff),
        ];
        let mut apic = x2apic(0);
        for index in 0..0x100 {
            let mask = writable.iter().find(|(at, _)| *at == index).map(|(_, mask)| *mask);
            let result = apic.msr_write(T0, 0x800 + index, 0);
            assert_eq!(result.is_ok(), mask.is_some(), "{index:#x}");
            for bit in 0..64 {
                let legal = mask.is_some_and(|mask| mask & 1 << bit != 0);
                let result = apic.msr_write(T0, 0x800 + index, 1 << bit);
                assert_eq!(result.is_ok(), legal, "{index:#x} bit {bit}");
            }
        }
    }

    #[test]
    fn init_keeps_mode_and_pins_but_nothing_else() {
        let mut apic = x2apic(5);
        edge(&mut apic, 0x50);
        apic.set_cr8(3);
        apic.init_reset();
        assert_eq!(apic.mode(), ApicMode::X2Apic);
        assert_eq!(apic.pending(), None);
        assert_eq!((apic.cr8(), apic.software_enabled()), (0, false));
        apic.reset();
        assert_eq!(apic.mode(), ApicMode::XApic);
    }
}

mod priorities {
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
}

mod messages {
    use super::*;

    #[test]
    fn physical_destinations() {
        let apic = xapic(3);
        assert!(apic.matches(3, false));
        assert!(!apic.matches(2, false));
        assert!(!apic.matches(0x103, false));
        assert!(apic.matches(0xff, false));
        assert!(apic.matches(BROADCAST, false));
        let apic = x2apic(0x103);
        assert!(apic.matches(0x103, false));
        assert!(!apic.matches(3, false));
        assert!(!apic.matches(0xff, false));
        assert!(apic.matches(BROADCAST, false));
    }

    #[test]
    fn flat_logical_destinations() {
        let mut apic = xapic(3);
        assert!(!apic.matches(0xff, true), "LDR is zero");
        write(&mut apic, 0xd0, 0x0400_0000);
        assert!(apic.matches(0x04, true));
        assert!(apic.matches(0x0c, true));
        assert!(!apic.matches(0x08, true));
        assert!(!apic.matches(0x104, true));
        assert!(apic.matches(BROADCAST, true));
    }

    #[test]
    fn cluster_logical_destinations() {
        let mut apic = xapic(3);
        write(&mut apic, 0xe0, 0x0fff_ffff);
        write(&mut apic, 0xd0, 0x2400_0000);
        assert!(apic.matches(0x24, true));
        assert!(apic.matches(0x2f, true));
        assert!(!apic.matches(0x14, true));
        assert!(!apic.matches(0x21, true));
        assert!(apic.matches(0xff, true));
        write(&mut apic, 0xe0, 0x7fff_ffff);
        assert!(!apic.matches(0xff, true), "no model");
    }

    #[test]
    fn x2apic_logical_destinations() {
        let apic = x2apic(0x25);
        assert!(apic.matches(0x0002_0020, true));
        assert!(apic.matches(0x0002_ffff, true));
        assert!(!apic.matches(0x0002_0010, true));
        assert!(!apic.matches(0x0001_0020, true));
        assert!(apic.matches(BROADCAST, true));
    }

    #[test]
    fn signals_for_the_processor() {
        let mut apic = LocalApic::new(config(0));
        let message = |delivery| ApicMessage { delivery, ..fixed(0x9a, TriggerMode::Edge) };
        assert_eq!(apic.deliver(&message(DeliveryMode::Nmi)), Some(CpuSignal::Nmi));
        assert_eq!(apic.deliver(&message(DeliveryMode::Init)), Some(CpuSignal::Init));
        let start_up = CpuSignal::StartUp { vector: 0x9a };
        assert_eq!(apic.deliver(&message(DeliveryMode::StartUp)), Some(start_up));
        assert_eq!(apic.deliver(&message(DeliveryMode::Smi)), None);
        assert_eq!(apic.deliver(&message(DeliveryMode::ExtInt)), None, "software-disabled");
        edge(&mut apic, 0x41);
        assert_eq!(apic.pending(), None, "software-disabled");
        apic.bios_setup();
        assert_eq!(apic.deliver(&message(DeliveryMode::ExtInt)), Some(CpuSignal::ExtInt));
        apic.msr_write(T0, 0x1b, 0xfee0_0100).unwrap();
        assert_eq!(apic.deliver(&message(DeliveryMode::Nmi)), None);
    }

    #[test]
    fn ipis() {
        let mut apic = xapic(1);
        assert_eq!(write(&mut apic, 0x310, 0x0200_0000), None);
        let sent = ipi(write(&mut apic, 0x300, 0x0000_4845));
        assert_eq!(sent.shorthand, Shorthand::None);
        let expected = ApicMessage { destination: 2, logical: true, ..fixed(0x45, TriggerMode::Edge) };
        assert_eq!(sent.message, expected);
        assert_eq!(read(&mut apic, 0x300), 0x4845);
        // INIT, start-up and what the manual forbids.
        assert_eq!(ipi(write(&mut apic, 0x300, 0xc500)).message.delivery, DeliveryMode::Init);
        assert_eq!(write(&mut apic, 0x300, 0x8500), None, "INIT level de-assert");
        let sent = ipi(write(&mut apic, 0x300, 0x000c_4699));
        assert_eq!(sent.message.delivery, DeliveryMode::StartUp);
        assert_eq!(sent.shorthand, Shorthand::AllExcludingSelf);
        for invalid in [0x4_4400, 0x8_4500, 0x4_4145, 0x4345, 0x4745] {
            assert_eq!(write(&mut apic, 0x300, invalid), None, "{invalid:#x}");
        }
    }

    #[test]
    fn broadcast_destination_is_widened() {
        let mut apic = xapic(1);
        write(&mut apic, 0x310, 0xff00_0000);
        assert_eq!(ipi(write(&mut apic, 0x300, 0x4045)).message.destination, BROADCAST);
    }

    #[test]
    fn x2apic_ipis() {
        let mut apic = x2apic(1);
        let sent = ipi(apic.msr_write(T0, 0x830, 0x0001_2345_0000_4045).unwrap());
        assert_eq!(sent.message.destination, 0x0001_2345);
        assert_eq!(apic.msr_read(T0, 0x830), Ok(0x0001_2345_0000_4045));
        let sent = ipi(apic.msr_write(T0, 0x83f, 0x77).unwrap());
        assert_eq!((sent.shorthand, sent.message.vector), (Shorthand::SelfOnly, 0x77));
    }

    #[test]
    fn shorthands_choose_their_targets() {
        let (mut sender, other) = (xapic(1), xapic(2));
        write(&mut sender, 0x310, 0x0200_0000);
        let reached = |sender: &mut LocalApic, icr| {
            let sent = ipi(write(sender, 0x300, icr));
            (sent.reaches(sender, true), sent.reaches(&other, false))
        };
        assert_eq!(reached(&mut sender, 0x4045), (false, true));
        assert_eq!(reached(&mut sender, 0x4_4045), (true, false));
        assert_eq!(reached(&mut sender, 0x8_4045), (true, true));
        assert_eq!(reached(&mut sender, 0xc_4045), (false, true));
    }
}

mod errors {
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
}

mod local_interrupts {
    use super::*;

    #[test]
    fn software_disable_masks_the_lvt() {
        let mut apic = xapic(0);
        write(&mut apic, 0x320, 0x40);
        write(&mut apic, 0xf0, 0xff);
        assert_eq!(read(&mut apic, 0x320), 0x1_0040);
        write(&mut apic, 0x320, 0x40);
        assert_eq!(read(&mut apic, 0x320), 0x1_0040, "stays masked");
        write(&mut apic, 0xf0, 0x1ff);
        write(&mut apic, 0x320, 0x40);
        assert_eq!(read(&mut apic, 0x320), 0x40);
    }

    #[test]
    fn virtual_wire() {
        let mut apic = LocalApic::new(config(0));
        assert!(apic.accepts_extint(), "not enabled yet");
        apic.bios_setup();
        assert!(apic.accepts_extint());
        assert_eq!(apic.set_lint0(true), None);
        assert_eq!(apic.set_lint1(true), Some(CpuSignal::Nmi));
        assert_eq!(apic.set_lint1(true), None, "an edge");
        write(&mut apic, 0x350, 0x1_0700);
        assert!(!apic.accepts_extint());
        write(&mut apic, 0x350, 0x30);
        assert!(!apic.accepts_extint());
        apic.msr_write(T0, 0x1b, 0xfee0_0100).unwrap();
        assert!(apic.accepts_extint(), "no APIC in between");
        apic.set_lint1(false);
        assert_eq!(apic.set_lint1(true), Some(CpuSignal::Nmi));
    }

    #[test]
    fn fixed_edge_pin() {
        let mut apic = xapic(0);
        write(&mut apic, 0x350, 0x30);
        apic.set_lint0(true);
        assert_eq!(apic.acknowledge(), Some(0x30));
        assert_eq!(apic.eoi(), None);
        assert_eq!(apic.pending(), None);
    }

    #[test]
    fn fixed_level_pin_repeats_until_its_cause_is_gone() {
        let mut apic = xapic(0);
        apic.set_lint0(true);
        write(&mut apic, 0x350, 0x8030);
        assert_eq!(read(&mut apic, 0x350), 0xc030, "remote IRR");
        assert_eq!(apic.acknowledge(), Some(0x30));
        assert_eq!(apic.pending(), None);
        apic.eoi();
        assert_eq!(apic.acknowledge(), Some(0x30), "still asserted");
        apic.set_lint0(false);
        apic.eoi();
        assert_eq!(apic.pending(), None);
        assert_eq!(read(&mut apic, 0x350), 0x8030);
    }
}

mod timers {
    use super::*;

    #[test]
    fn one_shot_interrupts_once() {
        let mut apic = xapic(0);
        write(&mut apic, 0x3e0, 0b1011);
        write(&mut apic, 0x320, 0x40);
        write_at(&mut apic, at(100), 0x380, 1000);
        assert_eq!(apic.deadline(), Some(at(1100)));
        assert_eq!(read_at(&mut apic, at(600), 0x390), 500);
        apic.advance(at(1099));
        assert_eq!(apic.pending(), None);
        apic.advance(at(1100));
        assert_eq!(apic.acknowledge(), Some(0x40));
        assert_eq!(apic.deadline(), None);
        apic.advance(at(5000));
        assert_eq!(apic.pending(), None);
        assert_eq!(read_at(&mut apic, at(5000), 0x380), 1000);
        assert_eq!(read_at(&mut apic, at(5000), 0x390), 0);
    }

    #[test]
    fn late_periodic_timer_interrupts_once() {
        let mut apic = xapic(0);
        write(&mut apic, 0x3e0, 0b1011);
        write(&mut apic, 0x320, 0x2_0040);
        write(&mut apic, 0x380, 1_000_000);
        apic.advance(at(7_500_000));
        assert_eq!(apic.acknowledge(), Some(0x40));
        apic.eoi();
        assert_eq!(apic.pending(), None);
        assert_eq!(apic.deadline(), Some(at(8_000_000)));
    }

    #[test]
    fn masked_timer_counts_silently() {
        let mut apic = xapic(0);
        write(&mut apic, 0x3e0, 0b1011);
        write(&mut apic, 0x320, 0x3_0040);
        write(&mut apic, 0x380, 1_000_000);
        assert_eq!(apic.deadline(), None);
        assert_eq!(read_at(&mut apic, at(1_250_000), 0x390), 750_000);
        write_at(&mut apic, at(2_500_000), 0x320, 0x2_0040);
        assert_eq!(apic.pending(), None, "what passed while masked is lost");
        assert_eq!(apic.deadline(), Some(at(3_000_000)));
    }

    #[test]
    fn registers_see_an_expiry_that_nobody_advanced_to() {
        let mut apic = xapic(0);
        write(&mut apic, 0x320, 0x40);
        write(&mut apic, 0x380, 100);
        assert_eq!(read_at(&mut apic, at(1000), 0x220), 1, "IRR");
    }

    #[test]
    fn tsc_deadline() {
        let mut apic = x2apic(0);
        assert_eq!(apic.msr_write(T0, 0x6e0, 5000), Ok(None));
        assert_eq!(apic.msr_read(T0, 0x6e0), Ok(0), "ignored in other modes");
        apic.msr_write(T0, 0x832, 0x4_0040).unwrap();
        apic.set_tsc_offset(T0, 1000);
        apic.msr_write(T0, 0x6e0, 5000).unwrap();
        assert_eq!(apic.msr_read(T0, 0x6e0), Ok(5000));
        assert_eq!(apic.deadline(), Some(at(2000)), "4000 ticks at 2 GHz");
        apic.set_tsc_offset(T0, 3000);
        assert_eq!(apic.deadline(), Some(at(1000)), "follows the offset");
        apic.advance(at(1000));
        assert_eq!(apic.pending(), Some(0x40));
        assert_eq!(apic.msr_read(at(1000), 0x6e0), Ok(0), "disarmed");
        assert_eq!(apic.msr_read(T0, 0x838), Ok(0));
    }

    #[test]
    fn tsc_deadline_in_the_past_fires_at_once_and_zero_disarms() {
        let mut apic = xapic(0);
        write(&mut apic, 0x320, 0x4_0040);
        apic.msr_write(at(1000), 0x6e0, 10_000).unwrap();
        apic.msr_write(at(1000), 0x6e0, 0).unwrap();
        assert_eq!(apic.deadline(), None);
        apic.msr_write(at(1000), 0x6e0, 1).unwrap();
        assert_eq!(apic.pending(), Some(0x40));
    }

    #[test]
    fn leaving_deadline_mode_disarms() {
        let mut apic = xapic(0);
        write(&mut apic, 0x320, 0x4_0040);
        apic.msr_write(T0, 0x6e0, 10_000).unwrap();
        write(&mut apic, 0x320, 0x40);
        assert_eq!(apic.deadline(), None);
        write(&mut apic, 0x320, 0x4_0040);
        assert_eq!(apic.msr_read(T0, 0x6e0), Ok(0));
    }
}

mod saved_state {
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
