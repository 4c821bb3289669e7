//! XenStore over a stream of bytes: the few requests that two ends of a channel need to find each other, and to know when the
//! other's domain has gone.
//!
//! One request at a time. What the store answers is checked. Events of watches that come before an answer are kept, each
//! watch's once: an event says that something has changed, and who wants to know what has to look.

#[cfg(test)]
pub(crate) mod naive;
mod watch;

use std::collections::BTreeSet;
use std::io::{self, Read, Write};

use xen_ioreq::abi::xs_wire::*;
use xen_ioreq::linux::{OpenError, Xenbus};
use xen_ioreq::{DomId, Errno};
use zerocopy::{FromZeros, IntoBytes};

pub(crate) use watch::RELEASE;
pub use watch::{DomainWatch, PeerWatch};

/// How often a transaction is tried again that met another one.
const TRIES: u32 = 1000;

/// Why the store did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// the device cannot be opened
    #[error(transparent)]
    Open(#[from] OpenError),
    /// the way to the store is broken
    #[error("XenStore: {0}")]
    Io(#[from] io::Error),
    /// the store refuses
    #[error("XenStore: {path}: {errno}")]
    Refused {
        /// Which node.
        path: String,
        /// Why; EIO for an error of a name that is not known.
        errno: Errno,
    },
    /// the store's answer is none
    #[error("XenStore: an answer of type {kind} and {len} bytes to a request of type {asked}")]
    Protocol {
        /// What was asked.
        asked: u32,
        /// What the answer says it is.
        kind: u32,
        /// Length of its payload in bytes.
        len: u32,
    },
    /// a path or a value is too long, or has a nul in it
    #[error("XenStore: a path or value that cannot be sent: {0:?}")]
    Unsendable(String),
    /// a value is not what it should be
    #[error("XenStore: {path}: {value:?} is not a number")]
    NotANumber {
        /// Which node.
        path: String,
        /// Its value.
        value: String,
    },
}

/// Who may do what with a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission {
    /// Owner of the node, and everything for it; nothing for those who are not named.
    Owner(DomId),
    /// May read.
    Read(DomId),
}

impl Permission {
    fn text(self) -> String {
        match self {
            Self::Owner(domid) => format!("n{}", domid.0),
            Self::Read(domid) => format!("r{}", domid.0),
        }
    }
}

/// Number of a transaction; 0 for none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transaction(u32);

impl Transaction {
    /// Each request by itself.
    pub const NONE: Self = Self(0);
}

/// A connection to the store.
#[derive(Debug)]
pub struct Store<T> {
    stream: T,
    next: u32,
    /// Tokens of watches that have fired and were not taken yet.
    fired: BTreeSet<String>,
}

impl Store<Xenbus> {
    /// By the kernel's device.
    ///
    /// # Errors
    /// [`StoreError::Open`].
    pub fn open() -> Result<Self, StoreError> {
        Ok(Self::over(Xenbus::open()?))
    }
}

impl StoreError {
    /// The number of what the kernel or the store said; EIO where neither said one.
    pub fn errno(&self) -> Errno {
        match self {
            Self::Refused { errno, .. } => *errno,
            Self::Io(e) => e.raw_os_error().map_or(Errno::EIO, Errno),
            Self::Open(_) | Self::Protocol { .. } | Self::Unsendable(_) | Self::NotANumber { .. } => {
                Errno::EIO
            }
        }
    }
}

impl<T: Read + Write> Store<T> {
    /// Over a stream that speaks the wire protocol.
    pub fn over(stream: T) -> Self {
        Self { stream, next: 1, fired: BTreeSet::new() }
    }

    /// The value of a node.
    ///
    /// # Errors
    /// [`StoreError::Refused`]: ENOENT, EACCES.
    pub fn read(&mut self, tx: Transaction, path: &str) -> Result<Vec<u8>, StoreError> {
        self.request(XS_READ, tx, path, &[nul_ended(path)?.as_slice()])
    }

    /// The value of a node that holds a number. Blanks around it are allowed.
    ///
    /// # Errors
    /// As [`read`](Self::read); [`StoreError::NotANumber`].
    pub fn read_number(&mut self, tx: Transaction, path: &str) -> Result<u32, StoreError> {
        let value = self.read(tx, path)?;
        let value = String::from_utf8_lossy(&value).trim().to_owned();
        value.parse().map_err(|_| StoreError::NotANumber { path: path.to_owned(), value })
    }

    /// Sets the value of a node, and makes those above it that are not there.
    ///
    /// # Errors
    /// [`StoreError::Refused`]: EACCES, ENOSPC; [`StoreError::Unsendable`].
    pub fn write(&mut self, tx: Transaction, path: &str, value: &[u8]) -> Result<(), StoreError> {
        self.request(XS_WRITE, tx, path, &[nul_ended(path)?.as_slice(), value]).map(drop)
    }

    /// Whether there is such a domain, and it is not on its way out. One that has shut down but is kept is there.
    ///
    /// # Errors
    /// [`StoreError::Refused`]: EACCES, dom0 alone may ask. [`StoreError::Io`], [`StoreError::Protocol`].
    pub fn is_introduced(&mut self, domid: DomId) -> Result<bool, StoreError> {
        let number = domid.0.to_string();
        let what = format!("domain {number}");
        let answer = self.request(
            XS_IS_DOMAIN_INTRODUCED,
            Transaction::NONE,
            &what,
            &[nul_ended(&number)?.as_slice()],
        )?;
        match answer.as_slice() {
            b"T\0" | b"T" => Ok(true),
            b"F\0" | b"F" => Ok(false),
            other => Err(StoreError::Protocol {
                asked: XS_IS_DOMAIN_INTRODUCED,
                kind: XS_IS_DOMAIN_INTRODUCED,
                len: u32::try_from(other.len()).unwrap_or(u32::MAX),
            }),
        }
    }

    /// Whether a domain is known to have gone: never, for who may not ask.
    pub(crate) fn is_known_gone(&mut self, domid: DomId) -> Result<bool, StoreError> {
        match self.is_introduced(domid) {
            Err(StoreError::Refused { errno: Errno::EACCES | Errno::EPERM, .. }) => Ok(false),
            introduced => introduced.map(|there| !there),
        }
    }

    /// Removes a node and all below it.
    ///
    /// # Errors
    /// [`StoreError::Refused`]: ENOENT, EACCES.
    pub fn remove(&mut self, tx: Transaction, path: &str) -> Result<(), StoreError> {
        self.request(XS_RM, tx, path, &[nul_ended(path)?.as_slice()]).map(drop)
    }

    /// Says who may use a node; the first is the owner.
    ///
    /// # Errors
    /// [`StoreError::Refused`]: ENOENT, EACCES.
    pub fn set_permissions(
        &mut self,
        tx: Transaction,
        path: &str,
        permissions: &[Permission],
    ) -> Result<(), StoreError> {
        let mut payload = nul_ended(path)?;
        for permission in permissions {
            payload.extend(nul_ended(&permission.text())?);
        }
        self.request(XS_SET_PERMS, tx, path, &[payload.as_slice()]).map(drop)
    }

    /// The number of this domain, as the toolstack has written it.
    ///
    /// # Errors
    /// As [`read_number`](Self::read_number).
    pub fn domid(&mut self) -> Result<DomId, StoreError> {
        let number = self.read_number(Transaction::NONE, "domid")?;
        let not = || StoreError::NotANumber { path: "domid".to_owned(), value: number.to_string() };
        u16::try_from(number).map(DomId).map_err(|_| not())
    }

    /// Does all of `work` at once, as others see it, or nothing; again if another transaction came between.
    ///
    /// # Errors
    /// Those of `work`; [`StoreError::Refused`] with EAGAIN if it never got through.
    pub fn transact<R>(
        &mut self,
        mut work: impl FnMut(&mut Self, Transaction) -> Result<R, StoreError>,
    ) -> Result<R, StoreError> {
        const WHAT: &str = "a transaction";
        for _ in 0..TRIES {
            let id = self.request(XS_TRANSACTION_START, Transaction::NONE, WHAT, &[b"\0".as_slice()])?;
            let id = String::from_utf8_lossy(&id).trim_end_matches('\0').to_owned();
            let id = id.parse().map_err(|_| StoreError::NotANumber { path: WHAT.to_owned(), value: id });
            let tx = Transaction(id?);
            let done = work(self, tx);
            let end = if done.is_ok() { b"T\0".as_slice() } else { b"F\0" };
            match (done, self.request(XS_TRANSACTION_END, tx, WHAT, &[end])) {
                (Err(e), _) => return Err(e),
                (Ok(done), Ok(_)) => return Ok(done),
                (Ok(_), Err(StoreError::Refused { errno: Errno::EAGAIN, .. })) => {}
                (Ok(_), Err(e)) => return Err(e),
            }
        }
        Err(StoreError::Refused { path: WHAT.to_owned(), errno: Errno::EAGAIN })
    }

    fn request(
        &mut self,
        kind: u32,
        tx: Transaction,
        path: &str,
        parts: &[&[u8]],
    ) -> Result<Vec<u8>, StoreError> {
        let payload = parts.concat();
        let unsendable = || StoreError::Unsendable(path.to_owned());
        let len = u32::try_from(payload.len()).map_err(|_| unsendable())?;
        if payload.len() > XENSTORE_PAYLOAD_MAX {
            return Err(unsendable());
        }
        let id = self.next;
        self.next = self.next.wrapping_add(1);
        let head = xsd_sockmsg { r#type: kind, req_id: id, tx_id: tx.0, len };
        // One write: the device takes a message apart, but a second writer's bytes must not come between.
        self.stream.write_all(&[head.as_bytes(), &payload].concat())?;
        self.stream.flush()?;
        loop {
            let Message { head, payload } = self.receive(kind)?;
            let protocol = || StoreError::Protocol { asked: kind, kind: head.r#type, len: head.len };
            match head.r#type {
                XS_WATCH_EVENT => self.note(kind, head, &payload)?,
                _ if head.req_id != id => return Err(protocol()),
                XS_ERROR => {
                    return Err(StoreError::Refused { path: path.to_owned(), errno: errno(&payload) });
                }
                same if same == kind => return Ok(payload),
                _ => return Err(protocol()),
            }
        }
    }

    /// One message, whatever it is. `asked`: what this waits for an answer to.
    fn receive(&mut self, asked: u32) -> Result<Message, StoreError> {
        let mut head = xsd_sockmsg::new_zeroed();
        self.stream.read_exact(head.as_mut_bytes())?;
        let len = usize::try_from(head.len).ok().filter(|n| *n <= XENSTORE_PAYLOAD_MAX);
        let protocol = StoreError::Protocol { asked, kind: head.r#type, len: head.len };
        let mut payload = vec![0; len.ok_or(protocol)?];
        self.stream.read_exact(&mut payload)?;
        Ok(Message { head, payload })
    }
}

/// What the store sends.
struct Message {
    head: xsd_sockmsg,
    payload: Vec<u8>,
}

/// The error of this name.
fn errno(answer: &[u8]) -> Errno {
    let name = answer.split(|b| *b == 0).next().unwrap_or_default();
    let known = Errno::ALL.iter().find(|(known, _)| known.as_bytes() == name);
    known.map_or(Errno::EIO, |(_, number)| Errno(*number))
}

fn nul_ended(text: &str) -> Result<Vec<u8>, StoreError> {
    if text.contains('\0') || text.len() > XENSTORE_ABS_PATH_MAX {
        return Err(StoreError::Unsendable(text.chars().take(64).collect()));
    }
    Ok([text.as_bytes(), b"\0"].concat())
}

#[cfg(test)]
mod tests;
