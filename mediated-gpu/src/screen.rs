//! What a guest shows, for a viewer in another domain: copied out of the guest into pages that are shared with that viewer alone.
//!
//! The viewer reaches no page of the guest's, and the guest none of these. The viewer gets the picture from the [`Invitation`] by
//! `stubdom::surface::View`. Revokable pages come back whatever it does; whoever shares plain ones has chosen to trust it with them.

use std::fmt;
use std::sync::Arc;

use stubdom::grants::{Granter, OutOfRange};
use stubdom::surface::{self, Invitation, Shape};
use xen_ioreq::DomId;

use crate::mediator::Vgpu;
use crate::vgpu::display::{self, PIXEL_BYTES};

/// Why the viewer does not see what the guest shows.
#[derive(Debug, thiserror::Error)]
pub enum ScreenError {
    /// the guest shows nothing that could be seen
    #[error(transparent)]
    Guest(#[from] display::SurfaceError),
    /// it cannot be shared
    #[error(transparent)]
    Share(#[from] surface::SurfaceError),
    /// the picture does not fit its own size
    #[error(transparent)]
    Size(#[from] OutOfRange),
}

/// A guest's picture for one viewer. Dropping it takes the picture back.
pub struct Screen {
    granter: Arc<dyn Granter>,
    viewer: DomId,
    revokable: bool,
    surface: Option<surface::Surface>,
}

impl Screen {
    /// For a viewer that need not be trusted. `None`: the hypervisor has no revokable grants.
    pub fn revokable(granter: Arc<dyn Granter>, viewer: DomId) -> Option<Self> {
        granter.revokable()?;
        Some(Self { granter, viewer, revokable: true, surface: None })
    }

    /// For a viewer that is trusted to give pages back: until then, those of a picture that was taken back are lost.
    pub fn plain(granter: Arc<dyn Granter>, viewer: DomId) -> Self {
        Self { granter, viewer, revokable: false, surface: None }
    }

    /// Shows what the guest shows now. An invitation is for the viewer to follow from here on: the picture has another size, or is
    /// the first.
    ///
    /// # Errors
    /// [`ScreenError`]; the viewer sees no picture then.
    pub fn update(&mut self, vgpu: &Vgpu) -> Result<Option<Invitation>, ScreenError> {
        match vgpu.surface() {
            Ok(picture) => self.show(&picture),
            Err(e) => {
                self.blank();
                Err(e.into())
            }
        }
    }

    /// Shows a picture, likewise.
    ///
    /// # Errors
    /// [`ScreenError::Share`], [`ScreenError::Size`]; the viewer sees no picture then.
    pub fn show(&mut self, picture: &display::Surface) -> Result<Option<Invitation>, ScreenError> {
        let shape = Shape::new(picture.width, picture.height, picture.width.saturating_mul(PIXEL_BYTES))?;
        let fresh = self.surface.as_ref().is_none_or(|surface| surface.shape() != shape);
        if fresh {
            self.blank();
            self.surface = Some(self.share(shape)?);
        }
        let Some(surface) = &mut self.surface else { return Ok(None) };
        let drawn = surface.draw([(0, picture.bgrx.as_slice())]);
        let invitation = fresh.then(|| surface.invitation());
        drawn.inspect_err(|_| self.blank())?;
        Ok(invitation)
    }

    fn share(&self, shape: Shape) -> Result<surface::Surface, surface::SurfaceError> {
        match self.granter.revokable().filter(|_| self.revokable) {
            Some(granter) => surface::Surface::share(granter, self.viewer, shape),
            None => surface::Surface::share_plainly(&*self.granter, self.viewer, shape),
        }
    }

    /// Takes the picture back, until the next one.
    pub fn blank(&mut self) {
        if let Some(Err(e)) = self.surface.take().map(surface::Surface::take_back) {
            log::warn!("pages of a picture that {} was shown are not back yet: {e}", self.viewer);
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.blank();
    }
}

impl fmt::Debug for Screen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Screen")
            .field("viewer", &self.viewer)
            .field("surface", &self.surface)
            .finish_non_exhaustive()
    }
}
