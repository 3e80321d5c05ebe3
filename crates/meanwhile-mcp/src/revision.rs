//! The protocol's revisions, and what a peer of each can do. Nobody else compares their names.

/// The two ways to speak MCP, which are negotiated differently and may be spoken side by side.
/// See <https://modelcontextprotocol.io/specification/2026-07-28/basic/versioning>.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Era {
    /// A session begins with `initialize`.
    Legacy,
    /// There are no sessions: each request says in its `_meta` who asks, and what they can do.
    Modern,
}

/// A revision of the protocol.
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
    /// <https://modelcontextprotocol.io/specification/2026-07-28>
    V2026_07_28,
}

impl Revision {
    /// The newest that begins with `initialize`.
    pub const LATEST_LEGACY: Revision = Revision::V2025_11_25;
    /// The newest of all.
    pub const LATEST: Revision = Revision::V2026_07_28;

    /// Those that we speak.
    pub const ALL: [Revision; 5] = [
        Revision::V2024_11_05,
        Revision::V2025_03_26,
        Revision::V2025_06_18,
        Revision::V2025_11_25,
        Revision::V2026_07_28,
    ];

    /// How it is spoken.
    #[must_use]
    pub fn era(self) -> Era {
        if self >= Revision::V2026_07_28 { Era::Modern } else { Era::Legacy }
    }

    /// The name on the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Revision::V2024_11_05 => "2024-11-05",
            Revision::V2025_03_26 => "2025-03-26",
            Revision::V2025_06_18 => "2025-06-18",
            Revision::V2025_11_25 => "2025-11-25",
            Revision::V2026_07_28 => "2026-07-28",
        }
    }

    /// The revision of this name, if we speak it.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Revision> {
        Revision::ALL.into_iter().find(|revision| revision.name() == name)
    }

    /// What a server answers an `initialize` that asks for `name`: the same if it is spoken so, else our latest that is.
    #[must_use]
    pub fn negotiate(name: &str) -> Revision {
        Revision::from_name(name)
            .filter(|revision| revision.era() == Era::Legacy)
            .unwrap_or(Revision::LATEST_LEGACY)
    }

    /// Whether tasks are part of the revision's core: `params.task`, `tasks/result`. Later ones have them as an extension.
    #[must_use]
    pub fn has_core_tasks(self) -> bool {
        self == Revision::V2025_11_25
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
    fn a_known_revision_is_kept_and_an_unknown_one_gets_our_latest_that_begins_so() {
        for revision in Revision::ALL {
            assert_eq!(Revision::from_name(revision.name()), Some(revision));
            if revision.era() == Era::Legacy {
                assert_eq!(Revision::negotiate(revision.name()), revision);
            }
        }
        assert_eq!(Revision::negotiate("2026-07-28"), Revision::LATEST_LEGACY);
        assert_eq!(Revision::negotiate(""), Revision::LATEST_LEGACY);
    }
}
