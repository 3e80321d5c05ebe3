//! The recording: sessions with the real binary under `strace`, and what they told the client.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::client::{Client, FIXTURE, Home, meanwhile, text};

/// The calls that change a disk or an offset, or that make something durable. Those of them that the model does not know
/// stop the test.
const CALLS: &str = "trace=open,openat,openat2,creat,write,writev,pwrite64,pwritev,pwritev2,lseek,truncate,ftruncate,\
     fallocate,fsync,fdatasync,sync_file_range,msync,sync,syncfs,rename,renameat,renameat2,unlink,unlinkat,mkdir,mkdirat,\
     rmdir,link,linkat,symlink,symlinkat,copy_file_range,sendfile,splice,mmap,io_uring_setup";
/// The recordings, in their order.
const TRACES: [&str; 3] = ["first.trace", "listing.trace", "second.trace"];
/// More than a row of the store takes.
const LARGE: usize = 100_000;

/// A line that the client got, and what it promises.
pub(crate) struct Said {
    pub(crate) line: String,
    pub(crate) handle: String,
    pub(crate) promise: Promise,
}

/// What must be so from then on.
#[derive(Debug, Clone)]
pub(crate) enum Promise {
    /// There is such a job, with what it was asked.
    Exists,
    /// It completed with this text.
    Completed(String),
    /// It was cancelled.
    Cancelled,
}

pub(crate) fn traces(home: &Home) -> Vec<PathBuf> {
    TRACES.iter().map(|name| home.path(name)).collect()
}

/// A session, a look from a terminal, and a second session that goes on with the log that the first one left.
pub(crate) fn record(home: &Home) -> Vec<Said> {
    let mut first = Session::start(home, TRACES[0]);
    first.calls_at_once("early", 6);
    let large = first.effect("large", LARGE);
    first.completes(&large, "large", LARGE);
    first.cancels();
    first.calls_at_once("late", 3);
    let mut said = first.end();

    list(home);

    let mut second = Session::start(home, TRACES[2]);
    second.completes(&large, "large", LARGE);
    // The same content again: its file is replaced by itself.
    let again = second.effect("large", LARGE);
    second.completes(&again, "large", LARGE);
    second.calls_at_once("again", 4);
    second.effect("unfinished", 0);
    said.extend(second.end());
    said
}

fn list(home: &Home) {
    let strace = strace(home, TRACES[1]);
    let status = Command::new(&strace[0])
        .args(&strace[1..])
        .args([meanwhile(), "jobs", "list"])
        .env("MEANWHILE_STATE_DIR", home.state_dir())
        .stdout(Stdio::null())
        .status()
        .expect("strace starts; it is a package of that name");
    assert!(status.success(), "`meanwhile jobs list` under strace: {status}");
}

fn strace(home: &Home, trace: &str) -> Vec<String> {
    let trace = home.path(trace).to_str().expect("the path is UTF-8").to_owned();
    ["strace", "-f", "-y", "-xx", "-s", "99999999", "-e", "signal=none", "-e", CALLS, "-o", &trace]
        .map(str::to_owned)
        .into()
}

struct Session {
    client: Client,
    said: Vec<Said>,
}

impl Session {
    fn start(home: &Home, trace: &str) -> Session {
        let strace = strace(home, trace);
        let mut args: Vec<&str> = strace.iter().map(String::as_str).collect();
        let upstream = Path::new(meanwhile()).with_file_name("examples").join(FIXTURE);
        let upstream = upstream.to_str().expect("the path is UTF-8");
        args.extend([meanwhile(), "wrap", "--mode", "handle", "--", upstream]);
        let client = Client::spawn_in(home, &args, &[("MEANWHILE_NO_LINGER", "1")]);
        client.initialize();
        Session { client, said: Vec::new() }
    }

    /// Starts a call and returns its handle.
    fn effect(&mut self, token: &str, bytes: usize) -> String {
        let id = self.ask("effect", &json!({"token": token, "ms": 0, "bytes": bytes}));
        self.handle(id)
    }

    /// Calls that run side by side, the last of which fills a row of the store, and the result of each.
    fn calls_at_once(&mut self, name: &str, count: usize) {
        let size = |number: usize| if number + 1 == count { LARGE / 2 } else { 10 * number };
        let start = |number: usize| {
            let token = format!("{name}-{number}");
            let id = self.ask("effect", &json!({"token": token, "ms": 3 * number, "bytes": size(number)}));
            (id, token)
        };
        let started: Vec<(u64, String)> = (0..count).map(start).collect();
        let handles: Vec<String> = started.iter().map(|(id, _)| self.handle(*id)).collect();
        for (number, (handle, (_, token))) in handles.iter().zip(&started).enumerate() {
            self.completes(handle, token, size(number));
        }
    }

    fn completes(&mut self, handle: &str, token: &str, bytes: usize) {
        let whole = format!("done {token} {}", "x".repeat(bytes));
        let id = self.ask("poll_result", &json!({"handle": handle}));
        let (line, result) = self.hear(id);
        let shown = text(&result);
        let is_preview =
            shown.contains("(effect) completed") && result["structuredContent"]["preview"] == true;
        assert!(shown == whole || is_preview, "{handle} is not completed: {shown:.300}");
        self.said.push(Said { line, handle: handle.to_owned(), promise: Promise::Completed(whole) });
    }

    fn cancels(&mut self) {
        let id = self.ask("sleep", &json!({"ms": 3_600_000}));
        let handle = self.handle(id);
        let id = self.ask("control_job", &json!({"handle": handle, "action": "cancel"}));
        let (line, result) = self.hear(id);
        assert_eq!(result["structuredContent"]["status"], "cancelled", "{result}");
        self.said.push(Said { line, handle, promise: Promise::Cancelled });
    }

    fn end(self) -> Vec<Said> {
        self.client.close_stdin();
        let status = self.client.wait_exit();
        assert!(status.success(), "the session ended with {status}");
        self.said
    }

    fn ask(&self, tool: &str, arguments: &Value) -> u64 {
        self.client.start_call(tool, arguments.clone())
    }

    fn handle(&mut self, id: u64) -> String {
        let (line, result) = self.hear(id);
        let handle = result["structuredContent"]["handle"].as_str();
        let handle = handle.unwrap_or_else(|| panic!("no handle in {result}")).to_owned();
        self.said.push(Said { line, handle: handle.clone(), promise: Promise::Exists });
        handle
    }

    fn hear(&self, id: u64) -> (String, Value) {
        let line = self.client.wait_raw(id);
        let mut answer: Value = serde_json::from_str(&line).expect("it was parsed on arrival");
        (line, answer["result"].take())
    }
}
