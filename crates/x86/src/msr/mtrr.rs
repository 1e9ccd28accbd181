//! Memory type range registers (SDM 3A 12.11): stored and checked; they have
//! no effect.

use super::{
    IA32_MTRR_DEF_TYPE, IA32_MTRR_FIX4K_C0000, IA32_MTRR_FIX4K_F8000, IA32_MTRR_FIX16K_80000,
    IA32_MTRR_FIX16K_A0000, IA32_MTRR_FIX64K_00000, IA32_MTRR_PHYSBASE0, IA32_MTRR_PHYSMASK7, store,
};
use crate::{Exception, Msrs};

/// IA32_MTRRCAP: eight variable ranges, fixed ranges, write combining.
pub(super) const CAPABILITIES: u64 = 0x508;

/// Memory types of MTRRs (SDM 3A table 12-8): UC, WC, WT, WP, WB.
const fn is_type(kind: u8) -> bool {
    matches!(kind, 0 | 1 | 4..=6)
}

/// The number of a fixed-range register, in address order.
const fn fixed(index: u32) -> Option<usize> {
    Some(match index {
        IA32_MTRR_FIX64K_00000 => 0,
        IA32_MTRR_FIX16K_80000 => 1,
        IA32_MTRR_FIX16K_A0000 => 2,
        IA32_MTRR_FIX4K_C0000..=IA32_MTRR_FIX4K_F8000 => (index - IA32_MTRR_FIX4K_C0000) as usize + 3,
        _ => return None,
    })
}

/// Number and half (base, mask) of a variable-range register.
const fn variable(index: u32) -> Option<(usize, usize)> {
    match index {
        IA32_MTRR_PHYSBASE0..=IA32_MTRR_PHYSMASK7 => {
            let offset = (index - IA32_MTRR_PHYSBASE0) as usize;
            Some((offset / 2, offset % 2))
        }
        _ => None,
    }
}

pub(super) fn read(msrs: &Msrs, index: u32) -> Option<u64> {
    if index == IA32_MTRR_DEF_TYPE {
        return Some(msrs.mtrr_def_type);
    }
    if let Some(number) = fixed(index) {
        return msrs.mtrr_fixed.get(number).copied();
    }
    let (number, half) = variable(index)?;
    msrs.mtrr_variable.get(number)?.get(half).copied()
}

pub(super) fn write(msrs: &mut Msrs, index: u32, value: u64, phys_bits: u8) -> Option<Result<(), Exception>> {
    const ENABLES: u64 = 3 << 10;
    let above = !0 << phys_bits.min(63);
    if index == IA32_MTRR_DEF_TYPE {
        let fine = is_type(value as u8) && value & !(0xff | ENABLES) == 0;
        return Some(store(&mut msrs.mtrr_def_type, value, fine));
    }
    if let Some(number) = fixed(index) {
        let fine = value.to_le_bytes().into_iter().all(is_type);
        return msrs.mtrr_fixed.get_mut(number).map(|slot| store(slot, value, fine));
    }
    let (number, half) = variable(index)?;
    let fine = if half == 0 {
        is_type(value as u8) && value & (above | 0xf00) == 0
    } else {
        value & (above | 0x7ff) == 0
    };
    msrs.mtrr_variable.get_mut(number)?.get_mut(half).map(|slot| store(slot, value, fine))
}
