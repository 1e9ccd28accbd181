//! Where interrupt lines meet: the INTA lines of the PCI slots, of which several
//! share one input of the I/O APIC and one line of the 8259As; and those of
//! devices that share an interrupt of the ISA bus.

use std::sync::{Arc, Mutex};

use chipset::acpi::{pci_interrupt, pci_isa_interrupt};
use chipset::{Line, LineTarget};

use crate::interrupts::Interrupts;
use crate::sync::lock;

/// The wired-OR of the slots' lines; inputs are device numbers.
pub(crate) struct IntxLines {
    /// A bit for each device that asserts INTA.
    asserted: Mutex<u32>,
    interrupts: Arc<Interrupts>,
}

impl IntxLines {
    pub(crate) fn new(interrupts: Arc<Interrupts>) -> Arc<Self> {
        Arc::new(Self { asserted: Mutex::new(0), interrupts })
    }

    /// INTA of device `device`.
    pub(crate) fn line(self: &Arc<Self>, device: u8) -> Line {
        Line::new(Arc::clone(self) as Arc<dyn LineTarget>, device.into())
    }
}

/// Whether any of the devices that share a line asserts it.
fn any(asserted: u32, shares: impl Fn(u8) -> bool) -> bool {
    (0..32).any(|device| asserted >> device & 1 != 0 && shares(device))
}

impl LineTarget for IntxLines {
    fn set_level(&self, device: u32, level: bool) {
        let device = device as u8 & 31;
        let mut asserted = lock(&self.asserted);
        *asserted = *asserted & !(1 << device) | u32::from(level) << device;
        // The lock is kept, so that levels arrive in the order of changes.
        let (input, isa) = (pci_interrupt(device, 0), pci_isa_interrupt(device, 0));
        let level = any(*asserted, |other| pci_interrupt(other, 0) == input);
        self.interrupts.set_upper_input(input, level);
        let level = any(*asserted, |other| pci_isa_interrupt(other, 0) == isa);
        self.interrupts.set_isa_only(isa, level);
    }
}

/// Several lines that are one: high while any of them is.
pub(crate) struct WiredOr {
    /// A bit for each line that is high.
    asserted: Mutex<u32>,
    line: Line,
}

impl WiredOr {
    /// A meeting point that drives `line`.
    pub(crate) fn new(line: Line) -> Arc<Self> {
        Arc::new(Self { asserted: Mutex::new(0), line })
    }

    /// Line `number` of up to 32.
    pub(crate) fn input(self: &Arc<Self>, number: u32) -> Line {
        Line::new(Arc::clone(self) as Arc<dyn LineTarget>, number % 32)
    }
}

impl LineTarget for WiredOr {
    fn set_level(&self, input: u32, level: bool) {
        let mut asserted = lock(&self.asserted);
        let was = *asserted != 0;
        *asserted = *asserted & !(1 << (input % 32)) | u32::from(level) << (input % 32);
        // The lock is kept, so that levels arrive in the order of changes.
        if was != (*asserted != 0) {
            self.line.set(!was);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wired_lines_are_high_while_one_of_them_is() {
        #[derive(Default)]
        struct Log(Mutex<Vec<bool>>);
        impl LineTarget for Log {
            fn set_level(&self, _input: u32, level: bool) {
                lock(&self.0).push(level);
            }
        }
        let log = Arc::new(Log::default());
        let meeting = WiredOr::new(Line::new(log.clone(), 0));
        let (first, second) = (meeting.input(0), meeting.input(31));
        for (line, level) in [(&first, true), (&second, true), (&first, false), (&second, false)] {
            line.set(level);
            line.set(level);
        }
        second.set(true);
        assert_eq!(*lock(&log.0), [true, false, true]);
    }

    #[test]
    fn a_shared_line_is_high_while_any_device_wants_it() {
        let shares = |device: u8| pci_interrupt(device, 0) == pci_interrupt(1, 0);
        assert!(!any(0, shares));
        assert!(any(1 << 1, shares) && any(1 << 9, shares) && any(1 << 1 | 1 << 9, shares));
        assert!(!any(1 << 2, shares));
    }
}
