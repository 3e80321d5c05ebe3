//! The table of `meanwhile jobs list`: as many of its columns as the terminal has room for.

use console::{Alignment, measure_text_width, pad_str};
use meanwhile_core::Moment;
use meanwhile_mcp::words::seconds;

use super::Seen;
use super::show::{about, one_line, status_name};

const COLUMNS: usize = 7;
const HEADS: [&str; COLUMNS] = ["HANDLE", "SERVER", "TOOL", "STATUS", "AGE", "TOOK", "ABOUT"];
const SERVER: usize = 1;
const TOOL: usize = 2;
const AGE: usize = 4;
const TOOK: usize = 5;
const ABOUT: usize = 6;
/// What a terminal shows of a server's name at most, and of a tool's.
const SERVER_MAX: usize = 20;
const TOOL_MAX: usize = 32;
/// What it shows of a tool's name before those columns that can be left out, and if need be.
const TOOL_WANTED: usize = 16;
const TOOL_MIN: usize = 8;
/// What is said of the jobs has so much room before anything else has.
const ABOUT_WANTED: usize = 20;
/// With less it says nothing.
const ABOUT_MIN: usize = 8;
const GAP: usize = 2;

/// The jobs, one a line; cut to the `width` of a terminal, and to nothing where there is none.
pub(super) fn table(jobs: &[Seen], now: Moment, width: Option<usize>) -> String {
    if jobs.is_empty() {
        return "No jobs.\n".to_owned();
    }
    let mut rows = vec![HEADS.map(str::to_owned)];
    rows.extend(jobs.iter().map(|seen| cells(seen, now)));
    let widths = widths(&rows, width);
    rows.iter().map(|row| line(row, &widths)).collect()
}

fn cells(seen: &Seen, now: Moment) -> [String; COLUMNS] {
    let job = &seen.job;
    [
        job.handle.to_string(),
        one_line(&job.server),
        one_line(&job.tool),
        status_name(job).to_owned(),
        seconds(now.wall.since(job.created_at)),
        seconds(job.ran_for(now.wall)),
        one_line(&about(seen, now)),
    ]
}

/// How wide the columns are; one of no width is left out.
fn widths(rows: &[[String; COLUMNS]], width: Option<usize>) -> [usize; COLUMNS] {
    let mut widths = std::array::from_fn(|column| {
        rows.iter().map(|row| measure_text_width(&row[column])).max().unwrap_or(0)
    });
    let Some(width) = width else { return widths };
    widths[SERVER] = widths[SERVER].min(SERVER_MAX);
    let (tool, about) = (widths[TOOL].min(TOOL_MAX), widths[ABOUT]);
    let wanted = about.min(ABOUT_WANTED);
    // What becomes of a job says more than whose tool it is, and when it was called.
    for column in [SERVER, AGE] {
        if left_by_others(&widths, width) < tool.min(TOOL_WANTED) + GAP + wanted {
            widths[column] = 0;
        }
    }
    let left = left_by_others(&widths, width);
    widths[TOOL] = tool.min(left.saturating_sub(GAP + wanted).max(TOOL_MIN));
    widths[ABOUT] = about.min(left.saturating_sub(GAP + widths[TOOL]));
    if widths[ABOUT] < about.min(ABOUT_MIN) {
        (widths[TOOL], widths[ABOUT]) = (tool.min(left), 0);
    }
    widths
}

/// What the other columns leave to those of the tool and of what is said of the job.
fn left_by_others(widths: &[usize; COLUMNS], width: usize) -> usize {
    let others = (0..COLUMNS).filter(|column| ![TOOL, ABOUT].contains(column) && widths[*column] > 0);
    width.saturating_sub(others.map(|column| widths[column] + GAP).sum())
}

fn line(row: &[String; COLUMNS], widths: &[usize; COLUMNS]) -> String {
    let shown = (0..COLUMNS).filter(|column| widths[*column] > 0);
    let cells = shown.map(|column| {
        let side = if [AGE, TOOK].contains(&column) { Alignment::Right } else { Alignment::Left };
        pad_str(&row[column], widths[column], side, Some("…")).into_owned()
    });
    let line = cells.collect::<Vec<_>>().join("  ");
    line.trim_end().to_owned() + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(status: &str, about: &str, width: Option<usize>) -> Vec<String> {
        let handle = "job_aaaaaaaaaaaaaaaaaaaaaaaaaa";
        let job = [handle, "fixture-upstream", "ask_elicitation", status, "12 min", "4.8 s", about];
        let rows = [HEADS, job].map(|row| row.map(str::to_owned));
        let widths = widths(&rows, width);
        rows.iter().map(|row| line(row, &widths)).collect()
    }

    #[test]
    fn what_is_said_of_a_job_has_room_before_whose_tool_it_is() {
        let about = "46/30000 (0 %) \"step 46 of 30000\"";
        for (width, status, least) in [
            (80, "input_required", 15),
            (80, "completed", 20),
            (100, "input_required", 20),
            (120, "completed", 20),
        ] {
            let lines = shown(status, about, Some(width));
            assert!(lines.iter().all(|line| line.trim_end().chars().count() <= width), "{lines:?}");
            let (_, said) = lines[1].split_once("4.8 s").unwrap();
            assert!(said.trim().chars().count() >= least, "{width}: {lines:?}");
        }
        assert!(shown("completed", "24 bytes", Some(104))[1].contains("fixture-upstream"));
    }

    #[test]
    fn a_narrow_terminal_has_the_whole_handle_and_the_time() {
        for status in ["working", "input_required"] {
            let lines = shown(status, "asks q1, and q2, and q3", Some(60));
            assert!(
                lines[0].trim_end().ends_with("TOOK") && lines[1].trim_end().ends_with("4.8 s"),
                "{lines:?}"
            );
            assert!(lines[1].starts_with("job_aaaaaaaaaaaaaaaaaaaaaaaaaa  a"), "{lines:?}");
            assert!(lines[1].trim_end().chars().count() <= 60, "{lines:?}");
        }
    }

    #[test]
    fn where_there_is_no_terminal_nothing_is_cut() {
        let about = "x".repeat(1000);
        let lines = shown("failed", &about, None);
        assert!(
            lines[1].contains("fixture-upstream  ask_elicitation  failed")
                && lines[1].ends_with(&format!("{about}\n"))
        );
    }
}
