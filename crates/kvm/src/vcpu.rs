//! One processor and its run loop.

use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::{
    Callout, EngineError, EngineKind, LocalApicRegisters, Platform, Signal, Stop, TraceSink, TraceWhat, Vcpu,
    VcpuConfig, VcpuSignals, VcpuStats,
};
use kvm_bindings::{
    KVM_CAP_ENFORCE_PV_FEATURE_CPUID, KVM_CAP_SREGS2, KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_SINGLESTEP,
    kvm_guest_debug,
};
use kvm_ioctls::VcpuFd;
use x86::cpuid::CpuidModel;
use x86::msr::Limits;
use x86::{Activity, CpuState, InterruptShadow, Rflags};

use crate::exits::{ExitCounts, Next};
use crate::failure::unusable;
use crate::kick::VcpuKick;
use crate::run_page::RunPage;
use crate::state::{self, Format, Kept, StateError};
use crate::tsc::GuestTsc;
use crate::vm::Vm;
use crate::{cpuid, ioctls, msrs};

/// The APIC's base address register after reset, and its bit of the bootstrap
/// processor.
const APIC_BASE: u64 = 0xfee0_0800;
const APIC_BASE_BSP: u64 = 1 << 8;
/// How often an unfinished instruction may come back for more.
const PIECES: usize = 4096;

/// One virtual processor in the kernel.
pub(crate) struct KvmVcpu {
    pub(crate) fd: VcpuFd,
    pub(crate) page: Arc<RunPage>,
    kick: Arc<VcpuKick>,
    signals: Arc<VcpuSignals>,
    pub(crate) trace: Option<Arc<dyn TraceSink>>,
    pub(crate) tracing: TraceWhat,
    pub(crate) id: u32,
    pub(crate) limits: Limits,
    pub(crate) format: Format,
    pub(crate) kept: Kept,
    pub(crate) tsc: GuestTsc,
    pub(crate) apic_base: u64,
    /// The deadline of the kernel's local APIC that is yet to be armed.
    deadline: Option<u64>,
    /// The task priority that the machine and the vCPU agree on, and whether
    /// they still do.
    priority: u64,
    pub(crate) priority_known: bool,
    /// The kernel waits for the next entry to finish an instruction.
    pub(crate) incomplete: bool,
    /// An interrupt can be taken now.
    ready: bool,
    /// RFLAGS.IF at the last exit.
    interrupt_flag: bool,
    halt_reported: bool,
    /// A request has failed that must not: the vCPU cannot run.
    pub(crate) broken: Option<String>,
    pub(crate) stats: VcpuStats,
    pub(crate) exits: ExitCounts,
    /// Last, so that the machine outlives its vCPU's file.
    vm: Arc<Vm>,
}

impl KvmVcpu {
    pub(crate) fn new(vm: Arc<Vm>, config: VcpuConfig) -> Result<Self, EngineError> {
        let id = config.id;
        let refused = |what: &'static str| {
            move |error: std::io::Error| unusable(format!("the kernel refuses {what} of vCPU {id} ({error})"))
        };
        let fd = vm.create_vcpu(id).map_err(refused("the creation"))?;
        let state = CpuState::reset();
        let table = cpuid::table(&config.cpuid, &state).map_err(refused("the CPUID table"))?;
        fd.set_cpuid2(&table).map_err(|error| refused("the CPUID table")(error.into()))?;
        // Hypercalls that CPUID does not offer are then refused. An older kernel
        // answers them.
        let _ = ioctls::enable_cap(&fd, KVM_CAP_ENFORCE_PV_FEATURE_CPUID, 1);
        let size =
            vm.host().kvm.get_vcpu_mmap_size().map_err(|error| refused("the run page")(error.into()))?;
        let page = Arc::new(RunPage::map(&fd, size).map_err(refused("the run page"))?);
        let kick = Arc::new(VcpuKick::new(Arc::clone(&page)));
        config.signals.set_kick(Some(kick.clone()));
        let hz = config.cpuid.tsc_hz();
        let tsc = GuestTsc::new(&fd, hz, vm.keeps_time())
            .map_err(|reason| EngineError::Unsupported { engine: EngineKind::Kvm, reason })?;
        let format = format_of(&vm, &config.cpuid);
        let limits = Limits { arch_capabilities: vm.host().arch_capabilities(), ..Limits::of(&config.cpuid) };
        let tracing = config.trace.as_ref().map(|sink| sink.wants()).unwrap_or_default();
        let mut vcpu = Self {
            fd,
            page,
            kick,
            signals: config.signals,
            trace: config.trace,
            tracing,
            id,
            limits,
            format,
            kept: Kept::of(&state),
            tsc,
            apic_base: if id == 0 { APIC_BASE | APIC_BASE_BSP } else { APIC_BASE },
            deadline: None,
            priority: 0,
            priority_known: false,
            incomplete: false,
            ready: false,
            interrupt_flag: false,
            halt_reported: false,
            broken: None,
            stats: VcpuStats::default(),
            exits: ExitCounts::default(),
            vm,
        };
        vcpu.set_state(&state);
        match vcpu.broken.take() {
            None => Ok(vcpu),
            Some(reason) => Err(EngineError::Unusable { engine: EngineKind::Kvm, reason }),
        }
    }

    /// The state as [`x86::msr`] needs it: only MSRs that are not in the
    /// hardware are read and written through it.
    pub(crate) fn model_state(&self) -> CpuState {
        CpuState { msrs: self.kept.msrs.clone(), ..CpuState::reset() }
    }

    pub(crate) fn read_state(&self) -> Result<CpuState, StateError> {
        state::load(&self.fd, &self.format, &self.kept)
    }

    /// Runs until something is to be stopped for, or for one instruction.
    fn run_loop(&mut self, platform: &dyn Platform, single: bool) -> Option<Stop> {
        let thread = VcpuKick::thread();
        if let Err(error) = self.follow_time(platform) {
            return Some(Stop::Failed(format!(
                "the kernel refuses an offset of the time-stamp counter ({error})"
            )));
        }
        self.apic_base_changed(platform);
        self.priority_known = false;
        loop {
            self.kick.enter(thread);
            let next = match self.attend(platform) {
                Err(stop) => Next::Stop(stop),
                Ok(()) => self.enter(platform),
            };
            match next {
                // An access that the machine has answered ends its instruction;
                // KVM may not tell of the step then.
                Next::Enter if single && (self.incomplete || self.kept.activity == Activity::Halted) => {
                    break None;
                }
                Next::Enter => {}
                Next::Stepped if single => break None,
                Next::Stepped => {}
                Next::Stop(stop) => break Some(stop),
            }
        }
    }

    /// Brings the time-stamp counter to the machine's, and the deadline that
    /// is counted by it.
    fn follow_time(&mut self, platform: &dyn Platform) -> std::io::Result<()> {
        let moved = self.tsc.follow(&self.fd, platform, self.kept.msrs.tsc_adjust)?;
        if moved || self.deadline.is_some() { self.arm_deadline() } else { Ok(()) }
    }

    /// Arms the deadline of the kernel's local APIC, whose host timer was set
    /// by another time-stamp counter, again.
    pub(crate) fn arm_deadline(&mut self) -> std::io::Result<()> {
        if !self.format.local_apic {
            return Ok(());
        }
        let deadline = match self.deadline.take() {
            Some(deadline) => deadline,
            None => msrs::read(&self.fd, msrs::IA32_TSC_DEADLINE)?,
        };
        if deadline == 0 { Ok(()) } else { msrs::write(&self.fd, msrs::IA32_TSC_DEADLINE, deadline) }
    }

    /// Enters the guest and handles the exit.
    fn enter(&mut self, platform: &dyn Platform) -> Next {
        if !self.format.local_apic && !std::mem::replace(&mut self.priority_known, true) {
            self.priority = platform.task_priority(self.id).into();
        }
        self.page.set_cr8(self.priority);
        self.page.set_interrupt_window(self.signals.is_pending(Signal::Interrupt));
        let result = self.fd.run().map(|_| ());
        self.kick.leave();
        self.after_entry(platform);
        match result {
            Ok(()) => {
                self.incomplete = false;
                self.handle_exit(platform)
            }
            Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => {
                self.incomplete = false;
                self.exits.kicked();
                Next::Enter
            }
            Err(error) => Next::Stop(self.failed_entry(error.errno())),
        }
    }

    fn failed_entry(&self, errno: i32) -> Stop {
        let error = std::io::Error::from_raw_os_error(errno);
        match errno {
            libc::EFAULT => self.guest_failed("the host cannot provide a page of guest memory"),
            libc::EHWPOISON => self.guest_failed("a page of guest memory is broken in the host"),
            _ => Stop::Failed(format!("the kernel does not run the vCPU ({error})")),
        }
    }

    /// Takes over what the kernel tells at every exit.
    fn after_entry(&mut self, platform: &dyn Platform) {
        self.ready = self.page.ready_for_interrupt();
        self.interrupt_flag = self.page.interrupt_flag();
        let priority = self.page.cr8();
        if priority != self.priority && !self.format.local_apic {
            self.priority = priority;
            platform.set_task_priority(self.id, priority as u8 & 15);
        }
    }

    /// Lets the kernel finish the instruction that it exited in, so that the
    /// state is that between two instructions.
    fn complete(&mut self, platform: &dyn Platform) {
        for _ in 0..PIECES {
            if !self.incomplete {
                return;
            }
            self.page.set_immediate_exit(true);
            self.page.set_interrupt_window(false);
            self.page.set_cr8(self.priority);
            let result = self.fd.run().map(|_| ());
            self.incomplete = false;
            self.after_entry(platform);
            match result {
                Ok(()) => {
                    self.handle_exit(platform);
                }
                Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => return,
                Err(error) => {
                    let why = std::io::Error::from_raw_os_error(error.errno());
                    self.broken = Some(format!("the kernel does not finish an instruction ({why})"));
                    return;
                }
            }
        }
    }

    /// Handles signals and waits out HLT, so that afterwards the guest can be
    /// entered. Order of SDM 3A 6.9.
    fn attend(&mut self, platform: &dyn Platform) -> Result<(), Stop> {
        loop {
            if let Some(why) = &self.broken {
                return Err(Stop::Failed(why.clone()));
            }
            if self.signals.pending() == 0 && self.kept.activity == Activity::Running {
                return Ok(());
            }
            if self.signals.is_pending(Signal::Exit) {
                return Err(Stop::Kicked);
            }
            self.take_init_and_sipi(platform);
            if self.kept.activity == Activity::Shutdown {
                return Err(Stop::TripleFault);
            }
            while self.signals.take(Signal::Nmi) {
                if let Err(error) = self.fd.nmi() {
                    return Err(Stop::Failed(format!("the kernel refuses an NMI ({error})")));
                }
            }
            self.wake_up();
            self.inject(platform)?;
            if self.kept.activity == Activity::Running {
                self.halt_reported = false;
                return Ok(());
            }
            if self.halted_for_good() && !std::mem::replace(&mut self.halt_reported, true) {
                return Err(Stop::HaltedForGood);
            }
            self.wait(platform);
        }
    }

    /// INIT and start-up IPIs (SDM 3A 9.4): without local APICs in the kernel
    /// they are ours.
    fn take_init_and_sipi(&mut self, platform: &dyn Platform) {
        let (init, vector) = self.signals.take_init_and_sipi();
        if !init && (vector.is_none() || !self.waits_for_sipi()) {
            return;
        }
        self.complete(platform);
        match self.read_state() {
            Ok(mut state) => {
                if init {
                    state.init(self.id == 0);
                }
                if let Some(vector) = vector {
                    state.start_up(vector);
                }
                self.replace(&state);
            }
            Err(error) => self.broken = Some(sentence(&error)),
        }
    }

    fn waits_for_sipi(&self) -> bool {
        let waits = |activity| activity == Activity::WaitForSipi;
        match self.format.local_apic {
            // Of the machine's, before the kernel had the local APICs.
            true => state::apic::activity(&self.fd).is_ok_and(waits),
            false => waits(self.kept.activity),
        }
    }

    /// Ends HLT if the kernel holds an event that is to be delivered.
    fn wake_up(&mut self) {
        if self.kept.activity != Activity::Halted {
            return;
        }
        if let Ok(events) = self.fd.get_vcpu_events() {
            let nmi = events.nmi.pending != 0 && events.nmi.masked == 0;
            let event = events.exception.injected | events.interrupt.injected | events.nmi.injected != 0;
            if nmi || event {
                self.kept.activity = Activity::Running;
            }
        }
    }

    /// Hands over a maskable interrupt if one can be taken. With local APICs in
    /// the kernel it is one of the 8259As.
    fn inject(&mut self, platform: &dyn Platform) -> Result<(), Stop> {
        if !self.ready
            || self.kept.activity == Activity::WaitForSipi
            || !self.signals.is_pending(Signal::Interrupt)
        {
            return Ok(());
        }
        // An instruction that is not finished comes before the interrupt.
        self.complete(platform);
        if !self.ready {
            return Ok(());
        }
        if let Some(vector) = platform.interrupt_acknowledge(self.id) {
            self.stats.count(Callout::Interrupt);
            self.ready = false;
            self.kept.activity = Activity::Running;
            if let Err(error) = self.queue_interrupt(vector.0) {
                return Err(Stop::Failed(format!("the kernel refuses an interrupt ({error})")));
            }
            if self.tracing.exceptions
                && let (Some(sink), Ok(regs)) = (&self.trace, self.fd.get_regs())
            {
                sink.event(self.id, &engine::TraceEvent::Interrupt { rip: regs.rip, vector: vector.0 });
            }
        }
        Ok(())
    }

    /// Queues an interrupt that the guest can take now. Beside a local APIC in
    /// the kernel it is made an accepted event at once, so that it is part of
    /// the state; that ends HLT.
    fn queue_interrupt(&self, vector: u8) -> std::io::Result<()> {
        if !self.format.local_apic {
            return ioctls::interrupt(&self.fd, vector);
        }
        let mut events = self.fd.get_vcpu_events()?;
        events.flags = 0;
        (events.interrupt.injected, events.interrupt.nr, events.interrupt.soft) = (1, vector, 0);
        self.fd.set_vcpu_events(&events)?;
        state::apic::set_activity(&self.fd, Activity::Running).map_err(|error| error.error)
    }

    /// HLT with interrupts off: only an NMI, INIT or reset ends it.
    fn halted_for_good(&self) -> bool {
        self.kept.activity == Activity::Halted && !self.interrupt_flag
    }

    /// HLT and its kin. A signal that cannot be delivered (an interrupt while
    /// IF is clear) does not end it, but must not make us spin.
    fn wait(&mut self, platform: &dyn Platform) {
        self.kick.leave();
        let start = Instant::now();
        if self.signals.is_pending(Signal::Interrupt) && !self.ready {
            std::thread::sleep(Duration::from_millis(1));
        } else {
            platform.halt(self.id);
        }
        self.stats.halted += start.elapsed();
    }

    fn replace(&mut self, state: &CpuState) {
        self.kept = Kept::of(state);
        self.interrupt_flag = state.rflags.contains(Rflags::IF);
        self.ready = self.interrupt_flag
            && state.interrupt_shadow == InterruptShadow::None
            && state.pending_event.is_none();
        self.halt_reported = false;
        self.tsc.forget();
        self.broken = self.store(state).err().map(|error| sentence(&error));
    }

    fn store(&mut self, state: &CpuState) -> Result<(), StateError> {
        if self.format.local_apic {
            self.apic_base = state::apic_base(&self.fd, &self.format)?;
            if state.activity != Activity::Shutdown {
                // From here on it is the kernel's.
                self.kept.activity = Activity::Running;
            }
        }
        state::store(&self.fd, &self.format, state, self.priority, self.apic_base)
    }

    fn set_single_step(&mut self, on: bool) -> Result<(), Stop> {
        let control = if on { KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP } else { 0 };
        let debug = kvm_guest_debug { control, ..Default::default() };
        self.fd
            .set_guest_debug(&debug)
            .map_err(|error| Stop::Failed(format!("the kernel refuses single step ({error})")))
    }

    /// Measures a run, and leaves the vCPU between two instructions.
    fn measured<R>(&mut self, platform: &dyn Platform, run: impl FnOnce(&mut Self) -> R) -> R {
        let (start, cpu) = (Instant::now(), thread_time());
        let halted = self.stats.halted;
        let result = run(self);
        self.kick.leave();
        self.complete(platform);
        let elapsed = start.elapsed();
        if self.format.local_apic {
            // HLT is in the kernel: what the thread did not run, it waited.
            let busy = thread_time().saturating_sub(cpu).min(elapsed);
            self.stats.halted += elapsed - busy;
        }
        self.stats.busy += elapsed.saturating_sub(self.stats.halted - halted);
        result
    }
}

/// Whether CPUID has KVM's signature and, in its features, KVM_FEATURE_PV_EOI
/// (Linux `Documentation/virt/kvm/x86/cpuid.rst`).
fn offers_eoi_flag(model: &CpuidModel) -> bool {
    let leaf = |leaf| model.query(leaf, 0, &CpuState::reset());
    let signature = leaf(0x4000_0000);
    let is_kvm =
        [signature.ebx, signature.ecx, signature.edx].map(u32::to_le_bytes).concat() == *b"KVMKVMKVM\0\0\0";
    is_kvm && leaf(0x4000_0001).eax >> 6 & 1 != 0
}

/// How long the calling thread has run.
fn thread_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes the structure, which lives across it.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn sentence(error: &StateError) -> String {
    format!("the kernel refuses a part of the processor's state ({}: {})", error.request, error.error)
}

fn format_of(vm: &Vm, model: &CpuidModel) -> Format {
    Format {
        xsave: *model.xsave_layout(),
        xcr0: model.xcr0(),
        sregs2: vm.fd().check_extension_raw(KVM_CAP_SREGS2.into()) > 0,
        vendor: model.vendor(),
        msrs: msrs::exchanged(model),
        local_apic: vm.local_apics(),
        eoi_flag: offers_eoi_flag(model),
    }
}

impl Vcpu for KvmVcpu {
    fn state(&self) -> CpuState {
        // A vCPU whose registers cannot be read any more does not run on: what
        // it was is lost.
        self.read_state().unwrap_or_else(|_| CpuState::reset())
    }

    fn set_state(&mut self, state: &CpuState) {
        self.replace(state);
    }

    fn local_apic(&self) -> Option<LocalApicRegisters> {
        if !self.format.local_apic {
            return None;
        }
        self.vm.routes().settle(self.vm.fd());
        let registers = state::apic::load(&self.fd, &self.format).ok()?;
        let tsc_deadline = self.deadline.unwrap_or(registers.tsc_deadline);
        Some(LocalApicRegisters { tsc_deadline, ..registers })
    }

    fn set_local_apic(&mut self, registers: &LocalApicRegisters) {
        if !self.format.local_apic {
            return;
        }
        self.deadline = Some(registers.tsc_deadline);
        match state::apic::store(&self.fd, &self.format, registers) {
            Ok(()) => self.apic_base = registers.base,
            Err(error) => self.broken = Some(sentence(&error)),
        }
    }

    fn run(&mut self, platform: &dyn Platform) -> Stop {
        let stop = self.measured(platform, |vcpu| vcpu.run_loop(platform, false));
        stop.unwrap_or(Stop::Kicked)
    }

    fn step(&mut self, platform: &dyn Platform) -> Option<Stop> {
        if let Err(stop) = self.set_single_step(true) {
            return Some(stop);
        }
        let stop = self.measured(platform, |vcpu| vcpu.run_loop(platform, true));
        self.set_single_step(false).err().or(stop)
    }

    fn stats(&self) -> VcpuStats {
        VcpuStats { exits: self.exits.list(), ..self.stats.clone() }
    }
}
