//! Between the legacy shapes that are spoken inside and a modern server: each request says who asks and what they can do, and
//! each result says what kind it is. See <https://modelcontextprotocol.io/specification/2026-07-28/basic>.

use meanwhile_core::Json;
use serde_json::json;

use super::memory::Asker;
use crate::message::{Answer, Fields, to_json};
use crate::modern::{
    CLIENT_CAPABILITIES as CAPABILITIES, CLIENT_INFO as INFO, LOG_LEVEL, PROTOCOL_VERSION as VERSION,
    SERVER_INFO, SUBSCRIPTION_ID as SUBSCRIPTION, TASKS, UNSUPPORTED_VERSION,
};
use crate::revision::{Era, Revision};

/// How every key of a request's `_meta` begins that only modern servers know.
const PREFIX: &str = "\"io.modelcontextprotocol/";

/// What a modern server said of itself.
#[derive(Debug, Default)]
pub(super) struct Discovered(Fields);

/// The interim result of a request that needs more: what is asked, and what is to come back unread.
#[derive(Debug)]
pub(super) struct Interim {
    /// The questions by their keys.
    pub(super) questions: Vec<(String, Fields)>,
    pub(super) state: Option<Json>,
}

/// What kind of result came.
#[derive(Debug)]
pub(super) enum Shape {
    Final(Answer),
    /// With the answer as it came.
    Interim(Interim, Answer),
}

impl Discovered {
    /// Reads the answer to `server/discover`; `None` if the server does not speak a modern revision that we speak.
    pub(super) fn read(answer: &Answer) -> Option<Discovered> {
        match answer {
            Answer::Result(result) => {
                let fields = Fields::parse(result.get()).ok()?;
                // What has neither is no answer to our question, whatever the server took it for.
                fields.get("supportedVersions").or_else(|| fields.get("capabilities"))?;
                let versions: Option<Vec<String>> = fields.read("supportedVersions");
                versions.is_none_or(|versions| speaks_modern(&versions)).then_some(Discovered(fields))
            }
            Answer::Error(error) => {
                let error = Fields::parse(error.get()).ok()?;
                let supported: Vec<String> = error.read::<Fields>("data")?.read("supported")?;
                let refused = error.read::<i64>("code") == Some(UNSUPPORTED_VERSION);
                (refused && speaks_modern(&supported)).then(Discovered::default)
            }
        }
    }

    /// The same as an answer to `initialize`.
    pub(super) fn to_initialize_result(&self, name: &str) -> Json {
        let mut result = Fields::default();
        result.set("protocolVersion", to_json(Revision::LATEST_LEGACY.name()));
        let capabilities = self.0.get("capabilities").map(ToOwned::to_owned);
        result.set("capabilities", capabilities.unwrap_or_else(|| to_json(&json!({"tools": {}}))));
        let info = self.0.read::<Fields>("_meta").and_then(|mut meta| meta.take(SERVER_INFO));
        result.set("serverInfo", info.unwrap_or_else(|| to_json(&json!({"name": name, "version": ""}))));
        if let Some(instructions) = self.0.get("instructions") {
            result.set("instructions", instructions.to_owned());
        }
        result.to_json()
    }

    /// Whether the server says that `what` of it can change: `tools`, `prompts`, `resources`.
    pub(super) fn announces(&self, what: &str) -> bool {
        let capabilities = self.0.read::<Fields>("capabilities").unwrap_or_default();
        capabilities.read::<Fields>(what).and_then(|of| of.read("listChanged")).unwrap_or(false)
    }
}

fn speaks_modern(versions: &[String]) -> bool {
    let mut known = versions.iter().filter_map(|name| Revision::from_name(name));
    known.any(|revision| revision.era() == Era::Modern)
}

/// Who answers what a server asks about a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answering {
    /// Whoever sends it, as far as they can.
    Asker,
    /// Its job as well, for it is a call or is about one.
    Job,
}

/// The parameters of a request as a modern server must have them.
pub(super) fn dress(params: Option<Json>, asker: Asker, answering: Answering) -> Json {
    let mut params = params.and_then(|params| Fields::parse(params.get()).ok()).unwrap_or_default();
    let mut meta: Fields = params.read("_meta").unwrap_or_default();
    meta.set(VERSION, to_json(Revision::LATEST.name()));
    if meta.get(INFO).is_none() {
        let ours = || to_json(&json!({"name": "meanwhile", "version": env!("CARGO_PKG_VERSION")}));
        meta.set(INFO, asker.info.unwrap_or_else(ours));
    }
    let declared = match meta.read(CAPABILITIES) {
        Some(own) => with_our_tasks(own),
        None => declared(asker.capabilities.unwrap_or_default(), answering),
    };
    meta.set(CAPABILITIES, declared.to_json());
    if let Some(level) = asker.log_level.filter(|_| meta.get(LOG_LEVEL).is_none()) {
        meta.set(LOG_LEVEL, level);
    }
    params.set("_meta", meta.to_json());
    params.to_json()
}

/// What a server can be answered. A call that asks becomes a job, and a job shows each question in its polls: a form, which is
/// filled in there, and a page, whose whole address is shown for the user to open. So both modes are there for a call even where
/// the client has neither. About a prompt or a resource there is nobody to ask but the client, which can do what it has said.
fn declared(mut capabilities: Fields, answering: Answering) -> Fields {
    // Of the tasks of the legacy revisions, which a modern server does not know.
    capabilities.take("tasks");
    if answering == Answering::Job {
        capabilities.set("elicitation", to_json(&json!({"form": {}, "url": {}})));
    }
    with_our_tasks(capabilities)
}

/// What a client says it can do, and that we can follow a task for it. Nothing else: what it is asked it has to answer itself.
fn with_our_tasks(mut capabilities: Fields) -> Fields {
    let mut extensions: Fields = capabilities.read("extensions").unwrap_or_default();
    extensions.set(TASKS, to_json(&json!({})));
    capabilities.set("extensions", extensions.to_json());
    capabilities
}

/// The parameters of a request as a legacy server must have them: without what only modern ones know.
pub(super) fn undress(params: Json) -> Json {
    if !params.get().contains(PREFIX) {
        return params;
    }
    let Ok(mut fields) = Fields::parse(params.get()) else { return params };
    let Some(mut meta) = fields.read::<Fields>("_meta") else { return params };
    let taken = [VERSION, CAPABILITIES, INFO, LOG_LEVEL].map(|key| meta.take(key).is_some());
    if !taken.contains(&true) {
        return params;
    }
    if meta.is_empty() {
        fields.take("_meta");
    } else {
        fields.set("_meta", meta.to_json());
    }
    fields.to_json()
}

/// An answer of a modern server as a legacy one would give it.
pub(super) fn shape(answer: Answer) -> Shape {
    let Answer::Result(result) = &answer else { return Shape::Final(answer) };
    let Ok(mut fields) = Fields::parse(result.get()) else { return Shape::Final(answer) };
    match fields.read::<String>("resultType").as_deref() {
        Some("complete") => {
            fields.take("resultType");
            Shape::Final(Answer::Result(fields.to_json()))
        }
        Some("input_required") => {
            let questions = fields.read("inputRequests").map(questions).unwrap_or_default();
            Shape::Interim(Interim { questions, state: fields.take("requestState") }, answer)
        }
        _ => Shape::Final(answer),
    }
}

fn questions(requests: Fields) -> Vec<(String, Fields)> {
    let read = |(key, request): (String, Json)| Some((key, Fields::parse(request.get()).ok()?));
    requests.into_entries().into_iter().filter_map(read).collect()
}

/// The parameters of a notification without the subscription that brought it, and which that was.
pub(super) fn without_subscription(params: Option<Json>) -> (Option<Json>, Option<u64>) {
    let Some(raw) = params.as_ref().filter(|params| params.get().contains(SUBSCRIPTION)) else {
        return (params, None);
    };
    let Ok(mut fields) = Fields::parse(raw.get()) else { return (params, None) };
    let Some(mut meta) = fields.read::<Fields>("_meta") else { return (params, None) };
    let id = meta.take(SUBSCRIPTION);
    if meta.is_empty() {
        fields.take("_meta");
    } else {
        fields.set("_meta", meta.to_json());
    }
    // Some write the number of the request as a text.
    let id = id.and_then(|id| id.get().trim_matches('"').parse().ok());
    (Some(fields.to_json()), id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn raw(text: &str) -> Json {
        serde_json::value::RawValue::from_string(text.to_owned()).unwrap()
    }

    #[test]
    fn a_request_says_who_asks_and_keeps_what_it_said_itself() {
        let asker = || Asker {
            info: Some(raw(r#"{"name":"c"}"#)),
            capabilities: Fields::parse(r#"{"roots":{},"tasks":{},"x":1.0}"#).ok(),
            log_level: Some(raw(r#""info""#)),
        };
        let dress = |params, asker, answering| -> Value {
            serde_json::from_str(dress(params, asker, answering).get()).unwrap()
        };
        let dressed = dress(None, asker(), Answering::Job);
        let expected = json!({"_meta": {VERSION: "2026-07-28", INFO: {"name": "c"}, LOG_LEVEL: "info",
            CAPABILITIES: {"roots": {}, "x": 1.0, "elicitation": {"form": {}, "url": {}}, "extensions": {TASKS: {}}}}});
        assert_eq!(dressed, expected);
        let own = json!({"a": 1, "_meta": {"k": 2, INFO: {"name": "d"}, CAPABILITIES: {"sampling": {}}}});
        let dressed = dress(Some(to_json(&own)), asker(), Answering::Job);
        assert_eq!(dressed["_meta"][INFO]["name"], "d");
        assert_eq!((&dressed["a"], &dressed["_meta"]["k"]), (&json!(1), &json!(2)));
        assert_eq!(dressed["_meta"][CAPABILITIES], json!({"sampling": {}, "extensions": {TASKS: {}}}));
    }

    #[test]
    fn a_server_hears_of_modes_of_questions_that_somebody_can_answer() {
        let modes = |can: Value, answering| {
            let asker = Asker { capabilities: Fields::parse(&can.to_string()).ok(), ..Asker::default() };
            let dressed: Value = serde_json::from_str(dress(None, asker, answering).get()).unwrap();
            dressed["_meta"][CAPABILITIES].get("elicitation").cloned()
        };
        let both = json!({"form": {}, "url": {}});
        for can in [json!({}), json!({"elicitation": {}}), json!({"elicitation": {"form": {}}})] {
            assert_eq!(modes(can.clone(), Answering::Job), Some(both.clone()));
            assert_eq!(modes(can.clone(), Answering::Asker), can.get("elicitation").cloned());
        }
        assert_eq!(modes(json!({"elicitation": both}), Answering::Asker), Some(both));
    }

    #[test]
    fn a_legacy_server_gets_nothing_of_it_and_all_the_rest_as_it_was() {
        let dressed =
            dress(Some(raw(r#"{"z":1.0,"_meta":{"a":[1e400]}}"#)), Asker::default(), Answering::Job);
        assert_eq!(undress(dressed).get(), r#"{"z":1.0,"_meta":{"a":[1e400]}}"#);
        assert_eq!(undress(dress(None, Asker::default(), Answering::Asker)).get(), "{}");
        let theirs = r#"{"_meta": {"io.modelcontextprotocol/related-task":{"taskId":"t"}} }"#;
        assert_eq!(undress(raw(theirs)).get(), theirs);
    }

    #[test]
    fn who_speaks_only_old_revisions_is_not_modern() {
        let result = |text: &str| Discovered::read(&Answer::Result(raw(text))).is_some();
        assert!(result(r#"{"supportedVersions":["2026-07-28"],"capabilities":{}}"#));
        assert!(!result(r#"{"supportedVersions":["2025-11-25"],"capabilities":{}}"#));
        assert!(!result("{}"), "a server that answers anything with nothing");
        let error = |text: &str| Discovered::read(&Answer::Error(raw(text))).is_some();
        assert!(error(r#"{"code":-32022,"message":"","data":{"supported":["2026-07-28"]}}"#));
        assert!(!error(r#"{"code":-32022,"message":"","data":{"supported":["2025-11-25"]}}"#));
        assert!(!error(r#"{"code":-32601,"message":""}"#));
    }

    #[test]
    fn a_result_loses_its_kind_and_nothing_else() {
        let Shape::Final(Answer::Result(result)) =
            shape(Answer::Result(raw(r#"{"resultType":"complete","ttlMs":1.0,"tools":[]}"#)))
        else {
            panic!("not final")
        };
        assert_eq!(result.get(), r#"{"ttlMs":1.0,"tools":[]}"#);
        let asks = r#"{"resultType":"input_required","inputRequests":{"k":{"method":"roots/list"}},"requestState":"s"}"#;
        let Shape::Interim(interim, _) = shape(Answer::Result(raw(asks))) else { panic!("not interim") };
        assert_eq!(interim.questions[0].0, "k");
        assert_eq!(interim.state.unwrap().get(), "\"s\"");
    }

    #[test]
    fn a_notification_loses_its_subscription() {
        let (params, id) =
            without_subscription(Some(raw(&format!(r#"{{"uri":"u","_meta":{{"{SUBSCRIPTION}":"7"}}}}"#))));
        assert_eq!((params.unwrap().get(), id), (r#"{"uri":"u"}"#, Some(7)));
    }
}
