//! A split virtqueue (2.7), as a device's thread uses it.

use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;

use memory::GuestMemory;
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress};

use crate::{Chain, Doorbell, Interrupt, Stop};

/// The driver wants no interrupts (2.7.6).
const AVAIL_NO_INTERRUPT: u16 = 1;

/// How many chains are given back before the guest is told of them.
const BATCH: u32 = 16;

/// The driver has broken the rules of the ring; the queue is of no more use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the driver has broken the rules of its virtqueue")]
pub struct BrokenQueue;

/// Where the driver has put a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct QueuePlace {
    pub(crate) size: u16,
    pub(crate) descriptors: u64,
    pub(crate) available: u64,
    pub(crate) used: u64,
}

/// A virtqueue of an active device.
pub struct VirtQueue {
    index: u16,
    ring: Queue,
    memory: GuestMemory,
    doorbell: Doorbell,
    interrupt: Interrupt,
    broken: bool,
    /// Chains were given back since the last signal.
    pushed: bool,
}

impl VirtQueue {
    /// The queue at `place`; None if it does not lie in RAM as it should.
    pub(crate) fn new(
        index: u16,
        place: QueuePlace,
        event_idx: bool,
        memory: GuestMemory,
        doorbell: Doorbell,
        interrupt: Interrupt,
    ) -> Option<Self> {
        let mut ring = Queue::new(place.size).ok()?;
        ring.try_set_size(place.size).ok()?;
        ring.try_set_desc_table_address(GuestAddress(place.descriptors)).ok()?;
        ring.try_set_avail_ring_address(GuestAddress(place.available)).ok()?;
        ring.try_set_used_ring_address(GuestAddress(place.used)).ok()?;
        ring.set_event_idx(event_idx);
        ring.set_ready(true);
        let valid = place.available != 0 && ring.is_valid(memory.vm_memory());
        valid.then_some(Self { index, ring, memory, doorbell, interrupt, broken: false, pushed: false })
    }

    /// Its number.
    pub fn index(&self) -> u16 {
        self.index
    }

    /// Its size in descriptors.
    pub fn size(&self) -> u16 {
        self.ring.size()
    }

    /// The guest's memory.
    pub fn memory(&self) -> &GuestMemory {
        &self.memory
    }

    /// What the driver rings when it has made buffers available.
    pub fn doorbell(&self) -> &Doorbell {
        &self.doorbell
    }

    /// The next chain that the driver has made available, if there is one.
    ///
    /// # Errors
    /// If the driver has broken the rules; it has been told then.
    pub fn pop(&mut self) -> Result<Option<Chain>, BrokenQueue> {
        if self.broken {
            return Err(BrokenQueue);
        }
        let ram = self.memory.vm_memory();
        let next = match self.ring.iter(ram) {
            Ok(mut available) => available.next(),
            Err(_) => return Err(self.fail()),
        };
        let Some(descriptors) = next else { return Ok(None) };
        match Chain::collect(&self.memory, descriptors) {
            Some(chain) => Ok(Some(chain)),
            None => Err(self.fail()),
        }
    }

    /// Puts a chain back that was popped last: the next pop returns it again.
    pub fn unpop(&mut self) {
        self.ring.go_to_previous_position();
    }

    /// Gives a chain back, with `written` bytes in its buffers to write. The
    /// guest hears of it by [`VirtQueue::signal`].
    pub fn push(&mut self, chain: &Chain, written: u64) {
        let written = u32::try_from(written).unwrap_or(u32::MAX);
        self.pushed = true;
        if !self.broken && self.ring.add_used(self.memory.vm_memory(), chain.head(), written).is_err() {
            self.fail();
        }
    }

    /// Interrupts the guest, if it wants that for what was pushed.
    pub fn signal(&mut self) {
        if std::mem::take(&mut self.pushed) && !self.broken && self.wants_interrupt() {
            self.interrupt.queue(self.index);
        }
    }

    fn wants_interrupt(&mut self) -> bool {
        let ram = self.memory.vm_memory();
        if self.ring.event_idx_enabled() {
            return self.ring.needs_notification(ram).unwrap_or(true);
        }
        // Used entries before the driver's flags (2.7.7.2).
        std::sync::atomic::fence(Ordering::SeqCst);
        let flags = ram.load::<u16>(GuestAddress(self.ring.avail_ring()), Ordering::Relaxed);
        flags.is_ok_and(|flags| u16::from_le(flags) & AVAIL_NO_INTERRUPT == 0)
    }

    /// The device waits for the doorbell from now on; true if the driver has
    /// made buffers available meanwhile.
    pub fn wait_for_doorbell(&mut self) -> bool {
        !self.broken && self.ring.enable_notification(self.memory.vm_memory()).unwrap_or(false)
    }

    /// The device looks by itself: the driver need not ring.
    pub fn no_doorbell(&mut self) {
        if !self.broken {
            let _ = self.ring.disable_notification(self.memory.vm_memory());
        }
    }

    /// Stops the queue and tells the driver: it has broken the rules, in the
    /// ring or in what it put there.
    pub fn fail(&mut self) -> BrokenQueue {
        self.broken = true;
        self.interrupt.needs_reset();
        BrokenQueue
    }

    /// Whether the queue was stopped.
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// Takes all chains that are available, hands each to `each`, which says
    /// how many bytes it has written, and signals; until there are no more.
    /// Then the doorbell will ring for the next.
    ///
    /// `each` answers None for a chain that breaks the rules of the device.
    pub fn drain(&mut self, stop: &Stop, mut each: impl FnMut(&GuestMemory, &Chain) -> Option<u64>) {
        self.doorbell.take();
        loop {
            self.no_doorbell();
            let mut unsignalled = 0;
            while !stop.is_told()
                && let Ok(Some(chain)) = self.pop()
            {
                match each(&self.memory, &chain) {
                    Some(written) => self.push(&chain, written),
                    None => {
                        self.fail();
                        return;
                    }
                }
                unsignalled += 1;
                if unsignalled == BATCH {
                    self.signal();
                    unsignalled = 0;
                }
            }
            self.signal();
            if stop.is_told() || !self.wait_for_doorbell() {
                return;
            }
        }
    }

    /// Serves the queue until the thread is to end.
    pub fn serve(&mut self, stop: &Stop, mut each: impl FnMut(&GuestMemory, &Chain) -> Option<u64>) {
        loop {
            self.drain(stop, &mut each);
            let bell = self.doorbell.clone();
            if stop.wait(&[bell.as_fd()], None).is_none() {
                return;
            }
        }
    }
}

impl std::fmt::Debug for VirtQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VirtQueue")
            .field("index", &self.index)
            .field("size", &self.ring.size())
            .field("broken", &self.broken)
            .finish_non_exhaustive()
    }
}

/// A doorbell for each of `count` queues.
pub(crate) fn doorbells(count: usize) -> io::Result<Vec<Doorbell>> {
    (0..count).map(|_| Doorbell::new()).collect()
}
