//! The interpreter as the slow path of a translator: one instruction at a time,
//! on the same state, with the same software TLB.
//!
//! Whatever a translator does not do inline it does by calling this; so what an
//! instruction means is still said once.

use std::ptr::NonNull;
use std::sync::atomic::AtomicU32;
use std::time::Instant;

use engine::{Callout, EngineError, EngineKind, Platform, Stop, TraceEvent, VcpuConfig, VcpuStats};
use iced_x86::{Instruction, Mnemonic};
use memory::HostPage;
use x86::cpuid::CpuidModel;
use x86::paging::{Access, AccessKind};
use x86::{CpuState, Cr0, Cr4, Efer, Exception, GuestPhysAddr, LinearAddr, Rflags, SegmentName, Xcr0};

use crate::access::Place;
use crate::blocks::{Blocks, check_fetch};
use crate::cpu::{Break, Cpu};
use crate::decode::{Decoded, Flow, InsnDecoder};
use crate::insn::Insn;
pub use crate::native::portable;
use crate::native::{Arena, install_handlers};
use crate::ops::native::{Unit, unit};
pub use crate::system::FlatWay;
use crate::tlb::{Tlb, TlbBox, View};
use crate::{fpu, ops, step, string, system, vcpu, vector};

/// An instruction in the form that the interpreter executes.
pub struct SlowInsn {
    insn: Insn,
    /// Which instruction it is.
    pub mnemonic: Mnemonic,
    /// Whether what follows it must be looked up anew: it may jump, change the
    /// mode or let an interrupt in.
    pub ends_block: bool,
}

/// What came of an attempt to make a page ready for inline access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ready {
    /// It is in the first level of the TLB.
    Yes,
    /// It holds code, but not where this write goes: the host address for this
    /// one access.
    Once(*mut u8),
    /// The instruction must be executed by the interpreter.
    No,
    /// The access faults.
    Fault(Exception),
}

/// Where code was found.
#[derive(Clone, Copy, Debug)]
pub struct Fetched {
    /// The page in this process.
    pub host: HostPage,
    /// Its guest-physical address.
    pub gpa: GuestPhysAddr,
    /// Whether the mapping is a large page's.
    pub large: bool,
    /// Whether the mapping is global.
    pub global: bool,
}

/// One processor, ready to execute what a translator leaves to it.
pub struct SlowPath {
    cpu: Cpu,
    blocks: Blocks,
}

impl SlowPath {
    /// A processor in its reset state that shares `tlb` with its translator.
    ///
    /// # Errors
    /// If the host refuses executable memory, or too many vCPUs share the
    /// guest's.
    ///
    /// # Safety
    /// `tlb` must be initialized, stay valid as long as the value lives, and
    /// not be accessed by anybody else during calls of its methods.
    pub unsafe fn new(config: VcpuConfig, tlb: NonNull<Tlb>) -> Result<Self, EngineError> {
        let arena = Arena::new().map_err(|error| EngineError::Unusable {
            engine: EngineKind::Translate,
            reason: format!("it needs executable memory, which the host refuses ({error})"),
        })?;
        let cpu = Cpu::with_tlb(config, TlbBox::Lent(tlb), EngineKind::Translate)?;
        Ok(Self { cpu, blocks: Blocks::new(InsnDecoder::new(arena)) })
    }

    /// The architectural state.
    pub fn state(&self) -> &CpuState {
        &self.cpu.state
    }

    /// The architectural state. After changes of anything but general-purpose,
    /// floating-point and vector registers, RIP and arithmetic flags call
    /// [`Self::refresh`].
    pub fn state_mut(&mut self) -> &mut CpuState {
        &mut self.cpu.state
    }

    /// Replaces the architectural state.
    pub fn set_state(&mut self, state: &CpuState) {
        self.cpu.state = state.clone();
        self.cpu.debug_hits = 0;
        self.cpu.halt_reported = false;
        self.cpu.refresh();
        self.cpu.paging_changed();
    }

    /// Recomputes what is derived from segments, control registers and flags.
    pub fn refresh(&mut self) {
        self.cpu.refresh();
    }

    /// The counters.
    pub fn stats(&self) -> &VcpuStats {
        &self.cpu.stats
    }

    /// The counters, to count.
    pub fn stats_mut(&mut self) -> &mut VcpuStats {
        &mut self.cpu.stats
    }

    /// The processor that the guest sees.
    pub fn cpuid(&self) -> &CpuidModel {
        &self.cpu.cpuid
    }

    /// The machine's memory.
    pub fn memory(&self) -> &memory::GuestMemory {
        &self.cpu.memory
    }

    /// The TLB.
    pub fn tlb(&mut self) -> &mut Tlb {
        &mut self.cpu.tlb
    }

    /// How the current privilege sees memory.
    pub fn view(&self) -> View {
        self.cpu.view
    }

    /// Size of code by CS.L and CS.D: 2, 4 or 8 bytes.
    pub fn code_size(&self) -> u8 {
        self.cpu.code_size
    }

    /// Segments with base 0 and limit 4 GiB, readable and writable: bit N for
    /// segment N.
    pub fn flat_segments(&self) -> u8 {
        self.cpu.flat
    }

    /// Whether the stack pointer has all the bits that the code size gives it.
    pub fn stack_is_wide(&self) -> bool {
        self.cpu.stack_mask == if self.cpu.long { u64::MAX } else { 0xffff_ffff }
    }

    /// The linear address of the next instruction.
    pub fn code_address(&self) -> LinearAddr {
        self.cpu.code_address()
    }

    /// The machine's time-stamp counter may be read by programs.
    pub fn tsc_is_open(&self) -> bool {
        !self.cpu.state.cr4.contains(Cr4::TSD)
    }

    /// Lends the machine to the processor while `body` runs.
    pub fn with_platform<R>(&mut self, platform: &dyn Platform, body: impl FnOnce(&mut Self) -> R) -> R {
        install_handlers(&self.blocks.decoder.arena);
        let (start, halted) = (Instant::now(), self.cpu.stats.halted);
        let blocks = NonNull::from(&mut *self);
        let result = Cpu::with_platform(&mut self.cpu, platform, |_| {
            // SAFETY: the processor's own borrow is not used inside.
            body(unsafe { &mut *blocks.as_ptr() })
        });
        let stats = &mut self.cpu.stats;
        stats.busy += start.elapsed().saturating_sub(stats.halted - halted);
        result
    }

    /// Whether the next instruction needs [`Self::step`]: a signal is pending
    /// that can be acted upon, or something special surrounds it. RF alone does
    /// not: see [`Self::clear_resume_flag`].
    #[inline]
    pub fn wants_step(&self) -> bool {
        self.cpu.signalled() || step::surrounded(&self.cpu)
    }

    /// Clears RF, as the next instruction does when it has been executed: for
    /// those who execute it now, with nothing in between (SDM 3B 18.3.1.1). If
    /// it faults, RF is set in the flags that are saved all the same.
    #[inline]
    pub fn clear_resume_flag(&mut self) {
        self.cpu.state.rflags.remove(Rflags::RF);
    }

    /// Whether a signal is pending that can be acted upon now.
    #[inline]
    pub fn signalled(&self) -> bool {
        self.cpu.signalled()
    }

    /// Handles signals, then executes one instruction with all that surrounds
    /// it.
    ///
    /// # Errors
    /// If the vCPU must stop.
    pub fn step(&mut self) -> Result<(), Stop> {
        vcpu::attend(&mut self.cpu)?;
        step::step(&mut self.cpu, &mut self.blocks)
    }

    /// Handles signals and waits out HLT.
    ///
    /// # Errors
    /// If the vCPU must stop.
    pub fn attend(&mut self) -> Result<(), Stop> {
        vcpu::attend(&mut self.cpu)
    }

    /// Executes a block, as the interpreter alone would do.
    ///
    /// # Errors
    /// If the vCPU must stop.
    pub fn interpret(&mut self) -> Result<(), Stop> {
        if self.cpu.state.rflags.contains(Rflags::RF) {
            return step::step(&mut self.cpu, &mut self.blocks);
        }
        vcpu::execute_next(&mut self.cpu, &mut self.blocks)
    }

    /// Executes one instruction at CS:RIP, without what can surround it.
    ///
    /// # Errors
    /// If the vCPU must stop.
    pub fn execute_one(&mut self) -> Result<(), Stop> {
        step::step(&mut self.cpu, &mut self.blocks)
    }

    /// Executes `slow`, which lies at CS:RIP, or delivers its exception.
    ///
    /// # Errors
    /// If the vCPU must stop.
    #[inline]
    pub fn execute(&mut self, slow: &SlowInsn) -> Result<(), Stop> {
        let (cpu, insn) = (&mut self.cpu, &slow.insn);
        cpu.next_rip = cpu.state.rip.wrapping_add(u64::from(insn.len)) & cpu.linear_mask;
        cpu.fpu_touched |= insn.touches_fpu;
        match (insn.handler)(cpu, insn) {
            Ok(()) => {
                cpu.state.rip = cpu.next_rip;
                cpu.stats.instructions += 1;
                Ok(())
            }
            Err(cause) => vcpu::after_break(cpu, cause),
        }
    }

    /// Delivers the exception of the instruction at CS:RIP.
    ///
    /// # Errors
    /// If the vCPU must stop.
    pub fn deliver(&mut self, exception: Exception) -> Result<(), Stop> {
        self.cpu.fault = exception;
        vcpu::after_break(&mut self.cpu, Break::Fault)
    }

    /// Decodes the first instruction of `bytes`, in the current code size;
    /// `decoded` says which one it is.
    pub fn decode(&mut self, bytes: &[u8], decoded: &Instruction) -> Option<SlowInsn> {
        if self.blocks.decoder.arena.nearly_full() {
            return None;
        }
        match self.blocks.decoder.decode(bytes, self.cpu.code_size, &self.cpu.cpuid) {
            Decoded::Insn(insn, flow) => {
                Some(SlowInsn { insn, mnemonic: decoded.mnemonic(), ends_block: flow == Flow::End })
            }
            Decoded::MoreBytes => None,
        }
    }

    /// Forgets all decoded instructions, if little room is left for them. No
    /// [`SlowInsn`] may be executed afterwards.
    pub fn forget_if_full(&mut self) -> bool {
        let full = self.blocks.decoder.arena.nearly_full();
        if full {
            self.blocks.clear();
        }
        full
    }

    /// Forgets all decoded instructions, which are decoded again when they are
    /// executed.
    pub fn forget(&mut self) {
        self.blocks.clear();
    }

    /// Changes whenever decoded instructions are forgotten, those of
    /// [`Self::decode`] included.
    pub fn generation(&self) -> u64 {
        self.blocks.generation
    }

    /// Whether a store has hit decoded code since the last call.
    pub fn take_code_hit(&mut self) -> bool {
        std::mem::take(&mut self.cpu.code_hit)
    }

    /// Whether floating-point or vector registers may have been changed since
    /// the last call.
    pub fn take_fpu_touched(&mut self) -> bool {
        std::mem::take(&mut self.cpu.fpu_touched)
    }

    /// Where the instruction at `lin` comes from; `None` if it is not RAM or
    /// ROM.
    ///
    /// # Errors
    /// The fault of the instruction fetch.
    pub fn fetch(&mut self, lin: LinearAddr) -> Result<Option<Fetched>, Exception> {
        if check_fetch(&mut self.cpu, 1).is_err() {
            return Err(self.cpu.fault);
        }
        let cpu = &mut self.cpu;
        let access = Access { kind: AccessKind::Execute, user: cpu.view.user(), smap_override: false };
        let page = cpu.paging.translate(&cpu.memory, lin, access)?;
        let large = page.page_shift > 12;
        cpu.tlb.note_large(lin.0, page.page_shift);
        cpu.tlb.note_fetch(lin);
        let host = cpu.memory.page(page.gpa);
        Ok(host.map(|host| Fetched { host, gpa: page.gpa.page(), large, global: page.global }))
    }

    /// Notes that `len` bytes at `at`, in one page, are translated. What is read
    /// after this is what is translated.
    pub fn mark_code(&mut self, at: GuestPhysAddr, len: u64) {
        self.cpu.mark_code(at, len);
    }

    /// Makes the page of `lin` ready for an inline access of `size` bytes.
    #[inline]
    pub fn make_ready(&mut self, view: View, write: bool, lin: u64, size: u64) -> Ready {
        let crosses = (lin & 0xfff) + size > 0x1000;
        if crosses || !view.cached() {
            return Ready::No;
        }
        match self.cpu.place(view, lin, write) {
            Err(_) => Ready::Fault(self.cpu.fault),
            Ok(Place::Ram(_)) if self.cpu.tlb.lookup(view, write, lin, size).is_some() => Ready::Yes,
            Ok(Place::Code(host, at)) if write => {
                if self.cpu.seat.may_write_once(at, size) {
                    self.cpu.stats.count(Callout::TlbMiss);
                    Ready::Once(host)
                } else {
                    Ready::No
                }
            }
            Ok(_) => Ready::No,
        }
    }

    /// Whether the register files that plain floating-point and vector
    /// instructions need are enabled in principle: SSE, AVX, AVX-512.
    pub fn vector_units(&self) -> [bool; 3] {
        let state = &self.cpu.state;
        let sse = state.cr4.contains(Cr4::OSFXSR) && !state.cr0.contains(Cr0::EM);
        let xcr = |needed| sse && state.cr4.contains(Cr4::OSXSAVE) && state.xcr0.contains(needed);
        let avx = Xcr0::SSE.union(Xcr0::AVX);
        [sse, xcr(avx), xcr(avx.union(Xcr0::AVX512))]
    }

    /// Whether floating-point and vector registers may be used at all now.
    pub fn fpu_is_available(&self) -> bool {
        !self.cpu.state.cr0.intersects(Cr0::EM | Cr0::TS)
    }

    /// Whether SYSCALL and SYSRET work.
    pub fn syscall_is_enabled(&self) -> bool {
        self.cpu.state.long_mode() && self.cpu.state.efer.contains(Efer::SCE)
    }

    /// Segments become those that SYSCALL loads.
    pub fn enter_by_syscall(&mut self) {
        system::load_syscall_segments(&mut self.cpu);
        self.cpu.refresh();
    }

    /// Segments become those that SYSRET to 64-bit code loads.
    pub fn leave_by_sysret(&mut self) {
        system::load_sysret_segments(&mut self.cpu);
        self.cpu.refresh();
    }

    /// Segments become those of SYSCALL, but for a null SS.
    pub fn enter_without_stack_segment(&mut self) {
        system::load_syscall_code_segment(&mut self.cpu);
        self.cpu.refresh();
    }

    /// Where IRETQ can lead, to privilege level 0 and 3, with no effect beyond
    /// CS:RIP, SS:RSP and RFLAGS; `None` if it may have others now.
    #[inline]
    pub fn flat_ways(&self) -> Option<[FlatWay; 2]> {
        system::flat_ways(&self.cpu)
    }

    /// The word of pending signals.
    pub fn signals(&self) -> *const AtomicU32 {
        self.cpu.signals.word()
    }

    /// Counts PAUSEs that the translator has executed itself.
    pub fn note_pauses(&mut self, count: u64) {
        self.cpu.pauses = self.cpu.pauses.saturating_add(count);
    }

    /// Whether somebody wants to see blocks as they are translated.
    pub fn traces_blocks(&self) -> bool {
        self.cpu.tracing.blocks
    }

    /// Shows an event to whoever traces.
    pub fn report(&self, event: &TraceEvent) {
        self.cpu.report(event);
    }

    /// The machine that is lent.
    pub fn platform(&self) -> &dyn Platform {
        self.cpu.platform()
    }
}

/// Which register file a plain instruction uses, for [`classify`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plain {
    /// General-purpose registers and flags alone.
    Integer,
    /// x87 or MMX.
    X87,
    /// XMM registers by legacy encodings.
    Sse,
    /// By VEX encodings.
    Avx,
    /// By EVEX encodings, or opmask registers.
    Avx512,
}

/// Whether the host may execute `instruction` in a translated block, with its
/// registers and its one memory operand replaced, and what it needs; `None` if
/// it is the interpreter's.
pub fn classify(instruction: &Instruction) -> Option<Plain> {
    let handled = fpu::choose(instruction).is_some()
        || string::choose(instruction).is_some()
        || system::choose(instruction).is_some()
        || vector::choose(instruction).is_some()
        || vector::packs(instruction.mnemonic())
        || ops::needs_handler(instruction)
        || crate::decode::is_short_movsxd(instruction);
    if handled || !ops::native::allowed(instruction) || !crate::native::contained(instruction) {
        return None;
    }
    Some(match unit(instruction) {
        Unit::Integer | Unit::Bmi => Plain::Integer,
        Unit::X87 | Unit::Mmx => Plain::X87,
        Unit::Sse => Plain::Sse,
        Unit::Avx => Plain::Avx,
        Unit::Avx512 => Plain::Avx512,
    })
}

/// The segment of an instruction's memory operand, as the processor sees it.
pub fn operand_segment(instruction: &Instruction) -> SegmentName {
    crate::decode::operand_segment(instruction)
}
