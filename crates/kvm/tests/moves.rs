//! A running guest moves between KVM and an engine in software at random
//! moments: stop, copy the state, go on. The machine around it stays, and the
//! guest must not notice.
//!
//! With MOVES_KERNEL and MOVES_INITRD naming Debian's kernel and the demo's
//! initramfs, Debian boots that way too.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use engine::{
    Capabilities, Engine, EngineError, EngineKind, Platform, Signal, Stop, Vcpu, VcpuConfig, VcpuSignals,
    VcpuStats,
};
use interpret::Interpreter;
use kvm::{DirtyLog, Kvm, Survey, survey};
use machine::{BootSource, Consoles, Machine, MachineConfig, OnReset, Outcome, OwnedModule, Protocol};
use translate::Translator;
use x86::CpuState;
use x86::cpuid::Feature;

/// Two engines that act as one.
struct Both {
    kvm: Kvm,
    software: Box<dyn Engine>,
    mover: Arc<Mover>,
}

/// Who asks for moves.
#[derive(Default)]
struct Mover {
    /// The longest stays on KVM and in software, in microseconds.
    longest: [u64; 2],
    signals: Mutex<Option<Arc<VcpuSignals>>>,
    due: AtomicBool,
    done: AtomicU64,
    over: AtomicBool,
}

impl Mover {
    /// Asks for moves at random moments until the run is over.
    fn run(&self) {
        let over = || self.over.load(Ordering::Relaxed);
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        while !over() {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let done = self.done.load(Ordering::Relaxed);
            let side = done as usize & 1;
            std::thread::sleep(Duration::from_micros(50 + random % self.longest[side]));
            self.due.store(true, Ordering::SeqCst);
            if let Some(signals) = &*self.signals.lock().unwrap() {
                signals.raise(Signal::Exit);
            }
            // A move takes its time, which is none of the next stay's.
            while !over() && self.done.load(Ordering::Relaxed) == done {
                std::thread::sleep(Duration::from_micros(200));
            }
        }
    }
}

impl Engine for Both {
    fn kind(&self) -> EngineKind {
        EngineKind::Kvm
    }

    fn capabilities(&self) -> Capabilities {
        let mut capabilities = Capabilities { max_vcpus: 1, ..self.kvm.capabilities() };
        if std::env::var_os("TEST_BED_FAULTS").is_some() {
            // QEMU's AMD-V does not tell KVM of XSETBV, so XCR0 is unknown.
            capabilities.processor.without.set(Feature::Xsave, true);
        }
        capabilities
    }

    fn create_vcpu(&self, config: VcpuConfig) -> Result<Box<dyn Vcpu>, EngineError> {
        *self.mover.signals.lock().unwrap() = Some(Arc::clone(&config.signals));
        let memory = config.memory.clone();
        let interpreted = self.software.create_vcpu(config.clone())?;
        let hardware = self.kvm.create_vcpu(config)?;
        let log = self.kvm.log_dirty_pages(&memory).unwrap().expect("the machine has a vCPU");
        Ok(Box::new(Moving {
            vcpus: [hardware, interpreted],
            current: 0,
            log,
            mover: Arc::clone(&self.mover),
        }))
    }
}

/// A vCPU on KVM (0) or in software (1).
struct Moving {
    vcpus: [Box<dyn Vcpu>; 2],
    current: usize,
    log: DirtyLog,
    mover: Arc<Mover>,
}

impl Moving {
    fn change(&mut self) {
        let mut state = self.vcpus[self.current].state();
        // AMD's processors keep 32 bits of these.
        state.msrs.sysenter_esp &= 0xffff_ffff;
        state.msrs.sysenter_eip &= 0xffff_ffff;
        // Code that the guest has changed meanwhile is not to be taken from what
        // the software has made of it before.
        self.log.note_writes().unwrap();
        self.current ^= 1;
        self.vcpus[self.current].set_state(&state);
        let mut differences = state.differences(&self.vcpus[self.current].state());
        // AMD's processors do not tell the two kinds of shadow apart.
        differences.retain(|difference| difference.item != "interrupt_shadow");
        assert_eq!(differences, [], "the state is not the same on both sides");
        self.mover.done.fetch_add(1, Ordering::Relaxed);
    }
}

impl Vcpu for Moving {
    fn state(&self) -> CpuState {
        self.vcpus[self.current].state()
    }

    fn set_state(&mut self, state: &CpuState) {
        self.vcpus[self.current].set_state(state);
    }

    fn run(&mut self, platform: &dyn Platform) -> Stop {
        if self.mover.due.swap(false, Ordering::SeqCst) {
            self.change();
        }
        self.vcpus[self.current].run(platform)
    }

    fn step(&mut self, platform: &dyn Platform) -> Option<Stop> {
        self.vcpus[self.current].step(platform)
    }

    fn stats(&self) -> VcpuStats {
        self.vcpus[0].stats()
    }
}

/// Runs `boot` to its end on `engine`, and gives what it printed.
fn run(engine: &dyn Engine, memory: u64, boot: BootSource) -> (Outcome, String) {
    let printed = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&printed);
    let mut machine = Machine::build(MachineConfig {
        consoles: Consoles {
            serial: Box::new(move |byte: u8| sink.lock().unwrap().push(byte)),
            ..Consoles::default()
        },
        on_reset: OnReset::Exit,
        ..MachineConfig::new(engine, memory, boot)
    })
    .unwrap();
    let handle = machine.handle();
    let (done, watch) = std::sync::mpsc::channel::<()>();
    let watchdog = std::thread::spawn(move || {
        if watch.recv_timeout(Duration::from_secs(600)).is_err() {
            handle.stop();
        }
    });
    let outcome = machine.run();
    let _ = done.send(());
    watchdog.join().unwrap();
    drop(machine);
    let text = String::from_utf8_lossy(&printed.lock().unwrap()).into_owned();
    (outcome, text)
}

/// Ends the moves, even if the run panics.
struct End<'a>(&'a Mover);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.over.store(true, Ordering::Relaxed);
    }
}

/// Runs `boot` on KVM and `software` in turn.
fn moved(
    software: impl Engine + 'static,
    memory: u64,
    boot: BootSource,
    longest: [u64; 2],
) -> (Outcome, String, u64) {
    let mover = Arc::new(Mover { longest, ..Mover::default() });
    let both = Both { kvm: Kvm::new().unwrap(), software: Box::new(software), mover: Arc::clone(&mover) };
    let (outcome, text) = std::thread::scope(|scope| {
        scope.spawn(|| mover.run());
        let _end = End(&mover);
        run(&both, memory, boot)
    });
    (outcome, text, mover.done.load(Ordering::Relaxed))
}

fn hardware() -> bool {
    let survey = survey();
    if !survey.is_usable() {
        eprintln!("skipped: {survey}");
    }
    survey.is_usable()
}

fn kernel(image: Vec<u8>, modules: Vec<OwnedModule>, cmdline: &str) -> BootSource {
    BootSource::Kernel { image, modules, cmdline: cmdline.to_owned(), protocol: Protocol::Auto }
}

fn the_built_in_guest_moves<E: Engine + 'static>(software: impl Fn() -> E) {
    if !hardware() {
        return;
    }
    if std::env::var_os("TEST_BED_FAULTS").is_some() {
        eprintln!("skipped: QEMU aborts when a guest writes CR8 while KVM waits for its interrupt window");
        return;
    }
    let boot = || kernel(embedded_guest::IMAGE.to_vec(), Vec::new(), "");
    let (outcome, alone) = run(&software(), 64 << 20, boot());
    assert_eq!(outcome, Outcome::PoweredOff, "{alone}");
    let mut moves = 0;
    for longest in [300, 1_000, 3_000, 10_000] {
        let (outcome, text, done) = moved(software(), 64 << 20, boot(), [longest; 2]);
        assert_eq!(outcome, Outcome::PoweredOff, "after {done} moves: {text}");
        assert_eq!(text.lines().count(), alone.lines().count(), "{text}");
        assert!(!text.contains("FAIL") && !text.contains("wrong"), "{text}");
        moves += done;
    }
    eprintln!("the built-in guest was moved {moves} times");
    assert!(moves > 4);
}

#[test]
fn the_built_in_guest_does_not_notice_the_interpreter() {
    the_built_in_guest_moves(|| Interpreter);
}

#[test]
fn the_built_in_guest_does_not_notice_the_translator() {
    the_built_in_guest_moves(Translator::default);
}

fn debian_moves(software: impl Engine + 'static, longest: [u64; 2]) {
    let (Ok(image), Ok(initrd)) = (std::env::var("MOVES_KERNEL"), std::env::var("MOVES_INITRD")) else {
        eprintln!("skipped: MOVES_KERNEL and MOVES_INITRD do not name a kernel and an initramfs");
        return;
    };
    if !hardware() {
        return;
    }
    let initrd = OwnedModule { data: std::fs::read(initrd).unwrap(), string: String::new() };
    let words = "console=ttyS0 quiet no_timer_check ringmaster.exec=\"echo sum $(seq 1 2000 | md5sum)\"";
    let boot = kernel(std::fs::read(image).unwrap(), vec![initrd], words);
    let start = Instant::now();
    let (outcome, text, moves) = moved(software, 512 << 20, boot, longest);
    eprintln!("Debian was moved {moves} times in {:.1} s", start.elapsed().as_secs_f64());
    assert_eq!(outcome, Outcome::PoweredOff, "after {moves} moves: {text}");
    assert!(text.contains("user space reached") && text.contains("sum ea4d0a24"), "{text}");
    assert!(moves > 20);
}

/// Stays on KVM are longer than in software, which is slower, so that the guest
/// gets on.
#[test]
fn debian_boots_while_it_moves_to_the_interpreter() {
    debian_moves(Interpreter, [400_000, 20_000]);
}

#[test]
fn debian_boots_while_it_moves_to_the_translator() {
    debian_moves(Translator::default(), [400_000, 40_000]);
}

/// The state alone, on whatever runs: all of it comes back as it was set.
#[test]
fn a_state_comes_back_as_it_was_set() {
    if !matches!(survey(), Survey::Hardware(_) | Survey::Interprets(_)) {
        eprintln!("skipped: {}", survey());
        return;
    }
    let engine = Kvm::new().unwrap();
    let limits = engine.capabilities().processor;
    let without: Vec<Feature> = limits.without.iter().collect();
    let host = |leaf: u32, subleaf: u32| {
        let answer = std::arch::x86_64::__cpuid_count(leaf, subleaf);
        x86::cpuid::CpuidResult::new(answer.eax, answer.ebx, answer.ecx, answer.edx)
    };
    let model = x86::cpuid::CpuidModel::new(x86::cpuid::CpuidConfig {
        disable: &without,
        phys_bits: limits.phys_bits.min(46),
        ..x86::cpuid::CpuidConfig::new(&host, 1_000_000_000)
    });
    let config = VcpuConfig {
        id: 0,
        memory: memory::GuestMemory::new(2 << 20).unwrap(),
        cpuid: Arc::new(model),
        signals: Arc::default(),
        trace: None,
    };
    let mut vcpu = engine.create_vcpu(config).unwrap();
    let mut state = CpuState::reset();
    assert_eq!(state.differences(&vcpu.state()), [], "after reset");
    for (index, reg) in state.gpr.iter_mut().enumerate() {
        *reg = 0x0101_0101_0101_0101 * (index as u64 + 1);
    }
    state.rip = 0x1234;
    state.cr2 = 0xffff_8000_0000_1000;
    state.dr = [1, 2, 3, 4];
    state.fpu.x87.st[2][3] = 9;
    state.fpu.x87.ftw = 4;
    for (index, zmm) in state.fpu.zmm.iter_mut().enumerate().take(16) {
        zmm.0[..16].fill(index as u8);
    }
    state.msrs.lstar = 0xffff_8000_0000_2000;
    state.msrs.kernel_gs_base = 0x7000;
    state.msrs.misc_enable = 0;
    state.msrs.mtrr_fixed[3] = 6;
    state.nmi_blocked = true;
    state.nmi_pending = true;
    state.pending_event = Some(x86::PendingEvent::Exception { vector: 14, error_code: Some(2) });
    vcpu.set_state(&state);
    assert_eq!(state.differences(&vcpu.state()), []);
}
