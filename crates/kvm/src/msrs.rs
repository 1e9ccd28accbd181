//! Which MSRs the hardware holds, and which ones the model answers.
//!
//! A guest's access reaches the hardware only if the register is in the table
//! below: those are the ones by which the processor works. All others exit and
//! are answered as every engine answers them, by [`x86::msr`] and the machine.

use std::io;

use kvm_bindings::{Msrs as KvmMsrs, kvm_msr_entry};
use kvm_ioctls::{MsrFilterDefaultAction, MsrFilterRange, MsrFilterRangeFlags, VcpuFd, VmFd};
use x86::Msrs;
use x86::cpuid::{CpuidModel, Feature};
pub(crate) use x86::msr::IA32_TSC_DEADLINE;
use x86::msr::{
    IA32_APIC_BASE, IA32_CSTAR, IA32_EFER, IA32_FMASK, IA32_FS_BASE, IA32_GS_BASE, IA32_KERNEL_GS_BASE,
    IA32_LSTAR, IA32_PAT, IA32_PRED_CMD, IA32_SPEC_CTRL, IA32_STAR, IA32_SYSENTER_CS, IA32_SYSENTER_EIP,
    IA32_SYSENTER_ESP, IA32_TIME_STAMP_COUNTER, IA32_TSC_AUX,
};

/// How a guest reaches a register in the hardware.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    /// By reads and writes.
    Both,
    /// By reads only; writes exit.
    Read,
    /// By writes only.
    Write,
}

/// The registers that guests reach in the hardware, in order.
const DIRECT: [(u32, Access); 16] = [
    // Writes concern the machine: deadlines are in guest time.
    (IA32_TIME_STAMP_COUNTER, Access::Read),
    (IA32_SPEC_CTRL, Access::Both),
    (IA32_PRED_CMD, Access::Write),
    (IA32_SYSENTER_CS, Access::Both),
    (IA32_SYSENTER_ESP, Access::Both),
    (IA32_SYSENTER_EIP, Access::Both),
    (IA32_PAT, Access::Both),
    (IA32_EFER, Access::Both),
    (IA32_STAR, Access::Both),
    (IA32_LSTAR, Access::Both),
    (IA32_CSTAR, Access::Both),
    (IA32_FMASK, Access::Both),
    (IA32_FS_BASE, Access::Both),
    (IA32_GS_BASE, Access::Both),
    (IA32_KERNEL_GS_BASE, Access::Both),
    (IA32_TSC_AUX, Access::Both),
];

/// Where a guest may end interrupts without a trap (Linux
/// `Documentation/virt/kvm/x86/msr.rst`).
pub(crate) const MSR_KVM_PV_EOI_EN: u32 = 0x4b56_4d04;

/// The registers of local APICs in the kernel. Those of x2APIC mode pass every
/// filter.
const LOCAL_APIC: [(u32, Access); 3] =
    [(IA32_APIC_BASE, Access::Both), (IA32_TSC_DEADLINE, Access::Both), (MSR_KVM_PV_EOI_EN, Access::Both)];

fn direct(local_apics: bool) -> impl Iterator<Item = (u32, Access)> {
    let of_the_chip = LOCAL_APIC.into_iter().filter(move |_| local_apics);
    DIRECT.into_iter().chain(of_the_chip)
}

/// Whether the hardware, or the kernel's local APIC, answers for `index`: what
/// it refuses is refused.
pub(crate) fn is_direct(index: u32, local_apics: bool) -> bool {
    direct(local_apics).any(|(direct, _)| direct == index)
}

/// Lets only the tables' accesses through.
pub(crate) fn set_filter(vm: &VmFd, local_apics: bool) -> io::Result<()> {
    let runs = runs(local_apics);
    let ranges: Vec<MsrFilterRange<'_>> = runs
        .iter()
        .map(|&(base, msr_count, access)| MsrFilterRange {
            flags: match access {
                Access::Both => MsrFilterRangeFlags::READ | MsrFilterRangeFlags::WRITE,
                Access::Read => MsrFilterRangeFlags::READ,
                Access::Write => MsrFilterRangeFlags::WRITE,
            },
            base,
            msr_count,
            bitmap: &[0xff],
        })
        .collect();
    Ok(vm.set_msr_filter(MsrFilterDefaultAction::DENY, &ranges)?)
}

/// Neighbours with the same access together, at most 8: the kernel takes no
/// more than 16 ranges.
fn runs(local_apics: bool) -> Vec<(u32, u32, Access)> {
    let mut all: Vec<_> = direct(local_apics).collect();
    all.sort_unstable_by_key(|&(index, _)| index);
    let mut runs: Vec<(u32, u32, Access)> = Vec::new();
    for (index, access) in all {
        match runs.last_mut() {
            Some((base, count, same)) if *same == access && *base + *count == index && *count < 8 => {
                *count += 1
            }
            _ => runs.push((index, 1, access)),
        }
    }
    runs
}

/// The registers of the table that are part of the state and are not exchanged
/// elsewhere.
pub(crate) fn exchanged(model: &CpuidModel) -> Vec<u32> {
    let mut list = vec![
        IA32_SYSENTER_CS,
        IA32_SYSENTER_ESP,
        IA32_SYSENTER_EIP,
        IA32_PAT,
        IA32_STAR,
        IA32_LSTAR,
        IA32_CSTAR,
        IA32_FMASK,
        IA32_KERNEL_GS_BASE,
    ];
    if model.has(Feature::SpecCtrl) {
        list.push(IA32_SPEC_CTRL);
    }
    if model.has(Feature::Rdtscp) {
        list.push(IA32_TSC_AUX);
    }
    list
}

/// Where the neutral state keeps `index`.
fn slot(msrs: &mut Msrs, index: u32) -> Option<&mut u64> {
    Some(match index {
        IA32_SPEC_CTRL => &mut msrs.spec_ctrl,
        IA32_SYSENTER_CS => &mut msrs.sysenter_cs,
        IA32_SYSENTER_ESP => &mut msrs.sysenter_esp,
        IA32_SYSENTER_EIP => &mut msrs.sysenter_eip,
        IA32_PAT => &mut msrs.pat,
        IA32_STAR => &mut msrs.star,
        IA32_LSTAR => &mut msrs.lstar,
        IA32_CSTAR => &mut msrs.cstar,
        IA32_FMASK => &mut msrs.fmask,
        IA32_KERNEL_GS_BASE => &mut msrs.kernel_gs_base,
        IA32_TSC_AUX => &mut msrs.tsc_aux,
        _ => return None,
    })
}

fn entries(list: &[u32], value: impl Fn(u32) -> u64) -> io::Result<KvmMsrs> {
    let entries: Vec<kvm_msr_entry> =
        list.iter().map(|&index| kvm_msr_entry { index, data: value(index), ..Default::default() }).collect();
    KvmMsrs::from_entries(&entries).map_err(|error| io::Error::other(format!("{error:?}")))
}

/// The kernel stops at the first register that it refuses.
fn all_done(list: &[u32], done: usize) -> io::Result<()> {
    match list.get(done) {
        None => Ok(()),
        Some(index) => {
            Err(io::Error::other(format!("MSR {}", x86::msr::name(*index).unwrap_or("without a name"))))
        }
    }
}

/// Reads one register.
pub(crate) fn read(vcpu: &VcpuFd, index: u32) -> io::Result<u64> {
    let mut entries = entries(&[index], |_| 0)?;
    all_done(&[index], vcpu.get_msrs(&mut entries)?)?;
    Ok(entries.as_slice().first().map_or(0, |entry| entry.data))
}

/// Writes one register.
pub(crate) fn write(vcpu: &VcpuFd, index: u32, value: u64) -> io::Result<()> {
    all_done(&[index], vcpu.set_msrs(&entries(&[index], |_| value)?)?)
}

/// Reads the registers of `list` into `msrs`.
pub(crate) fn load(vcpu: &VcpuFd, list: &[u32], msrs: &mut Msrs) -> io::Result<()> {
    let mut entries = entries(list, |_| 0)?;
    all_done(list, vcpu.get_msrs(&mut entries)?)?;
    for entry in entries.as_slice() {
        if let Some(slot) = slot(msrs, entry.index) {
            *slot = entry.data;
        }
    }
    Ok(())
}

/// Writes the registers of `list`.
pub(crate) fn store(vcpu: &VcpuFd, list: &[u32], msrs: &Msrs) -> io::Result<()> {
    let mut msrs = msrs.clone();
    let values: Vec<u64> = list.iter().map(|&index| slot(&mut msrs, index).map_or(0, |slot| *slot)).collect();
    let value = |index| list.iter().position(|&i| i == index).and_then(|at| values.get(at)).copied();
    let entries = entries(list, |index| value(index).unwrap_or(0))?;
    all_done(list, vcpu.set_msrs(&entries)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filter_has_every_register_once_and_is_short_enough_for_the_kernel() {
        for local_apics in [false, true] {
            let runs = runs(local_apics);
            assert!(runs.len() <= 16, "{}", runs.len());
            let mut covered: Vec<_> = runs
                .iter()
                .flat_map(|&(base, count, access)| (base..base + count).map(move |index| (index, access)))
                .collect();
            let mut wanted: Vec<_> = direct(local_apics).collect();
            covered.sort_unstable_by_key(|&(index, _)| index);
            wanted.sort_unstable_by_key(|&(index, _)| index);
            assert!(covered == wanted);
            assert_eq!(is_direct(IA32_TSC_DEADLINE, local_apics), local_apics);
        }
    }
}
