//! A vGPU's state under its lock, and the pages of it that the guest reads as memory of its own.
//!
//! Whoever changes the state has changed those pages before the lock is free again, and before an interrupt says so: there is
//! one place for it, the lock's end. A page that the guest takes away is not written any more; its registers trap again.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex, MutexGuard};
use pviommu::{Draining, Mapped};
use xen_ioreq::Bfn;

use super::memory::Memory;
use crate::vgpu::State;
use crate::vgpu::shown::{PAGE, PAGES};

/// The pages: of each what keeps it where it is. The lock is the last one that anybody takes.
pub(super) struct ShownPages {
    memory: Memory,
    pages: Mutex<Pages>,
    /// What is behind their bus frames may be other memory than what was written.
    renewed: AtomicBool,
}

#[derive(Default)]
struct Pages {
    mapped: [Option<Mapped>; PAGES.len()],
    closed: bool,
}

impl ShownPages {
    pub(super) fn new(memory: Memory) -> Arc<Self> {
        Arc::new(Self { memory, pages: Mutex::default(), renewed: AtomicBool::new(false) })
    }

    /// Takes out what keeps pages at these bus frames.
    pub(super) fn revoke(&self, bfns: &[Bfn]) -> Vec<Mapped> {
        let mut pages = self.pages.lock();
        let gone = |page: &mut Option<Mapped>| page.take_if(|mapped| bfns.contains(&mapped.bfn()));
        pages.mapped.iter_mut().filter_map(gone).collect()
    }

    /// What is mapped may have been mapped afresh.
    pub(super) fn renewed(&self) {
        self.renewed.store(true, Ordering::Release);
    }

    /// Takes out all of them, for ever.
    pub(super) fn close(&self) -> Vec<Mapped> {
        let mut pages = self.pages.lock();
        pages.closed = true;
        pages.mapped.iter_mut().filter_map(Option::take).collect()
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.pages.lock().mapped.iter().flatten().count()
    }

    fn write(&self, pages: &Pages, offset: u32, value: u32) {
        let page = PAGES.iter().position(|first| *first == offset & !(PAGE - 1));
        let Some(Some(mapped)) = page.and_then(|page| pages.mapped.get(page)) else { return };
        let at = usize::try_from(offset % PAGE).unwrap_or(0);
        if let Err(e) = self.memory.write(mapped.bfn(), at, &value.to_le_bytes()) {
            log::warn!("a page of registers is out of reach: {e}");
        }
    }
}

/// The state.
pub(super) struct Registers {
    state: Mutex<State>,
    pages: Arc<ShownPages>,
}

impl Registers {
    pub(super) fn new(state: State, pages: Arc<ShownPages>) -> Self {
        Self { state: Mutex::new(state), pages }
    }

    /// Waits for the state.
    pub(super) fn lock(&self) -> StateGuard<'_> {
        StateGuard { state: self.state.lock(), pages: &self.pages }
    }

    /// From now on a page of registers (its number in [`PAGES`]) is shown in this memory too, which holds them when this
    /// returns. What it had before comes back, and if the vGPU goes, `mapped` does.
    pub(super) fn show(&self, page: usize, mapped: Mapped) -> Option<Draining> {
        let mut state = self.lock();
        let mut pages = self.pages.pages.lock();
        let closed = pages.closed;
        let before = match pages.mapped.get_mut(page) {
            Some(place) if !closed => place.replace(mapped),
            _ => Some(mapped),
        };
        state.note_changes(pages.mapped.iter().any(Option::is_some));
        drop(pages);
        before.and_then(Mapped::put)
    }

    /// From now on a page is not.
    pub(super) fn hide(&self, page: usize) -> Option<Draining> {
        let mut state = self.lock();
        let mut pages = self.pages.pages.lock();
        let before = pages.mapped.get_mut(page).and_then(Option::take);
        state.note_changes(pages.mapped.iter().any(Option::is_some));
        drop(pages);
        before.and_then(Mapped::put)
    }
}

/// The state, locked.
pub(super) struct StateGuard<'a> {
    state: MutexGuard<'a, State>,
    pages: &'a ShownPages,
}

impl StateGuard<'_> {
    /// Lets go of the state until somebody notifies, or for so long. Nothing has changed in it.
    pub(super) fn wait_for(&mut self, changed: &Condvar, time: Duration) {
        changed.wait_for(&mut self.state, time);
    }
}

impl Deref for StateGuard<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        &self.state
    }
}

impl DerefMut for StateGuard<'_> {
    fn deref_mut(&mut self) -> &mut State {
        &mut self.state
    }
}

impl Drop for StateGuard<'_> {
    fn drop(&mut self) {
        if self.pages.renewed.load(Ordering::Acquire) && self.pages.renewed.swap(false, Ordering::AcqRel) {
            let pages = self.pages.pages.lock();
            self.state.note_changes(pages.mapped.iter().any(Option::is_some));
        }
        if self.state.has_changed() {
            let pages = self.pages.pages.lock();
            self.state.take_changes(|offset, value| self.pages.write(&pages, offset, value));
        }
    }
}
