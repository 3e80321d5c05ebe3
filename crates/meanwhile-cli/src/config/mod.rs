//! The servers of `meanwhile serve`, as clients write them: `mcpServers` in JSON, or the same in TOML.

mod entry;
mod jsonc;

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use meanwhile_mcp::rules::{Face, Rule};
use meanwhile_mcp::upstream::Launch;
use serde::Deserialize;
use serde_json::{Map, Value};

use self::entry::Entry;

/// Under which names clients keep their servers.
const TABLES: [&str; 3] = ["mcpServers", "mcp_servers", "servers"];

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
    /// With spaces between them.
    pub(crate) scopes: Option<String>,
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
    servers(root, env)
}

/// What is wrong, and in which line. The line itself may hold a secret.
fn not_toml(text: &str, error: &toml::de::Error) -> anyhow::Error {
    let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    anyhow::anyhow!("not TOML: line {line}: {}", error.message())
}

fn servers(root: Map<String, Value>, env: &dyn Fn(&str) -> Option<String>) -> anyhow::Result<Vec<Server>> {
    let table = TABLES.iter().find_map(|table| root.get(*table));
    let Some(Value::Object(table)) = table else {
        bail!("there is no `mcpServers` in it, an object of servers by their names");
    };
    let mut servers = Vec::new();
    for (name, entry) in table {
        let read = || -> anyhow::Result<Option<Server>> {
            let Value::Object(entry) = entry.clone() else { bail!("must be an object") };
            Entry { fields: entry, env }.server(name)
        };
        servers.extend(read().with_context(|| format!("server `{name}`"))?);
    }
    if servers.is_empty() {
        bail!("`mcpServers` names no server that is not disabled");
    }
    Ok(servers)
}

/// A server's name stands in the path of its endpoint, and before the names of its tools.
fn check_name(name: &str) -> anyhow::Result<()> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    if name.is_empty()
        || name.len() > 32
        || !name.bytes().all(is_plain)
        || name.contains("__")
        || name.ends_with('_')
    {
        bail!("a server's name has up to 32 letters, digits, - and single _, and does not end with _");
    }
    Ok(())
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
        servers(root, &env)
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
    fn toml_has_the_same_shape() {
        let root: Map<String, Value> = toml::from_str(
            "[mcpServers.files]\ncommand = \"npx\"\nargs = [\"-y\"]\nttl = \"72h\"\nshare = true",
        )
        .unwrap();
        let read = servers(root, &|_| None).unwrap();
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
            (json!({"command": "x", "tools": ["x"]}), "field `tools`"),
            (json!({"command": "x", "maxRunning": 0}), "field `maxRunning`"),
            (json!({"command": "x", "era": "stone"}), "field `era`"),
            (json!({"command": "x", "share": "yes"}), "field `share`: must be true or false"),
            (json!(7), "must be an object"),
        ] {
            let error = format!("{:#}", all(json!({"mcpServers": {"s": entry}})).unwrap_err());
            assert!(error.contains("server `s`") && error.contains(why), "{error}");
        }
        assert!(format!("{:#}", all(json!({})).unwrap_err()).contains("mcpServers"));
        assert!(
            format!("{:#}", all(json!({"mcpServers": {"a__b": {"command": "x"}}})).unwrap_err())
                .contains("a__b")
        );
    }
}
