//! How the code cache is mapped: never writable and executable at once.

#![allow(missing_docs, reason = "a test")]

use std::sync::Arc;

use engine::{Engine, Vcpu, VcpuConfig, VcpuSignals};
use memory::GuestMemory;
use translate::Translator;
use x86::cpuid::{CpuidConfig, CpuidModel, CpuidResult};

/// A line of /proc/self/maps.
struct Mapping {
    access: String,
    name: String,
}

fn mappings() -> Vec<Mapping> {
    let text = std::fs::read_to_string("/proc/self/maps").expect("procfs");
    text.lines()
        .map(|line| {
            let mut words = line.split_whitespace();
            let access = words.nth(1).expect("what may be done with it").to_owned();
            Mapping { access, name: words.skip(3).collect::<Vec<_>>().join(" ") }
        })
        .collect()
}

fn host_cpuid(leaf: u32, subleaf: u32) -> CpuidResult {
    let answer = std::arch::x86_64::__cpuid_count(leaf, subleaf);
    CpuidResult::new(answer.eax, answer.ebx, answer.ecx, answer.edx)
}

/// A guest in real mode, as after a reset.
fn guest() -> Box<dyn Vcpu> {
    let config = VcpuConfig {
        id: 0,
        memory: GuestMemory::new(2 << 20).expect("guest memory"),
        cpuid: Arc::new(CpuidModel::new(CpuidConfig::new(&host_cpuid, 1_000_000_000))),
        signals: Arc::new(VcpuSignals::default()),
        trace: None,
    };
    Translator::default().create_vcpu(config).expect("a vCPU")
}

#[test]
fn nothing_is_writable_and_executable() {
    let guest = guest();
    let all = mappings();
    let both: Vec<_> = all.iter().filter(|mapping| mapping.access.contains("wx")).collect();
    assert!(both.is_empty(), "{:?}", both.iter().map(|mapping| &mapping.name).collect::<Vec<_>>());
    let mut cache: Vec<&str> = all
        .iter()
        .filter(|mapping| mapping.name.contains("ringmaster-translated"))
        .map(|mapping| &mapping.access[..3])
        .collect();
    cache.sort_unstable();
    assert_eq!(cache, ["r-x", "rw-"]);
    drop(guest);
    assert!(!mappings().iter().any(|mapping| mapping.name.contains("ringmaster-translated")));
}
