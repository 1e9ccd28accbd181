//! Hardware task switches (SDM 3A 7.3): who asks for one, and its checks.

use x86::descriptor::tss::{LINK, TssKind};
use x86::descriptor::{Descriptor, Gate};
use x86::{Exception, Rflags, Selector, SystemType};

use super::deliver::Event;
use super::frame::Frame;
use super::task_state;
use crate::cpu::{Cpu, Exec};

/// Why tasks are switched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    Jump,
    Call,
    /// IRET with NT set.
    Return,
    /// A task gate in the IDT.
    Event {
        error_code: Option<u32>,
    },
}

impl Reason {
    /// Whether the new task will return to the old one.
    const fn nests(self) -> bool {
        matches!(self, Self::Call | Self::Event { .. })
    }
}

/// What the old task keeps of its position.
#[derive(Clone, Copy, Debug)]
pub(super) struct Leaving {
    pub(super) rip: u64,
    pub(super) flags: Rflags,
}

impl Leaving {
    /// An instruction leaves the task behind itself.
    fn behind(cpu: &Cpu) -> Self {
        Self { rip: cpu.next_rip, flags: cpu.state.rflags }
    }
}

/// A task gate in the IDT.
pub(super) fn enter_handler(cpu: &mut Cpu, selector: Selector, event: &Event) -> Exec {
    let descriptor = available(cpu, selector)?;
    let leaving = Leaving { rip: event.return_rip, flags: event.saved_flags(cpu.state.rflags) };
    switch(cpu, selector, descriptor, Reason::Event { error_code: event.error_code }, leaving)
}

/// JMP or CALL through a task gate.
pub(super) fn through_gate(cpu: &mut Cpu, selector: Selector, descriptor: Descriptor, why: Reason) -> Exec {
    let Some(gate) = Gate::from_legacy(descriptor.0) else {
        return cpu.selector_fault(Exception::gp, selector);
    };
    if gate.dpl < cpu.cpl().max(selector.rpl()) {
        return cpu.selector_fault(Exception::gp, selector);
    }
    if !gate.present {
        return cpu.selector_fault(Exception::np, selector);
    }
    let tss = available(cpu, gate.selector)?;
    let leaving = Leaving::behind(cpu);
    switch(cpu, gate.selector, tss, why, leaving)
}

/// JMP or CALL to a TSS.
pub(super) fn direct(cpu: &mut Cpu, selector: Selector, descriptor: Descriptor, why: Reason) -> Exec {
    if descriptor.dpl() < cpu.cpl().max(selector.rpl()) {
        return cpu.selector_fault(Exception::gp, selector);
    }
    let tss = available(cpu, selector)?;
    let leaving = Leaving::behind(cpu);
    switch(cpu, selector, tss, why, leaving)
}

/// IRET from a nested task.
pub(super) fn return_from_nested(cpu: &mut Cpu) -> Exec {
    let link = Selector(cpu.read_system(cpu.state.tr.base.wrapping_add(LINK))?);
    if link.is_ldt() {
        return cpu.selector_fault(Exception::ts, link);
    }
    let descriptor = cpu.descriptor(link, Exception::ts)?;
    if !matches!(descriptor.system_type(), Some(SystemType::TssBusy | SystemType::TssBusy16)) {
        return cpu.selector_fault(Exception::ts, link);
    }
    cpu.check_present(link, descriptor)?;
    let leaving = Leaving { flags: cpu.state.rflags.difference(Rflags::NT), ..Leaving::behind(cpu) };
    switch(cpu, link, descriptor, Reason::Return, leaving)
}

/// The descriptor of a task that is not running: #GP or #NP otherwise.
fn available(cpu: &mut Cpu, selector: Selector) -> Exec<Descriptor> {
    if selector.is_ldt() {
        return cpu.selector_fault(Exception::gp, selector);
    }
    let descriptor = cpu.descriptor(selector, Exception::gp)?;
    let kind = descriptor.system_type();
    if !matches!(kind, Some(SystemType::TssAvailable | SystemType::TssAvailable16)) {
        return cpu.selector_fault(Exception::gp, selector);
    }
    cpu.check_present(selector, descriptor)?;
    Ok(descriptor)
}

fn switch(cpu: &mut Cpu, selector: Selector, descriptor: Descriptor, why: Reason, leaving: Leaving) -> Exec {
    let kind = descriptor.system_type().and_then(|kind| TssKind::of(kind, false));
    let kind = match kind {
        Some(kind) if descriptor.limit() >= kind.min_limit() => kind,
        _ => return cpu.selector_fault(Exception::ts, selector),
    };
    let base = descriptor.base();
    task_state::probe(cpu, base, kind, selector)?;
    let pdptes = task_state::check_paging(cpu, base, kind)?;
    let old = cpu.state.tr.selector;
    task_state::save(cpu, leaving)?;
    if !why.nests() {
        let current = cpu.descriptor(old, Exception::ts)?;
        cpu.set_busy(old, current, false)?;
    }
    let mut image = task_state::read(cpu, base, kind)?;
    if why.nests() {
        cpu.write_system(base.wrapping_add(LINK), old.0)?;
        image.flags |= Rflags::NT;
    }
    if why != Reason::Return {
        cpu.set_busy(selector, descriptor, true)?;
    }
    cpu.state.tr = descriptor.with_busy(true).segment(selector);
    task_state::load(cpu, &image, pdptes);
    cpu.entered_handler = true;
    task_state::load_segments(cpu, &image)?;
    if image.debug_trap {
        cpu.debug_hits |= x86::Dr6::BT.bits();
    }
    if let Reason::Event { error_code: Some(code) } = why {
        let mut frame = Frame::here(cpu);
        frame.push(if kind == TssKind::Bits16 { 2 } else { 4 }, u64::from(code));
        let sp = frame.write(cpu)?;
        cpu.set_stack_pointer(sp);
    }
    let code = *cpu.state.segment(x86::SegmentName::Cs);
    cpu.check_offset(&code, image.rip)
}
