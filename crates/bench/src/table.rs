//! The results as a table, in Markdown that reads well as it is.

use crate::results::{Results, TCG, geometric_mean};

/// The table, what stands below it, and how it came about.
pub(crate) fn markdown(results: &Results) -> String {
    let mut table = vec![head(results)];
    table.extend(results.rows.iter().map(|row| {
        let mut cells = vec![row.name.to_owned(), row.what.to_owned()];
        let time = |column: &crate::results::Column| column.median(row.name).map(time);
        cells.extend(results.columns.iter().map(|column| time(column).unwrap_or_default()));
        let (native, tcg) = (results.column("native"), results.column(TCG));
        for engine in results.engines() {
            let over = |other, flip: bool| -> Option<String> {
                let ratio = engine.faster_than(other?, row.name)?;
                Some(ratio_text(if flip { 1.0 / ratio } else { ratio }))
            };
            cells.push(over(tcg, false).unwrap_or_default());
            cells.push(over(native, true).unwrap_or_default());
        }
        cells
    }));
    let mut text = aligned(&table);
    text.push('\n');
    for line in below(results) {
        text.push_str(&format!("- {line}\n"));
    }
    text
}

fn head(results: &Results) -> Vec<String> {
    let mut cells = vec!["row".to_owned(), "what".to_owned()];
    cells.extend(results.columns.iter().map(|column| column.name.clone()));
    for engine in results.engines() {
        cells.push(format!("TCG / {}", engine.name));
        cells.push(format!("{} / native", engine.name));
    }
    cells
}

fn below(results: &Results) -> Vec<String> {
    let mut lines = Vec::new();
    for engine in results.engines() {
        let ratios = results.over_tcg(engine);
        let values: Vec<f64> = ratios.iter().map(|ratio| ratio.1).collect();
        let least = ratios.iter().min_by(|a, b| a.1.total_cmp(&b.1));
        if let (Some(mean), Some((row, least))) = (geometric_mean(&values), least) {
            lines.push(format!(
                "{}: {} times as fast as TCG in geometric mean over {} rows; least in {row}: {}",
                engine.name,
                ratio_text(mean),
                values.len(),
                ratio_text(*least),
            ));
        }
    }
    lines.extend(results.absent.iter().map(|one| format!("{} left out: {}", one.name, one.reason)));
    lines.extend(results.doubts().into_iter().map(|doubt| format!("DOUBTFUL: {doubt}")));
    let rounds: Vec<String> =
        results.columns.iter().map(|column| format!("{} {}", column.name, column.runs.len())).collect();
    lines.push(format!("medians of runs: {}", rounds.join(", ")));
    lines.push(results.setting());
    lines
}

/// Three digits with the unit that suits.
fn time(nanoseconds: f64) -> String {
    let units = [("ns", 1.0), ("us", 1e3), ("ms", 1e6), ("s", 1e9)];
    let fits = units.iter().rev().find(|unit| nanoseconds >= unit.1).unwrap_or(&units[0]);
    format!("{} {}", three_digits(nanoseconds / fits.1), fits.0)
}

fn ratio_text(ratio: f64) -> String {
    three_digits(ratio)
}

fn three_digits(value: f64) -> String {
    match value {
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// Lines of a Markdown table, the first row its head; figures to the right.
fn aligned(rows: &[Vec<String>]) -> String {
    let count = rows.first().map_or(0, Vec::len);
    let cell = |row: &[String], i: usize| row.get(i).cloned().unwrap_or_default();
    let width = |i| rows.iter().map(|row| cell(row, i).chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..count).map(width).collect();
    let mut text = String::new();
    for (number, row) in rows.iter().enumerate() {
        for (i, &width) in widths.iter().enumerate() {
            let cell = cell(row, i);
            text.push_str(&if i < 2 { format!("| {cell:<width$} ") } else { format!("| {cell:>width$} ") });
        }
        text.push_str("|\n");
        if number == 0 {
            for (i, &width) in widths.iter().enumerate() {
                let line = "-".repeat(width + 1);
                text.push_str(&if i < 2 { format!("|{line}-") } else { format!("|{line}:") });
            }
            text.push_str("|\n");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::tests::{column, results};

    #[test]
    fn times_have_three_digits_and_a_unit() {
        assert_eq!(time(0.5), "0.50 ns");
        assert_eq!(time(154.4), "154 ns");
        assert_eq!(time(14_400.0), "14.4 us");
        assert_eq!(time(3.7e9), "3.70 s");
    }

    #[test]
    fn the_table_has_every_column_and_ratio() {
        let text = markdown(&results(vec![
            column("native", &[10.0], 1),
            column("translate", &[20.0], 1),
            column("TCG", &[80.0], 1),
        ]));
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].contains("native") && lines[0].contains("TCG / translate"), "{text}");
        let cells: Vec<&str> = lines[2].split('|').map(str::trim).collect();
        assert_eq!(cells[3..8], ["10.0 ns", "20.0 ns", "80.0 ns", "4.00", "2.00"], "{text}");
        assert!(
            text.contains("2.00 times as fast as TCG in geometric mean over 2 rows; least in boot: 1.00")
        );
        assert!(text.contains("kvm left out: no device"), "{text}");
        let widths: Vec<usize> = lines[..4].iter().map(|line| line.len()).collect();
        assert!(widths.iter().all(|width| *width == widths[0]), "{text}");
    }

    #[test]
    fn without_tcg_there_is_still_a_table() {
        let text = markdown(&results(vec![column("native", &[10.0], 1), column("interpret", &[20.0], 1)]));
        assert!(text.contains("| 2.00 |") || text.contains(" 2.00 |"), "{text}");
        assert!(!text.contains("geometric"), "{text}");
    }
}
