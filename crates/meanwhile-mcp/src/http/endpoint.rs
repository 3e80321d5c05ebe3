//! What stands behind a path: one server, or several as one.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use meanwhile_core::artifact::Artifacts;
use meanwhile_core::{Json, Store};

use super::access::Principal;
use crate::gateway::{Gateway, ReplyTo, Settings};
use crate::message::Message;
use crate::transport::Outbound;

/// What stands behind one path.
pub trait Endpoint: Send + Sync + 'static {
    /// A conversation of its own, for one session. What is said there unasked goes to `down`.
    fn converse(&self, who: &Principal, down: Outbound) -> Arc<dyn Conversation>;

    /// The one conversation that all requests of `who` share that belong to no session.
    fn shared(&self, who: &Principal) -> Arc<dyn Conversation>;
}

/// A client and what it speaks to.
#[async_trait::async_trait]
pub trait Conversation: Send + Sync + 'static {
    /// Takes one message of the client. What it asks for is answered through `reply`.
    async fn receive(&self, message: Message, reply: ReplyTo);

    /// The `inputSchema` of a tool, if it mirrors arguments into headers.
    async fn mirroring_schema(&self, tool: &str) -> Option<Json>;

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

/// One server: a process of its own for each session, and one for all requests of a principal that belong to none.
pub struct OneServer {
    settings: MakeSettings,
    store: Arc<dyn Store>,
    artifacts: Artifacts,
    gateways: Mutex<Vec<Weak<Gateway>>>,
    shared: Mutex<Vec<(Principal, Arc<Gateway>)>>,
}

impl OneServer {
    /// A server that is started when somebody asks for it.
    #[must_use]
    pub fn new(settings: MakeSettings, store: Arc<dyn Store>, artifacts: Artifacts) -> Arc<OneServer> {
        let (gateways, shared) = (Mutex::default(), Mutex::default());
        Arc::new(OneServer { settings, store, artifacts, gateways, shared })
    }

    fn gateway(&self, who: &Principal, down: Outbound) -> Arc<Gateway> {
        let gateway = Gateway::start((self.settings)(who), self.store.clone(), self.artifacts.clone(), down);
        let mut gateways = lock(&self.gateways);
        gateways.retain(|gateway| gateway.strong_count() > 0);
        gateways.push(Arc::downgrade(&gateway));
        gateway
    }

    /// Ends every gateway: their jobs are finished for as long as `linger`, then interrupted.
    pub async fn end(&self, linger: Duration) {
        let gateways: Vec<_> = lock(&self.gateways).iter().filter_map(Weak::upgrade).collect();
        let ending = gateways.into_iter().map(|gateway| async move {
            if tokio::time::timeout(linger, gateway.drain()).await.is_err() {
                gateway.interrupt().await;
            }
            gateway.stop_upstream().await;
        });
        futures_util::future::join_all(ending).await;
    }
}

impl Endpoint for OneServer {
    fn converse(&self, who: &Principal, down: Outbound) -> Arc<dyn Conversation> {
        Arc::new(self.gateway(who, down))
    }

    fn shared(&self, who: &Principal) -> Arc<dyn Conversation> {
        let mut shared = lock(&self.shared);
        if let Some((_, gateway)) = shared.iter().find(|(principal, _)| principal == who) {
            return Arc::new(gateway.clone());
        }
        // Nobody hears what is said unasked but who listens, and that has a stream of its own.
        let (down, _) = Outbound::channel();
        let gateway = self.gateway(who, down);
        shared.push((who.clone(), gateway.clone()));
        Arc::new(gateway)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
