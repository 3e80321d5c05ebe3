//! What the engine promises, with time under control and every worker played by the test.

mod calls;
mod control;
mod ends;
mod join;
mod progress;
mod queue;
mod shutdown;
mod stage;
mod timeouts;
mod upkeep;
mod wait;
