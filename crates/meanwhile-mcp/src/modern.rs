//! Revision 2026-07-28 on the wire: what a request says of its client in `_meta`, and what a result has more than in the
//! legacy shape, which is what the gateway works with inside.
//! See <https://modelcontextprotocol.io/specification/2026-07-28/basic>.

use meanwhile_core::Json;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::message::{Fields, INVALID_PARAMS, to_json};
use crate::revision::{Era, Revision};

/// In `_meta`: the revision that the request speaks.
pub const PROTOCOL_VERSION: &str = "io.modelcontextprotocol/protocolVersion";
/// In `_meta`: what the client can do.
pub const CLIENT_CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";
/// In `_meta`: the client's name and version.
pub const CLIENT_INFO: &str = "io.modelcontextprotocol/clientInfo";
/// In `_meta`: from which level on the request wants to hear log messages.
pub const LOG_LEVEL: &str = "io.modelcontextprotocol/logLevel";
/// In a result's `_meta`: the server's name and version.
pub const SERVER_INFO: &str = "io.modelcontextprotocol/serverInfo";
/// In a notification's `_meta`: the request that it was subscribed by.
pub const SUBSCRIPTION_ID: &str = "io.modelcontextprotocol/subscriptionId";
/// The extension for tasks.
pub const TASKS: &str = "io.modelcontextprotocol/tasks";

/// The headers do not say what the body says, or are missing.
pub const HEADER_MISMATCH: i64 = -32020;
/// The client would have to be able to do more.
pub const MISSING_CAPABILITY: i64 = -32021;
/// The revision is not spoken here.
pub const UNSUPPORTED_VERSION: i64 = -32022;

/// The codes that the revision has taken away, and what stands for them.
const GONE: [(i64, i64); 2] = [(-32002, INVALID_PARAMS), (-32042, INVALID_PARAMS)];

/// For how long, in milliseconds, a list may be taken for true without asking again.
const TTL_MS: u64 = 5_000;

/// What a client can do for a server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// Ask its user, by a form.
    pub form: bool,
    /// Send its user to a page.
    pub url: bool,
    /// Ask its model.
    pub sampling: bool,
    /// Name its folders.
    pub roots: bool,
    /// Take a task for an answer, by the extension.
    pub tasks: bool,
}

impl Capabilities {
    /// As they are declared in `initialize` (where there is no extension yet), or in a request's `_meta`.
    #[must_use]
    pub fn read(declared: &Fields, era: Era) -> Capabilities {
        let has = |name: &str| declared.get(name).is_some();
        let extensions = declared.read::<Fields>("extensions").unwrap_or_default();
        let modes = has("elicitation").then(|| declared.read::<Fields>("elicitation").unwrap_or_default());
        Capabilities {
            // Who names no mode has forms.
            form: modes
                .as_ref()
                .is_some_and(|modes| modes.get("form").is_some() || modes.get("url").is_none()),
            url: modes.is_some_and(|modes| modes.get("url").is_some()),
            sampling: has("sampling"),
            roots: has("roots"),
            tasks: era == Era::Modern && extensions.get(TASKS).is_some(),
        }
    }

    /// Whether a server may ask it anything.
    #[must_use]
    pub fn can_be_asked(self) -> bool {
        self.form || self.url || self.sampling || self.roots
    }

    /// Whether the client can answer this request of a server, which has these parameters.
    #[must_use]
    pub fn answers(self, method: &str, params: Option<&RawValue>) -> bool {
        let mode = || Fields::parse(params?.get()).ok()?.read::<String>("mode");
        match method {
            "elicitation/create" if mode().is_some_and(|mode| mode == "url") => self.url,
            "elicitation/create" => self.form,
            "sampling/createMessage" => self.sampling,
            "roots/list" => self.roots,
            _ => false,
        }
    }
}

/// What a request says of its client.
#[derive(Debug, Clone, Default)]
pub struct Meta {
    /// The client's name.
    pub client: String,
    /// What it can do.
    pub capabilities: Capabilities,
    /// From which level on it wants to hear log messages; `None` is not at all.
    pub log_level: Option<String>,
}

/// What the request says of its client, if it is one of the modern era.
///
/// # Errors
/// The JSON-RPC error to answer it with, if what it says is not what the revision asks for.
#[must_use]
pub fn meta(params: Option<&Json>) -> Option<Result<Meta, Json>> {
    let text = params?.get();
    if !text.contains(PROTOCOL_VERSION) && !text.contains(CLIENT_CAPABILITIES) {
        return None;
    }
    let meta: Fields = Fields::parse(text).ok()?.read("_meta")?;
    (meta.get(PROTOCOL_VERSION).is_some() || meta.get(CLIENT_CAPABILITIES).is_some()).then(|| read(&meta))
}

fn read(meta: &Fields) -> Result<Meta, Json> {
    let invalid = |field: &str, wanted: &str| {
        let message = format!("`_meta[\"{field}\"]` must be {wanted}");
        to_json(&json!({"code": INVALID_PARAMS, "message": message}))
    };
    let version: String =
        meta.read(PROTOCOL_VERSION).ok_or_else(|| invalid(PROTOCOL_VERSION, "the revision's name"))?;
    if Revision::from_name(&version).is_none_or(|revision| revision.era() == Era::Legacy) {
        return Err(unsupported(&version));
    }
    let declared: Fields =
        meta.read(CLIENT_CAPABILITIES).ok_or_else(|| invalid(CLIENT_CAPABILITIES, "an object"))?;
    let client = match meta.get(CLIENT_INFO) {
        None => String::new(),
        Some(_) => {
            let info = meta.read::<Fields>(CLIENT_INFO).and_then(|info| info.read::<String>("name"));
            info.ok_or_else(|| invalid(CLIENT_INFO, "an object with a `name`"))?
        }
    };
    let capabilities = Capabilities::read(&declared, Era::Modern);
    Ok(Meta { client, capabilities, log_level: meta.read(LOG_LEVEL) })
}

/// The error for a revision that is not spoken in this way.
#[must_use]
pub fn unsupported(requested: &str) -> Json {
    to_json(&json!({"code": UNSUPPORTED_VERSION,
        "message": format!("protocol version {requested:?} is not supported here"),
        "data": {"supported": [Revision::LATEST.name()], "requested": requested}}))
}

/// The error for a request of a client that does not declare tasks.
#[must_use]
pub fn needs_tasks() -> Json {
    to_json(&json!({"code": MISSING_CAPABILITY,
        "message": format!("this needs the client to declare the extension {TASKS}"),
        "data": {"requiredCapabilities": {"extensions": {TASKS: {}}}}}))
}

/// Whether a method's complete result says for how long it holds.
#[must_use]
pub fn is_cacheable(method: &str) -> bool {
    matches!(
        method,
        "server/discover"
            | "tools/list"
            | "prompts/list"
            | "resources/list"
            | "resources/templates/list"
            | "resources/read"
    )
}

/// A result in the legacy shape as the modern one: what a server has said itself stays.
#[must_use]
pub fn result(result: &Json, server: Option<&Json>, is_cacheable: bool) -> Json {
    let Ok(mut fields) = Fields::parse(result.get()) else { return result.clone() };
    let kind: Option<String> = fields.read("resultType");
    let is_complete = kind.is_none_or(|kind| kind == "complete");
    let mut set = |name: &str, value: Value| {
        if fields.get(name).is_none() {
            fields.set(name, to_json(&value));
        }
    };
    set("resultType", json!("complete"));
    if is_cacheable && is_complete {
        set("ttlMs", json!(TTL_MS));
        set("cacheScope", json!("private"));
    }
    if let Some(server) = server {
        let mut meta: Fields = fields.read("_meta").unwrap_or_default();
        if meta.get(SERVER_INFO).is_none() {
            meta.set(SERVER_INFO, server.clone());
            fields.set("_meta", meta.to_json());
        }
    }
    fields.to_json()
}

/// An error as the revision may have it: some codes are gone.
#[must_use]
pub fn error(error: &Json) -> Json {
    let Ok(mut fields) = Fields::parse(error.get()) else { return error.clone() };
    let code: i64 = fields.read("code").unwrap_or_default();
    match GONE.iter().find(|(gone, _)| *gone == code) {
        Some((_, instead)) => {
            fields.set("code", to_json(instead));
            fields.to_json()
        }
        None => error.clone(),
    }
}

/// The levels of log messages, the least severe first.
pub const LEVELS: [&str; 8] =
    ["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"];

/// The place of a level among [`LEVELS`]; `None` if there is no such level.
#[must_use]
pub fn severity(level: &str) -> Option<usize> {
    LEVELS.iter().position(|known| *known == level)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(meta: Value) -> Json {
        to_json(&json!({"name": "x", "_meta": meta}))
    }

    #[test]
    fn a_client_is_sent_to_a_page_only_if_it_says_that_it_can_be() {
        let can = |declared: Value, params: Value| {
            let declared = Fields::parse(&json!({"elicitation": declared}).to_string()).unwrap();
            Capabilities::read(&declared, Era::Legacy).answers("elicitation/create", Some(&to_json(&params)))
        };
        let (form, page) = (json!({"mode": "form"}), json!({"mode": "url", "url": "https://x"}));
        for form_only in [json!({}), json!({"form": {}})] {
            assert!(can(form_only.clone(), form.clone()) && can(form_only.clone(), json!({})));
            assert!(!can(form_only, page.clone()));
        }
        assert!(can(json!({"form": {}, "url": {}}), page.clone()));
        assert!(can(json!({"url": {}}), page) && !can(json!({"url": {}}), form));
    }

    #[test]
    fn a_request_is_modern_by_its_meta() {
        assert!(meta(None).is_none());
        assert!(meta(Some(&params(json!({"progressToken": 1})))).is_none());
        let quoted = to_json(&json!({"arguments": {"text": PROTOCOL_VERSION}}));
        assert!(meta(Some(&quoted)).is_none(), "a mere mention is none");
        let said = params(json!({PROTOCOL_VERSION: "2026-07-28", CLIENT_INFO: {"name": "c", "version": "1"},
            CLIENT_CAPABILITIES: {"elicitation": {}, "extensions": {TASKS: {}}}}));
        let said = meta(Some(&said)).unwrap().unwrap();
        assert_eq!(said.client, "c");
        let expected = Capabilities { form: true, tasks: true, ..Capabilities::default() };
        assert_eq!(said.capabilities, expected);
    }

    #[test]
    fn what_is_missing_is_named() {
        let code = |said: Value| {
            let error = meta(Some(&params(said))).unwrap().unwrap_err();
            Fields::parse(error.get()).unwrap().read::<i64>("code").unwrap()
        };
        assert_eq!(code(json!({PROTOCOL_VERSION: "2026-07-28"})), INVALID_PARAMS);
        assert_eq!(code(json!({CLIENT_CAPABILITIES: {}})), INVALID_PARAMS);
        assert_eq!(code(json!({PROTOCOL_VERSION: "2026-07-28", CLIENT_CAPABILITIES: 7})), INVALID_PARAMS);
        for version in ["2025-11-25", "2999-01-01"] {
            let said = json!({PROTOCOL_VERSION: version, CLIENT_CAPABILITIES: {}});
            assert_eq!(code(said), UNSUPPORTED_VERSION, "{version}");
        }
    }

    #[test]
    fn a_result_says_what_kind_it_is_and_keeps_what_the_server_said() {
        let theirs = to_json(&json!({"tools": [], "ttlMs": 7, "_meta": {"a": 1.5}}));
        let server = to_json(&json!({"name": "s"}));
        let shown: Value = serde_json::from_str(result(&theirs, Some(&server), true).get()).unwrap();
        assert_eq!(
            shown,
            json!({"tools": [], "ttlMs": 7, "_meta": {"a": 1.5, SERVER_INFO: {"name": "s"}},
                "resultType": "complete", "cacheScope": "private"})
        );
    }

    #[test]
    fn codes_that_are_gone_are_not_sent() {
        let shown = error(&to_json(&json!({"code": -32002, "message": "m", "data": 1})));
        let shown: Value = serde_json::from_str(shown.get()).unwrap();
        assert_eq!(shown, json!({"code": INVALID_PARAMS, "message": "m", "data": 1}));
    }
}
