//! What a guest's end must look like, and how it differs from what was seen.

use engine::Stop;
use memory::GuestMemory;
use x86::{CpuState, Gpr, GuestPhysAddr, SegmentName};

use crate::bench::{Io, Record};
use crate::guest::{FrameSize, Guest};
use crate::layout::{LOG_PORT, STUBS};

/// How the run must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// By a write to the exit port.
    Exit,
    /// In the stub of an exception or interrupt.
    Event(Event),
    /// In a HLT that nothing ends.
    HaltedForGood,
    /// In shutdown.
    TripleFault,
}

/// An exception or interrupt that ended the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) vector: u8,
    pub(crate) code: Option<u32>,
    pub(crate) ip: Option<u64>,
}

/// What an event pushes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub(crate) enum FrameItem {
    Ip = 0,
    Cs = 1,
    Flags = 2,
    Sp = 3,
    Ss = 4,
    Es = 5,
    Ds = 6,
    Fs = 7,
    Gs = 8,
}

/// One thing to check at the end.
#[derive(Clone, Debug)]
pub(crate) enum Expect {
    Register { reg: Gpr, mask: u64, value: u64 },
    Item { name: &'static str, read: fn(&CpuState) -> u64, mask: u64, value: u64 },
    Segment { name: SegmentName, selector: u16, base: u64, limit: u32, attributes: Option<u16> },
    Memory { at: u64, bytes: Vec<u8> },
    Reports(Vec<u32>),
    Io(Vec<Io>),
    Frame { item: FrameItem, mask: u64, value: u64 },
}

/// What was seen at the end of a run.
pub(crate) struct Seen<'a> {
    pub(crate) guest: &'a Guest,
    pub(crate) stop: Stop,
    pub(crate) exited: bool,
    pub(crate) state: CpuState,
    pub(crate) memory: &'a GuestMemory,
    pub(crate) record: Record,
}

fn differs(found: &mut Vec<String>, name: &str, mask: u64, expected: u64, seen: u64) {
    if seen & mask != expected & mask {
        let note = if mask == u64::MAX { String::new() } else { format!(" (mask {mask:#x})") };
        found.push(format!("{name} is {seen:#x}, expected {expected:#x}{note}"));
    }
}

impl Seen<'_> {
    /// Everything that is not as the guest demands.
    pub(crate) fn differences(&self) -> Vec<String> {
        let mut found = Vec::new();
        self.check_ending(&mut found);
        for expect in &self.guest.expect {
            self.check(expect, &mut found);
        }
        found
    }

    /// The vector whose stub the run ended in.
    fn stub_vector(&self) -> Option<u8> {
        let stub = self.state.rip.wrapping_sub(STUBS) / 4;
        u8::try_from(stub).ok().filter(|_| self.stop == Stop::Kicked && !self.exited)
    }

    fn describe(&self) -> String {
        if self.exited {
            return "the guest wrote the exit port".to_owned();
        }
        match self.stub_vector() {
            Some(vector) => {
                let words = [0, 1, 2, 3].map(|index| self.stack(index));
                format!(
                    "vector {vector} was delivered, the stack holds {words:x?}, CR2 {:#x}",
                    self.state.cr2
                )
            }
            None => format!("the run stopped with {:?} at {:#x}", self.stop, self.state.rip),
        }
    }

    fn check_ending(&self, found: &mut Vec<String>) {
        let as_expected = match self.guest.ending {
            Ending::Exit => self.exited,
            Ending::Event(event) => self.stub_vector() == Some(event.vector),
            Ending::HaltedForGood => self.stop == Stop::HaltedForGood,
            Ending::TripleFault => self.stop == Stop::TripleFault,
        };
        if !as_expected {
            found.push(format!("expected {:x?}, but {}", self.guest.ending, self.describe()));
        } else if let Ending::Event(event) = self.guest.ending {
            if let Some(code) = event.code {
                differs(found, "the error code", self.word_mask(), code.into(), self.stack(0));
            }
            if let Some(ip) = event.ip {
                differs(found, "the saved IP", self.word_mask(), ip, self.frame(FrameItem::Ip));
            }
        }
    }

    fn check(&self, expect: &Expect, found: &mut Vec<String>) {
        let state = &self.state;
        match expect {
            Expect::Register { reg, mask, value } => {
                differs(found, &format!("{reg:?}"), *mask, *value, state.reg(*reg));
            }
            Expect::Item { name, read, mask, value } => differs(found, name, *mask, *value, read(state)),
            Expect::Segment { name, selector, base, limit, attributes } => {
                let seen = state.segment(*name);
                differs(
                    found,
                    &format!("{name:?}'s selector"),
                    !0,
                    (*selector).into(),
                    seen.selector.0.into(),
                );
                differs(found, &format!("{name:?}'s base"), !0, *base, seen.base);
                differs(found, &format!("{name:?}'s limit"), !0, (*limit).into(), seen.limit.into());
                if let Some(attributes) = *attributes {
                    let seen = seen.attributes.into_bits().into();
                    differs(found, &format!("{name:?}'s attributes"), !0, attributes.into(), seen);
                }
            }
            Expect::Memory { at, bytes } => self.check_memory(*at, bytes, found),
            Expect::Reports(values) => {
                let seen = self.reports();
                if seen != *values {
                    found.push(format!("the guest reported {seen:x?}, expected {values:x?}"));
                }
            }
            Expect::Io(accesses) if self.record.io != *accesses => {
                found.push(format!("I/O was {:x?}, expected {accesses:x?}", self.record.io));
            }
            Expect::Io(_) => {}
            Expect::Frame { item, mask, value } => {
                differs(found, &format!("the pushed {item:?}"), *mask, *value, self.frame(*item));
            }
        }
    }

    fn check_memory(&self, at: u64, bytes: &[u8], found: &mut Vec<String>) {
        let mut seen = vec![0; bytes.len()];
        if self.memory.read(GuestPhysAddr(at), &mut seen).is_err() {
            found.push(format!("the expectation at {at:#x} lies outside memory"));
        } else if seen != bytes {
            found.push(format!("memory at {at:#x} is {seen:02x?}, expected {bytes:02x?}"));
        }
    }

    fn reports(&self) -> Vec<u32> {
        let to_log = |io: &&Io| matches!(io, Io::Out { port: LOG_PORT, .. });
        self.record.io.iter().filter(to_log).map(Io::value).collect()
    }

    fn word_mask(&self) -> u64 {
        match self.guest.frame {
            FrameSize::Word => 0xffff,
            FrameSize::Dword => 0xffff_ffff,
            FrameSize::Qword => u64::MAX,
        }
    }

    /// A word of the handler's stack; stacks are mapped to themselves.
    fn stack(&self, index: u64) -> u64 {
        let ss = self.state.segment(SegmentName::Ss);
        let sp = match self.guest.frame {
            FrameSize::Qword => self.state.reg(Gpr::Rsp),
            _ if ss.attributes.db() => self.state.reg(Gpr::Rsp) & 0xffff_ffff,
            _ => self.state.reg(Gpr::Rsp) & 0xffff,
        };
        let base = if self.guest.frame == FrameSize::Qword { 0 } else { ss.base };
        let at = base.wrapping_add(sp).wrapping_add(index * self.guest.frame as u64);
        let mut bytes = [0; 8];
        let _ = self.memory.read(GuestPhysAddr(at), &mut bytes);
        u64::from_le_bytes(bytes) & self.word_mask()
    }

    fn frame(&self, item: FrameItem) -> u64 {
        let code = matches!(self.guest.ending, Ending::Event(Event { code: Some(_), .. }));
        self.stack(item as u64 + u64::from(code))
    }
}
