//! A store in memory: what the suite was written against, and what engine tests run on.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::Json;
use crate::changes::Changes;
use crate::clock::{Clock, Timestamp};
use crate::event::Event;
use crate::handle::Handle;
use crate::job::{Job, Lease, Peer, Status};
use crate::machine::{self, Entry, Op, Outcome};
use crate::store::{Created, LIST_MAX, NewJob, Query, Store, StoreError};

struct Row {
    seq: u64,
    job: Job,
    request: Option<Json>,
    join_key: Option<String>,
    answer: Option<Json>,
    events: Vec<Event>,
}

impl Row {
    fn append(&mut self, entries: Vec<Entry>, now: Timestamp) {
        for (actor, kind) in entries {
            let seq = self.events.len() as u32 + 1;
            self.events.push(Event { seq, at: now, actor, kind });
        }
    }
}

/// Jobs in a map. It forgets everything when it is dropped.
pub struct MemoryStore {
    rows: Mutex<HashMap<Handle, Row>>,
    changes: Arc<Changes>,
    clock: Arc<dyn Clock>,
    broken: std::sync::atomic::AtomicBool,
}

impl MemoryStore {
    /// An empty store that goes by `clock`.
    pub fn new(clock: Arc<dyn Clock>) -> MemoryStore {
        MemoryStore { rows: Mutex::default(), changes: Arc::default(), clock, broken: false.into() }
    }

    /// From now on every write fails, or no longer.
    pub fn set_broken(&self, broken: bool) {
        self.broken.store(broken, std::sync::atomic::Ordering::SeqCst);
    }

    fn rows(&self) -> std::sync::MutexGuard<'_, HashMap<Handle, Row>> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn writable(&self) -> Result<(), StoreError> {
        if self.broken.load(std::sync::atomic::Ordering::SeqCst) {
            return Err(StoreError::Failed { place: "memory".into(), reason: "told to be broken".into() });
        }
        Ok(())
    }

    fn apply_now(&self, handle: Handle, op: &Op) -> Result<Job, StoreError> {
        let now = self.clock.now();
        let mut rows = self.rows();
        let row = rows.get_mut(&handle).ok_or(StoreError::NotFound(handle))?;
        let entries = machine::apply(&mut row.job, op, now)?;
        row.append(entries, now);
        if let Op::Finish { outcome: Outcome::Completed(answer), .. } = op {
            row.answer = Some(answer.clone());
        }
        if row.job.expired_at.is_some() {
            row.answer = None;
            row.request = None;
        }
        Ok(row.job.clone())
    }

    fn matching(&self, wanted: impl Fn(&Job) -> bool) -> Vec<Job> {
        let rows = self.rows();
        let mut found: Vec<&Row> = rows.values().filter(|row| wanted(&row.job)).collect();
        found.sort_by_key(|row| std::cmp::Reverse(row.seq));
        found.into_iter().map(|row| row.job.clone()).collect()
    }
}

#[async_trait::async_trait]
impl Store for MemoryStore {
    async fn create(&self, new: NewJob) -> Result<Created, StoreError> {
        self.writable()?;
        let now = self.clock.now();
        let mut rows = self.rows();
        if let Some(key) = new.call.join_key.as_ref().filter(|_| new.joins) {
            let same = |row: &&mut Row| {
                row.join_key.as_ref() == Some(key)
                    && row.job.scope == new.call.scope
                    && !row.job.status.is_terminal()
            };
            if let Some(first) = rows.values_mut().filter(same).min_by_key(|row| row.seq) {
                first.append(vec![(crate::Actor::Agent, crate::EventKind::Joined)], now);
                first.job.events += 1;
                return Ok(Created::Joined(first.job.clone()));
            }
        }
        let seq = rows.len() as u64;
        let (job, request, join_key, entries) = new.into_job(now);
        let mut row =
            Row { seq, job: job.clone(), request: Some(request), join_key, answer: None, events: vec![] };
        row.append(entries, now);
        rows.insert(job.handle, row);
        drop(rows);
        self.changes.publish(job.handle);
        Ok(Created::New(job))
    }

    async fn apply(&self, handle: Handle, op: Op) -> Result<Job, StoreError> {
        self.writable()?;
        let job = self.apply_now(handle, &op)?;
        self.changes.publish(handle);
        Ok(job)
    }

    async fn renew(&self, peer: &Peer, lease: Duration) -> Result<(), StoreError> {
        self.writable()?;
        let until = self.clock.now().after(lease);
        for row in self.rows().values_mut() {
            if row.job.lease.as_ref().is_some_and(|held| held.peer == *peer) {
                row.job.lease = Some(Lease { peer: peer.clone(), until });
            }
        }
        Ok(())
    }

    async fn job(&self, handle: Handle) -> Result<Option<Job>, StoreError> {
        Ok(self.rows().get(&handle).map(|row| row.job.clone()))
    }

    async fn request(&self, handle: Handle) -> Result<Option<Json>, StoreError> {
        Ok(self.rows().get(&handle).and_then(|row| row.request.clone()))
    }

    async fn answer(&self, handle: Handle) -> Result<Option<Json>, StoreError> {
        Ok(self.rows().get(&handle).and_then(|row| row.answer.clone()))
    }

    async fn list(&self, query: &Query) -> Result<Vec<Job>, StoreError> {
        let mut jobs = self.matching(|job| {
            query.scope.as_ref().is_none_or(|scope| job.scope == *scope)
                && (query.statuses.is_empty() || query.statuses.contains(&job.status))
        });
        if query.uncollected_first {
            jobs.sort_by_key(|job| {
                !(job.status.is_terminal() && job.collected_at.is_none() && job.expired_at.is_none())
            });
        }
        jobs.truncate(query.limit.min(LIST_MAX));
        Ok(jobs)
    }

    async fn ahead(&self, handle: Handle) -> Result<u64, StoreError> {
        let rows = self.rows();
        let Some(row) = rows.get(&handle).filter(|row| row.job.status == Status::Queued) else {
            return Ok(0);
        };
        let peer = |job: &Job| job.lease.as_ref().map(|lease| lease.peer.clone());
        let before = |other: &&Row| {
            other.job.status == Status::Queued && other.seq < row.seq && peer(&other.job) == peer(&row.job)
        };
        Ok(rows.values().filter(before).count() as u64)
    }

    async fn events(&self, handle: Handle, after: u32, limit: usize) -> Result<Vec<Event>, StoreError> {
        let rows = self.rows();
        let events = rows.get(&handle).map_or(&[][..], |row| &row.events[..]);
        Ok(events.iter().filter(|event| event.seq > after).take(limit).cloned().collect())
    }

    async fn abandoned(&self, limit: usize) -> Result<Vec<Job>, StoreError> {
        let now = self.clock.now();
        let mut jobs = self.matching(|job| job.lease.as_ref().is_some_and(|lease| lease.until <= now));
        jobs.truncate(limit);
        Ok(jobs)
    }

    async fn next_queued(&self, peer: &Peer) -> Result<Option<Handle>, StoreError> {
        let held = |job: &Job| job.lease.as_ref().is_some_and(|lease| lease.peer == *peer);
        Ok(self.matching(|job| job.status == Status::Queued && held(job)).last().map(|job| job.handle))
    }

    async fn expire(&self, limit: usize) -> Result<Vec<String>, StoreError> {
        self.writable()?;
        let now = self.clock.now();
        let over = |job: &Job| job.expired_at.is_none() && job.expires_at.is_some_and(|at| at <= now);
        let mut jobs = self.matching(over);
        jobs.truncate(limit);
        for job in &jobs {
            self.apply(job.handle, Op::Expire).await?;
        }
        let gone = jobs.into_iter().filter_map(|job| job.answer?.artifact);
        let kept = |digest: &String| {
            let holds = |row: &Row| {
                row.job.answer.as_ref().is_some_and(|info| info.artifact.as_ref() == Some(digest))
            };
            self.rows().values().any(holds)
        };
        Ok(gone.filter(|digest| !kept(digest)).collect())
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn changes(&self) -> &Arc<Changes> {
        &self.changes
    }
}
