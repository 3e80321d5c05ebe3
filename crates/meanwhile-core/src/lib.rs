//! The job engine of Meanwhile, free of MCP, HTTP and SQL.
//!
//! A slow call becomes a [`Job`]: one durable run of a tool, known by its unguessable [`Handle`].
//!
//! | module | question it answers |
//! |---|---|
//! | [`handle`] | what does an agent hold on to? |
//! | [`job`] | what is known about a job? |
//! | [`machine`] | which operation is allowed when, and what does it do? (pure) |
//! | [`event`] | what happened to a job, when, and who caused it? |
//! | [`store`] | where do jobs live, and what must every store promise? |
//! | [`changes`] | how does a wait learn that a job has changed, without polling? |
//! | [`history`] | how long do the calls of a tool take? |
//! | [`executor`] | who does the work? |
//! | [`engine`] | how is a call run, handed off, waited for, cancelled? |
//! | [`artifact`] | where do answers go that are too large for a row? |
//! | [`signal`] | how is one told, once? |
//! | [`clock`] | what time is it? |
//!
//! Invariants: nothing here reads the clock but through [`clock::Clock`]; nothing here knows what a request or an
//! answer means, they are JSON texts carried word for word; a handle leaves the engine only after its job is committed.

pub mod artifact;
pub mod changes;
pub mod clock;
pub mod engine;
pub mod event;
pub mod executor;
pub mod handle;
pub mod history;
pub mod job;
pub mod machine;
pub mod signal;
pub mod store;

#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use clock::{Clock, Moment, SystemClock, Timestamp};
pub use engine::{Called, Engine, Waited};
pub use event::{Actor, Event, EventKind};
pub use executor::{Attempt, Executor, RunContext};
pub use handle::Handle;
pub use history::Durations;
pub use job::{Call, Job, Policy, Progress, Status};
pub use machine::{Op, Outcome, Refused};
pub use signal::Signal;
pub use store::{Snapshot, Store, StoreError};

/// A JSON text, carried word for word: numbers, key order and unknown fields stay as they were written.
pub type Json = Box<serde_json::value::RawValue>;
