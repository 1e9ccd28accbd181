//! Where things lie: the window of linear addresses that the host and the
//! guest have in common, and the guest's own tables.

/// Bytes in a page.
pub(crate) const PAGE: u64 = 4096;
/// Linear address of the window. It is below 2 GiB, so that every form of
/// addressing reaches it, and far from anything that the host maps.
pub(crate) const WINDOW: u64 = 0x2000_0000;
/// Pages in the window.
pub(crate) const PAGES: u64 = 16;
/// Bytes in the window.
pub(crate) const WINDOW_SIZE: usize = (PAGES * PAGE) as usize;

/// Two pages of code, with an absent page behind them.
pub(crate) const CODE: u64 = WINDOW + PAGE;
/// The end of the code pages.
pub(crate) const CODE_END: u64 = CODE + 2 * PAGE;
/// Two writable pages between absent ones.
pub(crate) const DATA: u64 = WINDOW + 4 * PAGE;
/// The end of the writable pages: an absent page follows.
pub(crate) const DATA_END: u64 = DATA + 2 * PAGE;
/// A read-only page; the next is writable, and the one after that absent.
pub(crate) const READ_ONLY: u64 = WINDOW + 7 * PAGE;
/// An absent page.
pub(crate) const ABSENT: u64 = WINDOW + 9 * PAGE;
/// Two pages of stack between absent ones.
pub(crate) const STACK: u64 = WINDOW + 10 * PAGE;
/// The end of the stack pages.
pub(crate) const STACK_END: u64 = STACK + 2 * PAGE;
/// Two pages of code that can be written, between absent ones.
pub(crate) const SELF: u64 = WINDOW + 13 * PAGE;
/// The end of these.
pub(crate) const SELF_END: u64 = SELF + 2 * PAGE;
/// The base address of GS in 64-bit mode.
pub(crate) const GS_BASE: u64 = DATA + 0x140;

/// What user code may do with a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rights {
    /// Not mapped.
    Absent,
    /// Read and execute.
    Code,
    /// Read, write and execute.
    All,
    /// Read and write.
    Data,
    /// Read.
    ReadOnly,
}

impl Rights {
    /// Whether it may hold code.
    pub(crate) const fn executes(self) -> bool {
        matches!(self, Self::Code | Self::All)
    }
}

/// The rights to each page of the window.
pub(crate) const RIGHTS: [Rights; PAGES as usize] = {
    use Rights::{Absent, All, Code, Data, ReadOnly};
    [
        Absent, Code, Code, Absent, Data, Data, Absent, ReadOnly, Data, Absent, Data, Data, Absent, All, All,
        Absent,
    ]
};

/// What fills the code pages around a sequence: INT3, so that every way out of
/// it ends the run.
pub(crate) const FILLER: u8 = 0xcc;

/// Selectors as Linux has them, so that reading them gives the same.
pub(crate) mod selector {
    /// 32-bit user code.
    pub(crate) const CODE32: u16 = 0x23;
    /// User data.
    pub(crate) const DATA: u16 = 0x2b;
    /// 64-bit user code.
    pub(crate) const CODE64: u16 = 0x33;
}
