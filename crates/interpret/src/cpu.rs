//! One processor as the interpreter runs it: the architectural state, what is
//! derived from it, and the way out to the machine.

use std::ptr::NonNull;
use std::sync::Arc;

use engine::{
    Callout, EngineError, EngineKind, Platform, Signal, TraceEvent, TraceSink, TraceWhat, VcpuConfig,
    VcpuSignals, VcpuStats,
};
use memory::{Alone, Forget, GuestMemory, MAX_SEATS, Seat};
use x86::cpuid::{CpuidModel, Feature, Habit};
use x86::paging::Paging;
use x86::{
    CpuState, Cr0, Cr4, Exception, Gpr, GuestPhysAddr, LinearAddr, Rflags, Segment, SegmentName, is_canonical,
};

use crate::native::Bounce;
use crate::tlb::{Tlb, TlbBox, View};

/// Why an instruction did not run to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Break {
    /// It faulted: [`Cpu::fault`] says how.
    Fault,
    /// It did a part and wants to be started again (`rep`, interrupted).
    Restart,
}

/// The outcome of an instruction or a part of one.
pub(crate) type Exec<T = ()> = Result<T, Break>;

/// The size of code, operands or addresses, in bytes.
pub(crate) mod size {
    pub(crate) const WORD: u8 = 2;
    pub(crate) const DWORD: u8 = 4;
    pub(crate) const QWORD: u8 = 8;
}

/// A processor. Every public field of the architecture is in `state`; the rest
/// is derived by [`Cpu::refresh`] or belongs to the interpreter.
pub(crate) struct Cpu {
    pub(crate) state: CpuState,
    /// Where execution goes on after the current instruction.
    pub(crate) next_rip: u64,
    /// The exception behind [`Break::Fault`].
    pub(crate) fault: Exception,
    /// A store has hit decoded code: the running block may be stale.
    pub(crate) code_hit: bool,
    /// [`Stop::HaltedForGood`] has been told and the processor still halts.
    pub(crate) halt_reported: bool,
    /// PAUSEs since other threads were let run.
    pub(crate) pauses: u64,
    /// Somebody has ended the next HLT.
    pub(crate) unhalted: bool,
    /// Debug conditions met by the current instruction, as bits of DR6.
    pub(crate) debug_hits: u64,
    /// An instruction that may change floating-point or vector registers has
    /// been executed.
    pub(crate) fpu_touched: bool,
    /// The current instruction has entered a handler: it is no single step.
    pub(crate) entered_handler: bool,

    /// Size of code by CS.L and CS.D: 2, 4 or 8.
    pub(crate) code_size: u8,
    /// Which bits of RSP the stack uses.
    pub(crate) stack_mask: u64,
    /// 64-bit mode.
    pub(crate) long: bool,
    /// Segments with base 0 and limit 4 GiB, readable and writable: bit N for
    /// segment N.
    pub(crate) flat: u8,
    /// The last offset up to which an access in such a segment may reach: the
    /// last one, unless it wraps at 4 GiB.
    pub(crate) flat_end: u64,
    /// How the current privilege sees memory.
    pub(crate) view: View,
    pub(crate) paging: Paging,
    /// Bits of linear addresses that exist in the current mode.
    pub(crate) linear_mask: u64,
    /// Some data breakpoint is enabled.
    pub(crate) watching: bool,

    pub(crate) tlb: TlbBox,
    pub(crate) bounce: Box<Bounce>,
    pub(crate) id: u32,
    pub(crate) memory: GuestMemory,
    /// The vCPU's part in what all that share the memory agree on.
    pub(crate) seat: Seat,
    pub(crate) cpuid: Arc<CpuidModel>,
    pub(crate) signals: Arc<VcpuSignals>,
    pub(crate) stats: VcpuStats,
    pub(crate) trace: Option<Arc<dyn TraceSink>>,
    pub(crate) tracing: TraceWhat,
    platform: Option<NonNull<dyn Platform>>,
}

// SAFETY: `platform` is set only while `run` or `step` borrows the machine, on
// the thread that called it.
unsafe impl Send for Cpu {}

impl Cpu {
    pub(crate) fn new(config: VcpuConfig) -> Result<Self, EngineError> {
        Self::with_tlb(config, TlbBox::Owned(Tlb::new()), EngineKind::Interpret)
    }

    pub(crate) fn with_tlb(config: VcpuConfig, tlb: TlbBox, engine: EngineKind) -> Result<Self, EngineError> {
        let signals = Arc::clone(&config.signals);
        let seat = Seat::take(&config.memory, Arc::new(move || signals.raise(Signal::Safepoint)));
        let seat = seat.ok_or_else(|| EngineError::Unsupported {
            engine,
            reason: format!("at most {MAX_SEATS} vCPUs can share one memory"),
        })?;
        let state = CpuState::reset();
        let tracing = config.trace.as_ref().map(|sink| sink.wants()).unwrap_or_default();
        let mut cpu = Self {
            paging: paging(&state, &config.cpuid),
            state,
            next_rip: 0,
            fault: Exception::UD,
            code_hit: false,
            halt_reported: false,
            pauses: 0,
            unhalted: false,
            debug_hits: 0,
            fpu_touched: false,
            entered_handler: false,
            code_size: size::WORD,
            stack_mask: 0xffff,
            long: false,
            flat: 0,
            flat_end: 0xffff_ffff,
            view: View::Supervisor,
            linear_mask: 0xffff_ffff,
            watching: false,
            tlb,
            bounce: Bounce::new(),
            id: config.id,
            memory: config.memory,
            seat,
            cpuid: config.cpuid,
            signals: config.signals,
            stats: VcpuStats::default(),
            trace: config.trace,
            tracing,
            platform: None,
        };
        cpu.refresh();
        Ok(cpu)
    }

    /// Borrows the machine for as long as `body` runs, inside.
    pub(crate) fn with_platform<R>(
        cpu: &mut Self,
        platform: &dyn Platform,
        body: impl FnOnce(&mut Self) -> R,
    ) -> R {
        let erased: NonNull<dyn Platform + '_> = NonNull::from(platform);
        // SAFETY: only the lifetime changes; the pointer is dropped below,
        // before the borrow ends.
        cpu.platform = Some(unsafe {
            std::mem::transmute::<NonNull<dyn Platform + '_>, NonNull<dyn Platform + 'static>>(erased)
        });
        let stay = cpu.seated(Seat::stay);
        let result = body(cpu);
        drop(stay);
        cpu.platform = None;
        result
    }

    /// Does something that may make this vCPU serve others.
    pub(crate) fn seated<R>(&mut self, body: impl FnOnce(&Seat, &mut dyn FnMut(Forget)) -> R) -> R {
        let (memory, tlb) = (&self.memory, &mut self.tlb);
        body(&self.seat, &mut |forget| match forget {
            Forget::AllWrites => tlb.forbid_all_writes(),
            Forget::Pages(pages) => pages
                .into_iter()
                .filter_map(|page| memory.page(page))
                .for_each(|page| tlb.forbid_writes(page.start.as_ptr())),
        })
    }

    /// Notes that `len` bytes at `at`, all in one page, hold code; from now on
    /// every write to them is noticed.
    pub(crate) fn mark_code(&mut self, at: GuestPhysAddr, len: u64) {
        self.seated(|seat, forget| seat.mark_code(at, len, forget));
    }

    /// Makes all other vCPUs stand, between two instructions, until what comes
    /// back is dropped.
    pub(crate) fn alone(&mut self) -> Alone {
        self.seated(Seat::alone)
    }

    /// The machine. Instructions run only inside [`Cpu::with_platform`].
    pub(crate) fn platform<'a>(&self) -> &'a dyn Platform {
        match self.platform {
            // SAFETY: set by `with_platform`, whose caller lends the machine
            // for longer than any instruction runs.
            Some(platform) => unsafe { &*platform.as_ptr() },
            None => unreachable!("instructions run only while the machine is lent"),
        }
    }

    /// Notes `exception` as the outcome of the current instruction:
    /// `return Err(cpu.raise(...))`.
    #[cold]
    pub(crate) fn raise(&mut self, exception: Exception) -> Break {
        self.fault = exception;
        Break::Fault
    }

    /// #GP(0).
    #[cold]
    pub(crate) fn gp0(&mut self) -> Break {
        self.raise(Exception::gp(0))
    }

    /// #UD.
    #[cold]
    pub(crate) fn ud(&mut self) -> Break {
        self.raise(Exception::UD)
    }

    /// Current privilege level.
    pub(crate) fn cpl(&self) -> u8 {
        self.state.cpl()
    }

    /// #GP(0) unless the CPL is 0. Virtual-8086 mode has CPL 3.
    pub(crate) fn require_cpl0(&mut self) -> Exec {
        if self.cpl() == 0 { Ok(()) } else { Err(self.gp0()) }
    }

    /// Recomputes all that is derived from the state. Call it after any change
    /// of segments, control registers, EFER, DR7 or the flags VM and AC.
    pub(crate) fn refresh(&mut self) {
        let state = &self.state;
        self.long = state.mode_64bit();
        let cs = state.segment(SegmentName::Cs).attributes;
        let ss = state.segment(SegmentName::Ss).attributes;
        self.code_size = match (self.long, cs.db()) {
            (true, _) => size::QWORD,
            (_, true) => size::DWORD,
            _ => size::WORD,
        };
        self.stack_mask = match (self.long, ss.db()) {
            (true, _) => u64::MAX,
            (_, true) => 0xffff_ffff,
            _ => 0xffff,
        };
        self.linear_mask = if self.long { u64::MAX } else { 0xffff_ffff };
        self.flat_end = if self.cpuid.has_habit(Habit::WrapsAt4Gib) { u64::MAX } else { 0xffff_ffff };
        self.flat = 0;
        for (index, segment) in state.segments.iter().enumerate() {
            self.flat |= u8::from(is_flat(segment)) << index;
        }
        self.watching = state.dr7.bits() & 0xff != 0;
        self.refresh_view();
    }

    /// The part of [`Cpu::refresh`] that the flag AC, the CPL and CR0.AM decide.
    pub(crate) fn refresh_view(&mut self) {
        self.view = self.view_at(self.state.cpl());
    }

    /// How privilege level `cpl` would see memory with the current flags.
    pub(crate) fn view_at(&self, cpl: u8) -> View {
        let state = &self.state;
        let ac = state.rflags.contains(Rflags::AC);
        let view = if cpl == 3 {
            if ac && state.cr0.contains(Cr0::AM) { View::UserAligned } else { View::User }
        } else if ac && state.cr4.contains(Cr4::SMAP) {
            View::SupervisorAc
        } else {
            View::Supervisor
        };
        if self.watching { view.watched() } else { view }
    }

    /// Recomputes the paging digest and forgets all translations. Call it after
    /// changes of CR0, CR4, EFER or PKRU.
    pub(crate) fn paging_changed(&mut self) {
        self.paging = paging(&self.state, &self.cpuid);
        self.flush_tlb();
    }

    /// The same after a change of CR3, which forgets what belonged to the
    /// address space, if it is not to be kept, and leaves the others and global
    /// pages alone (SDM 3A 4.10.4.1).
    pub(crate) fn space_changed(&mut self, keep: bool) {
        self.paging = paging(&self.state, &self.cpuid);
        self.stats.count(Callout::TlbFlush);
        let pcid = self.pcid();
        self.tlb.switch(pcid, keep);
    }

    /// The current process-context identifier; 0 while there are none.
    pub(crate) fn pcid(&self) -> u16 {
        if self.state.cr4.contains(Cr4::PCIDE) { (self.state.cr3 & 0xfff) as u16 } else { 0 }
    }

    /// Forgets all translations.
    pub(crate) fn flush_tlb(&mut self) {
        self.stats.count(Callout::TlbFlush);
        self.tlb.flush();
    }

    /// Forgets the translations of the page at `lin`.
    pub(crate) fn flush_page(&mut self, lin: u64) {
        self.stats.count(Callout::TlbFlush);
        self.tlb.flush_page(lin);
    }

    /// Whether `lin` is canonical in the current paging mode.
    pub(crate) fn canonical(&self, lin: u64) -> bool {
        is_canonical(lin, self.state.cr4.contains(Cr4::LA57))
    }

    /// Whether `lin` may be loaded into a register that holds a linear address:
    /// the width that counts is the one the processor supports, not the one
    /// that CR4.LA57 has enabled.
    pub(crate) fn loadable(&self, lin: u64) -> bool {
        is_canonical(lin, self.cpuid.has(Feature::La57))
    }

    /// The linear address of the current instruction.
    pub(crate) fn code_address(&self) -> LinearAddr {
        let base = if self.long { 0 } else { self.state.segment(SegmentName::Cs).base };
        LinearAddr(base.wrapping_add(self.state.rip) & self.linear_mask)
    }

    /// Whether a signal is pending that can be acted upon now.
    #[inline]
    pub(crate) fn signalled(&self) -> bool {
        const MASKABLE: u32 = Signal::Interrupt as u32;
        let pending = self.signals.pending();
        pending != 0 && (pending != MASKABLE || self.state.rflags.contains(Rflags::IF))
    }

    /// Reports an event to the trace, if there is one.
    #[cold]
    pub(crate) fn report(&self, event: &TraceEvent) {
        if let Some(sink) = &self.trace {
            sink.event(self.id, event);
        }
    }

    /// A register by number, all 64 bits.
    #[inline]
    pub(crate) fn reg64(&self, reg: u8) -> u64 {
        self.state.gpr[usize::from(reg & 15)]
    }

    /// A register's low `size` bytes; byte registers 16 to 19 are AH, CH, DH
    /// and BH.
    #[inline]
    pub(crate) fn reg(&self, reg: u8, bytes: u8) -> u64 {
        match bytes {
            1 if reg >= 16 => self.state.gpr[usize::from(reg & 3)] >> 8 & 0xff,
            _ => self.reg64(reg) & mask(bytes),
        }
    }

    /// Writes a register's low `size` bytes: 4-byte writes clear the upper
    /// half, smaller ones keep the rest (SDM 1 3.4.1.1).
    #[inline]
    pub(crate) fn set_reg(&mut self, reg: u8, bytes: u8, value: u64) {
        let slot = &mut self.state.gpr[usize::from(if reg >= 16 { reg & 3 } else { reg })];
        *slot = match bytes {
            8 => value,
            4 => value & 0xffff_ffff,
            2 => *slot & !0xffff | value & 0xffff,
            _ if reg >= 16 => *slot & !0xff00 | (value & 0xff) << 8,
            _ => *slot & !0xff | value & 0xff,
        };
    }

    /// RSP as the stack's size shows it.
    pub(crate) fn stack_pointer(&self) -> u64 {
        self.state.reg(Gpr::Rsp) & self.stack_mask
    }

    /// Sets the part of RSP that the stack uses.
    pub(crate) fn set_stack_pointer(&mut self, value: u64) {
        let mask = self.stack_mask;
        let keep = if mask == 0xffff { self.state.reg(Gpr::Rsp) & !mask } else { 0 };
        self.state.set_reg(Gpr::Rsp, keep | value & mask);
    }

    /// Replaces the arithmetic flags in `mask` by those in `new`.
    #[inline]
    pub(crate) fn set_flags(&mut self, mask: Rflags, new: Rflags) {
        self.state.rflags = self.state.rflags.difference(mask).union(new.intersection(mask));
    }
}

/// The paging digest of `state` on the processor that the guest sees.
fn paging(state: &CpuState, cpuid: &CpuidModel) -> Paging {
    Paging::from_state(state)
        .with_phys_bits(cpuid.phys_bits())
        .with_gigabyte_pages(cpuid.has(Feature::Page1Gb))
}

/// All ones in the low `bytes` bytes.
#[inline]
pub(crate) const fn mask(bytes: u8) -> u64 {
    match bytes {
        1 => 0xff,
        2 => 0xffff,
        4 => 0xffff_ffff,
        _ => u64::MAX,
    }
}

fn is_flat(segment: &Segment) -> bool {
    segment.base == 0 && segment.is_plain_data()
}
