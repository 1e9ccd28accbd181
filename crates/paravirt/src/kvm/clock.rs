//! kvmclock: a page for each vCPU by which it computes the time from its
//! time-stamp counter (Linux `Documentation/virt/kvm/x86/msr.rst`,
//! MSR_KVM_SYSTEM_TIME_NEW and MSR_KVM_WALL_CLOCK_NEW).

use std::sync::atomic::{Ordering, fence};
use std::time::Duration;

use memory::{GuestMemory, MemoryError};
use x86::GuestPhysAddr;

use crate::Moment;

/// The page's flag that all vCPUs' pages agree, so that a guest need not keep
/// the time from running backwards between them.
const TSC_STABLE: u8 = 1 << 0;
const NANOS_PER_SEC: u128 = 1_000_000_000;

/// How ticks become nanoseconds: shifted left by `shift` (right if negative),
/// multiplied by `mul`, divided by 2^32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Scale {
    pub(super) mul: u32,
    pub(super) shift: i8,
}

impl Scale {
    /// The scale of a counter of `hz`, rounded down: a page that is written
    /// later then never puts the time back.
    pub(super) fn of(hz: u64) -> Self {
        let hz = u128::from(hz.max(1));
        // The multiplier for each shift; the first that fits is the finest.
        let mul = |shift: i8| (NANOS_PER_SEC << (32 + 31)) / (hz << (31 + shift));
        let shift = (-31..=31).find(|&shift| mul(shift) <= u32::MAX.into()).unwrap_or(31);
        Self { mul: mul(shift) as u32, shift }
    }

    /// The nanoseconds of `ticks`, as a guest computes them.
    #[cfg(test)]
    pub(super) fn nanos(self, ticks: u64) -> u64 {
        let shifted = if self.shift < 0 { ticks >> -self.shift } else { ticks << self.shift };
        ((u128::from(shifted) * u128::from(self.mul)) >> 32) as u64
    }
}

/// Writes one vCPU's `pvclock_vcpu_time_info`, whose counter runs `adjust`
/// ahead of the machine's.
pub(super) fn write_page(
    memory: &GuestMemory,
    at: GuestPhysAddr,
    scale: Scale,
    now: Moment,
    adjust: u64,
) -> Result<(), MemoryError> {
    let mut body = [0; 28];
    let fields: [(usize, &[u8]); 5] = [
        (4, &now.ticks.wrapping_add(adjust).to_le_bytes()),
        (12, &now.nanos.to_le_bytes()),
        (20, &scale.mul.to_le_bytes()),
        (24, &scale.shift.to_le_bytes()),
        (25, &[TSC_STABLE]),
    ];
    put(&mut body, &fields);
    write_versioned(memory, at, &body)
}

/// Writes a `pvclock_wall_clock`: what the time of day was when the machine's
/// time began.
pub(super) fn write_wall_clock(
    memory: &GuestMemory,
    at: GuestPhysAddr,
    epoch: Duration,
) -> Result<(), MemoryError> {
    let mut body = [0; 8];
    put(&mut body, &[(0, &(epoch.as_secs() as u32).to_le_bytes()), (4, &epoch.subsec_nanos().to_le_bytes())]);
    write_versioned(memory, at, &body)
}

fn put(body: &mut [u8], fields: &[(usize, &[u8])]) {
    for (offset, value) in fields {
        if let Some(field) = body.get_mut(*offset..*offset + value.len()) {
            field.copy_from_slice(value);
        }
    }
}

/// Writes a structure that begins with a version: odd while it changes, another
/// even one afterwards.
fn write_versioned(memory: &GuestMemory, at: GuestPhysAddr, body: &[u8]) -> Result<(), MemoryError> {
    let end = GuestPhysAddr(at.0.checked_add(4).ok_or(MemoryError::NotMemory(at, 4))?);
    let changing = memory.read_u32(at)? | 1;
    memory.write(at, &changing.to_le_bytes())?;
    fence(Ordering::SeqCst);
    memory.write(end, body)?;
    fence(Ordering::SeqCst);
    memory.write(at, &changing.wrapping_add(1).to_le_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_are_fine_and_never_too_fast() {
        for hz in [1, 1000, 999_999_999, 1_000_000_000, 2_299_998_123, 2_500_000_000, 5_700_000_000, 1 << 40]
        {
            let scale = Scale::of(hz);
            let hour = u128::from(hz) * 3600;
            let exact = (hour * NANOS_PER_SEC / u128::from(hz)) as u64;
            let found = scale.nanos(hour as u64);
            assert!(found <= exact, "{hz}: {found}");
            assert!(exact - found <= exact >> 30, "{hz}: {found}");
            assert!(hz < 1000 || scale.mul >= 1 << 31, "{hz}: {scale:?}");
        }
    }

    #[test]
    fn linux_reads_the_frequency_back() {
        // pvclock_tsc_khz().
        let scale = Scale::of(2_445_407_000);
        let khz = (1_000_000_u64 << 32) / u64::from(scale.mul);
        let khz = if scale.shift < 0 { khz << -scale.shift } else { khz >> scale.shift };
        assert!(khz.abs_diff(2_445_407) <= 2, "{khz}");
    }

    #[test]
    fn a_page_tells_the_time_and_its_version_is_even() {
        let memory = GuestMemory::new(2 << 20).unwrap();
        let at = GuestPhysAddr(0x1ff8);
        memory.write(at, &[7, 0, 0, 0]).unwrap();
        let now = Moment { ticks: 5_000_000, nanos: 2_000_000 };
        let scale = Scale::of(2_500_000_000);
        write_page(&memory, at, scale, now, u64::MAX).unwrap();
        assert_eq!(memory.read_u32(at).unwrap(), 8);
        let word = |offset| memory.read_u64(GuestPhysAddr(at.0 + offset)).unwrap();
        assert_eq!((word(8), word(16)), (4_999_999, 2_000_000));
        assert_eq!(memory.read_u32(GuestPhysAddr(at.0 + 24)).unwrap(), scale.mul);
        assert_eq!(memory.read_u32(GuestPhysAddr(at.0 + 28)).unwrap(), 0x100 | u32::from(scale.shift as u8));
        write_page(&memory, at, scale, now, 0).unwrap();
        assert_eq!(memory.read_u32(at).unwrap(), 10);
    }

    #[test]
    fn versions_wrap() {
        let memory = GuestMemory::new(2 << 20).unwrap();
        let at = GuestPhysAddr(0x1000);
        memory.write(at, &u32::MAX.to_le_bytes()).unwrap();
        write_wall_clock(&memory, at, Duration::new(1_700_000_000, 5)).unwrap();
        assert_eq!(memory.read_u32(at).unwrap(), 0);
        assert_eq!(memory.read_u64(GuestPhysAddr(0x1004)).unwrap(), 5 << 32 | 1_700_000_000);
        assert!(write_wall_clock(&memory, GuestPhysAddr(u64::MAX - 1), Duration::ZERO).is_err());
    }
}
