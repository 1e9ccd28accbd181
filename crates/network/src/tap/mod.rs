//! A tap device of the host.

mod ioctl;

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use rustix::io::Errno;
use rustix::net::netdevice::name_to_index;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use crate::poller::Poller;
use crate::vnet::VNET_HEADER;
use crate::{Frame, MAX_FRAME, NetBackend, Offload, Offloads, Sent};

/// Why a tap device cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// The kernel has no such devices.
    #[error("/dev/net/tun cannot be opened")]
    Tun(#[source] io::Error),
    /// There is no device of that name.
    #[error("there is no tap device '{0}'; make it with 'ip tuntap add dev {0} mode tap user $USER'")]
    Absent(String),
    /// It belongs to somebody else, is in use, or is something else.
    #[error("'{0}' cannot be used as a tap device")]
    Attach(String, #[source] io::Error),
    /// The kernel refuses what frames need.
    #[error("tap device '{0}' cannot be set up")]
    SetUp(String, #[source] io::Error),
}

/// A tap device.
pub struct Tap {
    file: File,
    poller: Poller,
    readable: bool,
    buffer: Vec<u8>,
    up: bool,
}

impl Tap {
    /// Attaches to the device `name`.
    ///
    /// # Errors
    /// If there is none, this process may not, or it is in use.
    pub fn open(name: &str) -> Result<Self, TapError> {
        if !exists(name).map_err(TapError::Tun)? {
            return Err(TapError::Absent(name.to_owned()));
        }
        let file = File::options().read(true).write(true).open("/dev/net/tun").map_err(TapError::Tun)?;
        ioctl::attach(&file, name).map_err(|error| TapError::Attach(name.to_owned(), error))?;
        Self::set_up(file).map_err(|error| TapError::SetUp(name.to_owned(), error))
    }

    fn set_up(file: File) -> io::Result<Self> {
        ioctl::set_header_length(&file, VNET_HEADER)?;
        ioctl::set_offloads(&file, Offloads::empty())?;
        rustix::io::ioctl_fionbio(&file, true)?;
        let poller = Poller::new()?;
        poller.watch(&file, 0)?;
        Ok(Self { file, poller, readable: true, buffer: vec![0; VNET_HEADER + MAX_FRAME], up: true })
    }
}

/// Whether there is an interface `name`. Attaching would make one, for whoever
/// may do that, and it would lead nowhere.
fn exists(name: &str) -> io::Result<bool> {
    let any = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    match name_to_index(&any, name) {
        Ok(_) => Ok(true),
        Err(Errno::NODEV) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

impl NetBackend for Tap {
    fn offloads(&self) -> Offloads {
        Offloads::all()
    }

    fn choose(&mut self, offloads: Offloads) {
        // Refused by a kernel that lacks one of them, which then does the work.
        let _ = ioctl::set_offloads(&self.file, offloads);
    }

    fn send(&mut self, frame: &Frame) -> Sent {
        let header = frame.offload.header();
        let slices = [io::IoSlice::new(&header), io::IoSlice::new(&frame.bytes)];
        match (&self.file).write_vectored(&slices) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Sent::Later,
            // Not up, or malformed: lost, as on a wire.
            _ => Sent::Taken,
        }
    }

    fn receive(&mut self, frame: &mut Frame) -> bool {
        while self.readable {
            let length = match (&self.file).read(&mut self.buffer) {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    self.up = error.kind() == io::ErrorKind::WouldBlock;
                    self.readable = false;
                    return false;
                }
            };
            let message = self.buffer.get(..length).and_then(<[u8]>::split_first_chunk::<VNET_HEADER>);
            if let Some((header, bytes)) = message
                && let Some(offload) = Offload::parse(header)
            {
                frame.clear();
                frame.bytes.extend_from_slice(bytes);
                frame.offload = offload;
                return true;
            }
        }
        false
    }

    fn service(&mut self) {
        let mut readable = false;
        self.poller.take_all(|readiness| readable |= readiness.readable);
        self.readable |= readable && self.up;
    }

    fn descriptor(&self) -> BorrowedFd<'_> {
        self.poller.as_fd()
    }

    fn deadline(&self) -> Option<Instant> {
        None
    }

    fn is_up(&self) -> bool {
        self.up
    }

    fn reset(&mut self) {
        self.choose(Offloads::empty());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_absent_device_is_named() {
        let text = Tap::open("no-such-tap0").err().unwrap().to_string();
        assert!(text.contains("there is no tap device 'no-such-tap0'"), "{text}");
    }

    #[test]
    fn what_is_no_tap_device_is_refused() {
        assert!(Tap::open("lo").is_err());
    }
}
