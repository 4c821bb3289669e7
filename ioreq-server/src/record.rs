//! The file that says which IOREQ servers of a guest are ours, for who takes our place after we were killed: Xen keeps a
//! dead process's servers, and vCPUs wait for them for ever.
//!
//! A server stands here from before the guest can reach it until just before it is destroyed. What is read back is
//! believed only of the same run of the same guest under the same boot of the host; a lock keeps two living processes apart.

mod text;

use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::fs::{FlockOperation, Mode, OFlags};
use xen_ioreq::abi::domctl::xen_domctl_getdomaininfo;
use xen_ioreq::{DomId, Errno, IoServerId};

use self::text::{Contents, LENGTH};

/// Servers that Xen allows a guest.
const SERVERS: usize = 8;
/// How long a process that was killed may take to end, with all that it has mapped.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two looks at whether it has.
const LOOK: Duration = Duration::from_millis(20);
/// Bytes of a note at most.
pub const NOTE_MAX: usize = 1024;

/// One run of a guest, told from every other: numbers are used again, also with the same UUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Incarnation {
    /// Its number.
    pub domid: DomId,
    /// Its UUID, which it keeps when it is restarted or restored.
    pub uuid: [u8; 16],
    /// Frame of its shared info page as Xen tells it: of an HVM or PVH guest, the number at which the guest has put it, and
    /// [`NOWHERE`](Self::NOWHERE) until it has, as a stock Linux does when it boots.
    pub shared_info: u64,
    /// The boot of the host: after another one numbers start anew, and nothing is left of any guest.
    pub boot: [u8; 16],
}

impl Incarnation {
    /// What Xen says of a page that its guest has not put anywhere (`INVALID_M2P_ENTRY`).
    pub const NOWHERE: u64 = u64::MAX;

    /// From what Xen says of the guest, under the boot that this is.
    pub fn of(guest: &xen_domctl_getdomaininfo) -> Result<Self, RecordError> {
        const BOOT: &str = "/proc/sys/kernel/random/boot_id";
        let fail = |errno| RecordError::File { path: BOOT.into(), op: "reading", errno };
        let boot = std::fs::read_to_string(BOOT).map_err(|e| fail(errno_of(&e)))?;
        let digits: String = boot.trim().chars().filter(|c| *c != '-').collect();
        let boot = text::bytes(&digits).and_then(|b| b.try_into().ok()).ok_or(fail(Errno::EINVAL))?;
        Ok(Self {
            domid: DomId(guest.domain),
            uuid: guest.handle,
            shared_info: guest.shared_info_frame,
            boot,
        })
    }

    /// Whether this may be the run that `before` was told of: a page that was nowhere may be somewhere since.
    fn continues(&self, before: &Self) -> bool {
        let same_but_for_the_page = Self { shared_info: before.shared_info, ..*self } == *before;
        same_but_for_the_page && [Self::NOWHERE, self.shared_info].contains(&before.shared_info)
    }
}

/// A record that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// The file.
    #[error("{}: {op}: {errno}", .path.display())]
    File {
        /// Where it is.
        path: PathBuf,
        /// What was tried.
        op: &'static str,
        /// Why that failed.
        errno: Errno,
    },
    /// Another process has it.
    #[error("{}: another process serves {domid}", .path.display())]
    InUse {
        /// Where it is.
        path: PathBuf,
        /// The guest.
        domid: DomId,
    },
    /// It is not what we write.
    #[error(
        "{}: line {line} is not what belongs there: remove the file; a server that it stood for stays in Xen",
        .path.display()
    )]
    Damaged {
        /// Where it is.
        path: PathBuf,
        /// Which line, from 1 on.
        line: usize,
    },
    /// More than it has room for.
    #[error("{}: no room for {what}", .path.display())]
    Full {
        /// Where it is.
        path: PathBuf,
        /// For what.
        what: &'static str,
    },
}

/// The servers of one guest that are ours or were our predecessor's, and a note for our successor. One process has it.
pub struct Record {
    path: PathBuf,
    file: File,
    inner: Mutex<Inner>,
}

struct Inner {
    contents: Contents,
    /// Of the servers in it, those that a predecessor has left.
    left: Vec<IoServerId>,
}

impl Record {
    /// Opens the file, or makes it, for its owner alone. What it holds of another guest, or of another run of this one, is
    /// forgotten. A predecessor that was killed is given a few seconds to end.
    pub fn open(path: impl AsRef<Path>, guest: Incarnation) -> Result<Self, RecordError> {
        Self::open_within(PATIENCE, path.as_ref().to_owned(), guest)
    }

    fn open_within(patience: Duration, path: PathBuf, guest: Incarnation) -> Result<Self, RecordError> {
        let fail = |op| {
            let path = path.clone();
            move |e: rustix::io::Errno| RecordError::File { path, op, errno: Errno(e.raw_os_error()) }
        };
        // Not a terminal, a pipe or a link that somebody has put in its place.
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let mode = Mode::RUSR | Mode::WUSR;
        let file = File::from(rustix::fs::open(&path, flags, mode).map_err(fail("opening"))?);
        let kind = rustix::fs::fstat(&file).map_err(fail("looking at it"))?;
        if !rustix::fs::FileType::from_raw_mode(kind.st_mode).is_file() {
            return Err(fail("opening")(rustix::io::Errno::INVAL));
        }
        let since = Instant::now();
        loop {
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(rustix::io::Errno::WOULDBLOCK) if since.elapsed() < patience => std::thread::sleep(LOOK),
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    return Err(RecordError::InUse { path, domid: guest.domid });
                }
                Err(e) => return Err(fail("locking")(e)),
            }
        }
        let mut bytes = Vec::new();
        // A little more than it may hold, so that too much is seen.
        let read = (&file).take(LENGTH as u64 + 1).read_to_end(&mut bytes);
        read.map_err(|e| RecordError::File { path: path.clone(), op: "reading", errno: errno_of(&e) })?;
        let contents = match text::parse(&bytes) {
            Ok(Some(found)) if guest.continues(&found.guest) => Contents { guest, ..found },
            Ok(_) => Contents { guest, servers: Vec::new(), note: Vec::new() },
            Err(line) => return Err(RecordError::Damaged { path, line }),
        };
        let left = contents.servers.clone();
        let record = Self { path, file, inner: Mutex::new(Inner { contents, left }) };
        record.write(&record.inner.lock().contents)?;
        Ok(record)
    }

    /// Servers that a predecessor has left in Xen.
    pub fn left(&self) -> Vec<IoServerId> {
        self.inner.lock().left.clone()
    }

    /// What [`keep`](Self::keep) was told last, by us or by a predecessor; empty at first. Whoever could write the file has
    /// written it.
    pub fn note(&self) -> Vec<u8> {
        self.inner.lock().contents.note.clone()
    }

    /// Keeps a note for a successor, of [`NOTE_MAX`] bytes at most, in place of the one before.
    pub fn keep(&self, note: &[u8]) -> Result<(), RecordError> {
        if note.len() > NOTE_MAX {
            return Err(RecordError::Full { path: self.path.clone(), what: "a note" });
        }
        self.change(|inner| inner.contents.note = note.to_vec())
    }

    /// Notes a server of ours.
    pub(crate) fn add(&self, server: IoServerId) -> Result<(), RecordError> {
        let known = self.inner.lock().contents.servers.len();
        if known >= SERVERS {
            return Err(RecordError::Full { path: self.path.clone(), what: "a server" });
        }
        self.change(|inner| {
            // Xen has given the number to us: whoever had it before is gone.
            inner.left.retain(|s| *s != server);
            inner.contents.servers.retain(|s| *s != server);
            inner.contents.servers.push(server);
        })
    }

    /// Forgets a server.
    pub(crate) fn strike(&self, server: IoServerId) -> Result<(), RecordError> {
        self.change(|inner| {
            inner.left.retain(|s| *s != server);
            inner.contents.servers.retain(|s| *s != server);
        })
    }

    fn change(&self, change: impl FnOnce(&mut Inner)) -> Result<(), RecordError> {
        let mut inner = self.inner.lock();
        change(&mut inner);
        self.write(&inner.contents)
    }

    /// In one system call and always as long, so that who is killed in between leaves the old or the new.
    fn write(&self, contents: &Contents) -> Result<(), RecordError> {
        let written = self.file.write_all_at(&text::print(contents), 0);
        written.map_err(|e| RecordError::File { path: self.path.clone(), op: "writing", errno: errno_of(&e) })
    }
}

fn errno_of(e: &std::io::Error) -> Errno {
    e.raw_os_error().map_or(Errno::EIO, Errno)
}

impl AsFd for Record {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record").field("path", &self.path).field("left", &self.left()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
