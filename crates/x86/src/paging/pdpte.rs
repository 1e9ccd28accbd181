//! The page-directory-pointer-table entries of PAE paging, which the processor
//! keeps in registers (SDM 3A 4.4.1).

use super::PageTableMemory;
use super::walk::P;
use crate::{Exception, GuestPhysAddr};

/// Bits 2:1 and 8:5, reserved in a present entry (SDM 3A table 4-8).
const RESERVED: u64 = 0x1e6;

/// Reads the four entries that `cr3` points to, as loading CR3 with PAE paging
/// does, or enabling it by CR0 or CR4.
///
/// # Errors
/// #GP(0) if a present entry has a reserved bit set; nothing is loaded then.
pub fn load_pdptes<M: PageTableMemory + ?Sized>(
    mem: &M,
    cr3: u64,
    phys_bits: u8,
) -> Result<[u64; 4], Exception> {
    let table = cr3 & 0xffff_ffe0;
    let reserved = RESERVED | !0 << phys_bits.clamp(32, 52);
    let mut entries = [0; 4];
    for (entry, at) in entries.iter_mut().zip((table..).step_by(8)) {
        *entry = mem.read_entry64(GuestPhysAddr(at));
        if *entry & P != 0 && *entry & reserved != 0 {
            return Err(Exception::gp(0));
        }
    }
    Ok(entries)
}
