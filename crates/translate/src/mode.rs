//! What of the processor's mode goes into translated code.

use interpret::slow::SlowPath;
use interpret::tlb::View;
use x86::{Cr4, SegmentName};

use crate::jumps::Kind;

/// Everything besides the instructions' bytes that decides what host code a
/// block becomes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Mode(u32);

const LONG: u32 = 1 << 0;
const VIEW_SHIFT: u32 = 1;
const CPL_SHIFT: u32 = 4;
const FS_PLAIN: u32 = 1 << 6;
const GS_PLAIN: u32 = 1 << 7;
const SSE: u32 = 1 << 8;
const AVX: u32 = 1 << 9;
const AVX512: u32 = 1 << 10;
const NO_WINDOWS: u32 = 1 << 11;
const TSC: u32 = 1 << 12;
const SMAP: u32 = 1 << 13;
const FSGSBASE: u32 = 1 << 14;

/// The modes that generated code can switch to by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Way {
    /// By SYSCALL or CLAC.
    Supervisor = 1,
    /// By STAC.
    SupervisorAc = 2,
    /// By SYSRET.
    User = 3,
}

impl Way {
    pub(crate) const ALL: [Self; 3] = [Self::Supervisor, Self::SupervisorAc, Self::User];

    /// Where the context says where indirect branches lead in the mode.
    pub(crate) const fn jumps(self) -> i32 {
        crate::context::offset!(ways) + self as i32 * 8
    }

    /// The kind of that table.
    pub(crate) const fn kind(self) -> Kind {
        if matches!(self, Self::User) { Kind::User } else { Kind::Supervisor }
    }
}

const DATA_SEGMENTS: u8 =
    1 << SegmentName::Es as u8 | 1 << SegmentName::Ss as u8 | 1 << SegmentName::Ds as u8;

impl Mode {
    /// The mode of `slow` now; `None` if its code is not translated: 16-bit
    /// code, virtual-8086 mode, segments that are not flat.
    pub(crate) fn of(slow: &SlowPath, tsc: bool) -> Option<Self> {
        let state = slow.state();
        let long = slow.code_size() == 8;
        if !long && !flat_32(slow) || !slow.stack_is_wide() {
            return None;
        }
        let plain = |name| long || state.segment(name).is_plain_data();
        let [sse, avx, avx512] = slow.vector_units();
        let bit = |condition: bool, bit: u32| if condition { bit } else { 0 };
        Some(Self(
            bit(long, LONG)
                | (slow.view() as u32) << VIEW_SHIFT
                | u32::from(state.cpl()) << CPL_SHIFT
                | bit(plain(SegmentName::Fs), FS_PLAIN)
                | bit(plain(SegmentName::Gs), GS_PLAIN)
                | bit(sse, SSE)
                | bit(avx, AVX)
                | bit(avx512, AVX512)
                | bit(tsc && (state.cpl() == 0 || slow.tsc_is_open()), TSC)
                | bit(state.cr4.contains(Cr4::SMAP), SMAP)
                | bit(long && state.cr4.contains(Cr4::FSGSBASE), FSGSBASE),
        ))
    }

    const fn has(self, bit: u32) -> bool {
        self.0 & bit != 0
    }

    /// The same, for code without stack windows.
    pub(crate) const fn without_windows(self) -> Self {
        Self(self.0 | NO_WINDOWS)
    }

    /// The same, for code with stack windows where they serve.
    pub(crate) const fn with_windows(self) -> Self {
        Self(self.0 & !NO_WINDOWS)
    }

    pub(crate) const fn has_windows(self) -> bool {
        !self.has(NO_WINDOWS)
    }

    /// 64-bit mode; else 32-bit code in flat segments.
    pub(crate) const fn long(self) -> bool {
        self.has(LONG)
    }

    /// The bytes of addresses and of stack slots.
    pub(crate) const fn word(self) -> u8 {
        if self.long() { 8 } else { 4 }
    }

    /// The TLB arrays that data accesses use.
    pub(crate) const fn array(self) -> usize {
        let view = (self.0 >> VIEW_SHIFT & 7) as usize;
        if view < 3 { view } else { 3 }
    }

    pub(crate) const fn view(self) -> View {
        match self.0 >> VIEW_SHIFT & 7 {
            0 => View::Supervisor,
            1 => View::SupervisorAc,
            2 => View::User,
            _ => View::UserAligned,
        }
    }

    pub(crate) const fn cpl(self) -> u8 {
        (self.0 >> CPL_SHIFT & 3) as u8
    }

    /// The mode that `way` leads to from this one, a 64-bit mode; `open` says
    /// whether programs may read the time-stamp counter.
    pub(crate) const fn after(self, way: Way, open: bool) -> Self {
        let kept = self.0 & !(7 << VIEW_SHIFT | 3 << CPL_SHIFT | NO_WINDOWS);
        let (view, cpl) = match way {
            Way::Supervisor => (View::Supervisor, 0),
            Way::SupervisorAc => (View::SupervisorAc, 0),
            Way::User => (View::User, 3),
        };
        let tsc = if cpl == 3 && !open { TSC } else { 0 };
        Self(kept & !tsc | (view as u32) << VIEW_SHIFT | cpl << CPL_SHIFT)
    }

    /// Whether RDTSC may be executed inline.
    pub(crate) const fn tsc(self) -> bool {
        self.has(TSC)
    }

    /// Whether there are RDFSBASE and its kin.
    pub(crate) const fn has_bases(self) -> bool {
        self.has(FSGSBASE)
    }

    /// Whether the mode tells EFLAGS.AC, at ring 0.
    pub(crate) const fn tells_ac(self) -> bool {
        self.has(SMAP) && matches!(self.0 >> VIEW_SHIFT & 7, 0 | 1)
    }

    /// EFLAGS.AC, if the mode tells it.
    pub(crate) const fn ac(self) -> bool {
        self.0 >> VIEW_SHIFT & 7 == View::SupervisorAc as u32
    }

    /// Code that must run at whatever linear address its page is mapped: that
    /// of programs, which are loaded anew at random addresses.
    pub(crate) const fn position_independent(self) -> bool {
        self.cpl() == 3
    }

    /// The kind of table in which its indirect branches are looked up.
    pub(crate) const fn jumps(self) -> Kind {
        if self.cpl() == 3 { Kind::User } else { Kind::Supervisor }
    }

    /// Whether accesses through `segment` need its base at the most.
    pub(crate) const fn plain_segment(self, segment: SegmentName) -> bool {
        match segment {
            SegmentName::Fs => self.has(FS_PLAIN),
            SegmentName::Gs => self.has(GS_PLAIN),
            SegmentName::Cs => self.long(),
            _ => true,
        }
    }

    /// Whether the instructions of a unit may run inline, CR0.TS left aside.
    pub(crate) const fn allows(self, plain: interpret::slow::Plain) -> bool {
        use interpret::slow::Plain;
        match plain {
            Plain::Integer | Plain::X87 => true,
            Plain::Sse => self.has(SSE),
            Plain::Avx => self.has(AVX),
            Plain::Avx512 => self.has(AVX512),
        }
    }
}

fn flat_32(slow: &SlowPath) -> bool {
    let state = slow.state();
    let code = state.segment(SegmentName::Cs);
    slow.code_size() == 4
        && state.protected_mode()
        && !state.virtual_8086()
        && code.base == 0
        && code.limit == u32::MAX
        && slow.flat_segments() & DATA_SEGMENTS == DATA_SEGMENTS
}
