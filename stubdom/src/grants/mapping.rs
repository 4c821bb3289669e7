//! Mapped pages of others, by what their granter can do.
//!
//! Both kinds give copies. Only a plain one gives an address as well: its pages stay what they are until it is dropped,
//! though their bytes may change. Behind a revokable one there may be another page at the next read.

use std::ops::Deref;
use std::ptr::NonNull;

use xen_ioreq::seam::{Mapping, Prot};

use crate::shared::SharedBytes;

/// the bytes do not all lie in the mapping, or it is read-only
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{len} bytes at {at} of a mapping of {size} bytes that is {}writable", if *.writable { "" } else { "not " })]
pub struct OutOfRange {
    /// First byte asked for.
    pub at: usize,
    /// How many.
    pub len: usize,
    /// Length of the mapping in bytes.
    pub size: usize,
    /// Whether it may be written.
    pub writable: bool,
}

fn check(bytes: &SharedBytes, writable: bool, at: usize, len: usize, write: bool) -> Result<(), OutOfRange> {
    let inside = at.checked_add(len).is_some_and(|end| end <= bytes.len());
    let allowed = inside && (writable || !write);
    allowed.then_some(()).ok_or(OutOfRange { at, len, size: bytes.len(), writable })
}

pub(super) fn read(bytes: &SharedBytes, at: usize, out: &mut [u8]) -> Result<(), OutOfRange> {
    check(bytes, true, at, out.len(), false)?;
    bytes.read(at, out);
    Ok(())
}

pub(super) fn write(bytes: &SharedBytes, prot: Prot, at: usize, data: &[u8]) -> Result<(), OutOfRange> {
    check(bytes, prot == Prot::ReadWrite, at, data.len(), true)?;
    bytes.write(at, data);
    Ok(())
}

/// Pages of another domain: what is the same whether they can be taken back or not.
#[derive(Debug)]
pub struct MappedPages {
    bytes: SharedBytes,
    prot: Prot,
}

impl MappedPages {
    /// Length in bytes.
    #[expect(clippy::len_without_is_empty, reason = "no mapping is empty")]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Copies out.
    ///
    /// # Errors
    /// The bytes do not all lie in the mapping; none is copied.
    pub fn read(&self, at: usize, out: &mut [u8]) -> Result<(), OutOfRange> {
        read(&self.bytes, at, out)
    }

    /// Copies in.
    ///
    /// # Errors
    /// The bytes do not all lie in the mapping, or it is read-only; none is copied.
    pub fn write(&self, at: usize, data: &[u8]) -> Result<(), OutOfRange> {
        write(&self.bytes, self.prot, at, data)
    }

    pub(crate) fn bytes(&self) -> &SharedBytes {
        &self.bytes
    }
}

/// Pages of another domain. That domain can change the bytes at any time, and cannot free the pages before this is dropped.
#[derive(Debug)]
pub struct PlainMapping(MappedPages);

impl PlainMapping {
    pub(crate) fn new(mapping: Mapping, prot: Prot) -> Self {
        Self(MappedPages { bytes: SharedBytes::new(mapping), prot })
    }

    /// First byte; valid while `self` lives. Never make a Rust reference of it: the granter writes there.
    pub fn base(&self) -> NonNull<u8> {
        self.bytes().base()
    }
}

impl Deref for PlainMapping {
    type Target = MappedPages;

    fn deref(&self) -> &MappedPages {
        &self.0
    }
}

/// Pages of another domain, which can take each of them back at any time; in its place is then one of ours.
///
/// What was copied may be of either, or of both in part: check the copy, and whether the page was still the peer's after it.
#[derive(Debug)]
pub struct RevokableMapping {
    pages: MappedPages,
    stand_in: u8,
}

impl RevokableMapping {
    pub(crate) fn new(mapping: Mapping, prot: Prot, stand_in: u8) -> Self {
        Self { pages: MappedPages { bytes: SharedBytes::new(mapping), prot }, stand_in }
    }

    /// What every byte of a page that was taken back is, as long as nobody has written it since.
    pub fn stand_in(&self) -> u8 {
        self.stand_in
    }
}

impl Deref for RevokableMapping {
    type Target = MappedPages;

    fn deref(&self) -> &MappedPages {
        &self.pages
    }
}
