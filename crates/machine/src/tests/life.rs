//! How machines start, stop, and start again.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use chipset::pm;
use engine::{Signal, Stop};
use memory::GuestMemory;
use x86::{Gpr, GuestPhysAddr, SegmentName};

use super::MIB;
use super::script::{Cpu, Player};
use crate::sync::lock;
use crate::{BootSource, Machine, MachineConfig, MachineError, MachineHandle, OnReset, Outcome, Protocol};

pub(super) fn firmware() -> BootSource {
    BootSource::Firmware(vec![0xf4; 4096])
}

fn machine(on_reset: OnReset, script: impl FnMut(&Cpu<'_>) -> Stop + Send + 'static) -> Machine {
    let player = Player::new(script);
    Machine::build(MachineConfig { on_reset, ..MachineConfig::new(&player, 2 * MIB, firmware()) }).unwrap()
}

fn outcome(script: impl FnMut(&Cpu<'_>) -> Stop + Send + 'static) -> Outcome {
    machine(OnReset::Exit, script).run()
}

/// Runs the machine on a thread of its own while `meanwhile` is at work.
fn run_while(mut machine: Machine, meanwhile: impl FnOnce(&MachineHandle)) -> Outcome {
    let handle = machine.handle();
    let runner = std::thread::spawn(move || machine.run());
    meanwhile(&handle);
    runner.join().unwrap()
}

fn reset(cpu: &Cpu<'_>) -> Stop {
    cpu.out(0xcf9, 6);
    Stop::Kicked
}

fn power_off(cpu: &Cpu<'_>) -> Stop {
    cpu.platform.port_write(pm::PM1A_CNT_PORT, 2, u32::from(pm::SLP_TYP_S5) << 10 | 1 << 13);
    Stop::Kicked
}

fn sleep_until_kicked(cpu: &Cpu<'_>) -> Stop {
    while cpu.halt().is_some() {}
    Stop::Kicked
}

#[test]
fn guests_end_their_run_in_several_ways() {
    assert_eq!(outcome(power_off), Outcome::PoweredOff);
    assert_eq!(outcome(reset), Outcome::Reset);
    let by_keyboard = |cpu: &Cpu<'_>| {
        cpu.out(0x64, 0xfe);
        Stop::Kicked
    };
    assert_eq!(outcome(by_keyboard), Outcome::Reset);
    let panic = |cpu: &Cpu<'_>| {
        cpu.out(0x505, 2);
        cpu.out(0x505, 1);
        Stop::Kicked
    };
    assert_eq!(outcome(panic), Outcome::GuestPanicked);
    assert_eq!(outcome(|_| Stop::TripleFault), Outcome::TripleFault);
    assert_eq!(outcome(|_| Stop::Failed("why".to_owned())), Outcome::Failed("why".to_owned()));
}

#[test]
fn a_reset_starts_everything_again() {
    let mut machine = machine(OnReset::Reboot, |cpu| {
        assert_eq!(cpu.platform.port_read(0x80, 1) as u8, 0);
        cpu.out(0x80, 0x55);
        if cpu.starts < 3 { reset(cpu) } else { power_off(cpu) }
    });
    assert_eq!(machine.run(), Outcome::PoweredOff);
    assert_eq!(machine.stats()[0].instructions, 3);
}

#[test]
fn a_sleeping_guest_can_be_stopped_reset_and_run_on() {
    let mut machine = machine(OnReset::Reboot, sleep_until_kicked);
    machine.handle().stop();
    assert_eq!(machine.run(), Outcome::Stopped);
    let ended = run_while(machine, |handle| {
        std::thread::sleep(Duration::from_millis(20));
        handle.reset();
        std::thread::sleep(Duration::from_millis(20));
        handle.stop();
    });
    assert_eq!(ended, Outcome::Stopped);
}

#[test]
fn the_timer_wakes_a_halted_guest() {
    let ended = outcome(|cpu| {
        for (port, value) in [(0x20, 0x11), (0x21, 0x20), (0x21, 4), (0x21, 1), (0x21, 0xfe)] {
            cpu.out(port, value);
        }
        for (port, value) in [(0x43, 0x34), (0x40, 0xa9), (0x40, 4)] {
            cpu.out(port, value);
        }
        let start = cpu.platform.tsc();
        for _ in 0..10 {
            assert_eq!(cpu.halt(), Some(0x20));
            cpu.out(0x20, 0x20);
        }
        assert!(cpu.platform.tsc() > start);
        power_off(cpu)
    });
    assert_eq!(ended, Outcome::PoweredOff);
}

#[test]
fn halted_for_good_is_idle_even_with_an_interrupt_pending() {
    let runs = Arc::new(AtomicU64::new(0));
    let machine = machine(OnReset::Exit, {
        let runs = Arc::clone(&runs);
        move |cpu| {
            cpu.signals.raise(Signal::Interrupt);
            runs.fetch_add(1, Ordering::Relaxed);
            if cpu.signals.is_pending(Signal::Exit) { Stop::Kicked } else { Stop::HaltedForGood }
        }
    });
    let ended = run_while(machine, |handle| {
        std::thread::sleep(Duration::from_millis(50));
        handle.stop();
    });
    assert_eq!(ended, Outcome::Stopped);
    assert_eq!(runs.load(Ordering::Relaxed), 1);
}

#[test]
fn time_stands_still_in_a_pause() {
    let tsc = Arc::new(AtomicU64::new(0));
    let machine = machine(OnReset::Exit, {
        let tsc = Arc::clone(&tsc);
        move |cpu| {
            while !cpu.signals.is_pending(Signal::Exit) {
                tsc.store(cpu.platform.tsc(), Ordering::Relaxed);
            }
            Stop::Kicked
        }
    });
    let hz = machine.board.clock.hz();
    let now = || Duration::from_nanos(tsc.load(Ordering::Relaxed) * 1000 / (hz / 1_000_000));
    let ended = run_while(machine, |handle| {
        while now() == Duration::ZERO {
            std::thread::yield_now();
        }
        handle.pause();
        let before = now();
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!(now(), before);
        let resumed = Instant::now();
        handle.resume();
        while now() == before {
            std::thread::yield_now();
        }
        assert!(now() - before <= resumed.elapsed() + Duration::from_millis(100), "the pause was no time");
        handle.pause();
        handle.stop();
    });
    assert_eq!(ended, Outcome::Stopped);
}

#[test]
fn a_reset_in_a_pause_starts_again_only_after_it() {
    let starts = Arc::new(AtomicU64::new(0));
    let seen = Arc::clone(&starts);
    let machine = machine(OnReset::Reboot, move |cpu| {
        seen.store(cpu.starts.into(), Ordering::Release);
        sleep_until_kicked(cpu)
    });
    let wait_for = |count| while starts.load(Ordering::Acquire) != count {};
    let ended = run_while(machine, |handle| {
        wait_for(1);
        handle.pause();
        handle.reset();
        std::thread::sleep(Duration::from_millis(50));
        handle.pause();
        assert!(handle.is_paused());
        assert_eq!(starts.load(Ordering::Acquire), 1);
        handle.resume();
        wait_for(2);
        handle.stop();
    });
    assert_eq!(ended, Outcome::Stopped);
}

#[test]
fn a_paused_machine_can_be_stopped_before_it_ran() {
    let mut machine = machine(OnReset::Exit, |_| Stop::Failed("it ran".to_owned()));
    machine.handle().pause();
    machine.handle().stop();
    assert_eq!(machine.run(), Outcome::Stopped);
}

#[test]
fn input_arrives_in_order_and_ends_with_the_run() {
    let (sender, typed) = mpsc::channel();
    let machine = machine(OnReset::Exit, move |cpu| {
        cpu.out(0x3fc, 0x03);
        let mut left = 10_000;
        while left > 0 {
            if cpu.platform.port_read(0x3fd, 1) & 1 != 0 {
                sender.send(cpu.platform.port_read(0x3f8, 1) as u8).unwrap();
                left -= 1;
            }
        }
        power_off(cpu)
    });
    let bytes: Vec<u8> = (0..10_000u32).map(|i| (i % 251) as u8).collect();
    let ended = run_while(machine, |handle| {
        assert!(handle.input(&bytes));
        while handle.input(b"more") {}
    });
    assert_eq!(ended, Outcome::PoweredOff);
    assert_eq!(typed.iter().collect::<Vec<_>>(), bytes);
}

#[test]
fn the_power_button_is_an_acpi_event() {
    let machine = machine(OnReset::Exit, |cpu| {
        cpu.platform.port_write(0x602, 2, 0x100);
        cpu.platform.port_write(0x604, 2, 1);
        while cpu.platform.port_read(0x600, 2) & 0x100 == 0 {
            std::thread::yield_now();
        }
        power_off(cpu)
    });
    assert_eq!(run_while(machine, MachineHandle::power_button), Outcome::PoweredOff);
}

#[test]
fn output_goes_to_its_sinks() {
    let player = Player::new(|cpu| {
        for (port, byte) in [(0x3f8, b's'), (0xe9, b'd'), (0x402, b'f')] {
            cpu.out(port, byte.into());
        }
        power_off(cpu)
    });
    let mut config = MachineConfig::new(&player, 2 * MIB, firmware());
    let sinks = [&mut config.consoles.serial, &mut config.consoles.debug, &mut config.consoles.firmware];
    let logs = sinks.map(|sink| {
        let log = Arc::new(Mutex::new(Vec::new()));
        let end = Arc::clone(&log);
        *sink = Box::new(move |byte| lock(&end).push(byte));
        log
    });
    assert_eq!(Machine::build(config).unwrap().run(), Outcome::PoweredOff);
    assert_eq!(logs.map(|log| lock(&log).clone()), [b"s", b"d", b"f"]);
}

/// A flat multiboot kernel with its header at its start.
fn multiboot() -> Vec<u8> {
    const MAGIC: u32 = 0x1bad_b002;
    const FLAGS: u32 = 1 << 16;
    let at = MIB as u32;
    let header = [MAGIC, FLAGS, 0u32.wrapping_sub(MAGIC + FLAGS), at, at, 0, 0, at + 0x40];
    let mut file: Vec<u8> = header.iter().flat_map(|word| word.to_le_bytes()).collect();
    file.resize(0x1000, 0xf4);
    file
}

fn kernel(image: Vec<u8>) -> BootSource {
    BootSource::Kernel { image, modules: Vec::new(), cmdline: "quiet".to_owned(), protocol: Protocol::Auto }
}

fn signature_at(memory: &GuestMemory, at: u64) -> [u8; 8] {
    let mut bytes = [0; 8];
    memory.read(GuestPhysAddr(at), &mut bytes).unwrap();
    bytes
}

#[test]
fn kernels_find_tables_and_a_virtual_wire() {
    let player = Player::new(|cpu| {
        let mut lint0 = [0; 4];
        cpu.platform.mmio_read(0, GuestPhysAddr(0xfee0_0350), &mut lint0);
        assert_eq!(u32::from_le_bytes(lint0), 0x700);
        power_off(cpu)
    });
    let mut machine = Machine::build(MachineConfig::new(&player, 4 * MIB, kernel(multiboot()))).unwrap();
    assert_eq!(lock(&player.state).rip, MIB + 0x40);
    assert_eq!(&signature_at(&machine.memory, 0xe_0000), b"RSD PTR ");
    assert_eq!(machine.run(), Outcome::PoweredOff);
}

#[test]
fn firmware_starts_at_the_reset_vector_with_the_signature_in_edx() {
    let player = Player::new(power_off);
    let machine = Machine::build(MachineConfig::new(&player, 2 * MIB, firmware())).unwrap();
    let state = lock(&player.state).clone();
    assert_eq!(state.segment(SegmentName::Cs).base + state.rip, 0xffff_fff0);
    assert_eq!(state.reg(Gpr::Rdx), u64::from(machine.board.cpuid.signature()));
    assert_eq!(signature_at(&machine.memory, 0xffff_fff0), [0xf4; 8]);
    assert_eq!(signature_at(&machine.memory, 0xf_f000), [0xf4; 8]);
    assert_eq!(&signature_at(&machine.memory, 2 * MIB - 0x1_0000), b"RSD PTR ");
}

#[test]
fn what_cannot_be_built_is_refused() {
    let player = Player::new(power_off);
    let build = |cpus, memory, boot| {
        Machine::build(MachineConfig { cpus, ..MachineConfig::new(&player, memory, boot) }).err()
    };
    for cpus in [0, 2, u32::MAX] {
        let error = build(cpus, 2 * MIB, firmware());
        assert!(matches!(error, Some(MachineError::Processors { most: 1, .. })), "{cpus}");
    }
    assert!(matches!(build(1, 4095, firmware()), Some(MachineError::Memory(_))));
    assert!(matches!(build(1, 2 * MIB, BootSource::Firmware(vec![0; 5])), Some(MachineError::Boot(_))));
    assert!(matches!(build(1, 2 * MIB, kernel(vec![1; 5])), Some(MachineError::Boot(_))));
    assert!(build(1, 2 * MIB, firmware()).is_none());
    assert!(matches!(build(1, 2 * MIB, firmware()), Some(MachineError::Engine(_))), "the script is played");
}
