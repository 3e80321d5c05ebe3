//! The protocol's revisions, and what a peer of each can do. Nobody else compares their names.

/// A legacy revision: one that begins with `initialize`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Revision {
    /// <https://modelcontextprotocol.io/specification/2024-11-05>
    V2024_11_05,
    /// <https://modelcontextprotocol.io/specification/2025-03-26>
    V2025_03_26,
    /// <https://modelcontextprotocol.io/specification/2025-06-18>
    V2025_06_18,
    /// <https://modelcontextprotocol.io/specification/2025-11-25>
    V2025_11_25,
}

impl Revision {
    /// The newest that begins with `initialize`.
    pub const LATEST: Revision = Revision::V2025_11_25;

    const ALL: [Revision; 4] =
        [Revision::V2024_11_05, Revision::V2025_03_26, Revision::V2025_06_18, Revision::V2025_11_25];

    /// The name on the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Revision::V2024_11_05 => "2024-11-05",
            Revision::V2025_03_26 => "2025-03-26",
            Revision::V2025_06_18 => "2025-06-18",
            Revision::V2025_11_25 => "2025-11-25",
        }
    }

    /// The revision of this name, if we speak it.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Revision> {
        Revision::ALL.into_iter().find(|revision| revision.name() == name)
    }

    /// What a server answers a client that asks for `name`: the same if it speaks it, else its own latest.
    #[must_use]
    pub fn negotiate(name: &str) -> Revision {
        Revision::from_name(name).unwrap_or(Revision::LATEST)
    }

    /// Whether messages may come in batches. Only one revision had them.
    #[must_use]
    pub fn has_batches(self) -> bool {
        self == Revision::V2025_03_26
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_revision_is_kept_and_an_unknown_one_gets_our_latest() {
        for revision in Revision::ALL {
            assert_eq!(Revision::negotiate(revision.name()), revision);
        }
        assert_eq!(Revision::negotiate("2026-07-28"), Revision::LATEST);
        assert_eq!(Revision::negotiate(""), Revision::LATEST);
    }
}
