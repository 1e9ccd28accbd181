//! A machine that answers everything and helps nobody.

use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use engine::{Engine, Hypercall, MsrFault, Platform, Signal, Stop, Vcpu, VcpuConfig, VcpuSignals};
use memory::GuestMemory;
use x86::cpuid::{CpuidConfig, CpuidModel, CpuidResult};
use x86::{GuestPhysAddr, Vector};

use crate::dice::Dice;

/// Where the bench has ROM: NOPs first, then entries of page tables that lead
/// to themselves.
pub(crate) const ROM: u64 = 0xffff_0000;
/// The page tables in ROM.
pub(crate) const ROM_TABLES: u64 = ROM + 0x8000;
/// Bytes of ROM.
const ROM_SIZE: usize = 0x1_0000;
/// How long after a kick a vCPU may stay inside before it counts as hung.
const HANG: Duration = Duration::from_secs(15);

/// The devices: random answers, and interrupts now and then if `restless`.
pub(crate) struct Board {
    /// The vCPU's signals.
    pub(crate) signals: Arc<VcpuSignals>,
    /// Whether devices interrupt.
    pub(crate) restless: AtomicBool,
    /// Whether HLT waits for a signal rather than being disturbed.
    pub(crate) patient: AtomicBool,
    /// Bytes that instruction fetches and loads from devices find, by the low
    /// bits of their address; random if there are none.
    pub(crate) device: Mutex<Vec<u8>>,
    /// Accesses to ports.
    pub(crate) port_accesses: AtomicU64,
    dice: Mutex<Dice>,
}

impl Board {
    fn new(seed: u64, signals: Arc<VcpuSignals>) -> Self {
        Self {
            signals,
            restless: AtomicBool::new(false),
            patient: AtomicBool::new(false),
            device: Mutex::new(Vec::new()),
            port_accesses: AtomicU64::new(0),
            dice: Mutex::new(Dice::new(seed)),
        }
    }

    /// Begins another sequence of answers, with empty hands.
    pub(crate) fn reseed(&self, seed: u64) {
        *self.dice.lock().unwrap_or_else(PoisonError::into_inner) = Dice::new(seed);
        self.device.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn roll(&self) -> u64 {
        let mut dice = self.dice.lock().unwrap_or_else(PoisonError::into_inner);
        let value = dice.next();
        if self.restless.load(Ordering::Relaxed) {
            match dice.below(256) {
                0..16 => self.signals.raise(Signal::Interrupt),
                16..20 => self.signals.raise(Signal::Nmi),
                20 => self.signals.raise(Signal::Init),
                21 => self.signals.raise_sipi(value as u8),
                _ => {}
            }
        }
        value
    }
}

impl Platform for Board {
    fn port_read(&self, _port: u16, size: u8) -> u32 {
        assert!(matches!(size, 1 | 2 | 4));
        self.port_accesses.fetch_add(1, Ordering::Relaxed);
        self.roll() as u32
    }

    fn port_write(&self, _port: u16, size: u8, value: u32) {
        assert!(matches!(size, 1 | 2 | 4) && u64::from(value) >> (u32::from(size) * 8) == 0);
        self.port_accesses.fetch_add(1, Ordering::Relaxed);
        self.roll();
    }

    fn mmio_read(&self, _vcpu: u32, at: GuestPhysAddr, data: &mut [u8]) {
        assert!((1..=8).contains(&data.len()) && (at.0 & 0xfff) as usize + data.len() <= 0x1000);
        let answer = self.roll().to_le_bytes();
        data.copy_from_slice(&answer[..data.len()]);
        let device = self.device.lock().unwrap_or_else(PoisonError::into_inner);
        if !device.is_empty() {
            for (place, byte) in data.iter_mut().enumerate() {
                *byte = device[(at.0 as usize + place) % device.len()];
            }
        }
    }

    fn mmio_write(&self, _vcpu: u32, at: GuestPhysAddr, data: &[u8]) {
        assert!((1..=8).contains(&data.len()) && (at.0 & 0xfff) as usize + data.len() <= 0x1000);
        self.roll();
    }

    fn interrupt_acknowledge(&self, _vcpu: u32) -> Option<Vector> {
        self.signals.take(Signal::Interrupt);
        let value = self.roll();
        (value & 7 != 0).then_some(Vector((value >> 8) as u8))
    }

    fn task_priority(&self, _vcpu: u32) -> u8 {
        (self.roll() & 15) as u8
    }

    fn set_task_priority(&self, _vcpu: u32, priority: u8) {
        assert!(priority < 16);
    }

    fn msr_read(&self, _vcpu: u32, index: u32) -> Option<Result<u64, MsrFault>> {
        (0x800..0x900).contains(&index).then(|| if index & 1 == 0 { Ok(self.roll()) } else { Err(MsrFault) })
    }

    fn msr_write(&self, _vcpu: u32, index: u32, _value: u64) -> Option<Result<(), MsrFault>> {
        (0x800..0x900).contains(&index).then_some(if index & 1 == 0 { Ok(()) } else { Err(MsrFault) })
    }

    fn tsc(&self) -> u64 {
        self.roll()
    }

    fn tsc_adjusted(&self, _vcpu: u32, _adjust: u64) {}

    fn hypercall(&self, _vcpu: u32, call: &mut Hypercall) -> bool {
        call.rax = self.roll();
        call.rax & 1 == 0
    }

    /// Nobody sleeps here unless asked to: whoever halts is woken or stopped.
    fn halt(&self, _vcpu: u32) {
        if self.patient.load(Ordering::Relaxed) {
            return self.signals.wait(None);
        }
        if self.signals.pending() == 0 {
            let signal = match self.roll() & 7 {
                0 | 1 => Signal::Interrupt,
                2 => Signal::Nmi,
                _ => Signal::Exit,
            };
            self.signals.raise(signal);
        } else if !self.signals.is_pending(Signal::Exit) {
            self.signals.raise(Signal::Exit);
        }
    }
}

/// The processor: everything that this host can do.
pub(crate) fn processor() -> &'static Arc<CpuidModel> {
    static MODEL: OnceLock<Arc<CpuidModel>> = OnceLock::new();
    MODEL.get_or_init(|| Arc::new(detect()))
}

fn detect() -> CpuidModel {
    let host = |leaf, subleaf| {
        let answer = std::arch::x86_64::__cpuid_count(leaf, subleaf);
        CpuidResult { eax: answer.eax, ebx: answer.ebx, ecx: answer.ecx, edx: answer.edx }
    };
    CpuidModel::new(CpuidConfig::new(&host, 1_000_000_000))
}

/// Memory, one vCPU and the board.
pub(crate) struct Rig {
    /// Guest memory.
    pub(crate) memory: GuestMemory,
    /// The vCPU.
    pub(crate) vcpu: Box<dyn Vcpu>,
    /// The devices.
    pub(crate) board: Board,
}

impl Rig {
    /// A machine with `size` bytes of RAM and some ROM below 4 GiB.
    pub(crate) fn new(engine: &dyn Engine, seed: u64, size: u64) -> Self {
        let mut rom = vec![0x90; ROM_SIZE / 2];
        rom.extend((ROM_TABLES | 7).to_le_bytes().repeat(ROM_SIZE / 16));
        let memory = GuestMemory::with_rom(size, &[(GuestPhysAddr(ROM), &rom)]).expect("guest memory");
        let signals = Arc::new(VcpuSignals::default());
        let config = VcpuConfig {
            id: 0,
            memory: memory.clone(),
            cpuid: Arc::clone(processor()),
            signals: Arc::clone(&signals),
            trace: None,
        };
        let vcpu = engine.create_vcpu(config).expect("a vCPU");
        Self { memory, vcpu, board: Board::new(seed, signals) }
    }

    /// Writes guest memory.
    pub(crate) fn write(&self, at: u64, bytes: &[u8]) {
        self.memory.write(GuestPhysAddr(at), bytes).expect("an address inside RAM");
    }

    /// Withdraws all signals.
    pub(crate) fn calm(&self) {
        for signal in [Signal::Interrupt, Signal::Nmi, Signal::Init, Signal::Sipi, Signal::Exit] {
            self.board.signals.take(signal);
        }
    }

    /// Runs, and raises Exit after `limit`; second, how long the vCPU took to
    /// obey. A vCPU that does not obey at all ends the process.
    pub(crate) fn run_for(&mut self, limit: Duration) -> (Stop, Duration) {
        let (done, ended) = channel::<()>();
        let signals = Arc::clone(&self.board.signals);
        std::thread::scope(|scope| {
            let watchdog = scope.spawn(move || {
                if ended.recv_timeout(limit) != Err(RecvTimeoutError::Timeout) {
                    return Instant::now();
                }
                let kicked = Instant::now();
                signals.raise(Signal::Exit);
                if ended.recv_timeout(HANG) == Err(RecvTimeoutError::Timeout) {
                    give_up(&format!("a vCPU did not obey Signal::Exit for {HANG:?}"));
                }
                kicked
            });
            let stop = self.vcpu.run(&self.board);
            let end = Instant::now();
            drop(done);
            let kicked = watchdog.join().expect("the watchdog lives");
            self.calm();
            (stop, end.saturating_duration_since(kicked))
        })
    }
}

impl Rig {
    /// Writes `code` to [`CODE`](crate::world::CODE) and sets the state.
    pub(crate) fn load(&mut self, state: &x86::CpuState, code: &[u8]) {
        self.write(crate::world::CODE, code);
        self.vcpu.set_state(state);
    }
}

/// Nothing can stop a vCPU that hangs but the end of the process; the test
/// framework must not keep the reason for itself.
fn give_up(why: &str) -> ! {
    let _ = writeln!(std::io::stderr(), "{why}");
    std::process::abort()
}

/// Kicks a vCPU again and again, and ends the process if that does not help.
pub(crate) struct Kicker {
    stop: Arc<AtomicBool>,
    beats: Arc<AtomicU64>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Kicker {
    /// Kicks every `period`; `name` is told if the vCPU hangs.
    pub(crate) fn new(signals: &Arc<VcpuSignals>, period: Duration, name: String) -> Self {
        let (stop, beats) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let (signals, stopped, counter) = (Arc::clone(signals), Arc::clone(&stop), Arc::clone(&beats));
        let thread = std::thread::spawn(move || {
            let (mut last, mut since) = (0, Instant::now());
            while !stopped.load(Ordering::Relaxed) {
                std::thread::sleep(period);
                signals.raise(Signal::Exit);
                let now = counter.load(Ordering::Relaxed);
                if now != last {
                    (last, since) = (now, Instant::now());
                } else if since.elapsed() > HANG {
                    give_up(&format!("{name}: hung in round {now}"));
                }
            }
        });
        Self { stop, beats, thread: Some(thread) }
    }

    /// Life goes on: round `number` begins.
    pub(crate) fn round(&self, number: u64) {
        self.beats.store(number, Ordering::Relaxed);
    }
}

impl Drop for Kicker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
