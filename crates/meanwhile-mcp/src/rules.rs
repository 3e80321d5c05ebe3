//! Which face a call gets, and which limits: by default, and by rules for the tools of a name.

use std::str::FromStr;
use std::time::Duration;

use globset::{Glob, GlobMatcher};

/// How a call looks to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Face {
    /// The result itself, however long it takes.
    Inline,
    /// The result if it comes within the inline budget, else a handle.
    Auto,
    /// A handle, at once.
    Handle,
    /// A native task, at once; a client that has no tasks is refused.
    Task,
}

impl FromStr for Face {
    type Err = String;

    fn from_str(text: &str) -> Result<Face, String> {
        match text {
            "inline" => Ok(Face::Inline),
            "auto" => Ok(Face::Auto),
            "handle" => Ok(Face::Handle),
            "task" => Ok(Face::Task),
            _ => Err(format!("`{text}` is no mode: write inline, auto, handle or task")),
        }
    }
}

/// How the calls of one tool are treated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Treatment {
    /// How they look.
    pub face: Face,
    /// How long a caller waits at most before a call becomes a job; `None` is [`INLINE_BUDGET`](crate::economy::INLINE_BUDGET), and
    /// longer where the tool's history says that the call will end in time.
    pub inline_budget: Option<Duration>,
    /// How long a call may take.
    pub timeout: Option<Duration>,
    /// How long a result is kept after the end.
    pub ttl: Duration,
    /// Whether running a call a second time is safe; `None` goes by what the tool says of itself.
    pub rerun: Option<bool>,
    /// Whether a call with the same arguments joins the one that is unfinished. A retry of the very same call always does.
    pub joins: bool,
}

impl Default for Treatment {
    fn default() -> Self {
        Treatment {
            face: Face::Auto,
            inline_budget: None,
            timeout: None,
            ttl: Duration::from_secs(24 * 3600),
            rerun: None,
            joins: true,
        }
    }
}

/// One rule: what is different for the tools whose name fits a pattern.
#[derive(Debug, Clone)]
pub struct Rule {
    pattern: GlobMatcher,
    changes: Vec<Change>,
}

#[derive(Debug, Clone)]
enum Change {
    Face(Face),
    InlineBudget(Duration),
    Timeout(Duration),
    Ttl(Duration),
    Rerun(bool),
    Join(bool),
}

/// `PATTERN=SETTING[,SETTING…]`, as `render*=handle,timeout=10m`.
impl FromStr for Rule {
    type Err = String;

    fn from_str(text: &str) -> Result<Rule, String> {
        let example = "write PATTERN=SETTING[,SETTING…], as in 'render*=handle,timeout=10m'";
        let (pattern, settings) =
            text.split_once('=').ok_or_else(|| format!("`{text}` is no rule: {example}"))?;
        if pattern.is_empty() {
            return Err(format!("`{text}` has no pattern, and fits no tool: {example}"));
        }
        let glob =
            Glob::new(pattern).map_err(|error| format!("`{pattern}` is no pattern: {}", error.kind()))?;
        let changes: Result<Vec<Change>, String> =
            settings.split(',').map(|setting| change(setting.trim())).collect();
        Ok(Rule { pattern: glob.compile_matcher(), changes: changes? })
    }
}

/// What a rule may set besides the mode.
const SETTINGS: &str = "inline-budget=TIME, timeout=TIME, ttl=TIME, rerun=yes|no or join=yes|no";

fn change(setting: &str) -> Result<Change, String> {
    let Some((name, value)) = setting.split_once('=') else {
        return match setting {
            "inline-budget" | "timeout" | "ttl" => {
                Err(format!("`{setting}` needs a value, as in {setting}=10m"))
            }
            "rerun" | "join" => Err(format!("`{setting}` needs a value: {setting}=yes or {setting}=no")),
            _ => setting.parse().map(Change::Face).map_err(|why| format!("{why}; or {SETTINGS}")),
        };
    };
    match name {
        "inline-budget" => duration(value).map(Change::InlineBudget),
        "timeout" => duration(value).map(Change::Timeout),
        "ttl" => duration(value).map(Change::Ttl),
        "rerun" => yes_or_no(name, value).map(Change::Rerun),
        "join" => yes_or_no(name, value).map(Change::Join),
        _ => Err(format!("`{name}` is no setting of a tool: write {SETTINGS}")),
    }
}

fn yes_or_no(name: &str, value: &str) -> Result<bool, String> {
    match value {
        "yes" => Ok(true),
        "no" => Ok(false),
        _ => Err(format!("{name}=`{value}`: write yes or no")),
    }
}

/// A length of time as people write it: `500ms`, `2s`, `10m`, `1h 30m`.
///
/// # Errors
/// If it is none, or negative; the text says how to write one.
pub fn duration(text: &str) -> Result<Duration, String> {
    let how = || format!("`{text}` is no length of time: write for example 500ms, 2s, 10m or 24h");
    let length: jiff::SignedDuration = text.parse().map_err(|_| how())?;
    Duration::try_from(length).map_err(|_| how())
}

/// The default treatment and the rules, of which later ones win over earlier ones.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// What holds where no rule says otherwise.
    pub default: Treatment,
    /// The rules.
    pub rules: Vec<Rule>,
}

impl Rules {
    /// How the calls of this tool are treated.
    #[must_use]
    pub fn treatment(&self, tool: &str) -> Treatment {
        let mut treatment = self.default.clone();
        for rule in self.rules.iter().filter(|rule| rule.pattern.is_match(tool)) {
            for change in &rule.changes {
                match *change {
                    Change::Face(face) => treatment.face = face,
                    Change::InlineBudget(budget) => {
                        treatment.inline_budget = Some(budget);
                    }
                    Change::Timeout(timeout) => treatment.timeout = Some(timeout),
                    Change::Ttl(ttl) => treatment.ttl = ttl,
                    Change::Rerun(rerun) => treatment.rerun = Some(rerun),
                    Change::Join(joins) => treatment.joins = joins,
                }
            }
        }
        treatment
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_rules_win_and_leave_the_rest_alone() {
        let rules = [
            "*=timeout=1h",
            "render*=handle, ttl=10m",
            "render_fast=auto,inline-budget=500ms,rerun=yes,join=no",
        ];
        let rules =
            Rules { default: Treatment::default(), rules: rules.map(|rule| rule.parse().unwrap()).into() };
        assert_eq!(
            rules.treatment("echo"),
            Treatment { timeout: Some(Duration::from_secs(3600)), ..Treatment::default() }
        );
        let render = rules.treatment("render_scene");
        assert_eq!((render.face, render.ttl), (Face::Handle, Duration::from_secs(600)));
        let fast = rules.treatment("render_fast");
        assert_eq!(
            (fast.face, fast.inline_budget, fast.rerun),
            (Face::Auto, Some(Duration::from_millis(500)), Some(true))
        );
        assert_eq!(fast.ttl, Duration::from_secs(600));
        assert_eq!((fast.joins, render.inline_budget, render.joins), (false, None, true));
    }

    #[test]
    fn a_wrong_rule_says_what_is_wrong_and_how_to_write_it() {
        for (rule, wrong) in [
            ("render", "no rule"),
            ("render=fast", "no mode"),
            ("=handle", "has no pattern"),
            ("a=timeout", "needs a value, as in timeout=10m"),
            ("a=timeout=soon", "no length of time"),
            ("a=timeout=-2s", "no length of time"),
            ("a=rerun=maybe", "yes or no"),
            ("a=join=always", "yes or no"),
            ("a=colour=red", "no setting"),
            ("[=handle", "no pattern"),
        ] {
            let error = rule.parse::<Rule>().unwrap_err();
            assert!(error.contains(wrong), "{rule}: {error}");
        }
    }
}
