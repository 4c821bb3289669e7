//! Pages shared between domains that need not trust each other.
//!
//! Two back ends: Linux's drivers, and the hypercalls for who is a domain's kernel, such as a domain of the model hypervisor.
//!
//! A [`Granter`] makes pages and grants them, a [`Mapper`] maps what others grant. What a hypervisor has beyond the stock
//! interface is a capability that is asked for: without [`Granter::revokable`] a peer that holds on to a page keeps it, and the
//! caller chooses whether to share at all. Everything shared is read and written as copies; a plain mapping also has an address.

mod linux;
mod mapping;
mod table;
#[cfg(test)]
mod tests;

use std::fmt;
use std::ops::Deref;

use xen_ioreq::linux::{OpenError, UnmapNotify};
use xen_ioreq::seam::Prot;
use xen_ioreq::{DomId, Errno, GrantRef};

pub use linux::{LinuxGranter, LinuxMapper};
pub use mapping::{MappedPages, OutOfRange, PlainMapping, RevokableMapping};
pub use table::{TableGranter, TableMapper};

use crate::shared::SharedBytes;

/// Why pages cannot be shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GrantError {
    /// a device of the kernel's cannot be used
    #[error(transparent)]
    Open(#[from] OpenError),
    /// the pages cannot be granted
    #[error("granting {pages} pages to {peer}: {errno}")]
    Grant {
        /// To whom.
        peer: DomId,
        /// How many.
        pages: usize,
        /// Why.
        errno: Errno,
    },
    /// the pages cannot be mapped
    #[error("mapping {pages} pages of {peer}, {first} the first: {errno}")]
    Map {
        /// Whose.
        peer: DomId,
        /// How many.
        pages: usize,
        /// First of the references.
        first: GrantRef,
        /// Why.
        errno: Errno,
    },
    /// the hypervisor refuses one of the mappings
    #[error("mapping {gref} of {peer}: {}", table::status_name(*.status))]
    Refused {
        /// Whose.
        peer: DomId,
        /// Which.
        gref: GrantRef,
        /// `GNTST_*`.
        status: i16,
    },
}

/// Grants pages of this domain.
pub trait Granter: Send + Sync + fmt::Debug {
    /// Makes `pages` zeroed pages and grants them all to `peer`, which may write them if `prot` says so. `on_end`: what the
    /// kernel does for the peer when they go, also by this process's death; nothing where this process is the kernel itself.
    ///
    /// # Errors
    /// [`GrantError::Grant`]; nothing is granted then.
    fn grant(
        &self,
        peer: DomId,
        pages: usize,
        prot: Prot,
        on_end: UnmapNotify,
    ) -> Result<Granted, GrantError>;

    /// Grants that can be taken back from a peer that still maps them, if the hypervisor has them.
    fn revokable(&self) -> Option<&dyn RevokableGranter> {
        None
    }
}

/// Grants pages that it can take back at any time.
pub trait RevokableGranter: Send + Sync + fmt::Debug {
    /// As [`Granter::grant`]. There is no `on_end`: when this domain goes, the peer sees its own page in place of ours, and the
    /// byte in it; an event could come after that.
    ///
    /// # Errors
    /// [`GrantError::Grant`]; nothing is granted then.
    fn grant_revokable(&self, peer: DomId, pages: usize, prot: Prot) -> Result<RevokableGrant, GrantError>;
}

/// Maps pages that others grant.
pub trait Mapper: Send + Sync + fmt::Debug {
    /// Maps `refs` of `peer` side by side, all or none. `on_end`: as for [`Granter::grant`].
    ///
    /// # Errors
    /// [`GrantError::Map`], [`GrantError::Refused`]: one of them is not granted to us, not so, or only revokably.
    fn map(
        &self,
        peer: DomId,
        refs: &[GrantRef],
        prot: Prot,
        on_end: UnmapNotify,
    ) -> Result<PlainMapping, GrantError>;

    /// Mappings of pages that may be taken back, if the hypervisor has them.
    fn revokable(&self) -> Option<&dyn RevokableMapper> {
        None
    }
}

/// Maps pages that their granter can take back at any time.
pub trait RevokableMapper: Send + Sync + fmt::Debug {
    /// As [`Mapper::map`]. Each page that is taken back is replaced by one of ours, filled with `stand_in`, without a fault.
    ///
    /// # Errors
    /// As for [`Mapper::map`]; or one is not granted revokably.
    fn map_revokable(
        &self,
        peer: DomId,
        refs: &[GrantRef],
        prot: Prot,
        stand_in: u8,
    ) -> Result<RevokableMapping, GrantError>;
}

/// What became of pages that were granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Nobody maps them any more; they are free.
    Free,
    /// The kernel frees each as soon as the peer lets go of it. It does not say when; nobody else gets them before.
    LeftToKernel,
}

/// The peer still maps some of the pages, so they cannot be freed: here they are again. Dropping them leaves them to the granter,
/// which frees them once it can.
#[derive(Debug, thiserror::Error)]
#[error("{peer} still maps pages that were granted to it")]
pub struct StillMapped {
    /// Who.
    pub peer: DomId,
    /// The pages; those grants that could be ended are.
    pub granted: Granted,
}

/// What a back end does with pages that it has granted.
pub(crate) trait PlainHold: Send + Sync + fmt::Debug {
    /// Ends the grants as far as the peer lets it. `None`: some are still mapped.
    fn end(&mut self) -> Option<Ended>;
}

/// Pages of ours that a peer may map: what is the same however they come back.
#[derive(Debug)]
pub struct GrantedPages {
    peer: DomId,
    refs: Vec<GrantRef>,
    bytes: SharedBytes,
}

impl GrantedPages {
    /// To whom.
    pub fn peer(&self) -> DomId {
        self.peer
    }

    /// One a page, in order.
    pub fn refs(&self) -> &[GrantRef] {
        &self.refs
    }

    /// Copies out of the pages.
    ///
    /// # Errors
    /// The bytes do not all lie in the pages; none is copied.
    pub fn read(&self, at: usize, out: &mut [u8]) -> Result<(), OutOfRange> {
        mapping::read(&self.bytes, at, out)
    }

    /// Copies into the pages.
    ///
    /// # Errors
    /// The bytes do not all lie in the pages; none is copied.
    pub fn write(&self, at: usize, data: &[u8]) -> Result<(), OutOfRange> {
        mapping::write(&self.bytes, Prot::ReadWrite, at, data)
    }

    pub(crate) fn bytes(&self) -> &SharedBytes {
        &self.bytes
    }
}

/// Pages of ours that a peer may map, until they are ended.
#[derive(Debug)]
#[must_use = "the grants end with it"]
pub struct Granted {
    pages: GrantedPages,
    hold: Box<dyn PlainHold>,
}

impl Granted {
    pub(crate) fn new(
        peer: DomId,
        refs: Vec<GrantRef>,
        bytes: SharedBytes,
        hold: Box<dyn PlainHold>,
    ) -> Self {
        Self { pages: GrantedPages { peer, refs, bytes }, hold }
    }

    /// Ends the grants and frees the pages.
    ///
    /// # Errors
    /// The peer still maps some: with plain grants nothing can be done about that but wait.
    pub fn end(mut self) -> Result<Ended, StillMapped> {
        match self.hold.end() {
            Some(ended) => Ok(ended),
            None => Err(StillMapped { peer: self.pages.peer, granted: self }),
        }
    }
}

impl Deref for Granted {
    type Target = GrantedPages;

    fn deref(&self) -> &GrantedPages {
        &self.pages
    }
}

/// What a back end does with pages that it has granted revokably.
pub(crate) trait RevokableHold: Send + Sync + fmt::Debug {
    /// Takes the pages back.
    fn revoke(&mut self) -> Result<(), Errno>;
}

/// Pages of ours that a peer may map, and that come back whatever the peer does; at the latest when this is dropped.
#[derive(Debug)]
#[must_use = "the grants are revoked with it"]
pub struct RevokableGrant {
    pages: GrantedPages,
    hold: Box<dyn RevokableHold>,
}

impl RevokableGrant {
    pub(crate) fn new(
        peer: DomId,
        refs: Vec<GrantRef>,
        bytes: SharedBytes,
        hold: Box<dyn RevokableHold>,
    ) -> Self {
        Self { pages: GrantedPages { peer, refs, bytes }, hold }
    }

    /// Takes the pages back, in order, and frees them. From then on the peer reads and writes pages of its own.
    ///
    /// # Errors
    /// What the hypervisor said.
    pub fn revoke(mut self) -> Result<(), Errno> {
        self.hold.revoke()
    }
}

impl Deref for RevokableGrant {
    type Target = GrantedPages;

    fn deref(&self) -> &GrantedPages {
        &self.pages
    }
}
