//! What all rounds gave: medians, ratios, and whether they can be believed.

use std::time::Duration;

use ringmaster::check::host::Host;
use ringmaster::exit::Failure;
use serde_json::{Map, Value, json};

use crate::contender::{Absent, MEMORY, qemu_version};
use crate::rows::{BOOT, Row};
use crate::watch::{Measured, Run};

/// A guest whose clock is further off than this did not measure.
const CLOCK_TOLERANCE: f64 = 0.02;

/// The column that others are compared with.
pub(crate) const TCG: &str = "TCG";

/// All runs of one contender.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Column {
    pub name: String,
    pub runs: Vec<Run>,
}

/// Everything that was measured.
#[derive(Debug)]
pub(crate) struct Results {
    pub rows: Vec<&'static Row>,
    pub columns: Vec<Column>,
    pub absent: Vec<Absent>,
    pub kernel: String,
    /// Of each guest.
    pub cpus: u32,
}

impl Column {
    /// A column without runs.
    pub(crate) fn new(name: &str) -> Self {
        Self { name: name.to_owned(), runs: Vec::new() }
    }

    /// What a row took in each run, in nanoseconds.
    pub(crate) fn all(&self, row: &str) -> Vec<f64> {
        let of_run = |run: &Run| match row {
            BOOT => run.boot.map(|boot| boot.as_secs_f64() * 1e9),
            _ => run.rows.get(row).map(|measured| measured.nanoseconds),
        };
        self.runs.iter().filter_map(of_run).collect()
    }

    /// The median of [`Column::all`].
    pub(crate) fn median(&self, row: &str) -> Option<f64> {
        median(self.all(row))
    }

    /// How much faster this column is than another in a row.
    pub(crate) fn faster_than(&self, other: &Self, row: &str) -> Option<f64> {
        Some(other.median(row)? / self.median(row)?)
    }

    /// The largest difference between its clock and ours, as a part.
    pub(crate) fn clock_error(&self) -> f64 {
        let error = |(theirs, ours): (Duration, Duration)| {
            (theirs.as_secs_f64() - ours.as_secs_f64()).abs() / ours.as_secs_f64().max(1e-9)
        };
        self.runs.iter().filter_map(|run| run.clocks).map(error).fold(0.0, f64::max)
    }

    fn checks(&self, row: &str) -> impl Iterator<Item = u64> {
        self.runs.iter().filter_map(move |run| run.rows.get(row)).map(|measured: &Measured| measured.check)
    }
}

/// The middle one; of two middle ones the mean.
fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let upper = *values.get(values.len() / 2)?;
    let lower = *values.get(values.len().saturating_sub(1) / 2)?;
    Some((lower + upper) / 2.0)
}

/// The geometric mean, if there is anything.
pub(crate) fn geometric_mean(values: &[f64]) -> Option<f64> {
    let sum: f64 = values.iter().map(|value| value.ln()).sum();
    (!values.is_empty()).then(|| (sum / values.len() as f64).exp())
}

impl Results {
    /// The column of that name.
    pub(crate) fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// The columns of engines.
    pub(crate) fn engines(&self) -> impl Iterator<Item = &Column> {
        self.columns.iter().filter(|column| column.name != "native" && column.name != TCG)
    }

    /// How many times faster than TCG an engine is, for each row.
    pub(crate) fn over_tcg(&self, engine: &Column) -> Vec<(&'static str, f64)> {
        let Some(tcg) = self.column(TCG) else {
            return Vec::new();
        };
        let ratio = |row: &&'static Row| Some((row.name, engine.faster_than(tcg, row.name)?));
        self.rows.iter().filter_map(ratio).collect()
    }

    /// What makes the figures doubtful, a sentence each.
    pub(crate) fn doubts(&self) -> Vec<String> {
        let off = |column: &&Column| column.clock_error() > CLOCK_TOLERANCE;
        let clocks = self.columns.iter().filter(off).map(|column| {
            let error = column.clock_error() * 100.0;
            format!("the clock of {} differed from the host's by {error:.1} %", column.name)
        });
        clocks.chain(self.wrong_rows()).collect()
    }

    /// Rows in which not all have computed the same.
    fn wrong_rows(&self) -> impl Iterator<Item = String> {
        self.rows.iter().filter_map(|row| {
            let mut checks: Vec<u64> = self.columns.iter().flat_map(|one| one.checks(row.name)).collect();
            checks.sort_unstable();
            checks.dedup();
            (checks.len() > 1).then(|| format!("not all computed the same in the row {}", row.name))
        })
    }

    /// Fails if a contender has computed something else than another.
    pub(crate) fn require_right(&self) -> Result<(), Failure> {
        self.wrong_rows().next().map_or(Ok(()), |wrong| Err(Failure::internal(wrong)))
    }

    /// Processor and system of the host, and the versions, in one line.
    pub(crate) fn setting(&self) -> String {
        let host = Host::read();
        let kind = if host.virtualized { ", itself a virtual machine" } else { "" };
        let qemu = qemu_version().map(|version| format!("; QEMU {version}")).unwrap_or_default();
        let cpus =
            if self.cpus == 1 { "one processor".to_owned() } else { format!("{} processors", self.cpus) };
        format!(
            "host: {}, {} processors{kind}; guests: {}, {MEMORY} MiB, {cpus}{qemu}",
            host.processor, host.cpus, self.kernel,
        )
    }

    /// Everything as JSON.
    pub(crate) fn json(&self) -> Result<String, Failure> {
        let columns: Map<String, Value> =
            self.columns.iter().map(|column| (column.name.clone(), self.column_json(column))).collect();
        let absent: Map<String, Value> =
            self.absent.iter().map(|one| (one.name.clone(), one.reason.clone().into())).collect();
        let value = json!({
            "setting": self.setting(),
            "unit": "nanoseconds",
            "columns": columns,
            "absent": absent,
            "doubts": self.doubts(),
        });
        serde_json::to_string_pretty(&value)
            .map(|text| text + "\n")
            .map_err(|error| Failure::internal("cannot write the results").because(error))
    }

    fn column_json(&self, column: &Column) -> Value {
        let rows: Map<String, Value> = self
            .rows
            .iter()
            .filter_map(|row| {
                let median = column.median(row.name)?;
                Some((row.name.to_owned(), json!({"median": median, "all": column.all(row.name)})))
            })
            .collect();
        let ratios = if column.name == TCG { Vec::new() } else { self.over_tcg(column) };
        let mean = geometric_mean(&ratios.iter().map(|ratio| ratio.1).collect::<Vec<f64>>());
        let whole: Vec<f64> = column.runs.iter().map(|run| run.whole.as_secs_f64()).collect();
        json!({
            "rows": rows,
            "over_tcg": ratios.into_iter().map(|(name, ratio)| (name.to_owned(), ratio.into())).collect::<Map<_, _>>(),
            "over_tcg_geometric_mean": mean,
            "clock_error": column.clock_error(),
            "whole_process_seconds": whole,
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::rows;

    pub(crate) fn column(name: &str, sieve: &[f64], check: u64) -> Column {
        let run = |&nanoseconds: &f64| Run {
            rows: [("sieve".to_owned(), Measured { nanoseconds, check })].into(),
            boot: (name != "native").then_some(Duration::from_secs(2)),
            clocks: Some((Duration::from_secs(1), Duration::from_secs(1))),
            ..Run::default()
        };
        Column { name: name.to_owned(), runs: sieve.iter().map(run).collect() }
    }

    pub(crate) fn results(columns: Vec<Column>) -> Results {
        let rows = ["sieve", BOOT].iter().filter_map(|name| rows::of_name(name)).collect();
        let absent = vec![Absent { name: "kvm".to_owned(), reason: "no device".to_owned() }];
        Results { rows, columns, absent, kernel: "linux 6.1".to_owned(), cpus: 1 }
    }

    #[test]
    fn medians_and_means_are_what_they_are_called() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(Vec::new()), None);
        assert!((geometric_mean(&[2.0, 8.0]).unwrap() - 4.0).abs() < 1e-9);
        assert_eq!(geometric_mean(&[]), None);
    }

    #[test]
    fn ratios_are_of_medians() {
        let results = results(vec![
            column("native", &[10.0], 1),
            column("translate", &[20.0, 21.0, 500.0], 1),
            column("TCG", &[84.0], 1),
        ]);
        let engine = results.engines().next().unwrap();
        assert_eq!(results.over_tcg(engine), [("sieve", 4.0), (BOOT, 1.0)]);
        assert!(results.require_right().is_ok() && results.doubts().is_empty());
        let json: Value = serde_json::from_str(&results.json().unwrap()).unwrap();
        assert_eq!(json["columns"]["translate"]["rows"]["sieve"]["median"], 21.0);
        assert_eq!(json["columns"]["translate"]["over_tcg_geometric_mean"], 2.0);
        assert_eq!(json["absent"]["kvm"], "no device");
    }

    #[test]
    fn a_wrong_result_and_a_wrong_clock_are_seen() {
        let mut slow = column("translate", &[20.0], 2);
        slow.runs[0].clocks = Some((Duration::from_millis(900), Duration::from_secs(1)));
        let results = results(vec![column("native", &[10.0], 1), slow]);
        assert!(results.require_right().unwrap_err().report().contains("sieve"));
        let doubts = results.doubts();
        assert_eq!(doubts.len(), 2);
        assert!(doubts[0].contains("translate differed from the host's by 10.0 %"), "{}", doubts[0]);
    }
}
