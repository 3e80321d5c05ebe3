//! Newline-delimited JSON over byte streams: the stdio transport of every revision.

mod lines;
mod outbound;
mod stdio;

pub use lines::{Line, LineReader};
pub use outbound::{Outbound, Outgoing};
pub use stdio::{stdin, stdout};
