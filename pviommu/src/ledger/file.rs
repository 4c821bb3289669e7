//! The file of a ledger: a header, then records, appended; rewritten now and then, by putting a new file in its place.
//!
//! Promises: what was appended is there when the process is killed; what is read back is the records that were written in this
//! boot, or an error, or a count of those that cannot be believed.

use std::fs::{File, OpenOptions, rename};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FlockOperation, flock};
use zerocopy::{FromZeros, IntoBytes};

use super::LedgerError;
use super::record::{BadHeader, Boot, Damaged, HEADER_SIZE, Header, MAX_RECORDS, RECORD_SIZE, Raw, Record};

/// Records that a file grows by: 128 KiB.
const STEP: u64 = 4096;
/// Records read or written at once.
const CHUNK: usize = 4096;

pub(super) struct Log {
    file: Arc<File>,
    path: PathBuf,
    boot: Boot,
    /// Records written.
    end: u64,
    /// Records that there is room for.
    capacity: u64,
}

/// What was read of a file.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) records: Vec<Record>,
    /// Records that cannot be believed.
    pub(super) damaged: u64,
}

fn offset(index: u64) -> u64 {
    HEADER_SIZE as u64 + index * RECORD_SIZE as u64
}

fn open_options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    options
}

impl Log {
    /// What stands in the file at `path`; `None`: there is no file, or it is of another boot.
    pub(super) fn read(path: &Path, boot: Boot) -> Result<Option<Found>, LedgerError> {
        let file = match open_options().open(path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(LedgerError::io("open", &e)),
        };
        let meta = file.metadata().map_err(|e| LedgerError::io("stat", &e))?;
        if !meta.is_file() {
            return Err(LedgerError::Foreign);
        }
        let short = |needed| LedgerError::Truncated { needed, found: meta.len() };
        if meta.len() < HEADER_SIZE as u64 {
            return Err(short(HEADER_SIZE as u64));
        }
        let mut header = Header::new_zeroed();
        file.read_exact_at(header.as_mut_bytes(), 0).map_err(|e| LedgerError::io("read", &e))?;
        let (written, capacity) = header.check().map_err(|e| match e {
            BadHeader::Foreign => LedgerError::Foreign,
            BadHeader::Version(version) => LedgerError::Version { version },
            BadHeader::Damaged => LedgerError::Damaged,
        })?;
        if written != boot {
            return Ok(None);
        }
        if capacity > MAX_RECORDS {
            return Err(LedgerError::Damaged);
        }
        if meta.len() < offset(capacity) {
            return Err(short(offset(capacity)));
        }
        read_records(&file, boot, 0..capacity).map(Some).map_err(|e| LedgerError::io("read", &e))
    }

    /// A log of exactly these records takes the place of what is at `path`.
    pub(super) fn create(path: &Path, boot: Boot, records: impl Iterator<Item = Record>) -> io::Result<Self> {
        let mut log = Self::create_beside(path, boot, records)?;
        log.move_to(path)?;
        Ok(log)
    }

    /// The same beside `path`, not in its place yet.
    pub(super) fn create_beside(
        path: &Path,
        boot: Boot,
        records: impl Iterator<Item = Record>,
    ) -> io::Result<Self> {
        let beside = suffixed(path, "new");
        let file = Arc::new(open_options().create(true).truncate(true).open(&beside)?);
        let mut log = Self { file, path: beside, boot, end: 0, capacity: 0 };
        log.reserve(1)?;
        let mut records = records.peekable();
        while records.peek().is_some() {
            log.append(records.by_ref().take(CHUNK))?;
        }
        Ok(log)
    }

    /// Takes the place of `path`.
    pub(super) fn move_to(&mut self, path: &Path) -> io::Result<()> {
        rename(&self.path, path)?;
        path.clone_into(&mut self.path);
        Ok(())
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Records written.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// For reading what was written, which is not changed any more.
    pub(super) fn reader(&self) -> Reader {
        Reader { file: self.file.clone(), boot: self.boot, end: self.end }
    }

    /// Adds records in one write. After an error they may be there or not; what comes next takes their place.
    pub(super) fn append(&mut self, records: impl Iterator<Item = Record>) -> io::Result<()> {
        let raw: Vec<Raw> =
            (self.end..).zip(records).map(|(index, record)| record.encode(self.boot, index)).collect();
        if raw.is_empty() {
            return Ok(());
        }
        let end = self.end + raw.len() as u64;
        if end >= self.capacity {
            self.reserve(end + 1)?;
        }
        self.file.write_all_at(raw.as_bytes(), offset(self.end))?;
        self.end = end;
        Ok(())
    }

    /// Writes fail from now on.
    #[cfg(test)]
    pub(super) fn break_writes(&mut self) {
        self.file = Arc::new(File::open(&self.path).expect("it is there"));
    }

    /// Makes room, and says so in the header once it is there.
    fn reserve(&mut self, records: u64) -> io::Result<()> {
        let capacity = records.div_ceil(STEP) * STEP;
        if capacity > MAX_RECORDS {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.file.set_len(offset(capacity))?;
        self.file.write_all_at(Header::new(self.boot, capacity).as_bytes(), 0)?;
        self.capacity = capacity;
        Ok(())
    }
}

/// A prefix of a log.
pub(super) struct Reader {
    file: Arc<File>,
    boot: Boot,
    end: u64,
}

impl Reader {
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// The records from `first` on.
    pub(super) fn records(&self, first: u64) -> io::Result<Vec<Record>> {
        let found = read_records(&self.file, self.boot, first..self.end)?;
        if found.damaged == 0 && found.records.len() as u64 == self.end - first {
            Ok(found.records)
        } else {
            Err(io::Error::new(io::ErrorKind::InvalidData, "the ledger was changed by somebody else"))
        }
    }
}

/// Records between two indices, the end of the log among them. One that was written after the end, or was zeroed before it,
/// is as damaged as one with a wrong checksum.
fn read_records(file: &File, boot: Boot, range: std::ops::Range<u64>) -> io::Result<Found> {
    let mut found = Found::default();
    let mut empty = 0;
    let mut raw = vec![Raw::new_zeroed(); CHUNK];
    let mut at = range.start;
    while at < range.end {
        let count = usize::try_from(range.end - at).unwrap_or(CHUNK).min(CHUNK);
        let part = raw.get_mut(..count).unwrap_or_default();
        file.read_exact_at(part.as_mut_bytes(), offset(at))?;
        for (index, raw) in (at..).zip(&*part) {
            match raw.decode(boot, index) {
                Ok(None) => empty += 1,
                Ok(Some(record)) => {
                    found.damaged += std::mem::take(&mut empty);
                    found.records.push(record);
                }
                Err(Damaged) => found.damaged += 1 + std::mem::take(&mut empty),
            }
        }
        at += count as u64;
    }
    Ok(found)
}

/// `path` with a suffix of ours.
pub(super) fn suffixed(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}

/// Keeps others from a ledger as long as it lives: also when a process that was forked meanwhile, and has not called exec
/// yet, holds a copy of the descriptor.
pub(super) struct Lock(pub(super) File);

impl Lock {
    pub(super) fn take(path: &Path) -> Result<Self, LedgerError> {
        let mut options = open_options();
        let file = options.create(true).open(path).map_err(|e| LedgerError::io("open the lock of", &e))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self(file)),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(LedgerError::Busy),
            Err(e) => Err(LedgerError::io("lock", &e.into())),
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if let Err(e) = flock(&self.0, FlockOperation::Unlock) {
            log::warn!("cannot unlock a ledger: {e}");
        }
    }
}

/// Which boot this is.
pub(super) fn this_boot() -> Result<Boot, LedgerError> {
    let mut text = String::new();
    File::open("/proc/sys/kernel/random/boot_id")
        .and_then(|f| f.take(64).read_to_string(&mut text))
        .map_err(|e| LedgerError::io("tell this boot from others for", &e))?;
    parse_boot(&text).ok_or(LedgerError::NoBoot)
}

fn parse_boot(text: &str) -> Option<Boot> {
    let digits: String = text.trim().chars().filter(|c| *c != '-').collect();
    Some(Boot(u128::from_str_radix(&digits, 16).ok().filter(|_| digits.len() == 32)?.to_be_bytes()))
}
