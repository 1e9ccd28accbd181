//! Frames for the guest (5.1.6.3, 5.1.6.4).

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
    /// A frame may lie in several chains.
    mergeable: bool,
    chains: Vec<Chain>,
}

impl Receiver {
    pub(super) fn new(queue: VirtQueue, mergeable: bool) -> Self {
        Self { queue, mergeable, chains: Vec::new() }
    }

    /// Puts `frame` into the guest's buffers.
    pub(super) fn deliver(&mut self, frame: &Frame) -> Result<Delivery, BrokenQueue> {
        let needed = (VNET_HEADER + frame.bytes.len()) as u64;
        let most = if self.mergeable { self.queue.size() } else { 1 };
        self.chains.clear();
        let mut room = 0;
        while room < needed {
            if self.chains.len() >= usize::from(most) {
                // It would not fit into the emptiest queue either.
                return Ok(self.give_up());
            }
            let Some(chain) = self.queue.pop()? else { return Ok(self.wait()) };
            if chain.writable_len() < VNET_HEADER as u64 {
                return Err(self.queue.fail());
            }
            room += chain.writable_len();
            self.chains.push(chain);
        }
        self.write(frame);
        Ok(Delivery::Done)
    }

    /// Leaves the chains for later.
    fn wait(&mut self) -> Delivery {
        self.chains.drain(..).for_each(|_| self.queue.unpop());
        Delivery::NoRoom
    }

    fn give_up(&mut self) -> Delivery {
        self.wait();
        Delivery::Done
    }

    fn write(&mut self, frame: &Frame) {
        let mut header = frame.offload.header();
        let buffers = u16::try_from(self.chains.len()).unwrap_or(u16::MAX);
        header[VNET_HEADER - 2..].copy_from_slice(&buffers.to_le_bytes());
        let (mut rest, mut offset) = (frame.bytes.as_slice(), VNET_HEADER as u64);
        for (nth, chain) in self.chains.iter().enumerate() {
            let memory = self.queue.memory();
            if nth == 0 {
                chain.write(memory, 0, &header);
            }
            let room = usize::try_from(chain.writable_len().saturating_sub(offset)).unwrap_or(usize::MAX);
            let (part, after) = rest.split_at(room.min(rest.len()));
            chain.write(memory, offset, part);
            let written = offset + part.len() as u64;
            self.queue.push(chain, written);
            (rest, offset) = (after, 0);
        }
        self.chains.clear();
    }
}
