//! Keeping what passes, for tcpdump and Wireshark (pcap, nanoseconds).

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::{Frame, NetBackend, Offloads, Sent};

const MAGIC_NANOSECONDS: u32 = 0xa1b2_3c4d;
const VERSION: [u16; 2] = [2, 4];
/// Longer than any frame.
const SNAPSHOT_LENGTH: u32 = 262_144;
const LINK_ETHERNET: u32 = 1;

/// What is called when frames can no longer be kept.
pub type OnError = Box<dyn FnOnce(io::Error) + Send>;

/// A backend of which all frames are kept in a file. Those that are left to be
/// segmented or summed up are kept as they are.
pub struct Capture<B> {
    inner: B,
    out: Option<BufWriter<File>>,
    on_error: Option<OnError>,
}

impl<B: NetBackend> Capture<B> {
    /// Keeps what passes through `inner` in a new file at `path`. If that fails
    /// later, `on_error` is told and the network goes on without.
    ///
    /// # Errors
    /// If the file cannot be made.
    pub fn create(inner: B, path: &Path, on_error: OnError) -> io::Result<Self> {
        let mut out = BufWriter::with_capacity(1 << 18, File::create(path)?);
        write_start(&mut out)?;
        out.flush()?;
        Ok(Self { inner, out: Some(out), on_error: Some(on_error) })
    }

    fn keep(&mut self, frame: &Frame) {
        self.with_file(|out| write_frame(out, SystemTime::now(), &frame.bytes));
    }

    fn with_file(&mut self, action: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>) {
        let Some(out) = &mut self.out else { return };
        if let Err(error) = action(out) {
            // What is in the buffer would only fail again.
            if let Some(out) = self.out.take() {
                let _ = out.into_parts();
            }
            if let Some(tell) = self.on_error.take() {
                tell(error);
            }
        }
    }
}

fn write_start(out: &mut impl Write) -> io::Result<()> {
    out.write_all(&MAGIC_NANOSECONDS.to_le_bytes())?;
    out.write_all(&VERSION[0].to_le_bytes())?;
    out.write_all(&VERSION[1].to_le_bytes())?;
    // Zone and accuracy, which nobody sets.
    out.write_all(&[0; 8])?;
    out.write_all(&SNAPSHOT_LENGTH.to_le_bytes())?;
    out.write_all(&LINK_ETHERNET.to_le_bytes())
}

fn write_frame(out: &mut impl Write, at: SystemTime, bytes: &[u8]) -> io::Result<()> {
    let time = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX).min(SNAPSHOT_LENGTH);
    // Seconds are 32 bits in this format.
    for field in [time.as_secs() as u32, time.subsec_nanos(), length, length] {
        out.write_all(&field.to_le_bytes())?;
    }
    out.write_all(bytes.get(..length as usize).unwrap_or(bytes))
}

impl<B: NetBackend> NetBackend for Capture<B> {
    fn offloads(&self) -> Offloads {
        self.inner.offloads()
    }

    fn choose(&mut self, offloads: Offloads) {
        self.inner.choose(offloads);
    }

    fn send(&mut self, frame: &Frame) -> Sent {
        let sent = self.inner.send(frame);
        if sent == Sent::Taken {
            self.keep(frame);
        }
        sent
    }

    fn receive(&mut self, frame: &mut Frame) -> bool {
        if self.inner.receive(frame) {
            self.keep(frame);
            return true;
        }
        // Nothing to do: a good moment to let others see what there is.
        self.with_file(Write::flush);
        false
    }

    fn service(&mut self) {
        self.inner.service();
    }

    fn descriptor(&self) -> BorrowedFd<'_> {
        self.inner.descriptor()
    }

    fn deadline(&self) -> Option<Instant> {
        self.inner.deadline()
    }

    fn is_up(&self) -> bool {
        self.inner.is_up()
    }

    fn reset(&mut self) {
        self.inner.reset();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::net::UnixStream;
    use std::sync::mpsc;

    use crate::stream::Stream;

    fn capture(path: &Path) -> (Capture<Stream>, UnixStream, mpsc::Receiver<io::Error>) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (tell, told) = mpsc::channel();
        let on_error = Box::new(move |error| tell.send(error).unwrap());
        let capture = Capture::create(Stream::new(ours).unwrap(), path, on_error).unwrap();
        (capture, theirs, told)
    }

    #[test]
    fn both_directions_are_kept_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("frames.pcap");
        let (mut capture, mut theirs, _told) = capture(&path);
        let mut frame = Frame::whole(b"from the guest".to_vec());
        assert_eq!(capture.send(&frame), Sent::Taken);
        theirs.write_all(b"\0\0\0\x05there").unwrap();
        capture.service();
        assert!(capture.receive(&mut frame));
        assert!(!capture.receive(&mut frame));
        // Readable while the capture goes on.
        let mut bytes = Vec::new();
        File::open(&path).unwrap().read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes[..8], [0x4d, 0x3c, 0xb2, 0xa1, 2, 0, 4, 0]);
        assert_eq!(bytes[20..24], [1, 0, 0, 0]);
        assert_eq!(bytes[32..40], [14, 0, 0, 0, 14, 0, 0, 0]);
        assert_eq!(bytes[40..54], *b"from the guest");
        assert_eq!(bytes[62..], *b"\x05\0\0\0\x05\0\0\0there");
    }

    #[test]
    fn a_full_disk_ends_the_capture_and_not_the_network() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("frames.pcap");
        let (mut capture, mut theirs, told) = capture(&path);
        capture.out = Some(BufWriter::new(File::options().write(true).open("/dev/full").unwrap()));
        let mut frame = Frame::whole(vec![7; 100]);
        assert_eq!(capture.send(&frame), Sent::Taken);
        assert!(!capture.receive(&mut frame));
        assert_eq!(told.recv().unwrap().kind(), io::ErrorKind::StorageFull);
        assert_eq!(capture.send(&frame), Sent::Taken);
        theirs.read_exact(&mut [0; 208]).unwrap();
    }
}
