//! What `strace` wrote, as a list of what was done to the state folder and what was said.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Calls in the order of their ends. Every line is two moments, so that what ended in one line is before what began in
/// the next, and a call on one line began before it ended.
pub(crate) struct Trace {
    pub(crate) calls: Vec<Call>,
}

#[derive(Clone)]
pub(crate) struct Call {
    pub(crate) began: usize,
    /// `usize::MAX` if the process ended first.
    pub(crate) ended: usize,
    pub(crate) act: Act,
}

/// Paths begin with the name of the state folder.
#[derive(Clone)]
pub(crate) enum Act {
    MakeFolder(PathBuf),
    /// Opened in a way that makes the file if it is not there.
    MakeFile(PathBuf),
    Write {
        path: PathBuf,
        at: u64,
        bytes: Vec<u8>,
    },
    Resize {
        path: PathBuf,
        size: u64,
    },
    Rename {
        from: PathBuf,
        to: PathBuf,
    },
    Remove(PathBuf),
    Sync(PathBuf),
    /// Written to a pipe, by its name.
    Say {
        pipe: String,
        bytes: Vec<u8>,
    },
}

impl Trace {
    /// Reads recordings that were made one after the other.
    pub(crate) fn read(files: &[PathBuf], state_dir: &Path) -> Trace {
        let root = state_dir.parent().expect("a folder of the test's own").to_owned();
        let mut reader = Reader { root, state_dir: state_dir.to_owned(), ends: HashMap::new() };
        let (mut calls, mut line_count) = (Vec::new(), 0);
        for file in files {
            let text = std::fs::read_to_string(file).expect("strace has written it");
            for joined in join(&text, line_count) {
                calls.extend(reader.call(&joined));
            }
            line_count += text.lines().count();
        }
        Trace { calls }
    }

    pub(crate) fn syncs(&self) -> impl Iterator<Item = &Call> {
        self.calls.iter().filter(|call| matches!(call.act, Act::Sync(_)))
    }

    pub(crate) fn renames(&self) -> usize {
        self.calls.iter().filter(|call| matches!(call.act, Act::Rename { .. })).count()
    }

    pub(crate) fn without_syncs(&self) -> Trace {
        Trace { calls: self.calls.iter().filter(|call| !matches!(call.act, Act::Sync(_))).cloned().collect() }
    }
}

/// A call in one piece.
struct Joined {
    began: usize,
    ended: usize,
    text: String,
}

/// Puts together what other threads interrupted. The calls come in the order of their ends.
fn join(text: &str, first: usize) -> Vec<Joined> {
    let mut calls = Vec::new();
    let mut open: HashMap<&str, (usize, &str)> = HashMap::new();
    for (number, line) in text.lines().enumerate() {
        let moment = 2 * (first + number);
        let (thread, rest) = line.split_once(' ').expect("a thread and what it does");
        let rest = rest.trim_start();
        if let Some(start) = rest.strip_suffix(" <unfinished ...>") {
            open.insert(thread, (moment, start));
        } else if rest.starts_with("<... ") {
            let (_, end) = rest.split_once(" resumed>").expect("a call goes on");
            let (began, start) = open.remove(thread).expect("it had begun");
            calls.push(Joined { began, ended: moment + 1, text: format!("{start}{end}") });
        } else if !rest.starts_with(['+', '-']) {
            calls.push(Joined { began: moment, ended: moment + 1, text: rest.to_owned() });
        }
    }
    // Cut off by the end of the process: it may have been done, and made nothing durable.
    calls.extend(open.into_values().map(|(began, start)| Joined {
        began,
        ended: usize::MAX,
        text: format!("{start}) = ?"),
    }));
    calls
}

struct Reader {
    root: PathBuf,
    state_dir: PathBuf,
    /// Where the next plain write to a file goes: files that are written so are new, and written by one.
    ends: HashMap<PathBuf, u64>,
}

impl Reader {
    fn call(&mut self, joined: &Joined) -> Option<Call> {
        let Joined { began, ended, text } = joined;
        let (call, result) = text.rsplit_once(" = ").expect("a call and its result");
        let (name, args) = call.split_once('(').expect("a name and its arguments");
        let args = args.trim_end().strip_suffix(')').unwrap_or(args);
        if result.trim_start().starts_with("-1 ") {
            return None;
        }
        let act = self.act(name, args, result.trim_start())?;
        Some(Call { began: *began, ended: *ended, act })
    }

    fn act(&mut self, name: &str, args: &str, result: &str) -> Option<Act> {
        // What the descriptors are open on comes first in the arguments, if at all.
        let fields: Vec<&str> = args.split(", ").collect();
        let about = fields.iter().filter_map(|field| self.ours(field)).collect::<Vec<PathBuf>>();
        let is_pipe = matches!(name, "write") && descriptor(fields[0]).starts_with(b"pipe:");
        if is_pipe {
            let pipe = String::from_utf8_lossy(&descriptor(fields[0])).into_owned();
            return Some(Act::Say { pipe, bytes: quoted(fields[1]) });
        }
        assert_ne!(name, "io_uring_setup", "the model of the disk does not see into rings");
        let path = about.first()?.clone();
        let number = |field: usize| fields[field].parse::<u64>().expect("a number");
        Some(match (name, about.len()) {
            ("openat", 1) if !args.contains("O_CREAT") && !args.contains("O_TRUNC") => return None,
            ("openat", 1) if !args.contains("O_TRUNC") => {
                self.ends.entry(path.clone()).or_insert(0);
                Act::MakeFile(path)
            }
            ("mkdir", 1) => Act::MakeFolder(path),
            ("rename", 2) => {
                self.ends.remove(&about[1]);
                self.ends.remove(&path);
                Act::Rename { from: path, to: about[1].clone() }
            }
            ("unlink", 1) => {
                self.ends.remove(&path);
                Act::Remove(path)
            }
            ("fsync" | "fdatasync", 1) => Act::Sync(path),
            ("ftruncate", 1) => Act::Resize { path, size: number(1) },
            ("pwrite64", 1) => {
                let bytes = written(quoted(fields[1]), result);
                Act::Write { path, at: number(3), bytes }
            }
            ("write", 1) => {
                let bytes = written(quoted(fields[1]), result);
                let end = self.ends.get_mut(&path).expect("a file that is written from its start");
                let at = *end;
                *end += bytes.len() as u64;
                Act::Write { path, at, bytes }
            }
            ("mmap", 1) if !args.contains("PROT_WRITE") || args.contains("MAP_PRIVATE") => return None,
            _ => panic!("the model of the disk does not know {name} ({})", path.display()),
        })
    }

    /// The path in the state folder that an argument speaks of, if it does.
    fn ours(&self, field: &str) -> Option<PathBuf> {
        let bytes = if field.starts_with('"') {
            // Names are short; what is written need not be looked at.
            (field.len() < 4096 * 4).then(|| quoted(field))?
        } else {
            descriptor(field)
        };
        let path = PathBuf::from(String::from_utf8(bytes).ok()?);
        // Also the folder around it, which holds its name.
        let is_inside = path.starts_with(&self.state_dir) || path == self.root;
        let is_ours = is_inside && !path.to_string_lossy().ends_with("-shm");
        is_ours.then(|| path.strip_prefix(&self.root).expect("it is below").to_owned())
    }
}

/// What a descriptor is open on: `3<\x2f…>`. What is open on a file without a name is nobody's.
fn descriptor(field: &str) -> Vec<u8> {
    let inner = field.split_once('<').and_then(|(_, rest)| rest.strip_suffix('>'));
    inner.map(plain).unwrap_or_default()
}

fn quoted(field: &str) -> Vec<u8> {
    let inner = field.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    plain(inner.expect("a whole string, in quotes"))
}

/// Everything in a string is `\x..`; what is not stands for itself.
fn plain(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len() / 4);
    let mut rest = text.as_bytes();
    while let [first, behind @ ..] = rest {
        if let [b'\\', b'x', high, low, behind @ ..] = rest {
            let digit = |byte: &u8| char::from(*byte).to_digit(16).expect("a hexadecimal digit") as u8;
            bytes.push(digit(high) * 16 + digit(low));
            rest = behind;
        } else {
            bytes.push(*first);
            rest = behind;
        }
    }
    bytes
}

/// As much of it as was written. A write that was cut off may have been done whole.
fn written(mut bytes: Vec<u8>, result: &str) -> Vec<u8> {
    if let Ok(count) = result.parse() {
        bytes.truncate(count);
    }
    bytes
}
