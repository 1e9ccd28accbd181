//! Frames over a Unix socket, each after its length in four bytes, big-endian:
//! the framing of QEMU's `-netdev stream` and of passt.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Instant;

use crate::poller::Poller;
use crate::{Frame, MAX_FRAME, NetBackend, Offloads, Sent};

/// Bytes that wait for the socket before the guest has to wait.
const WAITING: usize = 256 << 10;
/// Bytes that are read at once.
const READ: usize = 64 << 10;
const LENGTH: usize = 4;

/// A socket that frames pass through.
pub struct Stream {
    socket: Option<UnixStream>,
    poller: Poller,
    readable: bool,
    /// What has come and has not been taken, from `taken` on.
    incoming: Vec<u8>,
    taken: usize,
    outgoing: VecDeque<u8>,
}

impl Stream {
    /// Connects to the socket at `path`.
    ///
    /// # Errors
    /// If nobody listens there.
    pub fn connect(path: &Path) -> io::Result<Self> {
        Self::new(UnixStream::connect(path)?)
    }

    /// Takes a socket that is connected.
    ///
    /// # Errors
    /// If the host has no more descriptors.
    pub fn new(socket: UnixStream) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let poller = Poller::new()?;
        poller.watch(&socket, 0)?;
        Ok(Self {
            socket: Some(socket),
            poller,
            readable: true,
            incoming: Vec::new(),
            taken: 0,
            outgoing: VecDeque::new(),
        })
    }

    /// The other end is gone, or does not keep to the framing.
    fn close(&mut self) {
        self.socket = None;
        self.readable = false;
        self.outgoing = VecDeque::new();
    }

    fn write(&mut self) {
        let Some(mut socket) = self.socket.as_ref() else { return };
        while !self.outgoing.is_empty() {
            let (first, _) = self.outgoing.as_slices();
            match socket.write(first) {
                Ok(0) => return self.close(),
                Ok(written) => drop(self.outgoing.drain(..written)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return self.close(),
            }
        }
    }

    /// Reads once; whether anything has come.
    fn read(&mut self) -> bool {
        let Some(mut socket) = self.socket.as_ref() else { return false };
        self.incoming.drain(..self.taken);
        self.taken = 0;
        let had = self.incoming.len();
        self.incoming.resize(had + READ, 0);
        let came = socket.read(self.incoming.get_mut(had..).unwrap_or_default());
        self.incoming.truncate(had + came.as_ref().copied().unwrap_or(0));
        match came {
            Ok(0) => self.close(),
            Ok(_) => return true,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.readable = false,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return true,
            Err(_) => self.close(),
        }
        false
    }

    /// The frame that has come next, if it is complete.
    fn take(&mut self, frame: &mut Frame) -> bool {
        let waiting = self.incoming.get(self.taken..).unwrap_or_default();
        let Some((length, rest)) = waiting.split_first_chunk::<LENGTH>() else { return false };
        let length = u32::from_be_bytes(*length) as usize;
        if length == 0 || length > MAX_FRAME {
            self.close();
            self.incoming.clear();
            self.taken = 0;
            return false;
        }
        let Some(bytes) = rest.get(..length) else { return false };
        frame.clear();
        frame.bytes.extend_from_slice(bytes);
        self.taken += LENGTH + length;
        true
    }
}

impl NetBackend for Stream {
    fn offloads(&self) -> Offloads {
        Offloads::empty()
    }

    fn choose(&mut self, _: Offloads) {}

    fn send(&mut self, frame: &Frame) -> Sent {
        if self.socket.is_none() {
            return Sent::Taken;
        }
        if self.outgoing.len() >= WAITING {
            return Sent::Later;
        }
        let length = u32::try_from(frame.bytes.len()).unwrap_or(u32::MAX);
        self.outgoing.extend(length.to_be_bytes());
        self.outgoing.extend(&frame.bytes);
        self.write();
        Sent::Taken
    }

    fn receive(&mut self, frame: &mut Frame) -> bool {
        loop {
            if self.take(frame) {
                return true;
            }
            if !self.readable || !self.read() {
                return false;
            }
        }
    }

    fn service(&mut self) {
        let mut readable = false;
        self.poller.take_all(|readiness| readable |= readiness.readable);
        self.readable |= readable && self.socket.is_some();
        self.write();
    }

    fn descriptor(&self) -> BorrowedFd<'_> {
        self.poller.as_fd()
    }

    fn deadline(&self) -> Option<Instant> {
        None
    }

    fn is_up(&self) -> bool {
        self.socket.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Stream, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Stream::new(ours).unwrap(), theirs)
    }

    fn received(stream: &mut Stream) -> Option<Vec<u8>> {
        let mut frame = Frame::default();
        stream.service();
        stream.receive(&mut frame).then_some(frame.bytes)
    }

    #[test]
    fn frames_have_their_length_before_them() {
        let (mut stream, mut theirs) = pair();
        assert_eq!(stream.send(&Frame::whole(b"hello".to_vec())), Sent::Taken);
        let mut bytes = [0; 9];
        theirs.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"\0\0\0\x05hello");
        theirs.write_all(b"\0\0\0\x02ab\0\0\0\x03c").unwrap();
        assert_eq!(received(&mut stream).unwrap(), b"ab");
        assert_eq!(received(&mut stream), None);
        theirs.write_all(b"de").unwrap();
        assert_eq!(received(&mut stream).unwrap(), b"cde");
    }

    #[test]
    fn a_socket_that_takes_nothing_makes_the_guest_wait() {
        let (mut stream, mut theirs) = pair();
        let frame = Frame::whole(vec![1; 1500]);
        let sent = (0..10_000).take_while(|_| stream.send(&frame) == Sent::Taken).count();
        assert!(sent > 100 && sent < 10_000, "{sent}");
        let mut taken = vec![0; sent * 1504];
        let reader = std::thread::spawn(move || theirs.read_exact(&mut taken).map(|()| theirs));
        while !stream.outgoing.is_empty() {
            stream.service();
        }
        let _theirs = reader.join().unwrap().unwrap();
        assert_eq!(stream.send(&frame), Sent::Taken);
    }

    #[test]
    fn nonsense_and_the_end_take_the_link_down() {
        for nonsense in [&[0, 0, 0, 0][..], &[0xff; 8], &[]] {
            let (mut stream, mut theirs) = pair();
            theirs.write_all(nonsense).unwrap();
            if nonsense.is_empty() {
                drop(theirs);
            }
            assert!(stream.is_up());
            assert_eq!(received(&mut stream), None);
            assert!(!stream.is_up());
            assert_eq!(stream.send(&Frame::whole(vec![0; 60])), Sent::Taken);
        }
    }
}
