//! The engine and its run loop.

use std::time::{Duration, Instant};

use engine::{
    Callout, Capabilities, Engine, EngineError, EngineKind, Mode, Platform, ProcessorLimits, Signal, Stop,
    TraceEvent, Vcpu, VcpuConfig, VcpuStats,
};
use memory::Seat;
use x86::{Activity, CpuState, Exception, InterruptShadow, PendingEvent, Rflags, Vector};

use crate::blocks::{Block, Blocks, Code, check_fetch};
use crate::cpu::{Break, Cpu};
use crate::decode::InsnDecoder;
use crate::native::{Arena, install_handlers};
use crate::{step, system};

/// The interpreter as an engine.
#[derive(Clone, Copy, Debug, Default)]
pub struct Interpreter;

impl Engine for Interpreter {
    fn kind(&self) -> EngineKind {
        EngineKind::Interpret
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            modes: &Mode::ALL,
            max_vcpus: memory::MAX_SEATS as u32,
            own_interrupt_chip: Err("its local APICs are the machine's"),
            own_hypercalls: false,
            processor: ProcessorLimits::default(),
            guest_debug: true,
            lacks: &[],
        }
    }

    fn create_vcpu(&self, config: VcpuConfig) -> Result<Box<dyn Vcpu>, EngineError> {
        let arena = Arena::new().map_err(|error| EngineError::Unusable {
            engine: EngineKind::Interpret,
            reason: format!("it needs executable memory, which the host refuses ({error})"),
        })?;
        Ok(Box::new(Interpreted { cpu: Cpu::new(config)?, blocks: Blocks::new(InsnDecoder::new(arena)) }))
    }
}

/// One interpreted processor.
struct Interpreted {
    cpu: Cpu,
    blocks: Blocks,
}

impl Vcpu for Interpreted {
    fn state(&self) -> CpuState {
        let mut state = self.cpu.state.clone();
        step::note_debug_trap(&mut state, self.cpu.debug_hits);
        state
    }

    fn set_state(&mut self, state: &CpuState) {
        self.cpu.state = state.clone();
        self.cpu.debug_hits = 0;
        self.cpu.halt_reported = false;
        self.cpu.refresh();
        self.cpu.paging_changed();
    }

    fn run(&mut self, platform: &dyn Platform) -> Stop {
        install_handlers(&self.blocks.decoder.arena);
        let start = Instant::now();
        let halted = self.cpu.stats.halted;
        let blocks = &mut self.blocks;
        let stop = Cpu::with_platform(&mut self.cpu, platform, |cpu| run(cpu, blocks));
        let stats = &mut self.cpu.stats;
        stats.busy += start.elapsed().saturating_sub(stats.halted - halted);
        stop
    }

    fn step(&mut self, platform: &dyn Platform) -> Option<Stop> {
        install_handlers(&self.blocks.decoder.arena);
        let blocks = &mut self.blocks;
        Cpu::with_platform(&mut self.cpu, platform, |cpu| {
            attend(cpu).err().or_else(|| step::step(cpu, blocks).err())
        })
    }

    fn stats(&self) -> VcpuStats {
        self.cpu.stats.clone()
    }
}

fn run(cpu: &mut Cpu, blocks: &mut Blocks) -> Stop {
    loop {
        let outcome = if cpu.signalled() || step::wanted(cpu) {
            attend(cpu).and_then(|()| step::step(cpu, blocks))
        } else {
            execute_next(cpu, blocks)
        };
        if let Err(stop) = outcome {
            return stop;
        }
    }
}

/// Executes the block at CS:RIP.
pub(crate) fn execute_next(cpu: &mut Cpu, blocks: &mut Blocks) -> Result<(), Stop> {
    match blocks.lookup(cpu) {
        Ok(Code::Block(block)) => run_block(cpu, block),
        Ok(Code::Single(insn)) => step::execute(cpu, insn),
        Err(cause) => after_break(cpu, cause),
    }
}

/// Runs a block to its end, or to where it breaks off.
fn run_block(cpu: &mut Cpu, block: &Block) -> Result<(), Stop> {
    if !cpu.long && check_fetch(cpu, u64::from(block.bytes)).is_err() {
        return step::execute(cpu, &block.insns[0]);
    }
    let mut executed = 0;
    for insn in &block.insns {
        cpu.next_rip = cpu.state.rip.wrapping_add(u64::from(insn.len)) & cpu.linear_mask;
        if let Err(cause) = (insn.handler)(cpu, insn) {
            cpu.stats.instructions += executed;
            return after_break(cpu, cause);
        }
        cpu.state.rip = cpu.next_rip;
        executed += 1;
        if cpu.code_hit {
            cpu.code_hit = false;
            break;
        }
    }
    cpu.stats.instructions += executed;
    Ok(())
}

/// Acts on an instruction that did not run to its end.
pub(crate) fn after_break(cpu: &mut Cpu, cause: Break) -> Result<(), Stop> {
    match cause {
        Break::Fault => {
            let fault = cpu.fault;
            cpu.state.interrupt_shadow = InterruptShadow::None;
            system::deliver_exception(cpu, fault)
        }
        Break::Restart => {
            // An event between two iterations saves RF (SDM 3B 18.3.1.1).
            cpu.state.rflags.insert(Rflags::RF);
            Ok(())
        }
    }
}

/// Handles signals and waits out HLT, so that afterwards an instruction can be
/// executed. Order of SDM 3A 6.9.
pub(crate) fn attend(cpu: &mut Cpu) -> Result<(), Stop> {
    loop {
        if cpu.signals.take(Signal::Safepoint) {
            cpu.seated(Seat::serve);
        }
        cpu.unhalted |= cpu.signals.take(Signal::Unhalt);
        if cpu.signals.is_pending(Signal::Exit) {
            return Err(Stop::Kicked);
        }
        system::take_init_and_sipi(cpu);
        if cpu.state.activity == Activity::Shutdown {
            return Err(Stop::TripleFault);
        }
        system::accept_nmis(cpu);
        if cpu.state.activity != Activity::WaitForSipi {
            deliver_pending(cpu)?;
            step::deliver_debug_trap(cpu)?;
            deliver_interrupts(cpu)?;
        }
        if cpu.state.activity == Activity::Halted && std::mem::take(&mut cpu.unhalted) {
            cpu.state.activity = Activity::Running;
        }
        if cpu.state.activity == Activity::Running {
            cpu.halt_reported = false;
            return Ok(());
        }
        if halted_for_good(cpu) && !std::mem::replace(&mut cpu.halt_reported, true) {
            return Err(Stop::HaltedForGood);
        }
        wait(cpu);
    }
}

/// HLT with interrupts off: only an NMI, INIT or reset ends it.
fn halted_for_good(cpu: &Cpu) -> bool {
    cpu.state.activity == Activity::Halted && !cpu.state.rflags.contains(Rflags::IF) && !cpu.state.nmi_pending
}

/// Delivers what was accepted before the state came here.
fn deliver_pending(cpu: &mut Cpu) -> Result<(), Stop> {
    let Some(event) = cpu.state.pending_event.take() else { return Ok(()) };
    cpu.state.activity = Activity::Running;
    match event {
        PendingEvent::Interrupt(vector) => system::deliver_external(cpu, Vector(vector)),
        PendingEvent::Nmi => system::deliver_nmi(cpu),
        PendingEvent::Exception { vector, error_code } => {
            let exception = Exception { vector: Vector(vector), error_code, cr2: None };
            if exception.vector == Vector::DB {
                system::deliver_exception_as_trap(cpu, exception)
            } else {
                system::deliver_exception(cpu, exception)
            }
        }
    }
}

fn deliver_interrupts(cpu: &mut Cpu) -> Result<(), Stop> {
    if cpu.state.nmi_pending && system::nmi_allowed(cpu) {
        cpu.state.nmi_pending = false;
        cpu.state.activity = Activity::Running;
        return system::deliver_nmi(cpu);
    }
    if cpu.signals.is_pending(Signal::Interrupt)
        && system::interrupts_allowed(cpu)
        && let Some(vector) = cpu.platform().interrupt_acknowledge(cpu.id)
    {
        cpu.state.activity = Activity::Running;
        cpu.stats.count(Callout::Interrupt);
        if cpu.tracing.exceptions {
            cpu.report(&TraceEvent::Interrupt { rip: cpu.state.rip, vector: vector.0 });
        }
        return system::deliver_external(cpu, vector);
    }
    Ok(())
}

/// HLT and its kin. A signal that cannot be delivered (an interrupt while IF
/// is clear) does not end it, but must not make us spin.
fn wait(cpu: &mut Cpu) {
    let start = Instant::now();
    let masked = cpu.signals.is_pending(Signal::Interrupt) && !system::interrupts_allowed(cpu);
    cpu.seat.leave();
    if masked {
        std::thread::sleep(Duration::from_millis(1));
    } else {
        cpu.platform().halt(cpu.id);
    }
    cpu.seated(Seat::enter);
    cpu.stats.halted += start.elapsed();
}
