//! The pieces of host code that every block shares: the way in, the ways out,
//! the first-level TLB miss and the switch of floating-point state.
//!
//! Blocks reach them by CALL; the return address says where it happened.

use std::mem::offset_of;
use std::ops::Range;

use interpret::tlb::{CHUNK, GLOBAL, SETS, Set, Tlb, Way};
use x86::{CpuState, FpuState};

use crate::asm::{
    Arith, Asm, BIAS, R8, R9, R10, R11, R12, R13, R14, R15, RAX, RBP, RBX, RCX, RDI, RDX, RSI, RSP, Reg, at,
    condition, element, field, indexed,
};
use crate::cache::CodeCache;
use crate::context::{Context, addends, offset, tags};
use crate::jumps::Entry;

/// Why generated code was left. The number is what the exit gives back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub(crate) enum Exit {
    /// A direct branch whose target is not linked yet.
    Link = 0,
    /// An indirect branch whose target is not known.
    Indirect = 1,
    /// An instruction that the interpreter executes.
    Callout = 2,
    /// Somebody wants the vCPU to look up.
    Poll = 3,
    /// The instruction could not be executed inline this time.
    Interpret = 4,
    /// A read that both levels of the TLB miss.
    MissRead = 5,
    /// A write that both levels of the TLB miss.
    MissWrite = 6,
}

impl Exit {
    pub(crate) const ALL: [Self; 7] = [
        Self::Link,
        Self::Indirect,
        Self::Callout,
        Self::Poll,
        Self::Interpret,
        Self::MissRead,
        Self::MissWrite,
    ];

    /// Its name in statistics.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Link => "link",
            Self::Indirect => "indirect",
            Self::Callout => "callout",
            Self::Poll => "poll",
            Self::Interpret => "interpret",
            Self::MissRead => "miss_read",
            Self::MissWrite => "miss_write",
        }
    }

    /// The reason with this number.
    pub(crate) fn from_number(number: u64) -> Self {
        Self::ALL[(number as usize).min(Self::ALL.len() - 1)]
    }
}

/// Where a guest register lives while generated code runs: see
/// [`host_of`](crate::registers). Saved and loaded in this order.
const LIVE: [(usize, Reg); 12] = [
    (0, RAX),
    (1, R9),
    (2, RDX),
    (3, RBX),
    (4, R8),
    (5, RBP),
    (6, RSI),
    (7, RDI),
    (12, R12),
    (13, R13),
    (14, R14),
    (15, R15),
];
const CALLEE_SAVED: [Reg; 6] = [RBX, RBP, R12, R13, R14, R15];
/// The return address of a CALL.
const CALL: i32 = 8;

/// From a check's failing CALL back to its first instruction.
pub(crate) const CHECK_LENGTH: usize = 32;

/// From behind a check's failing CALL to the access itself.
pub(crate) const CHECK_TAIL: usize = 8;
/// The longest access that a check allows.
pub(crate) const MAX_ACCESS: u64 = 64;
/// The most bytes that a window spans: more would often cross a page.
pub(crate) const MAX_SPAN: i64 = 512;

/// The same for a window's check.
const WINDOW_CHECK_LENGTH: usize = CHECK_LENGTH + 3;
/// The jump out of a block whose window cannot be opened comes before the rest.
const WINDOW_TAIL: usize = CHECK_TAIL + 5;
/// From a look-up's failing CALL back to its first instruction.
pub(crate) const LOOK_UP_LENGTH: usize = 37;

const GPR: i32 = offset_of!(CpuState, gpr) as i32;
const FPU: usize = offset_of!(CpuState, fpu);
const X87: i32 = (FPU + offset_of!(FpuState, x87)) as i32;
const ZMM: i32 = (FPU + offset_of!(FpuState, zmm)) as i32;
const MASKS: i32 = (FPU + offset_of!(FpuState, k)) as i32;
const MXCSR: i32 = (FPU + offset_of!(FpuState, mxcsr)) as i32;
/// MXCSR in an FXSAVE image.
const IMAGE_MXCSR: i32 = X87 + 24;

/// The host's vector registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Vectors {
    Sse,
    Avx,
    Avx512,
}

impl Vectors {
    pub(crate) fn of_host() -> Self {
        use std::arch::is_x86_feature_detected as has;
        if has!("avx512f") && has!("avx512bw") && has!("avx512vl") {
            Self::Avx512
        } else if has!("avx") {
            Self::Avx
        } else {
            Self::Sse
        }
    }
}

/// Addresses of the shared code.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Runtime {
    /// `extern "sysv64" fn(*mut Context) -> u64`.
    pub(crate) enter: usize,
    exits: [usize; Exit::ALL.len()],
    /// The same for a look-up that has failed in the first place.
    agains: [usize; Exit::ALL.len()],
    /// By view and direction.
    misses: [[usize; 2]; 4],
    /// The same for windows; it returns if a window cannot be opened.
    windows: [[usize; 2]; 4],
    /// Loads the floating-point state, or leaves.
    pub(crate) need_fpu: usize,
    /// Takes notice of upper halves, and of the registers that EVEX adds.
    pub(crate) need_upper: usize,
    pub(crate) need_high: usize,
}

impl Runtime {
    /// Writes the shared code to the start of `cache`.
    pub(crate) fn build(cache: &mut CodeCache, vectors: Vectors) -> Self {
        let mut asm = Asm::new(cache.next());
        let mut runtime = Self::default();
        let load_fpu = load_fpu(&mut asm, vectors);
        let save_fpu = save_fpu(&mut asm, vectors);
        runtime.enter = enter(&mut asm, load_fpu);
        let leave = leave(&mut asm, save_fpu);
        for exit in Exit::ALL {
            runtime.exits[exit as usize] = exit_with(&mut asm, exit, leave);
        }
        for exit in Exit::ALL {
            runtime.agains[exit as usize] = look_again(&mut asm, runtime.exit(exit));
        }
        // Views without arrays have nothing to look up.
        let fail = asm.here();
        asm.ret();
        runtime.misses[3] = [runtime.exit(Exit::Interpret); 2];
        runtime.windows[3] = [fail; 2];
        for view in 0..3 {
            for write in [false, true] {
                let slow = runtime.exit(if write { Exit::MissWrite } else { Exit::MissRead });
                let crossing = runtime.exit(Exit::Interpret);
                let check =
                    Check { view, write, back: CHECK_LENGTH, tail: CHECK_TAIL, longest: MAX_ACCESS as usize };
                let window = Check {
                    back: WINDOW_CHECK_LENGTH,
                    tail: WINDOW_TAIL,
                    longest: MAX_SPAN as usize,
                    ..check
                };
                runtime.misses[view][usize::from(write)] = miss(&mut asm, check, slow, crossing);
                runtime.windows[view][usize::from(write)] = miss(&mut asm, window, fail, fail);
            }
        }
        runtime.need_fpu = need_fpu(&mut asm, load_fpu, runtime.exit(Exit::Interpret));
        runtime.need_upper = need_upper(&mut asm, vectors, false);
        runtime.need_high = need_upper(&mut asm, vectors, true);
        let placed = cache.place(asm.code());
        debug_assert!(placed, "the cache is larger than that");
        cache.keep();
        runtime
    }

    /// Where code leaves for this reason.
    pub(crate) fn exit(&self, why: Exit) -> usize {
        self.exits[why as usize]
    }

    /// Where a look-up goes on; if it fails, code leaves for this reason.
    pub(crate) fn look_again(&self, why: Exit) -> usize {
        self.agains[why as usize]
    }

    /// Where an access goes whose page is not in the first level of the TLB.
    pub(crate) fn miss(&self, view: usize, write: bool) -> usize {
        self.misses[view & 3][usize::from(write)]
    }

    /// Where a window's check goes that the first level of the TLB does not have.
    pub(crate) fn window(&self, view: usize, write: bool) -> usize {
        self.windows[view & 3][usize::from(write)]
    }
}

/// The way in: the caller's registers are saved, the guest's loaded.
fn enter(asm: &mut Asm, load_fpu: usize) -> usize {
    let start = asm.here();
    for reg in CALLEE_SAVED {
        asm.push(reg);
    }
    asm.lea(true, RSP, at(RSP, -8));
    asm.store(at(RDI, offset!(host_rsp)), RSP);
    asm.lea(true, RSP, at(RDI, BIAS));
    asm.cmp_mem_imm8(field(offset!(fpu_wanted)), 0);
    let without = asm.jcc_hole(condition::EQUAL);
    asm.call(load_fpu);
    asm.fill(without);
    asm.load(RCX, field(offset!(state)));
    for number in 0..4 {
        asm.load(RAX, at(RCX, GPR + (8 + number) * 8));
        asm.store(field(offset!(home) + number * 8), RAX);
    }
    asm.load32(RAX, field(offset!(flags)));
    asm.restore_flags();
    for (guest, host) in LIVE {
        asm.load(host, at(RCX, GPR + guest as i32 * 8));
    }
    asm.load(R10, field(offset!(save_r10)));
    asm.load(R11, field(offset!(save_r11)));
    asm.jmp_mem(field(offset!(target)));
    start
}

/// The end of every way out: RAX holds the reason, the guest's RAX and flags
/// are saved, the return address is on the stack.
fn leave(asm: &mut Asm, save_fpu: usize) -> usize {
    let start = asm.here();
    asm.pop(RCX);
    asm.store(field(offset!(exit_at)), RCX);
    asm.load(RCX, field(offset!(state)));
    for (guest, host) in &LIVE[1..] {
        asm.store(at(RCX, GPR + *guest as i32 * 8), *host);
    }
    asm.store(field(offset!(save_r10)), R10);
    asm.store(field(offset!(save_r11)), R11);
    asm.load(R10, field(offset!(save_rax)));
    asm.store(at(RCX, GPR), R10);
    for number in 0..4 {
        asm.load(R10, field(offset!(home) + number * 8));
        asm.store(at(RCX, GPR + (8 + number) * 8), R10);
    }
    asm.store_imm(false, field(offset!(fpu_wanted)), 0);
    asm.cmp_mem_imm8(field(offset!(fpu_away)), 0);
    let away = asm.jcc_hole(condition::NOT_EQUAL);
    asm.store_imm(false, field(offset!(fpu_wanted)), 1);
    asm.call(save_fpu);
    asm.fill(away);
    asm.load(RSP, field(offset!(host_rsp)));
    asm.lea(true, RSP, at(RSP, 8));
    for reg in CALLEE_SAVED.into_iter().rev() {
        asm.pop(reg);
    }
    asm.ret();
    start
}

fn exit_with(asm: &mut Asm, why: Exit, leave: usize) -> usize {
    let start = asm.here();
    asm.store(field(CALL + offset!(save_rax)), RAX);
    asm.save_flags();
    asm.store32(field(CALL + offset!(flags)), RAX);
    asm.constant(RAX, why as u64);
    asm.jmp(leave);
    start
}

/// Looks for the instruction pointer R10 beside the entry R11, in its second
/// place. R11 becomes the entry there; or leaves.
fn look_again(asm: &mut Asm, exit: usize) -> usize {
    const ENTRY: i32 = size_of::<Entry>() as i32;
    let start = asm.here();
    // The parity of the first place decides on which side the second lies.
    asm.pext(RCX, R10, field(CALL + offset!(parity_mask)));
    asm.lea(true, RCX, indexed(None, RCX, 3, 0));
    asm.lea(true, RCX, indexed(None, RCX, 2, 0));
    asm.not(RCX);
    asm.lea(true, R11, indexed(Some(R11), RCX, 0, ENTRY + 1));
    asm.load(RCX, at(R11, 0));
    asm.lea(true, RCX, indexed(Some(RCX), R10, 0, 0));
    asm.unless_rcx_is_zero(|asm| asm.jmp(exit));
    asm.ret();
    start
}

/// A check that has failed.
#[derive(Clone, Copy)]
struct Check {
    view: usize,
    write: bool,
    /// From behind the failing CALL back to its start.
    back: usize,
    /// And on to what it lets through.
    tail: usize,
    /// Bytes that it checks at the most.
    longest: usize,
}

/// A first-level miss: R10 is the linear address, R11 its index, and RCX has
/// the page number of the sum of address, tag and size. Serves it from the
/// second level and goes on behind the check, or leaves. Near the end of a page
/// the check is made again, because only it knows how long the access is.
fn miss(asm: &mut Asm, check: Check, slow: usize, crossing: usize) -> usize {
    let Check { view, write, .. } = check;
    let over = asm.here();
    asm.jmp(crossing);
    let start = asm.here();
    let tlb = |disp: usize| CALL + (offset_of!(Context, tlb) + disp) as i32;
    // With the page there, the sum is in the next one if the access leaves it.
    asm.lea(true, RCX, at(RCX, -1));
    asm.jrcxz(over);
    asm.store(field(CALL + offset!(save_rax)), RAX);
    asm.store(field(CALL + offset!(save_rdx)), RDX);
    asm.save_flags();
    asm.store32(field(CALL + offset!(flags)), RAX);
    asm.mov(RDX, R10);
    asm.arith_imm(Arith::And, true, RDX, !0xfff);
    // The set, as `set_index` computes it.
    asm.mov(RAX, R10);
    asm.shift(false, RAX, 12);
    asm.mov(RCX, RAX);
    asm.shift(false, RCX, 12);
    asm.arith_reg(Arith::Xor, RAX, RCX);
    asm.arith_imm(Arith::And, false, RAX, SETS as i32 - 1);
    asm.shift(true, RAX, size_of::<Set>().trailing_zeros() as u8);
    asm.lea(true, RAX, element(RAX, 0, tlb(offset_of!(Tlb, second))));
    let mut found = Vec::new();
    for way in 0..interpret::tlb::WAYS as i32 {
        let entry = way * size_of::<Way>() as i32;
        asm.load(RCX, at(RAX, entry + offset_of!(Way, tag) as i32));
        asm.arith_reg(Arith::Xor, RCX, RDX);
        let global = asm.jcc_hole(condition::EQUAL);
        asm.arith_mem(Arith::Cmp, RCX, field(tlb(offset_of!(Tlb, asid))));
        let other = asm.jcc_hole(condition::NOT_EQUAL);
        asm.fill(global);
        asm.load(RCX, at(RAX, entry + offset_of!(Way, value) as i32));
        found.push(asm.jmp_hole());
        asm.fill(other);
    }
    let absent = asm.jmp_hole();
    found.into_iter().for_each(|hole| asm.fill(hole));
    asm.test_byte(RCX, 1 << (view * 2 + usize::from(write)));
    let forbidden = asm.jcc_hole(condition::EQUAL);
    insert(asm, view, write);
    asm.mov(RAX, R10);
    asm.arith_imm(Arith::And, false, RAX, 0xfff);
    asm.arith_imm(Arith::Cmp, false, RAX, 0x1000 - check.longest as i32);
    let near_the_end = asm.jcc_hole(condition::ABOVE);
    asm.mov(R11, RDX);
    go_on(asm, check.tail as i32);
    asm.fill(near_the_end);
    go_on(asm, -(check.back as i32));
    asm.fill(absent);
    asm.fill(forbidden);
    restore(asm);
    asm.jmp(slow);
    start
}

/// Goes on so many bytes behind the failing CALL.
fn go_on(asm: &mut Asm, bytes: i32) {
    restore(asm);
    asm.pop(RCX);
    asm.lea(true, RCX, at(RCX, bytes));
    asm.jmp_reg(RCX);
}

/// Puts the translation RCX of page RDX into the first level. RDX becomes the
/// addend; RAX is free.
fn insert(asm: &mut Asm, view: usize, write: bool) {
    let array = |disp| element(R11, 3, CALL + disp);
    let masks = (view * 2 + usize::from(write)) * size_of::<u32>();
    let tlb = |disp: usize| field(CALL + (offset_of!(Context, tlb) + disp) as i32);
    asm.mov(RAX, RCX);
    asm.arith_imm(Arith::And, true, RAX, !0xfff);
    asm.arith_reg(Arith::Sub, RAX, RDX);
    asm.store(array(addends(view, write)), RAX);
    asm.neg(RDX);
    asm.store(array(tags(view, write)), RDX);
    asm.mov(RDX, RAX);
    asm.mov(RAX, R11);
    asm.shift(false, RAX, CHUNK.trailing_zeros() as u8);
    asm.bts(tlb(offset_of!(Tlb, used) + masks), RAX);
    asm.test_byte(RCX, GLOBAL as u8);
    let global = asm.jcc_hole(condition::NOT_EQUAL);
    asm.bts(tlb(offset_of!(Tlb, local) + masks), RAX);
    asm.fill(global);
    asm.load(RAX, field(CALL + offset!(refills)));
    asm.lea(true, RAX, at(RAX, 1));
    asm.store(field(CALL + offset!(refills)), RAX);
}

fn restore(asm: &mut Asm) {
    asm.load32(RAX, field(CALL + offset!(flags)));
    asm.restore_flags();
    asm.load(RAX, field(CALL + offset!(save_rax)));
    asm.load(RDX, field(CALL + offset!(save_rdx)));
}

/// Called by a block before its first floating-point instruction.
fn need_fpu(asm: &mut Asm, load_fpu: usize, blocked: usize) -> usize {
    let start = asm.here();
    asm.load32(RCX, field(CALL + offset!(fpu_blocked)));
    asm.unless_rcx_is_zero(|asm| asm.jmp(blocked));
    // One more return address: the routine is made for one.
    asm.pop(RCX);
    asm.store(field(offset!(temporary)), RCX);
    asm.call(load_fpu);
    asm.jmp_mem(field(offset!(temporary)));
    start
}

/// Loads the floating-point registers; called with RSP at the context. RCX is
/// free, flags stay.
///
/// Upper halves that are zero are not loaded but cleared: processors execute
/// SSE instructions on registers with loaded upper halves at a fraction of
/// their speed.
fn load_fpu(asm: &mut Asm, vectors: Vectors) -> usize {
    let start = asm.here();
    let state = field(CALL + offset!(state));
    if vectors == Vectors::Sse {
        asm.load(RCX, state);
        fxrstor(asm);
        move_vectors(asm, Vectors::Sse, 0..16, false);
    } else {
        asm.load32(RCX, field(CALL + offset!(upper_clean)));
        let clean = asm.unless_rcx_is_zero(Asm::jmp_hole);
        asm.load(RCX, state);
        fxrstor(asm);
        move_vectors(asm, vectors, 0..16, false);
        let loaded = asm.jmp_hole();
        asm.fill(clean);
        asm.bytes(&VZEROUPPER);
        asm.load(RCX, state);
        fxrstor(asm);
        move_vectors(asm, Vectors::Sse, 0..16, false);
        asm.fill(loaded);
    }
    if vectors == Vectors::Avx512 {
        asm.load32(RCX, field(CALL + offset!(high_clean)));
        let clean = asm.unless_rcx_is_zero(Asm::jmp_hole);
        asm.load(RCX, state);
        move_high(asm, false);
        asm.fill(clean);
    }
    asm.load(RCX, state);
    asm.raw_mem(&[], false, &[0x0f, 0xae], 2, at(RCX, MXCSR));
    asm.store_imm(false, field(CALL + offset!(fpu_away)), 0);
    asm.ret();
    start
}

/// Saves the floating-point registers and makes them fit for host code.
fn save_fpu(asm: &mut Asm, vectors: Vectors) -> usize {
    let start = asm.here();
    asm.load(RCX, field(CALL + offset!(state)));
    asm.raw_mem(&[], true, &[0x0f, 0xae], 0, at(RCX, X87));
    asm.store_imm(false, at(RCX, IMAGE_MXCSR), 0x1f80);
    if vectors == Vectors::Sse {
        move_vectors(asm, Vectors::Sse, 0..16, true);
    } else {
        save_low(asm, vectors);
    }
    if vectors == Vectors::Avx512 {
        asm.cmp_mem_imm8(field(CALL + offset!(high_clean)), 0);
        let clean = asm.jcc_hole(condition::NOT_EQUAL);
        move_high(asm, true);
        asm.fill(clean);
    }
    asm.raw_mem(&[], false, &[0x0f, 0xae], 3, at(RCX, MXCSR));
    asm.bytes(&[0xdb, 0xe3]); // fninit
    asm.raw_mem(&[], false, &[0x0f, 0xae], 2, field(CALL + offset!(host_mxcsr)));
    if vectors != Vectors::Sse {
        asm.bytes(&VZEROUPPER);
    }
    asm.store_imm(false, field(CALL + offset!(fpu_away)), 1);
    asm.ret();
    start
}

/// Saves registers 0 to 15: their upper halves if they may not be zero, or if
/// they are but those in memory may not be.
fn save_low(asm: &mut Asm, vectors: Vectors) {
    asm.cmp_mem_imm8(field(CALL + offset!(upper_clean)), 0);
    let used = asm.jcc_hole(condition::EQUAL);
    asm.cmp_mem_imm8(field(CALL + offset!(memory_clean)), 0);
    let stale = asm.jcc_hole(condition::EQUAL);
    move_vectors(asm, Vectors::Sse, 0..16, true);
    let saved = asm.jmp_hole();
    asm.fill(used);
    asm.store_imm(false, field(CALL + offset!(memory_clean)), 0);
    let full = asm.jmp_hole();
    asm.fill(stale);
    asm.store_imm(false, field(CALL + offset!(memory_clean)), 1);
    asm.fill(full);
    move_vectors(asm, vectors, 0..16, true);
    asm.fill(saved);
}

/// Called by a block before it first writes upper parts, or uses the registers
/// that EVEX adds if `high`.
fn need_upper(asm: &mut Asm, vectors: Vectors, high: bool) -> usize {
    let start = asm.here();
    if high && vectors == Vectors::Avx512 {
        asm.load(RCX, field(CALL + offset!(state)));
        move_high(asm, false);
    }
    let clean = if high { offset!(high_clean) } else { offset!(upper_clean) };
    asm.store_imm(false, field(CALL + clean), 0);
    asm.ret();
    start
}

fn fxrstor(asm: &mut Asm) {
    // The image's MXCSR means nothing, but a bad one would fault.
    asm.store_imm(false, at(RCX, IMAGE_MXCSR), 0x1f80);
    asm.raw_mem(&[], true, &[0x0f, 0xae], 1, at(RCX, X87));
}

const VZEROUPPER: [u8; 3] = [0xc5, 0xf8, 0x77];

/// ZMM16 to ZMM31 and the opmask registers.
fn move_high(asm: &mut Asm, store: bool) {
    move_vectors(asm, Vectors::Avx512, 16..32, store);
    for number in 0..8_u8 {
        let opcode = if store { 0x91 } else { 0x90 };
        asm.bytes(&[0xc4, 0xe1, 0xf8, opcode, number << 3 | 0x81]); // kmovq
        asm.bytes(&(MASKS + i32::from(number) * 8).to_le_bytes());
    }
}

/// MOVUPS or VMOVUPS between registers and the state at RCX.
fn move_vectors(asm: &mut Asm, width: Vectors, numbers: Range<u8>, store: bool) {
    let opcode = if store { 0x11 } else { 0x10 };
    for number in numbers {
        let place = ZMM + i32::from(number) * 64;
        let field = (number & 7) << 3 | 0x81;
        match width {
            Vectors::Sse => asm.raw_mem(&[], false, &[0x0f, opcode], number, at(RCX, place)),
            Vectors::Avx => {
                let r = if number < 8 { 0x80 } else { 0 };
                asm.bytes(&[0xc5, r | 0x7c, opcode, field]);
                asm.bytes(&place.to_le_bytes());
            }
            Vectors::Avx512 => {
                let r = (if number & 8 == 0 { 0x80 } else { 0 }) | (if number & 16 == 0 { 0x10 } else { 0 });
                asm.bytes(&[0x62, r | 0x61, 0x7c, 0x48, opcode, field]);
                asm.bytes(&place.to_le_bytes());
            }
        }
    }
}
