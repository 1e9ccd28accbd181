//! Starting a machine: the one place where the command line meets it.

mod chip;
mod console;
mod devices;
mod disks;
mod ending;
mod ends;
mod monitor;
mod net;
mod ports;
mod stats;
mod tracing;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use engine::{Engine, EngineKind, TraceWhat};
use machine::{BootSource, Machine, MachineConfig, MachineError, MachineHandle, OwnedModule, Protocol};

use crate::began;
use crate::cli::console::Console;
use crate::cli::devices::DeviceArgs;
use crate::cli::disk::Disk;
use crate::cli::memory::MemorySize;
use crate::cli::net::NetArgs;
use crate::cli::options::{IrqChip, OnReset, StatsFormat};
use crate::engines::Chosen;
use crate::exit::{ExitStatus, Failure};
use crate::image::Image;
use crate::output;
use crate::terminal::{Event, Terminal};
use devices::Others;
use ending::{Ending, Reason};
use monitor::Monitor;
use ports::PortEnds;

/// What the machine starts with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Guest {
    /// A kernel, loaded by us.
    Kernel {
        /// bzImage, ELF or multiboot.
        kernel: Image,
        /// Initial RAM disks, loaded one after the other.
        initrds: Vec<Image>,
        /// The kernel's command line.
        cmdline: String,
        /// By which of its entries a bzImage is started.
        protocol: Protocol,
    },
    /// Firmware, started at the reset vector.
    Firmware(Image),
    /// The guest that is part of this program.
    Embedded,
}

/// Devices that a machine has because the user asks for them.
#[derive(Debug, Default, Clone)]
pub struct Devices {
    /// Its disks.
    pub disks: Vec<Disk>,
    /// Its network card.
    pub net: NetArgs,
    /// Consoles, shared folders and so on.
    pub others: DeviceArgs,
}

/// Everything that is decided before a machine is built.
#[derive(Debug, Clone)]
pub struct VmRequest {
    /// What it starts with.
    pub guest: Guest,
    /// The devices that it has besides those of every PC.
    pub devices: Devices,
    /// Who executes it, and why.
    pub engine: Chosen,
    /// Where its local APICs are, if that was said.
    pub irqchip: Option<IrqChip>,
    /// Number of processors.
    pub cpus: u16,
    /// Size of its memory.
    pub memory: MemorySize,
    /// Where its serial port goes.
    pub console: Console,
    /// How virtio devices are reached.
    pub transport: machine::Transport,
    /// How long it may run.
    pub timeout: Option<Duration>,
    /// Which hypervisor's interface the guest finds.
    pub paravirt: machine::Paravirt,
    /// What the guest is told of flaws of speculation.
    pub mitigations: machine::Mitigations,
    /// What a reset does.
    pub on_reset: OnReset,
    /// Statistics at the end.
    pub stats: Option<StatsFormat>,
    /// Bytes of translated code to keep.
    pub code_cache: usize,
    /// Whether there is a device for test kernels.
    pub test_device: bool,
    /// Events to write to standard error.
    pub trace: TraceWhat,
}

/// Runs a machine to its end.
pub fn launch(request: VmRequest) -> Result<ExitStatus, Failure> {
    let engine = engine_of(&request)?;
    let (interrupt_chip, where_it_is) = chip::choose(request.irqchip, engine.as_ref())?;
    output::note(format_args!("engine {}, {}{where_it_is}", request.engine.name, request.engine.why));
    let ending = Arc::new(Ending::default());
    let (disks, mut slots) = disks::Disks::open(&request.devices.disks, request.cpus, request.transport)?;
    slots.extend(net::open(&request.devices.net, request.transport)?);
    let memory = request.memory.bytes();
    let Others { slots: others, ends: mut ports, balloon } =
        devices::open(&request.devices.others, memory, request.transport, &ending)?;
    require_one_stdio(&request.console, &ports)?;
    slots.extend(others);
    let facts = monitor::facts(&request);
    let (consoles, serial_input) = console::open(&request.console, &ending)?;
    let config = MachineConfig {
        virtio: slots,
        interrupt_chip,
        cpus: u32::from(request.cpus),
        on_reset: match request.on_reset {
            OnReset::Reboot => machine::OnReset::Reboot,
            OnReset::Exit => machine::OnReset::Exit,
        },
        consoles,
        paravirt: request.paravirt,
        mitigations: request.mitigations,
        trace: tracing::sink(request.trace),
        test_device: request.test_device,
        ..MachineConfig::new(engine.as_ref(), request.memory.bytes(), boot_source(request.guest))
    };
    let mut machine = Machine::build(config).map_err(failure)?;
    ending.belongs_to(machine.handle().downgrade());
    if let Some(source) = serial_input {
        let handle = machine.handle();
        ports.attach(source, Arc::new(move |bytes| handle.input(bytes)))?;
    }
    let monitor = Monitor { machine: machine.handle(), facts, balloon, memory };
    let terminal = take_terminal(&request.console, &ports, monitor, machine.handle(), &ending)?;
    let outcome = ending.with_timeout(request.timeout, || machine.run());
    ports.close();
    drop(terminal);
    if let Some(format) = request.stats {
        stats::report(&machine.stats(), machine.entered().map(began::until), format);
    }
    drop(machine);
    drop(ports);
    disks.close()?;
    ending.status(outcome)
}

fn engine_of(request: &VmRequest) -> Result<Box<dyn Engine>, Failure> {
    let kind = request.engine.name;
    match kind {
        EngineKind::Interpret => Ok(Box::new(interpret::Interpreter)),
        EngineKind::Translate => {
            let count = request.stats.is_some();
            let code_cache = share_of(request.code_cache, request.cpus);
            let options = translate::Options { count, code_cache, ..translate::Options::default() };
            Ok(Box::new(translate::Translator::with(options)))
        }
        EngineKind::Kvm => kvm::Kvm::new()
            .map(|engine| Box::new(engine) as Box<dyn Engine>)
            .map_err(|error| Failure::host_lacks(error.to_string())),
    }
}

/// Each processor's share of the memory for translated code: as long as it is
/// not too little to work with.
fn share_of(code_cache: usize, cpus: u16) -> usize {
    const PAGE: usize = 4096;
    const ENOUGH: usize = 32 << 20;
    let share = code_cache / usize::from(cpus.max(1)) / PAGE * PAGE;
    share.max(code_cache.min(ENOUGH))
}

fn boot_source(guest: Guest) -> BootSource {
    match guest {
        Guest::Kernel { kernel, initrds, cmdline, protocol } => {
            let module = |image: Image| OwnedModule { data: image.bytes, string: image.name };
            let modules = initrds.into_iter().map(module).collect();
            BootSource::Kernel { image: kernel.bytes, modules, cmdline, protocol }
        }
        Guest::Firmware(image) => BootSource::Firmware(image.bytes),
        Guest::Embedded => BootSource::Kernel {
            image: embedded_guest::IMAGE.to_vec(),
            modules: Vec::new(),
            cmdline: String::new(),
            protocol: Protocol::Auto,
        },
    }
}

/// Which status a machine that cannot be built ends with.
fn failure(error: MachineError) -> Failure {
    use boot::BootError as Boot;
    use memory::MemoryError;
    let status = match &error {
        MachineError::Processors { .. }
        | MachineError::Slots { .. }
        | MachineError::Memory(MemoryError::BadSize(_)) => ExitStatus::Usage,
        MachineError::Engine(_) | MachineError::Memory(_) => ExitStatus::HostLacks,
        MachineError::Boot(
            Boot::OutsideMemory { .. }
            | Boot::KernelDoesNotFit { .. }
            | Boot::InitrdDoesNotFit { .. }
            | Boot::TooManyModules { .. }
            | Boot::ModuleStringsTooLong { .. }
            | Boot::CmdlineTooLong { .. }
            | Boot::CmdlineNul
            | Boot::NotDirect
            | Boot::NoPvhEntry,
        ) => ExitStatus::Usage,
        MachineError::Boot(_) => ExitStatus::InvalidImage,
        MachineError::Virtio(_) => ExitStatus::HostLacks,
        MachineError::Firmware(_) => ExitStatus::Internal,
    };
    Failure::new(status, "the machine cannot be started").because(error)
}

/// Two consoles cannot share one terminal.
fn require_one_stdio(console: &Console, ports: &PortEnds) -> Result<(), Failure> {
    if *console == Console::Stdio && ports.stdio.is_some() {
        return Err(Failure::usage("with --virtio-console stdio the serial port needs another --console"));
    }
    Ok(())
}

/// Takes the terminal: what is typed goes to the guest, signals end the run.
fn take_terminal(
    console: &Console,
    ports: &PortEnds,
    monitor: Monitor,
    handle: MachineHandle,
    ending: &Arc<Ending>,
) -> Result<Terminal, Failure> {
    let ending = Arc::clone(ending);
    let port = ports.stdio.clone();
    Terminal::start(
        *console == Console::Stdio || port.is_some(),
        Arc::new(move |event| {
            let goes_on = match event {
                Event::Input(bytes) => match &port {
                    Some(port) => port.push(&bytes),
                    None => handle.input(&bytes),
                },
                Event::Leave => ending.end(Reason::Left),
                Event::Command(command) => {
                    output::note(monitor.perform(command));
                    true
                }
                Event::Signal(number) => ending.end(Reason::Signal(number)),
            };
            if goes_on { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        }),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_share_the_code_cache_while_there_is_enough() {
        const MIB: usize = 1 << 20;
        let shares = [(128, 1, 128), (128, 2, 64), (128, 8, 32), (16, 4, 16), (1024, 32, 32), (90, 1, 90)];
        for (all, cpus, share) in shares {
            assert_eq!(share_of(all * MIB, cpus), share * MIB, "{all}, {cpus}");
        }
    }
}
