//! Virtio devices under Debian's own drivers, over PCI and over MMIO: what the
//! guest sees of them, and what reaches the host.

use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::{Failed, Trial};

use crate::drivers::{DRIVERS, Drivers, PROBING, Probing};
use crate::process::{LIMIT, Run};
use crate::systems::needing;

const MIB: u64 = 1 << 20;

pub(crate) fn tests() -> Vec<Trial> {
    vec![
        needing("every_virtio_device_works_under_linux", &DRIVERS, |drivers| devices(drivers, "pci")),
        needing("every_virtio_device_works_over_mmio", &DRIVERS, |drivers| devices(drivers, "mmio")),
        needing("a_shared_folder_is_used_and_not_left", &DRIVERS, shared),
        needing("disks_have_queues_and_take_discards_and_zeroes", &PROBING, ranges),
        needing("sockets_connect_guest_and_host_both_ways", &PROBING, vsock),
        needing("a_network_card_has_offloads_and_a_control_queue", &PROBING, network),
        needing("free_memory_of_the_guest_goes_back_to_the_host", &DRIVERS, balloon),
    ]
}

/// Fails unless the guest has said all `words`.
fn require(run: &Run, words: &[&str]) -> Result<(), Failed> {
    match words.iter().find(|words| !run.said.contains(**words)) {
        Some(missing) => Err(run.complaint(&format!("never said {missing:?}"))),
        None => Ok(()),
    }
}

fn strings<const N: usize>(words: [&str; N]) -> Vec<String> {
    words.map(str::to_owned).to_vec()
}

/// All devices at once, so that over MMIO some share an interrupt.
fn devices(drivers: &Drivers, transport: &str) -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let path = |name: &str| folder.path().join(name).display().to_string();
    fs::create_dir(folder.path().join("shared"))?;
    fs::write(folder.path().join("shared/hello"), "hello from the host\n")?;
    fs::write(folder.path().join("disk"), vec![b'.'; MIB as usize])?;
    let script = "
        cat /sys/class/misc/hw_random/rng_available
        dd if=/dev/hwrng bs=64 count=1 2>/dev/null | wc -c
        mkdir /share; mount -t virtiofs home /share; cat /share/hello
        mkdir /share/new; cp /bin/busybox /share/new/copy; cmp /bin/busybox /share/new/copy && echo same
        mv /share/new/copy /share/moved; rmdir /share/new; ln -s hello /share/link; cat /share/link
        echo text > /share/text; echo more >> /share/text; truncate -s 7 /share/text; umount /share
        echo console-speaks > /dev/hvc0; echo second-console-speaks > /dev/hvc1
        cat /sys/class/virtio-ports/*/name; for port in /dev/vport*p2; do echo channel-speaks > $port; done
        echo on-disk | dd of=/dev/vda bs=512 seek=100 conv=notrunc,fsync 2>/dev/null
        ip link set eth0 up; udhcpc -i eth0 -s /etc/udhcpc.sh -n -q -t 9 -T 5 >/dev/null 2>&1
        ping -c 1 -W 20 10.0.2.2 | grep received
        ls /sys/bus/virtio/devices | wc -l | sed 's/$/ devices/'
        ls -d /sys/bus/platform/devices/LNRO0005:* 2>/dev/null | wc -l | sed 's/$/ in pages of their own/'
        ls /dev/vsock; sleep 1; grep balloon_inflate /proc/vmstat; echo all-done; sleep 3";
    let options = [
        "--virtio",
        transport,
        "--rng",
        "--balloon=32M",
        "--net",
        "user",
        "--disk",
        &format!("{},format=raw", path("disk")),
        "--vsock",
        &path("vsock"),
        "--share",
        &format!("{}=home", path("shared")),
        "--virtio-console",
        &format!("file={}", path("hvc0")),
        "--virtio-console",
        &format!("file={}", path("hvc1")),
        "--virtio-port",
        &format!("org.example.0,file={}", path("channel")),
    ];
    let mut run = drivers.start(script, "no_timer_check", &options.map(str::to_owned))?;
    run.wait_for("all-done")?;
    // Nobody listens in the guest, so the connection is refused.
    let mut stream = UnixStream::connect(path("vsock"))?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    stream.write_all(b"CONNECT 1234\n")?;
    if matches!(stream.read(&mut [0]), Ok(1)) {
        return Err(run.complaint("accepted a connection that nobody waits for"));
    }
    run.finish_with(0)?;
    let pages = if transport == "mmio" { "7 in pages of their own" } else { "0 in pages of their own" };
    let expected = ["virtio_rng", "hello from the host", "same", "org.example.0", "1 packets received"];
    require(&run, &expected)?;
    require(&run, &["/dev/vsock", "balloon_inflate 8192", "7 devices", pages])?;
    let has = |name: &str, text: &str| fs::read_to_string(path(name)).is_ok_and(|found| found.contains(text));
    let reached = [
        ("hvc0", "console-speaks"),
        ("hvc1", "second-console-speaks"),
        ("channel", "channel-speaks"),
        ("disk", ".on-disk\n"),
        ("shared/text", "text\nmo"),
    ];
    if let Some((name, _)) = reached.iter().find(|(name, text)| !has(name, text)) {
        return Err(run.complaint(&format!("did not reach {name}")));
    }
    if Path::new(&path("shared/new")).exists() { Err(run.complaint("removed no folder")) } else { Ok(()) }
}

/// Modes, programs, large files; and links out of the folder, which lead
/// nowhere on the host.
fn shared(drivers: &Drivers) -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let path = |name: &str| folder.path().join(name);
    fs::create_dir(path("shared"))?;
    fs::write(path("secret"), "nothing for the guest\n")?;
    std::os::unix::fs::symlink(path("secret"), path("shared/way-out"))?;
    std::os::unix::fs::symlink("..", path("shared/back"))?;
    let script = "
        mkdir /share; mount -t virtiofs home /share; cd /share
        echo text > text; chmod 640 text; stat -c mode-%a text; mkfifo pipe; ln text again; stat -c links-%h text
        cp /bin/busybox busybox-shared; ./busybox-shared echo run-from-the-share; rm busybox-shared
        dd if=/dev/zero bs=1M count=40 2>/dev/null | tr '\\0' x > large; wc -c < large
        mknod zero c 1 5 || echo no-devices
        cat way-out ../../secret back/secret; ls back; cd /; umount /share; echo all-done";
    let share = format!("{}=home", path("shared").display());
    let mut run = drivers.start(script, "", &strings(["--share", &share]))?;
    run.finish_with(0)?;
    require(&run, &["mode-640", "links-2", "run-from-the-share", "41943040", "no-devices", "all-done"])?;
    if run.said.contains("nothing for the guest") || fs::read(path("secret"))? != b"nothing for the guest\n" {
        return Err(run.complaint("led the guest out of the shared folder"));
    }
    let large = fs::read(path("shared/large"))?;
    let whole = large.len() == 40 << 20 && large.iter().all(|byte| *byte == b'x');
    if whole { Ok(()) } else { Err(run.complaint("wrote a large file wrongly")) }
}

/// The host's file gets holes where the guest discards, and zeroes where it
/// wants them.
fn ranges(probing: &Probing) -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("disk");
    fs::write(&path, vec![b'.'; 8 << 20])?;
    let before = fs::metadata(&path)?.blocks();
    let script = "
        ls /sys/block/vda/mq | wc -l | sed 's/$/ queues/'
        head /sys/block/vda/queue/discard_max_bytes /sys/block/vda/queue/write_zeroes_max_bytes
        cat /sys/block/vda/queue/write_cache
        /probe discard /dev/vda 0x100000 0x400000 && echo discarded
        /probe zero /dev/vda 0x600000 0x1000 && echo zeroed
        /probe zero /dev/vda 0x700000 0x2000000 || echo beyond-the-end";
    let disk = format!("{},format=raw,queues=3", path.display());
    let mut run = probing.start(script, &strings(["--disk", &disk]))?;
    run.finish_with(0)?;
    // The kernel uses as many queues as it has processors.
    require(&run, &["1 queues", "write back", "discarded", "zeroed", "beyond-the-end"])?;
    let contents = fs::read(&path)?;
    let zeroes = |range: std::ops::Range<usize>| contents[range].iter().all(|byte| *byte == 0);
    let kept = [0xf_ffff, 0x50_0000, 0x5f_ffff, 0x60_1000, 0x7f_ffff].map(|at| contents[at]);
    if kept != [b'.'; 5] || !zeroes(0x10_0000..0x50_0000) || !zeroes(0x60_0000..0x60_1000) {
        return Err(run.complaint("zeroed something else"));
    }
    if contents.len() != 8 << 20 || fs::metadata(&path)?.blocks() + 4 * MIB / 512 > before {
        return Err(run.complaint("discarded, but the file has no hole"));
    }
    Ok(())
}

/// Firecracker's hybrid form, in both directions.
fn vsock(probing: &Probing) -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("vsock");
    let listener = UnixListener::bind(folder.path().join("vsock_5000"))?;
    let host = thread::spawn(move || -> std::io::Result<String> {
        let (mut stream, _) = listener.accept()?;
        stream.set_read_timeout(Some(LIMIT))?;
        let mut heard = String::new();
        stream.read_to_string(&mut heard)?;
        stream.write_all(b"an answer of the host")?;
        Ok(heard)
    });
    let script = "
        /probe vsock-serve 1234
        /probe vsock-connect 5000 a-word-of-the-guest
        /probe vsock-connect 5001 nobody || echo refused";
    let mut run = probing.start(script, &strings(["--vsock", &path.display().to_string()]))?;
    run.wait_for("vsock: listening")?;
    let mut stream = UnixStream::connect(&path)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.write_all(b"CONNECT 1234\n")?;
    let mut greeting = Vec::new();
    while greeting.last() != Some(&b'\n') {
        let mut byte = [0];
        stream.read_exact(&mut byte).map_err(|error| run.complaint(&format!("gave no greeting: {error}")))?;
        greeting.extend(byte);
    }
    if !greeting.starts_with(b"OK ") {
        return Err(run.complaint(&format!("greeted with {greeting:?}")));
    }
    // More than the credit of either side.
    let sent: Vec<u8> = (0..3_000_000_u32).map(|number| (number / 7) as u8).collect();
    let mut writer = stream.try_clone()?;
    let bytes = sent.clone();
    let writer =
        thread::spawn(move || writer.write_all(&bytes).and_then(|()| writer.shutdown(Shutdown::Write)));
    let mut echoed = Vec::new();
    stream.read_to_end(&mut echoed)?;
    writer.join().map_err(|_| "the writer panicked")??;
    if echoed != sent {
        return Err(run.complaint(&format!("echoed {} bytes of {}", echoed.len(), sent.len())));
    }
    run.finish_with(0)?;
    let heard = host.join().map_err(|_| "the host's side panicked")??;
    if heard != "a-word-of-the-guest" {
        return Err(run.complaint(&format!("said {heard:?} to the host")));
    }
    require(&run, &["vsock: sent back 3000000 bytes", "an answer of the host", "not connected", "refused"])?;
    if path.exists() { Err(run.complaint("left its socket behind")) } else { Ok(()) }
}

/// What the user-mode network is left to do, and commands of the driver.
fn network(probing: &Probing) -> Result<(), Failed> {
    let script = "
        /probe offloads eth0
        lease() { ip link set eth0 up; udhcpc -i eth0 -s /etc/udhcpc.sh -n -q -t 9 -T 5 2>&1 | grep obtained; }
        lease
        ifconfig eth0 promisc && ifconfig eth0 allmulti && echo all-frames
        ifconfig eth0 -promisc; ifconfig eth0 -allmulti; ip link set eth0 down
        ip link set eth0 address 52:54:00:aa:bb:cc && cat /sys/class/net/eth0/address; lease
        ping -c 1 -W 20 10.0.2.2 | grep received
        dmesg | grep -i 'failed to set' || echo no-command-failed";
    let mut run = probing.start(script, &strings(["--net", "user"]))?;
    run.finish_with(0)?;
    let expected = ["rx-checksum=1", "tx-checksum=1", "segmentation=1", "all-frames", "52:54:00:aa:bb:cc"];
    require(&run, &expected)?;
    require(&run, &["1 packets received", "no-command-failed"])
}

/// How much memory a process has, in bytes.
fn resident(process: u32) -> Result<u64, Failed> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? << 10)
}

/// Free-page reporting: what the guest has freed costs the host nothing.
fn balloon(drivers: &Drivers) -> Result<(), Failed> {
    let script = "
        mkdir /full; mount -t tmpfs -o size=400M tmpfs /full
        dd if=/dev/zero of=/full/file bs=1M count=300 2>/dev/null; echo memory-is-full
        read line; rm /full/file; echo memory-is-free; read line";
    let mut run = drivers.start(script, "", &strings(["--balloon"]))?;
    run.wait_for("memory-is-full")?;
    let full = resident(run.id())?;
    run.type_in("\n")?;
    run.wait_for("memory-is-free")?;
    let end = Instant::now() + Duration::from_secs(120);
    while resident(run.id())? + 200 * MIB > full {
        if Instant::now() > end {
            let now = resident(run.id())?;
            return Err(run.complaint(&format!("had {} MiB, still has {}", full / MIB, now / MIB)));
        }
        thread::sleep(Duration::from_millis(200));
    }
    run.type_in("\n")?;
    run.finish_with(0)
}
