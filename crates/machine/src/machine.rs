//! The machine's life.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use engine::{Assist, Engine, Platform, ProcessorLimits, Signal, TraceSink, Vcpu, VcpuStats};
use memory::GuestMemory;
use x86::cpuid::Speculation;
use x86::{Activity, CpuState};

use crate::board::{Board, BoardConfig};
use crate::config::{MachineConfig, Mitigations, OnReset, Paravirt};
use crate::control::Request;
use crate::load::{Loader, guest_memory};
use crate::{MachineError, MachineHandle, host, moving, threads, virtio_slots};

/// How many processors the machine can run.
pub const MAX_CPUS: u32 = 32;

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The guest switched the machine off.
    PoweredOff,
    /// The guest reset the machine, and that was to end the run.
    Reset,
    /// The guest said that it has panicked.
    GuestPanicked,
    /// A triple fault: the guest has lost control.
    TripleFault,
    /// Somebody called [`MachineHandle::stop`].
    Stopped,
    /// The guest did what the engine cannot follow; the sentence says what.
    GuestFailed(String),
    /// The engine or the machine failed; the sentence says how.
    Failed(String),
}

/// A virtual machine.
pub struct Machine {
    pub(crate) board: Arc<Board>,
    pub(crate) memory: GuestMemory,
    loader: Loader,
    /// The boot processor first.
    pub(crate) vcpus: Vec<Box<dyn Vcpu>>,
    /// What the engine does in our place.
    pub(crate) assist: Option<Arc<dyn Assist>>,
    pub(crate) trace: Option<Arc<dyn TraceSink>>,
    /// The guest is told of hypercalls that interrupt other processors.
    pub(crate) offers_calls: bool,
    on_reset: OnReset,
    entered: Option<Instant>,
}

impl Machine {
    /// Builds a machine and loads what it starts.
    ///
    /// # Errors
    /// If the description is impossible, the host lacks something, or what is
    /// to be started is damaged or does not fit.
    pub fn build(config: MachineConfig<'_>) -> Result<Self, MachineError> {
        require_processors(config.cpus, config.engine)?;
        let memory = guest_memory(config.memory, &config.boot)?;
        let mmio = virtio_slots::describe(&config.virtio);
        let loader = Loader::new(config.boot, memory.layout(), config.cpus, mmio);
        // Before the board, which needs the clock: it is compared meanwhile.
        host::begin_calibration();
        let state = loader.load(&memory, true)?;
        let capabilities = config.engine.capabilities();
        let processor = capabilities.processor;
        let assist = moving::assist(config.engine, &memory, config.interrupt_chip)?;
        let calls_reach_processors = moving::calls_reach_processors(&capabilities, assist.as_ref());
        let offers_calls = calls_reach_processors && config.paravirt == Paravirt::Kvm;
        let board = Arc::new(Board::build(BoardConfig {
            cpus: config.cpus,
            processor,
            ram: memory.layout(),
            firmware_tables: loader.tables_for_firmware(),
            consoles: config.consoles,
            virtio: config.virtio,
            memory: memory.clone(),
            epoch: config.wall_clock.map_or_else(host_time, seconds),
            paravirt: config.paravirt,
            calls_reach_processors,
            speculation: speculation(config.mitigations, &processor),
            ticks: config.ticks.unwrap_or_else(|| host::ticks(processor.host_tsc)),
            test_device: config.test_device,
        })?);
        let trace = config.trace;
        let vcpus = moving::create_vcpus(config.engine, &memory, &board, trace.as_ref(), config.cpus)?;
        let on_reset = config.on_reset;
        let mut machine =
            Self { board, memory, loader, vcpus, assist, trace, offers_calls, on_reset, entered: None };
        machine.enter(state);
        Ok(machine)
    }

    /// A handle for other threads.
    pub fn handle(&self) -> MachineHandle {
        MachineHandle::new(Arc::clone(&self.board))
    }

    /// What the vCPUs have counted.
    pub fn stats(&self) -> Vec<VcpuStats> {
        self.vcpus.iter().map(|vcpu| vcpu.stats()).collect()
    }

    /// When the first guest instruction was executed, if one was.
    pub fn entered(&self) -> Option<Instant> {
        self.entered
    }

    /// Runs the machine until it ends. The calling thread is the boot
    /// processor's; time passes only meanwhile. A machine that was stopped can be run on.
    pub fn run(&mut self) -> Outcome {
        let board = Arc::clone(&self.board);
        board.input.set_closed(false);
        board.timers.stand();
        thread::scope(|scope| {
            let timers = || board.timers.run(|id| board.expire(id));
            if let Err(error) = thread::Builder::new().name("timers".to_owned()).spawn_scoped(scope, timers) {
                return Outcome::Failed(format!("the host refuses a thread for the timers ({error})"));
            }
            let _end = EndOfRun(&board);
            self.run_vcpus()
        })
    }

    fn run_vcpus(&mut self) -> Outcome {
        loop {
            if let Some(outcome) = self.attend() {
                return outcome;
            }
            self.entered.get_or_insert_with(Instant::now);
            if let Some(outcome) = threads::run_all(&self.board, &mut self.vcpus) {
                return outcome;
            }
        }
    }

    /// Does what the control word asks for, waits out a pause, and lets time
    /// pass; an outcome if the run is over. No vCPU runs meanwhile.
    fn attend(&mut self) -> Option<Outcome> {
        let board = Arc::clone(&self.board);
        for processor in board.interrupts.processors() {
            processor.signals().take(Signal::Exit);
        }
        // A machine that is reset in a pause stands still again.
        loop {
            while board.control.is_paused() {
                board.stand();
                board.control.set_running(false);
                board.control.wait_while_paused();
            }
            match board.control.take_request() {
                None => break,
                Some(Request::Stop) => return Some(Outcome::Stopped),
                Some(Request::PowerOff) => return Some(Outcome::PoweredOff),
                Some(Request::GuestPanic) => return Some(Outcome::GuestPanicked),
                Some(Request::Reset) if self.on_reset == OnReset::Exit => return Some(Outcome::Reset),
                Some(Request::Reset) => {
                    board.reset();
                    if let Err(error) = self.load_again() {
                        return Some(Outcome::Failed(format!("the machine cannot start again: {error}")));
                    }
                }
            }
        }
        board.control.set_running(true);
        board.start();
        None
    }

    fn load_again(&mut self) -> Result<(), MachineError> {
        let state = self.loader.load(&self.memory, false)?;
        self.enter(state);
        Ok(())
    }

    /// Puts the boot processor into `state`, and the others where they wait for
    /// a start-up IPI.
    fn enter(&mut self, mut state: CpuState) {
        self.loader.set_up(&self.board, &mut state);
        let mut waiting = CpuState { activity: Activity::WaitForSipi, ..CpuState::reset() };
        self.loader.set_up_other(&self.board, &state, &mut waiting);
        for (id, vcpu) in (0..).zip(&mut self.vcpus) {
            let state = if id == 0 { &state } else { &waiting };
            vcpu.set_state(state);
            self.board.tsc_adjusted(id, state.msrs.tsc_adjust);
        }
        self.lend_local_apics();
    }
}

/// Devices stop with the machine, whoever still has a handle.
impl Drop for Machine {
    fn drop(&mut self) {
        self.board.input.set_closed(true);
        self.board.stop_devices();
    }
}

/// Leaves nothing running and nobody waiting, however the run ends.
struct EndOfRun<'a>(&'a Board);

impl Drop for EndOfRun<'_> {
    fn drop(&mut self) {
        self.0.timers.end();
        self.0.clock.freeze();
        self.0.input.set_closed(true);
        self.0.control.set_running(false);
    }
}

fn speculation(asked: Mitigations, processor: &ProcessorLimits) -> Speculation {
    match asked {
        Mitigations::Off => Speculation::Immune,
        Mitigations::Auto if !processor.host_tsc => Speculation::Immune,
        Mitigations::Auto | Mitigations::Host => {
            Speculation::AsHost { arch_capabilities: host::arch_capabilities() }
        }
    }
}

fn require_processors(asked: u32, engine: &dyn Engine) -> Result<(), MachineError> {
    let most = engine.capabilities().max_vcpus.min(MAX_CPUS);
    if (1..=most).contains(&asked) { Ok(()) } else { Err(MachineError::Processors { asked, most }) }
}

fn host_time() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Times before 1970 count as that.
fn seconds(since: i64) -> Duration {
    Duration::from_secs(u64::try_from(since).unwrap_or(0))
}
