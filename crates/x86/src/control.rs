//! Control, debug and flag registers by the manual's bit names.

use bitflags::bitflags;
use serde::{Deserialize, Serialize};

macro_rules! register {
    ($(#[doc = $doc:literal])* $name:ident: $ty:ty { $($(#[doc = $bit_doc:literal])* $bit:ident = $value:expr;)* }) => {
        bitflags! {
            $(#[doc = $doc])*
            #[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Hash, Serialize, Deserialize)]
            #[serde(transparent)]
            #[repr(transparent)]
            pub struct $name: $ty {
                $($(#[doc = $bit_doc])* const $bit = $value;)*
                // Bits without a name of ours are kept as the guest wrote them.
                const _ = !0;
            }
        }
    };
}

register! {
    /// EFLAGS/RFLAGS (SDM 1 3.4.3).
    Rflags: u64 {
        /// Carry.
        CF = 1 << 0;
        /// Bit 1, always set.
        FIXED = 1 << 1;
        /// Parity.
        PF = 1 << 2;
        /// Auxiliary carry.
        AF = 1 << 4;
        /// Zero.
        ZF = 1 << 6;
        /// Sign.
        SF = 1 << 7;
        /// Trap (single step).
        TF = 1 << 8;
        /// Interrupt enable.
        IF = 1 << 9;
        /// Direction.
        DF = 1 << 10;
        /// Overflow.
        OF = 1 << 11;
        /// I/O privilege level, two bits.
        IOPL = 3 << 12;
        /// Nested task.
        NT = 1 << 14;
        /// Resume.
        RF = 1 << 16;
        /// Virtual-8086 mode.
        VM = 1 << 17;
        /// Alignment check, or access control with SMAP.
        AC = 1 << 18;
        /// Virtual interrupt.
        VIF = 1 << 19;
        /// Virtual interrupt pending.
        VIP = 1 << 20;
        /// CPUID available.
        ID = 1 << 21;
    }
}

impl Rflags {
    /// The six arithmetic flags.
    pub const ARITHMETIC: Self = Self::from_bits_retain(0x8d5);
    /// Every bit that software can ever set.
    pub const DEFINED: Self = Self::from_bits_retain(0x3f_7fd7);

    /// The I/O privilege level.
    pub const fn iopl(self) -> u8 {
        (self.bits() >> 12 & 3) as u8
    }
}

register! {
    /// CR0 (SDM 3A 2.5).
    Cr0: u64 {
        /// Protection enable.
        PE = 1 << 0;
        /// Monitor coprocessor.
        MP = 1 << 1;
        /// Emulation.
        EM = 1 << 2;
        /// Task switched.
        TS = 1 << 3;
        /// Extension type, always set.
        ET = 1 << 4;
        /// Numeric error.
        NE = 1 << 5;
        /// Write protect.
        WP = 1 << 16;
        /// Alignment mask.
        AM = 1 << 18;
        /// Not write-through.
        NW = 1 << 29;
        /// Cache disable.
        CD = 1 << 30;
        /// Paging.
        PG = 1 << 31;
    }
}

register! {
    /// CR4 (SDM 3A 2.5).
    Cr4: u64 {
        /// Virtual-8086 mode extensions.
        VME = 1 << 0;
        /// Protected-mode virtual interrupts.
        PVI = 1 << 1;
        /// Time stamp disable.
        TSD = 1 << 2;
        /// Debugging extensions.
        DE = 1 << 3;
        /// Page size extensions.
        PSE = 1 << 4;
        /// Physical address extension.
        PAE = 1 << 5;
        /// Machine-check enable.
        MCE = 1 << 6;
        /// Page global enable.
        PGE = 1 << 7;
        /// Performance-monitoring counter enable.
        PCE = 1 << 8;
        /// FXSAVE/FXRSTOR and SSE.
        OSFXSR = 1 << 9;
        /// Unmasked SIMD floating-point exceptions.
        OSXMMEXCPT = 1 << 10;
        /// User-mode instruction prevention.
        UMIP = 1 << 11;
        /// 57-bit linear addresses.
        LA57 = 1 << 12;
        /// VMX enable.
        VMXE = 1 << 13;
        /// SMX enable.
        SMXE = 1 << 14;
        /// RDFSBASE and its kin.
        FSGSBASE = 1 << 16;
        /// Process-context identifiers.
        PCIDE = 1 << 17;
        /// XSAVE and processor extended states.
        OSXSAVE = 1 << 18;
        /// Supervisor-mode execution prevention.
        SMEP = 1 << 20;
        /// Supervisor-mode access prevention.
        SMAP = 1 << 21;
        /// Protection keys for user pages.
        PKE = 1 << 22;
        /// Control-flow enforcement.
        CET = 1 << 23;
        /// Protection keys for supervisor pages.
        PKS = 1 << 24;
    }
}

register! {
    /// IA32_EFER (SDM 3A 2.2.1, APM 2 3.1.7).
    Efer: u64 {
        /// SYSCALL enable.
        SCE = 1 << 0;
        /// Long mode enable.
        LME = 1 << 8;
        /// Long mode active.
        LMA = 1 << 10;
        /// No-execute enable.
        NXE = 1 << 11;
        /// Secure virtual machine enable (AMD).
        SVME = 1 << 12;
        /// Fast FXSAVE/FXRSTOR (AMD).
        FFXSR = 1 << 14;
    }
}

register! {
    /// DR6, the debug status register (SDM 3B 18.2.3).
    Dr6: u64 {
        /// Breakpoint 0 detected; breakpoints 1 to 3 follow.
        B0 = 1 << 0;
        /// The four breakpoint bits.
        B = 0xf;
        /// Debug register access detected.
        BD = 1 << 13;
        /// Single step.
        BS = 1 << 14;
        /// Task switch.
        BT = 1 << 15;
    }
}

impl Dr6 {
    /// The value after reset; its set bits are always set.
    pub const RESET: Self = Self::from_bits_retain(0xffff_0ff0);
}

register! {
    /// DR7, the debug control register (SDM 3B 18.2.4).
    Dr7: u64 {
        /// Local and global enables of the four breakpoints.
        ENABLES = 0xff;
        /// Local exact.
        LE = 1 << 8;
        /// Global exact.
        GE = 1 << 9;
        /// Bit 10, always set.
        FIXED = 1 << 10;
        /// General detect.
        GD = 1 << 13;
    }
}

register! {
    /// XCR0, the extended-state enable mask (SDM 1 13.3).
    Xcr0: u64 {
        /// x87.
        X87 = 1 << 0;
        /// XMM registers and MXCSR.
        SSE = 1 << 1;
        /// Upper halves of the YMM registers.
        AVX = 1 << 2;
        /// Opmask registers.
        OPMASK = 1 << 5;
        /// Upper halves of ZMM0 to ZMM15.
        ZMM_HI256 = 1 << 6;
        /// ZMM16 to ZMM31.
        HI16_ZMM = 1 << 7;
        /// PKRU.
        PKRU = 1 << 9;
    }
}

impl Xcr0 {
    /// The three components of AVX-512, only ever enabled together.
    pub const AVX512: Self = Self::OPMASK.union(Self::ZMM_HI256).union(Self::HI16_ZMM);
}
