//! One of the servers, as one client has it. What it says of itself, and what it lists, is asked anew each time; but a server
//! that did not answer in time is not waited for again until it has, and meanwhile has what it listed last.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use meanwhile_core::Json;
use serde_json::json;
use tokio::sync::watch;
use tokio::time::Instant;

use super::lock;
use crate::gateway::{LISTS, ReplyTo, Streamed};
use crate::http::Conversation;
use crate::message::{Answer, Fields, Id, Incoming, Message, UPSTREAM_GONE, error, parse, to_json};
use crate::transport::Outbound;

/// How long a server may take to say what it has before it is left out.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// How many pages of a list a server may have.
const PAGES_MAX: usize = 1000;

/// One of the servers.
pub(super) struct Member {
    pub(super) name: String,
    conversation: Mutex<Arc<dyn Conversation>>,
    again: Option<Again>,
    /// It did not answer in time, and is not waited for.
    is_late: AtomicBool,
    /// It did not introduce itself in time to the client that came last, whichever that was.
    is_slow_to_begin: Arc<AtomicBool>,
    said: Mutex<HashMap<String, Said>>,
    next: AtomicU64,
}

/// How a session gets at a server that was not there when it began.
pub(super) struct Again {
    begin: Box<dyn Fn() -> Arc<dyn Conversation> + Send + Sync>,
    /// What the client has said of itself, while the server has not welcomed it.
    opening: Mutex<Option<Fields>>,
    /// From which level on the client wants to hear its log, if it has said so.
    level: Mutex<Option<Arc<Fields>>>,
    is_being_tried: AtomicBool,
    /// The session is at its end.
    is_over: AtomicBool,
}

impl Again {
    /// By beginning a conversation anew.
    pub(super) fn new(begin: impl Fn() -> Arc<dyn Conversation> + Send + Sync + 'static) -> Again {
        let no = || AtomicBool::new(false);
        Again {
            begin: Box::new(begin),
            opening: Mutex::default(),
            level: Mutex::default(),
            is_being_tried: no(),
            is_over: no(),
        }
    }
}

/// What it has said to a method.
#[derive(Default)]
struct Said {
    last: Arc<Vec<Json>>,
    /// It is being asked, and nobody waits for it.
    is_asked: bool,
}

/// Tells the client that there is something else to list.
pub(super) struct News {
    down: Outbound,
    /// How often each of [`LISTS`] has changed, for those who listen.
    changed: watch::Sender<[u64; LISTS.len()]>,
}

impl News {
    pub(super) fn new(down: Outbound) -> Arc<News> {
        Arc::new(News { down, changed: watch::Sender::default() })
    }

    pub(super) fn follow(&self) -> watch::Receiver<[u64; LISTS.len()]> {
        self.changed.subscribe()
    }

    /// Tells of all that a server has, by its introduction.
    async fn tell_of(&self, introduction: Option<&Json>) {
        let said = introduction.and_then(|said| Fields::parse(said.get()).ok()).unwrap_or_default();
        let has: Fields = said.read("capabilities").unwrap_or_default();
        self.tell(|what| has.get(what).is_some()).await;
    }

    async fn tell(&self, is_news: impl Fn(&str) -> bool) {
        for (number, (what, notification, _)) in LISTS.iter().enumerate() {
            if is_news(what) {
                self.changed.send_modify(|changed| changed[number] += 1);
                self.down.send(Message::notification(notification, to_json(&json!({}))).to_line()).await;
            }
        }
    }
}

/// What a list holds, and by what its items are known; `None` if it is no list that is asked for.
pub(super) fn kind(method: &str) -> Option<(&'static str, &'static str)> {
    match method {
        "tools/list" => Some(("tools", "name")),
        "prompts/list" => Some(("prompts", "name")),
        "resources/list" => Some(("resources", "uri")),
        "resources/templates/list" => Some(("resourceTemplates", "uriTemplate")),
        _ => None,
    }
}

impl Member {
    pub(super) fn new(
        name: &str,
        conversation: Arc<dyn Conversation>,
        again: Option<Again>,
        is_slow_to_begin: &Arc<AtomicBool>,
    ) -> Arc<Member> {
        Arc::new(Member {
            name: name.to_owned(),
            conversation: Mutex::new(conversation),
            again,
            is_late: AtomicBool::new(is_slow_to_begin.load(Ordering::Relaxed)),
            is_slow_to_begin: is_slow_to_begin.clone(),
            said: Mutex::default(),
            next: AtomicU64::new(1),
        })
    }

    pub(super) fn conversation(&self) -> Arc<dyn Conversation> {
        lock(&self.conversation).clone()
    }

    /// The conversation that is the last one, for the session is at its end.
    pub(super) fn last_conversation(&self) -> Arc<dyn Conversation> {
        let last = lock(&self.conversation);
        if let Some(again) = &self.again {
            again.is_over.store(true, Ordering::Relaxed);
        }
        last.clone()
    }

    /// How long it is waited for.
    pub(super) fn patience(&self) -> Duration {
        if self.is_late() { Duration::ZERO } else { PATIENCE }
    }

    pub(super) fn is_late(&self) -> bool {
        self.is_late.load(Ordering::Relaxed)
    }

    /// The items of a list, or what else it answers; nothing if that is an error. What comes too late is for whoever asks next,
    /// who is told that it has come.
    pub(super) async fn hear(
        self: &Arc<Self>,
        method: &str,
        params: &Fields,
        news: &Arc<News>,
    ) -> Arc<Vec<Json>> {
        if !is_introduction(method) {
            self.begin_again(news);
        }
        if self.is_late() {
            let mut said = lock(&self.said);
            let said = said.entry(method.to_owned()).or_default();
            if std::mem::replace(&mut said.is_asked, true) {
                return said.last.clone();
            }
        }
        let (began, patience) = (Instant::now(), self.patience());
        let (member, asked, params) = (self.clone(), method.to_owned(), params.clone());
        let begun_with = params.clone();
        let mut asked = tokio::spawn(async move { Arc::new(member.answered(&asked, params).await) });
        if let Ok(came) = tokio::time::timeout(patience, &mut asked).await {
            let came = came.unwrap_or_default();
            self.welcomed(method, &came, &begun_with);
            self.came(method, &came, began);
            return came;
        }
        if !self.is_late.swap(true, Ordering::Relaxed) {
            tracing::info!(server = self.name, method, "a server is left out: it does not answer");
        }
        if is_introduction(method) {
            self.is_slow_to_begin.store(true, Ordering::Relaxed);
        }
        let (member, news, late) = (self.clone(), news.clone(), method.to_owned());
        tokio::spawn(async move {
            let came = asked.await.unwrap_or_default();
            member.welcomed(&late, &came, &begun_with);
            member.came_late(&late, &came, began, &news).await;
        });
        let mut said = lock(&self.said);
        let said = said.entry(method.to_owned()).or_default();
        said.is_asked = true;
        said.last.clone()
    }

    async fn came_late(&self, method: &str, came: &Arc<Vec<Json>>, began: Instant, news: &News) {
        let before = self.came(method, came, began);
        let is_same = before.iter().map(|item| item.get()).eq(came.iter().map(|item| item.get()));
        if is_same {
            return;
        }
        if is_introduction(method) {
            news.tell_of(came.first()).await;
        } else {
            news.tell(|what| method.starts_with(what)).await;
        }
    }

    /// It has answered: returns what it had said before.
    fn came(&self, method: &str, came: &Arc<Vec<Json>>, began: Instant) -> Arc<Vec<Json>> {
        if began.elapsed() < PATIENCE {
            self.is_late.store(false, Ordering::Relaxed);
            if is_introduction(method) {
                self.is_slow_to_begin.store(false, Ordering::Relaxed);
            }
        }
        let mut said = lock(&self.said);
        let said = said.entry(method.to_owned()).or_default();
        said.is_asked = false;
        std::mem::replace(&mut said.last, came.clone())
    }

    /// What it answers, a list page by page.
    async fn answered(&self, method: &str, mut params: Fields) -> Vec<Json> {
        let mut items = Vec::new();
        params.take("cursor");
        for _ in 0..PAGES_MAX {
            let answer = match self.ask(method, &params).await {
                Ok(answer) => answer,
                Err(error) if is_introduction(method) => {
                    tracing::info!(server = self.name, %error, "a server is left out");
                    break;
                }
                // Many have only tools.
                Err(_) => break,
            };
            let Some((field, _)) = kind(method) else { return vec![answer] };
            let page = Fields::parse(answer.get()).unwrap_or_default();
            items.extend(page.read::<Vec<Json>>(field).unwrap_or_default());
            match page.get("nextCursor") {
                Some(cursor) => params.set("cursor", cursor.to_owned()),
                None => break,
            }
        }
        items
    }

    /// Takes note of whether it has welcomed the client of a session.
    fn welcomed(&self, method: &str, came: &[Json], params: &Fields) {
        if let Some(again) = self.again.as_ref().filter(|_| is_introduction(method)) {
            *lock(&again.opening) = came.is_empty().then(|| params.clone());
        }
    }

    /// Tries, beside, whether it has come up that was not there when the session began; the client is told if it has.
    fn begin_again(self: &Arc<Self>, news: &Arc<News>) {
        let Some(again) = &self.again else { return };
        let Some(opening) = lock(&again.opening).clone() else { return };
        if again.is_being_tried.swap(true, Ordering::Relaxed) {
            return;
        }
        let (member, news, conversation) = (self.clone(), news.clone(), (again.begin)());
        tokio::spawn(async move {
            let said = member.ask_at(&conversation, "initialize", &opening).await.ok();
            if said.is_some() {
                let (method, params) = ("notifications/initialized".to_owned(), None);
                let initialized = Message::Notification { method, params, extra: Fields::default() };
                let (nowhere, _) = ReplyTo::stream(Id::unknown());
                conversation.receive(initialized, nowhere).await;
                member.welcomed("initialize", said.as_slice(), &opening);
            }
            let left = member.goes_on_with(conversation, said.is_some());
            news.tell_of(said.as_ref()).await;
            if said.is_some() {
                // What is left may take its time to end.
                let member = member.clone();
                tokio::spawn(async move { member.tell_level().await });
            }
            left.close();
            left.end().await;
        });
    }

    /// Tells it from which level on the client wants to hear its log.
    pub(super) async fn set_level(&self, params: Fields) {
        match &self.again {
            Some(again) => {
                *lock(&again.level) = Some(Arc::new(params));
                self.tell_level().await;
            }
            None => drop(self.ask("logging/setLevel", &params).await),
        }
    }

    /// Tells it the level that was named last, also if that is named while it is told one: whoever comes up late hears of it, and
    /// of no older one behind it.
    async fn tell_level(&self) {
        let wanted = || self.again.as_ref().and_then(|again| lock(&again.level).clone());
        let mut next = wanted();
        while let Some(level) = next {
            let _ = self.ask("logging/setLevel", &level).await;
            next = wanted().filter(|wanted| !Arc::ptr_eq(wanted, &level));
        }
    }

    /// From now on this is the conversation, if it has been welcomed and the session goes on. Returns the one that is left.
    fn goes_on_with(&self, new: Arc<dyn Conversation>, is_welcome: bool) -> Arc<dyn Conversation> {
        let mut now = lock(&self.conversation);
        let Some(again) = &self.again else { return new };
        again.is_being_tried.store(false, Ordering::Relaxed);
        if is_welcome && !again.is_over.load(Ordering::Relaxed) {
            return std::mem::replace(&mut *now, new);
        }
        new
    }

    /// Asks it something in our name.
    pub(super) async fn ask(&self, method: &str, params: &Fields) -> Result<Json, Json> {
        self.ask_at(&self.conversation(), method, params).await
    }

    async fn ask_at(
        &self,
        conversation: &Arc<dyn Conversation>,
        method: &str,
        params: &Fields,
    ) -> Result<Json, Json> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let id = Id::read(&to_json(&format!("meanwhile-{number}"))).expect("a string is an id");
        let params = (!params.is_empty()).then(|| params.to_json());
        let (reply, mut streamed) = ReplyTo::stream(id.clone());
        let message = Message::Request { id, method: method.to_owned(), params, extra: Fields::default() };
        conversation.receive(message, reply).await;
        while let Some(said) = streamed.recv().await {
            let Streamed::Answer(line) = said else { continue };
            if let Ok(Incoming::One(Message::Response { answer, .. })) = parse(&line) {
                return match answer {
                    Answer::Result(result) => Ok(result),
                    Answer::Error(error) => Err(error),
                };
            }
        }
        Err(error(UPSTREAM_GONE, "it does not answer"))
    }
}

fn is_introduction(method: &str) -> bool {
    matches!(method, "initialize" | "server/discover")
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use serde_json::Value;

    use super::*;
    use crate::transport::Outgoing;

    /// A server that takes so long for its next answers, each of which lists one tool.
    struct Slow(Mutex<VecDeque<(Duration, &'static str)>>);

    #[async_trait::async_trait]
    impl Conversation for Slow {
        async fn receive(&self, message: Message, reply: ReplyTo) {
            let Message::Request { id, .. } = message else { return };
            let Some((pause, tool)) = lock(&self.0).pop_front() else { return };
            tokio::spawn(async move {
                tokio::time::sleep(pause).await;
                reply.send(id, Answer::Result(to_json(&json!({"tools": [{"name": tool}]})))).await;
            });
        }
        async fn mirroring_schema(&self, _tool: &str) -> Option<Json> {
            None
        }
        fn has_asked(&self, _id: &Id) -> bool {
            false
        }
        fn is_answering(&self, _id: &Id) -> bool {
            false
        }
        fn has_tool(&self, _name: &str) -> bool {
            false
        }
        fn touch(&self) {}
        fn close(&self) {}
        async fn end(&self) {}
    }

    struct Stage {
        member: Arc<Member>,
        news: Arc<News>,
        told: Outgoing,
    }

    impl Stage {
        /// A server that takes so many seconds for its next answers.
        fn new(answers: &[(u64, &'static str)]) -> Stage {
            let answers = answers.iter().map(|(seconds, tool)| (Duration::from_secs(*seconds), *tool));
            let slow = Arc::new(Slow(Mutex::new(answers.collect())));
            let (down, told) = Outbound::channel();
            Stage { member: Member::new("s", slow, None, &Arc::default()), news: News::new(down), told }
        }

        /// What a list shows, and after how many seconds.
        async fn list(&self) -> (Vec<String>, u64) {
            let began = Instant::now();
            let items = self.member.hear("tools/list", &Fields::default(), &self.news).await;
            let name = |item: &Json| serde_json::from_str::<Value>(item.get()).unwrap()["name"].clone();
            let names = items.iter().map(|item| name(item).as_str().unwrap().to_owned());
            (names.collect(), began.elapsed().as_secs())
        }

        async fn told(&mut self) -> bool {
            tokio::time::timeout(Duration::from_secs(100), self.told.next()).await.is_ok()
        }
    }

    fn shows(tool: &str) -> Vec<String> {
        vec![tool.to_owned()]
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_never_answers_is_waited_for_once() {
        let stage = Stage::new(&[(1_000_000, "x")]);
        assert_eq!(stage.list().await, (vec![], 10));
        assert_eq!(stage.list().await, (vec![], 0));
        assert_eq!(stage.list().await, (vec![], 0));
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_always_slow_has_what_it_listed_last_and_the_client_hears_of_what_is_new() {
        let mut stage = Stage::new(&[(15, "x"), (15, "x"), (15, "y"), (0, "z"), (9, "z")]);
        assert_eq!(stage.list().await, (vec![], 10));
        assert!(stage.told().await);
        assert_eq!(stage.list().await, (shows("x"), 0));
        assert!(!stage.told().await, "it is the same");
        assert_eq!(stage.list().await, (shows("x"), 0));
        assert!(stage.told().await);
        // From here on it answers in time, and is waited for.
        assert_eq!(stage.list().await, (shows("y"), 0));
        assert!(stage.told().await);
        assert_eq!(stage.list().await, (shows("z"), 9));
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_busy_for_a_while_keeps_its_list() {
        let stage = Stage::new(&[(0, "x"), (1_000, "x")]);
        assert_eq!(stage.list().await, (shows("x"), 0));
        assert_eq!(stage.list().await, (shows("x"), 10));
        assert_eq!(stage.list().await, (shows("x"), 0));
    }
}
