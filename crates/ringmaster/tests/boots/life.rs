//! A booted guest's life: its console, its clock, its idle time, its end.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::{Failed, Trial};

use crate::guests::{AMD64, Debian};
use crate::process::Run;
use crate::systems::needing;

/// How far a guest's clock may be off.
const CLOCK_ERROR: f64 = 0.001;
/// How often it is asked at each end.
const LOOKS: u32 = 5;
/// How long it is watched.
const CLOCK_SPAN: Duration = Duration::from_secs(60);
/// The share of a core that an idle guest may use.
const IDLE_SHARE: f64 = 0.02;
/// MiB of memory that it may take beside its own.
const IDLE_MEMORY: f64 = 60.0;
const IDLE_SPAN: Duration = Duration::from_secs(20);

pub(crate) fn tests() -> Vec<Trial> {
    vec![
        needing("a_shell_is_typed_at_and_powers_off", &AMD64, shell),
        needing("the_guests_clock_follows_the_hosts", &AMD64, clock),
        needing("an_idle_guest_costs_little", &AMD64, idle),
        needing("a_timeout_ends_with_124", &AMD64, timeout),
        needing("a_reset_can_end_the_run", &AMD64, reset),
        needing("statistics_are_json", &AMD64, statistics),
    ]
}

fn interactive(debian: &Debian) -> Result<Run, Failed> {
    let mut args = debian.run("");
    args.retain(|arg| !arg.starts_with("console="));
    args.push("console=ttyS0 quiet".to_owned());
    let mut run = Run::start(args)?;
    run.wait_for("ringmaster: user space reached")?;
    Ok(run)
}

fn shell(debian: &Debian) -> Result<(), Failed> {
    let mut run = interactive(debian)?;
    run.type_in("echo sum $((40 + 2))\n")?;
    run.wait_for("sum 42")?;
    run.type_in("poweroff -f\n")?;
    run.finish_with(0)
}

/// One look at the guest's clock.
struct Look {
    /// The host's time in the middle between question and answer.
    host: Instant,
    /// How long the answer took, in seconds.
    took: f64,
    /// The guest's uptime, in seconds.
    guest: f64,
}

/// Asks the guest for its uptime; `number` tells the answers apart. The command
/// does not contain what its answer ends with.
fn look(run: &mut Run, number: u32) -> Result<Look, Failed> {
    let asked = Instant::now();
    run.type_in(&format!("read up rest < /proc/uptime; echo clock=$up=$((1000 + {number}))\n"))?;
    let end = format!("={}\r\n", 1000 + number);
    run.wait_for(&end)?;
    let took = asked.elapsed();
    let answer =
        run.said.split(&end).next().and_then(|said| said.rsplit("clock=").next()).unwrap_or_default();
    let guest = answer.parse().map_err(|_| run.complaint("gave no time"))?;
    Ok(Look { host: asked + took / 2, took: took.as_secs_f64(), guest })
}

/// The quickest of several looks is the most exact.
fn best_look(run: &mut Run, first: u32) -> Result<Look, Failed> {
    let mut best = look(run, first)?;
    for number in first + 1..first + LOOKS {
        let next = look(run, number)?;
        if next.took < best.took {
            best = next;
        }
    }
    Ok(best)
}

/// Compares the guest's clock with the host's over a minute.
fn clock(debian: &Debian) -> Result<(), Failed> {
    let mut run = interactive(debian)?;
    let start = best_look(&mut run, 0)?;
    thread::sleep(CLOCK_SPAN);
    let end = best_look(&mut run, LOOKS)?;
    let host = (end.host - start.host).as_secs_f64();
    let error = ((end.guest - start.guest) / host - 1.0).abs();
    // A look is off by half the time that it took, and /proc/uptime counts
    // hundredths.
    let slack = ((start.took + end.took) / 2.0 + 0.01) / host;
    if error > CLOCK_ERROR + slack {
        return Err(format!("the guest's clock was off by {:.3} %", error * 100.0).into());
    }
    run.type_in("poweroff -f\n")?;
    run.finish_with(0)
}

/// Seconds of processor time that a process has used.
pub(crate) fn processor_time(process: u32) -> Result<f64, Failed> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    let ticks =
        |index: usize| fields.get(index).and_then(|field| field.parse::<f64>().ok()).unwrap_or(f64::NAN);
    Ok((ticks(11) + ticks(12)) / 100.0)
}

/// MiB that a process has in memory, without a guest's RAM: that is the one
/// mapping of half its size at least.
fn memory_beside_the_guests(process: u32, ram: u64) -> Result<f64, Failed> {
    let (mut size, mut total) = (0, 0.0);
    for line in fs::read_to_string(format!("/proc/{process}/smaps"))?.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let kib = || words.get(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or_default();
        match words.first() {
            Some(&"Size:") => size = kib() << 10,
            Some(&"Pss:") if size < ram / 2 => total += kib() as f64 / 1024.0,
            _ => {}
        }
    }
    Ok(total)
}

fn idle(debian: &Debian) -> Result<(), Failed> {
    let run = interactive(debian)?;
    // What the kernel defers until it is idle is done by then.
    thread::sleep(Duration::from_secs(10));
    let (start, before) = (Instant::now(), processor_time(run.id())?);
    thread::sleep(IDLE_SPAN);
    let share = (processor_time(run.id())? - before) / start.elapsed().as_secs_f64();
    if share >= IDLE_SHARE {
        return Err(format!("an idle guest used {:.1} % of a core", share * 100.0).into());
    }
    let memory = memory_beside_the_guests(run.id(), 512 << 20)?;
    if memory < IDLE_MEMORY {
        Ok(())
    } else {
        Err(format!("an idle guest took {memory:.1} MiB beside its own memory").into())
    }
}

fn timeout(debian: &Debian) -> Result<(), Failed> {
    let mut args = debian.run("sleep 1000");
    args.extend(["--timeout", "2"].map(str::to_owned));
    let start = Instant::now();
    Run::start(args)?.finish_with(124)?;
    if start.elapsed() < Duration::from_secs(30) { Ok(()) } else { Err("the timeout came late".into()) }
}

fn reset(debian: &Debian) -> Result<(), Failed> {
    let mut args = debian.run("reboot -f");
    args.extend(["--on-reset", "exit"].map(str::to_owned));
    Run::start(args)?.finish_with(0)
}

/// A boot takes hundreds of millions of instructions, in tens of millions of
/// blocks; nearly all of them lead to each other by themselves.
fn statistics(debian: &Debian) -> Result<(), Failed> {
    let mut args = debian.run("true");
    // Only a translator counts blocks.
    for pair in 1..args.len() {
        if args[pair - 1] == "--engine" {
            args[pair] = "translate".to_owned();
        }
    }
    args.push("--stats=json".to_owned());
    let mut run = Run::start(args)?;
    run.finish_with(0)?;
    let json = run.said.lines().find(|line| line.starts_with('{')).unwrap_or_default();
    let stats: serde_json::Value = serde_json::from_str(json)?;
    let translation = &stats["translation"];
    let number = |name: &str| translation[name].as_u64().unwrap_or_default();
    let exits = translation["exits"].as_array().map_or(&[][..], Vec::as_slice);
    let left: u64 = exits.iter().filter_map(|exit| exit[1].as_u64()).sum();
    let plausible = number("blocks_run") > 20_000_000
        && left > 0
        && left < number("blocks_run") / 10
        && number("host_bytes") > number("guest_bytes")
        && number("tlb_tests") > number("tlb_refills");
    if plausible { Ok(()) } else { Err(run.complaint("gave statistics that cannot be true")) }
}
