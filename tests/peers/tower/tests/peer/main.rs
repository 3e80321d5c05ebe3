//! Native tasks that are pushed, with `tower-mcp` on either side of the real `meanwhile`: as the client that listens
//! (`front.rs`), and as the server that tells (`behind.rs`).
//!
//! Needs `cargo build` and `cargo build --examples` in the workspace above, or `MEANWHILE_BIN` and `CARGO_TARGET_DIR`.

/// Each test in front of `meanwhile serve`, and in front of `meanwhile wrap`.
macro_rules! at_both_seats {
    ($($test:ident),* $(,)?) => {
        mod served {
            $(#[tokio::test] async fn $test() { super::$test(crate::stage::Seat::Served).await; })*
        }
        mod wrapped {
            $(#[tokio::test] async fn $test() { super::$test(crate::stage::Seat::Wrapped).await; })*
        }
    };
}

mod behind;
mod client;
mod front;
mod stage;
