//! What a session says, kept for a while, so that a client whose connection broke can go on where it was
//! (<https://modelcontextprotocol.io/specification/2025-11-25/basic/transports#resumability-and-redelivery>).

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use data_encoding::BASE32_NOPAD;
use tokio::sync::Notify;

/// So many bytes are kept of what has been read already, and for nobody that reads; what somebody reads is kept up to
/// [`HELD_MAX`].
const KEPT: usize = 2 * 1024 * 1024;
/// A reader that is further behind loses what is oldest.
const HELD_MAX: usize = 32 * 1024 * 1024;
/// So many messages of each stream are kept, and so many streams that have ended.
const MESSAGES_MAX: usize = 1024;
const ENDED_MAX: usize = 64;

/// The stream of what is said unasked.
pub(super) const UNASKED: u64 = 0;

/// The streams of one session in one process.
#[derive(Debug)]
pub(super) struct Streams {
    /// In the ids of their events: streams of the same session in another process are others.
    mark: String,
    kept: Mutex<Kept>,
}

#[derive(Debug)]
struct Kept {
    streams: BTreeMap<u64, Stream>,
    next_stream: u64,
    next_reader: u64,
    bytes: usize,
}

#[derive(Debug, Default)]
struct Stream {
    events: VecDeque<(u64, Arc<str>)>,
    last: u64,
    taken: u64,
    reader: Option<u64>,
    ended: bool,
    changed: Arc<Notify>,
}

/// Reads one stream, from behind a place in it. A later reader of the same stream takes its place.
#[derive(Debug)]
pub(super) struct Reader {
    streams: Arc<Streams>,
    stream: u64,
    after: u64,
    reader: u64,
    changed: Arc<Notify>,
}

impl Streams {
    pub(super) fn new() -> Arc<Streams> {
        let streams = BTreeMap::from([(UNASKED, Stream::default())]);
        let mut bits = [0; 5];
        getrandom::fill(&mut bits).expect("the system gives random bits");
        let mark = BASE32_NOPAD.encode(&bits).to_ascii_lowercase();
        let kept = Kept { streams, next_stream: 1, next_reader: 1, bytes: 0 };
        Arc::new(Streams { mark, kept: Mutex::new(kept) })
    }

    /// A new stream for one request. What was said unasked while nobody listens is said there.
    pub(super) fn open(&self) -> u64 {
        let mut kept = self.lock();
        let number = kept.next_stream;
        kept.next_stream += 1;
        kept.streams.insert(number, Stream::default());
        let unheard = kept.take_unheard();
        for line in unheard {
            kept.push(number, line);
        }
        number
    }

    /// Says something on a stream.
    pub(super) fn push(&self, stream: u64, line: impl Into<Arc<str>>) {
        self.lock().push(stream, line.into());
    }

    /// Says something unasked: to who listens, else on the newest stream that somebody reads, else it waits.
    pub(super) fn push_unasked(&self, line: String) {
        let mut kept = self.lock();
        let is_read = |stream: &Stream| stream.reader.is_some() && !stream.ended;
        let listens = kept.streams.get(&UNASKED).is_some_and(is_read);
        let newest = kept.streams.iter().rev().find(|(_, stream)| is_read(stream)).map(|(number, _)| *number);
        let stream = if listens { UNASKED } else { newest.unwrap_or(UNASKED) };
        kept.push(stream, line.into());
    }

    /// Nothing more is said on a stream.
    pub(super) fn end(&self, stream: u64) {
        let mut kept = self.lock();
        if let Some(stream) = kept.streams.get_mut(&stream) {
            stream.ended = true;
            stream.changed.notify_waiters();
        }
        kept.forget();
    }

    /// Nothing more is said on any of them.
    pub(super) fn end_all(&self) {
        for stream in self.lock().streams.values_mut() {
            stream.ended = true;
            stream.changed.notify_waiters();
        }
    }

    /// Reads a stream from behind `after`; `None` is from behind what has been read. `None` if nothing is kept of it.
    pub(super) fn read(self: &Arc<Self>, stream: u64, after: Option<u64>) -> Option<Reader> {
        let mut kept = self.lock();
        let reader = kept.next_reader;
        kept.next_reader += 1;
        let found = kept.streams.get_mut(&stream)?;
        if after.is_some_and(|after| after > found.last) {
            return None;
        }
        found.reader = Some(reader);
        // Who read before has to see that it no longer does.
        found.changed.notify_waiters();
        let (after, changed) = (after.unwrap_or(found.taken), found.changed.clone());
        Some(Reader { streams: self.clone(), stream, after, reader, changed })
    }

    /// Reads on behind an event. Who has listened to another process for what is said unasked listens here from now on: what was
    /// said there meanwhile is lost. Returns also whether the event is one of these streams.
    pub(super) fn resume(self: &Arc<Self>, event: &str) -> Option<(Reader, bool)> {
        let mut parts = event.splitn(3, '-');
        let (stream, after) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        let is_ours = parts.next() == Some(self.mark.as_str());
        let reader = match stream {
            _ if is_ours => self.read(stream, Some(after)),
            UNASKED => self.read(UNASKED, None),
            _ => None,
        };
        reader.map(|reader| (reader, is_ours))
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn push(&mut self, stream: u64, line: Arc<str>) {
        let Some(found) = self.streams.get_mut(&stream).filter(|stream| !stream.ended) else { return };
        self.bytes += line.len();
        found.last += 1;
        found.events.push_back((found.last, line));
        found.changed.notify_waiters();
        if found.events.len() > MESSAGES_MAX {
            self.drop_oldest(stream);
        }
        self.forget();
    }

    fn take_unheard(&mut self) -> Vec<Arc<str>> {
        let Some(unasked) = self.streams.get_mut(&UNASKED).filter(|stream| stream.reader.is_none()) else {
            return vec![];
        };
        let taken = unasked.taken;
        let read = unasked.events.partition_point(|(number, _)| *number <= taken);
        let unheard: Vec<Arc<str>> = unasked.events.drain(read..).map(|(_, line)| line).collect();
        self.bytes -= unheard.iter().map(|line| line.len()).sum::<usize>();
        unheard
    }

    /// Keeps to the bounds: what was read goes first.
    fn forget(&mut self) {
        while self.bytes > KEPT {
            let is_read =
                |stream: &Stream| stream.events.front().is_some_and(|(number, _)| *number <= stream.taken);
            let unread = |stream: &Stream| stream.reader.is_none() && stream.events.len() > 1;
            let abandoned =
                |stream: &Stream| stream.ended && stream.reader.is_none() && !stream.events.is_empty();
            let held = |stream: &Stream| stream.events.len() > 1;
            let find = |fits: &dyn Fn(&Stream) -> bool| {
                self.streams.iter().find(|(_, stream)| fits(stream)).map(|(number, _)| *number)
            };
            let oldest = find(&is_read).or_else(|| find(&unread));
            let mut abandoned = self.streams.iter().filter(|(_, stream)| abandoned(stream));
            // The last of them may be as large as any message, and is kept.
            let abandoned = abandoned.next().zip(abandoned.next()).map(|((first, _), _)| *first);
            if let Some(stream) = oldest {
                self.drop_oldest(stream);
            } else if self.bytes <= HELD_MAX {
                break;
            } else if let Some(stream) = abandoned {
                // Without its answer it is of no use: whoever comes back for that is told that it is gone.
                self.let_go(stream);
            } else if let Some(stream) = find(&held) {
                self.drop_oldest(stream);
            } else {
                break;
            }
        }
        let ended = |stream: &Stream| stream.ended && stream.reader.is_none();
        let mut spare =
            self.streams.values().filter(|stream| ended(stream)).count().saturating_sub(ENDED_MAX);
        let bytes = &mut self.bytes;
        self.streams.retain(|_, stream| {
            let gone = spare > 0 && ended(stream);
            if gone {
                spare -= 1;
                *bytes -= stream.events.iter().map(|(_, line)| line.len()).sum::<usize>();
            }
            !gone
        });
    }

    fn let_go(&mut self, stream: u64) {
        if let Some(stream) = self.streams.remove(&stream) {
            self.bytes -= stream.events.iter().map(|(_, line)| line.len()).sum::<usize>();
        }
    }

    fn drop_oldest(&mut self, stream: u64) {
        let Some(stream) = self.streams.get_mut(&stream) else { return };
        if let Some((number, line)) = stream.events.pop_front() {
            self.bytes -= line.len();
            if number > stream.taken {
                tracing::debug!("a message that nobody read is dropped");
            }
        }
    }
}

impl Reader {
    /// The next message; `None` at the stream's end, or when another reader has taken over.
    pub(super) async fn next(&mut self) -> Option<Arc<str>> {
        loop {
            let changed = self.changed.clone();
            let changed = changed.notified();
            {
                let mut kept = self.streams.lock();
                let stream = kept.streams.get_mut(&self.stream)?;
                if stream.reader != Some(self.reader) {
                    return None;
                }
                let next = stream.events.partition_point(|(number, _)| *number <= self.after);
                if let Some((number, line)) = stream.events.get(next).cloned() {
                    self.after = number;
                    stream.taken = stream.taken.max(number);
                    return Some(line);
                }
                if stream.ended {
                    return None;
                }
            }
            changed.await;
        }
    }

    /// The id of the message that was read last: behind it this reader goes on.
    pub(super) fn event_id(&self) -> String {
        format!("{}-{}-{}", self.stream, self.after, self.streams.mark)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut kept = self.streams.lock();
        if let Some(stream) = kept.streams.get_mut(&self.stream)
            && stream.reader == Some(self.reader)
        {
            stream.reader = None;
        }
        kept.forget();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn next(reader: &mut Reader) -> Option<String> {
        reader.next().await.map(|line| line.to_string())
    }

    #[tokio::test]
    async fn a_reader_goes_on_where_the_one_before_it_was_cut_off() {
        let streams = Streams::new();
        let stream = streams.open();
        for line in ["a", "b", "c"] {
            streams.push(stream, line.to_owned());
        }
        let mut first = streams.read(stream, None).unwrap();
        assert_eq!(next(&mut first).await.unwrap(), "a");
        assert_eq!(next(&mut first).await.unwrap(), "b");
        let mut second = streams.read(stream, Some(1)).unwrap();
        assert_eq!(next(&mut first).await, None, "one reader at a time");
        drop(first);
        streams.end(stream);
        assert_eq!(next(&mut second).await.unwrap(), "b");
        assert_eq!(next(&mut second).await.unwrap(), "c");
        assert_eq!(next(&mut second).await, None);
        assert!(streams.read(stream, Some(4)).is_none() && streams.read(77, None).is_none());
    }

    #[tokio::test]
    async fn an_event_of_another_process_names_none_of_these_streams() {
        let (here, there) = (Streams::new(), Streams::new());
        let stream = there.open();
        there.push(stream, "theirs".to_owned());
        there.push_unasked("also theirs".to_owned());
        let mut reader = there.read(stream, None).unwrap();
        next(&mut reader).await.unwrap();
        let mut listener = there.read(UNASKED, None).unwrap();
        next(&mut listener).await.unwrap();

        here.push(here.open(), "ours".to_owned());
        assert!(here.resume(&reader.event_id()).is_none());
        for broken in ["", "1", "1-1", "x-1-y", "1-x-y", "--"] {
            assert!(here.resume(broken).is_none(), "{broken}");
        }
        let (mut resumed, is_ours) = here.resume(&listener.event_id()).unwrap();
        here.push_unasked("first".to_owned());
        assert_eq!((next(&mut resumed).await.as_deref(), is_ours), (Some("first"), false));
        let first = resumed.event_id();
        here.push_unasked("second".to_owned());
        let (mut resumed, is_ours) = here.resume(&first).unwrap();
        assert_eq!((next(&mut resumed).await.as_deref(), is_ours), (Some("second"), true));
    }

    #[tokio::test]
    async fn what_is_said_unasked_reaches_who_reads() {
        let streams = Streams::new();
        streams.push_unasked("early".to_owned());
        let stream = streams.open();
        let mut reader = streams.read(stream, None).unwrap();
        streams.push_unasked("while it waits".to_owned());
        assert_eq!(next(&mut reader).await.unwrap(), "early");
        assert_eq!(next(&mut reader).await.unwrap(), "while it waits");
        let mut listener = streams.read(UNASKED, None).unwrap();
        streams.push_unasked("heard".to_owned());
        assert_eq!(next(&mut listener).await.unwrap(), "heard");
    }

    #[tokio::test]
    async fn answers_that_nobody_has_come_back_for_are_bounded_too() {
        let streams = Streams::new();
        let all: Vec<u64> = (0..20).map(|_| streams.open()).collect();
        for stream in &all {
            streams.push(*stream, "x".repeat(HELD_MAX / 8));
            streams.end(*stream);
        }
        assert!(streams.lock().bytes <= HELD_MAX);
        assert!(streams.read(all[0], Some(0)).is_none(), "it is said to be gone, and not to be empty");
        let mut reader = streams.read(all[19], Some(0)).unwrap();
        assert_eq!(next(&mut reader).await.unwrap().len(), HELD_MAX / 8);
        drop(reader);
        let largest = streams.open();
        streams.push(largest, "x".repeat(2 * HELD_MAX));
        streams.end(largest);
        assert_eq!(streams.lock().bytes, 2 * HELD_MAX, "one is kept, however large");
        assert!(streams.read(largest, Some(0)).is_some());
    }

    #[tokio::test]
    async fn what_is_kept_is_bounded_and_what_was_read_goes_first() {
        let streams = Streams::new();
        let (read, unread) = (streams.open(), streams.open());
        streams.push(read, "x".repeat(KEPT / 2));
        let mut reader = streams.read(read, None).unwrap();
        next(&mut reader).await.unwrap();
        streams.push(unread, "y".repeat(KEPT));
        assert_eq!(streams.lock().streams[&read].events.len(), 0);
        assert_eq!(streams.lock().streams[&unread].events.len(), 1, "the last of a stream is kept");
        for _ in 0..2 * MESSAGES_MAX {
            streams.push_unasked("z".to_owned());
        }
        assert!(streams.lock().streams[&read].events.len() <= MESSAGES_MAX, "they went to who reads");
        drop(reader);
        for _ in 0..2 * ENDED_MAX {
            let stream = streams.open();
            streams.end(stream);
        }
        assert!(streams.lock().streams.len() <= ENDED_MAX + 3);
    }
}
