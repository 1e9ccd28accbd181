//! INT n, INT3, INTO, INT1 and BOUND (SDM 2A "INT", "BOUND"; 3B 21.3.3).

use iced_x86::{Code, Instruction};
use x86::descriptor::tss::tss32;
use x86::{Cr4, Dr6, Exception, Rflags, Vector};

use super::deliver::{Event, Source, enter};
use super::real;
use crate::cpu::{Cpu, Exec};
use crate::decode::{Choice, Flow};
use crate::insn::{Handler, Insn};

/// Bytes of the interrupt redirection bitmap, below the I/O map.
const REDIRECTION_BYTES: u64 = 32;

/// The handler, if the instruction is one of these.
pub(super) fn choose(instruction: &Instruction) -> Option<Choice> {
    let handler: Handler = match instruction.code() {
        Code::Int_imm8 => int,
        Code::Int3 => |cpu, _| deliver_software(cpu, Vector::BP, Source::Software),
        Code::Int1 => int1,
        Code::Into => into,
        Code::Bound_r16_m1616 | Code::Bound_r32_m3232 => bound,
        _ => return None,
    };
    Some((handler, Flow::End))
}

/// Delivers an event that the program has asked for; it returns behind the
/// instruction.
fn deliver_software(cpu: &mut Cpu, vector: Vector, source: Source) -> Exec {
    let event = Event { vector, error_code: None, source, return_rip: cpu.next_rip };
    enter(cpu, &event)
}

/// What the shadow of MOV SS has held back comes with INT1: one #DB for both.
fn int1(cpu: &mut Cpu, _insn: &Insn) -> Exec {
    let hits = std::mem::take(&mut cpu.debug_hits);
    if hits != 0 {
        cpu.state.dr6 = Dr6::from_bits_retain(cpu.state.dr6.bits() & !Dr6::B.bits() | hits);
    }
    deliver_software(cpu, Vector::DB, Source::Int1)
}

fn int(cpu: &mut Cpu, insn: &Insn) -> Exec {
    let vector = Vector(insn.imm as u8);
    if !cpu.state.virtual_8086() {
        return deliver_software(cpu, vector, Source::Software);
    }
    if cpu.state.cr4.contains(Cr4::VME) && !redirected(cpu, vector)? {
        let event = Event { vector, error_code: None, source: Source::Software, return_rip: cpu.next_rip };
        return real::enter_v86(cpu, &event);
    }
    if cpu.state.rflags.iopl() < 3 {
        return Err(cpu.gp0());
    }
    deliver_software(cpu, vector, Source::Software)
}

/// Whether the bitmap in the TSS sends a vector to the protected-mode handler
/// (SDM 3B 21.3.3, figure 21-5).
fn redirected(cpu: &mut Cpu, vector: Vector) -> Exec<bool> {
    let tr = cpu.state.tr;
    if tr.limit < tss32::IO_MAP_BASE as u32 + 1 {
        return Err(cpu.gp0());
    }
    let map = u64::from(cpu.read_system::<u16>(tr.base.wrapping_add(tss32::IO_MAP_BASE))?);
    let offset = map.wrapping_sub(REDIRECTION_BYTES).wrapping_add(u64::from(vector.0 / 8));
    if offset > u64::from(tr.limit) {
        return Err(cpu.gp0());
    }
    let byte = cpu.read_system::<u8>(tr.base.wrapping_add(offset))?;
    Ok(byte >> (vector.0 % 8) & 1 != 0)
}

fn into(cpu: &mut Cpu, _insn: &Insn) -> Exec {
    if !cpu.state.rflags.contains(Rflags::OF) {
        return Ok(());
    }
    deliver_software(cpu, Vector::OF, Source::Software)
}

/// The bounds are signed and inclusive.
fn bound(cpu: &mut Cpu, insn: &Insn) -> Exec {
    let bytes = insn.size;
    let at = cpu.effective_address(insn);
    let after = at.wrapping_add(u64::from(bytes)) & insn.address.mask;
    let lower = cpu.read_sized(insn.address.segment, at, bytes)?;
    let upper = cpu.read_sized(insn.address.segment, after, bytes)?;
    let signed = |value: u64| if bytes == 2 { i64::from(value as i16) } else { i64::from(value as i32) };
    let index = signed(cpu.reg(insn.reg1, bytes));
    if index < signed(lower) || index > signed(upper) {
        return Err(cpu.raise(Exception::plain(Vector::BR)));
    }
    Ok(())
}
