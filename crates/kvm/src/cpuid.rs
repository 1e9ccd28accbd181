//! The CPUID model as the table that KVM answers from. The leaves are those
//! that the other engines compute; what depends on the vCPU's state (OSXSAVE,
//! OSPKE, sizes of XSAVE areas, the APIC bit) KVM keeps up to date itself.

use std::io;

use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};
use x86::CpuState;
use x86::cpuid::{CpuidModel, CpuidResult};

/// Subleaves that are asked for in leaves that have them.
const SUBLEAVES: [(u32, u32); 6] = [(4, 4), (7, 1), (0xb, 2), (0xd, 64), (0x14, 1), (0x1f, 2)];

fn entry(model: &CpuidModel, state: &CpuState, leaf: u32, subleaf: Option<u32>) -> kvm_cpuid_entry2 {
    let CpuidResult { eax, ebx, ecx, edx } = model.query(leaf, subleaf.unwrap_or(0), state);
    kvm_cpuid_entry2 {
        function: leaf,
        index: subleaf.unwrap_or(0),
        flags: if subleaf.is_some() { KVM_CPUID_FLAG_SIGNIFCANT_INDEX } else { 0 },
        eax,
        ebx,
        ecx,
        edx,
        padding: [0; 3],
    }
}

fn is_empty(entry: &kvm_cpuid_entry2) -> bool {
    entry.eax | entry.ebx | entry.ecx | entry.edx == 0
}

/// The table for `model`, as it is in `state`.
pub(crate) fn table(model: &CpuidModel, state: &CpuState) -> io::Result<CpuId> {
    let last = |first| model.query(first, 0, state).eax;
    let mut entries = Vec::new();
    for first in [0, 0x4000_0000, 0x8000_0000] {
        let last = last(first);
        for leaf in first..=last.clamp(first, first + 0xff) {
            match SUBLEAVES.iter().find(|(with, _)| *with == leaf) {
                None => entries.push(entry(model, state, leaf, None)),
                Some(&(_, count)) => {
                    let all = (0..count).map(|subleaf| entry(model, state, leaf, Some(subleaf)));
                    entries.extend(all.filter(|entry| entry.index == 0 || !is_empty(entry)));
                }
            }
        }
    }
    entries.retain(|entry| !(entry.function >= 0x4000_0000 && is_empty(entry)));
    CpuId::from_entries(&entries).map_err(|error| io::Error::other(format!("{error:?}")))
}

#[cfg(test)]
mod tests {
    use x86::cpuid::CpuidConfig;

    use super::*;

    #[test]
    fn the_table_says_what_the_model_says() {
        let host = |leaf: u32, _: u32| match leaf {
            0 => CpuidResult::new(0x1f, 0x756e_6547, 0x6c65_746e, 0x4965_6e69),
            0x8000_0000 => CpuidResult::new(0x8000_0008, 0, 0, 0),
            _ => CpuidResult::default(),
        };
        let model = CpuidModel::new(CpuidConfig::new(&host, 2_000_000_000));
        let state = CpuState::reset();
        let table = table(&model, &state).unwrap();
        for entry in table.as_slice() {
            let said = model.query(entry.function, entry.index, &state);
            assert_eq!(said, CpuidResult::new(entry.eax, entry.ebx, entry.ecx, entry.edx));
        }
        let leaves = |leaf| table.as_slice().iter().filter(|entry| entry.function == leaf).count();
        assert_eq!((leaves(0), leaves(1), leaves(0xb), leaves(0x4000_0000)), (1, 1, 2, 1));
        assert!(leaves(0x8000_0008) == 1 && table.as_slice().len() < 80);
    }
}
