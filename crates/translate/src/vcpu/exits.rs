//! What generated code comes back for.

use std::sync::atomic::Ordering;

use engine::Stop;
use interpret::slow::{Ready, SlowPath};
use x86::{LinearAddr, PAGE_SIZE};

use super::Core;
use crate::blocks::BlockId;
use crate::mode::Mode;
use crate::runtime::{CHECK_LENGTH, Exit, LOOK_UP_LENGTH};

/// From behind a failing test to the access itself.
const CHECK_TAIL: usize = 8;
/// The longest access that a test allows.
const MAX_ACCESS: u64 = 64;

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
        let Some(id) = self.blocks.at(at - 1) else {
            return Err(Stop::Failed(format!("translated code came back from nowhere ({at:#x})")));
        };
        let block = self.blocks.get(id);
        let mode = block.key.mode.with_windows();
        let place = block.guest_place(at - 1);
        let page = if mode.position_independent() { page } else { block.key.lin & !(PAGE_SIZE - 1) };
        let width = if mode.long() { u64::MAX } else { 0xffff_ffff };
        slow.state_mut().rip = page.wrapping_add(u64::from(place)) & width;
        match exit {
            Exit::Link => self.link(slow, mode, id, at, page, width),
            Exit::Callout => self.callout(slow, mode, id, place, at),
            Exit::Poll => Ok(Next::LookUp),
            Exit::Indirect => self.indirect(slow, mode, at),
            Exit::Interpret => {
                self.interpret_one(slow)?;
                Ok(Next::LookUp)
            }
            Exit::MissRead => self.miss(slow, mode, false, at),
            Exit::MissWrite => self.miss(slow, mode, true, at),
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
        let links = self.options.chain && self.forgotten == forgotten && self.blocks.may_link(to);
        if links {
            self.blocks.link(&self.cache, id, number as u8, to);
        }
        // The dispatcher knows nothing of blocks without windows.
        let resumes = links || !mode.has_windows();
        Ok(if resumes { Next::Resume(self.blocks.get(to).inner) } else { Next::LookUp })
    }

    /// An indirect branch to the address in R10 that the jump cache does not
    /// know.
    fn indirect(&mut self, slow: &mut SlowPath, mode: Mode, at: usize) -> Result<Next, Stop> {
        let context = self.context.pointer().as_ptr();
        // SAFETY: no generated code runs now.
        let (target, key) = unsafe { ((*context).save_r10, (*context).key.load(Ordering::Relaxed)) };
        let rip = slow.state().rip;
        if self.options.chain && key != 0 {
            let forgotten = self.forgotten;
            slow.state_mut().rip = target;
            let found = self.find_block(slow, mode, LinearAddr(target));
            slow.state_mut().rip = rip;
            if let Ok(Some(id)) = found
                && self.forgotten == forgotten
                && self.key(slow, mode) == key
            {
                self.note_jump(slow, mode, LinearAddr(target), id);
                return Ok(Next::Resume(at - LOOK_UP_LENGTH));
            }
        }
        self.interpret_one(slow)?;
        Ok(Next::LookUp)
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
        self.fpu_touched |= insn.touches_fpu;
        let (before, flushes) = (slow.state().rip, slow.tlb().changes());
        slow.execute(insn)?;
        let hit = slow.take_code_hit();
        if insn.ends_block || hit {
            return Ok(Next::LookUp);
        }
        let expected = block.next_place(place).map(|next| before.wrapping_add(u64::from(next - place)));
        let goes_on = expected == Some(slow.state().rip)
            && !slow.wants_step()
            && slow.memory().code_epoch() == self.epoch
            && slow.tlb().changes() == flushes
            && self.mode(slow) == Some(mode);
        Ok(if goes_on { Next::Resume(at) } else { Next::LookUp })
    }

    /// An access that both levels of the TLB miss.
    fn miss(&mut self, slow: &mut SlowPath, mode: Mode, write: bool, at: usize) -> Result<Next, Stop> {
        let context = self.context.pointer().as_ptr();
        // SAFETY: no generated code runs now.
        let lin = unsafe { (*context).save_r10 };
        // How long the access is, is not known here: near the end of a page the
        // interpreter decides.
        match slow.make_ready(mode.view(), write, lin, MAX_ACCESS) {
            Ready::Yes => Ok(Next::Resume(at - CHECK_LENGTH)),
            Ready::Once(host) => {
                // SAFETY: as above.
                unsafe { (*context).save_r11 = (host as u64).wrapping_sub(lin) };
                Ok(Next::Resume(at + CHECK_TAIL))
            }
            Ready::No | Ready::Fault(_) => {
                self.interpret_one(slow)?;
                Ok(Next::LookUp)
            }
        }
    }
}
