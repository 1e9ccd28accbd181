//! Far JMP and CALL (SDM 2A "JMP", "CALL"), and which handler far transfers
//! have.

use iced_x86::{Code, Instruction, OpKind};
use x86::descriptor::Descriptor;
use x86::{Exception, SegmentName, Selector, SystemType};

use super::frame::Frame;
use super::task::{self, Reason};
use super::{call_gate, ret};
use crate::cpu::{Cpu, Exec, mask};
use crate::decode::{Choice, Flow};
use crate::insn::{Handler, Insn};

/// JMP or CALL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Jump,
    Call,
}

/// The handler, if the instruction is one of these.
pub(super) fn choose(instruction: &Instruction) -> Option<Choice> {
    let handler: Handler = match instruction.code() {
        Code::Jmp_ptr1616 | Code::Jmp_m1616 => |cpu, insn| far(cpu, insn, Kind::Jump, 2),
        Code::Jmp_ptr1632 | Code::Jmp_m1632 => |cpu, insn| far(cpu, insn, Kind::Jump, 4),
        Code::Jmp_m1664 => |cpu, insn| far(cpu, insn, Kind::Jump, 8),
        Code::Call_ptr1616 | Code::Call_m1616 => |cpu, insn| far(cpu, insn, Kind::Call, 2),
        Code::Call_ptr1632 | Code::Call_m1632 => |cpu, insn| far(cpu, insn, Kind::Call, 4),
        Code::Call_m1664 => |cpu, insn| far(cpu, insn, Kind::Call, 8),
        Code::Retfw | Code::Retfw_imm16 => |cpu, insn| ret::far(cpu, 2, insn.imm),
        Code::Retfd | Code::Retfd_imm16 => |cpu, insn| ret::far(cpu, 4, insn.imm),
        Code::Retfq | Code::Retfq_imm16 => |cpu, insn| ret::far(cpu, 8, insn.imm),
        _ => return None,
    };
    Some((handler, Flow::End))
}

/// Selector and offset, from the instruction or from memory.
fn pointer(cpu: &mut Cpu, insn: &Insn, bytes: u8) -> Exec<(Selector, u64)> {
    let Some(full) = insn.full.as_deref() else { return Err(cpu.ud()) };
    match full.op_kind(0) {
        OpKind::FarBranch16 => Ok((Selector(full.far_branch_selector()), u64::from(full.far_branch16()))),
        OpKind::FarBranch32 => Ok((Selector(full.far_branch_selector()), u64::from(full.far_branch32()))),
        _ => {
            let at = cpu.effective_address(insn);
            let after = at.wrapping_add(u64::from(bytes)) & insn.address.mask;
            let offset = cpu.read_sized(insn.address.segment, at, bytes)?;
            let selector = cpu.read::<u16>(insn.address.segment, after)?;
            Ok((Selector(selector), offset))
        }
    }
}

fn far(cpu: &mut Cpu, insn: &Insn, kind: Kind, bytes: u8) -> Exec {
    let (selector, offset) = pointer(cpu, insn, bytes)?;
    if cpu.state.real_or_v86() {
        return real(cpu, kind, bytes, selector.0, offset);
    }
    if selector.is_null() {
        return Err(cpu.gp0());
    }
    let descriptor = cpu.descriptor(selector, Exception::gp)?;
    if descriptor.attributes().code_or_data() {
        return direct(cpu, kind, bytes, selector, descriptor, offset);
    }
    match descriptor.system_type() {
        Some(SystemType::CallGate | SystemType::CallGate16) => {
            call_gate::enter(cpu, kind, selector, descriptor)
        }
        Some(SystemType::TaskGate) if !cpu.state.long_mode() => {
            task::through_gate(cpu, selector, descriptor, reason(kind))
        }
        Some(SystemType::TssAvailable | SystemType::TssAvailable16) if !cpu.state.long_mode() => {
            task::direct(cpu, selector, descriptor, reason(kind))
        }
        _ => cpu.selector_fault(Exception::gp, selector),
    }
}

fn reason(kind: Kind) -> Reason {
    if kind == Kind::Call { Reason::Call } else { Reason::Jump }
}

fn real(cpu: &mut Cpu, kind: Kind, bytes: u8, selector: u16, offset: u64) -> Exec {
    let target = cpu.real_target(selector, offset)?;
    if kind == Kind::Call {
        push_return(cpu, bytes)?;
    }
    cpu.go(target);
    Ok(())
}

fn direct(
    cpu: &mut Cpu,
    kind: Kind,
    bytes: u8,
    selector: Selector,
    descriptor: Descriptor,
    offset: u64,
) -> Exec {
    cpu.check_direct(selector, descriptor)?;
    let target = cpu.target(selector, descriptor, offset & mask(bytes), cpu.cpl())?;
    if kind == Kind::Call {
        push_return(cpu, bytes)?;
    }
    cpu.go(target);
    Ok(())
}

/// Pushes CS and the address after the instruction on the current stack.
pub(super) fn push_return(cpu: &mut Cpu, bytes: u8) -> Exec {
    let mut frame = Frame::here(cpu);
    frame.push(bytes, u64::from(cpu.state.segment(SegmentName::Cs).selector.0));
    frame.push(bytes, cpu.next_rip);
    let sp = frame.write(cpu)?;
    cpu.set_stack_pointer(sp);
    Ok(())
}
