//! A store in memory: what the suite was written against, and what engine tests run on.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::Json;
use crate::changes::Changes;
use crate::clock::{Clock, Moment, Timestamp};
use crate::event::Event;
use crate::handle::Handle;
use crate::history::{Durations, lesson};
use crate::job::{Call, Input, Job, Lease, Peer, Status};
use crate::machine::{self, Entry, Op, Outcome, WrittenInput};
use crate::store::{
    AHEAD_MAX, Created, KeptSession, LETTER_LIFE, LETTERS_MAX, LIST_MAX, Letter, NewJob, Query, SESSION_LIFE,
    SESSIONS_MAX, Store, StoreError, TOMBSTONE,
};

struct Row {
    seq: u64,
    job: Job,
    request: Option<Json>,
    join_key: Option<String>,
    retry_key: Option<String>,
    answer: Option<Json>,
    inputs: Vec<Input>,
    events: Vec<Event>,
}

impl Row {
    fn append(&mut self, entries: Vec<Entry>, now: Timestamp) {
        for (actor, kind) in entries {
            let seq = self.events.len() as u32 + 1;
            self.events.push(Event { seq, at: now, actor, kind });
        }
    }

    fn apply(&mut self, op: &Op, now: Moment) -> Result<(), StoreError> {
        let entries = machine::apply(&mut self.job, op, now)?;
        for written in machine::written_inputs(op, &entries) {
            self.write_input(written);
        }
        self.append(entries, now.wall);
        if let Op::Finish { outcome: Outcome::Completed(answer), .. } = op {
            self.answer = Some(answer.clone());
        }
        if self.job.expired_at.is_some() {
            self.answer = None;
            self.request = None;
            self.inputs.clear();
        }
        Ok(())
    }

    fn write_input(&mut self, written: WrittenInput<'_>) {
        match written {
            WrittenInput::Question { key, question } => {
                let (key, question, attempt) = (key.to_owned(), question.clone(), self.job.attempt);
                self.inputs.push(Input { key, question, answer: None, attempt });
            }
            WrittenInput::Answer { key, answer } => {
                if let Some(input) = self.inputs.iter_mut().find(|input| input.key == key) {
                    input.answer = Some(answer.clone());
                }
            }
        }
    }
}

/// A session, when it was last kept, and whether it has ended.
struct Kept {
    session: KeptSession,
    at: Timestamp,
    has_ended: bool,
}

/// Jobs in a map. It forgets everything when it is dropped.
pub struct MemoryStore {
    rows: Mutex<HashMap<Handle, Row>>,
    history: Mutex<HashMap<(String, String), Durations>>,
    sessions: Mutex<HashMap<String, Kept>>,
    letters: Mutex<Vec<(Timestamp, Letter)>>,
    left: AtomicU64,
    created: AtomicU64,
    changes: Arc<Changes>,
    clock: Arc<dyn Clock>,
    broken: AtomicBool,
    looks: AtomicUsize,
}

impl MemoryStore {
    /// An empty store that goes by `clock`.
    pub fn new(clock: Arc<dyn Clock>) -> MemoryStore {
        MemoryStore {
            rows: Mutex::default(),
            history: Mutex::default(),
            sessions: Mutex::default(),
            letters: Mutex::default(),
            left: 0.into(),
            created: 0.into(),
            changes: Arc::default(),
            clock,
            broken: false.into(),
            looks: 0.into(),
        }
    }

    /// How often it was looked for abandoned jobs.
    pub fn looks(&self) -> usize {
        self.looks.load(Ordering::SeqCst)
    }

    /// From now on every write fails, and the look for ended sessions; or no longer.
    pub fn set_broken(&self, broken: bool) {
        self.broken.store(broken, Ordering::SeqCst);
    }

    fn rows(&self) -> MutexGuard<'_, HashMap<Handle, Row>> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn writable(&self) -> Result<(), StoreError> {
        if self.broken.load(Ordering::SeqCst) {
            return Err(StoreError::Failed { place: "memory".into(), reason: "told to be broken".into() });
        }
        Ok(())
    }

    fn history(&self) -> MutexGuard<'_, HashMap<(String, String), Durations>> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sessions(&self) -> MutexGuard<'_, HashMap<String, Kept>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn letters(&self) -> MutexGuard<'_, Vec<(Timestamp, Letter)>> {
        self.letters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn apply_now(&self, handle: Handle, op: &Op) -> Result<Job, StoreError> {
        let mut rows = self.rows();
        let row = rows.get_mut(&handle).ok_or(StoreError::NotFound(handle))?;
        row.apply(op, self.clock.moment())?;
        let job = row.job.clone();
        if let Some(took) = lesson(op, &job) {
            let tool = (job.server.clone(), job.tool.clone());
            self.history().entry(tool).or_default().record(took);
        }
        Ok(job)
    }

    fn forget(&self, limit: usize) {
        let before = self.clock.now().before(TOMBSTONE);
        let mut old = self.matching(|job| job.expired_at.is_some_and(|at| at <= before));
        old.truncate(limit);
        for job in old {
            self.rows().remove(&job.handle);
            self.changes.publish(job.handle);
        }
    }

    fn is_held(&self, artifact: &str) -> bool {
        let names = |row: &Row| {
            row.job.answer.as_ref().is_some_and(|info| info.artifact.as_deref() == Some(artifact))
        };
        self.rows().values().any(names)
    }

    fn matching(&self, wanted: impl Fn(&Job) -> bool) -> Vec<Job> {
        let rows = self.rows();
        let mut found: Vec<&Row> = rows.values().filter(|row| wanted(&row.job)).collect();
        found.sort_by_key(|row| std::cmp::Reverse(row.seq));
        found.into_iter().map(|row| row.job.clone()).collect()
    }
}

fn is_held_by(job: &Job, peer: &Peer) -> bool {
    job.lease.as_ref().is_some_and(|lease| lease.peer == *peer)
}

fn joinable(
    rows: &HashMap<Handle, Row>,
    scope: &str,
    join_key: Option<&str>,
    retry_key: Option<&str>,
) -> Option<Handle> {
    let same = |row: &&Row| {
        row.job.scope == scope
            && !row.job.status.is_terminal()
            && join_key.is_some()
            && row.join_key.as_deref() == join_key
    };
    let retried = |row: &&Row| {
        row.job.scope == scope
            && row.job.expired_at.is_none()
            && retry_key.is_some()
            && row.retry_key.as_deref() == retry_key
    };
    let first = rows.values().filter(same).min_by_key(|row| row.seq);
    first.or_else(|| rows.values().filter(retried).max_by_key(|row| row.seq)).map(|row| row.job.handle)
}

#[async_trait::async_trait]
impl Store for MemoryStore {
    async fn create(&self, new: NewJob) -> Result<Created, StoreError> {
        self.writable()?;
        let now = self.clock.moment();
        let mut rows = self.rows();
        let Call { scope, join_key, retry_key, .. } = &new.call;
        let first = joinable(&rows, scope, join_key.as_deref(), retry_key.as_deref()).filter(|_| new.joins);
        if let Some(row) = first.and_then(|handle| rows.get_mut(&handle)) {
            row.apply(&Op::Join, now)?;
            let job = row.job.clone();
            drop(rows);
            self.changes.publish(job.handle);
            return Ok(Created::Joined(job));
        }
        let (job, entries) = new.written(now);
        let Call { request, join_key, retry_key, .. } = new.call;
        let mut row = Row {
            seq: self.created.fetch_add(1, Ordering::SeqCst),
            job: job.clone(),
            request: Some(request),
            join_key,
            retry_key,
            answer: None,
            inputs: vec![],
            events: vec![],
        };
        row.append(entries, now.wall);
        rows.insert(job.handle, row);
        drop(rows);
        self.changes.publish_new();
        Ok(Created::New(job))
    }

    async fn joinable(
        &self,
        scope: &str,
        join_key: Option<&str>,
        retry_key: Option<&str>,
    ) -> Result<Option<Job>, StoreError> {
        let rows = self.rows();
        let handle = joinable(&rows, scope, join_key, retry_key);
        Ok(handle.and_then(|handle| rows.get(&handle)).map(|row| row.job.clone()))
    }

    async fn apply(&self, handle: Handle, op: Op) -> Result<Job, StoreError> {
        self.writable()?;
        let job = self.apply_now(handle, &op)?;
        self.changes.publish(handle);
        Ok(job)
    }

    async fn renew(&self, peer: &Peer, lease: Duration) -> Result<(), StoreError> {
        self.writable()?;
        let now = self.clock.moment();
        for row in self.rows().values_mut() {
            if is_held_by(&row.job, peer) {
                row.job.lease = Some(Lease::new(peer.clone(), lease, now));
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

    async fn inputs(&self, handle: Handle) -> Result<Vec<Input>, StoreError> {
        Ok(self.rows().get(&handle).map(|row| row.inputs.clone()).unwrap_or_default())
    }

    async fn list(&self, query: &Query) -> Result<Vec<Job>, StoreError> {
        let older: Option<HashSet<Handle>> = query.before.map(|before| {
            let rows = self.rows();
            let seq = rows.get(&before).map_or(0, |row| row.seq);
            rows.values().filter(|row| row.seq < seq).map(|row| row.job.handle).collect()
        });
        let mut jobs = self.matching(|job| {
            older.as_ref().is_none_or(|older| older.contains(&job.handle))
                && query.scope.as_ref().is_none_or(|scope| job.scope == *scope)
                && (query.statuses.is_empty() || query.statuses.contains(&job.status))
                && query.peer.as_ref().is_none_or(|peer| is_held_by(job, peer))
                && (!(query.uncollected_only || query.unannounced_only) || job.is_outstanding())
                && (!query.unannounced_only || job.announced_at.is_none())
        });
        if query.uncollected_first {
            jobs.sort_by_key(|job| !job.is_outstanding());
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
        Ok((rows.values().filter(before).count() as u64).min(AHEAD_MAX))
    }

    async fn events(&self, handle: Handle, after: u32, limit: usize) -> Result<Vec<Event>, StoreError> {
        let rows = self.rows();
        let events = rows.get(&handle).map_or(&[][..], |row| &row.events[..]);
        Ok(events.iter().filter(|event| event.seq > after).take(limit).cloned().collect())
    }

    async fn abandoned(&self, limit: usize) -> Result<Vec<Job>, StoreError> {
        self.looks.fetch_add(1, Ordering::SeqCst);
        let now = self.clock.moment();
        let mut jobs = self.matching(|job| job.lease.as_ref().is_some_and(|lease| lease.is_over(now)));
        jobs.truncate(limit);
        Ok(jobs)
    }

    async fn next_queued(&self, peer: &Peer) -> Result<Option<Handle>, StoreError> {
        let waits = |job: &Job| job.status == Status::Queued && is_held_by(job, peer);
        Ok(self.matching(waits).last().map(|job| job.handle))
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
        self.forget(limit);
        self.letters().retain(|(left, _)| now.since(*left) < LETTER_LIFE);
        // Each digest once, whoever shared it.
        let gone: BTreeSet<String> = jobs.into_iter().filter_map(|job| job.answer?.artifact).collect();
        Ok(gone.into_iter().filter(|digest| !self.is_held(digest)).collect())
    }

    async fn holds(&self, artifact: &str) -> Result<bool, StoreError> {
        Ok(self.is_held(artifact))
    }

    async fn durations(&self, server: &str, tool: &str) -> Result<Durations, StoreError> {
        Ok(self.history().get(&(server.to_owned(), tool.to_owned())).cloned().unwrap_or_default())
    }

    async fn learn(&self, server: &str, tool: &str, durations: &Durations) -> Result<(), StoreError> {
        self.writable()?;
        self.history().entry((server.to_owned(), tool.to_owned())).or_default().merge(durations);
        Ok(())
    }

    async fn keep_session(&self, session: &KeptSession) -> Result<(), StoreError> {
        self.writable()?;
        let now = self.clock.now();
        let mut sessions = self.sessions();
        sessions.retain(|_, kept| now.since(kept.at) < SESSION_LIFE);
        let kept = sessions.entry(session.key.clone());
        let kept = kept.or_insert_with(|| Kept { session: session.clone(), at: now, has_ended: false });
        if !kept.has_ended {
            kept.at = now;
        }
        let owned = sessions.values().filter(|kept| kept.session.owner == session.owner);
        let mut owned: Vec<_> = owned.map(|kept| (kept.at, kept.session.key.clone())).collect();
        owned.sort();
        for (_, key) in owned.iter().rev().skip(SESSIONS_MAX) {
            sessions.remove(key);
        }
        Ok(())
    }

    async fn session(&self, key: &str) -> Result<Option<KeptSession>, StoreError> {
        let (now, sessions) = (self.clock.now(), self.sessions());
        let is_there = |kept: &&Kept| !kept.has_ended && now.since(kept.at) < SESSION_LIFE;
        Ok(sessions.get(key).filter(is_there).map(|kept| kept.session.clone()))
    }

    async fn end_session(&self, key: &str) -> Result<(), StoreError> {
        self.writable()?;
        if let Some(kept) = self.sessions().get_mut(key) {
            kept.has_ended = true;
        }
        self.letters().retain(|(_, letter)| letter.session != key);
        self.changes.publish_session();
        Ok(())
    }

    async fn ended_sessions(&self, keys: &[String]) -> Result<Vec<String>, StoreError> {
        self.writable()?;
        let sessions = self.sessions();
        let has_ended = |key: &&String| sessions.get(*key).is_some_and(|kept| kept.has_ended);
        Ok(keys.iter().filter(has_ended).cloned().collect())
    }

    async fn leave_letter(&self, session: &str, message: &Json) -> Result<u64, StoreError> {
        self.writable()?;
        let (id, now) = (1 + self.left.fetch_add(1, Ordering::SeqCst), self.clock.now());
        let mut letters = self.letters();
        letters.retain(|(left, _)| now.since(*left) < LETTER_LIFE);
        let of_it = letters.iter().filter(|(_, letter)| letter.session == session).count();
        if of_it >= LETTERS_MAX
            && let Some(oldest) = letters.iter().position(|(_, letter)| letter.session == session)
        {
            letters.remove(oldest);
        }
        letters.push((now, Letter { id, session: session.to_owned(), message: message.clone() }));
        drop(letters);
        self.changes.publish_session();
        Ok(id)
    }

    async fn letters(&self, sessions: &[String], after: u64) -> Result<Vec<Letter>, StoreError> {
        let letters = self.letters();
        let is_it = |letter: &&Letter| letter.id > after && sessions.contains(&letter.session);
        Ok(letters.iter().map(|(_, letter)| letter).filter(is_it).cloned().collect())
    }

    async fn forget_letter(&self, id: u64) -> Result<(), StoreError> {
        self.writable()?;
        self.letters().retain(|(_, letter)| letter.id != id);
        Ok(())
    }

    fn is_there(&self) -> bool {
        !self.rows().is_empty() || !self.sessions().is_empty()
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn changes(&self) -> &Arc<Changes> {
        &self.changes
    }
}
