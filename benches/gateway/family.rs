//! All processes that one command has become.
//!
//! `meanwhile wrap` detaches: what was started is its shim, and the keeper that does the work is nobody's child. So neither
//! the memory nor the end of what was started says anything of the keeper. All of them are known by a variable of their
//! environment that no other process has. Only Linux tells it; elsewhere a family has but the process that was started.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

/// How often, and after which pause, it is looked whether all have gone.
const LOOKS: usize = 200;
const PAUSE: Duration = Duration::from_millis(10);

/// The processes that have this entry, `NAME=value`, in their environment.
#[derive(Debug, Clone)]
pub(crate) struct Family {
    mark: String,
}

impl Family {
    pub(crate) fn new(name: &str, value: &Path) -> Family {
        Family { mark: format!("{name}={}", value.display()) }
    }

    /// Those that run the same program as process `pid`: the shim and its keeper.
    pub(crate) fn like(&self, pid: u32) -> Vec<u32> {
        let program = |pid: u32| fs::read_link(format!("/proc/{pid}/exe")).ok();
        self.members().into_iter().filter(|other| program(*other) == program(pid)).collect()
    }

    /// Ends them all, each by its id, and returns when they have gone.
    pub(crate) fn end(&self) {
        for _ in 0..LOOKS {
            let members = self.members();
            if members.is_empty() {
                return;
            }
            for pid in members {
                let mut kill = Command::new("kill");
                kill.args(["-KILL", &pid.to_string()]).stdout(Stdio::null()).stderr(Stdio::null());
                // It may have gone in between.
                let _ = kill.status();
            }
            thread::sleep(PAUSE);
        }
        eprintln!("gateway: left behind, and not to be ended: {:?}", self.members());
    }

    fn members(&self) -> Vec<u32> {
        let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
        let ids = processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        ids.filter(|pid| self.has(*pid)).collect()
    }

    /// A process that has ended, and waits to be reaped, has no environment any more.
    fn has(&self, pid: u32) -> bool {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|entry| entry == self.mark.as_bytes())
    }
}
