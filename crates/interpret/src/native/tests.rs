//! Thunks at work: every register file, flags, faults, and instructions whose
//! operands are special.

use iced_x86::{Code, Instruction, MemoryOperand, Register, Register as R};
use x86::{Exception, Gpr, Rflags, Vector};

use crate::testing::{Bench, DATA};

fn op2(code: Code, a: Register, b: Register) -> Instruction {
    Instruction::with2(code, a, b).unwrap()
}

fn op3(code: Code, a: Register, b: Register, c: Register) -> Instruction {
    Instruction::with3(code, a, b, c).unwrap()
}

fn at(base: Register) -> MemoryOperand {
    MemoryOperand::with_base(base)
}

fn set(bench: &mut Bench, gpr: Gpr, value: u64) {
    bench.cpu.state.set_reg(gpr, value);
}

fn get(bench: &Bench, gpr: Gpr) -> u64 {
    bench.cpu.state.reg(gpr)
}

fn xmm(bench: &Bench, number: usize) -> u128 {
    u128::from_le_bytes(bench.cpu.state.fpu.zmm[number].0[..16].try_into().unwrap())
}

fn set_xmm(bench: &mut Bench, number: usize, value: u128) {
    bench.cpu.state.fpu.zmm[number].0[..16].copy_from_slice(&value.to_le_bytes());
}

#[test]
fn every_general_register_can_be_an_operand() {
    for a in 0..16_u32 {
        for b in (0..16).filter(|&b| b != a) {
            let mut bench = Bench::long();
            bench.cpu.state.gpr = std::array::from_fn(|i| 0x1111 * (i as u64 + 1));
            bench.exec(op2(Code::Xadd_rm64_r64, R::RAX + a, R::RAX + b)).unwrap();
            let (x, y) = (0x1111 * (u64::from(a) + 1), 0x1111 * (u64::from(b) + 1));
            for (i, &value) in bench.cpu.state.gpr.iter().enumerate() {
                let expected = match i as u32 {
                    i if i == a => x + y,
                    i if i == b => x,
                    i => 0x1111 * (u64::from(i) + 1),
                };
                assert_eq!(value, expected, "xadd {a}, {b}: register {i}");
            }
        }
    }
}

#[test]
fn every_general_register_can_address_memory() {
    for base in 0..16_u32 {
        for data in 0..16_u32 {
            let mut bench = Bench::long();
            bench.write(DATA + 16, &0x8877_6655_4433_2211_u64.to_le_bytes());
            bench.cpu.state.gpr[base as usize] = DATA;
            let memory = MemoryOperand::with_base_displ(R::RAX + base, 16);
            bench.exec(Instruction::with2(Code::Movbe_r32_m32, R::EAX + data, memory).unwrap()).unwrap();
            assert_eq!(bench.cpu.state.gpr[data as usize], 0x1122_3344, "movbe {data}, [{base}]");
        }
    }
}

#[test]
fn high_byte_registers_and_rsp_together() {
    let mut bench = Bench::long();
    set(&mut bench, Gpr::Rbx, 0xffff_ffff_ffff_41ff);
    set(&mut bench, Gpr::Rsp, 0x1234_5678);
    bench.exec(op2(Code::Crc32_r32_rm8, R::ESP, R::BH)).unwrap();
    let mut plain = Bench::long();
    set(&mut plain, Gpr::Rbx, 0x41);
    set(&mut plain, Gpr::Rax, 0x1234_5678);
    plain.exec(op2(Code::Crc32_r32_rm8, R::EAX, R::BL)).unwrap();
    assert_eq!(get(&bench, Gpr::Rsp), get(&plain, Gpr::Rax));
    for high in [R::AH, R::CH, R::DH, R::BH] {
        let mut bench = Bench::long();
        bench.cpu.state.gpr = [DATA; 16];
        bench.write(DATA, &[0x7f]);
        let memory = at(R::RSI);
        bench.exec(Instruction::with2(Code::Xadd_rm8_r8, memory, high).unwrap()).unwrap();
        assert_eq!(bench.read::<1>(DATA), [0x7f], "DATA's second byte is 0");
        let number = (high as u32 - R::AH as u32) as usize;
        assert_eq!(bench.cpu.state.gpr[number], DATA | 0x7f00);
    }
}

#[test]
fn flags_go_in_and_out() {
    let mut bench = Bench::long();
    bench.cpu.state.rflags = Rflags::from_bits_retain(0x202) | Rflags::CF | Rflags::OF | Rflags::DF;
    set(&mut bench, Gpr::Rax, 0xffff_ffff);
    set(&mut bench, Gpr::Rcx, 0);
    bench.exec(op2(Code::Adcx_r32_rm32, R::EAX, R::ECX)).unwrap();
    assert_eq!(get(&bench, Gpr::Rax), 0);
    assert_eq!(bench.flags(), Rflags::CF | Rflags::OF);
    bench.exec(op2(Code::Adox_r32_rm32, R::EAX, R::ECX)).unwrap();
    assert_eq!((get(&bench, Gpr::Rax), bench.flags()), (1, Rflags::CF));
    assert!(bench.cpu.state.rflags.contains(Rflags::DF | Rflags::IF), "other flags stay");
    // A shift by zero keeps all flags.
    bench.exec(Instruction::with2(Code::Shl_rm32_CL, R::EAX, R::CL).unwrap()).unwrap();
    assert_eq!((get(&bench, Gpr::Rax), bench.flags()), (1, Rflags::CF));
    set(&mut bench, Gpr::Rdx, 0x8000_0000);
    bench.exec(Instruction::with3(Code::Shld_rm32_r32_imm8, R::EAX, R::EDX, 1).unwrap()).unwrap();
    assert_eq!((get(&bench, Gpr::Rax), bench.flags() & Rflags::CF), (3, Rflags::empty()));
}

#[test]
fn integer_extensions_compute() {
    let mut bench = Bench::long();
    set(&mut bench, Gpr::Rax, 0xf0f0);
    set(&mut bench, Gpr::Rbx, 0x0000_1234);
    set(&mut bench, Gpr::Rdx, u64::MAX);
    bench.exec(op3(Code::VEX_Pdep_r64_r64_rm64, R::RCX, R::RBX, R::RAX)).unwrap();
    assert_eq!(get(&bench, Gpr::Rcx), 0x3040, "the low bits of 0x34 at the mask's places");
    bench.exec(op3(Code::VEX_Mulx_r64_r64_rm64, R::RSP, R::RSI, R::RBX)).unwrap();
    assert_eq!((get(&bench, Gpr::Rsp), get(&bench, Gpr::Rsi)), (0x1233, 0xffff_ffff_ffff_edcc));
    bench.exec(Instruction::with1(Code::Bswap_r64, R::RBX).unwrap()).unwrap();
    assert_eq!(get(&bench, Gpr::Rbx), 0x3412_0000_0000_0000);
    bench.exec(op2(Code::Popcnt_r64_rm64, R::RSP, R::RDX)).unwrap();
    assert_eq!(get(&bench, Gpr::Rsp), 64);
    bench.exec(Instruction::with1(Code::Rdrand_r64, R::R12).unwrap()).unwrap();
    let others = Rflags::ARITHMETIC.difference(Rflags::CF);
    assert_eq!(bench.flags() & others, Rflags::empty());
}

#[test]
fn locked_and_wide_exchanges() {
    let mut bench = Bench::long();
    bench.write(DATA, &[1; 16]);
    let ones = u64::from_le_bytes([1; 8]);
    for (gpr, value) in [(Gpr::Rdi, DATA), (Gpr::Rax, ones), (Gpr::Rdx, ones), (Gpr::Rbx, 7), (Gpr::Rcx, 9)] {
        set(&mut bench, gpr, value);
    }
    let mut wide = Instruction::with1(Code::Cmpxchg16b_m128, at(R::RDI)).unwrap();
    wide.set_has_lock_prefix(true);
    bench.exec(wide).unwrap();
    assert!(bench.flags().contains(Rflags::ZF));
    assert_eq!(bench.read::<16>(DATA), (9_u128 << 64 | 7).to_le_bytes());
    bench.exec(wide).unwrap();
    assert!(!bench.flags().contains(Rflags::ZF));
    assert_eq!((get(&bench, Gpr::Rax), get(&bench, Gpr::Rdx)), (7, 9));
    set(&mut bench, Gpr::Rdi, DATA + 8);
    assert_eq!(bench.exec(wide), Err(Exception::gp(0)), "misaligned");
    let mut add = Instruction::with2(Code::Xadd_rm32_r32, at(R::RDI), R::EBX).unwrap();
    add.set_has_lock_prefix(true);
    set(&mut bench, Gpr::Rdi, DATA + 0xffe);
    bench.exec(add).unwrap();
    assert_eq!((bench.read::<4>(DATA + 0xffe), get(&bench, Gpr::Rbx)), ([7, 0, 0, 0], 0), "across pages");
}

#[test]
fn divide_errors_come_back() {
    let mut bench = Bench::long();
    set(&mut bench, Gpr::Rax, 10);
    set(&mut bench, Gpr::Rdx, 0);
    set(&mut bench, Gpr::Rbp, 0x7777);
    let before = bench.cpu.state.clone();
    let div = Instruction::with1(Code::Div_rm64, R::RCX).unwrap();
    assert_eq!(bench.exec(div), Err(Exception::plain(Vector::DE)));
    assert_eq!(bench.cpu.state, before, "nothing has changed");
    set(&mut bench, Gpr::Rcx, 3);
    bench.exec(div).unwrap();
    assert_eq!((get(&bench, Gpr::Rax), get(&bench, Gpr::Rdx)), (3, 1));
    set(&mut bench, Gpr::Rax, i64::MIN as u64);
    set(&mut bench, Gpr::Rdx, u64::MAX);
    set(&mut bench, Gpr::Rsp, u64::MAX);
    let idiv = Instruction::with1(Code::Idiv_rm64, R::RSP).unwrap();
    assert_eq!(bench.exec(idiv), Err(Exception::plain(Vector::DE)), "the quotient does not fit");
}

#[test]
fn legacy_sse_keeps_the_upper_parts_and_vex_clears_them() {
    let mut bench = Bench::long();
    for zmm in &mut bench.cpu.state.fpu.zmm {
        zmm.0.fill(0xee);
    }
    bench.exec(op2(Code::Pxor_xmm_xmmm128, R::XMM9, R::XMM9)).unwrap();
    let zmm = &bench.cpu.state.fpu.zmm;
    assert_eq!((&zmm[9].0[..16], &zmm[9].0[16..]), (&[0; 16][..], &[0xee; 48][..]));
    bench.exec(op3(Code::VEX_Vpcmpeqb_ymm_ymm_ymmm256, R::YMM9, R::YMM1, R::YMM2)).unwrap();
    let zmm = &bench.cpu.state.fpu.zmm;
    assert_eq!((&zmm[9].0[..32], &zmm[9].0[32..]), (&[0xff; 32][..], &[0; 32][..]));
    assert_eq!((zmm[1].0, zmm[2].0, zmm[31].0), ([0xee; 64], [0xee; 64], [0xee; 64]));
}

#[test]
fn evex_masks_and_mask_registers() {
    if !super::HostCpu::detect().avx512 {
        return;
    }
    let mut bench = Bench::long();
    bench.cpu.state.fpu.zmm[31].0 = [1; 64];
    bench.cpu.state.fpu.zmm[30].0 = [2; 64];
    bench.cpu.state.fpu.k[3] = 0x8000_0000_0000_0001;
    let mut add = op3(Code::EVEX_Vpaddb_zmm_k1z_zmm_zmmm512, R::ZMM29, R::ZMM31, R::ZMM30);
    add.set_op_mask(R::K3);
    bench.cpu.state.fpu.zmm[29].0 = [9; 64];
    bench.exec(add).unwrap();
    let sum = &bench.cpu.state.fpu.zmm[29].0;
    assert_eq!((sum[0], sum[1], sum[62], sum[63]), (3, 9, 9, 3));
    set(&mut bench, Gpr::Rsp, 0xabcd);
    bench.exec(op2(Code::VEX_Kmovq_kr_r64, R::K7, R::RSP)).unwrap();
    bench.exec(op3(Code::VEX_Korq_kr_kr_kr, R::K1, R::K7, R::K3)).unwrap();
    assert_eq!(bench.cpu.state.fpu.k[1], 0x8000_0000_0000_abcd);
    bench.exec(op2(Code::VEX_Kortestq_kr_kr, R::K0, R::K0)).unwrap();
    assert_eq!(bench.flags(), Rflags::ZF);
}

#[test]
fn alignment_is_checked_where_the_instruction_checks_it() {
    let mut bench = Bench::long();
    set(&mut bench, Gpr::Rax, DATA + 8);
    let aligned = Instruction::with2(Code::Movaps_xmm_xmmm128, R::XMM0, at(R::RAX)).unwrap();
    assert_eq!(bench.exec(aligned), Err(Exception::gp(0)));
    let other = Instruction::with2(Code::Movups_xmm_xmmm128, R::XMM0, at(R::RAX)).unwrap();
    bench.exec(other).unwrap();
    set(&mut bench, Gpr::Rax, DATA + 0xff8);
    assert_eq!(bench.exec(aligned), Err(Exception::gp(0)), "on a copy, across pages, too");
}

#[test]
fn unmasked_simd_exceptions_leave_their_flags() {
    let mut bench = Bench::long();
    bench.cpu.state.fpu.mxcsr = 0x1f80 & !0x200;
    set_xmm(&mut bench, 0, u128::from(1.0_f32.to_bits()));
    let before = xmm(&bench, 0);
    let divide = op2(Code::Divss_xmm_xmmm32, R::XMM0, R::XMM1);
    assert_eq!(bench.exec(divide), Err(Exception::plain(Vector::XM)));
    assert_eq!((bench.cpu.state.fpu.mxcsr, xmm(&bench, 0)), (0x1d84, before));
    bench.cpu.state.cr4.remove(x86::Cr4::OSXMMEXCPT);
    assert_eq!(bench.exec(divide), Err(Exception::UD));
    bench.cpu.state.fpu.mxcsr = 0x1f80;
    bench.exec(divide).unwrap();
    assert_eq!((bench.cpu.state.fpu.mxcsr, xmm(&bench, 0) as u32), (0x1f84, f32::INFINITY.to_bits()));
}

#[test]
fn conversions_to_integers_obey_mxcsr() {
    let mut bench = Bench::long();
    bench.write(DATA, &2.5_f64.to_le_bytes());
    set(&mut bench, Gpr::Rdi, DATA);
    let codes = [Code::Cvtsd2si_r64_xmmm64, Code::VEX_Vcvtsd2si_r64_xmmm64];
    for code in codes {
        let convert = Instruction::with2(code, R::RSP, at(R::RDI)).unwrap();
        // Round up; then the same with precision exceptions unmasked.
        bench.cpu.state.fpu.mxcsr = 0x5f80;
        bench.exec(convert).unwrap();
        assert_eq!((get(&bench, Gpr::Rsp), bench.cpu.state.fpu.mxcsr), (3, 0x5fa0));
        bench.cpu.state.fpu.mxcsr = 0x4f80;
        assert_eq!(bench.exec(convert), Err(Exception::plain(Vector::XM)));
        bench.cpu.state.cr0.insert(x86::Cr0::TS);
        assert_eq!(bench.exec(convert), Err(Exception::NM));
        bench.cpu.state.cr0.remove(x86::Cr0::TS);
    }
}

#[test]
fn units_must_be_enabled() {
    use x86::{Cr0, Cr4, Xcr0};
    let fld1 = Instruction::with(Code::Fld1);
    let paddb = op2(Code::Paddb_mm_mmm64, R::MM0, R::MM1);
    let addps = op2(Code::Addps_xmm_xmmm128, R::XMM0, R::XMM1);
    let vaddps = op3(Code::VEX_Vaddps_ymm_ymm_ymmm256, R::YMM0, R::YMM1, R::YMM2);
    let andn = op3(Code::VEX_Andn_r32_r32_rm32, R::EAX, R::ECX, R::EDX);
    let outcome = |change: fn(&mut x86::CpuState), instruction| {
        let mut bench = Bench::long();
        change(&mut bench.cpu.state);
        bench.exec(instruction).err()
    };
    let (ud, nm) = (Some(Exception::UD), Some(Exception::NM));
    for (instruction, em, ts, osfxsr, osxsave, avx) in [
        (fld1, nm, nm, None, None, None),
        (paddb, ud, nm, None, None, None),
        (addps, ud, nm, ud, None, None),
        (vaddps, None, nm, None, ud, ud),
        (andn, None, None, None, None, None),
    ] {
        assert_eq!(outcome(|s| s.cr0.insert(Cr0::EM), instruction), em, "EM: {instruction:?}");
        assert_eq!(outcome(|s| s.cr0.insert(Cr0::TS), instruction), ts, "TS: {instruction:?}");
        assert_eq!(outcome(|s| s.cr4.remove(Cr4::OSFXSR), instruction), osfxsr, "OSFXSR: {instruction:?}");
        assert_eq!(outcome(|s| s.cr4.remove(Cr4::OSXSAVE), instruction), osxsave, "OSXSAVE: {instruction:?}");
        assert_eq!(outcome(|s| s.xcr0.remove(Xcr0::AVX), instruction), avx, "XCR0: {instruction:?}");
        assert_eq!(outcome(|_| (), instruction), None);
    }
    // andn eax, ecx, edx and vaddps in real mode.
    assert_eq!(Bench::real().run(&[0xc4, 0xe2, 0x70, 0xf2, 0xc2]), Err(Exception::UD));
    assert_eq!(Bench::real().run(&[0xc5, 0xf4, 0x58, 0xc2]), Err(Exception::UD));
}

#[test]
fn x87_computes_and_its_pointers_are_the_guests() {
    let mut bench = Bench::long();
    bench.write(DATA, &2.5_f64.to_le_bytes());
    set(&mut bench, Gpr::Rbx, DATA - 0x10);
    let memory = MemoryOperand::with_base_displ(R::RBX, 0x10);
    bench.exec(Instruction::with(Code::Fld1)).unwrap();
    let rip = bench.cpu.state.rip;
    bench.exec(Instruction::with1(Code::Fadd_m64fp, memory).unwrap()).unwrap();
    let x87 = bench.cpu.state.fpu.x87;
    // Some of AMD's processors keep the pointers of exceptions only.
    assert!(x87.fip == rip || x87.fip == 0, "never an address of ours: {:x}", x87.fip);
    assert!(x87.fdp == DATA || x87.fdp == 0, "never an address of ours: {:x}", x87.fdp);
    bench.exec(Instruction::with1(Code::Fnstcw_m2byte, memory).unwrap()).unwrap();
    assert_eq!(bench.cpu.state.fpu.x87.fip, x87.fip, "control instructions leave the pointers");
    assert_eq!(bench.read::<2>(DATA), [0x7f, 0x03]);
    bench.exec(Instruction::with1(Code::Fstp_m64fp, memory).unwrap()).unwrap();
    assert_eq!(f64::from_le_bytes(bench.read(DATA)), 3.5);
    assert_eq!(bench.cpu.state.fpu.x87.ftw, 0);
}

#[test]
fn unmasked_x87_exceptions_wait_for_the_next_instruction() {
    let mut bench = Bench::long();
    bench.cpu.state.fpu.x87.fcw = 0x37b;
    bench.write(DATA, &0.0_f32.to_le_bytes());
    set(&mut bench, Gpr::Rbx, DATA - 0x10);
    bench.exec(Instruction::with(Code::Fld1)).unwrap();
    let rip = bench.cpu.state.rip;
    let divide = Instruction::with1(Code::Fdiv_m32fp, MemoryOperand::with_base_displ(R::RBX, 0x10)).unwrap();
    bench.exec(divide).unwrap();
    let x87 = bench.cpu.state.fpu.x87;
    assert_eq!((x87.fsw & 0x80bf, x87.fip, x87.fdp), (0x8084, rip, DATA));
    assert_eq!(x87.fop, 0x073, "D8 /6 with the guest's ModRM byte");
    let pending = Err(Exception::plain(Vector::MF));
    assert_eq!(bench.exec(Instruction::with(Code::Fld1)), pending);
    assert_eq!(bench.exec(Instruction::with(Code::Wait)), pending);
    assert_eq!(bench.exec(op2(Code::Paddb_mm_mmm64, R::MM0, R::MM1)), pending);
    set(&mut bench, Gpr::Rbx, 0x7000_0000);
    assert_eq!(bench.exec(divide), pending, "before the operand's page fault");
    assert_eq!(bench.cpu.state.fpu.x87, x87);
    bench.exec(Instruction::with1(Code::Fnstsw_AX, R::AX).unwrap()).unwrap();
    assert_eq!(get(&bench, Gpr::Rax) & 0x80bf, 0x8084);
    bench.exec(Instruction::with(Code::Fnclex)).unwrap();
    bench.exec(Instruction::with(Code::Fld1)).unwrap();
}

#[test]
fn mmx_and_its_mixtures() {
    let mut bench = Bench::long();
    set_xmm(&mut bench, 2, 0x1122_3344_5566_7788);
    bench.exec(op2(Code::Movdq2q_mm_xmm, R::MM3, R::XMM2)).unwrap();
    let x87 = &bench.cpu.state.fpu.x87;
    assert_eq!((x87.ftw, x87.fsw >> 11 & 7), (0xff, 0));
    assert_eq!(x87.st[3][..8], 0x1122_3344_5566_7788_u64.to_le_bytes());
    bench.exec(op2(Code::Movq2dq_xmm_mm, R::XMM12, R::MM3)).unwrap();
    assert_eq!(xmm(&bench, 12), 0x1122_3344_5566_7788);
    bench.cpu.state.fpu.x87.st[5][..8].copy_from_slice(&[1, 0, 0, 0, 2, 0, 0, 0]);
    bench.exec(op2(Code::Cvtpi2ps_xmm_mmm64, R::XMM0, R::MM5)).unwrap();
    assert_eq!(xmm(&bench, 0) as u64, 0x4000_0000_3f80_0000);
    bench.exec(op2(Code::Cvttps2pi_mm_xmmm64, R::MM6, R::XMM0)).unwrap();
    assert_eq!(bench.cpu.state.fpu.x87.st[6][..8], [1, 0, 0, 0, 2, 0, 0, 0]);
    bench.exec(Instruction::with(Code::Emms)).unwrap();
    assert_eq!(bench.cpu.state.fpu.x87.ftw, 0);
}

#[test]
fn cryptography_and_conversions() {
    let mut bench = Bench::long();
    // FIPS 197: SubBytes of zero is 0x63 everywhere; MixColumns keeps that.
    bench.exec(op2(Code::Aesenc_xmm_xmmm128, R::XMM1, R::XMM0)).unwrap();
    assert_eq!(xmm(&bench, 1), u128::from_le_bytes([0x63; 16]));
    set_xmm(&mut bench, 2, 3);
    set_xmm(&mut bench, 3, 7);
    bench.exec(Instruction::with3(Code::Pclmulqdq_xmm_xmmm128_imm8, R::XMM2, R::XMM3, 0).unwrap()).unwrap();
    assert_eq!(xmm(&bench, 2), 9, "(x + 1)(x^2 + x + 1) = x^3 + 1");
    if std::arch::is_x86_feature_detected!("sha") {
        set_xmm(&mut bench, 0, u128::MAX);
        bench.exec(op2(Code::Sha256rnds2_xmm_xmmm128, R::XMM4, R::XMM5)).unwrap();
        assert_ne!(xmm(&bench, 4), 0, "XMM0 is an operand too");
    }
    set_xmm(&mut bench, 6, 0x3c00);
    bench.exec(op2(Code::VEX_Vcvtph2ps_xmm_xmmm64, R::XMM7, R::XMM6)).unwrap();
    assert_eq!(xmm(&bench, 7), u128::from(1.0_f32.to_bits()));
    for (number, value) in [(8, 2.0_f64), (9, 3.0), (10, 4.0)] {
        set_xmm(&mut bench, number, u128::from(value.to_bits()));
    }
    bench.exec(op3(Code::VEX_Vfmadd213sd_xmm_xmm_xmmm64, R::XMM8, R::XMM9, R::XMM10)).unwrap();
    assert_eq!(xmm(&bench, 8), u128::from(10.0_f64.to_bits()));
    set_xmm(&mut bench, 11, u128::MAX);
    let test = Instruction::with3(Code::Pcmpistri_xmm_xmmm128_imm8, R::XMM11, R::XMM11, 0).unwrap();
    bench.exec(test).unwrap();
    assert_eq!((get(&bench, Gpr::Rcx), bench.flags().contains(Rflags::CF)), (0, true));
}

#[test]
fn code_of_other_modes_runs_in_the_hosts() {
    let mut bench = Bench::protected();
    bench.cpu.state.gpr[0] = u64::from(u32::MAX);
    // inc eax by its one-byte form, then lahf.
    bench.run(&[0x40]).unwrap();
    assert_eq!((get(&bench, Gpr::Rax), bench.flags().contains(Rflags::ZF)), (0, true));
    bench.run(&[0x9f]).unwrap();
    assert_eq!(get(&bench, Gpr::Rax) >> 8 & 0x40, 0x40);
    let mut bench = Bench::real();
    bench.write(0x1234, &[5, 0]);
    set(&mut bench, Gpr::Rbx, 0x1230);
    // xadd [bx+4], cx
    set(&mut bench, Gpr::Rcx, 0xffff_0002);
    bench.run(&[0x0f, 0xc1, 0x4f, 0x04]).unwrap();
    assert_eq!((bench.read::<2>(0x1234), get(&bench, Gpr::Rcx)), ([7, 0], 0xffff_0005));
}

#[test]
fn page_faults_come_before_the_instruction() {
    let mut bench = Bench::long();
    bench.set_page(DATA + 0x1000, 0);
    set(&mut bench, Gpr::Rax, DATA + 0xff8);
    let before = bench.cpu.state.clone();
    let store = Instruction::with2(Code::Movups_xmmm128_xmm, at(R::RAX), R::XMM0).unwrap();
    let fault = bench.exec(store).unwrap_err();
    assert_eq!((fault.vector, fault.error_code, fault.cr2), (Vector::PF, Some(2), Some(DATA + 0x1000)));
    assert_eq!(bench.cpu.state, before);
    assert_eq!(bench.read::<8>(DATA + 0xff8), [0; 8]);
}

#[test]
fn a_misaligned_operand_faults_before_its_page() {
    let mut bench = Bench::long();
    bench.set_page(DATA, 0);
    // paddb xmm0, [rbp]; cmpxchg16b [rbp]
    for code in [&[0x66, 0x0f, 0xfc, 0x45, 0x00][..], &[0x48, 0x0f, 0xc7, 0x4d, 0x00]] {
        set(&mut bench, Gpr::Rbp, DATA + 8);
        assert_eq!(bench.run(code), Err(Exception::gp(0)));
        set(&mut bench, Gpr::Rbp, 0x8000_0000_0000_0008);
        assert_eq!(bench.run(code), Err(Exception::gp(0)), "not #SS");
        set(&mut bench, Gpr::Rbp, 0x8000_0000_0000_0010);
        assert_eq!(bench.run(code), Err(Exception::ss(0)));
        set(&mut bench, Gpr::Rbp, DATA + 16);
        let fault = bench.run(code).unwrap_err();
        assert_eq!((fault.vector, fault.cr2), (Vector::PF, Some(DATA + 16)));
    }
}

fn is_amd() -> bool {
    std::arch::x86_64::__cpuid(0).ecx == u32::from_le_bytes(*b"cAMD")
}

/// Intel's processors look at the number before they look for the page, AMD's
/// the other way round; the host executes the store.
#[test]
fn an_x87_store_that_an_exception_stops_needs_no_page_on_intel() {
    let mut bench = Bench::long();
    bench.set_page(DATA, 0);
    set(&mut bench, Gpr::Rax, DATA);
    // fld1; fistp word [rax]
    bench.run(&[0xd9, 0xe8]).unwrap();
    let fault = bench.run(&[0xdf, 0x18]).unwrap_err();
    assert_eq!((fault.vector, fault.cr2), (Vector::PF, Some(DATA)));
    bench.run(&[0xdb, 0xe3]).unwrap();
    // With #IA unmasked, an empty register is not stored.
    bench.cpu.state.fpu.x87.fcw &= !1;
    let outcome = bench.run(&[0xdf, 0x18]);
    if is_amd() {
        assert_eq!(outcome.unwrap_err().cr2, Some(DATA));
        bench.set_page(DATA, 7);
        bench.run(&[0xdf, 0x18]).unwrap();
    } else {
        outcome.unwrap();
    }
    assert_eq!(bench.cpu.state.fpu.x87.fsw & 0x8081, 0x8081, "an exception is pending");
}

#[test]
fn conversions_to_mmx_registers_set_mxcsr() {
    let mut bench = Bench::long();
    bench.write(DATA, &[0x00, 0x00, 0xa0, 0x3f, 0, 0, 0, 0]);
    set(&mut bench, Gpr::Rax, DATA);
    // cvtps2pi mm0, [rax]: 1.25 is inexact.
    bench.run(&[0x0f, 0x2d, 0x00]).unwrap();
    assert_eq!(bench.cpu.state.fpu.mxcsr & 0x3f, 0x20);
    assert_eq!(bench.cpu.state.fpu.x87.st[0][0], 1);
}
