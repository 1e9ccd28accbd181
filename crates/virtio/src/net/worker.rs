//! The card's thread.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use network::{Frame, NetBackend, Offloads, Sent};

use super::Shared;
use super::control::{Command, answer};
use super::features::{self, MRG_RXBUF};
use super::filter::Filter;
use super::receive::{Delivery, Receiver};
use super::transmit::{Next, Transmitter};
use crate::{BrokenQueue, Interrupt, Stop, VirtQueue, lock};

/// Frames of one direction before the other has its turn.
const BATCH: usize = 64;
/// Turns before the thread looks whether it is to end.
const TURNS: usize = 16;

/// A card at work.
pub(super) struct Card {
    backend: Box<dyn NetBackend>,
    shared: Arc<Shared>,
    features: u64,
    offloads: Offloads,
    interrupt: Interrupt,
    filter: Filter,
    /// A frame for the guest that waits for room.
    waiting: Option<Frame>,
    spare: Frame,
}

/// The queues of frames.
struct Queues {
    receiver: Receiver,
    transmitter: Transmitter,
    control: Option<VirtQueue>,
}

impl Card {
    pub(super) fn new(
        backend: Box<dyn NetBackend>,
        shared: Arc<Shared>,
        features: u64,
        offloads: Offloads,
        interrupt: Interrupt,
    ) -> Self {
        let filter = Filter::new(*lock(&shared.mac));
        Self {
            backend,
            shared,
            features,
            offloads,
            interrupt,
            filter,
            waiting: None,
            spare: Frame::default(),
        }
    }

    /// Serves the queues until the thread is to end, or the driver has broken
    /// the rules; the backend is for whoever comes next.
    pub(super) fn run(
        mut self,
        stop: &Stop,
        receive: VirtQueue,
        transmit: VirtQueue,
        control: Option<VirtQueue>,
    ) -> Box<dyn NetBackend> {
        let receiver = Receiver::new(receive, self.features & MRG_RXBUF != 0);
        let transmitter = Transmitter::new(transmit, self.offloads);
        let mut queues = Queues { receiver, transmitter, control };
        let mut more = true;
        while self.wait(stop, &queues, more) {
            self.command(&mut queues, stop);
            // A driver that breaks the rules has been told; only a reset helps.
            more = self.pass(&mut queues).unwrap_or(false);
            self.look_after_link();
        }
        self.backend
    }

    /// Waits for something to do, not at all if there is `more`; false if the
    /// thread is to end.
    fn wait(&mut self, stop: &Stop, queues: &Queues, more: bool) -> bool {
        let bells = [queues.receiver.queue.doorbell(), queues.transmitter.queue.doorbell()];
        let control = queues.control.as_ref().map_or(bells[0], VirtQueue::doorbell);
        let descriptors = [bells[0].as_fd(), bells[1].as_fd(), control.as_fd(), self.backend.descriptor()];
        let now = Instant::now();
        let until = self.backend.deadline().map(|deadline| deadline.saturating_duration_since(now));
        let timeout = if more { Some(Duration::ZERO) } else { until };
        let Some(ready) = stop.wait(&descriptors, timeout) else { return false };
        bells.into_iter().chain([control]).zip(&ready).filter(|(_, rung)| **rung).for_each(|(bell, _)| {
            bell.take();
        });
        let due = self.backend.deadline().is_some_and(|deadline| deadline <= Instant::now());
        if due || ready.last() == Some(&true) {
            self.backend.service();
        }
        true
    }

    /// Passes frames in both directions; whether there may be more.
    fn pass(&mut self, queues: &mut Queues) -> Result<bool, BrokenQueue> {
        let Queues { receiver, transmitter, .. } = queues;
        let mut more = true;
        let mut turns = 0;
        while more && turns < TURNS {
            transmitter.queue.no_doorbell();
            let sent = self.transmit(transmitter);
            let received = self.receive(receiver);
            transmitter.queue.signal();
            receiver.queue.signal();
            more = sent? | received?;
            turns += 1;
        }
        if !more {
            // The driver rings for its next frame, and for room if that lacks.
            let sent = transmitter.queue.wait_for_doorbell() && !transmitter.is_stuck;
            let room = self.waiting.is_some() && receiver.queue.wait_for_doorbell();
            more = sent || room;
        }
        Ok(more)
    }

    /// Passes frames from the guest; whether there may be more.
    fn transmit(&mut self, transmitter: &mut Transmitter) -> Result<bool, BrokenQueue> {
        for _ in 0..BATCH {
            let chain = match transmitter.next()? {
                Next::Nothing => return Ok(false),
                Next::Nonsense => continue,
                Next::Frame(frame, chain) => {
                    let sent = self.backend.send(frame);
                    transmitter.is_stuck = sent == Sent::Later;
                    chain
                }
            };
            if transmitter.is_stuck {
                // The backend's descriptor tells when to try again.
                transmitter.queue.unpop();
                return Ok(false);
            }
            transmitter.queue.push(&chain, 0);
        }
        Ok(true)
    }

    /// Passes frames to the guest; whether there may be more.
    fn receive(&mut self, receiver: &mut Receiver) -> Result<bool, BrokenQueue> {
        receiver.queue.no_doorbell();
        for _ in 0..BATCH {
            let mut frame = match self.waiting.take() {
                Some(frame) => frame,
                None => {
                    let mut frame = std::mem::take(&mut self.spare);
                    if !self.backend.receive(&mut frame) {
                        self.spare = frame;
                        return Ok(false);
                    }
                    frame
                }
            };
            if self.filter.admits(&frame.bytes) && receiver.deliver(&frame)? == Delivery::NoRoom {
                self.waiting = Some(frame);
                return Ok(false);
            }
            frame.clear();
            self.spare = frame;
        }
        Ok(true)
    }

    fn look_after_link(&mut self) {
        let up = self.backend.is_up();
        if self.shared.up.swap(up, Ordering::AcqRel) != up {
            self.interrupt.config_changed();
        }
    }

    fn command(&mut self, queues: &mut Queues, stop: &Stop) {
        let Queues { control, transmitter, .. } = queues;
        if let Some(queue) = control {
            queue.drain(stop, |memory, chain| {
                Some(answer(memory, chain, |command| self.perform(command, transmitter)))
            });
        }
    }

    fn perform(&mut self, command: Command, transmitter: &mut Transmitter) -> bool {
        match command {
            Command::Everything(on) => self.filter.set_everything(on),
            Command::EveryGroup(on) => self.filter.set_every_group(on),
            Command::Table(single, groups) => self.filter.set_table(&single, &groups),
            Command::Address(mac) => {
                self.filter.set_own(mac);
                *lock(&self.shared.mac) = mac;
            }
            Command::Offloads(bits) => {
                if !features::may_choose(bits, self.features) {
                    return false;
                }
                let bits = bits | features::towards_host(self.features);
                self.offloads = features::chosen(bits, self.backend.offloads());
                transmitter.offloads = self.offloads;
                self.backend.choose(self.offloads);
            }
        }
        true
    }
}
