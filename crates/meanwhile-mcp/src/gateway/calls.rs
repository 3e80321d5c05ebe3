//! `tools/call`: to one of our tools, or to a tool of the upstream through the engine, in the face it is to have.
//!
//! What a fast call does not do is boxed, for each call moves and allocates the room of all that it might do.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use meanwhile_core::job::{Failure, FailureKind};
use meanwhile_core::{Attempt, Called, Durations, Job, Json, Policy, Progress, Status, Waited};
use tokio::sync::oneshot;

use super::caller::Caller;
use super::open_call::{Asked, OnItsWay, OpenCall};
use super::own_tools::OwnTool;
use super::reply::{ReplyTo, protocol_error, tool_error, tool_result};
use super::{Gateway, InFlight, lock};
use crate::catalog::{Catalog, Tool};
use crate::economy::inline_budget;
use crate::message::{Answer, Fields, INTERNAL_ERROR, INVALID_PARAMS, INVALID_REQUEST, Id, METHOD_NOT_FOUND};
use crate::modern::needs_tasks;
use crate::rules::Face;
use crate::words;

/// How long a call stays behind what waits for a server that is being started again.
const PLACE_PATIENCE: Duration = Duration::from_millis(500);

/// How long a client that has tasks waits for a call that becomes one.
const NATIVE_BUDGET: Duration = Duration::from_millis(500);
/// The longest that a client may have a task kept.
const TTL_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// A call that its client wants as a task of revision 2025-11-25.
struct WantedTask {
    /// How long it is to be kept, at the least.
    ttl: Option<Duration>,
}

impl WantedTask {
    /// What the call's `task` says. To other revisions the field means nothing, and it is to be ignored.
    ///
    /// # Errors
    /// If it says nothing that can be understood; the text names the field.
    fn take(fields: &mut Fields, caller: &Caller) -> Result<Option<WantedTask>, String> {
        if !caller.is_modern() && !caller.revision.has_core_tasks() {
            return Ok(None);
        }
        let Some(task) = fields.take("task").filter(|_| !caller.is_modern()) else { return Ok(None) };
        let task = Fields::parse(task.get()).map_err(|_| "`task`: must be an object, as {\"ttl\": 60000}")?;
        let ttl = match task.get("ttl").map(|_| task.read::<Option<f64>>("ttl")) {
            None | Some(Some(None)) => None,
            Some(Some(Some(ttl))) if ttl >= 0.0 => Some(Duration::from_millis(ttl as u64)),
            Some(_) => return Err("`task/ttl`: must be a number of milliseconds".to_owned()),
        };
        Ok(Some(WantedTask { ttl }))
    }
}

impl Gateway {
    pub(super) async fn call_tool(
        self: &Arc<Self>,
        caller: Arc<Caller>,
        id: Id,
        params: Option<Json>,
        extra: Fields,
        reply: ReplyTo,
    ) {
        let fields = params.as_ref().and_then(|params| Fields::parse(params.get()).ok());
        if let Some(twice) = fields.as_ref().and_then(Fields::twice) {
            // We would look at one of the two, and the upstream perhaps at the other.
            let answer = protocol_error(INVALID_REQUEST, &format!("`params`: `{twice}` is there twice"));
            return reply.send(id, answer).await;
        }
        let named = fields.and_then(|fields| fields.read::<String>("name").map(|name| (fields, name)));
        let (request, fields, name) = match (params, named) {
            (Some(request), Some((fields, name))) => (request, fields, name),
            _ if caller.is_modern() => {
                let why = "`name`: say which tool is called";
                return reply.send(id, protocol_error(INVALID_PARAMS, why)).await;
            }
            (params, _) => {
                return self.pass_request(caller, id, "tools/call".to_owned(), params, extra, reply).await;
            }
        };
        let open = Arc::new(OpenCall::new(caller, reply.clone()));
        lock(&self.in_flight).insert(id.clone(), InFlight::Here(open.clone()));
        let place = self.lane.place().await;
        let gateway = self.clone();
        self.requests.spawn(async move {
            let _on_its_way = OnItsWay::new(&gateway, &open);
            gateway.comes_to_its_turn(&name, place).await;
            let answer = gateway.answer_call(request, fields, &name, &open).await;
            gateway.landed(&id, |request| matches!(request, InFlight::Here(_)));
            if let Some(answer) = answer {
                reply.send(id, answer).await;
            }
        });
    }

    /// A call stays behind what the client has sent before it. One of ours that needs no server need not.
    async fn comes_to_its_turn(&self, name: &str, place: Option<oneshot::Receiver<()>>) {
        let Some(place) = place else { return };
        let known = lock(&self.catalog).catalog.clone();
        match known {
            // What stands before it may be `initialize` itself.
            None => {
                let _ = place.await;
            }
            Some(catalog) if self.own_tool(name, &catalog).is_some() => {}
            // A server that is being started again may take long, and the call is to become a job meanwhile.
            Some(_) => {
                let _ = tokio::time::timeout(PLACE_PATIENCE, place).await;
            }
        }
    }

    /// The answer of a call; `None` if the client has taken it back, for then there is to be none.
    async fn answer_call(
        self: &Arc<Self>,
        mut request: Json,
        mut fields: Fields,
        name: &str,
        open: &OpenCall,
    ) -> Option<Answer> {
        self.notice_store();
        let wanted = match WantedTask::take(&mut fields, &open.caller) {
            Ok(wanted) => wanted,
            Err(why) => return Some(protocol_error(INVALID_PARAMS, &why)),
        };
        if wanted.is_some() || open.caller.is_modern() {
            request = fields.to_json();
        }
        let catalog = self.catalog().await;
        if let Some(ours) = self.own_tool(name, &catalog) {
            if wanted.is_some() {
                return Some(no_task(name, "it answers at once"));
            }
            let answer = tokio::select! {
                answer = Box::pin(self.call_own_tool(ours, &open.caller, &fields, &catalog)) => answer,
                () = open.cancel.raised() => return None,
            };
            // A list of jobs needs no news of jobs.
            let has_news = ours != OwnTool::List;
            return Some(if has_news { self.with_news(answer, &catalog).await } else { answer });
        }
        let tool = catalog
            .get(name)
            .cloned()
            .unwrap_or_else(|| Arc::new(Tool::unlisted(name, &self.settings.rules)));
        if open.caller.is_modern() && self.is_our_round(&fields) {
            return Box::pin(self.next_round(&fields, &tool, &catalog, open)).await;
        }
        if let Err(why) = self.check_arguments(&fields, &tool) {
            return Some(tool_error(&why));
        }
        let asked = open.asks(Asked::new(tool, request, fields));
        if let Some(wanted) = wanted {
            return Box::pin(self.run_as_task(asked, wanted, open)).await;
        }
        let answer = self.run_tool(asked, &catalog, open).await?;
        // A client that has tasks learns of their end by them.
        if open.caller.capabilities.tasks || self.uses_tasks() {
            return Some(answer);
        }
        Some(self.with_news(answer, &catalog).await)
    }

    /// Whether the arguments may be sent on; if not, why.
    fn check_arguments(&self, fields: &Fields, tool: &Tool) -> Result<(), String> {
        let text = fields.get("arguments").map_or("{}", |arguments| arguments.get());
        if text.len() > self.settings.max_arguments {
            return Err(format!(
                "{}: the arguments have {} bytes, more than the limit of {}; nothing was started. Send less, for example a file's \
                 path instead of its content, or have the limit raised (--max-arguments).",
                tool.name,
                text.len(),
                self.settings.max_arguments
            ));
        }
        tool.check(&self.settings.launch.name, text).map_err(|why| {
            format!("{}: the arguments do not fit its inputSchema, nothing was started. {why}", tool.name)
        })
    }

    async fn run_tool(self: &Arc<Self>, asked: &Asked, catalog: &Catalog, open: &OpenCall) -> Option<Answer> {
        if asked.may_become_a_job() && !self.wait_for_hand_off(open, asked).await {
            return None;
        }
        let tool = &asked.tool;
        let called = match tool.treatment.face {
            Face::Task if !open.caller.capabilities.tasks => return Some(only_as_a_task(tool, &open.caller)),
            Face::Handle | Face::Task => {
                let call = asked.call(&self.settings).clone();
                Box::pin(self.engine.start(call, policy(tool))).await
            }
            Face::Auto | Face::Inline => Ok(match self.joinable(asked).await {
                Some(job) => Called::Joined(job),
                None => self.wait_inline(asked, open).await,
            }),
        };
        match called {
            Ok(Called::Ended(attempt)) => ended(attempt),
            Ok(Called::Started(job) | Called::Beside(job, _)) if tool.treatment.face == Face::Inline => {
                self.has_become_a_job(&job);
                Box::pin(self.wait_out(job.handle, open)).await
            }
            Ok(Called::Started(job)) => {
                self.has_become_a_job(&job);
                Some(Box::pin(self.handle_answer(&open.caller, &job, false, catalog)).await)
            }
            Ok(Called::Beside(job, twin)) => {
                self.has_become_a_job(&job);
                let poll = catalog.our_name(words::POLL_RESULT);
                Some(tool_result(&words::beside(words::started(&job, 0, &poll, false), twin)))
            }
            Ok(Called::Joined(job)) => Some(match Box::pin(self.joined(&open.caller, &job, catalog)).await {
                Ok(answer) => answer,
                Err(wrong) => wrong.answer(&tool.name),
            }),
            Err(error) => Some(protocol_error(INTERNAL_ERROR, &format!("{error}; nothing was started"))),
        }
        // A client that has given the call up is not answered, whatever became of it.
        .filter(|_| !open.hand_off.is_raised())
    }

    /// A call that its client wants as a task is one, at once.
    async fn run_as_task(
        self: &Arc<Self>,
        asked: &Asked,
        wanted: WantedTask,
        open: &OpenCall,
    ) -> Option<Answer> {
        if !asked.may_become_a_job() {
            return Some(no_task(&asked.tool.name, "it is configured inline"));
        }
        self.uses_tasks.store(true, Ordering::Relaxed);
        let mut policy = policy(&asked.tool);
        policy.ttl = policy.ttl.max(wanted.ttl.unwrap_or_default().min(TTL_MAX));
        let started = self.engine.start(asked.call(&self.settings).clone(), policy).await;
        match started {
            Ok(Called::Started(job) | Called::Joined(job) | Called::Beside(job, _)) => {
                self.has_become_a_job(&job);
                Some(self.created_core_task(&job, asked.meta.get("progressToken")).await)
            }
            Ok(Called::Ended(attempt)) => ended(attempt),
            Err(error) => Some(protocol_error(INTERNAL_ERROR, &format!("{error}; nothing was started"))),
        }
        .filter(|_| !open.hand_off.is_raised())
    }

    /// How long a call of this tool is waited for; `None` is as long as it takes.
    pub(super) async fn budget(&self, tool: &Tool, caller: &Caller) -> Option<Duration> {
        if tool.treatment.face == Face::Inline {
            return None;
        }
        let patience = self.patience(caller);
        let set = tool.treatment.inline_budget;
        let judge = |history: &Durations| inline_budget(history, set, patience.survives());
        let budget = self.history(&tool.name, judge).await;
        // What the client has shown goes before whatever is configured.
        let budget = patience.learned().map_or(budget, |learned| budget.min(learned));
        // A task costs its client no turn of a model, so it need not be waited for so long.
        Some(if caller.capabilities.tasks { budget.min(NATIVE_BUDGET) } else { budget })
    }

    async fn wait_inline(self: &Arc<Self>, asked: &Asked, open: &OpenCall) -> Called {
        let mut budget = self.budget(&asked.tool, &open.caller).await;
        if budget.is_none() && open.caller.is_modern() && open.caller.capabilities.can_be_asked() {
            // What it can be asked goes to it in a round of its call, which is a job meanwhile (`wait_out`).
            budget = Some(Duration::MAX);
        }
        let began = Instant::now();
        let token = asked.meta.get("progressToken");
        let forward = |progress: Progress| open.forward_progress(token, &progress);
        let follows_tasks = open.caller.capabilities.tasks && asked.may_become_a_job();
        let waited = Waited { budget, cancel: &open.cancel, hand_off: &open.hand_off, follows_tasks };
        let call = || asked.call(&self.settings);
        let called = self.engine.call(&asked.request, call, policy(&asked.tool), waited, forward).await;
        if matches!(called, Called::Ended(Attempt::Answered(_))) {
            self.took(&asked.tool.name, began.elapsed());
        }
        called
    }

    fn has_become_a_job(self: &Arc<Self>, job: &Job) {
        self.ledger.use_store();
        let (gateway, tool) = (self.clone(), job.tool.clone());
        self.requests.spawn(async move {
            if let Err(error) = gateway.save_history(&tool).await {
                tracing::warn!(server = gateway.settings.launch.name, tool, %error, "how long its calls took is not stored");
            }
        });
    }

    /// The answer of a call that goes on as a job, as its client understands it best: a task, what the job asks, or a handle.
    pub(super) async fn handle_answer(
        &self,
        caller: &Caller,
        job: &Job,
        joined: bool,
        catalog: &Catalog,
    ) -> Answer {
        if caller.capabilities.tasks {
            return self.created_extension_task(job).await;
        }
        if let Some(round) = self.round(caller, job).await {
            return round;
        }
        if job.status == Status::InputRequired {
            return self.question_of(job, catalog).await;
        }
        let ahead = match job.status {
            Status::Queued => self.engine.store().ahead(job.handle).await.unwrap_or(0),
            _ => 0,
        };
        let poll = catalog.our_name(words::POLL_RESULT);
        let said = words::started(job, ahead, &poll, joined);
        tool_result(&match self.extras.for_the_model(job.handle) {
            Some(text) => words::told_at_once(said, &text),
            None => said,
        })
    }
}

fn policy(tool: &Tool) -> Policy {
    Policy { rerun: tool.rerun, timeout: tool.treatment.timeout, ttl: tool.treatment.ttl }
}

/// A call as a task of a tool that has none.
fn no_task(tool: &str, why: &str) -> Answer {
    protocol_error(METHOD_NOT_FOUND, &format!("{tool} cannot be called as a task: {why}"))
}

/// A call by a client without tasks of a tool that is for those who have them.
fn only_as_a_task(tool: &Tool, caller: &Caller) -> Answer {
    if caller.is_modern() {
        return Answer::Error(needs_tasks());
    }
    let why = format!(
        "{} can only be called as a task, and this call is none: its mode is `task` (--mode, --tool); nothing was started",
        tool.name
    );
    protocol_error(METHOD_NOT_FOUND, &why)
}

fn ended(attempt: Attempt) -> Option<Answer> {
    match attempt {
        Attempt::Answered(result) => Some(Answer::Result(result)),
        Attempt::Failed(Failure { kind: FailureKind::Error, error: Some(error), .. }) => {
            Some(Answer::Error(error))
        }
        Attempt::Failed(failure) => Some(tool_error(&failure.message)),
        Attempt::Lost(reason) => Some(tool_error(&reason)),
        Attempt::Stopped(_) => None,
    }
}
