//! Near jumps, calls and returns.

use iced_x86::{Code, Instruction, OpKind};
use x86::is_canonical;

use super::windows::Part;
use super::{Body, Flow, MAX_LEN};
use crate::asm::{R8, R10, R11, RCX, at, field, indexed};
use crate::blocks::Access;
use crate::context::offset;
use crate::jumps::Kind;
use crate::registers::{Place, number_of, place_of};
use crate::runtime::{Exit, LOOK_UP_LENGTH};

/// Linear addresses with these bits in common share a mapping if it is a large
/// one.
pub(crate) const LARGE_PAGE: u32 = 21;

impl Body<'_> {
    /// Writes the instruction if it is a branch: `None` if it is not one,
    /// `Some(None)` if it is the interpreter's.
    pub(super) fn branch(&mut self, instruction: &Instruction) -> Option<Option<Flow>> {
        let code = instruction.code();
        Some(if code.is_jcc_short_or_near() {
            self.jcc(instruction)
        } else if code.is_jmp_short_or_near() {
            self.jmp(instruction)
        } else if code.is_call_near() {
            self.call(instruction)
        } else if code.is_jmp_near_indirect() {
            self.jmp_indirect(instruction)
        } else if code.is_call_near_indirect() {
            self.call_indirect(instruction)
        } else if matches!(code, Code::Retnq | Code::Retnq_imm16 | Code::Retnd | Code::Retnd_imm16) {
            self.ret(instruction)
        } else {
            return None;
        })
    }

    /// The target of a direct branch, in bytes from the start of the page;
    /// `None` if it needs a closer look.
    pub(super) fn target(&self, instruction: &Instruction) -> Option<i64> {
        let target = match (instruction.op_kind(0), self.mode.long()) {
            (OpKind::NearBranch64, true) => instruction.near_branch_target() as i64,
            (OpKind::NearBranch32, false) => i64::from(instruction.near_branch32() as i32),
            _ => return None,
        };
        let lin = self.page.wrapping_add(target as u64);
        let reachable = !self.mode.long() || self.mode.position_independent() || is_canonical(lin, false);
        reachable.then_some(target)
    }

    /// Whether a direct branch can be linked for as long as its block lives or
    /// its large page is mapped.
    pub(super) fn is_linkable(&self, target: i64) -> bool {
        let same_large_page = || {
            let lin = self.page.wrapping_add(target as u64);
            self.large && !self.mode.position_independent() && (lin ^ self.page) >> LARGE_PAGE == 0
        };
        // Near the end of the page there may be an instruction that crosses it.
        (0..0x1000 - MAX_LEN as i64 + 1).contains(&target) || same_large_page()
    }

    /// Goes to `target` in the page or beyond; `unknown` says how to leave if
    /// that takes a look-up which fails.
    pub(super) fn jump_to(&mut self, target: i64, unknown: Exit) {
        if self.is_linkable(target) {
            let hole = self.asm().jmp_hole();
            self.holes.push((hole, target, false));
        } else {
            self.load_rip(R10, target);
            self.look_up(unknown, |_| ());
        }
    }

    /// Goes to the code for the instruction pointer R10, if it is known;
    /// `commit` is what remains to be done of the instruction.
    pub(super) fn look_up(&mut self, unknown: Exit, commit: impl FnOnce(&mut Self)) {
        self.look_up_in(unknown, self.mode.jumps(), offset!(jumps), commit);
    }

    /// The same in the table whose address lies at `table` in the context. R11
    /// must be left alone by `commit`, R10 at its end too.
    pub(super) fn look_up_in(
        &mut self,
        unknown: Exit,
        kind: Kind,
        table: i32,
        commit: impl FnOnce(&mut Self),
    ) {
        let again = self.emitter.runtime.look_again(unknown);
        let asm = self.asm();
        let start = asm.len();
        asm.load(R11, field(table).with_disp32());
        asm.pext(RCX, R10, field(offset!(jump_masks) + kind as i32 * 8));
        asm.lea(true, RCX, indexed(Some(RCX), RCX, 0, 0));
        asm.lea(true, R11, indexed(Some(R11), RCX, 3, 0));
        asm.load(RCX, at(R11, 0));
        asm.lea(true, RCX, indexed(Some(RCX), R10, 0, 0));
        asm.unless_rcx_is_zero(|asm| asm.call(again));
        debug_assert_eq!(asm.len() - start, LOOK_UP_LENGTH);
        commit(self);
        self.asm().jmp_mem(at(R11, 8));
    }

    /// Whether a jump to `target` leads backwards, so that code could run for
    /// ever without looking whether somebody wants the vCPU.
    fn polls(&self, target: i64) -> bool {
        target <= i64::from(self.place) && !self.in_shadow
    }

    /// Looks whether somebody wants the vCPU, before a call backwards.
    fn poll(&mut self, target: i64) {
        if !self.polls(target) {
            return;
        }
        let exit = self.exit(Exit::Poll);
        let asm = self.asm();
        asm.load32(RCX, field(offset!(disturbed)));
        asm.unless_rcx_is_zero(|asm| asm.call(exit));
    }

    /// Jumps to `target`, the last thing that the instruction does, with a look
    /// whether somebody wants the vCPU if that is backwards.
    fn jump_and_poll(&mut self, target: i64) {
        if !self.polls(target) {
            return self.jump_to(target, Exit::Indirect);
        }
        let exit = self.exit(Exit::Poll);
        self.asm().load32(RCX, field(offset!(undisturbed)));
        let disturbed = self.asm().jrcxz_short();
        self.jump_to(target, Exit::Indirect);
        let asm = self.asm();
        asm.fill_short(disturbed);
        asm.call(exit);
    }

    fn jcc(&mut self, instruction: &Instruction) -> Option<Flow> {
        let target = self.target(instruction)?;
        let condition = instruction.condition_code() as u8 - 1;
        if self.again {
            let hole = self.asm().jcc_hole(condition ^ 1);
            self.holes.push((hole, self.next.into(), false));
        } else if self.is_linkable(target) && target > i64::from(self.place) {
            let hole = self.asm().jcc_hole(condition);
            self.holes.push((hole, target, false));
        } else {
            let skip = self.asm().jcc_hole(condition ^ 1);
            self.jump_and_poll(target);
            self.asm().fill(skip);
        }
        // What goes to the target takes R11 with it.
        self.keeps = true;
        Some(Flow::Next)
    }

    fn jmp(&mut self, instruction: &Instruction) -> Option<Flow> {
        let target = self.target(instruction)?;
        self.jump_and_poll(target);
        Some(Flow::End)
    }

    fn call(&mut self, instruction: &Instruction) -> Option<Flow> {
        let target = self.target(instruction)?;
        self.poll(target);
        self.accesses(Access::Single);
        let place = self.open_slot();
        self.load_rip(RCX, i64::from(self.next));
        self.store_slot(place, RCX);
        let slot = self.slot();
        if self.is_linkable(target) {
            self.move_stack(-slot);
            self.jump_to(target, Exit::Indirect);
        } else {
            self.load_rip(R10, target);
            self.look_up(Exit::Indirect, |body| body.move_stack(-slot));
        }
        Some(Flow::End)
    }

    /// R10 becomes the target of an indirect branch.
    fn indirect_target(&mut self, instruction: &Instruction) -> Option<()> {
        let bytes = usize::from(self.mode.word());
        if instruction.op_kind(0) == OpKind::Memory {
            if instruction.memory_size().size() != bytes {
                return None;
            }
            let from = self.reach(instruction, false)?.mem();
            self.load_slot(R10, from);
            return Some(());
        }
        let register = instruction.op_register(0);
        if register.size() != bytes {
            return None;
        }
        let long = self.mode.long();
        match place_of(number_of(register)) {
            Place::Host(host) if long => self.asm().mov(R10, host),
            Place::Host(host) => self.asm().mov32(R10, host),
            Place::Home(home) => self.asm().load(R10, home.mem()),
        }
        Some(())
    }

    fn jmp_indirect(&mut self, instruction: &Instruction) -> Option<Flow> {
        self.indirect_target(instruction)?;
        self.look_up(Exit::Indirect, |_| ());
        Some(Flow::End)
    }

    fn call_indirect(&mut self, instruction: &Instruction) -> Option<Flow> {
        self.indirect_target(instruction)?;
        // A window leaves R10 alone.
        let tested = self.has_window(Part::Stack);
        if !tested {
            self.asm().store(field(offset!(temporary)), R10);
        }
        let place = self.open_slot();
        self.load_rip(RCX, i64::from(self.next));
        self.store_slot(place, RCX);
        if !tested {
            self.asm().load(R10, field(offset!(temporary)));
        }
        let slot = self.slot();
        self.look_up(Exit::Indirect, |body| body.move_stack(-slot));
        Some(Flow::End)
    }

    fn ret(&mut self, instruction: &Instruction) -> Option<Flow> {
        let long = matches!(instruction.code(), Code::Retnq | Code::Retnq_imm16);
        if long != self.mode.long() {
            return None;
        }
        let more = if instruction.op_count() > 0 { i32::from(instruction.immediate16()) } else { 0 };
        self.accesses(Access::Single);
        let top = self.top_slot();
        self.load_slot(R10, top);
        let bytes = self.slot() + more;
        self.look_up(Exit::Indirect, |body| {
            let wide = body.mode.long();
            body.asm().lea(wide, R8, at(R8, bytes));
        });
        Some(Flow::End)
    }
}
