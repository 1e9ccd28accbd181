use std::sync::{Arc, Mutex};

use super::*;
use crate::testing::{Probe, assert_serializes, event_log, hammer, survive_damaged_states};

struct Rig {
    kbc: I8042,
    irq1: Arc<Probe>,
    irq12: Arc<Probe>,
    events: Arc<Mutex<Vec<MachineEvent>>>,
}

impl Rig {
    fn new() -> Self {
        let (irq1, line1) = Probe::new();
        let (irq12, line12) = Probe::new();
        let (events, sink) = event_log();
        Self { kbc: I8042::new(line1, line12, sink), irq1, irq12, events }
    }

    fn out(&mut self, port: u16, value: u8) {
        self.kbc.port_write(VmTime::ZERO, port, 1, u32::from(value));
    }

    fn inb(&mut self, port: u16) -> u8 {
        self.kbc.port_read(VmTime::ZERO, port, 1) as u8
    }

    fn command(&mut self, command: u8, parameter: Option<u8>) {
        self.out(COMMAND, command);
        if let Some(parameter) = parameter {
            self.out(DATA, parameter);
        }
    }

    /// All that waits, with the auxiliary bit of the status beside each byte.
    fn drain(&mut self) -> Vec<(bool, u8)> {
        std::iter::from_fn(|| {
            let status = self.inb(COMMAND);
            (status & 1 != 0).then(|| (status & STATUS_AUX != 0, self.inb(DATA)))
        })
        .collect()
    }

    fn keyboard(&mut self, bytes: &[u8]) -> Vec<u8> {
        bytes.iter().for_each(|byte| self.out(DATA, *byte));
        self.drain().into_iter().map(|(aux, byte)| if aux { panic!("aux") } else { byte }).collect()
    }

    fn mouse(&mut self, bytes: &[u8]) -> Vec<u8> {
        bytes.iter().for_each(|byte| self.command(0xd4, Some(*byte)));
        self.drain().into_iter().map(|(aux, byte)| if aux { byte } else { panic!("kbd") }).collect()
    }

    fn take_events(&self) -> Vec<MachineEvent> {
        std::mem::take(&mut self.events.lock().unwrap())
    }
}

#[test]
fn controller_tests_pass() {
    let mut rig = Rig::new();
    for (command, answer) in [(0xaa, 0x55), (0xab, 0), (0xa9, 0), (0x20, MODE_RESET), (0xc0, 0x80)] {
        rig.command(command, None);
        assert_eq!(rig.inb(COMMAND), 0x1d);
        assert_eq!(rig.drain(), [(false, answer)]);
    }
    rig.out(DATA, 0xee);
    assert_eq!(rig.inb(COMMAND) & STATUS_COMMAND, 0);
}

#[test]
fn the_command_byte_disables_and_enables() {
    let mut rig = Rig::new();
    rig.command(0x60, Some(0x00));
    rig.command(0xa7, None);
    rig.command(0xad, None);
    rig.command(0x20, None);
    assert_eq!(rig.drain(), [(false, 0x30)]);
    assert!(rig.kbc.key(&[0x1c]));
    assert_eq!(rig.drain(), [], "a disabled keyboard waits");
    rig.command(0xae, None);
    assert_eq!(rig.drain(), [(false, 0x1c)], "and is not translated");
    rig.command(0x65, Some(0x77));
    rig.command(0x25, None);
    assert_eq!(rig.drain(), [(false, 0x77)], "RAM behind the command byte");
}

#[test]
fn each_byte_is_an_edge_on_its_line() {
    let mut rig = Rig::new();
    assert!(rig.kbc.key(&[0xe0, 0x75]));
    assert!(rig.irq1.level());
    assert_eq!(rig.inb(DATA), 0xe0);
    assert_eq!((rig.irq1.take_rises(), rig.irq1.level()), (2, true));
    assert_eq!(rig.inb(DATA), 0x48);
    assert!(!rig.irq1.level());
    assert_eq!(rig.inb(DATA), 0x48, "an empty buffer repeats");
    rig.command(0xd3, Some(0xa5));
    assert!(rig.irq12.level() && !rig.irq1.level());
    assert_eq!(rig.drain(), [(true, 0xa5)], "the loop that Linux probes with");
    rig.command(0xd2, Some(0x5a));
    assert_eq!(rig.drain(), [(false, 0x5a)]);
    rig.command(0x60, Some(0));
    rig.kbc.key(&[0x1c]);
    assert!(!rig.irq1.level(), "interrupts are off");
}

#[test]
fn a20_has_three_ways() {
    let mut rig = Rig::new();
    assert!(rig.kbc.a20());
    rig.command(0xdd, None);
    assert!(!rig.kbc.a20());
    assert_eq!(rig.inb(PORT_A), 0);
    rig.command(0xd1, Some(0xdf));
    assert!(rig.kbc.a20());
    rig.out(PORT_A, 0);
    assert!(!rig.kbc.a20());
    rig.command(0xd0, None);
    assert_eq!(rig.drain(), [(false, 0xc1)]);
    rig.command(0xdf, None);
    assert_eq!(rig.inb(PORT_A), 2);
    assert_eq!(rig.take_events(), []);
}

#[test]
fn reset_has_three_ways() {
    let mut rig = Rig::new();
    rig.command(0xfe, None);
    assert_eq!(rig.take_events(), [MachineEvent::Reset]);
    rig.command(0xff, None);
    assert_eq!(rig.take_events(), []);
    rig.command(0xd1, Some(0x02));
    assert_eq!(rig.take_events(), [MachineEvent::Reset]);
    rig.out(PORT_A, 0x03);
    assert_eq!(rig.take_events(), [MachineEvent::Reset]);
}

#[test]
fn the_keyboard_answers_a_probe() {
    let mut rig = Rig::new();
    assert_eq!(rig.keyboard(&[0xff]), [0xfa, 0xaa]);
    assert_eq!(rig.keyboard(&[0xf2]), [0xfa, 0xab, 0x41], "translated");
    assert_eq!(rig.keyboard(&[0xed, 0x02]), [0xfa, 0xfa]);
    assert_eq!(rig.kbc.leds(), 2);
    assert_eq!(rig.keyboard(&[0xf3, 0x00]), [0xfa, 0xfa]);
    assert_eq!(rig.keyboard(&[0xee]), [0xee]);
    assert_eq!(rig.keyboard(&[0xfe]), [0xee]);
    assert_eq!(rig.keyboard(&[0x01]), [0xfe]);
    assert_eq!(rig.keyboard(&[0xed, 0xf4]), [0xfa, 0xfa], "a command instead of the argument");
    rig.command(0x60, Some(0x01));
    assert_eq!(rig.keyboard(&[0xf2]), [0xfa, 0xab, 0x83]);
    assert_eq!(rig.keyboard(&[0xf0, 0]), [0xfa, 0xfa, 2]);
    assert_eq!(rig.keyboard(&[0xf0, 3]), [0xfa, 0xfe]);
    assert_eq!(rig.keyboard(&[0xf0, 1]), [0xfa, 0xfa]);
    rig.kbc.key(&[0xf0, 0x1c]);
    assert_eq!(rig.drain(), [(false, 0x9e)], "set 1 from the keyboard itself");
    assert_eq!(rig.keyboard(&[0xf5]), [0xfa]);
    assert!(!rig.kbc.key(&[0x1c]));
}

#[test]
fn a_full_keyboard_drops_whole_events() {
    let mut rig = Rig::new();
    rig.command(0xad, None);
    for _ in 0..8 {
        assert!(rig.kbc.key(&[0xf0, 0x1c]));
    }
    assert!(!rig.kbc.key(&[0x1c]));
    rig.command(0xae, None);
    assert_eq!(rig.drain().len(), 8);
}

#[test]
fn the_mouse_answers_a_probe() {
    let mut rig = Rig::new();
    assert_eq!(rig.mouse(&[0xff]), [0xfa, 0xaa, 0x00]);
    assert_eq!(rig.mouse(&[0xf2]), [0xfa, 0x00]);
    assert_eq!(rig.mouse(&[0xf3, 200, 0xf3, 100, 0xf3, 80, 0xf2]), [[0xfa; 7].as_slice(), &[0]].concat());
    assert_eq!(rig.mouse(&[0xe8, 3, 0xe7, 0xf4]), [0xfa; 4]);
    assert_eq!(rig.mouse(&[0xe9]), [0xfa, 0x30, 3, 80]);
    assert_eq!(rig.mouse(&[0xeb]), [0xfa, 8, 0, 0]);
    assert_eq!(rig.mouse(&[0xee, 0x12, 0xec]), [0xfa, 0x12, 0xfa]);
    assert_eq!(rig.mouse(&[0xf6]), [0xfa]);
    assert_eq!(rig.mouse(&[0xe9]), [0xfa, 0, 2, 100]);
}

#[test]
fn state_moves_to_another_controller() {
    let mut first = Rig::new();
    first.command(0xd4, Some(0xff));
    first.out(COMMAND, 0x60);
    assert_serializes(&first.kbc.state());
    let mut second = Rig::new();
    second.kbc.set_state(first.kbc.state());
    assert!(second.irq12.level());
    second.out(DATA, 0);
    assert!(!second.irq12.level(), "the write went to the command byte");
    second.kbc.reset(VmTime::ZERO);
    assert_eq!(second.kbc.state(), I8042State::default());
}

#[test]
fn survives_random_use() {
    hammer(&mut Rig::new().kbc, I8042::PORTS, 7);
}

#[test]
fn survives_damaged_states() {
    survive_damaged_states(|| Rig::new().kbc, I8042::PORTS, I8042::state, I8042::set_state);
}
