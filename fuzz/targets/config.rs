//! What people write: configuration files, rules for tools, lengths of time, bearer tokens.
#![no_main]

#[expect(dead_code, reason = "the fields are for the binary, whose module this is")]
#[path = "../../crates/meanwhile-cli/src/config/mod.rs"]
mod config;

use libfuzzer_sys::fuzz_target;
use meanwhile_mcp::http::Tokens;
use meanwhile_mcp::rules::{Rule, Rules, duration};

const SECRET: &str = "s3cret-of-the-environment";

fuzz_target!(|text: &str| {
    for is_toml in [false, true] {
        let read = config::parse(text, is_toml, &|name| (name == "TOKEN").then(|| SECRET.to_owned()));
        if let Err(error) = read {
            // What stands in the input itself may be told: the fuzzer sees what is looked for, and writes it.
            let is_told = format!("{error:#}").contains(SECRET) && !text.contains(SECRET);
            assert!(!is_told, "a message with a secret in it: {error:#}");
        }
    }
    let _ = duration(text);
    let _ = Tokens::parse(text);
    if let Ok(rule) = text.parse::<Rule>() {
        let _ = Rules { rules: vec![rule], ..Rules::default() }.treatment("render_video");
    }
});
