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
use x86::msr::{
    IA32_CSTAR, IA32_EFER, IA32_FMASK, IA32_FS_BASE, IA32_GS_BASE, IA32_KERNEL_GS_BASE, IA32_LSTAR, IA32_PAT,
    IA32_PRED_CMD, IA32_SPEC_CTRL, IA32_STAR, IA32_SYSENTER_CS, IA32_SYSENTER_EIP, IA32_SYSENTER_ESP,
    IA32_TIME_STAMP_COUNTER, IA32_TSC_AUX,
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

/// Whether the hardware answers for `index`: what it refuses is refused.
pub(crate) fn is_direct(index: u32) -> bool {
    DIRECT.iter().any(|&(direct, _)| direct == index)
}

/// Lets only the table's accesses through.
pub(crate) fn set_filter(vm: &VmFd) -> io::Result<()> {
    let ranges: Vec<MsrFilterRange<'_>> = DIRECT
        .iter()
        .map(|&(base, access)| MsrFilterRange {
            flags: match access {
                Access::Both => MsrFilterRangeFlags::READ | MsrFilterRangeFlags::WRITE,
                Access::Read => MsrFilterRangeFlags::READ,
                Access::Write => MsrFilterRangeFlags::WRITE,
            },
            base,
            msr_count: 1,
            bitmap: &[1],
        })
        .collect();
    Ok(vm.set_msr_filter(MsrFilterDefaultAction::DENY, &ranges)?)
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
