//! Facts of the host that decide how fast a guest runs.

use std::fs;

use serde::Serialize;

/// What /proc says about this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Host {
    /// The processor's own name.
    pub processor: String,
    /// Logical processors.
    pub cpus: usize,
    /// This host is itself a guest.
    pub virtualized: bool,
    /// VT-x is offered.
    pub vmx: bool,
    /// AMD-V is offered.
    pub svm: bool,
    /// RDFSBASE and its kin are allowed in user mode.
    pub fsgsbase: bool,
    /// AVX2 is there.
    pub avx2: bool,
    /// AVX-512 Foundation is there.
    pub avx512: bool,
    /// The time-stamp counter has one rate and never stops.
    pub steady_tsc: bool,
    /// RAM in bytes; absent if unknown.
    pub memory: Option<u64>,
    /// RAM in bytes that could be had now; absent if unknown.
    pub memory_available: Option<u64>,
}

impl Host {
    /// Reads the facts. What cannot be read counts as absent.
    pub fn read() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        Self::parse(&cpuinfo, &meminfo)
    }

    /// RAM in bytes, if that can be read: the one fact that every run needs.
    pub fn memory() -> Option<u64> {
        meminfo_bytes(&fs::read_to_string("/proc/meminfo").unwrap_or_default(), "MemTotal")
    }

    fn parse(cpuinfo: &str, meminfo: &str) -> Self {
        let field = |name| cpuinfo_field(cpuinfo, name);
        let flags: Vec<&str> = field("flags").unwrap_or_default().split(' ').collect();
        let has = |flag: &str| flags.contains(&flag);
        Self {
            processor: field("model name").unwrap_or("unknown").to_owned(),
            cpus: cpuinfo.lines().filter(|l| l.starts_with("processor")).count(),
            virtualized: has("hypervisor"),
            vmx: has("vmx"),
            svm: has("svm"),
            fsgsbase: has("fsgsbase"),
            avx2: has("avx2"),
            avx512: has("avx512f"),
            steady_tsc: has("constant_tsc") && has("nonstop_tsc"),
            memory: meminfo_bytes(meminfo, "MemTotal"),
            memory_available: meminfo_bytes(meminfo, "MemAvailable"),
        }
    }

    /// The facts by name, for people.
    pub fn facts(&self) -> Vec<(&'static str, String)> {
        let yes = |fact: bool| if fact { "yes" } else { "no" }.to_owned();
        let mib = |bytes: Option<u64>| {
            bytes.map_or_else(|| "unknown".to_owned(), |bytes| format!("{} MiB", bytes >> 20))
        };
        vec![
            ("Processor", self.processor.clone()),
            ("Processors", self.cpus.to_string()),
            ("Itself a guest", yes(self.virtualized)),
            ("VT-x (vmx)", yes(self.vmx)),
            ("AMD-V (svm)", yes(self.svm)),
            ("FSGSBASE", yes(self.fsgsbase)),
            ("AVX2", yes(self.avx2)),
            ("AVX-512", yes(self.avx512)),
            ("Steady TSC", yes(self.steady_tsc)),
            ("Memory", mib(self.memory)),
            ("Memory available", mib(self.memory_available)),
        ]
    }
}

fn cpuinfo_field<'a>(cpuinfo: &'a str, name: &str) -> Option<&'a str> {
    cpuinfo.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then_some(value.trim())
    })
}

fn meminfo_bytes(meminfo: &str, name: &str) -> Option<u64> {
    let value = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    let kib: u64 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CPUINFO: &str = "processor\t: 0\nmodel name\t: A CPU\nflags\t\t: fpu vmx avx2\n\n\
                           processor\t: 1\nmodel name\t: A CPU\nflags\t\t: fpu vmx avx2\n";

    #[test]
    fn facts_come_from_proc() {
        let host = Host::parse(CPUINFO, "MemTotal:       2048 kB\nMemFree: 1 kB\n");
        assert_eq!(host.processor, "A CPU");
        assert_eq!(host.cpus, 2);
        assert!(host.vmx && host.avx2);
        assert!(!host.svm && !host.avx512 && !host.virtualized);
        assert_eq!(host.memory, Some(2 << 20));
        assert_eq!(host.memory_available, None);
    }

    #[test]
    fn an_unreadable_proc_is_no_error() {
        let host = Host::parse("", "");
        assert_eq!(host.processor, "unknown");
        assert_eq!(host.memory, None);
        assert!(host.facts().iter().any(|fact| fact.1 == "unknown"));
    }
}
