//! Frames from the guest (5.1.6.2).

use network::{Frame, MAX_FRAME, Offload, Offloads, VNET_HEADER};

use crate::{BrokenQueue, Chain, VirtQueue};

/// The queue for frames from the guest.
pub(super) struct Transmitter {
    pub(super) queue: VirtQueue,
    pub(super) offloads: Offloads,
    /// The backend could not take what is at the front.
    pub(super) is_stuck: bool,
    frame: Frame,
}

/// What is at the front of the queue.
pub(super) enum Next<'a> {
    /// A frame.
    Frame(&'a Frame, Chain),
    /// Something that is no frame; it has been given back.
    Nonsense,
    /// Nothing.
    Nothing,
}

impl Transmitter {
    pub(super) fn new(queue: VirtQueue, offloads: Offloads) -> Self {
        Self { queue, offloads, is_stuck: false, frame: Frame::default() }
    }

    /// Takes what is at the front of the queue.
    pub(super) fn next(&mut self) -> Result<Next<'_>, BrokenQueue> {
        let Some(chain) = self.queue.pop()? else { return Ok(Next::Nothing) };
        if self.read(&chain).is_none() {
            self.queue.push(&chain, 0);
            return Ok(Next::Nonsense);
        }
        Ok(Next::Frame(&self.frame, chain))
    }

    /// Reads a frame; None if it is too short, too long, or leaves undone what
    /// it may not.
    fn read(&mut self, chain: &Chain) -> Option<()> {
        let length = usize::try_from(chain.readable_len()).ok()?.checked_sub(VNET_HEADER)?;
        if length == 0 || length > MAX_FRAME {
            return None;
        }
        let memory = self.queue.memory();
        let mut header = [0; VNET_HEADER];
        if chain.read(memory, 0, &mut header) != VNET_HEADER {
            return None;
        }
        let offload = Offload::parse(&header).filter(|offload| self.permits(offload))?;
        self.frame.offload = offload;
        self.frame.bytes.resize(length, 0);
        (chain.read(memory, VNET_HEADER as u64, &mut self.frame.bytes) == length).then_some(())
    }

    fn permits(&self, offload: &Offload) -> bool {
        let segments = Offloads::HOST_TSO4 | Offloads::HOST_TSO6;
        (offload.checksum.is_none() || self.offloads.contains(Offloads::CSUM))
            && (offload.segmentation.is_none() || self.offloads.intersects(segments))
    }
}
