//! Running a guest on an engine.

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use engine::{Engine, Signal, VcpuConfig, VcpuSignals};
use memory::GuestMemory;
use x86::GuestPhysAddr;
use x86::cpuid::CpuidModel;

use crate::bench::Bench;
use crate::expect::Seen;
use crate::guest::Guest;
use crate::layout::RAM;

/// How long a guest may take. They need microseconds; a slow host in a hurry
/// may need more.
const LIMIT: Duration = Duration::from_secs(20);

/// The same, unless the environment says otherwise.
fn limit() -> Duration {
    let seconds = std::env::var("CONFORMANCE_SECONDS").ok().and_then(|text| text.parse().ok());
    seconds.map_or(LIMIT, Duration::from_secs)
}

/// What came of a guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It ended as the manual demands.
    Passed,
    /// It did not; each difference in a sentence.
    Failed(Vec<String>),
    /// The engine or the processor model says that it cannot run it.
    Lacks(String),
}

/// Runs `guest` on `engine` with the processor `model`, unless the engine's
/// capabilities or the model exclude it.
pub fn run(engine: &dyn Engine, model: &Arc<CpuidModel>, guest: &Guest) -> Outcome {
    match excluded(engine, model, guest) {
        Some(reason) => Outcome::Lacks(reason),
        None => execute(engine, model, guest),
    }
}

/// `model`, or the same as a processor of the vendor that `guest` is for. An
/// engine whose processor is the host's has no use for it.
pub fn model_for(guest: &Guest, model: &Arc<CpuidModel>) -> Arc<CpuidModel> {
    match guest.vendor {
        Some(vendor) if vendor != model.vendor() => Arc::new(CpuidModel::clone(model).with_vendor(vendor)),
        _ => Arc::clone(model),
    }
}

/// Why the guest is left out on this engine and processor, if it is. An engine
/// names what it lacks by a guest's whole name or by its topic.
pub fn excluded(engine: &dyn Engine, model: &CpuidModel, guest: &Guest) -> Option<String> {
    let capabilities = engine.capabilities();
    if !capabilities.modes.contains(&guest.mode) {
        return Some(format!("the {} engine does not run {:?} mode", engine.kind(), guest.mode));
    }
    let topic = guest.name.split("::").next();
    let lacking = |&&(what, _): &&(&str, &str)| what == guest.name || Some(what) == topic;
    if let Some((_, reason)) = capabilities.lacks.iter().find(lacking) {
        return Some((*reason).to_owned());
    }
    if let Some(vendor) = guest.vendor.filter(|vendor| *vendor != model.vendor()) {
        return Some(format!("the processor model is not one of {vendor:?}"));
    }
    let missing = guest.needs.iter().find(|feature| !model.has(**feature))?;
    Some(format!("the processor model does not offer {missing:?}"))
}

/// Runs `guest` whatever the capabilities say.
pub fn execute(engine: &dyn Engine, model: &Arc<CpuidModel>, guest: &Guest) -> Outcome {
    let failed = |why: String| Outcome::Failed(vec![why]);
    let memory = match load(guest) {
        Ok(memory) => memory,
        Err(why) => return failed(why),
    };
    let signals = Arc::new(VcpuSignals::default());
    let config = VcpuConfig {
        id: 0,
        memory: memory.clone(),
        cpuid: Arc::clone(model),
        signals: Arc::clone(&signals),
        trace: None,
    };
    let mut vcpu = match engine.create_vcpu(config) {
        Ok(vcpu) => vcpu,
        Err(error) => return failed(error.to_string()),
    };
    vcpu.set_state(&guest.state);
    let bench = Bench::new(Arc::clone(&signals));
    let (stop, in_time) = within_limit(&signals, || vcpu.run(&bench));
    if !in_time {
        let rip = vcpu.state().rip;
        return failed(format!("the guest did not end within {:?}; it is at {rip:#x}", limit()));
    }
    let record = bench.into_record();
    let seen = Seen { guest, stop, exited: record.exited, state: vcpu.state(), memory: &memory, record };
    match seen.differences() {
        differences if differences.is_empty() => Outcome::Passed,
        differences => Outcome::Failed(differences),
    }
}

fn load(guest: &Guest) -> Result<GuestMemory, String> {
    let memory = GuestMemory::new(RAM).map_err(|error| error.to_string())?;
    for (at, bytes) in &guest.memory {
        memory.write(GuestPhysAddr(*at), bytes).map_err(|error| error.to_string())?;
    }
    Ok(memory)
}

/// Calls `run`; asks it to exit when the limit has passed, and says whether it
/// had not.
fn within_limit<T>(signals: &VcpuSignals, run: impl FnOnce() -> T) -> (T, bool) {
    std::thread::scope(|scope| {
        let (done, watch) = channel::<()>();
        let watchdog = scope.spawn(move || {
            let late = watch.recv_timeout(limit()) == Err(RecvTimeoutError::Timeout);
            if late {
                signals.raise(Signal::Exit);
            }
            !late
        });
        let result = run();
        drop(done);
        (result, watchdog.join().unwrap_or(false))
    })
}
