//! Options for virtio devices beside disks and network cards.

use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;

use super::console::Console;
use super::memory::MemorySize;

/// The virtio devices that a user asks for.
#[derive(Debug, Clone, Default, Args)]
pub struct DeviceArgs {
    /// A virtio console (/dev/hvc0 and on): stdio, none, file=PATH, socket=PATH or pty
    #[arg(long, value_name = "WHERE")]
    pub virtio_console: Vec<Console>,
    /// A named channel (/dev/virtio-ports/NAME): NAME,file=PATH or NAME,socket=PATH or NAME,pty
    #[arg(long, value_name = "NAME,WHERE")]
    pub virtio_port: Vec<Channel>,
    /// Give the guest randomness of the host, RATE bytes in a second at most
    #[arg(long, value_name = "RATE", num_args = 0..=1, require_equals = true)]
    #[allow(clippy::option_option, reason = "no device, one without a limit, one with it")]
    pub rng: Option<Option<RngRate>>,
    /// A memory balloon, which takes SIZE of the guest's memory at first (0 if not said)
    #[arg(long, value_name = "SIZE", num_args = 0..=1, require_equals = true, default_missing_value = "0")]
    pub balloon: Option<BalloonSize>,
    /// Sockets between guest and host: PATH[,cid=N] of the Unix socket on the host
    #[arg(long, value_name = "PATH")]
    pub vsock: Option<VsockPlace>,
    /// Share a folder, for 'mount -t virtiofs TAG': PATH=TAG[,readonly]
    #[arg(long, value_name = "PATH=TAG")]
    pub share: Vec<Share>,
}

/// Why such an option is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// No channel.
    #[error("write NAME,file=PATH or NAME,socket=PATH or NAME,pty")]
    Channel,
    /// No rate.
    #[error("write bytes in a second, such as 64K")]
    Rate,
    /// No size.
    #[error("write a size followed by K, M or G, such as 256M")]
    Size,
    /// No socket, or an impossible CID.
    #[error("write PATH[,cid=N], where N is 3 to 4294967294")]
    Vsock,
    /// No folder or no tag.
    #[error("write PATH=TAG[,readonly], where TAG has 1 to 36 bytes")]
    Share,
}

/// A named channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Channel {
    /// Its name in the guest.
    pub name: String,
    /// Its end on the host.
    pub place: Console,
}

impl FromStr for Channel {
    type Err = DeviceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, place) = text.split_once(',').ok_or(DeviceError::Channel)?;
        let place = place.parse().map_err(|_| DeviceError::Channel)?;
        let legal = !name.is_empty() && name.len() <= 64 && !name.contains('/');
        if legal { Ok(Self { name: name.to_owned(), place }) } else { Err(DeviceError::Channel) }
    }
}

/// How many bytes of randomness come in a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RngRate(pub u64);

impl FromStr for RngRate {
    type Err = DeviceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let rate = MemorySize::parse_bytes(text).filter(|rate| *rate > 0);
        rate.map(Self).ok_or(DeviceError::Rate)
    }
}

/// How much a balloon takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BalloonSize(pub u64);

impl FromStr for BalloonSize {
    type Err = DeviceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        MemorySize::parse_bytes(text).map(Self).ok_or(DeviceError::Size)
    }
}

/// The host's end of the socket device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VsockPlace {
    /// The Unix socket.
    pub path: PathBuf,
    /// The guest's context identifier.
    pub cid: u64,
}

impl FromStr for VsockPlace {
    type Err = DeviceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (path, cid) = match text.rsplit_once(",cid=") {
            Some((path, cid)) => (path, cid.parse::<u32>().map_err(|_| DeviceError::Vsock)?.into()),
            None => (text, virtio::vsock::GUEST_CID),
        };
        let legal = !path.is_empty() && (3..u64::from(u32::MAX)).contains(&cid);
        if legal { Ok(Self { path: path.into(), cid }) } else { Err(DeviceError::Vsock) }
    }
}

/// A folder of the host that the guest may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// The folder.
    pub path: PathBuf,
    /// By what the guest mounts it.
    pub tag: String,
    /// The guest may not change it.
    pub read_only: bool,
}

impl FromStr for Share {
    type Err = DeviceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (rest, read_only) = match text.strip_suffix(",readonly") {
            Some(rest) => (rest, true),
            None => (text, false),
        };
        let (path, tag) = rest.rsplit_once('=').ok_or(DeviceError::Share)?;
        let legal = !path.is_empty() && (1..=virtio::fs::TAG).contains(&tag.len()) && !tag.contains(',');
        match legal {
            true => Ok(Self { path: path.into(), tag: tag.to_owned(), read_only }),
            false => Err(DeviceError::Share),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_option_parses() {
        let channel: Channel = "org.example.0,file=x".parse().unwrap();
        assert_eq!((channel.name.as_str(), channel.place), ("org.example.0", Console::File("x".into())));
        assert_eq!("256M".parse(), Ok(BalloonSize(256 << 20)));
        assert_eq!("64K".parse(), Ok(RngRate(64 << 10)));
        assert_eq!("/v".parse(), Ok(VsockPlace { path: "/v".into(), cid: 3 }));
        assert_eq!("/v,cid=77".parse(), Ok(VsockPlace { path: "/v".into(), cid: 77 }));
        let share = Share { path: "/a=b".into(), tag: "home".into(), read_only: true };
        assert_eq!("/a=b=home,readonly".parse(), Ok(share));
    }

    #[test]
    fn mistakes_are_refused() {
        for bad in ["x", ",pty", "a/b,pty", "x,vga"] {
            assert_eq!(bad.parse::<Channel>(), Err(DeviceError::Channel), "{bad}");
        }
        assert_eq!("0".parse::<RngRate>(), Err(DeviceError::Rate));
        for bad in ["", "/v,cid=2", "/v,cid=4294967295", "/v,cid=x"] {
            assert_eq!(bad.parse::<VsockPlace>(), Err(DeviceError::Vsock), "{bad}");
        }
        for bad in ["", "/x", "=t", "/x=", "/x=t,rw", "/x=0123456789012345678901234567890123456"] {
            assert_eq!(bad.parse::<Share>(), Err(DeviceError::Share), "{bad}");
        }
    }
}
