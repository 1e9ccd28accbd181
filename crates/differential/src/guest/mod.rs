//! The engine under test: sequences run as user code of a tiny guest.

mod machine;
mod tables;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use engine::{Engine, Signal, Stop, Vcpu, VcpuConfig, VcpuSignals};
use memory::GuestMemory;
use x86::cpuid::CpuidModel;
use x86::{CpuState, Gpr, GuestPhysAddr, Vector};

use crate::case::Case;
use crate::layout::{CODE, CODE_END, PAGE, RIGHTS, Rights, SELF, SELF_END, WINDOW, WINDOW_SIZE};
use crate::outcome::{Event, Outcome};
use crate::state::{Bits, Registers};
use machine::Machine;
use tables::{RAM, RING0_STACK, WINDOW_IN_RAM};

/// How the guest is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Variant {
    /// As fast as the engine can.
    Whole,
    /// Instruction by instruction.
    Stepped,
    /// Data, read-only and stack pages are memory-mapped I/O, and each access
    /// brings an interrupt.
    Mmio,
    /// An interrupt arrives at every instruction boundary.
    Interrupted,
    /// So many instructions one by one, then an interrupt, then as fast as the
    /// engine can: at whatever boundary an interrupt comes, the rest is the
    /// same.
    After(u8),
}

impl Variant {
    /// All of them, interrupts at a given boundary left aside.
    pub const ALL: [Self; 4] = [Self::Whole, Self::Stepped, Self::Mmio, Self::Interrupted];

    /// An interrupt at each boundary of `case` in turn, loops left aside.
    pub fn at_each_boundary(case: &Case) -> Vec<Self> {
        (0..u8::MAX).zip(case.instructions()).map(|(before, _)| Self::After(before)).collect()
    }
}

/// Steps after which a sequence counts as endless; natively it has some tens
/// of milliseconds.
const STEP_LIMIT: u32 = 200_000;

/// An engine with one vCPU that runs cases.
pub struct Guest {
    vcpu: Box<dyn Vcpu>,
    memory: GuestMemory,
    machine: Machine,
    signals: Arc<VcpuSignals>,
    model: Arc<CpuidModel>,
    run: Arc<AtomicU64>,
}

impl Guest {
    /// A guest on `engine`.
    ///
    /// # Errors
    /// If there is no memory for it or the engine refuses.
    pub fn new(engine: &dyn Engine, model: &Arc<CpuidModel>) -> Result<Self, Box<dyn std::error::Error>> {
        let memory = GuestMemory::new(RAM)?;
        tables::write(&memory)?;
        let signals = Arc::new(VcpuSignals::default());
        let vcpu = engine.create_vcpu(VcpuConfig {
            id: 0,
            memory: memory.clone(),
            cpuid: Arc::clone(model),
            signals: Arc::clone(&signals),
            trace: None,
        })?;
        let run = Arc::<AtomicU64>::default();
        watch(&run, &signals);
        let machine = Machine::new(Arc::clone(&signals));
        Ok(Self { vcpu, memory, machine, signals, model: Arc::clone(model), run })
    }

    /// Runs `case` to its end.
    pub fn run(&mut self, case: &Case, variant: Variant) -> Outcome {
        self.prepare(case, variant);
        let stop = match variant {
            Variant::Whole | Variant::Mmio => Some(self.vcpu.run(&self.machine)),
            Variant::Stepped => (0..STEP_LIMIT).find_map(|_| self.vcpu.step(&self.machine)),
            Variant::Interrupted => (0..STEP_LIMIT).find_map(|_| self.interrupted_step()),
            Variant::After(count) => (0..count)
                .find_map(|_| self.vcpu.step(&self.machine))
                .or_else(|| Some(self.run_with_interrupt())),
        };
        self.run.fetch_add(1, Ordering::Relaxed);
        self.outcome(stop, case, variant)
    }

    /// Puts the guest before the first instruction of `case`.
    pub fn prepare(&mut self, case: &Case, variant: Variant) {
        let mmio = variant == Variant::Mmio;
        let image = case.memory();
        self.write_window(&image, mmio);
        let state = tables::initial_state(&self.model, &case.registers(), case.bits, mmio);
        self.vcpu.set_state(&state);
        for signal in [Signal::Exit, Signal::Interrupt] {
            self.signals.take(signal);
        }
    }

    /// Executes one instruction; the state is that of the vCPU, in ring 0 when
    /// the run has ended.
    pub fn step(&mut self) -> Option<Stop> {
        self.vcpu.step(&self.machine)
    }

    /// The vCPU's state.
    pub fn state(&self) -> CpuState {
        self.vcpu.state()
    }

    /// The bytes at a linear address in the code pages.
    pub fn code_at(&self, at: u64) -> Vec<u8> {
        let ranges = [CODE..CODE_END, SELF..SELF_END];
        let end = ranges.iter().find(|range| range.contains(&at)).map_or(at, |range| range.end);
        let mut bytes = vec![0; (end - at).min(15) as usize];
        let physical = GuestPhysAddr(at.wrapping_sub(WINDOW).wrapping_add(WINDOW_IN_RAM));
        if self.memory.read(physical, &mut bytes).is_err() {
            bytes.clear();
        }
        bytes
    }

    /// Delivers an interrupt, returns from it, and executes one instruction.
    fn interrupted_step(&mut self) -> Option<Stop> {
        self.signals.raise(Signal::Interrupt);
        let stop = self.vcpu.step(&self.machine);
        stop.or_else(|| self.vcpu.step(&self.machine))
    }

    /// Delivers an interrupt before the next instruction, and runs on.
    fn run_with_interrupt(&mut self) -> Stop {
        self.signals.raise(Signal::Interrupt);
        self.vcpu.run(&self.machine)
    }

    fn write_window(&mut self, image: &[u8], mmio: bool) {
        for (page, rights) in RIGHTS.iter().enumerate().filter(|(_, rights)| **rights != Rights::Absent) {
            let range = page * PAGE as usize..(page + 1) * PAGE as usize;
            if !mmio || rights.executes() {
                let at = GuestPhysAddr(WINDOW_IN_RAM + range.start as u64);
                self.memory.write(at, &image[range]).expect("the window is in RAM");
            }
        }
        if mmio {
            image.clone_into(&mut self.machine.mmio());
        }
    }

    fn read_window(&self, mmio: bool) -> Vec<u8> {
        let mut image = if mmio { self.machine.mmio().clone() } else { vec![0; WINDOW_SIZE] };
        for (page, rights) in RIGHTS.iter().enumerate() {
            let range = page * PAGE as usize..(page + 1) * PAGE as usize;
            if !mmio || rights.executes() {
                let at = GuestPhysAddr(WINDOW_IN_RAM + range.start as u64);
                self.memory.read(at, &mut image[range]).expect("the window is in RAM");
            }
        }
        image
    }

    fn outcome(&self, stop: Option<Stop>, case: &Case, variant: Variant) -> Outcome {
        let state = self.vcpu.state();
        let memory = self.read_window(variant == Variant::Mmio);
        let mut registers =
            Registers { gpr: state.gpr, rip: state.rip, rflags: state.rflags.bits(), fpu: state.fpu.clone() };
        let event = match stop {
            None => Event::Endless,
            Some(Stop::Kicked) if state.cpl() == 3 => Event::Endless,
            Some(Stop::Kicked) => self.frame(&state, case.bits, &mut registers),
            Some(_) => Event::Broken,
        };
        Outcome { event, registers, memory }
    }

    /// Takes the registers that the exception has put on the ring-0 stack
    /// (SDM 3A figure 6-9).
    fn frame(&self, state: &CpuState, bits: Bits, registers: &mut Registers) -> Event {
        let Some(vector) = tables::vector_at(state.rip) else { return Event::Broken };
        let read = |below: u64| self.memory.read_u64(GuestPhysAddr(RING0_STACK - below)).unwrap_or(0);
        registers.gpr[Gpr::Rsp as usize] = read(16);
        registers.rflags = read(24);
        registers.rip = read(40) & bits.mask();
        let error = if Vector(vector).has_error_code() { read(48) } else { 0 };
        Event::exception(vector, error, state.cr2)
    }
}

/// Ends a run of the engine that lasts for seconds: a mistake, for natively
/// the sequence was short.
fn watch(run: &Arc<AtomicU64>, signals: &Arc<VcpuSignals>) {
    let (run, signals) = (Arc::downgrade(run), Arc::downgrade(signals));
    std::thread::spawn(move || {
        let mut seen = u64::MAX;
        while let (Some(run), Some(signals)) = (run.upgrade(), signals.upgrade()) {
            let now = run.load(Ordering::Relaxed);
            if now == seen {
                signals.raise(Signal::Exit);
            }
            seen = now;
            drop((run, signals));
            std::thread::sleep(Duration::from_secs(1));
        }
    });
}
