//! The page-table walk (SDM 3A chapter 4): no paging, 32-bit, PAE, 4-level and
//! 5-level, with all page sizes, access rights and accessed and dirty flags.
//!
//! [`Paging`] is a small copyable digest of the registers that decide about
//! translation. An engine rebuilds it when CR0, CR3, CR4, EFER or PKRU change
//! and asks it on every TLB miss.

mod pdpte;
mod rights;
#[cfg(test)]
mod tests;
mod walk;

pub use pdpte::load_pdptes;

use crate::{CpuState, Cr0, Cr4, Efer, Exception, GuestPhysAddr, LinearAddr, PageFaultCode};
use walk::{Walk, WalkFault};

/// Physical-address width (MAXPHYADDR) of the machine unless told otherwise.
pub const DEFAULT_PHYS_BITS: u8 = 46;

/// How often a walk starts again because another processor changed an entry
/// under it, before the entry is used as last read.
const MAX_RESTARTS: u32 = 64;

/// Guest-physical memory as the page walker sees it.
///
/// Walks may lead anywhere, because the guest writes the tables. Where there
/// is no memory (a hole, a device) reads return 0, so that the walk ends in a
/// not-present fault. Where memory cannot be written (a ROM) an update is
/// dropped and reported as done, as a real bus would do.
pub trait PageTableMemory {
    /// Reads the 4-byte entry at `at`, which is 4-byte aligned.
    fn read_entry32(&self, at: GuestPhysAddr) -> u32;

    /// Reads the 8-byte entry at `at`, which is 8-byte aligned, in one piece.
    fn read_entry64(&self, at: GuestPhysAddr) -> u64;

    /// Atomically replaces `old` by `new`; false if the entry has changed
    /// meanwhile.
    fn update_entry32(&self, at: GuestPhysAddr, old: u32, new: u32) -> bool;

    /// Atomically replaces `old` by `new`; false if the entry has changed
    /// meanwhile.
    fn update_entry64(&self, at: GuestPhysAddr, old: u64, new: u64) -> bool;
}

/// What an access does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AccessKind {
    /// Reads data.
    Read,
    /// Writes data, or reads and writes it.
    Write,
    /// Fetches instructions.
    Execute,
}

/// An access, as far as paging cares (SDM 3A 4.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Access {
    /// What it does.
    pub kind: AccessKind,
    /// A user-mode access: made at CPL 3, and not one of those that the
    /// processor makes for itself (descriptor tables, TSS).
    pub user: bool,
    /// SMAP does not apply: an explicit supervisor access with EFLAGS.AC set.
    pub smap_override: bool,
}

impl Access {
    /// A user-mode access.
    pub const fn user(kind: AccessKind) -> Self {
        Self { kind, user: true, smap_override: false }
    }

    /// A supervisor-mode access to which SMAP applies.
    pub const fn supervisor(kind: AccessKind) -> Self {
        Self { kind, user: false, smap_override: false }
    }
}

/// How linear addresses are translated (SDM 3A 4.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PagingMode {
    /// CR0.PG is clear: linear addresses are physical.
    None,
    /// 32-bit paging.
    Bits32,
    /// PAE paging.
    Pae,
    /// 4-level paging.
    Level4,
    /// 5-level paging.
    Level5,
}

/// A translated linear address with the rights of its page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    /// The physical address of exactly the linear address asked for.
    pub gpa: GuestPhysAddr,
    /// Binary logarithm of the page's size: 12, 21, 22 or 30.
    pub page_shift: u8,
    /// U/S is set at all levels: a user-mode address.
    pub user: bool,
    /// R/W is set at all levels; CR0.WP is not considered.
    pub writable: bool,
    /// No level forbids instruction fetches; SMEP is not considered.
    pub executable: bool,
    /// The leaf's dirty flag is set now.
    pub dirty: bool,
    /// The page is global and CR4.PGE is set.
    pub global: bool,
    /// Protection key (4- and 5-level paging), else 0.
    pub pkey: u8,
}

/// Everything that decides how a linear address is translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Paging {
    mode: PagingMode,
    root: u64,
    pdpte: [u64; 4],
    /// Bits reserved in every 8-byte entry.
    reserved: u64,
    phys_bits: u8,
    wp: bool,
    pse: bool,
    pge: bool,
    nxe: bool,
    smep: bool,
    smap: bool,
    gigabyte_pages: bool,
    /// PKRU while protection keys are enabled, else 0: everything allowed.
    pkru: u32,
}

impl Paging {
    /// The digest of `state`, with [`DEFAULT_PHYS_BITS`] and 1 GiB pages.
    pub fn from_state(state: &CpuState) -> Self {
        let mode = if !state.cr0.contains(Cr0::PG) {
            PagingMode::None
        } else if !state.cr4.contains(Cr4::PAE) {
            PagingMode::Bits32
        } else if !state.efer.contains(Efer::LMA) {
            PagingMode::Pae
        } else if state.cr4.contains(Cr4::LA57) {
            PagingMode::Level5
        } else {
            PagingMode::Level4
        };
        let long = matches!(mode, PagingMode::Level4 | PagingMode::Level5);
        let paging = Self {
            mode,
            root: if long { state.cr3 } else { state.cr3 & 0xffff_ffff },
            pdpte: state.pdpte,
            reserved: 0,
            phys_bits: DEFAULT_PHYS_BITS,
            wp: state.cr0.contains(Cr0::WP),
            pse: state.cr4.contains(Cr4::PSE),
            pge: state.cr4.contains(Cr4::PGE),
            nxe: state.efer.contains(Efer::NXE),
            smep: state.cr4.contains(Cr4::SMEP),
            smap: state.cr4.contains(Cr4::SMAP),
            gigabyte_pages: true,
            pkru: if long && state.cr4.contains(Cr4::PKE) { state.fpu.pkru } else { 0 },
        };
        paging.with_phys_bits(DEFAULT_PHYS_BITS)
    }

    /// The same with another physical-address width, between 32 and 52.
    pub fn with_phys_bits(mut self, bits: u8) -> Self {
        self.phys_bits = bits.clamp(32, 52);
        let above = !0 << self.phys_bits;
        self.reserved = match self.mode {
            PagingMode::Pae => above & !walk::NX,
            _ => above & walk::ADDRESS,
        };
        if !self.nxe {
            self.reserved |= walk::NX;
        }
        self.root &= walk::ADDRESS & !above;
        self
    }

    /// The same for a processor with or without 1 GiB pages.
    pub const fn with_gigabyte_pages(mut self, supported: bool) -> Self {
        self.gigabyte_pages = supported;
        self
    }

    /// Which kind of paging is on.
    pub const fn mode(&self) -> PagingMode {
        self.mode
    }

    /// The physical-address width.
    pub const fn phys_bits(&self) -> u8 {
        self.phys_bits
    }

    /// Translates `lin` for `access`: checks rights, then sets accessed and
    /// dirty flags.
    ///
    /// # Errors
    /// The page fault, with its error code and CR2 (SDM 3A 4.7).
    #[inline]
    pub fn translate<M: PageTableMemory + ?Sized>(
        &self,
        mem: &M,
        lin: LinearAddr,
        access: Access,
    ) -> Result<Translation, Exception> {
        let lin = self.effective(lin);
        if self.mode == PagingMode::None {
            return Ok(Self::identity(lin));
        }
        let mut restarts = 0;
        loop {
            let walk = self.walk(mem, lin).map_err(|fault| self.walk_fault(fault, lin, access))?;
            let mut page = self.translation(&walk, lin);
            if let Err(cause) = self.check_rights(&page, access) {
                return Err(self.fault(cause, lin, access));
            }
            let write = access.kind == AccessKind::Write;
            if walk.set_flags(mem, write) || restarts == MAX_RESTARTS {
                page.dirty |= write;
                return Ok(page);
            }
            restarts += 1;
        }
    }

    /// Translates `lin` without any effect and without a look at rights: for
    /// debuggers and disassembly. `None` where no page is mapped.
    pub fn probe<M: PageTableMemory + ?Sized>(&self, mem: &M, lin: LinearAddr) -> Option<Translation> {
        let lin = self.effective(lin);
        if self.mode == PagingMode::None {
            return Some(Self::identity(lin));
        }
        let walk = self.walk(mem, lin).ok()?;
        Some(self.translation(&walk, lin))
    }

    /// Linear addresses have 32 bits outside IA-32e mode; there the caller has
    /// cut compatibility-mode ones already.
    #[inline]
    const fn effective(&self, lin: LinearAddr) -> u64 {
        match self.mode {
            PagingMode::Level4 | PagingMode::Level5 => lin.0,
            _ => lin.0 & 0xffff_ffff,
        }
    }

    const fn identity(lin: u64) -> Translation {
        Translation {
            gpa: GuestPhysAddr(lin),
            page_shift: 12,
            user: true,
            writable: true,
            executable: true,
            dirty: true,
            global: false,
            pkey: 0,
        }
    }

    #[inline]
    fn walk<M: PageTableMemory + ?Sized>(&self, mem: &M, lin: u64) -> Result<Walk, WalkFault> {
        match self.mode {
            PagingMode::Level4 => self.walk_wide(mem, lin, self.root, 39),
            PagingMode::Level5 => self.walk_wide(mem, lin, self.root, 48),
            PagingMode::Pae => {
                let pdpte = self.pdpte[(lin >> 30 & 3) as usize];
                if pdpte & walk::P == 0 {
                    return Err(WalkFault::NotPresent);
                }
                self.walk_wide(mem, lin, pdpte & walk::ADDRESS, 21)
            }
            PagingMode::Bits32 | PagingMode::None => self.walk_narrow(mem, lin),
        }
    }

    #[inline]
    const fn translation(&self, walk: &Walk, lin: u64) -> Translation {
        let long = matches!(self.mode, PagingMode::Level4 | PagingMode::Level5);
        Translation {
            gpa: GuestPhysAddr(walk.frame | lin & ((1 << walk.shift) - 1)),
            page_shift: walk.shift,
            user: walk.all & walk::US != 0,
            writable: walk.all & walk::RW != 0,
            executable: !self.nxe || walk.any & walk::NX == 0,
            dirty: walk.leaf & walk::D != 0,
            global: self.pge && walk.leaf & walk::G != 0,
            pkey: if long { (walk.leaf >> 59 & 0xf) as u8 } else { 0 },
        }
    }

    #[cold]
    fn walk_fault(&self, fault: WalkFault, lin: u64, access: Access) -> Exception {
        let cause = match fault {
            WalkFault::NotPresent => PageFaultCode::empty(),
            WalkFault::Reserved => PageFaultCode::PRESENT | PageFaultCode::RESERVED,
        };
        self.fault(cause, lin, access)
    }
}
