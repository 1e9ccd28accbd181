//! IRETQ: back to where an exception or interrupt came from.
//!
//! The fast case is the one of 64-bit systems: from 64-bit code to 64-bit code,
//! in flat segments that SYSCALL and SYSRET load too, with descriptors that are
//! in the table now (SDM 2A "IRET"). All else is the interpreter's.

use super::{Body, Flow};
use crate::asm::{Asm, R8, R10, R11, RCX, at, field, indexed};
use crate::context::{NULL_STACK, offset};
use crate::mode::Way;
use crate::runtime::Exit;

/// The frame: its bytes, and where its items lie (SDM 3A 6.14.2).
const FRAME: usize = 40;
const RIP: i32 = 0;
const CS: i32 = 8;
const FLAGS: i32 = 16;
const RSP: i32 = 24;
const SS: i32 = 32;
/// Bytes of two descriptors.
const PAIR: usize = 16;

impl Body<'_> {
    pub(super) fn iret(&mut self) -> Option<Flow> {
        if !self.mode.long() || self.mode.cpl() != 0 {
            return None;
        }
        for blocked in [offset!(system_flags), offset!(iret_blocked)] {
            self.asm().load(RCX, field(blocked));
            self.interpret_unless_rcx_is_zero();
        }
        self.interpret_if_signalled();
        self.asm().mov(R10, R8);
        self.check(false, FRAME);
        let asm = self.asm();
        asm.lea(true, R10, indexed(Some(R10), R11, 0, 0));
        asm.store(field(offset!(iret_frame)), R10);
        asm.load(R11, at(R10, FLAGS));
        asm.pext(RCX, R11, field(offset!(iret_mask)));
        self.interpret_unless_rcx_is_zero();
        self.difference(CS, offset!(iret_cs));
        let outside = self.asm().unless_rcx_is_zero(Asm::jmp_hole);
        self.iret_inside();
        self.asm().fill(outside);
        self.iret_outside();
        Some(Flow::End)
    }

    /// RCX becomes the difference between an item of the frame at R10 and a
    /// negated field of the context. R11 is used.
    fn difference(&mut self, item: i32, negated: i32) {
        let asm = self.asm();
        asm.load(RCX, at(R10, item));
        asm.load(R11, field(negated));
        asm.lea(true, RCX, indexed(Some(RCX), R11, 0, 0));
    }

    /// To privilege level 0, with CS as it should be. SS may be null.
    fn iret_inside(&mut self) {
        let asm = self.asm();
        asm.load(RCX, at(R10, SS));
        let null = asm.jrcxz_short();
        self.difference(SS, offset!(iret_ss));
        self.interpret_unless_rcx_is_zero();
        let asm = self.asm();
        asm.fill_short(null);
        asm.load(R11, at(R10, RIP));
        asm.pext(RCX, R11, field(offset!(upper_half_mask)));
        let lower_half = asm.jrcxz_short();
        asm.lea(true, RCX, at(RCX, -0x1_ffff));
        self.interpret_unless_rcx_is_zero();
        self.asm().fill_short(lower_half);
        self.check_descriptors(0);
        self.leave_for(Way::Supervisor);
    }

    /// To privilege level 3.
    fn iret_outside(&mut self) {
        for (item, negated) in [(CS, offset!(iret_cs) + 8), (SS, offset!(iret_ss) + 8)] {
            self.difference(item, negated);
            self.interpret_unless_rcx_is_zero();
        }
        let asm = self.asm();
        asm.load(R11, at(R10, RIP));
        asm.pext(RCX, R11, field(offset!(upper_half_mask)));
        self.interpret_unless_rcx_is_zero();
        self.check_descriptors(8);
        self.leave_for(Way::User);
    }

    /// Leaves unless the descriptors are those of flat segments; `of` chooses
    /// the privilege level. R10 is used.
    fn check_descriptors(&mut self, of: i32) {
        self.asm().load(R10, field(offset!(iret_pair) + of));
        self.check(false, PAIR);
        self.asm().lea(true, R10, indexed(Some(R10), R11, 0, 0));
        for (item, negated) in [(0, offset!(iret_first)), (8, offset!(iret_second))] {
            self.difference(item, negated + of);
            self.interpret_unless_rcx_is_zero();
        }
    }

    /// RIP, RSP and the flags become those in the frame.
    fn leave_for(&mut self, way: Way) {
        let asm = self.asm();
        asm.load(R10, field(offset!(iret_frame)));
        asm.load(R10, at(R10, RIP));
        self.look_up_in(Exit::Interpret, way.kind(), way.jumps(), |body| {
            let asm = body.asm();
            asm.store(field(offset!(iret_entry)), R11);
            asm.load(R11, field(offset!(iret_frame)));
            asm.load(R8, at(R11, RSP));
            asm.load(R10, at(R11, FLAGS));
            body.take_flags();
            let asm = body.asm();
            asm.store_imm(true, field(offset!(ring)), way as i32);
            if way == Way::Supervisor {
                asm.load(RCX, at(R11, SS));
                let flat = asm.unless_rcx_is_zero(Asm::jmp_hole);
                asm.store_imm(true, field(offset!(ring)), NULL_STACK as i32);
                asm.fill(flat);
            }
            body.switch_table(way);
            let asm = body.asm();
            asm.load(R10, at(R11, RIP));
            asm.load(R11, field(offset!(iret_entry)));
        });
    }
}
