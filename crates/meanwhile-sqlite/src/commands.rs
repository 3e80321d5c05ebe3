//! What the writer does inside its transaction. A call that is refused has written nothing.

use std::collections::BTreeSet;
use std::time::Duration;

use meanwhile_core::history::lesson;
use meanwhile_core::job::Lease;
use meanwhile_core::machine::{self, Op, Outcome};
use meanwhile_core::store::{Created, NewJob, TOMBSTONE};
use meanwhile_core::{Durations, Handle, Job, StoreError};
use rusqlite::{Result, params};

use crate::queries::{durations, find, holds, joinable, most};
use crate::rows::{self, Stored, parsed};
use crate::sessions;
use crate::writer::Tx;

/// A result inside a result: the outer is the database's, the inner is the call's own answer.
type Answer<T> = Result<std::result::Result<T, StoreError>>;

/// Writes a job down, or joins one.
pub(crate) fn create(tx: &mut Tx<'_>, new: &NewJob) -> Answer<Created> {
    let NewJob { call, joins, .. } = new;
    if *joins
        && let Some(first) =
            joinable(tx.sql, &call.scope, call.join_key.as_deref(), call.retry_key.as_deref())?
    {
        return Ok(change(tx, first, &Op::Join)?.map(Created::Joined));
    }
    let (job, entries) = new.written(tx.now);
    let id = rows::insert(tx.sql, &job, call, tx.next_change()?)?;
    tx.sql
        .prepare_cached("INSERT INTO payload (job_id, request) VALUES (?, ?)")?
        .execute(params![id, call.request.get()])?;
    rows::append(tx.sql, id, 0, tx.now.wall, &entries)?;
    tx.news.has_new = true;
    Ok(Ok(Created::New(job)))
}

/// Does `op` to a job.
pub(crate) fn apply(tx: &mut Tx<'_>, handle: Handle, op: &Op) -> Answer<Job> {
    match find(tx.sql, handle)? {
        Some(found) => change(tx, found, op),
        None => Ok(Err(StoreError::NotFound(handle))),
    }
}

fn change(tx: &mut Tx<'_>, found: Stored, op: &Op) -> Answer<Job> {
    let Stored { id, job: before } = found;
    let mut job = before.clone();
    let entries = match machine::apply(&mut job, op, tx.now) {
        Ok(entries) => entries,
        Err(refused) => return Ok(Err(refused.into())),
    };
    rows::update(tx.sql, id, &before, &job, tx.next_change()?)?;
    rows::append(tx.sql, id, before.events, tx.now.wall, &entries)?;
    for written in machine::written_inputs(op, &entries) {
        rows::write_input(tx.sql, id, &job, written)?;
    }
    if let Op::Finish { outcome: Outcome::Completed(answer), .. } = op {
        tx.sql
            .prepare_cached("UPDATE payload SET answer = ? WHERE job_id = ?")?
            .execute(params![answer.get(), id])?;
    }
    if let Some(took) = lesson(op, &job) {
        teach(tx, &job.server, &job.tool, |durations| durations.record(took))?;
    }
    if job.expired_at.is_some() {
        tx.sql.prepare_cached("DELETE FROM payload WHERE job_id = ?")?.execute([id])?;
        tx.sql.prepare_cached("DELETE FROM input WHERE job_id = ?")?.execute([id])?;
    }
    tx.news.add(job.handle);
    Ok(Ok(job))
}

/// Adds to what is known of a tool's calls. Nobody waits for that, so nobody is told.
pub(crate) fn learn(tx: &mut Tx<'_>, server: &str, tool: &str, durations: &Durations) -> Answer<()> {
    teach(tx, server, tool, |known| known.merge(durations))?;
    tx.mark_quiet().map(Ok)
}

fn teach(tx: &Tx<'_>, server: &str, tool: &str, add: impl FnOnce(&mut Durations)) -> Result<()> {
    let mut known = durations(tx.sql, server, tool)?;
    add(&mut known);
    let text = "INSERT OR REPLACE INTO history (server, tool, durations) VALUES (?, ?, ?)";
    let known = serde_json::to_string(&known).map_err(rows::to_sql)?;
    tx.sql.prepare_cached(text)?.execute(params![server, tool, known]).map(drop)
}

const RENEW: &str = "UPDATE job SET lease_until = ?1 WHERE id IN \
                     (SELECT id FROM job INDEXED BY job_peer WHERE lease_peer = ?2)";

/// Prolongs the leases of a peer. Nobody waits for that, so nobody is told.
pub(crate) fn renew(tx: &mut Tx<'_>, peer: &str, lease: Duration) -> Answer<()> {
    let lease = Lease::new(peer.to_owned(), lease, tx.now);
    tx.sql.prepare_cached(RENEW)?.execute(params![lease.until.0, lease.peer])?;
    tx.mark_quiet().map(Ok)
}

/// Ends the life of results whose time is over, forgets old tombstones and letters, and returns the artifacts that no job refers to
/// any more.
pub(crate) fn expire(tx: &mut Tx<'_>, limit: usize) -> Answer<Vec<String>> {
    let mut artifacts = BTreeSet::new();
    for (handle, artifact) in over(tx, limit)? {
        if let Err(error) = apply(tx, handle, &Op::Expire)? {
            return Ok(Err(error));
        }
        artifacts.extend(artifact);
    }
    forget(tx, limit)?;
    sessions::forget_old(tx)?;
    let mut left = Vec::new();
    for artifact in artifacts {
        if !holds(tx.sql, &artifact)? {
            left.push(artifact);
        }
    }
    Ok(Ok(left))
}

/// Results whose time to live is over.
const OVER: &str = "SELECT handle, artifact FROM job WHERE expired_at IS NULL AND expires_at IS NOT NULL AND expires_at <= ? \
                    ORDER BY expires_at LIMIT ?";

fn over(tx: &Tx<'_>, limit: usize) -> Result<Vec<(Handle, Option<String>)>> {
    let mut over = tx.sql.prepare_cached(OVER)?;
    over.query_map(params![tx.now.wall.0, most(limit)], |row| Ok((parsed(row, 0)?, row.get(1)?)))?.collect()
}

/// Tombstones that have stood long enough. Their events go with them.
const OLD: &str = "DELETE FROM job WHERE id IN \
                   (SELECT id FROM job WHERE expired_at IS NOT NULL AND expired_at <= ? ORDER BY expired_at LIMIT ?) \
                   RETURNING handle";

fn forget(tx: &mut Tx<'_>, limit: usize) -> Result<()> {
    let mut old = tx.sql.prepare_cached(OLD)?;
    for handle in
        old.query_map(params![tx.now.wall.before(TOMBSTONE).0, most(limit)], |row| parsed(row, 0))?
    {
        tx.news.add(handle?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::plan_of;

    #[test]
    fn the_sweep_looks_at_nothing_whose_time_is_not_over() {
        let values = || vec![1.into(), 1.into()];
        for (text, expected) in [
            (OVER, "SEARCH job USING INDEX job_expiry (expires_at>? AND expires_at<?)"),
            (OLD, "SEARCH job USING COVERING INDEX job_tombstone (expired_at>? AND expired_at<?)"),
        ] {
            let plan = plan_of(text, values());
            assert!(plan.contains(expected), "{plan}");
            assert!(!plan.contains("SCAN job") && !plan.contains("TEMP B-TREE"), "{plan}");
        }
    }

    #[test]
    fn what_belongs_to_a_forgotten_job_is_found_by_its_key() {
        for table in ["event", "payload", "input"] {
            let plan = plan_of(&format!("DELETE FROM {table} WHERE job_id = ?"), vec![1.into()]);
            assert!(plan.starts_with(&format!("SEARCH {table} USING")), "{plan}");
        }
    }

    #[test]
    fn a_renewal_looks_at_the_jobs_of_its_peer_alone() {
        let plan = plan_of(RENEW, vec![1.into(), "one".to_owned().into()]);
        assert!(plan.contains("SEARCH job USING COVERING INDEX job_peer (lease_peer=?)"), "{plan}");
        assert!(!plan.contains("SCAN job"), "{plan}");
    }
}
