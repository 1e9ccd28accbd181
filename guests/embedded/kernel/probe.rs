//! What a probe is: a few instructions, and what hardware must show for them.
//!
//! A *fragment* is a naked function of one or two instructions under test. It gets the
//! address of an [`Outcome`] in (R/E)DI, leaves up to three values there, may change
//! any other register and returns. Where it faults, the exception handler of its mode
//! fills in vector, error code and address instead and abandons it.
//!
//! A [`Case`] pairs a fragment with a function that says what must come out, computed
//! from the [`Facts`]: what this guest itself loaded into the processor. Nothing is
//! compared with what another virtual machine showed.

/// A fragment's entry. Never called as a Rust function: the runners jump to it.
pub type Fragment = unsafe extern "C" fn();

/// What one run of a fragment left behind. The layout is known to the assembly.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
pub struct Outcome {
    /// What the fragment stored.
    pub values: [u64; 3],
    /// The vector that ended it, or [`Outcome::NO_FAULT`].
    pub vector: u64,
    /// Its error code, 0 where there is none.
    pub error: u64,
    /// The instruction pointer that was pushed.
    pub ip: u64,
    /// CR2 after the fault.
    pub cr2: u64,
    /// The size is 64 bytes so that assembly can index by shifting.
    pub reserved: u64,
}

impl Outcome {
    /// The vector of a fragment that returned.
    pub const NO_FAULT: u64 = 0xFF;
    /// Offset of `vector`, for assembly.
    pub const VECTOR: usize = 24;
    /// Offset of `error`, for assembly.
    pub const ERROR: usize = 32;
    /// Offset of `ip`, for assembly.
    pub const IP: usize = 40;
    /// Offset of `cr2`, for assembly.
    pub const CR2: usize = 48;

    /// A fresh record.
    pub const fn new() -> Self {
        Self { values: [0; 3], vector: Self::NO_FAULT, error: 0, ip: 0, cr2: 0, reserved: 0 }
    }
}

const _: () = assert!(core::mem::size_of::<Outcome>() == 64);
const _: () = assert!(core::mem::offset_of!(Outcome, vector) == Outcome::VECTOR);
const _: () = assert!(core::mem::offset_of!(Outcome, error) == Outcome::ERROR);
const _: () = assert!(core::mem::offset_of!(Outcome, ip) == Outcome::IP);
const _: () = assert!(core::mem::offset_of!(Outcome, cr2) == Outcome::CR2);

/// What a stored value must be.
#[derive(Clone, Copy)]
pub enum Want {
    /// Exactly this.
    Is(u64),
    /// These bits (value) under this mask; the manual leaves the others undefined.
    Bits(u64, u64),
}

impl Want {
    /// Whether `value` is what was wanted.
    pub fn accepts(self, value: u64) -> bool {
        match self {
            Want::Is(wanted) => value == wanted,
            Want::Bits(wanted, mask) => value & mask == wanted & mask,
        }
    }

    /// The wanted bits, for the report of a difference.
    pub fn wanted(self) -> u64 {
        match self {
            Want::Is(wanted) => wanted,
            Want::Bits(wanted, mask) => wanted & mask,
        }
    }
}

/// One value of the outcome: its name in the report, and what it must be.
pub type Field = (&'static str, Want);

/// What hardware must show.
#[derive(Clone, Copy)]
pub enum Expect {
    /// The fragment completes with these values; unused fields have an empty name.
    Sees([Field; 3]),
    /// It faults with this vector and error code.
    Fault(u8, u32),
    /// It page-faults with this error code and CR2.
    PageFault(u32, u64),
}

/// A field that is not used.
pub const NO_FIELD: Field = ("", Want::Bits(0, 0));

/// The fragment completes and leaves one value.
pub const fn sees(a: Field) -> Expect {
    Expect::Sees([a, NO_FIELD, NO_FIELD])
}

/// The fragment completes and leaves two values.
pub const fn sees2(a: Field, b: Field) -> Expect {
    Expect::Sees([a, b, NO_FIELD])
}

/// The fragment completes and leaves three values.
pub const fn sees3(a: Field, b: Field, c: Field) -> Expect {
    Expect::Sees([a, b, c])
}

/// A named value that must be exactly this.
pub const fn is(name: &'static str, value: u64) -> Field {
    (name, Want::Is(value))
}

/// Flags whose system bits must be these; the arithmetic flags are not looked at.
pub const fn flags(name: &'static str, value: u64) -> Field {
    // Bits 1, 3, 5, 15 (fixed), TF, IF, DF, IOPL, NT, VM, AC, VIF, VIP.
    (name, Want::Bits(value | 2, 0x001E_F72A))
}

/// General protection, with this error code.
pub const fn gp(error: u32) -> Expect {
    Expect::Fault(13, error)
}

/// Invalid opcode.
pub const UD: Expect = Expect::Fault(6, 0);

/// What the guest set up, as the expectations need it; one per mode.
#[derive(Clone, Copy)]
pub struct Facts {
    /// GDTR: base, limit.
    pub gdt: (u64, u16),
    /// IDTR: base, limit.
    pub idt: (u64, u16),
    /// CR0.
    pub cr0: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// EFER.
    pub efer: u64,
    /// The interrupt mask in the first 8259.
    pub pic_mask: u8,
    /// Limit in the TSS descriptor.
    pub tss_limit: u64,
    /// Code selector that the fragments of this mode run with at ring 0.
    pub kernel_code: u16,
    /// Code selector at ring 3.
    pub user_code: u16,
    /// Access rights (LAR) of the ring-0 code segment, high doubleword under the mask.
    pub kernel_rights: u64,
    /// SS after a call gate from ring 3: the TSS's SS0, or null in long mode.
    pub gate_ss: u16,
}

/// A fragment and what must come of it.
#[derive(Clone, Copy)]
pub struct Case {
    /// The instructions.
    pub code: Fragment,
    /// What must come out.
    pub expect: fn(&Facts) -> Expect,
}

/// A line of a table: one instruction, and its case at each ring where it has one.
#[derive(Clone, Copy)]
pub struct Probe {
    /// Robin and Irvine's running number (1 to 18), 0 for privileged and other lines.
    pub number: u8,
    /// The instruction.
    pub name: &'static str,
    /// At ring 0 (in real mode: the only one).
    pub ring0: Option<Case>,
    /// At ring 3.
    pub ring3: Option<Case>,
}

impl Probe {
    /// The same fragment at both rings.
    pub const fn both(
        number: u8,
        name: &'static str,
        code: Fragment,
        ring0: fn(&Facts) -> Expect,
        ring3: fn(&Facts) -> Expect,
    ) -> Self {
        Self::split(number, name, (code, ring0), (code, ring3))
    }

    /// A fragment for each ring: where ring 0 must undo what ring 3 never gets to do.
    pub const fn split(
        number: u8,
        name: &'static str,
        ring0: (Fragment, fn(&Facts) -> Expect),
        ring3: (Fragment, fn(&Facts) -> Expect),
    ) -> Self {
        Self {
            number,
            name,
            ring0: Some(Case { code: ring0.0, expect: ring0.1 }),
            ring3: Some(Case { code: ring3.0, expect: ring3.1 }),
        }
    }

    /// Ring 0 only.
    pub const fn ring0(number: u8, name: &'static str, code: Fragment, expect: fn(&Facts) -> Expect) -> Self {
        Self { number, name, ring0: Some(Case { code, expect }), ring3: None }
    }

    /// Ring 3 only.
    pub const fn ring3(number: u8, name: &'static str, code: Fragment, expect: fn(&Facts) -> Expect) -> Self {
        Self { number, name, ring0: None, ring3: Some(Case { code, expect }) }
    }
}

/// The fragments of one ring of a table, in order, for the assembly that runs them
/// before there is any Rust. A missing case is filled with `skip`.
pub const fn fragments<const N: usize>(probes: &[Probe; N], ring: u8, skip: Fragment) -> [Fragment; N] {
    let mut list = [skip; N];
    let mut i = 0;
    while i < N {
        let case = if ring == 0 { probes[i].ring0 } else { probes[i].ring3 };
        if let Some(case) = case {
            list[i] = case.code;
        }
        i += 1;
    }
    list
}

/// Defines a fragment: its section, the directive for its mode, its return, its lines.
macro_rules! fragment {
    ($(#[$doc:meta])* $name:ident, $section:literal, $before:literal, $return:literal, [$($line:literal),+ $(,)?] $($op:tt)*) => {
        $(#[$doc])*
        #[unsafe(naked)]
        #[unsafe(link_section = $section)]
        unsafe extern "C" fn $name() {
            core::arch::naked_asm!($before, $($line,)+ $return, ".code64" $($op)*)
        }
    };
}
pub(crate) use fragment;

/// 16-bit fragments, copied below 1 MiB. The near return is spelled in bytes: the
/// assembler would choose a 32-bit one.
macro_rules! fragments16 {
    ($($(#[$doc:meta])* $name:ident: [$($line:literal),+ $(,)?] $(, $key:ident = const $value:expr)*;)+) => {
        $($crate::probe::fragment!($(#[$doc])* $name, ".real", ".code16", ".byte 0xc3", [$($line),+] $(, $key = const $value)*);)+
    };
}
pub(crate) use fragments16;

/// 32-bit fragments, for protected and compatibility mode, in pages that ring 3 may execute.
macro_rules! fragments32 {
    ($($(#[$doc:meta])* $name:ident: [$($line:literal),+ $(,)?] $(, $key:ident = const $value:expr)*;)+) => {
        $($crate::probe::fragment!($(#[$doc])* $name, ".user.text", ".code32", "ret", [$($line),+] $(, $key = const $value)*);)+
    };
}
pub(crate) use fragments32;

/// 64-bit fragments, in pages that ring 3 may execute.
macro_rules! fragments64 {
    ($($(#[$doc:meta])* $name:ident: [$($line:literal),+ $(,)?] $(, $key:ident = const $value:expr)*;)+) => {
        $($crate::probe::fragment!($(#[$doc])* $name, ".user.text", ".code64", "ret", [$($line),+] $(, $key = const $value)*);)+
    };
}
pub(crate) use fragments64;
