//! Segment registers and descriptor tables.

use kvm_bindings::{kvm_dtable, kvm_segment, kvm_sregs, kvm_sregs2};
use x86::cpuid::Vendor;
use x86::{CpuState, DescriptorTable, Segment, SegmentAttributes, SegmentName, Selector};

fn neutral(segment: &kvm_segment) -> Segment {
    let attributes = SegmentAttributes::new()
        .with_kind(segment.type_ & 15)
        .with_code_or_data(segment.s != 0)
        .with_dpl(segment.dpl & 3)
        .with_present(segment.present != 0 && segment.unusable == 0)
        .with_avl(segment.avl != 0)
        .with_long(segment.l != 0)
        .with_db(segment.db != 0)
        .with_granularity(segment.g != 0);
    Segment { base: segment.base, limit: segment.limit, selector: Selector(segment.selector), attributes }
}

fn kvms(segment: &Segment) -> kvm_segment {
    let attributes = segment.attributes;
    kvm_segment {
        base: segment.base,
        limit: segment.limit,
        selector: segment.selector.0,
        type_: attributes.kind(),
        present: attributes.present().into(),
        dpl: attributes.dpl(),
        db: attributes.db().into(),
        s: attributes.code_or_data().into(),
        l: attributes.long().into(),
        g: attributes.granularity().into(),
        avl: attributes.avl().into(),
        unusable: (!attributes.present()).into(),
        padding: 0,
    }
}

fn neutral_table(table: &kvm_dtable) -> DescriptorTable {
    DescriptorTable { base: table.base, limit: table.limit }
}

fn kvms_table(table: &DescriptorTable) -> kvm_dtable {
    kvm_dtable { base: table.base, limit: table.limit, padding: [0; 3] }
}

/// Reads all of them.
pub(super) fn get(sregs: &kvm_sregs2, state: &mut CpuState) {
    use SegmentName as N;
    let all = [
        (N::Es, &sregs.es),
        (N::Cs, &sregs.cs),
        (N::Ss, &sregs.ss),
        (N::Ds, &sregs.ds),
        (N::Fs, &sregs.fs),
        (N::Gs, &sregs.gs),
    ];
    for (name, segment) in all {
        *state.segment_mut(name) = neutral(segment);
    }
    state.ldtr = neutral(&sregs.ldt);
    // A task register that is loaded is busy, whether the bit is kept or not.
    let mut tr = sregs.tr;
    tr.type_ |= BUSY;
    state.tr = neutral(&tr);
    state.gdtr = neutral_table(&sregs.gdt);
    state.idtr = neutral_table(&sregs.idt);
}

/// The bit of a task-state segment's type that says that it is in use.
const BUSY: u8 = 2;

/// The task register. AMD's processors do not keep the busy bit in it; Intel's do not run a guest without.
/// (QEMU's emulation of AMD-V stops the whole emulator when it meets the bit.)
fn task_register(tr: &Segment, vendor: Vendor) -> kvm_segment {
    let mut segment = kvms(tr);
    if vendor == Vendor::Amd {
        segment.type_ &= !BUSY;
    }
    segment
}

/// Writes all of them.
pub(super) fn put(state: &CpuState, vendor: Vendor, sregs: &mut kvm_sregs2) {
    let segment = |name| kvms(state.segment(name));
    sregs.es = segment(SegmentName::Es);
    sregs.cs = segment(SegmentName::Cs);
    sregs.ss = segment(SegmentName::Ss);
    sregs.ds = segment(SegmentName::Ds);
    sregs.fs = segment(SegmentName::Fs);
    sregs.gs = segment(SegmentName::Gs);
    sregs.ldt = kvms(&state.ldtr);
    sregs.tr = task_register(&state.tr, vendor);
    sregs.gdt = kvms_table(&state.gdtr);
    sregs.idt = kvms_table(&state.idtr);
}

/// The older structure in the form of the newer one.
pub(super) fn widen(old: &kvm_sregs) -> kvm_sregs2 {
    kvm_sregs2 {
        cs: old.cs,
        ds: old.ds,
        es: old.es,
        fs: old.fs,
        gs: old.gs,
        ss: old.ss,
        tr: old.tr,
        ldt: old.ldt,
        gdt: old.gdt,
        idt: old.idt,
        cr0: old.cr0,
        cr2: old.cr2,
        cr3: old.cr3,
        cr4: old.cr4,
        cr8: old.cr8,
        efer: old.efer,
        apic_base: old.apic_base,
        ..Default::default()
    }
}

/// The reverse; the page-directory-pointer registers are lost, and the kernel
/// reads them from memory again.
pub(super) fn narrow(new: &kvm_sregs2) -> kvm_sregs {
    kvm_sregs {
        cs: new.cs,
        ds: new.ds,
        es: new.es,
        fs: new.fs,
        gs: new.gs,
        ss: new.ss,
        tr: new.tr,
        ldt: new.ldt,
        gdt: new.gdt,
        idt: new.idt,
        cr0: new.cr0,
        cr2: new.cr2,
        cr3: new.cr3,
        cr4: new.cr4,
        cr8: new.cr8,
        efer: new.efer,
        apic_base: new.apic_base,
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_survive_the_way_there_and_back() {
        let mut state = CpuState::reset();
        *state.segment_mut(SegmentName::Ds) = Segment::null(Selector(3));
        state.segment_mut(SegmentName::Gs).base = 0xffff_8880_0000_1000;
        state.gdtr = DescriptorTable { base: 0x1000, limit: 0x7f };
        let mut sregs = kvm_sregs2::default();
        put(&state, Vendor::Intel, &mut sregs);
        assert_eq!((sregs.ds.unusable, sregs.cs.unusable), (1, 0));
        let mut back = CpuState::reset();
        get(&widen(&narrow(&sregs)), &mut back);
        assert_eq!(state.differences(&back), []);
        put(&state, Vendor::Amd, &mut sregs);
        assert_eq!((state.tr.attributes.kind(), sregs.tr.type_), (0xb, 9));
        get(&sregs, &mut back);
        assert_eq!(state.differences(&back), []);
    }
}
