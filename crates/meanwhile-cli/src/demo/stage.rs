//! How the demo looks: colour and a moving bar in a terminal, plain lines anywhere else. All its writing is here.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use clap::builder::styling::{AnsiColor, Style};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::client::Progress;

const BOLD: Style = Style::new().bold();
const DIM: Style = Style::new().dimmed();
const ASKED: Style = AnsiColor::Cyan.on_default();
const GOOD: Style = AnsiColor::Green.on_default();
const BAD: Style = AnsiColor::Red.on_default();

/// Where there is no bar to move, progress is told this often.
const LINE_EVERY: Duration = Duration::from_millis(1500);

/// Where the demo plays.
pub(super) struct Stage {
    /// Whether what has been written can be drawn over.
    live: bool,
    colour: bool,
}

impl Stage {
    /// This process's stdout.
    pub(super) fn stdout() -> Stage {
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let live = io::stdout().is_terminal() && !dumb;
        let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Stage { live, colour: live && !no_colour }
    }

    /// A new part of the story.
    pub(super) fn part(&self, title: &str) -> io::Result<()> {
        self.write(&format!("\n{}\n", self.paint(BOLD, title)))
    }

    /// What the agent does.
    pub(super) fn asks(&self, call: &str) -> io::Result<()> {
        self.write(&format!("\n  {} {call}\n", self.paint(ASKED, "→")))
    }

    /// What it gets, and after how long.
    pub(super) fn gets(&self, after: Duration, answer: &str) -> io::Result<()> {
        let after = self.paint(DIM, &format!("{:>7}", length(after)));
        self.write(&format!("  {} {after}  {answer}\n", self.paint(GOOD, "←")))
    }

    /// What it does not get.
    pub(super) fn gives_up(&self, after: Duration, how: &str) -> io::Result<()> {
        let after = self.paint(DIM, &format!("{:>7}", length(after)));
        self.write(&format!("  {} {after}  {}\n", self.paint(BAD, "✗"), self.paint(BAD, how)))
    }

    /// Lines of an answer, or of a server's log.
    pub(super) fn quotes(&self, text: &str) -> io::Result<()> {
        let lines: String =
            text.lines().map(|line| format!("    {} {line}\n", self.paint(DIM, "│"))).collect();
        self.write(&lines)
    }

    /// A line of its own.
    pub(super) fn says(&self, text: &str) -> io::Result<()> {
        self.write(&format!("{text}\n"))
    }

    /// Why it matters.
    pub(super) fn means(&self, text: &str) -> io::Result<()> {
        self.write(&format!("    {text}\n"))
    }

    /// Something whose progress is shown, until it is dropped.
    pub(super) fn bar(&self) -> Bar<'_> {
        let bar = self.live.then(|| {
            let bar = ProgressBar::with_draw_target(Some(1), ProgressDrawTarget::stdout());
            let colour = if self.colour { ".cyan" } else { "" };
            let style =
                ProgressStyle::with_template(&format!("    [{{bar:30{colour}}}] {{percent:>3}} % {{msg}}"));
            bar.with_style(style.expect("the template here is well formed").progress_chars("=> "))
        });
        Bar { stage: self, bar, told: Instant::now() }
    }

    fn paint(&self, style: Style, text: &str) -> String {
        if self.colour { format!("{style}{text}{style:#}") } else { text.to_owned() }
    }

    fn write(&self, text: &str) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(text.as_bytes())?;
        stdout.flush()
    }
}

/// Progress that is being shown. What it drew is gone when it is dropped.
pub(super) struct Bar<'a> {
    stage: &'a Stage,
    bar: Option<ProgressBar>,
    told: Instant,
}

impl Bar<'_> {
    /// Shows how far it is; `more` is what else there is to say of it.
    pub(super) fn at(&mut self, progress: &Progress, more: &str) -> io::Result<()> {
        let (done, total) = (progress.progress as u64, progress.total.unwrap_or_default() as u64);
        if let Some(bar) = &self.bar {
            bar.set_length(total.max(1));
            bar.set_position(done);
            bar.set_message(format!("frame {done} of {total}{more}"));
        } else if self.told.elapsed() >= LINE_EVERY {
            self.told = Instant::now();
            self.stage
                .quotes(&format!("{:>3} %  frame {done} of {total}{more}", 100 * done / total.max(1)))?;
        }
        Ok(())
    }
}

impl Drop for Bar<'_> {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// A duration, short ones in milliseconds.
pub(super) fn length(time: Duration) -> String {
    let millis = time.as_secs_f64() * 1000.0;
    match millis {
        ..9.95 => format!("{millis:.1} ms"),
        ..999.5 => format!("{millis:.0} ms"),
        _ => format!("{:.1} s", millis / 1000.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_of_time_is_as_precise_as_it_is_short() {
        let of = |micros| length(Duration::from_micros(micros));
        assert_eq!(
            [of(412), of(9_960), of(502_300), of(999_900), of(3_001_000)],
            ["0.4 ms", "10 ms", "502 ms", "1.0 s", "3.0 s"]
        );
    }
}
