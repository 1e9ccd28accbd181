//! What the processors of Intel and AMD do differently, and AMD's of different
//! families: the model decides, not the host.

use x86::cpuid::Vendor;
use x86::{Cr0, Exception, Gpr, Rflags, SegmentAttributes, SegmentName, Vector};

use crate::native::HostCpu;
use crate::testing::{Bench, CODE, DATA};

/// The page behind the one at [`DATA`] is absent.
const END: u64 = DATA + 0x1000;

fn both(make: fn() -> Bench) -> [(bool, Bench); 2] {
    [(false, make().of_vendor(Vendor::Intel)), (true, make().of_vendor(Vendor::Amd))]
}

fn at_an_end() -> Bench {
    let mut bench = Bench::long();
    bench.set_page(END, 0);
    bench
}

fn set(bench: &mut Bench, gpr: Gpr, value: u64) {
    bench.cpu.state.set_reg(gpr, value);
}

fn cr2(outcome: Result<(), Exception>) -> Option<u64> {
    outcome.unwrap_err().cr2
}

/// 32-bit code in compatibility mode, with the last 2 MiB below 4 GiB mapped to
/// the first 2 MiB of memory.
fn with_a_top() -> Bench {
    const PDPT: u64 = 0x2000;
    const TOP_PD: u64 = 0x5000;
    let mut bench = Bench::long();
    bench.write(PDPT + 3 * 8, &(TOP_PD | 7).to_le_bytes());
    bench.write(TOP_PD + 511 * 8, &0x87_u64.to_le_bytes());
    bench.cpu.state.segment_mut(SegmentName::Cs).attributes = SegmentAttributes::from_bits(0xc09b);
    bench.refresh();
    bench
}

#[test]
fn a_flat_segment_wraps_or_ends_at_4_gib() {
    for (amd, mut bench) in both(with_a_top) {
        bench.write(0x1f_fffe, &[1, 2]);
        bench.write(0, &[3, 4]);
        set(&mut bench, Gpr::Rbx, 0xffff_fffe);
        // mov eax, [ebx]; mov eax, ss:[ebx]
        for (code, fault) in [(&[0x8b, 0x03][..], Exception::gp(0)), (&[0x36, 0x8b, 0x03], Exception::ss(0))]
        {
            assert_eq!(bench.run(code), if amd { Err(fault) } else { Ok(()) });
        }
        assert!(amd || bench.cpu.state.reg(Gpr::Rax) == 0x0403_0201);
        set(&mut bench, Gpr::Rbx, 0xffff_fffc);
        bench.run(&[0x8b, 0x03]).unwrap();
        // A segment that is not flat, for its base is not 0.
        bench.cpu.state.segment_mut(SegmentName::Ds).base = 0x1000;
        bench.refresh();
        set(&mut bench, Gpr::Rbx, 0xffff_ffff);
        assert_eq!(bench.run(&[0x8b, 0x03]).is_err(), amd);
    }
}

#[test]
fn a_fault_in_a_repeated_comparison_keeps_or_restores_the_flags() {
    for (amd, mut bench) in both(at_an_end) {
        set(&mut bench, Gpr::Rdi, END - 2);
        set(&mut bench, Gpr::Rcx, 4);
        set(&mut bench, Gpr::Rax, 1);
        bench.cpu.state.rflags |= Rflags::ZF;
        // repne scasb
        assert_eq!(cr2(bench.run(&[0xf2, 0xae])), Some(END));
        assert_eq!(bench.cpu.state.reg(Gpr::Rcx), 2);
        let compared = Rflags::CF | Rflags::AF;
        assert_eq!(bench.flags() & (Rflags::ZF | compared), if amd { Rflags::empty() } else { Rflags::ZF });
        assert_eq!(bench.flags().contains(Rflags::ZF), !amd);
    }
}

#[test]
fn a_repetition_of_nothing_leaves_or_extends_the_count() {
    const UPPER: u64 = 5 << 32;
    for (amd, mut bench) in both(at_an_end) {
        let kept = if amd { UPPER } else { 0 };
        set(&mut bench, Gpr::Rcx, UPPER);
        // rep stosb with 32-bit addresses
        bench.run(&[0x67, 0xf3, 0xaa]).unwrap();
        assert_eq!(bench.cpu.state.reg(Gpr::Rcx), kept);
        set(&mut bench, Gpr::Rcx, UPPER | 3);
        set(&mut bench, Gpr::Rdi, END);
        assert_eq!(cr2(bench.run(&[0x67, 0xf3, 0xaa])), Some(END));
        assert_eq!(bench.cpu.state.reg(Gpr::Rcx), kept | 3);
        set(&mut bench, Gpr::Rcx, UPPER | 3);
        set(&mut bench, Gpr::Rdi, END - 1);
        assert_eq!(cr2(bench.run(&[0x67, 0xf3, 0xaa])), Some(END));
        assert_eq!(bench.cpu.state.reg(Gpr::Rcx), 2, "something was done");
    }
}

#[test]
fn of_two_bad_operands_one_comes_first() {
    for (amd, mut bench) in both(at_an_end) {
        set(&mut bench, Gpr::Rsi, END);
        set(&mut bench, Gpr::Rdi, END + 8);
        set(&mut bench, Gpr::Rcx, 1);
        let source_first = Some(if amd { END } else { END + 8 });
        // repe cmpsb; then repne cmpsb, repe cmpsd, cmpsb
        assert_eq!(cr2(bench.run(&[0xf3, 0xa6])), source_first);
        for code in [&[0xf2, 0xa6][..], &[0xf3, 0xa7], &[0xa6]] {
            assert_eq!(cr2(bench.run(code)), Some(END + 8), "{code:02x?}");
        }
        set(&mut bench, Gpr::Rdi, END - 1);
        // maskmovdqu xmm0, xmm0: the upper or the lower half first
        let expected = if amd { END } else { END + 7 };
        assert_eq!(cr2(bench.run(&[0x66, 0x0f, 0xf7, 0xc0])), Some(expected));
    }
}

#[test]
fn movsxd_to_16_bits_reads_16_or_32() {
    for (amd, mut bench) in both(at_an_end) {
        set(&mut bench, Gpr::Rbx, END - 2);
        bench.write(END - 4, &[1, 2, 3, 4]);
        // movsxd ax, [rbx]
        let outcome = bench.run(&[0x66, 0x63, 0x03]);
        assert_eq!(outcome.is_err(), amd);
        set(&mut bench, Gpr::Rbx, END - 4);
        set(&mut bench, Gpr::Rax, u64::MAX);
        bench.run(&[0x66, 0x63, 0x03]).unwrap();
        assert_eq!(bench.cpu.state.reg(Gpr::Rax), 0xffff_ffff_ffff_0201);
        // movsxd ax, ebx has no memory to differ about.
        bench.run(&[0x66, 0x63, 0xc3]).unwrap();
        assert_eq!(bench.cpu.state.reg(Gpr::Rax) as u16, (END - 4) as u16);
    }
}

#[test]
fn a_prefetch_of_a_register_does_nothing_or_does_not_exist() {
    for (amd, mut bench) in both(Bench::long) {
        let outcome = bench.run(&[0x0f, 0x0d, 0xc8]);
        assert_eq!(outcome, if amd { Err(Exception::UD) } else { Ok(()) });
        bench.run(&[0x0f, 0x0d, 0x08]).unwrap();
    }
}

#[test]
fn an_operand_size_prefix_shortens_branches_or_means_nothing() {
    for (amd, mut bench) in both(Bench::long) {
        const HIGH: u64 = 0x1_0000;
        bench.cpu.state.rip = HIGH + CODE;
        set(&mut bench, Gpr::Rsp, DATA + 0x100);
        // jmp +0
        bench.run(&[0x66, 0xeb, 0x00]).unwrap();
        assert_eq!(bench.cpu.state.rip, CODE + 3 + if amd { 0 } else { HIGH });
        bench.cpu.state.rip = HIGH + CODE;
        // call +0
        let code: &[u8] = if amd { &[0x66, 0xe8, 0, 0] } else { &[0x66, 0xe8, 0, 0, 0, 0] };
        bench.run(code).unwrap();
        let (next, pushed) = (CODE + code.len() as u64, if amd { 2 } else { 8 });
        assert_eq!(bench.cpu.state.rip, if amd { next } else { HIGH + next });
        assert_eq!(bench.cpu.state.reg(Gpr::Rsp), DATA + 0x100 - pushed);
        assert_eq!(u64::from(u16::from_le_bytes(bench.read(DATA + 0x100 - pushed))), next);
        // ret
        bench.run(&[0x66, 0xc3]).unwrap();
        assert_eq!(bench.cpu.state.rip, if amd { next } else { HIGH + next });
        assert_eq!(bench.cpu.state.reg(Gpr::Rsp), DATA + 0x100);
    }
}

#[test]
fn far_pointers_have_32_bits_at_most_or_64() {
    for (amd, mut bench) in both(at_an_end) {
        // lfs rax, [rbx]: 6 bytes or 10 before the absent page.
        set(&mut bench, Gpr::Rbx, END - 6);
        let outcome = bench.run(&[0x48, 0x0f, 0xb4, 0x03]);
        assert_eq!(outcome.is_err(), !amd);
    }
}

/// CPL 3 with alignment checks.
fn checked() -> Bench {
    let mut bench = at_an_end();
    bench.cpu.state.cr0.insert(Cr0::AM);
    bench.cpu.state.rflags.insert(Rflags::AC);
    bench.cpu.state.segment_mut(SegmentName::Ss).attributes = SegmentAttributes::from_bits(0xc0f3);
    bench.refresh();
    bench
}

#[test]
fn vectors_are_aligned_or_not_if_alignment_is_checked() {
    const AC: Exception = Exception::with_code(Vector::AC, 0);
    for (amd, mut bench) in both(checked) {
        for offset in [8, 12, 16] {
            set(&mut bench, Gpr::Rdi, DATA + offset);
            // movups xmm0, [rdi]; maskmovdqu xmm0, xmm0
            let vector = if amd && offset % 16 != 0 { Err(AC) } else { Ok(()) };
            assert_eq!(bench.run(&[0x0f, 0x10, 0x07]), vector, "{offset}");
            let quadwords = if offset % 8 != 0 { Err(AC) } else { Ok(()) };
            assert_eq!(bench.run(&[0x66, 0x0f, 0xf7, 0xc0]), quadwords, "{offset}");
        }
        set(&mut bench, Gpr::Rdi, END - 12);
        // movups beyond the end
        assert_eq!(
            bench.run(&[0x0f, 0x10, 0x07]).unwrap_err().vector,
            if amd { Vector::AC } else { Vector::PF }
        );
    }
}

#[test]
fn masked_elements_are_aligned_one_by_one_or_not_at_all() {
    if !HostCpu::detect().avx512 {
        return;
    }
    // vmovups zmm1{k1}, [rdi]; vmovups [rdi]{k1}, zmm1
    for code in [[0x62, 0xf1, 0x7c, 0x49, 0x10, 0x0f], [0x62, 0xf1, 0x7c, 0x49, 0x11, 0x0f]] {
        for (amd, mut bench) in both(checked) {
            bench.cpu.state.fpu.k[1] = 1;
            set(&mut bench, Gpr::Rdi, END - 4);
            bench.run(&code).unwrap();
            set(&mut bench, Gpr::Rdi, END - 6);
            assert_eq!(bench.run(&code).is_err(), amd);
            bench.cpu.state.fpu.k[1] = 0;
            bench.run(&code).unwrap();
        }
    }
}

#[test]
fn an_element_in_front_of_4_gib_is_inside_its_segment() {
    if !HostCpu::detect().avx512 {
        return;
    }
    let load = [0x62, 0xf1, 0x7c, 0x49, 0x10, 0x0f];
    for (amd, mut bench) in both(with_a_top) {
        set(&mut bench, Gpr::Rdi, 0xffff_fffa);
        bench.write(0x1f_fffa, &[1, 2, 3, 4]);
        // vmovups zmm1{k1}, [edi]: in front, across, behind.
        for (mask, outside) in [(1, false), (2, true), (4, true)] {
            bench.cpu.state.fpu.k[1] = mask;
            let expected = if amd && outside { Err(Exception::gp(0)) } else { Ok(()) };
            assert_eq!(bench.run(&load), expected, "{mask}");
        }
        bench.cpu.state.fpu.k[1] = 1;
        bench.run(&load).unwrap();
        assert_eq!(bench.cpu.state.fpu.zmm[1].0[..4], [1, 2, 3, 4]);
        // vmaskmovps xmm1, xmm2, [edi]: its elements wrap around.
        bench.cpu.state.fpu.zmm[2].0 = [0; 64];
        bench.cpu.state.fpu.zmm[2].0[8..12].fill(0x80);
        bench.run(&[0xc4, 0xe2, 0x69, 0x2c, 0x0f]).unwrap();
    }
}

#[test]
fn fields_of_evex_that_mean_nothing_are_ignored_or_undefined() {
    if !HostCpu::detect().avx512 {
        return;
    }
    // vpaddd xmm1, xmm2, xmm3 with V' = 0, with b, with both.
    for (long, last) in [(false, 0x00), (false, 0x18), (false, 0x10), (true, 0x18)] {
        for (amd, mut bench) in both(if long { Bench::long } else { with_a_top }) {
            bench.cpu.state.fpu.zmm[2].0[0] = 3;
            bench.cpu.state.fpu.zmm[3].0[0] = 4;
            let expected = if amd { Ok(()) } else { Err(Exception::plain(Vector::UD)) };
            assert_eq!(bench.run(&[0x62, 0xf1, 0x6d, last, 0xfe, 0xcb]), expected);
            assert_eq!(bench.cpu.state.fpu.zmm[1].0[0], if amd { 7 } else { 0 });
            // vaddss: there b is the rounding, and not ignored.
            bench.run(&[0x62, 0xf1, 0x6e, 0x18, 0x58, 0xcb]).unwrap();
        }
    }
}

#[test]
fn amds_family_1a_reads_the_source_first_in_every_comparison() {
    let mut bench = at_an_end().of_family(Vendor::Amd, 0x1a);
    set(&mut bench, Gpr::Rsi, END);
    set(&mut bench, Gpr::Rdi, END + 8);
    set(&mut bench, Gpr::Rcx, 1);
    for code in [&[0xf3, 0xa6][..], &[0xf2, 0xa6], &[0xf3, 0xa7], &[0xa6]] {
        assert_eq!(cr2(bench.run(code)), Some(END), "{code:02x?}");
    }
}

#[test]
fn amds_family_1a_looks_at_the_stack_before_a_calls_target() {
    for (family, fault) in [(0x19, None), (0x1a, Some(END - 8))] {
        let mut bench = at_an_end().of_family(Vendor::Amd, family);
        bench.set_page(END - 0x1000, 0);
        set(&mut bench, Gpr::Rsp, END);
        set(&mut bench, Gpr::Rax, 1 << 47);
        assert_eq!(cr2(bench.run(&[0xff, 0xd0])), fault);
        // With a good stack the target is bad all the same, and RSP stays.
        set(&mut bench, Gpr::Rsp, 0x8000);
        assert_eq!(bench.run(&[0xff, 0xd0]), Err(Exception::gp(0)));
        assert_eq!(bench.cpu.state.reg(Gpr::Rsp), 0x8000);
    }
}

#[test]
fn amds_family_1a_wraps_no_masked_moves_and_wants_evex_right() {
    if !HostCpu::detect().avx512 {
        return;
    }
    let mut bench = with_a_top().of_family(Vendor::Amd, 0x1a);
    set(&mut bench, Gpr::Rdi, 0xffff_fffa);
    // vmaskmovps xmm1, xmm2, [edi]: in front of 4 GiB, behind.
    for (lane, expected) in [(0, Ok(())), (2, Err(Exception::gp(0)))] {
        bench.cpu.state.fpu.zmm[2].0 = [0; 64];
        bench.cpu.state.fpu.zmm[2].0[4 * lane..4 * lane + 4].fill(0x80);
        assert_eq!(bench.run(&[0xc4, 0xe2, 0x69, 0x2c, 0x0f]), expected);
    }
    assert_eq!(bench.run(&[0x62, 0xf1, 0x6d, 0x00, 0xfe, 0xcb]), Err(Exception::plain(Vector::UD)));
}
