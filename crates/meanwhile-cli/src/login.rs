//! `meanwhile login` and `meanwhile logout`: the tokens of servers elsewhere that want their users to be known.

mod callback;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use meanwhile_mcp::login::{self, Client, ClientAsked, Credentials, Discovery, Entry, Flow, Secret};
use meanwhile_mcp::rules::duration;
use meanwhile_mcp::upstream::{self, Target};

use self::callback::Callback;
use crate::calls::whole;
use crate::config::{self, Oauth};
use crate::remote::{checked, cut};
use crate::serve::check_private;
use crate::state::State;
use crate::wrong_usage;

const EXAMPLES: &str = "\
Examples:
  meanwhile login --url https://mcp.example.com/mcp
  meanwhile login example --config mcp.json
  meanwhile login --url https://mcp.example.com/mcp --client-id me --client-secret-file secret --client-credentials

The tokens are kept in the state folder, in a file that only you can read, and go with the requests of `meanwhile wrap --url` and \
`meanwhile serve` to that server.";

/// The server to log in at.
#[derive(Debug, Args)]
struct Which {
    /// The server's name in the configuration
    #[arg(conflicts_with = "url", requires = "config")]
    name: Option<String>,

    /// The servers: the file that `meanwhile serve` has
    #[arg(long, env = "MEANWHILE_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,

    /// The server's URL, instead of its name
    #[arg(long, value_name = "URL")]
    url: Option<String>,

    #[command(flatten)]
    state: State,
}

/// `meanwhile login`.
#[derive(Debug, Args)]
#[command(override_usage = "meanwhile login [OPTIONS] --url URL\n       meanwhile login [OPTIONS] --config FILE NAME", after_help = EXAMPLES)]
pub(crate) struct Login {
    #[command(flatten)]
    which: Which,

    /// The id of a client that you have registered with the authorization server [default: one is registered for you]
    #[arg(long, value_name = "ID")]
    client_id: Option<String>,

    /// The file with that client's secret; only you may be able to read it
    #[arg(long, value_name = "FILE")]
    client_secret_file: Option<PathBuf>,

    /// The URL of a document about this client, for authorization servers that take one in place of a registration
    #[arg(long, value_name = "URL")]
    client_metadata_url: Option<String>,

    /// Log in as the client itself, without a browser
    #[arg(long)]
    client_credentials: bool,

    /// A right to ask for, instead of those that the server wants; may be given several times
    #[arg(long, value_name = "SCOPE")]
    scope: Vec<String>,

    /// The port that the browser comes back to, if it is a registered one: to http://localhost:PORT/callback [default: a free one]
    #[arg(long, value_name = "PORT", value_parser = whole(1, u16::MAX))]
    callback_port: Option<u16>,

    /// Do not open a browser; the page's address is written to stderr in any case
    #[arg(long)]
    no_browser: bool,

    /// How long to wait for you
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = duration)]
    wait: Duration,
}

/// `meanwhile logout`.
#[derive(Debug, Args)]
#[command(
    override_usage = "meanwhile logout [OPTIONS] --url URL\n       meanwhile logout [OPTIONS] --config FILE NAME",
    after_help = "Examples:\n  meanwhile logout --url https://mcp.example.com/mcp\n  meanwhile logout example --config mcp.json"
)]
pub(crate) struct Logout {
    #[command(flatten)]
    which: Which,
}

/// A server, as the configuration or the command line has it.
struct Server {
    name: String,
    url: String,
    oauth: Oauth,
    entry: Entry,
}

/// The login that the requests to a server take their token from; `which` names the server to `meanwhile login`.
pub(crate) fn for_requests(state: &State, url: &str, which: &str) -> anyhow::Result<upstream::Login> {
    Ok(upstream::Login { entry: state.vault()?.entry(url), command: format!("meanwhile login {which}") })
}

impl Which {
    fn server(&self) -> anyhow::Result<Server> {
        let (name, url, oauth) = match (&self.name, &self.url, &self.config) {
            (Some(name), _, Some(config)) => configured(config, name)?,
            (_, Some(url), _) => {
                checked(url)?;
                // What may be a secret is not shown.
                (cut(url), url.clone(), Oauth::default())
            }
            _ => {
                return Err(wrong_usage(
                    "name the server: NAME with the --config FILE that it is in, or --url URL",
                ));
            }
        };
        let entry = self.state.vault()?.entry(&url);
        Ok(Server { name, url, oauth, entry })
    }
}

fn configured(config: &Path, name: &str) -> anyhow::Result<(String, String, Oauth)> {
    let shown = config.display();
    let plain = config::plain_name(name);
    let server = config::read(config)?.into_iter().find(|server| server.launch.name == plain);
    let server = server.with_context(|| format!("{shown}: there is no server `{name}`"))?;
    let Target::Remote { url, headers, .. } = server.launch.target else {
        bail!("{shown}: server `{name}` is a command; what it wants is given to it by its environment");
    };
    if headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("authorization")) {
        bail!("{shown}: server `{name}` has an Authorization header of its own, which goes before any login");
    }
    let mut oauth = server.oauth;
    // As a path in the file, it is seen from the file.
    oauth.client_secret_file = oauth.client_secret_file.map(|file| {
        let folder = config.parent().unwrap_or(Path::new(""));
        folder.join(file)
    });
    Ok((plain, url, oauth))
}

impl Login {
    pub(crate) async fn run(&self) -> anyhow::Result<u8> {
        let server = self.which.server()?;
        let before = server.entry.read().unwrap_or_default();
        let asked = self.client(&server.oauth)?;
        let discovery = Discovery::of(&server.url).await.with_context(|| server.name.clone())?;
        let credentials = if self.client_credentials {
            let (Some(id), Some(secret)) = (asked.id, asked.secret) else {
                bail!("--client-credentials needs a --client-id and a --client-secret-file");
            };
            let client = Client::given(&discovery, id, Some(secret));
            login::log_in_as_client(&discovery, client, &self.scopes(&server.oauth)).await?
        } else {
            self.in_browser(&server.oauth, discovery, asked, before.as_ref()).await?
        };
        let lock = server.entry.lock().await?;
        server.entry.write(&credentials)?;
        drop(lock);
        say(&format!("logged in at {}{}", server.name, lasting(&credentials)));
        Ok(0)
    }

    async fn in_browser(
        &self,
        oauth: &Oauth,
        discovery: Discovery,
        asked: ClientAsked,
        before: Option<&Credentials>,
    ) -> anyhow::Result<Credentials> {
        let port = self.callback_port.or(oauth.callback_port);
        let callback = Callback::listen(port, before.and_then(Client::port_of)).await?;
        let client = Client::obtain(&discovery, asked, before, callback.url()).await?;
        let flow = Arc::new(Flow::new(discovery, client, callback.url(), &self.scopes(oauth), before)?);
        let page = flow.page()?;
        say(&format!("log in on this page:\n{page}"));
        if !self.no_browser
            && let Err(error) = webbrowser::open(page.as_str())
        {
            say(&format!("no browser can be opened ({error}): open the page yourself"));
        }
        let Ok(returned) = tokio::time::timeout(self.wait, callback.code(flow.clone())).await else {
            bail!("nobody logged in within {:?}; run it again, with a longer --wait if need be", self.wait);
        };
        Ok(flow.redeem(returned?).await?)
    }

    fn client(&self, oauth: &Oauth) -> anyhow::Result<ClientAsked> {
        let id = self.client_id.clone().or_else(|| oauth.client_id.clone());
        let file = self.client_secret_file.as_ref().or(oauth.client_secret_file.as_ref());
        if id.is_none() && file.is_some() {
            bail!("a client's secret is of no use without its --client-id");
        }
        let document = self.client_metadata_url.clone().or_else(|| oauth.client_metadata_url.clone());
        if document.as_ref().is_some_and(|url| !url.starts_with("https://")) {
            bail!("--client-metadata-url: must begin with https://");
        }
        Ok(ClientAsked { id, secret: file.map(|file| secret(file)).transpose()?, document })
    }

    fn scopes(&self, oauth: &Oauth) -> Vec<String> {
        let given = self.scope.join(" ");
        let scopes = if given.is_empty() { oauth.scopes.as_deref().unwrap_or_default() } else { &given };
        scopes.split_ascii_whitespace().map(str::to_owned).collect()
    }
}

fn secret(file: &Path) -> anyhow::Result<Secret> {
    check_private(file)?;
    let text =
        std::fs::read_to_string(file).with_context(|| format!("{}: cannot be read", file.display()))?;
    if text.trim().is_empty() {
        bail!("{}: holds no secret", file.display());
    }
    Ok(Secret::new(text.trim().to_owned()))
}

/// How long the login lasts.
fn lasting(credentials: &Credentials) -> String {
    let ends =
        credentials.expires_at().and_then(|at| jiff::Timestamp::from_second(i64::try_from(at).ok()?).ok());
    match ends {
        _ if credentials.lasts() => "; the login is renewed by itself".to_owned(),
        Some(ends) => format!(" until {ends:.0}"),
        None => String::new(),
    }
}

impl Logout {
    pub(crate) async fn run(&self) -> anyhow::Result<u8> {
        let server = self.which.server()?;
        let lock = server.entry.lock().await?;
        let credentials = server.entry.read().unwrap_or_default();
        let was_there = server.entry.forget()?;
        drop(lock);
        if let Some(credentials) = credentials
            && let Err(error) = login::revoke(&credentials).await
        {
            say(&format!("the authorization server was not told: {error}"));
        }
        let name = &server.name;
        say(&if was_there {
            format!("logged out of {name}")
        } else {
            format!("there was no login at {name}")
        });
        Ok(0)
    }
}

/// Writes to stderr; whoever has closed it does not want to know.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
