//! PUSH, POP and LEAVE.

use iced_x86::{Code, Instruction, Mnemonic, OpKind, Register};

use super::windows::Part;
use super::{Body, Flow};
use crate::asm::{Mem, R8, R10, R11, RBP, RCX, Reg, at, field, indexed};
use crate::blocks::Access;
use crate::context::offset;
use crate::registers::{GUEST_RSP, Place, number_of, place_of};

/// The operand behind a test.
pub(super) const OPERAND: Mem = indexed(Some(R10), R11, 0, 0);

impl Body<'_> {
    /// Bytes of a stack slot.
    pub(super) fn slot(&self) -> i32 {
        i32::from(self.mode.word())
    }

    /// The slot below the top, ready to be written.
    pub(super) fn open_slot(&mut self) -> Mem {
        let (wide, slot) = (self.mode.long(), self.slot());
        if let Some((base, index, more)) = self.through_window(Part::Stack) {
            return indexed(Some(base), index, 0, more + self.stack_moves - slot);
        }
        self.asm().lea(wide, R10, at(R8, -slot));
        self.check(true, slot as usize);
        OPERAND
    }

    /// The slot at the top, ready to be read.
    pub(super) fn top_slot(&mut self) -> Mem {
        let slot = self.slot();
        if let Some((base, index, more)) = self.through_window(Part::Stack) {
            return indexed(Some(base), index, 0, more + self.stack_moves);
        }
        self.asm().mov(R10, R8);
        self.check(false, slot as usize);
        OPERAND
    }

    /// Moves RSP by `bytes`.
    pub(super) fn move_stack(&mut self, bytes: i32) {
        let wide = self.mode.long();
        self.asm().lea(wide, R8, at(R8, bytes));
    }

    /// Moves RSP, as PUSH and POP do: later, if what they accessed is in a
    /// window and so cannot fail.
    fn push_or_pop(&mut self, bytes: i32) {
        if self.has_window(Part::Stack) {
            self.stack_moves += bytes;
        } else {
            self.move_stack(bytes);
        }
    }

    /// Makes good what has been put off.
    pub(super) fn settle_stack(&mut self) {
        match std::mem::take(&mut self.stack_moves) {
            0 => {}
            bytes => self.move_stack(bytes),
        }
    }

    /// Whether RSP need not be right at this instruction, because it can
    /// neither fail nor see it.
    pub(super) fn can_settle_later(&self, instruction: &Instruction) -> bool {
        use Mnemonic as M;
        let quiet = |op: u32| match instruction.op_kind(op) {
            OpKind::Register => {
                let register = instruction.op_register(op);
                register.is_gpr() && number_of(register) != GUEST_RSP
            }
            OpKind::Immediate8
            | OpKind::Immediate32
            | OpKind::Immediate8to32
            | OpKind::Immediate8to64
            | OpKind::Immediate32to64 => true,
            _ => false,
        };
        let simple = match instruction.mnemonic() {
            M::Push | M::Pop => {
                self.moves_one_slot(instruction) && self.has_window(Part::Stack) && !self.opens_window()
            }
            M::Mov
            | M::Movzx
            | M::Movsx
            | M::Movsxd
            | M::Xor
            | M::And
            | M::Or
            | M::Add
            | M::Sub
            | M::Test
            | M::Cmp => true,
            _ => false,
        };
        simple && (0..instruction.op_count()).all(quiet)
    }

    /// Stores a register of a slot's size.
    pub(super) fn store_slot(&mut self, slot: Mem, from: Reg) {
        if self.mode.long() {
            self.asm().store(slot, from);
        } else {
            self.asm().store32(slot, from);
        }
    }

    /// Loads a register of a slot's size.
    pub(super) fn load_slot(&mut self, to: Reg, slot: Mem) {
        if self.mode.long() {
            self.asm().load(to, slot);
        } else {
            self.asm().load32(to, slot);
        }
    }

    /// Whether the instruction moves the stack pointer by one slot.
    fn moves_one_slot(&self, instruction: &Instruction) -> bool {
        instruction.stack_pointer_increment().abs() == self.slot()
    }

    pub(super) fn push(&mut self, instruction: &Instruction) -> Option<Flow> {
        if !self.moves_one_slot(instruction) {
            return None;
        }
        if instruction.op_kind(0) != OpKind::Memory {
            self.accesses(Access::Single);
        }
        match instruction.op_kind(0) {
            OpKind::Register if instruction.op_register(0).is_gpr() => {
                let slot = self.open_slot();
                match place_of(number_of(instruction.op_register(0))) {
                    Place::Host(host) => self.store_slot(slot, host),
                    Place::Home(home) => {
                        self.asm().load(RCX, home.mem());
                        self.store_slot(slot, RCX);
                    }
                }
            }
            OpKind::Register => return None,
            OpKind::Memory => {
                let size = instruction.memory_size().size();
                if size != self.slot() as usize {
                    return None;
                }
                let from = self.reach(instruction, false)?.mem();
                self.load_slot(RCX, from);
                self.asm().store(field(offset!(temporary)), RCX);
                let slot = self.open_slot();
                self.asm().load(RCX, field(offset!(temporary)));
                self.store_slot(slot, RCX);
            }
            _ => {
                let value = i32::try_from(instruction.immediate(0) as i64)
                    .unwrap_or(instruction.immediate(0) as u32 as i32);
                let long = self.mode.long();
                let slot = self.open_slot();
                self.asm().store_imm(long, slot, value);
            }
        }
        self.push_or_pop(-self.slot());
        self.keeps = true;
        Some(Flow::Next)
    }

    pub(super) fn pop(&mut self, instruction: &Instruction) -> Option<Flow> {
        let register = instruction.op_register(0);
        if instruction.op_kind(0) != OpKind::Register
            || !register.is_gpr()
            || !self.moves_one_slot(instruction)
        {
            return None;
        }
        self.accesses(Access::Single);
        let top = self.top_slot();
        match place_of(number_of(register)) {
            Place::Host(host) => self.load_slot(host, top),
            Place::Home(home) => {
                self.load_slot(RCX, top);
                self.asm().store(home.mem(), RCX);
            }
        }
        if number_of(register) != GUEST_RSP {
            self.push_or_pop(self.slot());
        }
        self.keeps = true;
        Some(Flow::Next)
    }

    pub(super) fn leave(&mut self, instruction: &Instruction) -> Option<Flow> {
        let wanted = if self.mode.long() { Code::Leaveq } else { Code::Leaved };
        if instruction.code() != wanted {
            return None;
        }
        let (wide, slot) = (self.mode.long(), self.slot());
        debug_assert_eq!(place_of(number_of(Register::RBP)), Place::Host(RBP));
        let frame = match self.through_window(Part::Stack) {
            Some((base, index, more)) => indexed(Some(base), index, 0, more),
            None => {
                if wide {
                    self.asm().mov(R10, RBP);
                } else {
                    self.asm().mov32(R10, RBP);
                }
                self.check(false, slot as usize);
                OPERAND
            }
        };
        self.asm().lea(wide, R8, at(RBP, slot));
        self.load_slot(RBP, frame);
        Some(Flow::Next)
    }
}
