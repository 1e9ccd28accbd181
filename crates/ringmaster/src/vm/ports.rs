//! The host's ends of virtio consoles and channels.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
use virtio::console::{Console, Port, PortInput};
use virtio::{Stop, Worker};

use crate::cli::devices::{DeviceArgs, PortPlace};
use crate::exit::Failure;
use crate::output;

/// A client that does not read for so long has lost the connection.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is behind the ports of a machine; it ends with it.
#[derive(Default)]
pub(super) struct PortEnds {
    /// Who gets what is typed on the terminal.
    pub(super) stdio: Option<Arc<PortInput>>,
    inputs: Vec<Arc<PortInput>>,
    workers: Vec<Worker<()>>,
    sockets: Vec<PathBuf>,
}

impl PortEnds {
    /// Nobody reads any more: whoever waits to bring input goes on.
    pub(super) fn close(&self) {
        self.inputs.iter().for_each(|input| input.close());
    }
}

impl Drop for PortEnds {
    fn drop(&mut self) {
        self.close();
        self.workers.clear();
        for path in &self.sockets {
            let _ = fs::remove_file(path);
        }
    }
}

/// Opens the ends of all ports; the device, if there are any.
pub(super) fn open(args: &DeviceArgs) -> Result<(PortEnds, Option<Console>), Failure> {
    let mut ends = PortEnds::default();
    let mut ports = Vec::new();
    for (number, place) in args.virtio_console.iter().enumerate() {
        let (output, input) = ends.open(place, &format!("the virtio console hvc{number}"))?;
        ports.push(Port::console(output, input));
    }
    for channel in &args.virtio_port {
        let (output, input) = ends.open(&channel.place, &format!("the channel {}", channel.name))?;
        ports.push(Port::channel(&channel.name, output, input));
    }
    if ports.len() > virtio::console::MAX_PORTS {
        return Err(Failure::usage("a guest can have 31 virtio consoles and channels at most"));
    }
    let device = (!ports.is_empty()).then(|| Console::new(ports));
    Ok((ends, device))
}

type Ends = (Box<dyn Write + Send>, Arc<PortInput>);

impl PortEnds {
    fn open(&mut self, place: &PortPlace, what: &str) -> Result<Ends, Failure> {
        let failed = |error: io::Error| Failure::internal(format!("{what} cannot be opened")).because(error);
        let input = PortInput::new().map_err(failed)?;
        self.inputs.push(Arc::clone(&input));
        let output: Box<dyn Write + Send> = match place {
            PortPlace::None => Box::new(io::sink()),
            PortPlace::File(path) => Box::new(File::create(path).map_err(failed)?),
            PortPlace::Stdio => {
                if self.stdio.replace(Arc::clone(&input)).is_some() {
                    return Err(Failure::usage("only one console can be on standard input and output"));
                }
                Box::new(io::stdout())
            }
            PortPlace::Socket(path) => {
                let listener = listen(path).map_err(failed)?;
                self.sockets.push(path.clone());
                let client = Client::default();
                let (input, output) = (Arc::clone(&input), client.clone());
                let work = move |stop: Stop| serve_clients(&listener, &client, &input, &stop);
                self.workers.push(Worker::spawn("port-socket", work).map_err(failed)?);
                Box::new(output)
            }
            PortPlace::Pty => {
                let (master, terminal, name) = terminal().map_err(failed)?;
                output::note(format_args!("{what} is {name}"));
                let reader = File::from(master);
                let writer = reader.try_clone().map_err(failed)?;
                let input = Arc::clone(&input);
                let work = move |stop: Stop| {
                    pump(&reader, &input, &stop);
                    drop(terminal);
                };
                self.workers.push(Worker::spawn("port-pty", work).map_err(failed)?);
                Box::new(writer)
            }
        };
        Ok((output, input))
    }
}

fn listen(path: &Path) -> io::Result<UnixListener> {
    let listener = UnixListener::bind(path)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// The client of a socket, if there is one.
#[derive(Clone, Default)]
struct Client(Arc<Mutex<Option<UnixStream>>>);

impl Client {
    fn set(&self, client: Option<UnixStream>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = client;
    }
}

/// Without a client what is written is lost, as on a line with nobody at its
/// other end.
impl Write for Client {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut client = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(stream) = client.as_mut()
            && stream.write_all(bytes).is_err()
        {
            *client = None;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn serve_clients(listener: &UnixListener, client: &Client, input: &PortInput, stop: &Stop) {
    while stop.wait(&[listener.as_fd()], None).is_some() {
        let Ok((stream, _)) = listener.accept() else { continue };
        let Ok(writer) = stream.try_clone() else { continue };
        let _ = stream.set_nonblocking(false);
        let _ = writer.set_write_timeout(Some(PATIENCE));
        client.set(Some(writer));
        pump(&stream, input, stop);
        client.set(None);
    }
}

/// Moves what can be read to the guest, until that ends.
fn pump<'a, F: AsFd>(from: &'a F, input: &PortInput, stop: &Stop)
where
    &'a F: Read,
{
    let mut reader = from;
    let mut buffer = [0; 4096];
    while stop.wait(&[from.as_fd()], None).is_some() {
        match reader.read(&mut buffer) {
            Ok(0) => return,
            Ok(count) if input.push(buffer.get(..count).unwrap_or_default()) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            _ => return,
        }
    }
}

/// A new terminal: our end, its own end (kept open, so that ours stays usable
/// while nobody has it open), and its name.
fn terminal() -> io::Result<(OwnedFd, File, String)> {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let name = ptsname(&master, Vec::new())?.to_string_lossy().into_owned();
    let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::CLOEXEC;
    let terminal = File::from(rustix::fs::open(name.as_str(), flags, rustix::fs::Mode::empty())?);
    let mut modes = tcgetattr(&terminal)?;
    modes.make_raw();
    tcsetattr(&terminal, OptionalActions::Now, &modes)?;
    Ok((master, terminal, name))
}
