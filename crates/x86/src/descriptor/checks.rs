//! Checks that loads and queries of segments make on a descriptor (SDM 3A 5.4
//! to 5.6, SDM 2 MOV, LAR, LSL, VERR).

use super::{Descriptor, upper_half_is_valid};
use crate::{Exception, Selector, SystemType};

/// Loading DS, ES, FS or GS with a selector that is not null.
///
/// # Errors
/// #GP or #NP with the selector.
pub fn check_data_load(descriptor: Descriptor, selector: Selector, cpl: u8) -> Result<(), Exception> {
    let attributes = descriptor.attributes();
    let level = cpl.max(selector.rpl());
    let fits = attributes.is_conforming() || level <= attributes.dpl();
    if !attributes.is_readable() || !fits {
        return Err(Exception::gp(selector.error_code()));
    }
    if !attributes.present() {
        return Err(Exception::np(selector.error_code()));
    }
    Ok(())
}

/// Loading SS with a selector that is not null, at privilege level `cpl`.
///
/// # Errors
/// #GP or #SS with the selector.
pub fn check_stack_load(descriptor: Descriptor, selector: Selector, cpl: u8) -> Result<(), Exception> {
    let attributes = descriptor.attributes();
    if selector.rpl() != cpl || attributes.dpl() != cpl || !attributes.is_writable() {
        return Err(Exception::gp(selector.error_code()));
    }
    if !attributes.present() {
        return Err(Exception::ss(selector.error_code()));
    }
    Ok(())
}

/// The checks on a system descriptor: `high` is its upper half in IA-32e mode.
fn check_system(
    descriptor: Descriptor,
    high: Option<u64>,
    selector: Selector,
    fits: impl Fn(SystemType) -> bool,
) -> Result<(), Exception> {
    let kind = descriptor.system_type().is_some_and(fits);
    if selector.is_ldt() || !kind || !high.is_none_or(upper_half_is_valid) {
        return Err(Exception::gp(selector.error_code()));
    }
    if !descriptor.present() {
        return Err(Exception::np(selector.error_code()));
    }
    Ok(())
}

/// LLDT with a selector that is not null; `high` is the descriptor's upper half
/// in IA-32e mode.
///
/// # Errors
/// #GP or #NP with the selector.
pub fn check_ldt_load(
    descriptor: Descriptor,
    high: Option<u64>,
    selector: Selector,
) -> Result<(), Exception> {
    check_system(descriptor, high, selector, |kind| kind == SystemType::Ldt)
}

/// LTR with a selector that is not null; `high` is the descriptor's upper half
/// in IA-32e mode.
///
/// # Errors
/// #GP or #NP with the selector.
pub fn check_tss_load(
    descriptor: Descriptor,
    high: Option<u64>,
    selector: Selector,
) -> Result<(), Exception> {
    check_system(descriptor, high, selector, |kind| match kind {
        SystemType::TssAvailable => true,
        SystemType::TssAvailable16 => high.is_none(),
        _ => false,
    })
}

/// Whether the privilege rules let `cpl` and `selector` see the descriptor.
fn visible(descriptor: Descriptor, selector: Selector, cpl: u8) -> bool {
    descriptor.attributes().is_conforming() || cpl.max(selector.rpl()) <= descriptor.dpl()
}

/// Whether LAR sets ZF (SDM 2A LAR, table 3-53).
pub fn lar_allows(descriptor: Descriptor, selector: Selector, cpl: u8, long_mode: bool) -> bool {
    use SystemType as S;
    let kind = descriptor.attributes().code_or_data()
        || match descriptor.system_type() {
            Some(S::Ldt | S::TssAvailable | S::TssBusy | S::CallGate) => true,
            Some(S::TssAvailable16 | S::TssBusy16 | S::CallGate16 | S::TaskGate) => !long_mode,
            _ => false,
        };
    kind && visible(descriptor, selector, cpl)
}

/// Whether LSL sets ZF (SDM 2A LSL, table 3-55).
pub fn lsl_allows(descriptor: Descriptor, selector: Selector, cpl: u8, long_mode: bool) -> bool {
    use SystemType as S;
    let kind = descriptor.attributes().code_or_data()
        || match descriptor.system_type() {
            Some(S::Ldt | S::TssAvailable | S::TssBusy) => true,
            Some(S::TssAvailable16 | S::TssBusy16) => !long_mode,
            _ => false,
        };
    kind && visible(descriptor, selector, cpl)
}

/// Whether VERR sets ZF.
pub fn verr_allows(descriptor: Descriptor, selector: Selector, cpl: u8) -> bool {
    descriptor.attributes().is_readable() && visible(descriptor, selector, cpl)
}

/// Whether VERW sets ZF.
pub fn verw_allows(descriptor: Descriptor, selector: Selector, cpl: u8) -> bool {
    descriptor.attributes().is_writable() && visible(descriptor, selector, cpl)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A present descriptor of a kind (type and S bit) and DPL.
    fn with(kind: u64, dpl: u64) -> Descriptor {
        Descriptor(1 << 47 | dpl << 45 | kind << 40)
    }

    const DATA: u64 = 0x12;
    const READ_ONLY: u64 = 0x10;
    const CODE: u64 = 0x1a;
    const EXECUTE_ONLY: u64 = 0x18;
    const CONFORMING: u64 = 0x1e;
    const ABSENT: u64 = !(1 << 47);

    #[test]
    fn data_loads() {
        let gp = Err(Exception::gp(0x10));
        let rows = [
            (DATA, 3, 0x13, 3, Ok(())),
            (DATA, 0, 0x10, 0, Ok(())),
            (DATA, 0, 0x13, 0, gp),
            (DATA, 2, 0x10, 3, gp),
            (CODE, 3, 0x13, 3, Ok(())),
            (EXECUTE_ONLY, 3, 0x13, 3, gp),
            (CONFORMING, 0, 0x13, 3, Ok(())),
            (0x2, 3, 0x13, 3, gp),
        ];
        for (row, (kind, dpl, selector, cpl, expected)) in rows.into_iter().enumerate() {
            assert_eq!(check_data_load(with(kind, dpl), Selector(selector), cpl), expected, "row {row}");
        }
        let absent = Descriptor(with(DATA, 3).0 & ABSENT);
        assert_eq!(check_data_load(absent, Selector(0x13), 3), Err(Exception::np(0x10)));
    }

    #[test]
    fn stack_loads() {
        let gp = Err(Exception::gp(0x10));
        let rows = [
            (DATA, 3, 0x13, 3, Ok(())),
            (DATA, 0, 0x10, 0, Ok(())),
            (DATA, 0, 0x13, 0, gp),
            (DATA, 3, 0x10, 0, gp),
            (READ_ONLY, 0, 0x10, 0, gp),
            (CODE, 0, 0x10, 0, gp),
        ];
        for (row, (kind, dpl, selector, cpl, expected)) in rows.into_iter().enumerate() {
            assert_eq!(check_stack_load(with(kind, dpl), Selector(selector), cpl), expected, "row {row}");
        }
        let absent = Descriptor(with(DATA, 0).0 & ABSENT);
        assert_eq!(check_stack_load(absent, Selector(0x10), 0), Err(Exception::ss(0x10)));
    }

    #[test]
    fn system_loads() {
        let gp = Err(Exception::gp(0x10));
        let selector = Selector(0x10);
        assert_eq!(check_ldt_load(with(2, 0), None, selector), Ok(()));
        assert_eq!(check_ldt_load(with(9, 0), None, selector), gp);
        assert_eq!(check_ldt_load(with(2, 0), None, Selector(0x14)), Err(Exception::gp(0x14)));
        assert_eq!(check_ldt_load(with(2, 0), Some(1 << 41), selector), gp);
        assert_eq!(check_tss_load(with(9, 0), Some(0xffff_8000), selector), Ok(()));
        assert_eq!(check_tss_load(with(0xb, 0), None, selector), gp, "busy");
        assert_eq!(check_tss_load(with(1, 0), None, selector), Ok(()));
        assert_eq!(check_tss_load(with(1, 0), Some(0), selector), gp, "no 16-bit TSS in IA-32e mode");
        let absent = Descriptor(with(9, 0).0 & ABSENT);
        assert_eq!(check_tss_load(absent, None, selector), Err(Exception::np(0x10)));
    }

    #[test]
    fn queries_follow_the_manuals_tables() {
        let kinds = |allows: fn(Descriptor, Selector, u8, bool) -> bool, long| -> Vec<u64> {
            (0..16).filter(|&kind| allows(with(kind, 0), Selector(8), 0, long)).collect()
        };
        assert_eq!(kinds(lar_allows, false), [1, 2, 3, 4, 5, 9, 11, 12]);
        assert_eq!(kinds(lar_allows, true), [2, 9, 11, 12]);
        assert_eq!(kinds(lsl_allows, false), [1, 2, 3, 9, 11]);
        assert_eq!(kinds(lsl_allows, true), [2, 9, 11]);
        assert!(!lar_allows(with(DATA, 0), Selector(8), 3, true), "hidden from CPL 3");
        assert!(lar_allows(with(CONFORMING, 0), Selector(8), 3, true));
        assert!(verr_allows(with(READ_ONLY, 3), Selector(0xb), 3));
        assert!(!verw_allows(with(READ_ONLY, 3), Selector(0xb), 3));
        assert!(!verr_allows(with(EXECUTE_ONLY, 3), Selector(0xb), 3));
        assert!(verw_allows(with(DATA, 3), Selector(0xb), 3));
        assert!(!verw_allows(with(DATA, 2), Selector(8), 3));
    }
}
