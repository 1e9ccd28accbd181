//! Events on their way to a handler: what they are, how they combine, and when
//! the processor gives up (SDM 3A 6.5 to 6.15).

use engine::{Callout, Signal, Stop};
use x86::{Activity, Exception, ExceptionClass, InterruptShadow, Rflags, Vector};

use super::{gate, long, real};
use crate::cpu::{Break, Cpu, Exec};

/// Where an event comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// The instruction at CS:RIP has faulted.
    Fault,
    /// A trap of the instruction before, an instruction breakpoint, an NMI or
    /// an interrupt.
    Between,
    /// INT n, INT3 or INTO: the gate's privilege level counts.
    Software,
    /// INT1: like hardware (SDM 2A "INT").
    Int1,
}

/// An event to be delivered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Event {
    pub(super) vector: Vector,
    pub(super) error_code: Option<u32>,
    pub(super) source: Source,
    /// Where the handler will return to.
    pub(super) return_rip: u64,
}

/// IDT bit of an error code: the index is a vector.
const IDT: u32 = 2;
/// EXT bit of an error code: the event came from outside the program.
const EXT: u32 = 1;

impl Event {
    /// The error code for a bad gate.
    pub(super) fn gate_code(&self) -> u32 {
        u32::from(self.vector.0) << 3 | IDT
    }

    /// The flags as the handler finds them on its stack (RF: SDM 3B 18.3.1.1).
    pub(super) fn saved_flags(&self, flags: Rflags) -> Rflags {
        if self.source == Source::Fault { flags | Rflags::RF } else { flags }
    }
}

/// Delivers a fault of the current instruction, escalating to a double fault
/// and to shutdown.
pub(crate) fn deliver_exception(cpu: &mut Cpu, exception: Exception) -> Result<(), Stop> {
    deliver(cpu, exception, Source::Fault)
}

/// Delivers a trap of the instruction before (RF is not set in the saved
/// flags).
pub(crate) fn deliver_exception_as_trap(cpu: &mut Cpu, exception: Exception) -> Result<(), Stop> {
    deliver(cpu, exception, Source::Between)
}

/// Delivers the debug exception of an instruction breakpoint: a fault that
/// leaves RF alone.
pub(crate) fn deliver_breakpoint(cpu: &mut Cpu) -> Result<(), Stop> {
    deliver(cpu, Exception::plain(Vector::DB), Source::Between)
}

/// Delivers an NMI; the next one waits for IRET.
pub(crate) fn deliver_nmi(cpu: &mut Cpu) -> Result<(), Stop> {
    cpu.state.nmi_blocked = true;
    deliver_interrupt(cpu, Vector::NMI)
}

/// Delivers an external interrupt.
pub(crate) fn deliver_external(cpu: &mut Cpu, vector: Vector) -> Result<(), Stop> {
    deliver_interrupt(cpu, vector)
}

fn deliver_interrupt(cpu: &mut Cpu, vector: Vector) -> Result<(), Stop> {
    let event = Event { vector, error_code: None, source: Source::Between, return_rip: cpu.state.rip };
    match enter(cpu, &event) {
        Ok(()) => {
            cpu.state.rip = cpu.next_rip;
            Ok(())
        }
        // Interrupts are benign: the fault is delivered in their place.
        Err(_) => deliver(cpu, cpu.fault, Source::Fault),
    }
}

fn deliver(cpu: &mut Cpu, first: Exception, source: Source) -> Result<(), Stop> {
    let (mut exception, mut source) = (first, source);
    loop {
        announce(cpu, exception);
        let Exception { vector, error_code, .. } = exception;
        let event = Event { vector, error_code, source, return_rip: cpu.state.rip };
        if enter(cpu, &event).is_ok() {
            cpu.state.rip = cpu.next_rip;
            return Ok(());
        }
        // Benign faults, alignment checks say, may follow each other without
        // end, on a real processor too.
        let benign = cpu.fault.vector.class() == ExceptionClass::Benign;
        if benign && cpu.signals.is_pending(Signal::Exit) {
            return Err(Stop::Kicked);
        }
        source = Source::Fault;
        exception = match combine(vector, cpu.fault) {
            Some(next) => next,
            None => {
                cpu.state.activity = Activity::Shutdown;
                return Err(Stop::TripleFault);
            }
        };
    }
}

fn announce(cpu: &mut Cpu, exception: Exception) {
    if let Some(address) = exception.cr2 {
        cpu.state.cr2 = address;
    }
    let page_fault = exception.vector == Vector::PF;
    cpu.stats.count(if page_fault { Callout::PageFault } else { Callout::Exception });
    cpu.trace_exception(exception);
}

/// What follows when delivering `first` has raised `second` (SDM 3A table
/// 6-5); `None` is shutdown.
fn combine(first: Vector, second: Exception) -> Option<Exception> {
    use ExceptionClass as Class;
    match (first.class(), second.vector.class()) {
        (Class::DoubleFault, Class::Benign) => Some(second),
        (Class::DoubleFault, _) => None,
        (Class::Contributory, Class::Contributory)
        | (Class::PageFault, Class::Contributory | Class::PageFault) => {
            Some(Exception::with_code(Vector::DF, 0))
        }
        _ => Some(second),
    }
}

/// Enters the handler of an event; its address is in [`Cpu::next_rip`].
pub(super) fn enter(cpu: &mut Cpu, event: &Event) -> Exec {
    let entered = if !cpu.state.protected_mode() {
        real::enter(cpu, event)
    } else if cpu.state.long_mode() {
        long::enter(cpu, event)
    } else {
        gate::enter(cpu, event)
    };
    entered.map_err(|cause| mark_external(cpu, cause, event))?;
    cpu.state.interrupt_shadow = InterruptShadow::None;
    // A debug trap ends HLT too.
    cpu.state.activity = Activity::Running;
    cpu.entered_handler = true;
    if event.vector == Vector::DB {
        cpu.state.dr7.remove(x86::Dr7::GD);
        // LBR and BTF (SDM 3B 18.4.4 and 18.4.5).
        cpu.state.msrs.debugctl &= !3;
    }
    Ok(())
}

/// Sets EXT in the error code of a fault that an event from outside the
/// program has met (SDM 3A 6.13).
fn mark_external(cpu: &mut Cpu, cause: Break, event: &Event) -> Break {
    let selector_code = matches!(cpu.fault.vector, Vector::TS | Vector::NP | Vector::SS | Vector::GP);
    if cause == Break::Fault && event.source != Source::Software && selector_code {
        cpu.fault.error_code = cpu.fault.error_code.map(|code| code | EXT);
    }
    cause
}

/// The flags that a handler starts with.
pub(super) fn handler_flags(flags: Rflags, clears_if: bool) -> Rflags {
    let cleared = Rflags::TF | Rflags::NT | Rflags::RF | Rflags::VM;
    flags.difference(if clears_if { cleared | Rflags::IF } else { cleared })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exceptions_combine_as_in_the_manuals_table() {
        let double = Some(Exception::with_code(Vector::DF, 0));
        let pf = Exception::pf(x86::PageFaultCode::empty(), 0);
        assert_eq!(combine(Vector::UD, Exception::gp(8)), Some(Exception::gp(8)));
        assert_eq!(combine(Vector::GP, pf), Some(pf));
        assert_eq!(combine(Vector::GP, Exception::np(8)), double);
        assert_eq!(combine(Vector::PF, Exception::gp(8)), double);
        assert_eq!(combine(Vector::PF, pf), double);
        assert_eq!(combine(Vector::DF, pf), None);
        assert_eq!(combine(Vector::DF, Exception::np(8)), None);
    }
}
