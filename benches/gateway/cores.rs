//! Where the processes run.
//!
//! Two processes that share a core hand a message over in a microsecond or two; from core to core of a virtual machine it may
//! take thirty. The scheduler chooses, now so and now so, and the choice is larger than what is to be measured. So calls
//! are measured twice: as they are scheduled, and with the client and all its children held on one core.

use std::fs;
use std::process::{Command, Stdio};

/// Who chooses the core.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Placement {
    /// The scheduler.
    Free,
    /// Everything is on the same one.
    OneCore,
}

impl Placement {
    /// Both, or only the free one where this thread cannot be held.
    pub(crate) fn all() -> Vec<Placement> {
        let can_hold = cores().is_some_and(|cores| hold(&cores));
        if can_hold { vec![Placement::OneCore, Placement::Free] } else { vec![Placement::Free] }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Placement::Free => "free",
            Placement::OneCore => "one core",
        }
    }

    /// Does `work` there, and all that it starts.
    pub(crate) fn run<T>(self, work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
        let Some(before) = cores().filter(|_| self == Placement::OneCore) else { return work() };
        let first: String = before.chars().take_while(char::is_ascii_digit).collect();
        anyhow::ensure!(hold(&first), "this thread cannot be held on core {first}");
        let done = work();
        anyhow::ensure!(hold(&before), "this thread cannot be let go to cores {before}");
        done
    }
}

/// The cores that the main thread may use, as a list such as `0-3,6`. Linux tells it.
fn cores() -> Option<String> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    Some(line.trim().to_owned())
}

/// Holds the main thread, which measures, and whatever it starts from now on.
fn hold(cores: &str) -> bool {
    let mut taskset = Command::new("taskset");
    taskset.args(["--cpu-list", "--pid", cores, &std::process::id().to_string()]);
    let status = taskset.stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}
