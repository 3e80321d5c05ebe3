//! What a gateway bears: a limit on the size of files, a stderr that nobody reads, numbers that no program could hold.

use serde_json::json;

use crate::client::{Client, FIXTURE, Home, RAW, example, meanwhile, text};
use crate::faces::{Gate, handle, poll};

/// A gateway started by a shell, which first does `before`; `$0` is a path of its own.
fn started_by_shell(home: &Home, before: &str, after: &str) -> Client {
    let script = format!("{before} exec \"$@\" {after}");
    let own = home.path("own");
    let (own, fixture) = (own.to_str().expect("UTF-8"), example(FIXTURE));
    let wrap = [meanwhile(), "wrap", "-vv", "--inline-budget", "30ms", "--", &fixture];
    let client = Client::spawn_in(home, &[&["sh", "-c", &script, own], &wrap[..]].concat(), &[]);
    client.initialize();
    client
}

#[test]
fn a_limit_on_the_size_of_files_is_as_a_full_disk_and_ends_nothing() {
    let home = Home::new();
    // Less than the tables of an empty store take.
    let client = started_by_shell(&home, "ulimit -f 40;", "");
    let gate = Gate::new(&home, "gate");
    let id = client.start_call("gate", gate.arguments());
    let why = client.wait_stderr("cannot become a job");
    assert!(why.contains("ulimit -f"), "{why}");
    gate.open();
    assert_eq!(text(&client.wait_response(id).unwrap()), "opened");
    assert_eq!(text(&client.call("echo", json!({"text": "still here"}))), "still here");
}

#[test]
fn a_stderr_that_nobody_reads_harms_nothing() {
    let home = Home::new();
    let client = started_by_shell(&home, "mkfifo \"$0\"; (: < \"$0\") &", "2> \"$0\"");
    let gate = Gate::new(&home, "gate");
    let handle = handle(&client.call("gate", gate.arguments()));
    client.close_stdin();
    client.wait_exit();
    gate.open();
    let next = Client::wrap_in(&home, &[], &[FIXTURE], &[]);
    next.initialize();
    assert_eq!(text(&poll(&next, &handle)), "opened");
    assert_eq!(home.log().matches("start gate").count(), 1);
}

#[test]
fn a_number_that_no_program_could_hold_is_shown_as_it_was_written() {
    let client = Client::wrap(&["--mode", "handle"], &[RAW]);
    client.initialize();
    let line =
        r#"{"jsonrpc":"2.0","id":"a","method":"tools/call","params":{"name":"any","arguments":{"x":1e400}}}"#;
    client.send_line(line.as_bytes());
    let handle = handle(&client.wait_response("a").unwrap());
    poll(&client, &handle);
    let shown = std::process::Command::new(meanwhile())
        .args(["jobs", "show", &handle, "--json"])
        .env("MEANWHILE_STATE_DIR", client.home().state_dir())
        .output()
        .expect("meanwhile runs");
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains(r#""request": {"name":"any","arguments":{"x":1e400}}"#), "{shown}");
    assert!(shown.contains(r#""is_error": false"#) && shown.contains(&handle), "{shown}");
}
