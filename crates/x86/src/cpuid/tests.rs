//! The model against the manual, on imaginary hosts.

use iced_x86::{Code, CpuidFeature, Decoder, DecoderOptions};

use super::*;
use crate::Cr4;

fn model(host: &dyn HostCpuid) -> CpuidModel {
    CpuidModel::new(CpuidConfig { vcpu_index: 1, vcpu_count: 3, ..CpuidConfig::new(host, 2_400_000_000) })
}

fn full() -> CpuidModel {
    model(&HostFeatures::all())
}

fn ask(model: &CpuidModel, leaf: u32, subleaf: u32) -> CpuidResult {
    model.query(leaf, subleaf, &CpuState::reset())
}

#[test]
fn identity_is_the_hosts() {
    let base = ask(&full(), 0, 0);
    assert_eq!(base, CpuidResult::new(0x1f, 0x756e_6547, 0x6c65_746e, 0x4965_6e69));
    assert_eq!(ask(&full(), 1, 0).eax, 0x0005_0657);
    assert_eq!(ask(&full(), 0x8000_0002, 0).eax.to_le_bytes(), *b"Test");
    assert_eq!(full().vendor(), Vendor::Intel);
}

#[test]
fn nothing_unimplemented_is_offered() {
    let everything = |_, _| CpuidResult::new(!0, !0, !0, !0);
    let model = model(&everything);
    // VMX, SMX, EST, TM2, SDBG, DCA; SVM is in 0x8000_0001.
    assert_eq!(ask(&model, 1, 0).ecx & (1 << 5 | 1 << 6 | 1 << 7 | 1 << 8 | 1 << 11 | 1 << 18), 0);
    // SGX, HLE, RTM, PQM, MPX, PT.
    let ebx = ask(&model, 7, 0).ebx;
    assert_eq!(ebx & (1 << 2 | 1 << 4 | 1 << 11 | 1 << 12 | 1 << 14 | 1 << 25), 0);
    // PKU, OSPKE, WAITPKG, CET_SS, KL, ENQCMD.
    let ecx = ask(&model, 7, 0).ecx;
    assert_eq!(ecx & (1 << 3 | 1 << 4 | 1 << 5 | 1 << 7 | 1 << 23 | 1 << 29), 0);
    // IBT and AMX.
    assert_eq!(ask(&model, 7, 0).edx & (1 << 20 | 1 << 22 | 1 << 24 | 1 << 25), 0);
    // Fast string instructions, and no more.
    assert_eq!(ask(&model, 7, 1), CpuidResult::new(7 << 10, 0, 0, 0));
    assert_eq!(ask(&model, 0xd, 1).eax, 7, "no XSAVES");
    assert_eq!(ask(&model, 0x8000_0001, 0).ecx & 1 << 2, 0, "no SVM");
    for leaf in [0xa, 0x10, 0x12, 0x14, 0x17, 0x20, 0x8000_0009, 0x8000_001f, 0xc000_0000] {
        assert_eq!(ask(&model, leaf, 0), CpuidResult::default(), "{leaf:#x}");
    }
}

#[test]
fn features_come_from_the_host_where_the_host_executes_them() {
    let host = HostFeatures::all().without(&[Feature::Avx2, Feature::Sha, Feature::Smap]);
    let model = model(&host);
    assert!(!model.has(Feature::Avx2) && !model.has(Feature::Avx512f) && !model.has(Feature::Sha));
    assert!(model.has(Feature::Avx) && model.has(Feature::Smap), "SMAP is ours");
    assert_eq!(ask(&model, 7, 0).ebx & (1 << 5 | 1 << 16 | 1 << 20 | 1 << 29), 1 << 20);
    assert_eq!(model.xcr0(), Xcr0::X87 | Xcr0::SSE | Xcr0::AVX);
}

#[test]
fn a_host_system_without_avx_takes_it_away() {
    struct Old(HostFeatures);
    impl HostCpuid for Old {
        fn cpuid(&self, leaf: u32, subleaf: u32) -> CpuidResult {
            self.0.cpuid(leaf, subleaf)
        }
        fn xcr0(&self) -> Xcr0 {
            Xcr0::X87 | Xcr0::SSE
        }
    }
    let model = model(&Old(HostFeatures::all()));
    assert!(!model.has(Feature::Avx) && !model.has(Feature::Fma) && model.has(Feature::Bmi2));
    let all = HostFeatures::all();
    assert_eq!(all.xcr0(), Xcr0::X87 | Xcr0::SSE | Xcr0::AVX | Xcr0::AVX512 | Xcr0::PKRU);
    let no_osxsave = move |leaf, subleaf| {
        let mut result = all.cpuid(leaf, subleaf);
        if leaf == 1 {
            result.ecx &= !(1 << 27);
        }
        result
    };
    assert_eq!(no_osxsave.xcr0(), Xcr0::X87 | Xcr0::SSE);
}

#[test]
fn options_and_switches() {
    let host = HostFeatures::all();
    let config = CpuidConfig::new(&host, 1_000_000_000);
    assert!(!CpuidModel::new(config).has(Feature::Pku));
    let model = CpuidModel::new(CpuidConfig {
        enable: &[Feature::Pku],
        disable: &[Feature::Avx512f, Feature::La57],
        hypervisor: false,
        ..config
    });
    assert!(model.has(Feature::Pku) && !model.has(Feature::Avx512bw));
    assert_eq!(ask(&model, 0x8000_0008, 0).eax, 48 << 8 | 46);
    assert_eq!(ask(&model, 0x4000_0000, 0), CpuidResult::default());
    assert_eq!(ask(&model, 1, 0).ecx >> 31, 0);
}

#[test]
fn dynamic_bits_follow_the_state() {
    let host = HostFeatures::all();
    let config = CpuidConfig { enable: &[Feature::Pku], ..CpuidConfig::new(&host, 1) };
    let model = CpuidModel::new(config);
    let mut state = CpuState::reset();
    assert_eq!(model.query(1, 0, &state).ecx & 1 << 27, 0);
    assert_eq!(model.query(7, 0, &state).ecx & 1 << 4, 0);
    assert_eq!(model.query(0xd, 0, &state).ebx, 576);
    state.cr4 |= Cr4::OSXSAVE | Cr4::PKE;
    state.xcr0 = Xcr0::X87 | Xcr0::SSE | Xcr0::AVX;
    assert_ne!(model.query(1, 0, &state).ecx & 1 << 27, 0);
    assert_ne!(model.query(7, 0, &state).ecx & 1 << 4, 0);
    assert_eq!(model.query(0xd, 0, &state).ebx, 832);
    assert_eq!(model.query(0xd, 1, &state).ebx, 832);
    state.xcr0 = model.xcr0();
    assert_eq!(model.query(0xd, 0, &state).ebx, 2696);
}

#[test]
fn misc_enable_hides_leaves_and_execute_disable() {
    let model = full();
    let mut state = CpuState::reset();
    assert_ne!(model.query(0x8000_0001, 0, &state).edx & 1 << 20, 0);
    state.msrs.misc_enable |= 1 << 34 | 1 << 22;
    assert_eq!(model.query(0x8000_0001, 0, &state).edx & 1 << 20, 0);
    assert_eq!(model.query(0, 0, &state).eax, 3);
}

#[test]
fn extended_state_has_the_manuals_offsets() {
    let model = full();
    let main = ask(&model, 0xd, 0);
    assert_eq!((main.eax, main.ecx, main.edx), (0xe7, 2688, 0));
    let rows = [(2, 256, 576), (5, 64, 1088), (6, 512, 1152), (7, 1024, 1664)];
    for (subleaf, size, offset) in rows {
        let component = ask(&model, 0xd, subleaf);
        assert_eq!((component.eax, component.ebx, component.edx), (size, offset, 0));
    }
    for absent in [3, 4, 8, 9, 17, 31, 63] {
        assert_eq!(ask(&model, 0xd, absent), CpuidResult::default(), "{absent}");
    }
}

#[test]
fn topology_and_caches_tell_of_this_machine() {
    let model = full();
    let version = ask(&model, 1, 0);
    assert_eq!(version.ebx, 1 << 24 | 4 << 16 | 8 << 8);
    assert_ne!(version.edx & 1 << 28, 0);
    for leaf in [0xb, 0x1f] {
        assert_eq!(ask(&model, leaf, 0), CpuidResult::new(0, 1, 0x100, 1));
        assert_eq!(ask(&model, leaf, 1), CpuidResult::new(2, 3, 0x201, 1));
        assert_eq!(ask(&model, leaf, 2), CpuidResult::new(0, 0, 2, 1));
    }
    assert_eq!(ask(&model, 4, 0).eax, 0x121 | 3 << 26);
    assert_eq!(ask(&model, 4, 3).eax, 0x163 | 3 << 26 | 3 << 14);
    assert_eq!(ask(&model, 4, 4), CpuidResult::default());
    assert_eq!(ask(&model.for_vcpu(2), 0xb, 0).edx, 2);
    let alone = CpuidModel::new(CpuidConfig::new(&HostFeatures::all(), 1));
    assert_eq!(ask(&alone, 1, 0).edx & 1 << 28, 0);
    assert_eq!(ask(&alone, 0xb, 1), CpuidResult::new(0, 1, 0x201, 0));
}

#[test]
fn frequencies_and_the_hypervisor_range() {
    let model = full();
    assert_eq!(ask(&model, 0x15, 0), CpuidResult::new(1, 96, 25_000_000, 0));
    assert_eq!(ask(&model, 0x16, 0).eax, 2400);
    let base = ask(&model, 0x4000_0000, 0);
    let text: Vec<u8> = [base.ebx, base.ecx, base.edx].iter().flat_map(|r| r.to_le_bytes()).collect();
    assert_eq!((base.eax, text.as_slice()), (0x4000_0010, b"RingmasterVM".as_slice()));
    assert_eq!(ask(&model, 0x4000_0010, 0), CpuidResult::new(2_400_000, 25_000, 0, 0));
    assert_ne!(ask(&model, 0x8000_0007, 0).edx & 1 << 8, 0);
    assert_eq!(ask(&model, 0x8000_0008, 0).eax, 57 << 8 | 46);
}

#[test]
fn amd_repeats_leaf_1_in_the_extended_range() {
    let all = HostFeatures::all();
    let amd = move |leaf, subleaf| match leaf {
        0 => CpuidResult::new(0x10, 0x6874_7541, 0x444d_4163, 0x6974_6e65),
        _ => all.cpuid(leaf, subleaf),
    };
    let model = model(&amd);
    assert_eq!(model.vendor(), Vendor::Amd);
    let extended = ask(&model, 0x8000_0001, 0);
    assert_eq!(extended.eax, 0x0005_0657);
    assert_eq!(extended.edx & 0x0183_f3ff, ask(&model, 1, 0).edx & 0x0183_f3ff);
    assert_ne!(extended.ecx & 2, 0);
    assert_eq!(ask(&model, 0x8000_0008, 0).ecx, 2 << 12 | 2);
    assert_eq!(ask(&model, 4, 0), CpuidResult::default());
    assert_eq!(ask(&model, 0x8000_0000, 0).ebx, 0x6874_7541);
}

#[test]
fn flaws_of_speculation_are_absent_or_the_hosts() {
    let all = HostFeatures::all().without(&[Feature::SrsoNo, Feature::ArchCapabilities]);
    let amd = move |leaf, subleaf| match leaf {
        0 => CpuidResult::new(0x10, 0x6874_7541, 0x444d_4163, 0x6974_6e65),
        0x8000_0000 => CpuidResult::new(0x8000_0021, 0, 0, 0),
        _ => all.cpuid(leaf, subleaf),
    };
    let immune = model(&amd);
    assert_eq!(ask(&immune, 0x8000_0000, 0).eax, 0x8000_0021);
    assert_eq!(ask(&immune, 0x8000_0021, 0), CpuidResult::new(3 << 29 | 1 << 6 | 1 << 2, 0, 6, 0));
    assert_eq!(ask(&immune, 0x8000_0008, 0).ebx, 1 << 29 | 1 << 26);
    assert!(immune.has(Feature::ArchCapabilities) && !immune.has(Feature::MdClear));
    let speculation = Speculation::AsHost { arch_capabilities: 0 };
    let as_host = CpuidModel::new(CpuidConfig { speculation, ..CpuidConfig::new(&amd, 1) });
    assert_eq!(ask(&as_host, 0x8000_0021, 0).eax, 1 << 30 | 1 << 6 | 1 << 2);
    assert!(as_host.has(Feature::MdClear) && !as_host.has(Feature::ArchCapabilities));
    // Other vendors have no such leaves.
    assert_eq!(ask(&full(), 0x8000_0021, 0), CpuidResult::default());
    assert_eq!(ask(&full(), 0x8000_0008, 0).ebx, 0);
}

#[test]
fn a_model_can_be_another_vendors() {
    let shown = |model: &CpuidModel| {
        let base = ask(model, 0, 0);
        [base.ebx, base.edx, base.ecx].map(u32::to_le_bytes).concat()
    };
    let reads =
        |model: &CpuidModel, bytes: &[u8]| Decoder::new(64, bytes, model.decoder_options()).decode().len();
    let (intel, amd) = (full().with_vendor(Vendor::Intel), full().with_vendor(Vendor::Amd));
    assert_eq!((intel.vendor(), shown(&intel).as_slice()), (Vendor::Intel, b"GenuineIntel".as_slice()));
    assert_eq!((amd.vendor(), shown(&amd).as_slice()), (Vendor::Amd, b"AuthenticAMD".as_slice()));
    assert_eq!(full().with_vendor(Vendor::Other).vendor(), Vendor::Other);
    // jmp with an operand-size prefix; nop with a ModRM byte of prefetchw.
    let jump = [0x66, 0xe9, 0, 0, 0, 0];
    assert_eq!((reads(&intel, &jump), reads(&amd, &jump)), (6, 4));
    assert!(exists(&intel, &[0x0f, 0x0d, 0xc8]) && !exists(&amd, &[0x0f, 0x0d, 0xc8]));
}

fn exists(model: &CpuidModel, bytes: &[u8]) -> bool {
    let options = model.decoder_options();
    let instruction = Decoder::new(64, bytes, options).decode();
    model.allows_instruction(&instruction)
}

#[test]
fn the_decoder_is_told_what_exists() {
    let model = full();
    assert!(model.allows(CpuidFeature::AVX2) && model.allows(CpuidFeature::INTEL8086));
    for never in [CpuidFeature::VMX, CpuidFeature::SVM, CpuidFeature::RTM, CpuidFeature::D3NOW] {
        assert!(!model.allows(never), "{never:?}");
    }
    assert!(exists(&model, &[0x90]));
    assert!(exists(&model, &[0x0f, 0x05]), "syscall");
    assert!(exists(&model, &[0xf3, 0x0f, 0x1e, 0xfa]), "endbr64 is a NOP without CET");
    assert!(exists(&model, &[0xf3, 0x48, 0x0f, 0x1e, 0xc8]), "rdsspq is a NOP without CET");
    assert!(!exists(&model, &[0xf3, 0x48, 0x0f, 0xae, 0xe8]), "incsspq is not");
    let all = HostFeatures::all();
    let disable = &[Feature::Prefetchw];
    let without = CpuidModel::new(CpuidConfig { disable, ..CpuidConfig::new(&all, 2_400_000_000) });
    for model in [&model, &without] {
        assert!(exists(model, &[0x0f, 0x0d, 0x08]), "prefetchw");
    }
    assert!(exists(&model, &[0x0f, 0x01, 0xc1]), "vmcall is left to the machine");
    assert!(!exists(&model, &[0x0f, 0x01, 0xc4]), "vmxoff");
    assert!(!exists(&model, &[0x0f, 0x0f, 0xc1, 0x9e]), "pfadd");
    assert!(!exists(&model, &[0x0f, 0x0b, 0x90][..0]), "nothing");
}

#[test]
fn missing_bit_counts_turn_into_scans() {
    let tzcnt = [0xf3, 0x0f, 0xbc, 0xc1];
    let decode = |model: &CpuidModel| Decoder::new(64, &tzcnt, model.decoder_options()).decode().mnemonic();
    assert_eq!(decode(&full()), iced_x86::Mnemonic::Tzcnt);
    let old = model(&HostFeatures::all().without(&[Feature::Bmi1, Feature::Lzcnt]));
    assert_eq!(decode(&old), iced_x86::Mnemonic::Bsf);
    assert_eq!(old.decoder_options() & DecoderOptions::NO_MPFX_0FBD, DecoderOptions::NO_MPFX_0FBD);
}

#[test]
fn habits_follow_vendor_and_family() {
    let habits = |signature: u32, vendor| {
        let all = HostFeatures::all();
        let host = move |leaf, subleaf| match leaf {
            1 => CpuidResult { eax: signature, ..all.cpuid(leaf, subleaf) },
            _ => all.cpuid(leaf, subleaf),
        };
        model(&host).with_vendor(vendor).habits()
    };
    // Families 0x19 and 0x1A.
    let (older, newer) = (habits(0x00a2_0f10, Vendor::Amd), habits(0x00b0_0f21, Vendor::Amd));
    assert!(older.has(Habit::IgnoresEvexFields) && !newer.has(Habit::IgnoresEvexFields));
    assert_eq!((older, newer), (Habits::of(Vendor::Amd, 0x19), Habits::of(Vendor::Amd, 0x1a)));
    assert_eq!(habits(0x00b0_0f21, Vendor::Intel), Habits::of(Vendor::Intel, 6));
    let model = full().with_habits(newer);
    assert!(model.has_habit(Habit::ReadsSourceFirstInCmps));
    assert_eq!(newer.toggled(Habit::ReadsSourceFirstInCmps).toggled(Habit::ReadsSourceFirstInCmps), newer);
}

#[test]
fn opcode_90_with_rex_b_is_no_pause() {
    let code = |bitness, bytes: &[u8]| full().decode(bitness, bytes, 0).0.code();
    assert_eq!(code(64, &[0xf3, 0x90]), Code::Pause);
    assert_eq!(code(64, &[0xf3, 0x40, 0x90]), Code::Pause);
    assert_eq!(code(64, &[0xf3, 0x41, 0x90]), Code::Xchg_r32_EAX);
    assert_eq!(code(64, &[0xf3, 0x49, 0x90]), Code::Xchg_r64_RAX);
    assert_eq!(code(32, &[0xf3, 0x90]), Code::Pause);
}
