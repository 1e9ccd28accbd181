//! `ringmaster run`: a guest of the user's own.

use std::path::PathBuf;

use clap::{ArgGroup, Args};

use crate::check::host::Host;
use crate::cli::devices::DeviceArgs;
use crate::cli::disk::Disk;
use crate::cli::net::NetArgs;
use crate::cli::options::ExecutionArgs;
use crate::cli::protocol::BootProtocol;
use crate::cli::seconds::Seconds;
use crate::engines;
use crate::exit::{ExitStatus, Failure};
use crate::image::{self, MAX_FIRMWARE};
use crate::vm::{self, Devices, Guest, VmRequest};

/// Options of `run`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("guest").args(["kernel", "firmware", "disk"]).required(true).multiple(true))]
pub struct RunArgs {
    /// Kernel to load: bzImage, ELF or multiboot
    #[arg(long, value_name = "FILE", conflicts_with = "firmware")]
    pub kernel: Option<PathBuf>,
    /// Initial RAM disk; several are loaded one after the other
    #[arg(long, value_name = "FILE", requires = "kernel", conflicts_with = "firmware")]
    pub initrd: Vec<PathBuf>,
    /// The kernel's command line
    #[arg(long, value_name = "STR", requires = "kernel", conflicts_with = "firmware", default_value = "")]
    pub cmdline: String,
    /// By which of its entries a bzImage is started
    #[arg(
        long,
        value_enum,
        value_name = "HOW",
        requires = "kernel",
        conflicts_with = "firmware",
        default_value = "auto"
    )]
    pub boot_protocol: BootProtocol,
    /// Firmware to start at the reset vector
    #[arg(long, value_name = "FILE")]
    pub firmware: Option<PathBuf>,
    /// Disk: FILE[,format=raw|qcow2|vmdk|auto][,readonly][,overlay][,serial=TEXT][,queues=N][,bus=pci|mmio][,iops=N][,bps=SIZE]
    #[arg(long, value_name = "DISK")]
    pub disk: Vec<Disk>,
    /// The network card
    #[command(flatten)]
    pub net: NetArgs,
    /// Other virtio devices
    #[command(flatten)]
    pub devices: DeviceArgs,
    /// How to execute and watch the guest
    #[command(flatten)]
    pub execution: ExecutionArgs,
}

/// Reads the guest's files and runs it.
pub fn perform(args: RunArgs) -> Result<ExitStatus, Failure> {
    machine::begin_calibration();
    args.net.check()?;
    let guest = read_guest(&args)?;
    launch(guest, &args.execution, Devices { disks: args.disk, net: args.net, others: args.devices })
}

fn read_guest(args: &RunArgs) -> Result<Guest, Failure> {
    let memory = args.execution.memory;
    if let Some(path) = &args.firmware {
        let firmware = image::read("firmware", path, MAX_FIRMWARE, "its 16 MiB below 4 GiB")?;
        return Ok(Guest::Firmware(firmware));
    }
    let Some(path) = &args.kernel else {
        return Err(Failure::usage("give --kernel or --firmware"));
    };
    let initrds = args.initrd.iter();
    Ok(Guest::Kernel {
        kernel: image::read_for_guest("kernel", path, memory)?,
        initrds: initrds
            .map(|path| image::read_for_guest("initrd", path, memory))
            .collect::<Result<_, _>>()?,
        cmdline: args.cmdline.clone(),
        protocol: args.boot_protocol.into(),
    })
}

/// Chooses the engine, says so, and runs the guest.
pub fn launch(guest: Guest, execution: &ExecutionArgs, devices: Devices) -> Result<ExitStatus, Failure> {
    require_memory(execution)?;
    let chosen = engines::choose(execution.engine, &engines::survey_for(execution.engine))?;
    vm::launch(VmRequest {
        guest,
        devices,
        engine: chosen,
        irqchip: execution.irqchip,
        cpus: execution.cpus,
        memory: execution.memory,
        console: execution.console.clone(),
        transport: execution.virtio.into(),
        timeout: execution.timeout.map(Seconds::duration),
        paravirt: execution.paravirt.into(),
        mitigations: execution.mitigations.into(),
        on_reset: execution.on_reset,
        stats: execution.stats,
        code_cache: execution.code_cache.bytes(),
        test_device: execution.test_device,
        trace: execution.trace.unwrap_or_default(),
    })
}

/// More memory than the host has would only be found out much later.
fn require_memory(execution: &ExecutionArgs) -> Result<(), Failure> {
    match Host::memory() {
        Some(bytes) if execution.memory.bytes() > bytes => Err(Failure::host_lacks(format!(
            "the guest is to have {} of memory, but this host has {} MiB",
            execution.memory,
            bytes >> 20
        ))),
        _ => Ok(()),
    }
}
