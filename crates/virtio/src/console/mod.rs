//! The console device (5.3): terminals (`/dev/hvc0` and so on) and named
//! channels (`/dev/virtio-ports/NAME`).
//!
//! Port *n* has two queues and a thread; two more queues and a thread carry
//! the messages by which device and driver agree on the ports.

mod control;
mod port;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use crate::{ActivateError, Activation, DeviceKind, VirtioDevice, Worker, read_space};
pub use port::{Port, PortInput};

const KIND: DeviceKind = DeviceKind { id: 3, pci_class: 0x07_8000, name: "virtio-console" };
const F_MULTIPORT: u64 = 1 << 1;
const F_EMERG_WRITE: u64 = 1 << 2;
const QUEUE_SIZE: u16 = 128;
/// The most ports.
pub const MAX_PORTS: usize = 31;
const EMERGENCY: u64 = 8;

/// A console device.
pub struct Console {
    ports: Vec<Arc<Port>>,
    workers: Vec<Worker<()>>,
}

impl Console {
    /// A device with these ports, of which the first should be a console.
    pub fn new(ports: Vec<Port>) -> Self {
        let ports = ports.into_iter().take(MAX_PORTS).map(Arc::new).collect();
        Self { ports, workers: Vec::new() }
    }

    fn add(&mut self, worker: std::io::Result<Worker<()>>) -> Result<(), ActivateError> {
        self.workers.push(worker.map_err(|error| ActivateError(error.to_string()))?);
        Ok(())
    }
}

/// The receiving queue of a port; the transmitting one follows (5.3.2).
fn receive_queue(port: usize) -> usize {
    if port == 0 { 0 } else { 2 + 2 * port }
}

const CONTROL_RECEIVE: usize = 2;
const CONTROL_TRANSMIT: usize = 3;

impl VirtioDevice for Console {
    fn kind(&self) -> DeviceKind {
        KIND
    }

    fn features(&self) -> u64 {
        F_MULTIPORT | F_EMERG_WRITE
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; 2 + 2 * self.ports.len().max(1)]
    }

    fn config_read(&self, offset: u64, data: &mut [u8]) {
        let mut space = [0; 12];
        let count = u32::try_from(self.ports.len()).unwrap_or(0);
        space[4..8].copy_from_slice(&count.to_le_bytes());
        read_space(&space, offset, data);
    }

    /// A driver that cannot use queues yet prints one character at a time.
    fn config_write(&mut self, offset: u64, data: &[u8]) {
        if let (EMERGENCY, Some(letter), Some(port)) = (offset, data.first(), self.ports.first()) {
            port.print(&[*letter]);
        }
    }

    fn activate(&mut self, mut activation: Activation) -> Result<(), ActivateError> {
        let several = activation.features & F_MULTIPORT != 0;
        let ports = if several { self.ports.len() } else { 1 };
        for (number, port) in self.ports.clone().into_iter().enumerate().take(ports) {
            let receive = receive_queue(number);
            let queues = (activation.take(receive), activation.take(receive + 1));
            if let (Some(receive), Some(transmit)) = queues {
                if !several {
                    port.set_open(true);
                }
                self.add(Worker::spawn(&format!("console-port-{number}"), move |stop| {
                    port::serve(&port, receive, transmit, &stop);
                }))?;
            }
        }
        if let (true, Some(receive), Some(transmit)) =
            (several, activation.take(CONTROL_RECEIVE), activation.take(CONTROL_TRANSMIT))
        {
            let ports = self.ports.clone();
            self.add(Worker::spawn("console-control", move |stop| {
                control::serve(&ports, receive, transmit, &stop);
            }))?;
        }
        Ok(())
    }

    fn reset(&mut self) {
        self.workers.clear();
        self.ports.iter().for_each(|port| port.set_open(false));
    }
}
