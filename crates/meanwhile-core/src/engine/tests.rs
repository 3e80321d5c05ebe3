//! What the engine promises, with time under control and every worker played by the test.

mod attach;
mod calls;
mod control;
mod ends;
mod input;
mod join;
mod progress;
mod queue;
mod shutdown;
mod stage;
mod timeouts;
mod upkeep;
mod wait;
