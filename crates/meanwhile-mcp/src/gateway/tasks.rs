//! Native tasks, in both dialects: the same jobs that `poll_result` and `meanwhile jobs` see.

use std::sync::Arc;
use std::time::Duration;

use meanwhile_core::engine::{Action, Controlled, Until, answer, read_answer, wait};
use meanwhile_core::job::Input;
use meanwhile_core::store::Query;
use meanwhile_core::{Actor, Handle, Job, Json, Op, Refused, Status, StoreError};
use serde_json::json;
use serde_json::value::RawValue;

use super::caller::Caller;
use super::open_call::OpenCall;
use super::reply::{ReplyTo, protocol_error};
use super::{Gateway, InFlight, lock};
use crate::answers::fits;
use crate::dialect::{self, Detail, RELATED_TASK};
use crate::economy;
use crate::message::{Answer, Fields, INTERNAL_ERROR, INVALID_PARAMS, Id, Message, to_json};
use crate::modern::{self, Capabilities};
use crate::words;

/// A task's client is told to ask again no later than this: it costs no model a turn.
const POLL_MAX: Duration = Duration::from_secs(5);
/// How many tasks are listed at once.
const PAGE: usize = 100;
/// How long one wait for a task's end is, before it is looked at again.
const WAIT: Duration = Duration::from_secs(3600);

/// Why a task's request, or a call's next round, has no proper answer.
pub(super) struct Wrong(pub(super) Answer);

impl From<StoreError> for Wrong {
    fn from(error: StoreError) -> Wrong {
        Wrong(protocol_error(INTERNAL_ERROR, &error.to_string()))
    }
}

pub(super) fn invalid(why: &str) -> Wrong {
    Wrong(protocol_error(INVALID_PARAMS, why))
}

fn no_responses() -> Wrong {
    invalid("`inputResponses`: must be an object of answers by their keys")
}

fn fields_of(params: Option<&Json>) -> Fields {
    params.and_then(|params| Fields::parse(params.get()).ok()).unwrap_or_default()
}

impl Gateway {
    /// The job of `params.taskId`. One of another scope, and one whose result has expired, is not there.
    async fn task(&self, params: &Fields) -> Result<Job, Wrong> {
        let Some(text) = params.read::<String>("taskId") else {
            return Err(invalid("`taskId`: the id of the task, as a string"));
        };
        let unknown = || invalid(&format!("there is no task {} here", words::clip(&text)));
        let handle: Handle = text.parse().map_err(|_| unknown())?;
        let job = self.engine.store().job(handle).await?.filter(|job| job.scope == self.settings.scope);
        let job = job.ok_or_else(unknown)?;
        if job.expired_at.is_some() {
            return Err(invalid(&format!("task {handle} has expired")));
        }
        Ok(job)
    }

    async fn poll_interval(&self, job: &Job) -> Duration {
        let now = self.engine.now();
        self.history(&job.tool, |history| economy::poll_after(job, history, now)).await.min(POLL_MAX)
    }

    pub(super) async fn open_inputs(&self, job: &Job) -> Result<Vec<Input>, StoreError> {
        if job.open.is_empty() {
            return Ok(vec![]);
        }
        let mut inputs = self.engine.store().inputs(job.handle).await?;
        inputs.retain(|input| job.open.contains(&input.key));
        Ok(inputs)
    }

    // ---- the extension

    /// A job as a task that was just made, in the extension's form.
    pub(super) async fn created_extension_task(&self, job: &Job) -> Answer {
        let mut task = dialect::extension_task(job, &Detail::None, self.poll_interval(job).await);
        self.extras.add_to(job.handle, &mut task);
        task.set("resultType", to_json("task"));
        Answer::Result(task.to_json())
    }

    pub(super) async fn get_extension_task(self: &Arc<Self>, id: Id, params: Option<Json>, reply: ReplyTo) {
        let gateway = self.clone();
        self.requests.spawn(async move {
            let answer = async {
                let job = gateway.task(&fields_of(params.as_ref())).await?;
                let task = gateway.detailed(&job).await?;
                gateway.collect(&job);
                Ok(Answer::Result(task.to_json()))
            };
            let answer: Result<Answer, Wrong> = answer.await;
            reply.send(id, answer.unwrap_or_else(|Wrong(answer)| answer)).await;
        });
    }

    /// A job as `tasks/get` and `notifications/tasks` show it.
    pub(super) async fn detailed(&self, job: &Job) -> Result<Fields, StoreError> {
        let detail = match (job.status, &job.failure) {
            (Status::InputRequired, _) => Detail::Inputs(self.open_inputs(job).await?),
            (Status::Completed, _) => {
                match read_answer(&**self.engine.store(), self.engine.artifacts(), job).await? {
                    Some(result) => {
                        Detail::Result(modern::result(&dialect::without_related_task(&result), None, false))
                    }
                    None => Detail::None,
                }
            }
            (Status::Failed, Some(failure)) => Detail::Error(dialect::failure(failure)),
            _ => Detail::None,
        };
        let mut task = dialect::extension_task(job, &detail, self.poll_interval(job).await);
        self.extras.add_to(job.handle, &mut task);
        Ok(task)
    }

    pub(super) async fn update_task(self: &Arc<Self>, id: Id, params: Option<Json>, reply: ReplyTo) {
        let gateway = self.clone();
        self.requests.spawn(async move {
            let params = fields_of(params.as_ref());
            let answer = async {
                let job = gateway.task(&params).await?;
                let answers = params.get("inputResponses");
                gateway.take_responses(&job, answers.ok_or_else(no_responses)?).await?;
                Ok(Answer::Result(to_json(&json!({}))))
            };
            let answer: Result<Answer, Wrong> = answer.await;
            reply.send(id, answer.unwrap_or_else(|Wrong(answer)| answer)).await;
        });
    }

    /// Gives a job what a client answers: all of it, or none if one of the answers cannot be one to its question. What is not
    /// asked, or not any more, is ignored.
    pub(super) async fn take_responses(&self, job: &Job, responses: &RawValue) -> Result<(), Wrong> {
        let responses = Fields::parse(responses.get()).map_err(|_| no_responses())?;
        for input in self.open_inputs(job).await? {
            if let Some(response) = responses.get(&input.key) {
                fits(&input.question, response)
                    .map_err(|why| invalid(&format!("`inputResponses/{}`: {why}", input.key)))?;
            }
        }
        Ok(self.give_answers(job.handle, responses).await?)
    }

    /// Gives a job the user's answers.
    async fn give_answers(&self, handle: Handle, answers: Fields) -> Result<(), StoreError> {
        let store = &**self.engine.store();
        let scope = Some(self.settings.scope.as_str());
        answer(store, scope, handle, answers.into_entries(), Actor::User).await.map(drop)
    }

    pub(super) async fn cancel_extension_task(
        self: &Arc<Self>,
        id: Id,
        params: Option<Json>,
        reply: ReplyTo,
    ) {
        let gateway = self.clone();
        self.requests.spawn(async move {
            let answer = async {
                let job = gateway.task(&fields_of(params.as_ref())).await?;
                match gateway.engine.store().apply(job.handle, Op::Cancel { by: Actor::Agent }).await {
                    // One that has ended is acknowledged all the same.
                    Ok(_) | Err(StoreError::Refused(_)) => Ok(Answer::Result(to_json(&json!({})))),
                    Err(error) => Err(Wrong::from(error)),
                }
            };
            let answer: Result<Answer, Wrong> = answer.await;
            reply.send(id, answer.unwrap_or_else(|Wrong(answer)| answer)).await;
        });
    }

    // ---- revision 2025-11-25

    async fn core_task(&self, job: &Job) -> Result<Fields, StoreError> {
        let is_error = match job.status {
            Status::Completed => read_answer(&**self.engine.store(), self.engine.artifacts(), job)
                .await?
                .is_some_and(|answer| dialect::is_error(&answer)),
            _ => false,
        };
        Ok(dialect::core_task(job, is_error, self.poll_interval(job).await))
    }

    /// A job as a task that was just made; what becomes of it is told from then on, with its progress under the client's token.
    pub(super) async fn created_core_task(self: &Arc<Self>, job: &Job, token: Option<&RawValue>) -> Answer {
        let task = match self.core_task(job).await {
            Ok(task) => task,
            Err(error) => return Wrong::from(error).0,
        };
        self.follow_core_task(job.clone(), token.map(ToOwned::to_owned));
        let mut result = Fields::default();
        result.set("task", task.to_json());
        Answer::Result(result.to_json())
    }

    fn follow_core_task(self: &Arc<Self>, mut known: Job, token: Option<Json>) {
        let (gateway, down) = (Arc::downgrade(self), self.down.clone());
        let store = self.engine.store().clone();
        tokio::spawn(async move {
            // Subscribed before the first look, so that nothing falls between.
            let mut changes = store.changes().of(known.handle);
            loop {
                let Some(gateway) = gateway.upgrade() else { return };
                let Ok(Some(job)) = store.job(known.handle).await else { return };
                gateway.tell_core_task(&known, &job, token.as_ref()).await;
                if job.status.is_terminal() {
                    return;
                }
                known = job;
                drop(gateway);
                tokio::select! {
                    () = changes.changed() => {}
                    () = down.closed() => return,
                }
            }
        });
    }

    async fn tell_core_task(&self, before: &Job, job: &Job, token: Option<&Json>) {
        if let (Some(token), Some(progress)) = (token, &job.progress)
            && job.progress != before.progress
        {
            let mut params = Fields::parse(to_json(progress).get()).unwrap_or_default();
            params.set("progressToken", token.clone());
            params.set("_meta", related(job));
            let message = Message::notification("notifications/progress", params.to_json());
            self.down.send(message.to_line()).await;
        }
        if (job.status, &job.message) == (before.status, &before.message) {
            return;
        }
        if let Ok(mut task) = self.core_task(job).await {
            task.set("_meta", related(job));
            let message = Message::notification("notifications/tasks/status", task.to_json());
            self.down.send(message.to_line()).await;
        }
    }

    pub(super) async fn core_task_request(
        self: &Arc<Self>,
        caller: Arc<Caller>,
        id: Id,
        method: String,
        params: Option<Json>,
        reply: ReplyTo,
    ) {
        let open = Arc::new(OpenCall::new(caller, reply.clone()));
        lock(&self.in_flight).insert(id.clone(), InFlight::Here(open.clone()));
        let gateway = self.clone();
        self.requests.spawn(async move {
            let params = fields_of(params.as_ref());
            let answer = async {
                match method.as_str() {
                    "tasks/list" => gateway.list_core_tasks(&params).await,
                    "tasks/cancel" => gateway.cancel_core_task(&params).await,
                    "tasks/result" => gateway.core_task_result(&params, &open).await,
                    _ => {
                        let job = gateway.task(&params).await?;
                        Ok(Answer::Result(gateway.core_task(&job).await?.to_json()))
                    }
                }
            };
            let answer = tokio::select! {
                answer = answer => Some(answer.unwrap_or_else(|Wrong(answer)| answer)),
                () = open.cancel.raised() => None,
            };
            gateway.landed(&id, |request| matches!(request, InFlight::Here(_)));
            if let Some(answer) = answer {
                reply.send(id, answer).await;
            }
        });
    }

    /// One page of them, the newest first. A cursor is the id of the last one that was listed.
    async fn list_core_tasks(&self, params: &Fields) -> Result<Answer, Wrong> {
        let before = match params.get("cursor").map(RawValue::get) {
            None | Some("null") => None,
            Some(_) => Some(self.listed(params.read("cursor").unwrap_or_default()).await?),
        };
        let scope = Some(self.settings.scope.clone());
        let query = Query { scope, before, limit: PAGE + 1, ..Query::default() };
        let mut jobs = self.engine.store().list(&query).await?;
        let is_last = jobs.len() <= PAGE;
        jobs.truncate(PAGE);
        let mut result = Fields::default();
        let mut tasks = Vec::new();
        for job in jobs.iter().filter(|job| job.expired_at.is_none()) {
            tasks.push(self.core_task(job).await?.to_json());
        }
        result.set("tasks", to_json(&tasks));
        if let Some(last) = jobs.last().filter(|_| !is_last) {
            result.set("nextCursor", to_json(&last.handle));
        }
        Ok(Answer::Result(result.to_json()))
    }

    /// The job that a cursor names.
    async fn listed(&self, cursor: String) -> Result<Handle, Wrong> {
        let wrong = || invalid("`cursor`: none that was given out here, or one that is too old; begin anew");
        let handle: Handle = cursor.parse().map_err(|_| wrong())?;
        let job = self.engine.store().job(handle).await?;
        job.filter(|job| job.scope == self.settings.scope).map(|job| job.handle).ok_or_else(wrong)
    }

    async fn cancel_core_task(self: &Arc<Self>, params: &Fields) -> Result<Answer, Wrong> {
        let job = self.task(params).await?;
        let scope = &self.settings.scope;
        let controlled = self.engine.control(scope, job.handle, Action::Cancel, Actor::Agent).await?;
        match controlled {
            Controlled::Done(job) => {
                self.collect(&job);
                Ok(Answer::Result(self.core_task(&job).await?.to_json()))
            }
            Controlled::Refused(job, Refused::Ended(status)) => {
                Err(invalid(&format!("task {} has already ended: {}", job.handle, status.name())))
            }
            Controlled::Refused(_, why) => Err(invalid(&why.to_string())),
            Controlled::NotFound => Err(invalid(&format!("there is no task {} here", job.handle))),
        }
    }

    /// Waits for the end as long as it takes, and meanwhile asks the client what the task asks.
    async fn core_task_result(self: &Arc<Self>, params: &Fields, open: &OpenCall) -> Result<Answer, Wrong> {
        let handle = self.task(params).await?.handle;
        let store = &**self.engine.store();
        // Subscribed before the first look, so that nothing falls between.
        let mut changes = store.changes().of(handle);
        let gone = || invalid(&format!("there is no task {handle} any more"));
        let mut job = store.job(handle).await?.ok_or_else(gone)?;
        let mut asked: Vec<String> = Vec::new();
        let (can, mut asking) = (open.caller.capabilities, tokio::task::JoinSet::new());
        while !job.status.is_terminal() {
            for input in self.open_inputs(&job).await? {
                if !asked.contains(&input.key) {
                    asked.push(input.key.clone());
                    asking.spawn(self.clone().ask_about_task(input, job.clone(), can, open.clone_way()));
                }
            }
            changes.changed().await;
            job = store.job(handle).await?.ok_or_else(gone)?;
        }
        drop(asking);
        self.collect(&job);
        Ok(match self.whole_answer(&job).await? {
            Answer::Result(result) => Answer::Result(dialect::with_related_task(&result, &job)),
            error => error,
        })
    }

    /// Asks the client, if it can answer, one question of a task on the stream of its `tasks/result`, and gives the job the answer.
    async fn ask_about_task(self: Arc<Self>, input: Input, job: Job, can: Capabilities, way: ReplyTo) {
        let Ok(question) = Fields::parse(input.question.get()) else { return };
        let Some(method) = question.read::<String>("method") else { return };
        if !can.answers(&method, question.get("params")) {
            return;
        }
        let mut params: Fields = question.read("params").unwrap_or_default();
        let mut meta: Fields = params.read("_meta").unwrap_or_default();
        meta.set(RELATED_TASK, dialect::related_task(&job));
        params.set("_meta", meta.to_json());
        let Some(Answer::Result(result)) = self.ask_client(&way, &method, params.to_json()).await else {
            return;
        };
        let mut answers = Fields::default();
        answers.set(&input.key, result);
        if let Err(error) = self.give_answers(job.handle, answers).await {
            tracing::warn!(handle = %job.handle, %error, "an answer of the client is lost; it is asked again");
        }
    }

    // ---- both

    /// What a call that ended is answered with where no model's context is to be spared: the result itself, whole.
    pub(super) async fn whole_answer(&self, job: &Job) -> Result<Answer, StoreError> {
        if let Some(result) = read_answer(&**self.engine.store(), self.engine.artifacts(), job).await? {
            return Ok(Answer::Result(result));
        }
        Ok(match &job.failure {
            Some(failure) => Answer::Error(dialect::failure(failure)),
            None => {
                let message = job.message.as_deref().unwrap_or("it has no result");
                protocol_error(INTERNAL_ERROR, &format!("task {}: {message}", job.handle))
            }
        })
    }

    /// Waits for a job as a call does that is waited for: until it has ended, or asks, or `patience` is over.
    pub(super) async fn wait_for(
        &self,
        handle: Handle,
        patience: Duration,
    ) -> Result<Option<Job>, StoreError> {
        let scope = Some(self.settings.scope.as_str());
        let patience = patience.min(WAIT);
        let jobs = wait(&**self.engine.store(), scope, &[handle], Until::Any, patience).await?;
        Ok(jobs.into_iter().next().flatten().map(|seen| seen.job))
    }
}

fn related(job: &Job) -> Json {
    let mut meta = Fields::default();
    meta.set(RELATED_TASK, dialect::related_task(job));
    meta.to_json()
}
