//! A server that wants to know its users, its authorization server, and a browser that agrees to everything.

use std::collections::HashMap;
use std::io::{BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex, MutexGuard};

use reqwest::Url;
use serde_json::{Value, json};

use crate::client::{Client, Home, meanwhile};
use crate::remote::{Asked, json_answer, scripted};

pub(crate) type Form = HashMap<String, String>;
type Told = (u16, String, String);

/// How the authorization server behaves, and what it was asked.
#[derive(Default)]
pub(crate) struct Book {
    pub(crate) registrations: Vec<Value>,
    pub(crate) pages: Vec<Form>,
    pub(crate) token_requests: Vec<Form>,
    pub(crate) revoked: Vec<String>,
    /// How long the next token lasts, in seconds.
    pub(crate) lasts: u64,
    /// The tokens that are good now.
    pub(crate) access: String,
    pub(crate) refresh: String,
    /// Whether no token can be renewed.
    pub(crate) is_over: bool,
    /// A right that calls need.
    pub(crate) needs: Option<&'static str>,
    /// What is otherwise in the metadata than usual.
    pub(crate) metadata: Value,
    pub(crate) resource: Value,
    scopes: String,
    given: usize,
}

/// All of it, at one origin.
pub(crate) struct Stage {
    pub(crate) url: String,
    pub(crate) origin: String,
    pub(crate) home: Home,
    book: Arc<Mutex<Book>>,
}

impl Stage {
    pub(crate) fn new() -> Stage {
        let book = Arc::new(Mutex::new(Book { lasts: 3600, ..Book::default() }));
        let kept = book.clone();
        let (url, _) = scripted(move |asked, _| answer(asked, &mut kept.lock().expect("the book")));
        let origin = url.trim_end_matches("/mcp").to_owned();
        Stage { url, origin, home: Home::new(), book }
    }

    pub(crate) fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().expect("the book")
    }

    pub(crate) fn run(&self, args: &[&str]) -> Client {
        Client::spawn_in(&self.home, &[&[meanwhile()], args].concat(), &[("MEANWHILE_LOG", "trace")])
    }

    /// Begins a login, and returns it with the page that its user is sent to.
    pub(crate) fn begin(&self, extra: &[&str]) -> (Client, Url) {
        let login = self.run(&[&["login", "--url", &self.url, "--no-browser"], extra].concat());
        let page = login.wait_stderr("response_type=code");
        (login, Url::parse(&page).expect("a page"))
    }

    /// A login that goes well.
    pub(crate) fn log_in(&self) {
        let (login, page) = self.begin(&[]);
        assert_eq!(self.agree(&page, &[]).0, 200);
        assert!(login.wait_exit().success(), "{:?}", login.stderr());
    }

    /// What the browser does once its user has agreed; it comes back with some parameters otherwise, or without them.
    pub(crate) fn agree(&self, page: &Url, otherwise: &[(&str, &str)]) -> (u16, String) {
        let asked: Form = page.query_pairs().into_owned().collect();
        let mut back = Url::parse(&asked["redirect_uri"]).expect("a redirect");
        let usual = [("code", "c0de"), ("state", &asked["state"]), ("iss", &self.origin)];
        for (name, value) in usual {
            let value = otherwise.iter().find(|(other, _)| *other == name).map_or(value, |(_, value)| value);
            if !value.is_empty() {
                back.query_pairs_mut().append_pair(name, value);
            }
        }
        self.book().pages.push(asked);
        fetch(&back)
    }

    /// The file of the login.
    pub(crate) fn kept(&self) -> Option<(std::path::PathBuf, Value)> {
        let files = std::fs::read_dir(self.home.state_dir().join("credentials")).ok()?;
        let file = files
            .flatten()
            .map(|file| file.path())
            .find(|path| path.extension().is_some_and(|kind| kind == "json"))?;
        let text = std::fs::read_to_string(&file).expect("it can be read");
        Some((file, serde_json::from_str(&text).expect("it is JSON")))
    }
}

fn fetch(url: &Url) -> (u16, String) {
    let address = (url.host_str().expect("a host"), url.port().expect("a port"));
    let mut stream = TcpStream::connect(address).expect("it listens");
    let query = url.query().unwrap_or_default();
    write!(stream, "GET {}?{query} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", url.path(), address.0)
        .expect("it reads");
    let mut text = String::new();
    BufReader::new(stream).read_to_string(&mut text).expect("it answers");
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.expect("a status"), text)
}

fn form(text: &str) -> Form {
    let url = Url::parse(&format!("http://localhost/?{text}")).expect("a form");
    url.query_pairs().into_owned().collect()
}

fn told(status: u16, body: &Value) -> Told {
    (status, "content-type: application/json\r\n".to_owned(), body.to_string())
}

fn answer(asked: &Asked, book: &mut Book) -> Told {
    let origin = format!("http://{}", asked.header("host").expect("a host"));
    match asked.path() {
        "/.well-known/oauth-protected-resource/mcp" => {
            let usual = json!({"resource": format!("{origin}/mcp"), "authorization_servers": [origin], "scopes_supported": ["read"]});
            told(200, &with(usual, &book.resource))
        }
        "/.well-known/oauth-authorization-server" => told(200, &with(metadata(&origin), &book.metadata)),
        "/register" => {
            book.registrations.push(asked.body.clone());
            told(
                201,
                &json!({"client_id": "c1", "client_secret": "s3cret-of-client", "token_endpoint_auth_method": "client_secret_post"}),
            )
        }
        "/token" => token(asked, book),
        "/revoke" => {
            book.revoked.push(form(&asked.text)["token"].clone());
            told(200, &json!({}))
        }
        "/mcp" => mcp(asked, book, &origin),
        _ => (404, String::new(), String::new()),
    }
}

fn metadata(origin: &str) -> Value {
    json!({
        "issuer": origin,
        "authorization_endpoint": format!("{origin}/authorize?tenant=1"),
        "token_endpoint": format!("{origin}/token"),
        "registration_endpoint": format!("{origin}/register"),
        "revocation_endpoint": format!("{origin}/revoke"),
        "code_challenge_methods_supported": ["S256"],
        "scopes_supported": ["read", "write", "offline_access"],
        "authorization_response_iss_parameter_supported": true,
    })
}

fn with(mut usual: Value, otherwise: &Value) -> Value {
    for (name, value) in otherwise.as_object().into_iter().flatten() {
        usual[name] = value.clone();
    }
    usual
}

fn token(asked: &Asked, book: &mut Book) -> Told {
    let mut asked_for = form(&asked.text);
    if let Some(basic) = asked.header("authorization") {
        asked_for.insert("basic".to_owned(), basic.to_owned());
    }
    book.token_requests.push(asked_for.clone());
    let is_right = match asked_for["grant_type"].as_str() {
        "authorization_code" => is_proven(&asked_for, book),
        "refresh_token" => !book.is_over && asked_for["refresh_token"] == book.refresh,
        _ => asked_for.contains_key("basic"),
    };
    if !is_right {
        return told(400, &json!({"error": "invalid_grant", "error_description": "no\u{1b}[31m more"}));
    }
    book.given += 1;
    (book.access, book.refresh) =
        (format!("access-s3cret-{}", book.given), format!("refresh-s3cret-{}", book.given));
    let mut answer = json!({"access_token": book.access, "token_type": "bearer", "expires_in": book.lasts});
    if asked_for["grant_type"] != "client_credentials" {
        answer["refresh_token"] = json!(book.refresh);
    }
    // Only the first one is short.
    book.lasts = 3600;
    told(200, &answer)
}

/// Whether the code comes from who was sent for it, for the same resource.
fn is_proven(asked: &Form, book: &mut Book) -> bool {
    let page = book.pages.last().expect("a page before a code");
    let digest = ring::digest::digest(&ring::digest::SHA256, asked["code_verifier"].as_bytes());
    let mut challenge = String::new();
    for byte in digest.as_ref().chunks(3) {
        let bits =
            byte.iter().enumerate().fold(0u32, |bits, (at, byte)| bits | (u32::from(*byte) << (16 - 8 * at)));
        const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        challenge.extend((0..=byte.len()).map(|at| LETTERS[(bits >> (18 - 6 * at)) as usize & 63] as char));
    }
    book.scopes = page.get("scope").cloned().unwrap_or_default();
    page["code_challenge_method"] == "S256"
        && page["code_challenge"] == challenge
        && page["tenant"] == "1"
        && asked["code"] == "c0de"
        && ["redirect_uri", "resource", "client_id"].iter().all(|name| page[*name] == asked[*name])
        && asked["client_secret"] == "s3cret-of-client"
}

fn mcp(asked: &Asked, book: &Book, origin: &str) -> Told {
    let challenge = format!("Bearer resource_metadata=\"{origin}/.well-known/oauth-protected-resource/mcp\"");
    let has_token = asked.header("authorization") == Some(&format!("Bearer {}", book.access));
    if !has_token || book.access.is_empty() {
        return (401, format!("www-authenticate: {challenge}\r\n"), String::new());
    }
    let result = match asked.body["method"].as_str() {
        Some("initialize") => {
            json!({"protocolVersion": "2025-06-18", "capabilities": {"tools": {}}, "serverInfo": {"name": "s", "version": "1"}})
        }
        Some("x/any") => {
            let lacks = book.needs.filter(|needed| !book.scopes.split(' ').any(|scope| scope == *needed));
            if let Some(needed) = lacks {
                let more = format!(
                    "www-authenticate: {challenge}, error=\"insufficient_scope\", scope=\"{needed}\"\r\n"
                );
                return (403, more, String::new());
            }
            json!({"any": true})
        }
        Some("tools/list") => json!({"tools": []}),
        Some("server/discover") => return (400, String::new(), String::new()),
        None => return (405, String::new(), String::new()),
        Some(_) => return (202, String::new(), String::new()),
    };
    json_answer(asked, result)
}
