//! The ISA pvpanic device (QEMU docs/specs/pvpanic): the guest's kernel says
//! that it has panicked. It has no state.

use std::fmt;
use std::ops::RangeInclusive;

use crate::{Device, EventSink, MachineEvent, VmTime};

/// Where the device is; the ACPI tables name it (QEMU0001).
pub const PVPANIC_PORT: u16 = 0x505;

const PANICKED: u32 = 1 << 0;
const CRASH_LOADED: u32 = 1 << 1;

/// The panic notifier.
pub struct PvPanic {
    events: EventSink,
}

impl PvPanic {
    /// The port that it decodes.
    pub const PORTS: &'static [RangeInclusive<u16>] = &[PVPANIC_PORT..=PVPANIC_PORT];

    /// A notifier that reports to `events`.
    pub fn new(events: EventSink) -> Self {
        Self { events }
    }
}

impl fmt::Debug for PvPanic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PvPanic")
    }
}

impl Device for PvPanic {
    fn reset(&mut self, _now: VmTime) {}

    fn port_read(&mut self, _now: VmTime, port: u16, _size: u8) -> u32 {
        if port == PVPANIC_PORT { u32::MAX << 8 | PANICKED | CRASH_LOADED } else { u32::MAX }
    }

    fn port_write(&mut self, _now: VmTime, port: u16, _size: u8, value: u32) {
        if port != PVPANIC_PORT {
            return;
        }
        if value & PANICKED != 0 {
            (self.events)(MachineEvent::GuestPanic);
        }
        if value & CRASH_LOADED != 0 {
            (self.events)(MachineEvent::GuestCrashLoaded);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{event_log, hammer};

    #[test]
    fn events_are_offered_and_reported() {
        let (events, sink) = event_log();
        let mut device = PvPanic::new(sink);
        assert_eq!(device.port_read(VmTime::ZERO, PVPANIC_PORT, 1) as u8, 3);
        for value in [1, 2, 4] {
            device.port_write(VmTime::ZERO, PVPANIC_PORT, 1, value);
        }
        device.port_write(VmTime::ZERO, PVPANIC_PORT + 1, 1, 1);
        let expected = [MachineEvent::GuestPanic, MachineEvent::GuestCrashLoaded];
        assert_eq!(*events.lock().unwrap(), expected);
    }

    #[test]
    fn survives_random_use() {
        hammer(&mut PvPanic::new(event_log().1), &[0x504..=0x506], 12);
    }
}
