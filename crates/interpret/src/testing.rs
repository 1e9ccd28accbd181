//! A processor on a bench, for this crate's unit tests: 2 MiB of memory and
//! instructions fed one at a time.

use std::sync::Arc;

use engine::{VcpuConfig, VcpuSignals};
use iced_x86::{Encoder, Instruction};
use memory::GuestMemory;
use x86::cpuid::{CpuidConfig, CpuidModel, Habits, HostFeatures, Vendor};
use x86::{
    Cr0, Cr4, Efer, Exception, GuestPhysAddr, Rflags, Segment, SegmentAttributes, SegmentName, Selector, Xcr0,
};

use crate::cpu::{Break, Cpu};
use crate::decode::{Decoded, InsnDecoder};
use crate::insn::Insn;
use crate::native::{Arena, install_handlers};

/// Page tables of the long-mode bench: one page each.
const PML4: u64 = 0x1000;
const PDPT: u64 = 0x2000;
const PD: u64 = 0x3000;
const PT: u64 = 0x4000;
/// Present and writable, for user mode too.
const ENTRY: u64 = 7;
/// Where code claims to be.
pub(crate) const CODE: u64 = 0x8000;
/// Memory for data; 4 KiB pages from here on can be taken away.
pub(crate) const DATA: u64 = 0x10_0000;

pub(crate) struct Bench {
    pub(crate) cpu: Cpu,
    decoder: InsnDecoder,
}

impl Bench {
    /// Ring 0 of 64-bit mode, memory mapped one to one, everything enabled.
    pub(crate) fn long() -> Self {
        let mut bench = Self::protected();
        let state = &mut bench.cpu.state;
        state.cr0.insert(Cr0::PG);
        state.cr3 = PML4;
        state.cr4.insert(Cr4::PAE);
        state.efer = Efer::LME | Efer::LMA | Efer::SCE | Efer::NXE;
        state.segment_mut(SegmentName::Cs).attributes = SegmentAttributes::from_bits(0xa09b);
        for (at, entry) in [(PML4, PDPT), (PDPT, PD), (PD, PT)] {
            bench.write(at, &(entry | ENTRY).to_le_bytes());
        }
        for page in 0..512 {
            bench.write(PT + 8 * page, &(page << 12 | ENTRY).to_le_bytes());
        }
        bench.refresh();
        bench
    }

    /// Ring 0 of flat 32-bit protected mode without paging.
    pub(crate) fn protected() -> Self {
        let mut bench = Self::real();
        let state = &mut bench.cpu.state;
        state.cr0.insert(Cr0::PE);
        for (index, segment) in state.segments.iter_mut().enumerate() {
            let kind = if index == SegmentName::Cs as usize { 0xc09b } else { 0xc093 };
            let attributes = SegmentAttributes::from_bits(kind);
            *segment = Segment { base: 0, limit: u32::MAX, selector: Selector(8), attributes };
        }
        bench.refresh();
        bench
    }

    /// Real mode, all segments at 0.
    pub(crate) fn real() -> Self {
        let cpuid = CpuidModel::new(CpuidConfig::new(&HostFeatures::all(), 1_000_000_000));
        let config = VcpuConfig {
            id: 0,
            memory: GuestMemory::new(2 << 20).unwrap(),
            cpuid: Arc::new(cpuid),
            signals: Arc::new(VcpuSignals::default()),
            trace: None,
        };
        let mut cpu = Cpu::new(config).unwrap();
        let state = &mut cpu.state;
        state.cr0 = Cr0::ET | Cr0::NE | Cr0::MP;
        state.cr4 = Cr4::OSFXSR | Cr4::OSXMMEXCPT | Cr4::OSXSAVE;
        state.xcr0 = Xcr0::X87 | Xcr0::SSE | Xcr0::AVX | Xcr0::AVX512;
        state.segments = [Segment::real_mode(0); 6];
        state.rip = CODE;
        state.fpu.x87 = x86::X87State::INIT;
        let mut bench = Self { cpu, decoder: InsnDecoder::new(Arena::new().unwrap()) };
        bench.refresh();
        bench
    }

    /// The same as a processor of `vendor`; AMD's is of family 0x19.
    pub(crate) fn of_vendor(self, vendor: Vendor) -> Self {
        self.of_family(vendor, 0x19)
    }

    /// The same as a processor of `vendor`, with the habits of `family`.
    pub(crate) fn of_family(mut self, vendor: Vendor, family: u32) -> Self {
        let model = CpuidModel::clone(&self.cpu.cpuid).with_vendor(vendor);
        self.cpu.cpuid = Arc::new(model.with_habits(Habits::of(vendor, family)));
        self.refresh();
        self
    }

    /// After changes of the state that are not an instruction's.
    pub(crate) fn refresh(&mut self) {
        self.cpu.refresh();
        self.cpu.paging_changed();
    }

    /// Decodes `bytes` as if they were at RIP.
    pub(crate) fn decode(&mut self, bytes: &[u8]) -> Insn {
        match self.decoder.decode(bytes, self.cpu.code_size, &self.cpu.cpuid) {
            Decoded::Insn(insn, _) => insn,
            Decoded::MoreBytes => panic!("{bytes:02x?} is not a whole instruction"),
        }
    }

    /// Executes an instruction.
    ///
    /// # Errors
    /// Its fault.
    pub(crate) fn run(&mut self, bytes: &[u8]) -> Result<(), Exception> {
        let insn = self.decode(bytes);
        self.install();
        let cpu = &mut self.cpu;
        cpu.next_rip = cpu.state.rip.wrapping_add(u64::from(insn.len)) & cpu.linear_mask;
        match (insn.handler)(cpu, &insn) {
            Ok(()) => {
                cpu.state.rip = cpu.next_rip;
                Ok(())
            }
            Err(Break::Fault) => Err(cpu.fault),
            Err(other) => panic!("{other:?}"),
        }
    }

    /// Lets thunks of this bench fault on this thread.
    pub(crate) fn install(&self) {
        install_handlers(&self.decoder.arena);
    }

    /// Encodes an instruction for the current mode and executes it.
    ///
    /// # Errors
    /// Its fault.
    pub(crate) fn exec(&mut self, instruction: Instruction) -> Result<(), Exception> {
        let bytes = self.encode(instruction);
        self.run(&bytes)
    }

    pub(crate) fn encode(&self, instruction: Instruction) -> Vec<u8> {
        let mut encoder = Encoder::new(u32::from(self.cpu.code_size) * 8);
        encoder.encode(&instruction, self.cpu.state.rip).unwrap();
        encoder.take_buffer()
    }

    /// Writes physical memory.
    pub(crate) fn write(&mut self, at: u64, bytes: &[u8]) {
        self.cpu.memory.write(GuestPhysAddr(at), bytes).unwrap();
    }

    /// Reads physical memory.
    pub(crate) fn read<const N: usize>(&self, at: u64) -> [u8; N] {
        let mut bytes = [0; N];
        self.cpu.memory.read(GuestPhysAddr(at), &mut bytes).unwrap();
        bytes
    }

    /// Gives the 4 KiB page of `lin` (in long mode) these low entry bits;
    /// 0 takes it away.
    pub(crate) fn set_page(&mut self, lin: u64, bits: u64) {
        let page = lin >> 12;
        self.write(PT + 8 * page, &(page << 12 | bits).to_le_bytes());
        self.cpu.flush_tlb();
    }

    pub(crate) fn flags(&self) -> Rflags {
        self.cpu.state.rflags & Rflags::ARITHMETIC
    }
}
