//! What is known of clients: how long each waits for an answer before it gives a call up.
//!
//! The figures were gathered in November 2026 from the clients' documentation, sources and issue trackers, and stay below
//! the limits by a margin. They change from month to month, so what a client teaches by giving up goes before them.

use std::time::Duration;

use crate::message::Fields;

/// What any client survives: hard limits of 30 s are about, and none below is known.
const UNKNOWN: Duration = Duration::from_secs(25);
/// What a client survives that allows a minute.
const A_MINUTE: u64 = 50;
/// What a client survives that allows five.
const FIVE_MINUTES: u64 = 280;

/// The first that fits counts: a client is known by how its `clientInfo.name` begins, in lower case.
const PROFILES: [(&str, u64); 19] = [
    // After 120 s it takes a call into the background, and forgets it there (CLAUDE_CODE_MCP_AUTO_BACKGROUND_MS).
    ("claude-code", 110),
    // Claude Desktop, claude.ai: about 60 s, not configurable (claude-ai-mcp#115, claude-code#63379).
    ("claude", A_MINUTE),
    // `codex-mcp-client`: 300 s (`tool_timeout_sec`, openai/codex#28234).
    ("codex", FIVE_MINUTES),
    // 300 s (GOOSE_DEFAULT_EXTENSION_TIMEOUT).
    ("goose", FIVE_MINUTES),
    // `gemini-cli-mcp-client`: 10 min, but nobody wants to wait so long for one poll.
    ("gemini-cli", FIVE_MINUTES),
    // A hard limit of 180 s (antigravity-cli#780).
    ("antigravity", 150),
    // Reports speak of 5 min (cursor#3510), nobody of where else; so less is taken.
    ("cursor", 110),
    // It waits for ever (vscode#311595), and waited 5 min before that.
    ("visual studio code", FIVE_MINUTES),
    // 180 s (copilot-cli#1378), but 60 s is reported, too (#1535).
    ("copilot", A_MINUTE),
    ("github-copilot", A_MINUTE),
    // The 60 s of the TypeScript SDK, and of those who took them over.
    ("opencode", A_MINUTE),
    ("librechat", A_MINUTE),
    ("@librechat", A_MINUTE),
    ("cline", A_MINUTE),
    ("zed", A_MINUTE),
    ("lm studio", A_MINUTE),
    ("lmstudio", A_MINUTE),
    ("q-dev-cli", A_MINUTE),
    // About 60 s, 50 s on some plans.
    ("openai-mcp", 45),
];

/// A client that gives up sooner than this is not served better by shorter waits.
const LEARNED_MIN: Duration = Duration::from_secs(1);

/// What is known of a client by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Profile {
    /// How long an answer may take without being given up.
    pub survives: Duration,
}

impl Default for Profile {
    fn default() -> Self {
        Profile { survives: UNKNOWN }
    }
}

impl Profile {
    /// The profile of the client that calls itself so in `initialize`.
    #[must_use]
    pub fn of(name: &str) -> Profile {
        let name = name.trim().to_lowercase();
        let known = PROFILES.iter().find(|(client, _)| name.starts_with(client));
        known
            .map_or_else(Profile::default, |(_, seconds)| Profile { survives: Duration::from_secs(*seconds) })
    }
}

/// How long this client waits: by its profile, or as it has shown in this session.
#[derive(Debug, Clone, Copy, Default)]
pub struct Patience {
    profile: Profile,
    learned: Option<Duration>,
}

impl Patience {
    /// What is known at the start.
    #[must_use]
    pub fn of(profile: Profile) -> Patience {
        Patience { profile, learned: None }
    }

    /// How long an answer may take.
    #[must_use]
    pub fn survives(self) -> Duration {
        self.learned.map_or(self.profile.survives, |learned| learned.min(self.profile.survives))
    }

    /// What the client has shown, with its margin; `None` while it has not given anything up.
    #[must_use]
    pub fn learned(self) -> Option<Duration> {
        self.learned
    }

    /// The client has given up a call after this time.
    pub fn gave_up_after(&mut self, elapsed: Duration) {
        let learned = elapsed.mul_f64(0.8).max(LEARNED_MIN);
        self.learned = Some(self.learned.map_or(learned, |before| before.min(learned)));
    }
}

/// The client's own id of a call, by its `_meta`: the same one for a retry, another one for a repeat.
#[must_use]
pub fn call_id(meta: &Fields) -> Option<String> {
    ["claudecode/toolUseId", "callId"].iter().find_map(|field| meta.read::<String>(field))
}

/// The conversation that a call is part of, by its `_meta`. Codex says it in an object, or in an object's text.
#[must_use]
pub fn conversation(meta: &Fields) -> Option<String> {
    let turn = meta.read::<Fields>("x-codex-turn-metadata").or_else(|| {
        let text: String = meta.read("x-codex-turn-metadata")?;
        Fields::parse(&text).ok()
    });
    let turn = turn.unwrap_or_default();
    ["thread_id", "session_id"].iter().find_map(|field| turn.read::<String>(field))
}

/// Whether the reason of a cancellation says that the client has waited long enough, and not that somebody wants the work
/// stopped. The TypeScript SDK writes `McpError: MCP error -32001: Request timed out`.
#[must_use]
pub fn speaks_of_a_time_out(reason: &str) -> bool {
    let reason = reason.to_lowercase();
    ["timeout", "timed out", "time-out", "time out"].iter().any(|words| reason.contains(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_known_by_how_its_name_begins() {
        for (name, seconds) in [
            ("claude-code", 110),
            ("Claude-Code/2.1", 110),
            ("claude-ai", 50),
            ("codex-mcp-client", 280),
            ("gemini-cli-mcp-client", 280),
            ("Visual Studio Code - Insiders", 280),
            ("Zed", 50),
            ("my-goose-clone", 25),
            ("e2e", 25),
            ("", 25),
        ] {
            assert_eq!(Profile::of(name).survives, Duration::from_secs(seconds), "{name}");
        }
    }

    #[test]
    fn a_client_that_gives_up_has_taught_its_limit_and_forgets_it_never() {
        let mut patience = Patience::of(Profile::of("codex"));
        assert_eq!(patience.learned(), None);
        patience.gave_up_after(Duration::from_secs(100));
        assert_eq!(patience.survives(), Duration::from_secs(80));
        patience.gave_up_after(Duration::from_secs(200));
        assert_eq!(patience.survives(), Duration::from_secs(80), "the shortest counts");
        patience.gave_up_after(Duration::from_millis(3));
        assert_eq!(patience.survives(), LEARNED_MIN);
    }

    #[test]
    fn a_call_and_its_conversation_are_known_by_what_clients_say_of_them() {
        let meta = |text: &str| Fields::parse(text).unwrap();
        let codex = meta(r#"{"callId":"call_1","x-codex-turn-metadata":{"session_id":"s","thread_id":"t"}}"#);
        assert_eq!((call_id(&codex), conversation(&codex)), (Some("call_1".into()), Some("t".into())));
        let text = meta(r#"{"x-codex-turn-metadata":"{\"session_id\":\"s\"}"}"#);
        assert_eq!((call_id(&text), conversation(&text)), (None, Some("s".into())));
        let claude = meta(r#"{"claudecode/toolUseId":"toolu_1","progressToken":1}"#);
        assert_eq!((call_id(&claude), conversation(&claude)), (Some("toolu_1".into()), None));
        assert_eq!(conversation(&meta(r#"{"x-codex-turn-metadata":"{"}"#)), None);
    }

    #[test]
    fn a_time_out_is_told_from_a_users_wish() {
        assert!(speaks_of_a_time_out("McpError: MCP error -32001: Request timed out"));
        assert!(speaks_of_a_time_out("TIMEOUT"));
        assert!(!speaks_of_a_time_out("user pressed escape"));
        assert!(!speaks_of_a_time_out(""));
    }
}
