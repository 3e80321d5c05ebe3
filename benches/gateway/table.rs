//! The table that a run prints.

use std::io::{self, Write};
use std::time::Duration;

/// One measurement beside its baseline.
pub(crate) struct Row {
    pub(crate) what: String,
    pub(crate) baseline: String,
    pub(crate) measured: String,
    /// The difference or the ratio of the two.
    pub(crate) result: String,
    pub(crate) target: Option<Target>,
}

/// What is aimed at.
pub(crate) struct Target {
    text: String,
    is_met: bool,
}

impl Target {
    /// At most that much, shown as `shown`.
    pub(crate) fn at_most(limit: f64, found: f64, shown: &str) -> Option<Target> {
        Some(Target { text: format!("≤ {shown}"), is_met: found <= limit })
    }

    /// At least that much, shown as `shown`.
    pub(crate) fn at_least(limit: f64, found: f64, shown: &str) -> Option<Target> {
        Some(Target { text: format!("≥ {shown}"), is_met: found >= limit })
    }
}

/// The rows so far.
#[derive(Default)]
pub(crate) struct Table {
    rows: Vec<Row>,
    notes: Vec<String>,
}

impl Table {
    pub(crate) fn add(&mut self, row: Row) {
        eprintln!("  {}: {} → {}", row.what, row.measured, row.result);
        self.rows.push(row);
    }

    /// Says something below the table.
    pub(crate) fn note(&mut self, note: String) {
        self.notes.push(note);
    }

    pub(crate) fn print(&self, took: Duration) -> io::Result<()> {
        let mut lines =
            vec![["measurement", "baseline", "measured", "result", "target", "met"].map(str::to_owned)];
        lines.extend(self.rows.iter().map(Row::cells));
        let widths: [usize; 6] = std::array::from_fn(|column| {
            lines.iter().map(|line| line[column].chars().count()).max().unwrap_or_default()
        });
        lines.insert(1, widths.map(|width| "-".repeat(width)));
        let mut out = io::stdout().lock();
        writeln!(out)?;
        for line in &lines {
            writeln!(out, "| {} |", padded(line, widths).join(" | "))?;
        }
        for note in &self.notes {
            writeln!(out, "note: {note}")?;
        }
        writeln!(
            out,
            "measured in {:.0} s; targets are for the reader, none fails the run",
            took.as_secs_f64()
        )
    }
}

impl Row {
    fn cells(&self) -> [String; 6] {
        let (target, met) = match &self.target {
            Some(target) => (target.text.as_str(), if target.is_met { "yes" } else { "NO" }),
            None => ("", ""),
        };
        [&self.what, &self.baseline, &self.measured, &self.result, target, met].map(str::to_owned)
    }
}

/// The first column to the left, numbers to the right.
fn padded(line: &[String; 6], widths: [usize; 6]) -> [String; 6] {
    std::array::from_fn(|column| {
        let (text, width) = (&line[column], widths[column]);
        if column == 0 { format!("{text:<width$}") } else { format!("{text:>width$}") }
    })
}
