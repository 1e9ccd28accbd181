//! The virtio devices of a machine, beside disks and network cards.

use std::sync::Arc;

use machine::{Transport, VirtioSlot};
use virtio::balloon::{Balloon, BalloonHandle};
use virtio::fs::SharedFolder;
use virtio::rng::Rng;
use virtio::vsock::Vsock;

use super::ending::Ending;
use super::ports::{self, PortEnds};
use crate::cli::devices::DeviceArgs;
use crate::exit::Failure;

/// Devices, and what is behind them.
pub(super) struct Others {
    pub(super) slots: Vec<VirtioSlot>,
    /// What is behind the ports; it outlives the devices.
    pub(super) ends: PortEnds,
    pub(super) balloon: Option<BalloonHandle>,
}

/// Makes the devices that are asked for.
pub(super) fn open(
    args: &DeviceArgs,
    memory: u64,
    transport: Transport,
    ending: &Arc<Ending>,
) -> Result<Others, Failure> {
    let mut slots = Vec::new();
    let (ends, console) = ports::open(args, ending)?;
    slots.extend(console.map(|device| VirtioSlot::new(device, transport)));
    if let Some(rate) = args.rng {
        slots.push(VirtioSlot::new(Rng::new(rate.map(|rate| rate.0)), transport));
    }
    let mut handle = None;
    if let Some(size) = args.balloon {
        if size.0 >= memory {
            return Err(Failure::usage("the balloon cannot take all of the guest's memory"));
        }
        let balloon = Balloon::new(size.0);
        handle = Some(balloon.handle());
        slots.push(VirtioSlot::new(balloon, transport));
    }
    if let Some(place) = &args.vsock {
        let device = Vsock::new(place.cid, &place.path).map_err(|error| {
            Failure::internal(format!("cannot listen at {}", place.path.display())).because(error)
        })?;
        slots.push(VirtioSlot::new(device, transport));
    }
    for share in &args.share {
        let device = SharedFolder::new(&share.path, &share.tag, share.read_only).map_err(|error| {
            Failure::internal(format!("cannot share {}", share.path.display())).because(error)
        })?;
        slots.push(VirtioSlot::new(device, transport));
    }
    Ok(Others { slots, ends, balloon: handle })
}
