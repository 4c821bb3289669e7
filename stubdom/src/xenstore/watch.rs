//! Watches: being told that something has changed, among it that a domain has gone.
//!
//! The store says `@releaseDomain` to dom0 when a domain dies. It does not say which; so it is asked, which only dom0 may.

use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use mio::event::Source;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use xen_ioreq::DomId;
use xen_ioreq::abi::xs_wire::*;
use xen_ioreq::linux::Xenbus;

use super::{Message, Store, StoreError, Transaction, nul_ended};

/// What changes when any domain goes.
pub(crate) const RELEASE: &str = "@releaseDomain";

impl<T: Read + Write> Store<T> {
    /// Has the store tell of each change of `path` or below it, from now on; `token` says which watch it is. It fires once
    /// at the beginning, whether there is such a node or not. A node that this domain may not read fires nothing.
    ///
    /// # Errors
    /// [`StoreError::Refused`]: EEXIST, the same watch again; E2BIG, more watches than a domain may have.
    pub fn watch(&mut self, path: &str, token: &str) -> Result<(), StoreError> {
        let payload = [nul_ended(path)?, nul_ended(token)?].concat();
        self.request(XS_WATCH, Transaction::NONE, path, &[payload.as_slice()]).map(drop)
    }

    /// Ends a watch. What it had told already is forgotten.
    ///
    /// # Errors
    /// [`StoreError::Refused`]: ENOENT.
    pub fn unwatch(&mut self, path: &str, token: &str) -> Result<(), StoreError> {
        let payload = [nul_ended(path)?, nul_ended(token)?].concat();
        self.request(XS_UNWATCH, Transaction::NONE, path, &[payload.as_slice()])?;
        self.fired.remove(token);
        Ok(())
    }

    /// Waits until a watch fires; its token. However often it fired meanwhile, that is once.
    ///
    /// # Errors
    /// [`StoreError::Io`], [`StoreError::Protocol`].
    pub fn wait(&mut self) -> Result<String, StoreError> {
        loop {
            if let Some(token) = self.fired.pop_first() {
                return Ok(token);
            }
            self.hear()?;
        }
    }

    /// The next message, which nobody has asked for.
    fn hear(&mut self) -> Result<(), StoreError> {
        let Message { head, payload } = self.receive(XS_WATCH)?;
        self.note(XS_WATCH, head, &payload)
    }

    /// Keeps what an event is about: a path and a token, each with a nul.
    pub(super) fn note(&mut self, asked: u32, head: xsd_sockmsg, payload: &[u8]) -> Result<(), StoreError> {
        let mut parts = payload.split(|b| *b == 0);
        let (Some(_), Some(token), XS_WATCH_EVENT) = (parts.next(), parts.next(), head.r#type) else {
            return Err(StoreError::Protocol { asked, kind: head.r#type, len: head.len });
        };
        self.fired.insert(String::from_utf8_lossy(token).into_owned());
        Ok(())
    }
}

impl<T: Read + Write + AsFd> Store<T> {
    /// The descriptor that becomes readable with an event.
    pub fn pollable(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// Tokens of the watches that have fired, without waiting.
    ///
    /// # Errors
    /// [`StoreError::Io`], [`StoreError::Protocol`].
    pub fn fired(&mut self) -> Result<Vec<String>, StoreError> {
        loop {
            let mut fds = [PollFd::from_borrowed_fd(self.stream.as_fd(), PollFlags::IN)];
            let now = Timespec { tv_sec: 0, tv_nsec: 0 };
            let ready = rustix::io::retry_on_intr(|| poll(&mut fds, Some(&now)));
            if ready.map_err(std::io::Error::from)? == 0 {
                return Ok(std::mem::take(&mut self.fired).into_iter().collect());
            }
            // The store sends a message in one piece, and so does the kernel.
            self.hear()?;
        }
    }
}

/// Knows when the domain of a peer has gone.
pub trait PeerWatch: Send {
    /// Readable when there may be news.
    fn pollable(&self) -> BorrowedFd<'_>;

    /// Whether the domain has gone. Never waits long.
    ///
    /// # Errors
    /// Those of the store.
    fn has_gone(&mut self) -> Result<bool, StoreError>;
}

/// Watches whether one domain is there. Only dom0 is told of deaths, and may ask: in another domain this never says that its
/// peer has gone. (With dom0 as the peer that is right as well.)
#[derive(Debug)]
pub struct DomainWatch<T> {
    store: Store<T>,
    domid: DomId,
    gone: bool,
}

impl DomainWatch<Xenbus> {
    /// By the kernel's device.
    ///
    /// # Errors
    /// [`StoreError::Open`], and as [`over`](Self::over).
    pub fn open(domid: DomId) -> Result<Self, StoreError> {
        Self::over(Store::open()?, domid)
    }
}

impl<T: Read + Write> DomainWatch<T> {
    /// On a connection to the store that is for this alone.
    ///
    /// # Errors
    /// Those of [`Store::watch`].
    pub fn over(mut store: Store<T>, domid: DomId) -> Result<Self, StoreError> {
        store.watch(RELEASE, RELEASE)?;
        Ok(Self { store, domid, gone: false })
    }

    /// Which domain.
    pub fn domid(&self) -> DomId {
        self.domid
    }
}

impl<T: Read + Write + AsFd + Send> PeerWatch for DomainWatch<T> {
    fn pollable(&self) -> BorrowedFd<'_> {
        self.store.pollable()
    }

    fn has_gone(&mut self) -> Result<bool, StoreError> {
        // Taken first: a death that comes after the question fires again.
        self.store.fired()?;
        // A number that was given to a new domain meanwhile is not our peer's.
        self.gone = self.gone || self.store.is_known_gone(self.domid)?;
        Ok(self.gone)
    }
}

impl<T: AsFd> Source for DomainWatch<T> {
    fn register(&mut self, registry: &Registry, token: Token, interests: Interest) -> std::io::Result<()> {
        SourceFd(&self.store.stream.as_fd().as_raw_fd()).register(registry, token, interests)
    }

    fn reregister(&mut self, registry: &Registry, token: Token, interests: Interest) -> std::io::Result<()> {
        SourceFd(&self.store.stream.as_fd().as_raw_fd()).reregister(registry, token, interests)
    }

    fn deregister(&mut self, registry: &Registry) -> std::io::Result<()> {
        SourceFd(&self.store.stream.as_fd().as_raw_fd()).deregister(registry)
    }
}
