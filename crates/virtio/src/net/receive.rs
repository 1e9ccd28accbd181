//! Frames for the guest (5.1.6.3, 5.1.6.4).

use std::collections::VecDeque;

use network::{Frame, VNET_HEADER};

use crate::{BrokenQueue, Chain, VirtQueue};

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Delivery {
    /// The guest has it, or can never have it.
    Done,
    /// The guest has no room now.
    NoRoom,
}

/// The queue for frames to the guest.
pub(super) struct Receiver {
    pub(super) queue: VirtQueue,
    /// The most chains that a frame may lie in.
    most: usize,
    /// Chains that were taken and not yet used. They stay here while a frame
    /// waits for more, so that the driver is asked for those that follow.
    chains: VecDeque<Chain>,
    /// Bytes in them.
    room: u64,
}

impl Receiver {
    pub(super) fn new(queue: VirtQueue, mergeable: bool) -> Self {
        let most = if mergeable { queue.size().into() } else { 1 };
        Self { queue, most, chains: VecDeque::new(), room: 0 }
    }

    /// Puts `frame` into the guest's buffers.
    pub(super) fn deliver(&mut self, frame: &Frame) -> Result<Delivery, BrokenQueue> {
        let needed = (VNET_HEADER + frame.bytes.len()) as u64;
        while self.room < needed {
            if self.chains.len() >= self.most {
                // It would not fit into the emptiest queue either.
                return Ok(Delivery::Done);
            }
            let Some(chain) = self.queue.pop()? else { return Ok(Delivery::NoRoom) };
            if chain.writable_len() < VNET_HEADER as u64 {
                return Err(self.queue.fail());
            }
            self.room += chain.writable_len();
            self.chains.push_back(chain);
        }
        self.write(frame, needed);
        Ok(Delivery::Done)
    }

    /// How many chains `needed` bytes take.
    fn count(&self, needed: u64) -> u16 {
        let mut room = 0;
        let enough = |chain: &Chain| {
            room += chain.writable_len();
            room >= needed
        };
        let last = self.chains.iter().position(enough).unwrap_or(0);
        u16::try_from(last + 1).unwrap_or(u16::MAX)
    }

    fn write(&mut self, frame: &Frame, needed: u64) {
        let mut header = frame.offload.header();
        let count = self.count(needed);
        header[VNET_HEADER - 2..].copy_from_slice(&count.to_le_bytes());
        let (mut rest, mut offset) = (frame.bytes.as_slice(), VNET_HEADER as u64);
        for chain in self.chains.drain(..usize::from(count).min(self.chains.len())) {
            let (memory, length) = (self.queue.memory(), chain.writable_len());
            if offset != 0 {
                chain.write(memory, 0, &header);
            }
            let room = usize::try_from(length.saturating_sub(offset)).unwrap_or(usize::MAX);
            let (part, after) = rest.split_at(room.min(rest.len()));
            chain.write(memory, offset, part);
            self.queue.push(&chain, offset + part.len() as u64);
            self.room -= length;
            (rest, offset) = (after, 0);
        }
    }
}
