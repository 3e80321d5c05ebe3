//! What happens in the demo, in order, and why it matters. Each step is checked before it is told as done.

use std::ffi::OsStr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use meanwhile_mcp::words::{CONTROL_JOB, POLL_RESULT, READ_RESULT};
use serde_json::{Value, json};

use super::Players;
use super::client::{Answered, Client};
use super::stage::{Stage, length};

/// How long the client waits for an answer, bare or wrapped.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long the video is, and so how long its rendering takes.
const VIDEO_SECONDS: u64 = 6;
/// How long one poll waits while the bar is drawn.
const BAR_WAIT_MS: u64 = 500;
/// More polls than a job of this length can need.
const POLLS_MAX: u32 = 60;
/// How much of a text of one line is shown, in characters.
const LINE_CHARS: usize = 74;
/// How much of a handle is shown, in bytes.
const HANDLE_SHOWN: usize = 11;

/// Tells the whole story.
pub(super) async fn tell(stage: &Stage, players: &mut Players) -> anyhow::Result<()> {
    let began = Instant::now();
    stage.says("A slow MCP server and an impatient client: bare, then with Meanwhile between.")?;
    stage.says("→ is what the agent calls, ← what it gets and after how long.")?;
    let bare = players.bare.insert(Client::start(&players.program, &["demo-server".as_ref()]).await?);
    bare_call(stage, bare).await.context("the bare call")?;
    let wrapped = players.wrapped.insert(start_wrapped(&players.program, players.folder.path()).await?);
    let mut agent = Agent { stage, client: wrapped };
    slow_call(&mut agent).await.context("the wrapped call")?;
    large_result(&mut agent).await.context("the large result")?;
    cancel(&mut agent).await.context("the cancel")?;
    stage.says(&format!(
        "\nAll of this has really happened, and was checked, in {}.",
        length(began.elapsed())
    ))?;
    what_next(stage, &players.program)
}

/// 1: what happens to agents every day.
async fn bare_call(stage: &Stage, client: &mut Client) -> anyhow::Result<()> {
    stage.part("1  Bare: the client calls the server itself")?;
    let arguments = json!({"seconds": VIDEO_SECONDS});
    stage.asks(&shown("render_video", &arguments))?;
    let mut bar = stage.bar();
    let mut last = None;
    let mut drawn = Ok(());
    let began = Instant::now();
    let answer = client
        .call("render_video", &arguments, PATIENCE, &mut |progress| {
            drawn = bar.at(&progress, "");
            last = Some(progress);
        })
        .await?;
    let after = began.elapsed();
    drop(bar);
    drawn?;
    ensure!(answer.is_none(), "the slow server answered within {}", length(PATIENCE));
    let last = last.context("the slow server reported no progress")?;
    let frames = format!("{} of {} frames", last.progress, last.total.unwrap_or_default());
    stage.gives_up(after, &format!("timed out, with {frames} rendered"))?;
    stage.means("The work is thrown away, and to call again is to start from nothing.")?;
    stage.means("(Many clients wait a minute; this one waits 3 s, so that you need not.)")?;
    let told = client.logged("notifications/cancelled", PATIENCE).await;
    told.context("the server was not told that the client gave up").map(drop)
}

/// The same server behind `meanwhile wrap`, as a client's configuration has it.
async fn start_wrapped(program: &Path, state: &Path) -> anyhow::Result<Client> {
    let before: [&OsStr; 6] =
        ["wrap", "--name", "demo-server", "--inline-budget", "500ms", "--state-dir"].map(OsStr::new);
    let after: [&OsStr; 4] = [state.as_os_str(), "--".as_ref(), program.as_os_str(), "demo-server".as_ref()];
    Client::start(program, &[&before[..], &after[..]].concat()).await
}

/// An agent in front of the wrapped server.
struct Agent<'a> {
    stage: &'a Stage,
    client: &'a mut Client,
}

impl Agent<'_> {
    /// Calls a tool and says so. It is the same client: an answer that takes longer than its patience is a failure.
    async fn call(&mut self, tool: &str, arguments: Value) -> anyhow::Result<(Answered, Duration)> {
        self.stage.asks(&shown(tool, &arguments))?;
        self.call_quietly(tool, &arguments).await
    }

    async fn call_quietly(&mut self, tool: &str, arguments: &Value) -> anyhow::Result<(Answered, Duration)> {
        let began = Instant::now();
        let answer = self.client.call(tool, arguments, PATIENCE, &mut |_| ()).await?;
        let answer = answer.with_context(|| format!("{tool} did not answer within {}", length(PATIENCE)))?;
        ensure!(!answer.is_error, "{tool} answered an error: {}", answer.text());
        Ok((answer, began.elapsed()))
    }

    /// Calls a slow tool and gets its handle.
    async fn start(&mut self, tool: &str, arguments: Value) -> anyhow::Result<String> {
        let (answer, after) = self.call(tool, arguments).await?;
        let status = answer.told.status.unwrap_or_default();
        let handle = answer.told.handle.with_context(|| format!("{tool} returned no handle"))?;
        self.stage.gets(after, &format!("handle {}, {status}", short(&handle)))?;
        Ok(handle)
    }

    /// Reads a slice of a large result and shows it.
    async fn read(&mut self, arguments: Value) -> anyhow::Result<String> {
        let (Answered { told, .. }, after) = self.call(READ_RESULT, arguments).await?;
        let text = told.text.context("no text was read")?;
        // The rest of the note is how to read on.
        self.stage.gets(after, told.note.split(';').next().unwrap_or_default())?;
        self.stage.quotes(&clipped(&text))?;
        Ok(text)
    }

    /// Polls until the job has ended, and shows how far it is meanwhile. Returns the answer of the last poll.
    async fn follow(&mut self, handle: &str) -> anyhow::Result<(Answered, Duration)> {
        let arguments = json!({"handle": handle, "wait_ms": BAR_WAIT_MS});
        self.stage.asks(&format!("{}   again and again", shown(POLL_RESULT, &arguments)))?;
        let began = Instant::now();
        let mut bar = self.stage.bar();
        for _ in 0..POLLS_MAX {
            let (answer, _) = self.call_quietly(POLL_RESULT, &arguments).await?;
            if answer.told.status.as_deref() != Some("working") {
                return Ok((answer, began.elapsed()));
            }
            let progress = answer.told.progress.context("a pending answer told no progress")?;
            let again =
                answer.told.poll_after_ms.context("a pending answer did not say when to poll again")?;
            bar.at(&progress, &format!("; ask again in {}", length(Duration::from_millis(again))))?;
        }
        anyhow::bail!("the job did not end")
    }
}

/// 2: a handle instead of a timeout, and something else to do meanwhile.
async fn slow_call(agent: &mut Agent<'_>) -> anyhow::Result<()> {
    let stage = agent.stage;
    stage.part("2  Wrapped: the same client and the same server, behind `meanwhile wrap`")?;
    let handle = agent.start("render_video", json!({"seconds": VIDEO_SECONDS})).await?;
    stage.means("No timeout: the call goes on as a job, safe on disk, known by this handle.")?;

    let (answer, after) = agent.call("weather", json!({"city": "Lisbon"})).await?;
    ensure!(
        answer.told.handle.is_none() && answer.text().starts_with("Lisbon: "),
        "weather was not answered inline"
    );
    stage.gets(after, answer.text())?;
    stage.means("Meanwhile the agent does other work. Fast tools answer as ever, no handle.")?;

    let (answer, after) = agent.follow(&handle).await?;
    ensure!(
        answer.text().starts_with("Rendered 144 frames"),
        "the result is not the server's: {}",
        answer.text()
    );
    stage.gets(after, answer.text())?;
    stage.means("The server's own answer, word for word, the moment it is there.")?;
    stage.means("(One poll, which waits for the job, would do; this is to show it moving.)")?;
    Ok(())
}

/// 3: what would fill a model's context, read in slices.
async fn large_result(agent: &mut Agent<'_>) -> anyhow::Result<()> {
    let stage = agent.stage;
    stage.part("3  A result that is too large for a model")?;
    let handle = agent.start("write_report", json!({})).await?;
    let (answer, after) = agent.call(POLL_RESULT, json!({"handle": handle, "wait_ms": 2500})).await?;
    let bytes = answer
        .told
        .bytes
        .filter(|_| answer.told.preview)
        .context("the large result came without a preview")?;
    ensure!(answer.text().len() < 16 * 1024, "the preview has {} bytes", answer.text().len());
    stage.gets(after, &format!("a preview: {} KB of {} KB", answer.text().len() / 1000, bytes / 1000))?;
    stage.means("The model sees its beginning, its end, and how to read the rest of it.")?;

    let found = agent.read(json!({"handle": handle, "grep": "WARN|ERROR"})).await?;
    let number = line_number(&found).context("grep found nothing")?;
    let lines = format!("{}-{}", number - 1, number + 1);
    let around = agent.read(json!({"handle": handle, "lines": lines})).await?;
    ensure!(
        around.lines().count() == 3 && around.contains("WARN"),
        "lines {lines} are not the ones asked for"
    );
    stage.means("A few lines in the model's context instead of all of it; none are lost.")?;
    Ok(())
}

/// 4: work that nobody wants any more.
async fn cancel(agent: &mut Agent<'_>) -> anyhow::Result<()> {
    let stage = agent.stage;
    stage.part("4  A cancel that reaches the server")?;
    let handle = agent.start("render_video", json!({"seconds": 60})).await?;
    let (answer, after) = agent.call(CONTROL_JOB, json!({"handle": handle, "action": "cancel"})).await?;
    let status = answer.told.status.unwrap_or_default();
    ensure!(status == "cancelled", "the cancelled job is {status}");
    stage.gets(after, &status)?;
    let line = agent.client.logged("notifications/cancelled", PATIENCE).await;
    stage.quotes(&line.context("the cancel did not reach the server")?)?;
    stage.means("The server's own log says that it has stopped: nothing runs on unwanted.")?;
    Ok(())
}

fn what_next(stage: &Stage, program: &Path) -> anyhow::Result<()> {
    let name = name_of(program);
    let quoted = json!(name);
    stage.part("What next")?;
    stage.says("\n  Wrap a server of yours: in your client's configuration, put Meanwhile where")?;
    stage.says("  the server's command was, and that command behind `--`:\n")?;
    stage.says("    {\"mcpServers\": {\"everything\": {")?;
    stage.says(&format!("      \"command\": {quoted},"))?;
    stage.says(r#"      "args": ["wrap", "--","#)?;
    stage.says(r#"        "npx", "-y", "@modelcontextprotocol/server-everything"]}}}"#)?;
    stage.says("\n  Then watch its jobs live, from any terminal:\n")?;
    stage.says(&format!("    {name} jobs watch"))?;
    Ok(())
}

/// How this program is to be called: by its name if that is how it was found, else by its path.
fn name_of(program: &Path) -> String {
    let called = std::env::args_os().next().unwrap_or_default();
    let is_name = Path::new(&called).components().count() == 1;
    if is_name { called.to_string_lossy().into_owned() } else { program.display().to_string() }
}

/// A call as one line, with its handle shortened.
fn shown(tool: &str, arguments: &Value) -> String {
    let mut text = arguments.to_string();
    if let Some(handle) = arguments["handle"].as_str() {
        text = text.replace(handle, &short(handle));
    }
    format!("{tool} {text}")
}

fn short(handle: &str) -> String {
    handle.get(..HANDLE_SHOWN).map_or_else(|| handle.to_owned(), |start| format!("{start}…"))
}

/// The number that `grep` writes before the first line that it found.
fn line_number(found: &str) -> Option<u64> {
    found.split(':').next()?.trim().parse().ok().filter(|number| *number > 1)
}

/// The lines of a text, none longer than fits.
fn clipped(text: &str) -> String {
    text.lines().map(|line| line.chars().take(LINE_CHARS).chain(['\n']).collect::<String>()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_shown_on_one_line_with_a_short_handle() {
        let arguments = json!({"handle": "job_abcdefghijklmnopqrstuvwxyz", "wait_ms": 500});
        assert_eq!(shown(POLL_RESULT, &arguments), r#"poll_result {"handle":"job_abcdefg…","wait_ms":500}"#);
    }

    #[test]
    fn the_line_of_a_match_is_before_its_colon() {
        assert_eq!(line_number("688:  688  02:06:08  WARN"), Some(688));
        assert_eq!(line_number("nothing"), None);
    }
}
