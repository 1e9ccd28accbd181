//! IRET in all modes (SDM 2A "IRET").

use iced_x86::{Code, Instruction};
use x86::{Cr4, Gpr, LinearAddr, Rflags, Segment, SegmentName, Selector};

use super::code::Target;
use super::segments::v86_segment;
use super::task;
use crate::cpu::{Cpu, Exec, mask};
use crate::decode::{Choice, Flow};
use crate::insn::Handler;

/// Flat 64-bit code and its stack, as SYSCALL and SYSRET load them and as most
/// systems have them in their GDT, side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlatWay {
    /// Selectors.
    pub cs: u16,
    /// Of the stack.
    pub ss: u16,
    /// Linear address of the two descriptors.
    pub pair: LinearAddr,
    /// What they must be, in their order, for IRETQ to load flat segments and
    /// to write nothing to the table.
    pub descriptors: [u64; 2],
}

/// Descriptors of flat segments that have been accessed, at privilege level 0.
const CODE64: u64 = 0x00af_9b00_0000_ffff;
const STACK: u64 = 0x00cf_9300_0000_ffff;
const DPL3: u64 = 3 << 45;

/// Where IRETQ can lead without any effect beyond CS:RIP, SS:RSP and RFLAGS: to
/// privilege level 0 and 3. `None` if there are others now.
pub(crate) fn flat_ways(cpu: &Cpu) -> Option<[FlatWay; 2]> {
    let state = &cpu.state;
    let star = state.msrs.star;
    let (inner, outer) = ((star >> 32) as u16 & !3, ((star >> 48) as u16).wrapping_add(8) | 3);
    let base = |selector: u16| {
        let index = selector & !3;
        let end = u32::from(index) + 15;
        (index & 4 == 0 && index != 0 && end <= state.gdtr.limit.into())
            .then(|| LinearAddr(state.gdtr.base.wrapping_add(index.into())))
    };
    let ways = [
        FlatWay { cs: inner, ss: inner.wrapping_add(8), pair: base(inner)?, descriptors: [CODE64, STACK] },
        FlatWay {
            cs: outer.wrapping_add(8),
            ss: outer,
            pair: base(outer)?,
            descriptors: [STACK | DPL3, CODE64 | DPL3],
        },
    ];
    (!state.nmi_blocked && state.long_mode() && cpu.keeps_segments_outside(3)).then_some(ways)
}

/// The handler, if the instruction is one of these.
pub(super) fn choose(instruction: &Instruction) -> Option<Choice> {
    let handler: Handler = match instruction.code() {
        Code::Iretw => |cpu, _| iret(cpu, 2),
        Code::Iretd => |cpu, _| iret(cpu, 4),
        Code::Iretq => |cpu, _| iret(cpu, 8),
        _ => return None,
    };
    Some((handler, Flow::End))
}

/// NMIs are let in again even if IRET faults (SDM 3A 6.7.1).
fn iret(cpu: &mut Cpu, bytes: u8) -> Exec {
    if cpu.state.virtual_8086() {
        return from_v86(cpu, bytes);
    }
    cpu.state.nmi_blocked = false;
    if !cpu.state.protected_mode() {
        return from_real(cpu, bytes);
    }
    if cpu.state.rflags.contains(Rflags::NT) {
        return if cpu.state.long_mode() { Err(cpu.gp0()) } else { task::return_from_nested(cpu) };
    }
    from_protected(cpu, bytes)
}

/// The item at position `place` of the stack, without popping it.
pub(super) fn peek(cpu: &mut Cpu, bytes: u8, place: u64) -> Exec<u64> {
    let sp = cpu.stack_pointer().wrapping_add(u64::from(bytes) * place) & cpu.stack_mask;
    cpu.read_sized(SegmentName::Ss, sp, bytes)
}

/// Moves the stack pointer over `count` items.
fn drop_items(cpu: &mut Cpu, bytes: u8, count: u64) {
    let sp = cpu.stack_pointer().wrapping_add(u64::from(bytes) * count);
    cpu.set_stack_pointer(sp);
}

/// The flags that every IRET loads; 16-bit operands reach only the low half.
fn always(bytes: u8) -> Rflags {
    let low = Rflags::ARITHMETIC | Rflags::TF | Rflags::DF | Rflags::NT;
    if bytes == 2 { low } else { low | Rflags::RF | Rflags::AC | Rflags::ID }
}

fn merge(cpu: &mut Cpu, loaded: Rflags, image: u64) {
    let image = Rflags::from_bits_retain(image);
    // RF is clear unless the image sets it.
    let kept = cpu.state.rflags.difference(loaded | Rflags::RF);
    cpu.state.rflags = kept | image.intersection(loaded);
    cpu.refresh_view();
}

fn from_real(cpu: &mut Cpu, bytes: u8) -> Exec {
    let rip = peek(cpu, bytes, 0)?;
    let cs = peek(cpu, bytes, 1)? as u16;
    let image = peek(cpu, bytes, 2)?;
    let target = cpu.real_target(cs, rip)?;
    drop_items(cpu, bytes, 3);
    cpu.go(target);
    merge(cpu, always(bytes) | Rflags::IF | Rflags::IOPL, image);
    Ok(())
}

fn from_v86(cpu: &mut Cpu, bytes: u8) -> Exec {
    let trusted = cpu.state.rflags.iopl() == 3;
    if !trusted && (bytes != 2 || !cpu.state.cr4.contains(Cr4::VME)) {
        return Err(cpu.gp0());
    }
    let rip = peek(cpu, bytes, 0)?;
    let cs = peek(cpu, bytes, 1)? as u16;
    let image = peek(cpu, bytes, 2)?;
    let flags = Rflags::from_bits_retain(image);
    let pending = flags.contains(Rflags::IF) && cpu.state.rflags.contains(Rflags::VIP);
    if !trusted && (pending || flags.contains(Rflags::TF)) {
        return Err(cpu.gp0());
    }
    let target = cpu.real_target(cs, rip)?;
    cpu.state.nmi_blocked = false;
    drop_items(cpu, bytes, 3);
    cpu.go(target);
    if trusted {
        merge(cpu, always(bytes) | Rflags::IF, image);
    } else {
        merge(cpu, always(bytes), image);
        cpu.state.rflags.set(Rflags::VIF, flags.contains(Rflags::IF));
    }
    Ok(())
}

fn from_protected(cpu: &mut Cpu, bytes: u8) -> Exec {
    let rip = peek(cpu, bytes, 0)?;
    let selector = Selector(peek(cpu, bytes, 1)? as u16);
    let image = peek(cpu, bytes, 2)?;
    let to_v86 = Rflags::from_bits_retain(image).contains(Rflags::VM);
    if to_v86 && bytes == 4 && cpu.cpl() == 0 && !cpu.state.long_mode() {
        return to_virtual_8086(cpu, rip, selector, image);
    }
    let descriptor = cpu.check_return(selector)?;
    let cpl = selector.rpl();
    let loaded = loaded_flags(cpu, bytes);
    if cpl == cpu.cpl() && !cpu.long {
        let target = cpu.target(selector, descriptor, rip, cpl)?;
        drop_items(cpu, bytes, 3);
        cpu.go(target);
    } else {
        let sp = peek(cpu, bytes, 3)?;
        let ss = Selector(peek(cpu, bytes, 4)? as u16);
        let to_64bit = cpu.is_64bit(&descriptor.segment(selector));
        let stack = cpu.outer_stack_segment(ss, cpl, to_64bit)?;
        let target = cpu.target(selector, descriptor, rip, cpl)?;
        let outward = cpl > cpu.cpl();
        leave(cpu, target, stack, sp, bytes);
        if outward {
            cpu.drop_inner_segments();
        }
    }
    merge(cpu, loaded, image);
    Ok(())
}

/// Sets CS:RIP and SS:RSP of an outer level.
pub(super) fn leave(cpu: &mut Cpu, target: Target, stack: Segment, sp: u64, bytes: u8) {
    *cpu.state.segment_mut(SegmentName::Ss) = stack;
    cpu.go(target);
    if cpu.long {
        cpu.state.set_reg(Gpr::Rsp, sp & mask(bytes));
    } else {
        cpu.set_stack_pointer(sp);
    }
}

/// The flags that the old privilege level may change.
fn loaded_flags(cpu: &Cpu, bytes: u8) -> Rflags {
    let mut loaded = always(bytes);
    if cpu.cpl() <= cpu.state.rflags.iopl() {
        loaded |= Rflags::IF;
    }
    if cpu.cpl() == 0 {
        loaded |= Rflags::IOPL;
        if bytes != 2 {
            loaded |= Rflags::VIF | Rflags::VIP;
        }
    }
    loaded
}

fn to_virtual_8086(cpu: &mut Cpu, rip: u64, cs: Selector, image: u64) -> Exec {
    let mut items = [0; 6];
    for (place, item) in items.iter_mut().enumerate() {
        *item = peek(cpu, 4, 3 + place as u64)?;
    }
    let code = v86_segment(cs.0);
    cpu.check_offset(&code, rip)?;
    let [esp, ss, es, ds, fs, gs] = items;
    for (name, selector) in [
        (SegmentName::Ss, ss),
        (SegmentName::Es, es),
        (SegmentName::Ds, ds),
        (SegmentName::Fs, fs),
        (SegmentName::Gs, gs),
    ] {
        *cpu.state.segment_mut(name) = v86_segment(selector as u16);
    }
    cpu.state.set_reg(Gpr::Rsp, esp);
    let all = loaded_flags(cpu, 4) | Rflags::IF | Rflags::IOPL | Rflags::VM | Rflags::VIF | Rflags::VIP;
    merge(cpu, all, image);
    cpu.go(Target { code, offset: rip });
    Ok(())
}
