//! Gathers and scatters (SDM 2C "VPGATHERDD", "VPSCATTERDD").
//!
//! Elements are accessed from the lowest up. Each finished element clears its
//! mask, so that after a fault the instruction goes on where it stopped.

use iced_x86::{EncodingKind, Instruction, Mnemonic, OpKind, Register};
use x86::SegmentName;

use crate::cpu::{Cpu, Exec};
use crate::decode::{Choice, Flow};
use crate::insn::{Handler, Insn};
use crate::ops::native::Unit;

/// The handler, if the instruction is one of these.
pub(super) fn choose(instruction: &Instruction) -> Option<Choice> {
    use Mnemonic as M;
    let evex = instruction.code().op_code().encoding() == EncodingKind::EVEX;
    let handler: Handler = match instruction.mnemonic() {
        M::Vpgatherdd | M::Vpgatherdq | M::Vgatherdps | M::Vgatherdpd => match evex {
            true => gather_evex::<4>,
            false => gather_vex::<4>,
        },
        M::Vpgatherqd | M::Vpgatherqq | M::Vgatherqps | M::Vgatherqpd => match evex {
            true => gather_evex::<8>,
            false => gather_vex::<8>,
        },
        M::Vpscatterdd | M::Vpscatterdq | M::Vscatterdps | M::Vscatterdpd => scatter::<4>,
        M::Vpscatterqd | M::Vpscatterqq | M::Vscatterqps | M::Vscatterqpd => scatter::<8>,
        _ => return None,
    };
    Some((handler, Flow::Next))
}

/// The operands, with indices of `INDEX` bytes.
struct Elements<const INDEX: usize> {
    segment: SegmentName,
    /// The vector with the data.
    data: usize,
    /// Bytes of a data element.
    size: usize,
    /// Elements that have both an index and a place in the data vector.
    count: usize,
    /// Offset that all elements share.
    start: u64,
    index: usize,
}

impl<const INDEX: usize> Elements<INDEX> {
    fn of(cpu: &mut Cpu, insn: &Insn) -> Exec<Self> {
        let Some(full) = insn.full.as_deref() else { return Err(cpu.ud()) };
        let data = (0..full.op_count())
            .find(|&op| full.op_kind(op) == OpKind::Register)
            .map_or(Register::None, |op| full.op_register(op));
        let index = full.memory_index();
        let size = usize::from(insn.mem_size);
        if !matches!(size, 4 | 8) || !data.is_vector_register() || !index.is_vector_register() {
            return Err(cpu.ud());
        }
        Ok(Self {
            segment: insn.address.segment,
            data: data.number(),
            size,
            count: (index.size() / INDEX).min(data.size() / size),
            start: cpu.effective_address(insn),
            index: index.number(),
        })
    }

    /// The offset of element `i`: indices are signed.
    fn offset(&self, cpu: &Cpu, insn: &Insn, i: usize) -> u64 {
        let index = element(&cpu.state.fpu.zmm[self.index].0, i, INDEX);
        let index = if INDEX == 4 { index as u32 as i32 as u64 } else { index };
        self.start.wrapping_add(index << insn.address.scale) & insn.address.mask
    }

    fn load(&self, cpu: &mut Cpu, insn: &Insn, i: usize) -> Exec {
        let offset = self.offset(cpu, insn, i);
        // Without alignment checks (SDM 2C "VPGATHERDD").
        let value = cpu.unaligned(|cpu| cpu.read_sized(self.segment, offset, self.size as u8))?;
        set_element(&mut cpu.state.fpu.zmm[self.data].0, i, self.size, value);
        Ok(())
    }

    fn store(&self, cpu: &mut Cpu, insn: &Insn, i: usize) -> Exec {
        let offset = self.offset(cpu, insn, i);
        let value = element(&cpu.state.fpu.zmm[self.data].0, i, self.size);
        cpu.unaligned(|cpu| cpu.write_sized(self.segment, offset, self.size as u8, value))
    }

    /// Clears what lies above the elements in the data vector.
    fn clear_above(&self, cpu: &mut Cpu) {
        cpu.state.fpu.zmm[self.data].0[self.count * self.size..].fill(0);
    }
}

fn element(vector: &[u8; 64], i: usize, size: usize) -> u64 {
    let bytes = &vector[i * size..][..size];
    bytes.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte))
}

fn set_element(vector: &mut [u8; 64], i: usize, size: usize, value: u64) {
    vector[i * size..][..size].copy_from_slice(&value.to_le_bytes()[..size]);
}

/// The mask is a vector: the sign bits of its elements.
fn gather_vex<const INDEX: usize>(cpu: &mut Cpu, insn: &Insn) -> Exec {
    cpu.require(Unit::Avx)?;
    let elements = Elements::<INDEX>::of(cpu, insn)?;
    let mask = insn.reg2 as usize & 15;
    let size = elements.size;
    let selected = |cpu: &Cpu, i| cpu.state.fpu.zmm[mask].0[i * size + size - 1] & 0x80 != 0;
    for i in 0..elements.count {
        let all = if selected(cpu, i) { u64::MAX } else { 0 };
        set_element(&mut cpu.state.fpu.zmm[mask].0, i, size, all);
    }
    cpu.state.fpu.zmm[mask].0[elements.count * size..].fill(0);
    for i in 0..elements.count {
        if selected(cpu, i) {
            elements.load(cpu, insn, i)?;
            set_element(&mut cpu.state.fpu.zmm[mask].0, i, size, 0);
        }
    }
    elements.clear_above(cpu);
    Ok(())
}

/// The opmask register of an instruction.
fn opmask(insn: &Insn) -> usize {
    insn.full.as_deref().map_or(0, |full| full.op_mask().number()) & 7
}

fn gather_evex<const INDEX: usize>(cpu: &mut Cpu, insn: &Insn) -> Exec {
    cpu.require(Unit::Avx512)?;
    let elements = Elements::<INDEX>::of(cpu, insn)?;
    let mask = opmask(insn);
    for i in 0..elements.count {
        if cpu.state.fpu.k[mask] >> i & 1 != 0 {
            elements.load(cpu, insn, i)?;
            cpu.state.fpu.k[mask] &= !(1 << i);
        }
    }
    cpu.state.fpu.k[mask] = 0;
    elements.clear_above(cpu);
    Ok(())
}

fn scatter<const INDEX: usize>(cpu: &mut Cpu, insn: &Insn) -> Exec {
    cpu.require(Unit::Avx512)?;
    let elements = Elements::<INDEX>::of(cpu, insn)?;
    let mask = opmask(insn);
    for i in 0..elements.count {
        if cpu.state.fpu.k[mask] >> i & 1 != 0 {
            elements.store(cpu, insn, i)?;
            cpu.state.fpu.k[mask] &= !(1 << i);
        }
    }
    cpu.state.fpu.k[mask] = 0;
    Ok(())
}
