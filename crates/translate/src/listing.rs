//! Blocks as text: guest code and the host code made from it, side by side.
//! Addresses of shared code and of the context's fields are given by name,
//! branches inside the block by distance, so that a text depends neither on
//! where code lies nor on the host.

use std::fmt::Write;

use iced_x86::{Decoder, DecoderOptions, Formatter, Instruction, NasmFormatter, Register};
use iced_x86::{SymbolResolver, SymbolResult};

use crate::asm::BIAS;
use crate::blocks::{Mark, STUB};
use crate::context::{addends, offset, tags};
use crate::emit::Made;
use crate::mode::Mode;
use crate::runtime::{Exit, Runtime};

/// Columns of guest code.
const GUEST_WIDTH: usize = 42;
/// Views whose arrays have names.
const VIEWS: [&str; 4] = ["supervisor", "supervisor_ac", "user", "none"];

/// A block just made.
pub(crate) struct Listed<'a> {
    pub(crate) runtime: &'a Runtime,
    pub(crate) mode: Mode,
    /// The linear address of its first instruction.
    pub(crate) lin: u64,
    pub(crate) guest: &'a [u8],
    /// Where its host code lies.
    pub(crate) origin: usize,
    pub(crate) host: &'a [u8],
    pub(crate) made: &'a Made,
}

impl Listed<'_> {
    /// A line for each host instruction, with the guest instruction that it
    /// begins.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        let mut formatter = formatter(Some(Box::new(self.names())));
        let mut marks = self.made.marks.iter().peekable();
        let mut decoder = Decoder::with_ip(64, self.host, self.origin as u64, DecoderOptions::NONE);
        while decoder.can_decode() {
            let instruction = decoder.decode();
            let at = (instruction.ip() - self.origin as u64) as usize;
            let mut guest = self.stub_at(at);
            while let Some(mark) = marks.next_if(|mark| mark.host as usize <= at) {
                if let Some(made_nothing) = guest.replace(self.guest_line(mark)) {
                    line(&mut text, &made_nothing, "");
                }
            }
            let mut host = String::new();
            formatter.format(&instruction, &mut host);
            line(&mut text, &guest.unwrap_or_default(), &host);
        }
        text
    }

    /// The linear address of a place in the guest code page.
    fn address(&self, place: i64) -> u64 {
        let mask = if self.mode.long() { u64::MAX } else { 0xffff_ffff };
        (self.lin & !0xfff).wrapping_add(place as u64) & mask
    }

    fn guest_line(&self, mark: &Mark) -> String {
        let at = self.address(mark.guest.into());
        let rest = self.guest.get(usize::from(mark.guest) - (self.lin & 0xfff) as usize..).unwrap_or(&[]);
        if rest.is_empty() {
            return format!("{at:#x}: goes on");
        }
        let bits = u32::from(self.mode.word()) * 8;
        let instruction = Decoder::with_ip(bits, rest, at, DecoderOptions::NONE).decode();
        let mut text = String::new();
        formatter(None).format(&instruction, &mut text);
        format!("{at:#x}: {text}")
    }

    /// What the stub at a place in the host code is for.
    fn stub_at(&self, at: usize) -> Option<String> {
        let way = self.made.ways.iter().find(|way| way.stub_end - STUB == self.origin + at)?;
        Some(format!("to {:#x}", self.address(way.target)))
    }

    fn names(&self) -> Names {
        Names {
            runtime: *self.runtime,
            origin: self.origin as u64,
            end: (self.origin + self.host.len()) as u64,
        }
    }
}

fn formatter(names: Option<Box<dyn SymbolResolver>>) -> NasmFormatter {
    let mut formatter = NasmFormatter::with_options(names, None);
    let options = formatter.options_mut();
    options.set_hex_prefix("0x");
    options.set_hex_suffix("");
    options.set_uppercase_hex(false);
    options.set_space_after_operand_separator(true);
    options.set_show_branch_size(false);
    options.set_rip_relative_addresses(false);
    formatter
}

fn line(text: &mut String, guest: &str, host: &str) {
    let line = format!("{guest:GUEST_WIDTH$} | {host}");
    let _ = writeln!(text, "{}", line.trim_end());
}

/// Names instead of addresses.
struct Names {
    runtime: Runtime,
    origin: u64,
    end: u64,
}

impl SymbolResolver for Names {
    fn symbol(
        &mut self,
        instruction: &Instruction,
        _operand: u32,
        instruction_operand: Option<u32>,
        address: u64,
        _address_size: u32,
    ) -> Option<SymbolResult<'_>> {
        use iced_x86::OpKind;
        let operand = instruction_operand.map(|operand| instruction.op_kind(operand))?;
        let of_context = instruction.memory_base() == Register::RSP;
        match operand {
            OpKind::NearBranch64 if (self.origin..self.end).contains(&address) => {
                Some(SymbolResult::with_string(address, format!("block+{:#x}", address - self.origin)))
            }
            OpKind::NearBranch64 => {
                Some(SymbolResult::with_string(address, shared_code(&self.runtime, address as usize)?))
            }
            OpKind::Memory if of_context => {
                let (at, name) = field_at(address as i64 + i64::from(BIAS))?;
                Some(SymbolResult::with_string((at - i64::from(BIAS)) as u64, name))
            }
            _ => None,
        }
    }
}

/// The name of a piece of shared code.
fn shared_code(runtime: &Runtime, address: usize) -> Option<String> {
    let exit = Exit::ALL.into_iter().find(|&exit| runtime.exit(exit) == address);
    if let Some(exit) = exit {
        return Some(format!("exit_{}", exit.name()));
    }
    let again = Exit::ALL.into_iter().find(|&exit| runtime.look_again(exit) == address);
    if let Some(exit) = again {
        return Some(format!("look_again_{}", exit.name()));
    }
    for (view, name) in VIEWS.iter().enumerate() {
        for write in [false, true] {
            let kind = if write { "write" } else { "read" };
            if runtime.miss(view, write) == address {
                return Some(format!("miss_{kind}_{name}"));
            }
            if runtime.window(view, write) == address {
                return Some(format!("window_{kind}_{name}"));
            }
        }
    }
    [(runtime.need_fpu, "need_fpu"), (runtime.need_upper, "need_upper"), (runtime.need_high, "need_high")]
        .into_iter()
        .find_map(|(at, name)| (at == address).then(|| name.to_owned()))
}

/// The field of the context that holds the byte at `disp`, and where it
/// begins.
fn field_at(disp: i64) -> Option<(i64, String)> {
    const ARRAY: i64 = interpret::tlb::ENTRIES as i64 * 8;
    let within = |start: i32, len: i64| (i64::from(start)..i64::from(start) + len).contains(&disp);
    if disp < 0 {
        return None;
    }
    if let Some((at, name)) = FIELDS.iter().rev().find(|(at, _)| i64::from(*at) <= disp)
        && disp < i64::from(offset!(tlb))
    {
        return Some((i64::from(*at), (*name).to_owned()));
    }
    for (view, name) in VIEWS.iter().enumerate() {
        for write in [false, true] {
            let kind = if write { "write" } else { "read" };
            for (at, what) in [(tags(view, write), "tags"), (addends(view, write), "addends")] {
                if within(at, ARRAY) {
                    return Some((at.into(), format!("{kind}_{what}_{name}")));
                }
            }
        }
    }
    None
}

macro_rules! fields {
    ($($name:ident)*) => { &[$((offset!($name), stringify!($name)),)*] };
}

/// The context's fields in their order.
const FIELDS: &[(i32, &str)] = fields! {
    calls home index_mask jump_masks page fs_base gs_base jumps undisturbed disturbed fpu_away temporary state
    save_rax save_rdx save_r10 save_r11 flags fpu_blocked fpu_wanted upper_clean memory_clean high_clean
    host_mxcsr target exit_at host_rsp system_flags interrupt_flag signals tsc_offset ways nowhere ring syscall_code
    syscall_entry syscall_blocked sysret_blocked iret_blocked iret_cs iret_ss iret_pair
    iret_first iret_second iret_frame iret_entry syscall_kept popf_mask sysret_mask iret_mask upper_half_mask
    direction_mask parity_mask mask_31 mask_63 pause_mask pauses overflow blocks tests refills
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_in_their_order() {
        assert!(FIELDS.is_sorted_by_key(|(at, _)| at));
        assert_eq!(field_at(i64::from(offset!(home)) + 8), Some((offset!(home).into(), "home".to_owned())));
        let tag = i64::from(tags(2, true)) + 16;
        assert_eq!(field_at(tag), Some((tag - 16, "write_tags_user".to_owned())));
    }
}
