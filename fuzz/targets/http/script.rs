//! What is asked.

use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};

/// Who has it is let in, where a token is needed.
pub(crate) const TOKEN: &str = "0123456789abcdef";
/// Between two requests.
const BETWEEN: &str = "\n%%\n";
/// More would only be slow.
const REQUESTS_MAX: usize = 12;

/// What stands behind the face, and what is asked of it.
pub(crate) struct Script<'a> {
    pub(crate) needs_token: bool,
    /// The `inputSchema` of the server's one tool.
    pub(crate) schema: Option<&'a str>,
    pub(crate) requests: Vec<Wire<'a>>,
}

/// A request as it is written.
pub(crate) struct Wire<'a> {
    line: &'a str,
    headers: Vec<(&'a str, &'a str)>,
    body: &'a str,
}

/// A request as it is asked.
pub(crate) struct Asked {
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl<'a> Script<'a> {
    pub(crate) fn read(text: &'a str) -> Option<Script<'a>> {
        let mut parts = text.split(BETWEEN);
        let settings = parts.next()?;
        let requests: Vec<_> = parts.take(REQUESTS_MAX).map(Wire::read).collect();
        (!requests.is_empty()).then(|| Script {
            needs_token: settings.lines().any(|line| line == "tokens"),
            schema: settings.lines().find_map(|line| line.strip_prefix("schema ")),
            requests,
        })
    }
}

impl<'a> Wire<'a> {
    fn read(text: &'a str) -> Wire<'a> {
        let (head, body) = text.split_once("\n\n").unwrap_or((text, ""));
        let (line, headers) = head.split_once('\n').unwrap_or((head, ""));
        let headers = headers.lines().filter_map(|line| line.split_once(": ")).collect();
        Wire { line, headers, body }
    }

    /// With the session and the event that the answers before have named. `None` if it could not come over a wire.
    pub(crate) fn fill(&self, session: Option<&str>, last_event: Option<&str>) -> Option<Asked> {
        let (method, uri) = self.line.split_once(' ')?;
        let mut headers = HeaderMap::new();
        for (name, value) in &self.headers {
            let value = match *value {
                "$SESSION" => session.unwrap_or("none"),
                "$EVENT" => last_event.unwrap_or("0-0"),
                value => value,
            };
            let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
            headers.append(name, HeaderValue::from_bytes(value.as_bytes()).ok()?);
        }
        let method = Method::from_bytes(method.as_bytes()).ok()?;
        Some(Asked { method, uri: uri.parse().ok()?, headers, body: self.body.to_owned() })
    }
}
