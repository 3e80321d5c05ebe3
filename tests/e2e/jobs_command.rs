//! `meanwhile jobs`, from another process while a wrapper runs.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::client::{CONFORMANCE, Client, Home, meanwhile, text};
use crate::faces::{Gate, handle, impatient, poll};

fn command(home: &Home, args: &[&str]) -> Command {
    let mut command = Command::new(meanwhile());
    command.arg("jobs").args(args).env("MEANWHILE_STATE_DIR", home.state_dir()).stdin(Stdio::null());
    command
}

fn run(home: &Home, args: &[&str]) -> Output {
    command(home, args).output().expect("meanwhile runs")
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("text")
}

fn json_of(home: &Home, args: &[&str]) -> Value {
    let output = run(home, &[args, &["--json"]].concat());
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

#[test]
fn another_terminal_sees_a_running_job_and_cancels_it() {
    let client = impatient(&[]);
    let home = client.home();
    let handle = handle(&client.call("sleep", json!({"ms": 3_600_000})));
    let list = json_of(home, &["list", "--status", "working"]);
    assert_eq!(
        (&list[0]["handle"], &list[0]["tool"], &list[0]["status"]),
        (&json!(handle), &json!("sleep"), &json!("working"))
    );
    assert!(stdout(&run(home, &["show", &handle])).contains("working for"));
    assert_eq!(run(home, &["result", &handle]).status.code(), Some(4));
    let cancelled = run(home, &["cancel", &handle]);
    assert!(cancelled.status.success() && stdout(&cancelled).contains("cancelled"), "{cancelled:?}");
    client.wait_log("cancelled sleep");
    let events = json_of(home, &["events", &handle]);
    let asked = events.as_array().unwrap().iter().find(|event| event["kind"] == "cancel_requested").unwrap();
    assert_eq!(asked["actor"], "user");
    assert_eq!(run(home, &["cancel", &handle]).status.code(), Some(1));
    for command in ["result", "watch"] {
        assert_eq!(
            run(home, &[command, &handle]).status.code(),
            Some(1),
            "{command}: there will be no result"
        );
    }
}

#[test]
fn a_result_is_printed_as_text_and_as_it_was_answered() {
    let client = impatient(&["--mode", "handle"]);
    let handle = handle(&client.call("big", json!({"lines": 3000})));
    poll(&client, &handle);
    let printed = stdout(&run(client.home(), &["result", &handle]));
    assert!(printed.starts_with("line 000001 ") && printed.contains("line 003000 "));
    let whole = json_of(client.home(), &["result", &handle]);
    assert_eq!(whole["content"][1]["type"], "image");
    assert_eq!(text(&whole).len(), 180_000);
    let show = json_of(client.home(), &["show", &handle]);
    assert_eq!(
        (&show["status"], &show["request"]["arguments"]),
        (&json!("completed"), &json!({"lines": 3000}))
    );
}

#[test]
fn watching_a_job_in_a_pipe_prints_a_line_for_each_event_and_ends_with_it() {
    let client = impatient(&[]);
    let gate = Gate::new(client.home(), "gate");
    let handle = handle(&client.call("gate", gate.arguments()));
    let watching = command(client.home(), &["watch", &handle]).stdout(Stdio::piped()).spawn().unwrap();
    gate.open();
    let output = watching.wait_with_output().unwrap();
    assert!(output.status.success());
    let lines = stdout(&output);
    assert!(lines.lines().last().unwrap().contains("completed") && lines.contains(&handle), "{lines}");
    assert!(!lines.contains('\u{1b}'), "no escape codes in a pipe");
}

#[test]
fn watching_a_job_that_has_ended_prints_its_whole_log() {
    let client = impatient(&["--mode", "handle"]);
    let handle = handle(&client.call("protocol_error", json!({})));
    poll(&client, &handle);
    let watched = run(client.home(), &["watch", &handle]);
    assert_eq!(watched.status.code(), Some(1), "`watch … && result …` stops here");
    let lines = stdout(&watched);
    let lines: Vec<&str> = lines.lines().collect();
    assert!(lines[0].ends_with("created") && lines[1].contains("started, attempt 1"), "{lines:?}");
    assert_eq!(lines.iter().filter(|line| line.ends_with("failed: a protocol error, as asked")).count(), 1);
}

#[test]
fn an_error_that_the_tool_answered_is_printed_and_exits_as_an_error() {
    let client = impatient(&["--mode", "handle"]);
    let handle = handle(&client.call("fail", json!({})));
    poll(&client, &handle);
    for form in [&["result", &handle][..], &["result", &handle, "--json"]] {
        let result = run(client.home(), form);
        assert_eq!(result.status.code(), Some(1));
        assert!(stdout(&result).contains("it failed, as asked"), "{result:?}");
    }
    assert!(stdout(&run(client.home(), &["show", &handle])).contains("completed, with an error of the tool"));
    assert_eq!(json_of(client.home(), &["show", &handle])["is_error"], true);
    let list = stdout(&run(client.home(), &["list"]));
    assert!(list.contains("fixture-upstream  fail") && list.contains("error of the tool, "), "{list}");
    assert_eq!(json_of(client.home(), &["list"])[0]["is_error"], true);
    for command in ["watch", "events"] {
        let lines = stdout(&run(client.home(), &[command, &handle]));
        assert!(lines.contains("completed, with an error of the tool, "), "{lines}");
    }
}

#[test]
fn a_job_without_a_result_says_why() {
    let client = impatient(&["--mode", "handle"]);
    let handle = handle(&client.call("crash", json!({})));
    poll(&client, &handle);
    let result = run(client.home(), &["result", &handle]);
    assert_eq!(result.status.code(), Some(1), "it is not to be waited for");
    let said = String::from_utf8_lossy(&result.stderr).into_owned();
    assert!(
        said.contains(&format!("{handle} failed: interrupted: ")) && said.contains("no result"),
        "{said}"
    );
    assert!(stdout(&run(client.home(), &["list"])).contains("  interrupted: "));
}

#[test]
fn a_job_that_asks_shows_what() {
    let client = impatient(&["--mode", "handle"]);
    let handle = handle(&client.call("ask_elicitation", json!({})));
    poll(&client, &handle);
    let listed = json_of(client.home(), &["list", "--status", "input_required"]);
    assert_eq!(listed[0]["handle"], json!(handle));
    let shown = json_of(client.home(), &["show", &handle]);
    let (key, question) = shown["questions"].as_object().unwrap().iter().next().unwrap();
    assert_eq!((key.as_str(), &question["params"]["message"]), ("q1", &json!("Which colour?")));
    let shown = stdout(&run(client.home(), &["show", &handle]));
    for line in [
        "asks       q1: Which colour?",
        "           - colour: string, required; A colour",
        &format!("           answer with: meanwhile jobs answer {handle} --content '{{\"colour\": \"…\"}}'"),
    ] {
        assert!(shown.lines().any(|shown| shown == line), "{line}: {shown}");
    }
    let result = run(client.home(), &["result", &handle]);
    assert_eq!(result.status.code(), Some(4));
    assert!(
        String::from_utf8_lossy(&result.stderr).contains(&format!("`meanwhile jobs answer {handle}`")),
        "{result:?}"
    );
}

#[test]
fn what_a_job_asks_is_answered_from_another_terminal() {
    let client = impatient(&["--mode", "handle"]);
    let home = client.home();
    let handle = handle(&client.call("ask_elicitation", json!({})));
    poll(&client, &handle);
    let answer = |given: &[&str]| run(home, &[&["answer", &handle], given].concat());
    let said = |output: &Output| String::from_utf8_lossy(&output.stderr).into_owned();
    // What is no answer at all, or two.
    for wrong in [&[][..], &["--accept", "--decline"], &["--content", "red"], &["--result", "red"]] {
        assert_eq!(answer(wrong).status.code(), Some(2), "{wrong:?}");
    }
    for (wrong, why) in [
        (&["--accept"][..], "colour"),
        (&["--result", "[]"], "action"),
        (&["--content", r#"{"colour": 7}"#], "`colour`: 7"),
        (&["--key", "q9", "--decline"], "does not ask `q9`; it asks q1"),
    ] {
        let refused = answer(wrong);
        assert!(refused.status.code() == Some(1) && said(&refused).contains(why), "{wrong:?}: {refused:?}");
    }
    assert_eq!(json_of(home, &["show", &handle])["status"], "input_required", "nothing of that counts");
    let answered = answer(&["--content", r#"{"colour": "red"}"#]);
    assert!(answered.status.success(), "{answered:?}");
    assert!(
        stdout(&answered)
            .contains(&format!("it goes on; get its result with `meanwhile jobs result {handle}`"))
    );
    assert!(text(&poll(&client, &handle)).contains("red"));
    let events = json_of(home, &["events", &handle]);
    let told = events.as_array().unwrap().iter().find(|event| event["kind"] == "answered").unwrap();
    assert_eq!(told["actor"], "user");
    let late = answer(&["--decline"]);
    assert!(
        late.status.code() == Some(1) && said(&late).contains("asks nothing: it is completed"),
        "{late:?}"
    );
}

#[test]
fn an_answer_is_what_its_question_wants() {
    let client = impatient(&["--mode", "handle"]);
    let home = client.home();
    for (tool, right, wanted) in [
        ("ask_elicitation", &["--decline"][..], "decline"),
        ("ask_elicitation", &["--cancel", "--json"], "cancel"),
        ("ask_roots", &["--key", "q1", "--result", "{\"roots\": [\n{\"uri\": \"file:///a\"}]}"], "file:///a"),
        ("ask_roots", &["--result", r#"["file:///b"]"#], "file:///b"),
        ("ask_roots", &["--decline"], r#"{"roots":[]}"#),
        ("ask_sampling", &["--result", r#""three""#], r#""text":"three""#),
        ("ask_sampling", &["--cancel"], "declined"),
    ] {
        let handle = handle(&client.call(tool, json!({})));
        poll(&client, &handle);
        if tool != "ask_elicitation" {
            for (wrong, why) in [
                (&["--accept"][..], "answer with --result"),
                (&["--content", r#"{"colour": "red"}"#], "answer with --result"),
                (&["--result", r#"{"action": "accept", "content": {}}"#], "must be"),
            ] {
                let refused = run(home, &[&["answer", &handle], wrong].concat());
                assert!(refused.status.code() == Some(1), "{refused:?}");
                assert!(String::from_utf8_lossy(&refused.stderr).contains(why), "{refused:?}");
            }
        }
        let answered = run(home, &[&["answer", &handle], right].concat());
        assert!(answered.status.success() && stdout(&answered).contains(&handle), "{answered:?}");
        let result = poll(&client, &handle);
        assert!(text(&result).contains(wanted), "{result}");
    }
}

#[test]
fn of_several_questions_each_is_answered_by_its_key() {
    let client = Client::wrap(&["--mode", "handle"], &[CONFORMANCE]);
    client.initialize();
    let handle = handle(&client.call("multi_input", json!({})));
    poll(&client, &handle);
    let home = client.home();
    let questions = json_of(home, &["show", &handle])["questions"].clone();
    let keys: Vec<&String> = questions.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["q1", "q2"]);
    let answer = |given: &[&str]| run(home, &[&["answer", &handle, "--decline"], given].concat());
    let unclear = answer(&[]);
    assert_eq!(unclear.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&unclear.stderr).contains("asks q1, q2: say with --key which one"));
    assert!(stdout(&answer(&["--key", "q2"])).contains("it still asks q1"));
    assert!(stdout(&answer(&["--key", "q1"])).contains("it goes on"));
}

#[test]
fn a_list_says_that_there_is_more() {
    let client = impatient(&["--mode", "handle"]);
    for text in ["one", "two"] {
        handle(&client.call("echo", json!({"text": text})));
    }
    let some = run(client.home(), &["list", "--limit", "1"]);
    assert_eq!(stdout(&some).lines().count(), 2, "a heading and a job");
    assert!(
        String::from_utf8_lossy(&some.stderr).contains("only the newest 1: --limit 2 shows more"),
        "{some:?}"
    );
    assert!(run(client.home(), &["list", "--limit", "2"]).stderr.is_empty());
    assert_eq!(run(client.home(), &["list", "--limit", "0"]).status.code(), Some(2));
    assert_eq!(json_of(client.home(), &["list", "--status", "paused"]), json!([]));
}

#[test]
fn the_state_folder_may_be_named_behind_the_command_and_an_empty_variable_names_none() {
    let client = impatient(&["--mode", "handle"]);
    let home = client.home();
    let handle = handle(&client.call("echo", json!({"text": "here"})));
    let listed = |args: &[&str]| {
        let mut command = command(home, &[&["list"], args].concat());
        command.env("MEANWHILE_STATE_DIR", "").env("XDG_STATE_HOME", home.path("elsewhere"));
        stdout(&command.output().expect("meanwhile runs"))
    };
    let state_dir = home.state_dir();
    assert!(listed(&["--state-dir", state_dir.to_str().unwrap()]).contains(&handle));
    assert_eq!(listed(&[]), "No jobs.\n");
}

#[test]
fn in_a_pipe_too_it_is_said_that_there_is_nothing_to_watch_yet() {
    let home = Home::new();
    let mut watching = command(&home, &["watch"]).stderr(Stdio::piped()).spawn().expect("meanwhile runs");
    let stderr = BufReader::new(watching.stderr.take().expect("it is piped"));
    let said = stderr.lines().map_while(Result::ok).find(|line| line.starts_with("No jobs are running."));
    watching.kill().and_then(|()| watching.wait()).expect("it ends");
    assert!(said.is_some());
}

#[test]
fn where_jobs_are_instead_is_said() {
    let client = impatient(&[]);
    let home = client.home();
    let listed = |state_dir: &Path| {
        let mut command = command(home, &["list"]);
        command.env("MEANWHILE_STATE_DIR", "").env("HOME", home.path("")).env("XDG_STATE_HOME", state_dir);
        command.output().expect("meanwhile runs")
    };
    let usual = home.path(".local/state/meanwhile");
    std::fs::create_dir_all(&usual).and_then(|()| std::fs::write(usual.join("meanwhile.db"), "")).unwrap();
    let note = String::from_utf8_lossy(&listed(&home.path("elsewhere")).stderr).into_owned();
    let said = format!("there is one at {0}: use --state-dir {0}", usual.display());
    assert!(note.contains(&said), "{note}");
    // A file is no folder of jobs, and no empty one.
    let file = home.path("file");
    std::fs::write(&file, "").unwrap();
    for place in [&file, &file.join("below")] {
        let refused = run(home, &["list", "--state-dir", place.to_str().unwrap()]);
        assert!(refused.status.code() == Some(1) && refused.stdout.is_empty(), "{refused:?}");
    }
}

#[test]
fn what_is_not_there_is_said_with_its_own_exit_code() {
    let home = Home::new();
    assert!(stdout(&run(&home, &["list"])).contains("No jobs."));
    assert_eq!(json_of(&home, &["list"]), json!([]));
    for action in ["show", "events", "result", "cancel", "watch"] {
        let output = run(&home, &[action, "job_aaaaaaaaaaaaaaaaaaaaaaaaaa"]);
        assert_eq!(output.status.code(), Some(3), "{action}: {output:?}");
    }
    let answer = run(&home, &["answer", "job_aaaaaaaaaaaaaaaaaaaaaaaaaa", "--decline"]);
    assert_eq!(answer.status.code(), Some(3), "{answer:?}");
    let wrong = run(&home, &["show", "render-7"]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("a handle is `job_`"));
}

#[test]
fn whoever_looks_where_nothing_is_makes_nothing() {
    let home = Home::new();
    let empty = run(&home, &["list"]);
    assert!(empty.status.success() && stdout(&empty) == "No jobs.\n", "{empty:?}");
    assert!(String::from_utf8_lossy(&empty.stderr).contains("there is no job store yet"), "{empty:?}");
    assert_eq!(json_of(&home, &["list"]), json!([]));
    let handle = "job_aaaaaaaaaaaaaaaaaaaaaaaaaa";
    for command in ["show", "events", "result", "cancel"] {
        assert_eq!(run(&home, &[command, handle]).status.code(), Some(3), "{command}");
    }
    assert!(!home.state_dir().join("meanwhile.db").exists());
}

#[test]
fn a_job_whose_process_is_gone_is_shown_as_one_that_nobody_runs() {
    let client = impatient(&["--no-linger", "--lease", "1s"]);
    let handle = handle(&client.call("read_only_sleep", json!({"ms": 3_600_000})));
    let said = "its process is gone; the next session with its server takes it up";
    assert!(!stdout(&run(client.home(), &["list"])).contains(said));
    client.kill();
    client
        .poll("the end of the lease", || stdout(&run(client.home(), &["list"])).contains(said).then_some(()));
    let show = stdout(&run(client.home(), &["show", &handle]));
    assert!(show.contains("working for") && show.contains(said), "{show}");
}
