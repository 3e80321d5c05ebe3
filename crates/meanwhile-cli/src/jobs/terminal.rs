//! The terminal that stdout may be.

use terminal_size::{Width, terminal_size_of};

/// How many columns stdout has; `None` if it is no terminal, and nothing need fit.
pub(super) fn width() -> Option<usize> {
    terminal_size_of(std::io::stdout()).map(|(Width(columns), _)| usize::from(columns))
}
