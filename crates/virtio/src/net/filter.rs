//! Which frames are for the guest (5.1.6.5.1, 5.1.6.5.2).

use network::Mac;

/// The most addresses of each kind that are kept; beyond it all of the kind
/// are taken.
const MOST: usize = 64;

/// Addresses of one kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Addresses {
    all: bool,
    some: Vec<Mac>,
}

impl Addresses {
    fn set(&mut self, addresses: &[Mac]) {
        self.all = addresses.len() > MOST;
        self.some = if self.all { Vec::new() } else { addresses.to_vec() };
    }

    fn contain(&self, address: &Mac) -> bool {
        self.all || self.some.contains(address)
    }
}

/// What the driver wants to see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Filter {
    own: Mac,
    everything: bool,
    every_group: bool,
    single: Addresses,
    groups: Addresses,
}

impl Filter {
    /// Everything, until the driver says otherwise.
    pub(super) fn new(own: Mac) -> Self {
        let (single, groups) = (Addresses::default(), Addresses::default());
        Self { own, everything: true, every_group: false, single, groups }
    }

    /// The card has another address.
    pub(super) fn set_own(&mut self, own: Mac) {
        self.own = own;
    }

    /// All frames, or not.
    pub(super) fn set_everything(&mut self, on: bool) {
        self.everything = on;
    }

    /// All frames to groups, or not.
    pub(super) fn set_every_group(&mut self, on: bool) {
        self.every_group = on;
    }

    /// Further addresses.
    pub(super) fn set_table(&mut self, single: &[Mac], groups: &[Mac]) {
        self.single.set(single);
        self.groups.set(groups);
    }

    /// Whether a frame is for the guest.
    pub(super) fn admits(&self, frame: &[u8]) -> bool {
        let Some(to) = frame.first_chunk::<6>() else { return false };
        if self.everything || *to == self.own || *to == [0xff; 6] {
            return true;
        }
        let group = to[0] & 1 != 0;
        if group { self.every_group || self.groups.contain(to) } else { self.single.contain(to) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Mac = [2, 0, 0, 0, 0, 1];
    const OTHER: Mac = [2, 0, 0, 0, 0, 2];
    const GROUP: Mac = [1, 0, 0x5e, 0, 0, 1];

    #[test]
    fn each_kind_of_address_has_its_switch() {
        let mut filter = Filter::new(OWN);
        assert!(filter.admits(&OTHER) && filter.admits(&GROUP));
        filter.set_everything(false);
        assert!(filter.admits(&OWN) && filter.admits(&[0xff; 6]));
        assert!(!filter.admits(&OTHER) && !filter.admits(&GROUP) && !filter.admits(&[2, 0]));
        filter.set_table(&[OTHER], &[GROUP]);
        assert!(filter.admits(&OTHER) && filter.admits(&GROUP));
        filter.set_table(&[], &[[3; 6]; MOST + 1]);
        assert!(!filter.admits(&OTHER) && filter.admits(&GROUP));
        filter.set_table(&[], &[]);
        filter.set_every_group(true);
        assert!(!filter.admits(&OTHER) && filter.admits(&GROUP));
    }
}
