//! How this process learns that another one has written, without polling.
//!
//! Every commit is written to the log (`…-wal`) beside the file, and the system tells of that. But the log is written
//! *before* the commit can be seen: it is flushed first, and then made visible through shared memory, of which the system
//! says nothing. So a look that comes too early is repeated after 1, 2, 4, … ms, for some eight seconds after the last
//! sign. All of these looks are taken, also when one of them finds something: what it found may be an earlier commit than
//! the one that rang. Without a sign there is none.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};

/// The first repetition, and the least time between two looks, however busy the file is.
const FIRST: Duration = Duration::from_millis(1);
/// The last repetition.
const LAST: Duration = Duration::from_millis(4096);
/// How often to look where the system tells nothing.
const BLIND: Duration = Duration::from_secs(1);

/// Rings as long as it is held.
pub(crate) struct Watch {
    _watcher: Option<RecommendedWatcher>,
    /// Its end ends the thread.
    _bell: SyncSender<()>,
}

impl Watch {
    /// Calls `look`, on a thread of its own, whenever the store at `path` may have been written, until it returns `false`.
    pub(crate) fn start(path: &Path, look: impl Fn() -> bool + Send + 'static) -> Watch {
        // One ring is as good as many.
        let (bell, rings) = sync_channel(1);
        let watcher = match watch(path, bell.clone()) {
            Ok(watcher) => Some(watcher),
            Err(error) => {
                tracing::warn!(%error, "the system does not tell of changes to the job store: it is looked at every second");
                None
            }
        };
        let blind = watcher.is_none().then_some(BLIND);
        let follow = move || follow(&rings, Schedule::new(blind, Instant::now()), look);
        if let Err(error) = std::thread::Builder::new().name("meanwhile-watch".to_owned()).spawn(follow) {
            tracing::warn!(%error, "changes by other processes are not noticed");
        }
        Watch { _watcher: watcher, _bell: bell }
    }
}

fn watch(path: &Path, bell: SyncSender<()>) -> notify::Result<RecommendedWatcher> {
    let mut log = path.file_name().unwrap_or_default().to_owned();
    log.push("-wal");
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
        // An error may be a sign that was lost.
        if event.map_or(true, |event| is_sign(&event, &log)) {
            let _ = bell.try_send(());
        }
    })?;
    // The folder, not the log: the log goes when the last connection closes, and comes again.
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    watcher.watch(folder, RecursiveMode::NonRecursive)?;
    Ok(watcher)
}

/// Opening and reading are no signs: our own looks would ring for ever.
fn is_sign(event: &Event, log: &OsStr) -> bool {
    let is_log = || event.paths.iter().any(|path| path.file_name() == Some(log));
    event.need_rescan() || (!matches!(event.kind, EventKind::Access(_)) && is_log())
}

fn follow(rings: &Receiver<()>, mut schedule: Schedule, look: impl Fn() -> bool) {
    loop {
        let ring = match schedule.due {
            Some(due) => rings.recv_timeout(due.saturating_duration_since(Instant::now())),
            None => rings.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        let now = Instant::now();
        match ring {
            Ok(()) => schedule.rang(now),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        if schedule.due.is_some_and(|due| due <= now) {
            if !look() {
                return;
            }
            schedule.looked(now);
        }
    }
}

/// When to look next.
#[derive(Debug)]
struct Schedule {
    due: Option<Instant>,
    step: Duration,
    looked: Option<Instant>,
    blind: Option<Duration>,
}

impl Schedule {
    fn new(blind: Option<Duration>, now: Instant) -> Schedule {
        Schedule { due: blind.map(|pause| now + pause), step: LAST * 2, looked: None, blind }
    }

    fn rang(&mut self, now: Instant) {
        self.step = FIRST;
        let soon = self.looked.map_or(now, |looked| now.max(looked + FIRST));
        self.due = Some(self.due.map_or(soon, |due| due.min(soon)));
    }

    fn looked(&mut self, now: Instant) {
        self.looked = Some(now);
        if self.step <= LAST {
            self.due = Some(now + self.step);
            self.step *= 2;
        } else {
            self.due = self.blind.map(|pause| now + pause);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use notify::event::{AccessKind, CreateKind, DataChange, Flag, ModifyKind};

    /// The times of the looks, in ms, when a bell rings at `rings`.
    fn looks(rings: &[u64], blind: Option<Duration>, until: u64) -> Vec<u64> {
        let start = Instant::now();
        let mut schedule = Schedule::new(blind, start);
        let mut looks = Vec::new();
        for ms in 0..until {
            let now = start + Duration::from_millis(ms);
            if rings.contains(&ms) {
                schedule.rang(now);
            }
            if schedule.due.is_some_and(|due| due <= now) {
                looks.push(ms);
                schedule.looked(now);
            }
        }
        looks
    }

    #[test]
    fn a_ring_is_looked_after_in_growing_steps_and_then_there_is_peace() {
        let expected = [10, 11, 13, 17, 25, 41, 73, 137, 265, 521, 1033, 2057, 4105, 8201];
        assert_eq!(looks(&[10], None, 60_000), expected);
        assert!(looks(&[], None, 60_000).is_empty());
    }

    #[test]
    fn every_ring_starts_the_steps_again() {
        assert_eq!(looks(&[10, 30], None, 40), [10, 11, 13, 17, 25, 30, 31, 33, 37]);
    }

    #[test]
    fn rings_without_end_do_not_put_off_the_look_nor_hurry_it() {
        let rings: Vec<u64> = (0..100).collect();
        assert_eq!(looks(&rings, None, 100), rings);
    }

    #[test]
    fn without_the_systems_help_it_looks_every_second() {
        assert_eq!(looks(&[], Some(BLIND), 3500), [1000, 2000, 3000]);
    }

    #[test]
    fn only_a_written_log_is_a_sign() {
        let log = OsStr::new("jobs.db-wal");
        let event = |kind, name: &str| Event::new(kind).add_path(Path::new("/state").join(name));
        let written = EventKind::Modify(ModifyKind::Data(DataChange::Any));
        assert!(is_sign(&event(written, "jobs.db-wal"), log));
        assert!(is_sign(&event(EventKind::Create(CreateKind::File), "jobs.db-wal"), log));
        assert!(!is_sign(&event(EventKind::Access(AccessKind::Any), "jobs.db-wal"), log));
        assert!(!is_sign(&event(written, "jobs.db-shm"), log));
        assert!(is_sign(&Event::new(EventKind::Other).set_flag(Flag::Rescan), log));
    }
}
