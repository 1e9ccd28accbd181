//! The host's processor: its CPUID, and its time-stamp counter as the source of
//! the machine's time.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use x86::cpuid::{CpuidResult, HostCpuid};

use crate::clock::TickSource;

/// How long at least the counter is compared with the system's clock.
const CALIBRATION: Duration = Duration::from_millis(10);
/// A frequency that the processor states is believed if it is within one in
/// this many of what is measured.
const AGREEMENT: u64 = 2000;
const INVARIANT_TSC: u32 = 1 << 8;

/// CPUID of the processor that runs this program.
#[derive(Clone, Copy, Debug, Default)]
pub struct HostProcessor;

impl HostCpuid for HostProcessor {
    fn cpuid(&self, leaf: u32, subleaf: u32) -> CpuidResult {
        let result = core::arch::x86_64::__cpuid_count(leaf, subleaf);
        CpuidResult::new(result.eax, result.ebx, result.ecx, result.edx)
    }
}

/// The best counter of this host: its time-stamp counter if that is invariant
/// (SDM 3B 18.17.1) or the engine shows it to guests anyway, else the system's
/// monotonic clock.
pub(crate) fn ticks(host_tsc: bool) -> Arc<dyn TickSource> {
    static TICKS: [OnceLock<Arc<dyn TickSource>>; 2] = [OnceLock::new(), OnceLock::new()];
    let [any, only_tsc] = &TICKS;
    let ticks = if host_tsc { only_tsc } else { any };
    Arc::clone(ticks.get_or_init(|| match host_tsc || invariant_tsc(&HostProcessor) {
        true => Arc::new(HostTsc { hz: tsc_hz() }),
        false => Arc::new(SystemClock { start: Instant::now() }),
    }))
}

fn invariant_tsc(host: &dyn HostCpuid) -> bool {
    host.cpuid(0x8000_0000, 0).eax >= 0x8000_0007 && host.cpuid(0x8000_0007, 0).edx & INVARIANT_TSC != 0
}

/// The host's time-stamp counter.
struct HostTsc {
    hz: u64,
}

impl TickSource for HostTsc {
    #[inline]
    fn ticks(&self) -> u64 {
        read_tsc()
    }

    fn hz(&self) -> u64 {
        self.hz
    }

    fn is_host_tsc(&self) -> bool {
        true
    }
}

#[allow(unsafe_code, reason = "RDTSC is an unsafe intrinsic")]
#[inline]
fn read_tsc() -> u64 {
    // SAFETY: every x86-64 processor has RDTSC, and it touches no memory.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// The system's monotonic clock, in nanoseconds.
struct SystemClock {
    start: Instant,
}

impl TickSource for SystemClock {
    fn ticks(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn hz(&self) -> u64 {
        chipset::NANOS_PER_SEC
    }
}

/// Where Linux says which flaws of speculation the host has.
const VULNERABILITIES: &str = "/sys/devices/system/cpu/vulnerabilities";
/// What it calls them, and the bits of IA32_ARCH_CAPABILITIES that say that
/// they are absent (SDM 4 table 2-2).
const ABSENT: [(&str, u64); 9] = [
    ("meltdown", 1 << 0),
    ("spec_store_bypass", 1 << 4),
    ("mds", 1 << 5),
    ("itlb_multihit", 1 << 6),
    ("tsx_async_abort", 1 << 8),
    ("mmio_stale_data", 1 << 13 | 1 << 14 | 1 << 15),
    ("gather_data_sampling", 1 << 26),
    ("reg_file_data_sampling", 1 << 27),
    ("indirect_target_selection", 1 << 62),
];

/// IA32_ARCH_CAPABILITIES as far as the host's system tells it; the register
/// itself cannot be read by a program.
pub(crate) fn arch_capabilities() -> u64 {
    capabilities(|name| std::fs::read_to_string(format!("{VULNERABILITIES}/{name}")).ok())
}

fn capabilities(tell: impl Fn(&str) -> Option<String>) -> u64 {
    let absent = |name: &str| tell(name).is_some_and(|text| text.trim_end() == "Not affected");
    ABSENT.iter().filter(|(name, _)| absent(name)).fold(0, |bits, (_, bit)| bits | bit)
}

/// The stated frequency if the clock confirms it, else the measured one.
fn tsc_hz() -> u64 {
    let measured = measure_tsc();
    match stated_tsc_hz(&HostProcessor) {
        Some(stated) if stated.abs_diff(measured) <= measured / AGREEMENT => stated,
        _ => measured,
    }
}

/// What CPUID says: leaf 0x15 (SDM 2A CPUID), or the leaf in which hypervisors
/// tell kHz.
fn stated_tsc_hz(host: &dyn HostCpuid) -> Option<u64> {
    if host.cpuid(0, 0).eax >= 0x15 {
        let ratio = host.cpuid(0x15, 0);
        let product = u64::from(ratio.ecx) * u64::from(ratio.ebx);
        if product != 0 && ratio.eax != 0 {
            return Some(product / u64::from(ratio.eax));
        }
    }
    let under_hypervisor = host.cpuid(1, 0).ecx >> 31 != 0;
    if !under_hypervisor || !(0x4000_0010..0x4001_0000).contains(&host.cpuid(0x4000_0000, 0).eax) {
        return None;
    }
    let khz = host.cpuid(0x4000_0010, 0).eax;
    (khz != 0).then_some(u64::from(khz) * 1000)
}

/// The first pair of clock and counter of this process.
static START: OnceLock<(Instant, u64)> = OnceLock::new();

/// Begins to compare the counter with the system's clock, which takes a few
/// milliseconds: what is done until a machine is built counts towards them.
pub fn begin_calibration() {
    START.get_or_init(simultaneous);
}

fn measure_tsc() -> u64 {
    let (start_at, start) = *START.get_or_init(simultaneous);
    if let Some(rest) = CALIBRATION.checked_sub(start_at.elapsed()) {
        std::thread::sleep(rest);
    }
    let (end_at, end) = simultaneous();
    let nanos = end_at.duration_since(start_at).as_nanos().max(1);
    let ticks = u128::from(end.saturating_sub(start));
    u64::try_from(ticks * u128::from(chipset::NANOS_PER_SEC) / nanos).unwrap_or(u64::MAX).max(1)
}

/// The clock and the counter at the same moment: the closest of a few pairs,
/// so that being preempted in between does no harm.
fn simultaneous() -> (Instant, u64) {
    let pair = || {
        let before = read_tsc();
        let at = Instant::now();
        let width = read_tsc().wrapping_sub(before);
        (width, at, before.wrapping_add(width / 2))
    };
    let first = pair();
    let (_, at, tsc) =
        (0..15).map(|_| pair()).fold(first, |best, next| if next.0 < best.0 { next } else { best });
    (at, tsc)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counter_keeps_the_systems_time() {
        let source = ticks(false);
        let (at, start) = (Instant::now(), source.ticks());
        std::thread::sleep(Duration::from_millis(200));
        let (passed, end) = (at.elapsed(), source.ticks());
        let seconds = (end - start) as f64 / source.hz() as f64;
        let error = (seconds / passed.as_secs_f64() - 1.0).abs();
        assert!(error < 1e-3, "{error}");
    }

    #[test]
    fn only_flaws_that_are_known_to_be_absent_are_called_so() {
        let tell = |name: &str| match name {
            "meltdown" => Some("Not affected\n".to_owned()),
            "mds" => Some("Mitigation: Clear CPU buffers\n".to_owned()),
            _ => None,
        };
        assert_eq!(capabilities(tell), 1);
        assert_eq!(capabilities(|_| None), 0);
    }

    #[test]
    fn stated_frequencies_are_found() {
        let leaf = |wanted: u32, result: CpuidResult| {
            move |leaf: u32, _: u32| match leaf {
                0 => CpuidResult::new(0x1f, 0, 0, 0),
                1 => CpuidResult::new(0, 0, 1 << 31, 0),
                0x4000_0000 => CpuidResult::new(0x4000_0010, 0, 0, 0),
                _ if leaf == wanted => result,
                _ => CpuidResult::default(),
            }
        };
        let by_ratio = leaf(0x15, CpuidResult::new(2, 200, 24_000_000, 0));
        assert_eq!(stated_tsc_hz(&by_ratio), Some(2_400_000_000));
        let by_khz = leaf(0x4000_0010, CpuidResult::new(2_300_000, 0, 0, 0));
        assert_eq!(stated_tsc_hz(&by_khz), Some(2_300_000_000));
        assert_eq!(stated_tsc_hz(&leaf(0x15, CpuidResult::new(2, 200, 0, 0))), None);
    }
}
