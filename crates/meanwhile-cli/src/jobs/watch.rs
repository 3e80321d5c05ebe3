//! `meanwhile jobs watch`: bars in a terminal, lines in a pipe, and nothing is polled: every look follows a change.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use meanwhile_core::event::Event;
use meanwhile_core::store::{LIST_MAX, Query};
use meanwhile_core::{Handle, Job, Status, Timestamp};
use meanwhile_mcp::words::{progressed, seconds};
use serde_json::json;

use super::show::{clock, event_json, happened, status_name};
use super::{Desk, EVENTS_PAGE, NO_SUCH_JOB, no_such_job, print};

const BAR_STEPS: u64 = 1000;

/// Follows the jobs until they have ended, or all jobs for as long as the terminal likes.
pub(super) async fn watch(desk: &Desk, handles: &[Handle]) -> anyhow::Result<ExitCode> {
    let mut changes = desk.store.changes().of_any();
    for handle in handles {
        if desk.store.job(*handle).await?.is_none() {
            no_such_job(*handle);
            return Ok(NO_SUCH_JOB.into());
        }
    }
    let mut screen = Screen::new(desk, desk.store.now());
    loop {
        let jobs = screen.jobs_of_interest(handles).await?;
        let ended = jobs.iter().all(|job| job.status.is_terminal());
        for job in jobs {
            screen.show(&job).await?;
        }
        if ended && !handles.is_empty() {
            return Ok(ExitCode::SUCCESS);
        }
        screen.invite(handles);
        tokio::select! {
            () = changes.changed() => {}
            _ = tokio::signal::ctrl_c() => return Ok(ExitCode::SUCCESS),
        }
    }
}

struct Screen<'a> {
    desk: &'a Desk,
    since: Timestamp,
    seen: HashMap<Handle, u32>,
    /// Jobs that were unfinished when they were last looked at.
    open: Vec<Handle>,
    bars: Option<MultiProgress>,
    bar_of: HashMap<Handle, ProgressBar>,
    invited: bool,
}

impl<'a> Screen<'a> {
    fn new(desk: &'a Desk, since: Timestamp) -> Screen<'a> {
        let live = std::io::stdout().is_terminal() && !desk.json;
        let bars = live.then(|| MultiProgress::with_draw_target(indicatif::ProgressDrawTarget::stdout()));
        Screen {
            desk,
            since,
            seen: HashMap::new(),
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
            let statuses = vec![Status::Queued, Status::Paused, Status::Working];
            let unfinished = Query { statuses, ..newest.clone() };
            let was_open = |job: &Job| self.open.contains(&job.handle) || job.created_at >= self.since;
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
        let seen = *self.seen.get(&job.handle).unwrap_or(&0);
        if seen == job.events {
            return Ok(());
        }
        if self.bars.is_some() {
            self.draw(job);
        } else {
            // Of a job that was already running only the present is news.
            let after =
                if seen == 0 && job.created_at < self.since { job.events.saturating_sub(1) } else { seen };
            for event in self.desk.store.events(job.handle, after, EVENTS_PAGE).await? {
                print(&self.line(job, &event))?;
            }
        }
        self.seen.insert(job.handle, job.events);
        Ok(())
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
        let bar = self.bar_of.entry(job.handle).or_insert_with(|| bars.add(new_bar(job)));
        if job.status.is_terminal() {
            let took = seconds(job.ran_for(self.desk.store.now()));
            let message = job.message.as_deref().map(|message| format!(": {message}")).unwrap_or_default();
            bar.set_style(style("{prefix} {msg}"));
            bar.disable_steady_tick();
            if job.status == Status::Completed {
                bar.set_position(BAR_STEPS);
            }
            bar.abandon_with_message(format!("{} after {took}{message}", status_name(job)));
            return;
        }
        let progress = job.progress.as_ref();
        if let Some((progress, total)) = progress.and_then(|now| now.total.map(|total| (now.progress, total)))
        {
            bar.set_style(style("{prefix} [{bar:24}] {elapsed} {msg}"));
            bar.set_position((BAR_STEPS as f64 * (progress / total).clamp(0.0, 1.0)) as u64);
        }
        let about = progress.map_or_else(|| status_name(job).to_owned(), progressed);
        bar.set_message(job.message.clone().unwrap_or(about));
    }

    /// Says, once, that there is nothing to see yet.
    fn invite(&mut self, handles: &[Handle]) {
        if handles.is_empty() && self.seen.is_empty() && !self.invited && self.bars.is_some() {
            eprintln!("No jobs are running. Waiting for one; Ctrl-C ends this.");
        }
        self.invited = true;
    }
}

fn new_bar(job: &Job) -> ProgressBar {
    let bar = ProgressBar::new(BAR_STEPS).with_prefix(format!("{} {}", job.handle, job.tool));
    bar.set_style(style("{prefix} {spinner} {elapsed} {msg}"));
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the templates here are well formed").progress_chars("=> ")
}
