//! Local APICs that change hands between machine and engine, and a machine that
//! goes on with another engine.

use std::sync::Arc;

use engine::{Assist, Capabilities, Engine, EngineError, Platform, TraceSink, Vcpu, VcpuConfig};
use memory::GuestMemory;
use paravirt::MSR_PV_EOI_EN;

use crate::board::Board;
use crate::config::InterruptChip;
use crate::processor::Processor;
use crate::{Machine, MachineError};

/// What `engine` does in the machine's place.
pub(crate) fn assist(
    engine: &dyn Engine,
    memory: &GuestMemory,
    chip: InterruptChip,
) -> Result<Option<Arc<dyn Assist>>, EngineError> {
    let own = chip == InterruptChip::Engine && engine.capabilities().own_interrupt_chip.is_ok();
    engine.assist(memory, own)
}

/// Whether a hypercall, whoever answers it, reaches the processors.
pub(crate) fn calls_reach_processors(engine: &Capabilities, assist: Option<&Arc<dyn Assist>>) -> bool {
    !engine.own_hypercalls || assist.is_some_and(|assist| assist.has_local_apics())
}

/// Gives the local APIC of vCPU `id` to the engine.
fn lend(board: &Board, id: u32, processor: &Processor, vcpu: &mut dyn Vcpu) {
    let mut registers = processor.lend();
    let flag = board.paravirt.as_ref().and_then(|interface| interface.msr_read(id, MSR_PV_EOI_EN));
    registers.eoi_flag = flag.and_then(Result::ok).unwrap_or(0);
    processor.set_eoi_flag(None);
    vcpu.set_local_apic(&registers);
}

/// Takes the local APIC of vCPU `id` back, if the engine has it.
fn take_back(board: &Board, id: u32, processor: &Processor, vcpu: &dyn Vcpu) -> Result<(), String> {
    let Some(registers) = vcpu.local_apic() else { return Ok(()) };
    processor.take_back(&registers)?;
    // Without the interface there is no flag.
    let _ = board.msr_write(id, MSR_PV_EOI_EN, registers.eoi_flag);
    Ok(())
}

impl Machine {
    /// Lets the engine ring the doorbells, and gives it the local APICs, if it
    /// is to have them.
    pub(crate) fn lend_local_apics(&mut self) {
        self.board.bells.rung_by(self.assist.as_ref());
        let Some(assist) = self.assist.clone().filter(|assist| assist.has_local_apics()) else { return };
        let board = Arc::clone(&self.board);
        let lent: Result<(), ()> = board.interrupts.hand_over(Some(&assist), |processors| {
            for ((id, processor), vcpu) in (0..).zip(processors).zip(&mut self.vcpus) {
                lend(&board, id, processor, vcpu.as_mut());
            }
            Ok(())
        });
        debug_assert!(lent.is_ok(), "nothing in it fails");
    }

    /// Goes on with `engine`: the next run is by that one, from where the guest
    /// is now. Not while the machine runs.
    ///
    /// # Errors
    /// If the engine refuses; the machine then stays with the one that it has.
    pub fn move_to(&mut self, engine: &dyn Engine, chip: InterruptChip) -> Result<(), MachineError> {
        let board = Arc::clone(&self.board);
        let assist = assist(engine, &self.memory, chip)?;
        if self.offers_calls && !calls_reach_processors(&engine.capabilities(), assist.as_ref()) {
            let reason =
                "the guest interrupts processors by hypercalls, which only reach local APICs in the kernel";
            return Err(EngineError::Unsupported { engine: engine.kind(), reason: reason.to_owned() }.into());
        }
        let states: Vec<_> = self.vcpus.iter().map(|vcpu| vcpu.state()).collect();
        let mut vcpus = create_vcpus(engine, &self.memory, &board, self.trace.as_ref(), states.len() as u32)?;
        for (vcpu, state) in vcpus.iter_mut().zip(&states) {
            vcpu.set_state(state);
        }
        let lent = assist.as_ref().is_some_and(|assist| assist.has_local_apics());
        let moved = board.interrupts.hand_over(assist.as_ref(), |processors| {
            for ((id, processor), vcpu) in (0..).zip(processors).zip(&self.vcpus) {
                take_back(&board, id, processor, vcpu.as_ref())?;
            }
            for ((id, processor), vcpu) in (0..).zip(processors).zip(&mut vcpus).filter(|_| lent) {
                lend(&board, id, processor, vcpu.as_mut());
            }
            Ok(())
        });
        moved.map_err(|reason| EngineError::Unsupported { engine: engine.kind(), reason })?;
        board.bells.rung_by(assist.as_ref());
        self.vcpus = vcpus;
        self.assist = assist;
        Ok(())
    }
}

/// Makes `count` vCPUs, the boot processor first.
pub(crate) fn create_vcpus(
    engine: &dyn Engine,
    memory: &GuestMemory,
    board: &Board,
    trace: Option<&Arc<dyn TraceSink>>,
    count: u32,
) -> Result<Vec<Box<dyn Vcpu>>, EngineError> {
    let create = |id| {
        engine.create_vcpu(VcpuConfig {
            id,
            memory: memory.clone(),
            cpuid: Arc::new(board.cpuid.for_vcpu(id)),
            signals: board.signals(id),
            trace: trace.cloned(),
        })
    };
    (0..count).map(create).collect()
}
