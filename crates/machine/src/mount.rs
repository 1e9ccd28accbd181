//! A device in its place: behind a lock, on the machine's clock, with its
//! deadline among the timers.

use std::sync::{Arc, Mutex};

use chipset::{Device, VmTime};

use crate::clock::VmClock;
use crate::sync::lock;
use crate::timers::{TimerId, Timers};

/// What decodes I/O ports.
pub(crate) trait PortTarget: Send + Sync {
    /// Reads `size` bytes at `port`.
    fn port_read(&self, port: u16, size: u8) -> u32;

    /// Writes `size` bytes at `port`.
    fn port_write(&self, port: u16, size: u8, value: u32);
}

/// What is reset with the machine and can have a deadline.
pub(crate) trait Part: Send + Sync {
    /// Platform reset.
    fn reset(&self);

    /// The deadline has passed.
    fn expire(&self);
}

struct Held<D> {
    device: D,
    /// The latest time that the device has seen: counters of two host
    /// processors may differ by a few ticks.
    last: VmTime,
    /// The deadline as the timers know it.
    armed: Option<VmTime>,
}

/// A device of the machine.
pub(crate) struct Mounted<D> {
    held: Mutex<Held<D>>,
    clock: Arc<VmClock>,
    timers: Arc<Timers>,
    timer: TimerId,
}

impl<D: Device> Mounted<D> {
    pub(crate) fn new(device: D, clock: Arc<VmClock>, timers: Arc<Timers>) -> Self {
        let timer = timers.register();
        let armed = device.deadline();
        timers.arm(timer, armed);
        Self { held: Mutex::new(Held { device, last: VmTime::ZERO, armed }), clock, timers, timer }
    }

    /// Where the device's deadline is kept.
    pub(crate) fn timer(&self) -> TimerId {
        self.timer
    }

    /// Does something with the device; follows its deadline.
    pub(crate) fn with<R>(&self, f: impl FnOnce(&mut D, VmTime) -> R) -> R {
        self.with_held(&mut lock(&self.held), f)
    }

    fn with_held<R>(&self, held: &mut Held<D>, f: impl FnOnce(&mut D, VmTime) -> R) -> R {
        let now = self.clock.now().max(held.last);
        held.last = now;
        let result = f(&mut held.device, now);
        let deadline = held.device.deadline();
        if deadline != held.armed {
            held.armed = deadline;
            self.timers.arm(self.timer, deadline);
        }
        result
    }
}

impl<D: Device> PortTarget for Mounted<D> {
    fn port_read(&self, port: u16, size: u8) -> u32 {
        self.with(|device, now| device.port_read(now, port, size))
    }

    fn port_write(&self, port: u16, size: u8, value: u32) {
        self.with(|device, now| device.port_write(now, port, size, value));
    }
}

impl<D: Device> Part for Mounted<D> {
    fn reset(&self) {
        self.with(|device, now| device.reset(now));
    }

    fn expire(&self) {
        let mut held = lock(&self.held);
        // The timers have forgotten it.
        held.armed = None;
        self.with_held(&mut held, |device, now| device.advance(now));
    }
}
