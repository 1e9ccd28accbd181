//! The register map of the local APIC (SDM 3A tables 11-1 and 11-6) and the
//! layout of its registers.

use bitfield_struct::bitfield;

/// Frequency of the clock that the timer divides.
pub const LAPIC_TIMER_HZ: u64 = 1_000_000_000;

/// Where the register page is after power-on.
pub const DEFAULT_BASE: u64 = 0xfee0_0000;

/// First MSR of the x2APIC register space.
pub const MSR_X2APIC_FIRST: u32 = 0x800;
/// Last MSR of the x2APIC register space.
pub const MSR_X2APIC_LAST: u32 = 0x8ff;
/// IA32_APIC_BASE.
pub const MSR_APIC_BASE: u32 = 0x1b;
/// IA32_TSC_DEADLINE.
pub const MSR_TSC_DEADLINE: u32 = 0x6e0;

/// Version register: an integrated xAPIC (0x15) with seven LVT entries (the
/// field holds the highest index) and EOI broadcast suppression.
pub(super) const VERSION: u32 = 1 << 24 | 6 << 16 | 0x15;

/// ESR: an IPI with a vector below 16 was to be sent.
pub(super) const ESR_SEND_ILLEGAL_VECTOR: u32 = 1 << 5;
/// ESR: a message or local source brought a vector below 16.
pub(super) const ESR_RECEIVE_ILLEGAL_VECTOR: u32 = 1 << 6;
/// ESR: a register was accessed that does not exist.
pub(super) const ESR_ILLEGAL_REGISTER: u32 = 1 << 7;
/// All ESR bits that this APIC can set.
pub(super) const ESR_MASK: u32 = ESR_SEND_ILLEGAL_VECTOR | ESR_RECEIVE_ILLEGAL_VECTOR | ESR_ILLEGAL_REGISTER;

/// Writable bits of the spurious-interrupt vector register: vector, software
/// enable, focus checking, EOI broadcast suppression.
pub(super) const SVR_MASK: u32 = 0x13ff;
/// Writable bits of the divide configuration register.
pub(super) const DIVIDE_MASK: u32 = 0b1011;
/// Writable bits of the low half of the ICR.
pub(super) const ICR_LOW_MASK: u32 = 0x000c_cfff;
/// Delivery status of the ICR and the LVT entries: read-only, always idle.
pub(super) const DELIVERY_STATUS: u32 = 1 << 12;

/// Interrupts below this vector are reserved for exceptions.
pub(super) const FIRST_LEGAL_VECTOR: u8 = 16;

/// A register, by its MMIO offset divided by 16, which is also its MSR index
/// less 0x800.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Register {
    Id,
    Version,
    TaskPriority,
    ArbitrationPriority,
    ProcessorPriority,
    Eoi,
    LogicalDestination,
    DestinationFormat,
    SpuriousVector,
    InService(usize),
    TriggerMode(usize),
    InterruptRequest(usize),
    ErrorStatus,
    IcrLow,
    IcrHigh,
    Lvt(LvtEntry),
    InitialCount,
    CurrentCount,
    DivideConfiguration,
    SelfIpi,
}

impl Register {
    /// The register at index `index` (MMIO offset / 16), in the manual's order.
    pub(super) fn from_index(index: u32) -> Option<Self> {
        Some(match index {
            0x02 => Self::Id,
            0x03 => Self::Version,
            0x08 => Self::TaskPriority,
            0x09 => Self::ArbitrationPriority,
            0x0a => Self::ProcessorPriority,
            0x0b => Self::Eoi,
            0x0d => Self::LogicalDestination,
            0x0e => Self::DestinationFormat,
            0x0f => Self::SpuriousVector,
            0x10..=0x17 => Self::InService((index & 7) as usize),
            0x18..=0x1f => Self::TriggerMode((index & 7) as usize),
            0x20..=0x27 => Self::InterruptRequest((index & 7) as usize),
            0x28 => Self::ErrorStatus,
            0x2f => Self::Lvt(LvtEntry::Cmci),
            0x30 => Self::IcrLow,
            0x31 => Self::IcrHigh,
            0x32 => Self::Lvt(LvtEntry::Timer),
            0x33 => Self::Lvt(LvtEntry::Thermal),
            0x34 => Self::Lvt(LvtEntry::Performance),
            0x35 => Self::Lvt(LvtEntry::Lint0),
            0x36 => Self::Lvt(LvtEntry::Lint1),
            0x37 => Self::Lvt(LvtEntry::Error),
            0x38 => Self::InitialCount,
            0x39 => Self::CurrentCount,
            0x3e => Self::DivideConfiguration,
            0x3f => Self::SelfIpi,
            _ => return None,
        })
    }
}

/// An entry of the local vector table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(super) enum LvtEntry {
    Cmci,
    Timer,
    Thermal,
    Performance,
    Lint0,
    Lint1,
    Error,
}

impl LvtEntry {
    /// How many entries there are.
    pub(super) const COUNT: usize = 7;
    /// All of them.
    pub(super) const ALL: [Self; Self::COUNT] =
        [Self::Cmci, Self::Timer, Self::Thermal, Self::Performance, Self::Lint0, Self::Lint1, Self::Error];

    /// Its place in the register page, divided by 16.
    pub(super) const fn index(self) -> usize {
        match self {
            Self::Cmci => 0x2f,
            Self::Timer => 0x32,
            Self::Thermal => 0x33,
            Self::Performance => 0x34,
            Self::Lint0 => 0x35,
            Self::Lint1 => 0x36,
            Self::Error => 0x37,
        }
    }

    /// Bits that software can write (SDM 3A figure 11-8).
    pub(super) const fn writable(self) -> u32 {
        match self {
            Self::Timer => 0x0007_00ff,
            Self::Cmci | Self::Thermal | Self::Performance => 0x0001_07ff,
            Self::Lint0 | Self::Lint1 => 0x0001_a7ff,
            Self::Error => 0x0001_00ff,
        }
    }

    /// Bits that are defined but read-only: writing them is no error.
    pub(super) const fn read_only(self) -> u32 {
        match self {
            Self::Lint0 | Self::Lint1 => DELIVERY_STATUS | LVT_REMOTE_IRR,
            _ => DELIVERY_STATUS,
        }
    }
}

/// The mask bit of an LVT entry.
pub(super) const LVT_MASKED: u32 = 1 << 16;
/// The remote IRR bit of LINT0 and LINT1.
pub(super) const LVT_REMOTE_IRR: u32 = 1 << 14;

/// An LVT entry's fields (SDM 3A figure 11-8).
#[bitfield(u32)]
pub(super) struct Lvt {
    pub(super) vector: u8,
    #[bits(3)]
    pub(super) delivery: u8,
    _reserved: bool,
    pub(super) delivery_status: bool,
    pub(super) active_low: bool,
    pub(super) remote_irr: bool,
    pub(super) level: bool,
    pub(super) masked: bool,
    #[bits(2)]
    pub(super) timer_mode: u8,
    #[bits(13)]
    _reserved: u32,
}

/// The low half of the interrupt command register (SDM 3A figure 11-12).
#[bitfield(u32)]
pub(super) struct IcrLow {
    pub(super) vector: u8,
    #[bits(3)]
    pub(super) delivery: u8,
    pub(super) logical: bool,
    pub(super) delivery_status: bool,
    _reserved: bool,
    pub(super) assert: bool,
    pub(super) level: bool,
    #[bits(2)]
    _reserved: u8,
    #[bits(2)]
    pub(super) shorthand: u8,
    #[bits(12)]
    _reserved: u32,
}

/// The spurious-interrupt vector register (SDM 3A figure 11-23).
#[bitfield(u32)]
pub(super) struct SpuriousVector {
    pub(super) vector: u8,
    pub(super) enabled: bool,
    pub(super) focus_checking_disabled: bool,
    #[bits(2)]
    _reserved: u8,
    pub(super) suppress_eoi_broadcast: bool,
    #[bits(19)]
    _reserved: u32,
}

/// IA32_APIC_BASE (SDM 3A figure 11-26).
#[bitfield(u64)]
pub(super) struct ApicBase {
    _reserved: u8,
    pub(super) bsp: bool,
    _reserved: bool,
    pub(super) x2apic: bool,
    pub(super) enabled: bool,
    #[bits(52)]
    pub(super) frame: u64,
}
