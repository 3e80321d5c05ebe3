//! What stands behind a path: one server, or several as one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use meanwhile_core::artifact::Artifacts;
use meanwhile_core::engine::Slots;
use meanwhile_core::{Json, Store};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::access::Principal;
use crate::gateway::{Gateway, ReplyTo, Settings};
use crate::message::{Id, Message};
use crate::transport::Outbound;
use crate::upstream::Upstream;

/// What stands behind one path.
pub trait Endpoint: Send + Sync + 'static {
    /// A conversation of its own, for one session. What is said there unasked goes to `down`.
    fn converse(&self, who: &Principal, down: Outbound) -> Arc<dyn Conversation>;

    /// The one conversation that all requests of `who` share that belong to no session.
    fn shared(&self, who: &Principal) -> Arc<dyn Conversation>;

    /// Ends what nobody has used for long.
    fn end_the_idle(&self);
}

/// A client and what it speaks to.
#[async_trait::async_trait]
pub trait Conversation: Send + Sync + 'static {
    /// Takes one message of the client. What it asks for is answered through `reply`.
    async fn receive(&self, message: Message, reply: ReplyTo);

    /// The `inputSchema` of a tool, if it mirrors arguments into headers.
    async fn mirroring_schema(&self, tool: &str) -> Option<Json>;

    /// Whether this question was asked there, and not answered.
    fn has_asked(&self, id: &Id) -> bool;

    /// Whether this request came there, and is not answered.
    fn is_answering(&self, id: &Id) -> bool;

    /// Whether the server is known to have a tool of this name itself.
    fn has_tool(&self, name: &str) -> bool;

    /// Its client is there, if only to listen: it is not idle.
    fn touch(&self);

    /// We are about to end: whoever listens is told that it is over.
    fn close(&self);

    /// The client is gone for good: what it asked for is answered, its jobs are finished, then the server ends.
    async fn end(&self);
}

#[async_trait::async_trait]
impl Conversation for Arc<Gateway> {
    async fn receive(&self, message: Message, reply: ReplyTo) {
        self.receive_message(message, reply).await;
    }

    async fn mirroring_schema(&self, tool: &str) -> Option<Json> {
        self.tool_schema(tool).await.filter(|schema| schema.get().contains("\"x-mcp-header\""))
    }

    fn has_asked(&self, id: &Id) -> bool {
        Gateway::has_asked(self, id)
    }

    fn is_answering(&self, id: &Id) -> bool {
        Gateway::is_answering(self, id)
    }

    fn has_tool(&self, name: &str) -> bool {
        Gateway::has_tool(self, name)
    }

    fn touch(&self) {
        Gateway::touch(self);
    }

    fn close(&self) {
        Gateway::close(self);
    }

    async fn end(&self) {
        self.answer_the_rest().await;
        self.drain().await;
        self.stop_upstream().await;
    }
}

/// How a gateway to one server is made for a principal.
pub type MakeSettings = Box<dyn Fn(&Principal) -> Settings + Send + Sync>;

/// One server: a process of its own for each session, and one for all requests of a principal that belong to none; or, if it is to
/// be shared, one for all.
pub struct OneServer {
    settings: MakeSettings,
    store: Arc<dyn Store>,
    artifacts: Artifacts,
    /// A process that nobody has asked anything for so long ends. The next request starts another.
    idle: Duration,
    gateways: Arc<Mutex<Vec<Weak<Gateway>>>>,
    shared: Mutex<HashMap<Principal, Shared>>,
    /// The one that all share.
    upstream: Option<Mutex<Option<Common>>>,
}

/// A server that several gateways share.
struct Common {
    upstream: Arc<Upstream>,
    /// How many jobs of all of them run there at once.
    slots: Slots,
}

/// A gateway for all requests of one principal that belong to no session.
struct Shared {
    gateway: Arc<Gateway>,
    conversation: Arc<dyn Conversation>,
    used: Instant,
}

impl OneServer {
    /// A server that is started when somebody asks for it.
    #[must_use]
    pub fn new(
        settings: MakeSettings,
        store: Arc<dyn Store>,
        artifacts: Artifacts,
        idle: Duration,
        is_shared: bool,
    ) -> Arc<OneServer> {
        let (gateways, shared) = (Arc::default(), Mutex::default());
        let upstream = is_shared.then(Mutex::default);
        Arc::new(OneServer { settings, store, artifacts, idle, gateways, shared, upstream })
    }

    /// The server for another gateway, which is told what it has in common with others.
    fn upstream(&self, settings: &mut Settings) -> Arc<Upstream> {
        let (launch, max_message) = (settings.launch.clone(), settings.max_message);
        let Some(common) = &self.upstream else { return Upstream::new(launch, max_message) };
        let mut common = lock(common);
        let is_good = |common: &&mut Common| !common.upstream.may_be_replaced();
        if let Some(Common { upstream, slots, .. }) = common.as_mut().filter(is_good) {
            settings.engine.slots = slots.clone();
            return upstream.clone();
        }
        let (upstream, slots) = (Upstream::shared(launch, max_message), settings.engine.slots.clone());
        *common = Some(Common { upstream: upstream.clone(), slots });
        upstream
    }

    fn gateway(&self, who: &Principal, down: Outbound) -> Arc<Gateway> {
        let mut settings = (self.settings)(who);
        let (upstream, store) = (self.upstream(&mut settings), self.store.clone());
        let gateway = Gateway::start_on(upstream, settings, store, self.artifacts.clone(), down);
        let mut gateways = lock(&self.gateways);
        gateways.retain(|gateway| gateway.strong_count() > 0);
        gateways.push(Arc::downgrade(&gateway));
        gateway
    }

    fn share(&self, who: &Principal) -> Shared {
        // Nobody hears what is said unasked but who listens, and that has a stream of its own.
        let (down, _) = Outbound::channel();
        let gateway = self.gateway(who, down);
        let conversation = Arc::new(gateway.clone());
        Shared { gateway, conversation, used: Instant::now() }
    }

    /// Ends every gateway: their jobs are finished until it is `over`, then interrupted.
    pub async fn end(&self, over: &CancellationToken) {
        let gateways: Vec<_> = lock(&self.gateways).iter().filter_map(Weak::upgrade).collect();
        let ending = gateways.into_iter().map(|gateway| async move {
            tokio::select! {
                biased;
                () = gateway.drain() => {}
                () = over.cancelled() => gateway.interrupt().await,
            }
            gateway.stop_upstream().await;
        });
        futures_util::future::join_all(ending).await;
        if let Some(upstream) = self.common() {
            upstream.stop().await;
        }
    }

    fn common(&self) -> Option<Arc<Upstream>> {
        Some(lock(self.upstream.as_ref()?).as_ref()?.upstream.clone())
    }

    /// Has processes end that nobody asks anything, also of sessions that go on.
    fn let_rest(&self) {
        let idle = self.idle;
        if let Some(upstream) = self.common() {
            let gateways = self.gateways.clone();
            let are_idle = move || {
                let alive: Vec<_> = lock(&gateways).iter().filter_map(Weak::upgrade).collect();
                alive.iter().all(|gateway| gateway.is_left_alone(idle))
            };
            tokio::spawn(async move { upstream.rest(are_idle).await });
            return;
        }
        let alive: Vec<_> = lock(&self.gateways).iter().filter_map(Weak::upgrade).collect();
        for gateway in alive.into_iter().filter(|gateway| gateway.is_left_alone(idle)) {
            tokio::spawn(async move { gateway.rest(idle).await });
        }
    }
}

impl Endpoint for OneServer {
    fn converse(&self, who: &Principal, down: Outbound) -> Arc<dyn Conversation> {
        Arc::new(self.gateway(who, down))
    }

    fn shared(&self, who: &Principal) -> Arc<dyn Conversation> {
        let mut all = lock(&self.shared);
        let shared = all.entry(who.clone()).or_insert_with(|| self.share(who));
        if shared.gateway.may_be_replaced() {
            *shared = self.share(who);
        }
        shared.used = Instant::now();
        shared.conversation.clone()
    }

    fn end_the_idle(&self) {
        let mut all = lock(&self.shared);
        let is_idle = |shared: &Shared| shared.used.elapsed() >= self.idle && shared.gateway.is_quiet();
        for (_, idle) in all.extract_if(|_, shared| is_idle(shared)) {
            let server = idle.gateway.server();
            tracing::info!(server, "a server that nobody asks anything is ended");
            tokio::spawn(async move { idle.conversation.end().await });
        }
        drop(all);
        self.let_rest();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
