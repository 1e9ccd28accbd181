//! Interrupt messages: what I/O APICs, PCI devices and local APICs send to
//! local APICs.

use serde::{Deserialize, Serialize};

/// The destination that means every local APIC, in physical and in logical
/// mode (SDM 3A 11.12.9). Senders with 8-bit destinations use it for 0xFF.
pub const BROADCAST: u32 = u32::MAX;

/// How a message is handled at its destination (SDM 3A table 11-3, figure
/// 11-8).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum DeliveryMode {
    /// Vector to all destinations.
    Fixed,
    /// Vector to the one destination that runs at the lowest priority.
    LowestPriority,
    /// System management interrupt.
    Smi,
    /// Non-maskable interrupt.
    Nmi,
    /// INIT reset request.
    Init,
    /// Start-up IPI; the vector says where to start.
    StartUp,
    /// The vector comes from an 8259A.
    ExtInt,
}

impl DeliveryMode {
    /// Decodes the 3-bit field; 011 is reserved.
    pub const fn from_bits(bits: u8) -> Option<Self> {
        match bits & 7 {
            0 => Some(Self::Fixed),
            1 => Some(Self::LowestPriority),
            2 => Some(Self::Smi),
            4 => Some(Self::Nmi),
            5 => Some(Self::Init),
            6 => Some(Self::StartUp),
            7 => Some(Self::ExtInt),
            _ => None,
        }
    }

    /// The 3-bit field.
    pub const fn bits(self) -> u8 {
        match self {
            Self::Fixed => 0,
            Self::LowestPriority => 1,
            Self::Smi => 2,
            Self::Nmi => 4,
            Self::Init => 5,
            Self::StartUp => 6,
            Self::ExtInt => 7,
        }
    }

    /// Whether the message's vector goes through IRR and ISR.
    pub const fn has_vector(self) -> bool {
        matches!(self, Self::Fixed | Self::LowestPriority)
    }
}

/// How an interrupt was signalled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum TriggerMode {
    /// By a transition.
    Edge,
    /// By a level, which lasts until its cause is gone.
    Level,
}

impl TriggerMode {
    /// From the register bit: 1 is level.
    pub const fn from_level_bit(level: bool) -> Self {
        if level { Self::Level } else { Self::Edge }
    }
}

/// One interrupt message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ApicMessage {
    /// APIC id, logical destination or [`BROADCAST`].
    pub destination: u32,
    /// Whether `destination` is a logical destination.
    pub logical: bool,
    /// What to do at the destination.
    pub delivery: DeliveryMode,
    /// The interrupt vector.
    pub vector: u8,
    /// How the interrupt was signalled.
    pub trigger: TriggerMode,
}

impl ApicMessage {
    /// Decodes a message-signalled interrupt: a write of `data` to `address`
    /// (SDM 3A 11.11). Address bits 11:5 carry destination bits 14:8, as
    /// guests use them that were told of extended destination ids. `None` if
    /// this is no interrupt message.
    pub fn from_msi(address: u64, data: u32) -> Option<Self> {
        if address >> 20 != 0xfee {
            return None;
        }
        let level = data & (1 << 15) != 0;
        let asserted = data & (1 << 14) != 0;
        if level && !asserted {
            return None;
        }
        let redirect = address & (1 << 3) != 0;
        let delivery = match DeliveryMode::from_bits((data >> 8) as u8)? {
            DeliveryMode::StartUp => return None,
            DeliveryMode::Fixed if redirect => DeliveryMode::LowestPriority,
            other => other,
        };
        Some(Self {
            destination: widen_destination((address >> 12) as u8, (address >> 5) as u8 & 0x7f),
            logical: address & (1 << 2) != 0,
            delivery,
            vector: data as u8,
            trigger: TriggerMode::from_level_bit(level && delivery.has_vector()),
        })
    }
}

impl ApicMessage {
    /// The message as a write: address and data. The upper 24 bits of a
    /// destination are in bits 63:40 of the address; plain 0xFF is everybody.
    pub fn to_msi(self) -> (u64, u32) {
        let destination = if self.destination == BROADCAST { 0xff } else { self.destination };
        let wide = u64::from(destination & !0xff) << 32;
        let address = 0xfee0_0000 | u64::from(destination & 0xff) << 12 | u64::from(self.logical) << 2;
        let level = if self.trigger == TriggerMode::Level { 1 << 15 } else { 0 };
        (wide | address, level | 1 << 14 | u32::from(self.delivery.bits()) << 8 | u32::from(self.vector))
    }
}

/// Makes a 32-bit destination of an 8-bit one and seven extension bits; plain
/// 0xFF is everybody.
pub(crate) fn widen_destination(low: u8, extension: u8) -> u32 {
    if low == 0xff && extension == 0 { BROADCAST } else { u32::from(extension) << 8 | u32::from(low) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn msi_decodes() {
        let message = ApicMessage::from_msi(0xfee0_3000, 0x0041).unwrap();
        assert_eq!(
            message,
            ApicMessage {
                destination: 3,
                logical: false,
                delivery: DeliveryMode::Fixed,
                vector: 0x41,
                trigger: TriggerMode::Edge,
            }
        );
        let message = ApicMessage::from_msi(0xfee0_100c, 0xc141).unwrap();
        assert!(message.logical);
        assert_eq!(message.delivery, DeliveryMode::LowestPriority);
        assert_eq!(message.trigger, TriggerMode::Level);
    }

    #[test]
    fn msi_redirection_hint_asks_for_arbitration() {
        let message = ApicMessage::from_msi(0xfee0_100c, 0x41).unwrap();
        assert_eq!(message.delivery, DeliveryMode::LowestPriority);
    }

    #[test]
    fn msi_destinations() {
        let destination = |address| ApicMessage::from_msi(address, 0x41).unwrap().destination;
        assert_eq!(destination(0xfeef_f000), BROADCAST);
        assert_eq!(destination(0xfeef_f020), 0x1ff);
        assert_eq!(destination(0xfee0_0fe0), 0x7f00);
    }

    #[test]
    fn messages_become_the_writes_that_they_come_from() {
        for (address, data) in [(0xfee0_3000, 0x4041), (0xfee0_1004, 0xc141), (0xfee0_0000, 0x4400)] {
            assert_eq!(ApicMessage::from_msi(address, data).unwrap().to_msi(), (address, data));
        }
        let message = ApicMessage::from_msi(0xfeef_f000, 0x4041).unwrap();
        assert_eq!(message.to_msi(), (0xfeef_f000, 0x4041));
        assert_eq!(ApicMessage { destination: 0x1_0203, ..message }.to_msi().0, 0x0001_0200_fee0_3000);
        for bits in 0..8 {
            assert!(DeliveryMode::from_bits(bits).is_none_or(|mode| mode.bits() == bits));
        }
    }

    #[test]
    fn what_is_no_msi_is_refused() {
        assert_eq!(ApicMessage::from_msi(0xfed0_0000, 0x41), None);
        assert_eq!(ApicMessage::from_msi(0x1_fee0_0000, 0x41), None);
        assert_eq!(ApicMessage::from_msi(0xfee0_0000, 0x341), None, "reserved mode");
        assert_eq!(ApicMessage::from_msi(0xfee0_0000, 0x641), None, "start-up");
        assert_eq!(ApicMessage::from_msi(0xfee0_0000, 0x8041), None, "level de-assert");
    }
}
