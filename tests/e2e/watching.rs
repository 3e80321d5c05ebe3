//! `meanwhile jobs watch` in a terminal.

use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use serde_json::json;

use crate::client::{Client, meanwhile};
use crate::faces::{Gate, handle, impatient};

/// A command in a terminal of its own, wide enough for what it has to say.
struct Terminal {
    child: Ended,
    shown: Arc<Mutex<String>>,
    reader: JoinHandle<()>,
}

/// A process that does not outlive its test.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Terminal {
    fn watch(client: &Client, handles: &[&str]) -> Terminal {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
        grantpt(&master).and_then(|()| unlockpt(&master)).expect("a terminal of ours");
        let size = Winsize { ws_row: 50, ws_col: 200, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&master, size).expect("a size");
        let name = ptsname(&master, Vec::new()).expect("a name");
        let slave = File::options().read(true).write(true).open(std::ffi::OsStr::from_bytes(name.as_bytes()));
        let child = Command::new(meanwhile())
            .args(["jobs", "watch"])
            .args(handles)
            .env("MEANWHILE_STATE_DIR", client.home().state_dir())
            .env("TERM", "xterm")
            .stdin(Stdio::null())
            .stdout(slave.expect("the terminal opens"))
            .spawn()
            .expect("meanwhile runs");
        let shown = Arc::new(Mutex::new(String::new()));
        let writes = shown.clone();
        let reader = thread::spawn(move || {
            let (mut master, mut bytes) = (File::from(master), [0; 4096]);
            // The last one that has the terminal open leaves, and reading it fails.
            while let Ok(count @ 1..) = master.read(&mut bytes) {
                writes.lock().expect("nobody panics").push_str(&String::from_utf8_lossy(&bytes[..count]));
            }
        });
        Terminal { child: Ended(child), shown, reader }
    }

    fn shows(&self, client: &Client, text: &str) {
        client.poll(&format!("`{text}` in the terminal"), || {
            self.shown.lock().expect("nobody panics").contains(text).then_some(())
        });
    }

    /// Waits until it has ended by itself, and returns all that it wrote.
    fn end(mut self) -> (ExitStatus, String) {
        let status = self.child.0.wait().expect("it ends");
        self.reader.join().expect("nobody panics");
        let shown = self.shown.lock().expect("nobody panics").clone();
        (status, shown)
    }

    /// Ends it as its user would, and returns what stays on the screen behind what was erased last.
    fn interrupt(mut self) -> (ExitStatus, String) {
        let pid = rustix::process::Pid::from_child(&self.child.0);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("it is told");
        let status = self.child.0.wait().expect("it ends");
        self.reader.join().expect("nobody panics");
        let shown = self.shown.lock().expect("nobody panics");
        let rest = shown.rsplit("\u{1b}[0J").next().unwrap_or_default();
        (status, rest.to_owned())
    }
}

#[test]
fn what_was_seen_last_stays_after_ctrl_c() {
    let client = impatient(&[]);
    let gate = Gate::new(client.home(), "gate");
    let handle = handle(&client.call("gate", gate.arguments()));
    let terminal = Terminal::watch(&client, &[&handle]);
    terminal.shows(&client, &handle);
    let (status, rest) = terminal.interrupt();
    assert!(status.code() == Some(4) && rest.contains(&handle), "{status}: {rest:?}");
    assert!(rest.ends_with("\r\n\r\u{1b}[2K"), "what the shell writes has a line of its own: {rest:?}");
}

#[test]
fn a_job_that_has_ended_stays_above_those_that_run() {
    let client = impatient(&["--mode", "handle"]);
    let gate = Gate::new(client.home(), "gate");
    let ended = handle(&client.call("fail", json!({})));
    let running = handle(&client.call("gate", gate.arguments()));
    let terminal = Terminal::watch(&client, &[&running, &ended]);
    terminal.shows(&client, "completed, with an error of the tool");
    gate.open();
    let (status, shown) = terminal.end();
    assert!(status.success(), "{status}: {shown:?}");
    assert!(shown.find("with an error of the tool") < shown.rfind(&running), "{shown:?}");
}

#[test]
fn a_job_whose_process_is_gone_is_shown_as_in_a_list() {
    let client = impatient(&["--mode", "handle", "--max-running", "1", "--no-linger", "--lease", "1s"]);
    let [_running, queued] =
        [3_600_000, 3_600_001].map(|ms| handle(&client.call("sleep", json!({"ms": ms}))));
    let terminal = Terminal::watch(&client, &[&queued]);
    terminal.shows(&client, "queued");
    client.kill();
    terminal.shows(&client, "its process is gone; the next session with its server takes it up");
    terminal.interrupt();
}
