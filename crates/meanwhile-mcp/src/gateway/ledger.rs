//! What the agent has been told of its jobs, and what it has not: ended jobs are named once behind the next answer, and a
//! repeat of a call finds the job of the first, whichever session or process that was in.
//!
//! No call costs a look at the store unless something may have changed since the last one, and none at all until the store is
//! in use: it was there at the start, a job was made, or another process has made it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use meanwhile_core::changes::Subscription;
use meanwhile_core::store::Query;
use meanwhile_core::{Handle, Job, Json, Op, Status, Store, StoreError, Timestamp};
use serde_json::value::RawValue;

use super::open_call::Asked;
use super::reply::text_block;
use super::{Gateway, lock};
use crate::catalog::Catalog;
use crate::message::{Answer, Fields};
use crate::words::{self, LIST_JOBS, LIST_MAX, POLL_RESULT};

/// For how long after its end a job is looked for by the retry of its call.
const RETRIED_WITHIN: Duration = Duration::from_secs(15 * 60);
/// How many of the newest jobs are looked at to see whether one has ended lately.
const NEWEST: usize = 20;
/// So many jobs are remembered as told in this session, for as long as the store may not say so yet.
const TOLD_MAX: usize = 1024;
/// How often it is looked whether another process has made the store.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// How long a new session is kept waiting for the number of its outstanding jobs.
const INTRODUCTION: Duration = Duration::from_secs(1);

pub(super) struct Ledger {
    is_in_use: AtomicBool,
    known: Mutex<Known>,
    /// When it was last seen that there is no store yet.
    missed: Mutex<Option<Instant>>,
}

struct Known {
    changes: Subscription,
    /// Since the last change it was seen that nothing is to be told.
    is_quiet: bool,
    /// What could be joined when it was last looked.
    joins: Option<Joins>,
    /// Counts the changes, so that what was read before one is not taken for what holds after it.
    changed: u64,
    told: VecDeque<Handle>,
}

#[derive(Clone, Copy)]
struct Joins {
    has_unfinished: bool,
    /// The newest job that has ended can be met by a retry until then.
    retried_until: Option<Timestamp>,
}

impl Ledger {
    pub(super) fn new(store: &dyn Store) -> Ledger {
        let known = Known {
            changes: store.changes().of_any(),
            is_quiet: false,
            joins: None,
            changed: 0,
            told: VecDeque::new(),
        };
        Ledger { is_in_use: store.is_there().into(), known: Mutex::new(known), missed: Mutex::default() }
    }

    pub(super) fn is_in_use(&self) -> bool {
        self.is_in_use.load(Ordering::Relaxed)
    }

    pub(super) fn use_store(&self) {
        self.is_in_use.store(true, Ordering::Relaxed);
    }

    /// Another process may have made the store. A call costs a look at most once in a while.
    fn find_store(&self, store: &dyn Store) {
        if self.is_in_use() {
            return;
        }
        let mut missed = lock(&self.missed);
        if missed.is_some_and(|missed| missed.elapsed() < LOOK_AGAIN) {
            return;
        }
        *missed = Some(Instant::now());
        if store.is_there() {
            self.use_store();
        }
    }

    /// The agent is being told how this job ended. Returns whether that is new in this session.
    pub(super) fn tell(&self, handle: Handle) -> bool {
        let mut known = lock(&self.known);
        if known.told.contains(&handle) {
            return false;
        }
        if known.told.len() == TOLD_MAX {
            known.told.pop_front();
        }
        known.told.push_back(handle);
        true
    }

    fn remember(&self, joins: Joins, changed: u64) -> Joins {
        let mut known = lock(&self.known);
        if known.changed == changed {
            known.joins = Some(joins);
        }
        joins
    }

    fn up_to_date(&self) -> std::sync::MutexGuard<'_, Known> {
        let mut known = lock(&self.known);
        if known.changes.take_change() {
            (known.is_quiet, known.joins) = (false, None);
            known.changed += 1;
        }
        known
    }
}

impl Gateway {
    /// Looks for a store that other processes have made since this one began.
    pub(super) fn notice_store(&self) {
        self.ledger.find_store(&**self.engine.store());
    }

    /// An answer of a tool with, behind its content, the jobs that have ended meanwhile and that nobody has asked for.
    /// Otherwise, and for an answer that has no content, it stays word for word as it is.
    pub(super) async fn with_news(self: &Arc<Self>, answer: Answer, catalog: &Catalog) -> Answer {
        let Answer::Result(result) = &answer else { return answer };
        if !self.ledger.is_in_use() || self.ledger.up_to_date().is_quiet {
            return answer;
        }
        let Some(fields) = with_content(result) else { return answer };
        let jobs = Box::pin(self.unannounced()).await;
        if jobs.is_empty() { answer } else { self.add_news(fields, jobs, catalog) }
    }

    fn add_news(self: &Arc<Self>, mut fields: Fields, jobs: Vec<Job>, catalog: &Catalog) -> Answer {
        let (poll, list) = (catalog.our_name(POLL_RESULT), catalog.our_name(LIST_JOBS));
        let block = text_block(&words::ended_meanwhile(&jobs, &poll, &list));
        let content = fields.get("content").map_or("[]", |content| content.get());
        let content = RawValue::from_string(appended(content, block.get()));
        fields.set("content", content.expect("an item was added to a list"));
        self.announced(jobs);
        Answer::Result(fields.to_json())
    }

    async fn unannounced(&self) -> Vec<Job> {
        // Whatever changes while it is looked is seen at the next answer.
        lock(&self.ledger.known).is_quiet = true;
        let wanted = Query { unannounced_only: true, ..self.outstanding() };
        let mut jobs = self.engine.store().list(&wanted).await.unwrap_or_else(|error| {
            tracing::warn!(%error, "the jobs that have ended cannot be read");
            vec![]
        });
        jobs.retain(|job| self.ledger.tell(job.handle));
        jobs
    }

    /// Remembers that these jobs were named. The answer does not wait for it.
    pub(super) fn announced(self: &Arc<Self>, jobs: Vec<Job>) {
        let store = self.engine.store().clone();
        self.requests.spawn(async move {
            for Job { handle, .. } in jobs {
                if let Err(error) = store.apply(handle, Op::Announce).await {
                    tracing::debug!(%handle, %error, "not marked as announced");
                }
            }
        });
    }

    fn outstanding(&self) -> Query {
        let scope = Some(self.settings.scope.clone());
        Query { scope, uncollected_only: true, limit: LIST_MAX, ..Query::default() }
    }

    /// How many results wait for this scope, for the introduction of a new session. It does not keep a session from
    /// beginning.
    pub(super) async fn count_outstanding(&self) -> usize {
        if !self.ledger.is_in_use() {
            return 0;
        }
        let wanted = self.outstanding();
        match tokio::time::timeout(INTRODUCTION, self.engine.store().list(&wanted)).await {
            Ok(Ok(jobs)) => jobs.len(),
            Ok(Err(error)) => {
                tracing::warn!(%error, "the jobs that wait cannot be counted");
                0
            }
            Err(_) => 0,
        }
    }

    /// The job that this call repeats, of whichever session or process.
    pub(super) async fn joinable(self: &Arc<Self>, asked: &Asked) -> Option<Job> {
        if !asked.may_become_a_job() || !self.ledger.is_in_use() || !Box::pin(self.may_join(asked)).await {
            return None;
        }
        let call = asked.call(&self.settings);
        let store = self.engine.store();
        let found = store.joinable(&call.scope, call.join_key.as_deref(), call.retry_key.as_deref()).await;
        let job = found.unwrap_or_else(|error| {
            tracing::warn!(%error, tool = call.tool, "whether the call is a repeat is not known");
            None
        })?;
        let (store, handle) = (store.clone(), job.handle);
        self.requests.spawn(async move {
            if let Err(error) = store.apply(handle, Op::Join).await {
                tracing::debug!(%handle, %error, "not marked as joined");
            }
        });
        Some(job)
    }

    async fn may_join(&self, asked: &Asked) -> bool {
        let (known, changed) = {
            let known = self.ledger.up_to_date();
            (known.joins, known.changed)
        };
        let joins = match known {
            Some(joins) => joins,
            None => match self.look_for_joins().await {
                Ok(joins) => self.ledger.remember(joins, changed),
                Err(error) => {
                    tracing::warn!(%error, "the jobs of this scope cannot be read");
                    return false;
                }
            },
        };
        let is_retried = || joins.retried_until.is_some_and(|until| self.engine.now() < until);
        joins.has_unfinished || (is_retried() && asked.call(&self.settings).retry_key.is_some())
    }

    async fn look_for_joins(&self) -> Result<Joins, StoreError> {
        let scope = Some(self.settings.scope.clone());
        let statuses = Status::UNFINISHED.to_vec();
        let unfinished = Query { scope, statuses, limit: 1, ..Query::default() };
        let newest = Query { statuses: vec![], limit: NEWEST, ..unfinished.clone() };
        let store = self.engine.store();
        let has_unfinished = !store.list(&unfinished).await?.is_empty();
        let newest = store.list(&newest).await?;
        let last_end = newest.iter().filter_map(|job| job.finished_at).max();
        Ok(Joins { has_unfinished, retried_until: last_end.map(|end| end.after(RETRIED_WITHIN)) })
    }
}

/// The fields of a result that has content to add to.
fn with_content(result: &Json) -> Option<Fields> {
    let fields = Fields::parse(result.get()).ok()?;
    let is_list = fields.get("content")?.get().starts_with('[');
    is_list.then_some(fields)
}

/// A JSON list with one more item; the others stay the texts they are.
fn appended(list: &str, item: &str) -> String {
    let items = list.trim_end().strip_suffix(']').unwrap_or(list);
    let comma = if items[1..].trim().is_empty() { "" } else { "," };
    format!("{items}{comma}{item}]")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_appended_and_what_was_there_stays_word_for_word() {
        assert_eq!(appended("[]", "1"), "[1]");
        assert_eq!(appended("[ ]", "1"), "[ 1]");
        assert_eq!(appended(r#"[{"a": 1.0, "b":[2] } ]"#, "1"), r#"[{"a": 1.0, "b":[2] } ,1]"#);
    }

    #[test]
    fn only_a_result_with_a_list_of_content_is_added_to() {
        let text = |text: &str| {
            with_content(&crate::message::to_json(&serde_json::from_str::<serde_json::Value>(text).unwrap()))
        };
        assert!(text(r#"{"content":[]}"#).is_some());
        assert!(text(r#"{"content":"x"}"#).is_none() && text("{}").is_none() && text("7").is_none());
    }
}
