//! `meanwhile jobs watch`: bars in a terminal, lines in a pipe, and nothing is polled: every look follows a change.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressFinish, ProgressState, ProgressStyle};
use meanwhile_core::changes::Subscription;
use meanwhile_core::engine::sweep;
use meanwhile_core::event::Event;
use meanwhile_core::store::{LIST_MAX, Query};
use meanwhile_core::{Clock, Handle, Job, Moment, Status, SystemClock, Timestamp};
use meanwhile_mcp::words::seconds;
use serde_json::json;

use super::show::{clock, doing, ended, event_json, happened, one_line, shortened, status_name};
use super::{Desk, EVENTS_PAGE, FAILED, NO_SUCH_JOB, NOT_YET, no_such_job, print, terminal, will_have_none};

const BAR_STEPS: u64 = 1000;
/// Columns of a terminal that has room for whole handles.
const WIDE: usize = 110;
/// Columns of a handle where there is less, and of a tool's name.
const HANDLE_COLUMNS: usize = 12;
const TOOL_COLUMNS: usize = 18;

/// Follows the jobs until they have ended, or all jobs for as long as the terminal likes.
pub(super) async fn watch(desk: &Desk, handles: &[Handle]) -> anyhow::Result<u8> {
    let mut changes = desk.store.changes().of_any();
    for handle in handles {
        if desk.store.job(*handle).await?.is_none() {
            no_such_job(*handle);
            return Ok(NO_SUCH_JOB);
        }
    }
    // Listened for all along: one that came during a look would be lost otherwise.
    tokio::select! {
        followed = follow(desk, handles, &mut changes) => followed,
        _ = tokio::signal::ctrl_c() => Ok(if handles.is_empty() { 0 } else { NOT_YET }),
    }
}

async fn follow(desk: &Desk, handles: &[Handle], changes: &mut Subscription) -> anyhow::Result<u8> {
    let mut screen = Screen::new(desk, handles.is_empty().then(|| desk.store.now()));
    loop {
        let jobs = screen.jobs_of_interest(handles).await?;
        let (ended, now) = (jobs.iter().all(|job| job.status.is_terminal()), SystemClock.moment());
        let in_vain = jobs.iter().any(will_have_none);
        let lapse = jobs.iter().filter_map(|job| lapse(job, now)).min();
        for job in jobs {
            screen.show(&job).await?;
        }
        if ended && !handles.is_empty() {
            return Ok(if in_vain { FAILED } else { 0 });
        }
        screen.invite(handles);
        tokio::select! {
            () = changes.changed() => {}
            // That a process is gone is no change of its jobs.
            () = tokio::time::sleep(lapse.unwrap_or_default()), if lapse.is_some() => {
                sweep(&*desk.store, &desk.artifacts).await?;
            }
        }
    }
}

/// When a job is nobody's any more, unless its process says before that it is still there.
fn lapse(job: &Job, now: Moment) -> Option<Duration> {
    let lease = job.lease.as_ref().filter(|lease| !job.status.is_terminal() && !lease.is_over(now))?;
    Some(lease.until.since(now.steady))
}

struct Screen<'a> {
    desk: &'a Desk,
    /// Before this a job's past is no news. `None`: these jobs were asked for by name, and all of it is.
    since: Option<Timestamp>,
    /// The last event of each job that was printed.
    printed: HashMap<Handle, u32>,
    /// Jobs that were unfinished when they were last looked at.
    open: Vec<Handle>,
    bars: Option<MultiProgress>,
    bar_of: HashMap<Handle, ProgressBar>,
    invited: bool,
}

impl<'a> Screen<'a> {
    fn new(desk: &'a Desk, since: Option<Timestamp>) -> Screen<'a> {
        let live = std::io::stdout().is_terminal() && !desk.json;
        let bars = live.then(|| MultiProgress::with_draw_target(indicatif::ProgressDrawTarget::stdout()));
        Screen {
            desk,
            since,
            printed: HashMap::new(),
            open: vec![],
            bars,
            bar_of: HashMap::new(),
            invited: false,
        }
    }

    /// The named jobs; or else all that are unfinished, and those that were when they were last looked at, or began since.
    async fn jobs_of_interest(&mut self, handles: &[Handle]) -> anyhow::Result<Vec<Job>> {
        let mut jobs = Vec::new();
        if handles.is_empty() {
            let newest = Query { limit: LIST_MAX, ..Query::default() };
            let statuses = Status::UNFINISHED.to_vec();
            let unfinished = Query { statuses, ..newest.clone() };
            let was_open = |job: &Job| self.open.contains(&job.handle) || Some(job.created_at) >= self.since;
            jobs = self.desk.store.list(&newest).await?;
            jobs.retain(|job| job.status.is_terminal() && was_open(job));
            jobs.extend(self.desk.store.list(&unfinished).await?);
            jobs.reverse();
        }
        for handle in handles {
            jobs.extend(self.desk.store.job(*handle).await?);
        }
        self.open = jobs.iter().filter(|job| !job.status.is_terminal()).map(|job| job.handle).collect();
        Ok(jobs)
    }

    async fn show(&mut self, job: &Job) -> anyhow::Result<()> {
        if self.bars.is_some() {
            self.draw(job);
            return Ok(());
        }
        let mut last = self.printed.get(&job.handle).copied().unwrap_or_else(|| self.known(job));
        while last < job.events {
            let events = self.desk.store.events(job.handle, last, EVENTS_PAGE).await?;
            for event in &events {
                print(&self.line(job, event))?;
            }
            let Some(event) = events.last() else { break };
            last = event.seq;
        }
        self.printed.insert(job.handle, last);
        Ok(())
    }

    /// How many events of a job that is seen for the first time are no news: of one that was running already all but the last.
    fn known(&self, job: &Job) -> u32 {
        match self.since {
            Some(since) if job.created_at < since => job.events.saturating_sub(1),
            _ => 0,
        }
    }

    fn line(&self, job: &Job, event: &Event) -> String {
        if self.desk.json {
            let mut value = event_json(event);
            value["handle"] = json!(job.handle);
            value["tool"] = json!(job.tool);
            return format!("{value}\n");
        }
        format!("{}  {}  {}  {}\n", clock(event.at), job.handle, job.tool, happened(&event.kind))
    }

    fn draw(&mut self, job: &Job) {
        let Some(bars) = &self.bars else { return };
        let bar = self.bar_of.entry(job.handle).or_insert_with(|| add_bar(bars, job));
        if bar.is_finished() {
            return;
        }
        let ran = job.ran_for(self.desk.store.now());
        if job.status.is_terminal() {
            bar.set_style(style("{prefix} {ran:>7}  {wide_msg}", ran, false));
            bar.disable_steady_tick();
            bar.abandon_with_message(one_line(&ended(job)));
            return;
        }
        let is_running = job.status == Status::Working;
        let progress = job.progress.as_ref();
        let total =
            progress.and_then(|now| now.total.filter(|total| *total > 0.0).map(|total| now.progress / total));
        match total {
            Some(part) => {
                bar.set_style(style("{prefix} {ran:>7} [{bar:14}] {wide_msg}", ran, is_running));
                bar.set_position((BAR_STEPS as f64 * part.clamp(0.0, 1.0)) as u64);
            }
            None => bar.set_style(style("{prefix} {ran:>7} {spinner} {wide_msg}", ran, is_running)),
        }
        let doing = doing(job, SystemClock.moment()).unwrap_or_else(|| status_name(job).to_owned());
        bar.set_message(one_line(&doing));
    }

    /// Says, once, that there is nothing to see yet.
    fn invite(&mut self, handles: &[Handle]) {
        if handles.is_empty() && self.bar_of.is_empty() && !self.invited && self.bars.is_some() {
            eprintln!("No jobs are running. Waiting for one; Ctrl-C ends this.");
        }
        self.invited = true;
    }
}

fn add_bar(bars: &MultiProgress, job: &Job) -> ProgressBar {
    let handle = job.handle.to_string();
    let is_wide = terminal::width().is_some_and(|width| width >= WIDE);
    let handle = if is_wide { handle } else { shortened(&handle, HANDLE_COLUMNS) };
    let tool = shortened(&one_line(&job.tool), TOOL_COLUMNS);
    let bar = ProgressBar::new(BAR_STEPS)
        .with_prefix(format!("{handle} {tool:TOOL_COLUMNS$}"))
        // What was seen last stays in the terminal, also after Ctrl-C.
        .with_finish(ProgressFinish::Abandon);
    let bar = bars.add(bar);
    // Only now: alone it would tick into the rows of the others.
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// How a row looks; `{ran}` is the time that the job itself has run, and goes on if it `is_running`.
fn style(template: &str, ran: Duration, is_running: bool) -> ProgressStyle {
    let drawn = Instant::now();
    let ran = move |_: &ProgressState, row: &mut dyn std::fmt::Write| {
        let since = if is_running { drawn.elapsed() } else { Duration::ZERO };
        let _ = row.write_str(&seconds(ran + since));
    };
    let style = ProgressStyle::with_template(template).expect("the templates here are well formed");
    style.progress_chars("=> ").with_key("ran", ran)
}
