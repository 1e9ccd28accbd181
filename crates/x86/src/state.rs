//! The whole architectural state of one vCPU, engine-neutral.
//!
//! Each item is declared once, with its value after reset; construction,
//! serialization and comparison follow from the declaration.

use serde::{Deserialize, Serialize};

use crate::{
    Cr0, Cr4, DescriptorTable, Dr6, Dr7, Efer, FpuState, Rflags, Segment, SegmentAttributes, SegmentName,
    Selector, Xcr0,
};

/// The sixteen general-purpose registers, by their number in instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[allow(missing_docs, reason = "the registers' names")]
pub enum Gpr {
    Rax = 0,
    Rcx = 1,
    Rdx = 2,
    Rbx = 3,
    Rsp = 4,
    Rbp = 5,
    Rsi = 6,
    Rdi = 7,
    R8 = 8,
    R9 = 9,
    R10 = 10,
    R11 = 11,
    R12 = 12,
    R13 = 13,
    R14 = 14,
    R15 = 15,
}

/// What holds interrupts back for one instruction (SDM 3A 6.8.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum InterruptShadow {
    /// Nothing.
    None,
    /// STI has just set IF: maskable interrupts wait.
    Sti,
    /// MOV SS or POP SS: interrupts, NMIs and debug traps wait.
    MovSs,
}

/// Whether the processor executes instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Activity {
    /// It does.
    Running,
    /// HLT: until an interrupt, NMI, INIT or reset.
    Halted,
    /// An application processor after INIT.
    WaitForSipi,
    /// After a triple fault.
    Shutdown,
}

/// An event that the processor has accepted and whose handler it has not
/// entered yet. RIP and the stack are as before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PendingEvent {
    /// A maskable interrupt, acknowledged: its vector.
    Interrupt(u8),
    /// A non-maskable interrupt.
    Nmi,
    /// An exception; what CR2 and DR6 tell of it is already there.
    Exception {
        /// Its vector.
        vector: u8,
        /// Its error code, if it has one.
        error_code: Option<u32>,
    },
}

/// One item of state that differs between two vCPUs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The item's name.
    pub item: String,
    /// Its value on the left.
    pub left: String,
    /// Its value on the right.
    pub right: String,
}

fn push_difference<T: PartialEq + std::fmt::Debug>(
    found: &mut Vec<Difference>,
    item: &str,
    left: &T,
    right: &T,
) {
    if left != right {
        found.push(Difference {
            item: item.to_owned(),
            left: format!("{left:x?}"),
            right: format!("{right:x?}"),
        });
    }
}

macro_rules! declare_state {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $ty:ty = $reset:expr;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[repr(C)]
        pub struct $name {
            $($(#[$field_doc])* pub $field: $ty,)*
        }

        impl $name {
            /// The state after power-on or reset.
            pub fn reset() -> Self {
                Self { $($field: $reset,)* }
            }

            /// Every item in which `self` and `other` differ.
            pub fn differences(&self, other: &Self) -> Vec<Difference> {
                let mut found = Vec::new();
                $(push_difference(&mut found, stringify!($field), &self.$field, &other.$field);)*
                found
            }
        }
    };
}

declare_state! {
    /// Model-specific registers that are plain storage of a vCPU. Those with a
    /// life of their own (local APIC, paravirtual clocks) belong to the
    /// machine.
    Msrs {
        /// IA32_STAR.
        star: u64 = 0;
        /// IA32_LSTAR.
        lstar: u64 = 0;
        /// IA32_CSTAR.
        cstar: u64 = 0;
        /// IA32_FMASK.
        fmask: u64 = 0;
        /// IA32_KERNEL_GS_BASE.
        kernel_gs_base: u64 = 0;
        /// IA32_SYSENTER_CS.
        sysenter_cs: u64 = 0;
        /// IA32_SYSENTER_ESP.
        sysenter_esp: u64 = 0;
        /// IA32_SYSENTER_EIP.
        sysenter_eip: u64 = 0;
        /// IA32_TSC_AUX.
        tsc_aux: u64 = 0;
        /// IA32_TSC_ADJUST: the guest's TSC is the machine's plus this.
        tsc_adjust: u64 = 0;
        /// IA32_PAT.
        pat: u64 = 0x0007_0406_0007_0406;
        /// IA32_MISC_ENABLE: fast strings.
        misc_enable: u64 = 1;
        /// IA32_MTRR_DEF_TYPE.
        mtrr_def_type: u64 = 0;
        /// The eleven fixed-range MTRRs, in address order.
        mtrr_fixed: [u64; 11] = [0; 11];
        /// Base and mask of the eight variable-range MTRRs.
        mtrr_variable: [[u64; 2]; 8] = [[0; 2]; 8];
        /// IA32_SPEC_CTRL.
        spec_ctrl: u64 = 0;
        /// IA32_XSS.
        xss: u64 = 0;
        /// IA32_DEBUGCTL.
        debugctl: u64 = 0;
        /// IA32_MCG_STATUS.
        mcg_status: u64 = 0;
    }
}

declare_state! {
    /// Everything that makes up one vCPU.
    CpuState {
        /// General-purpose registers, indexed by [`Gpr`].
        gpr: [u64; 16] = reset_gpr();
        /// Instruction pointer.
        rip: u64 = 0xfff0;
        /// Flags.
        rflags: Rflags = Rflags::FIXED;
        /// ES, CS, SS, DS, FS, GS, indexed by [`SegmentName`].
        segments: [Segment; 6] = reset_segments();
        /// LDTR.
        ldtr: Segment = reset_system_segment(0x82);
        /// Task register.
        tr: Segment = reset_system_segment(0x8b);
        /// GDTR.
        gdtr: DescriptorTable = DescriptorTable { base: 0, limit: 0xffff };
        /// IDTR.
        idtr: DescriptorTable = DescriptorTable { base: 0, limit: 0xffff };
        /// CR0.
        cr0: Cr0 = Cr0::CD | Cr0::NW | Cr0::ET;
        /// CR2.
        cr2: u64 = 0;
        /// CR3.
        cr3: u64 = 0;
        /// CR4.
        cr4: Cr4 = Cr4::empty();
        /// The page-directory-pointer entries that PAE paging loaded with CR3
        /// (SDM 3A 4.4.1).
        pdpte: [u64; 4] = [0; 4];
        /// IA32_EFER.
        efer: Efer = Efer::empty();
        /// XCR0.
        xcr0: Xcr0 = Xcr0::X87;
        /// DR0 to DR3.
        dr: [u64; 4] = [0; 4];
        /// DR6.
        dr6: Dr6 = Dr6::RESET;
        /// DR7.
        dr7: Dr7 = Dr7::FIXED;
        /// Model-specific registers.
        msrs: Msrs = Msrs::reset();
        /// x87, SSE, AVX and AVX-512 registers.
        fpu: FpuState = FpuState::RESET;
        /// What the last instruction holds back.
        interrupt_shadow: InterruptShadow = InterruptShadow::None;
        /// An NMI is being handled: the next waits for IRET.
        nmi_blocked: bool = false;
        /// An NMI has arrived and not been delivered.
        nmi_pending: bool = false;
        /// What is to be delivered before the next instruction.
        pending_event: Option<PendingEvent> = None;
        /// Whether instructions are executed.
        activity: Activity = Activity::Running;
    }
}

/// EDX holds the processor's signature after reset (SDM 3A table 10-1); family
/// 6 as in the CPUID model.
fn reset_gpr() -> [u64; 16] {
    let mut gpr = [0; 16];
    gpr[Gpr::Rdx as usize] = 0x600;
    gpr
}

fn reset_segments() -> [Segment; 6] {
    let mut segments = [Segment::real_mode(0); 6];
    let cs = &mut segments[SegmentName::Cs as usize];
    cs.selector = Selector(0xf000);
    cs.base = 0xffff_0000;
    cs.attributes = SegmentAttributes::from_bits(0x9b);
    segments
}

fn reset_system_segment(attributes: u16) -> Segment {
    Segment {
        base: 0,
        limit: 0xffff,
        selector: Selector::NULL,
        attributes: SegmentAttributes::from_bits(attributes),
    }
}

impl CpuState {
    /// INIT: the state of SDM 3A table 10-1, which leaves caches, FPU, vector
    /// registers, time-stamp counter and most MSRs as they are. All but the
    /// bootstrap processor wait for a start-up IPI then.
    pub fn init(&mut self, bootstrap: bool) {
        let kept = self.cr0.intersection(Cr0::CD | Cr0::NW);
        let activity = if bootstrap { Activity::Running } else { Activity::WaitForSipi };
        *self = Self {
            cr0: kept | Cr0::ET,
            xcr0: self.xcr0,
            msrs: self.msrs.clone(),
            fpu: self.fpu.clone(),
            activity,
            ..Self::reset()
        };
    }

    /// A start-up IPI; it is for processors that wait for one (SDM 3A 9.4.4).
    /// False if this one does not.
    pub fn start_up(&mut self, vector: u8) -> bool {
        if self.activity != Activity::WaitForSipi {
            return false;
        }
        let cs = self.segment_mut(SegmentName::Cs);
        cs.selector = Selector(u16::from(vector) << 8);
        cs.base = u64::from(vector) << 12;
        self.rip = 0;
        self.activity = Activity::Running;
        true
    }

    /// A segment register.
    pub const fn segment(&self, name: SegmentName) -> &Segment {
        &self.segments[name as usize]
    }

    /// A segment register, to be changed.
    pub const fn segment_mut(&mut self, name: SegmentName) -> &mut Segment {
        &mut self.segments[name as usize]
    }

    /// A general-purpose register, all 64 bits.
    pub const fn reg(&self, reg: Gpr) -> u64 {
        self.gpr[reg as usize]
    }

    /// Sets a general-purpose register, all 64 bits.
    pub const fn set_reg(&mut self, reg: Gpr, value: u64) {
        self.gpr[reg as usize] = value;
    }

    /// Current privilege level: the DPL of SS (SDM 3C 25.4.1), 0 in real mode.
    pub const fn cpl(&self) -> u8 {
        self.segments[SegmentName::Ss as usize].attributes.dpl()
    }

    /// Whether protected mode is enabled.
    pub const fn protected_mode(&self) -> bool {
        self.cr0.contains(Cr0::PE)
    }

    /// Whether the processor is in virtual-8086 mode.
    pub const fn virtual_8086(&self) -> bool {
        self.rflags.contains(Rflags::VM)
    }

    /// Whether segments are made the real-mode way: selector times 16.
    pub const fn real_or_v86(&self) -> bool {
        !self.protected_mode() || self.virtual_8086()
    }

    /// Whether IA-32e mode is active.
    pub const fn long_mode(&self) -> bool {
        self.efer.contains(Efer::LMA)
    }

    /// Whether the code runs in 64-bit mode.
    pub const fn mode_64bit(&self) -> bool {
        self.long_mode() && self.segments[SegmentName::Cs as usize].attributes.long()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reset_starts_at_the_reset_vector() {
        let state = CpuState::reset();
        assert_eq!(state.segment(SegmentName::Cs).base + state.rip, 0xffff_fff0);
        assert_eq!(state.cpl(), 0);
        assert!(!state.protected_mode() && !state.long_mode());
    }

    #[test]
    fn differences_name_the_items() {
        let mut other = CpuState::reset();
        other.cr2 = 5;
        other.msrs.lstar = 1;
        let items: Vec<String> = CpuState::reset().differences(&other).into_iter().map(|d| d.item).collect();
        assert_eq!(items, ["cr2", "msrs"]);
    }

    #[test]
    fn init_keeps_what_the_manual_says_and_a_start_up_ipi_starts_once() {
        let mut state = CpuState::reset();
        state.msrs.lstar = 5;
        state.fpu.zmm[0].0[0] = 1;
        state.cr0 |= Cr0::PE;
        state.cr2 = 9;
        state.init(false);
        assert_eq!((state.msrs.lstar, state.fpu.zmm[0].0[0], state.cr2), (5, 1, 0));
        assert!(!state.protected_mode() && state.activity == Activity::WaitForSipi);
        assert!(state.start_up(0x9a));
        assert_eq!((state.segment(SegmentName::Cs).base, state.rip), (0x9_a000, 0));
        assert!(!state.start_up(0x9a));
    }

    #[test]
    fn state_survives_serialization() {
        let mut state = CpuState::reset();
        state.fpu.zmm[31].0[63] = 9;
        state.fpu.x87.st[7][9] = 3;
        state.msrs.mtrr_variable[7][1] = 1;
        let text = serde_json::to_string(&state).unwrap();
        let back: CpuState = serde_json::from_str(&text).unwrap();
        assert_eq!(state.differences(&back), []);
    }
}
