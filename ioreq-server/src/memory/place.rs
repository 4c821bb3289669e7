//! A place whose content can be taken away while others use it.
//!
//! Whoever uses the content holds a [`Pin`]. [`Pin::retire`] and [`Place::evict`] take it away: no new pin is given, and
//! who comes out last carries the content off. One atomic word decides everything; no lock is taken and nobody waits.
#![expect(unsafe_code, reason = "the content is shared by whoever the atomic word lets in")]

use std::fmt;
use std::ops::Deref;

use crate::sync::atomic::{AtomicU32, Ordering};
use crate::sync::cell::{ConstPtr, UnsafeCell};

/// There is content, and it may be pinned.
const LIVE: u32 = 1 << 31;
/// With [`LIVE`]: no new pins, the last one out empties the place.
const RETIRED: u32 = 1 << 30;
/// Somebody is alone with the place: filling or emptying it.
const BUSY: u32 = 1 << 29;
/// Pins at the moment.
const PINS: u32 = BUSY - 1;
const EMPTY: u32 = 0;

/// The place.
pub(crate) struct Place<T> {
    state: AtomicU32,
    content: UnsafeCell<Option<T>>,
}

// SAFETY: the state lets either many readers or one filler or emptier at the content, never both, and orders them: so
// this is a lock around a T whose guards are `Pin` and that can be filled and emptied from any thread.
unsafe impl<T: Send + Sync> Sync for Place<T> {}

impl<T> Default for Place<T> {
    fn default() -> Self {
        Self { state: AtomicU32::new(EMPTY), content: UnsafeCell::new(None) }
    }
}

impl<T> Place<T> {
    /// The content, if there is any that may be used.
    pub(crate) fn pin(&self) -> Option<Pin<'_, T>> {
        let mut state = self.state.load(Ordering::Relaxed);
        loop {
            if state & (LIVE | RETIRED) != LIVE || state & PINS == PINS {
                return None;
            }
            // Acquire: what was filled in is visible to who is let in.
            match self.state.compare_exchange_weak(state, state + 1, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return Some(Pin { content: Some(self.content.get()), place: self }),
                Err(now) => state = now,
            }
        }
    }

    /// Whether there is nothing in it, nor about to be. While the caller is the only one who fills it, that stays so.
    pub(crate) fn is_empty(&self) -> bool {
        self.state.load(Ordering::Relaxed) == EMPTY
    }

    /// Puts something into an empty place and pins it; hands it back if the place is not empty.
    pub(crate) fn fill(&self, content: T) -> Result<Pin<'_, T>, T> {
        // Acquire: whoever emptied it is done.
        if self.state.compare_exchange(EMPTY, BUSY, Ordering::Acquire, Ordering::Relaxed).is_err() {
            return Err(content);
        }
        // SAFETY: BUSY was set by us, so nobody else is at the content.
        self.content.with_mut(|c| unsafe { *c = Some(content) });
        // Release: for `pin`.
        self.state.store(LIVE | 1, Ordering::Release);
        Ok(Pin { content: Some(self.content.get()), place: self })
    }

    /// Takes the content away if nobody uses it.
    pub(crate) fn evict(&self) -> Option<T> {
        self.empty(LIVE)
    }

    /// Takes the content out of a place that is in the state `from`, in which nobody is at it.
    fn empty(&self, from: u32) -> Option<T> {
        // Acquire: what the last user did with it is done.
        self.state.compare_exchange(from, BUSY, Ordering::Acquire, Ordering::Relaxed).ok()?;
        // SAFETY: BUSY was set by us, so nobody else is at the content.
        let content = self.content.with_mut(|c| unsafe { (*c).take() });
        // Release: for the next `fill`.
        self.state.store(EMPTY, Ordering::Release);
        content
    }
}

impl<T> fmt::Debug for Place<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Place").field("state", &self.state).finish_non_exhaustive()
    }
}

/// Leave to use the content, which stays as it is until the pin is gone.
pub(crate) struct Pin<'a, T> {
    /// `Some` until it is dropped.
    content: Option<ConstPtr<Option<T>>>,
    place: &'a Place<T>,
}

impl<T> Pin<'_, T> {
    /// Whether somebody has taken the content away since.
    pub(crate) fn is_retired(&self) -> bool {
        self.place.state.load(Ordering::Acquire) & RETIRED != 0
    }

    /// Gives the pin back and lets nobody in any more. The content, if this pin was the last; otherwise who is last
    /// drops it.
    pub(crate) fn retire(mut self) -> Option<T> {
        self.place.state.fetch_or(RETIRED, Ordering::Relaxed);
        self.leave()
    }

    /// The content, if it was taken away and this pin was the last one.
    fn leave(&mut self) -> Option<T> {
        self.content.take()?;
        // Release: our use is over before somebody else may empty the place.
        let before = self.place.state.fetch_sub(1, Ordering::Release);
        if before == LIVE | RETIRED | 1 { self.place.empty(LIVE | RETIRED) } else { None }
    }
}

impl<T> Deref for Pin<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        let content = self.content.as_ref().map(|c| {
            // SAFETY: nobody changes the content while it is pinned, and it is until `self` is gone.
            unsafe { c.deref() }
        });
        match content {
            Some(Some(content)) => content,
            // `pin` and `fill` give pins of places with content only, and `leave` comes last.
            _ => unreachable!("a pin without content"),
        }
    }
}

impl<T> Drop for Pin<'_, T> {
    fn drop(&mut self) {
        drop(self.leave());
    }
}

impl<T: fmt::Debug> fmt::Debug for Pin<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pin").field(&**self).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;

    use super::*;

    /// Counts how often it was dropped.
    struct Thing(u32, Arc<AtomicUsize>);

    impl Drop for Thing {
        fn drop(&mut self) {
            self.1.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn filled(n: u32) -> (Place<Thing>, Arc<AtomicUsize>) {
        let (place, drops) = (Place::default(), Arc::new(AtomicUsize::new(0)));
        assert_eq!(place.fill(Thing(n, drops.clone())).ok().map(|p| p.0), Some(n));
        (place, drops)
    }

    #[test]
    fn what_was_filled_in_can_be_pinned_by_many_until_it_is_evicted() {
        let (place, drops) = filled(7);
        let pins = [place.pin(), place.pin()].map(|p| p.expect("live"));
        assert!(pins.iter().all(|p| p.0 == 7) && place.evict().is_none());
        drop(pins);
        assert_eq!(place.evict().map(|t| t.0), Some(7));
        assert_eq!(drops.load(Ordering::SeqCst), 1);
        assert!(place.is_empty() && place.pin().is_none() && place.evict().is_none());
    }

    #[test]
    fn a_full_place_hands_back_what_it_cannot_take() {
        let (place, drops) = filled(1);
        assert_eq!(place.fill(Thing(2, drops)).err().map(|t| t.0), Some(2));
        assert_eq!(place.pin().map(|p| p.0), Some(1));
    }

    #[test]
    fn retired_content_goes_with_its_last_user_and_lets_nobody_in() {
        let (place, drops) = filled(1);
        let (a, b) = (place.pin().expect("live"), place.pin().expect("live"));
        assert!(a.retire().is_none());
        assert!(place.pin().is_none() && !place.is_empty() && place.evict().is_none());
        assert_eq!((b.0, drops.load(Ordering::SeqCst)), (1, 0));
        drop(b);
        assert_eq!(drops.load(Ordering::SeqCst), 1);
        assert!(place.is_empty());
        assert_eq!(place.fill(Thing(2, drops)).ok().map(|p| p.0), Some(2));
    }

    #[test]
    fn the_only_user_carries_the_content_off() {
        let (place, drops) = filled(3);
        assert_eq!(place.pin().and_then(Pin::retire).map(|t| t.0), Some(3));
        assert_eq!(drops.load(Ordering::SeqCst), 1);
        drop(place);
        assert_eq!(drops.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn content_is_dropped_with_its_place() {
        let (place, drops) = filled(3);
        drop(place);
        assert_eq!(drops.load(Ordering::SeqCst), 1);
    }
}
