//! The wire between the network and the guest's card.

use std::collections::VecDeque;

use super::emit::{Route, packets};
use crate::{Frame, Mac, Offloads};

/// Frames that wait for the guest. More are dropped, as a switch does.
const MOST_FRAMES: usize = 512;
/// Bytes in them.
const MOST_BYTES: usize = 1 << 20;

/// The wire, and what waits on it.
pub(super) struct Link {
    /// The guest's card.
    pub(super) guest: Mac,
    /// What the guest's driver has chosen.
    pub(super) chosen: Offloads,
    waiting: VecDeque<Frame>,
    bytes: usize,
    ident: u16,
}

impl Link {
    pub(super) fn new(guest: Mac) -> Self {
        Self { guest, chosen: Offloads::empty(), waiting: VecDeque::new(), bytes: 0, ident: 0 }
    }

    /// Whether TCP segments may be as large as a packet.
    pub(super) fn unsegmented(&self) -> bool {
        self.chosen.contains(Offloads::GUEST_TSO4 | Offloads::GUEST_CSUM)
    }

    /// Queues a frame for the guest.
    pub(super) fn push(&mut self, frame: Frame) {
        let bytes = self.bytes + frame.bytes.len();
        if self.waiting.len() < MOST_FRAMES && bytes <= MOST_BYTES {
            self.bytes = bytes;
            self.waiting.push_back(frame);
        }
    }

    /// Queues an IPv4 packet, in fragments if need be.
    pub(super) fn push_packet(&mut self, route: Route, payload: &[u8]) {
        self.ident = self.ident.wrapping_add(1);
        packets(route, payload, self.ident).into_iter().for_each(|frame| self.push(frame));
    }

    /// The next frame that waits.
    pub(super) fn pop(&mut self) -> Option<Frame> {
        let frame = self.waiting.pop_front()?;
        self.bytes -= frame.bytes.len();
        Some(frame)
    }

    /// Forgets what waits.
    pub(super) fn clear(&mut self) {
        self.waiting.clear();
        self.bytes = 0;
    }
}
