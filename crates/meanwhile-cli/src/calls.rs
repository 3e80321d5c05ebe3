//! How calls are treated: the options that every command that fronts a server has.

use std::fmt::Display;
use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use meanwhile_core::Handle;
use meanwhile_core::engine::{Settings as EngineSettings, Slots};
use meanwhile_mcp::rules::{Face, Rule, Rules, Treatment, duration};

/// How calls are treated.
#[derive(Debug, Clone, Args)]
pub(crate) struct Calls {
    /// How calls look: inline (the result, however long it takes), auto (the result if it is fast, else a handle), handle (at once),
    /// task (a native task at once, and refused to clients without tasks)
    #[arg(long, env = "MEANWHILE_MODE", value_name = "MODE", default_value = "auto", value_parser = str::parse::<Face>)]
    pub(crate) mode: Face,

    /// Treat the tools of a name differently: PATTERN=SETTING[,SETTING…] with inline, auto, handle, task,
    /// inline-budget=TIME, timeout=TIME, ttl=TIME, rerun=yes|no, join=yes|no; may be given several times, the last that fits wins
    #[arg(long = "tool", value_name = "RULE", value_parser = str::parse::<Rule>)]
    pub(crate) tools: Vec<Rule>,

    /// How long a call may take, at most, before it becomes a job [default: 2s; longer for a tool whose calls are known to end soon
    /// after]
    #[arg(long, env = "MEANWHILE_INLINE_BUDGET", value_name = "TIME", value_parser = duration)]
    pub(crate) inline_budget: Option<Duration>,

    /// How many jobs run at once in handle mode, on each process of the server; more are queued. With serve each session has a
    /// process of its own, unless the server is shared: then it counts for all together
    #[arg(long, env = "MEANWHILE_MAX_RUNNING", value_name = "N", default_value_t = 4, value_parser = whole(1, u16::MAX))]
    pub(crate) max_running: u16,

    /// End a call that takes longer [default: it may take as long as it takes]
    #[arg(long, env = "MEANWHILE_TIMEOUT", value_name = "TIME", value_parser = duration)]
    pub(crate) timeout: Option<Duration>,

    /// How long a result is kept after the job's end
    #[arg(long, env = "MEANWHILE_TTL", value_name = "TIME", default_value = "24h", value_parser = duration)]
    pub(crate) ttl: Duration,

    /// How long a job that asks something waits for the answer before it is declined
    #[arg(long, env = "MEANWHILE_ANSWER_TIMEOUT", value_name = "TIME", default_value = "24h", value_parser = duration)]
    pub(crate) answer_timeout: Duration,

    /// The longest that one poll waits [default: what your client is known to survive; 25s if it is not known]
    #[arg(long, env = "MEANWHILE_WAIT_MAX", value_name = "TIME", value_parser = duration)]
    pub(crate) wait_max: Option<Duration>,

    /// How long a claim on a job holds unless it is renewed: what a dead process leaves is settled after that
    #[arg(long, env = "MEANWHILE_LEASE", value_name = "TIME", default_value = "30s", value_parser = duration, hide = true)]
    pub(crate) lease: Duration,

    /// The largest message taken from either side
    #[arg(long, value_name = "SIZE", default_value = "64MiB", value_parser = size)]
    pub(crate) max_message: usize,

    /// The largest arguments of one call
    #[arg(long, value_name = "SIZE", default_value = "16MiB", value_parser = size)]
    pub(crate) max_arguments: usize,
}

impl Calls {
    /// Faces and limits.
    pub(crate) fn rules(&self) -> Rules {
        let default = Treatment {
            face: self.mode,
            inline_budget: self.inline_budget,
            timeout: self.timeout,
            ttl: self.ttl,
            ..Treatment::default()
        };
        Rules { default, rules: self.tools.clone() }
    }

    /// How jobs are run, by a peer of its own.
    pub(crate) fn engine(&self) -> EngineSettings {
        EngineSettings {
            // Drawn like a handle: a process id comes again, a peer's name must not.
            peer: format!("{}:{}", std::process::id(), &Handle::random().to_string()[4..16]),
            slots: Slots::new(usize::from(self.max_running)),
            lease: self.lease,
            answer_timeout: Some(self.answer_timeout),
        }
    }
}

/// A reader of whole numbers in these bounds.
pub(crate) fn whole<T>(from: T, to: T) -> impl Fn(&str) -> Result<T, String> + Clone
where
    T: FromStr + PartialOrd + Display + Copy,
{
    move |text: &str| match text.parse() {
        Ok(number) if from <= number && number <= to => Ok(number),
        _ => Err(format!("write a whole number from {from} to {to}")),
    }
}

fn size(text: &str) -> Result<usize, String> {
    let bytes = parse_size::parse_size(text)
        .map_err(|_| format!("`{text}` is no size: write for example 512KiB, 64MiB or 1GiB"))?;
    if bytes < 1024 {
        return Err(format!("`{text}` is too small: 1KiB or more"));
    }
    usize::try_from(bytes).map_err(|_| format!("`{text}` is more than this machine can address"))
}
