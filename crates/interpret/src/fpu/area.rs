//! Save areas in guest memory: aligned, larger than any operand, and checked
//! as a whole before anything is touched.

use x86::SegmentName;

use crate::cpu::{Cpu, Exec};
use crate::insn::Insn;

/// The most that is accessed at once: two pages at worst.
const PIECE: usize = 0x1000;

/// A save area that the current instruction may access.
#[derive(Clone, Copy, Debug)]
pub(super) struct Area {
    segment: SegmentName,
    offset: u64,
}

impl Area {
    /// The memory operand of `insn`, which must be a multiple of `align` (a
    /// power of two).
    pub(super) fn of(cpu: &mut Cpu, insn: &Insn, align: u64) -> Exec<Self> {
        let area = Self { segment: insn.address.segment, offset: cpu.effective_address(insn) };
        let lin = cpu.linear(area.segment, area.offset, align, false)?;
        if lin & (align - 1) != 0 { Err(cpu.gp0()) } else { Ok(area) }
    }

    /// Makes sure that the first `size` bytes can be read.
    pub(super) fn probe(self, cpu: &mut Cpu, size: usize) -> Exec {
        let lin = cpu.linear(self.segment, self.offset, size as u64, false)?;
        cpu.probe_linear(cpu.view, lin, size as u64, false)
            .map_err(|cause| cpu.as_stack_fault(cause, self.segment))
    }

    /// The first `size` bytes.
    pub(super) fn read(self, cpu: &mut Cpu, size: usize) -> Exec<Vec<u8>> {
        let lin = cpu.linear(self.segment, self.offset, size.max(1) as u64, false)?;
        let mut bytes = vec![0; size];
        for (index, piece) in bytes.chunks_mut(PIECE).enumerate() {
            let at = lin.wrapping_add((index * PIECE) as u64) & cpu.linear_mask;
            cpu.read_slow(cpu.view, at, piece).map_err(|cause| cpu.as_stack_fault(cause, self.segment))?;
        }
        Ok(bytes)
    }

    /// The first `size` bytes, which [`Area::write`] then writes without a
    /// fault.
    pub(super) fn read_to_write(self, cpu: &mut Cpu, size: usize) -> Exec<Vec<u8>> {
        let lin = cpu.linear(self.segment, self.offset, size.max(1) as u64, true)?;
        for start in (0..size).step_by(PIECE) {
            let at = lin.wrapping_add(start as u64) & cpu.linear_mask;
            let piece = PIECE.min(size - start) as u64;
            cpu.probe_linear(cpu.view, at, piece, true)
                .map_err(|cause| cpu.as_stack_fault(cause, self.segment))?;
        }
        self.read(cpu, size)
    }

    /// Writes the start of the area.
    pub(super) fn write(self, cpu: &mut Cpu, bytes: &[u8]) -> Exec {
        let lin = cpu.linear(self.segment, self.offset, bytes.len().max(1) as u64, true)?;
        for (index, piece) in bytes.chunks(PIECE).enumerate() {
            let at = lin.wrapping_add((index * PIECE) as u64) & cpu.linear_mask;
            cpu.write_slow(cpu.view, at, piece).map_err(|cause| cpu.as_stack_fault(cause, self.segment))?;
        }
        Ok(())
    }
}
