//! A board with every device of the chipset on it, driven by bytes.
//!
//! The fuzz target and a test of the crate share this file.

use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chipset::debugcon::{BOCHS_PORT, DebugConsole};
use chipset::fwcfg::FwCfg;
use chipset::i8042::I8042;
use chipset::pci::PciBus;
use chipset::pic::Pic;
use chipset::pit::Pit;
use chipset::pm::{Pm, SCI_IRQ};
use chipset::post::Post;
use chipset::pvpanic::PvPanic;
use chipset::rtc::{CmosMemory, Rtc};
use chipset::uart::{COM1, Uart};
use chipset::{Device, EventSink, Line, LineTarget, VmTime};

/// The interrupt controller, at which all lines end.
#[derive(Clone, Default)]
struct Board(Arc<Mutex<Pic>>);

impl Board {
    fn pic<T>(&self, f: impl FnOnce(&mut Pic) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn line(&self, irq: u8) -> Line {
        Line::new(Arc::new(self.clone()), irq.into())
    }
}

impl LineTarget for Board {
    fn set_level(&self, input: u32, level: bool) {
        self.pic(|pic| pic.set_irq(input as u8, level));
    }
}

impl Device for Board {
    fn reset(&mut self, now: VmTime) {
        self.pic(|pic| pic.reset(now));
    }

    fn port_read(&mut self, now: VmTime, port: u16, size: u8) -> u32 {
        self.pic(|pic| pic.port_read(now, port, size))
    }

    fn port_write(&mut self, now: VmTime, port: u16, size: u8, value: u32) {
        self.pic(|pic| pic.port_write(now, port, size, value));
    }
}

struct Devices {
    board: Board,
    pit: Pit,
    rtc: Rtc,
    i8042: I8042,
    uart: Uart,
    pm: Pm,
    pci: PciBus,
    debug: DebugConsole,
    pvpanic: PvPanic,
    post: Post,
    fwcfg: FwCfg,
}

const KINDS: usize = 11;

impl Devices {
    fn new() -> Self {
        let board = Board::default();
        let events: EventSink = Arc::new(|_| {});
        let memory = CmosMemory { below_4g: 1 << 30, above_4g: 0 };
        Self {
            pit: Pit::new(board.line(0)),
            rtc: Rtc::new(1_700_000_000, memory, board.line(8)),
            i8042: I8042::new(board.line(1), board.line(12), events.clone()),
            uart: Uart::new(Box::new(|_| {}), board.line(4)),
            pm: Pm::new(board.line(SCI_IRQ), events.clone()),
            pci: PciBus::new(),
            debug: DebugConsole::new(BOCHS_PORT, Box::new(|_| {})),
            pvpanic: PvPanic::new(events),
            post: Post::new(),
            fwcfg: FwCfg::new(),
            board,
        }
    }

    fn each(&mut self) -> [(&mut dyn Device, Vec<RangeInclusive<u16>>); KINDS] {
        [
            (&mut self.board, Pic::PORTS.to_vec()),
            (&mut self.pit, Pit::PORTS.to_vec()),
            (&mut self.rtc, Rtc::PORTS.to_vec()),
            (&mut self.i8042, I8042::PORTS.to_vec()),
            (&mut self.uart, vec![Uart::ports(COM1)]),
            (&mut self.pm, Pm::PORTS.to_vec()),
            (&mut self.pci, PciBus::PORTS.to_vec()),
            (&mut self.debug, vec![BOCHS_PORT..=BOCHS_PORT]),
            (&mut self.pvpanic, PvPanic::PORTS.to_vec()),
            (&mut self.post, Post::PORTS.to_vec()),
            (&mut self.fwcfg, FwCfg::PORTS.to_vec()),
        ]
    }

    /// What comes from outside: interrupts taken, characters, keys, buttons.
    fn outside(&mut self, now: VmTime, what: u8, value: u8) {
        match what % 8 {
            0 => self.board.pic(|pic| pic.set_irq(value & 0x1f, value & 0x80 != 0)),
            1 | 2 => drop(self.board.pic(|pic| pic.intr_asserted().then(|| pic.acknowledge()))),
            3 => drop(self.uart.enqueue(now, &[value; 20])),
            4 => drop(self.uart.receive_break(now)),
            5 => drop(self.i8042.key(&[value, value >> 1, value << 1])),
            6 => self.pm.press_power_button(),
            _ => self.pm.raise_gpe(value),
        }
    }

    /// Every device becomes a new one with the old one's state.
    fn migrate(&mut self) {
        let mut new = Self::new();
        new.pit.set_state(self.pit.state());
        new.rtc.set_state(self.rtc.state());
        new.i8042.set_state(self.i8042.state());
        new.uart.set_state(self.uart.state());
        new.pm.set_state(self.pm.state());
        new.pci.set_state(self.pci.state());
        new.post.set_state(self.post.state());
        new.fwcfg.set_state(self.fwcfg.state());
        let pic_state = self.board.pic(|pic| pic.state());
        new.board.pic(|pic| pic.set_state(pic_state));
        assert_eq!(new.pit.state(), self.pit.state());
        assert_eq!(new.rtc.state(), self.rtc.state());
        assert_eq!(new.i8042.state(), self.i8042.state());
        assert_eq!(new.uart.state(), self.uart.state());
        assert_eq!(new.pm.state(), self.pm.state());
        assert_eq!(new.pci.state(), self.pci.state());
        *self = new;
    }

    fn advance(&mut self, now: VmTime) {
        for (device, ports) in self.each() {
            device.advance(now);
            let deadline = device.deadline();
            assert!(deadline.is_none_or(|at| at > now), "{ports:x?} at {now:?}: {deadline:?}");
        }
    }
}

/// Takes four bytes from `data`, zeros where it ends.
fn word(data: &mut &[u8]) -> u32 {
    let mut bytes = [0; 4];
    let (head, tail) = data.split_at(data.len().min(4));
    bytes.iter_mut().zip(head).for_each(|(to, from)| *to = *from);
    *data = tail;
    u32::from_le_bytes(bytes)
}

/// Lets `data` act on a board. Panics when a device misbehaves.
pub(crate) fn drive(mut data: &[u8]) {
    let mut devices = Devices::new();
    let mut now = VmTime::ZERO;
    while let [action, device, port, size, rest @ ..] = data {
        data = rest;
        match action % 16 {
            0..=11 => {
                let mut each = devices.each();
                let (target, ranges) = &mut each[usize::from(*device) % KINDS];
                let ports: Vec<u16> = ranges.iter().cloned().flatten().collect();
                let port = ports[usize::from(*port) % ports.len()];
                let size = [1, 1, 2, 4][usize::from(size % 4)];
                if action & 1 == 0 {
                    target.port_write(now, port, size, word(&mut data));
                } else {
                    target.port_read(now, port, size);
                }
            }
            12 => devices.outside(now, *device, *port),
            13 => {
                let nanos = u64::from(u16::from_le_bytes([*device, *port])) << (size % 28);
                now = now + Duration::from_nanos(nanos);
                devices.advance(now);
            }
            14 => {
                now = devices.each().iter().filter_map(|(d, _)| d.deadline()).min().unwrap_or(now).max(now);
                devices.advance(now);
            }
            _ if *device < 16 => devices.each().into_iter().for_each(|(d, _)| d.reset(now)),
            _ => devices.migrate(),
        }
    }
    devices.advance(now);
}
