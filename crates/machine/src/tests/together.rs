//! Several vCPUs start together and end together.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use engine::{
    Capabilities, Engine, EngineError, EngineKind, Mode, Platform, ProcessorLimits, Signal, Stop, Vcpu,
    VcpuConfig, VcpuSignals, VcpuStats,
};
use x86::{Activity, CpuState};

use super::MIB;
use super::life::firmware;
use crate::{Machine, MachineConfig, OnReset, Outcome};

/// What each vCPU does: `run`, with its number.
type Script = dyn Fn(u32, &VcpuSignals, &dyn Platform) -> Stop + Send + Sync;

/// An engine whose vCPUs play one script.
struct Crew(Arc<Script>);

impl Engine for Crew {
    fn kind(&self) -> EngineKind {
        EngineKind::Interpret
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            modes: &Mode::ALL,
            max_vcpus: 4,
            own_interrupt_chip: Err("its local APICs are the machine's"),
            own_hypercalls: false,
            processor: ProcessorLimits::default(),
            guest_debug: false,
            lacks: &[],
        }
    }

    fn create_vcpu(&self, config: VcpuConfig) -> Result<Box<dyn Vcpu>, EngineError> {
        let script = Arc::clone(&self.0);
        Ok(Box::new(Member { script, config, state: CpuState::reset(), starts: 0 }))
    }
}

struct Member {
    script: Arc<Script>,
    config: VcpuConfig,
    state: CpuState,
    starts: u64,
}

impl Vcpu for Member {
    fn state(&self) -> CpuState {
        self.state.clone()
    }

    fn set_state(&mut self, state: &CpuState) {
        self.state = state.clone();
        self.starts += 1;
    }

    fn run(&mut self, platform: &dyn Platform) -> Stop {
        (self.script)(self.config.id, &self.config.signals, platform)
    }

    fn step(&mut self, platform: &dyn Platform) -> Option<Stop> {
        Some(self.run(platform))
    }

    fn stats(&self) -> VcpuStats {
        VcpuStats { instructions: self.starts, ..VcpuStats::default() }
    }
}

fn machine(
    cpus: u32,
    script: impl Fn(u32, &VcpuSignals, &dyn Platform) -> Stop + Send + Sync + 'static,
) -> Machine {
    let crew = Crew(Arc::new(script));
    let config = MachineConfig::new(&crew, 2 * MIB, firmware());
    Machine::build(MachineConfig { cpus, on_reset: OnReset::Reboot, ..config }).unwrap()
}

fn until_kicked(signals: &VcpuSignals) -> Stop {
    while !signals.is_pending(Signal::Exit) {
        signals.wait(None);
    }
    Stop::Kicked
}

#[test]
fn the_end_of_one_is_the_end_of_all() {
    for last in 0..4 {
        let mut machine = machine(4, move |id, signals, _| match id {
            _ if id == last => Stop::Failed("why".to_owned()),
            _ => until_kicked(signals),
        });
        assert_eq!(machine.run(), Outcome::Failed("why".to_owned()));
    }
}

#[test]
fn a_panic_of_one_leaves_nobody_running() {
    for last in [0, 2] {
        let mut machine = machine(3, move |id, signals, _| {
            assert_ne!(id, last, "a panic");
            until_kicked(signals)
        });
        assert!(catch_unwind(AssertUnwindSafe(|| machine.run())).is_err());
    }
}

#[test]
fn nobody_runs_during_a_pause_and_all_start_again_with_a_reset() {
    let (inside, starts) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let mut machine = machine(4, {
        let (inside, starts) = (Arc::clone(&inside), Arc::clone(&starts));
        move |id, signals, platform| {
            inside.fetch_add(1, Ordering::SeqCst);
            if id == 3 && starts.fetch_add(1, Ordering::SeqCst) < 2 {
                platform.port_write(0xcf9, 1, 6);
            }
            let stop = until_kicked(signals);
            inside.fetch_sub(1, Ordering::SeqCst);
            stop
        }
    });
    let handle = machine.handle();
    let other = std::thread::spawn(move || {
        for round in 0.. {
            if round >= 20 && starts.load(Ordering::SeqCst) > 2 {
                break;
            }
            handle.pause();
            assert_eq!(inside.load(Ordering::SeqCst), 0);
            handle.resume();
            std::thread::sleep(Duration::from_millis(2));
        }
        handle.stop();
    });
    assert_eq!(machine.run(), Outcome::Stopped);
    other.join().unwrap();
    assert_eq!(machine.stats().iter().map(|vcpu| vcpu.instructions).collect::<Vec<_>>(), [3; 4]);
    let waits = machine.vcpus.iter().map(|vcpu| vcpu.state().activity == Activity::WaitForSipi);
    assert_eq!(waits.collect::<Vec<_>>(), [false, true, true, true]);
}
