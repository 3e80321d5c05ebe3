//! How this process learns that another one has written, without polling.
//!
//! Every commit is written to the log (`…-wal`) beside the file, and the system tells of that. But the log is written
//! *before* the commit can be seen: it is flushed first, and then made visible through shared memory, of which the system
//! says nothing. So a look that comes too early is repeated after 1, 2, 4, … ms, for some eight seconds after the last
//! sign. All of these looks are taken, also when one of them finds something: what it found may be an earlier commit than
//! the one that rang. Without a sign there is none.
//!
//! A sign that comes while this process itself writes is taken for its own: nobody else can write then, and the writer looks
//! itself after each of its commits. Should it have been another's all the same, who was faster than the end of ours was
//! told, it is looked at a second later: not sooner, for that commit may still have to be flushed.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};

/// The first repetition, and the least time between two looks, however busy the file is.
const FIRST: Duration = Duration::from_millis(1);
/// A commit writes many times, and the system tells of each: of a burst, only what it tells in such stretches is heard at once.
const LISTENING: Duration = Duration::from_micros(200);
/// The last repetition.
const LAST: Duration = Duration::from_millis(4096);
/// How often to look where the system tells nothing, and how soon after a sign that was taken for our own.
const BLIND: Duration = Duration::from_secs(1);

/// Rings as long as it is held.
pub(crate) struct Watch {
    _watcher: Option<RecommendedWatcher>,
    /// Its end ends the thread.
    _bell: Bell,
}

/// What the system tells, on its way to the thread that looks.
#[derive(Clone)]
struct Bell {
    wake: SyncSender<()>,
    signs: Arc<Signs>,
}

#[derive(Default)]
struct Signs {
    /// There was one.
    rang: AtomicBool,
    /// There was one that was taken for our own.
    is_in_doubt: AtomicBool,
}

impl Bell {
    fn ring(&self, is_own: bool) {
        let sign = if is_own { &self.signs.is_in_doubt } else { &self.signs.rang };
        // One is as good as many.
        if !sign.swap(true, Ordering::AcqRel) {
            let _ = self.wake.try_send(());
        }
    }
}

impl Watch {
    /// Calls `look`, on a thread of its own, whenever the store at `path` may have been written, until it returns `false`.
    /// While `is_writing`, it is this process that writes.
    pub(crate) fn start(
        path: &Path,
        is_writing: Arc<AtomicBool>,
        look: impl Fn() -> bool + Send + 'static,
    ) -> Watch {
        let (wake, rings) = sync_channel(1);
        let bell = Bell { wake, signs: Arc::default() };
        let signs = bell.signs.clone();
        let watcher = match watch(path, bell.clone(), is_writing) {
            Ok(watcher) => Some(watcher),
            Err(error) => {
                tracing::warn!(%error, "the system does not tell of changes to the job store: it is looked at every second");
                None
            }
        };
        let blind = watcher.is_none().then_some(BLIND);
        let follow = move || follow(&rings, &signs, Schedule::new(blind, Instant::now()), look);
        if let Err(error) = std::thread::Builder::new().name("meanwhile-watch".to_owned()).spawn(follow) {
            tracing::warn!(%error, "changes by other processes are not noticed");
        }
        Watch { _watcher: watcher, _bell: bell }
    }
}

fn watch(path: &Path, bell: Bell, is_writing: Arc<AtomicBool>) -> notify::Result<RecommendedWatcher> {
    let mut log = path.file_name().unwrap_or_default().to_owned();
    log.push("-wal");
    let mut listens_until = Instant::now();
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
        // An error may be a sign that was lost.
        if event.map_or(true, |event| is_sign(&event, &log)) {
            bell.ring(is_writing.load(Ordering::Acquire));
            if Instant::now() >= listens_until {
                // Nobody looks again so soon, and the system makes one event of what comes meanwhile.
                std::thread::sleep(FIRST);
                listens_until = Instant::now() + LISTENING;
            }
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

fn follow(rings: &Receiver<()>, signs: &Signs, mut schedule: Schedule, look: impl Fn() -> bool) {
    loop {
        let ring = match schedule.next() {
            Some(due) => rings.recv_timeout(due.saturating_duration_since(Instant::now())),
            None => rings.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        let now = Instant::now();
        match ring {
            Ok(()) => {
                if signs.rang.swap(false, Ordering::AcqRel) {
                    schedule.rang(now);
                }
                // Otherwise it stays there until that look: one wakes this thread, and many do not.
                if schedule.doubt.is_none() && signs.is_in_doubt.swap(false, Ordering::AcqRel) {
                    schedule.doubts(now);
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        if schedule.next().is_some_and(|due| due <= now) {
            if !look() {
                return;
            }
            schedule.looked(now);
            // What was taken for our own since the last doubt may be too young to be seen by this look.
            if schedule.doubt.is_none() && signs.is_in_doubt.swap(false, Ordering::AcqRel) {
                schedule.doubts(now);
            }
        }
    }
}

/// When to look next.
#[derive(Debug)]
struct Schedule {
    due: Option<Instant>,
    /// When to look for what was taken for our own.
    doubt: Option<Instant>,
    step: Duration,
    looked: Option<Instant>,
    blind: Option<Duration>,
}

impl Schedule {
    fn new(blind: Option<Duration>, now: Instant) -> Schedule {
        Schedule { due: blind.map(|pause| now + pause), doubt: None, step: LAST * 2, looked: None, blind }
    }

    fn next(&self) -> Option<Instant> {
        self.due.into_iter().chain(self.doubt).min()
    }

    fn rang(&mut self, now: Instant) {
        self.step = FIRST;
        let soon = self.looked.map_or(now, |looked| now.max(looked + FIRST));
        self.due = Some(self.due.map_or(soon, |due| due.min(soon)));
    }

    /// A sign was taken for our own: one look, not soon.
    fn doubts(&mut self, now: Instant) {
        self.doubt.get_or_insert(now + BLIND);
    }

    fn looked(&mut self, now: Instant) {
        self.looked = Some(now);
        self.doubt = self.doubt.filter(|doubt| *doubt > now);
        if self.due.is_none_or(|due| due > now) {
            return;
        }
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
    fn a_sign_that_is_taken_for_our_own_is_looked_at_once_and_late() {
        let start = Instant::now();
        let mut schedule = Schedule::new(None, start);
        schedule.doubts(start);
        schedule.doubts(start + FIRST);
        assert_eq!(schedule.next(), Some(start + BLIND));
        schedule.looked(start + BLIND);
        assert_eq!(schedule.next(), None);
    }

    #[test]
    fn a_look_that_comes_too_soon_for_a_doubt_does_not_settle_it() {
        let start = Instant::now();
        let mut schedule = Schedule::new(None, start);
        schedule.rang(start);
        while schedule.step <= LAST {
            schedule.looked(schedule.next().unwrap());
        }
        let last = schedule.next().unwrap();
        let doubted = last - FIRST;
        schedule.doubts(doubted);
        schedule.looked(last);
        assert_eq!(schedule.next(), Some(doubted + BLIND));
    }

    #[test]
    fn a_sign_of_another_is_heard_behind_one_of_our_own() {
        let (wake, rings) = sync_channel(1);
        let bell = Bell { wake, signs: Arc::default() };
        bell.ring(true);
        bell.ring(true);
        bell.ring(false);
        assert!(rings.try_recv().is_ok() && rings.try_recv().is_err());
        assert!(bell.signs.rang.load(Ordering::Acquire) && bell.signs.is_in_doubt.load(Ordering::Acquire));
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
