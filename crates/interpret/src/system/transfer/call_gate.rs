//! JMP and CALL through call gates (SDM 3A 5.8.3 to 5.8.5).

use x86::descriptor::{Descriptor, Gate, upper_half_is_valid};
use x86::{Exception, Gpr, SegmentName, Selector};

use super::far::{Kind, push_return};
use super::frame::Frame;
use super::stacks::null_stack;
use crate::cpu::{Cpu, Exec};

/// Bytes in which the gate pushes.
fn unit(cpu: &Cpu, gate: &Gate) -> u8 {
    match (cpu.state.long_mode(), gate.is_16bit()) {
        (true, _) => 8,
        (false, true) => 2,
        (false, false) => 4,
    }
}

/// Goes through the call gate at `selector`.
pub(super) fn enter(cpu: &mut Cpu, kind: Kind, selector: Selector, descriptor: Descriptor) -> Exec {
    let gate = read(cpu, selector, descriptor)?;
    if gate.dpl < cpu.cpl().max(selector.rpl()) {
        return cpu.selector_fault(Exception::gp, selector);
    }
    if !gate.present {
        return cpu.selector_fault(Exception::np, selector);
    }
    let code = cpu.gate_code(gate.selector, Exception::gp)?;
    let level = cpu.level_in(code);
    if kind == Kind::Jump && level != cpu.cpl() {
        return cpu.selector_fault(Exception::gp, gate.selector);
    }
    let inner = level < cpu.cpl();
    match (kind, inner) {
        (Kind::Call, true) if cpu.state.long_mode() => call_inner_long(cpu, &gate, code, level),
        (Kind::Call, true) => call_inner(cpu, &gate, code, level),
        _ => {
            let target = cpu.target(gate.selector, code, gate.offset, level)?;
            if kind == Kind::Call {
                push_return(cpu, unit(cpu, &gate))?;
            }
            cpu.go(target);
            Ok(())
        }
    }
}

fn read(cpu: &mut Cpu, selector: Selector, descriptor: Descriptor) -> Exec<Gate> {
    let gate = if cpu.state.long_mode() {
        let high = cpu.upper_half(selector, Exception::gp)?;
        Gate::from_long(descriptor.0, high).filter(|_| upper_half_is_valid(high))
    } else {
        Gate::from_legacy(descriptor.0)
    };
    match gate {
        Some(gate) => Ok(gate),
        None => cpu.selector_fault(Exception::gp, selector),
    }
}

fn selector_of(cpu: &Cpu, name: SegmentName) -> u64 {
    u64::from(cpu.state.segment(name).selector.0)
}

/// A call to an inner level: the new stack gets the old one's address, the
/// parameters and the return address.
fn call_inner(cpu: &mut Cpu, gate: &Gate, code: Descriptor, level: u8) -> Exec {
    let size = unit(cpu, gate);
    let (stack, sp) = cpu.inner_stack(level)?;
    let target = cpu.target(gate.selector, code, gate.offset, level)?;
    let mut frame = Frame::inner(cpu, stack, sp);
    frame.push(size, selector_of(cpu, SegmentName::Ss));
    frame.push(size, cpu.state.reg(Gpr::Rsp));
    for place in (0..u64::from(gate.parameters)).rev() {
        let parameter = super::iret::peek(cpu, size, place)?;
        frame.push(size, parameter);
    }
    frame.push(size, selector_of(cpu, SegmentName::Cs));
    frame.push(size, cpu.next_rip);
    let sp = frame.write(cpu)?;
    *cpu.state.segment_mut(SegmentName::Ss) = stack;
    cpu.go(target);
    cpu.set_stack_pointer(sp);
    Ok(())
}

fn call_inner_long(cpu: &mut Cpu, gate: &Gate, code: Descriptor, level: u8) -> Exec {
    let rsp = cpu.inner_rsp(level)?;
    let target = cpu.target(gate.selector, code, gate.offset, level)?;
    let mut frame = Frame::long(cpu, rsp, level);
    frame.push(8, selector_of(cpu, SegmentName::Ss));
    frame.push(8, cpu.state.reg(Gpr::Rsp));
    frame.push(8, selector_of(cpu, SegmentName::Cs));
    frame.push(8, cpu.next_rip);
    let rsp = frame.write(cpu)?;
    *cpu.state.segment_mut(SegmentName::Ss) = null_stack(level);
    cpu.go(target);
    cpu.state.set_reg(Gpr::Rsp, rsp);
    Ok(())
}
