//! The contract between a network card and what it is connected to.

use std::os::fd::BorrowedFd;
use std::time::Instant;

use crate::Offload;

/// An Ethernet address.
pub type Mac = [u8; 6];

/// The longest frame that passes: an Ethernet header and the longest IP packet.
pub const MAX_FRAME: usize = 14 + 65535;

bitflags::bitflags! {
    /// What one side leaves for the other to do. The names are those of the
    /// virtio specification (5.1.3), where the *host* takes frames from the
    /// guest.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct Offloads: u32 {
        /// Frames from the guest may lack checksums.
        const CSUM = 1 << 0;
        /// Frames to the guest may lack checksums.
        const GUEST_CSUM = 1 << 1;
        /// Frames to the guest may be unsegmented TCP over IPv4.
        const GUEST_TSO4 = 1 << 2;
        /// Frames to the guest may be unsegmented TCP over IPv6.
        const GUEST_TSO6 = 1 << 3;
        /// Frames from the guest may be unsegmented TCP over IPv4.
        const HOST_TSO4 = 1 << 4;
        /// Frames from the guest may be unsegmented TCP over IPv6.
        const HOST_TSO6 = 1 << 5;
    }
}

/// A frame, and what has been left undone in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frame {
    /// From the destination's address to the end of the payload.
    pub bytes: Vec<u8>,
    /// What has been left undone.
    pub offload: Offload,
}

impl Frame {
    /// A frame in which nothing is left undone.
    pub fn whole(bytes: Vec<u8>) -> Self {
        Self { bytes, offload: Offload::default() }
    }

    /// Makes room for another frame in the same memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.offload = Offload::default();
    }
}

/// What became of a frame from the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// It was taken, or dropped as a network may.
    Taken,
    /// Nothing can be taken now: offer it again after the descriptor has become
    /// readable.
    Later,
}

/// What a network card is connected to.
pub trait NetBackend: Send {
    /// What it is able to do for a card, and lets a card do for it.
    fn offloads(&self) -> Offloads;

    /// The guest's driver has chosen `offloads` among them. Nothing else is
    /// used from now on, in either direction.
    fn choose(&mut self, offloads: Offloads);

    /// Takes a frame from the guest.
    fn send(&mut self, frame: &Frame) -> Sent;

    /// Puts the next frame for the guest into `frame`; false if there is none
    /// now. Called only when the guest has room, and after the descriptor has
    /// become readable or the deadline has passed also when it has none, by
    /// [`service`](Self::service) instead.
    fn receive(&mut self, frame: &mut Frame) -> bool;

    /// Takes note of what has become ready and of the time. To be called when
    /// the descriptor is readable or the deadline has passed.
    fn service(&mut self);

    /// Readable when there is something to do.
    fn descriptor(&self) -> BorrowedFd<'_>;

    /// When there is something to do although the descriptor is not readable.
    fn deadline(&self) -> Option<Instant>;

    /// Whether the other end is there.
    fn is_up(&self) -> bool {
        true
    }

    /// The guest's driver has let go of the card: what it had open is over.
    fn reset(&mut self) {}
}

impl<B: NetBackend + ?Sized> NetBackend for Box<B> {
    fn offloads(&self) -> Offloads {
        (**self).offloads()
    }

    fn choose(&mut self, offloads: Offloads) {
        (**self).choose(offloads);
    }

    fn send(&mut self, frame: &Frame) -> Sent {
        (**self).send(frame)
    }

    fn receive(&mut self, frame: &mut Frame) -> bool {
        (**self).receive(frame)
    }

    fn service(&mut self) {
        (**self).service();
    }

    fn descriptor(&self) -> BorrowedFd<'_> {
        (**self).descriptor()
    }

    fn deadline(&self) -> Option<Instant> {
        (**self).deadline()
    }

    fn is_up(&self) -> bool {
        (**self).is_up()
    }

    fn reset(&mut self) {
        (**self).reset();
    }
}
