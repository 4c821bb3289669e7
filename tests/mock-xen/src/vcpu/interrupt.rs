//! Interrupts of a vCPU: vectors that wait to be taken, as in a local APIC's request register; an injected event.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::{Vcpu, VcpuError, VcpuState};
use crate::dm_op::InjectedEvent;

fn take(state: &VcpuState) -> Option<u8> {
    for (word, bits) in (0u8..4).zip(&state.irr).rev() {
        let mut now = bits.load(Ordering::SeqCst);
        while let Some(high) = now.checked_ilog2() {
            match bits.compare_exchange(now, now & !(1 << high), Ordering::SeqCst, Ordering::SeqCst) {
                Ok(_) => return Some(word * 64 + u8::try_from(high).unwrap_or(0)),
                Err(changed) => now = changed,
            }
        }
    }
    None
}

impl Vcpu {
    /// Takes the highest vector that waits, if one does. A vector that was raised twice is taken once.
    pub fn take_interrupt(&self) -> Result<Option<u8>, VcpuError> {
        self.resume()?;
        Ok(take(&self.state))
    }

    /// Takes the event that a device model has injected, if there is one. Until then there is no room for another.
    pub fn take_event(&self) -> Result<Option<InjectedEvent>, VcpuError> {
        self.resume()?;
        Ok(self.state.event.lock().take())
    }

    /// Halts until an interrupt comes, at most for `timeout` (for ever without one); takes it. `None`: none came.
    pub fn wait_interrupt(&self, timeout: Option<Duration>) -> Result<Option<u8>, VcpuError> {
        let deadline = timeout.and_then(|t| Instant::now().checked_add(t));
        loop {
            self.resume()?;
            let mut vector = None;
            let woken = self.state.wake.wait(deadline, || {
                vector = take(&self.state);
                vector.is_some() || self.domain.stopped() || self.state.attention.load(Ordering::SeqCst)
            });
            if vector.is_some() || !woken {
                return Ok(vector);
            }
        }
    }
}
