//! One server of the configuration: its fields, as the different clients call them.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::PathBuf;

use anyhow::bail;
use meanwhile_mcp::revision::Era;
use meanwhile_mcp::rules::{Rule, duration};
use meanwhile_mcp::upstream::{Launch, Target};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::{Server, wrong};

/// What clients call the URL of a server.
const URLS: [&str; 3] = ["url", "serverUrl", "httpUrl"];

/// The fields of a server that have not been read yet.
pub(super) struct Entry<'a> {
    /// What the server is called here.
    pub(super) name: &'a str,
    pub(super) fields: Map<String, Value>,
    pub(super) env: &'a dyn Fn(&str) -> Option<String>,
}

impl Entry<'_> {
    pub(super) fn is_disabled(&mut self) -> anyhow::Result<bool> {
        Ok(self.take("disabled")? == Some(true) || self.take("enabled")? == Some(false))
    }

    pub(super) fn server(mut self) -> anyhow::Result<Server> {
        let server = Server {
            launch: Launch::new(self.name.to_owned(), self.target()?, self.parse("era", era)?.flatten()),
            oauth: self.take("oauth")?.unwrap_or_default(),
            mode: self.parse("mode", |text: &str| text.parse())?,
            tools: self.tools()?,
            inline_budget: self.parse("inlineBudget", duration)?,
            timeout: self.parse("timeout", duration)?,
            ttl: self.parse("ttl", duration)?,
            max_running: self.max_running()?,
            share: self.take("share")?.unwrap_or(false),
        };
        for field in self.fields.keys() {
            tracing::warn!(
                server = self.name,
                field,
                "a field of the configuration that is not known here is ignored"
            );
        }
        Ok(server)
    }

    fn target(&mut self) -> anyhow::Result<Target> {
        let kind: Option<String> = self.take("type")?;
        let (command, url) = (self.text("command")?, self.url()?);
        match (kind.as_deref(), command, url) {
            (None | Some("stdio" | "local"), Some(program), None) => Ok(Target::Process {
                program,
                args: self
                    .take::<Vec<String>>("args")?
                    .unwrap_or_default()
                    .iter()
                    .map(|arg| self.expanded("args", arg))
                    .collect::<anyhow::Result<_>>()?,
                env: self.pairs("env")?,
                cwd: self.text("cwd")?.map(PathBuf::from),
            }),
            (
                None | Some("http" | "streamable-http" | "streamableHttp" | "remote" | "sse"),
                None,
                Some((field, url)),
            ) => {
                if !url.starts_with("http://") && !url.starts_with("https://") {
                    return Err(wrong(field, "must begin with http:// or https://"));
                }
                let legacy_sse = kind.as_deref() == Some("sse");
                Ok(Target::Remote { url, headers: self.pairs("headers")?, legacy_sse, login: None })
            }
            (_, Some(_), Some((field, _))) => {
                Err(wrong(field, "a server has a `command` or a `url`, not both"))
            }
            (_, None, None) => bail!("field `command`: missing, and so is `url`; give one of them"),
            (Some(kind), ..) => {
                bail!(
                    "field `type`: `{kind}` does not fit: stdio and local go with `command`; http, streamable-http, remote and sse go with `url`"
                )
            }
        }
    }

    /// The URL, and what the field is called that it stands in.
    fn url(&mut self) -> anyhow::Result<Option<(&'static str, String)>> {
        let mut found: Option<(&str, String)> = None;
        for field in URLS {
            let Some(url) = self.text(field)? else { continue };
            if let Some((other, _)) = found {
                return Err(wrong(field, format!("is another name of `{other}`; give one of them")));
            }
            found = Some((field, url));
        }
        Ok(found)
    }

    /// `tools` is a list of rules as `--tool` has them, or an object of patterns and settings. A list without any rule is meant for
    /// another client.
    fn tools(&mut self) -> anyhow::Result<Vec<Rule>> {
        let rules: Vec<String> = match self.fields.remove("tools") {
            None | Some(Value::Null) => vec![],
            Some(Value::Object(rules)) => {
                let rules: BTreeMap<String, String> = typed("tools", Value::Object(rules))?;
                rules.into_iter().map(|(pattern, settings)| format!("{pattern}={settings}")).collect()
            }
            Some(list) => {
                let list: Vec<String> = typed("tools", list)?;
                if list.iter().any(|rule| rule.contains('=')) { list } else { self.leave_filter() }
            }
        };
        let parsed = rules.iter().map(|rule| rule.parse::<Rule>().map_err(|why| wrong("tools", why)));
        parsed.collect()
    }

    /// A list of tools is a filter in other clients, which is not for us to apply.
    fn leave_filter(&self) -> Vec<String> {
        tracing::warn!(
            server = self.name,
            field = "tools",
            "a list of tools without any rule is a filter of other clients, and ignored here"
        );
        vec![]
    }

    fn max_running(&mut self) -> anyhow::Result<Option<u16>> {
        match self.take("maxRunning")? {
            Some(0) => Err(wrong("maxRunning", "must be 1 or more")),
            running => Ok(running),
        }
    }

    fn parse<T, E: Display>(
        &mut self,
        field: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> anyhow::Result<Option<T>> {
        // Some clients have a number here, of seconds or of milliseconds, for their own patience.
        if field == "timeout" && self.fields.get(field).is_some_and(Value::is_number) {
            return Ok(None);
        }
        let Some(written) = self.take::<String>(field)? else { return Ok(None) };
        let text = self.expanded(field, &written)?;
        let parsed = parse(&text).map_err(|why| match text == written {
            true => wrong(field, why),
            // Nobody knows what else a variable of the environment holds.
            false => wrong(field, format!("`{written}` does not stand for anything that fits here")),
        });
        parsed.map(Some)
    }

    fn text(&mut self, field: &str) -> anyhow::Result<Option<String>> {
        self.take::<String>(field)?.map(|text| self.expanded(field, &text)).transpose()
    }

    fn pairs(&mut self, field: &str) -> anyhow::Result<Vec<(String, String)>> {
        let pairs: BTreeMap<String, String> = self.take(field)?.unwrap_or_default();
        for name in pairs.iter().filter(|(_, value)| is_bare_variable(value)).map(|(name, _)| name) {
            tracing::warn!(
                server = self.name,
                field,
                name,
                "a value of the form $NAME is passed on as it is; ${{NAME}} stands for a variable of the environment"
            );
        }
        let expanded = |(name, value): (String, String)| Ok((name, self.expanded(field, &value)?));
        pairs.into_iter().map(expanded).collect()
    }

    fn take<T: DeserializeOwned>(&mut self, field: &str) -> anyhow::Result<Option<T>> {
        match self.fields.remove(field) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => typed(field, value).map(Some),
        }
    }

    /// `${NAME}`, `${env:NAME}` and `${NAME:-default}` stand for environment variables, as in clients.
    fn expanded(&self, field: &str, text: &str) -> anyhow::Result<String> {
        let mut expanded = String::new();
        let mut rest = text;
        while let Some((before, behind)) = rest.split_once("${") {
            let Some((variable, after)) = behind.split_once('}') else { break };
            expanded.push_str(before);
            expanded.push_str(&self.variable(variable).map_err(|why| wrong(field, why))?);
            rest = after;
        }
        Ok(expanded + rest)
    }

    /// What `${variable}` stands for.
    fn variable(&self, variable: &str) -> Result<String, String> {
        let (name, default) = match variable.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (variable, None),
        };
        let name = name.strip_prefix("env:").unwrap_or(name);
        let instead = "write an environment variable in its place, as in ${env:NAME}";
        match name.split_once(':') {
            Some(("input", _)) => Err(format!(
                "${{{name}}} is what VS Code asks its user for, and nobody is asked here; {instead}"
            )),
            Some(_) => Err(format!("${{{name}}} is not known here; {instead}")),
            None => (self.env)(name).or_else(|| default.map(str::to_owned)).ok_or_else(|| {
                format!("the environment variable {name} is not set; set it, or write ${{{name}:-default}}")
            }),
        }
    }
}

/// What stands for a variable in some clients, and in others for itself.
fn is_bare_variable(value: &str) -> bool {
    let is_of_name = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
    value.strip_prefix('$').is_some_and(|name| !name.is_empty() && name.bytes().all(is_of_name))
}

fn era(text: &str) -> Result<Option<Era>, String> {
    match text {
        "auto" => Ok(None),
        "legacy" => Ok(Some(Era::Legacy)),
        "modern" => Ok(Some(Era::Modern)),
        _ => Err(format!("`{text}` is no era: write auto, legacy or modern")),
    }
}

fn typed<T: DeserializeOwned>(field: &str, value: Value) -> anyhow::Result<T> {
    // What is wrong with a value is told without the value, which may be a secret.
    serde_json::from_value(value).map_err(|_| {
        let kind = match field {
            "args" => "a list of strings",
            "command" => "a string; what follows the program belongs to `args`",
            "env" | "headers" => "an object of strings",
            "tools" => "a list of rules, or an object of patterns and settings",
            "disabled" | "enabled" | "share" => "true or false",
            "oauth" => {
                "an object with `clientId`, `clientSecretFile`, `clientMetadataUrl`, `callbackPort` (a number) and `scopes`"
            }
            "maxRunning" => "a whole number below 65536",
            _ => "a string",
        };
        wrong(field, format!("must be {kind}"))
    })
}
