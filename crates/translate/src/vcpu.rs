//! A vCPU: finding code, running it, and doing what it comes back for.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use engine::{
    Callout, EngineError, EngineKind, Kick, Platform, Stop, TraceEvent, Vcpu, VcpuConfig, VcpuSignals,
    VcpuStats,
};
use interpret::slow::{Fetched, Ready, SlowPath};
use interpret::tlb::CodeFlushes;
use x86::{CpuState, Cr4, Exception, GuestPhysAddr, LinearAddr, PAGE_SIZE, Rflags, SegmentName};

use crate::blocks::{Block, BlockId, Blocks, Key};
use crate::cache::CodeCache;
use crate::context::{Context, ContextBox, jump_mask};
use crate::counters::Counters;
use crate::emit::{Emitter, LARGE_PAGE, Source, Style};
use crate::engine_impl::Options;
use crate::fault;
use crate::keys::{Keys, Scope};
use crate::listing::Listed;
use crate::mode::{Mode, Way};
use crate::runtime::{CHECK_LENGTH, Exit, LOOK_UP_LENGTH, Runtime, Vectors};

/// From behind a failing test to the access itself.
const CHECK_TAIL: usize = 8;
/// Room that the cache must have before a block is made.
const BLOCK_ROOM: usize = 64 << 10;
/// The longest instruction, in bytes (SDM 2A 2.3.11).
const MAX_INSN: usize = 15;
/// The most bytes of guest code in a block.
const MAX_BLOCK: usize = 512;
/// The longest access that a test allows.
const MAX_ACCESS: u64 = 64;

/// One translated processor.
pub(crate) struct Translated {
    slow: SlowPath,
    core: Core,
    signals: Arc<VcpuSignals>,
}

/// Everything but the interpreter.
struct Core {
    context: Arc<ContextBox>,
    cache: CodeCache,
    runtime: Runtime,
    emitter: Emitter,
    blocks: Blocks,
    keys: Keys,
    counters: Counters,
    options: Options,
    /// The code epoch at which all blocks were compared with their pages.
    epoch: u64,
    /// The interpreter's generation of decoded instructions.
    generation: u64,
    /// What supervisor code depends on.
    scope: Scope,
    /// How often all blocks were dropped.
    forgotten: u64,
    /// Where the pages of position-independent code were last mapped.
    pages: HashMap<u64, u64>,
    /// The x87's last instruction as the guest knows it.
    last_fip: u64,
    /// What the context is prepared for.
    prepared: Option<Prepared>,
    /// The interpreter may have changed floating-point registers.
    fpu_touched: bool,
    /// The guest's time-stamp counter is the host's plus a constant.
    tsc: bool,
    /// Flushes of pages with supervisor code that links between pages know of.
    linked_at: (u64, u64),
}

/// Rings when a signal has become pending.
struct Doorbell(Arc<ContextBox>);

impl Kick for Doorbell {
    fn kick(&self) {
        let context = self.0.pointer().as_ptr();
        // SAFETY: the context is valid as long as its box; only atomics are
        // touched.
        unsafe {
            (*context).exit_request.store(1, Ordering::SeqCst);
            (*context).key.store(0, Ordering::SeqCst);
        }
    }
}

impl Translated {
    pub(crate) fn new(config: VcpuConfig, options: Options) -> Result<Self, EngineError> {
        let refused = |what: &str, error: rustix::io::Errno| EngineError::Unusable {
            engine: EngineKind::Translate,
            reason: format!("it needs {what}, which the host refuses ({error})"),
        };
        let context = Arc::new(ContextBox::new().map_err(|error| refused("memory", error))?);
        let mut cache =
            CodeCache::new(options.code_cache).map_err(|error| refused("executable memory", error))?;
        let runtime = Runtime::build(&mut cache, Vectors::of_host());
        let signals = Arc::clone(&config.signals);
        // SAFETY: the context outlives the interpreter, which is dropped first;
        // generated code accesses the TLB only between calls.
        let slow = unsafe { SlowPath::new(config, context.tlb()) }?;
        signals.set_kick(Some(Arc::new(Doorbell(Arc::clone(&context)))));
        let style = Style { max_insns: options.max_block.max(1), counts: options.count };
        let core = Core {
            epoch: slow.memory().code_epoch(),
            generation: slow.generation(),
            context,
            cache,
            runtime,
            emitter: Emitter::new(runtime, style),
            blocks: Blocks::default(),
            keys: Keys::default(),
            counters: Counters::new(),
            options,
            scope: Scope::default(),
            forgotten: 0,
            pages: HashMap::new(),
            last_fip: 0,
            prepared: None,
            fpu_touched: true,
            tsc: false,
            linked_at: (0, 0),
        };
        Ok(Self { slow, core, signals })
    }
}

impl Drop for Translated {
    fn drop(&mut self) {
        self.signals.set_kick(None);
    }
}

impl Vcpu for Translated {
    fn state(&self) -> CpuState {
        self.slow.state().clone()
    }

    fn set_state(&mut self, state: &CpuState) {
        self.core.fpu_touched = true;
        self.slow.set_state(state);
    }

    fn run(&mut self, platform: &dyn Platform) -> Stop {
        let core = &mut self.core;
        self.slow.with_platform(platform, |slow| {
            core.start(slow);
            core.run(slow)
        })
    }

    fn step(&mut self, platform: &dyn Platform) -> Option<Stop> {
        self.core.fpu_touched = true;
        self.slow.with_platform(platform, |slow| slow.step().err())
    }

    fn stats(&self) -> VcpuStats {
        let context = self.core.context.pointer().as_ptr();
        // SAFETY: no generated code runs now.
        let (blocks, tests, refills) = unsafe { ((*context).blocks, (*context).tests, (*context).refills) };
        let counted = self.core.options.count.then_some((blocks, tests));
        VcpuStats {
            translation: Some(self.core.counters.report(counted, refills)),
            ..self.slow.stats().clone()
        }
    }
}

/// What the context is prepared for, as far as code switches modes by itself.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Prepared {
    mode: Mode,
    enabled: bool,
    open: bool,
    spaces: (u64, u32, CodeFlushes),
    scope: Scope,
    handler: (u64, u64),
    generation: u64,
}

/// Where to go on.
enum Found {
    /// At this host address.
    Code(usize),
    /// The instruction crosses a page or does not lie in memory.
    Single,
    /// It cannot be fetched.
    Fault(Exception),
}

/// What to do after an exit.
enum Next {
    /// Enter again at this host address.
    Resume(usize),
    /// Look for the code at CS:RIP.
    LookUp,
}

impl Core {
    /// Before generated code runs on this thread.
    fn start(&mut self, slow: &mut SlowPath) {
        fault::install_handlers(self.cache.changing(), self.runtime.exit(Exit::Interpret));
        let context = self.context.pointer().as_ptr();
        let tsc_offset = slow.platform().tsc_offset();
        self.tsc = tsc_offset.is_some();
        // SAFETY: no generated code runs now.
        unsafe {
            (*context).state = slow.state_mut();
            (*context).signals = slow.signals();
            (*context).tsc_offset = tsc_offset.unwrap_or(0);
        }
    }

    /// The processor's mode, if its code is translated.
    fn mode(&self, slow: &SlowPath) -> Option<Mode> {
        Mode::of(slow, self.tsc)
    }

    fn run(&mut self, slow: &mut SlowPath) -> Stop {
        loop {
            if let Err(stop) = self.go_on(slow) {
                return stop;
            }
        }
    }

    /// Attends to what is pending, or runs code until it comes back.
    fn go_on(&mut self, slow: &mut SlowPath) -> Result<(), Stop> {
        if slow.wants_step() {
            self.fpu_touched = true;
            return slow.step();
        }
        let Some(mode) = self.mode(slow) else {
            self.fpu_touched = true;
            return slow.interpret();
        };
        match self.find(slow, mode) {
            Found::Code(code) => self.execute(slow, mode, code),
            Found::Single => self.interpret_one(slow),
            Found::Fault(exception) => slow.deliver(exception),
        }
    }

    /// Lets the interpreter execute one instruction.
    fn interpret_one(&mut self, slow: &mut SlowPath) -> Result<(), Stop> {
        self.fpu_touched = true;
        slow.execute_one()
    }

    /// The block at CS:RIP, made if need be.
    fn find(&mut self, slow: &mut SlowPath, mode: Mode) -> Found {
        self.forget_stale(slow);
        let lin = slow.code_address();
        let key = self.key(slow, mode);
        let context = self.context.pointer().as_ptr();
        // SAFETY: no generated code runs now.
        if let Some(code) = unsafe { (*context).jumps.find((*context).jump_mask, lin.0, key) } {
            return Found::Code(code as usize);
        }
        match self.find_block(slow, mode, lin) {
            Ok(Some(id)) => {
                self.note_jump(slow, mode, lin, id);
                Found::Code(self.blocks.get(id).start)
            }
            Ok(None) => Found::Single,
            Err(exception) => Found::Fault(exception),
        }
    }

    /// Lets indirect branches find block `id` at `lin`.
    fn note_jump(&mut self, slow: &mut SlowPath, mode: Mode, lin: LinearAddr, id: BlockId) {
        if !self.options.chain {
            return;
        }
        let key = self.key(slow, mode);
        let code = self.blocks.get(id).start as u64;
        let context = self.context.pointer().as_ptr();
        // SAFETY: no generated code runs now.
        unsafe { (*context).jumps.note((*context).jump_mask, lin.0, key, code) };
    }

    #[inline]
    fn key(&mut self, slow: &mut SlowPath, mode: Mode) -> u64 {
        let wide = slow.state().cr4.contains(Cr4::LA57);
        let (key, clear) = self.keys.key(mode, self.scope, slow.tlb(), wide);
        if clear {
            self.clear_jumps();
        }
        key
    }

    fn clear_jumps(&mut self) {
        let context = self.context.pointer().as_ptr();
        // SAFETY: no generated code runs now.
        unsafe {
            (*context).jump_mask = jump_mask(self.keys.shift());
            (*context).jumps.clear((*context).jump_mask);
        }
    }

    /// Drops what writes to code and flushes have made wrong.
    #[inline]
    fn forget_stale(&mut self, slow: &mut SlowPath) {
        let epoch = slow.memory().code_epoch();
        if epoch != self.epoch {
            self.drop_hits(slow);
        }
        let tlb = slow.tlb();
        let flushed = (tlb.code_flushes.all, self.scope.flushes(tlb));
        if flushed != self.linked_at {
            self.linked_at = flushed;
            self.blocks.unlink_pages(&self.cache);
        }
        if slow.generation() != self.generation {
            self.forget_all(slow);
        }
    }

    /// Drops the blocks that writes have hit since the last time.
    #[cold]
    fn drop_hits(&mut self, slow: &mut SlowPath) {
        let (hits, epoch) = slow.memory().code_hits(self.epoch);
        self.epoch = epoch;
        let Some(hits) = hits else { return self.forget_all(slow) };
        let mut dropped = 0;
        let mut gone = Vec::new();
        for hit in hits {
            dropped += self.blocks.drop_hit(&self.cache, hit, |block| gone.push(block.key));
        }
        self.forget_jumps(slow, &gone);
        slow.stats_mut().callouts[Callout::BlockInvalidated as usize] += dropped;
        self.prepared = None;
    }

    /// Makes the jump cache forget blocks that are gone. Where a block of
    /// position-independent code was mapped is not known, nor the keys of other
    /// address spaces.
    fn forget_jumps(&mut self, slow: &mut SlowPath, gone: &[Key]) {
        if self.scope.is_local() || gone.iter().any(|key| key.mode.position_independent()) {
            return self.clear_jumps();
        }
        let context = self.context.pointer().as_ptr();
        for block in gone {
            // Under any key but the present one it is not found any more.
            let key = self.key(slow, block.mode.with_windows());
            // SAFETY: no generated code runs now.
            unsafe { (*context).jumps.forget((*context).jump_mask, block.lin.wrapping_add(key)) };
        }
    }

    fn forget_all(&mut self, slow: &SlowPath) {
        self.forgotten += 1;
        self.pages.clear();
        self.prepared = None;
        self.generation = slow.generation();
        self.blocks.clear();
        self.cache.clear();
        self.keys.forget();
        self.clear_jumps();
    }

    /// The block at `lin`, made if need be; `None` if the instruction there
    /// crosses a page or does not lie in memory.
    fn find_block(
        &mut self,
        slow: &mut SlowPath,
        mode: Mode,
        lin: LinearAddr,
    ) -> Result<Option<BlockId>, Exception> {
        let Some(fetched) = slow.fetch(lin)? else { return Ok(None) };
        if mode.position_independent() {
            self.pages.insert(fetched.gpa.0 >> 12, lin.page().0);
        } else {
            self.scope.note(lin, fetched.global, slow.tlb());
        }
        let gpa = fetched.gpa.0 | lin.page_offset();
        let lin_of = if mode.position_independent() { 0 } else { lin.0 };
        let key = Key { gpa, second: 0, lin: lin_of, mode };
        if let Some(id) = self.blocks.find(&key) {
            return Ok(Some(id));
        }
        let may_cross = lin.page_offset() > PAGE_SIZE - MAX_INSN as u64;
        let crossing = if may_cross { self.crossing_key(slow, key, lin) } else { None };
        if let Some(id) = crossing.and_then(|key| self.blocks.find(&key)) {
            return Ok(Some(id));
        }
        if let Some(id) = self.translate(slow, key, lin, &fetched) {
            return Ok(Some(id));
        }
        let boundary = (lin.0 | (PAGE_SIZE - 1)).wrapping_add(1).is_multiple_of(1 << LARGE_PAGE);
        let both = Fetched { large: fetched.large && !boundary, ..fetched };
        // If the second page faults, the interpreter says how.
        Ok(crossing.and_then(|key| self.translate(slow, key, lin, &both)))
    }

    /// The key of an instruction that crosses the end of its page; `None` if the
    /// second page cannot be fetched from.
    fn crossing_key(&mut self, slow: &mut SlowPath, key: Key, lin: LinearAddr) -> Option<Key> {
        let width = if key.mode.long() { u64::MAX } else { 0xffff_ffff };
        let next = LinearAddr((lin.0 | (PAGE_SIZE - 1)).wrapping_add(1) & width);
        let second = slow.fetch(next).ok()??;
        if !key.mode.position_independent() {
            self.scope.note(next, second.global, slow.tlb());
        }
        Some(Key { second: second.gpa.0, ..key })
    }

    fn translate(
        &mut self,
        slow: &mut SlowPath,
        key: Key,
        lin: LinearAddr,
        fetched: &Fetched,
    ) -> Option<BlockId> {
        let full = self.cache.range().end - self.cache.next() < BLOCK_ROOM
            || self.blocks.bytes() > self.options.code_cache;
        if full | slow.forget_if_full() {
            self.forget_all(slow);
        }
        let code = GuestCode::of(key);
        let (mut bytes, mut again) = ([0; MAX_BLOCK], [0; MAX_BLOCK]);
        let bytes = &mut bytes[..code.room()];
        code.read(slow, bytes)?;
        let started = self.options.count.then(Instant::now);
        let made = loop {
            let source = Source { bytes, lin: lin.0, mode: key.mode, large: fetched.large };
            let made = self.emitter.block(source, slow, self.cache.next())?;
            let len = usize::from(made.guest_len);
            code.mark(slow, len);
            // A write of another thread is noticed from the mark on; what came
            // before it must show here.
            let again = &mut again[..len];
            code.read(slow, again)?;
            if bytes[..len] == *again {
                break made;
            }
            code.read(slow, bytes)?;
        };
        let origin = self.cache.next();
        let code = self.emitter.asm.code();
        let end = origin + code.len();
        if !self.cache.place(code) {
            return None;
        }
        self.counters.translating += started.map_or(Duration::ZERO, |at| at.elapsed());
        if slow.traces_blocks() {
            let guest = &bytes[..usize::from(made.guest_len)];
            let (runtime, mode, lin) = (&self.runtime, key.mode, lin.0);
            let listed = Listed { runtime, mode, lin, guest, origin, host: code, made: &made };
            slow.report(&TraceEvent::Block { lin, listing: listed.text().into() });
        }
        self.counters.blocks_made += 1;
        self.counters.guest_bytes += u64::from(made.guest_len);
        self.counters.host_bytes += code.len() as u64;
        Some(self.blocks.add(Block::new(key, made, origin..end, fetched.large)))
    }

    /// Runs code from `code` on until somebody must look up where to go.
    fn execute(&mut self, slow: &mut SlowPath, mode: Mode, code: usize) -> Result<(), Stop> {
        let context = self.context.pointer().as_ptr();
        let key = loop {
            let generation = self.keys.generation;
            let key = self.key(slow, mode);
            self.prepare_ways(slow, mode);
            // All of them must be of one generation.
            if self.keys.generation == generation {
                break key;
            }
        };
        // SAFETY: no generated code runs now.
        unsafe {
            (*context).fpu_wanted = 0;
            (*context).save_r10 = slow.code_address().0;
            (*context).key.store(key, Ordering::SeqCst);
            (*context).exit_request.store(0, Ordering::SeqCst);
        }
        // A signal that came before this was not heard.
        if slow.signalled() {
            return Ok(());
        }
        let mut code = code;
        loop {
            let exit = self.enter(slow, code);
            match self.handle(slow, exit)? {
                Next::Resume(at) => code = at,
                Next::LookUp => return Ok(()),
            }
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
            generation: self.keys.generation,
        };
        if self.prepared == Some(prepared) {
            return;
        }
        let keys = Way::ALL.map(|way| self.key(slow, mode.after(way, open)));
        let context = self.context.pointer().as_ptr();
        // SAFETY: no generated code runs now.
        unsafe {
            for (way, key) in Way::ALL.into_iter().zip(keys) {
                (*context).keys[way as usize] = key;
            }
            let handler = (*context).jumps.find((*context).jump_mask, lstar, keys[0]).filter(|_| enabled);
            (*context).syscall_code = handler.unwrap_or(0);
            (*context).syscall_entry = lstar;
            (*context).syscall_kept = !fmask;
            (*context).syscall_blocked = handler.is_none().into();
            (*context).sysret_blocked = (!enabled).into();
            // A handler that is not known yet will be looked for again.
            self.prepared = (handler.is_some() || !enabled).then_some(prepared);
        }
    }

    /// Runs generated code.
    #[inline]
    fn enter(&mut self, slow: &mut SlowPath, code: usize) -> Exit {
        let context = self.context.pointer().as_ptr();
        if std::mem::take(&mut self.fpu_touched) {
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
        let place = block.guest_place(fip as usize);
        let page = if block.key.mode.position_independent() {
            self.pages.get(&(block.key.gpa >> 12)).copied().unwrap_or(0)
        } else {
            block.key.lin & !(PAGE_SIZE - 1)
        };
        let mut bytes = [0; MAX_INSN];
        let at = GuestPhysAddr(block.key.gpa & !(PAGE_SIZE - 1) | u64::from(place));
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

    /// Finds out which parts of the vector registers are in use. A block that
    /// goes on relies on what it has asked for.
    fn look_at_vectors(&mut self, slow: &mut SlowPath) {
        let fpu = &slow.state().fpu;
        let upper = fpu.zmm[..16].iter().all(|register| register.0[16..] == [0; 48]);
        let high = fpu.k == [0; 8] && fpu.zmm[16..].iter().all(|register| register.0 == [0; 64]);
        let context = self.context.pointer().as_ptr();
        // SAFETY: no generated code runs now.
        unsafe {
            let goes_on = (*context).fpu_wanted != 0;
            // What cannot be taken back now can be at the next look-up.
            self.fpu_touched = goes_on;
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
        } else if ring == Way::User as u64 {
            slow.leave_by_sysret();
        } else if ac_changed {
            slow.refresh();
        }
    }

    /// Does what code has come back for.
    fn handle(&mut self, slow: &mut SlowPath, exit: Exit) -> Result<Next, Stop> {
        self.counters.exit(exit);
        let context = self.context.pointer().as_ptr();
        // SAFETY: no generated code runs now.
        let (at, page) = unsafe { ((*context).exit_at as usize, (*context).page) };
        let Some(id) = self.blocks.at(at - 1) else {
            return Err(Stop::Failed(format!("translated code came back from nowhere ({at:#x})")));
        };
        let block = self.blocks.get(id);
        let mode = block.key.mode.with_windows();
        let place = block.guest_place(at - 1);
        let page = if mode.position_independent() { page } else { block.key.lin & !(PAGE_SIZE - 1) };
        let width = if mode.long() { u64::MAX } else { 0xffff_ffff };
        slow.state_mut().rip = page.wrapping_add(u64::from(place)) & width;
        match exit {
            Exit::Link => self.link(slow, mode, id, at, page, width),
            Exit::Callout => self.callout(slow, mode, id, place, at),
            Exit::Poll => Ok(Next::LookUp),
            Exit::Indirect => self.indirect(slow, mode, at),
            Exit::Interpret => {
                self.interpret_one(slow)?;
                Ok(Next::LookUp)
            }
            Exit::MissRead => self.miss(slow, mode, false, at),
            Exit::MissWrite => self.miss(slow, mode, true, at),
        }
    }

    /// A direct branch of block `id` that is not linked.
    fn link(
        &mut self,
        slow: &mut SlowPath,
        mode: Mode,
        id: BlockId,
        at: usize,
        page: u64,
        width: u64,
    ) -> Result<Next, Stop> {
        let block = self.blocks.get(id);
        let Some(number) = block.ways.iter().position(|way| way.stub_end == at) else {
            return Err(Stop::Failed(format!("a branch of translated code is unknown ({at:#x})")));
        };
        let target = page.wrapping_add(block.ways[number].target as u64) & width;
        let valid = block.valid;
        let mode = if block.ways[number].plain { mode.without_windows() } else { mode };
        slow.state_mut().rip = target;
        if !valid {
            return Ok(Next::LookUp);
        }
        let forgotten = self.forgotten;
        let Ok(Some(to)) = self.find_block(slow, mode, LinearAddr(target)) else { return Ok(Next::LookUp) };
        let links = self.options.chain && self.forgotten == forgotten && self.blocks.may_link(to);
        if links {
            self.blocks.link(&self.cache, id, number as u8, to);
        }
        // The dispatcher knows nothing of blocks without windows.
        let resumes = links || !mode.has_windows();
        Ok(if resumes { Next::Resume(self.blocks.get(to).inner) } else { Next::LookUp })
    }

    /// An indirect branch to the address in R10 that the jump cache does not
    /// know.
    fn indirect(&mut self, slow: &mut SlowPath, mode: Mode, at: usize) -> Result<Next, Stop> {
        let context = self.context.pointer().as_ptr();
        // SAFETY: no generated code runs now.
        let (target, key) = unsafe { ((*context).save_r10, (*context).key.load(Ordering::Relaxed)) };
        let rip = slow.state().rip;
        if self.options.chain && key != 0 {
            let forgotten = self.forgotten;
            slow.state_mut().rip = target;
            let found = self.find_block(slow, mode, LinearAddr(target));
            slow.state_mut().rip = rip;
            if let Ok(Some(id)) = found
                && self.forgotten == forgotten
                && self.key(slow, mode) == key
            {
                self.note_jump(slow, mode, LinearAddr(target), id);
                return Ok(Next::Resume(at - LOOK_UP_LENGTH));
            }
        }
        self.interpret_one(slow)?;
        Ok(Next::LookUp)
    }

    /// An instruction that the interpreter executes.
    fn callout(
        &mut self,
        slow: &mut SlowPath,
        mode: Mode,
        id: BlockId,
        place: u16,
        at: usize,
    ) -> Result<Next, Stop> {
        let block = self.blocks.get(id);
        let Some(insn) = block.slow_at(place) else {
            return Err(Stop::Failed(format!("an instruction of translated code is missing ({at:#x})")));
        };
        self.counters.interpreted(insn.mnemonic);
        self.fpu_touched |= insn.touches_fpu;
        let (before, flushes) = (slow.state().rip, slow.tlb().changes());
        slow.execute(insn)?;
        let hit = slow.take_code_hit();
        if insn.ends_block || hit {
            return Ok(Next::LookUp);
        }
        let expected = block.next_place(place).map(|next| before.wrapping_add(u64::from(next - place)));
        let goes_on = expected == Some(slow.state().rip)
            && !slow.wants_step()
            && slow.memory().code_epoch() == self.epoch
            && slow.tlb().changes() == flushes
            && self.mode(slow) == Some(mode);
        Ok(if goes_on { Next::Resume(at) } else { Next::LookUp })
    }

    /// An access that both levels of the TLB miss.
    fn miss(&mut self, slow: &mut SlowPath, mode: Mode, write: bool, at: usize) -> Result<Next, Stop> {
        let context = self.context.pointer().as_ptr();
        // SAFETY: no generated code runs now.
        let lin = unsafe { (*context).save_r10 };
        // How long the access is, is not known here: near the end of a page the
        // interpreter decides.
        match slow.make_ready(mode.view(), write, lin, MAX_ACCESS) {
            Ready::Yes => Ok(Next::Resume(at - CHECK_LENGTH)),
            Ready::Once(host) => {
                // SAFETY: as above.
                unsafe { (*context).save_r11 = (host as u64).wrapping_sub(lin) };
                Ok(Next::Resume(at + CHECK_TAIL))
            }
            Ready::No | Ready::Fault(_) => {
                self.interpret_one(slow)?;
                Ok(Next::LookUp)
            }
        }
    }
}

/// Flags that generated code keeps elsewhere than the others.
const INLINE_FLAGS: Rflags = Rflags::ARITHMETIC.union(Rflags::IF).union(Rflags::FIXED);

/// Guest code in one page, or one instruction in two.
#[derive(Clone, Copy)]
struct GuestCode {
    start: GuestPhysAddr,
    second: Option<GuestPhysAddr>,
}

impl GuestCode {
    fn of(key: Key) -> Self {
        let second = (key.second != 0).then_some(GuestPhysAddr(key.second));
        Self { start: GuestPhysAddr(key.gpa), second }
    }

    /// Bytes in the first page.
    fn in_first(self) -> usize {
        (PAGE_SIZE - self.start.page_offset()) as usize
    }

    /// How many bytes a block can have at the most.
    fn room(self) -> usize {
        if self.second.is_some() { MAX_INSN } else { self.in_first().min(MAX_BLOCK) }
    }

    /// Reads the first `bytes.len()` bytes; `None` if they are not memory.
    fn read(self, slow: &SlowPath, bytes: &mut [u8]) -> Option<()> {
        let (first, second) = bytes.split_at_mut(self.in_first().min(bytes.len()));
        slow.memory().read(self.start, first).ok()?;
        match self.second {
            Some(at) => slow.memory().read(at, second).ok(),
            None => Some(()),
        }
    }

    /// Notes that the first `len` bytes are translated.
    fn mark(self, slow: &mut SlowPath, len: usize) {
        let first = self.in_first().min(len);
        slow.mark_code(self.start, first as u64);
        if let Some(at) = self.second.filter(|_| len > first) {
            slow.mark_code(at, (len - first) as u64);
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
