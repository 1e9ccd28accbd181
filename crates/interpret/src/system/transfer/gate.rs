//! Gates of the IDT in protected mode, from virtual-8086 mode too (SDM 3A
//! 6.12, 3B 21.3).

use x86::descriptor::{Descriptor, Gate};
use x86::{Exception, Gpr, Rflags, Segment, SegmentName, Selector, SystemType};

use super::deliver::{Event, Source, handler_flags};
use super::frame::Frame;
use super::task;
use crate::cpu::{Cpu, Exec};

/// Enters a handler through an 8-byte gate.
pub(super) fn enter(cpu: &mut Cpu, event: &Event) -> Exec {
    let gate = read_gate(cpu, event)?;
    if gate.kind == SystemType::TaskGate {
        return task::enter_handler(cpu, gate.selector, event);
    }
    let descriptor = cpu.gate_code(gate.selector, Exception::gp)?;
    let level = cpu.level_in(descriptor);
    if cpu.state.virtual_8086() && level != 0 {
        return cpu.selector_fault(Exception::gp, gate.selector);
    }
    if level < cpu.cpl() {
        enter_inner(cpu, event, &gate, descriptor, level)
    } else {
        enter_same(cpu, event, &gate, descriptor, level)
    }
}

fn read_gate(cpu: &mut Cpu, event: &Event) -> Exec<Gate> {
    let offset = u64::from(event.vector.0) * 8;
    let code = event.gate_code();
    if offset + 7 > u64::from(cpu.state.idtr.limit) {
        return Err(cpu.raise(Exception::gp(code)));
    }
    let raw = cpu.read_system(cpu.state.idtr.base.wrapping_add(offset))?;
    let gate = match Gate::from_legacy(raw) {
        Some(gate) if gate.fits_idt() => gate,
        _ => return Err(cpu.raise(Exception::gp(code))),
    };
    if event.source == Source::Software && gate.dpl < cpu.cpl() {
        return Err(cpu.raise(Exception::gp(code)));
    }
    if gate.present { Ok(gate) } else { Err(cpu.raise(Exception::np(code))) }
}

fn enter_same(cpu: &mut Cpu, event: &Event, gate: &Gate, descriptor: Descriptor, level: u8) -> Exec {
    let target = cpu.target(gate.selector, descriptor, gate.offset, level)?;
    let mut frame = Frame::here(cpu);
    push_return(cpu, &mut frame, event, gate);
    let sp = frame.write(cpu)?;
    cpu.set_stack_pointer(sp);
    cpu.state.rflags = handler_flags(cpu.state.rflags, gate.clears_if());
    cpu.go(target);
    Ok(())
}

fn enter_inner(cpu: &mut Cpu, event: &Event, gate: &Gate, descriptor: Descriptor, level: u8) -> Exec {
    let (stack, sp) = cpu.inner_stack(level)?;
    let target = cpu.target(gate.selector, descriptor, gate.offset, level)?;
    let size = unit(gate);
    let mut frame = Frame::inner(cpu, stack, sp);
    let virtual_8086 = cpu.state.virtual_8086();
    if virtual_8086 {
        for name in [SegmentName::Gs, SegmentName::Fs, SegmentName::Ds, SegmentName::Es] {
            frame.push(size, selector_of(cpu, name));
        }
    }
    frame.push(size, selector_of(cpu, SegmentName::Ss));
    frame.push(size, cpu.state.reg(Gpr::Rsp));
    push_return(cpu, &mut frame, event, gate);
    let sp = frame.write(cpu)?;
    if virtual_8086 {
        for name in [SegmentName::Gs, SegmentName::Fs, SegmentName::Ds, SegmentName::Es] {
            *cpu.state.segment_mut(name) = Segment::null(Selector::NULL);
        }
    }
    *cpu.state.segment_mut(SegmentName::Ss) = stack;
    cpu.state.rflags = handler_flags(cpu.state.rflags, gate.clears_if());
    cpu.go(target);
    cpu.set_stack_pointer(sp);
    Ok(())
}

/// Bytes in which a gate pushes.
fn unit(gate: &Gate) -> u8 {
    if gate.is_16bit() { 2 } else { 4 }
}

fn selector_of(cpu: &Cpu, name: SegmentName) -> u64 {
    u64::from(cpu.state.segment(name).selector.0)
}

fn push_return(cpu: &Cpu, frame: &mut Frame, event: &Event, gate: &Gate) {
    let size = unit(gate);
    let flags: Rflags = event.saved_flags(cpu.state.rflags);
    frame.push(size, flags.bits());
    frame.push(size, selector_of(cpu, SegmentName::Cs));
    frame.push(size, event.return_rip);
    if let Some(code) = event.error_code {
        frame.push(size, u64::from(code));
    }
}
