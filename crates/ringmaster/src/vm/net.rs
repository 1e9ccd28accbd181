//! The network card of a machine.

use std::path::{Path, PathBuf};

use machine::{Transport, VirtioSlot};
use network::pcap::Capture;
use network::stream::Stream;
use network::tap::Tap;
use network::user::{UserConfig, UserNet};
use network::{Mac, NetBackend};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use virtio::net::Net as Device;

use crate::cli::net::{Card, Net, NetArgs, Peer};
use crate::exit::Failure;
use crate::output;

/// Makes the card that `args` describe.
pub(super) fn open(args: &NetArgs, transport: Transport) -> Result<Option<VirtioSlot>, Failure> {
    let Net::Card(Card { mac, peer }) = &args.net else { return Ok(None) };
    let backend = connect(*mac, peer)?;
    let backend = match &args.pcap {
        Some(path) => Box::new(capture(backend, path)?),
        None => backend,
    };
    Ok(Some(VirtioSlot::new(Device::new(*mac, backend), transport)))
}

fn connect(mac: Mac, peer: &Peer) -> Result<Box<dyn NetBackend>, Failure> {
    let lacks = || Failure::host_lacks("the network cannot be had");
    Ok(match peer {
        Peer::User { forwards, reach } => {
            allow_many_files();
            let config = UserConfig { reach: *reach, forwards: forwards.clone(), ..UserConfig::new(mac) };
            Box::new(UserNet::new(config).map_err(|error| lacks().because(error))?)
        }
        Peer::Tap(name) => Box::new(Tap::open(name).map_err(|error| lacks().because(error))?),
        Peer::Stream(path) => Box::new(Stream::connect(path).map_err(|error| {
            Failure::host_lacks(format!("nobody takes frames at {}", path.display())).because(error)
        })?),
    })
}

/// Each connection of the guest is an open file; the usual limit is a relic of
/// select(2), which nothing here uses.
fn allow_many_files() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    // If it is refused, the guest gets fewer connections.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}

fn capture(backend: Box<dyn NetBackend>, path: &Path) -> Result<Capture<Box<dyn NetBackend>>, Failure> {
    let kept: PathBuf = path.to_owned();
    let on_error = Box::new(move |error| {
        output::note(format_args!("no more frames are kept in {}: {error}", kept.display()));
    });
    Capture::create(backend, path, on_error).map_err(|error| {
        Failure::internal(format!("cannot keep frames in {}", path.display())).because(error)
    })
}
