//! Privileged and sensitive instructions that guests execute all the time: the
//! flags, the time-stamp counter, SYSCALL and SYSRET, SWAPGS, STAC and CLAC.
//!
//! Each has a fast case inline; where that does not hold, the interpreter
//! executes the instruction.

use iced_x86::{Code, Instruction, Mnemonic, OpKind, Register};
use x86::{CpuState, Segment};

use super::{Body, Flow};
use crate::asm::{Asm, R9, R10, R11, RAX, RCX, RDX, at, element, field, indexed};
use crate::context::offset;
use crate::mode::Way;
use crate::registers::{Place, number_of, place_of};
use crate::runtime::Exit;

/// EFLAGS.AC.
const AC: i32 = 1 << 18;
const IF: i32 = 1 << 9;

impl Body<'_> {
    /// Writes the instruction if it is one of these: `None` if it is not one,
    /// `Some(None)` if it is the interpreter's.
    pub(super) fn system(&mut self, instruction: &Instruction) -> Option<Option<Flow>> {
        use Mnemonic as M;
        Some(match instruction.mnemonic() {
            M::Cli => self.cli(),
            M::Sti => self.sti(),
            M::Cld => self.cld(),
            M::Pushfq | M::Pushfd => self.pushf(instruction),
            M::Popfq | M::Popfd => self.popf(instruction),
            M::Stac => self.set_ac(true),
            M::Clac => self.set_ac(false),
            M::Swapgs => self.swapgs(),
            M::Rdtsc => self.rdtsc(false),
            M::Rdtscp => self.rdtsc(true),
            M::Syscall => self.syscall(),
            M::Sysretq => self.sysret(),
            M::Iretq => self.iret(),
            M::Mov if instruction.op_kind(1) == OpKind::Register && instruction.op_register(1).is_cr() => {
                self.read_control_register(instruction)
            }
            M::Mov
                if instruction.op_kind(0) == OpKind::Register
                    && instruction.op_kind(1) == OpKind::Register
                    && instruction.op_register(1).is_segment_register() =>
            {
                self.read_segment(instruction)
            }
            M::Rdfsbase => self.read_base(instruction, offset!(fs_base)),
            M::Rdgsbase => self.read_base(instruction, offset!(gs_base)),
            M::Wrfsbase => self.write_base(instruction, offset!(fs_base)),
            M::Wrgsbase => self.write_base(instruction, offset!(gs_base)),
            _ => return None,
        })
    }

    /// Leaves for the interpreter unless RCX is zero.
    pub(super) fn interpret_unless_rcx_is_zero(&mut self) {
        let exit = self.exit(Exit::Interpret);
        self.asm().unless_rcx_is_zero(|asm| asm.call(exit));
    }

    /// Leaves if a signal is pending: the interrupt flag is about to be set.
    pub(super) fn interpret_if_signalled(&mut self) {
        let asm = self.asm();
        asm.load(RCX, field(offset!(signals)));
        asm.load32(RCX, at(RCX, 0));
        self.interpret_unless_rcx_is_zero();
    }

    fn cli(&mut self) -> Option<Flow> {
        if self.mode.cpl() != 0 {
            return None;
        }
        self.asm().store_imm(true, field(offset!(interrupt_flag)), 0);
        Some(Flow::Next)
    }

    /// With nothing pending there is nothing for the shadow to hold back. What
    /// becomes pending now is seen later, and not before the next instruction.
    fn sti(&mut self) -> Option<Flow> {
        if self.mode.cpl() != 0 || !self.more_follows {
            return None;
        }
        self.interpret_if_signalled();
        self.asm().store_imm(true, field(offset!(interrupt_flag)), IF);
        self.shadowed = true;
        Some(Flow::Next)
    }

    fn cld(&mut self) -> Option<Flow> {
        let asm = self.asm();
        asm.load(RCX, field(offset!(system_flags)));
        asm.pext(RCX, RCX, field(offset!(direction_mask)));
        self.interpret_unless_rcx_is_zero();
        Some(Flow::Next)
    }

    /// RCX becomes the flags as PUSHF stores them.
    fn load_flags(&mut self) {
        let asm = self.asm();
        asm.store(field(offset!(save_rax)), RAX);
        asm.save_flags();
        asm.bytes(&[0x0f, 0xb6, 0xcc]); // movzx ecx, ah
        asm.bytes(&[0x0f, 0xb6, 0xc0]); // movzx eax, al
        asm.load32(RAX, element(RAX, 2, offset!(overflow)));
        asm.lea(true, RCX, indexed(Some(RCX), RAX, 0, 0));
        for part in [offset!(system_flags), offset!(interrupt_flag)] {
            asm.load(RAX, field(part));
            asm.lea(true, RCX, indexed(Some(RCX), RAX, 0, 0));
        }
        asm.load(RAX, field(offset!(save_rax)));
    }

    /// The host's arithmetic flags become those in RCX, which is used.
    fn set_arithmetic_flags(asm: &mut Asm) {
        asm.store(field(offset!(save_rax)), RAX);
        asm.mov32(RAX, RCX);
        asm.bytes(&[0x88, 0xc4]); // mov ah, al
        asm.shift(false, RCX, 11);
        asm.arith_imm(crate::asm::Arith::And, false, RCX, 1);
        asm.bytes(&[0x88, 0xc8]); // mov al, cl
        asm.restore_flags();
        asm.load(RAX, field(offset!(save_rax)));
    }

    fn pushf(&mut self, instruction: &Instruction) -> Option<Flow> {
        let wanted = if self.mode.long() { Code::Pushfq } else { Code::Pushfd };
        if instruction.code() != wanted {
            return None;
        }
        let slot = self.open_slot();
        self.load_flags();
        self.store_slot(slot, RCX);
        self.move_stack(-self.slot());
        Some(Flow::Next)
    }

    /// At ring 0, with the same system flags but IF as before.
    fn popf(&mut self, instruction: &Instruction) -> Option<Flow> {
        let wanted = if self.mode.long() { Code::Popfq } else { Code::Popfd };
        if self.mode.cpl() != 0 || instruction.code() != wanted {
            return None;
        }
        let top = self.top_slot();
        self.load_slot(R10, top);
        let asm = self.asm();
        asm.pext(RCX, R10, field(offset!(popf_mask)));
        asm.load(R11, field(offset!(system_flags)));
        asm.pext(R11, R11, field(offset!(popf_mask)));
        asm.not(R11);
        asm.lea(true, RCX, indexed(Some(RCX), R11, 0, 1));
        self.interpret_unless_rcx_is_zero();
        self.interpret_if_signalled();
        self.take_flags();
        self.move_stack(self.slot());
        Some(Flow::Next)
    }

    /// Arithmetic flags and IF become those in R10.
    pub(super) fn take_flags(&mut self) {
        let asm = self.asm();
        asm.mov(RCX, R10);
        asm.arith_imm(crate::asm::Arith::And, false, RCX, IF);
        asm.store(field(offset!(interrupt_flag)), RCX);
        asm.mov(RCX, R10);
        Self::set_arithmetic_flags(asm);
    }

    /// STAC and CLAC change how the code behind them sees memory.
    fn set_ac(&mut self, on: bool) -> Option<Flow> {
        if self.mode.cpl() != 0 || !self.mode.tells_ac() {
            return None;
        }
        if self.mode.ac() == on {
            return Some(Flow::Next);
        }
        self.load_rip(R10, i64::from(self.next));
        let way = if on { Way::SupervisorAc } else { Way::Supervisor };
        self.look_up_in(Exit::Interpret, way.kind(), way.jumps(), |body| {
            let asm = body.asm();
            asm.load(RCX, field(offset!(system_flags)));
            asm.lea(true, RCX, at(RCX, if on { AC } else { -AC }));
            asm.store(field(offset!(system_flags)), RCX);
            body.switch_table(way);
        });
        Some(Flow::End)
    }

    /// Indirect branches are looked up in the table of `way` from now on. RCX is
    /// used. Whoever wanted the vCPU meanwhile has taken the old table away, in
    /// vain; after the exchange their wish is seen.
    pub(super) fn switch_table(&mut self, way: Way) {
        let asm = self.asm();
        asm.load(RCX, field(way.jumps()));
        asm.exchange(field(offset!(jumps)), RCX);
        asm.load32(RCX, field(offset!(disturbed)));
        asm.unless_rcx_is_zero(|asm| {
            asm.load(RCX, field(offset!(nowhere)));
            asm.store(field(offset!(jumps)), RCX);
        });
    }

    /// MOV from CR0, CR2, CR3 or CR4.
    fn read_control_register(&mut self, instruction: &Instruction) -> Option<Flow> {
        use std::mem::offset_of;
        let from = match instruction.op_register(1) {
            Register::CR0 => offset_of!(CpuState, cr0),
            Register::CR2 => offset_of!(CpuState, cr2),
            Register::CR3 => offset_of!(CpuState, cr3),
            Register::CR4 => offset_of!(CpuState, cr4),
            _ => return None,
        };
        if self.mode.cpl() != 0 || !self.mode.long() {
            return None;
        }
        let asm = self.asm();
        asm.load(RCX, field(offset!(state)));
        match place_of(number_of(instruction.op_register(0))) {
            Place::Host(host) => asm.load(host, at(RCX, from as i32)),
            Place::Home(home) => {
                asm.load(RCX, at(RCX, from as i32));
                asm.store(home.mem(), RCX);
            }
        }
        Some(Flow::Next)
    }

    /// MOV of a selector to a register. CS and SS are not up to date once
    /// SYSCALL or SYSRET has been executed inline.
    fn read_segment(&mut self, instruction: &Instruction) -> Option<Flow> {
        use std::mem::offset_of;
        let to = instruction.op_register(0);
        let from = instruction.op_register(1);
        if matches!(from, Register::CS | Register::SS) {
            self.asm().load(RCX, field(offset!(ring)));
            self.interpret_unless_rcx_is_zero();
        }
        let at_segment = offset_of!(CpuState, segments) + from.number() * size_of::<Segment>();
        let selector = (at_segment + offset_of!(Segment, selector)) as i32;
        let asm = self.asm();
        asm.load(RCX, field(offset!(state)));
        asm.load_word(RCX, at(RCX, selector));
        match (place_of(number_of(to)), to.size()) {
            (Place::Host(host), 2) => asm.mov16(host, RCX),
            (Place::Home(home), 2) => asm.store16(home.mem(), RCX),
            (Place::Host(host), _) => asm.mov(host, RCX),
            (Place::Home(home), _) => asm.store(home.mem(), RCX),
        }
        Some(Flow::Next)
    }

    fn read_base(&mut self, instruction: &Instruction, base: i32) -> Option<Flow> {
        if !self.mode.has_bases() {
            return None;
        }
        let to = instruction.op_register(0);
        let place = place_of(number_of(to));
        let host = if let Place::Host(host) = place { host } else { RCX };
        let asm = self.asm();
        if to.size() == 8 {
            asm.load(host, field(base));
        } else {
            asm.load32(host, field(base));
        }
        if let Place::Home(home) = place {
            asm.store(home.mem(), host);
        }
        Some(Flow::Next)
    }

    /// With a base in the lower half, which is canonical.
    fn write_base(&mut self, instruction: &Instruction, base: i32) -> Option<Flow> {
        if !self.mode.has_bases() {
            return None;
        }
        let from = instruction.op_register(0);
        let place = place_of(number_of(from));
        let asm = self.asm();
        match place {
            Place::Host(host) => asm.mov(R10, host),
            Place::Home(home) => asm.load(R10, home.mem()),
        }
        if from.size() == 4 {
            asm.mov32(R10, R10);
        }
        asm.pext(RCX, R10, field(offset!(upper_half_mask)));
        self.interpret_unless_rcx_is_zero();
        self.asm().store(field(base), R10);
        Some(Flow::Next)
    }

    /// Now and then the interpreter executes it, which lets other threads of the
    /// host run: what the guest waits for may be one of them.
    pub(super) fn pause(&mut self) -> Option<Flow> {
        let asm = self.asm();
        asm.load(RCX, field(offset!(pauses)));
        asm.lea(true, RCX, at(RCX, 1));
        asm.store(field(offset!(pauses)), RCX);
        asm.pext(RCX, RCX, field(offset!(pause_mask)));
        self.interpret_unless_rcx_is_zero();
        self.asm().bytes(&[0xf3, 0x90]);
        Some(Flow::Next)
    }

    fn swapgs(&mut self) -> Option<Flow> {
        if self.mode.cpl() != 0 || !self.mode.long() {
            return None;
        }
        let kernel = std::mem::offset_of!(CpuState, msrs.kernel_gs_base) as i32;
        let asm = self.asm();
        asm.load(RCX, field(offset!(state)));
        asm.load(R10, at(RCX, kernel));
        asm.load(R11, field(offset!(gs_base)));
        asm.store(at(RCX, kernel), R11);
        asm.store(field(offset!(gs_base)), R10);
        Some(Flow::Next)
    }

    fn rdtsc(&mut self, with_aux: bool) -> Option<Flow> {
        if !self.mode.tsc() {
            return None;
        }
        let adjust = std::mem::offset_of!(CpuState, msrs.tsc_adjust) as i32;
        let aux = std::mem::offset_of!(CpuState, msrs.tsc_aux) as i32;
        let asm = self.asm();
        if with_aux {
            asm.bytes(&[0x0f, 0xae, 0xe8]); // lfence: RDTSCP waits for what came before
        }
        asm.load(RCX, field(offset!(state)));
        asm.load(R10, at(RCX, adjust));
        asm.load(R11, field(offset!(tsc_offset)));
        asm.lea(true, R10, indexed(Some(R10), R11, 0, 0));
        if with_aux {
            asm.load32(R9, at(RCX, aux));
        }
        asm.bytes(&[0x0f, 0x31]); // rdtsc
        asm.store32(field(offset!(temporary)), RAX);
        asm.store32(field(offset!(temporary) + 4), RDX);
        asm.load(RAX, field(offset!(temporary)));
        asm.lea(true, RAX, indexed(Some(RAX), R10, 0, 0));
        asm.rorx(RDX, RAX, 32);
        asm.mov32(RDX, RDX);
        asm.mov32(RAX, RAX);
        Some(Flow::Next)
    }

    /// To the handler that IA32_LSTAR names, if FMASK leaves no flag as it is.
    fn syscall(&mut self) -> Option<Flow> {
        if !self.mode.long() || self.mode.cpl() != 3 {
            return None;
        }
        let asm = self.asm();
        asm.load(RCX, field(offset!(system_flags)));
        asm.pext(RCX, RCX, field(offset!(syscall_kept)));
        self.interpret_unless_rcx_is_zero();
        // Nonzero if there is no code for the handler, or it must not be used.
        self.asm().load(RCX, field(offset!(syscall_blocked)));
        self.interpret_unless_rcx_is_zero();
        self.load_flags();
        let home_r11 = offset!(home) + 3 * 8;
        self.asm().store(field(home_r11), RCX);
        self.load_rip(R9, i64::from(self.next));
        let asm = self.asm();
        asm.constant(RCX, 0);
        asm.store(field(offset!(system_flags)), RCX);
        asm.store(field(offset!(interrupt_flag)), RCX);
        Self::set_arithmetic_flags(asm);
        asm.store_imm(true, field(offset!(ring)), Way::Supervisor as i32);
        self.switch_table(Way::Supervisor);
        let asm = self.asm();
        asm.load(R10, field(offset!(syscall_entry)));
        asm.jmp_mem(field(offset!(syscall_code)));
        Some(Flow::End)
    }

    /// To 64-bit code, with no flags but the arithmetic ones and IF.
    fn sysret(&mut self) -> Option<Flow> {
        if !self.mode.long() || self.mode.cpl() != 0 {
            return None;
        }
        let home_r11 = field(offset!(home) + 3 * 8);
        let asm = self.asm();
        asm.load(R10, home_r11);
        asm.pext(RCX, R10, field(offset!(sysret_mask)));
        self.interpret_unless_rcx_is_zero();
        self.asm().pext(RCX, R9, field(offset!(upper_half_mask)));
        self.interpret_unless_rcx_is_zero();
        self.asm().load(RCX, field(offset!(sysret_blocked)));
        self.interpret_unless_rcx_is_zero();
        self.interpret_if_signalled();
        self.asm().mov(R10, R9);
        self.look_up_in(Exit::Interpret, Way::User.kind(), Way::User.jumps(), |body| {
            let asm = body.asm();
            asm.store(field(offset!(temporary)), R11);
            asm.load(R10, home_r11);
            body.take_flags();
            let asm = body.asm();
            asm.constant(RCX, 0);
            asm.store(field(offset!(system_flags)), RCX);
            asm.store_imm(true, field(offset!(ring)), Way::User as i32);
            body.switch_table(Way::User);
            let asm = body.asm();
            asm.mov(R10, R9);
            asm.load(R11, field(offset!(temporary)));
        });
        Some(Flow::End)
    }
}
