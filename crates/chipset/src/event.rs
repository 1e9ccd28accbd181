//! What a device can ask of the whole machine.

use std::sync::Arc;

/// A request of the guest that concerns the machine as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MachineEvent {
    /// The guest asked for a reset (keyboard controller, port 0xCF9, ACPI).
    Reset,
    /// The guest switched the machine off (ACPI sleep state S5).
    PowerOff,
    /// The guest reported a panic (pvpanic).
    GuestPanic,
    /// The guest reported that its crash kernel was loaded (pvpanic).
    GuestCrashLoaded,
}

/// Where devices report [`MachineEvent`]s. Called with the device's lock held:
/// it must only note the event and wake somebody.
pub type EventSink = Arc<dyn Fn(MachineEvent) + Send + Sync>;
