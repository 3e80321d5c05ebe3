//! What the readers read. Every query goes by an index, so that its cost does not grow with the age of the store.

use meanwhile_core::event::Event;
use meanwhile_core::store::{LIST_MAX, Query};
use meanwhile_core::{Handle, Job, Json, Status, Timestamp};
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

/// The request of a job.
pub(crate) fn request(sql: &Connection, handle: Handle) -> Result<Option<Json>> {
    payload(sql, "SELECT request FROM payload WHERE job_id = (SELECT id FROM job WHERE handle = ?)", handle)
}

/// The answer of a job.
pub(crate) fn answer(sql: &Connection, handle: Handle) -> Result<Option<Json>> {
    payload(sql, "SELECT answer FROM payload WHERE job_id = (SELECT id FROM job WHERE handle = ?)", handle)
}

fn payload(sql: &Connection, text: &str, handle: Handle) -> Result<Option<Json>> {
    let mut payload = sql.prepare_cached(text)?;
    Ok(payload.query_row([handle.to_string()], |row| rows::json(row, 0)).optional()?.flatten())
}

/// How many jobs are before this one in its peer's queue.
pub(crate) fn ahead(sql: &Connection, handle: Handle) -> Result<u64> {
    let text = "SELECT count(*) FROM job AS own JOIN job AS other INDEXED BY job_queue \
                ON other.status = 'queued' AND other.lease_peer = own.lease_peer AND other.id < own.id \
                WHERE own.handle = ? AND own.status = 'queued'";
    let ahead: i64 = sql.prepare_cached(text)?.query_row([handle.to_string()], |row| row.get(0))?;
    Ok(u64::try_from(ahead).unwrap_or(0))
}

/// A page of a job's log.
pub(crate) fn events(sql: &Connection, handle: Handle, after: u32, limit: usize) -> Result<Vec<Event>> {
    let text = "SELECT seq, at, actor, kind, detail FROM event \
                WHERE job_id = (SELECT id FROM job WHERE handle = ?) AND seq > ? ORDER BY seq LIMIT ?";
    let mut events = sql.prepare_cached(text)?;
    events.query_map(params![handle.to_string(), after, most(limit)], rows::event)?.collect()
}

/// Unfinished jobs whose lease has run out, the longest forgotten first.
pub(crate) fn abandoned(sql: &Connection, now: Timestamp, limit: usize) -> Result<Vec<Job>> {
    let text = format!(
        "SELECT {COLUMNS} FROM job WHERE lease_peer IS NOT NULL AND lease_until <= ? ORDER BY lease_until LIMIT ?"
    );
    let mut jobs = sql.prepare_cached(&text)?;
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
    let mut jobs = Vec::new();
    if query.uncollected_first {
        jobs = newest(&sql, query, Part::Uncollected, limit)?;
    }
    let rest = if query.uncollected_first { Part::Rest } else { Part::All };
    let room = limit - jobs.len();
    jobs.extend(newest(&sql, query, rest, room)?);
    Ok(jobs.into_iter().map(|found| found.job).collect())
}

/// Which jobs a part of a list is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    All,
    Uncollected,
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
        let (text, mut values) = newest_text(query.scope.as_deref(), status, part);
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

fn newest_text(scope: Option<&str>, status: Option<Status>, part: Part) -> (String, Vec<Value>) {
    let mut wanted = Vec::new();
    let mut values: Vec<Value> = Vec::new();
    if let Some(scope) = scope {
        wanted.push("scope = ?");
        values.push(scope.to_owned().into());
    }
    if let Some(status) = status {
        wanted.push("status = ?");
        values.push(status.name().to_owned().into());
        // Said again, in the words of the partial indexes.
        wanted.push(if status.is_terminal() { "finished_at IS NOT NULL" } else { "finished_at IS NULL" });
    }
    match part {
        Part::All => {}
        Part::Uncollected => wanted.push(UNCOLLECTED),
        Part::Rest => wanted.push(COLLECTED),
    }
    let index = index_for(scope, status, part).map_or(String::new(), |index| format!(" INDEXED BY {index}"));
    let wanted = if wanted.is_empty() { "1" } else { &wanted.join(" AND ") };
    (format!("SELECT {COLUMNS} FROM job{index} WHERE {wanted} ORDER BY id DESC LIMIT ?"), values)
}

/// Named here rather than left to the planner, which knows nothing of how many jobs are alive.
/// `None`: along the table, from its newest end.
fn index_for(scope: Option<&str>, status: Option<Status>, part: Part) -> Option<&'static str> {
    match status {
        Some(status) if !status.is_terminal() => Some("job_unfinished"),
        _ if part == Part::Uncollected => Some("job_uncollected"),
        Some(_) => scope.map(|_| "job_ended"),
        None => scope.map(|_| "job_scope"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(scope: Option<&str>, status: Option<Status>, part: Part) -> String {
        let sql = Connection::open_in_memory().unwrap();
        sql.execute_batch(include_str!("schema.sql")).unwrap();
        let (text, mut values) = newest_text(scope, status, part);
        values.push(5.into());
        let mut plan = sql.prepare(&format!("EXPLAIN QUERY PLAN {text}")).unwrap();
        let steps: Vec<String> =
            plan.query_map(params_from_iter(values), |row| row.get(3)).unwrap().map(Result::unwrap).collect();
        steps.join("; ")
    }

    #[test]
    fn no_list_of_a_scope_walks_through_other_scopes_or_sorts_what_has_ended() {
        for status in Status::ALL.into_iter().map(Some).chain([None]) {
            for part in [Part::All, Part::Uncollected, Part::Rest] {
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
    fn a_list_of_all_scopes_goes_along_the_table_from_its_newest_end() {
        assert_eq!(plan(None, None, Part::All), "SCAN job");
        assert_eq!(plan(None, Some(Status::Failed), Part::All), "SCAN job");
        assert!(plan(None, Some(Status::Working), Part::All).contains("job_unfinished"));
        assert!(plan(None, None, Part::Uncollected).contains("job_uncollected"));
    }
}
