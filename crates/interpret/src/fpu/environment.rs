//! FNINIT, WAIT and the x87 environment: FNSTENV, FLDENV, FNSAVE and FRSTOR in
//! their four formats (SDM 1 8.1.10).
//!
//! The other control instructions (FNSTCW, FLDCW, FNSTSW, FNCLEX) have no
//! pointers in them and are executed by the host.

use iced_x86::{Code, Instruction, Mnemonic};
use x86::cpuid::Habit;
use x86::{Cr0, Exception, Vector, X87State};

use super::area::Area;
use crate::cpu::{Cpu, Exec};
use crate::decode::{Choice, Flow};
use crate::insn::{Handler, Insn};
use crate::ops::native::Unit;

/// Bytes of ST(0) to ST(7) behind the environment.
const REGISTERS: usize = 80;
/// The six exceptions, in the control word as masks.
const EXCEPTIONS: u16 = 0x3f;
/// Error summary and busy, the two bits that show a pending exception.
const SUMMARY: u16 = 0x8080;
/// Control word bits that are kept, and the one that is always set.
const FCW_BITS: u16 = 0x1f3f;
const FCW_FIXED: u16 = 0x40;

/// The handler, if the instruction is one of these.
pub(super) fn choose(instruction: &Instruction) -> Option<Choice> {
    use Mnemonic as M;
    let handler: Handler = match instruction.mnemonic() {
        M::Fninit | M::Finit => fninit,
        M::Wait => wait,
        M::Fnstenv | M::Fstenv => fnstenv,
        M::Fldenv => fldenv,
        M::Fnsave | M::Fsave => fnsave,
        M::Frstor => frstor,
        _ => return None,
    };
    Some((handler, Flow::Next))
}

/// The layout of an environment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Layout {
    /// 32-bit fields; else 16-bit ones.
    wide: bool,
    /// Real-address and virtual-8086 mode: linear pointers and the opcode.
    real: bool,
}

impl Layout {
    fn of(cpu: &Cpu, insn: &Insn) -> Self {
        let code = insn.full.as_deref().map(Instruction::code);
        let narrow = matches!(
            code,
            Some(Code::Fnstenv_m14byte | Code::Fldenv_m14byte | Code::Fnsave_m94byte | Code::Frstor_m94byte)
        );
        Self { wide: !narrow, real: cpu.state.real_or_v86() }
    }

    const fn field(self) -> usize {
        if self.wide { 4 } else { 2 }
    }

    const fn size(self) -> usize {
        self.field() * 7
    }

    /// Writes the environment. CS and DS selectors are zero, as on processors
    /// that have deprecated them; reserved halves are all ones.
    fn put(self, x87: &X87State, bytes: &mut [u8]) {
        let (fip, fdp, fop) = (x87.fip as u32, x87.fdp as u32, u32::from(x87.fop));
        let reserved = 0xffff_0000;
        let fields = match (self.wide, self.real) {
            (true, false) => [fip, fop << 16, fdp, reserved],
            (true, true) => {
                [reserved | fip & 0xffff, fip >> 16 << 12 | fop, reserved | fdp & 0xffff, fdp >> 16 << 12]
            }
            (false, false) => [fip, 0, fdp, 0],
            (false, true) => [fip, fip >> 16 << 12 | fop, fdp, fdp >> 16 << 12],
        };
        let words = [x87.fcw, x87.fsw, full_tags(x87)].map(|word| reserved | u32::from(word));
        let all = words.into_iter().chain(fields);
        for (place, value) in bytes.chunks_exact_mut(self.field()).zip(all) {
            place.copy_from_slice(&value.to_le_bytes()[..self.field()]);
        }
    }

    /// The `size` bytes of memory that an instruction loads, of which some
    /// processors reach the first field before they look at the rest.
    fn read(self, cpu: &mut Cpu, insn: &Insn, size: usize) -> Exec<Vec<u8>> {
        let area = Area::of(cpu, insn, 1)?;
        if cpu.cpuid.has_habit(Habit::LoadsEnvironmentFieldByField) {
            area.probe(cpu, self.field())?;
        }
        area.read(cpu, size)
    }

    /// Reads an environment into `x87`.
    fn get(self, bytes: &[u8], x87: &mut X87State) {
        let mut fields = [0_u32; 7];
        for (field, place) in fields.iter_mut().zip(bytes.chunks_exact(self.field())) {
            *field = place.iter().rev().fold(0, |value, &byte| value << 8 | u32::from(byte));
        }
        let [fcw, fsw, tags, ip, cs, dp, ds] = fields;
        let pointer = |low: u32, high: u32| low & 0xffff | (high >> 12 & 0xffff) << 16;
        let (fip, fdp) = if self.real { (pointer(ip, cs), pointer(dp, ds)) } else { (ip, dp) };
        x87.fcw = fcw as u16;
        x87.fsw = fsw as u16;
        x87.ftw = abridged_tags(tags as u16);
        x87.fip = u64::from(fip);
        x87.fdp = u64::from(fdp);
        x87.fop = match (self.wide, self.real) {
            (_, true) => cs as u16 & 0x7ff,
            (true, false) => (cs >> 16) as u16 & 0x7ff,
            // The 16-bit protected-mode format has no opcode.
            (false, false) => 0,
        };
    }
}

/// Empty registers have tag 3.
const EMPTY: u16 = 3;

/// The full tag word: valid, zero, special or empty, by physical register.
fn full_tags(x87: &X87State) -> u16 {
    let top = top(x87);
    (0..8_usize).fold(0, |tags, physical| {
        let held = x87.ftw >> physical & 1 != 0;
        let tag = if held { tag(&x87.st[physical.wrapping_sub(top) & 7]) } else { EMPTY };
        tags | tag << (2 * physical)
    })
}

/// The tag of a register that is not empty (SDM 1 8.1.7).
fn tag(st: &[u8; 16]) -> u16 {
    let exponent = u16::from_le_bytes([st[8], st[9]]) & 0x7fff;
    let integer_bit = st[7] & 0x80 != 0;
    match exponent {
        0 if st[..8].iter().all(|&byte| byte == 0) => 1,
        0 | 0x7fff => 2,
        _ if !integer_bit => 2,
        _ => 0,
    }
}

fn abridged_tags(tags: u16) -> u8 {
    (0..8).filter(|i| tags >> (2 * i) & 3 != EMPTY).fold(0, |bits, i| bits | 1 << i)
}

/// Makes the derived bits what the processor makes them: error summary and
/// busy follow from exceptions and masks, and the control word's reserved bits
/// are fixed.
pub(super) fn settle(x87: &mut X87State) {
    x87.fcw = x87.fcw & FCW_BITS | FCW_FIXED;
    x87.fsw &= !SUMMARY;
    if x87.fsw & !x87.fcw & EXCEPTIONS != 0 {
        x87.fsw |= SUMMARY;
    }
}

impl Cpu {
    /// #MF if an unmasked exception is pending.
    ///
    /// With CR0.NE clear, a processor asks external hardware for interrupt 13
    /// instead (SDM 1 8.7.2); this machine has no such wire, so the guest gets
    /// #MF either way.
    pub(crate) fn require_no_x87_exception(&mut self) -> Exec {
        let x87 = &self.state.fpu.x87;
        if x87.fsw & !x87.fcw & EXCEPTIONS != 0 {
            return Err(self.raise(Exception::plain(Vector::MF)));
        }
        Ok(())
    }
}

/// The registers, tags included, are emptied; their contents stay.
fn initialize(x87: &mut X87State) {
    let (st, top) = (x87.st, top(x87));
    *x87 = X87State::INIT;
    x87.st = st;
    turn(x87, top);
}

/// The number of the physical register that is ST(0).
fn top(x87: &X87State) -> usize {
    usize::from(x87.fsw >> 11 & 7)
}

/// After a new status word: the physical registers stay as they are, so other
/// ones are ST(0) to ST(7) than while `old` was the top (SDM 1 8.1.2).
fn turn(x87: &mut X87State, old: usize) {
    let distance = top(x87).wrapping_sub(old) & 7;
    x87.st.rotate_left(distance);
}

fn fninit(cpu: &mut Cpu, _insn: &Insn) -> Exec {
    cpu.require(Unit::X87)?;
    initialize(&mut cpu.state.fpu.x87);
    Ok(())
}

fn wait(cpu: &mut Cpu, _insn: &Insn) -> Exec {
    if cpu.state.cr0.contains(Cr0::MP.union(Cr0::TS)) {
        return Err(cpu.raise(Exception::NM));
    }
    cpu.require_no_x87_exception()
}

fn fnstenv(cpu: &mut Cpu, insn: &Insn) -> Exec {
    cpu.require(Unit::X87)?;
    let layout = Layout::of(cpu, insn);
    let area = Area::of(cpu, insn, 1)?;
    let mut bytes = vec![0; layout.size()];
    layout.put(&cpu.state.fpu.x87, &mut bytes);
    area.write(cpu, &bytes)?;
    cpu.state.fpu.x87.fcw |= EXCEPTIONS;
    settle(&mut cpu.state.fpu.x87);
    Ok(())
}

fn fldenv(cpu: &mut Cpu, insn: &Insn) -> Exec {
    cpu.require(Unit::X87)?;
    cpu.require_no_x87_exception()?;
    let layout = Layout::of(cpu, insn);
    let bytes = layout.read(cpu, insn, layout.size())?;
    let x87 = &mut cpu.state.fpu.x87;
    let old = top(x87);
    layout.get(&bytes, x87);
    turn(x87, old);
    settle(x87);
    Ok(())
}

fn fnsave(cpu: &mut Cpu, insn: &Insn) -> Exec {
    cpu.require(Unit::X87)?;
    let layout = Layout::of(cpu, insn);
    let area = Area::of(cpu, insn, 1)?;
    let mut bytes = vec![0; layout.size() + REGISTERS];
    let x87 = &cpu.state.fpu.x87;
    let (environment, registers) = bytes.split_at_mut(layout.size());
    layout.put(x87, environment);
    for (place, st) in registers.chunks_exact_mut(10).zip(&x87.st) {
        place.copy_from_slice(&st[..10]);
    }
    area.write(cpu, &bytes)?;
    initialize(&mut cpu.state.fpu.x87);
    Ok(())
}

fn frstor(cpu: &mut Cpu, insn: &Insn) -> Exec {
    cpu.require(Unit::X87)?;
    cpu.require_no_x87_exception()?;
    let layout = Layout::of(cpu, insn);
    let bytes = layout.read(cpu, insn, layout.size() + REGISTERS)?;
    let (environment, registers) = bytes.split_at(layout.size());
    let x87 = &mut cpu.state.fpu.x87;
    layout.get(environment, x87);
    for (place, st) in registers.chunks_exact(10).zip(&mut x87.st) {
        st[..10].copy_from_slice(place);
    }
    settle(x87);
    Ok(())
}
