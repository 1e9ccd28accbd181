//! Virtio consoles and channels, and the threads that bring input to a machine.

use std::io;
use std::sync::Arc;

use virtio::Worker;
use virtio::console::{Console as Device, Port, PortInput};

use super::ending::Ending;
use super::ends::{End, Input, Source};
use crate::cli::console::Console;
use crate::cli::devices::DeviceArgs;
use crate::exit::Failure;
use crate::terminal;

/// What is behind the consoles and channels of a machine; it ends with it.
#[derive(Default)]
pub(super) struct PortEnds {
    /// Who gets what is typed on the terminal.
    pub(super) stdio: Option<Arc<PortInput>>,
    inputs: Vec<Arc<PortInput>>,
    workers: Vec<Worker<()>>,
}

impl PortEnds {
    /// Nobody reads any more: whoever waits to bring input goes on.
    pub(super) fn close(&self) {
        self.inputs.iter().for_each(|input| input.close());
    }

    /// Brings what comes from `source` to `input`.
    pub(super) fn attach(&mut self, source: Source, input: Input) -> Result<(), Failure> {
        let failed = |error: io::Error| Failure::internal("a console gets no thread").because(error);
        self.workers.push(source.start(input).map_err(failed)?);
        Ok(())
    }

    fn open(
        &mut self,
        place: &Console,
        what: &str,
        ending: &Arc<Ending>,
    ) -> Result<(End, Arc<PortInput>), Failure> {
        let failed = |error: io::Error| Failure::internal(format!("{what} cannot be opened")).because(error);
        let input = PortInput::new().map_err(failed)?;
        self.inputs.push(Arc::clone(&input));
        if *place == Console::Stdio && self.stdio.replace(Arc::clone(&input)).is_some() {
            return Err(Failure::usage("only one console can be on standard input and output"));
        }
        if let (Console::Stdio, Some((rows, columns))) = (place, terminal::size()) {
            input.set_size(columns, rows);
        }
        let mut end = End::open(place, what, ending)?;
        if let Some(source) = end.source.take() {
            let input = Arc::clone(&input);
            self.attach(source, Arc::new(move |bytes| input.push(bytes)))?;
        }
        Ok((end, input))
    }
}

impl Drop for PortEnds {
    fn drop(&mut self) {
        self.close();
        self.workers.clear();
    }
}

/// Opens the ends of all ports; the device, if there are any.
pub(super) fn open(args: &DeviceArgs, ending: &Arc<Ending>) -> Result<(PortEnds, Option<Device>), Failure> {
    let mut ends = PortEnds::default();
    let mut ports = Vec::new();
    for (number, place) in args.virtio_console.iter().enumerate() {
        let (end, input) = ends.open(place, &format!("the virtio console hvc{number}"), ending)?;
        ports.push(Port::console(end.output, input));
    }
    for channel in &args.virtio_port {
        let (end, input) = ends.open(&channel.place, &format!("the channel {}", channel.name), ending)?;
        ports.push(Port::channel(&channel.name, end.output, input));
    }
    if ports.len() > virtio::console::MAX_PORTS {
        return Err(Failure::usage("a guest can have 31 virtio consoles and channels at most"));
    }
    let device = (!ports.is_empty()).then(|| Device::new(ports));
    Ok((ends, device))
}
