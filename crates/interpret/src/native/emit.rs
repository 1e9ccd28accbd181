//! Host code for a thunk.

use std::mem::offset_of;

use iced_x86::{Code, Encoder, EncodingKind, IcedError, Instruction, MemoryOperand, Register};
use x86::{CpuState, FpuState};

use super::HostCpu;
use super::plan::{Plan, Use};

const RFLAGS: usize = offset_of!(CpuState, rflags);
const FPU: usize = offset_of!(CpuState, fpu);
const X87: usize = FPU + offset_of!(FpuState, x87);
const ZMM: usize = FPU + offset_of!(FpuState, zmm);
const MASKS: usize = FPU + offset_of!(FpuState, k);
const MXCSR: usize = FPU + offset_of!(FpuState, mxcsr);
/// The arithmetic flags.
const ARITHMETIC: u32 = 0x8d5;
/// MXCSR as host code expects it: everything masked.
const HOST_MXCSR: i32 = 0x1f80;

/// Host code that executes `guest`; `None` if it cannot be done.
pub(crate) fn emit(guest: &Instruction, host: HostCpu) -> Option<Vec<u8>> {
    let evex = guest.code().op_code().encoding() == EncodingKind::EVEX;
    if evex && !host.avx512 {
        return None;
    }
    let plan = Plan::new(guest)?;
    let mut code = Emitter { encoder: Encoder::new(64), plan: &plan, host };
    code.thunk().ok()?;
    Some(code.encoder.take_buffer())
}

/// The way out of a thunk whose instruction faulted: RAX holds the vector plus
/// one, RCX holds CR2, RSP is as at the thunk's entry.
pub(super) fn fault_exit() -> Vec<u8> {
    let mut code = vec![
        0x0f, 0xae, 0x5c, 0x24, 0x08, // stmxcsr [rsp + 8]: the caller reads it
        0xdb, 0xe3, // fninit
        0x68, 0x80, 0x1f, 0x00, 0x00, // push 0x1f80
        0x0f, 0xae, 0x14, 0x24, // ldmxcsr [rsp]
        0x48, 0x8d, 0x64, 0x24, 0x08, // lea rsp, [rsp + 8]
    ];
    if HostCpu::detect().avx {
        code.extend([0xc5, 0xf8, 0x77]); // vzeroupper
    }
    code.push(0xc3); // ret
    code
}

type Emit = Result<(), IcedError>;

struct Emitter<'a> {
    encoder: Encoder,
    plan: &'a Plan,
    host: HostCpu,
}

impl Emitter<'_> {
    fn thunk(&mut self) -> Emit {
        let plan = self.plan;
        if plan.flags_loaded {
            self.load_flags()?;
        }
        self.move_addresses()?;
        self.load_fpu()?;
        for &(host, used) in &plan.gprs {
            self.op(Instruction::with2(Code::Mov_r64_rm64, host, self.slot(used.number * 8))?)?;
        }
        self.op(plan.instruction)?;
        for &(host, used) in plan.gprs.iter().filter(|(_, used)| used.written) {
            self.op(Instruction::with2(Code::Mov_rm64_r64, self.slot(used.number * 8), host)?)?;
        }
        self.store_fpu()?;
        if plan.flags_changed != 0 {
            self.store_flags()?;
        }
        self.op(Instruction::with2(Code::Xor_r32_rm32, Register::EAX, Register::EAX)?)?;
        self.op(Instruction::with(Code::Retnq))
    }

    fn op(&mut self, instruction: Instruction) -> Emit {
        self.encoder.encode(&instruction, 0).map(drop)
    }

    /// A place in the guest's state.
    fn slot(&self, offset: usize) -> MemoryOperand {
        MemoryOperand::with_base_displ(self.plan.state, offset as i64)
    }

    /// Before anything else: RAX is free and RDI holds the state.
    fn load_flags(&mut self) -> Emit {
        let flags = MemoryOperand::with_base_displ(Register::RDI, RFLAGS as i64);
        self.op(Instruction::with2(Code::Mov_r32_rm32, Register::EAX, flags)?)?;
        self.op(Instruction::with2(Code::And_EAX_imm32, Register::EAX, ARITHMETIC as i32)?)?;
        self.op(Instruction::with1(Code::Push_r64, Register::RAX)?)?;
        self.op(Instruction::with(Code::Popfq))
    }

    /// The state first: the operand may go where the state was.
    fn move_addresses(&mut self) -> Emit {
        let (state, memory) = (self.plan.state, self.plan.memory);
        if state != Register::RDI {
            self.op(Instruction::with2(Code::Mov_r64_rm64, state, Register::RDI)?)?;
        }
        if memory != Register::None && memory != Register::RSI {
            self.op(Instruction::with2(Code::Mov_r64_rm64, memory, Register::RSI)?)?;
        }
        Ok(())
    }

    fn load_fpu(&mut self) -> Emit {
        let plan = self.plan;
        if plan.x87 {
            self.op(Instruction::with1(Code::Fxrstor64_m512byte, self.slot(X87))?)?;
        }
        for used in &plan.masks {
            let register = Register::K0 + used.number as u32;
            self.op(Instruction::with2(
                Code::VEX_Kmovq_kr_km64,
                register,
                self.slot(MASKS + used.number * 8),
            )?)?;
        }
        for used in &plan.vectors {
            let (code, register) = self.vector_load(used);
            self.op(Instruction::with2(code, register, self.slot(ZMM + used.number * 64))?)?;
        }
        if plan.uses_vectors() {
            self.op(Instruction::with1(Code::Ldmxcsr_m32, self.slot(MXCSR))?)?;
        }
        Ok(())
    }

    fn store_fpu(&mut self) -> Emit {
        let plan = self.plan;
        for used in plan.vectors.iter().filter(|used| used.written) {
            let (code, register) = self.vector_store(used);
            self.op(Instruction::with2(code, self.slot(ZMM + used.number * 64), register)?)?;
        }
        for used in plan.masks.iter().filter(|used| used.written) {
            let register = Register::K0 + used.number as u32;
            self.op(Instruction::with2(
                Code::VEX_Kmovq_m64_kr,
                self.slot(MASKS + used.number * 8),
                register,
            )?)?;
        }
        if plan.uses_vectors() {
            self.op(Instruction::with1(Code::Stmxcsr_m32, self.slot(MXCSR))?)?;
            self.op(Instruction::with1(Code::Pushq_imm32, HOST_MXCSR)?)?;
            let top = MemoryOperand::with_base(Register::RSP);
            self.op(Instruction::with1(Code::Ldmxcsr_m32, top)?)?;
            let above = MemoryOperand::with_base_displ(Register::RSP, 8);
            self.op(Instruction::with2(Code::Lea_r64_m, Register::RSP, above)?)?;
        }
        if plan.x87 {
            self.op(Instruction::with1(Code::Fxsave64_m512byte, self.slot(X87))?)?;
            self.op(Instruction::with(Code::Fninit))?;
        }
        if plan.vex && plan.uses_vectors() {
            self.op(Instruction::with(Code::VEX_Vzeroupper))?;
        }
        Ok(())
    }

    /// Legacy SSE instructions know and keep nothing above 128 bits; the others
    /// clear what they do not write, to the full width of the host.
    fn vector_load(&self, used: &Use) -> (Code, Register) {
        let number = used.number as u32;
        match (self.plan.vex, self.host.avx512) {
            (false, _) => (Code::Movups_xmm_xmmm128, Register::XMM0 + number),
            (true, false) => (Code::VEX_Vmovups_ymm_ymmm256, Register::YMM0 + number),
            (true, true) => (Code::EVEX_Vmovups_zmm_k1z_zmmm512, Register::ZMM0 + number),
        }
    }

    fn vector_store(&self, used: &Use) -> (Code, Register) {
        let number = used.number as u32;
        match (self.plan.vex, self.host.avx512) {
            (false, _) => (Code::Movups_xmmm128_xmm, Register::XMM0 + number),
            (true, false) => (Code::VEX_Vmovups_ymmm256_ymm, Register::YMM0 + number),
            (true, true) => (Code::EVEX_Vmovups_zmmm512_k1z_zmm, Register::ZMM0 + number),
        }
    }

    /// After all else is stored: RAX and RCX are free unless one holds the
    /// state's address, which it never does.
    fn store_flags(&mut self) -> Emit {
        let changed = self.plan.flags_changed;
        let flags = self.slot(RFLAGS);
        self.op(Instruction::with(Code::Pushfq))?;
        self.op(Instruction::with1(Code::Pop_r64, Register::RAX)?)?;
        self.op(Instruction::with2(Code::And_EAX_imm32, Register::EAX, changed as i32)?)?;
        self.op(Instruction::with2(Code::And_rm32_imm32, flags, !changed as i32)?)?;
        self.op(Instruction::with2(Code::Or_rm32_r32, flags, Register::EAX)?)
    }
}
