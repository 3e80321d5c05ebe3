//! When which promise was made, and whether a disk keeps it.

use std::collections::HashMap;
use std::sync::Arc;

use meanwhile_core::artifact::Artifacts;
use meanwhile_core::engine::read_answer;
use meanwhile_core::store::Query;
use meanwhile_core::{Handle, Job, Status, Store, SystemClock};
use meanwhile_sqlite::SqliteStore;
use serde_json::Value;

use crate::disk::Image;
use crate::session::{Promise, Said};
use crate::trace::{Act, Trace};

/// A promise, and the moment before which the client cannot have known of it.
pub(crate) struct Promised {
    pub(crate) told: usize,
    handle: Handle,
    promise: Promise,
}

/// Finds in the trace the moment at which each line was about to be written whole.
pub(crate) fn when_told(said: Vec<Said>, trace: &Trace) -> Vec<Promised> {
    let mut pipes: HashMap<&str, Pipe> = HashMap::new();
    for call in &trace.calls {
        if let Act::Say { pipe, bytes } = &call.act {
            let pipe = pipes.entry(pipe).or_default();
            pipe.stream.extend(bytes);
            pipe.writes.push((pipe.stream.len(), call.began));
        }
    }
    let promised = |said: Said| Promised {
        told: pipes
            .values()
            .find_map(|pipe| pipe.carried(said.line.as_bytes()))
            .unwrap_or_else(|| panic!("not in the trace: {}", said.line)),
        handle: said.handle.parse().expect("a handle"),
        promise: said.promise,
    };
    said.into_iter().map(promised).collect()
}

/// What went through a pipe.
#[derive(Default)]
struct Pipe {
    stream: Vec<u8>,
    /// After each write, the length of the stream; and when that write began.
    writes: Vec<(usize, usize)>,
}

impl Pipe {
    /// When the write began that ended this line.
    fn carried(&self, line: &[u8]) -> Option<usize> {
        let end = self.stream.windows(line.len()).position(|window| window == line)? + line.len();
        self.writes.iter().find(|(written, _)| *written >= end).map(|(_, began)| *began)
    }
}

/// Opens the store on what the disk has kept.
pub(crate) fn keeps<'a>(image: &Image<'_>, due: impl Iterator<Item = &'a Promised>) -> Result<(), String> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    image.put_into(folder.path()).expect("the image can be written");
    let state = folder.path().join("state");
    let artifacts = Artifacts::new(state.join("artifacts"));
    let file = state.join("meanwhile.db");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        let store = SqliteStore::new(file.clone(), Arc::new(SystemClock));
        store.open().await.map_err(|error| format!("the store does not open: {error}"))?;
        for promised in due {
            let handle = promised.handle;
            is_kept(promised, &store, &artifacts).await.map_err(|why| format!("{handle}: {why}"))?;
        }
        answers_are_whole(&store, &artifacts).await?;
        is_sound(&file)
    })
}

async fn is_kept(promised: &Promised, store: &SqliteStore, artifacts: &Artifacts) -> Result<(), String> {
    let job = store.job(promised.handle).await.map_err(|error| error.to_string())?;
    let job = job.ok_or("acknowledged, and not there")?;
    match &promised.promise {
        Promise::Exists => {
            let request = store.request(promised.handle).await.map_err(|error| error.to_string())?;
            request.map(drop).ok_or_else(|| "what it was asked is not there".to_owned())
        }
        Promise::Cancelled if job.status == Status::Cancelled => Ok(()),
        Promise::Completed(whole) if job.status == Status::Completed => {
            let text = answer(&job, store, artifacts).await?["content"][0]["text"].take();
            if text == **whole { Ok(()) } else { Err("its answer is another one".to_owned()) }
        }
        promise => Err(format!("{:?}, but the client was told {:.20}…", job.status, format!("{promise:?}"))),
    }
}

/// Also of jobs whose end nobody was told of: no row may point at nothing.
async fn answers_are_whole(store: &SqliteStore, artifacts: &Artifacts) -> Result<(), String> {
    let query = Query { statuses: vec![Status::Completed], limit: 1000, ..Query::default() };
    for job in store.list(&query).await.map_err(|error| error.to_string())? {
        answer(&job, store, artifacts).await.map_err(|why| format!("{}: {why}", job.handle))?;
    }
    Ok(())
}

async fn answer(job: &Job, store: &SqliteStore, artifacts: &Artifacts) -> Result<Value, String> {
    let answer = read_answer(store, artifacts, job).await.map_err(|error| error.to_string())?;
    let answer = answer.ok_or("completed, and its answer is not there")?;
    serde_json::from_str(answer.get()).map_err(|error| error.to_string())
}

fn is_sound(file: &std::path::Path) -> Result<(), String> {
    let check = || -> rusqlite::Result<String> {
        let sql = rusqlite::Connection::open(file)?;
        sql.query_row("PRAGMA integrity_check", [], |row| row.get(0))
    };
    match check() {
        Ok(found) if found == "ok" => Ok(()),
        found => Err(format!("the file is damaged: {found:?}")),
    }
}
