//! Masks at page ends: what is selected is accessed, nothing else.

use iced_x86::{Code, Instruction, MemoryOperand, Register, Register as R};
use x86::{Cr0, Exception, Gpr, Rflags, SegmentAttributes, SegmentName, Vector};

use crate::native::HostCpu;
use crate::testing::{Bench, DATA};

/// The page behind this address can be taken away.
const END: u64 = DATA + 0x1000;
const COUNT: [u8; 64] = {
    let mut bytes = [0; 64];
    let mut i = 0;
    while i < 64 {
        bytes[i] = i as u8 + 1;
        i += 1;
    }
    bytes
};

fn bench() -> Bench {
    let mut bench = Bench::long();
    bench.write(END - 64, &COUNT);
    bench.write(END, &COUNT);
    bench
}

fn rax() -> MemoryOperand {
    MemoryOperand::with_base(R::RAX)
}

/// RAX at `at`, the page behind END gone.
fn at_the_end(at: u64) -> Bench {
    let mut bench = bench();
    bench.cpu.state.set_reg(Gpr::Rax, at);
    bench.set_page(END, 0);
    bench
}

fn zmm(bench: &Bench, number: usize) -> [u8; 64] {
    bench.cpu.state.fpu.zmm[number].0
}

fn set_dwords(bench: &mut Bench, number: usize, values: &[u32]) {
    let zmm = &mut bench.cpu.state.fpu.zmm[number].0;
    for (place, value) in zmm.chunks_exact_mut(4).zip(values) {
        place.copy_from_slice(&value.to_le_bytes());
    }
}

fn dword(bench: &Bench, number: usize, i: usize) -> u32 {
    u32::from_le_bytes(zmm(bench, number)[4 * i..][..4].try_into().unwrap())
}

fn fault(result: Result<(), Exception>) -> (Vector, Option<u32>, Option<u64>) {
    let fault = result.unwrap_err();
    (fault.vector, fault.error_code, fault.cr2)
}

/// Whether `result` is a page fault with this error code somewhere in the four
/// bytes at `element`: processors differ in which byte they name.
fn faults_in(result: Result<(), Exception>, code: u32, element: u64) -> bool {
    let (vector, error, cr2) = fault(result);
    let inside = cr2.is_some_and(|cr2| (element..element + 4).contains(&cr2));
    vector == Vector::PF && error == Some(code) && inside
}

fn avx512() -> bool {
    HostCpu::detect().avx512
}

fn masked(mut instruction: Instruction, mask: Register) -> Instruction {
    instruction.set_op_mask(mask);
    instruction
}

#[test]
fn vmaskmov_loads_and_stores_what_is_selected() {
    let load = Instruction::with3(Code::VEX_Vpmaskmovd_ymm_ymm_m256, R::YMM1, R::YMM2, rax()).unwrap();
    let store = Instruction::with3(Code::VEX_Vpmaskmovd_m256_ymm_ymm, rax(), R::YMM2, R::YMM1).unwrap();
    let mut bench = at_the_end(END - 8);
    set_dwords(&mut bench, 2, &[1 << 31, 1 << 31, 0, 0, 0, 0, 0, 0]);
    bench.exec(load).unwrap();
    assert_eq!((&zmm(&bench, 1)[..8], &zmm(&bench, 1)[8..]), (&COUNT[56..], &[0; 56][..]));
    set_dwords(&mut bench, 2, &[0, 1 << 31, 0, 0, 0, 0, 0, 0]);
    set_dwords(&mut bench, 1, &[7; 8]);
    bench.exec(store).unwrap();
    assert_eq!(bench.read::<8>(END - 8), [57, 58, 59, 60, 7, 0, 0, 0]);
    set_dwords(&mut bench, 2, &[0, 1 << 31, 1 << 31, 0, 0, 0, 0, 0]);
    let before = bench.cpu.state.clone();
    assert!(faults_in(bench.exec(load), 0, END));
    assert!(faults_in(bench.exec(store), 2, END));
    assert_eq!(bench.cpu.state, before);
}

#[test]
fn a_missing_first_page_matters_only_if_selected() {
    let load = Instruction::with3(Code::VEX_Vmaskmovpd_ymm_ymm_m256, R::YMM1, R::YMM2, rax()).unwrap();
    let mut bench = bench();
    bench.set_page(DATA, 0);
    bench.cpu.state.set_reg(Gpr::Rax, END - 16);
    set_dwords(&mut bench, 2, &[0, 0, 0, 0, 0, 0, 0, 1 << 31]);
    bench.exec(load).unwrap();
    assert_eq!((&zmm(&bench, 1)[..24], &zmm(&bench, 1)[24..32]), (&[0; 24][..], &COUNT[8..16]));
    set_dwords(&mut bench, 2, &[0, 1 << 31, 0, 0, 0, 0, 0, 1 << 31]);
    assert_eq!(fault(bench.exec(load)), (Vector::PF, Some(0), Some(END - 16)));
}

#[test]
fn empty_masks_need_no_memory() {
    let load = Instruction::with3(Code::VEX_Vmaskmovps_xmm_xmm_m128, R::XMM1, R::XMM2, rax()).unwrap();
    let mut bench = at_the_end(END + 16);
    bench.cpu.state.fpu.zmm[1].0 = [9; 64];
    bench.exec(load).unwrap();
    assert_eq!(zmm(&bench, 1), [0; 64]);
    bench.set_page(DATA, 0);
    bench.cpu.state.set_reg(Gpr::Rax, END - 8);
    bench.exec(load).unwrap();
    set_dwords(&mut bench, 2, &[0, 0, 1 << 31, 0]);
    assert!(faults_in(bench.exec(load), 0, END));
    set_dwords(&mut bench, 2, &[0, 1 << 31, 1 << 31, 0]);
    assert!(faults_in(bench.exec(load), 0, END - 4), "the first element that is selected");
}

#[test]
fn evex_masks_suppress_faults() {
    if !avx512() {
        return;
    }
    let load =
        masked(Instruction::with2(Code::EVEX_Vmovdqu8_zmm_k1z_zmmm512, R::ZMM1, rax()).unwrap(), R::K1);
    let store =
        masked(Instruction::with2(Code::EVEX_Vmovdqu8_zmmm512_k1z_zmm, rax(), R::ZMM2).unwrap(), R::K1);
    let mut bench = at_the_end(END - 3);
    bench.cpu.state.fpu.zmm[1].0 = [0xee; 64];
    bench.cpu.state.fpu.zmm[2].0 = COUNT;
    bench.cpu.state.fpu.k[1] = 0b101;
    bench.exec(load).unwrap();
    assert_eq!(zmm(&bench, 1)[..4], [62, 0xee, 64, 0xee]);
    bench.exec(store).unwrap();
    assert_eq!(bench.read::<3>(END - 3), [1, 63, 3]);
    bench.cpu.state.fpu.k[1] = 0b1001;
    assert_eq!(fault(bench.exec(load)), (Vector::PF, Some(0), Some(END)));
    assert_eq!(fault(bench.exec(store)), (Vector::PF, Some(2), Some(END)));
    assert_eq!(bench.read::<3>(END - 3), [1, 63, 3], "a fault stores nothing");
    // The same with both pages there: only the selected bytes are written.
    bench.set_page(END, 7);
    bench.exec(store).unwrap();
    assert_eq!((bench.read::<2>(END - 3), bench.read::<2>(END)), ([1, 63], [4, 2]));
}

#[test]
fn broadcasts_and_conversions_follow_the_mask() {
    if !avx512() {
        return;
    }
    let mut add =
        Instruction::with3(Code::EVEX_Vpaddd_zmm_k1z_zmm_zmmm512b32, R::ZMM1, R::ZMM2, rax()).unwrap();
    add.set_is_broadcast(true);
    let add = masked(add, R::K1);
    let mut bench = at_the_end(END - 2);
    bench.cpu.state.fpu.k[1] = 0x1_0000;
    bench.exec(add).unwrap();
    bench.cpu.state.fpu.k[1] = 0x8000;
    assert_eq!(fault(bench.exec(add)), (Vector::PF, Some(0), Some(END)));
    let narrow =
        masked(Instruction::with2(Code::EVEX_Vpmovdb_xmmm128_k1z_zmm, rax(), R::ZMM2).unwrap(), R::K2);
    set_dwords(&mut bench, 2, &[0x101, 0x202, 0x303]);
    bench.cpu.state.fpu.k[2] = 2;
    bench.exec(narrow).unwrap();
    assert_eq!(bench.read::<2>(END - 2), [63, 2]);
    bench.cpu.state.fpu.k[2] = 4;
    assert_eq!(fault(bench.exec(narrow)), (Vector::PF, Some(2), Some(END)));
}

#[test]
fn compressing_and_expanding_use_as_much_as_the_mask_has_bits() {
    if !avx512() {
        return;
    }
    let compress = Instruction::with2(Code::EVEX_Vpcompressd_zmmm512_k1z_zmm, rax(), R::ZMM2).unwrap();
    let expand = Instruction::with2(Code::EVEX_Vpexpandd_zmm_k1z_zmmm512, R::ZMM3, rax()).unwrap();
    let (compress, expand) = (masked(compress, R::K1), masked(expand, R::K1));
    let mut bench = at_the_end(END - 8);
    set_dwords(&mut bench, 2, &[10, 11, 12, 13]);
    bench.cpu.state.fpu.k[1] = 0b1010;
    bench.exec(compress).unwrap();
    assert_eq!(bench.read::<8>(END - 8), [11, 0, 0, 0, 13, 0, 0, 0]);
    bench.exec(expand).unwrap();
    assert_eq!([0, 1, 2, 3].map(|i| dword(&bench, 3, i)), [0, 11, 0, 13]);
    bench.cpu.state.fpu.k[1] = 0b1011;
    assert!(faults_in(bench.exec(expand), 0, END));
    assert!(faults_in(bench.exec(compress), 2, END));
    // In place, next to other data.
    bench.cpu.state.set_reg(Gpr::Rax, DATA);
    bench.write(DATA, &[0xee; 64]);
    bench.exec(compress).unwrap();
    assert_eq!(bench.read::<13>(DATA), [10, 0, 0, 0, 11, 0, 0, 0, 13, 0, 0, 0, 0xee]);
}

fn vsib(index: Register) -> MemoryOperand {
    MemoryOperand::with_base_index_scale(R::RAX, index, 4)
}

#[test]
fn vex_gathers_keep_what_they_have_done() {
    let gather =
        Instruction::with3(Code::VEX_Vpgatherdd_xmm_vm32x_xmm, R::XMM1, vsib(R::XMM2), R::XMM3).unwrap();
    let mut bench = at_the_end(END - 16);
    bench.cpu.state.fpu.zmm[1].0 = [0xee; 64];
    set_dwords(&mut bench, 2, &[3, -1_i32 as u32, 4, 0]);
    set_dwords(&mut bench, 3, &[1 << 31, 1 << 31, u32::MAX, 1 << 31]);
    assert_eq!(fault(bench.exec(gather)), (Vector::PF, Some(0), Some(END)));
    assert_eq!([0, 1, 2].map(|i| dword(&bench, 1, i)), [0x403f_3e3d, 0x302f_2e2d, 0xeeee_eeee]);
    assert_eq!([0, 1, 2, 3].map(|i| dword(&bench, 3, i)), [0, 0, u32::MAX, u32::MAX]);
    bench.set_page(END, 7);
    bench.exec(gather).unwrap();
    assert_eq!([0, 2, 3].map(|i| dword(&bench, 1, i)), [0x403f_3e3d, 0x0403_0201, 0x3433_3231]);
    assert_eq!((zmm(&bench, 3), &zmm(&bench, 1)[16..]), ([0; 64], &[0; 48][..]));
}

#[test]
fn wide_indices_give_half_the_elements() {
    let gather =
        Instruction::with3(Code::VEX_Vgatherqps_xmm_vm64x_xmm, R::XMM1, vsib(R::XMM2), R::XMM3).unwrap();
    let mut bench = at_the_end(END - 16);
    bench.cpu.state.fpu.zmm[1].0 = [0xee; 64];
    set_dwords(&mut bench, 2, &[1, 0, 0, 0]);
    set_dwords(&mut bench, 3, &[1 << 31, 0, 1 << 31, 1 << 31]);
    bench.exec(gather).unwrap();
    assert_eq!([0, 1, 2, 3].map(|i| dword(&bench, 1, i)), [0x3837_3635, 0xeeee_eeee, 0, 0]);
    assert_eq!(zmm(&bench, 3), [0; 64]);
}

#[test]
fn evex_gathers_and_scatters_clear_their_masks_as_they_go() {
    let gather = masked(
        Instruction::with2(Code::EVEX_Vpgatherdq_zmm_k1_vm32y, R::ZMM1, vsib(R::YMM2)).unwrap(),
        R::K1,
    );
    let scatter = masked(
        Instruction::with2(Code::EVEX_Vpscatterdd_vm32z_k1_zmm, vsib(R::ZMM2), R::ZMM1).unwrap(),
        R::K1,
    );
    let mut bench = at_the_end(END - 16);
    bench.cpu.state.fpu.zmm[1].0 = [0xee; 64];
    set_dwords(&mut bench, 2, &[2, 1, 4, 0]);
    bench.cpu.state.fpu.k[1] = 0xfff5;
    assert_eq!(fault(bench.exec(gather)), (Vector::PF, Some(0), Some(END)));
    assert_eq!(bench.cpu.state.fpu.k[1], 0xfff4);
    assert_eq!((&zmm(&bench, 1)[..8], &zmm(&bench, 1)[8..24]), (&COUNT[56..], &[0xee; 16][..]));
    bench.cpu.state.fpu.k[1] = 0xf;
    assert_eq!(fault(bench.exec(scatter)), (Vector::PF, Some(2), Some(END)));
    assert_eq!(bench.cpu.state.fpu.k[1], 0xc);
    assert_eq!((bench.read::<4>(END - 8), bench.read::<4>(END - 12)), ([57, 58, 59, 60], [61, 62, 63, 64]));
    bench.set_page(END, 7);
    bench.exec(scatter).unwrap();
    assert_eq!((bench.cpu.state.fpu.k[1], bench.read::<4>(END)), (0, [0xee; 4]));
}

#[test]
fn gathers_without_a_mask_or_with_shared_registers_do_not_exist() {
    // vpgatherdd zmm1{k0}, [rax+zmm2*4]
    let mut bench = bench();
    assert_eq!(bench.run(&[0x62, 0xf2, 0x7d, 0x48, 0x90, 0x0c, 0x90]), Err(Exception::UD));
    // vpgatherdd xmm1, [rax+xmm2*4], xmm1
    assert_eq!(bench.run(&[0xc4, 0xe2, 0x71, 0x90, 0x0c, 0x90]), Err(Exception::UD));
}

#[test]
fn maskmov_writes_selected_bytes() {
    let mut bench = at_the_end(0);
    bench.cpu.state.set_reg(Gpr::Rdi, END - 4);
    bench.cpu.state.fpu.zmm[1].0 = COUNT;
    bench.cpu.state.fpu.zmm[2].0[..16]
        .copy_from_slice(&[0x80, 0, 0, 0xff, 0, 0x7f, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    // maskmovdqu xmm1, xmm2
    let maskmovdqu = [0x66, 0x0f, 0xf7, 0xca];
    assert_eq!(fault(bench.run(&maskmovdqu)), (Vector::PF, Some(2), Some(END + 4)), "the upper half first");
    bench.cpu.state.set_reg(Gpr::Rdi, END - 12);
    assert_eq!(fault(bench.run(&maskmovdqu)), (Vector::PF, Some(2), Some(END)));
    assert_eq!(bench.read::<4>(END - 12), [53, 54, 55, 56], "a fault stores nothing");
    bench.cpu.state.set_reg(Gpr::Rdi, END - 16);
    bench.run(&maskmovdqu).unwrap();
    assert_eq!(bench.read::<6>(END - 16), [1, 50, 51, 4, 53, 54]);
    bench.cpu.state.fpu.zmm[2].0[5] = 0x80;
    bench.cpu.state.fpu.zmm[2].0[1] = 0x80;
    // vmaskmovdqu with a 32-bit address: addr32 vmaskmovdqu xmm1, xmm2
    bench.cpu.state.set_reg(Gpr::Rdi, 0xffff_ffff_0000_0000 | DATA);
    bench.run(&[0x67, 0xc5, 0xf9, 0xf7, 0xca]).unwrap();
    assert_eq!(bench.read::<7>(DATA), [1, 2, 0, 4, 0, 6, 0]);
}

#[test]
fn maskmovq_is_an_mmx_instruction() {
    let mut bench = bench();
    bench.cpu.state.set_reg(Gpr::Rdi, DATA);
    let x87 = &mut bench.cpu.state.fpu.x87;
    // TOP is 6: ST(i) is physical register i + 6.
    x87.fsw = 6 << 11;
    x87.st[2][..8].copy_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8]);
    x87.st[3][..8].copy_from_slice(&[0x80, 0, 0x80, 0, 0, 0, 0, 0x80]);
    // maskmovq mm0, mm1
    bench.run(&[0x0f, 0xf7, 0xc1]).unwrap();
    assert_eq!(bench.read::<8>(DATA), [1, 0, 3, 0, 0, 0, 0, 8]);
    let x87 = &bench.cpu.state.fpu.x87;
    assert_eq!((x87.ftw, x87.fsw >> 11 & 7, x87.st[0][0]), (0xff, 0, 1));
    // The host agrees about where MM0 is: movq rax, mm0
    bench.run(&[0x48, 0x0f, 0x7e, 0xc0]).unwrap();
    assert_eq!(bench.cpu.state.reg(Gpr::Rax), 0x0807_0605_0403_0201);
}

#[test]
fn what_a_mask_leaves_out_need_not_be_aligned() {
    if !avx512() {
        return;
    }
    let mut bench = bench();
    bench.cpu.state.cr0.insert(Cr0::AM);
    bench.cpu.state.rflags.insert(Rflags::AC);
    bench.cpu.state.segment_mut(SegmentName::Ss).attributes = SegmentAttributes::from_bits(0xc0f3);
    bench.refresh();
    bench.cpu.state.set_reg(Gpr::Rax, DATA + 1);
    // vmovss xmm1{k1}, [rax]
    let vmovss = [0x62, 0xf1, 0x7e, 0x09, 0x10, 0x08];
    bench.cpu.state.fpu.k[1] = 0;
    bench.run(&vmovss).unwrap();
    bench.cpu.state.fpu.k[1] = 1;
    assert_eq!(fault(bench.run(&vmovss)), (Vector::AC, Some(0), None));
    // vpgatherdd ymm3, [rax+ymm2*2], ymm1
    set_dwords(&mut bench, 1, &[u32::MAX; 8]);
    set_dwords(&mut bench, 2, &[0; 8]);
    bench.run(&[0xc4, 0xe2, 0x75, 0x90, 0x1c, 0x50]).unwrap();
}
