//! The guest's time-stamp counter: the host's plus an offset, such that it
//! shows the machine's counter plus IA32_TSC_ADJUST.

use std::io;

use engine::Platform;
use kvm_bindings::{Msrs as KvmMsrs, kvm_msr_entry};
use kvm_ioctls::VcpuFd;
use x86::msr::IA32_TIME_STAMP_COUNTER;

use crate::ioctls;

/// How far the guest's counter may be off before it is set again. The two are
/// read one after the other, so that this is about the accuracy of the reading.
const TOLERANCE: u64 = 20_000;
/// Rates within one in this many are the same: KVM then does not scale.
const SAME_RATE: u64 = 1000;
/// Rates that are further apart than one in this many are not a matter of how
/// well they were measured.
const OTHER_RATE: u64 = 50;
const TRIES: usize = 4;

/// The counter of one vCPU.
#[derive(Debug)]
pub(crate) struct GuestTsc {
    /// It runs at the rate of the machine's counter.
    follows: bool,
    /// The offset in force.
    offset: Option<u64>,
    /// The kernel takes the offset itself (since 5.16).
    by_offset: bool,
}

fn host_tsc() -> u64 {
    // SAFETY: every x86-64 processor has RDTSC, and it touches no memory.
    unsafe { core::arch::x86_64::_rdtsc() }
}

impl GuestTsc {
    /// Prepares the counter for a machine whose own runs at `hz`, `strictly` or
    /// as far as that is possible.
    ///
    /// # Errors
    /// The sentence says that it cannot, because it runs at another rate.
    pub(crate) fn new(vcpu: &VcpuFd, hz: u64, strictly: bool) -> Result<Self, String> {
        let khz = vcpu.get_tsc_khz().ok();
        let rate = match Rate::choose(khz, hz, |khz| vcpu.set_tsc_khz(khz).is_ok()) {
            Err(_) if !strictly => Rate::Near,
            rate => rate?,
        };
        let by_offset = ioctls::tsc_offset(vcpu).is_ok();
        let follows = match rate {
            Rate::Hosts => true,
            Rate::Scaled => !by_offset,
            Rate::Near => false,
        };
        Ok(Self { follows, offset: None, by_offset })
    }

    /// Forgets what was set: the state has been replaced.
    pub(crate) fn forget(&mut self) {
        self.offset = None;
    }

    /// Brings the guest's counter to the machine's plus `adjust`; whether it
    /// was elsewhere. vCPUs that are told the same offset agree exactly.
    pub(crate) fn follow(&mut self, vcpu: &VcpuFd, platform: &dyn Platform, adjust: u64) -> io::Result<bool> {
        if self.offset.is_some() && !self.follows {
            return Ok(false);
        }
        let told = platform.tsc_offset();
        let tolerance = if told.is_some() { 0 } else { TOLERANCE };
        let wanted = told.unwrap_or_else(|| Self::wanted(platform)).wrapping_add(adjust);
        if self.offset.is_some_and(|offset| distance(offset, wanted) <= tolerance) {
            return Ok(false);
        }
        self.set(vcpu, wanted).map(|()| true)
    }

    /// The guest has changed IA32_TSC_ADJUST by `delta`.
    pub(crate) fn adjust(&mut self, vcpu: &VcpuFd, delta: u64) -> io::Result<()> {
        match self.offset {
            Some(offset) if delta != 0 => self.set(vcpu, offset.wrapping_add(delta)),
            _ => Ok(()),
        }
    }

    fn set(&mut self, vcpu: &VcpuFd, offset: u64) -> io::Result<()> {
        self.offset = Some(offset);
        if self.by_offset {
            return ioctls::set_tsc_offset(vcpu, offset);
        }
        let data = host_tsc().wrapping_add(offset);
        let entry = kvm_msr_entry { index: IA32_TIME_STAMP_COUNTER, data, ..Default::default() };
        let msrs = KvmMsrs::from_entries(&[entry]).map_err(|error| io::Error::other(format!("{error:?}")))?;
        vcpu.set_msrs(&msrs)?;
        Ok(())
    }

    /// What the machine's counter is ahead of the host's: of a few readings the
    /// one that was interrupted least.
    fn wanted(platform: &dyn Platform) -> u64 {
        let reading = || {
            let before = host_tsc();
            let machine = platform.tsc();
            let width = host_tsc().wrapping_sub(before);
            (width, machine.wrapping_sub(before.wrapping_add(width / 2)))
        };
        let first = reading();
        (1..TRIES).map(|_| reading()).fold(first, |best, next| if next.0 < best.0 { next } else { best }).1
    }
}

/// At which rate a guest's counter runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rate {
    /// The host's, which is the machine's.
    Hosts,
    /// The machine's; the hardware scales.
    Scaled,
    /// The host's, as near to the machine's as they were measured.
    Near,
}

impl Rate {
    /// `khz` is the host's rate, if the kernel tells it; `scale` asks for
    /// another one.
    fn choose(khz: Option<u32>, hz: u64, scale: impl Fn(u32) -> bool) -> Result<Self, String> {
        let host = khz.map(|khz| u64::from(khz) * 1000);
        let within = |part: u64| host.is_some_and(|host| host.abs_diff(hz) <= hz / part);
        if within(SAME_RATE) {
            return Ok(Self::Hosts);
        }
        if u32::try_from(hz / 1000).is_ok_and(scale) {
            return Ok(Self::Scaled);
        }
        match host {
            Some(host) if !within(OTHER_RATE) => Err(format!(
                "its time-stamp counter is to run at {} MHz, but the host's runs at {} MHz and cannot be scaled",
                hz / 1_000_000,
                host / 1_000_000
            )),
            _ => Ok(Self::Near),
        }
    }
}

/// How far two counters are apart, whichever is ahead.
fn distance(a: u64, b: u64) -> u64 {
    let ahead = a.wrapping_sub(b);
    ahead.min(ahead.wrapping_neg())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_rate_is_scaled_or_refused_in_a_sentence() {
        let choose = |khz, hz, scales| Rate::choose(khz, hz, |_| scales);
        let host = Some(2_500_000);
        assert_eq!(choose(host, 2_500_900_000, false), Ok(Rate::Hosts));
        assert_eq!(choose(host, 2_510_000_000, true), Ok(Rate::Scaled));
        assert_eq!(choose(host, 2_510_000_000, false), Ok(Rate::Near));
        assert_eq!(choose(None, 1_000_000_000, false), Ok(Rate::Near));
        assert_eq!(choose(host, 1_000_000_000, true), Ok(Rate::Scaled));
        let refused = choose(host, 1_000_000_000, false).unwrap_err();
        assert!(refused.contains("1000 MHz") && refused.contains("2500 MHz"), "{refused}");
    }

    #[test]
    fn distances_wrap() {
        assert_eq!(distance(5, 3), 2);
        assert_eq!(distance(u64::MAX, 3), 4);
    }
}
