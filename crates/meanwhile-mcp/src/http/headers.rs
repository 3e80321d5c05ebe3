//! The headers of a modern request, which repeat what its body says, so that those between need not read it
//! (<https://modelcontextprotocol.io/specification/2026-07-28/basic/transports/streamable-http#request-metadata>).

use axum::http::{HeaderMap, HeaderName, StatusCode};
use data_encoding::BASE64;
use meanwhile_core::Json;
use serde_json::Value;

use super::refusal::Refusal;
use crate::message::{Fields, INVALID_PARAMS};
use crate::modern::{CLIENT_CAPABILITIES, CLIENT_INFO, PROTOCOL_VERSION};
use crate::revision::{Era, Revision};

/// The revision that a request is written in.
pub(super) const VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
const METHOD: HeaderName = HeaderName::from_static("mcp-method");
const NAME: HeaderName = HeaderName::from_static("mcp-name");

/// Whether these parameters are those of a modern request, well-formed or not.
pub(super) fn is_modern(params: Option<&Json>) -> bool {
    let meta = params
        .filter(|params| params.get().contains("io.modelcontextprotocol/"))
        .and_then(|params| Fields::parse(params.get()).ok())
        .and_then(|params| params.read::<Fields>("_meta"));
    meta.is_some_and(|meta| [PROTOCOL_VERSION, CLIENT_CAPABILITIES].iter().any(|key| meta.get(key).is_some()))
}

/// The value of a header that may be there once.
pub(super) fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, Refusal> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Refusal::mismatch(format!("the header {} is there twice", shown(name))));
    }
    let text = value.to_str().map_err(|_| invalid_characters(name))?;
    Ok(Some(text.trim()))
}

/// The method that a request names, unless it is a notification.
pub(super) fn request(headers: &HeaderMap) -> Option<&str> {
    let method = headers.get(METHOD)?.to_str().ok()?;
    (!method.starts_with("notifications/")).then_some(method)
}

/// Checks what every modern request must say of itself: its revision, and what its client can do.
pub(super) fn check_meta(headers: &HeaderMap, params: &Fields) -> Result<(), Refusal> {
    let Some(version) = single(headers, &VERSION)? else {
        return Err(missing(&VERSION));
    };
    let meta = params.read::<Fields>("_meta").ok_or_else(|| invalid("`_meta` is missing"))?;
    let named: String =
        meta.read(PROTOCOL_VERSION).ok_or_else(|| invalid(&wrong(&meta, PROTOCOL_VERSION, "a string")))?;
    if meta.read::<Fields>(CLIENT_CAPABILITIES).is_none() {
        return Err(invalid(&wrong(&meta, CLIENT_CAPABILITIES, "an object")));
    }
    if meta.get(CLIENT_INFO).is_some() && meta.read::<Fields>(CLIENT_INFO).is_none() {
        return Err(invalid(&wrong(&meta, CLIENT_INFO, "an object")));
    }
    if version != named {
        return Err(differs(&VERSION, version, &named));
    }
    match Revision::from_name(version) {
        Some(revision) if revision.era() == Era::Modern => Ok(()),
        _ => Err(Refusal::version(version, &[Revision::LATEST])),
    }
}

/// Checks that `Mcp-Method` and `Mcp-Name` say what the body says.
pub(super) fn check_names(headers: &HeaderMap, method: &str, params: &Fields) -> Result<(), Refusal> {
    let told = single(headers, &METHOD)?.ok_or_else(|| missing(&METHOD))?;
    if told != method {
        return Err(differs(&METHOD, told, method));
    }
    let field = match method {
        "tools/call" | "prompts/get" => "name",
        "resources/read" => "uri",
        "tasks/get" | "tasks/update" | "tasks/cancel" => "taskId",
        _ => return Ok(()),
    };
    let told = single(headers, &NAME)?;
    match (told, params.read::<String>(field)) {
        (Some(told), Some(name)) if decoded(&NAME, told)? == name => Ok(()),
        (Some(told), Some(name)) => Err(differs(&NAME, told, &name)),
        (None, Some(_)) => Err(missing(&NAME)),
        (Some(_), None) => Err(Refusal::mismatch(format!("Mcp-Name is there, but not `params.{field}`"))),
        // Without the field the request itself is wrong, and whoever handles it says so.
        (None, None) => Ok(()),
    }
}

/// Checks the arguments that the tool's schema wants mirrored into `Mcp-Param-*` headers.
pub(super) fn check_mirrored(headers: &HeaderMap, schema: &Json, params: &Fields) -> Result<(), Refusal> {
    let Ok(schema) = serde_json::from_str::<Value>(schema.get()) else { return Ok(()) };
    let arguments: Value = params.read("arguments").unwrap_or_default();
    let mut mirrored = Vec::new();
    collect(&schema, &arguments, &mut mirrored);
    for (name, value) in mirrored {
        let Ok(header) = HeaderName::try_from(format!("mcp-param-{}", name.to_ascii_lowercase())) else {
            continue;
        };
        let told = single(headers, &header)?;
        let told = told.map(|told| decoded(&header, told)).transpose()?;
        match (told, value) {
            (None, None | Some(Value::Null)) => {}
            (None, Some(_)) => return Err(missing(&header)),
            (Some(told), Some(value)) if is_same(&told, value) => {}
            (Some(told), value) => {
                let value = value.map_or_else(|| "nothing".to_owned(), Value::to_string);
                return Err(differs(&header, &told, &value));
            }
        }
    }
    Ok(())
}

/// The properties with `x-mcp-header` that are reached through `properties` alone, and their values.
fn collect<'a>(schema: &'a Value, value: &'a Value, found: &mut Vec<(&'a str, Option<&'a Value>)>) {
    let Some(properties) = schema.get("properties").and_then(Value::as_object) else { return };
    for (name, property) in properties {
        let value = value.get(name);
        if let Some(header) = property.get("x-mcp-header").and_then(Value::as_str) {
            found.push((header, value));
        }
        collect(property, value.unwrap_or(&Value::Null), found);
    }
}

fn is_same(told: &str, value: &Value) -> bool {
    match value {
        Value::String(text) => told == text,
        Value::Bool(flag) => told == if *flag { "true" } else { "false" },
        Value::Number(number) => match (number.as_i128(), told.parse::<i128>()) {
            // Large ones that differ may be the same as floating-point numbers.
            (Some(number), Ok(told)) => number == told,
            // `42.0` and `42` are the same number.
            _ => told.parse::<f64>().is_ok_and(|told| Some(told) == number.as_f64() && told.is_finite()),
        },
        _ => false,
    }
}

/// The value, from Base64 where it stands so: `=?base64?…?=`.
pub(super) fn decoded(name: &HeaderName, value: &str) -> Result<String, Refusal> {
    let Some(encoded) = value.strip_prefix("=?base64?").and_then(|value| value.strip_suffix("?=")) else {
        return Ok(value.to_owned());
    };
    let bytes = BASE64.decode(encoded.as_bytes()).map_err(|_| invalid_characters(name))?;
    String::from_utf8(bytes).map_err(|_| invalid_characters(name))
}

fn wrong(meta: &Fields, key: &str, kind: &str) -> String {
    match meta.get(key) {
        Some(_) => format!("`_meta[\"{key}\"]` must be {kind}"),
        None => format!("`_meta[\"{key}\"]` is missing"),
    }
}

fn invalid(message: &str) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, INVALID_PARAMS, message)
}

fn missing(name: &HeaderName) -> Refusal {
    Refusal::mismatch(format!("the header {} is missing", shown(name)))
}

fn differs(name: &HeaderName, told: &str, body: &str) -> Refusal {
    Refusal::mismatch(format!("the header {} says `{told}`, the body says `{body}`", shown(name)))
}

fn invalid_characters(name: &HeaderName) -> Refusal {
    Refusal::mismatch(format!(
        "the header {} has characters or an encoding that it must not have",
        shown(name)
    ))
}

/// A header's name as the specification writes it.
fn shown(name: &HeaderName) -> String {
    let words = name.as_str().split('-').map(|word| match word {
        "mcp" if *name == VERSION => "MCP".to_owned(),
        word => word[..1].to_ascii_uppercase() + &word[1..],
    });
    words.collect::<Vec<_>>().join("-")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::to_json;
    use serde_json::json;

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap()))
            .collect()
    }

    fn fields(value: &Value) -> Fields {
        Fields::parse(&value.to_string()).unwrap()
    }

    #[test]
    fn names_are_compared_after_decoding() {
        let params = fields(&json!({"name": "Größe", "uri": "file:///a b", "taskId": "job_1"}));
        let encoded = format!("=?base64?{}?=", BASE64.encode("Größe".as_bytes()));
        for (method, name, fits) in [
            ("tools/call", Some(encoded.as_str()), true),
            ("prompts/get", Some(encoded.as_str()), true),
            ("resources/read", Some("file:///a b"), true),
            ("tasks/get", Some("job_1"), true),
            ("tasks/get", Some("job_2"), false),
            ("tasks/cancel", None, false),
            ("tools/call", Some("=?base64?%%?="), false),
            ("tools/call", None, false),
            ("tools/list", None, true),
        ] {
            let mut told = vec![("mcp-method", method)];
            told.extend(name.map(|name| ("Mcp-Name", name)));
            assert_eq!(check_names(&headers(&told), method, &params).is_ok(), fits, "{method} {name:?}");
        }
        assert!(check_names(&headers(&[]), "tools/list", &params).is_err());
        assert!(check_names(&headers(&[("mcp-method", "Tools/list")]), "tools/list", &params).is_err());
    }

    #[test]
    fn mirrored_arguments_are_compared_by_their_kind() {
        let schema = to_json(&json!({"properties": {
            "region": {"type": "string", "x-mcp-header": "Region"},
            "deep": {"properties": {"n": {"type": "integer", "x-mcp-header": "N"}}},
            "flag": {"type": "boolean", "x-mcp-header": "Flag"},
        }}));
        let check = |told: &[(&str, &str)], arguments: Value| {
            check_mirrored(&headers(told), &schema, &fields(&json!({"arguments": arguments}))).is_ok()
        };
        assert!(check(&[], json!({})));
        assert!(check(&[], json!({"region": null})));
        assert!(!check(&[], json!({"region": "us"})), "the header is missing");
        assert!(!check(&[("mcp-param-region", "us")], json!({})), "the value is missing");
        assert!(check(&[("mcp-param-region", "us")], json!({"region": "us"})));
        assert!(!check(&[("mcp-param-region", "eu")], json!({"region": "us"})));
        assert!(check(&[("mcp-param-n", "42.0")], json!({"deep": {"n": 42}})));
        assert!(check(&[("mcp-param-n", "42")], json!({"deep": {"n": 42.0}})));
        assert!(!check(&[("mcp-param-n", "43")], json!({"deep": {"n": 42}})));
        let large = 9_007_199_254_740_993_u64;
        assert!(check(&[("mcp-param-n", &large.to_string())], json!({"deep": {"n": large}})));
        assert!(!check(&[("mcp-param-n", &(large - 1).to_string())], json!({"deep": {"n": large}})));
        assert!(check(&[("mcp-param-flag", "true")], json!({"flag": true})));
        assert!(!check(&[("mcp-param-flag", "True")], json!({"flag": true})));
        let hello = format!("=?base64?{}?=", BASE64.encode("Hello, 世界".as_bytes()));
        assert!(check(&[("mcp-param-region", &hello)], json!({"region": "Hello, 世界"})));
        assert!(
            !check(&[("mcp-param-region", "=?base64?SGVsbG8?=")], json!({"region": "Hello"})),
            "bad padding"
        );
    }

    #[test]
    fn headers_are_named_as_the_specification_does() {
        assert_eq!(shown(&VERSION), "MCP-Protocol-Version");
        assert_eq!(shown(&NAME), "Mcp-Name");
    }
}
