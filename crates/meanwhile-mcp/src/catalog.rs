//! The upstream's tools: what we know of each, and how we show it.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, OnceLock};

use data_encoding::BASE32_NOPAD;
use jsonschema::error::ValidationErrorKind;
use jsonschema::{ValidationError, Validator};
use meanwhile_core::Json;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::message::{Fields, to_json};
use crate::rules::{Face, Rules, Treatment};
use crate::upstream::Launch;
use crate::words;

/// How many violations of a schema an error names.
const VIOLATIONS_MAX: usize = 5;
/// Deeper than this, in levels, arguments are compared as they are written.
const CANONICAL_DEPTH: usize = 64;
/// A violation is cut here, in characters: it may quote the argument.
const VIOLATION_CHARS: usize = 300;

/// One tool of the upstream.
pub struct Tool {
    /// Its name.
    pub name: String,
    /// How its calls are treated.
    pub treatment: Treatment,
    /// Whether running a call a second time is safe: by configuration, or else because the tool says so itself.
    pub rerun: bool,
    schema: Option<Json>,
    validator: OnceLock<Option<Validator>>,
}

impl Tool {
    fn read(fields: &Fields, rules: &Rules) -> Option<Tool> {
        let mut tool = Tool::unlisted(&fields.read::<String>("name")?, rules);
        if let Some(hints) = fields.read::<Fields>("annotations") {
            let says = |hint: &str| hints.read::<bool>(hint).unwrap_or(false);
            tool.rerun = tool.treatment.rerun.unwrap_or(says("readOnlyHint") || says("idempotentHint"));
        }
        tool.schema = fields.get("inputSchema").map(ToOwned::to_owned);
        Some(tool)
    }

    /// A tool that the upstream has not listed: nothing is known of it but what the rules say.
    #[must_use]
    pub fn unlisted(name: &str, rules: &Rules) -> Tool {
        let treatment = rules.treatment(name);
        let rerun = treatment.rerun.unwrap_or(false);
        Tool { name: name.to_owned(), treatment, rerun, schema: None, validator: OnceLock::new() }
    }

    /// Its `inputSchema`, as it came.
    #[must_use]
    pub fn schema(&self) -> Option<&Json> {
        self.schema.as_ref()
    }

    /// Checks arguments against the tool's `inputSchema`; `server` is whose it is. What is JSON but more than we can hold, as a
    /// number of a thousand digits, is left for the upstream to judge.
    ///
    /// # Errors
    /// A text that names each field that is wrong, and how.
    pub fn check(&self, server: &str, arguments: &str) -> Result<(), String> {
        let Some(validator) = self.validator.get_or_init(|| self.compile(server)) else { return Ok(()) };
        let Ok(mut arguments) = serde_json::from_str::<Value>(arguments) else { return Ok(()) };
        if validator.is_valid(&arguments) {
            return Ok(());
        }
        // Many a client writes `null` for what its model leaves out. What is required is still missed then.
        if let Value::Object(fields) = &mut arguments {
            fields.retain(|_, value| !value.is_null());
        }
        judge(validator, &arguments, "arguments")
    }

    /// A schema that does not compile is reported once, here, and then skipped: the upstream judges for itself.
    fn compile(&self, server: &str) -> Option<Validator> {
        let schema: Value = serde_json::from_str(self.schema.as_ref()?.get()).ok()?;
        match jsonschema::options().build(&schema) {
            Ok(validator) => Some(validator),
            Err(error) => {
                tracing::warn!(server, tool = self.name, %error, "the tool's inputSchema does not compile; its arguments are not checked");
                None
            }
        }
    }
}

/// The tools of the upstream by name.
#[derive(Default, Clone)]
pub struct Catalog {
    tools: HashMap<String, Arc<Tool>>,
}

impl Catalog {
    /// The tool of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Arc<Tool>> {
        self.tools.get(name)
    }

    /// The name under which a tool of ours is shown: its own, or one with a prefix if the upstream has that already.
    #[must_use]
    pub fn our_name(&self, name: &str) -> String {
        let mut free = name.to_owned();
        while self.tools.contains_key(&free) {
            free = format!("meanwhile_{free}");
        }
        free
    }

    /// Adds tools as they are listed.
    pub fn learn<'a>(&mut self, tools: impl IntoIterator<Item = &'a Json>, rules: &Rules) {
        for tool in tools {
            let known = Fields::parse(tool.get()).ok().and_then(|fields| Tool::read(&fields, rules));
            if let Some(known) = known {
                self.tools.insert(known.name.clone(), Arc::new(known));
            }
        }
    }

    /// Adds the tools of one page of `tools/list`, and returns the page as the client is to see it; `core_tasks` is whether it
    /// may call them as tasks of revision 2025-11-25.
    /// What cannot be read passes as it is. A server that is such a gateway itself has our tools as well; those are not shown, for its
    /// slow calls are tasks here, and their handles ours.
    pub fn add_page(&mut self, tools: &[Json], rules: &Rules, core_tasks: bool) -> Vec<Json> {
        let tools: Vec<&Json> = tools.iter().filter(|tool| !is_ours(tool)).collect();
        // All names first: a description speaks of our tool by the name that the whole page leaves it.
        self.learn(tools.iter().copied(), rules);
        let poll = self.our_name(words::POLL_RESULT);
        let shown = |tool: &Json| self.shown(tool, &poll, core_tasks).unwrap_or_else(|| tool.clone());
        tools.into_iter().map(shown).collect()
    }

    fn shown(&self, tool: &Json, poll: &str, core_tasks: bool) -> Option<Json> {
        let mut fields = Fields::parse(tool.get()).ok()?;
        let known = self.get(&fields.read::<String>("name")?)?;
        // What the upstream can make of its calls is between it and us: here every slow call may be a task.
        fields.take("execution");
        let face = known.treatment.face;
        if let Some(support) = task_support(face).filter(|_| core_tasks) {
            fields.set("execution", to_json(&json!({"taskSupport": support})));
        }
        let Some(suffix) = words::suffix(face, poll) else { return Some(fields.to_json()) };
        // A handle is not what the schema promises, and structured content must be.
        fields.take("outputSchema");
        let is_said = fields.read::<String>("description").is_some_and(|said| said.ends_with(&suffix));
        if !is_said {
            let described = fields.get("description").and_then(|description| append(description, &suffix));
            fields.set("description", described.unwrap_or_else(|| to_json(&suffix)));
        }
        Some(fields.to_json())
    }
}

/// Whether a tool that is listed is one of ours.
pub(crate) fn is_ours(tool: &Json) -> bool {
    let fields = Fields::parse(tool.get()).unwrap_or_default();
    let (name, schema) = (fields.read::<String>("name"), fields.read::<Value>("inputSchema"));
    name.zip(schema).is_some_and(|(name, schema)| words::is_ours(&name, &schema))
}

/// Whether the calls of a tool may, or must, be tasks of revision 2025-11-25.
fn task_support(face: Face) -> Option<&'static str> {
    match face {
        Face::Inline => None,
        Face::Auto | Face::Handle => Some("optional"),
        Face::Task => Some("required"),
    }
}

/// Checks a value, which is called `whole`, against a schema. A schema that does not compile allows everything.
///
/// # Errors
/// A text that names each field that is wrong, and how.
pub fn violations(schema: &Value, value: &Value, whole: &str) -> Result<(), String> {
    jsonschema::options().build(schema).map_or(Ok(()), |validator| judge(&validator, value, whole))
}

fn judge(validator: &Validator, value: &Value, whole: &str) -> Result<(), String> {
    if validator.is_valid(value) {
        return Ok(());
    }
    let violations: Vec<String> = validator
        .iter_errors(value)
        .take(VIOLATIONS_MAX)
        .map(|error| {
            let path = error.instance_path().to_string();
            let field = if path.is_empty() { whole } else { path.trim_start_matches('/') };
            let text: String = said(&error).chars().take(VIOLATION_CHARS).collect();
            format!("`{field}`: {text}")
        })
        .collect();
    Err(violations.join("; "))
}

/// What is wrong. Of a choice the library names the first few only, and a model cannot guess the others.
fn said(error: &ValidationError<'_>) -> String {
    match error.kind() {
        ValidationErrorKind::Enum { options } => {
            let options = options.as_array().into_iter().flatten().map(Value::to_string);
            format!("{} is not one of {}", error.instance(), options.collect::<Vec<_>>().join(", "))
        }
        _ => error.to_string(),
    }
}

/// A JSON string with a paragraph behind it. What stands before is not read, so whatever it is it stays; an empty one, or what
/// is no string, is nothing to append to.
#[must_use]
pub fn append(text: &RawValue, paragraph: &str) -> Option<Json> {
    let before = text.get().strip_prefix('"')?.strip_suffix('"').filter(|before| !before.is_empty())?;
    let paragraph = to_json(&format!("\n\n{paragraph}"));
    RawValue::from_string(format!("\"{before}{}", paragraph.get().strip_prefix('"')?)).ok()
}

/// What makes two calls the same: server, tool and arguments, whatever the order of their keys and the form of their numbers.
#[must_use]
pub fn join_key(server: &Launch, tool: &str, arguments: &str) -> String {
    let server = server.identity();
    let server = server.iter().map(String::as_str);
    digest(server.chain([tool, &canonical(arguments.trim(), 0)]))
}

/// What makes a call the retry of another: the same call ([`join_key`]) under the same id in the same conversation. The id
/// alone would not do, for some clients count theirs from one in every session.
#[must_use]
pub fn retry_key(same_call: &str, conversation: Option<&str>, call_id: &str) -> String {
    digest([same_call, conversation.unwrap_or_default(), call_id].into_iter())
}

/// In bytes: so many that no two calls meet by accident, and no more, since each unfinished job has its key in an index.
const DIGEST: usize = 16;

fn digest<'a>(parts: impl Iterator<Item = &'a str>) -> String {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    BASE32_NOPAD.encode(&hasher.finalize().as_bytes()[..DIGEST])
}

/// The text that all spellings of a value share: keys in order, whole numbers without a fraction, no white space. What has no
/// other spelling that is surely equal, as a number beyond what a float holds exactly, stays as it is written.
fn canonical(text: &str, depth: usize) -> String {
    let inner = |value: &Json| canonical(value.get(), depth + 1);
    match text.as_bytes().first() {
        _ if depth > CANONICAL_DEPTH => text.to_owned(),
        Some(b'{') => match serde_json::from_str::<BTreeMap<String, Json>>(text) {
            Ok(fields) => {
                let fields: Vec<String> = fields
                    .iter()
                    .map(|(name, value)| format!("{}:{}", to_json(name).get(), inner(value)))
                    .collect();
                format!("{{{}}}", fields.join(","))
            }
            Err(_) => text.to_owned(),
        },
        Some(b'[') => match serde_json::from_str::<Vec<Json>>(text) {
            Ok(items) => format!("[{}]", items.iter().map(inner).collect::<Vec<_>>().join(",")),
            Err(_) => text.to_owned(),
        },
        Some(b'"') => serde_json::from_str::<String>(text)
            .map_or_else(|_| text.to_owned(), |text| to_json(&text).get().to_owned()),
        Some(b'-' | b'0'..=b'9') => canonical_number(text),
        _ => text.to_owned(),
    }
}

fn canonical_number(text: &str) -> String {
    // With fifteen digits or fewer a float says exactly what was written.
    let exact = text.bytes().filter(u8::is_ascii_digit).count() <= 15;
    match text.parse::<f64>() {
        Ok(number) if exact && number.fract() == 0.0 && number.abs() < 1e15 => format!("{}", number as i64),
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn page(tools: &[Value], rules: &Rules) -> (Catalog, Vec<Value>) {
        let mut catalog = Catalog::default();
        let tools: Vec<Json> = tools.iter().map(to_json).collect();
        let shown = catalog.add_page(&tools, rules, false);
        (catalog, shown.iter().map(|tool| serde_json::from_str(tool.get()).unwrap()).collect())
    }

    #[test]
    fn a_tool_is_shown_as_it_is_but_for_its_description_and_output_schema() {
        let tool = json!({"name": "render", "title": "Render", "description": "Renders.", "x-vendor": {"a": 1.5},
            "inputSchema": {"type": "object"}, "outputSchema": {"type": "object"}, "annotations": {"readOnlyHint": true}});
        let (catalog, shown) = page(std::slice::from_ref(&tool), &Rules::default());
        let description = shown[0]["description"].as_str().unwrap();
        assert!(description.starts_with("Renders.") && description.contains("poll_result"));
        let mut expected = tool.clone();
        expected.as_object_mut().unwrap().remove("outputSchema");
        expected["description"] = json!(description);
        assert_eq!(shown[0], expected);
        assert!(catalog.get("render").unwrap().rerun);
        let inline = Rules { rules: vec!["render=inline".parse().unwrap()], ..Rules::default() };
        assert_eq!(page(std::slice::from_ref(&tool), &inline).1, [tool]);
    }

    #[test]
    fn a_description_that_is_cut_in_a_character_stays_as_it_is() {
        let tool =
            serde_json::value::RawValue::from_string(r#"{"name":"x","description":"a\ud83d"}"#.to_owned())
                .unwrap();
        let shown = Catalog::default().add_page(&[tool], &Rules::default(), false);
        assert!(shown[0].get().contains(r#""description":"a\ud83d\n\n[If"#), "{}", shown[0]);
    }

    #[test]
    fn our_names_give_way_to_the_upstreams() {
        let (catalog, shown) =
            page(&[json!({"name": "x"}), json!({"name": "poll_result"})], &Rules::default());
        assert!(shown[0]["description"].as_str().unwrap().contains("meanwhile_poll_result"));
        assert_eq!(catalog.our_name("poll_result"), "meanwhile_poll_result");
        assert_eq!(catalog.our_name("list_jobs"), "list_jobs");
    }

    #[test]
    fn wrong_arguments_are_named_and_a_broken_schema_checks_nothing() {
        let schema = json!({"type": "object", "properties": {"n": {"type": "integer"}, "at": {"type": "object",
            "properties": {"x": {"type": "string"}}}, "of": {"enum": ["a", "b", "c", "d", "e"]}}, "required": ["n"]});
        let (catalog, _) = page(
            &[json!({"name": "a", "inputSchema": schema}), json!({"name": "b", "inputSchema": {"type": 42}})],
            &Rules::default(),
        );
        let check = |arguments: Value| catalog.get("a").unwrap().check("s", &arguments.to_string());
        assert_eq!(check(json!({"n": 1})), Ok(()));
        assert!(check(json!({"n": "one"})).unwrap_err().starts_with("`n`: \"one\" is not of type"));
        assert!(check(json!({"n": 1, "at": {"x": 1}})).unwrap_err().starts_with("`at/x`: "));
        let chosen = check(json!({"n": 1, "of": "x"})).unwrap_err();
        assert_eq!(chosen, r#"`of`: "x" is not one of "a", "b", "c", "d", "e""#);
        assert!(check(json!({})).unwrap_err().contains("\"n\" is a required property"));
        assert_eq!(check(json!({"n": 1, "at": null})), Ok(()), "an argument that is left out");
        assert!(check(json!({"n": null})).unwrap_err().contains("\"n\" is a required property"));
        assert_eq!(catalog.get("b").unwrap().check("s", "7"), Ok(()));
        assert_eq!(
            catalog.get("a").unwrap().check("s", r#"{"n":1,"x":1e400}"#),
            Ok(()),
            "the upstream may know better"
        );
    }

    #[test]
    fn the_same_call_has_the_same_key_however_it_is_written() {
        let server = |arg: &str| {
            let (program, args, env) = ("p".into(), vec![arg.into()], vec![]);
            let target = crate::upstream::Target::Process { program, args, env, cwd: None };
            Launch::new("s".into(), target, None)
        };
        let key = |text: &str| join_key(&server("a"), "t", text);
        assert_eq!(key(r#"{"a":1,"b":[{"x":2.0,"y":null}]}"#), key(r#"{"b":[{"y":null,"x":2}],"a":1.0}"#));
        assert_ne!(key(r#"{"a":1}"#), key(r#"{"a":"1"}"#));
        assert_ne!(key(r#"{"a":[1,2]}"#), key(r#"{"a":[2,1]}"#));
        assert_eq!(key(r#"{"a": [1, -20e1, "\u00e9"] }"#), key(r#"{"a":[1.0,-200,"é"]}"#));
        assert_ne!(key(r#"{"a":18446744073709551617}"#), key(r#"{"a":18446744073709552117}"#));
        assert_ne!(key(r#"{"a":0.12345678901234567}"#), key(r#"{"a":0.12345678901234568}"#));
        assert_ne!(join_key(&server("a"), "t", "{}"), join_key(&server("b"), "t", "{}"));
    }
}
