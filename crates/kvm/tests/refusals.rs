//! Hosts that refuse: a filter on this process's own system calls answers
//! requests of the KVM interface as an older kernel or one out of memory would.

#![allow(clippy::unwrap_used, reason = "a test")]
// A filter can only be installed by prctl.
#![allow(unsafe_code)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::{Engine, EngineError, VcpuConfig};
use kvm::{Kvm, survey};
use kvm_bindings as kb;
use memory::GuestMemory;
use x86::cpuid::{CpuidConfig, CpuidModel, CpuidResult, Feature};

const KVM_GET_API_VERSION: u32 = 0xae00;
const KVM_CREATE_VM: u32 = 0xae01;
const KVM_CHECK_EXTENSION: u32 = 0xae03;
const KVM_CREATE_VCPU: u32 = 0xae41;
const KVM_SET_TSS_ADDR: u32 = 0xae47;
const KVM_SET_USER_MEMORY_REGION: u32 = 0x4020_ae46;
const KVM_SET_CPUID2: u32 = 0x4008_ae90;
const KVM_SET_XSAVE: u32 = 0x5000_aea5;
const KVM_X86_SET_MSR_FILTER: u32 = 0x4188_aec6;

/// What a request is answered.
struct Answer {
    request: u32,
    /// Only with this argument.
    argument: Option<u32>,
    /// 0 is no error: the request does nothing and returns 0.
    errno: i32,
}

/// Does `test` on a thread of its own whose requests are answered like that.
fn answering<R: Send>(answer: &Answer, test: impl FnOnce() -> R + Send) -> R {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            install(answer);
            test()
        });
        thread.join().unwrap()
    })
}

/// A filter of seccomp(2) for this thread, as a classic BPF program.
fn install(answer: &Answer) {
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const JUMP: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let op = |code, jf, k| libc::sock_filter { code, jt: 0, jf, k };
    // Offsets in seccomp_data: the number, and lower halves of arguments 1, 2.
    let mut tests = vec![(0, libc::SYS_ioctl as u32), (24, answer.request)];
    tests.extend(answer.argument.map(|argument| (32, argument)));
    let mut program = Vec::new();
    for (index, &(offset, value)) in tests.iter().enumerate() {
        let to_the_end = 2 * (tests.len() - index) - 1;
        program.extend([op(LOAD, 0, offset), op(JUMP, to_the_end as u8, value)]);
    }
    program.push(op(RETURN, 0, libc::SECCOMP_RET_ERRNO | answer.errno as u32));
    program.push(op(RETURN, 0, libc::SECCOMP_RET_ALLOW));
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: the first request takes no pointer; the second one reads `filter`
    // and its program, which live across the call.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        let installed = libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter);
        assert_eq!(installed, 0, "{}", std::io::Error::last_os_error());
    }
}

/// Whether there is an engine to refuse anything; if not, why is printed.
fn possible() -> bool {
    let survey = survey();
    if !survey.is_possible() {
        eprintln!("skipped: {survey}");
    }
    survey.is_possible()
}

fn make(engine: &Kvm) -> Result<(), EngineError> {
    let host = |leaf: u32, subleaf: u32| {
        let answer = std::arch::x86_64::__cpuid_count(leaf, subleaf);
        CpuidResult::new(answer.eax, answer.ebx, answer.ecx, answer.edx)
    };
    let limits = engine.capabilities().processor;
    let without: Vec<Feature> = limits.without.iter().collect();
    let model = CpuidModel::new(CpuidConfig {
        disable: &without,
        phys_bits: limits.phys_bits.min(46),
        ..CpuidConfig::new(&host, 1_000_000_000)
    });
    engine
        .create_vcpu(VcpuConfig {
            id: 0,
            memory: GuestMemory::new(2 << 20).unwrap(),
            cpuid: Arc::new(model),
            signals: Arc::default(),
            trace: None,
        })
        .map(drop)
}

#[test]
fn an_old_kernel_is_told_by_what_it_lacks() {
    if !possible() {
        return;
    }
    for (capability, what, since) in [
        (kb::KVM_CAP_X86_MSR_FILTER, "MSR filters", "5.10"),
        (kb::KVM_CAP_X86_USER_SPACE_MSR, "MSR exits", "5.10"),
        (kb::KVM_CAP_IMMEDIATE_EXIT, "the immediate exit", "4.13"),
        (kb::KVM_CAP_XCRS, "XCR0", "2.6.36"),
    ] {
        let answer = Answer { request: KVM_CHECK_EXTENSION, argument: Some(capability), errno: 0 };
        let error = answering(&answer, || Kvm::new().unwrap_err().to_string());
        assert!(error.contains(what) && error.contains(&format!("use Linux {since} or later")), "{error}");
        assert!(!error.contains('\n'), "{error}");
    }
    for (errno, words) in [(0, "version 0 of the interface"), (libc::ENOTTY, "is not KVM's device")] {
        let answer = Answer { request: KVM_GET_API_VERSION, argument: None, errno };
        let error = answering(&answer, || Kvm::new().unwrap_err().to_string());
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn a_refused_request_is_a_sentence_and_leaves_nothing_behind() {
    if !possible() {
        return;
    }
    // The survey's machine goes away by itself.
    let start = Instant::now();
    while !machines_of_the_kernel().is_empty() && start.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(5));
    }
    for (request, errno, words) in [
        (KVM_CREATE_VM, libc::ENOMEM, "makes no virtual machine"),
        (KVM_SET_TSS_ADDR, libc::EINVAL, "real mode's task-state segment"),
        (KVM_X86_SET_MSR_FILTER, libc::EINVAL, "MSR filter"),
        (KVM_SET_USER_MEMORY_REGION, libc::ENOMEM, "does not map 2 MiB of guest memory"),
        (KVM_CREATE_VCPU, libc::EMFILE, "the creation of vCPU 0"),
        (KVM_SET_CPUID2, libc::EINVAL, "the CPUID table of vCPU 0"),
        (KVM_SET_XSAVE, libc::EINVAL, "a part of the processor's state"),
    ] {
        let answer = Answer { request, argument: None, errno };
        let engine = Kvm::new().unwrap();
        let error = answering(&answer, || make(&engine).unwrap_err());
        let sentence = error.to_string();
        assert!(matches!(error, EngineError::Unusable { .. }), "status 3: {sentence}");
        assert!(sentence.contains(words) && !sentence.contains('\n'), "{request:#x}: {sentence}");
        assert_eq!(machines_of_the_kernel(), Vec::<String>::new(), "after {request:#x}");
        make(&engine).unwrap_or_else(|error| panic!("the same engine works again: {error}"));
    }
}

/// The files of virtual machines and their vCPUs that this process has open.
fn machines_of_the_kernel() -> Vec<String> {
    let files = std::fs::read_dir("/proc/self/fd").unwrap();
    let targets = files.filter_map(|file| std::fs::read_link(file.ok()?.path()).ok());
    let names = targets.map(|target| target.display().to_string());
    names.filter(|name| name.contains("kvm-vm") || name.contains("kvm-vcpu")).collect()
}
