//! What a modern server is told in headers too, so that those between us can route by it without reading the body.
//! See <https://modelcontextprotocol.io/specification/2026-07-28/basic/transports/streamable-http>.

use std::collections::{HashMap, HashSet};

use data_encoding::BASE64;
use meanwhile_core::Json;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;

use crate::message::{Fields, to_json};

/// In a property's schema: the header that is to carry its value.
const ANNOTATION: &str = "x-mcp-header";
/// How deep properties may lie in each other.
const DEPTH_MAX: usize = 32;
/// The longest value that goes into a header, in bytes.
const VALUE_MAX: usize = 8 * 1024;

/// Which arguments of which tool go into which header.
#[derive(Debug, Default)]
pub(super) struct ToolHeaders(HashMap<String, Vec<Annotated>>);

/// One argument: the names on the way to it, and its header.
#[derive(Debug)]
struct Annotated {
    path: Vec<String>,
    header: String,
}

impl ToolHeaders {
    /// Learns from a page of `tools/list`, and returns it without the tools whose headers are not as they must be.
    pub(super) fn learn(&mut self, server: &str, result: Json) -> Json {
        if !result.get().contains(ANNOTATION) {
            return result;
        }
        let Ok(mut page) = Fields::parse(result.get()) else { return result };
        let Some(tools) = page.read::<Vec<Json>>("tools") else { return result };
        let kept: Vec<Json> = tools.into_iter().filter(|tool| self.learn_tool(server, tool)).collect();
        page.set("tools", to_json(&kept));
        page.to_json()
    }

    fn learn_tool(&mut self, server: &str, tool: &Json) -> bool {
        let Ok(tool) = Fields::parse(tool.get()) else { return true };
        let (Some(name), Some(schema)) = (tool.read::<String>("name"), tool.read::<Value>("inputSchema"))
        else {
            return true;
        };
        match annotations(&schema) {
            Ok(annotated) => {
                self.0.insert(name, annotated);
                true
            }
            Err(why) => {
                tracing::warn!(
                    server,
                    tool = name,
                    why,
                    "a tool is left out: its `x-mcp-header` is not as it must be"
                );
                false
            }
        }
    }

    /// Adds the headers of a request.
    pub(super) fn add(&self, headers: &mut HeaderMap, method: &str, params: Option<&Json>) {
        let mut add = |name: &str, value: &str| {
            let name = HeaderName::from_bytes(name.as_bytes());
            if let (Ok(name), Ok(value)) = (name, HeaderValue::from_str(&encoded(value))) {
                headers.insert(name, value);
            }
        };
        add("mcp-method", method);
        let params = params.and_then(|params| Fields::parse(params.get()).ok()).unwrap_or_default();
        let named = match method {
            "tools/call" | "prompts/get" => "name",
            "resources/read" => "uri",
            _ if method.starts_with("tasks/") => "taskId",
            _ => return,
        };
        let Some(name) = params.read::<String>(named) else { return };
        add("mcp-name", &name);
        let annotated = self.0.get(&name).filter(|annotated| method == "tools/call" && !annotated.is_empty());
        let Some(annotated) = annotated else { return };
        let arguments: Value = params.read("arguments").unwrap_or_default();
        for Annotated { path, header } in annotated {
            let value = path.iter().try_fold(&arguments, |value, name| value.get(name));
            if let Some(value) = value.and_then(text).filter(|value| value.len() <= VALUE_MAX) {
                add(&format!("mcp-param-{header}"), &value);
            }
        }
    }
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(_) | Value::Number(_) => Some(value.to_string()),
        _ => None,
    }
}

/// A text as a header can carry it: what a header may not hold, or what would be read as encoded, is encoded.
pub(super) fn encoded(value: &str) -> String {
    let odd = value.bytes().any(|byte| !(b' '..=b'~').contains(&byte));
    let blank = value.starts_with(' ') || value.ends_with(' ');
    let looks_encoded = value.starts_with("=?base64?") && value.ends_with("?=");
    if odd || blank || looks_encoded {
        format!("=?base64?{}?=", BASE64.encode(value.as_bytes()))
    } else {
        value.to_owned()
    }
}

/// The annotated properties of a schema; the error says what is wrong with one of them.
fn annotations(schema: &Value) -> Result<Vec<Annotated>, String> {
    let mut found = Vec::new();
    let mut path = Vec::new();
    walk(schema, &mut path, &mut found)?;
    // Every other place than those on the way of `properties` is a wrong one.
    let (everywhere, mut seen) = (count(schema, 0), HashSet::new());
    if everywhere != found.len() {
        return Err("it stands where no property is".to_owned());
    }
    match found.iter().find(|annotated| !seen.insert(annotated.header.to_ascii_lowercase())) {
        Some(twice) => Err(format!("`{}` is there twice", twice.header)),
        None => Ok(found),
    }
}

fn walk(schema: &Value, path: &mut Vec<String>, found: &mut Vec<Annotated>) -> Result<(), String> {
    if let Some(header) = schema.get(ANNOTATION).filter(|_| !path.is_empty()) {
        let header = header.as_str().filter(|header| is_token(header));
        let header = header.ok_or_else(|| format!("`{}`: it is no header's name", path.join(".")))?;
        if !matches!(schema["type"].as_str(), Some("string" | "integer" | "boolean")) {
            return Err(format!("`{}`: its type must be string, integer or boolean", path.join(".")));
        }
        found.push(Annotated { path: path.clone(), header: header.to_owned() });
    }
    let properties = schema.get("properties").and_then(Value::as_object);
    for (name, inner) in properties.into_iter().flatten() {
        if path.len() == DEPTH_MAX {
            return Err(format!("its properties lie more than {DEPTH_MAX} deep"));
        }
        path.push(name.clone());
        walk(inner, path, found)?;
        path.pop();
    }
    Ok(())
}

/// How many annotations there are, wherever they stand. What is a value and no schema holds none.
fn count(schema: &Value, depth: usize) -> usize {
    if depth > 3 * DEPTH_MAX {
        return 0;
    }
    match schema {
        Value::Object(fields) => fields
            .iter()
            .map(|(name, value)| match name.as_str() {
                ANNOTATION => 1,
                "default" | "const" | "enum" | "examples" => 0,
                // Here the names are those of properties, whatever they are.
                "properties" => {
                    let inner = value.as_object().into_iter().flat_map(|fields| fields.values());
                    inner.map(|value| count(value, depth + 1)).sum()
                }
                _ => count(value, depth + 1),
            })
            .sum(),
        Value::Array(items) => items.iter().map(|item| count(item, depth + 1)).sum(),
        _ => 0,
    }
}

fn is_token(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn learnt(properties: Value) -> (ToolHeaders, usize) {
        let mut headers = ToolHeaders::default();
        let tool = json!({"name": "t", "inputSchema": {"type": "object", "properties": properties}});
        let page: Value =
            serde_json::from_str(headers.learn("s", to_json(&json!({"tools": [tool]}))).get()).unwrap();
        (headers, page["tools"].as_array().unwrap().len())
    }

    #[test]
    fn a_calls_annotated_arguments_go_into_headers() {
        let (headers, kept) = learnt(json!({
            "region": {"type": "string", "x-mcp-header": "Region"},
            "at": {"type": "object", "properties": {"n": {"type": "integer", "x-mcp-header": "N"}}},
            "gone": {"type": "boolean", "x-mcp-header": "Gone"},
        }));
        assert_eq!(kept, 1);
        let mut map = HeaderMap::new();
        let call = json!({"name": "t", "arguments": {"region": "Zürich", "at": {"n": 7}, "gone": null}});
        headers.add(&mut map, "tools/call", Some(&to_json(&call)));
        let header = |name: &str| map.get(name).map(|value| value.to_str().unwrap().to_owned());
        assert_eq!(header("mcp-method").as_deref(), Some("tools/call"));
        assert_eq!(header("mcp-name").as_deref(), Some("t"));
        assert_eq!(header("mcp-param-region").as_deref(), Some("=?base64?WsO8cmljaA==?="));
        assert_eq!(header("mcp-param-n").as_deref(), Some("7"));
        assert_eq!(header("mcp-param-gone"), None);
    }

    #[test]
    fn the_name_of_what_is_asked_for_goes_along() {
        let named = |method: &str, params: Value| {
            let mut map = HeaderMap::new();
            ToolHeaders::default().add(&mut map, method, Some(&to_json(&params)));
            map.get("mcp-name").map(|value| value.to_str().unwrap().to_owned())
        };
        assert_eq!(named("resources/read", json!({"uri": "x://y"})).as_deref(), Some("x://y"));
        assert_eq!(named("tasks/get", json!({"taskId": "t1"})).as_deref(), Some("t1"));
        assert_eq!(named("tools/list", json!({})), None);
        assert_eq!(encoded(" a"), "=?base64?IGE=?=");
        assert_eq!(encoded("=?base64?YQ==?="), "=?base64?PT9iYXNlNjQ/WVE9PT89?=");
    }

    #[test]
    fn a_tool_with_a_wrong_annotation_is_left_out() {
        for properties in [
            json!({"a": {"type": "string", "x-mcp-header": ""}}),
            json!({"a": {"type": "string", "x-mcp-header": "a b"}}),
            json!({"a": {"type": "number", "x-mcp-header": "A"}}),
            json!({"a": {"type": "string", "x-mcp-header": "A"}, "b": {"type": "string", "x-mcp-header": "a"}}),
            json!({"a": {"type": "array", "items": {"type": "string", "x-mcp-header": "A"}}}),
        ] {
            assert_eq!(learnt(properties.clone()).1, 0, "{properties}");
        }
        let named_so = json!({"x-mcp-header": {"type": "string"}});
        assert_eq!(learnt(named_so).1, 1, "a property may have that name");
    }
}
