//! Power states of a function, and what they keep from working.
//!
//! Outside of D0 a function answers to configuration accesses only: its BARs are not decoded and it raises nothing. On the way
//! from D3hot to D0 it is reset, unless it says otherwise.

use super::regs;

/// Power state of a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum PowerState {
    /// Working.
    D0 = 0,
    /// Light sleep.
    D1 = 1,
    /// Deeper sleep.
    D2 = 2,
    /// Off, but for its configuration space.
    D3Hot = 3,
}

impl PowerState {
    pub(super) fn from_bits(control: u16) -> Self {
        match control & regs::PM_STATE_MASK {
            0 => Self::D0,
            1 => Self::D1,
            2 => Self::D2,
            _ => Self::D3Hot,
        }
    }
}

/// A power management capability.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PowerManagement {
    d1: bool,
    d2: bool,
    soft_reset: bool,
    pme: bool,
}

impl PowerManagement {
    /// D0 and D3hot; what is in the function survives both ways; it never signals PME#.
    pub const fn new() -> Self {
        Self { d1: false, d2: false, soft_reset: false, pme: false }
    }

    /// There is a state D1 too.
    #[must_use]
    pub const fn d1(self) -> Self {
        Self { d1: true, ..self }
    }

    /// There is a state D2 too.
    #[must_use]
    pub const fn d2(self) -> Self {
        Self { d2: true, ..self }
    }

    /// Going from D3hot to D0 resets the function: its configuration space is as at first, but for what is about PME#, its
    /// messages are masked, and [`Function::reset`](super::Function::reset) is called.
    #[must_use]
    pub const fn soft_reset(self) -> Self {
        Self { soft_reset: true, ..self }
    }

    /// It can signal PME#, from D0 and D3hot.
    #[must_use]
    pub const fn pme(self) -> Self {
        Self { pme: true, ..self }
    }

    pub(super) fn capabilities(self) -> u16 {
        let bit = |on: bool, bits: u16| if on { bits } else { 0 };
        regs::PM_CAP_VERSION_3
            | bit(self.d1, regs::PM_CAP_D1)
            | bit(self.d2, regs::PM_CAP_D2)
            | bit(self.pme, regs::PM_CAP_PME_D0 | regs::PM_CAP_PME_D3_HOT)
    }

    /// The control register at first, the bits that can be written, and those that are cleared by writing 1.
    pub(super) fn control(self) -> (u16, u16, u16) {
        let value = if self.soft_reset { 0 } else { regs::PM_NO_SOFT_RESET };
        let (enable, status) = if self.pme { (regs::PM_PME_ENABLE, regs::PM_PME_STATUS) } else { (0, 0) };
        (value, regs::PM_STATE_MASK | enable, status)
    }

    pub(super) fn has_pme(self) -> bool {
        self.pme
    }

    /// The state after the guest has asked for one: a state that there is not, and a way that there is not, are ignored.
    pub(super) fn after(self, from: PowerState, asked: PowerState) -> PowerState {
        let there = match asked {
            PowerState::D1 => self.d1,
            PowerState::D2 => self.d2,
            PowerState::D0 | PowerState::D3Hot => true,
        };
        // Deeper from state to state; up only all the way.
        if there && (asked == PowerState::D0 || asked > from) { asked } else { from }
    }

    /// Whether that transition resets the function.
    pub(super) fn resets(self, from: PowerState, to: PowerState) -> bool {
        self.soft_reset && from == PowerState::D3Hot && to == PowerState::D0
    }
}
