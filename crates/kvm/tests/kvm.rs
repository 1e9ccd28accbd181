//! What is special about this engine, on whatever /dev/kvm the host has: kicks,
//! the dirty log, several vCPUs, single step, failures.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use engine::{Engine, Hypercall, MsrFault, Platform, Signal, Stop, Vcpu, VcpuConfig, VcpuSignals};
use kvm::{Kvm, survey};
use memory::GuestMemory;
use x86::cpuid::{CpuidConfig, CpuidModel, CpuidResult, Feature};
use x86::{CpuState, GuestPhysAddr, Vector};

const CODE: u64 = 0x1000;

/// A machine with memory and a port that counts.
#[derive(Default)]
struct Bench {
    written: AtomicU64,
}

impl Platform for Bench {
    fn port_read(&self, _port: u16, _size: u8) -> u32 {
        0x1234_5678
    }

    fn port_write(&self, _port: u16, _size: u8, _value: u32) {
        self.written.fetch_add(1, Ordering::Relaxed);
    }

    fn mmio_read(&self, _vcpu: u32, _at: GuestPhysAddr, data: &mut [u8]) {
        data.fill(0x5a);
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

/// The engine, if guests run at all here; else the reason is printed.
fn engine() -> Option<Kvm> {
    let survey = survey();
    if !survey.is_possible() {
        eprintln!("skipped: {survey}");
        return None;
    }
    Some(Kvm::new().unwrap())
}

fn model(engine: &Kvm) -> Arc<CpuidModel> {
    let host = |leaf: u32, subleaf: u32| {
        let answer = std::arch::x86_64::__cpuid_count(leaf, subleaf);
        CpuidResult::new(answer.eax, answer.ebx, answer.ecx, answer.edx)
    };
    let limits = engine.capabilities().processor;
    let without: Vec<Feature> = limits.without.iter().collect();
    Arc::new(CpuidModel::new(CpuidConfig {
        disable: &without,
        phys_bits: limits.phys_bits.min(46),
        ..CpuidConfig::new(&host, 1_000_000_000)
    }))
}

fn vcpu(engine: &Kvm, memory: &GuestMemory, id: u32) -> (Box<dyn Vcpu>, Arc<VcpuSignals>) {
    let signals = Arc::new(VcpuSignals::default());
    let config = VcpuConfig {
        id,
        memory: memory.clone(),
        cpuid: model(engine),
        signals: Arc::clone(&signals),
        trace: None,
    };
    (engine.create_vcpu(config).unwrap(), signals)
}

/// Real mode at `CODE`.
fn start(vcpu: &mut dyn Vcpu) {
    let mut state = CpuState::reset();
    let cs = state.segment_mut(x86::SegmentName::Cs);
    (cs.selector.0, cs.base) = (0, 0);
    state.rip = CODE;
    vcpu.set_state(&state);
}

fn with_code(code: &[u8]) -> GuestMemory {
    let memory = GuestMemory::new(2 << 20).unwrap();
    memory.write(GuestPhysAddr(CODE), code).unwrap();
    memory
}

#[test]
fn no_kick_is_lost() {
    let Some(engine) = engine() else { return };
    // `1: inc ax; jmp 1b`: nothing but a kick ends it.
    let memory = with_code(&[0x40, 0xeb, 0xfd]);
    let (mut vcpu, signals) = vcpu(&engine, &memory, 0);
    start(vcpu.as_mut());
    let bench = Bench::default();
    let start = Instant::now();
    for round in 0..200_u32 {
        std::thread::scope(|scope| {
            let signals = &signals;
            scope.spawn(move || {
                // From before the entry to well inside.
                for _ in 0..round * 50 {
                    std::hint::spin_loop();
                }
                signals.raise(Signal::Exit);
            });
            assert_eq!(vcpu.run(&bench), Stop::Kicked);
        });
        assert!(signals.take(Signal::Exit));
    }
    assert!(start.elapsed() < Duration::from_secs(60));
}

#[test]
fn a_kick_before_the_run_counts() {
    let Some(engine) = engine() else { return };
    let memory = with_code(&[0xeb, 0xfe]);
    let (mut vcpu, signals) = vcpu(&engine, &memory, 0);
    start(vcpu.as_mut());
    signals.raise(Signal::Exit);
    assert_eq!(vcpu.run(&Bench::default()), Stop::Kicked);
    assert_eq!(vcpu.state().rip, CODE);
}

#[test]
fn the_log_has_the_pages_that_the_guest_wrote() {
    let Some(engine) = engine() else { return };
    // mov [0x5000], al; mov [0x9000], al; cli; hlt
    let memory = with_code(&[0xa2, 0x00, 0x50, 0xa2, 0x00, 0x90, 0xfa, 0xf4]);
    let (mut vcpu, _) = vcpu(&engine, &memory, 0);
    let log = engine.log_dirty_pages(&memory).unwrap().expect("the machine exists");
    start(vcpu.as_mut());
    log.take().unwrap();
    memory.mark_code(GuestPhysAddr(0x5000), 16);
    assert_eq!(vcpu.run(&Bench::default()), Stop::HaltedForGood);
    // Some processors also report a page that they only looked at.
    assert!(log.note_writes().unwrap() >= 2);
    assert_eq!(memory.code_version(GuestPhysAddr(0x5000)), 1, "whoever decoded it hears of it");
    assert_eq!(log.take().unwrap(), []);
    start(vcpu.as_mut());
    assert_eq!(vcpu.run(&Bench::default()), Stop::HaltedForGood);
    let pages = log.take().unwrap();
    assert!(pages.contains(&GuestPhysAddr(0x5000)) && pages.contains(&GuestPhysAddr(0x9000)), "{pages:?}");
    drop(vcpu);
    drop(log);
    assert!(engine.log_dirty_pages(&memory).unwrap().is_none(), "the machine went with its vCPU");
}

#[test]
fn two_vcpus_share_a_machine_and_its_memory() {
    let Some(engine) = engine() else { return };
    // lock inc word [0x5000]; loop; cli; hlt, with CX from the state
    let memory = with_code(&[0xf0, 0xff, 0x06, 0x00, 0x50, 0xe2, 0xf9, 0xfa, 0xf4]);
    let vcpus = [vcpu(&engine, &memory, 0), vcpu(&engine, &memory, 1)];
    std::thread::scope(|scope| {
        for (mut vcpu, _signals) in vcpus {
            scope.spawn(move || {
                start(vcpu.as_mut());
                let mut state = vcpu.state();
                state.set_reg(x86::Gpr::Rcx, 1000);
                vcpu.set_state(&state);
                assert_eq!(vcpu.run(&Bench::default()), Stop::HaltedForGood);
            });
        }
    });
    assert_eq!(memory.read_u32(GuestPhysAddr(0x5000)).unwrap(), 2000);
}

#[test]
fn single_steps_are_instructions() {
    let Some(engine) = engine() else { return };
    // inc ax; out 0x80, al; inc ax; hlt
    let memory = with_code(&[0x40, 0xe6, 0x80, 0x40, 0xf4]);
    let (mut vcpu, _) = vcpu(&engine, &memory, 0);
    start(vcpu.as_mut());
    let bench = Bench::default();
    for rip in [CODE + 1, CODE + 3, CODE + 4] {
        assert_eq!(vcpu.step(&bench), None);
        assert_eq!(vcpu.state().rip, rip);
    }
    assert_eq!(vcpu.state().reg(x86::Gpr::Rax), 2);
    assert_eq!(bench.written.load(Ordering::Relaxed), 1);
    assert!(!vcpu.state().rflags.contains(x86::Rflags::TF), "the guest does not see the step");
}

#[test]
fn more_vcpus_than_the_host_has_are_refused_in_a_sentence() {
    let Some(engine) = engine() else { return };
    let config = VcpuConfig {
        id: engine.capabilities().max_vcpus,
        memory: GuestMemory::new(2 << 20).unwrap(),
        cpuid: model(&engine),
        signals: Arc::default(),
        trace: None,
    };
    let error = engine.create_vcpu(config).err().expect("it is refused").to_string();
    assert!(error.contains("at most") && !error.contains('\n'), "{error}");
}

/// Real mode: `mov ecx, INDEX; mov eax, LOW; mov edx, HIGH; wrmsr; rdmsr; cli; hlt`.
fn written_and_read(index: u32, value: u64) -> Vec<u8> {
    let mut code = vec![0x66, 0xb9];
    code.extend(index.to_le_bytes());
    code.extend([0x66, 0xb8]);
    code.extend((value as u32).to_le_bytes());
    code.extend([0x66, 0xba]);
    code.extend(((value >> 32) as u32).to_le_bytes());
    code.extend([0x0f, 0x30, 0x0f, 0x32, 0xfa, 0xf4]);
    code
}

#[test]
fn what_would_change_cpuid_cannot_be_set() {
    let Some(engine) = engine() else { return };
    if model(&engine).vendor() == x86::cpuid::Vendor::Amd {
        eprintln!("skipped: AMD's processors have no IA32_MISC_ENABLE");
        return;
    }
    let memory = with_code(&written_and_read(0x1a0, 1 << 34 | 1 << 22 | 1));
    let (mut vcpu, _) = vcpu(&engine, &memory, 0);
    start(vcpu.as_mut());
    assert_eq!(vcpu.run(&Bench::default()), Stop::HaltedForGood);
    let state = vcpu.state();
    assert_eq!(state.reg(x86::Gpr::Rax) & (1 << 22 | 1), 1);
    assert_eq!(state.reg(x86::Gpr::Rdx) & 1 << 2, 0);
}

#[test]
fn a_state_that_no_processor_has_fails_in_a_sentence() {
    let Some(engine) = engine() else { return };
    let memory = with_code(&[0xf4]);
    let (mut vcpu, _) = vcpu(&engine, &memory, 0);
    let mut state = CpuState::reset();
    // Paging without protection.
    state.cr0 |= x86::Cr0::PG;
    vcpu.set_state(&state);
    match vcpu.run(&Bench::default()) {
        Stop::Failed(why) | Stop::GuestFailed(why) => assert!(!why.contains('\n'), "{why}"),
        other => panic!("{other:?}"),
    }
    start(vcpu.as_mut());
    assert!(matches!(vcpu.run(&Bench::default()), Stop::HaltedForGood), "another state is fine again");
}
