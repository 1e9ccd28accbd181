//! The host's ends of consoles and channels: where output goes, where input
//! comes from. No end keeps the guest waiting for long.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
use virtio::{Stop, Worker};

use super::ending::Ending;
use crate::cli::console::Console;
use crate::exit::Failure;
use crate::output;

/// A client that does not read for so long has lost the connection.
const PATIENCE: Duration = Duration::from_secs(5);
/// A terminal that nobody reads for so long has nobody before it.
const TERMINAL_PATIENCE: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// Takes input; false when nobody will read it.
pub(super) type Input = Arc<dyn Fn(&[u8]) -> bool + Send + Sync>;

/// One end.
pub(super) struct End {
    pub(super) output: Box<dyn Write + Send>,
    /// Where input comes from, if not from standard input.
    pub(super) source: Option<Source>,
}

/// What input comes from.
pub(super) enum Source {
    /// A socket, its client, and the file that is to go with it.
    Socket(UnixListener, Client, SocketFile),
    /// A terminal: our end, and its own, kept open so that ours stays usable
    /// while nobody has it open.
    Terminal(Arc<File>, File),
}

impl End {
    /// Opens `place` for `what`, the name of the guest's end.
    pub(super) fn open(place: &Console, what: &str, ending: &Arc<Ending>) -> Result<Self, Failure> {
        let failed = |error: io::Error| Failure::internal(format!("{what} cannot be opened")).because(error);
        let without_input = |output| Self { output, source: None };
        Ok(match place {
            Console::None => without_input(Box::new(io::sink())),
            Console::Stdio => without_input(Box::new(StandardOutput(Arc::clone(ending)))),
            Console::File(path) => without_input(Box::new(File::create(path).map_err(failed)?)),
            Console::Socket(path) => {
                let (listener, file) = listen(path).map_err(failed)?;
                let client = Client::default();
                let output = Box::new(client.clone());
                Self { output, source: Some(Source::Socket(listener, client, file)) }
            }
            Console::Pty => {
                let (master, terminal, name) = terminal().map_err(failed)?;
                output::note(format_args!("{what} is {name}"));
                let master = Arc::new(File::from(master));
                let output = Box::new(TerminalOutput { master: Arc::clone(&master), deaf: false });
                Self { output, source: Some(Source::Terminal(master, terminal)) }
            }
        })
    }
}

impl Source {
    /// Hands what comes to `input`, on a thread of its own.
    pub(super) fn start(self, input: Input) -> io::Result<Worker<()>> {
        match self {
            Self::Socket(listener, client, file) => Worker::spawn("console-socket", move |stop| {
                serve_clients(&listener, &client, &input, &stop);
                drop(file);
            }),
            Self::Terminal(master, terminal) => Worker::spawn("console-pty", move |stop| {
                pump(&*master, &input, &stop);
                drop(terminal);
            }),
        }
    }
}

/// Standard output. Whoever reads it may take his time, unless the run is to
/// end: what nobody takes then is lost.
struct StandardOutput(Arc<Ending>);

/// How often a writer who waits looks whether the run is to end.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
/// A pipe that can be written at all has room for so much.
const PIECE: usize = 4096;

impl Write for StandardOutput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let stdout = rustix::stdio::stdout();
        loop {
            let mut set = [PollFd::from_borrowed_fd(stdout, PollFlags::OUT)];
            match poll(&mut set, Some(&LOOK)) {
                Ok(0) | Err(Errno::INTR) if self.0.is_decided() => return Ok(bytes.len()),
                Ok(0) | Err(Errno::INTR) => {}
                _ => return Ok(rustix::io::write(stdout, bytes.get(..PIECE).unwrap_or(bytes))?),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The file of a socket; it goes with its owner.
pub(super) struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn listen(path: &Path) -> io::Result<(UnixListener, SocketFile)> {
    remove_stale(path)?;
    let listener = UnixListener::bind(path)?;
    let file = SocketFile(path.to_owned());
    listener.set_nonblocking(true)?;
    Ok((listener, file))
}

/// A socket at which nobody listens is left over from a process that was
/// killed.
fn remove_stale(path: &Path) -> io::Result<()> {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    let refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
    if is_socket && UnixStream::connect(path).is_err_and(refused) {
        fs::remove_file(path)?;
    }
    Ok(())
}

/// The client of a socket, if there is one.
#[derive(Clone, Default)]
pub(super) struct Client(Arc<Mutex<Option<UnixStream>>>);

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
            // The reading half sees its end, and the next client can come.
            let _ = stream.shutdown(std::net::Shutdown::Both);
            *client = None;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn serve_clients(listener: &UnixListener, client: &Client, input: &Input, stop: &Stop) {
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
fn pump<'a, F: AsFd>(from: &'a F, input: &Input, stop: &Stop)
where
    &'a F: Read,
{
    let mut reader = from;
    let mut buffer = [0; 4096];
    while stop.wait(&[from.as_fd()], None).is_some() {
        match reader.read(&mut buffer) {
            Ok(0) => return,
            Ok(count) if input(buffer.get(..count).unwrap_or_default()) => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {}
            _ => return,
        }
    }
}

/// Our end of a terminal, which never blocks. What a terminal has no room for,
/// because nobody reads it, is lost.
struct TerminalOutput {
    master: Arc<File>,
    /// Nobody has read for a while: there is no waiting until somebody does.
    deaf: bool,
}

impl TerminalOutput {
    /// Waits until there is room; false if nobody reads.
    fn wait(&mut self) -> bool {
        if !self.deaf {
            let mut set = [PollFd::new(&*self.master, PollFlags::OUT)];
            let _ = poll(&mut set, Some(&TERMINAL_PATIENCE));
            self.deaf = !set[0].revents().contains(PollFlags::OUT);
        }
        !self.deaf
    }
}

impl Write for TerminalOutput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match (&*self.master).write(bytes) {
                Ok(count) => {
                    self.deaf = false;
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && self.wait() => {}
                Err(_) => return Ok(bytes.len()),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A new terminal in raw mode: our end, which does not block, its own end, and
/// its name.
fn terminal() -> io::Result<(OwnedFd, File, String)> {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    rustix::io::ioctl_fionbio(&master, true)?;
    let name = ptsname(&master, Vec::new())?.to_string_lossy().into_owned();
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let terminal = File::from(rustix::fs::open(name.as_str(), flags, Mode::empty())?);
    let mut modes = tcgetattr(&terminal)?;
    modes.make_raw();
    tcsetattr(&terminal, OptionalActions::Now, &modes)?;
    Ok((master, terminal, name))
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Instant;

    use super::*;

    fn channel() -> (Input, mpsc::Receiver<Vec<u8>>) {
        let (sender, receiver) = mpsc::channel();
        (Arc::new(move |bytes: &[u8]| sender.send(bytes.to_vec()).is_ok()), receiver)
    }

    fn open(place: &Console) -> End {
        End::open(place, "the test's console", &Arc::default()).unwrap()
    }

    #[test]
    fn a_terminal_that_nobody_reads_does_not_hold_the_guest_up() {
        let mut end = open(&Console::Pty);
        let start = Instant::now();
        for _ in 0..1000 {
            end.output.write_all(&[b'x'; 1000]).unwrap();
        }
        assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
    }

    #[test]
    fn a_terminal_carries_both_ways() {
        let (input, came) = channel();
        let mut end = open(&Console::Pty);
        let Some(Source::Terminal(_, terminal)) = &end.source else { panic!("a terminal") };
        let mut terminal = terminal.try_clone().unwrap();
        let worker = end.source.take().unwrap().start(input).unwrap();
        end.output.write_all(b"out").unwrap();
        let mut got = [0; 3];
        terminal.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"out");
        terminal.write_all(b"in").unwrap();
        assert_eq!(came.recv_timeout(Duration::from_secs(10)).unwrap(), b"in");
        worker.stop();
    }

    #[test]
    fn a_socket_has_one_client_after_the_other_and_goes_at_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("console");
        let (input, came) = channel();
        let mut end = open(&Console::Socket(path.clone()));
        let worker = end.source.take().unwrap().start(input).unwrap();
        end.output.write_all(b"nobody hears this").unwrap();
        for word in [&b"one"[..], b"two"] {
            let mut client = UnixStream::connect(&path).unwrap();
            client.write_all(word).unwrap();
            assert_eq!(came.recv_timeout(Duration::from_secs(10)).unwrap(), word);
            end.output.write_all(word).unwrap();
            let mut got = [0; 3];
            client.read_exact(&mut got).unwrap();
            assert_eq!(got, word);
        }
        assert!(
            End::open(&Console::Socket(path.clone()), "another", &Arc::default()).is_err(),
            "somebody listens there"
        );
        worker.stop();
        assert!(!path.exists());
    }

    #[test]
    fn only_what_a_killed_process_left_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("console");
        drop(UnixListener::bind(&path).unwrap());
        drop(open(&Console::Socket(path.clone())));
        assert!(!path.exists(), "an end that was never started leaves nothing either");
        fs::write(&path, b"a file of the user's").unwrap();
        assert!(End::open(&Console::Socket(path.clone()), "it", &Arc::default()).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"a file of the user's");
    }
}
