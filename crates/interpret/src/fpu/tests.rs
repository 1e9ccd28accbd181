//! Save areas, environments and control registers; where the host can be
//! asked, it is.

use std::arch::asm;

use iced_x86::{Code, Instruction, MemoryOperand, Register as R};
use x86::{Cr0, Cr4, Exception, Gpr, SegmentName, Vector, X87State, Xcr0};

use crate::testing::{Bench, DATA};

const PENDING: Result<(), Exception> = Err(Exception::plain(Vector::MF));

fn on_rax(code: Code) -> Instruction {
    Instruction::with1(code, MemoryOperand::with_base(R::RAX)).unwrap()
}

fn bench_at(at: u64) -> Bench {
    let mut bench = Bench::long();
    bench.cpu.state.set_reg(Gpr::Rax, at);
    bench
}

/// EDX:EAX is the mask of XSAVE, so its operand is at RDI.
fn on_rdi(code: Code) -> Instruction {
    Instruction::with1(code, MemoryOperand::with_base(R::RDI)).unwrap()
}

fn xsave_bench(at: u64, mask: u64) -> Bench {
    let mut bench = Bench::long();
    bench.cpu.state.set_reg(Gpr::Rdi, at);
    bench.cpu.state.set_reg(Gpr::Rax, mask & 0xffff_ffff);
    bench.cpu.state.set_reg(Gpr::Rdx, mask >> 32);
    bench
}

fn filled(bench: &mut Bench) {
    let fpu = &mut bench.cpu.state.fpu;
    fpu.x87.st[0] = [1; 16];
    fpu.x87.ftw = 1;
    for (index, zmm) in fpu.zmm.iter_mut().enumerate() {
        zmm.0 = [index as u8 + 1; 64];
    }
    fpu.k = [1, 2, 3, 4, 5, 6, 7, 8];
    fpu.mxcsr = 0x1fa0;
}

#[test]
fn fxsave_and_fxrstor_move_the_state() {
    let mut bench = bench_at(DATA + 0xff0);
    filled(&mut bench);
    let before = bench.cpu.state.fpu.clone();
    bench.exec(on_rax(Code::Fxsave64_m512byte)).unwrap();
    assert_eq!(bench.read::<4>(DATA + 0xff0 + 24), 0x1fa0_u32.to_le_bytes());
    assert_eq!(bench.read::<16>(DATA + 0xff0 + 160 + 15 * 16), [16; 16]);
    bench.cpu.state.fpu = x86::FpuState::RESET;
    bench.exec(on_rax(Code::Fxrstor64_m512byte)).unwrap();
    let after = &bench.cpu.state.fpu;
    assert_eq!((after.x87.st[0][..10] == [1; 10], after.mxcsr), (true, before.mxcsr));
    assert_eq!((after.zmm[15].0[..16] == [16; 16], after.zmm[15].0[16..] == [0; 48]), (true, true));
}

#[test]
fn fxsave_faults_before_it_does_anything() {
    let mut bench = bench_at(DATA + 8);
    assert_eq!(bench.exec(on_rax(Code::Fxsave_m512byte)), Err(Exception::gp(0)), "misaligned");
    let mut bench = bench_at(DATA + 0xf00);
    bench.write(DATA + 0xf00, &[0xee; 256]);
    bench.set_page(DATA + 0x1000, 5);
    bench.cpu.state.cr0.insert(Cr0::WP);
    bench.refresh();
    let fault = bench.exec(on_rax(Code::Fxsave_m512byte)).unwrap_err();
    assert_eq!((fault.error_code, fault.cr2), (Some(3), Some(DATA + 0x1000)));
    assert_eq!(bench.read::<256>(DATA + 0xf00), [0xee; 256]);
    let mut bench = bench_at(DATA);
    bench.write(DATA + 26, &[1]);
    let before = bench.cpu.state.clone();
    assert_eq!(bench.exec(on_rax(Code::Fxrstor_m512byte)), Err(Exception::gp(0)), "reserved MXCSR bit");
    assert_eq!(bench.cpu.state, before);
    bench.cpu.state.cr0.insert(Cr0::TS);
    assert_eq!(bench.exec(on_rax(Code::Fxrstor_m512byte)), Err(Exception::NM));
    bench.cpu.state.cr0.insert(Cr0::EM);
    assert_eq!(bench.exec(on_rax(Code::Fxrstor_m512byte)), Err(Exception::UD));
    bench.cpu.state.cr0.remove(Cr0::EM | Cr0::TS);
    bench.cpu.state.set_reg(Gpr::Rsp, 1 << 63);
    let on_stack = Instruction::with1(Code::Fxsave_m512byte, MemoryOperand::with_base(R::RSP)).unwrap();
    assert_eq!(bench.exec(on_stack), Err(Exception::ss(0)), "not canonical");
}

#[test]
fn xsave_touches_what_is_asked_for_and_no_more() {
    // Legacy region and header end where the missing page begins.
    let at = DATA + 0x1000 - 576;
    let mut bench = xsave_bench(at, 3);
    filled(&mut bench);
    bench.set_page(DATA + 0x1000, 0);
    bench.exec(on_rdi(Code::Xsave64_mem)).unwrap();
    assert_eq!(bench.read::<16>(at + 512), 3_u128.to_le_bytes());
    bench.cpu.state.set_reg(Gpr::Rax, 7);
    let fault = bench.exec(on_rdi(Code::Xsave64_mem)).unwrap_err();
    assert_eq!((fault.vector, fault.error_code, fault.cr2), (Vector::PF, Some(2), Some(DATA + 0x1000)));
    bench.exec(on_rdi(Code::Xrstor64_mem)).unwrap();
    assert_eq!(bench.cpu.state.fpu.zmm[1].0[16..32], [0; 16], "AVX is initial in the area");
    assert_eq!(bench.cpu.state.fpu.zmm[1].0[32..], [2; 32], "and the rest was not asked for");
}

#[test]
fn everything_survives_xsave_and_xrstor() {
    for (save, name) in
        [(Code::Xsave64_mem, "xsave"), (Code::Xsaveopt64_mem, "xsaveopt"), (Code::Xsavec64_mem, "xsavec")]
    {
        let mut bench = xsave_bench(DATA + 0x780, u64::MAX);
        filled(&mut bench);
        let before = bench.cpu.state.fpu.clone();
        bench.exec(on_rdi(save)).unwrap();
        bench.cpu.state.fpu = x86::FpuState::RESET;
        bench.exec(on_rdi(Code::Xrstor64_mem)).unwrap();
        assert_eq!(bench.cpu.state.fpu, before, "{name}");
    }
}

#[test]
fn xsave_and_xrstor_have_conditions() {
    let both = [Code::Xsave_mem, Code::Xrstor_mem];
    for code in both {
        let mut bench = xsave_bench(DATA + 16, 7);
        assert_eq!(bench.exec(on_rdi(code)), Err(Exception::gp(0)), "misaligned");
        bench.cpu.state.cr0.insert(Cr0::TS);
        assert_eq!(bench.exec(on_rdi(code)), Err(Exception::NM));
        bench.cpu.state.cr4.remove(Cr4::OSXSAVE);
        assert_eq!(bench.exec(on_rdi(code)), Err(Exception::UD));
    }
    let mut bench = xsave_bench(DATA, 7);
    bench.write(DATA + 24, &0x1f80_u32.to_le_bytes());
    bench.write(DATA + 513, &[1]);
    filled(&mut bench);
    let before = bench.cpu.state.clone();
    assert_eq!(bench.exec(on_rdi(Code::Xrstor_mem)), Err(Exception::gp(0)), "a component outside XCR0");
    assert_eq!(bench.cpu.state, before);
    for code in [Code::Xsaves_mem, Code::Xrstors_mem] {
        assert_eq!(bench.exec(on_rdi(code)), Err(Exception::UD), "not offered");
    }
}

#[test]
fn mxcsr_has_reserved_bits() {
    let mut bench = bench_at(DATA);
    bench.write(DATA, &0x0001_1f80_u32.to_le_bytes());
    for code in [Code::Ldmxcsr_m32, Code::VEX_Vldmxcsr_m32] {
        assert_eq!(bench.exec(on_rax(code)), Err(Exception::gp(0)));
    }
    bench.write(DATA, &0xffbf_u32.to_le_bytes());
    bench.exec(on_rax(Code::Ldmxcsr_m32)).unwrap();
    assert_eq!(bench.cpu.state.fpu.mxcsr, 0xffbf);
    bench.cpu.state.set_reg(Gpr::Rax, DATA + 0xffe);
    bench.exec(on_rax(Code::VEX_Vstmxcsr_m32)).unwrap();
    assert_eq!(bench.read::<4>(DATA + 0xffe), 0xffbf_u32.to_le_bytes());
    bench.cpu.state.cr4.remove(Cr4::OSFXSR);
    assert_eq!(bench.exec(on_rax(Code::Stmxcsr_m32)), Err(Exception::UD));
}

#[test]
fn xcr0_takes_valid_combinations_only() {
    let xsetbv = Instruction::with(Code::Xsetbv);
    let set = |value: u64, index: u64| {
        let mut bench = xsave_bench(DATA, value);
        bench.cpu.state.set_reg(Gpr::Rcx, index);
        bench.exec(xsetbv).map(|()| bench.cpu.state.xcr0.bits())
    };
    for value in [1, 3, 7, 0xe7] {
        assert_eq!(set(value, 0), Ok(value));
    }
    for value in [0, 2, 5, 0x27, 0x67, 0xe3, 0xa7, 0x17, 1 << 63 | 7] {
        assert_eq!(set(value, 0), Err(Exception::gp(0)), "{value:#x}");
    }
    assert_eq!(set(7, 1), Err(Exception::gp(0)));
    let mut bench = xsave_bench(DATA, 7);
    bench.cpu.state.segment_mut(SegmentName::Ss).attributes.set_dpl(3);
    assert_eq!(bench.exec(xsetbv), Err(Exception::gp(0)), "not in ring 3");
    bench.cpu.state.cr4.remove(Cr4::OSXSAVE);
    assert_eq!(bench.exec(xsetbv), Err(Exception::UD));
}

#[test]
fn xgetbv_tells_what_is_enabled_and_in_use() {
    let xgetbv = Instruction::with(Code::Xgetbv);
    let mut bench = Bench::long();
    bench.cpu.state.xcr0 = Xcr0::X87 | Xcr0::SSE | Xcr0::AVX;
    bench.cpu.state.set_reg(Gpr::Rax, u64::MAX);
    bench.cpu.state.set_reg(Gpr::Rdx, u64::MAX);
    bench.cpu.state.set_reg(Gpr::Rcx, 0xffff_ffff_0000_0000);
    bench.exec(xgetbv).unwrap();
    assert_eq!((bench.cpu.state.reg(Gpr::Rax), bench.cpu.state.reg(Gpr::Rdx)), (7, 0));
    bench.cpu.state.fpu.zmm[3].0[20] = 1;
    bench.cpu.state.set_reg(Gpr::Rcx, 1);
    bench.exec(xgetbv).unwrap();
    assert_eq!(bench.cpu.state.reg(Gpr::Rax), 4);
    bench.cpu.state.set_reg(Gpr::Rcx, 2);
    assert_eq!(bench.exec(xgetbv), Err(Exception::gp(0)));
}

#[test]
fn vzero_clears_to_the_end_of_the_registers() {
    let mut bench = Bench::long();
    filled(&mut bench);
    bench.exec(Instruction::with(Code::VEX_Vzeroupper)).unwrap();
    let zmm = &bench.cpu.state.fpu.zmm;
    assert_eq!((&zmm[15].0[..16], &zmm[15].0[16..]), (&[16; 16][..], &[0; 48][..]));
    assert_eq!(zmm[16].0, [17; 64]);
    bench.exec(Instruction::with(Code::VEX_Vzeroall)).unwrap();
    assert_eq!(bench.cpu.state.fpu.zmm[15].0, [0; 64]);
    let mut bench = Bench::protected();
    filled(&mut bench);
    bench.exec(Instruction::with(Code::VEX_Vzeroall)).unwrap();
    assert_eq!((bench.cpu.state.fpu.zmm[7].0, bench.cpu.state.fpu.zmm[8].0), ([0; 64], [9; 64]));
}

/// A state whose registers are of every kind, at different tops.
fn mixed(top: u16) -> X87State {
    let mut x87 = X87State::INIT;
    x87.fsw = top << 11 | 0x4700;
    x87.ftw = 0b1110_1111;
    x87.fop = 0x5a5;
    x87.fip = 0x1234_5678;
    x87.fdp = 0x9abc_def0;
    let kinds: [(u64, u16); 8] = [
        (1 << 63, 0x3fff),
        (0, 0),
        (0, 0x8000),
        (1, 0),
        (1 << 63, 0x7fff),
        (1, 0x4000),
        (3 << 62, 0xffff),
        (1 << 63, 0),
    ];
    for (st, (mantissa, exponent)) in x87.st.iter_mut().zip(kinds) {
        st[..8].copy_from_slice(&mantissa.to_le_bytes());
        st[8..10].copy_from_slice(&exponent.to_le_bytes());
    }
    x87
}

/// AMD's processors restore the pointers only with a pending exception (APM 5
/// "FXRSTOR").
fn intel() -> bool {
    std::arch::x86_64::__cpuid(0).ebx == u32::from_le_bytes(*b"Genu")
}

#[test]
fn environments_are_what_the_host_stores() {
    for top in 0..8 {
        let mut bench = bench_at(DATA);
        bench.cpu.state.fpu.x87 = mixed(top);
        let before = bench.cpu.state.fpu.x87;
        bench.exec(on_rax(Code::Fnsave_m108byte)).unwrap();
        let mut native = [0_u8; 108];
        // SAFETY: the state is a valid FXSAVE image, and FNSAVE leaves the
        // host's x87 initialized.
        unsafe {
            asm!("fxrstor64 [{0}]", "fnsave [{1}]", in(reg) &before, in(reg) &mut native,
                out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _,
                out("st(4)") _, out("st(5)") _, out("st(6)") _, out("st(7)") _,
                out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
                out("xmm4") _, out("xmm5") _, out("xmm6") _, out("xmm7") _,
                out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
                out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _);
        }
        let ours = bench.read::<108>(DATA);
        assert_eq!(ours[..12], native[..12], "top {top}: control, status, tags");
        if intel() {
            assert_eq!(ours[12..16], native[12..16], "top {top}: FIP");
            assert_eq!(ours[18..24], native[18..24], "top {top}: FOP and FDP");
        }
        assert_eq!(ours[28..], native[28..], "top {top}: registers");
        let after = bench.cpu.state.fpu.x87;
        assert_eq!((after.fcw, after.fsw, after.ftw, after.fip), (0x37f, 0, 0, 0));
        bench.exec(on_rax(Code::Frstor_m108byte)).unwrap();
        assert_eq!(bench.cpu.state.fpu.x87, before, "top {top}: and back");
    }
}

#[test]
fn the_four_formats_of_the_environment() {
    let state = || {
        let mut x87 = mixed(0);
        x87.fip = 0x000a_5678;
        x87.fdp = 0x000b_def0;
        x87
    };
    // fnstenv [eax] in 32-bit code, with and without operand-size prefix; then
    // fnstenv [bx] in 16-bit code.
    let (wide32, narrow32) = (&[0xd9, 0x30][..], &[0x66, 0xd9, 0x30][..]);
    let (narrow16, wide16) = (&[0xd9, 0x37][..], &[0x66, 0xd9, 0x37][..]);
    let run = |real: bool, bytes: &[u8]| {
        let mut bench = if real { Bench::real() } else { Bench::protected() };
        bench.cpu.state.fpu.x87 = state();
        bench.cpu.state.gpr = [0x2000; 16];
        bench.run(bytes).unwrap();
        let words: Vec<u16> = bench
            .read::<28>(0x2000)
            .chunks_exact(2)
            .map(|pair| u16::from_le_bytes([pair[0], pair[1]]))
            .collect();
        assert_eq!(bench.cpu.state.fpu.x87.fcw, 0x37f);
        bench.cpu.state.fpu.x87.fcw = 0x37e;
        let load: Vec<u8> =
            bytes.iter().map(|&byte| if (0x30..0x40).contains(&byte) { byte - 16 } else { byte }).collect();
        bench.run(&load).unwrap();
        (words, bench.cpu.state.fpu.x87)
    };
    let (words, back) = run(false, wide32);
    assert_eq!(words[6..14], [0x5678, 0xa, 0, 0x5a5, 0xdef0, 0xb, 0, 0xffff]);
    assert_eq!((back.fip, back.fdp, back.fop, back.fcw), (0xa_5678, 0xb_def0, 0x5a5, 0x37f));
    let (words, back) = run(false, narrow32);
    assert_eq!(words[3..8], [0x5678, 0, 0xdef0, 0, 0]);
    assert_eq!((back.fip, back.fdp, back.fop), (0x5678, 0xdef0, 0));
    let (words, back) = run(true, narrow16);
    assert_eq!(words[3..8], [0x5678, 0xa5a5, 0xdef0, 0xb000, 0]);
    assert_eq!((back.fip, back.fdp, back.fop), (0xa_5678, 0xb_def0, 0x5a5));
    let (words, back) = run(true, wide16);
    assert_eq!(words[6..14], [0x5678, 0xffff, 0xa5a5, 0, 0xdef0, 0xffff, 0xb000, 0]);
    assert_eq!((back.fip, back.fdp, back.fop), (0xa_5678, 0xb_def0, 0x5a5));
    assert_eq!(back.ftw, mixed(0).ftw);
}

#[test]
fn storing_the_environment_masks_exceptions_and_loading_brings_them_back() {
    let mut bench = bench_at(DATA);
    bench.cpu.state.fpu.x87.fcw = 0x37e;
    bench.cpu.state.fpu.x87.fsw = 0x8081;
    assert_eq!(bench.exec(on_rax(Code::Fldenv_m28byte)), PENDING);
    assert_eq!(bench.exec(on_rax(Code::Frstor_m108byte)), PENDING);
    bench.exec(on_rax(Code::Fnstenv_m28byte)).unwrap();
    let x87 = bench.cpu.state.fpu.x87;
    assert_eq!((x87.fcw, x87.fsw), (0x37f, 1));
    bench.exec(Instruction::with(Code::Wait)).unwrap();
    bench.exec(on_rax(Code::Fldenv_m28byte)).unwrap();
    assert_eq!((bench.cpu.state.fpu.x87.fcw, bench.cpu.state.fpu.x87.fsw), (0x37e, 0x8081));
    assert_eq!(bench.exec(Instruction::with(Code::Wait)), PENDING);
    bench.exec(Instruction::with(Code::Fninit)).unwrap();
    bench.exec(Instruction::with(Code::Wait)).unwrap();
}

#[test]
fn restored_words_are_what_the_host_makes_of_them() {
    for (fcw, fsw) in
        [(0x37f, 0), (0, 0x3f), (0xffff, 0xffff), (0x340, 0x8081), (0x37e, 0x0001), (0x1f3f, 0x80)]
    {
        let mut bench = bench_at(DATA);
        bench.cpu.state.fpu.x87.fcw = fcw;
        bench.cpu.state.fpu.x87.fsw = fsw;
        bench.exec(on_rax(Code::Fxsave64_m512byte)).unwrap();
        #[repr(align(16))]
        struct Image([u8; 512]);
        let given = Image(bench.read(DATA));
        let mut taken = Image([0; 512]);
        // SAFETY: both are FXSAVE images; FNINIT cleans up.
        unsafe {
            asm!("fxrstor64 [{0}]", "fxsave64 [{1}]", "fninit", in(reg) &given, in(reg) &mut taken,
                out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _,
                out("st(4)") _, out("st(5)") _, out("st(6)") _, out("st(7)") _,
                out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
                out("xmm4") _, out("xmm5") _, out("xmm6") _, out("xmm7") _,
                out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
                out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _);
        }
        bench.exec(on_rax(Code::Fxrstor64_m512byte)).unwrap();
        let x87 = &bench.cpu.state.fpu.x87;
        let word = |at: usize| u16::from_le_bytes([taken.0[at], taken.0[at + 1]]);
        assert_eq!((x87.fcw, x87.fsw), (word(0), word(2)), "from {fcw:#x}, {fsw:#x}");
    }
}

#[test]
fn wait_asks_mp_and_ts() {
    let wait = Instruction::with(Code::Wait);
    for (cr0, outcome) in [
        (Cr0::empty(), Ok(())),
        (Cr0::TS, Ok(())),
        (Cr0::MP, Ok(())),
        (Cr0::MP | Cr0::TS, Err(Exception::NM)),
        (Cr0::EM, Ok(())),
    ] {
        let mut bench = Bench::long();
        bench.cpu.state.cr0.remove(Cr0::MP);
        bench.cpu.state.cr0.insert(cr0);
        assert_eq!(bench.exec(wait), outcome, "{cr0:?}");
    }
    let mut bench = bench_at(DATA);
    // FSTCW is WAIT and FNSTCW, two instructions.
    assert_eq!(bench.decode(&[0x9b, 0xd9, 0x38]).len, 1);
    bench.cpu.state.cr0.insert(Cr0::EM);
    for code in [Code::Fnstenv_m28byte, Code::Fnsave_m108byte, Code::Fnstcw_m2byte] {
        assert_eq!(bench.exec(on_rax(code)), Err(Exception::NM));
    }
}

#[test]
fn save_areas_obey_segment_limits() {
    let mut bench = Bench::protected();
    bench.cpu.state.segment_mut(SegmentName::Ds).limit = 0x21ff;
    bench.cpu.refresh();
    bench.cpu.state.gpr = [0x2000; 16];
    // fxsave [eax]
    bench.run(&[0x0f, 0xae, 0x00]).unwrap();
    bench.cpu.state.segment_mut(SegmentName::Ds).limit = 0x21fe;
    assert_eq!(bench.run(&[0x0f, 0xae, 0x00]), Err(Exception::gp(0)));
}
