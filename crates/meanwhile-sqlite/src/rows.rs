//! A row of the store ⇄ a [`Job`], an [`Event`], a JSON text.

use std::str::FromStr;
use std::sync::LazyLock;
use std::time::Duration;

use meanwhile_core::event::{Actor, Event, EventKind};
use meanwhile_core::job::{AnswerInfo, Call, Failure, FailureKind, Input, Lease, Policy};
use meanwhile_core::machine::{Entry, WrittenInput};
use meanwhile_core::{Job, Json, Status, Timestamp};
use rusqlite::types::{FromSql, Type, Value};
use rusqlite::{CachedStatement, Connection, Error, Result, Row, params, params_from_iter};

/// A job with its place in the order of creation.
#[derive(Debug, Clone)]
pub(crate) struct Stored {
    pub(crate) id: i64,
    pub(crate) job: Job,
}

/// A column of `job`, and what a job has in it.
type Column = (&'static str, fn(&Job) -> Value);

/// What is written once.
const FIXED: [Column; 9] = [
    ("handle", |job| job.handle.to_string().into()),
    ("scope", |job| job.scope.clone().into()),
    ("server", |job| job.server.clone().into()),
    ("tool", |job| job.tool.clone().into()),
    ("conversation", |job| job.conversation.clone().into()),
    ("rerun", |job| i64::from(job.policy.rerun).into()),
    ("timeout_us", |job| job.policy.timeout.map(micros).into()),
    ("ttl_us", |job| micros(job.policy.ttl).into()),
    ("created_at", |job| job.created_at.0.into()),
];

/// What no index looks at.
const QUIET: [Column; 12] = [
    ("message", |job| job.message.clone().into()),
    ("progress", |job| {
        job.progress.as_ref().and_then(|progress| serde_json::to_string(progress).ok()).into()
    }),
    ("attempt", |job| integer(job.attempt).into()),
    ("cancel_requested_at", |job| time(job.cancel_requested_at)),
    ("answer_bytes", |job| job.answer.as_ref().map(|answer| integer(answer.bytes)).into()),
    ("failure_message", |job| job.failure.as_ref().map(|failure| failure.message.clone()).into()),
    ("started_at", |job| time(job.started_at)),
    ("updated_at", |job| job.updated_at.0.into()),
    ("events", |job| i64::from(job.events).into()),
    ("questions", |job| i64::from(job.questions).into()),
    ("open", |job| open_text(&job.open).into()),
    ("upstream_task", |job| job.upstream_task.clone().into()),
];

/// What an index looks at, and what is set together with it.
const INDEXED: [Column; 11] = [
    ("status", |job| job.status.name().to_owned().into()),
    ("lease_peer", |job| job.lease.as_ref().map(|lease| lease.peer.clone()).into()),
    ("lease_until", |job| job.lease.as_ref().map(|lease| lease.until.0).into()),
    ("artifact", |job| job.answer.as_ref().and_then(|answer| answer.artifact.clone()).into()),
    ("failure_kind", |job| job.failure.as_ref().map(|failure| kind_name(failure.kind).to_owned()).into()),
    ("failure_error", |job| error_of(job).into()),
    ("finished_at", |job| time(job.finished_at)),
    ("announced_at", |job| time(job.announced_at)),
    ("collected_at", |job| time(job.collected_at)),
    ("expires_at", |job| time(job.expires_at)),
    ("expired_at", |job| time(job.expired_at)),
];

/// The columns that [`stored`] reads, in its order.
pub(crate) const COLUMNS: &str = "id, handle, scope, server, tool, rerun, timeout_us, ttl_us, status, message, progress, \
     attempt, lease_peer, lease_until, cancel_requested_at, answer_bytes, artifact, failure_kind, failure_message, \
     failure_error, created_at, started_at, updated_at, finished_at, collected_at, expires_at, expired_at, events, \
     conversation, announced_at, questions, open, upstream_task";

/// The job of a row of [`COLUMNS`].
pub(crate) fn stored(row: &Row<'_>) -> Result<Stored> {
    let job = Job {
        handle: parsed(row, 1)?,
        scope: row.get(2)?,
        server: row.get(3)?,
        tool: row.get(4)?,
        conversation: row.get(28)?,
        policy: Policy {
            rerun: row.get(5)?,
            timeout: row.get::<_, Option<i64>>(6)?.map(duration),
            ttl: duration(row.get(7)?),
        },
        status: named(row, 8, Status::from_name)?,
        message: row.get(9)?,
        // The latest progress is a courtesy: a job is not lost over a report that cannot be read.
        progress: row.get::<_, Option<String>>(10)?.and_then(|text| serde_json::from_str(&text).ok()),
        attempt: unsigned(row.get(11)?),
        lease: both(row, 12, 13)?.map(|(peer, until)| Lease { peer, until: Timestamp(until) }),
        cancel_requested_at: timestamp(row, 14)?,
        answer: answer(row)?,
        failure: failure(row)?,
        created_at: Timestamp(row.get(20)?),
        started_at: timestamp(row, 21)?,
        updated_at: Timestamp(row.get(22)?),
        finished_at: timestamp(row, 23)?,
        announced_at: timestamp(row, 29)?,
        collected_at: timestamp(row, 24)?,
        expires_at: timestamp(row, 25)?,
        expired_at: timestamp(row, 26)?,
        events: u32::try_from(row.get::<_, i64>(27)?).unwrap_or(u32::MAX),
        questions: u32::try_from(row.get::<_, i64>(30)?).unwrap_or(u32::MAX),
        open: open(row)?,
        upstream_task: row.get(32)?,
    };
    Ok(Stored { id: row.get(0)?, job })
}

fn answer(row: &Row<'_>) -> Result<Option<AnswerInfo>> {
    let Some(bytes) = row.get::<_, Option<i64>>(15)? else { return Ok(None) };
    Ok(Some(AnswerInfo { bytes: unsigned(bytes), artifact: row.get(16)? }))
}

fn open(row: &Row<'_>) -> Result<Vec<String>> {
    let Some(text) = row.get::<_, Option<String>>(31)? else { return Ok(vec![]) };
    serde_json::from_str(&text).map_err(|error| unreadable(31, error))
}

fn open_text(open: &[String]) -> Option<String> {
    if open.is_empty() { None } else { serde_json::to_string(open).ok() }
}

fn failure(row: &Row<'_>) -> Result<Option<Failure>> {
    if row.get_ref(17)? == rusqlite::types::ValueRef::Null {
        return Ok(None);
    }
    let kind = named(row, 17, kind_from_name)?;
    Ok(Some(Failure { kind, message: row.get(18)?, error: json(row, 19)? }))
}

/// Writes a new job's row, under this number of the change, and returns its place in the order of creation.
pub(crate) fn insert(sql: &Connection, job: &Job, call: &Call, changed: i64) -> Result<i64> {
    static TEXT: LazyLock<String> = LazyLock::new(|| {
        let names: Vec<&str> = all().map(|(name, _)| name).collect();
        let marks = vec!["?"; names.len()].join(", ");
        format!(
            "INSERT INTO job ({}, join_key, retry_key, changed) VALUES ({marks}, ?, ?, ?)",
            names.join(", ")
        )
    });
    let keys = [call.join_key.clone().into(), call.retry_key.clone().into(), changed.into()];
    let values = all().map(|(_, value)| value(job)).chain(keys);
    sql.prepare_cached(&TEXT)?.execute(params_from_iter(values))?;
    Ok(sql.last_insert_rowid())
}

/// Writes what has changed from `before` to `after`, under this number of the change. One that no other index looks at leaves
/// all others alone: SQLite rewrites an index entry when its column is set, also to the same value.
pub(crate) fn update(sql: &Connection, id: i64, before: &Job, after: &Job, changed: i64) -> Result<()> {
    static ALL: LazyLock<String> = LazyLock::new(|| update_text(QUIET.iter().chain(&INDEXED)));
    static SOME: LazyLock<String> = LazyLock::new(|| update_text(QUIET.iter()));
    let mut values: Vec<Value> = QUIET.iter().map(|(_, value)| value(after)).collect();
    let indexed: Vec<Value> = INDEXED.iter().map(|(_, value)| value(after)).collect();
    let is_quiet = INDEXED.iter().zip(&indexed).all(|((_, value), now)| value(before) == *now);
    if !is_quiet {
        values.extend(indexed);
    }
    values.extend([changed.into(), id.into()]);
    let mut statement = sql.prepare_cached(if is_quiet { &SOME } else { &ALL })?;
    statement.execute(params_from_iter(values)).map(drop)
}

fn all() -> impl Iterator<Item = Column> {
    FIXED.into_iter().chain(QUIET).chain(INDEXED)
}

fn update_text<'a>(columns: impl Iterator<Item = &'a Column>) -> String {
    let sets: Vec<String> = columns.map(|(name, _)| format!("{name} = ?")).collect();
    format!("UPDATE job SET {}, changed = ? WHERE id = ?", sets.join(", "))
}

/// Appends `entries` to the log of a job that holds `held` events.
pub(crate) fn append(sql: &Connection, id: i64, held: u32, at: Timestamp, entries: &[Entry]) -> Result<()> {
    let mut statement: CachedStatement<'_> = sql.prepare_cached(
        "INSERT INTO event (job_id, seq, at, actor, kind, detail) VALUES (?, ?, ?, ?, ?, ?)",
    )?;
    for (seq, (actor, kind)) in (i64::from(held) + 1..).zip(entries) {
        let (kind, detail) = kind_and_detail(kind)?;
        statement.execute(params![id, seq, at.0, actor_name(*actor), kind, detail])?;
    }
    Ok(())
}

/// Writes into the inputs of a job.
pub(crate) fn write_input(sql: &Connection, id: i64, job: &Job, written: WrittenInput<'_>) -> Result<()> {
    match written {
        WrittenInput::Question { key, question } => sql
            .prepare_cached("INSERT INTO input (job_id, key, attempt, question) VALUES (?, ?, ?, ?)")?
            .execute(params![id, key, integer(job.attempt), question.get()]),
        WrittenInput::Answer { key, answer } => sql
            .prepare_cached("UPDATE input SET answer = ? WHERE job_id = ? AND key = ?")?
            .execute(params![answer.get(), id, key]),
    }
    .map(drop)
}

/// The input of a row of `key, question, answer, attempt`.
pub(crate) fn input(row: &Row<'_>) -> Result<Input> {
    let question = json(row, 1)?.ok_or(Error::InvalidColumnType(1, "question".to_owned(), Type::Null))?;
    Ok(Input { key: row.get(0)?, question, answer: json(row, 2)?, attempt: unsigned(row.get(3)?) })
}

fn kind_and_detail(kind: &EventKind) -> Result<(String, Option<String>)> {
    let serde_json::Value::Object(mut detail) = serde_json::to_value(kind).map_err(to_sql)? else {
        return Ok((String::new(), None));
    };
    let kind = detail.remove("kind").and_then(|kind| kind.as_str().map(str::to_owned)).unwrap_or_default();
    let detail = (!detail.is_empty()).then(|| serde_json::Value::Object(detail).to_string());
    Ok((kind, detail))
}

/// The event of a row of `seq, at, actor, kind, detail`.
///
/// A kind that this program does not know, because a newer one wrote it, is told as a note.
pub(crate) fn event(row: &Row<'_>) -> Result<Event> {
    let kind: String = row.get(3)?;
    let detail: Option<String> = row.get(4)?;
    Ok(Event {
        seq: u32::try_from(row.get::<_, i64>(0)?).unwrap_or(u32::MAX),
        at: Timestamp(row.get(1)?),
        actor: named(row, 2, actor_from_name)?,
        kind: known_kind(&kind, detail.as_deref()).unwrap_or_else(|| EventKind::Noted {
            message: [&kind, " ", detail.as_deref().unwrap_or("")].concat(),
        }),
    })
}

fn known_kind(kind: &str, detail: Option<&str>) -> Option<EventKind> {
    let mut fields: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(detail.unwrap_or("{}")).ok()?;
    fields.insert("kind".to_owned(), kind.into());
    serde_json::from_value(fields.into()).ok()
}

/// The JSON text of a column, word for word.
pub(crate) fn json(row: &Row<'_>, column: usize) -> Result<Option<Json>> {
    let Some(text) = row.get::<_, Option<String>>(column)? else { return Ok(None) };
    serde_json::value::RawValue::from_string(text).map(Some).map_err(|error| unreadable(column, error))
}

/// The handle, or whatever is parsed from text, of a column.
pub(crate) fn parsed<T>(row: &Row<'_>, column: usize) -> Result<T>
where
    T: FromStr<Err: std::error::Error + Send + Sync + 'static>,
{
    row.get::<_, String>(column)?.parse().map_err(|error| unreadable(column, error))
}

fn named<T>(row: &Row<'_>, column: usize, from_name: fn(&str) -> Option<T>) -> Result<T> {
    let name: String = row.get(column)?;
    from_name(&name).ok_or_else(|| unreadable(column, std::io::Error::other(format!("unknown name {name}"))))
}

fn unreadable(column: usize, error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::FromSqlConversionFailure(column, Type::Text, Box::new(error))
}

pub(crate) fn to_sql(error: serde_json::Error) -> Error {
    Error::ToSqlConversionFailure(Box::new(error))
}

fn both<A: FromSql, B: FromSql>(row: &Row<'_>, one: usize, other: usize) -> Result<Option<(A, B)>> {
    Ok(row.get::<_, Option<A>>(one)?.zip(row.get::<_, Option<B>>(other)?))
}

fn timestamp(row: &Row<'_>, column: usize) -> Result<Option<Timestamp>> {
    Ok(row.get::<_, Option<i64>>(column)?.map(Timestamp))
}

fn time(at: Option<Timestamp>) -> Value {
    at.map(|at| at.0).into()
}

fn error_of(job: &Job) -> Option<String> {
    job.failure.as_ref()?.error.as_ref().map(|error| error.get().to_owned())
}

/// SQLite's integers are signed; none of ours comes near the border.
pub(crate) fn integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

fn duration(micros: i64) -> Duration {
    Duration::from_micros(unsigned(micros))
}

fn kind_name(kind: FailureKind) -> &'static str {
    match kind {
        FailureKind::Error => "error",
        FailureKind::Interrupted => "interrupted",
        FailureKind::TimedOut => "timed_out",
    }
}

fn kind_from_name(name: &str) -> Option<FailureKind> {
    [FailureKind::Error, FailureKind::Interrupted, FailureKind::TimedOut]
        .into_iter()
        .find(|kind| kind_name(*kind) == name)
}

fn actor_name(actor: Actor) -> &'static str {
    match actor {
        Actor::Agent => "agent",
        Actor::User => "user",
        Actor::Tool => "tool",
        Actor::System => "system",
    }
}

fn actor_from_name(name: &str) -> Option<Actor> {
    [Actor::Agent, Actor::User, Actor::Tool, Actor::System]
        .into_iter()
        .find(|actor| actor_name(*actor) == name)
}
