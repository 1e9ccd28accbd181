//! Debian on several processors: that all of them come, work, and go.

use libtest_mimic::{Failed, Trial};

use crate::guests::{AMD64, Debian, I386, engine};
use crate::process::Run;
use crate::systems::needing;

/// Keeps all processors busy with processes that come and go, then counts
/// processors, and what they did. The command does not contain its answer.
const WORK: &str = "for n in 1 2 3 4 5 6 7 8; do (for m in 1 2 3 4 5; do echo $n.$m | sha256sum | tail -c 3; done) & done | wc -l; \
     wait; echo processors-$(nproc)-$(grep -c ^processor /proc/cpuinfo); poweroff -f";

pub(crate) fn tests() -> Vec<Trial> {
    vec![
        needing("debian_amd64_works_on_two_processors", &AMD64, |debian| works(debian, &engine(), 2)),
        needing("debian_amd64_works_on_four_processors", &AMD64, |debian| works(debian, &engine(), 4)),
        needing("debian_i386_works_on_two_processors", &I386, |debian| works(debian, &engine(), 2)),
        needing("debian_amd64_works_on_two_interpreted_processors", &AMD64, |debian| {
            works(debian, "interpret", 2)
        }),
        needing("two_processors_are_reset", &AMD64, reset),
    ]
}

fn works(debian: &Debian, engine: &str, cpus: u32) -> Result<(), Failed> {
    let mut args = debian.run(WORK);
    args.splice(1..3, ["--engine", engine, "--cpus", &cpus.to_string()].map(str::to_owned));
    let mut run = Run::start(args)?;
    run.wait_for("ringmaster: user space reached")?;
    run.wait_for(&format!("processors-{cpus}-{cpus}"))?;
    run.finish_with(0)
}

/// All processors start again; the second time the kernel's command line, which
/// does not change, finds what the first one left: nothing.
fn reset(debian: &Debian) -> Result<(), Failed> {
    let mut args = debian.run("echo round of $(nproc); reboot -f");
    args.extend(["--cpus", "2"].map(str::to_owned));
    let mut run = Run::start(args)?;
    for _ in 0..2 {
        run.wait_for("ringmaster: user space reached")?;
        run.wait_for("round of 2")?;
        run.said.clear();
    }
    Ok(())
}
