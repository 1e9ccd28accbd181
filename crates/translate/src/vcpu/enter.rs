//! The way into generated code, and what must be right before and after.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use engine::Stop;
use interpret::slow::SlowPath;
use interpret::tlb::CodeFlushes;
use x86::{GuestPhysAddr, LinearAddr, PAGE_SIZE, Rflags, SegmentName};

use super::Core;
use super::exits::Next;
use super::make::MAX_INSN;
use crate::blocks::Key;
use crate::context::{Context, NULL_STACK};
use crate::jumps::Entry;
use crate::keys::Scope;
use crate::mode::{Mode, Way};
use crate::runtime::Exit;

/// What the context is prepared for, as far as code switches modes by itself.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Prepared {
    mode: Mode,
    enabled: bool,
    open: bool,
    spaces: (u64, u32, CodeFlushes),
    scope: Scope,
    handler: (u64, u64),
    generation: u64,
}

impl Prepared {
    /// Whether the handler of SYSCALL may have been unknown until now, when a
    /// branch leads to `lin`.
    pub(super) fn awaits(&self, lin: LinearAddr) -> bool {
        self.handler.0 & !(PAGE_SIZE - 1) == lin.page().0
    }
}

/// The bits of MXCSR that exist.
const MXCSR_DEFINED: u32 = 0xffff;

/// Flags that generated code keeps elsewhere than the others.
const INLINE_FLAGS: Rflags = Rflags::ARITHMETIC.union(Rflags::IF).union(Rflags::FIXED);

impl Core {
    /// Runs code from `code` on until somebody must look up where to go.
    pub(super) fn execute(&mut self, slow: &mut SlowPath, mode: Mode, code: usize) -> Result<(), Stop> {
        let context = self.context.pointer().as_ptr();
        let jumps = loop {
            let generation = self.tables.generation;
            let jumps = self.jumps(slow, mode);
            self.prepare_ways(slow, mode);
            self.prepare_iret(slow);
            // All of them must be of one generation.
            if self.tables.generation == generation {
                break jumps;
            }
        };
        // SAFETY: no generated code runs now.
        unsafe {
            (*context).fpu_wanted = 0;
            (*context).save_r10 = slow.code_address().0;
            (*context).jumps.store(jumps, Ordering::Relaxed);
            (*context).disturbed.store(0, Ordering::Relaxed);
            (*context).undisturbed.store(1, Ordering::SeqCst);
        }
        // A signal that came before this was not heard.
        if slow.signalled() {
            return Ok(());
        }
        slow.clear_resume_flag();
        let mut code = code;
        loop {
            let exit = self.enter(slow, code);
            match self.handle(slow, exit)? {
                Next::Resume(at) => code = at,
                Next::LookUp => return Ok(()),
            }
        }
    }

    /// Where indirect branches lead in `mode` now.
    fn jumps(&mut self, slow: &mut SlowPath, mode: Mode) -> *mut Entry {
        match self.table(slow, mode) {
            Some(table) => self.tables.entries(table),
            None => self.tables.nowhere(),
        }
    }

    /// Prepares for what generated code does by itself: SYSCALL, SYSRET, STAC
    /// and CLAC.
    fn prepare_ways(&mut self, slow: &mut SlowPath, mode: Mode) {
        let enabled = mode.long() && slow.syscall_is_enabled();
        let open = slow.tsc_is_open();
        let tlb = slow.tlb();
        let spaces = (tlb.asid, tlb.space_flushes(), tlb.code_flushes);
        let (lstar, fmask) = (slow.state().msrs.lstar, slow.state().msrs.fmask);
        let prepared = Prepared {
            mode: mode.after(Way::Supervisor, true),
            enabled,
            open,
            spaces,
            scope: self.scope,
            handler: (lstar, fmask),
            generation: self.tables.generation,
        };
        if self.prepared == Some(prepared) {
            return;
        }
        let ways = Way::ALL.map(|way| self.jumps(slow, mode.after(way, open)));
        let handler = self.table(slow, mode.after(Way::Supervisor, open));
        let handler = handler.and_then(|table| self.tables.find(table, lstar)).filter(|_| enabled);
        let context = self.context.pointer().as_ptr();
        // SAFETY: no generated code runs now.
        unsafe {
            for (way, jumps) in Way::ALL.into_iter().zip(ways) {
                (*context).ways[way as usize] = jumps;
            }
            (*context).syscall_code = handler.unwrap_or(0);
            (*context).syscall_entry = lstar;
            (*context).syscall_kept = !fmask;
            (*context).syscall_blocked = handler.is_none().into();
            (*context).sysret_blocked = (!enabled).into();
            self.prepared = Some(prepared);
        }
    }

    /// Prepares for IRETQ. What it depends on changes only when the interpreter
    /// executes an instruction.
    pub(super) fn prepare_iret(&mut self, slow: &SlowPath) {
        let context = self.context.pointer().as_ptr();
        let ways = slow.flat_ways();
        // SAFETY: no generated code runs now.
        unsafe {
            (*context).iret_blocked = ways.is_none().into();
            for (number, way) in ways.into_iter().flatten().enumerate() {
                (*context).iret_cs[number] = u64::from(way.cs).wrapping_neg();
                (*context).iret_ss[number] = u64::from(way.ss).wrapping_neg();
                (*context).iret_pair[number] = way.pair.0;
                (*context).iret_first[number] = way.descriptors[0].wrapping_neg();
                (*context).iret_second[number] = way.descriptors[1].wrapping_neg();
            }
        }
    }

    /// Runs generated code.
    #[inline]
    fn enter(&mut self, slow: &mut SlowPath, code: usize) -> Exit {
        let context = self.context.pointer().as_ptr();
        // SAFETY: no generated code runs now.
        let goes_on = unsafe { (*context).fpu_wanted != 0 };
        let touched = std::mem::take(&mut self.fpu_touched) | slow.take_fpu_touched();
        if touched || self.fpu_unsure && !goes_on {
            self.look_at_vectors(slow);
        }
        let blocked = u32::from(!slow.fpu_is_available());
        let state = slow.state_mut();
        // SAFETY: `enter` is code of the function type given; the context is
        // valid and nobody else touches more of it than its atomics; `code` is
        // an address in the cache where code begins or goes on.
        unsafe {
            (*context).flags = flags_image(state.rflags);
            (*context).system_flags = state.rflags.difference(INLINE_FLAGS).bits();
            (*context).interrupt_flag = state.rflags.intersection(Rflags::IF).bits();
            (*context).ring = 0;
            (*context).pauses = 0;
            (*context).fs_base = state.segment(SegmentName::Fs).base;
            (*context).gs_base = state.segment(SegmentName::Gs).base;
            (*context).fpu_blocked = blocked;
            (*context).target = code as u64;
            let started = self.options.count.then(Instant::now);
            let enter: extern "sysv64" fn(*mut Context) -> u64 = std::mem::transmute(self.runtime.enter);
            let number = enter(context);
            self.counters.running += started.map_or(Duration::ZERO, |at| at.elapsed());
            self.take_back(slow);
            Exit::from_number(number)
        }
    }

    /// The last instruction of the x87 is the guest's, not the one that was made
    /// from it (SDM 1 8.1.8). Where its operand was is not known any more.
    #[inline]
    fn correct_x87_pointers(&mut self, slow: &mut SlowPath) {
        let fip = slow.state().fpu.x87.fip;
        // The same as before: it is the guest's already.
        if fip == self.last_fip {
            return;
        }
        self.last_fip = fip;
        let Some(id) = self.blocks.at(fip as usize) else { return };
        let block = self.blocks.get(id);
        let (place, key) = (block.guest_place(fip as usize), block.key);
        let page = if key.mode.position_independent() {
            self.page_of(slow, key)
        } else {
            key.lin & !(PAGE_SIZE - 1)
        };
        let mut bytes = [0; MAX_INSN];
        let at = GuestPhysAddr(key.gpa & !(PAGE_SIZE - 1) | u64::from(place));
        let readable = slow.memory().read(at, &mut bytes).is_ok();
        let x87 = &mut slow.state_mut().fpu.x87;
        x87.fip = page.wrapping_add(u64::from(place));
        x87.fdp = 0;
        let escape = bytes.iter().position(|byte| (0xd8..=0xdf).contains(byte)).filter(|_| readable);
        if let Some(&[high, low]) = escape.and_then(|at| bytes.get(at..at + 2)) {
            x87.fop = u16::from(high & 7) << 8 | u16::from(low);
        }
        self.last_fip = x87.fip;
    }

    /// Where a page of position-independent code is mapped now.
    fn page_of(&mut self, slow: &mut SlowPath, key: Key) -> u64 {
        let table = self.table(slow, key.mode.with_windows());
        table.and_then(|table| self.tables.place_of(table, key.gpa >> 12)).map_or(0, |lin| lin << 12)
    }

    /// Finds out which parts of the vector registers are in use. A block that
    /// goes on relies on what it has asked for.
    fn look_at_vectors(&mut self, slow: &mut SlowPath) {
        let fpu = &mut slow.state_mut().fpu;
        // Other bits cannot be loaded (SDM 1 10.2.3).
        fpu.mxcsr &= MXCSR_DEFINED;
        let upper = fpu.zmm[..16].iter().all(|register| register.0[16..] == [0; 48]);
        let high = fpu.k == [0; 8] && fpu.zmm[16..].iter().all(|register| register.0 == [0; 64]);
        let context = self.context.pointer().as_ptr();
        // SAFETY: no generated code runs now.
        unsafe {
            let goes_on = (*context).fpu_wanted != 0;
            // What cannot be taken back now can be at the next look-up.
            self.fpu_unsure = goes_on;
            let keep = |clean: bool, was: u32| u32::from(clean && (was != 0 || !goes_on));
            (*context).upper_clean = keep(upper, (*context).upper_clean);
            (*context).high_clean = keep(high, (*context).high_clean);
            (*context).memory_clean = upper.into();
        }
    }

    /// Brings what generated code keeps elsewhere into the state.
    #[inline]
    fn take_back(&mut self, slow: &mut SlowPath) {
        let context = self.context.pointer().as_ptr();
        // SAFETY: no generated code runs now.
        let (flags, system, ring) = unsafe {
            slow.note_pauses((*context).pauses);
            let state = slow.state_mut();
            state.segment_mut(SegmentName::Fs).base = (*context).fs_base;
            state.segment_mut(SegmentName::Gs).base = (*context).gs_base;
            ((*context).flags, (*context).system_flags | (*context).interrupt_flag, (*context).ring)
        };
        let state = slow.state_mut();
        let ac = state.rflags.contains(Rflags::AC);
        let system = Rflags::from_bits_retain(system) | Rflags::FIXED;
        state.rflags = merge_flags(system, flags);
        let ac_changed = ac != state.rflags.contains(Rflags::AC);
        self.correct_x87_pointers(slow);
        if ring == Way::Supervisor as u64 {
            slow.enter_by_syscall();
        } else if ring == NULL_STACK {
            slow.enter_without_stack_segment();
        } else if ring == Way::User as u64 {
            slow.leave_by_sysret();
        } else if ac_changed {
            slow.refresh();
        }
    }
}

/// The arithmetic flags as LAHF and SETO leave them in AX.
const fn flags_image(flags: Rflags) -> u32 {
    let bits = flags.bits();
    ((bits & 0xff) << 8 | bits >> 11 & 1) as u32
}

/// The opposite.
const fn merge_flags(flags: Rflags, image: u32) -> Rflags {
    const LOW: u64 = 0xd5;
    let arithmetic = (image as u64 >> 8) & LOW | (image as u64 & 1) << 11;
    Rflags::from_bits_retain(flags.bits() & !Rflags::ARITHMETIC.bits() | arithmetic)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_survive_the_way_in_and_out() {
        for bits in 0..0x1000_u64 {
            let flags = Rflags::from_bits_retain(bits & Rflags::ARITHMETIC.bits() | 0x202);
            assert_eq!(merge_flags(Rflags::from_bits_retain(0x202 | 0x8d5), flags_image(flags)), flags);
        }
    }
}
