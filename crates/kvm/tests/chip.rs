//! Local APICs in the kernel: what is sent reaches them, ends and times by
//! itself, starts other processors, and moves between them and the machine's.
//!
//! With MOVES_KERNEL and MOVES_INITRD naming Debian's kernel and the demo's
//! initramfs, Debian boots on both, taking turns.

#![allow(clippy::unwrap_used, reason = "a test")]
#![allow(unsafe_code, reason = "RDTSC is an unsafe intrinsic")]

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use engine::{
    Assist, Capabilities, Engine, EngineError, EngineKind, Hypercall, InterruptMessage, LocalApicRegisters,
    MsrFault, Platform, Signal, Stop, Vcpu, VcpuConfig, VcpuSignals,
};
use interpret::Interpreter;
use kvm::{Kvm, survey};
use machine::{
    BootSource, Consoles, InterruptChip, Machine, MachineConfig, OnReset, Outcome, OwnedModule, Protocol,
};
use memory::GuestMemory;
use x86::cpuid::{CpuidConfig, CpuidModel, CpuidResult, Feature};
use x86::{Activity, CpuState, Gpr, GuestPhysAddr, SegmentName, Vector};

const CODE: u64 = 0x1000;
const HANDLER: u64 = 0x1800;
const VECTOR: u8 = 0x41;
/// Where a device's register is, 64 KiB above a segment's base.
const REGISTER: u64 = 0x3000_0000;

/// A machine that counts port writes and the ends of interrupts.
#[derive(Default)]
struct Bench {
    written: AtomicU64,
    stored: AtomicU64,
    ended: Mutex<Vec<u8>>,
    intr: Mutex<Option<u8>>,
    /// Whose port writes end the run.
    stop: Option<Arc<VcpuSignals>>,
}

impl Platform for Bench {
    fn port_read(&self, _port: u16, _size: u8) -> u32 {
        0
    }

    fn port_write(&self, _port: u16, _size: u8, _value: u32) {
        self.written.fetch_add(1, Ordering::SeqCst);
        if let Some(signals) = &self.stop {
            signals.raise(Signal::Exit);
        }
    }

    fn mmio_read(&self, _vcpu: u32, _at: GuestPhysAddr, data: &mut [u8]) {
        data.fill(0xff);
    }

    fn mmio_write(&self, _vcpu: u32, _at: GuestPhysAddr, _data: &[u8]) {
        self.stored.fetch_add(1, Ordering::SeqCst);
    }

    fn interrupt_acknowledge(&self, _vcpu: u32) -> Option<Vector> {
        let vector = self.intr.lock().unwrap().take();
        // INTR falls, as it does when there is one interrupt.
        if let Some(signals) = &self.stop {
            signals.take(Signal::Interrupt);
        }
        vector.map(Vector)
    }

    fn end_of_interrupt(&self, vector: Vector) {
        self.ended.lock().unwrap().push(vector.0);
    }

    fn task_priority(&self, _vcpu: u32) -> u8 {
        panic!("the local APIC is the kernel's");
    }

    fn set_task_priority(&self, _vcpu: u32, _priority: u8) {
        panic!("the local APIC is the kernel's");
    }

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

    fn halt(&self, _vcpu: u32) {
        panic!("HLT is the kernel's");
    }
}

/// The engine, if guests run at all here and it has local APICs; else the
/// reason is printed.
fn engine() -> Option<Kvm> {
    let survey = survey();
    if !survey.is_possible() {
        eprintln!("skipped: {survey}");
        return None;
    }
    let engine = Kvm::new().unwrap();
    if let Err(why) = engine.capabilities().own_interrupt_chip {
        eprintln!("skipped: {why}");
        return None;
    }
    Some(engine)
}

/// The rate of the host's time-stamp counter.
fn tsc_hz() -> u64 {
    static HZ: OnceLock<u64> = OnceLock::new();
    // SAFETY: every x86-64 processor has RDTSC, and it touches no memory.
    let counter = || unsafe { std::arch::x86_64::_rdtsc() };
    // Both at the same moment, even on a busy host.
    let pair = || {
        loop {
            let (before, at) = (counter(), Instant::now());
            if counter() - before < 100_000 {
                return (at, before);
            }
        }
    };
    *HZ.get_or_init(|| {
        let (start_at, start) = pair();
        std::thread::sleep(Duration::from_millis(100));
        let (end_at, end) = pair();
        ((end - start) as f64 / (end_at - start_at).as_secs_f64()) as u64
    })
}

fn model(engine: &Kvm) -> Arc<CpuidModel> {
    model_with(engine, &[])
}

/// With a hypervisor's `interface`.
fn model_with(engine: &Kvm, interface: &[(u32, CpuidResult)]) -> Arc<CpuidModel> {
    let host = |leaf: u32, subleaf: u32| {
        let answer = std::arch::x86_64::__cpuid_count(leaf, subleaf);
        CpuidResult::new(answer.eax, answer.ebx, answer.ecx, answer.edx)
    };
    let limits = engine.capabilities().processor;
    let without: Vec<Feature> = limits.without.iter().collect();
    Arc::new(CpuidModel::new(CpuidConfig {
        disable: &without,
        interface,
        phys_bits: limits.phys_bits.min(46),
        ..CpuidConfig::new(&host, tsc_hz())
    }))
}

/// vCPUs in real mode at [`CODE`], with local APICs in the kernel that are
/// enabled in x2APIC mode; [`VECTOR`] leads to [`HANDLER`].
struct Guest {
    assist: Arc<dyn Assist>,
    vcpus: Vec<(Box<dyn Vcpu>, Arc<VcpuSignals>)>,
    memory: GuestMemory,
}

impl Guest {
    fn new(engine: &Kvm, cpus: u32, code: &[u8], handler: &[u8]) -> Self {
        Self::with(engine, &model(engine), cpus, code, handler)
    }

    fn with(engine: &Kvm, model: &Arc<CpuidModel>, cpus: u32, code: &[u8], handler: &[u8]) -> Self {
        let memory = GuestMemory::new(2 << 20).unwrap();
        memory.write(GuestPhysAddr(CODE), code).unwrap();
        memory.write(GuestPhysAddr(HANDLER), handler).unwrap();
        memory.write(GuestPhysAddr(u64::from(VECTOR) * 4), &(HANDLER as u32).to_le_bytes()).unwrap();
        let assist = engine.assist(&memory, true).unwrap().unwrap();
        assert!(assist.has_local_apics());
        let vcpus = (0..cpus).map(|id| {
            let signals = Arc::new(VcpuSignals::default());
            let config = VcpuConfig {
                id,
                memory: memory.clone(),
                cpuid: Arc::clone(model),
                signals: Arc::clone(&signals),
                trace: None,
            };
            let mut vcpu = engine.create_vcpu(config).unwrap();
            start(vcpu.as_mut(), id);
            (vcpu, signals)
        });
        let vcpus = vcpus.collect();
        Self { assist, vcpus, memory }
    }

    /// A write of 1 to the register of a device has this in front of it.
    fn send(&self, data: u32) {
        self.assist.deliver(InterruptMessage { address: 0xfee0_0000, data });
    }

    fn word(&self, at: u64) -> u32 {
        self.memory.read_u32(GuestPhysAddr(at)).unwrap()
    }

    /// Runs the boot processor until it writes to a port.
    fn run(&mut self, bench: Bench) -> Bench {
        let (vcpu, signals) = &mut self.vcpus[0];
        let bench = Bench { stop: Some(Arc::clone(signals)), ..bench };
        let watched = Arc::clone(signals);
        let (done, over) = std::sync::mpsc::channel::<()>();
        let watchdog = std::thread::spawn(move || {
            if over.recv_timeout(Duration::from_secs(60)).is_err() {
                watched.raise(Signal::Exit);
            }
        });
        assert_eq!(vcpu.run(&bench), Stop::Kicked);
        signals.take(Signal::Exit);
        let _ = done.send(());
        watchdog.join().unwrap();
        assert_eq!(bench.written.load(Ordering::SeqCst), 1, "{:x?}", vcpu.state());
        bench
    }
}

/// Registers of a local APIC that is enabled, in x2APIC mode.
fn apic(id: u32) -> LocalApicRegisters {
    let mut page = vec![0; 64];
    page[2] = id;
    page[0xf] = 0x1ff;
    page[0x32..=0x37].fill(1 << 16);
    let bsp = if id == 0 { 1 << 8 } else { 0 };
    LocalApicRegisters { base: 0xfee0_0c00 | bsp, page, tsc_deadline: 0, eoi_flag: 0 }
}

fn start(vcpu: &mut dyn Vcpu, id: u32) {
    let mut state = CpuState::reset();
    let cs = state.segment_mut(SegmentName::Cs);
    (cs.selector.0, cs.base) = (0, 0);
    let es = state.segment_mut(SegmentName::Es);
    es.base = REGISTER;
    state.rip = CODE;
    state.set_reg(Gpr::Rsp, 0x8000);
    if id != 0 {
        state.activity = Activity::WaitForSipi;
    }
    vcpu.set_state(&state);
    vcpu.set_local_apic(&apic(id));
}

/// `sti; hlt; out 0x80, al; cli; hlt`.
const WAIT: [u8; 6] = [0xfb, 0xf4, 0xe6, 0x80, 0xfa, 0xf4];
/// `inc word [0x5000]`, then EOI: `mov ecx, 0x80b; xor eax, eax; xor edx, edx; wrmsr`,
/// `iret`.
const COUNT: [u8; 19] = [
    0xff, 0x06, 0x00, 0x50, 0x66, 0xb9, 0x0b, 0x08, 0x00, 0x00, 0x66, 0x31, 0xc0, 0x66, 0x31, 0xd2, 0x0f,
    0x30, 0xcf,
];

#[test]
fn a_message_ends_hlt_and_its_interrupt_ends_in_the_kernel() {
    let Some(engine) = engine() else { return };
    let mut guest = Guest::new(&engine, 1, &WAIT, &COUNT);
    guest.send(0x4000 | u32::from(VECTOR));
    let bench = guest.run(Bench::default());
    assert_eq!(guest.word(0x5000), 1);
    assert_eq!(*bench.ended.lock().unwrap(), []);
    let registers = guest.vcpus[0].0.local_apic().unwrap();
    assert_eq!(registers.page[0x10..0x28], [0; 24], "nothing is requested or in service");
    let exits = guest.vcpus[0].0.stats().exits;
    assert!(exits.iter().all(|(why, _)| ["io", "intr"].contains(why)), "{exits:?}");
}

#[test]
fn a_devices_message_ends_hlt_each_time() {
    let Some(engine) = engine() else { return };
    let mut guest = Guest::new(&engine, 1, &WAIT, &COUNT);
    for times in 1..=3 {
        guest.assist.signal(InterruptMessage { address: 0xfee0_0000, data: u32::from(VECTOR) });
        guest.run(Bench::default());
        assert_eq!(guest.word(0x5000), times);
        start(guest.vcpus[0].0.as_mut(), 0);
    }
}

#[test]
fn devices_messages_have_arrived_before_the_local_apic_is_handed_over() {
    let Some(engine) = engine() else { return };
    let guest = Guest::new(&engine, 1, &WAIT, &COUNT);
    // More than have an event of their own, in every order of them.
    for vector in (0x20..=0xff).chain((0x20..=0xff).rev()) {
        guest.assist.signal(InterruptMessage { address: 0xfee0_0000, data: vector });
    }
    let requested = guest.vcpus[0].0.local_apic().unwrap().page[0x20..0x28].to_vec();
    assert_eq!(requested, [0, u32::MAX, u32::MAX, u32::MAX, u32::MAX, u32::MAX, u32::MAX, u32::MAX]);
}

#[test]
fn a_message_to_everybody_reaches_them_in_either_mode() {
    let Some(engine) = engine() else { return };
    // Without EOI: the mode decides by what that is done.
    let handler = [&COUNT[..4], &[0xcf]].concat();
    for base in [0xfee0_0d00, 0xfee0_0900] {
        let mut guest = Guest::new(&engine, 1, &WAIT, &handler);
        guest.vcpus[0].0.set_local_apic(&LocalApicRegisters { base, ..apic(0) });
        guest.assist.deliver(InterruptMessage { address: 0xfeef_f000, data: 0x4000 | u32::from(VECTOR) });
        guest.run(Bench::default());
        assert_eq!(guest.word(0x5000), 1, "{base:#x}");
    }
}

#[test]
fn single_step_counts_hlt_that_waits_in_the_kernel() {
    let Some(engine) = engine() else { return };
    let mut guest = Guest::new(&engine, 1, &[0x90, 0xf4, 0x90, 0xf4], &[]);
    let (vcpu, _) = &mut guest.vcpus[0];
    let bench = Bench::default();
    for (rip, activity) in [(1, Activity::Running), (2, Activity::Halted)] {
        assert_eq!(vcpu.step(&bench), None);
        let state = vcpu.state();
        assert_eq!(state.rip - CODE, rip);
        // A /dev/kvm that interprets guests does not halt in a single step.
        assert!(state.activity == activity || !survey().is_usable(), "{:?}", state.activity);
    }
}

/// KVM's leaves of CPUID with these features.
fn kvms_leaves(features: u32) -> [(u32, CpuidResult); 2] {
    let [ebx, ecx, edx] = [*b"KVMK", *b"VMKV", *b"M\0\0\0"].map(u32::from_le_bytes);
    [
        (0x4000_0000, CpuidResult::new(0x4000_0001, ebx, ecx, edx)),
        (0x4000_0001, CpuidResult::new(features, 0, 0, 0)),
    ]
}

#[test]
fn the_hypercalls_that_cpuid_offers_work_and_no_others() {
    let Some(engine) = engine() else { return };
    if !survey().is_usable() {
        eprintln!("skipped: a /dev/kvm that interprets guests passes over their hypercalls");
        return;
    }
    let (send_ipi, sched_yield, no_such_call) = (10, 11, -1000_i32);
    for (features, number, answer) in [
        (1 << 11, send_ipi, 1),
        (1 << 11, sched_yield, no_such_call),
        (1 << 13, sched_yield, 0),
        (1 << 13, send_ipi, no_such_call),
    ] {
        let model = model_with(&engine, &kvms_leaves(features));
        let amd = model.vendor() == x86::cpuid::Vendor::Amd;
        // VMMCALL or VMCALL; mov [0x5004], eax; out 0x80, al
        let code =
            [0x0f, 0x01, if amd { 0xd9 } else { 0xc1 }, 0x66, 0xa3, 0x04, 0x50, 0xe6, 0x80, 0xfa, 0xf4];
        let mut guest = Guest::with(&engine, &model, 1, &code, &COUNT);
        let vcpu = &mut guest.vcpus[0].0;
        let mut state = vcpu.state();
        // Processor 0 of a bitmap that starts at 0; edge-triggered.
        for (reg, value) in
            [(Gpr::Rax, number), (Gpr::Rbx, 1), (Gpr::Rcx, 0), (Gpr::Rdx, 0), (Gpr::Rsi, u64::from(VECTOR))]
        {
            state.set_reg(reg, value);
        }
        vcpu.set_state(&state);
        guest.run(Bench::default());
        assert_eq!(guest.word(0x5004) as i32, answer, "call {number} with features {features:#x}");
    }
}

#[test]
fn only_ends_of_level_triggered_interrupts_come_out() {
    let Some(engine) = engine() else { return };
    let mut guest = Guest::new(&engine, 1, &WAIT, &COUNT);
    if !survey().is_usable() {
        eprintln!("skipped: a /dev/kvm that interprets guests does not tell of these ends");
        return;
    }
    let message = InterruptMessage { address: 0xfee0_0000, data: 0xc000 | u32::from(VECTOR) };
    guest.assist.expect_ends(&[None, Some(message)]);
    guest.assist.deliver(message);
    let bench = guest.run(Bench::default());
    assert_eq!((guest.word(0x5000), bench.ended.lock().unwrap().as_slice()), (1, [VECTOR].as_slice()));
}

#[test]
fn the_8259as_still_interrupt() {
    let Some(engine) = engine() else { return };
    let mut guest = Guest::new(&engine, 1, &WAIT, &COUNT);
    let mut registers = apic(0);
    registers.page[0x35] = 7 << 8;
    guest.vcpus[0].0.set_local_apic(&registers);
    let bench = Bench { intr: Mutex::new(Some(VECTOR)), ..Bench::default() };
    guest.vcpus[0].1.raise(Signal::Interrupt);
    guest.run(bench);
    assert_eq!(guest.word(0x5000), 1);
}

#[test]
fn a_deadline_is_kept_without_an_exit() {
    let Some(engine) = engine() else { return };
    // mov ecx, 0x832; mov eax, 0x40041; xor edx, edx; wrmsr; rdtsc;
    // add eax, 0x10000; adc edx, 0; mov ecx, 0x6e0; wrmsr
    let mut code = vec![
        0x66, 0xb9, 0x32, 0x08, 0x00, 0x00, 0x66, 0xb8, 0x41, 0x00, 0x04, 0x00, 0x66, 0x31, 0xd2, 0x0f, 0x30,
        0x0f, 0x31, 0x66, 0x05, 0x00, 0x00, 0x01, 0x00, 0x66, 0x83, 0xd2, 0x00, 0x66, 0xb9, 0xe0, 0x06, 0x00,
        0x00, 0x0f, 0x30,
    ];
    code.extend(WAIT);
    let mut guest = Guest::new(&engine, 1, &code, &COUNT);
    guest.run(Bench::default());
    assert_eq!(guest.word(0x5000), 1);
    let exits = guest.vcpus[0].0.stats().exits;
    assert!(exits.iter().all(|(why, _)| ["io", "intr"].contains(why)), "{exits:?}");
}

#[test]
fn a_deadline_that_is_handed_over_is_kept_too() {
    let Some(engine) = engine() else { return };
    let mut guest = Guest::new(&engine, 1, &WAIT, &COUNT);
    let mut registers = apic(0);
    registers.page[0x32] = 2 << 17 | u32::from(VECTOR);
    // Guest time starts at zero with the run.
    registers.tsc_deadline = 1_000_000;
    guest.vcpus[0].0.set_local_apic(&registers);
    assert_eq!(guest.vcpus[0].0.local_apic().unwrap().tsc_deadline, 1_000_000);
    guest.run(Bench::default());
    assert_eq!(guest.word(0x5000), 1);
}

#[test]
fn a_write_rings_a_bell_and_nobody_else() {
    let Some(engine) = engine() else { return };
    // mov ax, 1; mov es:[0x10], ax; mov es:[0x20], ax; out 0x80, al
    let code = [0xb8, 0x01, 0x00, 0x26, 0xa3, 0x10, 0x00, 0x26, 0xa3, 0x20, 0x00, 0xe6, 0x80, 0xfa, 0xf4];
    let mut guest = Guest::new(&engine, 1, &code, &[]);
    let bell = virtio::Doorbell::new().unwrap();
    let at = GuestPhysAddr(REGISTER + 0x10);
    let fd = std::os::fd::AsFd::as_fd(&bell);
    guest.assist.ring_on_write(at, None, fd).unwrap();
    let bench = guest.run(Bench::default());
    assert!(bell.take());
    assert_eq!(bench.stored.load(Ordering::SeqCst), 1, "the other address goes the way of all");
    guest.assist.ring_no_more(at, None, fd);
    start(guest.vcpus[0].0.as_mut(), 0);
    let bench = guest.run(Bench::default());
    assert!(!bell.take());
    assert_eq!(bench.stored.load(Ordering::SeqCst), 2);
}

#[test]
fn a_processor_starts_another_in_the_kernel() {
    let Some(engine) = engine() else { return };
    // mov ecx, 0x830; mov edx, 1; mov eax, 0x4500; wrmsr (INIT);
    // mov eax, 0x4602; wrmsr (start-up at 0x2000); 1: cmp word [0x5000], 0; je 1b;
    // out 0x80, al
    let code = [
        0x66, 0xb9, 0x30, 0x08, 0x00, 0x00, 0x66, 0xba, 0x01, 0x00, 0x00, 0x00, 0x66, 0xb8, 0x00, 0x45, 0x00,
        0x00, 0x0f, 0x30, 0x66, 0xb8, 0x02, 0x46, 0x00, 0x00, 0x0f, 0x30, 0x83, 0x3e, 0x00, 0x50, 0x00, 0x74,
        0xf9, 0xe6, 0x80, 0xfa, 0xf4,
    ];
    let mut guest = Guest::new(&engine, 2, &code, &[]);
    // mov ax, 7; mov ds:[0x5000], ax with DS = 0; cli; hlt
    guest
        .memory
        .write(
            GuestPhysAddr(0x2000),
            &[0x31, 0xdb, 0x8e, 0xdb, 0xb8, 0x07, 0x00, 0xa3, 0x00, 0x50, 0xfa, 0xf4],
        )
        .unwrap();
    let (mut second, second_signals) = guest.vcpus.pop().unwrap();
    let waiting = second.state();
    assert_eq!(waiting.activity, Activity::WaitForSipi);
    std::thread::scope(|scope| {
        let other = scope.spawn(move || {
            let stop = second.run(&Bench::default());
            (stop, second.state())
        });
        guest.run(Bench::default());
        second_signals.raise(Signal::Exit);
        let (stop, state) = other.join().unwrap();
        assert_eq!(stop, Stop::Kicked);
        assert!(matches!(state.activity, Activity::Running | Activity::Halted));
        assert_eq!(state.segment(SegmentName::Cs).base, 0x2000);
    });
    assert_eq!(guest.word(0x5000) & 0xffff, 7);
}

#[test]
fn a_counter_at_another_rate_is_scaled_or_refused_in_a_sentence() {
    let Some(engine) = engine() else { return };
    let memory = GuestMemory::new(2 << 20).unwrap();
    let _assist = engine.assist(&memory, true).unwrap();
    let host = |leaf: u32, subleaf: u32| {
        let answer = std::arch::x86_64::__cpuid_count(leaf, subleaf);
        CpuidResult::new(answer.eax, answer.ebx, answer.ecx, answer.edx)
    };
    let config = VcpuConfig {
        id: 0,
        memory,
        cpuid: Arc::new(CpuidModel::new(CpuidConfig::new(&host, tsc_hz() / 2))),
        signals: Arc::default(),
        trace: None,
    };
    if let Err(error) = engine.create_vcpu(config) {
        let error = error.to_string();
        assert!(error.contains("MHz") && error.contains("cannot be scaled"), "{error}");
    }
}

#[test]
fn a_local_apic_comes_back_as_it_was_set() {
    let Some(engine) = engine() else { return };
    let mut guest = Guest::new(&engine, 1, &WAIT, &COUNT);
    let vcpu = &mut guest.vcpus[0].0;
    let mut registers = apic(0);
    registers.page[0x08] = 0x20;
    registers.page[0x22] = 1 << 1 | 1 << 9;
    registers.page[0x12] = 1 << 3;
    registers.page[0x1a] = 1 << 9;
    registers.page[0x30] = 0x4041;
    registers.page[0x31] = 5;
    registers.page[0x32] = 2 << 17 | 0xec;
    registers.page[0x35] = 7 << 8;
    registers.page[0x37] = 0xfe;
    registers.page[0x3e] = 0b1011;
    registers.tsc_deadline = 1 << 60;
    vcpu.set_local_apic(&registers);
    let found = vcpu.local_apic().unwrap();
    assert_eq!((found.base, found.tsc_deadline), (registers.base, registers.tsc_deadline));
    // Those that hold no state: version, priority, logical id.
    for index in (0..64).filter(|index| ![0x03, 0x0a, 0x0d, 0x0e].contains(index)) {
        assert_eq!(found.page[index], registers.page[index], "register {index:#x}");
    }
    let mut state = vcpu.state();
    for activity in [Activity::Halted, Activity::WaitForSipi, Activity::Running] {
        state.activity = activity;
        vcpu.set_state(&state);
        assert_eq!(state.differences(&vcpu.state()), []);
        assert_eq!(vcpu.local_apic().unwrap().base, registers.base);
    }
}

/// KVM with the processor that the test bed can move.
struct Bed(Kvm);

impl Engine for Bed {
    fn kind(&self) -> EngineKind {
        self.0.kind()
    }

    fn capabilities(&self) -> Capabilities {
        let mut capabilities = self.0.capabilities();
        if std::env::var_os("TEST_BED_FAULTS").is_some() {
            // QEMU's AMD-V does not tell KVM of XSETBV, so XCR0 is unknown.
            capabilities.processor.without.set(Feature::Xsave, true);
        }
        capabilities
    }

    fn assist(&self, memory: &GuestMemory, apics: bool) -> Result<Option<Arc<dyn Assist>>, EngineError> {
        self.0.assist(memory, apics)
    }

    fn create_vcpu(&self, config: VcpuConfig) -> Result<Box<dyn Vcpu>, EngineError> {
        self.0.create_vcpu(config)
    }
}

/// Runs `boot` to its end, by turns on KVM and the interpreter: what it
/// printed, and how often it moved. It starts with `chip`, and on KVM the
/// local APICs are the kernel's or, every second time, that.
fn moved(
    engine: &Bed,
    chip: InterruptChip,
    cpus: u32,
    boot: BootSource,
    longest: Duration,
) -> (Outcome, String, u32) {
    let printed = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&printed);
    let mut machine = Machine::build(MachineConfig {
        consoles: Consoles {
            serial: Box::new(move |byte: u8| sink.lock().unwrap().push(byte)),
            ..Consoles::default()
        },
        on_reset: OnReset::Exit,
        cpus,
        interrupt_chip: chip,
        ..MachineConfig::new(engine, 256 << 20, boot)
    })
    .unwrap();
    let (start, mut moves, mut random) = (Instant::now(), 0_u32, 0x9e37_79b9_7f4a_7c15_u64);
    let outcome = loop {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let handle = machine.handle();
        let pause = Duration::from_micros(50 + random % longest.as_micros() as u64);
        let alarm = std::thread::spawn(move || {
            std::thread::sleep(pause);
            handle.stop();
        });
        let outcome = machine.run();
        alarm.join().unwrap();
        if outcome != Outcome::Stopped || start.elapsed() > Duration::from_secs(600) {
            break outcome;
        }
        moves += 1;
        let chip = if moves % 4 == 0 { chip } else { InterruptChip::Engine };
        match moves % 2 {
            1 => machine.move_to(&Interpreter, chip).unwrap(),
            _ => machine.move_to(engine, chip).unwrap(),
        }
    };
    drop(machine);
    let text = String::from_utf8_lossy(&printed.lock().unwrap()).into_owned();
    (outcome, text, moves)
}

/// The engine where its guests run at the hardware's speed, and all of their
/// instructions.
fn hardware() -> Option<Bed> {
    let survey = survey();
    if !survey.is_usable() {
        eprintln!("skipped: {survey}");
        return None;
    }
    engine().map(Bed)
}

fn kernel(image: Vec<u8>, modules: Vec<OwnedModule>, cmdline: &str) -> BootSource {
    BootSource::Kernel { image, modules, cmdline: cmdline.to_owned(), protocol: Protocol::Auto }
}

#[test]
fn a_guest_that_calls_for_interrupts_does_not_go_where_calls_do_not_reach() {
    let Some(engine) = engine() else { return };
    for (chip, may_go) in [(InterruptChip::Engine, false), (InterruptChip::Machine, true)] {
        let boot = kernel(embedded_guest::IMAGE.to_vec(), Vec::new(), "");
        let config = MachineConfig { interrupt_chip: chip, ..MachineConfig::new(&engine, 64 << 20, boot) };
        let mut machine = Machine::build(config).unwrap();
        machine.move_to(&Interpreter, InterruptChip::Engine).unwrap();
        machine.move_to(&engine, InterruptChip::Engine).unwrap();
        match machine.move_to(&engine, InterruptChip::Machine) {
            Ok(()) => assert!(may_go),
            Err(error) => assert!(!may_go && error.to_string().contains("hypercalls"), "{error}"),
        }
        machine.move_to(&engine, InterruptChip::Engine).unwrap();
    }
}

#[test]
fn the_built_in_guest_does_not_notice_that_its_chip_moves() {
    let Some(engine) = hardware() else { return };
    if std::env::var_os("TEST_BED_FAULTS").is_some() {
        eprintln!("skipped: QEMU aborts when a guest writes CR8 while KVM waits for its interrupt window");
        return;
    }
    let mut moves = 0;
    for longest in [1, 3, 10] {
        let boot = kernel(embedded_guest::IMAGE.to_vec(), Vec::new(), "");
        let (outcome, text, done) =
            moved(&engine, InterruptChip::Machine, 1, boot, Duration::from_millis(longest));
        assert_eq!(outcome, Outcome::PoweredOff, "after {done} moves: {text}");
        moves += done;
    }
    eprintln!("the built-in guest was moved {moves} times");
    assert!(moves > 4);
}

#[test]
fn debian_boots_while_its_chip_moves() {
    let (Ok(image), Ok(initrd)) = (std::env::var("MOVES_KERNEL"), std::env::var("MOVES_INITRD")) else {
        eprintln!("skipped: MOVES_KERNEL and MOVES_INITRD do not name a kernel and an initramfs");
        return;
    };
    let Some(engine) = hardware() else { return };
    let initrd = std::fs::read(initrd).unwrap();
    let image = std::fs::read(image).unwrap();
    for (cpus, chip) in [(2, InterruptChip::Engine), (1, InterruptChip::Machine)] {
        let initrd = OwnedModule { data: initrd.clone(), string: String::new() };
        let words = "console=ttyS0 quiet ringmaster.exec=\"\
            echo $(nproc) sum $(seq 1 2000 | md5sum); cat /sys/devices/system/clocksource/*/available_clocksource\"";
        let boot = kernel(image.clone(), vec![initrd], words);
        let start = Instant::now();
        let (outcome, text, moves) = moved(&engine, chip, cpus, boot, Duration::from_millis(200));
        let seconds = start.elapsed().as_secs_f64();
        eprintln!("Debian on {cpus} processors was moved {moves} times in {seconds:.1} s");
        assert_eq!(outcome, Outcome::PoweredOff, "after {moves} moves: {text}");
        let done = format!("{cpus} sum ea4d0a24");
        assert!(text.contains("user space reached") && text.contains(&done), "{text}");
        assert!(text.contains("kvm-clock"), "the guest has found KVM's clock: {text}");
        assert!(moves > 10);
    }
}
