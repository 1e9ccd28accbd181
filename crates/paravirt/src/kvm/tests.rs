use super::*;

const HZ: u64 = 2_500_000_000;
const PAGE: u64 = 0x3000;

fn kvm() -> (GuestMemory, Kvm) {
    let memory = GuestMemory::new(2 << 20).unwrap();
    let config = KvmConfig {
        tsc_hz: HZ,
        vcpus: 1,
        calls_reach_processors: true,
        overcommitted: false,
        epoch: Duration::new(1_700_000_000, 250_000_000),
    };
    (memory.clone(), Kvm::new(memory, config))
}

fn at(ticks: u64) -> Moment {
    Moment { ticks, nanos: (u128::from(ticks) * 1_000_000_000 / u128::from(HZ)) as u64 }
}

fn write(kvm: &Kvm, index: u32, value: u64, now: Moment) -> Option<Work> {
    kvm.msr_write(0, index, value, now).unwrap().unwrap()
}

/// The time that a guest computes from its page, when its counter shows `tsc`.
fn guest_time(memory: &GuestMemory, tsc: u64) -> u64 {
    let word = |offset| memory.read_u64(GuestPhysAddr(PAGE + offset)).unwrap();
    let scale = Scale { mul: word(24) as u32, shift: (word(24) >> 32) as i8 };
    assert_eq!(word(0) & 1, 0);
    word(16) + scale.nanos(tsc.wrapping_sub(word(8)))
}

#[test]
fn linux_finds_what_it_looks_for() {
    let (_, kvm) = kvm();
    let leaves = kvm.cpuid();
    let signature = leaves[0].1;
    let text = [signature.ebx, signature.ecx, signature.edx].map(u32::to_le_bytes).concat();
    assert_eq!(text, b"KVMKVMKVM\0\0\0");
    assert_eq!((leaves[0].0, signature.eax), (0x4000_0000, 0x4000_0010));
    assert_eq!(leaves[1], (0x4000_0001, CpuidResult::new(0x0100_284b, 0, 0, 0)));
    let config = KvmConfig {
        tsc_hz: HZ,
        vcpus: 9,
        calls_reach_processors: true,
        overcommitted: true,
        epoch: Duration::ZERO,
    };
    let many = Kvm::new(GuestMemory::new(2 << 20).unwrap(), config);
    assert_eq!(many.cpuid()[1].1.eax, 0x0100_284b | PV_UNHALT);
}

#[test]
fn calls_that_reach_nobody_are_not_offered() {
    let config = KvmConfig {
        tsc_hz: HZ,
        vcpus: 1,
        calls_reach_processors: false,
        overcommitted: true,
        epoch: Duration::default(),
    };
    let kvm = Kvm::new(GuestMemory::new(2 << 20).unwrap(), config);
    assert_eq!(kvm.cpuid()[1].1.eax, 0x0100_004b);
}

#[test]
fn the_clock_is_right_from_its_registration_on() {
    for index in [MSR_SYSTEM_TIME, MSR_SYSTEM_TIME_NEW] {
        let (memory, kvm) = kvm();
        write(&kvm, index, PAGE | 1, at(5000));
        assert_eq!(kvm.msr_read(0, index), Some(Ok(PAGE | 1)));
        assert_eq!(guest_time(&memory, 5000), 2000);
        let day = HZ * 86_400;
        let exact = at(day).nanos;
        let found = guest_time(&memory, day);
        assert!(found <= exact && exact - found < 50_000, "{found}");
        // A pause writes the page anew, and no reader sees the time go back.
        kvm.resumed(at(day));
        assert_eq!(guest_time(&memory, day), exact);
    }
}

#[test]
fn an_adjusted_counter_leaves_the_time_as_it_is() {
    let (memory, kvm) = kvm();
    write(&kvm, MSR_SYSTEM_TIME_NEW, PAGE | 1, at(1000));
    for adjust in [77, 1 << 63, u64::MAX] {
        kvm.tsc_adjusted(0, adjust, at(2500));
        assert_eq!(guest_time(&memory, 2500_u64.wrapping_add(adjust)), 1000, "{adjust:#x}");
    }
}

#[test]
fn a_clock_that_is_off_or_nowhere_writes_nothing() {
    let (memory, kvm) = kvm();
    write(&kvm, MSR_SYSTEM_TIME_NEW, PAGE, at(5000));
    kvm.resumed(at(6000));
    assert_eq!(memory.read_u64(GuestPhysAddr(PAGE)).unwrap(), 0);
    write(&kvm, MSR_SYSTEM_TIME_NEW, u64::MAX, at(5000));
    write(&kvm, MSR_SYSTEM_TIME_NEW, (2 << 20) - 7, at(5000));
    write(&kvm, MSR_WALL_CLOCK_NEW, u64::MAX, at(5000));
    write(&kvm, MSR_SYSTEM_TIME_NEW, PAGE | 1, at(5000));
    kvm.reset();
    memory.write(GuestPhysAddr(PAGE), &[0; 32]).unwrap();
    kvm.resumed(at(7000));
    assert_eq!(memory.read_u64(GuestPhysAddr(PAGE)).unwrap(), 0);
    assert_eq!(kvm.msr_read(0, MSR_SYSTEM_TIME_NEW), Some(Ok(0)));
}

#[test]
fn the_wall_clock_tells_when_time_began() {
    for index in [MSR_WALL_CLOCK, MSR_WALL_CLOCK_NEW] {
        let (memory, kvm) = kvm();
        write(&kvm, index, 0x5000, at(HZ));
        assert_eq!(kvm.msr_read(0, index), Some(Ok(0x5000)));
        assert_eq!(memory.read_u32(GuestPhysAddr(0x5000)).unwrap(), 2);
        assert_eq!(memory.read_u64(GuestPhysAddr(0x5004)).unwrap(), 250_000_000 << 32 | 1_700_000_000);
    }
}

#[test]
fn the_eoi_flag_is_set_and_unset() {
    let (_, kvm) = kvm();
    let flag = write(&kvm, MSR_PV_EOI_EN, 0x4001, at(0));
    assert_eq!(flag, Some(Work::SetEoiFlag(Some(GuestPhysAddr(0x4000)))));
    assert_eq!(kvm.msr_read(0, MSR_PV_EOI_EN), Some(Ok(0x4001)));
    assert_eq!(kvm.msr_write(0, MSR_PV_EOI_EN, 0x4003, at(0)), Some(Err(MsrFault)));
    assert_eq!(write(&kvm, MSR_PV_EOI_EN, 0x4000, at(0)), Some(Work::SetEoiFlag(None)));
}

#[test]
fn other_registers_are_not_its_own() {
    let (_, kvm) = kvm();
    // Asynchronous page faults, steal time, polling, migration.
    for index in [0x10, 0x13, 0x4b56_4d02, 0x4b56_4d03, 0x4b56_4d05, 0x4b56_4d08] {
        assert_eq!(kvm.msr_read(0, index), None, "{index:#x}");
        assert_eq!(kvm.msr_write(0, index, 1, at(0)), None, "{index:#x}");
    }
    assert_eq!(kvm.msr_read(7, MSR_PV_EOI_EN), Some(Err(MsrFault)), "no such vCPU");
}

#[test]
fn a_snapshot_keeps_the_registers() {
    let (_, kvm) = kvm();
    write(&kvm, MSR_WALL_CLOCK_NEW, 0x5000, at(0));
    write(&kvm, MSR_SYSTEM_TIME_NEW, PAGE | 1, at(0));
    let saved = kvm.state();
    let (memory, other) = self::kvm();
    other.set_state(&saved);
    assert_eq!(other.state(), saved);
    other.resumed(at(5000));
    assert_eq!(guest_time(&memory, 5000), 2000);
    other.set_state(&KvmState::default());
    assert_eq!(other.msr_read(0, MSR_SYSTEM_TIME_NEW), Some(Ok(0)));
}
