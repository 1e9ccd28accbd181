//! Guest code, assembled by the compiler's own assembler.
//!
//! [`code16!`], [`code32!`] and [`code64!`] assemble Intel-syntax text for the
//! given code size into read-only data. A piece is loaded at `MAIN`
//! (8000h) unless it says `at ADDRESS;` first; whatever it names by absolute
//! address is named as a constant of the [layout](crate::layout) or through
//! the macros `load_ax`/`load_eax` (address of a label into the accumulator).
//! The label `7:` marks the instruction whose address the expected end state
//! speaks of; where there is none, that is the first. `farjmp SEL, OFF` and
//! `farcall SEL, OFF` are the direct far transfers of the code size.
//!
//! The assembler reads `retf`, `pushf` and `push ds` its own way outside
//! 64-bit mode; guests there spell `pushfd`, or give the opcode byte.

/// One assembled piece of guest code.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Code {
    /// Where it is loaded.
    pub(crate) at: u32,
    /// Its bytes.
    pub(crate) bytes: &'static [u8],
    /// Offset of the instruction that label `7:` marks.
    pub(crate) mark: u32,
}

impl Code {
    /// Reads the piece that starts at `header`: its length, then its bytes,
    /// then the offset of its mark.
    ///
    /// # Safety
    /// `header` must be the symbol that [`assemble!`] defines.
    pub(crate) unsafe fn from_symbol(header: *const u32, at: u32) -> Self {
        // SAFETY: the assembler put the length there and that many bytes and
        // a word behind it, in read-only data that lives for ever.
        unsafe {
            let len = header.read_unaligned() as usize;
            let bytes = std::slice::from_raw_parts(header.add(1).cast::<u8>(), len);
            let mark = header.add(1).byte_add(len).read_unaligned();
            Self { at, bytes, mark }
        }
    }

    /// The address of the marked instruction.
    pub(crate) fn marked(&self) -> u64 {
        u64::from(self.at) + u64::from(self.mark)
    }
}

/// Assembles one piece; used through `code16!`, `code32!` and `code64!`.
macro_rules! assemble {
    ($mode:literal, $offset:literal, $at:literal, $text:literal) => {{
        mod piece {
            ::std::arch::global_asm!(
                ".pushsection .rodata.ringmaster.guests, \"a\", @progbits",
                $mode,
                concat!(".globl \"", module_path!(), ":", line!(), ":", column!(), "\""),
                concat!(".hidden \"", module_path!(), ":", line!(), ":", column!(), "\""),
                concat!("\"", module_path!(), ":", line!(), ":", column!(), "\":"),
                ".long 98f - 99f",
                concat!(".set rm_base, ", $at),
                ".macro load_ax label",
                ".byte 0xb8",
                ".word \\label - 99b + rm_base",
                ".endm",
                ".macro load_eax label",
                ".byte 0xb8",
                ".long \\label - 99b + rm_base",
                ".endm",
                ".macro farjmp selector, target",
                ".byte 0xea",
                concat!($offset, " \\target"),
                ".word \\selector",
                ".endm",
                ".macro farcall selector, target",
                ".byte 0x9a",
                concat!($offset, " \\target"),
                ".word \\selector",
                ".endm",
                "99:",
                "7:",
                $text,
                "98:",
                ".long 7b - 99b",
                ".purgem load_ax",
                ".purgem load_eax",
                ".purgem farjmp",
                ".purgem farcall",
                ".code64",
                ".popsection",
            );
            unsafe extern "C" {
                #[link_name = concat!(module_path!(), ":", line!(), ":", column!())]
                pub(super) static HEADER: u32;
            }
        }
        // SAFETY: HEADER is the symbol defined just above.
        unsafe { $crate::asm::Code::from_symbol(&raw const piece::HEADER, $at) }
    }};
}

/// Assembles 16-bit code.
macro_rules! code16 {
    (at $at:literal; $text:literal) => {
        $crate::asm::assemble!(".code16", ".word", $at, $text)
    };
    ($text:literal) => {
        $crate::asm::assemble!(".code16", ".word", 0x8000, $text)
    };
}

/// Assembles 32-bit code.
macro_rules! code32 {
    (at $at:literal; $text:literal) => {
        $crate::asm::assemble!(".code32", ".long", $at, $text)
    };
    ($text:literal) => {
        $crate::asm::assemble!(".code32", ".long", 0x8000, $text)
    };
}

/// Assembles 64-bit code.
macro_rules! code64 {
    (at $at:literal; $text:literal) => {
        $crate::asm::assemble!(".code64", ".long", $at, $text)
    };
    ($text:literal) => {
        $crate::asm::assemble!(".code64", ".long", 0x8000, $text)
    };
}

pub(crate) use {assemble, code16, code32, code64};

#[cfg(test)]
mod tests {
    #[test]
    fn pieces_are_assembled_for_their_code_size() {
        assert_eq!(code16!("mov ax, 5").bytes, [0xb8, 5, 0]);
        assert_eq!(code32!("mov ax, 5").bytes, [0x66, 0xb8, 5, 0]);
        assert_eq!(code64!("push rax").bytes, [0x50]);
        assert_eq!(code32!("farjmp 8, 0x8000").bytes, [0xea, 0, 0x80, 0, 0, 8, 0]);
    }

    #[test]
    fn labels_and_marks_are_relative_to_the_load_address() {
        let code = code32!(at 0x9000; "nop; 7: nop; 2: load_eax 2b");
        assert_eq!(code.bytes, [0x90, 0x90, 0xb8, 2, 0x90, 0, 0]);
        assert_eq!(code.marked(), 0x9001);
        assert_eq!(code32!("nop; nop").marked(), 0x8000);
    }
}
