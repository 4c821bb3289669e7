//! A function's interrupt pin: a level, which the guest can forbid.

use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;

use super::Sbdf;
use crate::dm::{Dm, DmError, Pin};

/// The interrupt pin of a function. Clones are the same pin.
#[derive(Clone)]
pub struct IntxLine(Arc<Line>);

struct Line {
    pin: Pin,
    dm: Dm,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Where it is plugged in.
    at: Option<Sbdf>,
    /// What the function wants.
    wanted: bool,
    /// Whether the guest lets it.
    allowed: bool,
    /// What Xen was told last.
    driven: bool,
}

impl IntxLine {
    pub(super) fn new(pin: Pin, dm: Dm) -> Self {
        Self(Arc::new(Line { pin, dm, state: Mutex::default() }))
    }

    /// Which pin.
    pub fn pin(&self) -> Pin {
        self.0.pin
    }

    /// Says whether the function wants attention. Xen hears of it where that changes something. After an error the next call
    /// tries again.
    pub fn set(&self, wanted: bool) -> Result<(), DmError> {
        let mut state = self.0.state.lock();
        state.wanted = wanted;
        self.drive(&mut state)
    }

    /// Whether the function wants attention.
    pub fn is_wanted(&self) -> bool {
        self.0.state.lock().wanted
    }

    /// Whether the guest's line is up because of it.
    pub fn is_driven(&self) -> bool {
        self.0.state.lock().driven
    }

    /// Plugs the function in, or out.
    pub(super) fn wire(&self, at: Option<Sbdf>) {
        let mut state = self.0.state.lock();
        if at.is_none() {
            let wanted = std::mem::replace(&mut state.wanted, false);
            self.drive_or_log(&mut state);
            state.wanted = wanted;
        }
        state.at = at;
        self.drive_or_log(&mut state);
    }

    /// What the guest's configuration says.
    pub(super) fn allow(&self, allowed: bool) {
        let mut state = self.0.state.lock();
        state.allowed = allowed;
        self.drive_or_log(&mut state);
    }

    fn drive(&self, state: &mut State) -> Result<(), DmError> {
        let Some(at) = state.at else { return Ok(()) };
        let level = state.wanted && state.allowed;
        if level != state.driven {
            self.0.dm.set_pci_intx(at, self.0.pin, level)?;
            state.driven = level;
        }
        Ok(())
    }

    fn drive_or_log(&self, state: &mut State) {
        if let Err(e) = self.drive(state) {
            log::warn!("an interrupt pin keeps its level: {e}");
        }
    }
}

impl fmt::Debug for IntxLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IntxLine").field("pin", &self.0.pin).field("state", &self.0.state).finish()
    }
}
