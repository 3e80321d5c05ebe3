//! Why a slice could not be taken. Each message names the argument, and what to write instead.

/// An argument of `read_result` that cannot be followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SliceError {
    /// More than one way of selecting.
    #[error("`{first}` and `{second}` exclude each other; give only one of `lines`, `grep`, `json_path`")]
    Exclusive {
        /// The one argument.
        first: &'static str,
        /// The other.
        second: &'static str,
    },
    /// A part that the answer does not have.
    #[error("`part`: the answer has no {asked}; its parts: {parts}")]
    NoSuchPart {
        /// What was asked for.
        asked: String,
        /// What there is.
        parts: String,
    },
    /// No part was named, and none of them is text.
    #[error("`part`: the answer has no text, so name one of its parts: {parts}")]
    NoText {
        /// What there is.
        parts: String,
    },
    /// A selection of text from something else.
    #[error(
        "`{field}`: {part} is not text; use `json_path`, or leave `{field}` out to get the whole block. \
         The part is {info}"
    )]
    NotText {
        /// The argument that needs text.
        field: &'static str,
        /// The part asked for.
        part: String,
        /// What it is.
        info: String,
    },
    /// A range of lines that cannot be read.
    #[error("`lines`: `{given}` {problem}; write FIRST-LAST, e.g. {example}")]
    Lines {
        /// The range as it was given, clipped.
        given: String,
        /// What is wrong with it.
        problem: &'static str,
        /// A range that would do.
        example: String,
    },
    /// A range of lines beyond the last.
    #[error(
        "`lines`: `{given}` starts after the last line; there are {total}, so write e.g. -50 for the last 50"
    )]
    LinesPastEnd {
        /// The range as it was given.
        given: String,
        /// How many lines there are.
        total: usize,
    },
    /// An offset beyond the end.
    #[error("`offset`: {offset} is past the end; there are {total} {unit}, so give 0 to {total}")]
    OffsetPastEnd {
        /// What was asked for.
        offset: u64,
        /// How much there is.
        total: u64,
        /// Of what: `bytes`, `matches`, …
        unit: &'static str,
    },
    /// A limit of nothing.
    #[error("`limit`: 0 reads nothing; give 1 to {max}, or leave it out")]
    ZeroLimit {
        /// The largest limit of this selection.
        max: u64,
    },
    /// Context without a search.
    #[error("`context` goes with `grep` only; leave it out, or give `grep`")]
    StrayContext,
    /// More context than is given.
    #[error("`context`: {given} is too much; give 0 to {max}")]
    TooMuchContext {
        /// What was asked for.
        given: u32,
        /// The most there is.
        max: u32,
    },
    /// A pattern or a path that is too long to be meant.
    #[error("`{field}`: {length} characters are too many; write at most {max}")]
    TooLong {
        /// The argument.
        field: &'static str,
        /// Its length in characters.
        length: usize,
        /// The most characters.
        max: usize,
    },
    /// A regular expression that cannot be used.
    #[error(
        "`grep`: {problem}; write a regular expression of Rust's `regex` crate (no look-around, no \
         back-references), and escape characters such as ( [ . * to search for them"
    )]
    Pattern {
        /// What the compiler says.
        problem: String,
    },
    /// A JSON path that cannot be used.
    #[error("`json_path`: {problem}; write a path of RFC 9535, e.g. $.items[0].name or $..id")]
    Path {
        /// What is wrong with it.
        problem: String,
    },
    /// A JSON path into something that is not JSON.
    #[error("`json_path`: {what} cannot be read as JSON ({reason}); use `grep` or `lines`")]
    NotJson {
        /// What it was to be applied to.
        what: String,
        /// What the parser says.
        reason: String,
    },
    /// A JSON path that selects more than can be written down.
    #[error("`json_path`: the matches are more than {max} bytes of JSON; narrow the path")]
    TooBroad {
        /// The most bytes.
        max: usize,
    },
}
