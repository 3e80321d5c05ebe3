//! What a client does: it starts, polls, cancels, and is gone.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};
use tokio::process::Child;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use crate::dice::Dice;
use crate::ledger::{Ledger, text};
use crate::place::{Place, Start};
use crate::session::{Heard, Leave, PATIENCE, Session};

/// What all lanes of one run share.
#[derive(Clone)]
pub(crate) struct Stage {
    pub(crate) place: Arc<Place>,
    books: Arc<Mutex<Ledger>>,
    /// The storm is over: no client comes any more.
    over: Arc<AtomicBool>,
    /// The children of clients that have left.
    partings: Arc<Mutex<Vec<JoinHandle<()>>>>,
}

impl Stage {
    pub(crate) fn new() -> Stage {
        Stage {
            place: Arc::new(Place::new()),
            books: Arc::default(),
            over: Arc::default(),
            partings: Arc::default(),
        }
    }

    pub(crate) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn end_the_storm(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    /// Waits for the children of all clients that have left.
    pub(crate) async fn all_parted(&self) {
        loop {
            let next = self.partings.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let Some(next) = next else { return };
            next.await.expect("no parting panics");
        }
    }

    /// The child of a client that has left is waited for, so that it is known whether it ends.
    fn part(&self, mut child: Child, how: Leave) {
        let stage = self.clone();
        let parting = tokio::spawn(async move {
            match timeout(PATIENCE, child.wait()).await {
                Ok(Ok(status)) if status.code().is_some_and(|code| code > 1) => {
                    stage.ledger().violation(format!("a shim left {how:?} ended with {status}"));
                }
                Ok(_) => {}
                Err(_) => stage.ledger().violation(format!("a shim left {how:?} never ended")),
            }
        });
        self.partings.lock().unwrap_or_else(PoisonError::into_inner).push(parting);
    }
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Call,
    Burst,
    Repeat,
    Poll,
    PollSeveral,
    Cancel,
    List,
    Command,
}

const STEPS: [(u64, Step); 8] = [
    (35, Step::Call),
    (8, Step::Burst),
    (8, Step::Repeat),
    (25, Step::Poll),
    (7, Step::PollSeveral),
    (10, Step::Cancel),
    (4, Step::List),
    (3, Step::Command),
];

/// How clients leave, and whether in the middle of a call.
const LEAVES: [(u64, (Leave, bool)); 4] = [
    (3, (Leave::Politely, false)),
    (3, (Leave::Vanish, false)),
    (3, (Leave::Vanish, true)),
    (2, (Leave::Kill, false)),
];

/// Sessions, one after the other, until the storm is over.
pub(crate) async fn come_and_go(stage: Stage, mut dice: Dice) {
    while !stage.over.load(Ordering::Relaxed) {
        let start = Start {
            handle_mode: dice.chance(50),
            linger: dice.weighed(&[(1, "200ms"), (2, "2s"), (2, "4s")]),
            stays: dice.chance(90),
        };
        Client { session: Session::start(&stage.place, &start), stage: stage.clone() }.visit(&mut dice).await;
    }
}

struct Client {
    session: Session,
    stage: Stage,
}

impl Client {
    async fn visit(mut self, dice: &mut Dice) {
        let steps = dice.between(2, 10);
        let how = dice.weighed(&LEAVES);
        self.stage.ledger().count("sessions");
        let mut goes_on = match self.session.initialize().await {
            Heard::Result(_) => true,
            heard => {
                self.note("initialize", &heard);
                false
            }
        };
        if goes_on {
            self.stage.ledger().count("sessions that began");
        }
        for _ in 0..steps {
            if !goes_on {
                break;
            }
            goes_on = self.step(dice).await;
        }
        self.leave(how, dice).await;
    }

    async fn leave(mut self, (how, in_mid_call): (Leave, bool), dice: &mut Dice) {
        if in_mid_call {
            let token = self.fresh(dice);
            self.ask(&token).await;
        }
        for line in std::mem::take(&mut self.session.garbage) {
            self.stage.ledger().violation(format!("on stdout: {line}"));
        }
        for line in self.session.stderr() {
            if line.contains("panicked") || line.contains("is locked") {
                self.stage.ledger().violation(format!("on stderr: {line}"));
            }
        }
        let word = if in_mid_call { " in mid-call" } else { "" };
        self.stage.ledger().count(format!("left {how:?}{word}"));
        if how == Leave::Kill {
            self.stage.ledger().hurt.extend(self.session.pid());
        }
        let child = self.session.leave(how).await;
        self.stage.part(child, how);
    }

    /// Does something. Returns whether the conversation goes on.
    async fn step(&mut self, dice: &mut Dice) -> bool {
        match dice.weighed(&STEPS) {
            Step::Call => {
                let token = self.fresh(dice);
                self.calls(&[token]).await
            }
            Step::Burst => {
                let tokens: Vec<String> = (0..5).map(|_| self.fresh(dice)).collect();
                self.calls(&tokens).await
            }
            Step::Repeat => match self.some_handle(dice, true) {
                Some(handle) => {
                    let token = self.stage.ledger().jobs[&handle].token.clone();
                    self.calls(&[token]).await
                }
                None => true,
            },
            Step::Poll => match self.some_handle(dice, false) {
                Some(handle) => poll(&mut self.session, &self.stage, &handle, dice.between(0, 300)).await,
                None => true,
            },
            Step::PollSeveral => self.poll_several(dice).await,
            Step::Cancel => self.cancel(dice).await,
            Step::List => {
                let heard = self.session.call("list_jobs", json!({})).await;
                self.note("list_jobs", &heard)
            }
            Step::Command => self.command().await,
        }
    }

    /// A call that nobody has made before.
    fn fresh(&self, dice: &mut Dice) -> String {
        let ms = if dice.chance(25) { dice.between(0, 40) } else { dice.between(40, 500) };
        let bytes = if dice.chance(10) { 70_000 } else { 0 };
        self.stage.ledger().new_call(dice.chance(35), ms, bytes)
    }

    async fn ask(&mut self, token: &str) -> u64 {
        let (tool, arguments) = self.stage.ledger().asks(token);
        self.session.ask_tool(tool, arguments).await
    }

    /// Calls, all at once, and hears what comes of each.
    async fn calls(&mut self, tokens: &[String]) -> bool {
        let mut asked = Vec::new();
        for token in tokens {
            asked.push((self.ask(token).await, token));
        }
        let mut goes_on = true;
        for (id, token) in asked {
            let heard = self.session.answer(id).await;
            let mut ledger = self.stage.ledger();
            match heard {
                Heard::Result(result) => ledger.called(token, &result),
                Heard::Error(error) => ledger.refused(token, &error),
                Heard::Ended => goes_on = false,
                Heard::Silence => {
                    ledger.violation(format!("the call of {token} was not answered in {PATIENCE:?}"));
                    goes_on = false;
                }
            }
        }
        goes_on
    }

    fn some_handle(&self, dice: &mut Dice, only_unfinished: bool) -> Option<String> {
        let handles = self.stage.ledger().handles(only_unfinished || dice.chance(70));
        dice.pick(&handles).cloned()
    }

    async fn poll_several(&mut self, dice: &mut Dice) -> bool {
        let mut handles: Vec<String> = (0..4).filter_map(|_| self.some_handle(dice, false)).collect();
        handles.dedup();
        if handles.is_empty() {
            return true;
        }
        let until = dice.weighed(&[(1, "any"), (1, "all")]);
        let arguments = json!({"handles": handles, "until": until, "wait_ms": dice.between(0, 300)});
        let asked = Instant::now();
        let heard = self.session.call("poll_result", arguments).await;
        let Heard::Result(result) = &heard else { return self.note("poll_result", &heard) };
        let mut ledger = self.stage.ledger();
        match result["structuredContent"]["jobs"].as_array() {
            Some(jobs) => {
                for (handle, job) in handles.iter().zip(jobs) {
                    ledger.standing(handle, job, asked);
                }
            }
            None => ledger.trouble("poll of several", &text(result)),
        }
        true
    }

    async fn cancel(&mut self, dice: &mut Dice) -> bool {
        let Some(handle) = self.some_handle(dice, true) else { return true };
        {
            let mut ledger = self.stage.ledger();
            ledger.count("cancellations");
            ledger.jobs.get_mut(&handle).expect("a handle of ours").cancel_asked = true;
        }
        let asked = Instant::now();
        let arguments = json!({"handle": handle, "action": "cancel"});
        let heard = self.session.call("control_job", arguments).await;
        if let Heard::Result(result) = &heard {
            self.stage.ledger().standing(&handle, &result["structuredContent"], asked);
            return true;
        }
        self.note("control_job", &heard)
    }

    /// A look from a terminal, which no other process may disturb.
    async fn command(&self) -> bool {
        let looked = timeout(PATIENCE, self.stage.place.jobs(&["list"]).output()).await;
        let mut ledger = self.stage.ledger();
        ledger.count("commands");
        match looked {
            Ok(Ok(output)) if output.status.success() => {}
            looked => ledger.violation(format!("`meanwhile jobs list`: {looked:?}")),
        }
        true
    }

    /// Remembers what should not have come. Returns whether the conversation goes on.
    fn note(&self, what: &str, heard: &Heard) -> bool {
        note(&self.stage, what, heard)
    }
}

/// Polls one job. Returns whether the conversation goes on.
pub(crate) async fn poll(session: &mut Session, stage: &Stage, handle: &str, wait_ms: u64) -> bool {
    let asked = Instant::now();
    let heard = session.call("poll_result", json!({"handle": handle, "wait_ms": wait_ms})).await;
    stage.ledger().count("polls");
    if let Heard::Result(result) = &heard {
        stage.ledger().polled(handle, result, asked);
        return true;
    }
    note(stage, "poll_result", &heard)
}

fn note(stage: &Stage, what: &str, heard: &Heard) -> bool {
    let mut ledger = stage.ledger();
    match heard {
        Heard::Result(result) if result["isError"] == Value::Bool(true) => {
            ledger.trouble(what, &text(result));
            true
        }
        Heard::Result(_) => true,
        Heard::Error(error) => {
            ledger.trouble(what, error["message"].as_str().unwrap_or_default());
            true
        }
        Heard::Ended => false,
        Heard::Silence => {
            ledger.violation(format!("{what} was not answered in {PATIENCE:?}"));
            false
        }
    }
}
