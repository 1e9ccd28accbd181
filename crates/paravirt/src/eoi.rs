//! The end of an interrupt without a trap (Linux `Documentation/virt/kvm/x86/
//! msr.rst`, MSR_KVM_PV_EOI_EN): a flag in the guest's memory says that the
//! handler may clear it instead of writing to its local APIC.
//!
//! The guest tests and clears it with an ordinary instruction. It may therefore
//! be touched only while the vCPU does not run, that is on its own thread.

use memory::GuestMemory;
use x86::GuestPhysAddr;

/// Bit 0 of the flag's byte.
const MAY_SKIP: u8 = 1;

/// One vCPU's flag.
#[derive(Clone, Debug)]
pub struct EoiFlag {
    memory: GuestMemory,
    at: Option<GuestPhysAddr>,
    /// Whether the guest was allowed to dismiss the interrupt in service, and
    /// has not been asked yet whether it did.
    lent: bool,
}

impl EoiFlag {
    /// A flag that is nowhere yet.
    pub fn new(memory: GuestMemory) -> Self {
        Self { memory, at: None, lent: false }
    }

    /// Where the flag is from now on. It must have been taken back before.
    pub fn set(&mut self, at: Option<GuestPhysAddr>) {
        (self.at, self.lent) = (at, false);
    }

    /// Whether the guest may have dismissed the interrupt by now.
    pub fn is_lent(&self) -> bool {
        self.lent
    }

    /// Lets the guest dismiss the interrupt in service by clearing the flag.
    pub fn lend(&mut self) {
        if let Some(at) = self.at {
            self.lent = self.memory.write(at, &[MAY_SKIP]).is_ok();
        }
    }

    /// Ends that; true if the guest has dismissed the interrupt meanwhile.
    pub fn take_back(&mut self) -> bool {
        let (true, Some(at)) = (std::mem::take(&mut self.lent), self.at) else { return false };
        let mut flag = [MAY_SKIP];
        if self.memory.read(at, &mut flag).is_err() || flag[0] & MAY_SKIP == 0 {
            return true;
        }
        // Memory that was there cannot have gone.
        let _ = self.memory.write(at, &[flag[0] & !MAY_SKIP]);
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: GuestPhysAddr = GuestPhysAddr(0x1234);

    fn flag() -> (GuestMemory, EoiFlag) {
        let memory = GuestMemory::new(2 << 20).unwrap();
        let mut flag = EoiFlag::new(memory.clone());
        flag.set(Some(AT));
        (memory, flag)
    }

    #[test]
    fn what_the_guest_clears_it_has_dismissed() {
        let (memory, mut flag) = flag();
        flag.lend();
        assert!(flag.is_lent());
        assert_eq!(memory.read_u32(AT).unwrap(), 1);
        memory.write(AT, &[0]).unwrap();
        assert!(flag.take_back() && !flag.is_lent());
        assert!(!flag.take_back(), "once");
    }

    #[test]
    fn what_it_has_not_cleared_is_cleared_for_it() {
        let (memory, mut flag) = flag();
        flag.lend();
        assert!(!flag.take_back());
        assert_eq!(memory.read_u32(AT).unwrap(), 0);
    }

    #[test]
    fn a_flag_that_is_nowhere_is_never_lent() {
        let (memory, mut flag) = flag();
        flag.set(None);
        flag.lend();
        assert!(!flag.is_lent());
        assert_eq!(memory.read_u32(AT).unwrap(), 0);
        flag.set(Some(GuestPhysAddr(u64::MAX)));
        flag.lend();
        assert!(!flag.is_lent());
    }
}
