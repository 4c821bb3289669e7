//! What outlives a client that is killed: a file in which stands what it was about to ask for and what it holds.
//!
//! Promises: an intention is written before it is carried out and its outcome after it, a write a batch, so whatever is held is
//! in the file, known or adrift. The file has at most 128 bytes for each live mapping, and 4 MiB. What to do about what an
//! earlier life has left is for [`crate::reclaim`].

mod book;
mod file;
mod record;
#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};

use xen_ioreq::{Bfn, Errno, Gfn};

pub(crate) use book::Book;
use file::{Lock, Log};
use record::{Boot, Record};

use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use crate::wire::{Answer, Peer};

/// Records that a log may have beyond twice those that it began with, before it is rewritten: 2 MiB.
const SLACK: u64 = 1 << 16;

/// Why a file is not used as a ledger.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    /// The system refused.
    #[error("cannot {what} it: {error}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// The system's words.
        error: String,
    },
    /// Somebody else has it.
    #[error("another process has it open: give each process a ledger of its own")]
    Busy,
    /// It is something else.
    #[error("it is no ledger: name another file")]
    Foreign,
    /// It is of another version of this program.
    #[error("it has version {version}, and this program knows version {}: move it away", record::VERSION)]
    Version {
        /// The version.
        version: u32,
    },
    /// It ends too early.
    #[error(
        "it was cut off ({found} bytes of {needed}): what it listed is held until its guests end; move it away"
    )]
    Truncated {
        /// Bytes that it must have.
        needed: u64,
        /// Bytes that it has.
        found: u64,
    },
    /// Its first bytes cannot be believed.
    #[error("its header is damaged: what it listed is held until its guests end; move it away")]
    Damaged,
    /// Mappings end with the host's boot, and the kernel does not say which one this is.
    #[error("/proc/sys/kernel/random/boot_id names no boot, so it cannot be told from an earlier one's")]
    NoBoot,
}

impl LedgerError {
    fn io(what: &'static str, e: &io::Error) -> Self {
        Self::Io { what, error: e.to_string() }
    }
}

/// An open ledger.
pub(crate) struct Ledger {
    path: PathBuf,
    boot: Boot,
    log: Mutex<Log>,
    /// What an earlier life has left, as far as it has not been dealt with.
    left: Mutex<Book>,
    damaged: u64,
    next_seq: AtomicU32,
    rewriting: AtomicBool,
    /// Length at which the log is rewritten.
    rewrite_at: AtomicU64,
    /// Held as long as this lives.
    _lock: Lock,
}

impl Ledger {
    /// Opens the ledger at `path`, or makes one.
    pub(crate) fn open(path: &Path) -> Result<Self, LedgerError> {
        Self::open_in(path, file::this_boot()?)
    }

    fn open_in(path: &Path, boot: Boot) -> Result<Self, LedgerError> {
        let lock = Lock::take(&file::suffixed(path, "lock"))?;
        let found = Log::read(path, boot)?.unwrap_or_default();
        let mut left = Book::default();
        found.records.into_iter().for_each(|record| left.enter(record));
        left.end_life();
        if found.damaged != 0 {
            log::warn!("{}: {} records cannot be believed", path.display(), found.damaged);
        }
        let log = Log::create(path, boot, left.records()).map_err(|e| LedgerError::io("write", &e))?;
        Ok(Self {
            path: path.to_owned(),
            boot,
            rewrite_at: AtomicU64::new(2 * log.end() + SLACK),
            log: Mutex::new(log),
            left: Mutex::new(left),
            damaged: found.damaged,
            next_seq: AtomicU32::new(1),
            rewriting: AtomicBool::new(false),
            _lock: lock,
        })
    }

    /// Takes what an earlier life has left. What remains of it after having been dealt with is [put back](Self::put_back).
    pub(crate) fn take_left(&self) -> Book {
        std::mem::take(&mut *self.left.lock())
    }

    /// For the next time.
    pub(crate) fn put_back(&self, left: Book) {
        *self.left.lock() = left;
    }

    /// Records that could not be believed when it was opened.
    pub(crate) fn damaged(&self) -> u64 {
        self.damaged
    }

    /// Lookups are about to be sent. Answer them with [`answered`](Self::answered), in this order.
    pub(crate) fn intend(&self, peer: Peer, gfns: &[Gfn]) -> Result<Seqs, Errno> {
        let seqs = self.seqs(gfns.len());
        self.append(seqs.clone().zip(gfns).map(|(seq, &gfn)| Record::Intent { seq, peer, gfn }))?;
        if self.length() > 2 * self.rewrite_at.load(Ordering::Relaxed) {
            self.rewrite();
        }
        Ok(seqs)
    }

    /// What became of lookups that were announced. An error is reported only: they are adrift in the next life.
    pub(crate) fn answered(&self, seqs: Seqs, peer: Peer, gfns: &[Gfn], answers: &[Answer]) {
        let one = |(seq, (&gfn, answer)): (u32, (&Gfn, &Answer))| match *answer {
            Answer::Done(bfn) | Answer::Unsure(bfn, _) => Record::Known { seq, peer, gfn, bfn },
            Answer::Refused(_) => Record::Nothing { seq },
            Answer::NotDone(_) => Record::Adrift { seq, peer, gfn },
        };
        self.append_or_report(seqs.zip(gfns.iter().zip(answers)).map(one));
    }

    /// Guest frames that are known already are about to be looked up again.
    pub(crate) fn ask(&self, peer: Peer, gfns: impl Iterator<Item = Gfn> + Clone) -> Result<u32, Errno> {
        let (Some(first), Some(last)) = (gfns.clone().min(), gfns.max()) else { return Ok(0) };
        let seq = self.seqs(1).next().unwrap_or(0);
        self.append(std::iter::once(Record::Asking { seq, peer, first, last }))?;
        Ok(seq)
    }

    /// References whose bus frames are known without an answer.
    pub(crate) fn hold(&self, peer: Peer, pairs: &[(Gfn, Bfn)]) -> Result<(), Errno> {
        self.append(pairs.iter().map(|&(gfn, bfn)| Record::Known { seq: 0, peer, gfn, bfn }))
    }

    /// The answers to [`ask`](Self::ask): frames that were not known, and such as were not answered for.
    pub(crate) fn asked(&self, seq: u32, peer: Peer, found: &[(Gfn, Bfn)], adrift: &[Gfn]) {
        let found = found.iter().map(|&(gfn, bfn)| Record::Known { seq: 0, peer, gfn, bfn });
        let adrift = adrift.iter().map(|&gfn| Record::Adrift { seq: 0, peer, gfn });
        self.append_or_report(found.chain(adrift).chain(std::iter::once(Record::Nothing { seq })));
    }

    /// References were given back.
    pub(crate) fn gone(&self, peer: Peer, bfns: impl Iterator<Item = Bfn>) {
        self.append_or_report(bfns.map(|bfn| Record::Gone { peer, bfn }));
        if self.length() > self.rewrite_at.load(Ordering::Relaxed) {
            self.rewrite();
        }
    }

    /// What was adrift is known now, and held.
    pub(crate) fn found(&self, peer: Peer, found: &[(Gfn, Bfn)]) {
        self.append_or_report(found.iter().map(|&(gfn, bfn)| Record::Found { peer, gfn, bfn }));
    }

    /// What was adrift is not to be found.
    pub(crate) fn lost(&self, peer: Peer, gfns: &[Gfn]) {
        self.append_or_report(gfns.iter().map(|&gfn| Record::Lost { peer, gfn }));
    }

    /// Own frames are about to be mapped.
    pub(crate) fn intend_own(&self, pairs: &[(Gfn, Bfn)]) -> Result<Seqs, Errno> {
        let seqs = self.seqs(pairs.len());
        self.append(seqs.clone().zip(pairs).map(|(seq, &(gfn, bfn))| Record::OwnIntent { seq, gfn, bfn }))?;
        Ok(seqs)
    }

    /// What became of that.
    pub(crate) fn answered_own(&self, seqs: Seqs, pairs: &[(Gfn, Bfn)], answers: &[Answer]) {
        let one = |(seq, (&(gfn, bfn), answer)): (u32, (&(Gfn, Bfn), &Answer))| match answer {
            Answer::Done(_) | Answer::Unsure(..) => Record::Own { seq, gfn, bfn },
            Answer::Refused(_) => Record::Nothing { seq },
            Answer::NotDone(_) => Record::OwnAdrift { seq, gfn, bfn },
        };
        self.append_or_report(seqs.zip(pairs.iter().zip(answers)).map(one));
    }

    /// Own frames that were found by asking to be mapped for certain.
    pub(crate) fn hold_own(&self, pairs: &[(Gfn, Bfn)]) {
        self.append_or_report(pairs.iter().map(|&(gfn, bfn)| Record::Own { seq: 0, gfn, bfn }));
    }

    /// Own frames were unmapped.
    pub(crate) fn own_gone(&self, bfns: impl Iterator<Item = Bfn>) {
        self.append_or_report(bfns.map(|bfn| Record::OwnGone { bfn }));
    }

    /// Numbers for announcements. They come again after 2^31; by then these have been answered.
    fn seqs(&self, count: usize) -> Seqs {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        let first = self.next_seq.fetch_add(count, Ordering::Relaxed);
        Seqs { next: first, left: count }
    }

    fn append(&self, records: impl Iterator<Item = Record>) -> Result<(), Errno> {
        self.log.lock().append(records).map_err(|e| {
            log::error!("the ledger {}: {e}", self.path.display());
            Errno(e.raw_os_error().unwrap_or(Errno::EIO.0))
        })
    }

    /// For what has happened already. Without it the next life finds what was announced, or looks for what is gone.
    fn append_or_report(&self, records: impl Iterator<Item = Record>) {
        // Reported there.
        let _ = self.append(records);
    }

    fn length(&self) -> u64 {
        self.log.lock().end()
    }

    /// Replaces the log by the shortest one that comes to the same. Others go on meanwhile, but for the last moment.
    fn rewrite(&self) {
        if self.rewriting.swap(true, Ordering::Acquire) {
            return;
        }
        let next = match self.try_rewrite() {
            Ok(length) => length,
            Err(e) => {
                log::warn!("the ledger {} grows, and is not rewritten: {e}", self.path.display());
                self.length()
            }
        };
        self.rewrite_at.store(2 * next + SLACK, Ordering::Relaxed);
        self.rewriting.store(false, Ordering::Release);
    }

    fn try_rewrite(&self) -> io::Result<u64> {
        let old = self.log.lock().reader();
        let mut book = Book::default();
        old.records(0)?.into_iter().for_each(|record| book.enter(record));
        let mut new = Log::create_beside(&self.path, self.boot, book.records())?;
        let length = new.end();
        let mut log = self.log.lock();
        new.append(log.reader().records(old.end())?.into_iter())?;
        let path = log.path().to_owned();
        new.move_to(&path)?;
        *log = new;
        Ok(length)
    }
}

impl std::fmt::Debug for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ledger")
            .field("path", &self.path)
            .field("records", &self.length())
            .finish_non_exhaustive()
    }
}

/// Numbers of announcements, in a row. The upper bit is always set, so that none is 0.
#[derive(Clone, Debug)]
pub(crate) struct Seqs {
    next: u32,
    left: u32,
}

impl Iterator for Seqs {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        self.left = self.left.checked_sub(1)?;
        let seq = self.next;
        self.next = seq.wrapping_add(1);
        Some(seq | 1 << 31)
    }
}
