//! The terminal that stdout may be.

use terminal_size::{Height, Width, terminal_size_of};

/// How many columns and lines stdout has; `None` if it is no terminal, and nothing need fit.
pub(super) fn size() -> Option<(usize, usize)> {
    let (Width(columns), Height(lines)) = terminal_size_of(std::io::stdout())?;
    Some((usize::from(columns), usize::from(lines)))
}

/// How many columns stdout has, if it is a terminal.
pub(super) fn width() -> Option<usize> {
    size().map(|(columns, _)| columns)
}
