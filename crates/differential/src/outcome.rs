//! What a run ends with, and how two ends differ.

use x86::{FpuState, Rflags, Vector, Xcr0};

use crate::layout::{PAGE, RIGHTS, Rights, WINDOW};
use crate::state::{Bits, Registers};

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// By an exception, with its error code (0 if it has none) and CR2 (0 if
    /// it is no page fault).
    Exception {
        /// Its vector.
        vector: u8,
        /// Its error code.
        error: u64,
        /// The faulting address.
        cr2: u64,
    },
    /// Not in time.
    Endless,
    /// By a system call or another way out of the sandbox, or with registers
    /// that the guest's processor cannot have.
    Escape,
    /// The engine gave up.
    Broken,
}

impl Event {
    /// An exception as reported, without what has no meaning for its vector.
    pub fn exception(vector: u8, error: u64, cr2: u64) -> Self {
        let error = if Vector(vector).has_error_code() { error } else { 0 };
        let cr2 = if Vector(vector) == Vector::PF { cr2 } else { 0 };
        Self::Exception { vector, error, cr2 }
    }

    /// The INT3 behind every sequence.
    pub fn is_end(self) -> bool {
        matches!(self, Self::Exception { vector: 3, .. })
    }

    fn without_address(self, without: bool) -> Self {
        match self {
            Self::Exception { vector, error, .. } if without => Self::Exception { vector, error, cr2: 0 },
            other => other,
        }
    }

    /// Linux says "present" of every address above user space, which ends a
    /// page before the canonical addresses do, so that user code cannot tell
    /// how the kernel is mapped.
    fn as_linux_tells(self) -> Self {
        match self {
            Self::Exception { vector, error, cr2 } if cr2 >= USER_END => {
                Self::Exception { vector, error: error | 1, cr2 }
            }
            other => other,
        }
    }
}

/// The end of a run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What ended it.
    pub event: Event,
    /// The registers.
    pub registers: Registers,
    /// The window.
    pub memory: Vec<u8>,
}

/// What is not compared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exempt {
    /// Flags.
    pub flags: u64,
    /// Vector registers.
    pub zmm: u32,
    /// Opmask registers.
    pub k: u8,
    /// Memory.
    pub memory: bool,
    /// x87 registers and their status.
    pub x87: bool,
    /// The address of a page fault.
    pub cr2: bool,
    /// The exception flags in MXCSR.
    pub mxcsr: bool,
}

/// The end of Linux's user space.
const USER_END: u64 = 0x7fff_ffff_f000;

const FLAGS: u64 = Rflags::CF.bits()
    | Rflags::PF.bits()
    | Rflags::AF.bits()
    | Rflags::ZF.bits()
    | Rflags::SF.bits()
    | Rflags::TF.bits()
    | Rflags::IF.bits()
    | Rflags::DF.bits()
    | Rflags::OF.bits()
    | Rflags::IOPL.bits()
    | Rflags::NT.bits()
    | Rflags::RF.bits()
    | Rflags::AC.bits()
    | Rflags::ID.bits();

/// How two ends are compared.
#[derive(Clone, Copy, Debug)]
pub struct Comparison {
    /// Mode of the code.
    pub bits: Bits,
    /// Register components that exist.
    pub xcr0: Xcr0,
}

impl Comparison {
    /// Every difference between the processor's end and the engine's, in words.
    pub fn differences(&self, native: &Outcome, guest: &Outcome, exempt: &Exempt) -> Vec<String> {
        let mut found = Vec::new();
        let told = |event: Event| event.as_linux_tells().without_address(exempt.cr2);
        if told(native.event) != told(guest.event) {
            found.push(format!("event: native {:x?}, engine {:x?}", native.event, guest.event));
        }
        self.general(&native.registers, &guest.registers, exempt, &mut found);
        if !exempt.x87 {
            self.x87(&native.registers.fpu, &guest.registers.fpu, &mut found);
        }
        self.vectors(&native.registers.fpu, &guest.registers.fpu, exempt, &mut found);
        if !exempt.memory {
            memory(&native.memory, &guest.memory, &mut found);
        }
        found
    }

    fn general(&self, native: &Registers, guest: &Registers, exempt: &Exempt, found: &mut Vec<String>) {
        const NAMES: [&str; 16] = [
            "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13",
            "r14", "r15",
        ];
        let mask = self.bits.mask();
        let pairs = native.gpr.iter().zip(&guest.gpr).zip(NAMES).take(self.bits.registers());
        for ((left, right), name) in pairs {
            differ(found, name, left & mask, right & mask);
        }
        differ(found, "rip", native.rip, guest.rip);
        let flags = FLAGS & !exempt.flags;
        differ(found, "rflags", native.rflags & flags, guest.rflags & flags);
    }

    /// The x87 state; the pointers to the last instruction are left out, for
    /// processors differ in when they set them.
    fn x87(&self, native: &FpuState, guest: &FpuState, found: &mut Vec<String>) {
        let (native, guest) = (&native.x87, &guest.x87);
        differ(found, "fcw", native.fcw, guest.fcw);
        differ(found, "fsw", native.fsw, guest.fsw);
        differ(found, "ftw", native.ftw, guest.ftw);
        for (index, (left, right)) in native.st.iter().zip(&guest.st).enumerate() {
            if left[..10] != right[..10] {
                found.push(format!("st{index}: native {}, engine {}", hex(&left[..10]), hex(&right[..10])));
            }
        }
    }

    fn vectors(&self, native: &FpuState, guest: &FpuState, exempt: &Exempt, found: &mut Vec<String>) {
        let flags = if exempt.mxcsr { 0x3f } else { 0 };
        differ(found, "mxcsr", native.mxcsr & !flags, guest.mxcsr & !flags);
        let (registers, bytes) = self.vector_extent();
        for (index, (left, right)) in native.zmm.iter().zip(&guest.zmm).enumerate().take(registers) {
            if exempt.zmm >> index & 1 == 0 && left.0[..bytes] != right.0[..bytes] {
                found.push(format!(
                    "zmm{index}: native {},\n    engine {}",
                    hex(&left.0[..bytes]),
                    hex(&right.0[..bytes])
                ));
            }
        }
        if self.xcr0.contains(Xcr0::AVX512) {
            for (index, (left, right)) in native.k.iter().zip(&guest.k).enumerate() {
                if exempt.k >> index & 1 == 0 {
                    differ(found, &format!("k{index}"), *left, *right);
                }
            }
        }
    }

    fn vector_extent(&self) -> (usize, usize) {
        let wide = self.xcr0.contains(Xcr0::AVX512);
        let registers = if wide && self.bits == Bits::B64 { 32 } else { self.bits.registers() };
        let bytes = if wide {
            64
        } else if self.xcr0.contains(Xcr0::AVX) {
            32
        } else {
            16
        };
        (registers, bytes)
    }
}

fn differ<T: PartialEq + std::fmt::LowerHex>(found: &mut Vec<String>, name: &str, native: T, guest: T) {
    if native != guest {
        found.push(format!("{name}: native {native:#x}, engine {guest:#x}"));
    }
}

/// Bytes as one big number, the highest first.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().rev().map(|byte| format!("{byte:02x}")).collect()
}

fn memory(native: &[u8], guest: &[u8], found: &mut Vec<String>) {
    if native == guest {
        return;
    }
    for (page, _) in RIGHTS.iter().enumerate().filter(|(_, rights)| **rights != Rights::Absent) {
        let range = page * PAGE as usize..(page + 1) * PAGE as usize;
        let (left, right) = (&native[range.clone()], &guest[range.clone()]);
        let Some(first) = left.iter().zip(right).position(|(a, b)| a != b) else { continue };
        let end = (first + 16).min(left.len());
        let at = WINDOW + (range.start + first) as u64;
        found.push(format!(
            "memory from {at:#x}: native {}, engine {}",
            hex(&left[first..end]),
            hex(&right[first..end])
        ));
    }
}
