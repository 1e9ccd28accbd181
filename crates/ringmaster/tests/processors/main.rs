//! Machines with several processors, on every engine that this host has: the
//! guests of the conformance kit, which say themselves how it went.

use std::process::ExitCode;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use conformance::processors::{End, Several, several};
use engine::{Engine, EngineKind};
use libtest_mimic::{Arguments, Failed, Trial};
use machine::{BootSource, Machine, MachineConfig, MachineHandle, Outcome, Protocol};

/// How long a guest may take on a host that is busy with other things.
const LIMIT: Duration = Duration::from_secs(300);
/// How long one that nothing ends is watched.
const WATCHED: Duration = Duration::from_millis(300);

fn main() -> ExitCode {
    let tests = EngineKind::ALL.into_iter().flat_map(tests_of).collect();
    libtest_mimic::run(&Arguments::from_args(), tests).exit_code()
}

/// The engine, or why it cannot be had.
fn make(kind: EngineKind) -> Result<Box<dyn Engine>, String> {
    match kind {
        EngineKind::Interpret => Ok(Box::new(interpret::Interpreter)),
        EngineKind::Translate => {
            translate::Translator::probe().map(|()| Box::<translate::Translator>::default() as _)
        }
        EngineKind::Kvm => {
            let survey = kvm::survey();
            if !survey.is_possible() {
                return Err(survey.to_string());
            }
            kvm::Kvm::new().map(|kvm| Box::new(kvm) as _).map_err(|error| error.to_string())
        }
    }
}

fn tests_of(kind: EngineKind) -> Vec<Trial> {
    let engine = make(kind);
    let test = |guest: Several| {
        let left_out = match &engine {
            Ok(engine) => lacks(engine.as_ref(), &guest),
            Err(why) => Some(why.clone()),
        };
        let trial = Trial::test(format!("{kind}::{}", guest.name), move || run(kind, guest));
        match left_out {
            None => trial,
            Some(why) => trial.with_kind(format!("left out: {why}")).with_ignored_flag(true),
        }
    };
    several().into_iter().map(test).collect()
}

/// Why the engine cannot run the guest, if it cannot.
fn lacks(engine: &dyn Engine, guest: &Several) -> Option<String> {
    let capabilities = engine.capabilities();
    if capabilities.max_vcpus < guest.cpus {
        return Some(format!("at most {} vCPUs", capabilities.max_vcpus));
    }
    let name = format!("processors::{}", guest.name);
    let lacking = capabilities.lacks.iter().find(|(what, _)| *what == name);
    lacking.map(|(_, why)| (*why).to_owned())
}

fn run(kind: EngineKind, guest: Several) -> Result<(), Failed> {
    let engine = make(kind)?;
    let kernel = BootSource::Kernel {
        image: guest.image,
        modules: Vec::new(),
        cmdline: String::new(),
        protocol: Protocol::Auto,
    };
    let mut config =
        MachineConfig { cpus: guest.cpus, ..MachineConfig::new(engine.as_ref(), 16 << 20, kernel) };
    let said = Arc::new(Mutex::new(String::new()));
    let sink = Arc::clone(&said);
    config.consoles.debug = Box::new(move |byte: u8| {
        sink.lock().unwrap_or_else(PoisonError::into_inner).push(char::from(byte));
    });
    let mut machine = Machine::build(config)?;
    let handle = machine.handle();
    let (ended, end) = channel();
    let watch = std::thread::spawn(move || watch(guest.end, &handle, &end));
    let started = Instant::now();
    let outcome = machine.run();
    let took = started.elapsed();
    drop(machine);
    let _ = ended.send(());
    watch.join().map_err(|_| "the watcher fails")?;
    let said = said.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let expected = match guest.end {
        End::Pass => (Outcome::PoweredOff, "pass"),
        End::TripleFault => (Outcome::TripleFault, ""),
        End::Never => (Outcome::Stopped, ""),
    };
    if (&outcome, said.as_str()) != (&expected.0, expected.1) {
        return Err(format!("after {took:?}: {outcome:?}, and it said '{said}'").into());
    }
    Ok(())
}

/// Ends a run that takes too long; and what nothing ends, after it has stood and
/// gone on.
fn watch(end: End, handle: &MachineHandle, ended: &Receiver<()>) {
    if end == End::Never {
        for _ in 0..3 {
            std::thread::sleep(WATCHED / 3);
            handle.pause();
            handle.resume();
        }
    } else {
        let _ = ended.recv_timeout(LIMIT);
    }
    handle.stop();
}
