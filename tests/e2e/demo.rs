//! The demo is a test of itself: it exits with an error if anything in it does not behave as it says.

use std::process::{Command, Stdio};

use crate::client::meanwhile;

#[test]
fn the_demo_shows_what_it_promises_and_leaves_nothing_behind() {
    let temporary = tempfile::tempdir().unwrap();
    let output = Command::new(meanwhile())
        .arg("demo")
        .env("TMPDIR", temporary.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let transcript = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{transcript}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(
        transcript.contains("timed out") && transcript.contains("the moment it is there"),
        "{transcript}"
    );
    assert!(!transcript.contains('\u{1b}'), "no escape codes in a pipe");
    assert_eq!(std::fs::read_dir(temporary.path()).unwrap().count(), 0);
}
