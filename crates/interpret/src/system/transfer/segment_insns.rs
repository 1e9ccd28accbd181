//! MOV, PUSH and POP of segment registers, LDS and its kin (SDM 2A, 2B).

use iced_x86::{Instruction, Mnemonic, OpKind, Register};
use x86::{Gpr, InterruptShadow, SegmentName, Selector};

use crate::cpu::{Cpu, Exec};
use crate::decode::{Choice, Flow, undefined};
use crate::insn::{Handler, Insn};

/// The handler, if the instruction is one of these.
pub(super) fn choose(instruction: &Instruction) -> Option<Choice> {
    use Mnemonic as M;
    let segment = |op: u32| {
        let register = instruction.op_count() > op && instruction.op_kind(op) == OpKind::Register;
        register && instruction.op_register(op).is_segment_register()
    };
    let memory = |op: u32| instruction.op_kind(op) == OpKind::Memory;
    let handler: Handler = match instruction.mnemonic() {
        M::Mov if segment(0) && memory(1) => load_from_memory,
        M::Mov if segment(0) => load_from_register,
        M::Mov if segment(1) && memory(0) => store_to_memory,
        M::Mov if segment(1) => store_to_register,
        M::Push if segment(0) => push,
        M::Pop if segment(0) => pop,
        M::Lds => |cpu, insn| load_pointer(cpu, insn, SegmentName::Ds),
        M::Les => |cpu, insn| load_pointer(cpu, insn, SegmentName::Es),
        M::Lfs => |cpu, insn| load_pointer(cpu, insn, SegmentName::Fs),
        M::Lgs => |cpu, insn| load_pointer(cpu, insn, SegmentName::Gs),
        M::Lss => |cpu, insn| load_pointer(cpu, insn, SegmentName::Ss),
        _ => return None,
    };
    let loads = segment(0) && instruction.mnemonic() != M::Push;
    match instruction.op_register(0) {
        Register::CS if loads => Some((undefined, Flow::End)),
        // The shadow must be seen.
        Register::SS if loads => Some((handler, Flow::End)),
        _ => Some((handler, Flow::Next)),
    }
}

/// The segment register with number `reg`.
fn segment(reg: u8) -> SegmentName {
    SegmentName::ALL.get(usize::from(reg)).copied().unwrap_or(SegmentName::Ds)
}

/// MOV SS and POP SS hold interrupts back for one instruction, so that the
/// stack pointer can follow (SDM 3A 6.8.3).
fn load(cpu: &mut Cpu, name: SegmentName, selector: u16) -> Exec {
    cpu.load_segment(name, Selector(selector))?;
    if name == SegmentName::Ss {
        cpu.state.interrupt_shadow = InterruptShadow::MovSs;
    }
    Ok(())
}

fn load_from_register(cpu: &mut Cpu, insn: &Insn) -> Exec {
    let selector = cpu.reg(insn.reg2, 2) as u16;
    load(cpu, segment(insn.reg1), selector)
}

fn load_from_memory(cpu: &mut Cpu, insn: &Insn) -> Exec {
    let selector = cpu.load::<u16>(insn)?;
    load(cpu, segment(insn.reg1), selector)
}

fn store_to_register(cpu: &mut Cpu, insn: &Insn) -> Exec {
    let selector = cpu.state.segment(segment(insn.reg2)).selector.0;
    cpu.set_reg(insn.reg1, insn.size, u64::from(selector));
    Ok(())
}

/// Memory gets 16 bits, whatever the operand size.
fn store_to_memory(cpu: &mut Cpu, insn: &Insn) -> Exec {
    let selector = cpu.state.segment(segment(insn.reg1)).selector.0;
    cpu.store(insn, selector)
}

/// What one push or pop of this instruction moves.
fn stack_bytes(insn: &Insn) -> u8 {
    insn.full.as_ref().map_or(8, |full| full.stack_pointer_increment().unsigned_abs() as u8)
}

fn push(cpu: &mut Cpu, insn: &Insn) -> Exec {
    let selector = cpu.state.segment(segment(insn.reg1)).selector.0;
    cpu.push(stack_bytes(insn), u64::from(selector))
}

fn pop(cpu: &mut Cpu, insn: &Insn) -> Exec {
    let before = cpu.state.reg(Gpr::Rsp);
    let selector = cpu.pop(stack_bytes(insn))? as u16;
    load(cpu, segment(insn.reg1), selector).inspect_err(|_| cpu.state.set_reg(Gpr::Rsp, before))
}

fn load_pointer(cpu: &mut Cpu, insn: &Insn, name: SegmentName) -> Exec {
    let at = cpu.effective_address(insn);
    let after = at.wrapping_add(u64::from(insn.size)) & insn.address.mask;
    let offset = cpu.read_sized(insn.address.segment, at, insn.size)?;
    let selector = cpu.read::<u16>(insn.address.segment, after)?;
    cpu.load_segment(name, Selector(selector))?;
    cpu.set_reg(insn.reg1, insn.size, offset);
    Ok(())
}
