//! A disk that keeps only what it was made to keep.
//!
//! A change of a file is durable once that file was synced by a call that began after the change had ended, and has ended
//! itself. A change of a folder (a name that comes, goes or moves) is durable once that folder was synced in the same way:
//! the sync of a file says nothing about its name. Of all other changes any may be lost while later ones are kept, and a
//! write may be kept in some of its sectors only. What is never assumed: that changes reach the disk in their order, or
//! that a file's size comes with its content.
//!
//! What is assumed: a sector is written whole or not at all, and writing a part of it leaves the rest alone (SQLite calls
//! it “powersafe overwrite”); a rename is one step.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};

use crate::dice::Dice;
use crate::trace::{Act, Call, Trace};

const SECTOR: u64 = 512;
/// The folder around the state folder.
const ROOT: usize = 0;

/// What becomes of a change that is not durable.
pub(crate) enum Fate {
    Kept,
    Lost,
    /// Kept in some of its sectors, which this decides.
    Torn(u64),
}

pub(crate) struct Disk {
    changes: Vec<Change>,
    folders: HashSet<usize>,
}

struct Change {
    began: usize,
    ended: usize,
    /// The moment from which it is durable.
    durable: usize,
    /// The file or folder that is changed.
    node: usize,
    what: What,
}

enum What {
    Write { at: u64, bytes: Vec<u8> },
    Resize(u64),
    Add { name: String, node: usize },
    Remove(String),
    Move { from: String, to: String, node: usize },
}

impl Disk {
    pub(crate) fn new(trace: &Trace) -> Disk {
        let mut recorder = Recorder {
            disk: Disk { changes: Vec::new(), folders: HashSet::from([ROOT]) },
            names: HashMap::from([(PathBuf::new(), ROOT)]),
            nodes: ROOT,
        };
        trace.calls.iter().for_each(|call| recorder.record(call));
        recorder.disk.changes.sort_by_key(|change| change.began);
        recorder.disk
    }

    pub(crate) fn changes(&self) -> usize {
        self.changes.len()
    }

    /// What is there if power fails at that moment, and this is the fate of each change that is not durable.
    pub(crate) fn after(&self, moment: usize, mut fate: impl FnMut() -> Fate) -> Image<'_> {
        let mut image = Image { disk: self, files: HashMap::new(), entries: HashMap::new() };
        for change in self.changes.iter().take_while(|change| change.began <= moment) {
            let fate = if change.durable <= moment { Fate::Kept } else { fate() };
            if !matches!(fate, Fate::Lost) {
                image.apply(change, &fate);
            }
        }
        image
    }
}

/// Follows which name stands for which file, as the processes saw it.
struct Recorder {
    disk: Disk,
    names: HashMap<PathBuf, usize>,
    nodes: usize,
}

impl Recorder {
    fn record(&mut self, call: &Call) {
        match &call.act {
            Act::MakeFolder(path) => {
                let node = self.add(call, path);
                self.disk.folders.insert(node);
            }
            Act::MakeFile(path) if self.names.contains_key(path) => {}
            Act::MakeFile(path) => drop(self.add(call, path)),
            Act::Write { path, at, bytes } => {
                self.change(call, path, What::Write { at: *at, bytes: bytes.clone() });
            }
            Act::Resize { path, size } => self.change(call, path, What::Resize(*size)),
            Act::Remove(path) => {
                self.names.remove(path).expect("what is removed was there");
                self.change(call, folder_of(path), What::Remove(name_of(path)));
            }
            Act::Rename { from, to } => {
                assert_eq!(from.parent(), to.parent(), "the model moves names only inside of a folder");
                let node = self.names.remove(from).expect("what is renamed was there");
                self.names.insert(to.clone(), node);
                let what = What::Move { from: name_of(from), to: name_of(to), node };
                self.change(call, folder_of(from), what);
            }
            Act::Sync(path) => {
                let node = self.names[path];
                let is_covered = |change: &&mut Change| change.node == node && change.ended < call.began;
                for change in self.disk.changes.iter_mut().filter(is_covered) {
                    change.durable = change.durable.min(call.ended);
                }
            }
            Act::Say { .. } => {}
        }
    }

    fn add(&mut self, call: &Call, path: &Path) -> usize {
        self.nodes += 1;
        self.names.insert(path.to_owned(), self.nodes);
        self.change(call, folder_of(path), What::Add { name: name_of(path), node: self.nodes });
        self.nodes
    }

    fn change(&mut self, call: &Call, path: &Path, what: What) {
        let node = *self.names.get(path).unwrap_or_else(|| panic!("nobody made {}", path.display()));
        let Call { began, ended, .. } = *call;
        self.disk.changes.push(Change { began, ended, durable: usize::MAX, node, what });
    }
}

fn folder_of(path: &Path) -> &Path {
    path.parent().expect("every path of ours is in a folder")
}

fn name_of(path: &Path) -> String {
    path.file_name().expect("every path of ours has a name").to_string_lossy().into_owned()
}

/// What is found when power is back.
pub(crate) struct Image<'a> {
    disk: &'a Disk,
    files: HashMap<usize, Vec<u8>>,
    /// Of each folder.
    entries: HashMap<usize, BTreeMap<String, usize>>,
}

impl Image<'_> {
    fn apply(&mut self, change: &Change, fate: &Fate) {
        let entries = self.entries.entry(change.node).or_default();
        match &change.what {
            What::Add { name, node } => drop(entries.insert(name.clone(), *node)),
            What::Remove(name) => drop(entries.remove(name)),
            What::Move { from, to, node } => {
                entries.remove(from);
                entries.insert(to.clone(), *node);
            }
            What::Resize(size) => self.files.entry(change.node).or_default().resize(*size as usize, 0),
            What::Write { at, bytes } => write(self.files.entry(change.node).or_default(), *at, bytes, fate),
        }
    }

    /// Makes the folder what the image is.
    pub(crate) fn put_into(&self, folder: &Path) -> std::io::Result<()> {
        self.put_folder(ROOT, folder)
    }

    fn put_folder(&self, node: usize, place: &Path) -> std::io::Result<()> {
        for (name, node) in self.entries.get(&node).into_iter().flatten() {
            let place = place.join(name);
            if self.disk.folders.contains(node) {
                std::fs::create_dir(&place)?;
                self.put_folder(*node, &place)?;
            } else {
                std::fs::write(place, self.files.get(node).map_or(&[][..], Vec::as_slice))?;
            }
        }
        Ok(())
    }
}

fn write(file: &mut Vec<u8>, at: u64, bytes: &[u8], fate: &Fate) {
    let mut dice = if let Fate::Torn(seed) = fate { Some(Dice::new(*seed, at)) } else { None };
    let (mut from, end) = (at, at + bytes.len() as u64);
    while from < end {
        let to = end.min((from / SECTOR + 1) * SECTOR);
        if dice.as_mut().is_none_or(|dice| dice.chance(50)) {
            file.resize(file.len().max(to as usize), 0);
            file[from as usize..to as usize]
                .copy_from_slice(&bytes[(from - at) as usize..(to - at) as usize]);
        }
        from = to;
    }
}
