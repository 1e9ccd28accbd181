//! One instruction with everything that can surround it: interrupt shadow,
//! single step, resume flag and hardware breakpoints (SDM 3B 18.2 and 18.3).

use engine::{Stop, TraceEvent};
use x86::{CpuState, Dr6, Exception, InterruptShadow, PendingEvent, Rflags, Vector};

use crate::blocks::{Blocks, Code, check_fetch};
use crate::cpu::{Break, Cpu};
use crate::insn::Insn;
use crate::system;
use crate::vcpu::after_break;

const BREAK_ON_EXECUTE: u64 = 0;

/// Whether the next instruction needs [`step`] rather than the block loop.
#[inline]
pub(crate) fn wanted(cpu: &Cpu) -> bool {
    cpu.state.rflags.contains(Rflags::RF) || surrounded(cpu)
}

/// The same for those who clear RF before the instruction, which without
/// breakpoints is seen by nobody but an event before it.
#[inline]
pub(crate) fn surrounded(cpu: &Cpu) -> bool {
    cpu.state.rflags.contains(Rflags::TF)
        || cpu.watching
        || cpu.debug_hits != 0
        || cpu.state.nmi_pending && !cpu.state.nmi_blocked
        || cpu.state.pending_event.is_some()
        || cpu.state.interrupt_shadow != InterruptShadow::None
        || cpu.state.activity != x86::Activity::Running
}

/// Executes the next instruction with all its surroundings.
pub(crate) fn step(cpu: &mut Cpu, blocks: &mut Blocks) -> Result<(), Stop> {
    if instruction_breakpoint(cpu) {
        return system::deliver_breakpoint(cpu);
    }
    match blocks.lookup(cpu) {
        Ok(Code::Block(block)) => execute(cpu, &block.insns[0]),
        Ok(Code::Single(insn)) => execute(cpu, insn),
        Err(cause) => after_break(cpu, cause),
    }
}

/// Executes `insn`, keeping track of shadow, TF and RF.
pub(crate) fn execute(cpu: &mut Cpu, insn: &Insn) -> Result<(), Stop> {
    if check_fetch(cpu, u64::from(insn.len)).is_err() {
        return after_break(cpu, Break::Fault);
    }
    let before = cpu.state.rflags;
    cpu.state.interrupt_shadow = InterruptShadow::None;
    cpu.state.rflags.remove(Rflags::RF);
    cpu.next_rip = cpu.state.rip.wrapping_add(u64::from(insn.len)) & cpu.linear_mask;
    cpu.entered_handler = false;
    cpu.fpu_touched |= insn.touches_fpu;
    let outcome = (insn.handler)(cpu, insn);
    cpu.code_hit = false;
    match outcome {
        Ok(()) => {
            cpu.state.rip = cpu.next_rip;
            cpu.stats.instructions += 1;
            // MOV SS has no single-step trap of its own: the next one comes
            // after the next instruction, and only if that one steps (SDM 3A
            // 6.8.3). Data breakpoints it hits are held back instead.
            let shadowed = cpu.state.interrupt_shadow == InterruptShadow::MovSs;
            if before.contains(Rflags::TF) && !cpu.entered_handler && !shadowed {
                cpu.debug_hits |= Dr6::BS.bits();
            }
            Ok(())
        }
        Err(Break::Restart) => {
            cpu.state.interrupt_shadow = InterruptShadow::None;
            // An event between two iterations saves RF (SDM 3B 18.3.1.1).
            cpu.state.rflags.insert(Rflags::RF);
            if before.contains(Rflags::TF) {
                // Each iteration of a string instruction is a step.
                cpu.debug_hits |= Dr6::BS.bits();
            }
            Ok(())
        }
        Err(cause) => {
            // The instruction has not happened: what surrounds it stands.
            cpu.state.rflags = cpu.state.rflags.union(before.intersection(Rflags::RF));
            cpu.debug_hits = 0;
            after_break(cpu, cause)
        }
    }
}

/// Notes in a state that leaves the interpreter what it keeps beside its own.
pub(crate) fn note_debug_trap(state: &mut CpuState, hits: u64) {
    if hits != 0 {
        state.dr6 = Dr6::from_bits_retain(state.dr6.bits() & !Dr6::B.bits() | hits);
        state.pending_event = Some(PendingEvent::Exception { vector: Vector::DB.0, error_code: None });
    }
}

/// Delivers the debug trap that the previous instruction has left, unless a
/// MOV SS shadow holds it back.
pub(crate) fn deliver_debug_trap(cpu: &mut Cpu) -> Result<(), Stop> {
    if cpu.debug_hits == 0 || cpu.state.interrupt_shadow == InterruptShadow::MovSs {
        return Ok(());
    }
    let hits = std::mem::take(&mut cpu.debug_hits);
    cpu.state.dr6 = Dr6::from_bits_retain(cpu.state.dr6.bits() & !Dr6::B.bits() | hits);
    system::deliver_exception_as_trap(cpu, Exception::plain(Vector::DB))
}

/// Whether an enabled instruction breakpoint is at CS:RIP; DR6 is set. RF
/// suppresses it (SDM 3B 18.3.1.1), and the shadow of MOV SS by some vendors.
fn instruction_breakpoint(cpu: &mut Cpu) -> bool {
    let shadowed = cpu.state.interrupt_shadow == InterruptShadow::MovSs
        && !cpu.cpuid.vendor().breaks_in_shadow_of_mov_ss();
    let suppressed = cpu.state.rflags.contains(Rflags::RF) || shadowed;
    if !cpu.watching || suppressed {
        return false;
    }
    let at = cpu.code_address().0;
    let hits = matching(cpu, |kind, _, address| kind == BREAK_ON_EXECUTE && address == at);
    if hits == 0 {
        return false;
    }
    cpu.state.dr6 = Dr6::from_bits_retain(cpu.state.dr6.bits() & !Dr6::B.bits() | hits);
    true
}

/// The enabled breakpoints, as bits of DR6, for which `hit` holds; it gets the
/// kind (R/W field), the length in bytes and the address.
fn matching(cpu: &Cpu, hit: impl Fn(u64, u64, u64) -> bool) -> u64 {
    let dr7 = cpu.state.dr7.bits();
    let mut hits = 0;
    for (index, &address) in cpu.state.dr.iter().enumerate() {
        let enabled = dr7 >> (index * 2) & 3 != 0;
        let kind = dr7 >> (16 + index * 4) & 3;
        let len = [1, 2, 8, 4][(dr7 >> (18 + index * 4) & 3) as usize];
        if enabled && hit(kind, len, address & cpu.linear_mask) {
            hits |= 1 << index;
        }
    }
    hits
}

impl Cpu {
    /// Notes the data breakpoints that an access of `size` bytes at `lin`
    /// touches; they trap after the instruction.
    pub(crate) fn watch(&mut self, lin: u64, size: u64, write: bool) {
        self.debug_hits |= matching(self, |kind, len, address| {
            let wanted = kind == 3 || kind == 1 && write;
            let start = address & !(len - 1);
            wanted && lin < start.wrapping_add(len) && start < lin.wrapping_add(size)
        });
    }

    /// Notes the I/O breakpoints that a port access touches (CR4.DE set).
    pub(crate) fn watch_port(&mut self, port: u16, size: u8) {
        if !self.watching || !self.state.cr4.contains(x86::Cr4::DE) {
            return;
        }
        let (first, end) = (u64::from(port), u64::from(port) + u64::from(size));
        self.debug_hits |= matching(self, |kind, len, address| {
            let start = address & !(len - 1);
            kind == 2 && first < start.wrapping_add(len) && start < end
        });
    }

    /// Reports an exception to the trace.
    pub(crate) fn trace_exception(&self, exception: Exception) {
        if self.tracing.exceptions {
            self.report(&TraceEvent::Exception { rip: self.state.rip, exception });
        }
    }
}

#[cfg(test)]
mod tests {
    use x86::Dr7;
    use x86::cpuid::Vendor;

    use super::*;
    use crate::testing::Bench;

    #[test]
    fn the_shadow_of_mov_ss_hides_instruction_breakpoints_from_intel_alone() {
        for (vendor, breaks) in [(Vendor::Intel, false), (Vendor::Amd, true)] {
            let mut bench = Bench::protected().of_vendor(vendor);
            bench.cpu.state.dr[0] = bench.cpu.state.rip;
            bench.cpu.state.dr7 = Dr7::from_bits_retain(0x402);
            bench.refresh();
            bench.cpu.state.interrupt_shadow = InterruptShadow::MovSs;
            assert_eq!(instruction_breakpoint(&mut bench.cpu), breaks, "{vendor:?}");
            bench.cpu.state.interrupt_shadow = InterruptShadow::Sti;
            assert!(instruction_breakpoint(&mut bench.cpu), "{vendor:?}");
            bench.cpu.state.rflags.insert(Rflags::RF);
            assert!(!instruction_breakpoint(&mut bench.cpu), "{vendor:?}");
        }
    }
}
