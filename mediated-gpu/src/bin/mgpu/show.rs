//! `mgpu serve --viewer` and `mgpu view`: another domain sees what a guest shows, in pages that are granted to it.
//!
//! The viewer finds the references of those pages in XenStore, below `data/mgpu/N` of the domain in which mgpu runs, and copies as
//! often as it likes. Linux has plain grants only: pages that a viewer holds on to are lost until its domain goes.

use std::process::ExitCode;
use std::sync::Arc;

use ioreq_server::privilege::{Syscalls, granting};
use mediated_gpu::mediator::Vgpu;
use mediated_gpu::screen::{Screen, ScreenError};
use mediated_gpu::vgpu::display::{self, Surface};
use stubdom::grants::{LinuxGranter, LinuxMapper};
use stubdom::surface::{Copy, Invitation, SurfaceError, View};
use stubdom::xenstore::Store;
use xen_ioreq::DomId;
use xen_ioreq::linux::Xenbus;

use crate::{Error, cli, picture};

/// Where a viewer looks for what `guest` shows, if mgpu runs in `server`.
fn path(server: DomId, guest: DomId) -> String {
    format!("/local/domain/{}/data/mgpu/{}", server.0, guest.0)
}

/// A guest's picture for one viewer.
#[derive(Debug)]
pub(crate) struct Show {
    screen: Screen,
    granter: Arc<LinuxGranter>,
    store: Store<Xenbus>,
    path: String,
    me: DomId,
    viewer: DomId,
    /// Why the viewer sees nothing, as it was said last.
    trouble: Option<String>,
}

impl Show {
    /// Opens what it takes, which later cannot be opened any more.
    pub(crate) fn open(guest: DomId, viewer: DomId) -> Result<Self, Error> {
        let mut store = Store::open()?;
        let me = store.domid()?;
        let granter = Arc::new(LinuxGranter::open()?);
        let screen = Screen::plain(granter.clone(), viewer);
        let path = path(me, guest);
        // Another mgpu's, which has not ended well.
        Invitation::withdraw(&mut store, &path)?;
        Ok(Self { screen, granter, store, path, me, viewer, trouble: None })
    }

    /// The system calls that it takes.
    pub(crate) fn needs(&self) -> Syscalls {
        granting(&*self.granter)
    }

    /// Shows what the guest shows now. What goes wrong is said once, and tried again the next time.
    pub(crate) fn update(&mut self, vgpu: &Vgpu) {
        let done = self.try_update(vgpu).err().map(|e| e.to_string());
        if let Some(why) = done.as_ref().filter(|_| done != self.trouble) {
            log::warn!("{} sees nothing: {why}", self.viewer);
        }
        self.trouble = done;
    }

    fn try_update(&mut self, vgpu: &Vgpu) -> Result<(), Error> {
        match self.screen.update(vgpu) {
            Ok(None) => Ok(()),
            Ok(Some(invitation)) => {
                let published = invitation.publish(&mut self.store, &self.path, self.me, self.viewer);
                // Else nobody would ever be told of these pages.
                Ok(published.inspect_err(|_| self.screen.blank())?)
            }
            Err(e) => {
                Invitation::withdraw(&mut self.store, &self.path)?;
                // Its own affair, as at its start.
                if matches!(e, ScreenError::Guest(display::SurfaceError::Off)) {
                    Ok(())
                } else {
                    Err(e.into())
                }
            }
        }
    }
}

impl Drop for Show {
    fn drop(&mut self) {
        if let Err(e) = Invitation::withdraw(&mut self.store, &self.path) {
            log::warn!("{e}");
        }
    }
}

/// `mgpu view`: waits until there is a picture, and writes a whole copy of it.
pub(crate) fn view(args: &cli::View) -> Result<ExitCode, Error> {
    let (server, guest) = (DomId(args.server), DomId(args.domid));
    let (mut store, mapper, path) = (Store::open()?, LinuxMapper::open()?, path(server, guest));
    store.watch(&path, "picture")?;
    loop {
        // What changes after this fires again.
        store.wait()?;
        let Some(invitation) = Invitation::find(&mut store, &path)? else { continue };
        let seen = match View::open_plainly(&mapper, server, &invitation) {
            Ok(view) => whole(&view),
            Err(e) => Err(e),
        };
        match seen {
            Ok(seen) => {
                picture::write(&args.out, seen.width, seen.height, &picture::pixels(&seen))?;
                println!("wrote {}", args.out.display());
                return Ok(ExitCode::SUCCESS);
            }
            // Replaced, or taken back since: there will be another one.
            Err(SurfaceError::TakenBack | SurfaceError::Grant(_)) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// A copy during which nothing was drawn.
fn whole(view: &View) -> Result<Surface, SurfaceError> {
    let (shape, mut bgrx) = (view.shape(), Vec::new());
    while view.copy(&mut bgrx)? == Copy::Torn {
        std::thread::yield_now();
    }
    Ok(Surface { width: shape.width(), height: shape.height(), bgrx, missing_pages: 0 })
}
