//! Local APICs and doorbells in the hands of an engine.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chipset::pci::MsiMessage;
use engine::{Assist, InterruptMessage, LocalApicRegisters, Platform, Signal};
use x86::{GuestPhysAddr, Vector};

use super::{Bench, LAPIC};
use crate::sync::lock;
use crate::{Transport, VirtioSlot};

const TSC_DEADLINE: u32 = 0x6e0;

/// What an engine was told, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Told {
    Deliver(u64, u32),
    Signal(u64, u32),
    Expect(Vec<usize>),
    Ring(u64, Option<u32>, i32),
    Silence(u64, Option<u32>, i32),
}

#[derive(Default)]
struct Recorder(Mutex<Vec<Told>>);

impl Recorder {
    fn note(&self, told: Told) {
        lock(&self.0).push(told);
    }

    fn take(&self) -> Vec<Told> {
        std::mem::take(&mut *lock(&self.0))
    }
}

impl Assist for Recorder {
    fn has_local_apics(&self) -> bool {
        true
    }

    fn deliver(&self, message: InterruptMessage) {
        self.note(Told::Deliver(message.address, message.data));
    }

    fn signal(&self, message: InterruptMessage) {
        self.note(Told::Signal(message.address, message.data));
    }

    fn expect_ends(&self, inputs: &[Option<InterruptMessage>]) {
        let expected = inputs.iter().enumerate().filter(|(_, message)| message.is_some());
        self.note(Told::Expect(expected.map(|(input, _)| input).collect()));
    }

    fn ring_on_write(&self, at: GuestPhysAddr, value: Option<u32>, bell: BorrowedFd<'_>) -> io::Result<()> {
        self.note(Told::Ring(at.0, value, bell.as_raw_fd()));
        Ok(())
    }

    fn ring_no_more(&self, at: GuestPhysAddr, value: Option<u32>, bell: BorrowedFd<'_>) {
        self.note(Told::Silence(at.0, value, bell.as_raw_fd()));
    }
}

impl Bench {
    fn lend(&self) -> (Arc<Recorder>, Vec<LocalApicRegisters>) {
        let recorder = Arc::new(Recorder::default());
        let assist = Arc::clone(&recorder) as Arc<dyn Assist>;
        let mut registers = Vec::new();
        let lent: Result<(), ()> = self.board.interrupts.hand_over(Some(&assist), |processors| {
            registers.extend(processors.iter().map(|processor| processor.lend()));
            Ok(())
        });
        lent.unwrap();
        (recorder, registers)
    }

    fn take_back(&self, registers: &[LocalApicRegisters]) {
        let back = self.board.interrupts.hand_over(None, |processors| {
            processors.iter().zip(registers).try_for_each(|(processor, one)| processor.take_back(one))
        });
        back.unwrap();
    }
}

#[test]
fn what_is_sent_goes_to_who_has_the_local_apics() {
    let bench = Bench::new();
    bench.apic_write(0, 0xf0, 0x1ff);
    let (recorder, _) = bench.lend();
    assert_eq!(recorder.take(), [Told::Expect(vec![])]);
    bench.redirect(4, 0x8041);
    assert_eq!(recorder.take(), [Told::Expect(vec![4])], "and not for the other half of the entry again");
    bench.out(0x3fc, 0x08);
    bench.out(0x3f9, 0x02);
    assert_eq!(recorder.take(), [Told::Deliver(0xfee0_0000, 0xc041)]);
    assert_eq!(bench.interrupt(), None);
    bench.board.end_of_interrupt(Vector(0x41));
    assert_eq!(recorder.take(), [Told::Deliver(0xfee0_0000, 0xc041)], "the line is still asserted");
    bench.inb(0x3fa);
    bench.board.end_of_interrupt(Vector(0x41));
    assert_eq!(recorder.take(), []);
    assert_eq!(bench.apic_read(0, 0xf0), u32::MAX, "the page is not the machine's");
}

#[test]
fn devices_signal_their_messages_to_who_has_the_local_apics() {
    let bench = Bench::new();
    bench.apic_write(0, 0xf0, 0x1ff);
    let message = MsiMessage { address: 0xfee0_0000, data: 0x51 };
    let (recorder, registers) = bench.lend();
    recorder.take();
    bench.board.interrupts.message(message);
    bench.board.interrupts.message(MsiMessage { address: 0x1000, ..message });
    assert_eq!(
        recorder.take(),
        [Told::Signal(0xfee0_0000, 0x4051)],
        "asserted; other addresses are no interrupts"
    );
    bench.take_back(&registers);
    bench.board.interrupts.message(message);
    assert_eq!(recorder.take(), []);
    assert_eq!(bench.interrupt(), Some(0x51));
}

#[test]
fn the_8259as_announce_themselves_whatever_the_engines_apic_says() {
    let bench = Bench::new();
    bench.lend();
    bench.init_pics(1);
    bench.start_pit();
    bench.pass(Duration::from_millis(2));
    assert_eq!(bench.interrupt(), Some(0x20));
    assert_eq!(bench.interrupt(), None);
}

#[test]
fn local_apics_go_on_where_the_engines_were() {
    let bench = Bench::with(2, None);
    bench.apic_write(1, 0xf0, 0x1ff);
    bench.apic_write(1, 0x320, 0x4_0055);
    bench.board.msr_write(1, TSC_DEADLINE, 5_000_000).unwrap().unwrap();
    let (recorder, mut registers) = bench.lend();
    recorder.take();
    assert_eq!((registers[0].base, registers[1].base), (LAPIC | 0x900, LAPIC | 0x800));
    assert_eq!((registers[1].tsc_deadline, registers[1].page[0x32]), (5_000_000, 0x4_0055));
    bench.pass(Duration::from_millis(10));
    assert!(!bench.is_pending(1, Signal::Interrupt), "the timer is the engine's");
    registers[1].page[0x22] = 1 << 3;
    bench.take_back(&registers);
    bench.pass(Duration::from_micros(10));
    assert_eq!(bench.board.interrupt_acknowledge(1), Some(Vector(0x55)), "the deadline had passed");
    bench.apic_write(1, 0xb0, 0);
    assert_eq!(bench.board.interrupt_acknowledge(1), Some(Vector(0x43)));
    assert_eq!(recorder.take(), []);
    registers[1].page.pop();
    let refused = bench.board.interrupts.hand_over(None, |processors| processors[1].take_back(&registers[1]));
    assert!(refused.is_err());
}

#[test]
fn doorbells_ring_where_the_guest_has_put_them() {
    let device = |transport| VirtioSlot::new(virtio::rng::Rng::new(None), transport);
    let bench = Bench::with_devices(1, None, vec![device(Transport::Pci), device(Transport::Mmio)]);
    let recorder = Arc::new(Recorder::default());
    let assist = Arc::clone(&recorder) as Arc<dyn Assist>;
    bench.board.bells.rung_by(Some(&assist));
    let told = recorder.take();
    let [Told::Ring(fixed, Some(0), fixed_bell)] = told.as_slice() else { panic!("{told:?}") };
    let (fixed, fixed_bell) = (*fixed, *fixed_bell);
    assert_eq!(fixed & 0xfff, 0x50, "the PCI function does not decode memory yet");
    bench.board.bios_setup();
    let told = recorder.take();
    let [Told::Ring(at, None, bell)] = told.as_slice() else { panic!("{told:?}") };
    let (at, bell) = (*at, *bell);
    // BAR 0 of 01.0 elsewhere, by mechanism 1.
    bench.board.port_write(0xcf8, 4, 0x8000_0810);
    bench.board.port_write(0xcfc, 4, 0xc100_0000);
    assert_eq!(
        recorder.take(),
        [Told::Silence(at, None, bell), Told::Ring(0xc100_0000 + at % 0x4000, None, bell)]
    );
    bench.board.port_write(0xcfc, 4, 0xfee0_0000);
    assert_eq!(recorder.take(), [Told::Silence(0xc100_0000 + at % 0x4000, None, bell)], "no bus is there");
    bench.board.port_write(0xcfc, 4, 0xc100_0000);
    recorder.take();
    bench.board.bells.rung_by(None);
    assert_eq!(
        recorder.take(),
        [Told::Silence(fixed, Some(0), fixed_bell), Told::Silence(0xc100_0000 + at % 0x4000, None, bell)]
    );
}
