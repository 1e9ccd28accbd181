//! Requests to a block device (5.2.6).

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use memory::GuestMemory;
use storage::{Disk, SECTOR};

use super::{MAX_RANGE_SECTORS, MAX_RANGES};
use crate::{Chain, Stop};

const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;

const OK: u8 = 0;
const IOERR: u8 = 1;
const UNSUPP: u8 = 2;

/// Type, a reserved field, sector.
const HEADER: usize = 16;
/// Sector, number of sectors, flags.
const RANGE: usize = 16;
const UNMAP: u32 = 1;
const SERIAL: usize = 20;

/// Why a request is refused.
enum Refusal {
    Unsupported,
    Failed,
}

impl From<io::Error> for Refusal {
    fn from(_: io::Error) -> Self {
        Self::Failed
    }
}

/// One range to discard or to zero.
#[derive(Clone, Copy)]
struct Range {
    offset: u64,
    len: u64,
    flags: u32,
}

/// Serves requests.
pub(super) struct Requests {
    disk: Arc<Disk>,
    serial: [u8; SERIAL],
    writeback: Arc<AtomicBool>,
}

impl Requests {
    pub(super) fn new(disk: Arc<Disk>, serial: &str, writeback: Arc<AtomicBool>) -> Self {
        let mut bytes = [0; SERIAL];
        bytes.iter_mut().zip(serial.bytes()).for_each(|(byte, from)| *byte = from);
        Self { disk, serial: bytes, writeback }
    }

    pub(super) fn disk(&self) -> &Disk {
        &self.disk
    }

    /// Serves one request; how much was written to its buffers, or None if it
    /// has not even room for header and status.
    pub(super) fn serve(&self, memory: &GuestMemory, chain: &Chain, stop: &Stop) -> Option<u64> {
        let mut header = [0; HEADER];
        if chain.read(memory, 0, &mut header) < HEADER {
            return None;
        }
        let status_at = chain.writable_len().checked_sub(1)?;
        self.wait_for_turn(chain, stop);
        let [kind, _, low, high] = dwords(header);
        let sector = u64::from(high) << 32 | u64::from(low);
        let (status, written) = match self.perform(memory, chain, kind, sector, status_at) {
            Ok(written) => (OK, written),
            Err(Refusal::Failed) => (IOERR, 0),
            Err(Refusal::Unsupported) => (UNSUPP, 0),
        };
        chain.write(memory, status_at, &[status]);
        Some(written + 1)
    }

    /// Waits as long as the rate limits say, unless the device is stopped.
    fn wait_for_turn(&self, chain: &Chain, stop: &Stop) {
        let bytes = chain.readable_len().max(chain.writable_len());
        let delay = self.disk.delay(bytes);
        if !delay.is_zero() {
            stop.sleep(delay);
        }
    }

    /// `room` is what can be written before the status. How much was written.
    fn perform(
        &self,
        memory: &GuestMemory,
        chain: &Chain,
        kind: u32,
        sector: u64,
        room: u64,
    ) -> Result<u64, Refusal> {
        let payload = chain.readable_len().saturating_sub(HEADER as u64);
        match kind {
            IN => {
                let offset = place(sector, room)?;
                self.disk.read(&chain.writable_slices(memory, 0, room), offset)?;
                Ok(room)
            }
            OUT => {
                let offset = place(sector, payload)?;
                self.disk.write(&chain.readable_slices(memory, HEADER as u64, payload), offset)?;
                self.settle()
            }
            FLUSH => {
                self.disk.flush()?;
                Ok(0)
            }
            GET_ID => {
                let len = room.min(SERIAL as u64) as usize;
                Ok(chain.write(memory, 0, self.serial.get(..len).unwrap_or_default()) as u64)
            }
            DISCARD => {
                for range in ranges(memory, chain, payload, 0)? {
                    self.disk.discard(range.offset, range.len)?;
                }
                self.settle()
            }
            WRITE_ZEROES => {
                for range in ranges(memory, chain, payload, UNMAP)? {
                    self.disk.write_zeroes(range.offset, range.len, range.flags & UNMAP != 0)?;
                }
                self.settle()
            }
            _ => Err(Refusal::Unsupported),
        }
    }

    /// Without a write-back cache what was written is durable at once.
    fn settle(&self) -> Result<u64, Refusal> {
        if !self.writeback.load(Ordering::Acquire) {
            self.disk.flush()?;
        }
        Ok(0)
    }
}

fn dwords(header: [u8; 16]) -> [u32; 4] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = header;
    [[a, b, c, d], [e, f, g, h], [i, j, k, l], [m, n, o, p]].map(u32::from_le_bytes)
}

/// Where `len` bytes at `sector` start. Requests are made of whole sectors.
fn place(sector: u64, len: u64) -> Result<u64, Refusal> {
    let offset = sector.checked_mul(SECTOR).ok_or(Refusal::Failed)?;
    if len == 0 || !len.is_multiple_of(SECTOR) { Err(Refusal::Failed) } else { Ok(offset) }
}

/// The ranges that a request names, all checked before any is touched.
fn ranges(memory: &GuestMemory, chain: &Chain, payload: u64, flags: u32) -> Result<Vec<Range>, Refusal> {
    let count = payload / RANGE as u64;
    if count == 0 || count > u64::from(MAX_RANGES) || !payload.is_multiple_of(RANGE as u64) {
        return Err(Refusal::Failed);
    }
    (0..count).map(|index| range(memory, chain, HEADER as u64 + index * RANGE as u64, flags)).collect()
}

fn range(memory: &GuestMemory, chain: &Chain, at: u64, allowed: u32) -> Result<Range, Refusal> {
    let mut bytes = [0; RANGE];
    chain.read(memory, at, &mut bytes);
    let [low, high, sectors, flags] = dwords(bytes);
    if flags & !allowed != 0 {
        return Err(Refusal::Unsupported);
    }
    if sectors > MAX_RANGE_SECTORS {
        return Err(Refusal::Failed);
    }
    let sector = u64::from(high) << 32 | u64::from(low);
    let offset = sector.checked_mul(SECTOR).ok_or(Refusal::Failed)?;
    Ok(Range { offset, len: u64::from(sectors) * SECTOR, flags })
}
