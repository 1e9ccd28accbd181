//! PUSH, POP and LEAVE.

use iced_x86::{Code, Instruction, OpKind, Register};

use super::{Body, Flow};
use crate::asm::{Mem, R8, R10, R11, RBP, RCX, Reg, at, field, indexed};
use crate::context::offset;
use crate::registers::{GUEST_RSP, Place, number_of, place_of};

/// The operand behind a test.
pub(super) const OPERAND: Mem = indexed(Some(R10), R11, 0, 0);

impl Body<'_> {
    /// Bytes of a stack slot.
    pub(super) fn slot(&self) -> i32 {
        i32::from(self.mode.word())
    }

    /// R10 becomes the address of the slot below the top, tested for writing.
    pub(super) fn open_slot(&mut self) {
        let (wide, slot) = (self.mode.long(), self.slot());
        self.asm().lea(wide, R10, at(R8, -slot));
        self.check(true, slot as usize);
    }

    /// The slot at the top, tested for reading.
    pub(super) fn top_slot(&mut self) {
        let slot = self.slot();
        self.asm().mov(R10, R8);
        self.check(false, slot as usize);
    }

    /// Moves RSP by `bytes`.
    pub(super) fn move_stack(&mut self, bytes: i32) {
        let wide = self.mode.long();
        self.asm().lea(wide, R8, at(R8, bytes));
    }

    /// Stores a register of a slot's size to the tested operand.
    pub(super) fn store_slot(&mut self, from: Reg) {
        if self.mode.long() {
            self.asm().store(OPERAND, from);
        } else {
            self.asm().store32(OPERAND, from);
        }
    }

    /// Loads a register of a slot's size from the tested operand.
    pub(super) fn load_slot(&mut self, to: Reg) {
        if self.mode.long() {
            self.asm().load(to, OPERAND);
        } else {
            self.asm().load32(to, OPERAND);
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
        match instruction.op_kind(0) {
            OpKind::Register if instruction.op_register(0).is_gpr() => {
                self.open_slot();
                match place_of(number_of(instruction.op_register(0))) {
                    Place::Host(host) => self.store_slot(host),
                    Place::Home(home) => {
                        self.asm().load(RCX, home.mem());
                        self.store_slot(RCX);
                    }
                }
            }
            OpKind::Register => return None,
            OpKind::Memory => {
                let size = instruction.memory_size().size();
                if size != self.slot() as usize {
                    return None;
                }
                self.linear(instruction)?;
                self.check(false, size);
                self.load_slot(RCX);
                self.asm().store(field(offset!(temporary)), RCX);
                self.open_slot();
                self.asm().load(RCX, field(offset!(temporary)));
                self.store_slot(RCX);
            }
            _ => {
                let value = i32::try_from(instruction.immediate(0) as i64)
                    .unwrap_or(instruction.immediate(0) as u32 as i32);
                let long = self.mode.long();
                self.open_slot();
                self.asm().store_imm(long, OPERAND, value);
            }
        }
        self.move_stack(-self.slot());
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
        self.top_slot();
        match place_of(number_of(register)) {
            Place::Host(host) => self.load_slot(host),
            Place::Home(home) => {
                self.load_slot(RCX);
                self.asm().store(home.mem(), RCX);
            }
        }
        if number_of(register) != GUEST_RSP {
            self.move_stack(self.slot());
        }
        Some(Flow::Next)
    }

    pub(super) fn leave(&mut self, instruction: &Instruction) -> Option<Flow> {
        let wanted = if self.mode.long() { Code::Leaveq } else { Code::Leaved };
        if instruction.code() != wanted {
            return None;
        }
        let (wide, slot) = (self.mode.long(), self.slot());
        debug_assert_eq!(place_of(number_of(Register::RBP)), Place::Host(RBP));
        if wide {
            self.asm().mov(R10, RBP);
        } else {
            self.asm().mov32(R10, RBP);
        }
        self.check(false, slot as usize);
        self.asm().lea(wide, R8, at(RBP, slot));
        self.load_slot(RBP);
        Some(Flow::Next)
    }
}
