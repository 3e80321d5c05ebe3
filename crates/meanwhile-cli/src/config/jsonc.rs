//! JSON as editors take it: with comments, and with commas behind what is last.

use std::collections::HashSet;

use anyhow::{Context, anyhow, bail};
use jsonc_parser::ast::{Object, Value};
use jsonc_parser::{CollectOptions, ParseOptions, parse_to_ast};
use serde_json::{Map, Value as Json};

use super::{TABLES, wrong};

/// Nothing else that is not JSON: what one reader takes, and another one does not, is better refused.
const OPTIONS: ParseOptions = ParseOptions {
    allow_comments: true,
    allow_trailing_commas: true,
    allow_loose_object_property_names: false,
    allow_missing_commas: false,
    allow_single_quoted_strings: false,
    allow_hexadecimal_numbers: false,
    allow_unary_plus_numbers: false,
    allow_bare_decimal_point_numbers: false,
    allow_non_finite_numbers: false,
    allow_extended_string_escapes: false,
};

/// The object that a text holds.
///
/// # Errors
/// Says what is wrong, and in which line. The line itself may hold a secret.
pub(super) fn parse(text: &str) -> anyhow::Result<Map<String, Json>> {
    let parsed = parse_to_ast(text, &CollectOptions::default(), &OPTIONS)
        .map_err(|error| anyhow!("not JSON: line {}: {}", error.line_display(), error.kind()))?;
    if let Some(Value::Object(root)) = &parsed.value {
        check_once_each(text, root)?;
    }
    match parsed.value.map(Json::from) {
        Some(Json::Object(root)) => Ok(root),
        _ => bail!("not an object of JSON"),
    }
}

/// That nothing of what is written is lost: of two fields of one name readers of JSON take the last. TOML has no such two.
fn check_once_each(text: &str, root: &Object<'_>) -> anyhow::Result<()> {
    if let Some(twice) = Twice::in_object(text, root) {
        return Err(twice.says(&wrong(&twice.name, "is there twice")));
    }
    let Some(table) = TABLES.iter().find_map(|table| root.get_object(table)) else { return Ok(()) };
    if let Some(twice) = Twice::in_object(text, table) {
        let name = &twice.name;
        return Err(twice.says(&anyhow!("two servers are called `{name}`; give each a name of its own")));
    }
    for server in &table.properties {
        let Value::Object(entry) = &server.value else { continue };
        check_entry(text, entry).with_context(|| format!("server `{}`", server.name.as_str()))?;
    }
    Ok(())
}

/// The fields of a server, and what is in those that are objects: the variables of the environment, the headers, the rules.
fn check_entry(text: &str, entry: &Object<'_>) -> anyhow::Result<()> {
    if let Some(twice) = Twice::in_object(text, entry) {
        return Err(twice.says(&wrong(&twice.name, "is there twice")));
    }
    for field in &entry.properties {
        let Value::Object(inner) = &field.value else { continue };
        if let Some(twice) = Twice::in_object(text, inner) {
            let why = format!("`{}` is there twice", twice.name);
            return Err(twice.says(&wrong(field.name.as_str(), why)));
        }
    }
    Ok(())
}

/// A field that is there for the second time, and its line.
struct Twice {
    name: String,
    line: usize,
}

impl Twice {
    fn in_object(text: &str, object: &Object<'_>) -> Option<Twice> {
        let mut seen = HashSet::with_capacity(object.properties.len());
        let second = object.properties.iter().find(|field| !seen.insert(field.name.as_str()))?;
        let before = text.get(..second.range.start).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        Some(Twice { name: second.name.as_str().to_owned(), line })
    }

    fn says(&self, what: &anyhow::Error) -> anyhow::Error {
        anyhow!("{what} (line {})", self.line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn error(text: &str) -> String {
        format!("{:#}", parse(text).unwrap_err())
    }

    #[test]
    fn comments_and_commas_behind_the_last_are_no_part_of_it() {
        let read = parse(
            r#"// What we have.
            {
                /* several
                   lines */
                "servers": {
                    "s": {
                        "command": "x", // not "y"
                        "args": ["https://example.com//a", "/* kept */",],
                        "timeout": 12345678901234567890,
                    },
                },
                "inputs": [],
            }
            "#,
        );
        let server = json!({
            "command": "x", "args": ["https://example.com//a", "/* kept */"], "timeout": 12345678901234567890_u64
        });
        assert_eq!(Json::Object(read.unwrap()), json!({"servers": {"s": server}, "inputs": []}));
    }

    #[test]
    fn what_is_no_json_is_told_with_its_line_and_without_its_text() {
        for (text, line) in [
            ("{\n/* a\nb */\n\"s3cret\" 1}", 4),
            ("{\n\"a\": \"s3cret\"\n\"b\": 1}", 2),
            ("{\"a\": 's3cret'}", 1),
            ("{\n\"a\": \"s3cret", 2),
            ("{s3cret: 1}", 1),
            ("{\"a\": +1}", 1),
            ("{\"a\": [1,,2]}", 1),
            ("{} // s3cret\n{}", 2),
            ("{}\n/* s3cret", 2),
        ] {
            let error = error(text);
            assert!(error.starts_with(&format!("not JSON: line {line}: ")), "{text}: {error}");
            assert!(!error.contains("s3cret"), "{error}");
        }
        for text in ["", "// nothing", "[]", "\"s3cret\"", "null"] {
            assert_eq!(error(text), "not an object of JSON");
        }
        assert!(error(&"[".repeat(100_000)).starts_with("not JSON: line 1: "));
    }

    #[test]
    fn nothing_that_is_there_twice_is_taken_for_one() {
        for (text, why) in [
            (
                "{\"mcpServers\": {\"s\": {\"command\": \"x\"},\n\"t\": {},\n\"s\": {\"command\": \"z\"}}}",
                "two servers are called `s`; give each a name of its own (line 3)",
            ),
            (
                r#"{"servers": {"s": {"command": "x", "command": "y"}}}"#,
                "server `s`: field `command`: is there twice (line 1)",
            ),
            (
                "{\"servers\": {\"s\": {\"env\": {\"A\": \"1\", // one\n\"B\": \"2\",\n\"\\u0041\": \"3\"}}}}",
                "server `s`: field `env`: `A` is there twice (line 3)",
            ),
            (
                r#"{"servers": {"s": {"headers": {"A": "s3cret", "A": "s3cret"}}}}"#,
                "server `s`: field `headers`: `A` is there twice (line 1)",
            ),
            (
                r#"{"servers": {"s": {"tools": {"a*": "inline", "a*": "handle"}}}}"#,
                "server `s`: field `tools`: `a*` is there twice (line 1)",
            ),
            (r#"{"mcpServers": {}, "mcpServers": {}}"#, "field `mcpServers`: is there twice (line 1)"),
        ] {
            assert_eq!(error(text), why);
        }
    }
}
