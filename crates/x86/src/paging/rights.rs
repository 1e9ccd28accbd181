//! Access rights and the error code of page faults (SDM 3A 4.6 and 4.7).

use super::{Access, AccessKind, Paging, PagingMode, Translation};
use crate::{Exception, PageFaultCode};

impl Paging {
    /// Whether `access` to `page` is permitted now; an engine may ask it about
    /// a translation that it has kept.
    ///
    /// # Errors
    /// The cause bits of the error code: P, and PK if a protection key forbids
    /// the access.
    #[inline]
    pub fn check_rights(&self, page: &Translation, access: Access) -> Result<(), PageFaultCode> {
        if self.mode == PagingMode::None {
            return Ok(());
        }
        let fits_mode = if access.user {
            page.user
        } else {
            !page.user
                || match access.kind {
                    AccessKind::Execute => !self.smep,
                    _ => !self.smap || access.smap_override,
                }
        };
        let fits_kind = match access.kind {
            AccessKind::Read => true,
            AccessKind::Write => page.writable || !(access.user || self.wp),
            AccessKind::Execute => page.executable,
        };
        let key_forbids = self.pkru != 0 && self.key_forbids(page, access);
        if fits_mode && fits_kind && !key_forbids {
            return Ok(());
        }
        let mut cause = PageFaultCode::PRESENT;
        cause.set(PageFaultCode::PROTECTION_KEY, key_forbids);
        Err(cause)
    }

    /// Protection keys (SDM 3A 4.6.2) guard data accesses to user-mode
    /// addresses, the supervisor's too; CR0.WP decides whether the
    /// supervisor's writes heed write-disable.
    fn key_forbids(&self, page: &Translation, access: Access) -> bool {
        if !page.user || access.kind == AccessKind::Execute {
            return false;
        }
        let rights = self.pkru >> (2 * u32::from(page.pkey & 0xf));
        let access_disable = rights & 1 != 0;
        let write_disable = rights & 2 != 0;
        access_disable || write_disable && access.kind == AccessKind::Write && (access.user || self.wp)
    }

    /// The page fault of `access` to `lin`, for `cause` (P, RSVD and PK).
    #[cold]
    pub(super) fn fault(&self, cause: PageFaultCode, lin: u64, access: Access) -> Exception {
        let mut code = cause;
        code.set(PageFaultCode::WRITE, access.kind == AccessKind::Write);
        code.set(PageFaultCode::USER, access.user);
        let execute_disable = self.nxe && self.mode != PagingMode::Bits32;
        let tells_fetches = self.smep || execute_disable;
        code.set(PageFaultCode::FETCH, access.kind == AccessKind::Execute && tells_fetches);
        Exception::pf(code, lin)
    }
}
