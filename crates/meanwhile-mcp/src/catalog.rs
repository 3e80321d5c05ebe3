//! The upstream's tools: what we know of each, and how we show it.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use jsonschema::Validator;
use meanwhile_core::Json;
use serde_json::Value;

use crate::message::{Fields, to_json};
use crate::rules::{Face, Rules, Treatment};
use crate::upstream::Launch;
use crate::words;

/// How many violations of a schema an error names.
const VIOLATIONS_MAX: usize = 5;
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

    /// Checks arguments against the tool's `inputSchema`.
    ///
    /// # Errors
    /// A text that names each field that is wrong, and how.
    pub fn check(&self, arguments: &Value) -> Result<(), String> {
        let Some(validator) = self.validator.get_or_init(|| self.compile()) else { return Ok(()) };
        if validator.is_valid(arguments) {
            return Ok(());
        }
        let violations: Vec<String> = validator
            .iter_errors(arguments)
            .take(VIOLATIONS_MAX)
            .map(|error| {
                let path = error.instance_path().to_string();
                let field = if path.is_empty() { "arguments" } else { path.trim_start_matches('/') };
                let text: String = error.to_string().chars().take(VIOLATION_CHARS).collect();
                format!("`{field}`: {text}")
            })
            .collect();
        Err(violations.join("; "))
    }

    /// A schema that does not compile is reported once, here, and then skipped: the upstream judges for itself.
    fn compile(&self) -> Option<Validator> {
        let schema: Value = serde_json::from_str(self.schema.as_ref()?.get()).ok()?;
        match jsonschema::options().build(&schema) {
            Ok(validator) => Some(validator),
            Err(error) => {
                tracing::warn!(tool = self.name, %error, "the tool's inputSchema does not compile; its arguments are not checked");
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

    /// Adds the tools of one page of `tools/list`, and returns the page as the client is to see it.
    /// What cannot be read passes as it is.
    pub fn add_page(&mut self, tools: &[Json], rules: &Rules) -> Vec<Json> {
        tools.iter().map(|tool| self.add(tool, rules).unwrap_or_else(|| tool.clone())).collect()
    }

    fn add(&mut self, tool: &Json, rules: &Rules) -> Option<Json> {
        let mut fields = Fields::parse(tool.get()).ok()?;
        let known = Tool::read(&fields, rules)?;
        let face = known.treatment.face;
        self.tools.insert(known.name.clone(), Arc::new(known));
        if face == Face::Inline {
            return None;
        }
        // A handle is not what the schema promises, and structured content must be.
        fields.take("outputSchema");
        let description: String = fields.read("description").unwrap_or_default();
        let poll = self.our_name(words::POLL_RESULT);
        fields.set("description", to_json(&words::described(&description, face, &poll)));
        Some(fields.to_json())
    }
}

/// What makes two calls the same: server, tool and arguments, whatever the order of their keys and the form of their numbers.
#[must_use]
pub fn join_key(server: &Launch, tool: &str, arguments: &Value) -> String {
    let mut hasher = blake3::Hasher::new();
    let command = [&server.name, &server.program].into_iter().chain(&server.args).map(String::as_str);
    for part in command.chain([tool, &canonical(arguments)]) {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    hasher.finalize().to_hex().to_string()
}

/// Keys in order (`serde_json` keeps its maps sorted), and whole numbers without a fraction.
fn canonical(value: &Value) -> String {
    fn whole(value: &mut Value) {
        match value {
            Value::Array(items) => items.iter_mut().for_each(whole),
            Value::Object(fields) => fields.values_mut().for_each(whole),
            Value::Number(number) => {
                // Up to 2^53 a float says exactly which whole number it is.
                let exact = number
                    .as_f64()
                    .filter(|float| float.fract() == 0.0 && float.abs() <= 9_007_199_254_740_992.0);
                if let Some(float) = exact.filter(|_| number.is_f64()) {
                    *value = Value::from(float as i64);
                }
            }
            _ => {}
        }
    }
    let mut value = value.clone();
    whole(&mut value);
    value.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn page(tools: &[Value], rules: &Rules) -> (Catalog, Vec<Value>) {
        let mut catalog = Catalog::default();
        let tools: Vec<Json> = tools.iter().map(to_json).collect();
        let shown = catalog.add_page(&tools, rules);
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
    fn our_names_give_way_to_the_upstreams() {
        let (catalog, _) = page(&[json!({"name": "poll_result"}), json!({"name": "x"})], &Rules::default());
        assert_eq!(catalog.our_name("poll_result"), "meanwhile_poll_result");
        assert_eq!(catalog.our_name("list_jobs"), "list_jobs");
    }

    #[test]
    fn wrong_arguments_are_named_and_a_broken_schema_checks_nothing() {
        let schema = json!({"type": "object", "properties": {"n": {"type": "integer"}, "at": {"type": "object",
            "properties": {"x": {"type": "string"}}}}, "required": ["n"]});
        let (catalog, _) = page(
            &[json!({"name": "a", "inputSchema": schema}), json!({"name": "b", "inputSchema": {"type": 42}})],
            &Rules::default(),
        );
        let check = |arguments| catalog.get("a").unwrap().check(&arguments);
        assert_eq!(check(json!({"n": 1})), Ok(()));
        assert!(check(json!({"n": "one"})).unwrap_err().starts_with("`n`: \"one\" is not of type"));
        assert!(check(json!({"n": 1, "at": {"x": 1}})).unwrap_err().starts_with("`at/x`: "));
        assert!(check(json!({})).unwrap_err().contains("\"n\" is a required property"));
        assert_eq!(catalog.get("b").unwrap().check(&json!(7)), Ok(()));
    }

    #[test]
    fn the_same_call_has_the_same_key_however_it_is_written() {
        let server = |arg: &str| Launch { name: "s".into(), program: "p".into(), args: vec![arg.into()] };
        let key = |text: &str| join_key(&server("a"), "t", &serde_json::from_str(text).unwrap());
        assert_eq!(key(r#"{"a":1,"b":[{"x":2.0,"y":null}]}"#), key(r#"{"b":[{"y":null,"x":2}],"a":1.0}"#));
        assert_ne!(key(r#"{"a":1}"#), key(r#"{"a":"1"}"#));
        assert_ne!(key(r#"{"a":[1,2]}"#), key(r#"{"a":[2,1]}"#));
        assert_ne!(join_key(&server("a"), "t", &json!({})), join_key(&server("b"), "t", &json!({})));
    }
}
