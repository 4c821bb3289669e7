//! Shared pages by Linux's drivers, gntalloc and gntdev. Neither the drivers nor stock Xen can revoke.

use std::os::fd::{AsFd, BorrowedFd};

use xen_ioreq::linux::{Gntalloc, Gntdev, UnmapNotify};
use xen_ioreq::seam::Prot;
use xen_ioreq::{DomId, GrantRef};

use super::{Ended, GrantError, Granted, Granter, Mapper, PlainHold, PlainMapping};
use crate::shared::SharedBytes;

/// Grants by `/dev/xen/gntalloc`.
#[derive(Debug)]
pub struct LinuxGranter(Gntalloc);

impl LinuxGranter {
    /// Opens the device.
    ///
    /// # Errors
    /// [`GrantError::Open`].
    pub fn open() -> Result<Self, GrantError> {
        Ok(Self(Gntalloc::open()?))
    }
}

impl AsFd for LinuxGranter {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The kernel ends the grants when the mapping goes, and waits for the peer by itself.
#[derive(Debug)]
struct ByTheMapping;

impl PlainHold for ByTheMapping {
    fn end(&mut self) -> Option<Ended> {
        Some(Ended::LeftToKernel)
    }
}

impl Granter for LinuxGranter {
    fn grant(
        &self,
        peer: DomId,
        pages: usize,
        prot: Prot,
        on_end: UnmapNotify,
    ) -> Result<Granted, GrantError> {
        let granted = self.0.grant(peer, pages, prot, on_end);
        let granted = granted.map_err(|errno| GrantError::Grant { peer, pages, errno })?;
        Ok(Granted::new(peer, granted.refs, SharedBytes::new(granted.mapping), Box::new(ByTheMapping)))
    }
}

/// Maps by `/dev/xen/gntdev`.
#[derive(Clone, Debug)]
pub struct LinuxMapper(Gntdev);

impl LinuxMapper {
    /// Opens the device.
    ///
    /// # Errors
    /// [`GrantError::Open`].
    pub fn open() -> Result<Self, GrantError> {
        Ok(Self(Gntdev::open()?))
    }

    /// The device, for copies without a mapping.
    pub fn device(&self) -> &Gntdev {
        &self.0
    }
}

impl Mapper for LinuxMapper {
    fn map(
        &self,
        peer: DomId,
        refs: &[GrantRef],
        prot: Prot,
        on_end: UnmapNotify,
    ) -> Result<PlainMapping, GrantError> {
        let grants: Vec<_> = refs.iter().map(|gref| (peer, *gref)).collect();
        let first = refs.first().copied().unwrap_or_default();
        let mapping = self.0.map(&grants, prot, on_end);
        let mapping = mapping.map_err(|errno| GrantError::Map { peer, pages: refs.len(), first, errno })?;
        Ok(PlainMapping::new(mapping, prot))
    }
}
