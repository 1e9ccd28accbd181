//! Addresses of the two spaces that a guest sees.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Size of the smallest page, in bytes.
pub const PAGE_SIZE: u64 = 4096;

macro_rules! address {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[repr(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// The address of the 4 KiB page that holds this address.
            pub const fn page(self) -> Self {
                Self(self.0 & !(PAGE_SIZE - 1))
            }

            /// The 4 KiB page number.
            pub const fn page_number(self) -> u64 {
                self.0 / PAGE_SIZE
            }

            /// The offset within the 4 KiB page.
            pub const fn page_offset(self) -> u64 {
                self.0 & (PAGE_SIZE - 1)
            }

            /// The address `offset` bytes further, wrapping at 2^64.
            pub const fn wrapping_add(self, offset: u64) -> Self {
                Self(self.0.wrapping_add(offset))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:#x})"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }
    };
}

address! {
    /// A guest-physical address.
    GuestPhysAddr
}
address! {
    /// A linear address: after segmentation, before paging (SDM 3A 3.1).
    LinearAddr
}

/// Whether `addr` is canonical for a linear-address width of 48 bits, or of 57
/// with 5-level paging (SDM 1 3.3.7.1).
pub const fn is_canonical(addr: u64, la57: bool) -> bool {
    let shift = if la57 { 7 } else { 16 };
    ((addr as i64) << shift >> shift) as u64 == addr
}
