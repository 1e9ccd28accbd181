//! Interrupt and trap gates in IA-32e mode (SDM 3A 6.14).

use x86::descriptor::{Gate, upper_half_is_valid};
use x86::{Exception, Gpr, SegmentName};

use super::deliver::{Event, Source, handler_flags};
use super::frame::Frame;
use super::stacks::null_stack;
use crate::cpu::{Cpu, Exec};

/// Stacks are aligned before the frame is pushed (SDM 3A 6.14.2).
const STACK_ALIGNMENT: u64 = 16;

/// Enters a handler through a 16-byte gate.
pub(super) fn enter(cpu: &mut Cpu, event: &Event) -> Exec {
    let gate = read_gate(cpu, event)?;
    let descriptor = cpu.gate_code(gate.selector, Exception::gp)?;
    let level = cpu.level_in(descriptor);
    let inner = level < cpu.cpl();
    let rsp = match (gate.ist, inner) {
        (0, false) => cpu.state.reg(Gpr::Rsp),
        (0, true) => cpu.inner_rsp(level)?,
        (ist, _) => cpu.interrupt_stack(ist)?,
    };
    let target = cpu.target(gate.selector, descriptor, gate.offset, level)?;
    let mut frame = Frame::long(cpu, rsp & !(STACK_ALIGNMENT - 1), level);
    let flags = cpu.state.rflags;
    frame.push(8, u64::from(cpu.state.segment(SegmentName::Ss).selector.0));
    frame.push(8, cpu.state.reg(Gpr::Rsp));
    frame.push(8, event.saved_flags(flags).bits());
    frame.push(8, u64::from(cpu.state.segment(SegmentName::Cs).selector.0));
    frame.push(8, event.return_rip);
    if let Some(code) = event.error_code {
        frame.push(8, u64::from(code));
    }
    let rsp = frame.write(cpu)?;
    cpu.state.set_reg(Gpr::Rsp, rsp);
    if inner {
        *cpu.state.segment_mut(SegmentName::Ss) = null_stack(level);
    }
    cpu.state.rflags = handler_flags(flags, gate.clears_if());
    cpu.go(target);
    Ok(())
}

fn read_gate(cpu: &mut Cpu, event: &Event) -> Exec<Gate> {
    let offset = u64::from(event.vector.0) * 16;
    let code = event.gate_code();
    if offset + 15 > u64::from(cpu.state.idtr.limit) {
        return Err(cpu.raise(Exception::gp(code)));
    }
    let at = cpu.state.idtr.base.wrapping_add(offset);
    let low = cpu.read_system(at)?;
    let high = cpu.read_system(at.wrapping_add(8))?;
    let gate = match Gate::from_long(low, high) {
        Some(gate) if gate.fits_idt() && upper_half_is_valid(high) => gate,
        _ => return Err(cpu.raise(Exception::gp(code))),
    };
    if event.source == Source::Software && gate.dpl < cpu.cpl() {
        return Err(cpu.raise(Exception::gp(code)));
    }
    if gate.present { Ok(gate) } else { Err(cpu.raise(Exception::np(code))) }
}
