//! Whether the device runs guest ring 0 at the hardware's speed.
//!
//! There are hosts whose /dev/kvm has no VT-x or AMD-V behind it and interprets
//! guest kernels, some thousand times slower; nothing in the interface tells.
//! So a loop in ring 0 of 64-bit mode is timed.

use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use engine::{Engine, Hypercall, MsrFault, Platform, Signal, Stop, Vcpu, VcpuConfig, VcpuSignals};
use memory::GuestMemory;
use x86::cpuid::{CpuidConfig, CpuidModel, CpuidResult, Feature};
use x86::{CpuState, Cr0, Cr4, Efer, Gpr, GuestPhysAddr, SegmentAttributes, SegmentName, Vector};

use crate::Kvm;

/// Millions of instructions a second from which on it is hardware. Interpreters
/// reach 0.5, emulated AMD-V reaches 200, processors reach thousands.
pub const MIN_MIPS: f64 = 10.0;

/// What the loop showed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Speed {
    /// Millions of ring-0 instructions a second.
    pub mips: f64,
}

impl Speed {
    /// Whether hardware executed the loop.
    pub fn is_hardware(self) -> bool {
        self.mips >= MIN_MIPS
    }
}

/// Rounds of the loop, of two instructions each: hardly any, which is what
/// getting in and out costs; a few, in which an interpreter takes a millisecond
/// and shows itself; some, if it does not; and, only if those were fast, many.
const ROUNDS: [u64; 4] = [10, 510, 30_010, 500_010];
/// Below this speed the few are enough: what disturbs them in all runs costs
/// less than such an interpreter.
const CERTAINLY_SLOW: f64 = MIN_MIPS / 2.0;
/// The best of so many runs counts, because others may use the processor too.
const RUNS: usize = 3;
/// A device on which this is not enough for all runs does not work.
const LIMIT: Duration = Duration::from_secs(2);

const RAM: u64 = 2 << 20;
const PML4: u64 = 0x1000;
const PDPT: u64 = 0x2000;
const PD: u64 = 0x3000;
const CODE: u64 = 0x8000;
/// `1: dec rcx; jnz 1b; hlt`.
const LOOP: [u8; 6] = [0x48, 0xff, 0xc9, 0x75, 0xfb, 0xf4];

/// Times the loop on `engine`.
///
/// # Errors
/// If it does not run; the sentence says how.
pub(crate) fn measure(engine: &Kvm) -> Result<Speed, String> {
    let mut bench = Bench::new(engine)?;
    let signals = Arc::clone(&bench.signals);
    let (done, watch) = channel::<Bench>();
    // Who watches the time also takes the machine apart, which can take the
    // kernel long: nobody waits for that.
    let watcher = std::thread::Builder::new().spawn(move || {
        if watch.recv_timeout(LIMIT).is_err() {
            signals.raise(Signal::Exit);
            let _ = watch.recv();
        }
    });
    watcher.map_err(|error| format!("the host gives no thread ({error})"))?;
    let speed = bench.speed();
    let _ = done.send(bench);
    speed
}

/// A machine that has nothing but memory.
struct Bench {
    vcpu: Box<dyn Vcpu>,
    signals: Arc<VcpuSignals>,
}

impl Bench {
    fn new(engine: &Kvm) -> Result<Self, String> {
        let memory = GuestMemory::new(RAM).map_err(|error| error.to_string())?;
        let entries = [(PML4, PDPT | 3), (PDPT, PD | 3), (PD, 0x83)];
        let tables = entries.map(|(at, entry)| (at, u64::to_le_bytes(entry).to_vec()));
        for (at, bytes) in tables.into_iter().chain([(CODE, LOOP.to_vec())]) {
            memory.write(GuestPhysAddr(at), &bytes).map_err(|error| error.to_string())?;
        }
        let signals = Arc::new(VcpuSignals::default());
        let config = VcpuConfig {
            id: 0,
            memory,
            cpuid: Arc::new(model(engine)),
            signals: Arc::clone(&signals),
            trace: None,
        };
        let vcpu = engine.create_vcpu(config).map_err(|error| error.to_string())?;
        Ok(Self { vcpu, signals })
    }

    fn speed(&mut self) -> Result<Speed, String> {
        let [none, few, some, many] = ROUNDS;
        let entry = self.best(none)?;
        let mut speed = Speed { mips: 0.0 };
        for (rounds, enough) in [(few, CERTAINLY_SLOW), (some, MIN_MIPS), (many, f64::INFINITY)] {
            let time = self.best(rounds)?.saturating_sub(entry).max(Duration::from_nanos(1));
            speed.mips = 2.0 * (rounds - none) as f64 / time.as_secs_f64() / 1e6;
            if speed.mips < enough {
                break;
            }
        }
        Ok(speed)
    }

    /// The shortest time of a few runs.
    fn best(&mut self, rounds: u64) -> Result<Duration, String> {
        let mut best = Duration::MAX;
        for _ in 0..RUNS {
            best = best.min(self.time(rounds)?);
        }
        Ok(best)
    }

    /// The time of one run.
    fn time(&mut self, rounds: u64) -> Result<Duration, String> {
        self.vcpu.set_state(&long_mode(rounds));
        let start = Instant::now();
        let stop = self.vcpu.run(&Nothing);
        let time = start.elapsed();
        match stop {
            Stop::HaltedForGood => Ok(time),
            Stop::Kicked => Err(format!("short loops did not end within {LIMIT:?}")),
            Stop::Failed(why) | Stop::GuestFailed(why) => Err(why),
            Stop::TripleFault => Err("a loop in 64-bit mode ended in a triple fault".to_owned()),
        }
    }
}

fn host_cpuid(leaf: u32, subleaf: u32) -> CpuidResult {
    let answer = core::arch::x86_64::__cpuid_count(leaf, subleaf);
    CpuidResult::new(answer.eax, answer.ebx, answer.ecx, answer.edx)
}

fn model(engine: &Kvm) -> CpuidModel {
    let limits = engine.processor_limits();
    let without: Vec<Feature> = limits.without.iter().collect();
    CpuidModel::new(CpuidConfig {
        disable: &without,
        phys_bits: limits.phys_bits.min(x86::paging::DEFAULT_PHYS_BITS),
        ..CpuidConfig::new(&host_cpuid, 1_000_000_000)
    })
}

/// Ring 0 of 64-bit mode at the loop, with interrupts off.
fn long_mode(rounds: u64) -> CpuState {
    let mut state = CpuState::reset();
    state.cr0 = Cr0::PE | Cr0::PG | Cr0::ET | Cr0::NE;
    state.cr4 = Cr4::PAE;
    state.efer = Efer::LME | Efer::LMA;
    state.cr3 = PML4;
    for name in SegmentName::ALL {
        let segment = state.segment_mut(name);
        let attributes = if name == SegmentName::Cs { 0xa09b } else { 0xc093 };
        segment.base = 0;
        segment.limit = u32::MAX;
        segment.selector.0 = if name == SegmentName::Cs { 8 } else { 0x10 };
        segment.attributes = SegmentAttributes::from_bits(attributes);
    }
    state.rip = CODE;
    state.set_reg(Gpr::Rcx, rounds);
    state
}

/// The machine around the loop, which asks for nothing.
struct Nothing;

impl Platform for Nothing {
    fn port_read(&self, _port: u16, _size: u8) -> u32 {
        u32::MAX
    }

    fn port_write(&self, _port: u16, _size: u8, _value: u32) {}

    fn mmio_read(&self, _vcpu: u32, _at: GuestPhysAddr, data: &mut [u8]) {
        data.fill(0xff);
    }

    fn mmio_write(&self, _vcpu: u32, _at: GuestPhysAddr, _data: &[u8]) {}

    fn interrupt_acknowledge(&self, _vcpu: u32) -> Option<Vector> {
        None
    }

    fn task_priority(&self, _vcpu: u32) -> u8 {
        0
    }

    fn set_task_priority(&self, _vcpu: u32, _priority: u8) {}

    fn msr_read(&self, _vcpu: u32, _index: u32) -> Option<Result<u64, MsrFault>> {
        None
    }

    fn msr_write(&self, _vcpu: u32, _index: u32, _value: u64) -> Option<Result<(), MsrFault>> {
        None
    }

    fn tsc(&self) -> u64 {
        0
    }

    fn tsc_adjusted(&self, _vcpu: u32, _adjust: u64) {}

    fn hypercall(&self, _vcpu: u32, _call: &mut Hypercall) -> bool {
        false
    }

    fn halt(&self, _vcpu: u32) {}
}
