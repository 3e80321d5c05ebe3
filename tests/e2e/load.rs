//! Many processes on one store, all at once: nobody misses anything, and nobody hears of a lock.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use serde_json::{Value, json};

use crate::client::{Client, FIXTURE, Home, meanwhile, text, wait_gone};
use crate::faces::{Gate, handle};
use crate::inbox::PATIENCE;

const WRAPPERS: usize = 2;
const THREADS: usize = 4;
const JOBS_OF_EACH: usize = 20;
const WATCHERS: usize = 3;

/// A handle may have such letters in it by chance.
fn assert_no_lock_shows(what: &str, said: &str) {
    let words = said.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    let mut words = words.filter(|word| !word.starts_with("job_")).map(str::to_lowercase);
    assert!(words.all(|word| !word.contains("locked") && !word.contains("busy")), "{what}: {said}");
}

fn session(home: &Home) -> Client {
    let client = Client::wrap_in(home, &["--tool", "*=handle"], &[FIXTURE], &[]);
    client.initialize();
    client
}

/// Starts jobs one after the other, no two of them alike, and waits for each with a single poll. Returns their handles.
fn agent(client: &Client, number: usize) -> Vec<String> {
    let job = |turn: usize| {
        let (tool, arguments, expected) = if turn.is_multiple_of(2) {
            let words = format!("{number}, {turn}");
            ("echo", json!({"text": words}), words)
        } else {
            ("sleep", json!({"ms": turn, "steps": 1 + number}), format!("slept {turn} ms"))
        };
        let started = client.call(tool, arguments);
        assert_no_lock_shows("the start", &started.to_string());
        let handle = handle(&started);
        let polled = client.call("poll_result", json!({"handle": handle, "wait_ms": 25_000}));
        assert_no_lock_shows("the poll", &polled.to_string());
        assert_eq!(text(&polled), expected, "one poll is enough, or a wake-up was lost: {polled}");
        handle
    };
    (0..JOBS_OF_EACH).map(job).collect()
}

/// A `meanwhile jobs watch --json` in a pipe.
struct Watcher {
    child: Child,
    lines: Receiver<String>,
    stderr: Option<JoinHandle<String>>,
}

/// What a watcher has printed of one job.
#[derive(Debug, Default)]
struct Seen {
    last: u64,
    has_ended: bool,
    peer: Option<String>,
}

impl Watcher {
    fn start(home: &Home) -> Watcher {
        let mut child = Command::new(meanwhile())
            .args(["jobs", "watch", "--json"])
            .env("MEANWHILE_STATE_DIR", home.state_dir())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("meanwhile runs");
        let stdout = BufReader::new(child.stdout.take().expect("stdout is piped"));
        let mut stderr = child.stderr.take().expect("stderr is piped");
        let (sender, lines) = channel();
        thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let stderr = thread::spawn(move || {
            let mut said = String::new();
            stderr.read_to_string(&mut said).expect("text");
            said
        });
        Watcher { child, lines, stderr: Some(stderr) }
    }

    /// The next event that is printed before `deadline`. `Err` with `Disconnected` once the watcher has ended.
    fn next(&self, deadline: Instant) -> Result<Value, RecvTimeoutError> {
        let line = self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now()))?;
        Ok(serde_json::from_str(&line).expect("each line is JSON"))
    }

    /// Reads until every one of these jobs has ended; of each, event after event, and none twice.
    fn see_the_end_of(&self, handles: &BTreeSet<String>) -> BTreeMap<String, Seen> {
        let deadline = Instant::now() + PATIENCE;
        let mut seen: BTreeMap<String, Seen> = BTreeMap::new();
        loop {
            let has_ended = |handle: &&String| seen.get(*handle).is_some_and(|job| job.has_ended);
            let open: Vec<&String> = handles.iter().filter(|handle| !has_ended(handle)).collect();
            if open.is_empty() {
                return seen;
            }
            let next = self.next(deadline);
            let event =
                next.unwrap_or_else(|error| panic!("{error}, before the end of {open:?} in {seen:#?}"));
            note(&mut seen, handles, &event);
        }
    }

    /// Ends it as Ctrl-C does. It must not fail, and says nothing of locks.
    fn interrupt(mut self) {
        let told = Command::new("kill").args(["-INT", &self.child.id().to_string()]).status();
        assert!(told.expect("kill runs").success());
        let deadline = Instant::now() + PATIENCE;
        let end = std::iter::repeat_with(|| self.next(deadline)).find_map(Result::err);
        assert_eq!(end, Some(RecvTimeoutError::Disconnected), "it does not end");
        let code = self.child.wait().expect("it can be waited for").code();
        assert!(matches!(code, Some(0 | 130)), "{code:?}");
        let stderr = self.stderr.take().expect("taken only here").join().expect("the reader ends");
        assert_no_lock_shows("a watcher", &stderr);
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn note(seen: &mut BTreeMap<String, Seen>, handles: &BTreeSet<String>, event: &Value) {
    let handle = event["handle"].as_str().expect("each event names its job");
    if !handles.contains(handle) {
        return;
    }
    let job = seen.entry(handle.to_owned()).or_default();
    assert_eq!(event["seq"], job.last + 1, "no event is left out or told twice: {event}");
    job.last += 1;
    job.has_ended |= event["kind"] == "completed";
    if let Some(peer) = event["peer"].as_str() {
        job.peer = Some(peer.to_owned());
    }
}

/// All watchers watch: each has told of a job that was running before it began.
fn watching(home: &Home, running: &str) -> Vec<Watcher> {
    let watchers: Vec<Watcher> = (0..WATCHERS).map(|_| Watcher::start(home)).collect();
    for watcher in &watchers {
        let first = watcher.next(Instant::now() + PATIENCE).expect("it watches");
        assert_eq!(first["handle"], running);
    }
    watchers
}

#[test]
fn two_wrappers_and_three_watchers_on_one_store_lose_no_wake_up_and_show_no_lock() {
    let home = Home::new();
    let clients: Vec<Client> = (0..WRAPPERS).map(|_| session(&home)).collect();
    let gate = Gate::new(&home, "gate");
    let watchers = watching(&home, &handle(&clients[0].call("gate", gate.arguments())));
    let handles: BTreeSet<String> = thread::scope(|scope| {
        let agents: Vec<_> = (0..WRAPPERS * THREADS)
            .map(|number| (number, &clients[number % WRAPPERS]))
            .map(|(number, client)| scope.spawn(move || agent(client, number)))
            .collect();
        agents.into_iter().flat_map(|agent| agent.join().expect("every agent is served")).collect()
    });
    assert_eq!(handles.len(), WRAPPERS * THREADS * JOBS_OF_EACH);
    gate.open();

    let mut peers = BTreeSet::new();
    for watcher in watchers {
        peers.extend(watcher.see_the_end_of(&handles).into_values().filter_map(|job| job.peer));
        watcher.interrupt();
    }
    assert_eq!(peers.len(), WRAPPERS, "{peers:?}");
    for client in &clients {
        client.close_stdin();
        assert!(client.wait_exit().success());
        assert_no_lock_shows("a wrapper", &client.stderr().join("\n"));
    }
    for peer in peers {
        let keeper = peer.split(':').next().expect("a peer begins with its process id");
        wait_gone(keeper.parse().expect("a number"));
    }
}
