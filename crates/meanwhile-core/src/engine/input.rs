//! What a running tool asks: from its attempt to the job's record, and the answers back, whoever gives them and wherever.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Sleep;

use super::Engine;
use super::run::Run;
use crate::Json;
use crate::event::Actor;
use crate::executor::{Ask, Attach};
use crate::handle::Handle;
use crate::job::{Input, Job};
use crate::machine::{Op, Refused};
use crate::store::{Store, StoreError};

/// How long questions wait for their answers unless something else is said ([`super::Settings::answer_timeout`]).
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(24 * 3600);

/// After this long a store that failed is asked again.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// What came of answers that were given.
#[derive(Debug)]
pub enum Answered {
    /// The job as it now is: it waits for the other answers, or goes on.
    Done(Job),
    /// They do not fit what the job waits for, which is unchanged.
    Refused(Job, Refused),
    /// There is no such job in this scope.
    NotFound,
}

/// Gives a job the answers that it waits for, by the keys of its questions ([`Store::inputs`]); wherever it runs. Without a
/// scope every job is in reach.
///
/// # Errors
/// If the store fails.
pub async fn answer(
    store: &dyn Store,
    scope: Option<&str>,
    handle: Handle,
    answers: Vec<(String, Json)>,
    by: Actor,
) -> Result<Answered, StoreError> {
    let Some(job) = store.job(handle).await?.filter(|job| scope.is_none_or(|scope| job.scope == scope))
    else {
        return Ok(Answered::NotFound);
    };
    match store.apply(handle, Op::Answer { by, answers }).await {
        Ok(job) => Ok(Answered::Done(job)),
        Err(StoreError::Refused(why)) => Ok(Answered::Refused(store.job(handle).await?.unwrap_or(job), why)),
        Err(StoreError::NotFound(_)) => Ok(Answered::NotFound),
        Err(error) => Err(error),
    }
}

impl Engine {
    /// Writes down what an attempt asks, and returns the job as it then is. `None`: it could not be, and whoever asked knows.
    pub(super) async fn ask(&self, job: &Job, run: &mut Run, ask: Ask) -> Option<Job> {
        let Ask { questions, reply } = ask;
        if run.is_cancelled() || reply.is_closed() {
            return None;
        }
        let count = questions.len();
        match self.store.apply(job.handle, Op::Ask { attempt: job.attempt, questions }).await {
            Ok(now) => {
                let keys = now.open[now.open.len().saturating_sub(count)..].to_vec();
                run.asks.add(keys, reply, self.settings.answer_timeout);
                Some(now)
            }
            Err(error) => {
                tracing::warn!(handle = %job.handle, %error, "the tool asks, but nobody can be told; it gets no answer");
                None
            }
        }
    }

    /// Writes down that the work of an attempt goes on at the upstream.
    pub(super) async fn attach(&self, job: &mut Job, attach: Attach) {
        let Attach { task, kept } = attach;
        match self.store.apply(job.handle, Op::Attach { attempt: job.attempt, task }).await {
            Ok(now) => {
                job.upstream_task = now.upstream_task;
                // Whoever attached may have gone.
                let _ = kept.send(());
            }
            Err(error) => {
                tracing::warn!(handle = %job.handle, %error, "the upstream's task is not remembered; with this process its job is lost");
            }
        }
    }

    /// Gives an attempt the answers that have come, and tells it of questions that nobody will answer any more. `now` is the job
    /// as it was last read.
    pub(super) async fn deliver(&self, run: &mut Run, now: &Job) {
        run.asks.forget_unwanted(&now.open);
        if !run.asks.has_settled(&now.open) {
            return;
        }
        match self.store.inputs(now.handle).await {
            Ok(inputs) => run.asks.settle(&now.open, &inputs),
            Err(error) => {
                tracing::warn!(handle = %now.handle, %error, "answers could not be read; they are tried again");
                run.asks.look_again();
            }
        }
    }

    /// Withdraws questions that are no longer to be answered, for the reason `by` stands for.
    pub(super) async fn withdraw(&self, job: &Job, run: &mut Run, keys: Vec<String>, by: Actor) {
        let op = Op::Withdraw { attempt: job.attempt, by, keys: keys.clone() };
        match self.store.apply(job.handle, op).await {
            // The last answer may have been faster.
            Ok(now) => self.deliver(run, &now).await,
            Err(StoreError::Refused(_) | StoreError::NotFound(_)) => run.asks.forget(&keys),
            Err(error) => {
                tracing::warn!(handle = %job.handle, %error, "questions are not withdrawn yet; trying again");
                run.asks.withdraw_later(&keys, by);
            }
        }
    }
}

/// What an attempt asked and still waits for.
#[derive(Default)]
pub(super) struct OpenAsks {
    asks: Vec<OpenAsk>,
    /// The answers could not be read.
    again: Option<Pin<Box<Sleep>>>,
}

struct OpenAsk {
    keys: Vec<String>,
    reply: oneshot::Sender<Vec<Json>>,
    /// When it is to be withdrawn.
    timer: Option<Pin<Box<Sleep>>>,
    /// In whose name, if that is settled.
    by: Option<Actor>,
}

/// What is to be done about questions.
pub(super) enum Stir {
    /// They are to be withdrawn: by the tool, that has gone on without them, or by the system, because their time is over.
    Withdraw(Vec<String>, Actor),
    /// The job is to be read once more.
    LookAgain,
}

impl OpenAsks {
    fn add(&mut self, keys: Vec<String>, reply: oneshot::Sender<Vec<Json>>, timeout: Option<Duration>) {
        let timer = timeout.map(|timeout| Box::pin(tokio::time::sleep(timeout)));
        self.asks.push(OpenAsk { keys, reply, timer, by: None });
    }

    /// Whether there is one none of whose questions is open any more.
    fn has_settled(&self, open: &[String]) -> bool {
        self.asks.iter().any(|ask| ask.is_settled(open))
    }

    /// What is no longer open, and what nobody waits for any more, is done with.
    fn forget_unwanted(&mut self, open: &[String]) {
        self.asks.retain(|ask| !(ask.reply.is_closed() && ask.is_settled(open)));
    }

    fn settle(&mut self, open: &[String], inputs: &[Input]) {
        for ask in self.asks.extract_if(.., |ask| ask.is_settled(open)) {
            let answer_to = |key: &String| inputs.iter().find(|input| input.key == *key)?.answer.clone();
            if let Some(answers) = ask.keys.iter().map(answer_to).collect() {
                // Whoever asked may have gone.
                let _ = ask.reply.send(answers);
            }
        }
    }

    pub(super) fn look_again(&mut self) {
        self.again = Some(Box::pin(tokio::time::sleep(RETRY_PAUSE)));
    }

    fn withdraw_later(&mut self, keys: &[String], by: Actor) {
        for ask in self.asks.iter_mut().filter(|ask| ask.keys == keys) {
            ask.timer = Some(Box::pin(tokio::time::sleep(RETRY_PAUSE)));
            ask.by = Some(by);
        }
    }

    fn forget(&mut self, keys: &[String]) {
        self.asks.retain(|ask| ask.keys != keys);
    }

    /// Resolves when something is to be done about what was asked.
    pub(super) async fn stir(&mut self) -> Stir {
        std::future::poll_fn(|context| self.poll_stir(context)).await
    }

    fn poll_stir(&mut self, context: &mut Context<'_>) -> Poll<Stir> {
        for ask in &mut self.asks {
            if let Poll::Ready(by) = ask.poll_end(context) {
                return Poll::Ready(Stir::Withdraw(ask.keys.clone(), by));
            }
        }
        if poll_timer(&mut self.again, context) { Poll::Ready(Stir::LookAgain) } else { Poll::Pending }
    }
}

impl OpenAsk {
    fn is_settled(&self, open: &[String]) -> bool {
        !self.keys.iter().any(|key| open.contains(key))
    }

    /// Whether it is to be withdrawn, and in whose name.
    fn poll_end(&mut self, context: &mut Context<'_>) -> Poll<Actor> {
        if self.by.is_none() && self.reply.poll_closed(context).is_ready() {
            return Poll::Ready(Actor::Tool);
        }
        if poll_timer(&mut self.timer, context) {
            return Poll::Ready(self.by.unwrap_or(Actor::System));
        }
        Poll::Pending
    }
}

/// Whether the timer is over; it is then gone.
fn poll_timer(timer: &mut Option<Pin<Box<Sleep>>>, context: &mut Context<'_>) -> bool {
    let is_over = timer.as_mut().is_some_and(|timer| timer.as_mut().poll(context).is_ready());
    if is_over {
        *timer = None;
    }
    is_over
}
