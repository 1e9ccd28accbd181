//! Handlers of 8086 programs: real mode, and virtual-8086 mode where the
//! redirection bitmap says so (SDM 3B 21.1.4 and 21.3.3).

use x86::{Exception, Rflags, SegmentName};

use super::deliver::Event;
use super::frame::Frame;
use crate::cpu::{Cpu, Exec};

/// Enters a handler through the interrupt vector table.
pub(super) fn enter(cpu: &mut Cpu, event: &Event) -> Exec {
    let at = u64::from(event.vector.0) * 4;
    if at + 3 > u64::from(cpu.state.idtr.limit) {
        return Err(cpu.raise(Exception::gp(event.gate_code())));
    }
    let pointer = cpu.read_system::<u32>(cpu.state.idtr.base.wrapping_add(at))?;
    let flags = cpu.state.rflags;
    jump(cpu, pointer, flags, event.return_rip)?;
    let cleared = Rflags::IF | Rflags::TF | Rflags::AC | Rflags::RF;
    cpu.state.rflags = flags.difference(cleared);
    cpu.refresh_view();
    Ok(())
}

/// Enters the handler in the virtual-8086 task itself. Below IOPL 3 the
/// program sees VIF as its interrupt flag.
pub(super) fn enter_v86(cpu: &mut Cpu, event: &Event) -> Exec {
    let pointer = cpu.read_system::<u32>(u64::from(event.vector.0) * 4)?;
    let flags = cpu.state.rflags;
    let trusted = flags.iopl() == 3;
    let mut image = flags;
    if !trusted {
        image.set(Rflags::IF, flags.contains(Rflags::VIF));
        image.insert(Rflags::IOPL);
    }
    jump(cpu, pointer, image, event.return_rip)?;
    let enable = if trusted { Rflags::IF } else { Rflags::VIF };
    cpu.state.rflags = flags.difference(enable | Rflags::TF | Rflags::RF);
    cpu.entered_handler = true;
    Ok(())
}

fn jump(cpu: &mut Cpu, pointer: u32, flags: Rflags, return_rip: u64) -> Exec {
    let target = cpu.real_target((pointer >> 16) as u16, u64::from(pointer & 0xffff))?;
    let mut frame = Frame::here(cpu);
    frame.push(2, flags.bits());
    frame.push(2, u64::from(cpu.state.segment(SegmentName::Cs).selector.0));
    frame.push(2, return_rip);
    let sp = frame.write(cpu)?;
    cpu.set_stack_pointer(sp);
    cpu.go(target);
    Ok(())
}
