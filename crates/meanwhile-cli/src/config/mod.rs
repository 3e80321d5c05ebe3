//! The servers of `meanwhile serve`, as clients write them: `mcpServers` in JSON, or the same in TOML.

mod entry;
mod jsonc;

use std::collections::HashMap;
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use meanwhile_mcp::rules::{Face, Rule};
use meanwhile_mcp::upstream::Launch;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use self::entry::Entry;

/// Under which names clients keep their servers.
const TABLES: [&str; 4] = ["mcpServers", "mcp_servers", "servers", "context_servers"];

/// A name stands before the names of tools, which are not long themselves.
const NAME_MAX: usize = 32;

/// One server.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    pub(crate) launch: Launch,
    /// How to log in there.
    pub(crate) oauth: Oauth,
    /// What the file says of its calls; the rest is as the command line has it.
    pub(crate) mode: Option<Face>,
    pub(crate) tools: Vec<Rule>,
    pub(crate) inline_budget: Option<Duration>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) ttl: Option<Duration>,
    pub(crate) max_running: Option<u16>,
    /// Whether there is one process of it for all, instead of one for each session.
    pub(crate) share: bool,
}

/// What a login at a server needs, as clients write it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Oauth {
    pub(crate) client_id: Option<String>,
    pub(crate) client_secret_file: Option<PathBuf>,
    pub(crate) client_metadata_url: Option<String>,
    pub(crate) callback_port: Option<u16>,
    /// With spaces between them, or as a list.
    #[serde(default, deserialize_with = "scopes")]
    pub(crate) scopes: Option<String>,
}

fn scopes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Scopes {
        Text(String),
        List(Vec<String>),
    }
    let scopes: Option<Scopes> = Option::deserialize(deserializer)?;
    Ok(scopes.map(|scopes| match scopes {
        Scopes::Text(text) => text,
        Scopes::List(list) => list.join(" "),
    }))
}

/// Reads the servers of a file.
///
/// # Errors
/// Names the file, the server and the field.
pub(crate) fn read(file: &Path) -> anyhow::Result<Vec<Server>> {
    let shown = file.display();
    let text = std::fs::read_to_string(file).with_context(|| format!("{shown}: cannot be read"))?;
    let is_toml = file.extension().is_some_and(|kind| kind == "toml");
    parse(&text, is_toml, &|name| std::env::var(name).ok()).with_context(|| format!("{shown}"))
}

/// The servers of a text, in which `env` tells the variables of the environment.
pub(crate) fn parse(
    text: &str,
    is_toml: bool,
    env: &dyn Fn(&str) -> Option<String>,
) -> anyhow::Result<Vec<Server>> {
    // Some editors begin a file with it.
    let text = text.trim_start_matches('\u{feff}');
    let root = if is_toml {
        toml::from_str(text).map_err(|error| not_toml(text, &error))?
    } else {
        jsonc::parse(text)?
    };
    servers(&root, env)
}

/// What is wrong, and in which line. The line itself may hold a secret.
fn not_toml(text: &str, error: &toml::de::Error) -> anyhow::Error {
    let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    anyhow::anyhow!("not TOML: line {line}: {}", error.message())
}

fn servers(root: &Map<String, Value>, env: &dyn Fn(&str) -> Option<String>) -> anyhow::Result<Vec<Server>> {
    let table = TABLES.iter().find_map(|table| root.get(*table));
    let Some(Value::Object(table)) = table else {
        bail!("there is no `mcpServers` in it, an object of servers by their names");
    };
    let (mut servers, mut written) = (Vec::new(), HashMap::new());
    for (name, entry) in table {
        let read = server(name, entry, env).with_context(|| format!("server `{name}`"))?;
        let Some(server) = read else { continue };
        let plain = server.launch.name.clone();
        if let Some(other) = written.insert(plain.clone(), name) {
            bail!(
                "servers `{other}` and `{name}` are both called `{plain}` here; give each a name of its own"
            );
        }
        servers.push(server);
    }
    if servers.is_empty() {
        bail!("`mcpServers` names no server that is not disabled");
    }
    Ok(servers)
}

/// The server of this name, unless it is disabled.
fn server(
    written: &str,
    entry: &Value,
    env: &dyn Fn(&str) -> Option<String>,
) -> anyhow::Result<Option<Server>> {
    let Value::Object(fields) = entry.clone() else { bail!("must be an object") };
    let name = plain_name(written);
    let mut entry = Entry { name: &name, fields, env };
    if entry.is_disabled()? {
        return Ok(None);
    }
    if name.is_empty() || name.len() > NAME_MAX {
        bail!("a server's name has 1 to {NAME_MAX} letters, digits, - and _; give it another one");
    }
    if name != written {
        tracing::info!(server = name, written, "what cannot stand in the name of a server is a - in it");
    }
    entry.server().map(Some)
}

/// What a server is called that is written like this: its name stands in the path of its endpoint, and with `__` before the names
/// of its tools. Whatever cannot stand there is a `-`.
pub(crate) fn plain_name(written: &str) -> String {
    let mut name = String::with_capacity(written.len());
    for character in written.chars() {
        let is_plain = character.is_ascii_alphanumeric() || character == '-';
        let is_single = character == '_' && !name.ends_with('_');
        name.push(if is_plain || is_single { character } else { '-' });
    }
    if name.ends_with('_') {
        name.pop();
        name.push('-');
    }
    name
}

fn wrong(field: &str, why: impl Display) -> anyhow::Error {
    anyhow::anyhow!("field `{field}`: {why}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use meanwhile_mcp::revision::Era;
    use meanwhile_mcp::upstream::Target;
    use serde_json::json;

    fn all(root: Value) -> anyhow::Result<Vec<Server>> {
        let Value::Object(root) = root else { panic!("an object") };
        let env = |name: &str| (name == "TOKEN").then(|| "s3cret".to_owned());
        servers(&root, &env)
    }

    #[test]
    fn servers_are_read_as_clients_write_them() {
        let read = all(json!({"mcpServers": {
            "files": {"command": "npx", "args": ["-y", "${PACKAGE:-server-files}"], "env": {"KEY": "${TOKEN}"}, "cwd": "/srv",
                "mode": "handle", "tools": {"get_*": "inline"}, "inlineBudget": "5s", "maxRunning": 2, "era": "legacy"},
            "far": {"type": "streamable-http", "url": "https://example.com/mcp", "headers": {"Authorization": "Bearer ${env:TOKEN}"}, "timeout": 60,
                "oauth": {"clientId": "me", "callbackPort": 8080, "scopes": "a b"}},
            "old": {"type": "sse", "url": "http://127.0.0.1:1/sse", "tools": ["x=handle"]},
            "off": {"command": "x", "disabled": true},
        }}))
        .unwrap();
        let names: Vec<&str> = read.iter().map(|server| server.launch.name.as_str()).collect();
        assert_eq!(names, ["far", "files", "old"]);
        let Target::Remote { headers, legacy_sse: false, .. } = &read[0].launch.target else {
            panic!("remote")
        };
        assert_eq!(headers[0].1, "Bearer s3cret");
        assert_eq!(
            (read[0].oauth.client_id.as_deref(), read[0].oauth.callback_port),
            (Some("me"), Some(8080))
        );
        let Target::Process { args, env, .. } = &read[1].launch.target else { panic!("process") };
        assert_eq!((args[1].as_str(), env[0].1.as_str()), ("server-files", "s3cret"));
        assert!(read[1].launch.era == Some(Era::Legacy) && read[1].tools.len() == 1);
        assert!(matches!(read[2].launch.target, Target::Remote { legacy_sse: true, .. }));
    }

    #[test]
    fn each_client_has_words_of_its_own() {
        let read = parse(
            r#"{
                // As the tables of Zed, Copilot, Windsurf and Gemini CLI have them, all in one.
                "context_servers": {
                    "copilot": {"type": "local", "command": "npx", "args": [], "env": {"A": "$TOKEN"}, "tools": ["*"]},
                    "gemini": {"httpUrl": "https://a.example/mcp", "timeout": 30000, "includeTools": ["a"],
                        "oauth": {"enabled": true, "scopes": ["a", "b"]}},
                    "opencode": {"type": "remote", "url": "https://b.example/mcp", "enabled": true},
                    "windsurf": {"serverUrl": "https://c.example/mcp", "disabledTools": ["b"], "tools": ["a", "b"]},
                    "zed": {"source": "custom", "command": "x", "args": ["y"], "env": {}, "tools": null},
                },
            }"#,
            false,
            &|_| None,
        )
        .unwrap();
        let url = |at: usize| match &read[at].launch.target {
            Target::Remote { url, legacy_sse: false, .. } => url.as_str(),
            _ => "",
        };
        assert_eq!(
            [url(1), url(2), url(3)],
            ["https://a.example/mcp", "https://b.example/mcp", "https://c.example/mcp"]
        );
        let Target::Process { program, env, .. } = &read[0].launch.target else { panic!("process") };
        assert_eq!((program.as_str(), env[0].1.as_str()), ("npx", "$TOKEN"));
        assert!(matches!(read[4].launch.target, Target::Process { .. }));
        assert!(read.iter().all(|server| server.tools.is_empty()));
        assert_eq!(read[1].oauth.scopes.as_deref(), Some("a b"));
    }

    #[test]
    fn what_cannot_stand_in_a_name_is_a_dash() {
        for (written, name) in [
            ("files", "files"),
            ("_my-files_2", "_my-files_2"),
            ("io.github.upstash/context7", "io-github-upstash-context7"),
            ("@scope/my server", "-scope-my-server"),
            ("a__b", "a_-b"),
            ("a___b__", "a_-_b_-"),
            ("a_", "a-"),
            ("Küche", "K-che"),
            ("", ""),
        ] {
            assert_eq!(plain_name(written), name);
            assert_eq!(plain_name(name), name, "it is left as it is");
        }
        let read = all(json!({"servers": {"io.github.upstash/context7": {"command": "x"}}})).unwrap();
        assert_eq!(read[0].launch.name, "io-github-upstash-context7");
    }

    #[test]
    fn names_that_are_too_long_or_become_one_are_refused() {
        let error = |names: Value| format!("{:#}", all(json!({"servers": names})).unwrap_err());
        assert_eq!(
            error(json!({"a.b": {"command": "x"}, "a/b": {"command": "y"}})),
            "servers `a.b` and `a/b` are both called `a-b` here; give each a name of its own"
        );
        let long = "a".repeat(NAME_MAX + 1);
        for name in ["", &long] {
            assert!(error(json!({name: {"command": "x"}})).contains("has 1 to 32 letters"));
        }
        // What is disabled is in nobody's way.
        let off = json!({"command": "x", "disabled": true});
        let servers = json!({"a.b": {"command": "x"}, "a/b": off, long: off});
        assert_eq!(all(json!({"servers": servers})).unwrap().len(), 1);
    }

    #[test]
    fn toml_has_the_same_shape() {
        let root: Map<String, Value> = toml::from_str(
            "[mcpServers.files]\ncommand = \"npx\"\nargs = [\"-y\"]\nttl = \"72h\"\nshare = true",
        )
        .unwrap();
        let read = servers(&root, &|_| None).unwrap();
        assert_eq!((read[0].ttl, read[0].share), (Some(Duration::from_secs(72 * 3600)), true));
    }

    #[test]
    fn a_byte_order_mark_is_no_part_of_a_file() {
        for (text, is_toml) in
            [(r#"{"mcpServers": {"s": {"command": "x"}}}"#, false), ("[mcpServers.s]\ncommand = \"x\"", true)]
        {
            assert_eq!(parse(&format!("\u{feff}{text}"), is_toml, &|_| None).unwrap().len(), 1);
        }
    }

    #[test]
    fn what_is_wrong_is_told_without_secrets() {
        let error = all(json!({"mcpServers": {"s": {"command": "x", "era": "${TOKEN}"}}})).unwrap_err();
        assert!(
            format!("{error:#}")
                .ends_with("field `era`: `${TOKEN}` does not stand for anything that fits here")
        );
        let text = "[mcpServers.s]\ncommand = \"x\"\nenv = { KEY = \"s3cret\", KEY }\n";
        let error = format!("{:#}", parse(text, true, &|_| None).unwrap_err());
        assert!(error.starts_with("not TOML: line 3: ") && !error.contains("s3cret"), "{error}");
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (entry, why) in [
            (json!({}), "field `command`"),
            (json!({"command": "x", "url": "http://y"}), "field `url`"),
            (json!({"command": "x", "args": "y"}), "field `args`: must be a list of strings"),
            (json!({"command": "x", "env": {"A": 1}}), "field `env`"),
            (json!({"command": "x", "env": {"A": "${NOPE}"}}), "field `env`: the environment variable NOPE"),
            (json!({"url": "ftp://x"}), "field `url`"),
            (json!({"type": "http", "command": "x"}), "field `type`"),
            (json!({"url": "https://x", "oauth": {"callbackPort": "8080"}}), "field `oauth`"),
            (json!({"command": "x", "mode": "now"}), "field `mode`: `now`"),
            (json!({"command": "x", "tools": ["x=inline", "y"]}), "field `tools`: `y` is no rule"),
            (
                json!({"command": ["x", "y"]}),
                "field `command`: must be a string; what follows the program belongs to `args`",
            ),
            (json!({"type": "remote", "command": "x"}), "field `type`"),
            (json!({"type": "local", "url": "http://y"}), "field `type`"),
            (json!({"serverUrl": "ftp://x"}), "field `serverUrl`: must begin"),
            (json!({"url": "http://x", "httpUrl": "http://x"}), "field `httpUrl`: is another name of `url`"),
            (json!({"command": "x", "serverUrl": "http://y"}), "field `serverUrl`: a server has"),
            (
                json!({"url": "http://x", "headers": {"Authorization": "Bearer ${input:key}"}}),
                "field `headers`: ${input:key} is what VS Code asks its user for, and nobody is asked here; \
                 write an environment variable in its place, as in ${env:NAME}",
            ),
            (json!({"command": "${command:pick}"}), "field `command`: ${command:pick} is not known here"),
            (json!({"command": "x", "maxRunning": 0}), "field `maxRunning`"),
            (json!({"command": "x", "era": "stone"}), "field `era`"),
            (json!({"command": "x", "share": "yes"}), "field `share`: must be true or false"),
            (json!(7), "must be an object"),
        ] {
            let error = format!("{:#}", all(json!({"mcpServers": {"s": entry}})).unwrap_err());
            assert!(error.contains("server `s`") && error.contains(why), "{error}");
        }
        assert!(format!("{:#}", all(json!({})).unwrap_err()).contains("mcpServers"));
    }
}
