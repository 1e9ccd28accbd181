//! One port: what the guest writes goes to its output, what comes from outside
//! waits in its input.

use std::collections::VecDeque;
use std::io::Write;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use crate::{Doorbell, Stop, VirtQueue, lock};

/// How much input waits for the guest; whoever brings more waits himself.
const CAPACITY: usize = 4096;
/// What is copied at once.
const PIECE: usize = 4096;

#[derive(Debug, Default)]
struct Waiting {
    bytes: VecDeque<u8>,
    closed: bool,
}

/// Input on its way to a port.
#[derive(Debug)]
pub struct PortInput {
    waiting: Mutex<Waiting>,
    room: Condvar,
    bell: Doorbell,
    /// The terminal's size, if it is known: columns and rows.
    size: Mutex<Option<(u16, u16)>>,
}

impl PortInput {
    /// Nothing yet.
    ///
    /// # Errors
    /// If the host has no more file descriptors.
    pub fn new() -> std::io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            waiting: Mutex::default(),
            room: Condvar::new(),
            bell: Doorbell::new()?,
            size: Mutex::new(None),
        }))
    }

    /// Adds `bytes`, waiting for room; false when nobody will read them.
    pub fn push(&self, bytes: &[u8]) -> bool {
        let mut rest = bytes;
        while !rest.is_empty() {
            let full = |waiting: &mut Waiting| waiting.bytes.len() >= CAPACITY && !waiting.closed;
            let waiting = lock(&self.waiting);
            let mut waiting = self.room.wait_while(waiting, full).unwrap_or_else(PoisonError::into_inner);
            if waiting.closed {
                return false;
            }
            let taken = rest.len().min(CAPACITY - waiting.bytes.len().min(CAPACITY));
            let (now, later) = rest.split_at(taken);
            waiting.bytes.extend(now);
            rest = later;
            self.bell.ring();
        }
        true
    }

    /// Nobody reads any more: whoever waits for room goes on.
    pub fn close(&self) {
        lock(&self.waiting).closed = true;
        self.room.notify_all();
    }

    /// Notes the size of the terminal, before the guest starts.
    pub fn set_size(&self, columns: u16, rows: u16) {
        *lock(&self.size) = Some((columns, rows));
    }

    pub(super) fn size(&self) -> Option<(u16, u16)> {
        *lock(&self.size)
    }

    fn is_empty(&self) -> bool {
        lock(&self.waiting).bytes.is_empty()
    }

    fn take(&self, most: usize) -> Vec<u8> {
        let mut waiting = lock(&self.waiting);
        let count = waiting.bytes.len().min(most);
        let taken = waiting.bytes.drain(..count).collect();
        self.room.notify_all();
        taken
    }
}

/// A port of a console device.
pub struct Port {
    name: String,
    is_console: bool,
    output: Mutex<Box<dyn Write + Send>>,
    input: Arc<PortInput>,
    open: AtomicBool,
}

impl Port {
    /// A terminal.
    pub fn console(output: Box<dyn Write + Send>, input: Arc<PortInput>) -> Self {
        Self::new(String::new(), true, output, input)
    }

    /// A channel that the guest finds by its name.
    pub fn channel(name: &str, output: Box<dyn Write + Send>, input: Arc<PortInput>) -> Self {
        Self::new(name.to_owned(), false, output, input)
    }

    fn new(name: String, is_console: bool, output: Box<dyn Write + Send>, input: Arc<PortInput>) -> Self {
        Self { name, is_console, output: Mutex::new(output), input, open: AtomicBool::new(false) }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn is_console(&self) -> bool {
        self.is_console
    }

    pub(super) fn input(&self) -> &PortInput {
        &self.input
    }

    /// The guest has opened or closed it; its thread looks again.
    pub(super) fn set_open(&self, open: bool) {
        self.open.store(open, Ordering::Release);
        self.input.bell.ring();
    }

    /// Whether the guest reads.
    fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }

    /// Hands bytes to the output. Whoever is at its other end may have gone:
    /// then they are lost, as on a line that was pulled out.
    pub(super) fn print(&self, bytes: &[u8]) {
        let mut output = lock(&self.output);
        let _ = output.write_all(bytes).and_then(|()| output.flush());
    }
}

/// A port's thread.
pub(super) fn serve(port: &Port, mut receive: VirtQueue, mut transmit: VirtQueue, stop: &Stop) {
    loop {
        transmit.drain(stop, |memory, chain| {
            let mut piece = [0; PIECE];
            let mut offset = 0;
            while !stop.is_told() {
                let read = chain.read(memory, offset, &mut piece);
                if read == 0 {
                    break;
                }
                port.print(piece.get(..read).unwrap_or_default());
                offset += read as u64;
            }
            Some(0)
        });
        port.input.bell.take();
        feed(port, &mut receive);
        let bells = [receive.doorbell().clone(), transmit.doorbell().clone(), port.input.bell.clone()];
        if stop.wait(&bells.each_ref().map(AsFd::as_fd), None).is_none() {
            return;
        }
    }
}

/// Moves input to the guest, as far as it has given buffers.
fn feed(port: &Port, receive: &mut VirtQueue) {
    receive.doorbell().take();
    loop {
        while port.is_open() && !port.input.is_empty() {
            let Ok(Some(chain)) = receive.pop() else { break };
            let bytes = port.input.take(chain.writable_len().min(PIECE as u64) as usize);
            let written = chain.write(receive.memory(), 0, &bytes);
            receive.push(&chain, written as u64);
        }
        receive.signal();
        // Buffers that come later matter only if there is something for them.
        if !receive.wait_for_doorbell() || !port.is_open() || port.input.is_empty() {
            return;
        }
    }
}
