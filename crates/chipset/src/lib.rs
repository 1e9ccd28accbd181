//! The chipset: the platform devices that a PC's operating system expects
//! before it finds any bus.
//!
//! Each device is a plain state machine on virtual time ([`VmTime`]). It holds
//! [`Line`] handles for its interrupt outputs and an [`EventSink`] for what
//! concerns the whole machine (reset, power-off); it knows no engine, no
//! thread and no host clock. The `machine` crate wires devices to ports,
//! addresses and interrupt controllers, and calls [`Device::advance`] when a
//! deadline passes.

#![forbid(unsafe_code)]

pub mod acpi;
pub mod ioapic;
pub mod lapic;

mod bytes;
pub mod debugcon;
mod device;
mod event;
pub mod fwcfg;
pub mod i8042;
mod line;
pub mod pci;
pub mod pic;
pub mod pit;
pub mod pm;
pub mod post;
pub mod pvpanic;
pub mod rtc;
mod sink;
pub mod testdev;
#[cfg(test)]
mod testing;
mod time;
pub mod uart;

pub use device::Device;
pub use event::{EventSink, MachineEvent};
pub use line::{Line, LineTarget};
pub use sink::SerialSink;
pub use time::{NANOS_PER_SEC, VmTime};
