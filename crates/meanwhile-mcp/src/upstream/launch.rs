//! How a server is reached, and what tells one from another.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use super::http::Login;
use super::probe::Verdict;
use super::record::Record;
use crate::revision::Era;

/// How to reach a server.
#[derive(Debug, Clone)]
pub struct Launch {
    /// The server's configured name, which marks its jobs and its lines on our stderr.
    pub name: String,
    /// Where it is.
    pub target: Target,
    /// How it is spoken to; `None`: it is asked.
    pub era: Option<Era>,
    /// What it has shown of itself, to whoever has a clone of this.
    pub(super) record: Arc<Record>,
}

/// Where a server is.
#[derive(Clone)]
pub enum Target {
    /// A process of ours, spoken to over its stdin and stdout.
    Process {
        /// The program.
        program: String,
        /// Its arguments.
        args: Vec<String>,
        /// Environment variables that it gets besides ours. Their values may be secrets: they are never shown.
        env: Vec<(String, String)>,
        /// Where it runs; `None` is where we do.
        cwd: Option<PathBuf>,
    },
    /// A server that runs by itself, spoken to over HTTP.
    Remote {
        /// Its endpoint.
        url: String,
        /// Headers of every request. Their values may be secrets: they are never shown.
        headers: Vec<(String, String)>,
        /// It has the HTTP+SSE transport of 2024-11-05, not streamable HTTP.
        legacy_sse: bool,
        /// The login whose token goes with every request, where no header of the user's own does.
        login: Option<Login>,
    },
}

impl Launch {
    /// A server; whoever has a clone of this learns with it of which era it is, and whether it comes up.
    #[must_use]
    pub fn new(name: String, target: Target, era: Option<Era>) -> Launch {
        Launch { name, target, era, record: Arc::default() }
    }

    /// What tells this server from others, the same in every session: its name and its place, nothing secret.
    #[must_use]
    pub fn identity(&self) -> Vec<String> {
        let mut parts = vec![self.name.clone()];
        match &self.target {
            Target::Process { program, args, cwd, env: _ } => {
                parts.push(program.clone());
                parts.extend(args.iter().cloned());
                parts.extend(cwd.iter().map(|folder| format!("in {}", folder.display())));
            }
            Target::Remote { url, .. } => parts.push(without_user(url)),
        }
        parts
    }

    pub(super) fn is_remote(&self) -> bool {
        matches!(self.target, Target::Remote { .. })
    }

    /// What is known beforehand. The old transport was gone before the modern era began.
    pub(super) fn verdict(&self) -> Verdict {
        let is_old = matches!(self.target, Target::Remote { legacy_sse: true, .. });
        match self.era {
            _ if is_old => Verdict::Known(Era::Legacy),
            Some(era) => Verdict::Known(era),
            None if self.record.is_legacy() => Verdict::Known(Era::Legacy),
            None => Verdict::Open,
        }
    }

    /// What a person calls the place: the program, or the URL.
    #[must_use]
    pub fn place(&self) -> String {
        match &self.target {
            Target::Process { program, .. } => program.clone(),
            Target::Remote { url, .. } => {
                let url = without_user(url);
                url.split(['?', '#']).next().unwrap_or_default().to_owned()
            }
        }
    }
}

/// A URL without the name and password that may stand before its host.
fn without_user(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let host = rest[..end].rfind('@').map_or(0, |at| at + 1);
    format!("{scheme}://{}", &rest[host..])
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names =
            |pairs: &[(String, String)]| pairs.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
        match self {
            Target::Process { program, args, env, cwd } => {
                let mut shown = f.debug_struct("Process");
                shown.field("program", program).field("args", args);
                shown.field("env", &names(env)).field("cwd", cwd).finish()
            }
            Target::Remote { url, headers, legacy_sse, login: _ } => {
                let mut shown = f.debug_struct("Remote");
                shown.field("url", &without_user(url)).field("headers", &names(headers));
                shown.field("legacy_sse", legacy_sse).finish()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_secret_is_shown_or_tells_one_server_from_another() {
        let secret = || vec![("Authorization".to_owned(), "s3cret".to_owned())];
        let url = "https://me:s3cret@example.com/mcp?x=1@2".to_owned();
        let remote = Target::Remote { url, headers: secret(), legacy_sse: false, login: None };
        let process = Target::Process { program: "p".into(), args: vec![], env: secret(), cwd: None };
        for target in [remote, process] {
            let launch = Launch::new("n".into(), target, None);
            let shown = format!("{launch:?} {:?} {}", launch.identity(), launch.place());
            assert!(!shown.contains("s3cret"), "{shown}");
        }
        assert_eq!(without_user("https://me:pw@example.com/a@b"), "https://example.com/a@b");
        assert_eq!(without_user("https://example.com?a@b"), "https://example.com?a@b");
    }
}
