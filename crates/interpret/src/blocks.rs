//! Decoded code, kept by guest-physical page so that page-table changes cost
//! nothing, and dropped when its bytes are written.

use std::collections::HashMap;

use engine::Callout;
use x86::paging::{Access, AccessKind};
use x86::{GuestPhysAddr, LinearAddr, PAGE_SIZE};

use crate::cpu::{Cpu, Exec};
use crate::decode::{Decoded, Flow, InsnDecoder, MAX_LEN};
use crate::insn::Insn;

/// The most instructions in a block.
const MAX_INSNS: usize = 32;
/// The most pages of decoded code before all are dropped.
const MAX_PAGES: usize = 16384;
/// The most decoded instructions before all are dropped.
const MAX_DECODED: usize = 1 << 21;
/// The most page-crossing instructions to remember.
const MAX_CROSSING: usize = 65536;
const FETCH_ENTRIES: usize = 256;
const RECENT_ENTRIES: usize = 4096;

/// Straight-line code within one page.
pub(crate) struct Block {
    pub(crate) insns: Box<[Insn]>,
    /// Bytes of guest code.
    pub(crate) bytes: u16,
}

/// All blocks that start in one page, for one code size.
struct CodePage {
    gpa: GuestPhysAddr,
    /// The page's version when the blocks were decoded.
    version: u32,
    /// The epoch at which the version was last compared.
    epoch: u64,
    /// Index of a block plus one, by offset in the page.
    table: Box<[u16; PAGE_SIZE as usize]>,
    blocks: Vec<Block>,
}

/// A remembered translation of a code page.
#[derive(Clone, Copy, Default)]
struct Fetch {
    page: u64,
    /// TLB flushes so far, code size and privilege; 0 never matches.
    key: u64,
    index: u32,
}

/// A block that was found before, by its exact address.
#[derive(Clone, Copy, Default)]
struct Recent {
    lin: u64,
    /// As in [`Fetch`].
    key: u64,
    /// The epoch at which the block was valid.
    epoch: u64,
    page: u32,
    block: u32,
}

/// Where the next instruction is.
#[derive(Clone, Copy)]
pub(crate) enum Code<'a> {
    Block(&'a Block),
    /// An instruction that crosses a page or does not lie in RAM.
    Single(&'a Insn),
}

pub(crate) struct Blocks {
    pub(crate) decoder: InsnDecoder,
    pages: Vec<CodePage>,
    index: HashMap<(u64, u8), u32>,
    /// Instructions in the blocks of all pages.
    decoded: usize,
    fetch: [Fetch; FETCH_ENTRIES],
    recent: Box<[Recent; RECENT_ENTRIES]>,
    /// Counts how often everything was dropped.
    pub(crate) generation: u64,
    /// Instructions by their bytes, for those that cross a page.
    crossing: HashMap<([u8; MAX_LEN], u8), Insn>,
}

impl Blocks {
    pub(crate) fn new(decoder: InsnDecoder) -> Self {
        Self {
            decoder,
            pages: Vec::new(),
            index: HashMap::new(),
            decoded: 0,
            fetch: [Fetch::default(); FETCH_ENTRIES],
            recent: Box::new([Recent::default(); RECENT_ENTRIES]),
            generation: 0,
            crossing: HashMap::new(),
        }
    }

    /// Drops everything; thunks too.
    pub(crate) fn clear(&mut self) {
        self.generation += 1;
        self.pages.clear();
        self.index.clear();
        self.decoded = 0;
        self.fetch.fill(Fetch::default());
        self.recent.fill(Recent::default());
        self.crossing.clear();
        self.decoder.arena.reset();
    }

    /// Whether room must be made before anything else is decoded: a guest can
    /// make more code than any memory holds.
    fn is_full(&self) -> bool {
        self.pages.len() >= MAX_PAGES || self.decoded >= MAX_DECODED || self.decoder.arena.nearly_full()
    }

    /// The code at CS:RIP.
    ///
    /// # Errors
    /// The fault of the instruction fetch.
    #[inline]
    pub(crate) fn lookup(&mut self, cpu: &mut Cpu) -> Exec<Code<'_>> {
        let lin = cpu.code_address().0;
        let (key, epoch) = (fetch_key(cpu), cpu.memory.code_epoch());
        let slot = (lin ^ lin >> 12) as usize % RECENT_ENTRIES;
        let recent = self.recent[slot];
        if recent.lin == lin && recent.key == key && recent.epoch == epoch {
            return Ok(Code::Block(&self.pages[recent.page as usize].blocks[recent.block as usize]));
        }
        let Some((page, block)) = self.find(cpu, lin, key)? else { return self.single(cpu, lin) };
        // Marking the block's bytes as code does not advance the epoch.
        self.recent[slot] = Recent { lin, key, epoch, page, block };
        Ok(Code::Block(&self.pages[page as usize].blocks[block as usize]))
    }

    /// Page and block at `lin`, decoded if need be; `None` if the instruction
    /// must be fetched by [`Self::single`].
    fn find(&mut self, cpu: &mut Cpu, lin: u64, key: u64) -> Exec<Option<(u32, u32)>> {
        check_fetch(cpu, 1)?;
        if self.is_full() {
            self.clear();
        }
        let slot = (lin >> 12) as usize % FETCH_ENTRIES;
        let known = self.fetch[slot];
        let index = if known.page == lin & !0xfff && known.key == key {
            known.index
        } else {
            let Some(index) = self.find_page(cpu, lin)? else { return Ok(None) };
            self.fetch[slot] = Fetch { page: lin & !0xfff, key, index };
            index
        };
        self.validate(cpu, index);
        let offset = (lin & 0xfff) as usize;
        let block = match self.pages[index as usize].table[offset] {
            0 => self.decode_block(cpu, index, offset),
            block => Some(block),
        };
        Ok(block.map(|number| (index, u32::from(number) - 1)))
    }

    /// The code page behind `lin`; `None` if it is not RAM or ROM.
    fn find_page(&mut self, cpu: &mut Cpu, lin: u64) -> Exec<Option<u32>> {
        let gpa = translate_fetch(cpu, lin)?.page();
        if cpu.memory.page(gpa).is_none() {
            return Ok(None);
        }
        let key = (gpa.0, cpu.code_size);
        if let Some(&index) = self.index.get(&key) {
            return Ok(Some(index));
        }
        let index = self.pages.len() as u32;
        self.pages.push(CodePage {
            gpa,
            version: cpu.memory.code_version(gpa),
            epoch: cpu.memory.code_epoch(),
            table: Box::new([0; PAGE_SIZE as usize]),
            blocks: Vec::new(),
        });
        self.index.insert(key, index);
        Ok(Some(index))
    }

    /// Drops the blocks of a page whose code has been written.
    #[inline]
    fn validate(&mut self, cpu: &mut Cpu, index: u32) {
        let epoch = cpu.memory.code_epoch();
        let page = &mut self.pages[index as usize];
        if page.epoch == epoch {
            return;
        }
        page.epoch = epoch;
        let version = cpu.memory.code_version(page.gpa);
        if page.version != version {
            page.version = version;
            page.table.fill(0);
            self.decoded -= page.blocks.iter().map(|block| block.insns.len()).sum::<usize>();
            page.blocks.clear();
            cpu.stats.count(Callout::BlockInvalidated);
        }
    }

    /// Decodes the block at `offset`; `None` if its first instruction crosses
    /// the page's end.
    fn decode_block(&mut self, cpu: &mut Cpu, index: u32, offset: usize) -> Option<u16> {
        let gpa = self.pages[index as usize].gpa;
        let start = gpa.wrapping_add(offset as u64);
        let mut bytes = [0; PAGE_SIZE as usize];
        let bytes = &mut bytes[offset..];
        let mut again = [0; MAX_INSNS * MAX_LEN];
        cpu.memory.read(start, bytes).ok()?;
        let (insns, len) = loop {
            let (insns, len) = self.decode_run(cpu, bytes);
            if insns.is_empty() {
                return None;
            }
            cpu.mark_code(start, len as u64);
            // A write of another thread is noticed from the mark on; what came
            // before it must show here.
            let again = &mut again[..len];
            cpu.memory.read(start, again).ok()?;
            if bytes[..len] == *again {
                break (insns, len);
            }
            cpu.memory.read(start, bytes).ok()?;
        };
        cpu.stats.count(Callout::BlockDecoded);
        self.decoded += insns.len();
        let page = &mut self.pages[index as usize];
        page.blocks.push(Block { insns: insns.into(), bytes: len as u16 });
        let number = page.blocks.len() as u16;
        page.table[offset] = number;
        Some(number)
    }

    /// Decodes from the start of `bytes` to where a block ends; how many bytes
    /// it takes.
    fn decode_run(&mut self, cpu: &Cpu, bytes: &[u8]) -> (Vec<Insn>, usize) {
        let (mut insns, mut at) = (Vec::new(), 0);
        while insns.len() < MAX_INSNS && at < bytes.len() {
            let decoded = self.decoder.decode(&bytes[at..], cpu.code_size, &cpu.cpuid);
            let Decoded::Insn(insn, flow) = decoded else { break };
            at += usize::from(insn.len);
            insns.push(insn);
            if flow == Flow::End {
                break;
            }
        }
        (insns, at)
    }

    /// Fetches one instruction byte by byte, where it crosses a page or comes
    /// from a device.
    #[cold]
    fn single(&mut self, cpu: &mut Cpu, lin: u64) -> Exec<Code<'_>> {
        let mut bytes = [0; MAX_LEN];
        let mut len = 0;
        let in_first = (0x1000 - (lin & 0xfff)).min(MAX_LEN as u64) as usize;
        for end in [in_first, MAX_LEN] {
            if end > len {
                // The segment's end comes before the next page's.
                check_fetch(cpu, len as u64 + 1)?;
                fetch_bytes(cpu, lin, &mut bytes[len..end], len as u64)?;
                len = end;
            }
            let decoded = self.decoder.decode(&bytes[..len], cpu.code_size, &cpu.cpuid);
            if let Decoded::Insn(insn, _) = decoded {
                check_fetch(cpu, u64::from(insn.len))?;
                if self.crossing.len() >= MAX_CROSSING {
                    self.crossing.clear();
                }
                let mut key = ([0; MAX_LEN], cpu.code_size);
                key.0[..len].copy_from_slice(&bytes[..len]);
                return Ok(Code::Single(self.crossing.entry(key).or_insert(insn)));
            }
        }
        Err(cpu.gp0())
    }
}

/// A key for translations of code: it changes with every flush, code size and
/// privilege.
#[inline]
fn fetch_key(cpu: &Cpu) -> u64 {
    (cpu.tlb.flushes + 1) << 8 | u64::from(cpu.code_size) << 1 | u64::from(cpu.view.user())
}

/// The CS limit, or canonicality of RIP, for an instruction of `len` bytes.
#[inline]
pub(crate) fn check_fetch(cpu: &mut Cpu, len: u64) -> Exec {
    let rip = cpu.state.rip;
    let fits = if cpu.long {
        cpu.canonical(rip) && cpu.canonical(rip.wrapping_add(len - 1))
    } else {
        let cs = cpu.state.segment(x86::SegmentName::Cs);
        rip.wrapping_add(len - 1) <= u64::from(cs.limit)
    };
    if fits { Ok(()) } else { Err(cpu.gp0()) }
}

fn translate_fetch(cpu: &mut Cpu, lin: u64) -> Exec<GuestPhysAddr> {
    let access = Access { kind: AccessKind::Execute, user: cpu.view.user(), smap_override: false };
    match cpu.paging.translate(&cpu.memory, LinearAddr(lin), access) {
        Ok(page) => {
            cpu.tlb.note_large(lin, page.page_shift);
            Ok(page.gpa)
        }
        Err(fault) => Err(cpu.raise(fault)),
    }
}

/// Reads code bytes that lie `skip` bytes behind `lin`, all in one page.
fn fetch_bytes(cpu: &mut Cpu, lin: u64, bytes: &mut [u8], skip: u64) -> Exec {
    let at = lin.wrapping_add(skip) & cpu.linear_mask;
    let gpa = translate_fetch(cpu, at)?;
    if cpu.memory.read(gpa, bytes).is_err() {
        for (index, piece) in bytes.chunks_mut(1).enumerate() {
            cpu.platform().mmio_read(cpu.id, gpa.wrapping_add(index as u64), piece);
        }
    }
    Ok(())
}
