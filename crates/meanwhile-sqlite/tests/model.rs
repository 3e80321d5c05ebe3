//! Whatever is done, in whatever order, this store says what the store in memory says.

#![expect(clippy::unwrap_used, reason = "what these functions expect is what is tested")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use meanwhile_core::event::Actor;
use meanwhile_core::job::{AnswerInfo, Failure, FailureKind, Progress};
use meanwhile_core::store::{Created, NewJob, Query};
use meanwhile_core::testing::suite::{json, new_job};
use meanwhile_core::testing::{ManualClock, MemoryStore};
use meanwhile_core::{Clock, Durations, Handle, Op, Outcome, Status, Store};
use meanwhile_sqlite::SqliteStore;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, subsequence};

const LEASE: Duration = Duration::from_secs(30);

#[derive(Debug, Clone)]
enum Step {
    Create {
        scope: bool,
        key: Option<bool>,
        retry: Option<bool>,
        peer: bool,
        rerun: bool,
        started: bool,
        attached: bool,
        joins: bool,
    },
    Apply(Index, Do),
    Renew {
        peer: bool,
    },
    Expire(usize),
    Advance(u64),
    JumpWall(i64),
    Learn(bool, u64),
    List {
        scope: Option<bool>,
        peer: Option<bool>,
        statuses: Vec<Status>,
        limit: usize,
        part: u8,
    },
}

#[derive(Debug, Clone)]
enum Do {
    Claim { peer: bool },
    Progress(f64, Option<String>),
    Complete(u32),
    Store(bool),
    Fail(bool),
    Cancelled,
    Lose,
    Abandon,
    Cancel,
    Pause,
    Resume,
    Join,
    Announce,
    Collect,
    Note(String),
    Ask(usize),
    Answer(Vec<u8>, String),
    Withdraw(Vec<u8>),
    Attach(String),
}

fn steps() -> impl Strategy<Value = Step> {
    let create = any::<(bool, Option<bool>, Option<bool>, bool, bool, bool, bool, bool)>();
    let who = any::<(Option<bool>, Option<bool>)>();
    let list = (who, subsequence(Status::ALL.to_vec(), 0..=7), 0usize..8, 0u8..4);
    prop_oneof![
        3 => create.prop_map(|(scope, key, retry, peer, rerun, started, attached, joins)| {
            Step::Create { scope, key, retry, peer, rerun, started, attached, joins }
        }),
        12 => (any::<Index>(), todo()).prop_map(|(job, todo)| Step::Apply(job, todo)),
        1 => any::<bool>().prop_map(|peer| Step::Renew { peer }),
        1 => (1usize..100).prop_map(Step::Expire),
        1 => (0u64..2400).prop_map(Step::Advance),
        1 => (0u64..800_000).prop_map(Step::Advance),
        1 => (-90_000i64..90_000).prop_map(Step::JumpWall),
        1 => any::<(bool, u64)>().prop_map(|(tool, millis)| Step::Learn(tool, millis)),
        2 => list.prop_map(|((scope, peer), statuses, limit, part)| {
            Step::List { scope, peer, statuses, limit, part }
        }),
    ]
}

fn todo() -> impl Strategy<Value = Do> {
    prop_oneof![
        4 => any::<bool>().prop_map(|peer| Do::Claim { peer }),
        2 => (-1e9..1e9, any::<Option<String>>()).prop_map(|(progress, message)| Do::Progress(progress, message)),
        2 => any::<u32>().prop_map(Do::Complete),
        1 => any::<bool>().prop_map(Do::Store),
        1 => any::<bool>().prop_map(Do::Fail),
        1 => Just(Do::Cancelled),
        1 => Just(Do::Lose),
        1 => Just(Do::Abandon),
        1 => Just(Do::Cancel),
        1 => Just(Do::Pause),
        1 => Just(Do::Resume),
        1 => Just(Do::Join),
        2 => Just(Do::Announce),
        2 => Just(Do::Collect),
        1 => any::<String>().prop_map(Do::Note),
        4 => prop_oneof![9 => 1usize..4, 1 => 90usize..102].prop_map(Do::Ask),
        3 => (vec(0u8..12, 0..8), any::<String>()).prop_map(|(keys, text)| Do::Answer(keys, text)),
        1 => vec(0u8..12, 0..8).prop_map(Do::Withdraw),
        1 => "\\PC{0,20}".prop_map(Do::Attach),
    ]
}

fn name(which: bool) -> &'static str {
    if which { "one" } else { "two" }
}

fn tool_name(which: bool) -> &'static str {
    if which { "render" } else { "read" }
}

fn op(todo: Do, attempt: u64) -> Op {
    let finish = |outcome| Op::Finish { attempt, outcome };
    let by = Actor::User;
    match todo {
        Do::Claim { peer } => Op::Claim { peer: name(peer).to_owned(), lease: LEASE },
        Do::Progress(progress, message) => {
            Op::Progress { attempt, progress: Progress { progress, message, ..Progress::default() } }
        }
        Do::Complete(number) => finish(Outcome::Completed(json(&format!("{{\"n\": {number}.0}}")))),
        Do::Store(which) => {
            finish(Outcome::CompletedIn(AnswerInfo { bytes: 70_000, artifact: Some(name(which).to_owned()) }))
        }
        Do::Fail(with_error) => {
            let error = with_error.then(|| json(r#"{"code": -32000.0}"#));
            finish(Outcome::Failed(Failure {
                kind: FailureKind::TimedOut,
                message: "no\n\"✓\"".to_owned(),
                error,
            }))
        }
        Do::Cancelled => finish(Outcome::Cancelled("told to stop".to_owned())),
        Do::Lose => Op::Lose { attempt, reason: "it crashed".to_owned() },
        Do::Abandon => Op::Abandon,
        Do::Cancel => Op::Cancel { by },
        Do::Pause => Op::Pause { by },
        Do::Resume => Op::Resume { by },
        Do::Join => Op::Join,
        Do::Announce => Op::Announce,
        Do::Collect => Op::Collect { by },
        Do::Note(message) => Op::Note { by, message },
        Do::Ask(count) => {
            Op::Ask { attempt, questions: (0..count).map(|n| json(&format!("{{ \"n\": {n}.0 }}"))).collect() }
        }
        Do::Answer(keys, text) => {
            let text = serde_json::Value::from(text).to_string();
            Op::Answer { by, answers: keys.into_iter().map(|key| (format!("q{key}"), json(&text))).collect() }
        }
        Do::Withdraw(keys) => {
            let keys = keys.into_iter().map(|key| format!("q{key}")).collect();
            Op::Withdraw { attempt, by: Actor::Tool, keys }
        }
        Do::Attach(task) => Op::Attach { attempt, task },
    }
}

/// The two stores, which are told the same.
struct Pair {
    sqlite: SqliteStore,
    memory: MemoryStore,
    clock: ManualClock,
    jobs: Vec<Handle>,
}

impl Pair {
    fn open(folder: &Path) -> Pair {
        let clock = ManualClock::default();
        let sqlite = SqliteStore::new(folder.join("jobs.db"), Arc::new(clock.clone()));
        Pair { sqlite, memory: MemoryStore::new(Arc::new(clock.clone())), clock, jobs: vec![] }
    }

    fn stores(&self) -> [&dyn Store; 2] {
        [&self.sqlite, &self.memory]
    }

    async fn step(&mut self, step: Step) {
        match step {
            Step::Create { scope, key, retry, peer, rerun, started, attached, joins } => {
                let mut new = new_job(name(scope), key.map(name));
                new.call.retry_key = retry.map(|retry| name(retry).to_owned());
                new.call.conversation = retry.map(|_| format!("with {}", name(peer)));
                new.peer = name(peer).to_owned();
                new.policy.rerun = rerun;
                new.started_at = started.then(|| self.clock.now());
                new.upstream_task = attached.then(|| "task".to_owned());
                new.joins = joins;
                self.create(new).await;
            }
            Step::Apply(job, todo) => {
                if !self.jobs.is_empty() {
                    self.apply(*job.get(&self.jobs), todo).await;
                }
            }
            Step::Renew { peer } => {
                for store in self.stores() {
                    store.renew(&name(peer).to_owned(), LEASE).await.unwrap();
                }
            }
            Step::Expire(limit) => self.expire(limit).await,
            Step::Advance(seconds) => self.clock.advance(Duration::from_secs(seconds)),
            Step::JumpWall(seconds) => self.clock.jump_wall(seconds * 1_000_000),
            Step::Learn(tool, millis) => {
                let mut durations = Durations::default();
                durations.record(Duration::from_millis(millis));
                for store in self.stores() {
                    store.learn("files", tool_name(tool), &durations).await.unwrap();
                }
            }
            Step::List { scope, peer, statuses, limit, part } => {
                let [scope, peer] = [scope, peer].map(|which| which.map(|which| name(which).to_owned()));
                let [uncollected_first, uncollected_only, unannounced_only] =
                    [1, 2, 3].map(|one| one == part);
                self.compare_lists(&Query {
                    scope,
                    statuses,
                    limit,
                    uncollected_first,
                    uncollected_only,
                    unannounced_only,
                    peer,
                    before: None,
                })
                .await;
            }
        }
    }

    async fn create(&mut self, new: NewJob) {
        let [one, other] = self.stores().map(|store| store.create(new.clone()));
        let (one, other) = (one.await.unwrap(), other.await.unwrap());
        assert_eq!(format!("{one:?}"), format!("{other:?}"));
        if let Created::New(job) = one {
            self.jobs.push(job.handle);
        }
    }

    async fn apply(&self, handle: Handle, todo: Do) {
        // It may have been forgotten.
        let attempt = self.memory.job(handle).await.unwrap().map_or(1, |job| job.attempt);
        let op = op(todo, attempt);
        let [one, other] = self.stores().map(|store| store.apply(handle, op.clone()));
        assert_eq!(format!("{:?}", one.await), format!("{:?}", other.await), "{op:?}");
    }

    async fn expire(&self, limit: usize) {
        // Which of them go first is each store's own affair.
        let limit = limit.max(self.jobs.len());
        let [one, other] = self.stores().map(|store| store.expire(limit));
        assert_eq!(one.await.unwrap(), other.await.unwrap());
    }

    async fn compare_lists(&self, query: &Query) {
        let [one, other] = self.stores().map(|store| store.list(query));
        assert_eq!(format!("{:?}", one.await.unwrap()), format!("{:?}", other.await.unwrap()), "{query:?}");
    }

    async fn compare(&self) {
        for handle in &self.jobs {
            let [one, other] = self.stores().map(|store| everything(store, *handle));
            assert_eq!(one.await, other.await);
        }
        for peer in [true, false].map(|peer| name(peer).to_owned()) {
            let [one, other] = self.stores().map(|store| store.next_queued(&peer));
            assert_eq!(one.await.unwrap(), other.await.unwrap());
        }
        for (join, retry) in [(None, true), (Some(true), false), (Some(false), true)] {
            let (join, retry) = (join.map(name), Some(name(retry)));
            let [one, other] = self.stores().map(|store| store.joinable("one", join, retry));
            assert_eq!(format!("{:?}", one.await.unwrap()), format!("{:?}", other.await.unwrap()));
        }
        for tool in [true, false].map(tool_name) {
            let [one, other] = self.stores().map(|store| store.durations("files", tool));
            assert_eq!(one.await.unwrap(), other.await.unwrap());
        }
        let [one, other] = self.stores().map(|store| store.abandoned(100));
        let handles = |jobs: Vec<meanwhile_core::Job>| {
            let mut handles: Vec<Handle> = jobs.into_iter().map(|job| job.handle).collect();
            handles.sort();
            handles
        };
        assert_eq!(handles(one.await.unwrap()), handles(other.await.unwrap()));
    }
}

async fn everything(store: &dyn Store, handle: Handle) -> String {
    format!(
        "{:?}\n{:?}\n{:?}\n{:?}\n{:?}\n{:#?}",
        store.job(handle).await.unwrap(),
        store.request(handle).await.unwrap(),
        store.answer(handle).await.unwrap(),
        store.inputs(handle).await.unwrap(),
        store.ahead(handle).await.unwrap(),
        store.events(handle, 0, 100).await.unwrap(),
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn it_agrees_with_the_store_in_memory(steps in vec(steps(), 1..120)) {
        let folder = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut pair = Pair::open(folder.path());
            for step in steps {
                pair.step(step).await;
            }
            pair.compare().await;
        });
    }
}
