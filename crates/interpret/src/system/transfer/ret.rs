//! Far RET (SDM 2B "RET").

use x86::{SegmentName, Selector};

use super::iret::{leave, peek};
use crate::cpu::{Cpu, Exec};

/// Returns far, with items of `bytes` bytes, and releases `parameters` bytes.
pub(super) fn far(cpu: &mut Cpu, bytes: u8, parameters: u64) -> Exec {
    let parameters = parameters & 0xffff;
    let rip = peek(cpu, bytes, 0)?;
    let selector = Selector(peek(cpu, bytes, 1)? as u16);
    let released = cpu.stack_pointer().wrapping_add(u64::from(bytes) * 2 + parameters);
    if cpu.state.real_or_v86() {
        let target = cpu.real_target(selector.0, rip)?;
        cpu.set_stack_pointer(released);
        cpu.go(target);
        return Ok(());
    }
    let descriptor = cpu.check_return(selector)?;
    let cpl = selector.rpl();
    if cpl == cpu.cpl() {
        let target = cpu.target(selector, descriptor, rip, cpl)?;
        cpu.set_stack_pointer(released);
        cpu.go(target);
        return Ok(());
    }
    let at = released & cpu.stack_mask;
    let sp = cpu.read_sized(SegmentName::Ss, at, bytes)?;
    let above = at.wrapping_add(u64::from(bytes)) & cpu.stack_mask;
    let ss = Selector(cpu.read_sized(SegmentName::Ss, above, bytes)? as u16);
    let to_64bit = cpu.is_64bit(&descriptor.segment(selector));
    let stack = cpu.outer_stack_segment(ss, cpl, to_64bit)?;
    let target = cpu.target(selector, descriptor, rip, cpl)?;
    leave(cpu, target, stack, sp.wrapping_add(parameters), bytes);
    cpu.drop_inner_segments();
    Ok(())
}
