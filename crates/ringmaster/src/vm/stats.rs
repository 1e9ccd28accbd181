//! `--stats`: what the vCPUs have counted, on standard error.

use std::fmt::Write;
use std::time::Duration;

use engine::{Callout, TranslationStats, VcpuStats};
use serde_json::{Map, Value, json};

use crate::cli::options::StatsFormat;
use crate::output;

/// Writes the statistics of all vCPUs, and how long it was from the beginning
/// of the process to the first guest instruction.
pub(super) fn report(vcpus: &[VcpuStats], start: Option<Duration>, format: StatsFormat) {
    if let (StatsFormat::Text, Some(start)) = (format, start) {
        let milliseconds = start.as_secs_f64() * 1e3;
        output::note(format_args!("first guest instruction {milliseconds:.1} ms after the process began"));
    }
    for (index, stats) in vcpus.iter().enumerate() {
        match format {
            StatsFormat::Text => output::note(text(index, stats)),
            StatsFormat::Json => output::record(json(index, stats, start)),
        }
    }
}

fn text(index: usize, stats: &VcpuStats) -> String {
    let mut text = format!(
        "vCPU {index}: {} instructions in {:.3} s ({:.1} million a second), halted {:.3} s",
        stats.instructions,
        stats.busy.as_secs_f64(),
        stats.mips(),
        stats.halted.as_secs_f64(),
    );
    for (why, name) in Callout::ALL {
        let count = stats.callouts[why as usize];
        if count > 0 {
            let _ = write!(text, ", {name} {count}");
        }
    }
    if let Some((first, _)) = stats.exits.first() {
        let total: u64 = stats.exits.iter().map(|(_, count)| count).sum();
        let _ = write!(text, "; {total} exits:");
        for (why, count) in &stats.exits {
            let _ = write!(text, "{} {why} {count}", if why == first { "" } else { "," });
        }
    }
    if let Some(translation) = &stats.translation {
        text.push_str(&translation_text(translation));
    }
    text
}

/// How many of the instructions left to the interpreter are named.
const NAMED: usize = 24;

fn translation_text(stats: &TranslationStats) -> String {
    let mut text = format!(
        "; {} blocks of {} guest bytes became {} host bytes ({:.1} for one)",
        stats.blocks_made,
        stats.guest_bytes,
        stats.host_bytes,
        stats.host_bytes as f64 / stats.guest_bytes.max(1) as f64,
    );
    if stats.blocks_evicted > 0 {
        let _ = write!(text, ", {} blocks evicted", stats.blocks_evicted);
    }
    if let (Some(run), Some(share)) = (stats.blocks_run, stats.chained_share()) {
        let _ = write!(text, ", {run} executed, {:.2} % chained", share * 100.0);
    }
    if let Some(tests) = stats.tlb_tests {
        let _ = write!(text, ", tlb_test {tests}");
    }
    let _ = write!(text, ", tlb_refill {}", stats.tlb_refills);
    if let (Some(running), Some(translating)) = (stats.running, stats.translating) {
        let _ = write!(
            text,
            "; {:.3} s in translated code, {:.3} s translating",
            running.as_secs_f64(),
            translating.as_secs_f64()
        );
    }
    for (why, count) in &stats.exits {
        let _ = write!(text, ", {why} {count}");
    }
    text.push_str("; left to the interpreter:");
    for (name, count) in stats.interpreted.iter().take(NAMED) {
        let _ = write!(text, " {name} {count}");
    }
    text
}

fn json(index: usize, stats: &VcpuStats, start: Option<Duration>) -> Value {
    let callouts: Map<String, Value> = Callout::ALL
        .into_iter()
        .map(|(why, name)| (name.to_owned(), stats.callouts[why as usize].into()))
        .collect();
    let exits: Map<String, Value> =
        stats.exits.iter().map(|&(name, count)| (name.to_owned(), count.into())).collect();
    json!({
        "vcpu": index,
        "start_seconds": start.map(|start| start.as_secs_f64()),
        "instructions": stats.instructions,
        "busy_seconds": stats.busy.as_secs_f64(),
        "halted_seconds": stats.halted.as_secs_f64(),
        "mips": stats.mips(),
        "callouts": callouts,
        "exits": exits,
        "translation": stats.translation,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_tell_the_same() {
        let mut stats =
            VcpuStats { instructions: 50_000_000, busy: Duration::from_secs(1), ..VcpuStats::default() };
        stats.count(Callout::Mmio);
        let text = text(0, &stats);
        assert!(text.contains("(50.0 million a second)") && text.ends_with(", mmio 1"), "{text}");
        stats.exits = vec![("io", 3), ("hlt", 2)];
        assert!(super::text(0, &stats).ends_with("; 5 exits: io 3, hlt 2"));
        let json = json(0, &stats, Some(Duration::from_millis(12)));
        assert_eq!(json["start_seconds"], 0.012);
        assert_eq!(json["mips"], 50.0);
        assert_eq!(json["callouts"]["mmio"], 1);
        assert_eq!(json["callouts"]["halt"], 0);
        assert_eq!(json["exits"]["io"], 3);
    }
}
