//! Logins at servers elsewhere, and what becomes of their tokens.

mod stage;

use std::thread;

use serde_json::json;

use self::stage::Stage;
use crate::client::Client;
use crate::http::web::Served;

fn wrap(stage: &Stage) -> Client {
    stage.run(&["wrap", "--no-linger", "--url", &stage.url])
}

/// What a client is told when its first request fails.
fn refusal(client: &Client) -> String {
    let params = json!({"protocolVersion": "2025-11-25", "capabilities": {}});
    let error = client.request("initialize", params).expect_err("there is no login");
    error["message"].as_str().expect("a message").to_owned()
}

#[test]
fn after_a_login_requests_carry_a_token_that_nobody_else_sees() {
    let stage = Stage::new();
    let (login, page) = stage.begin(&[]);
    assert_eq!(stage.agree(&page, &[]).0, 200);
    assert!(login.wait_exit().success(), "{:?}", login.stderr());
    let client = wrap(&stage);
    client.initialize();
    assert_eq!(client.request("x/any", json!({})).unwrap()["any"], true);
    client.close_stdin();
    client.wait_exit();
    {
        let book = stage.book();
        let page = &book.pages[0];
        assert_eq!(
            (page["resource"].as_str(), page["scope"].as_str()),
            (stage.url.as_str(), "read offline_access")
        );
        let registration = &book.registrations[0];
        assert_eq!(registration["redirect_uris"], json!([page["redirect_uri"]]));
        assert_eq!(registration["application_type"], "native");
        assert!(page["redirect_uri"].starts_with("http://127.0.0.1:") && page["state"].len() >= 43);
    }
    let (file, kept) = stage.kept().expect("the login is kept");
    assert_eq!(
        (kept["issuer"].as_str(), kept["resource"].as_str()),
        (Some(&*stage.origin), Some(&*stage.url))
    );
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&file), mode(file.parent().unwrap())), (0o600, 0o700));
    }
    for said in [login.stderr(), client.stderr()] {
        assert!(!said.iter().any(|line| line.contains("s3cret") || line.contains("c0de")), "{said:?}");
    }
    // A second login uses the same client, at the same port.
    stage.log_in();
    let book = stage.book();
    assert_eq!(book.registrations.len(), 1);
    assert_eq!(book.pages[0]["redirect_uri"], book.pages[1]["redirect_uri"]);
    assert_ne!(book.pages[0]["state"], book.pages[1]["state"]);
}

#[test]
fn who_does_not_know_the_state_is_sent_away_and_the_login_goes_on() {
    let stage = Stage::new();
    let (login, page) = stage.begin(&[]);
    for wrong in ["", "x"] {
        assert_eq!(stage.agree(&page, &[("state", wrong), ("code", "evil")]).0, 400);
    }
    assert_eq!(stage.agree(&page, &[]).0, 200);
    assert!(login.wait_exit().success());
    assert_eq!(stage.book().token_requests.len(), 1);
}

#[test]
fn an_answer_of_another_issuer_or_a_refusal_ends_the_login_and_nothing_is_kept() {
    let stage = Stage::new();
    let wrong = [("iss", "https://other.example"), ("iss", ""), ("code", "")];
    let whys = ["https://other.example", "does not say which", "gave no code"];
    for (otherwise, why) in wrong.into_iter().zip(whys) {
        let (login, page) = stage.begin(&[]);
        assert_eq!(stage.agree(&page, &[otherwise]).0, 400);
        assert!(!login.wait_exit().success());
        login.wait_stderr(why);
    }
    // A code that is not the right one.
    let (login, page) = stage.begin(&[]);
    stage.agree(&page, &[("code", "other")]);
    assert!(!login.wait_exit().success());
    login.wait_stderr("invalid_grant: no[31m more");
    assert_eq!(stage.book().token_requests.len(), 1);
    assert!(stage.kept().is_none());
    let (login, _) = stage.begin(&["--wait", "10ms"]);
    assert!(!login.wait_exit().success());
    login.wait_stderr("nobody logged in");
}

#[test]
fn a_token_that_has_expired_is_renewed_once_by_several_processes() {
    let stage = Stage::new();
    stage.book().lasts = 0;
    stage.log_in();
    let clients: Vec<Client> = (0..4).map(|_| wrap(&stage)).collect();
    thread::scope(|scope| {
        for client in &clients {
            scope.spawn(|| {
                client.initialize();
                assert_eq!(client.request("x/any", json!({})).unwrap()["any"], true);
            });
        }
    });
    let (_, kept) = stage.kept().unwrap();
    let book = stage.book();
    assert_eq!(book.token_requests.len(), 2, "{:?}", book.token_requests);
    let renewal = &book.token_requests[1];
    assert_eq!(
        (renewal["refresh_token"].as_str(), renewal["resource"].as_str()),
        ("refresh-s3cret-1", &*stage.url)
    );
    assert_eq!(
        (kept["refresh_token"].as_str(), kept["access_token"].as_str()),
        (Some("refresh-s3cret-2"), Some("access-s3cret-2"))
    );
}

#[test]
fn a_token_that_is_no_longer_taken_is_renewed_and_the_client_does_not_notice() {
    let stage = Stage::new();
    stage.log_in();
    let client = wrap(&stage);
    client.initialize();
    for _ in 0..2 {
        stage.book().access = "another".to_owned();
        assert_eq!(client.request("x/any", json!({})).unwrap()["any"], true);
    }
    assert_eq!(stage.book().token_requests.len(), 3);
}

#[test]
fn a_login_that_cannot_be_renewed_says_what_to_do_and_a_new_one_is_used_at_once() {
    let stage = Stage::new();
    stage.log_in();
    let client = wrap(&stage);
    client.initialize();
    {
        let mut book = stage.book();
        (book.access, book.is_over) = ("another".to_owned(), true);
    }
    for _ in 0..2 {
        let error = client.request("x/any", json!({})).unwrap_err();
        let why = error["message"].as_str().unwrap();
        assert!(why.contains(&format!("run: meanwhile login --url {}", stage.url)), "{why}");
    }
    assert_eq!(stage.book().token_requests.len(), 2, "what was refused once is not tried again");
    stage.book().is_over = false;
    stage.log_in();
    assert_eq!(client.request("x/any", json!({})).unwrap()["any"], true);
}

#[test]
fn without_a_login_the_client_is_told_what_to_do() {
    let stage = Stage::new();
    let why = refusal(&wrap(&stage));
    assert!(
        why.contains("HTTP 401") && why.contains(&format!("run: meanwhile login --url {}", stage.url)),
        "{why}"
    );
    let served = Served::start(&stage.home, &json!({"far": {"type": "http", "url": stage.url}}), &[]);
    let params = json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "e2e", "version": "1"}});
    let hello = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params});
    let answer = served.post("/mcp/far", &[], &hello.to_string()).response();
    let why = answer["error"]["message"].as_str().unwrap_or_default();
    assert!(why.contains("run: meanwhile login far --config "), "{answer}");
}

#[test]
fn a_right_that_is_missing_is_asked_for_at_the_next_login() {
    let stage = Stage::new();
    stage.log_in();
    stage.book().needs = Some("write");
    let client = wrap(&stage);
    client.initialize();
    let error = client.request("x/any", json!({})).unwrap_err();
    let why = error["message"].as_str().unwrap();
    assert!(why.contains("does not allow it (write); run: meanwhile login"), "{why}");
    stage.log_in();
    assert_eq!(stage.book().pages[1]["scope"], "read offline_access write");
    assert_eq!(client.request("x/any", json!({})).unwrap()["any"], true);
}

#[test]
fn a_client_logs_in_for_itself_and_out_again() {
    let stage = Stage::new();
    let secret = stage.home.path("secret");
    std::fs::write(&secret, "s3cret:&\n").unwrap();
    #[cfg(unix)]
    std::fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let oauth = json!({"clientId": "me", "clientSecretFile": "secret", "scopes": "a b"});
    let config = stage.home.path("mcp.json");
    let servers = json!({"mcpServers": {"far": {"url": stage.url, "oauth": oauth}}});
    std::fs::write(&config, servers.to_string()).unwrap();
    let config = config.to_str().unwrap();
    stage.book().lasts = 0;
    let login = stage.run(&["login", "far", "--config", config, "--client-credentials"]);
    assert!(login.wait_exit().success(), "{:?}", login.stderr());
    wrap(&stage).initialize();
    {
        let book = stage.book();
        assert_eq!(book.token_requests.len(), 2, "a client asks again where a user's login is renewed");
        for asked in &book.token_requests {
            assert_eq!(
                (asked["grant_type"].as_str(), asked["scope"].as_str()),
                ("client_credentials", "a b")
            );
            // `me:s3cret%3A%26`
            assert_eq!(asked["basic"], "Basic bWU6czNjcmV0JTNBJTI2");
        }
    }
    let logout = stage.run(&["logout", "far", "--config", config]);
    assert!(logout.wait_exit().success());
    logout.wait_stderr("logged out of far");
    assert!(stage.kept().is_none());
    assert_eq!(stage.book().revoked, ["access-s3cret-2"]);
    assert!(refusal(&wrap(&stage)).contains("run: meanwhile login"));
}

#[test]
fn a_server_that_leads_astray_is_not_followed() {
    let stage = Stage::new();

    let wrong = [
        (
            json!({"resource": "https://other.example/mcp"}),
            json!({}),
            "it is about `https://other.example/mcp`",
        ),
        (
            json!({"authorization_servers": ["http://auth.example"]}),
            json!({}),
            "`http://auth.example/` is not used",
        ),
        (json!({}), json!({"issuer": "https://other.example"}), "the issuer `https://other.example`"),
        (json!({}), json!({"code_challenge_methods_supported": ["plain"]}), "PKCE"),
        (json!({}), json!({"token_endpoint": "http://auth.example/"}), "`http://auth.example/` is not used"),
        (json!({}), json!({"registration_endpoint": null}), "--client-id"),
        (json!({}), json!({"authorization_endpoint": "file:///etc/passwd"}), "authorization endpoint"),
        (json!({}), json!({"revocation_endpoint": "x".repeat(300_000)}), "larger than"),
    ];
    for (resource, metadata, why) in wrong {
        {
            let mut book = stage.book();
            (book.resource, book.metadata) = (resource, metadata);
        }
        let login = stage.run(&["login", "--url", &stage.url, "--no-browser"]);
        assert!(!login.wait_exit().success());
        login.wait_stderr(why);
    }
    let login = stage.run(&["login", "--url", "http://mcp.example.com/mcp", "--no-browser"]);
    assert!(!login.wait_exit().success());
    login.wait_stderr("must begin with https://");
    assert!(stage.book().token_requests.is_empty() && stage.kept().is_none());
}
