//! What one flush costs on the disk of the job stores.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::time::Instant;

use crate::figures::Samples;

const PAGE: [u8; 4096] = [7; 4096];

/// A file to be flushed.
pub(crate) struct Disk {
    file: File,
}

impl Disk {
    pub(crate) fn new(folder: &Path) -> std::io::Result<Disk> {
        Ok(Disk { file: File::create(folder.join("flushed"))? })
    }

    /// Appends 4 KiB and flushes them, again and again: as a log that grows.
    pub(crate) fn append(&mut self, count: usize) -> std::io::Result<Samples> {
        self.file.seek(SeekFrom::End(0))?;
        self.flush_each(count)
    }

    /// Writes over what is there, as a log does that has been moved into its database before.
    pub(crate) fn overwrite(&mut self, count: usize) -> std::io::Result<Samples> {
        self.file.seek(SeekFrom::Start(0))?;
        self.flush_each(count)
    }

    fn flush_each(&mut self, count: usize) -> std::io::Result<Samples> {
        let mut samples = Samples::default();
        for _ in 0..count {
            let began = Instant::now();
            self.file.write_all(&PAGE)?;
            self.file.sync_data()?;
            samples.add_time(began.elapsed());
        }
        Ok(samples)
    }
}
