//! `meanwhile jobs watch`: bars in a terminal, lines in a pipe, and nothing is polled: every look follows a change.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io::IsTerminal;
use std::time::Duration;

use meanwhile_core::changes::Subscription;
use meanwhile_core::engine::sweep;
use meanwhile_core::event::Event;
use meanwhile_core::store::{LIST_MAX, Query};
use meanwhile_core::{Clock, Handle, Job, Moment, Status, SystemClock, Timestamp};
use serde_json::json;

use super::rows::{FRAME, Rows, WAITING};
use super::show::{clock, event_json, happened};
use super::{Desk, EVENTS_PAGE, FAILED, NO_SUCH_JOB, NOT_YET, no_such_job, print, will_have_none};

/// Follows the jobs until they have ended, or all jobs for as long as the terminal likes.
pub(super) async fn watch(desk: &Desk, handles: &[Handle]) -> anyhow::Result<u8> {
    let mut changes = desk.store.changes().of_any();
    for handle in handles {
        if desk.store.job(*handle).await?.is_none() {
            no_such_job(*handle);
            return Ok(NO_SUCH_JOB);
        }
    }
    let is_live = std::io::stdout().is_terminal() && !desk.json;
    let rows = is_live.then(|| RefCell::new(Rows::new()));
    let screen = Screen::new(desk, handles.is_empty().then(|| desk.store.now()), rows.as_ref());
    // Listened for all along: one that came during a look would be lost otherwise.
    let followed = tokio::select! {
        biased;
        _ = tokio::signal::ctrl_c() => None,
        followed = follow(screen, handles, &mut changes) => Some(followed),
        error = draw(rows.as_ref()) => Some(Err(error.into())),
    };
    match (rows, &followed) {
        (Some(rows), Some(Ok(_))) => rows.borrow_mut().close()?,
        (Some(rows), _) => rows.borrow().leave()?,
        (None, _) => {}
    }
    followed.unwrap_or(Ok(if handles.is_empty() { 0 } else { NOT_YET }))
}

/// Draws the rows again and again, until that fails.
async fn draw(rows: Option<&RefCell<Rows>>) -> std::io::Error {
    let Some(rows) = rows else { return std::future::pending().await };
    loop {
        tokio::time::sleep(FRAME).await;
        if let Err(error) = rows.borrow_mut().draw() {
            return error;
        }
    }
}

async fn follow(
    mut screen: Screen<'_>,
    handles: &[Handle],
    changes: &mut Subscription,
) -> anyhow::Result<u8> {
    let desk = screen.desk;
    loop {
        let jobs = screen.jobs_of_interest(handles).await?;
        screen.show(&jobs).await?;
        if !handles.is_empty() && jobs.iter().all(|job| job.status.is_terminal()) {
            return Ok(if jobs.iter().any(will_have_none) { FAILED } else { 0 });
        }
        screen.invite(&jobs);
        let now = SystemClock.moment();
        let lapse = jobs.iter().filter_map(|job| lapse(job, now)).min();
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
    /// `None`: in a pipe there are lines instead.
    rows: Option<&'a RefCell<Rows>>,
    invited: bool,
}

impl<'a> Screen<'a> {
    fn new(desk: &'a Desk, since: Option<Timestamp>, rows: Option<&'a RefCell<Rows>>) -> Screen<'a> {
        Screen { desk, since, printed: HashMap::new(), open: vec![], rows, invited: false }
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

    async fn show(&mut self, jobs: &[Job]) -> anyhow::Result<()> {
        if let Some(rows) = self.rows {
            return self.redraw(rows, jobs).await;
        }
        for job in jobs {
            self.print(job).await?;
        }
        Ok(())
    }

    async fn redraw(&self, rows: &RefCell<Rows>, jobs: &[Job]) -> anyhow::Result<()> {
        let now = SystemClock.moment();
        for job in jobs.iter().filter(|job| job.status.is_terminal()) {
            if !rows.borrow().has_ended(job) {
                let seen = self.desk.see(job.clone()).await?;
                rows.borrow_mut().end(&seen, now)?;
            }
        }
        rows.borrow_mut().run(jobs.iter().filter(|job| !job.status.is_terminal()), now);
        rows.borrow_mut().draw()?;
        Ok(())
    }

    /// Prints what is new of a job.
    async fn print(&mut self, job: &Job) -> anyhow::Result<()> {
        let mut last = self.printed.get(&job.handle).copied().unwrap_or_else(|| self.known(job));
        let is_error = last < job.events && self.desk.see(job.clone()).await?.is_error;
        while last < job.events {
            let events = self.desk.store.events(job.handle, last, EVENTS_PAGE).await?;
            for event in &events {
                print(&self.line(job, event, is_error))?;
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

    fn line(&self, job: &Job, event: &Event, is_error: bool) -> String {
        if self.desk.json {
            let mut value = event_json(event);
            value["handle"] = json!(job.handle);
            value["tool"] = json!(job.tool);
            return format!("{value}\n");
        }
        format!("{}  {}  {}  {}\n", clock(event.at), job.handle, job.tool, happened(&event.kind, is_error))
    }

    /// Says, once, that there is nothing to see yet; a terminal shows it for as long as that is so.
    fn invite(&mut self, jobs: &[Job]) {
        if jobs.is_empty() && !self.invited && self.rows.is_none() {
            eprintln!("{WAITING}");
        }
        self.invited = true;
    }
}
