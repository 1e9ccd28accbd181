//! IN and OUT, and who may execute them (SDM 1 19.5).

use engine::{Callout, TraceEvent};
use iced_x86::{Instruction, Mnemonic, OpKind};
use x86::{Gpr, SystemType};

use crate::cpu::{Cpu, Exec};
use crate::decode::{Choice, Flow};
use crate::insn::{Handler, Insn};

/// Offset of the I/O map base in a 32- or 64-bit TSS.
const IO_MAP_BASE: u64 = 0x66;

/// The handler, if the instruction is one of these.
pub(super) fn choose(instruction: &Instruction) -> Option<Choice> {
    let handler: Handler = match instruction.mnemonic() {
        Mnemonic::In => input,
        Mnemonic::Out => output,
        _ => return None,
    };
    Some((handler, Flow::End))
}

/// The port and the size in bytes, from operands `port` and `data`.
fn port_and_size(cpu: &mut Cpu, insn: &Insn, port: u32, data: u32) -> Exec<(u16, u8)> {
    let Some(full) = insn.full.as_deref() else { return Err(cpu.ud()) };
    let number = match full.op_kind(port) {
        OpKind::Register => cpu.reg(Gpr::Rdx as u8, 2) as u16,
        _ => u16::from(full.immediate8()),
    };
    let size = full.op_register(data).size() as u8;
    cpu.check_port(number, size)?;
    Ok((number, size))
}

fn input(cpu: &mut Cpu, insn: &Insn) -> Exec {
    let (port, size) = port_and_size(cpu, insn, 1, 0)?;
    let value = cpu.port_in(port, size);
    cpu.set_reg(Gpr::Rax as u8, size, value);
    Ok(())
}

fn output(cpu: &mut Cpu, insn: &Insn) -> Exec {
    let (port, size) = port_and_size(cpu, insn, 0, 1)?;
    let value = cpu.reg(Gpr::Rax as u8, size);
    cpu.port_out(port, size, value);
    Ok(())
}

impl Cpu {
    /// #GP(0) unless IOPL or the TSS's I/O map allows the access.
    pub(crate) fn check_port(&mut self, port: u16, size: u8) -> Exec {
        if !self.state.protected_mode() {
            return Ok(());
        }
        let trusted = self.cpl() <= self.state.rflags.iopl();
        if trusted && !self.state.virtual_8086() || self.io_map_allows(port, size)? {
            Ok(())
        } else {
            Err(self.gp0())
        }
    }

    fn io_map_allows(&mut self, port: u16, size: u8) -> Exec<bool> {
        let tr = self.state.tr;
        let kind = SystemType::from_kind(tr.attributes.kind());
        let limit = u64::from(tr.limit);
        let is_32_bit = matches!(kind, Some(SystemType::TssAvailable | SystemType::TssBusy));
        if !tr.attributes.present() || !is_32_bit || limit < IO_MAP_BASE + 1 {
            return Ok(false);
        }
        let base: u16 = self.read_system(tr.base.wrapping_add(IO_MAP_BASE))?;
        let byte = u64::from(base) + u64::from(port / 8);
        // Two bytes are always read, so both must lie inside the segment.
        if byte + 1 > limit {
            return Ok(false);
        }
        let bits: u16 = self.read_system(tr.base.wrapping_add(byte))?;
        let wanted = ((1_u16 << size) - 1) << (port % 8);
        Ok(bits & wanted == 0)
    }

    /// Reads a port, all checks passed.
    pub(crate) fn port_in(&mut self, port: u16, size: u8) -> u64 {
        self.stats.count(Callout::PortIo);
        self.watch_port(port, size);
        let value = self.platform().port_read(port, size);
        if self.tracing.io {
            self.report(&TraceEvent::Port { port, size, value, write: false });
        }
        u64::from(value) & crate::cpu::mask(size)
    }

    /// Writes a port, all checks passed.
    pub(crate) fn port_out(&mut self, port: u16, size: u8, value: u64) {
        self.stats.count(Callout::PortIo);
        self.watch_port(port, size);
        let value = (value & crate::cpu::mask(size)) as u32;
        if self.tracing.io {
            self.report(&TraceEvent::Port { port, size, value, write: true });
        }
        self.platform().port_write(port, size, value);
        // The device may have written code.
        self.code_hit = true;
    }
}
