//! Which addresses of the guest lead where.

use std::net::{Ipv4Addr, SocketAddrV4};

use super::config::{Reach, Subnet};

/// Why nothing goes to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It is not permitted.
    Prohibited,
    /// There is nothing that a guest could mean.
    Unreachable,
}

/// What lies between the guest and the world.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gate {
    pub(super) subnet: Subnet,
    pub(super) reach: Reach,
}

impl Gate {
    /// The address on the host's side of `to`.
    pub(super) fn outward(&self, to: Ipv4Addr) -> Result<Ipv4Addr, Refusal> {
        if to == self.subnet.gateway() {
            let permitted = self.reach == Reach::Everything;
            return if permitted { Ok(Ipv4Addr::LOCALHOST) } else { Err(Refusal::Prohibited) };
        }
        if self.subnet.contains(to) || !is_somewhere(to) {
            return Err(Refusal::Unreachable);
        }
        if self.reach == Reach::Nothing { Err(Refusal::Prohibited) } else { Ok(to) }
    }

    /// Whether the name server answers.
    pub(super) fn may_ask(&self) -> bool {
        self.reach != Reach::Nothing
    }

    /// The address by which the guest knows `peer`, who came by a forwarded
    /// port.
    pub(super) fn inward(&self, peer: SocketAddrV4) -> SocketAddrV4 {
        let foreign = is_somewhere(*peer.ip()) && !self.subnet.contains(*peer.ip());
        let address = if foreign { *peer.ip() } else { self.subnet.gateway() };
        SocketAddrV4::new(address, peer.port())
    }
}

/// Whether `address` is that of one machine. The host would take 0.0.0.0 and
/// 127.0.0.0/8 for itself.
fn is_somewhere(address: Ipv4Addr) -> bool {
    let [first, ..] = address.octets();
    first != 0 && first != 127 && first < 224
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);

    fn gate(reach: Reach) -> Gate {
        Gate { subnet: Subnet::default(), reach }
    }

    #[test]
    fn the_gateway_is_the_hosts_loopback_if_permitted() {
        let gateway = Subnet::default().gateway();
        assert_eq!(gate(Reach::Everything).outward(gateway), Ok(Ipv4Addr::LOCALHOST));
        assert_eq!(gate(Reach::NotLoopback).outward(gateway), Err(Refusal::Prohibited));
        assert_eq!(gate(Reach::NotLoopback).outward(OUTSIDE), Ok(OUTSIDE));
        assert_eq!(gate(Reach::Nothing).outward(gateway), Err(Refusal::Prohibited));
        assert_eq!(gate(Reach::Nothing).outward(OUTSIDE), Err(Refusal::Prohibited));
    }

    #[test]
    fn no_address_leads_to_the_loopback_by_the_back_door() {
        for text in
            ["127.0.0.1", "127.9.9.9", "0.0.0.0", "0.1.2.3", "224.0.0.1", "255.255.255.255", "10.0.2.77"]
        {
            let address = text.parse().unwrap();
            assert_eq!(gate(Reach::Everything).outward(address), Err(Refusal::Unreachable), "{text}");
        }
    }

    #[test]
    fn local_callers_come_from_the_gateway() {
        let gate = gate(Reach::Everything);
        let local = gate.inward(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 9));
        assert_eq!(local, SocketAddrV4::new(gate.subnet.gateway(), 9));
        assert_eq!(gate.inward(SocketAddrV4::new(OUTSIDE, 9)), SocketAddrV4::new(OUTSIDE, 9));
    }
}
