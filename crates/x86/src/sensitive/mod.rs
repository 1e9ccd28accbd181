//! Privileged and sensitive instructions: which they are, why, and how to
//! recognize one in decoded code.
//!
//! Popek and Goldberg (CACM 17(7), 1974) call an instruction sensitive if it
//! changes the machine's resources (control) or depends on them (behaviour). A
//! monitor by trapping needs them all to be privileged. Robin and Irvine
//! (USENIX Security 2000) found seventeen of the Pentium that are not. Their
//! sections name eighteen mnemonics; VERR and VERW, which share an entry in the
//! manual, share their number here.

mod table;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::LazyLock;

use iced_x86::{Instruction, Mnemonic, Register};
use serde::Serialize;

pub use table::TABLE;

/// What becomes of an instruction at CPL > 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// It traps, so a monitor sees it.
    Privileged,
    /// It traps if CPL > IOPL, or by the I/O permission map.
    IoplSensitive,
    /// It is executed, and shows or ignores what a guest's kernel may not see.
    Sensitive,
}

impl Class {
    /// All classes.
    pub const ALL: [Self; 3] = [Self::Privileged, Self::IoplSensitive, Self::Sensitive];
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Privileged => "privileged",
            Self::IoplSensitive => "IOPL-sensitive",
            Self::Sensitive => "sensitive",
        })
    }
}

/// Why an instruction is sensitive in Popek and Goldberg's sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sensitivity {
    /// It changes the machine's resources, or transfers between privileges.
    Control,
    /// Its result depends on them.
    Behaviour,
}

/// Which resource of the machine it touches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Resource {
    /// Segments, descriptor tables, gates.
    Segments,
    /// Paging and the TLB.
    Paging,
    /// Caches and other memory matters.
    Memory,
    /// Interrupts and flags.
    Interrupts,
    /// The processor's mode, registers and identity.
    Processor,
    /// Ports.
    Io,
    /// Time and performance.
    Time,
    /// Virtualization itself.
    Virtualization,
}

/// Which of a mnemonic's forms are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Any,
    /// Calls and jumps through a selector.
    Far,
    /// A segment register is source or destination.
    SegmentRegister,
    ControlRegister,
    DebugRegister,
    /// The test registers of the 386 and 486.
    TestRegister,
}

/// One row of the table.
#[derive(Debug)]
pub struct Entry {
    /// The manual's name.
    pub name: &'static str,
    mnemonics: &'static [Mnemonic],
    form: Form,
    /// What becomes of it at CPL > 0.
    pub class: Class,
    /// Why it is sensitive.
    pub sensitivity: Sensitivity,
    /// What it touches.
    pub resource: Resource,
    /// Its number among Robin and Irvine's seventeen.
    pub robin_irvine: Option<u8>,
    /// What happens at CPL > 0 on the bare processor.
    pub at_user_level: &'static str,
    /// Where the manuals say so.
    pub citation: &'static str,
}

impl Form {
    fn matches(self, instruction: &Instruction) -> bool {
        let register = |is: fn(Register) -> bool| {
            is(instruction.op0_register()) || instruction.op_count() > 1 && is(instruction.op1_register())
        };
        match self {
            Self::Any => true,
            Self::Far => {
                instruction.is_call_far()
                    || instruction.is_call_far_indirect()
                    || instruction.is_jmp_far()
                    || instruction.is_jmp_far_indirect()
            }
            Self::SegmentRegister => register(Register::is_segment_register),
            Self::ControlRegister => register(Register::is_cr),
            Self::DebugRegister => register(Register::is_dr),
            Self::TestRegister => register(Register::is_tr),
        }
    }
}

/// The rows of each mnemonic, by the mnemonic's number.
static BY_MNEMONIC: LazyLock<Vec<Vec<&'static Entry>>> = LazyLock::new(|| {
    let mut rows: Vec<Vec<&'static Entry>> = vec![Vec::new(); Mnemonic::values().len()];
    for entry in TABLE {
        for &mnemonic in entry.mnemonics {
            rows[mnemonic as usize].push(entry);
        }
    }
    rows
});

/// The table's entry for `instruction`, if it is privileged or sensitive.
pub fn classify(instruction: &Instruction) -> Option<&'static Entry> {
    let rows = BY_MNEMONIC.get(instruction.mnemonic() as usize)?;
    rows.iter().find(|entry| entry.form.matches(instruction)).copied()
}
