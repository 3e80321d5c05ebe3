//! Server-sent events from a stream of bytes, each of bounded size.
//! See <https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation>.

use std::time::Duration;

/// The largest pause that a server may ask for before the stream is opened again.
const RETRY_MAX: Duration = Duration::from_secs(60);
/// The longest id that is kept, in bytes: it goes into a header.
const ID_MAX: usize = 4096;

/// What one event held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// An event with its name and its data, as they were.
    Data {
        /// The name; empty is the same as `message`.
        name: String,
        /// Its lines, joined.
        data: String,
    },
    /// More bytes than allowed. They are gone.
    TooLong {
        /// How many there were.
        bytes: usize,
    },
}

/// Reads events.
#[derive(Debug)]
pub struct Decoder {
    max: usize,
    /// The line being read, and whether the one before it ended with a carriage return, whose line feed may still come.
    line: Vec<u8>,
    after_return: bool,
    started: bool,
    name: String,
    data: String,
    has_data: bool,
    /// How many bytes of the event were let go.
    lost: usize,
    /// The id of the event being read: it counts only once the event is whole.
    id: Option<String>,
    last_id: Option<String>,
    retry: Option<Duration>,
}

impl Decoder {
    /// Reads events of at most `max` bytes.
    #[must_use]
    pub fn new(max: usize) -> Decoder {
        Decoder {
            max,
            line: Vec::new(),
            after_return: false,
            started: false,
            name: String::new(),
            data: String::new(),
            has_data: false,
            lost: 0,
            id: None,
            last_id: None,
            retry: None,
        }
    }

    /// A decoder for the same events, taken up again in another stream.
    #[must_use]
    pub fn again(self) -> Decoder {
        Decoder { last_id: self.last_id, retry: self.retry, ..Decoder::new(self.max) }
    }

    /// The id of the last event that had one: where the stream can be taken up again.
    #[must_use]
    pub fn last_id(&self) -> Option<&str> {
        self.last_id.as_deref()
    }

    /// How long to wait before the stream is opened again, if the server has said so.
    #[must_use]
    pub fn retry(&self) -> Option<Duration> {
        self.retry
    }

    /// Takes the next bytes, and returns the events that end in them.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<Event> {
        let mut events = Vec::new();
        let mut rest = bytes;
        if bytes.is_empty() {
            return events;
        }
        if std::mem::take(&mut self.after_return) && rest.first() == Some(&b'\n') {
            rest = &rest[1..];
        }
        while let Some(end) = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r')) {
            self.gather(&rest[..end]);
            events.extend(self.end_line());
            let is_return = rest[end] == b'\r';
            rest = &rest[end + 1..];
            if is_return {
                match rest.first() {
                    Some(b'\n') => rest = &rest[1..],
                    Some(_) => {}
                    None => self.after_return = true,
                }
            }
        }
        self.gather(rest);
        events
    }

    fn gather(&mut self, bytes: &[u8]) {
        let held = self.data.len() + self.line.len();
        if self.lost == 0 && held + bytes.len() <= self.max {
            self.line.extend_from_slice(bytes);
            return;
        }
        // The event is let go, but where it ends must still be seen: what is left of its line is not empty.
        self.lost += held + bytes.len();
        self.data = String::new();
        self.line.clear();
        if !bytes.is_empty() || held > 0 {
            self.line.push(b':');
            self.lost = self.lost.saturating_sub(1);
        }
    }

    fn end_line(&mut self) -> Option<Event> {
        let mut line = std::mem::take(&mut self.line);
        if !std::mem::replace(&mut self.started, true) && line.starts_with(b"\xef\xbb\xbf") {
            line.drain(..3);
        }
        if line.is_empty() {
            return self.end_event();
        }
        let line = String::from_utf8_lossy(&line);
        let (field, value) = line.split_once(':').unwrap_or((&line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "data" => {
                if self.has_data {
                    self.data.push('\n');
                }
                self.has_data = true;
                self.data.push_str(value);
            }
            "event" => value.clone_into(&mut self.name),
            "id" if !value.contains('\0') && value.len() <= ID_MAX => self.id = Some(value.to_owned()),
            "retry" => {
                let wanted = value.parse().map(Duration::from_millis);
                self.retry = wanted.ok().map(|wanted| wanted.min(RETRY_MAX)).or(self.retry);
            }
            _ => {}
        }
        None
    }

    fn end_event(&mut self) -> Option<Event> {
        self.last_id = self.id.take().or(self.last_id.take());
        let name = std::mem::take(&mut self.name);
        let data = std::mem::take(&mut self.data);
        let has_data = std::mem::take(&mut self.has_data);
        match std::mem::take(&mut self.lost) {
            0 => has_data.then_some(Event::Data { name, data }),
            bytes => Some(Event::TooLong { bytes }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn data(name: &str, data: &str) -> Event {
        Event::Data { name: name.to_owned(), data: data.to_owned() }
    }

    #[test]
    fn events_are_read_as_the_standard_says() {
        let mut decoder = Decoder::new(1000);
        let text = "\u{feff}: comment\n\ndata: one\r\ndata:two\rid: 7\n\nevent: endpoint\ndata\nretry: 20\n\nid\ndata: x";
        let mut events = decoder.push(text.as_bytes());
        assert_eq!(decoder.last_id(), Some("7"), "the event after it is not whole yet");
        events.extend(decoder.push(b"\n\n"));
        assert_eq!(decoder.last_id(), Some(""));
        assert_eq!(events, [data("", "one\ntwo"), data("endpoint", ""), data("", "x")]);
        assert_eq!(decoder.retry(), Some(Duration::from_millis(20)));
    }

    #[test]
    fn what_is_too_long_is_let_go_and_the_next_one_is_whole() {
        let mut decoder = Decoder::new(10);
        let mut events = Vec::new();
        for chunk in ["data: 0123", "456789\ndata: x", "\n", "\ndata: ok\n\n"] {
            events.extend(decoder.push(chunk.as_bytes()));
        }
        assert!(matches!(events[0], Event::TooLong { bytes } if bytes >= 15), "{events:?}");
        assert_eq!(events[1..], [data("", "ok")]);
    }

    proptest! {
        #[test]
        fn where_the_bytes_are_cut_makes_no_difference(
            lines in prop::collection::vec("(data|id|event|x)(: ?[a-zé]{0,8})?(\n|\r|\r\n)|(\n|\r|\r\n)", 0..20),
            cut in 1usize..7,
        ) {
            let text = lines.concat();
            let whole = Decoder::new(1000).push(text.as_bytes());
            let mut decoder = Decoder::new(1000);
            let parts: Vec<Event> = text.as_bytes().chunks(cut).flat_map(|part| decoder.push(part)).collect();
            prop_assert_eq!(parts, whole);
        }

        #[test]
        fn no_bytes_make_it_panic_or_grow(bytes in prop::collection::vec(any::<u8>(), 0..400), max in 0usize..20) {
            let mut decoder = Decoder::new(max);
            for part in bytes.chunks(5) {
                for event in decoder.push(part) {
                    if let Event::Data { data, .. } = event {
                        // What is no UTF-8 is replaced by something of up to three bytes.
                        prop_assert!(data.len() <= 3 * max);
                    }
                }
            }
        }
    }
}
