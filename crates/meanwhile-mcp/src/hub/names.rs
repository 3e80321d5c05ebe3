//! What is called what where several servers are one.

use serde_json::Value;

use crate::words;

/// Between a server's name and the name of what it has. No server's name holds it, so the first one is the border.
const BORDER: &str = "__";
/// Clients take names of this length, in letters, digits, `_` and `-`.
const NAME_MAX: usize = 64;
const OURS: [&str; 5] =
    [words::POLL_RESULT, words::LIST_JOBS, words::CONTROL_JOB, words::ANSWER_JOB, words::READ_RESULT];

/// The name under which something of a server is shown. One that is too long is cut, and stays its own by a digest.
pub(super) fn shown(server: &str, name: &str) -> String {
    let whole = format!("{server}{BORDER}{name}");
    if whole.len() <= NAME_MAX {
        return whole;
    }
    let digest = blake3::hash(name.as_bytes()).to_hex();
    let mut end = NAME_MAX - 9;
    while !whole.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}_{}", &whole[..end], &digest[..8])
}

/// The server's name and the rest of a name that is shown.
pub(super) fn split(shown: &str) -> Option<(&str, &str)> {
    shown.split_once(BORDER)
}

/// Whether a name that is shown may stand for a longer one.
pub(super) fn is_cut(shown: &str) -> bool {
    shown.len() >= NAME_MAX - 3
}

/// Whether it is one of our tools, under the name that it has here.
pub(super) fn is_ours(name: &str) -> bool {
    OURS.contains(&name)
}

/// All that one of them can do can be done.
pub(super) fn unite(all: &mut Value, one: &Value) {
    match (all, one) {
        (Value::Object(all), Value::Object(one)) => {
            for (name, value) in one {
                match all.get_mut(name) {
                    Some(known) => unite(known, value),
                    None => drop(all.insert(name.clone(), value.clone())),
                }
            }
        }
        (Value::Bool(all), Value::Bool(one)) => *all |= one,
        (all @ Value::Null, one) => *all = one.clone(),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_fit_clients_and_lead_back() {
        assert_eq!(shown("files", "read_file"), "files__read_file");
        assert_eq!(split("files__a__b"), Some(("files", "a__b")));
        let long = "x".repeat(100);
        let (one, other) = (shown("files", &long), shown("files", &format!("{long}y")));
        assert!(one.len() <= NAME_MAX && one != other && is_cut(&one) && !is_cut("files__read_file"));
        assert_eq!(split(&shown("s", &"é".repeat(60))).unwrap().0, "s");
    }

    #[test]
    fn capabilities_unite() {
        let mut all = json!({"tools": {"listChanged": false}});
        unite(&mut all, &json!({"tools": {"listChanged": true}, "resources": {}}));
        unite(&mut all, &Value::Null);
        assert_eq!(all, json!({"tools": {"listChanged": true}, "resources": {}}));
    }
}
