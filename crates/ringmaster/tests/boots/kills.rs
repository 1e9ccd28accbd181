//! Storage under power failure: the process is killed while its guest writes,
//! and nothing is lost of what the guest had been told was durable.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use libtest_mimic::{Failed, Trial};

use crate::disks::{DISK_TOOLS, succeed, tool_command};
use crate::drivers::Drivers;
use crate::systems::needing;

/// How often the process is killed with one image.
const KILLS: u64 = 3;
/// Within how many milliseconds after the first durable write.
const SPAN: u64 = 2500;
/// Sets the moments, to have those of another run again.
const SEED: &str = "BOOTS_SEED";

/// Bytes of each file that the guest makes.
const FILE: usize = 20_000;

pub(crate) fn tests() -> Vec<Trial> {
    let test = |name, format| needing(name, &DISK_TOOLS, move |drivers| killed(drivers, format));
    vec![
        test("nothing_durable_is_lost_from_qcow2_when_the_process_is_killed", "qcow2"),
        test("nothing_durable_is_lost_from_raw_when_the_process_is_killed", "raw"),
    ]
}

/// Moments at random, the same for the same seed.
struct Moments(u64);

impl Moments {
    /// From the environment or from the clock; said, so that it can be had again.
    fn new(what: &str) -> Self {
        let clock =
            || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| u64::from(time.subsec_nanos()));
        let given = std::env::var(SEED).ok().and_then(|seed| seed.parse().ok());
        let seed = given.unwrap_or_else(clock);
        eprintln!("kills with {what}: {SEED}={seed}");
        Self(seed)
    }

    fn next(&mut self) -> Duration {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        Duration::from_millis((self.0 >> 33) % SPAN)
    }
}

/// What the guest does from file `first` on: each is written in pieces, made
/// durable by fsync, and told of; and a file of its own says, in place, which
/// was the last.
fn script(first: u64) -> String {
    format!(
        "mkdir /disk; mount -t ext4 /dev/vda /disk; number={first}
        while true; do
            number=$((number + 1))
            yes $number | head -c {FILE} | dd of=/disk/file-$number bs=5000 conv=fsync 2>/dev/null
            printf '%08d' $number | dd of=/disk/last conv=notrunc,fsync 2>/dev/null
            sync; echo durable $number
        done"
    )
}

/// The numbers that the guest has said to be durable. The last line may have
/// been cut short.
fn durable(said: &str) -> Vec<u64> {
    let whole = said.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let words = whole.lines().filter_map(|line| line.trim().strip_prefix("durable "));
    words.filter_map(|word| word.parse().ok()).collect()
}

/// Kills a guest that writes, again and again. Whatever it has said is in the
/// image, and image and file system are whole.
fn killed(drivers: &Drivers, format: &str) -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let (raw, image) = (folder.path().join("raw"), folder.path().join(format!("disk.{format}")));
    fs::File::create(&raw)?.set_len(256 << 20)?;
    succeed(tool_command("mkfs.ext4").args(["-q", "-F"]).arg(&raw))?;
    succeed(tool_command("qemu-img").args(["convert", "-f", "raw", "-O", format]).arg(&raw).arg(&image))?;
    let mut moments = Moments::new(format);
    let mut written = Vec::new();
    for round in 0..KILLS {
        let options = ["--disk".to_owned(), format!("{},format={format}", image.display())];
        let mut run = drivers.start(&script(1000 * round), "", &options)?;
        run.wait_for("durable ")?;
        thread::sleep(moments.next());
        run.kill()?;
        written.extend(durable(&run.said));
        check(&image, format, &raw, &written).map_err(|error| run.complaint(&format!("{error:?}")))?;
    }
    Ok(())
}

/// Looks at an image after a kill: it has all the files that were `written`.
fn check(image: &Path, format: &str, raw: &Path, written: &[u64]) -> Result<(), Failed> {
    // Clusters that are allocated and not used yet are no damage (status 3),
    // and raw images cannot be checked (63).
    let status = tool_command("qemu-img").args(["check", "-f", format]).arg(image).output()?;
    if !matches!((status.status.code(), format), (Some(0 | 3), _) | (Some(63), "raw")) {
        return Err(format!("the image is damaged: {}", String::from_utf8_lossy(&status.stdout)).into());
    }
    succeed(tool_command("qemu-img").args(["convert", "-f", format, "-O", "raw"]).arg(image).arg(raw))?;
    // Replays the journal, as a mount would; then there must be no errors.
    let _ = tool_command("e2fsck").args(["-p"]).arg(raw).output()?;
    succeed(tool_command("e2fsck").args(["-f", "-n"]).arg(raw))?;
    let file = |name: &str| -> Result<Vec<u8>, Failed> {
        let request = format!("cat /{name}");
        Ok(tool_command("debugfs").args(["-R", &request]).arg(raw).output()?.stdout)
    };
    for number in written {
        let (found, line) = (file(&format!("file-{number}"))?, format!("{number}\n"));
        if found.len() != FILE || !line.repeat(FILE / line.len() + 1).as_bytes().starts_with(&found) {
            return Err(format!("file {number} is not what was written").into());
        }
    }
    let last = String::from_utf8(file("last")?)?.parse::<u64>()?;
    // One more may have been written than the guest could tell of.
    if written.last().is_some_and(|told| (*told..*told + 2).contains(&last)) {
        return Ok(());
    }
    Err(format!("the last file was {last}, not {:?}", written.last()).into())
}
