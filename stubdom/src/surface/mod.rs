//! A picture that a domain draws and another one shows: in pages that the one who draws can take back at any time, or where a
//! hypervisor has none of those, in pages that a viewer keeps for as long as it likes.
//!
//! The viewer gets copies only. A copy is whole if nothing was drawn meanwhile; one that met the end of the sharing is none. What
//! the viewer has to know is an [`Invitation`], for instance a packet of a [`channel`](crate::channel).

mod invitation;
#[cfg(test)]
mod tests;

use std::ops::Deref;

use xen_ioreq::linux::UnmapNotify;
use xen_ioreq::seam::Prot;
use xen_ioreq::{DomId, Errno, PAGE_SIZE};

pub use invitation::{Invitation, Shape};

use crate::grants::{
    GrantError, Granted, GrantedPages, Granter, MappedPages, Mapper, OutOfRange, PlainMapping,
    RevokableGrant, RevokableGranter, RevokableMapper, RevokableMapping,
};
use crate::shared::SharedBytes;
use crate::sync::atomic::{Ordering, fence};

/// Offset in the first page: how often a drawing was begun or ended; odd while one is under way.
const SEQUENCE: usize = 0;
/// Offset in the first page of a byte that says what is there.
const LIVE: usize = 4;
/// The picture.
const THERE: u8 = 1;
/// None any more.
const GONE: u8 = 0;
/// What a viewer's own pages hold that take the place of those taken back.
const STAND_IN: u8 = 0xff;
/// Where the pixels begin: the first page is the head.
const PIXELS: usize = PAGE_SIZE;

/// Why a picture cannot be shared or seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SurfaceError {
    /// the pages cannot be shared
    #[error(transparent)]
    Grant(#[from] GrantError),
    /// a picture cannot have this shape
    #[error("a picture of {width} by {height} pixels in lines of {stride} bytes cannot be")]
    Shape {
        /// Pixels in a line.
        width: u32,
        /// Lines.
        height: u32,
        /// Bytes from line to line.
        stride: u32,
    },
    /// the invitation is none
    #[error("an invitation of {0} bytes that is none")]
    Invitation(usize),
    /// the invitation cannot be read from XenStore
    #[error("XenStore: the invitation: {0}")]
    Store(Errno),
    /// who draws has taken the picture back, or has died
    #[error("the picture was taken back")]
    TakenBack,
}

/// The side that draws. Dropping it takes the picture back.
#[derive(Debug)]
#[must_use = "the picture is taken back with it"]
pub struct Surface {
    // Goes first: the viewer is told before the pages go.
    farewell: Farewell,
    shape: Shape,
    pages: Pages,
}

#[derive(Debug)]
enum Pages {
    Plain(Granted),
    Revokable(RevokableGrant),
}

impl Deref for Pages {
    type Target = GrantedPages;

    fn deref(&self) -> &GrantedPages {
        match self {
            Self::Plain(pages) => pages,
            Self::Revokable(pages) => pages,
        }
    }
}

/// Says in the head that there is no picture any more, when it is dropped.
#[derive(Debug)]
struct Farewell(SharedBytes);

impl Drop for Farewell {
    fn drop(&mut self) {
        self.0.u8(LIVE).store(GONE, Ordering::Release);
    }
}

impl Surface {
    /// A black picture, which `viewer` may see until it is taken back.
    ///
    /// # Errors
    /// [`SurfaceError::Grant`].
    pub fn share(granter: &dyn RevokableGranter, viewer: DomId, shape: Shape) -> Result<Self, SurfaceError> {
        let pages = granter.grant_revokable(viewer, 1 + shape.pages(), Prot::Read)?;
        Ok(Self::over(shape, Pages::Revokable(pages)))
    }

    /// The same in plain pages: a viewer that holds on to them sees none of what is drawn later, but they are not free
    /// before it lets go, and a page that it does not give back is lost until it dies.
    ///
    /// # Errors
    /// [`SurfaceError::Grant`].
    pub fn share_plainly(granter: &dyn Granter, viewer: DomId, shape: Shape) -> Result<Self, SurfaceError> {
        // Also if this process dies.
        let on_end = UnmapNotify { clear_byte: Some(LIVE), send_event: None };
        let pages = granter.grant(viewer, 1 + shape.pages(), Prot::Read, on_end)?;
        Ok(Self::over(shape, Pages::Plain(pages)))
    }

    fn over(shape: Shape, pages: Pages) -> Self {
        pages.bytes().u8(LIVE).store(THERE, Ordering::Release);
        Self { farewell: Farewell(pages.bytes().clone()), shape, pages }
    }

    /// The shape of the picture.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// What the viewer has to know.
    pub fn invitation(&self) -> Invitation {
        Invitation { shape: self.shape, refs: self.pages.refs().to_vec() }
    }

    /// Draws: each `(at, bytes)` goes to byte `at` of the picture. A viewer sees all of them or knows that it does not.
    ///
    /// # Errors
    /// One does not lie in the picture; those before it are drawn.
    pub fn draw<'a>(&mut self, parts: impl IntoIterator<Item = (usize, &'a [u8])>) -> Result<(), OutOfRange> {
        let sequence = self.pages.bytes().u32(SEQUENCE);
        sequence.fetch_add(1, Ordering::Relaxed);
        // Who sees any of the bytes sees that a drawing was under way.
        fence(Ordering::Release);
        let size = self.shape.bytes();
        let done = parts.into_iter().try_for_each(|(at, bytes)| {
            let inside = at.checked_add(bytes.len()).is_some_and(|end| end <= size);
            if !inside {
                return Err(OutOfRange { at, len: bytes.len(), size, writable: true });
            }
            self.pages.write(PIXELS + at, bytes)
        });
        sequence.fetch_add(1, Ordering::Release);
        done
    }

    /// Takes the picture back and frees its pages; revokable ones whatever the viewer does.
    ///
    /// # Errors
    /// What the hypervisor said. EBUSY: the viewer still maps plain ones, which the granter frees once it can.
    pub fn take_back(self) -> Result<(), Errno> {
        let Self { farewell, pages, .. } = self;
        drop(farewell);
        match pages {
            Pages::Plain(pages) => pages.end().map(drop).map_err(|_| Errno::EBUSY),
            Pages::Revokable(pages) => pages.revoke(),
        }
    }
}

/// What a copy is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copy {
    /// One picture, drawn to its end.
    Whole,
    /// Of more than one drawing, or of one that is not at its end.
    Torn,
}

/// The side that sees.
#[derive(Debug)]
pub struct View {
    shape: Shape,
    mapping: Mapped,
}

#[derive(Debug)]
enum Mapped {
    Plain(PlainMapping),
    Revokable(RevokableMapping),
}

impl Deref for Mapped {
    type Target = MappedPages;

    fn deref(&self) -> &MappedPages {
        match self {
            Self::Plain(pages) => pages,
            Self::Revokable(pages) => pages,
        }
    }
}

impl View {
    /// Maps the picture of `painter`, who has sent the invitation.
    ///
    /// # Errors
    /// [`SurfaceError::Grant`], [`SurfaceError::TakenBack`].
    pub fn open(
        mapper: &dyn RevokableMapper,
        painter: DomId,
        invitation: &Invitation,
    ) -> Result<Self, SurfaceError> {
        let mapping = mapper.map_revokable(painter, &invitation.refs, Prot::Read, STAND_IN)?;
        Self::over(invitation.shape, Mapped::Revokable(mapping))
    }

    /// The same of a picture in plain pages. That its painter's whole domain has died it does not say: see
    /// [`DomainWatch`](crate::xenstore::DomainWatch).
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_plainly(
        mapper: &dyn Mapper,
        painter: DomId,
        invitation: &Invitation,
    ) -> Result<Self, SurfaceError> {
        let mapping = mapper.map(painter, &invitation.refs, Prot::Read, UnmapNotify::default())?;
        Self::over(invitation.shape, Mapped::Plain(mapping))
    }

    fn over(shape: Shape, mapping: Mapped) -> Result<Self, SurfaceError> {
        let view = Self { shape, mapping };
        view.there().map(|()| view)
    }

    /// The shape of the picture.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    fn bytes(&self) -> &SharedBytes {
        self.mapping.bytes()
    }

    fn there(&self) -> Result<(), SurfaceError> {
        match self.bytes().u8(LIVE).load(Ordering::Acquire) {
            THERE => Ok(()),
            _ => Err(SurfaceError::TakenBack),
        }
    }

    /// Copies the picture as it is now: its lines one after the other, without what lies between them. Never waits.
    ///
    /// # Errors
    /// [`SurfaceError::TakenBack`]: `out` is empty then.
    pub fn copy(&self, out: &mut Vec<u8>) -> Result<Copy, SurfaceError> {
        out.clear();
        let sequence = self.bytes().u32(SEQUENCE);
        let before = sequence.load(Ordering::Acquire);
        out.resize(self.shape.line() * self.shape.height() as usize, 0);
        for (line, to) in out.chunks_exact_mut(self.shape.line()).enumerate() {
            self.bytes().read(PIXELS + line * self.shape.stride() as usize, to);
        }
        // The head is the first page to go: if it is still there, so were the others.
        fence(Ordering::Acquire);
        let after = sequence.load(Ordering::Relaxed);
        self.there().inspect_err(|_| out.clear())?;
        let whole = before == after && before.is_multiple_of(2);
        Ok(if whole { Copy::Whole } else { Copy::Torn })
    }
}
