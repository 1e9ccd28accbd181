//! What generated code comes back for.

use std::sync::atomic::Ordering;

use engine::Stop;
use interpret::slow::{Ready, SlowPath};
use x86::{LinearAddr, PAGE_SIZE, Vector};

use super::Core;
use crate::blocks::{Access, BlockId, Key, Mark};
use crate::jumps::TableId;
use crate::mode::Mode;
use crate::runtime::{CHECK_LENGTH, CHECK_TAIL, Exit, LOOK_UP_LENGTH, MAX_ACCESS};

/// What to do after an exit.
pub(super) enum Next {
    /// Enter again at this host address.
    Resume(usize),
    /// Look for the code at CS:RIP.
    LookUp,
}

impl Core {
    /// Does what code has come back for.
    pub(super) fn handle(&mut self, slow: &mut SlowPath, exit: Exit) -> Result<Next, Stop> {
        self.counters.exit(exit);
        let context = self.context.pointer().as_ptr();
        // SAFETY: no generated code runs now.
        let (at, page) = unsafe { ((*context).exit_at as usize, (*context).page) };
        if exit == Exit::Indirect && self.note_known() {
            return Ok(Next::Resume(at - LOOK_UP_LENGTH));
        }
        let Some(id) = self.blocks.at(at - 1) else {
            return Err(Stop::Failed(format!("translated code came back from nowhere ({at:#x})")));
        };
        let block = self.blocks.get(id);
        let mode = block.key.mode.with_windows();
        let Mark { guest: place, access, .. } = block.mark_at(at - 1);
        let page = if mode.position_independent() { page } else { block.key.lin & !(PAGE_SIZE - 1) };
        let width = if mode.long() { u64::MAX } else { 0xffff_ffff };
        slow.state_mut().rip = page.wrapping_add(u64::from(place)) & width;
        match exit {
            Exit::Link => self.link(slow, mode, id, at, page, width),
            Exit::Callout => self.callout(slow, mode, id, place, at),
            Exit::Poll => Ok(Next::LookUp),
            Exit::Indirect if self.learn(slow) => Ok(Next::Resume(at - LOOK_UP_LENGTH)),
            Exit::Indirect | Exit::Interpret => {
                self.interpret_one(slow)?;
                Ok(Next::LookUp)
            }
            Exit::MissRead => self.miss(slow, mode, false, access, at),
            Exit::MissWrite => self.miss(slow, mode, true, access, at),
        }
    }

    /// A direct branch of block `id` that is not linked.
    fn link(
        &mut self,
        slow: &mut SlowPath,
        mode: Mode,
        id: BlockId,
        at: usize,
        page: u64,
        width: u64,
    ) -> Result<Next, Stop> {
        let block = self.blocks.get(id);
        let Some(number) = block.ways.iter().position(|way| way.stub_end == at) else {
            return Err(Stop::Failed(format!("a branch of translated code is unknown ({at:#x})")));
        };
        let target = page.wrapping_add(block.ways[number].target as u64) & width;
        let valid = block.valid;
        let mode = if block.ways[number].plain { mode.without_windows() } else { mode };
        slow.state_mut().rip = target;
        if !valid {
            return Ok(Next::LookUp);
        }
        let forgotten = self.forgotten;
        let Ok(Some(to)) = self.find_block(slow, mode, LinearAddr(target)) else { return Ok(Next::LookUp) };
        if self.forgotten != forgotten {
            return Ok(Next::LookUp);
        }
        let links = self.options.chain && self.blocks.may_link(to);
        if links {
            self.blocks.link(&self.cache, id, number as u8, to);
        }
        // The dispatcher knows nothing of blocks without windows.
        let resumes = links || !mode.has_windows();
        Ok(if resumes { Next::Resume(self.blocks.get(to).inner) } else { Next::LookUp })
    }

    /// The table in which an indirect branch has not found the address in R10.
    fn missed(&self) -> Option<(TableId, Mode, LinearAddr)> {
        let context = self.context.pointer().as_ptr();
        // SAFETY: no generated code runs now.
        let (target, jumps) = unsafe { ((*context).save_r10, (*context).jumps.load(Ordering::Relaxed)) };
        let (table, meaning) = self.tables.at(jumps).filter(|_| self.options.chain)?;
        Some((table, meaning.mode, LinearAddr(target)))
    }

    /// Notes where an indirect branch leads, if that is a known block in a page
    /// that such branches have led to before.
    fn note_known(&mut self) -> bool {
        let Some((table, mode, lin)) = self.missed() else { return false };
        let Some(page) = self.tables.page(table, lin.0 >> 12) else { return false };
        let position = if mode.position_independent() { 0 } else { lin.0 };
        let key = Key { gpa: page << 12 | lin.page_offset(), second: 0, lin: position, mode };
        let found = self.blocks.find(&key);
        if let Some(id) = found {
            self.note_jump(table, lin, id);
        }
        found.is_some()
    }

    /// An indirect branch to an address that is not known: whether it is now.
    fn learn(&mut self, slow: &mut SlowPath) -> bool {
        let Some((table, mode, lin)) = self.missed() else { return false };
        let (forgotten, rip) = (self.forgotten, slow.state().rip);
        slow.state_mut().rip = lin.0;
        let found = self.find_block(slow, mode, lin);
        slow.state_mut().rip = rip;
        let Ok(Some(id)) = found else { return false };
        let same = self.forgotten == forgotten && self.table(slow, mode) == Some(table);
        if same {
            self.note_jump(table, lin, id);
        }
        same
    }

    /// An instruction that the interpreter executes.
    fn callout(
        &mut self,
        slow: &mut SlowPath,
        mode: Mode,
        id: BlockId,
        place: u16,
        at: usize,
    ) -> Result<Next, Stop> {
        let block = self.blocks.get(id);
        let Some(insn) = block.slow_at(place) else {
            return Err(Stop::Failed(format!("an instruction of translated code is missing ({at:#x})")));
        };
        self.counters.interpreted(insn.mnemonic);
        let (before, flushes) = (slow.state().rip, slow.tlb().changes());
        slow.execute(insn)?;
        let hit = slow.take_code_hit();
        if insn.ends_block || hit {
            return Ok(Next::LookUp);
        }
        let expected = block
            .place_behind(at - 1)
            .map(|next| before.wrapping_add(u64::from(next).wrapping_sub(place.into())));
        let goes_on = expected == Some(slow.state().rip)
            && !slow.wants_step()
            && slow.memory().code_epoch() == self.epoch
            && slow.tlb().changes() == flushes
            && self.mode(slow) == Some(mode);
        self.prepare_iret(slow);
        Ok(if goes_on { Next::Resume(at) } else { Next::LookUp })
    }

    /// An access that both levels of the TLB miss.
    fn miss(
        &mut self,
        slow: &mut SlowPath,
        mode: Mode,
        write: bool,
        access: Access,
        at: usize,
    ) -> Result<Next, Stop> {
        let context = self.context.pointer().as_ptr();
        // SAFETY: no generated code runs now.
        let lin = unsafe { (*context).save_r10 };
        // How long the access is, is not known here: near the end of a page the
        // interpreter decides.
        match slow.make_ready(mode.view(), write, lin, MAX_ACCESS) {
            Ready::Yes => return Ok(Next::Resume(at - CHECK_LENGTH)),
            Ready::Once(host) if access != Access::Run => {
                // SAFETY: as above.
                unsafe { (*context).save_r11 = (host as u64).wrapping_sub(lin) };
                return Ok(Next::Resume(at + CHECK_TAIL));
            }
            Ready::Fault(fault) if access == Access::Single && fault.vector == Vector::PF => {
                slow.deliver(fault)?;
            }
            Ready::Once(_) | Ready::No | Ready::Fault(_) => self.interpret_one(slow)?,
        }
        Ok(Next::LookUp)
    }
}
