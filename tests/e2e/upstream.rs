//! The upstream's death, and its return.

use serde_json::json;

use crate::client::{Client, FIXTURE, Home, RAW, meanwhile, text};
use crate::faces::{Gate, handle, impatient, poll};

#[test]
fn a_call_whose_server_dies_says_so_and_the_next_one_finds_a_new_server() {
    let client = Client::wrap(&[], &[FIXTURE]);
    client.initialize();
    let crashed = client.call("crash", json!({}));
    assert_eq!(crashed["isError"], true);
    assert!(text(&crashed).contains("ended (exit status: 3)"), "{crashed}");
    assert_eq!(text(&client.call("echo", json!({"text": "back"}))), "back");
    assert_eq!(client.home().log().matches("spawned").count(), 2);
}

#[test]
fn a_job_whose_server_dies_is_interrupted_and_not_run_twice() {
    let client = impatient(&["--tool", "echo=inline"]);
    let gate = Gate::new(client.home(), "gate");
    let handle = handle(&client.call("gate", gate.arguments()));
    client.call("crash", json!({}));
    let polled = poll(&client, &handle);
    assert_eq!(polled["structuredContent"]["reason"], "interrupted", "{polled}");
    gate.open();
    assert_eq!(text(&client.call("echo", json!({"text": "x"}))), "x");
    assert_eq!(client.home().log().matches("start gate").count(), 1);
}

#[test]
fn a_call_that_is_safe_to_repeat_survives_its_servers_death() {
    for extra in [&["--inline-budget", "1h"][..], &["--mode", "handle"]] {
        let client = Client::wrap(extra, &[FIXTURE]);
        client.initialize();
        let answer = client.call("crash_once", json!({}));
        let answer = if extra[0] == "--mode" { poll(&client, &handle(&answer)) } else { answer };
        assert_eq!(text(&answer), "survived", "{answer}");
        assert_eq!(client.home().log().matches("start crash_once").count(), 2);
    }
}

#[test]
fn a_new_server_is_told_what_the_old_one_knew() {
    let client = Client::wrap(&[], &[FIXTURE]);
    client.initialize();
    client.request("logging/setLevel", json!({"level": "warning"})).unwrap();
    client.request("resources/subscribe", json!({"uri": "fixture://notes/one"})).unwrap();
    client.call("crash", json!({}));
    client.call("echo", json!({"text": "x"}));
    client.wait_log("set level");
    let log = client.home().log();
    let after = log.split("start crash").nth(1).expect("it crashed");
    assert!(after.contains("subscribe fixture://notes/one") && after.contains("set level"), "{log}");
}

#[test]
fn a_server_that_cannot_be_started_is_an_answer() {
    let client = Client::wrap(&[], &["/nowhere/no-such-server"]);
    let params = json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "e2e", "version": "1"}});
    let error = client.request("initialize", params).unwrap_err();
    assert!(
        error["message"].as_str().unwrap().contains("cannot start the MCP server `/nowhere/no-such-server`"),
        "{error}"
    );
    let gone = Client::wrap(&[], &["false"]);
    let error = gone.request("initialize", json!({"protocolVersion": "2025-11-25"})).unwrap_err();
    assert!(error["message"].as_str().unwrap().contains("ended (exit status: 1)"), "{error}");
    for (client, why) in [(client, "cannot start the MCP server"), (gone, "ended (exit status: 1)")] {
        assert_eq!(client.wait_exit().code(), Some(1));
        client.wait_stderr(why);
        assert_eq!(client.stderr().len(), 1, "it is said once: {:?}", client.stderr());
    }
}

#[test]
fn that_a_server_is_gone_has_the_code_of_its_clients_era() {
    for (method, params) in
        [("tools/list", json!({})), ("x/y", json!({})), ("tools/call", json!({"name": "x"}))]
    {
        let client = Client::wrap(&[], &["false"]);
        let error = client.modern(method, params, &json!({})).unwrap_err();
        assert_eq!(error["code"], -32603, "{method}: {error}");
    }
    let client = Client::wrap(&[], &[RAW]);
    client.initialize();
    let held =
        [client.start_request("x/hold", json!({})), client.start_modern("x/hold", json!({}), &json!({}))];
    client.wait_log_count("x/hold", 2);
    client.call("die", json!({}));
    let codes = held.map(|id| client.wait_response(id).unwrap_err()["code"].clone());
    assert_eq!(codes, [json!(-32000), json!(-32603)]);
}

#[test]
fn a_server_that_ends_before_its_first_answer_is_tried_once_more_without_being_asked_who_it_is() {
    let home = Home::new();
    let script = format!("echo began >> '{}'; exit 7", home.log_path().display());
    let client = Client::wrap_in(&home, &[], &["sh", "-c", &script], &[]);
    client.wait_log("began");
    let error = client.request("initialize", json!({"protocolVersion": "2025-11-25"})).unwrap_err();
    assert!(error["message"].as_str().unwrap().contains("ended (exit status: 7)"), "{error}");
    assert_eq!(client.wait_exit().code(), Some(1));
    assert_eq!(home.log().matches("began").count(), 2);
}

#[test]
fn its_stderr_is_ours_and_marked() {
    let client = Client::wrap(&["--name", "fix"], &[FIXTURE]);
    client.initialize();
    assert_eq!(client.wait_stderr("fixture ready"), "[fix] fixture ready");
}

#[test]
fn the_upstream_ends_with_the_gateway() {
    let client = Client::wrap(&[], &[FIXTURE]);
    client.initialize();
    client.close_stdin();
    assert!(client.wait_exit().success());
    assert!(client.home().log().contains("exit"), "it saw its stdin close");
}

#[test]
fn what_is_logged_by_a_filter_of_ones_own_includes_errors_and_a_wrong_one_is_told_of() {
    for (filter, told) in [("nonsense", "cannot start"), ("bad=x=y", "MEANWHILE_LOG=`bad=x=y` is ignored")] {
        let env = [("MEANWHILE_LOG", filter)];
        let client = Client::wrap_in(&Home::new(), &[], &["/nowhere/no-such-server"], &env);
        client.wait_stderr(told);
        client.wait_stderr("cannot start");
    }
}

#[test]
fn an_option_for_a_server_elsewhere_is_refused_beside_a_command() {
    for option in ["--header=A=b", "--sse"] {
        let args = [meanwhile(), "wrap", option, "--", "true"];
        let client = Client::spawn(&args);
        client.wait_stderr("cannot be used with");
        assert_eq!(client.wait_exit().code(), Some(2), "{option}");
    }
}

#[test]
fn a_client_that_goes_without_a_word_is_no_error() {
    let client = Client::wrap(&[], &[FIXTURE]);
    client.close_stdin();
    assert!(client.wait_exit().success());
    let said = client.stderr();
    assert!(!said.iter().any(|line| line.contains("ERROR") || line.contains("WARN")), "{said:?}");
}

#[test]
fn without_lingering_a_signal_ends_running_jobs_as_interrupted() {
    let client = impatient(&["--no-linger"]);
    let gate = Gate::new(client.home(), "gate");
    let handle = handle(&client.call("gate", gate.arguments()));
    let told =
        std::process::Command::new("kill").args(["-TERM", &client.pid().to_string()]).status().unwrap();
    assert!(told.success() && client.wait_exit().success());
    let home = client.home();
    let later = Client::wrap_in(home, &[], &[FIXTURE], &[]);
    later.initialize();
    let polled = poll(&later, &handle);
    assert_eq!(polled["structuredContent"]["reason"], "interrupted", "{polled}");
}

#[test]
fn a_call_before_any_list_still_finds_its_tool_and_pages_are_followed() {
    let client = Client::wrap(&["--mode", "handle"], &[RAW, "--page", "2"]);
    client.initialize();
    handle(&client.call("any", json!({})));
    let mut names = Vec::new();
    let mut params = json!({});
    loop {
        let page = client.request("tools/list", params).unwrap();
        names.extend(crate::client::tool_names(&page).into_iter().map(str::to_owned));
        let Some(cursor) = page.get("nextCursor") else { break };
        params = json!({"cursor": cursor});
    }
    assert_eq!(names.iter().filter(|name| *name == "poll_result").count(), 1);
    assert!(
        names.ends_with(&["answer_job".to_owned()]) && names.iter().any(|name| name == "unknown_fields"),
        "{names:?}"
    );
}

#[test]
fn the_first_page_of_tools_speaks_of_ours_by_the_names_that_all_pages_leave_them() {
    let client = Client::wrap(&[], &[RAW, "--page", "2", "--collide"]);
    client.initialize();
    let page = client.request("tools/list", json!({})).unwrap();
    assert!(page.get("nextCursor").is_some(), "{page}");
    let description = page["tools"][0]["description"].as_str().unwrap();
    assert!(description.contains("meanwhile_poll_result"), "{description}");
}

#[test]
fn a_busy_server_does_not_keep_the_gateway_once_its_client_is_gone() {
    let client = impatient(&[]);
    let handle = handle(&client.call("stubborn", json!({"ms": 3_600_000})));
    client.call("control_job", json!({"handle": handle, "action": "cancel"}));
    client.close_stdin();
    assert!(client.wait_exit().success());
}

#[test]
fn the_last_answers_reach_a_client_that_has_closed_its_stdin_and_reads_slowly() {
    let client = Client::wrap(&[], &[FIXTURE]);
    client.initialize();
    let id = client.start_call("big", json!({"lines": 20_000}));
    client.close_stdin();
    assert_eq!(text(&client.wait_response(id).unwrap()).len(), 1_200_000);
    assert!(client.wait_exit().success());
}

/// A server whose second process starts and then says nothing.
fn hangs_when_started_again(home: &Home) -> String {
    let fixture = std::path::Path::new(crate::client::meanwhile()).with_file_name("examples").join(FIXTURE);
    let marker = home.path("started");
    let (fixture, marker) = (fixture.display(), marker.display());
    format!(
        "if [ -e '{marker}' ]; then echo hanging >&2; exec sleep 1000; fi; touch '{marker}'; exec '{fixture}'"
    )
}

#[test]
fn a_restart_that_hangs_holds_up_only_what_needs_the_server() {
    let home = Home::new();
    let script = hangs_when_started_again(&home);
    let client = Client::wrap_in(&home, &["--inline-budget", "30ms"], &["sh", "-c", &script], &[]);
    client.initialize();
    client.request("tools/list", json!({})).unwrap();
    client.call("crash", json!({}));
    client.start_request("resources/list", json!({}));
    client.wait_stderr("hanging");
    assert_eq!(client.call("list_jobs", json!({}))["isError"], false, "what needs no server is answered");
    let handle = handle(&client.call("echo", json!({"text": "x"})));
    let cancelled = client.call("control_job", json!({"handle": handle, "action": "cancel"}));
    assert_eq!(cancelled["structuredContent"]["status"], "cancelled", "{cancelled}");
}

#[test]
fn a_server_that_dies_while_a_child_of_it_holds_its_stdout_is_noticed() {
    let home = Home::new();
    let fixture = std::path::Path::new(crate::client::meanwhile()).with_file_name("examples").join(FIXTURE);
    let script = format!("sleep 20 & exec '{}'", fixture.display());
    let client = Client::wrap_in(&home, &[], &["sh", "-c", &script], &[]);
    client.initialize();
    assert!(text(&client.call("crash", json!({}))).contains("ended (exit status: 3)"));
    assert_eq!(text(&client.call("echo", json!({"text": "back"}))), "back");
}
