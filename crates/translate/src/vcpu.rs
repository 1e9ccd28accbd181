//! A vCPU: finding code, running it, and doing what it comes back for.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use engine::{
    Callout, EngineError, EngineKind, Kick, Platform, Stop, Vcpu, VcpuConfig, VcpuSignals, VcpuStats,
};
use interpret::slow::{Fetched, Ready, SlowPath};
use x86::{CpuState, Cr4, Exception, LinearAddr, PAGE_SIZE, Rflags, SegmentName};

use crate::blocks::{Block, BlockId, Blocks, Key};
use crate::cache::CodeCache;
use crate::context::{Context, ContextBox};
use crate::counters::Counters;
use crate::emit::{Emitter, Source, Style};
use crate::engine_impl::Options;
use crate::fault;
use crate::keys::{Keys, Scope};
use crate::mode::Mode;
use crate::runtime::{CHECK_LENGTH, Exit, Runtime, Vectors};

/// From behind a failing test to the access itself.
const CHECK_TAIL: usize = 8;
/// Room that the cache must have before a block is made.
const BLOCK_ROOM: usize = 64 << 10;
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
        self.slow.with_platform(platform, |slow| slow.step().err())
    }

    fn stats(&self) -> VcpuStats {
        let context = self.core.context.pointer().as_ptr();
        // SAFETY: no generated code runs now.
        let (blocks, refills) = unsafe { ((*context).blocks, (*context).refills) };
        let blocks = self.core.options.count.then_some(blocks);
        VcpuStats {
            translation: Some(self.core.counters.report(blocks, refills)),
            ..self.slow.stats().clone()
        }
    }
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
        fault::install_handlers(self.cache.range(), self.runtime.exit(Exit::Interpret));
        let context = self.context.pointer().as_ptr();
        // SAFETY: no generated code runs now.
        unsafe { (*context).state = slow.state_mut() };
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
            return slow.step();
        }
        let Some(mode) = Mode::of(slow) else { return slow.interpret() };
        match self.find(slow, mode) {
            Found::Code(code) => self.execute(slow, mode, code),
            Found::Single => slow.execute_one(),
            Found::Fault(exception) => slow.deliver(exception),
        }
    }

    /// The block at CS:RIP, made if need be.
    fn find(&mut self, slow: &mut SlowPath, mode: Mode) -> Found {
        self.forget_stale(slow);
        let lin = slow.code_address();
        let key = self.key(slow, mode);
        let context = self.context.pointer().as_ptr();
        // SAFETY: no generated code runs now.
        if let Some(code) = unsafe { (*context).jumps.find(lin.0, key) } {
            return Found::Code(code as usize);
        }
        match self.find_block(slow, mode, lin) {
            Ok(Some(id)) => {
                let code = self.blocks.get(id).start;
                if self.options.chain {
                    let key = self.key(slow, mode);
                    // SAFETY: as above.
                    unsafe { (*context).jumps.note(lin.0, key, code as u64) };
                }
                Found::Code(code)
            }
            Ok(None) => Found::Single,
            Err(exception) => Found::Fault(exception),
        }
    }

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
        unsafe { (*context).jumps.clear() };
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
        let dropped: u64 = hits.into_iter().map(|hit| self.blocks.drop_hit(&self.cache, hit)).sum();
        if dropped > 0 {
            self.clear_jumps();
            slow.stats_mut().callouts[Callout::BlockInvalidated as usize] += dropped;
        }
    }

    fn forget_all(&mut self, slow: &SlowPath) {
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
        if !mode.position_independent() {
            self.scope.note(lin, fetched.global);
        }
        let gpa = fetched.gpa.0 | lin.page_offset();
        let key = Key { gpa, lin: if mode.position_independent() { 0 } else { lin.0 }, mode };
        Ok(self.blocks.find(&key).or_else(|| self.translate(slow, key, lin, &fetched)))
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
        let start = x86::GuestPhysAddr(key.gpa);
        let mut bytes = [0; PAGE_SIZE as usize];
        let bytes = &mut bytes[start.page_offset() as usize..];
        let mut again = [0; PAGE_SIZE as usize];
        slow.memory().read(start, bytes).ok()?;
        let made = loop {
            let source = Source { bytes, lin: lin.0, mode: key.mode, large: fetched.large };
            let made = self.emitter.block(source, slow, self.cache.next())?;
            let len = usize::from(made.guest_len);
            slow.mark_code(start, len as u64);
            // A write of another thread is noticed from the mark on; what came
            // before it must show here.
            let again = &mut again[..len];
            slow.memory().read(start, again).ok()?;
            if bytes[..len] == *again {
                break made;
            }
            slow.memory().read(start, bytes).ok()?;
        };
        let origin = self.cache.next();
        let code = self.emitter.asm.code();
        let end = origin + code.len();
        if !self.cache.place(code) {
            return None;
        }
        self.counters.blocks_made += 1;
        self.counters.guest_bytes += u64::from(made.guest_len);
        self.counters.host_bytes += code.len() as u64;
        Some(self.blocks.add(Block::new(key, made, origin..end)))
    }

    /// Runs code from `code` on until somebody must look up where to go.
    fn execute(&mut self, slow: &mut SlowPath, mode: Mode, code: usize) -> Result<(), Stop> {
        let context = self.context.pointer().as_ptr();
        let key = self.key(slow, mode);
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
            match self.handle(slow, mode, exit)? {
                Next::Resume(at) => code = at,
                Next::LookUp => return Ok(()),
            }
        }
    }

    /// Runs generated code.
    #[inline]
    fn enter(&mut self, slow: &mut SlowPath, code: usize) -> Exit {
        let context = self.context.pointer().as_ptr();
        let blocked = u32::from(!slow.fpu_is_available());
        let state = slow.state_mut();
        // SAFETY: `enter` is code of the function type given; the context is
        // valid and nobody else touches more of it than its atomics; `code` is
        // an address in the cache where code begins or goes on.
        unsafe {
            (*context).flags = flags_image(state.rflags);
            (*context).fs_base = state.segment(SegmentName::Fs).base;
            (*context).gs_base = state.segment(SegmentName::Gs).base;
            (*context).fpu_blocked = blocked;
            (*context).target = code as u64;
            let enter: extern "sysv64" fn(*mut Context) -> u64 = std::mem::transmute(self.runtime.enter);
            let number = enter(context);
            let state = slow.state_mut();
            state.rflags = merge_flags(state.rflags, (*context).flags);
            Exit::from_number(number)
        }
    }

    /// Does what code has come back for.
    fn handle(&mut self, slow: &mut SlowPath, mode: Mode, exit: Exit) -> Result<Next, Stop> {
        self.counters.exit(exit);
        let context = self.context.pointer().as_ptr();
        // SAFETY: no generated code runs now.
        let (at, page) = unsafe { ((*context).exit_at as usize, (*context).page) };
        let Some(id) = self.blocks.at(at - 1) else {
            return Err(Stop::Failed(format!("translated code came back from nowhere ({at:#x})")));
        };
        let block = self.blocks.get(id);
        let place = block.guest_place(at - 1);
        let page = if mode.position_independent() { page } else { block.key.lin & !(PAGE_SIZE - 1) };
        let width = if mode.long() { u64::MAX } else { 0xffff_ffff };
        slow.state_mut().rip = page.wrapping_add(u64::from(place)) & width;
        match exit {
            Exit::Link => self.link(slow, mode, id, at, page, width),
            Exit::Callout => self.callout(slow, mode, id, place, at),
            Exit::Poll => Ok(Next::LookUp),
            Exit::Indirect | Exit::Interpret | Exit::Window => {
                slow.execute_one()?;
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
        let (valid, mode_of) = (block.valid, block.key.mode);
        slow.state_mut().rip = target;
        if !self.options.chain || !valid {
            return Ok(Next::LookUp);
        }
        let made = self.blocks.len();
        if let Ok(Some(to)) = self.find_block(slow, mode_of, LinearAddr(target))
            && self.blocks.len() >= made
        {
            self.blocks.link(&self.cache, id, number as u8, to);
        }
        debug_assert_eq!(mode.long(), mode_of.long());
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
        let (before, flushes) = (slow.state().rip, slow.tlb().flushes);
        slow.execute(insn)?;
        let hit = slow.take_code_hit();
        if insn.ends_block || hit {
            return Ok(Next::LookUp);
        }
        let expected = block.next_place(place).map(|next| before.wrapping_add(u64::from(next - place)));
        let goes_on = expected == Some(slow.state().rip)
            && !slow.wants_step()
            && slow.memory().code_epoch() == self.epoch
            && slow.tlb().flushes == flushes
            && Mode::of(slow) == Some(mode);
        Ok(if goes_on { Next::Resume(at) } else { Next::LookUp })
    }

    /// An access that both levels of the TLB miss.
    fn miss(&mut self, slow: &mut SlowPath, mode: Mode, write: bool, at: usize) -> Result<Next, Stop> {
        let context = self.context.pointer().as_ptr();
        // SAFETY: no generated code runs now.
        let lin = unsafe { (*context).save_r10 };
        let size = MAX_ACCESS.min(PAGE_SIZE - lin % PAGE_SIZE);
        match slow.make_ready(mode.view(), write, lin, size) {
            Ready::Yes => Ok(Next::Resume(at - CHECK_LENGTH)),
            Ready::Once(host) => {
                // SAFETY: as above.
                unsafe { (*context).save_r11 = (host as u64).wrapping_sub(lin) };
                Ok(Next::Resume(at + CHECK_TAIL))
            }
            Ready::No | Ready::Fault(_) => {
                slow.execute_one()?;
                Ok(Next::LookUp)
            }
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
