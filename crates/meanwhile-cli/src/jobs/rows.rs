//! The rows of `meanwhile jobs watch` in a terminal: those of jobs that have not ended are drawn again and again where they are, above
//! them stand those that have ended.

use std::collections::HashSet;
use std::io;
use std::time::{Duration, Instant};

use console::Term;
use meanwhile_core::{Handle, Job, Moment, Status};
use meanwhile_mcp::words::seconds;

use super::show::{doing, ended, one_line, shortened, status_name};
use super::{Seen, terminal};

/// How often the rows are drawn, for the time goes on.
pub(super) const FRAME: Duration = Duration::from_millis(200);
pub(super) const WAITING: &str = "No jobs are running. Waiting for one; Ctrl-C ends this.";
const SPINNER: [char; 10] = ['⠋', '⠙', '⠹', '⠸', '⠼', '⠴', '⠦', '⠧', '⠇', '⠏'];

/// The columns of a row, by those of the terminal.
struct Columns {
    all: usize,
    handle: usize,
    tool: usize,
    bar: usize,
}

impl Columns {
    fn of(width: usize) -> Columns {
        // Some terminals begin a new line behind their last column.
        let all = width.saturating_sub(1);
        match width {
            // Whole handles, which can be copied.
            100.. => Columns { all, handle: 30, tool: 18, bar: 14 },
            80.. => Columns { all, handle: 12, tool: 18, bar: 14 },
            _ => Columns { all, handle: 12, tool: 12, bar: 8 },
        }
    }
}

/// What is known of a job that has not ended, since its last change.
struct Row {
    handle: Handle,
    tool: String,
    ran: Duration,
    at: Instant,
    /// Whether its time goes on.
    is_running: bool,
    /// How much of it is done, from 0 to 1.
    part: Option<f64>,
    doing: String,
}

impl Row {
    fn new(job: &Job, now: Moment) -> Row {
        let progress = job.progress.as_ref();
        let part =
            progress.and_then(|now| now.total.filter(|total| *total > 0.0).map(|total| now.progress / total));
        Row {
            handle: job.handle,
            tool: one_line(&job.tool),
            ran: job.ran_for(now.wall),
            at: Instant::now(),
            is_running: job.status == Status::Working,
            part: part.map(|part| part.clamp(0.0, 1.0)),
            doing: one_line(&doing(job, now).unwrap_or_else(|| status_name(job).to_owned())),
        }
    }

    fn text(&self, columns: &Columns, now: Instant) -> String {
        let since = if self.is_running { now.saturating_duration_since(self.at) } else { Duration::ZERO };
        let ran = self.ran + since;
        let bar = match self.part {
            Some(part) => format!("[{}]", bar(part, columns.bar)),
            None => {
                let step = ran.as_millis() / FRAME.as_millis();
                SPINNER[(step % SPINNER.len() as u128) as usize].to_string()
            }
        };
        line(columns, self.handle, &self.tool, ran, &format!("{bar} {}", self.doing))
    }
}

fn bar(part: f64, width: usize) -> String {
    let done = (part * width as f64) as usize;
    let head = if done < width { ">" } else { "" };
    format!("{:width$}", "=".repeat(done) + head)
}

fn line(columns: &Columns, handle: Handle, tool: &str, ran: Duration, rest: &str) -> String {
    let handle = shortened(&handle.to_string(), columns.handle);
    let (tool, tool_width) = (shortened(tool, columns.tool), columns.tool);
    shortened(&format!("{handle} {tool:tool_width$} {:>7} {rest}", seconds(ran)), columns.all)
}

/// All that is drawn: as many rows as there is room for, and how many there are besides.
fn frame(rows: &[Row], width: usize, height: usize, now: Instant) -> Vec<String> {
    let columns = Columns::of(width);
    if rows.is_empty() {
        return vec![shortened(WAITING, columns.all)];
    }
    // One is left to what is typed.
    let room = height.saturating_sub(1).max(1);
    let shown = if rows.len() > room { room - 1 } else { rows.len() };
    let mut lines: Vec<String> = rows[..shown].iter().map(|row| row.text(&columns, now)).collect();
    if shown < rows.len() {
        let which = if shown > 0 { "more" } else { "jobs" };
        lines.push(shortened(&format!("… and {} {which}", rows.len() - shown), columns.all));
    }
    lines
}

/// The rows, and how they come into the terminal.
pub(super) struct Rows {
    term: Term,
    running: Vec<Row>,
    /// Those whose last row has been written.
    ended: HashSet<Handle>,
    /// How many rows stand above the cursor that are to be drawn again.
    drawn: usize,
}

impl Rows {
    pub(super) fn new() -> Rows {
        Rows { term: Term::buffered_stdout(), running: vec![], ended: HashSet::new(), drawn: 0 }
    }

    pub(super) fn has_ended(&self, job: &Job) -> bool {
        self.ended.contains(&job.handle)
    }

    /// Writes the last row of a job that has ended.
    pub(super) fn end(&mut self, seen: &Seen, now: Moment) -> io::Result<()> {
        let job = &seen.job;
        let (width, _) = size();
        let (tool, ran) = (one_line(&job.tool), job.ran_for(now.wall));
        self.ended.insert(job.handle);
        self.running.retain(|row| row.handle != job.handle);
        self.erase()?;
        self.term.write_line(&line(&Columns::of(width), job.handle, &tool, ran, &one_line(&ended(seen))))
    }

    /// These are the ones that have not ended.
    pub(super) fn run<'a>(&mut self, jobs: impl Iterator<Item = &'a Job>, now: Moment) {
        self.running = jobs.map(|job| Row::new(job, now)).collect();
    }

    pub(super) fn draw(&mut self) -> io::Result<()> {
        let (width, height) = size();
        let rows = frame(&self.running, width, height, Instant::now());
        self.erase()?;
        for row in &rows {
            self.term.write_line(row)?;
        }
        self.drawn = rows.len();
        self.term.flush()
    }

    /// The cursor is in a line of its own below the rows, so that `^C`, which the terminal writes there, moves nothing.
    fn erase(&mut self) -> io::Result<()> {
        self.term.write_str("\r")?;
        self.term.move_cursor_up(std::mem::take(&mut self.drawn))?;
        self.term.clear_to_end_of_screen()
    }

    /// All have ended, and stand there.
    pub(super) fn close(&mut self) -> io::Result<()> {
        self.erase()?;
        self.term.flush()
    }

    /// What was seen last stays as it is.
    pub(super) fn leave(&self) -> io::Result<()> {
        self.term.clear_line()?;
        self.term.flush()
    }
}

fn size() -> (usize, usize) {
    terminal::size().unwrap_or((80, 24))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(count: usize) -> Vec<Row> {
        let row = |_| {
            Row {
            handle: Handle::random(),
            tool: "render_everything_again".to_owned(),
            ran: Duration::from_secs(61),
            at: Instant::now(),
            is_running: false,
            part: Some(0.5),
            doing: "frame 120 of 240, and many words besides that no terminal has the room for, however wide it is".to_owned(),
        }
        };
        (0..count).map(row).collect()
    }

    #[test]
    fn a_row_fits_and_says_that_it_is_cut() {
        for width in [20, 60, 80, 100, 120] {
            let text = &frame(&rows(1), width, 24, Instant::now())[0];
            assert_eq!(text.chars().count(), width - 1, "{text}");
            assert!(text.ends_with('…'), "{text}");
        }
    }

    #[test]
    fn a_handle_is_whole_where_there_is_room() {
        let rows = rows(1);
        let handle = rows[0].handle.to_string();
        for (width, is_whole) in [(80, false), (100, true)] {
            assert_eq!(frame(&rows, width, 24, Instant::now())[0].contains(&handle), is_whole, "{width}");
        }
    }

    #[test]
    fn what_there_is_no_room_for_is_counted() {
        for (count, height, lines, last) in
            [(5, 24, 5, ""), (5, 6, 5, ""), (6, 6, 5, "… and 2 more"), (3, 1, 1, "… and 3 jobs")]
        {
            let text = frame(&rows(count), 80, height, Instant::now());
            assert_eq!(text.len(), lines, "{count} in {height}: {text:?}");
            assert!(text[lines - 1].ends_with(last), "{text:?}");
        }
        assert_eq!(frame(&[], 80, 24, Instant::now()), [WAITING]);
    }

    #[test]
    fn a_bar_is_full_at_the_end_only() {
        assert_eq!([0.0, 0.5, 0.99, 1.0].map(|part| bar(part, 4)), [">   ", "==> ", "===>", "===="]);
    }
}
