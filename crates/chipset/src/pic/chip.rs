//! One 8259A (Intel 231468, "8259A Programmable Interrupt Controller").

use serde::{Deserialize, Serialize};

/// Where the initialization sequence stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Expect {
    /// Initialized: writes to the odd port are OCW1.
    #[default]
    Ocw1,
    Icw2,
    Icw3,
    Icw4,
}

/// The registers of one 8259A.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChipState {
    /// Levels at the inputs.
    lines: u8,
    /// Interrupt request register: edges not yet acknowledged. For
    /// level-triggered inputs the lines themselves are the requests.
    edges: u8,
    isr: u8,
    imr: u8,
    elcr: u8,
    vector_base: u8,
    expect: Expect,
    single: bool,
    wants_icw4: bool,
    auto_eoi: bool,
    special_fully_nested: bool,
    rotate_on_aeoi: bool,
    special_mask: bool,
    poll: bool,
    read_isr: bool,
    /// The input of highest priority (modulo 8).
    top: u8,
}

impl Default for ChipState {
    /// Power-on: the manual leaves it open; nothing is requested and all is
    /// masked.
    fn default() -> Self {
        Self {
            lines: 0,
            edges: 0,
            isr: 0,
            imr: 0xff,
            elcr: 0,
            vector_base: 0,
            expect: Expect::Ocw1,
            single: false,
            wants_icw4: false,
            auto_eoi: false,
            special_fully_nested: false,
            rotate_on_aeoi: false,
            special_mask: false,
            poll: false,
            read_isr: false,
            top: 0,
        }
    }
}

const fn bit(irq: u8) -> u8 {
    1 << (irq & 7)
}

impl ChipState {
    /// Power-on state that keeps what lies outside the chip: the input levels.
    pub(super) fn reset(&mut self) {
        *self = Self { lines: self.lines, ..Self::default() };
    }

    pub(super) fn set_line(&mut self, irq: u8, level: bool) {
        let bit = bit(irq);
        if level {
            self.edges |= bit & !self.lines;
            self.lines |= bit;
        } else {
            self.lines &= !bit;
        }
    }

    /// The interrupt request register.
    pub(super) fn irr(&self) -> u8 {
        (self.edges & !self.elcr) | (self.lines & self.elcr)
    }

    pub(super) fn elcr(&self) -> u8 {
        self.elcr
    }

    pub(super) fn set_elcr(&mut self, value: u8) {
        self.elcr = value;
        self.edges &= !value;
    }

    /// Zero for the highest priority.
    fn rank(&self, irq: u8) -> u8 {
        irq.wrapping_sub(self.top) & 7
    }

    /// The set bit of highest priority.
    fn first(&self, bits: u8) -> Option<u8> {
        (0..8).map(|rank| self.top.wrapping_add(rank) & 7).find(|irq| bits & bit(*irq) != 0)
    }

    /// The request that INT stands for. `cascade` holds the inputs that a slave
    /// drives at the moment (none on a slave).
    pub(super) fn pending(&self, cascade: Cascade) -> Option<u8> {
        if self.expect != Expect::Ocw1 {
            return None;
        }
        let irr = (self.irr() & !cascade.inputs) | cascade.active;
        let request = self.first(irr & !self.imr)?;
        let mut in_service = self.isr;
        if self.special_mask {
            in_service &= !self.imr;
        }
        if self.special_fully_nested {
            in_service &= !cascade.inputs;
        }
        let blocked = self.first(in_service).is_some_and(|irq| self.rank(irq) <= self.rank(request));
        (!blocked).then_some(request)
    }

    /// The INTA cycle for input `irq`.
    pub(super) fn acknowledge(&mut self, irq: u8) {
        self.edges &= !bit(irq);
        if !self.auto_eoi {
            self.isr |= bit(irq);
        } else if self.rotate_on_aeoi {
            self.make_lowest(irq);
        }
    }

    pub(super) fn vector(&self, irq: u8) -> u8 {
        (self.vector_base & 0xf8) | (irq & 7)
    }

    fn make_lowest(&mut self, irq: u8) {
        self.top = irq.wrapping_add(1) & 7;
    }

    pub(super) fn write_even(&mut self, value: u8) {
        match value & 0x18 {
            _ if value & 0x10 != 0 => self.icw1(value),
            0x08 => self.ocw3(value),
            _ => self.ocw2(value),
        }
    }

    pub(super) fn write_odd(&mut self, value: u8) {
        match self.expect {
            Expect::Ocw1 => self.imr = value,
            Expect::Icw2 => {
                self.vector_base = value & 0xf8;
                self.expect = if self.single { self.after_icw3() } else { Expect::Icw3 };
            }
            // The cascade wiring of a PC is fixed: input 2.
            Expect::Icw3 => self.expect = self.after_icw3(),
            Expect::Icw4 => {
                self.auto_eoi = value & 0x02 != 0;
                self.special_fully_nested = value & 0x10 != 0;
                self.expect = Expect::Ocw1;
            }
        }
    }

    fn after_icw3(&self) -> Expect {
        if self.wants_icw4 { Expect::Icw4 } else { Expect::Ocw1 }
    }

    /// Level triggering (LTIM) is a matter of the ELCR in a PC.
    fn icw1(&mut self, value: u8) {
        *self = Self {
            lines: self.lines,
            elcr: self.elcr,
            vector_base: self.vector_base,
            imr: 0,
            expect: Expect::Icw2,
            single: value & 0x02 != 0,
            wants_icw4: value & 0x01 != 0,
            ..Self::default()
        };
    }

    fn ocw2(&mut self, value: u8) {
        let (rotate, specific, eoi) = (value & 0x80 != 0, value & 0x40 != 0, value & 0x20 != 0);
        match (eoi, specific) {
            (true, false) => {
                let visible = if self.special_mask { self.isr & !self.imr } else { self.isr };
                if let Some(irq) = self.first(visible) {
                    self.end(irq, rotate);
                }
            }
            (true, true) => self.end(value & 7, rotate),
            (false, true) if rotate => self.make_lowest(value),
            (false, true) => {}
            (false, false) => self.rotate_on_aeoi = rotate,
        }
    }

    fn end(&mut self, irq: u8, rotate: bool) {
        self.isr &= !bit(irq);
        if rotate {
            self.make_lowest(irq);
        }
    }

    fn ocw3(&mut self, value: u8) {
        if value & 0x40 != 0 {
            self.special_mask = value & 0x20 != 0;
        }
        self.poll = value & 0x04 != 0;
        if value & 0x02 != 0 {
            self.read_isr = value & 0x01 != 0;
        }
    }

    pub(super) fn read(&mut self, odd: bool, cascade: Cascade) -> u8 {
        if std::mem::take(&mut self.poll) {
            return self.poll_read(cascade);
        }
        match (odd, self.read_isr) {
            (true, _) => self.imr,
            (false, true) => self.isr,
            (false, false) => (self.irr() & !cascade.inputs) | cascade.active,
        }
    }

    /// A read after the poll command is an INTA cycle.
    fn poll_read(&mut self, cascade: Cascade) -> u8 {
        self.pending(cascade).map_or(0, |irq| {
            self.acknowledge(irq);
            0x80 | irq
        })
    }
}

/// Inputs that come from a slave, and those of them that it drives now.
#[derive(Clone, Copy, Default)]
pub(super) struct Cascade {
    pub(super) inputs: u8,
    pub(super) active: u8,
}
