//! What the conformance guests cannot see: states between instructions, other
//! processors, and that a fault on the way leaves nothing behind.

use engine::{Signal, Stop};
use iced_x86::{Code, Instruction};
use x86::cpuid::Vendor;
use x86::{
    Activity, Cr0, DescriptorTable, Efer, Exception, Gpr, InterruptShadow, Rflags, Segment,
    SegmentAttributes, SegmentName, Selector, Vector,
};

use super::{deliver_exception, deliver_external, take_init_and_sipi};
use crate::testing::{Bench, CODE, DATA};

const GDT: u64 = DATA;
const IDT: u64 = DATA + 0x1000;
const TSS: u64 = DATA + 0x2000;
const STACK: u64 = DATA + 0x4000;
const HANDLER: u64 = 0x9000;

/// A flat 32-bit machine with code at selector 8, data at 10h, and room for
/// more in its tables.
fn protected() -> Bench {
    let mut bench = Bench::protected();
    bench.write(GDT + 8, &0x00cf_9b00_0000_ffff_u64.to_le_bytes());
    bench.write(GDT + 16, &0x00cf_9300_0000_ffff_u64.to_le_bytes());
    let state = &mut bench.cpu.state;
    state.gdtr = DescriptorTable { base: GDT, limit: 0xff };
    state.idtr = DescriptorTable { base: IDT, limit: 0x7ff };
    for name in SegmentName::ALL {
        let selector = if name == SegmentName::Cs { 8 } else { 16 };
        state.segment_mut(name).selector = Selector(selector);
    }
    state.set_reg(Gpr::Rsp, STACK);
    bench.refresh();
    bench
}

fn interrupt_gate(bench: &mut Bench, vector: u64) {
    bench.write(IDT + vector * 8, &(0x8e00_0008_0000 | HANDLER).to_le_bytes());
}

fn dword(bench: &Bench, at: u64) -> u32 {
    u32::from_le_bytes(bench.read(at))
}

#[test]
fn an_interrupt_that_meets_a_fault_marks_it_as_external() {
    let mut bench = protected();
    interrupt_gate(&mut bench, 13);
    assert_eq!(deliver_external(&mut bench.cpu, Vector(0x40)), Ok(()));
    assert_eq!(bench.cpu.state.rip, HANDLER);
    assert_eq!(dword(&bench, STACK - 16), 0x40 << 3 | 2 | 1);
    assert_eq!(u64::from(dword(&bench, STACK - 12)), CODE);
}

#[test]
fn the_escalated_exception_sees_the_original_state() {
    let mut bench = protected();
    // The handler of #UD lies beyond its segment's limit: found out last.
    bench.write(GDT + 24, &0x0040_9b00_0000_0fff_u64.to_le_bytes());
    bench.write(IDT + 6 * 8, &(0x8e00_0018_0000 | HANDLER).to_le_bytes());
    interrupt_gate(&mut bench, 13);
    bench.cpu.state.rflags |= Rflags::IF | Rflags::TF | Rflags::NT;
    let flags = bench.cpu.state.rflags;
    assert_eq!(deliver_exception(&mut bench.cpu, Exception::UD), Ok(()));
    assert_eq!(bench.cpu.state.reg(Gpr::Rsp), STACK - 16, "one frame, with an error code");
    assert_eq!(dword(&bench, STACK - 16), 1, "EXT");
    assert_eq!(u64::from(dword(&bench, STACK - 8)), 8, "the CS before the first exception");
    assert_eq!(u64::from(dword(&bench, STACK - 4)), (flags | Rflags::RF).bits());
}

#[test]
fn without_handlers_the_processor_shuts_down() {
    let mut bench = protected();
    let before = bench.cpu.state.clone();
    assert_eq!(deliver_exception(&mut bench.cpu, Exception::DE), Err(Stop::TripleFault));
    assert_eq!(bench.cpu.state.activity, Activity::Shutdown);
    bench.cpu.state.activity = Activity::Running;
    assert_eq!(bench.cpu.state.differences(&before), []);
}

#[test]
fn a_frame_wraps_on_a_small_stack_and_is_written_whole_or_not_at_all() {
    let mut bench = Bench::real();
    bench.cpu.state.segment_mut(SegmentName::Ss).base = STACK;
    bench.cpu.state.set_reg(Gpr::Rsp, 0xaaaa_0002);
    bench.write(0x21 * 4, &[0, 0x90, 0, 0]);
    bench.run(&[0xcd, 0x21]).unwrap();
    assert_eq!(bench.cpu.state.reg(Gpr::Rsp), 0xaaaa_fffc);
    assert_eq!(u16::from_le_bytes(bench.read(STACK)), 2, "flags");
    assert_eq!(u16::from_le_bytes(bench.read(STACK + 0xfffc)), CODE as u16 + 2);

    let mut bench = Bench::real();
    bench.cpu.state.segment_mut(SegmentName::Ss).base = STACK;
    bench.cpu.state.set_reg(Gpr::Rsp, 5);
    // IP would straddle the limit.
    assert_eq!(bench.run(&[0xcd, 0x21]), Err(Exception::ss(0)));
    assert_eq!(bench.read::<8>(STACK), [0; 8]);
    assert_eq!(bench.cpu.state.reg(Gpr::Rsp), 5);
}

#[test]
fn iret_lets_nmis_in_even_if_it_faults() {
    let mut bench = protected();
    bench.cpu.state.nmi_blocked = true;
    assert_eq!(bench.run(&[0xcf]), Err(Exception::gp(0)), "CS is null");
    assert!(!bench.cpu.state.nmi_blocked);
}

#[test]
fn entering_a_handler_is_no_single_step() {
    let mut bench = protected();
    interrupt_gate(&mut bench, 0x21);
    bench.cpu.entered_handler = false;
    bench.run(&[0xcd, 0x21]).unwrap();
    assert!(bench.cpu.entered_handler);
    assert_eq!(bench.cpu.state.rip, HANDLER);
}

#[test]
fn a_load_of_ss_holds_interrupts_back_and_a_fault_does_not() {
    let mut bench = protected();
    bench.cpu.state.set_reg(Gpr::Rax, 16);
    bench.run(&[0x8e, 0xd0]).unwrap();
    assert_eq!(bench.cpu.state.interrupt_shadow, InterruptShadow::MovSs);
    bench.cpu.state.interrupt_shadow = InterruptShadow::None;
    bench.cpu.state.set_reg(Gpr::Rax, 8);
    assert_eq!(bench.run(&[0x8e, 0xd0]), Err(Exception::gp(8)), "code");
    assert_eq!(bench.cpu.state.interrupt_shadow, InterruptShadow::None);
    assert_eq!(bench.cpu.state.segment(SegmentName::Ss).selector, Selector(16));
}

#[test]
fn init_keeps_what_the_table_says_and_waits_for_sipi() {
    let mut bench = protected();
    let cpu = &mut bench.cpu;
    cpu.id = 1;
    cpu.state.msrs.pat = 5;
    cpu.state.msrs.tsc_adjust = 6;
    cpu.state.fpu.zmm[3].0[0] = 7;
    cpu.state.cr0.insert(Cr0::CD);
    cpu.state.cr2 = 8;
    cpu.state.set_reg(Gpr::Rbx, 9);
    cpu.state.activity = Activity::Shutdown;
    cpu.signals.raise(Signal::Init);
    take_init_and_sipi(cpu);
    let state = &cpu.state;
    assert_eq!(state.activity, Activity::WaitForSipi);
    assert_eq!((state.msrs.pat, state.msrs.tsc_adjust, state.fpu.zmm[3].0[0]), (5, 6, 7));
    assert_eq!((state.cr2, state.reg(Gpr::Rbx)), (0, 0));
    assert_eq!(state.cr0, Cr0::ET | Cr0::CD);

    cpu.signals.raise_sipi(0x9a);
    take_init_and_sipi(cpu);
    assert_eq!(cpu.state.activity, Activity::Running);
    assert_eq!(cpu.code_address().0, 0x9_a000);
    assert_eq!(cpu.state.segment(SegmentName::Cs).selector, Selector(0x9a00));

    cpu.signals.raise_sipi(0x10);
    take_init_and_sipi(cpu);
    assert_eq!(cpu.code_address().0, 0x9_a000, "only the first counts");
}

#[test]
fn the_boot_processor_starts_at_the_reset_vector_after_init() {
    let mut bench = protected();
    bench.cpu.signals.raise(Signal::Init);
    take_init_and_sipi(&mut bench.cpu);
    assert_eq!(bench.cpu.state.activity, Activity::Running);
    assert_eq!(bench.cpu.code_address().0, 0xffff_fff0);
}

/// Two 32-bit tasks: the current one at [`TSS`], another behind it.
fn tasks() -> Bench {
    let mut bench = protected();
    let tss = |base: u64, kind: u64| kind << 40 | (base & 0xff_ffff) << 16 | 0x67;
    bench.write(GDT + 24, &tss(TSS, 0x8b).to_le_bytes());
    bench.write(GDT + 32, &tss(TSS + 0x100, 0x89).to_le_bytes());
    bench.cpu.state.tr = Segment {
        base: TSS,
        limit: 0x67,
        selector: Selector(24),
        attributes: SegmentAttributes::from_bits(0x8b),
    };
    let other = TSS + 0x100;
    for (offset, value) in [(32, HANDLER as u32), (36, 2), (56, STACK as u32), (72, 16), (76, 8), (80, 16)] {
        bench.write(other + offset, &value.to_le_bytes());
    }
    bench
}

const JUMP_TO_TASK: [u8; 7] = [0xea, 0, 0, 0, 0, 32, 0];

#[test]
fn a_bad_segment_in_the_new_task_is_the_new_tasks_fault() {
    let mut bench = tasks();
    bench.write(TSS + 0x100 + 80, &[0, 0, 0, 0]);
    assert_eq!(bench.run(&JUMP_TO_TASK), Err(Exception::ts(0)));
    let state = &bench.cpu.state;
    assert_eq!((state.rip, state.tr.selector), (HANDLER, Selector(32)));
    assert!(state.cr0.contains(Cr0::TS));
    assert!(state.segment(SegmentName::Cs).attributes.is_code(), "CS was loaded before SS");
    assert!(!state.segment(SegmentName::Ds).attributes.present());
}

#[test]
fn an_unusable_task_leaves_the_old_one_alone() {
    let mut bench = tasks();
    bench.write(GDT + 32, &[0x66]);
    let before = bench.cpu.state.clone();
    assert_eq!(bench.run(&JUMP_TO_TASK), Err(Exception::ts(32)));
    assert_eq!(bench.cpu.state.differences(&before), []);
    assert_eq!(dword(&bench, TSS + 32), 0, "nothing was saved");
}

#[test]
fn a_task_that_links_to_itself_returns_to_what_it_just_saved() {
    let mut bench = tasks();
    bench.write(TSS, &24_u16.to_le_bytes());
    bench.cpu.state.rflags |= Rflags::NT;
    bench.cpu.state.set_reg(Gpr::Rbx, 0x77);
    bench.run(&[0xcf]).unwrap();
    assert_eq!(bench.cpu.state.rip, CODE + 1);
    assert_eq!(bench.cpu.state.reg(Gpr::Rbx), 0x77);
    assert!(!bench.cpu.state.rflags.contains(Rflags::NT));
}

/// 32-bit user code in compatibility mode.
fn compatibility() -> Bench {
    let mut bench = Bench::long();
    let state = &mut bench.cpu.state;
    state.segment_mut(SegmentName::Cs).attributes = SegmentAttributes::from_bits(0xc0fb);
    state.segment_mut(SegmentName::Ss).attributes = SegmentAttributes::from_bits(0xc0f3);
    state.msrs.star = 0x0010 << 32;
    state.msrs.cstar = HANDLER;
    bench.refresh();
    bench
}

#[test]
fn syscall_in_compatibility_mode_is_amds_alone() {
    let mut bench = compatibility();
    assert_eq!(bench.run(&[0x0f, 0x05]), Err(Exception::UD));
    assert!(bench.cpu.state.efer.contains(Efer::SCE));

    let mut bench = bench.of_vendor(Vendor::Amd);
    bench.run(&[0x0f, 0x05]).unwrap();
    assert_eq!(bench.cpu.state.rip, HANDLER);
    assert!(bench.cpu.long && bench.cpu.cpl() == 0);
    assert_eq!(bench.cpu.state.reg(Gpr::Rcx), CODE + 2);
}

#[test]
fn sysenter_in_long_mode_is_not_amds() {
    let mut bench = compatibility().of_vendor(Vendor::Amd);
    bench.cpu.state.msrs.sysenter_cs = 0x10;
    assert_eq!(bench.exec(Instruction::with(Code::Sysenter)), Err(Exception::UD));
    assert_eq!(bench.cpu.cpl(), 3);
}
