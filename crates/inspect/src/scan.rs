//! The sweep through the code.

use iced_x86::{Code, Decoder, DecoderOptions, FlowControl, Instruction};
use x86::sensitive::{Entry, classify};

use crate::image::{Image, Region};

/// A privileged or sensitive instruction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found {
    /// Index of the region.
    pub(crate) region: usize,
    pub(crate) instruction: Instruction,
    pub(crate) entry: &'static Entry,
}

/// What a sweep has seen.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    pub(crate) bytes: u64,
    pub(crate) instructions: u64,
    /// Bytes of INT3 that are never executed.
    pub(crate) padding: u64,
    /// Places where no instruction decodes.
    pub(crate) undecodable: u64,
    pub(crate) found: Vec<Found>,
}

/// Sweeps all regions of an image.
pub(crate) fn scan(image: &Image<'_>) -> Scan {
    let mut scan = Scan::default();
    for (index, region) in image.regions.iter().enumerate() {
        scan.bytes += region.bytes.len() as u64;
        let mut start = 0;
        for end in boundaries(region) {
            let bytes = region.bytes.get(start..end).unwrap_or_default();
            scan.sweep(index, bytes, region.address.wrapping_add(start as u64), image.bitness.bits());
            start = end;
        }
    }
    scan
}

/// Offsets where the sweep starts afresh, and the end: functions start with an
/// instruction, whatever precedes them.
fn boundaries(region: &Region<'_>) -> Vec<usize> {
    let functions = region.symbols.iter().filter(|symbol| symbol.function);
    let mut offsets: Vec<usize> =
        functions.filter_map(|symbol| usize::try_from(symbol.address - region.address).ok()).collect();
    offsets.push(region.bytes.len());
    offsets
}

impl Scan {
    fn sweep(&mut self, region: usize, bytes: &[u8], address: u64, bitness: u32) {
        let mut decoder = Decoder::with_ip(bitness, bytes, address, DecoderOptions::NONE);
        let mut instruction = Instruction::default();
        let mut unreachable = false;
        while decoder.can_decode() {
            decoder.decode_out(&mut instruction);
            if instruction.is_invalid() {
                self.undecodable += 1;
                unreachable = false;
                continue;
            }
            if instruction.code() == Code::Int3 {
                let at = instruction.ip().wrapping_sub(address) as usize;
                unreachable =
                    unreachable || is_padding(bytes.get(at..).unwrap_or_default(), instruction.ip());
                if unreachable {
                    self.padding += 1;
                    continue;
                }
            }
            self.instructions += 1;
            unreachable = ends_flow(&instruction);
            if let Some(entry) = classify(&instruction) {
                self.found.push(Found { region, instruction, entry });
            }
        }
    }
}

/// Whether INT3 at `address` only fills the space up to the next function: all
/// bytes up to the end, or several up to an aligned address, are INT3. Another
/// kind of padding, also meant to stop speculation, follows jumps and returns.
fn is_padding(bytes: &[u8], address: u64) -> bool {
    const INT3: u8 = 0xcc;
    let gap = 16 - (address % 16) as usize;
    let filled = |bytes: &[u8]| bytes.iter().all(|&byte| byte == INT3);
    match bytes.get(..gap) {
        Some(bytes) => gap > 1 && filled(bytes),
        None => filled(bytes),
    }
}

fn ends_flow(instruction: &Instruction) -> bool {
    matches!(
        instruction.flow_control(),
        FlowControl::Return
            | FlowControl::UnconditionalBranch
            | FlowControl::IndirectBranch
            | FlowControl::Exception
    )
}
