//! Areas against the offsets of SDM 1 tables 10-2 and 13-1 and chapter 13.

use super::*;
use crate::cpuid::{CpuidResult, HostCpuid, HostFeatures};
use crate::{Exception, FpuState, X87State, Xcr0};

const LONG: Form = Form { wide: true, mode64: true };
const SHORT: Form = Form { wide: false, mode64: true };
const LEGACY: Form = Form { wide: false, mode64: false };

fn everything() -> Xcr0 {
    Xcr0::X87 | Xcr0::SSE | Xcr0::AVX | Xcr0::AVX512 | Xcr0::PKRU
}

/// A state in which every byte tells where it came from.
fn filled() -> FpuState {
    let mut state = FpuState::RESET;
    state.x87.fcw = 0x27f;
    state.x87.fsw = 0x3801;
    state.x87.ftw = 0x81;
    state.x87.fop = 0x5a5;
    state.x87.fip = 0x1122_3344_5566_7788;
    state.x87.fdp = 0x99aa_bbcc_ddee_ff00;
    for (i, st) in state.x87.st.iter_mut().enumerate() {
        st[..10].fill(0x10 + i as u8);
    }
    for (i, zmm) in state.zmm.iter_mut().enumerate() {
        zmm.0[..16].fill(0x20 + i as u8);
        zmm.0[16..32].fill(0x40 + i as u8);
        zmm.0[32..].fill(0x60 + i as u8);
    }
    state.k = [1, 2, 3, 4, 5, 6, 7, 8];
    state.mxcsr = 0x1fa0;
    state.pkru = 0x5555_0000;
    state
}

fn word(area: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(area[at..at + 8].try_into().unwrap())
}

#[test]
fn fxsave_has_the_manuals_layout() {
    let mut image = [0xee; 512];
    fxsave(&filled(), LONG, &mut image);
    assert_eq!(image[..8], [0x7f, 0x02, 0x01, 0x38, 0x81, 0, 0xa5, 0x05]);
    assert_eq!(word(&image, 8), 0x1122_3344_5566_7788);
    assert_eq!(word(&image, 16), 0x99aa_bbcc_ddee_ff00);
    assert_eq!(word(&image, 24), 0xffff << 32 | 0x1fa0);
    assert_eq!((image[32], image[41], image[42], image[48]), (0x10, 0x10, 0, 0x11));
    assert_eq!((image[160], image[175], image[176], image[415]), (0x20, 0x20, 0x21, 0x2f));
    assert_eq!(image[416], 0xee, "reserved bytes stay");
    let mut image = [0xee; 512];
    fxsave(&filled(), LEGACY, &mut image);
    assert_eq!((word(&image, 8), word(&image, 16)), (0x5566_7788, 0xddee_ff00));
    assert_eq!((image[287], image[288]), (0x27, 0xee), "eight registers outside 64-bit mode");
}

#[test]
fn fxrstor_takes_back_what_fxsave_gave() {
    let mut image = [0; 512];
    fxsave(&filled(), LONG, &mut image);
    let mut back = FpuState::RESET;
    fxrstor(&mut back, LONG, &image).unwrap();
    assert_eq!((back.x87, back.mxcsr), (filled().x87, 0x1fa0));
    assert_eq!(back.zmm[15].0[..16], [0x2f; 16]);
    assert_eq!(back.zmm[15].0[16..32], [0; 16], "the upper halves are not FXRSTOR's");
    fxrstor(&mut back, SHORT, &image).unwrap();
    assert_eq!((back.x87.fip, back.x87.fdp), (0x5566_7788, 0xddee_ff00));
    image[26] = 1;
    assert_eq!(fxrstor(&mut FpuState::RESET.clone(), LONG, &image), Err(Exception::gp(0)));
}

#[test]
fn sizes_and_offsets() {
    let layout = XsaveLayout::INTEL;
    let sse = Xcr0::X87 | Xcr0::SSE;
    assert_eq!(layout.standard_size(sse), 576);
    assert_eq!(layout.standard_size(sse | Xcr0::AVX), 832);
    assert_eq!(layout.standard_size(sse | Xcr0::AVX | Xcr0::AVX512), 2688);
    assert_eq!(layout.standard_size(everything()), 2696);
    assert_eq!(layout.compacted_size(everything()), 576 + 256 + 64 + 512 + 1024 + 8);
    assert_eq!(layout.compacted_size(sse | Xcr0::PKRU), 584);
}

#[test]
fn the_hosts_layout_is_taken_if_sane() {
    let amd = |leaf, subleaf| match (leaf, subleaf) {
        (0, _) => CpuidResult::new(0x10, 0, 0, 0),
        (0xd, 2) => CpuidResult::new(256, 576, 0, 0),
        (0xd, 5) => CpuidResult::new(64, 832, 0, 0),
        (0xd, 6) => CpuidResult::new(512, 896, 2, 0),
        (0xd, 7) => CpuidResult::new(1024, 1408, 2, 0),
        (0xd, 9) => CpuidResult::new(8, 2432, 0, 0),
        _ => CpuidResult::default(),
    };
    let layout = XsaveLayout::of_host(&amd);
    assert_eq!(layout.standard_size(everything()), 2440);
    assert_eq!(layout.component(6).map(|c| (c.offset, c.align64)), Some((896, true)));
    let mask = Xcr0::PKRU | Xcr0::ZMM_HI256;
    assert_eq!(layout.compacted_size(mask), 576 + 512 + 8);
    assert_eq!(layout.compacted_size(Xcr0::OPMASK | Xcr0::ZMM_HI256), 640 + 512);
    let silly = |leaf, subleaf| match (leaf, subleaf) {
        (0xd, 6) => CpuidResult::new(512, 600, 0, 0),
        _ => HostFeatures::all().cpuid(leaf, subleaf),
    };
    assert_eq!(XsaveLayout::of_host(&silly), XsaveLayout::INTEL);
    assert_eq!(XsaveLayout::of_host(&HostFeatures::all()), XsaveLayout::INTEL);
}

#[test]
fn alignment_counts_in_the_compacted_format() {
    let host = |leaf, subleaf| match (leaf, subleaf) {
        (0xd, 9) => CpuidResult::new(8, 2688, 2, 0),
        _ => HostFeatures::all().cpuid(leaf, subleaf),
    };
    let layout = XsaveLayout::of_host(&host);
    assert_eq!(layout.compacted_size(Xcr0::PKRU), 584);
    assert_eq!(layout.compacted_size(Xcr0::OPMASK | Xcr0::PKRU), 648);
    let odd = |leaf, subleaf| match (leaf, subleaf) {
        (0xd, 6) => CpuidResult::new(512, 1152, 0, 0),
        _ => host(leaf, subleaf),
    };
    assert_eq!(XsaveLayout::of_host(&odd).component(9).map(|c| c.align64), Some(true));
}

#[test]
fn standard_areas_hold_each_component_at_its_offset() {
    let mut area = [0xee; 2696];
    area[512..576].fill(0);
    save(&filled(), &XsaveLayout::INTEL, everything(), LONG, &mut area);
    assert_eq!((word(&area, 512), word(&area, 520)), (0x2e7, 0));
    assert_eq!((area[576], area[591], area[592], area[831]), (0x40, 0x40, 0x41, 0x4f));
    assert_eq!(area[832], 0xee, "the gap of MPX stays");
    assert_eq!((word(&area, 1088), word(&area, 1144)), (1, 8));
    assert_eq!((area[1152], area[1183], area[1184], area[1663]), (0x60, 0x60, 0x61, 0x6f));
    assert_eq!((area[1664], area[1680], area[1696], area[2687]), (0x30, 0x50, 0x70, 0x7f));
    assert_eq!(word(&area, 2688), 0x5555_0000);
    let mut back = FpuState::RESET;
    restore(&mut back, &XsaveLayout::INTEL, everything(), everything(), LONG, &area).unwrap();
    assert_eq!(back, filled());
}

#[test]
fn saving_some_components_leaves_the_others_and_their_bits() {
    let mut area = [0; 2696];
    area[512] = 0x85;
    area[600] = 0x77;
    let mut state = FpuState::RESET;
    state.k[0] = 9;
    save(&state, &XsaveLayout::INTEL, Xcr0::OPMASK | Xcr0::AVX, SHORT, &mut area);
    assert_eq!(word(&area, 512), 0xa1, "AVX is initial, x87 and Hi16_ZMM not asked for");
    assert_eq!(area[600], 0, "XSAVE writes initial components too");
    assert_eq!(word(&area, 24), 0xffff << 32 | 0x1f80, "AVX brings MXCSR");
    area[600] = 0x77;
    save_optimized(&state, &XsaveLayout::INTEL, Xcr0::OPMASK | Xcr0::AVX, SHORT, &mut area);
    assert_eq!(area[600], 0x77, "XSAVEOPT does not");
}

#[test]
fn compacted_areas_have_no_gaps() {
    let mut area = [0; 1024];
    let mut state = FpuState::RESET;
    state.x87 = X87State::INIT;
    state.k[7] = 5;
    state.pkru = 3;
    let rfbm = Xcr0::X87 | Xcr0::SSE | Xcr0::AVX | Xcr0::OPMASK | Xcr0::PKRU;
    save_compacted(&state, &XsaveLayout::INTEL, rfbm, LONG, &mut area);
    assert_eq!(word(&area, 512), 0x220);
    assert_eq!(word(&area, 520), 1 << 63 | 0x227);
    assert_eq!(word(&area, 832 + 56), 5, "AVX keeps its place although it is initial");
    assert_eq!(word(&area, 896), 3);
    assert_eq!(word(&area, 24), 0, "SSE is initial: MXCSR is not written");
    let header = Header::parse(&area);
    let plan = |rfbm| restore_plan(&header, &XsaveLayout::INTEL, rfbm, everything(), true);
    assert_eq!(plan(rfbm), Ok(904));
    assert_eq!(plan(Xcr0::OPMASK), Ok(896));
    assert_eq!(plan(Xcr0::SSE), Ok(576));
    assert!(restore_plan(&header, &XsaveLayout::INTEL, rfbm, everything(), false).is_err());
    let mut back = filled();
    restore(&mut back, &XsaveLayout::INTEL, rfbm, everything(), LONG, &area).unwrap();
    assert_eq!((back.k[7], back.pkru, back.mxcsr), (5, 3, MXCSR_INIT));
    assert_eq!(back.x87, X87State::INIT);
    assert_eq!(back.zmm[3].0[..32], [0; 32]);
    assert_eq!(back.zmm[3].0[32..], [0x63; 32], "ZMM_Hi256 was not asked for");
    // A changed MXCSR makes SSE count as in use.
    state.mxcsr = 0x1f81;
    save_compacted(&state, &XsaveLayout::INTEL, rfbm, LONG, &mut area);
    assert_eq!((word(&area, 512), word(&area, 24) as u32), (0x222, 0x1f81));
}

#[test]
fn restoring_checks_the_header_first() {
    let xcr0 = Xcr0::X87 | Xcr0::SSE | Xcr0::AVX;
    let rows: [(&[(usize, u8)], bool); 11] = [
        (&[(512, 7)], true),
        (&[(512, 0x27)], false),
        (&[(520, 1)], false),
        (&[(528, 1)], false),
        (&[(536, 1)], true),
        (&[(527, 0x80), (520, 7), (512, 3)], true),
        (&[(527, 0x80), (520, 0x27)], false),
        (&[(527, 0x80), (520, 3), (512, 4)], false),
        (&[(527, 0x80), (520, 3), (519, 0x80)], false),
        (&[(527, 0x80), (528, 1)], false),
        (&[(527, 0x80), (575, 1)], false),
    ];
    for (row, (bytes, fine)) in rows.into_iter().enumerate() {
        let mut area = [0; 2696];
        area[24..28].copy_from_slice(&MXCSR_INIT.to_le_bytes());
        bytes.iter().for_each(|&(at, value)| area[at] = value);
        let mut state = filled();
        let result = restore(&mut state, &XsaveLayout::INTEL, xcr0, xcr0, LONG, &area);
        assert_eq!(result.is_ok(), fine, "row {row}");
        assert_eq!(state == filled(), !fine, "row {row}: a fault changes nothing");
    }
}

#[test]
fn mxcsr_is_loaded_and_checked_by_format() {
    let mut area = [0; 576];
    area[24..28].copy_from_slice(&0x1_0000u32.to_le_bytes());
    let xcr0 = Xcr0::X87 | Xcr0::SSE | Xcr0::AVX;
    let layout = XsaveLayout::INTEL;
    let mut state = filled();
    for rfbm in [Xcr0::SSE, Xcr0::AVX] {
        assert!(restore(&mut state, &layout, rfbm, xcr0, LONG, &area).is_err());
    }
    restore(&mut state, &layout, Xcr0::X87, xcr0, LONG, &area).unwrap();
    // Compacted without SSE: memory is not looked at.
    area[520..528].copy_from_slice(&(1u64 << 63 | 7).to_le_bytes());
    restore(&mut state, &layout, Xcr0::AVX, xcr0, LONG, &area).unwrap();
    assert_eq!(state.mxcsr, 0x1fa0);
    restore(&mut state, &layout, Xcr0::SSE, xcr0, LONG, &area).unwrap();
    assert_eq!(state.mxcsr, MXCSR_INIT);
}

#[test]
fn outside_64_bit_mode_the_upper_registers_stay() {
    let mut area = [0; 2696];
    save(&filled(), &XsaveLayout::INTEL, everything(), LEGACY, &mut area);
    assert_eq!((area[160 + 127], area[160 + 128]), (0x27, 0));
    assert_eq!((area[576 + 127], area[576 + 128]), (0x47, 0));
    assert_eq!((area[1152 + 255], area[1152 + 256], area[1664]), (0x67, 0, 0));
    area[512..520].fill(0);
    let mut state = filled();
    restore(&mut state, &XsaveLayout::INTEL, everything(), everything(), LEGACY, &area).unwrap();
    assert_eq!((state.zmm[7].0, state.zmm[8], state.zmm[31]), ([0; 64], filled().zmm[8], filled().zmm[31]));
}

#[test]
fn short_areas_do_no_harm() {
    let mut area = [0; 100];
    save(&filled(), &XsaveLayout::INTEL, everything(), LONG, &mut area);
    save_compacted(&filled(), &XsaveLayout::INTEL, everything(), LONG, &mut area);
    restore(&mut filled(), &XsaveLayout::INTEL, everything(), everything(), LONG, &[]).unwrap();
}
