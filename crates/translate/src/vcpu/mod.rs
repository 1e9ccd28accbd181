//! A vCPU: finding code, running it, and doing what it comes back for.

mod enter;
mod exits;
mod make;
mod stale;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use engine::{EngineError, EngineKind, Kick, Platform, Stop, Vcpu, VcpuConfig, VcpuSignals, VcpuStats};
use interpret::slow::SlowPath;
use x86::{CpuState, Exception, LinearAddr};

use enter::Prepared;

use crate::blocks::{BlockId, Blocks};
use crate::cache::CodeCache;
use crate::context::ContextBox;
use crate::counters::Counters;
use crate::emit::{Emitter, Style};
use crate::engine_impl::Options;
use crate::fault;
use crate::jumps::{TableId, Tables};
use crate::keys::Scope;
use crate::mode::Mode;
use crate::rest::Rest;
use crate::runtime::{Exit, Runtime, Vectors};

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
    tables: Tables,
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
    /// The x87's last instruction as the guest knows it.
    last_fip: u64,
    /// What the context is prepared for.
    prepared: Option<Prepared>,
    /// The interpreter may have changed floating-point registers.
    fpu_touched: bool,
    /// What of them is in use is to be looked at again before code is entered
    /// that relies on nothing.
    fpu_unsure: bool,
    /// The guest's time-stamp counter is the host's plus a constant.
    tsc: bool,
    /// How busy the guest is.
    rest: Rest,
    /// Flushes of pages with supervisor code that links between pages know of.
    linked_at: (u64, u64),
}

/// Rings when a signal has become pending.
struct Doorbell(Arc<ContextBox>);

impl Kick for Doorbell {
    fn kick(&self) {
        let context = self.0.pointer().as_ptr();
        // SAFETY: the context is valid as long as its box; only atomics and a
        // constant are touched.
        unsafe {
            (*context).undisturbed.store(0, Ordering::SeqCst);
            (*context).disturbed.store(1, Ordering::SeqCst);
            (*context).jumps.store((*context).nowhere, Ordering::SeqCst);
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
        let tables = Tables::new().map_err(|error| refused("memory", error))?;
        // SAFETY: nobody else knows the context yet.
        unsafe { (*context.pointer().as_ptr()).nowhere = tables.nowhere() };
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
            blocks: Blocks::new(cache.layout()),
            cache,
            runtime,
            emitter: Emitter::new(runtime, style),
            tables,
            counters: Counters::new(),
            options,
            scope: Scope::default(),
            forgotten: 0,
            last_fip: 0,
            prepared: None,
            fpu_touched: true,
            fpu_unsure: false,
            tsc: false,
            rest: Rest::new(Instant::now()),
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

/// Where to go on.
enum Found {
    /// At this host address.
    Code(usize),
    /// The instruction crosses a page or does not lie in memory.
    Single,
    /// It cannot be fetched.
    Fault(Exception),
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
        slow.execute_one()
    }

    /// The block at CS:RIP, made if need be.
    fn find(&mut self, slow: &mut SlowPath, mode: Mode) -> Found {
        self.forget_stale(slow);
        let lin = slow.code_address();
        let table = self.table(slow, mode);
        if let Some(code) = table.and_then(|table| self.tables.find(table, lin.0)) {
            return Found::Code(code as usize);
        }
        match self.find_block(slow, mode, lin) {
            Ok(Some(id)) => {
                if let Some(table) = self.table(slow, mode) {
                    self.note_jump(table, lin, id);
                }
                Found::Code(self.blocks.get(id).start)
            }
            Ok(None) => Found::Single,
            Err(exception) => Found::Fault(exception),
        }
    }

    /// The table of indirect branches for `mode`, as things are now.
    #[inline]
    fn table(&mut self, slow: &mut SlowPath, mode: Mode) -> Option<TableId> {
        let meaning = self.scope.meaning(mode, slow.tlb());
        self.tables.of(meaning)
    }

    /// Lets indirect branches find block `id` at `lin`; and, if its page is new
    /// to them, all blocks of that page that they have led to before.
    fn note_jump(&mut self, table: TableId, lin: LinearAddr, id: BlockId) {
        if !self.options.chain {
            return;
        }
        let page = self.blocks.note_target(id);
        if self.tables.note_page(table, lin.0 >> 12, self.blocks.get(id).key.gpa >> 12) {
            for &(place, code) in self.blocks.targets(page) {
                self.tables.note(table, lin.page().0 | u64::from(place), code as u64);
            }
        }
        self.tables.note(table, lin.0, self.blocks.get(id).start as u64);
        if self.prepared.is_some_and(|prepared| prepared.awaits(lin)) {
            self.prepared = None;
        }
    }
}
