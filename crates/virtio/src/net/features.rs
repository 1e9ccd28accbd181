//! Feature bits of the network card (5.1.3).

use network::Offloads;

const CSUM: u64 = 1 << 0;
const GUEST_CSUM: u64 = 1 << 1;
const CTRL_GUEST_OFFLOADS: u64 = 1 << 2;
const MAC: u64 = 1 << 5;
const GUEST_TSO4: u64 = 1 << 7;
const GUEST_TSO6: u64 = 1 << 8;
const HOST_TSO4: u64 = 1 << 11;
const HOST_TSO6: u64 = 1 << 12;
/// A frame may lie in several chains.
pub(super) const MRG_RXBUF: u64 = 1 << 15;
const STATUS: u64 = 1 << 16;
const CTRL_VQ: u64 = 1 << 17;
const CTRL_RX: u64 = 1 << 18;
const CTRL_MAC_ADDR: u64 = 1 << 23;

/// Each offload, and the features without which it is nothing (5.1.3.1).
const OFFLOADS: [(u64, Offloads, u64); 6] = [
    (CSUM, Offloads::CSUM, 0),
    (GUEST_CSUM, Offloads::GUEST_CSUM, 0),
    (GUEST_TSO4, Offloads::GUEST_TSO4, GUEST_CSUM),
    (GUEST_TSO6, Offloads::GUEST_TSO6, GUEST_CSUM),
    (HOST_TSO4, Offloads::HOST_TSO4, CSUM),
    (HOST_TSO6, Offloads::HOST_TSO6, CSUM),
];

/// What a card offers whose backend is able to do `offloads`.
pub(super) fn offered(offloads: Offloads) -> u64 {
    let able = OFFLOADS.iter().filter(|(_, offload, _)| offloads.contains(*offload));
    let bits = able.fold(0, |bits, (bit, ..)| bits | bit);
    let changeable = if bits & GUEST_CSUM != 0 { CTRL_GUEST_OFFLOADS } else { 0 };
    bits | changeable | MAC | MRG_RXBUF | STATUS | CTRL_VQ | CTRL_RX | CTRL_MAC_ADDR
}

/// The offloads among `bits`, a driver's features.
pub(super) fn chosen(bits: u64, able: Offloads) -> Offloads {
    let chosen = OFFLOADS.iter().filter(|(bit, _, needs)| bits & bit != 0 && bits & needs == *needs);
    chosen.fold(Offloads::empty(), |offloads, (_, offload, _)| offloads | *offload) & able
}

/// Whether a driver with the features `negotiated` may ask for the offloads
/// towards it that are among `bits`, and nothing else.
pub(super) fn may_choose(bits: u64, negotiated: u64) -> bool {
    let towards = GUEST_CSUM | GUEST_TSO4 | GUEST_TSO6;
    negotiated & CTRL_GUEST_OFFLOADS != 0 && bits & !(towards & negotiated) == 0
}

/// The bits of the offloads towards the host.
pub(super) fn towards_host(bits: u64) -> u64 {
    bits & (CSUM | HOST_TSO4 | HOST_TSO6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offloads_have_their_bits_and_needs() {
        assert_eq!(offered(Offloads::empty()) & 0x1987, 0);
        assert_eq!(offered(Offloads::all()) & 0x1987, 0x1987);
        let all = Offloads::all();
        assert_eq!(chosen(GUEST_TSO4 | HOST_TSO4, all), Offloads::empty());
        assert_eq!(chosen(GUEST_TSO4 | GUEST_CSUM, all), Offloads::GUEST_TSO4 | Offloads::GUEST_CSUM);
        assert_eq!(chosen(CSUM | HOST_TSO4, Offloads::CSUM), Offloads::CSUM);
    }

    #[test]
    fn only_what_was_negotiated_can_be_chosen_later() {
        let negotiated = CTRL_GUEST_OFFLOADS | GUEST_CSUM | CSUM;
        assert!(may_choose(GUEST_CSUM, negotiated) && may_choose(0, negotiated));
        for bits in [GUEST_TSO4, CSUM, 1 << 63] {
            assert!(!may_choose(bits, negotiated));
        }
        assert!(!may_choose(0, GUEST_CSUM));
    }
}
