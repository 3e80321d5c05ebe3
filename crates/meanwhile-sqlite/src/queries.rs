//! What the readers read. Every query goes by an index, so that its cost does not grow with the age of the store.

use std::sync::LazyLock;

use meanwhile_core::event::Event;
use meanwhile_core::job::Input;
use meanwhile_core::store::{AHEAD_MAX, LIST_MAX, Query};
use meanwhile_core::{Durations, Handle, Job, Json, Moment, Snapshot, Status, Timestamp};
use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, Result, params, params_from_iter};

use crate::rows::{self, COLUMNS, Stored, parsed, stored};

/// A limit, as SQLite counts.
pub(crate) fn most(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

/// A job and its place.
pub(crate) fn find(sql: &Connection, handle: Handle) -> Result<Option<Stored>> {
    let text = format!("SELECT {COLUMNS} FROM job WHERE handle = ?");
    sql.prepare_cached(&text)?.query_row([handle.to_string()], stored).optional()
}

/// The number of the last change of a job; 0 if there is none.
pub(crate) fn last_change(sql: &Connection) -> Result<i64> {
    let mut last = sql.prepare_cached("SELECT changed FROM job ORDER BY changed DESC LIMIT 1")?;
    Ok(last.query_row([], |row| row.get(0)).optional()?.unwrap_or(0))
}

/// The jobs that have changed after `last`, at most `limit`.
pub(crate) fn changed_after(sql: &Connection, last: i64, limit: usize) -> Result<Vec<Handle>> {
    let mut changed = sql.prepare_cached(CHANGED)?;
    changed.query_map(params![last, most(limit)], |row| parsed(row, 0))?.collect()
}

const CHANGED: &str = "SELECT handle FROM job WHERE changed > ? ORDER BY changed LIMIT ?";

/// The mark of the last commit that concerned nobody.
pub(crate) fn quiet(sql: &Connection) -> Result<Option<String>> {
    let mut quiet = sql.prepare_cached("SELECT value FROM meta WHERE name = 'quiet'")?;
    quiet.query_row([], |row| row.get(0)).optional()
}

/// Another mark of this name than all before; by the clock, as the numbers of changes.
pub(crate) fn next_mark(sql: &Connection, name: &str, now: Moment) -> Result<String> {
    let text = "INSERT INTO meta (name, value) VALUES (?1, CAST(?2 AS TEXT)) ON CONFLICT (name) \
                DO UPDATE SET value = CAST(max(?2, CAST(value AS INTEGER) + 1) AS TEXT) RETURNING value";
    sql.prepare_cached(text)?.query_row(params![name, now.wall.0], |row| row.get(0))
}

/// Whether a job refers to an artifact.
pub(crate) fn holds(sql: &Connection, artifact: &str) -> Result<bool> {
    sql.prepare_cached("SELECT 1 FROM job WHERE artifact = ?")?.exists([artifact])
}

/// The job that a call would join.
pub(crate) fn joinable(
    sql: &Connection,
    scope: &str,
    join_key: Option<&str>,
    retry_key: Option<&str>,
) -> Result<Option<Stored>> {
    let look = |text: &str, key: Option<&str>| match key {
        Some(key) => sql.prepare_cached(text)?.query_row([scope, key], stored).optional(),
        None => Ok(None),
    };
    match look(&SAME, join_key)? {
        Some(first) => Ok(Some(first)),
        None => look(&RETRIED, retry_key),
    }
}

/// The oldest unfinished job of a scope with a join key.
static SAME: LazyLock<String> = LazyLock::new(|| {
    format!(
        "SELECT {COLUMNS} FROM job INDEXED BY job_unfinished \
         WHERE scope = ? AND join_key = ? AND finished_at IS NULL ORDER BY id LIMIT 1"
    )
});

/// The newest job of a scope with a retry key whose result is not gone.
static RETRIED: LazyLock<String> = LazyLock::new(|| {
    format!(
        "SELECT {COLUMNS} FROM job INDEXED BY job_retry \
         WHERE scope = ? AND retry_key = ? AND expired_at IS NULL ORDER BY id DESC LIMIT 1"
    )
});

/// How long the calls of a tool took. It is a help, not a record: what cannot be read is as if it were not known.
pub(crate) fn durations(sql: &Connection, server: &str, tool: &str) -> Result<Durations> {
    let mut text = sql.prepare_cached("SELECT durations FROM history WHERE server = ? AND tool = ?")?;
    let text: Option<String> = text.query_row([server, tool], |row| row.get(0)).optional()?;
    Ok(text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default())
}

/// The request of a job.
pub(crate) fn request(sql: &Connection, handle: Handle) -> Result<Option<Json>> {
    payload(sql, "SELECT request FROM payload WHERE job_id = (SELECT id FROM job WHERE handle = ?)", handle)
}

/// The answer of a job.
pub(crate) fn answer(sql: &Connection, handle: Handle) -> Result<Option<Json>> {
    payload(sql, "SELECT answer FROM payload WHERE job_id = (SELECT id FROM job WHERE handle = ?)", handle)
}

/// A job and its answer, as they are at one moment.
pub(crate) fn snapshot(sql: &Connection, handle: Handle) -> Result<Option<Snapshot>> {
    let Some(Stored { job, .. }) = find(sql, handle)? else { return Ok(None) };
    let answer = if job.answer.is_some() { answer(sql, handle)? } else { None };
    Ok(Some(Snapshot { job, answer }))
}

fn payload(sql: &Connection, text: &str, handle: Handle) -> Result<Option<Json>> {
    let mut payload = sql.prepare_cached(text)?;
    Ok(payload.query_row([handle.to_string()], |row| rows::json(row, 0)).optional()?.flatten())
}

/// What a job asked and was told.
pub(crate) fn inputs(sql: &Connection, handle: Handle) -> Result<Vec<Input>> {
    let mut inputs = sql.prepare_cached(INPUTS)?;
    inputs.query_map([handle.to_string()], rows::input)?.collect()
}

const INPUTS: &str = "SELECT key, question, answer, attempt FROM input \
                      WHERE job_id = (SELECT id FROM job WHERE handle = ?) ORDER BY id";

/// How many jobs are before this one in its peer's queue.
pub(crate) fn ahead(sql: &Connection, handle: Handle) -> Result<u64> {
    let text = "SELECT count(*) FROM (SELECT 1 FROM job AS own JOIN job AS other INDEXED BY job_peer \
                ON other.status = 'queued' AND other.lease_peer = own.lease_peer AND other.id < own.id \
                WHERE own.handle = ? AND own.status = 'queued' LIMIT ?)";
    let mut ahead = sql.prepare_cached(text)?;
    let ahead: i64 = ahead.query_row(params![handle.to_string(), AHEAD_MAX as i64], |row| row.get(0))?;
    Ok(u64::try_from(ahead).unwrap_or(0))
}

/// A page of a job's log.
pub(crate) fn events(sql: &Connection, handle: Handle, after: u32, limit: usize) -> Result<Vec<Event>> {
    let text = "SELECT seq, at, actor, kind, detail FROM event \
                WHERE job_id = (SELECT id FROM job WHERE handle = ?) AND seq > ? ORDER BY seq LIMIT ?";
    let mut events = sql.prepare_cached(text)?;
    events.query_map(params![handle.to_string(), after, most(limit)], rows::event)?.collect()
}

/// All unfinished jobs are looked at. They are few, it is done now and then, and an index of the leases would have to be written
/// at each start, each end, and each renewal.
static ABANDONED: LazyLock<String> = LazyLock::new(|| {
    format!(
        "SELECT {COLUMNS} FROM job INDEXED BY job_peer \
         WHERE lease_peer IS NOT NULL AND lease_until <= ? ORDER BY lease_until LIMIT ?"
    )
});

/// Unfinished jobs whose lease has run out, the longest forgotten first.
pub(crate) fn abandoned(sql: &Connection, now: Timestamp, limit: usize) -> Result<Vec<Job>> {
    let mut jobs = sql.prepare_cached(&ABANDONED)?;
    jobs.query_map(params![now.0, most(limit)], |row| stored(row).map(|found| found.job))?.collect()
}

/// The head of a peer's queue.
pub(crate) fn next_queued(sql: &Connection, peer: &str) -> Result<Option<Handle>> {
    let text = "SELECT handle FROM job WHERE status = 'queued' AND lease_peer = ? ORDER BY id LIMIT 1";
    sql.prepare_cached(text)?.query_row([peer], |row| parsed(row, 0)).optional()
}

/// The jobs that fit a query.
pub(crate) fn list(sql: &Connection, query: &Query) -> Result<Vec<Job>> {
    let limit = query.limit.min(LIST_MAX);
    // One state of the store for all parts.
    let sql = sql.unchecked_transaction()?;
    let parts = match query {
        Query { unannounced_only: true, .. } => &[Part::Unannounced][..],
        Query { uncollected_only: true, .. } => &[Part::Uncollected],
        Query { uncollected_first: true, .. } => &[Part::Uncollected, Part::Rest],
        _ => &[Part::All],
    };
    let mut jobs = Vec::new();
    for part in parts {
        let room = limit - jobs.len();
        jobs.extend(newest(&sql, query, *part, room)?);
    }
    Ok(jobs.into_iter().map(|found| found.job).collect())
}

/// Which jobs a part of a list is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    All,
    Uncollected,
    Unannounced,
    Rest,
}

const UNCOLLECTED: &str = "finished_at IS NOT NULL AND collected_at IS NULL AND expired_at IS NULL";
const COLLECTED: &str = "(finished_at IS NULL OR collected_at IS NOT NULL OR expired_at IS NOT NULL)";

/// The newest jobs of one part, over all statuses that are wanted: each status has its own place in an index.
fn newest(sql: &Connection, query: &Query, part: Part, limit: usize) -> Result<Vec<Stored>> {
    if limit == 0 {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for status in statuses(query) {
        let (text, mut values) = newest_text(query, status, part);
        values.push(most(limit).into());
        let mut jobs = sql.prepare_cached(&text)?;
        for job in jobs.query_map(params_from_iter(values), stored)? {
            found.push(job?);
        }
    }
    found.sort_by_key(|stored| std::cmp::Reverse(stored.id));
    found.truncate(limit);
    Ok(found)
}

/// Each wanted status once; `None` alone is every status.
fn statuses(query: &Query) -> Vec<Option<Status>> {
    if query.statuses.is_empty() {
        return vec![None];
    }
    Status::ALL.into_iter().filter(|status| query.statuses.contains(status)).map(Some).collect()
}

fn newest_text(query: &Query, status: Option<Status>, part: Part) -> (String, Vec<Value>) {
    let mut wanted = Vec::new();
    let mut values: Vec<Value> = Vec::new();
    if let Some(scope) = &query.scope {
        wanted.push("scope = ?");
        values.push(scope.clone().into());
    }
    if let Some(peer) = &query.peer {
        wanted.push("lease_peer = ?");
        values.push(peer.clone().into());
    }
    if let Some(status) = status {
        wanted.push("status = ?");
        values.push(status.name().to_owned().into());
        // Said again, in the words of the partial indexes.
        wanted.push(if status.is_terminal() { "finished_at IS NOT NULL" } else { "finished_at IS NULL" });
    }
    if let Some(before) = &query.before {
        wanted.push("id < (SELECT id FROM job WHERE handle = ?)");
        values.push(before.to_string().into());
    }
    match part {
        Part::All => {}
        Part::Uncollected => wanted.push(UNCOLLECTED),
        Part::Unannounced => wanted.extend([UNCOLLECTED, "announced_at IS NULL"]),
        Part::Rest => wanted.push(COLLECTED),
    }
    let index = index_for(query, status, part).map_or(String::new(), |index| format!(" INDEXED BY {index}"));
    let wanted = if wanted.is_empty() { "1" } else { &wanted.join(" AND ") };
    (format!("SELECT {COLUMNS} FROM job{index} WHERE {wanted} ORDER BY id DESC LIMIT ?"), values)
}

/// Named here rather than left to the planner, which knows nothing of how many jobs are alive.
/// `None`: along the table, from its newest end.
fn index_for(query: &Query, status: Option<Status>, part: Part) -> Option<&'static str> {
    let scope = query.scope.as_ref();
    match status {
        _ if query.peer.is_some() => Some("job_peer"),
        Some(status) if !status.is_terminal() => Some("job_unfinished"),
        _ if part == Part::Uncollected => Some("job_uncollected"),
        _ if part == Part::Unannounced => Some("job_unannounced"),
        Some(_) => scope.map(|_| "job_ended"),
        None => scope.map(|_| "job_scope"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::plan_of;

    fn plan(scope: Option<&str>, status: Option<Status>, part: Part) -> String {
        plan_of_list(&Query { scope: scope.map(str::to_owned), ..Query::default() }, status, part)
    }

    fn plan_of_list(query: &Query, status: Option<Status>, part: Part) -> String {
        let (text, mut values) = newest_text(query, status, part);
        values.push(5.into());
        plan_of(&text, values)
    }

    #[test]
    fn no_list_of_a_scope_walks_through_other_scopes_or_sorts_what_has_ended() {
        for status in Status::ALL.into_iter().map(Some).chain([None]) {
            for part in [Part::All, Part::Uncollected, Part::Unannounced, Part::Rest] {
                let plan = plan(Some("me"), status, part);
                assert!(plan.starts_with("SEARCH job USING INDEX"), "{status:?} {part:?}: {plan}");
                let is_sorted = plan.contains("TEMP B-TREE");
                assert_eq!(
                    is_sorted,
                    status.is_some_and(|status| !status.is_terminal()),
                    "{status:?} {part:?}: {plan}"
                );
            }
        }
    }

    #[test]
    fn a_list_of_a_peer_looks_at_its_jobs_alone() {
        for scope in [None, Some("me".to_owned())] {
            let query = Query { scope, peer: Some("one".to_owned()), ..Query::default() };
            for status in Status::ALL.into_iter().map(Some).chain([None]) {
                for part in [Part::All, Part::Uncollected, Part::Unannounced, Part::Rest] {
                    let plan = plan_of_list(&query, status, part);
                    assert!(plan.starts_with("SEARCH job USING INDEX job_peer (lease_peer=?"), "{plan}");
                }
            }
        }
    }

    #[test]
    fn the_inputs_of_a_job_are_found_by_their_job() {
        let plan = plan_of(INPUTS, vec!["job_".to_owned().into()]);
        assert!(plan.starts_with("SEARCH input USING INDEX") && plan.contains("(job_id=?)"), "{plan}");
    }

    #[test]
    fn a_look_for_what_has_changed_reads_nothing_else() {
        let plan = plan_of(CHANGED, vec![1.into(), 1.into()]);
        assert_eq!(plan, "SEARCH job USING INDEX job_changed (changed>?)");
    }

    #[test]
    fn a_look_for_a_job_to_join_is_one_step_into_an_index() {
        for (text, expected) in [
            (&*SAME, "SEARCH job USING INDEX job_unfinished (scope=? AND join_key=?)"),
            (&*RETRIED, "SEARCH job USING INDEX job_retry (scope=? AND retry_key=?)"),
        ] {
            assert_eq!(plan_of(text, vec!["me".to_owned().into(), "key".to_owned().into()]), expected);
        }
    }

    #[test]
    fn a_look_for_leases_that_have_run_out_passes_over_what_has_ended() {
        let plan = plan_of(&ABANDONED, vec![1.into(), 1.into()]);
        assert!(plan.starts_with("SEARCH job USING INDEX job_peer"), "{plan}");
    }

    #[test]
    fn a_list_of_all_scopes_goes_along_the_table_from_its_newest_end() {
        assert_eq!(plan(None, None, Part::All), "SCAN job");
        assert_eq!(plan(None, Some(Status::Failed), Part::All), "SCAN job");
        assert!(plan(None, Some(Status::Working), Part::All).contains("job_unfinished"));
        assert!(plan(None, None, Part::Uncollected).contains("job_uncollected"));
    }
}
