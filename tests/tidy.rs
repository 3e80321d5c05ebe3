//! The style of this project, kept by a test: each rule says how to mend what breaks it.

use std::fs;
use std::path::{Path, PathBuf};

/// Lines of one source file. Past it a file is asking to be two ideas.
const FILE_LINES_MAX: usize = 600;
const COLUMNS_MAX: usize = 140;

/// A text that no source may hold, where that matters, and what to do instead.
struct Banned {
    text: &'static str,
    place: fn(&str) -> bool,
    mend: &'static str,
}

const BANNED: &[Banned] = &[
    Banned {
        text: concat!("TO", "DO"),
        place: everywhere,
        mend: "do it, or say in the issue that it is left",
    },
    Banned { text: concat!("FIX", "ME"), place: everywhere, mend: "mend it" },
    Banned { text: concat!("dbg", "!("), place: everywhere, mend: "use tracing" },
    Banned { text: concat!("unimpl", "emented!("), place: everywhere, mend: "implement it" },
    Banned {
        text: concat!("thread::", "sleep("),
        place: is_test,
        mend: "wait for an event; Client::wait_log and its like do",
    },
    Banned {
        text: concat!("#[", "allow("),
        place: everywhere,
        mend: "use #[expect(…, reason = \"…\")], which notices when it is no longer needed",
    },
    Banned {
        text: concat!("SystemTime", "::now"),
        place: is_core_logic,
        mend: "take the time from the Clock",
    },
    Banned { text: concat!("mod ", "utils"), place: everywhere, mend: "name the idea" },
    Banned { text: concat!("mod ", "helpers"), place: everywhere, mend: "name the idea" },
    Banned { text: concat!("mod ", "common"), place: everywhere, mend: "name the idea" },
    Banned { text: concat!("mod ", "types"), place: everywhere, mend: "put the type where its idea is" },
];

/// What would tell on whose machine this was written.
const MACHINE_PATHS: &[&str] =
    &[concat!("/ro", "ot/"), concat!("/ho", "me/"), concat!("/wo", "rk/"), concat!("/Us", "ers/")];

fn everywhere(_: &str) -> bool {
    true
}

fn is_test(path: &str) -> bool {
    // The harness alone watches files, for it stands outside of the processes that it tests.
    path.contains("tests") && !path.ends_with("e2e/client.rs") && !path.contains("fixture/")
}

fn is_core_logic(path: &str) -> bool {
    path.contains("meanwhile-core/src") && !path.ends_with("clock.rs") && !path.ends_with("artifact.rs")
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the workspace is there")
}

/// Every file of ours below `folder`, by its path in the workspace.
fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder of the workspace").flatten() {
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        if path.is_dir() {
            if !["target", "node_modules", ".git", ".venv"].contains(&name.as_str()) {
                files(&path, found);
            }
        } else if ["rs", "md", "toml", "sql", "mjs", "json", "sh"]
            .iter()
            .any(|kind| name.ends_with(&format!(".{kind}")))
        {
            found.push(path);
        }
    }
}

fn sources() -> Vec<(String, String)> {
    let root = root();
    let mut found = Vec::new();
    files(&root, &mut found);
    let relative =
        |path: &Path| path.strip_prefix(&root).expect("below the root").to_string_lossy().replace('\\', "/");
    found
        .iter()
        .map(|path| (relative(path), fs::read_to_string(path).expect("our sources are text")))
        .collect()
}

#[test]
fn every_source_keeps_the_style() {
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        for (number, line) in text.lines().enumerate() {
            let mut complain = |why: &str| wrong.push(format!("{path}:{}: {why}", number + 1));
            if let Some(found) = MACHINE_PATHS.iter().find(|found| line.contains(**found)) {
                complain(&format!(
                    "`{found}` is a path of one machine: use a relative path, or a temporary folder"
                ));
            }
            if !path.ends_with(".rs") {
                continue;
            }
            for banned in BANNED.iter().filter(|banned| (banned.place)(&path) && line.contains(banned.text)) {
                complain(&format!("`{}`: {}", banned.text, banned.mend));
            }
            // A long text in quotes is better left whole.
            if line.chars().count() > COLUMNS_MAX && !line.contains('"') {
                complain(&format!("more than {COLUMNS_MAX} columns: break the line"));
            }
        }
        if path.ends_with(".rs") && text.lines().count() > FILE_LINES_MAX {
            wrong.push(format!("{path}: more than {FILE_LINES_MAX} lines: is it two ideas?"));
        }
    }
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

#[test]
fn every_source_says_what_it_is_for() {
    let undocumented: Vec<String> = sources()
        .into_iter()
        .filter(|(path, text)| path.ends_with(".rs") && !text.starts_with("//!"))
        .map(|(path, _)| path)
        .collect();
    assert!(
        undocumented.is_empty(),
        "begin these with a line of `//!` that says what they are for: {undocumented:?}"
    );
}

/// DESIGN: a lower layer knows nothing of a higher one.
#[test]
fn no_crate_knows_what_it_must_not() {
    let knows_not = [
        ("meanwhile-core", &["meanwhile-sqlite", "meanwhile-mcp", "rusqlite", "axum"][..]),
        ("meanwhile-sqlite", &["meanwhile-mcp"]),
        ("meanwhile-mcp", &["meanwhile-sqlite", "rusqlite"]),
    ];
    for (name, forbidden) in knows_not {
        let manifest =
            fs::read_to_string(root().join("crates").join(name).join("Cargo.toml")).expect("a manifest");
        for forbidden in forbidden {
            assert!(!manifest.contains(forbidden), "{name} must not depend on {forbidden}");
        }
    }
}
