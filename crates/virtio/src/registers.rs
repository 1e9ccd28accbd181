//! What both transports share: negotiation of features, the device's status,
//! the set-up of queues, start and reset (2.1, 2.2, 3.1).

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use memory::GuestMemory;

use crate::queue::{QueuePlace, VirtQueue, doorbells};
use crate::{Activation, DeviceKind, Doorbell, Interrupt, VirtioDevice, feature};

const FEATURES_OK: u8 = 8;
const DRIVER_OK: u8 = 4;
const NEEDS_RESET: u8 = 64;
const FAILED: u8 = 128;

#[derive(Clone, Copy, Debug)]
struct QueueSetup {
    max: u16,
    place: QueuePlace,
    enabled: bool,
}

impl QueueSetup {
    fn new(max: u16) -> Self {
        Self { max, place: QueuePlace { size: max, ..QueuePlace::default() }, enabled: false }
    }
}

/// Which of a queue's three addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RingPart {
    Descriptors,
    Available,
    Used,
}

/// A device with the registers that every transport has.
pub(crate) struct Registers {
    device: Box<dyn VirtioDevice>,
    memory: GuestMemory,
    interrupt: Interrupt,
    doorbells: Vec<Doorbell>,
    queues: Vec<QueueSetup>,
    status: u8,
    active: bool,
    driver_features: u64,
    pub(crate) device_features_select: u32,
    pub(crate) driver_features_select: u32,
    pub(crate) queue_select: u16,
}

impl Registers {
    pub(crate) fn new(
        device: Box<dyn VirtioDevice>,
        memory: GuestMemory,
        interrupt: Interrupt,
    ) -> io::Result<Self> {
        let queues: Vec<_> = device.queue_sizes().into_iter().map(QueueSetup::new).collect();
        Ok(Self {
            device,
            memory,
            interrupt,
            doorbells: doorbells(queues.len())?,
            queues,
            status: 0,
            active: false,
            driver_features: 0,
            device_features_select: 0,
            driver_features_select: 0,
            queue_select: 0,
        })
    }

    pub(crate) fn kind(&self) -> DeviceKind {
        self.device.kind()
    }

    pub(crate) fn queue_count(&self) -> u16 {
        u16::try_from(self.queues.len()).unwrap_or(u16::MAX)
    }

    fn offered(&self) -> u64 {
        self.device.features() | feature::ALWAYS
    }

    /// The 32 bits of the offered features that are selected.
    pub(crate) fn device_features(&self) -> u32 {
        half(self.offered(), self.device_features_select)
    }

    /// The 32 bits of the accepted features that are selected.
    pub(crate) fn driver_features(&self) -> u32 {
        half(self.driver_features, self.driver_features_select)
    }

    pub(crate) fn set_driver_features(&mut self, value: u32) {
        if self.status & FEATURES_OK != 0 {
            return;
        }
        let (shift, keep) = match self.driver_features_select {
            0 => (0, !0xffff_ffff),
            1 => (32, 0xffff_ffff),
            _ => return,
        };
        self.driver_features = self.driver_features & keep | u64::from(value) << shift;
    }

    pub(crate) fn status(&self) -> u8 {
        self.status | if self.interrupt.is_reset_needed() { NEEDS_RESET } else { 0 }
    }

    /// The driver writes the status; true if that was a reset.
    pub(crate) fn set_status(&mut self, value: u8) -> bool {
        if value == 0 {
            self.reset();
            return true;
        }
        // Bits are only added (2.1.1), and the device decides over its own.
        let mut added = value & !self.status & !NEEDS_RESET;
        if added & FEATURES_OK != 0 && !self.features_are_possible() {
            added &= !FEATURES_OK;
        }
        self.status |= added;
        let ready = self.status & (DRIVER_OK | FEATURES_OK | FAILED) == DRIVER_OK | FEATURES_OK;
        if added & DRIVER_OK != 0 && ready && !self.active {
            self.activate();
        }
        false
    }

    fn features_are_possible(&self) -> bool {
        self.driver_features & !self.offered() == 0 && self.driver_features & feature::VERSION_1 != 0
    }

    fn activate(&mut self) {
        self.active = true;
        let queues: Option<Vec<_>> =
            (0_u16..).zip(&self.queues).map(|(index, setup)| self.queue(index, *setup)).collect();
        let Some(queues) = queues else { return self.interrupt.needs_reset() };
        let activation = Activation {
            memory: self.memory.clone(),
            features: self.driver_features,
            queues,
            interrupt: self.interrupt.clone(),
        };
        if self.device.activate(activation).is_err() {
            self.interrupt.needs_reset();
        }
    }

    /// A queue as the driver has set it up: None if it is not possible, and
    /// None inside if it is not enabled.
    fn queue(&self, index: u16, setup: QueueSetup) -> Option<Option<VirtQueue>> {
        if !setup.enabled {
            return Some(None);
        }
        let doorbell = self.doorbells.get(usize::from(index))?.clone();
        let event_idx = self.driver_features & feature::RING_EVENT_IDX != 0;
        let (memory, interrupt) = (self.memory.clone(), self.interrupt.clone());
        VirtQueue::new(index, setup.place, event_idx, memory, doorbell, interrupt).map(Some)
    }

    /// Stops the device and forgets everything that the driver has told.
    pub(crate) fn reset(&mut self) {
        self.device.reset();
        self.interrupt.was_reset();
        for (setup, doorbell) in self.queues.iter_mut().zip(&self.doorbells) {
            *setup = QueueSetup::new(setup.max);
            doorbell.take();
        }
        (self.status, self.active, self.driver_features) = (0, false, 0);
        (self.device_features_select, self.driver_features_select, self.queue_select) = (0, 0, 0);
    }

    fn selected(&self) -> Option<&QueueSetup> {
        self.queues.get(usize::from(self.queue_select))
    }

    /// The selected queue, while it can be set up.
    fn selected_mut(&mut self) -> Option<&mut QueueSetup> {
        let setup = self.queues.get_mut(usize::from(self.queue_select))?;
        (!self.active && !setup.enabled).then_some(setup)
    }

    /// The largest size of the selected queue; 0 if there is none.
    pub(crate) fn queue_max(&self) -> u16 {
        self.selected().map_or(0, |setup| setup.max)
    }

    pub(crate) fn queue_size(&self) -> u16 {
        self.selected().map_or(0, |setup| setup.place.size)
    }

    pub(crate) fn set_queue_size(&mut self, size: u16) {
        if let Some(setup) = self.selected_mut().filter(|setup| size.is_power_of_two() && size <= setup.max) {
            setup.place.size = size;
        }
    }

    pub(crate) fn queue_enabled(&self) -> bool {
        self.selected().is_some_and(|setup| setup.enabled)
    }

    pub(crate) fn enable_queue(&mut self) {
        if let Some(setup) = self.selected_mut() {
            setup.enabled = true;
        }
    }

    /// MMIO's way to take a queue back; until the device runs.
    pub(crate) fn disable_queue(&mut self) {
        let active = self.active;
        let setup = self.queues.get_mut(usize::from(self.queue_select));
        if let Some(setup) = setup.filter(|_| !active) {
            setup.enabled = false;
        }
    }

    pub(crate) fn queue_address(&self, part: RingPart) -> u64 {
        self.selected().map_or(0, |setup| match part {
            RingPart::Descriptors => setup.place.descriptors,
            RingPart::Available => setup.place.available,
            RingPart::Used => setup.place.used,
        })
    }

    /// Sets the low or the high half of an address.
    pub(crate) fn set_queue_address(&mut self, part: RingPart, high: bool, value: u32) {
        let Some(setup) = self.selected_mut() else { return };
        let address = match part {
            RingPart::Descriptors => &mut setup.place.descriptors,
            RingPart::Available => &mut setup.place.available,
            RingPart::Used => &mut setup.place.used,
        };
        *address = match high {
            false => *address & !0xffff_ffff | u64::from(value),
            true => *address & 0xffff_ffff | u64::from(value) << 32,
        };
    }

    /// The driver has made buffers available.
    pub(crate) fn notify(&self, queue: u16) {
        if let Some(doorbell) = self.doorbells.get(usize::from(queue)).filter(|_| self.active) {
            doorbell.ring();
        }
    }

    /// What the notification of each queue rings.
    pub(crate) fn bells(&self) -> impl Iterator<Item = (u16, Arc<OwnedFd>)> {
        (0..).zip(&self.doorbells).map(|(queue, bell)| (queue, bell.event()))
    }

    pub(crate) fn generation(&self) -> u8 {
        self.interrupt.generation()
    }

    pub(crate) fn config_read(&self, offset: u64, data: &mut [u8]) {
        self.device.config_read(offset, data);
    }

    pub(crate) fn config_write(&mut self, offset: u64, data: &[u8]) {
        self.device.config_write(offset, data);
    }
}

fn half(features: u64, select: u32) -> u32 {
    match select {
        0 => features as u32,
        1 => (features >> 32) as u32,
        _ => 0,
    }
}
