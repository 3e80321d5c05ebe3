//! What the writer does inside its transaction. A call that is refused has written nothing.

use std::collections::BTreeSet;
use std::time::Duration;

use meanwhile_core::event::{Actor, EventKind};
use meanwhile_core::machine::{self, Op, Outcome};
use meanwhile_core::store::{Created, NewJob};
use meanwhile_core::{Handle, Job, StoreError};
use rusqlite::{OptionalExtension, Result, params};

use crate::queries::{find, most};
use crate::rows::{self, COLUMNS, Stored, parsed, stored};
use crate::writer::Tx;

/// A result inside a result: the outer is the database's, the inner is the call's own answer.
type Answer<T> = Result<std::result::Result<T, StoreError>>;

/// Writes a job down, or joins one.
pub(crate) fn create(tx: &mut Tx<'_>, new: &NewJob) -> Answer<Created> {
    if let Some(first) = joinable(tx, new)? {
        return Ok(Ok(Created::Joined(join(tx, first)?)));
    }
    let (job, request, join_key, entries) = new.clone().into_job(tx.now);
    let id = rows::insert(tx.sql, &job, join_key)?;
    tx.sql
        .prepare_cached("INSERT INTO payload (job_id, request) VALUES (?, ?)")?
        .execute(params![id, request.get()])?;
    rows::append(tx.sql, id, 0, tx.now, &entries)?;
    tx.changed.push(job.handle);
    Ok(Ok(Created::New(job)))
}

fn joinable(tx: &Tx<'_>, new: &NewJob) -> Result<Option<Stored>> {
    let Some(key) = new.call.join_key.as_ref().filter(|_| new.joins) else { return Ok(None) };
    let text = format!(
        "SELECT {COLUMNS} FROM job WHERE scope = ? AND join_key = ? AND finished_at IS NULL ORDER BY id LIMIT 1"
    );
    tx.sql.prepare_cached(&text)?.query_row(params![new.call.scope, key], stored).optional()
}

fn join(tx: &mut Tx<'_>, first: Stored) -> Result<Job> {
    let Stored { id, job: before } = first;
    let mut job = before.clone();
    job.events += 1;
    rows::update(tx.sql, id, &before, &job)?;
    rows::append(tx.sql, id, before.events, tx.now, &[(Actor::Agent, EventKind::Joined)])?;
    tx.changed.push(job.handle);
    Ok(job)
}

/// Does `op` to a job.
pub(crate) fn apply(tx: &mut Tx<'_>, handle: Handle, op: &Op) -> Answer<Job> {
    let Some(Stored { id, job: before }) = find(tx.sql, handle)? else {
        return Ok(Err(StoreError::NotFound(handle)));
    };
    let mut job = before.clone();
    let entries = match machine::apply(&mut job, op, tx.now) {
        Ok(entries) => entries,
        Err(refused) => return Ok(Err(refused.into())),
    };
    rows::update(tx.sql, id, &before, &job)?;
    rows::append(tx.sql, id, before.events, tx.now, &entries)?;
    if let Op::Finish { outcome: Outcome::Completed(answer), .. } = op {
        tx.sql
            .prepare_cached("UPDATE payload SET answer = ? WHERE job_id = ?")?
            .execute(params![answer.get(), id])?;
    }
    if job.expired_at.is_some() {
        tx.sql.prepare_cached("DELETE FROM payload WHERE job_id = ?")?.execute([id])?;
    }
    tx.changed.push(handle);
    Ok(Ok(job))
}

/// Prolongs the leases of a peer. Nobody waits for that, so nobody is told.
pub(crate) fn renew(tx: &mut Tx<'_>, peer: &str, lease: Duration) -> Answer<()> {
    let text = "UPDATE job SET lease_until = ?1 WHERE id IN \
                (SELECT id FROM job INDEXED BY job_lease WHERE lease_peer IS NOT NULL AND lease_peer = ?2)";
    tx.sql.prepare_cached(text)?.execute(params![tx.now.after(lease).0, peer])?;
    Ok(Ok(()))
}

/// Ends the life of results whose time is over, and returns the artifacts that no job refers to any more.
pub(crate) fn expire(tx: &mut Tx<'_>, limit: usize) -> Answer<Vec<String>> {
    let mut artifacts = BTreeSet::new();
    for (handle, artifact) in over(tx, limit)? {
        if let Err(error) = apply(tx, handle, &Op::Expire)? {
            return Ok(Err(error));
        }
        artifacts.extend(artifact);
    }
    let mut left = Vec::new();
    for artifact in artifacts {
        let mut is_held = tx.sql.prepare_cached("SELECT 1 FROM job WHERE artifact = ?")?;
        if !is_held.exists([&artifact])? {
            left.push(artifact);
        }
    }
    Ok(Ok(left))
}

fn over(tx: &Tx<'_>, limit: usize) -> Result<Vec<(Handle, Option<String>)>> {
    let text = "SELECT handle, artifact FROM job WHERE expired_at IS NULL AND expires_at IS NOT NULL AND expires_at <= ? \
                ORDER BY expires_at LIMIT ?";
    let mut over = tx.sql.prepare_cached(text)?;
    over.query_map(params![tx.now.0, most(limit)], |row| Ok((parsed(row, 0)?, row.get(1)?)))?.collect()
}
