//! The processes of one run, found by the state folder in their environment, and what can be done to them.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::process::{
    Pid, PidfdFlags, Resource, Rlimit, Signal, getrlimit, pidfd_open, pidfd_send_signal, prlimit,
};

/// What a process is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// What a client started: its child.
    Shim,
    /// The gateway, on its own.
    Keeper,
    /// The server behind it.
    Upstream,
    /// A command, or a process that is not yet what it is to be.
    Other,
}

/// A process of this run. It is held by a descriptor, so that no other can take its place between a look and a signal.
pub(crate) struct Process {
    pub(crate) pid: Pid,
    pub(crate) role: Role,
    held: OwnedFd,
}

impl Process {
    /// Every process whose environment names that state folder. Those that have ended are not among them.
    pub(crate) fn all(state_dir: &Path) -> Vec<Process> {
        let mark = format!("MEANWHILE_STATE_DIR={}", state_dir.display()).into_bytes();
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        entries.filter_map(|entry| Process::find(entry.file_name().to_str()?.parse().ok()?, &mark)).collect()
    }

    fn find(number: i32, mark: &[u8]) -> Option<Process> {
        let pid = Pid::from_raw(number)?;
        let held = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        let environment = fs::read(format!("/proc/{number}/environ")).ok()?;
        environment.split(|byte| *byte == 0).find(|entry| *entry == mark)?;
        Some(Process { pid, role: role(number), held })
    }

    pub(crate) fn is(&self, role: Role) -> bool {
        self.role == role
    }

    /// Whether the process still was there to be hit.
    pub(crate) fn kill(&self) -> bool {
        self.signal(Signal::KILL)
    }

    pub(crate) fn freeze(&self) -> bool {
        self.signal(Signal::STOP)
    }

    pub(crate) fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) -> bool {
        pidfd_send_signal(&self.held, signal).is_ok()
    }

    /// From now on the process can write no file beyond so many bytes: with 0 a disk that is read-only, else a full one.
    pub(crate) fn limit_files(&self, bytes: u64) -> bool {
        self.set_limit(Some(bytes))
    }

    pub(crate) fn unlimit_files(&self) {
        self.set_limit(getrlimit(Resource::Fsize).maximum);
    }

    fn set_limit(&self, current: Option<u64>) -> bool {
        let maximum = getrlimit(Resource::Fsize).maximum;
        prlimit(Some(self.pid), Resource::Fsize, Rlimit { current, maximum }).is_ok()
    }

    /// Its command line, for a report.
    pub(crate) fn command(&self) -> String {
        let words = fs::read(format!("/proc/{}/cmdline", self.pid.as_raw_nonzero())).unwrap_or_default();
        String::from_utf8_lossy(&words).replace('\0', " ")
    }
}

fn role(number: i32) -> Role {
    let words = fs::read(format!("/proc/{number}/cmdline")).unwrap_or_default();
    let mut words = words.split(|byte| *byte == 0).map(String::from_utf8_lossy);
    let program = words.next().unwrap_or_default();
    match program.rsplit('/').next() {
        Some(crate::place::FIXTURE) => Role::Upstream,
        Some("meanwhile") if words.next().is_some_and(|word| word == "wrap") => {
            if parent(number) == Some(std::process::id()) { Role::Shim } else { Role::Keeper }
        }
        _ => Role::Other,
    }
}

fn parent(number: i32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{number}/stat")).ok()?;
    // The name, in brackets, may hold anything; the state and then the parent stand behind it.
    stat.rsplit(')').next()?.split_whitespace().nth(1)?.parse().ok()
}
