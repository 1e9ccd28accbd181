//! Where the serial port goes, the monitor on Ctrl-A c, and that nothing is
//! left behind, however a run ends.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use libtest_mimic::{Failed, Trial};

use crate::drivers::{DRIVERS, Drivers};
use crate::guests::{AMD64, Debian};
use crate::life::processor_time;
use crate::process::{LIMIT, Run};
use crate::systems::needing;

const REACHED: &str = "ringmaster: user space reached";

pub(crate) fn tests() -> Vec<Trial> {
    vec![
        needing("the_serial_port_can_be_a_socket", &AMD64, socket),
        needing("the_serial_port_can_be_a_terminal_of_its_own", &AMD64, pty),
        needing("the_monitor_stops_and_continues_the_guest", &AMD64, monitor),
        needing("the_monitor_resets_the_guest", &AMD64, reset),
        needing("the_monitors_power_button_reaches_linux", &DRIVERS, power_button),
        needing("the_monitor_asks_for_memory", &DRIVERS, memory),
        needing("nothing_is_left_behind_when_the_process_is_asked_to_end", &DRIVERS, asked_to_end),
        needing("a_reader_who_takes_nothing_does_not_keep_a_run_from_ending", &AMD64, unread),
        Trial::test("a_run_that_cannot_start_leaves_nothing_behind", cannot_start),
    ]
}

/// Arguments of a guest with a shell.
fn shell(debian: &Debian, more: &[&str]) -> Vec<String> {
    let mut args = debian.run("");
    args.retain(|arg| !arg.starts_with("console="));
    args.push("console=ttyS0 quiet no_timer_check".to_owned());
    args.extend(more.iter().map(|word| (*word).to_owned()));
    args
}

/// Waits until a console has said `marker`.
fn hear(console: &mut impl Read, marker: &str) -> Result<(), Failed> {
    let mut said = Vec::new();
    let end = Instant::now() + LIMIT;
    while !String::from_utf8_lossy(&said).contains(marker) {
        let mut buffer = [0; 4096];
        match console.read(&mut buffer) {
            Ok(count @ 1..) => said.extend(&buffer[..count]),
            _ if Instant::now() < end => std::thread::sleep(Duration::from_millis(20)),
            _ => return Err(format!("never said {marker:?}: {}", String::from_utf8_lossy(&said)).into()),
        }
    }
    Ok(())
}

fn socket(debian: &Debian) -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("serial");
    let place = format!("socket={}", path.display());
    let mut run = Run::start(shell(debian, &["--serial", &place]))?;
    let end = Instant::now() + LIMIT;
    let mut first = loop {
        match UnixStream::connect(&path) {
            Ok(stream) => break stream,
            Err(_) if Instant::now() < end => std::thread::sleep(Duration::from_millis(20)),
            Err(error) => return Err(run.complaint(&format!("does not listen: {error}"))),
        }
    };
    hear(&mut first, REACHED)?;
    first.write_all(b"echo first-$((40 + 2))\n")?;
    hear(&mut first, "first-42")?;
    drop(first);
    let mut second = UnixStream::connect(&path)?;
    second.write_all(b"echo second-$((40 + 2))\n")?;
    hear(&mut second, "second-42")?;
    second.write_all(b"poweroff -f\n")?;
    run.finish_with(0)?;
    if path.exists() { Err(run.complaint("left its socket behind")) } else { Ok(()) }
}

fn pty(debian: &Debian) -> Result<(), Failed> {
    let mut run = Run::start(shell(debian, &["--console", "pty"]))?;
    run.wait_for("the serial port is /dev/pts/")?;
    run.wait_for("\n")?;
    let name = run.said.split("the serial port is ").nth(1).and_then(|rest| rest.split_whitespace().next());
    let name = name.ok_or("no name of a terminal")?.to_owned();
    let mut terminal = fs::File::options().read(true).write(true).open(&name)?;
    hear(&mut terminal, REACHED)?;
    terminal.write_all(b"echo answer-$((40 + 2))\n")?;
    hear(&mut terminal, "answer-42")?;
    terminal.write_all(b"poweroff -f\n")?;
    run.finish_with(0)?;
    drop(terminal);
    if Path::new(&name).exists() { Err(run.complaint("left its terminal behind")) } else { Ok(()) }
}

/// A run on a terminal, which tells its status on a line of its own, whatever
/// the guest said last, and whether the terminal's settings are the same
/// after it. `script` is essential on Debian.
fn on_a_terminal(args: &[String]) -> Result<Run, Failed> {
    let quoted = |word: &str| format!("'{}'", word.replace('\'', r"'\''"));
    let words: Vec<String> = args.iter().map(|word| quoted(word)).collect();
    let program = quoted(env!("CARGO_BIN_EXE_ringmaster"));
    let line = format!(
        "mode=$(stty -g); {program} {}; printf '\\nstatus %s\\n' $?; [ $(stty -g) = $mode ] && echo terminal-as-before",
        words.join(" ")
    );
    let mut command = Command::new("script");
    command.args(["-qec", &line, "/dev/null"]).env("SHELL", "/bin/sh");
    Run::of(command)
}

/// Waits for the end of a run on a terminal, which must be with `status` and
/// the terminal as it was.
fn ended(mut run: Run, status: i32) -> Result<(), Failed> {
    run.finish_with(0)?;
    let has = |words: &str| run.said.lines().any(|line| line.trim() == words);
    if !has("terminal-as-before") {
        return Err(run.complaint("did not give the terminal back"));
    }
    if has(&format!("status {status}")) {
        Ok(())
    } else {
        Err(run.complaint(&format!("did not end with {status}")))
    }
}

/// The last time of the guest that the monitor has told.
fn told_time(run: &Run) -> Option<f64> {
    run.said.rsplit("its time is ").next()?.split(' ').next()?.parse().ok()
}

fn monitor(debian: &Debian) -> Result<(), Failed> {
    let mut run = on_a_terminal(&shell(debian, &[]))?;
    run.wait_for(REACHED)?;
    run.type_in("echo before-$((40 + 2))\r")?;
    run.wait_for("before-42")?;
    run.type_in("\x01c")?;
    run.wait_for("this is the monitor")?;
    run.type_in("status\r")?;
    run.wait_for("the guest is running")?;
    run.type_in("stop\r")?;
    run.wait_for("the guest stands still")?;
    run.said.clear();
    run.type_in("status\r")?;
    run.wait_for("the guest is stopped, its time is")?;
    run.wait_for("of memory")?;
    let stopped = told_time(&run);
    std::thread::sleep(Duration::from_secs(2));
    // The guest hears nothing of what is typed meanwhile.
    run.type_in("\x01cecho while-$((40 + 2))\r")?;
    run.wait_for("the guest's console again")?;
    std::thread::sleep(Duration::from_secs(1));
    if run.said.contains("while-42") {
        return Err(run.complaint("ran while it was stopped"));
    }
    run.said.clear();
    run.type_in("\x01cnonsense\rstatus\rcontinue\r\x01c")?;
    run.wait_for("there is no command 'nonsense'")?;
    run.wait_for("the guest goes on")?;
    if stopped.is_none() || told_time(&run) != stopped {
        return Err(run.complaint("let time pass while it was stopped"));
    }
    run.wait_for("while-42")?;
    run.type_in("echo after-$((40 + 2))\r")?;
    run.wait_for("after-42")?;
    run.type_in("\x01cquit\r")?;
    ended(run, 0)
}

fn reset(debian: &Debian) -> Result<(), Failed> {
    let mut run = on_a_terminal(&shell(debian, &[]))?;
    run.wait_for(REACHED)?;
    // Also while it stands still: it starts when it may go on.
    run.type_in("\x01cstop\rreset\r")?;
    run.wait_for("the reset button is pressed")?;
    run.said.clear();
    std::thread::sleep(Duration::from_secs(2));
    run.type_in("status\r")?;
    run.wait_for("the guest is stopped")?;
    run.type_in("continue\r\x01c")?;
    run.wait_for(REACHED)?;
    run.type_in("echo again-$((40 + 2)); poweroff -f\r")?;
    run.wait_for("again-42")?;
    run.finish_with(0)?;
    let mut run = on_a_terminal(&shell(debian, &["--on-reset", "exit"]))?;
    run.wait_for(REACHED)?;
    run.type_in("\x01creset\r")?;
    ended(run, 0)
}

/// Linux's button driver tells of it as a key, which acpid, systemd-logind and
/// others shut down for.
fn power_button(drivers: &Drivers) -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let script = "
        grep -A 9 LNXPWRBN /proc/bus/input/devices
        event=$(sed -n '/LNXPWRBN/,/^$/s/.*\\(event[0-9]*\\).*/\\1/p' /proc/bus/input/devices)
        (dd bs=24 count=1 of=/dev/null 2>/dev/null; echo the-button-was-pressed) < /dev/input/$event &
        sleep 1; echo waiting-for-$event; wait";
    let mut run = on_a_terminal(&drivers.arguments(folder.path(), script, "no_timer_check", &[])?)?;
    run.wait_for("waiting-for-event")?;
    run.type_in("\x01cpower\r")?;
    run.wait_for("the-button-was-pressed")?;
    ended(run, 0)
}

/// The balloon grows and shrinks while the guest runs.
fn memory(drivers: &Drivers) -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let script = "
        pages() { sed -n \"s/^balloon_$1 //p\" /proc/vmstat; }
        echo no-pages-yet-$(pages inflate)
        while [ $(pages inflate) -lt 16384 ]; do sleep 0.2; done; echo has-given
        while [ $(pages deflate) -lt 16384 ]; do sleep 0.2; done; echo has-got-back";
    let options = ["--balloon".to_owned()];
    let mut run = on_a_terminal(&drivers.arguments(folder.path(), script, "no_timer_check", &options)?)?;
    run.wait_for("no-pages-yet-0")?;
    run.type_in("\x01cballoon 1T\rballoon 64M\r")?;
    run.wait_for("'1T' is not possible")?;
    run.wait_for("asked to give up 64 MiB")?;
    run.wait_for("has-given")?;
    // The guest tells how much it holds a little later.
    let end = Instant::now() + LIMIT;
    while !run.said.contains("of memory, balloon 64 MiB") {
        if Instant::now() > end {
            return Err(run.complaint("never held 64 MiB"));
        }
        run.said.clear();
        run.type_in("status\r")?;
        run.wait_for(" MiB\r")?;
        std::thread::sleep(Duration::from_millis(200));
    }
    run.type_in("balloon 0\r")?;
    run.wait_for("has-got-back")?;
    ended(run, 0)
}

/// What is in a folder.
fn names(folder: &Path) -> Result<Vec<String>, Failed> {
    let entries = fs::read_dir(folder)?.collect::<Result<Vec<_>, _>>()?;
    Ok(entries.iter().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
}

/// All that makes files, threads and locks, ended by a signal while busy.
fn asked_to_end(drivers: &Drivers) -> Result<(), Failed> {
    for (signal, status) in [("TERM", 143), ("INT", 130), ("HUP", 129)] {
        let (folder, sockets) = (tempfile::tempdir()?, tempfile::tempdir()?);
        let path = |name: &str| sockets.path().join(name).display().to_string();
        let disk = folder.path().join("disk").display().to_string();
        fs::write(&disk, vec![0; 1 << 20])?;
        let options = [
            "--disk",
            &format!("{disk},format=raw"),
            "--net",
            "user",
            "--rng",
            "--vsock",
            &path("vsock"),
            "--virtio-console",
            &format!("socket={}", path("hvc0")),
            "--virtio-port",
            &format!("channel,socket={}", path("channel")),
            "--virtio-port",
            "terminal,pty",
        ];
        let script = "
            yes > /dev/hvc0 & yes > /dev/vport0p2 & dd if=/dev/hwrng of=/dev/vda bs=512 2>/dev/null &
            echo busy; while true; do echo typing; done";
        let mut run = drivers.start(script, "no_timer_check", &options.map(str::to_owned))?;
        run.wait_for("busy")?;
        let _client = UnixStream::connect(path("hvc0"))?;
        if names(sockets.path())?.len() != 3 {
            return Err(run.complaint("has not made its sockets"));
        }
        let sent = Command::new("kill").arg(format!("-{signal}")).arg(run.id().to_string()).status()?;
        assert!(sent.success());
        run.finish_with(status)?;
        let left = names(sockets.path())?;
        if !left.is_empty() {
            return Err(run.complaint(&format!("left {left:?} behind")));
        }
    }
    Ok(())
}

/// The guest writes until the pipe is full, and nobody reads.
fn unread(debian: &Debian) -> Result<(), Failed> {
    let (reader, writer) = std::io::pipe()?;
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringmaster"));
    command.args(debian.run("yes")).stdin(std::process::Stdio::null()).stdout(writer);
    let mut child = command.spawn()?;
    drop(command);
    // While it waits for a reader, it computes nothing.
    let (end, mut before) = (Instant::now() + LIMIT, -1.0);
    while Instant::now() < end {
        let used = processor_time(child.id())?;
        if used == before {
            break;
        }
        before = used;
        std::thread::sleep(Duration::from_secs(3));
    }
    assert!(Command::new("kill").arg(child.id().to_string()).status()?.success());
    let end = Instant::now() + Duration::from_secs(60);
    let status = loop {
        match child.try_wait()? {
            Some(status) => break status,
            None if Instant::now() > end => {
                let _ = child.kill();
                return Err("it waited for somebody to read".into());
            }
            None => std::thread::sleep(Duration::from_millis(50)),
        }
    };
    drop(reader);
    if status.code() == Some(143) { Ok(()) } else { Err(format!("it ended with {status}").into()) }
}

fn cannot_start() -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let path = |name: &str| folder.path().join(name).display().to_string();
    fs::write(folder.path().join("kernel"), vec![0; 4096])?;
    let mut run = Run::start([
        "run",
        "--engine",
        "interpret",
        "--kernel",
        &path("kernel"),
        "--console",
        &format!("socket={}", path("serial")),
        "--virtio-console",
        &format!("socket={}", path("hvc0")),
        "--vsock",
        &path("vsock"),
    ])?;
    run.finish_with(5)?;
    let left = names(folder.path())?;
    if left == ["kernel"] { Ok(()) } else { Err(run.complaint(&format!("left {left:?} behind"))) }
}
