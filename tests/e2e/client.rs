//! A small synchronous MCP client over the stdio of a child process. It trusts nobody: every wait is bounded,
//! and a wait that fails shows what the child wrote to stderr.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::inbox::{Inbox, PATIENCE, Stream, take_first};

/// The well-behaved upstream.
pub(crate) const FIXTURE: &str = "fixture-upstream";
/// The scripted upstream that misbehaves.
pub(crate) const RAW: &str = "raw-upstream";
/// The upstream with the tasks of revision 2025-11-25.
pub(crate) const LEGACY_TASKS: &str = "legacy-tasks-upstream";
/// The upstream of the conformance suite, which also listens over HTTP.
pub(crate) const CONFORMANCE: &str = "conformance-upstream";
/// The scripted upstream that speaks only the modern revision.
pub(crate) const MODERN: &str = "modern-upstream";

/// A folder of its own for what a test leaves behind; clones share it, as do clients that are to share a
/// store.
#[derive(Clone)]
pub(crate) struct Home {
    dir: Arc<TempDir>,
}

impl Home {
    pub(crate) fn new() -> Self {
        Self { dir: Arc::new(TempDir::new().expect("a temporary folder")) }
    }

    /// A path inside, for instance of a gate's file.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// What children get as `MEANWHILE_STATE_DIR`.
    pub(crate) fn state_dir(&self) -> PathBuf {
        self.path("state")
    }

    /// What children get as `FIXTURE_LOG`.
    pub(crate) fn log_path(&self) -> PathBuf {
        self.path("fixture.log")
    }

    /// What the upstream has logged so far; empty when it has not started.
    pub(crate) fn log(&self) -> String {
        let bytes = std::fs::read(self.log_path()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// What a client says of itself in `initialize`.
pub(crate) struct Hello {
    pub(crate) version: String,
    pub(crate) capabilities: Value,
    pub(crate) client_info: Value,
}

impl Default for Hello {
    fn default() -> Self {
        Self {
            version: "2025-11-25".into(),
            capabilities: json!({}),
            client_info: json!({ "name": "e2e", "version": "0" }),
        }
    }
}

/// A child process and the client's end of its stdio. All methods take `&self`, so threads can share it.
pub(crate) struct Client {
    child: Mutex<Child>,
    stdin: Mutex<Option<ChildStdin>>,
    inbox: Arc<Inbox>,
    next_id: AtomicU64,
    home: Home,
}

impl Client {
    /// `meanwhile wrap EXTRA… -- UPSTREAM…`; the upstream is [`FIXTURE`] or [`RAW`] with its options, or any
    /// command.
    pub(crate) fn wrap(extra: &[&str], upstream: &[&str]) -> Self {
        Self::wrap_in(&Home::new(), extra, upstream, &[])
    }

    /// Like [`Client::wrap`], in a home shared with others and with more environment variables.
    pub(crate) fn wrap_in(home: &Home, extra: &[&str], upstream: &[&str], env: &[(&str, &str)]) -> Self {
        let upstream = resolve(upstream);
        let upstream: Vec<&str> = upstream.iter().map(String::as_str).collect();
        let args = [&[meanwhile(), "wrap"], extra, &["--"], &upstream].concat();
        Self::spawn_in(home, &args, env)
    }

    /// The upstream itself, with nothing in between.
    pub(crate) fn bare(upstream: &[&str]) -> Self {
        Self::bare_in(&Home::new(), upstream, &[])
    }

    /// Like [`Client::bare`], in a home shared with others and with more environment variables.
    pub(crate) fn bare_in(home: &Home, upstream: &[&str], env: &[(&str, &str)]) -> Self {
        let upstream = resolve(upstream);
        let upstream: Vec<&str> = upstream.iter().map(String::as_str).collect();
        Self::spawn_in(home, &upstream, env)
    }

    /// Any command, in a home of its own.
    pub(crate) fn spawn(args: &[&str]) -> Self {
        Self::spawn_in(&Home::new(), args, &[])
    }

    /// Any command, in that home and with more environment variables.
    pub(crate) fn spawn_in(home: &Home, args: &[&str], env: &[(&str, &str)]) -> Self {
        let mut child = Command::new(args[0])
            .args(&args[1..])
            .env("MEANWHILE_STATE_DIR", home.state_dir())
            // What a test leaves running is not to outlive it by much.
            .env("MEANWHILE_LINGER", "3s")
            .env("FIXTURE_LOG", home.log_path())
            .envs(env.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {}: {error}", args[0]));
        let stdout = child.stdout.take().expect("stdout is piped");
        let stderr = child.stderr.take().expect("stderr is piped");
        Self {
            stdin: Mutex::new(child.stdin.take()),
            inbox: Inbox::collect(stdout, stderr),
            child: Mutex::new(child),
            next_id: AtomicU64::new(1),
            home: home.clone(),
        }
    }

    /// Introduces the client as [`Hello::default`] does, and returns the server's answer.
    pub(crate) fn initialize(&self) -> Value {
        self.initialize_as(Hello::default())
    }

    /// Introduces the client, declares it initialized, and returns the server's answer.
    pub(crate) fn initialize_as(&self, hello: Hello) -> Value {
        let params = json!({
            "protocolVersion": hello.version,
            "capabilities": hello.capabilities,
            "clientInfo": hello.client_info,
        });
        let result = self.request("initialize", params).expect("initialize is answered");
        self.notify("notifications/initialized", json!({}));
        result
    }

    /// Calls a tool and returns its result; panics on a JSON-RPC error.
    pub(crate) fn call(&self, tool: &str, args: Value) -> Value {
        let id = self.start_call(tool, args);
        self.wait_response(id).unwrap_or_else(|error| panic!("{tool} gave an error: {error}"))
    }

    /// Calls a tool and does not wait; the id serves as progress token, too.
    pub(crate) fn start_call(&self, tool: &str, args: Value) -> u64 {
        let id = self.fresh_id();
        let params = json!({ "name": tool, "arguments": args, "_meta": { "progressToken": id } });
        self.send(&json!({ "jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params }));
        id
    }

    /// Cancels a request of ours.
    pub(crate) fn cancel(&self, id: u64) {
        self.notify("notifications/cancelled", json!({ "requestId": id, "reason": "the test says so" }));
    }

    /// Asks and waits: the `result`, or the `error` object.
    pub(crate) fn request(&self, method: &str, params: Value) -> Result<Value, Value> {
        let id = self.start_request(method, params);
        self.wait_response(id)
    }

    /// Asks, waits, and returns the line of the answer as it was written.
    pub(crate) fn request_raw(&self, method: &str, params: Value) -> String {
        let id = self.start_request(method, params);
        self.wait_raw(id)
    }

    /// Asks as a client of the modern era that can do so much, and waits.
    pub(crate) fn modern(&self, method: &str, params: Value, capabilities: &Value) -> Result<Value, Value> {
        let id = self.start_modern(method, params, capabilities);
        self.wait_response(id)
    }

    /// As [`Client::modern`], without waiting.
    pub(crate) fn start_modern(&self, method: &str, mut params: Value, capabilities: &Value) -> u64 {
        let meta = json!({
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientInfo": { "name": "e2e", "version": "0" },
            "io.modelcontextprotocol/clientCapabilities": capabilities,
        });
        let given = params["_meta"].take();
        params["_meta"] = meta;
        for (name, value) in given.as_object().into_iter().flatten() {
            params["_meta"][name] = value.clone();
        }
        self.start_request(method, params)
    }

    /// Asks and does not wait.
    pub(crate) fn start_request(&self, method: &str, params: Value) -> u64 {
        let id = self.fresh_id();
        self.send(&json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params }));
        id
    }

    /// Waits for the answer to that id, a number of ours or whatever [`Client::send_line`] used.
    pub(crate) fn wait_response(&self, id: impl Into<Value>) -> Result<Value, Value> {
        let raw = self.wait_raw(id);
        let mut response: Value = serde_json::from_str(&raw).expect("it was parsed on arrival");
        match response.get_mut("error") {
            Some(error) => Err(error.take()),
            None => Ok(response["result"].take()),
        }
    }

    /// Like [`Client::wait_response`], for the line as it was written.
    pub(crate) fn wait_raw(&self, id: impl Into<Value>) -> String {
        let id = id.into();
        self.inbox.wait(Stream::Stdout, &format!("answer to request {id}"), |arrived| {
            take_first(&mut arrived.responses, |message| message["id"] == id).map(|message| message.raw)
        })
    }

    pub(crate) fn notify(&self, method: &str, params: Value) {
        self.send(&json!({ "jsonrpc": "2.0", "method": method, "params": params }));
    }

    /// Waits for a notification and takes it, as the whole message.
    pub(crate) fn next_notification(&self, method: &str) -> Value {
        self.inbox.wait(Stream::Stdout, &format!("notification {method}"), |arrived| {
            take_first(&mut arrived.notifications, |message| message["method"] == method)
                .map(|message| message.value)
        })
    }

    /// Takes the notifications that have arrived so far, without waiting.
    pub(crate) fn take_notifications(&self, method: &str) -> Vec<Value> {
        let mut arrived = self.inbox.lock();
        let mut next = || take_first(&mut arrived.notifications, |message| message["method"] == method);
        std::iter::from_fn(|| next().map(|message| message.value)).collect()
    }

    /// Waits for a request of the server's and takes it, as the whole message.
    pub(crate) fn next_request(&self, method: &str) -> Value {
        self.inbox.wait(Stream::Stdout, &format!("request {method}"), |arrived| {
            take_first(&mut arrived.requests, |message| message["method"] == method)
                .map(|message| message.value)
        })
    }

    /// Whether a request of the server's has come that nobody has taken.
    pub(crate) fn is_asked(&self) -> bool {
        !self.inbox.lock().requests.is_empty()
    }

    /// Answers a request of the server's.
    pub(crate) fn respond(&self, id: &Value, result: Value) {
        self.send(&json!({ "jsonrpc": "2.0", "id": id, "result": result }));
    }

    /// Refuses a request of the server's.
    pub(crate) fn respond_error(&self, id: &Value, code: i64, message: &str) {
        let error = json!({ "code": code, "message": message });
        self.send(&json!({ "jsonrpc": "2.0", "id": id, "error": error }));
    }

    /// Answers that nobody has waited for yet, as they were written.
    pub(crate) fn untaken_responses(&self) -> Vec<String> {
        self.inbox.lock().responses.iter().map(|message| message.raw.clone()).collect()
    }

    /// Lines on stdout that are not UTF-8, not JSON, or not a JSON-RPC message.
    pub(crate) fn malformed(&self) -> Vec<String> {
        self.inbox.lock().malformed.clone()
    }

    /// Lines of stderr so far.
    pub(crate) fn stderr(&self) -> Vec<String> {
        self.inbox.lock().stderr.clone()
    }

    /// Waits for a line of stderr that contains the needle, and returns it.
    pub(crate) fn wait_stderr(&self, needle: &str) -> String {
        self.inbox.wait(Stream::Stderr, &format!("`{needle}` on stderr"), |arrived| {
            arrived.stderr.iter().find(|line| line.contains(needle)).cloned()
        })
    }

    pub(crate) fn home(&self) -> &Home {
        &self.home
    }

    /// Waits until the upstream's log contains the needle.
    pub(crate) fn wait_log(&self, needle: &str) {
        self.poll(&format!("`{needle}` in the upstream's log"), || {
            self.home.log().contains(needle).then_some(())
        });
    }

    /// Waits until the upstream's log contains the needle so many times.
    pub(crate) fn wait_log_count(&self, needle: &str, count: usize) {
        self.poll(&format!("`{needle}` {count} times in the upstream's log"), || {
            (self.home.log().matches(needle).count() >= count).then_some(())
        });
    }

    /// Writes bytes and a line break, whatever they are.
    pub(crate) fn send_line(&self, line: &[u8]) {
        let mut stdin = lock(&self.stdin);
        let written = match stdin.as_mut() {
            Some(stdin) => stdin.write_all(&[line, b"\n"].concat()).and_then(|()| stdin.flush()),
            None => panic!("stdin is closed"),
        };
        if let Err(error) = written {
            panic!("the process takes no input: {error}\n{}", self.inbox.lock().report());
        }
    }

    /// Ends the child's input.
    pub(crate) fn close_stdin(&self) {
        lock(&self.stdin).take();
    }

    /// Waits for the child's end.
    pub(crate) fn wait_exit(&self) -> ExitStatus {
        self.poll("exit", || lock(&self.child).try_wait().expect("the child can be waited for"))
    }

    /// Kills the child with SIGKILL; [`Client::wait_exit`] reaps it.
    pub(crate) fn kill(&self) {
        lock(&self.child).kill().expect("the child can be killed");
    }

    pub(crate) fn pid(&self) -> u32 {
        lock(&self.child).id()
    }

    fn send(&self, message: &Value) {
        self.send_line(message.to_string().as_bytes());
    }

    fn fresh_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    /// Files and exits give no signal that is portable, so these waits look again and again.
    pub(crate) fn poll<T>(&self, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = look() {
                return found;
            }
            assert!(
                Instant::now() < deadline,
                "no {what} within {PATIENCE:?}\nupstream's log:\n{}{}",
                self.home.log(),
                self.inbox.lock().report()
            );
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let mut child = lock(&self.child);
        // It may have ended already; a test that cares has asked with `wait_exit`.
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// The binary under test.
pub(crate) fn meanwhile() -> &'static str {
    env!("CARGO_BIN_EXE_meanwhile")
}

/// Waits until there is no process of this id, or only what is left of one that nobody has asked about.
pub(crate) fn wait_gone(pid: u32) {
    let deadline = Instant::now() + PATIENCE;
    let lives = || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // The name, in brackets, may hold anything; the state stands behind it.
        stat.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.trim_start().starts_with('Z'))
    };
    while lives() {
        assert!(Instant::now() < deadline, "process {pid} is still there");
        thread::sleep(Duration::from_millis(5));
    }
}

/// The store of a home, for what no command shows.
pub(crate) fn store_of(home: &Home) -> rusqlite::Connection {
    rusqlite::Connection::open(home.state_dir().join("meanwhile.db")).expect("a store")
}

/// The text of a result's first content block.
pub(crate) fn text(result: &Value) -> &str {
    match result["content"][0]["text"].as_str() {
        Some(text) => text,
        None => panic!("no text comes first in {result}"),
    }
}

/// The names in an answer to `tools/list`, in its order.
pub(crate) fn tool_names(list: &Value) -> Vec<&str> {
    let tools = list["tools"].as_array().into_iter().flatten();
    tools.filter_map(|tool| tool["name"].as_str()).collect()
}

/// Turns the name of an example into its path; any other command stays as it is.
fn resolve(upstream: &[&str]) -> Vec<String> {
    let mut args: Vec<String> = upstream.iter().map(ToString::to_string).collect();
    if [FIXTURE, RAW, MODERN, CONFORMANCE, LEGACY_TASKS].contains(&upstream[0]) {
        args[0] = example(upstream[0]);
    }
    args
}

/// The path of an example.
pub(crate) fn example(name: &str) -> String {
    let folder = Path::new(meanwhile()).parent().expect("a binary is in a folder");
    let path = folder.join("examples").join(name).with_extension(std::env::consts::EXE_EXTENSION);
    assert!(
        path.exists(),
        "{} is missing; build it with: cargo build --examples -p meanwhile-cli",
        path.display()
    );
    path.to_str().expect("the path is UTF-8").to_owned()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
