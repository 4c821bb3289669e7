//! Interrupts of a vCPU: what waits in its local APIC and what is in service; its wire to the 8259s; an injected event.

use std::time::{Duration, Instant};

use super::{Vcpu, VcpuError};
use crate::dm_op::InjectedEvent;
use crate::sync::atomic::{AtomicU64, Ordering};

/// A set of vectors.
#[derive(Default)]
pub(crate) struct Vectors([AtomicU64; 4]);

impl Vectors {
    fn word(&self, vector: u8) -> Option<(&AtomicU64, u64)> {
        Some((self.0.get(usize::from(vector / 64))?, 1 << (vector % 64)))
    }

    pub(super) fn insert(&self, vector: u8) {
        if let Some((word, bit)) = self.word(vector) {
            word.fetch_or(bit, Ordering::SeqCst);
        }
    }

    pub(super) fn remove(&self, vector: u8) {
        if let Some((word, bit)) = self.word(vector) {
            word.fetch_and(!bit, Ordering::SeqCst);
        }
    }

    fn contains(&self, vector: u8) -> bool {
        self.word(vector).is_some_and(|(word, bit)| word.load(Ordering::SeqCst) & bit != 0)
    }

    fn highest(&self) -> Option<u8> {
        let of = |(n, word): (u8, &AtomicU64)| {
            let high = word.load(Ordering::SeqCst).checked_ilog2()?;
            Some(n * 64 + u8::try_from(high).unwrap_or(0))
        };
        (0..4).zip(&self.0).rev().find_map(of)
    }
}

/// An interrupt that the vCPU has taken.
struct Taken {
    vector: u8,
    /// From its local APIC, which keeps it in service.
    local: bool,
}

impl Vcpu {
    /// Takes what the 8259s have, or else the highest vector of the local APIC whose class is above that of what is in service.
    fn accept(&self) -> Option<Taken> {
        if let Some(vector) = self.domain.legacy_interrupt(&self.state) {
            return Some(Taken { vector, local: false });
        }
        let vector = self.state.requested.highest()?;
        if self.state.in_service.highest().is_some_and(|s| s >> 4 >= vector >> 4) {
            return None;
        }
        self.state.requested.remove(vector);
        self.state.in_service.insert(vector);
        Some(Taken { vector, local: true })
    }

    /// Halts until there is something to take.
    fn wait(&self, timeout: Option<Duration>) -> Result<Option<Taken>, VcpuError> {
        let deadline = timeout.and_then(|t| Instant::now().checked_add(t));
        loop {
            self.resume()?;
            let mut taken = None;
            let woken = self.state.wake.wait(deadline, || {
                taken = self.accept();
                taken.is_some() || self.domain.stopped() || self.state.attention.load(Ordering::SeqCst)
            });
            if taken.is_some() || !woken {
                return Ok(taken);
            }
        }
    }

    /// As a handler that ends its interrupt at once; 8259s have an end of their own.
    fn ended(&self, taken: Option<Taken>) -> Option<u8> {
        let Taken { vector, local } = taken?;
        if local {
            self.end();
        }
        Some(vector)
    }

    fn end(&self) {
        let Some(vector) = self.state.in_service.highest() else { return };
        self.state.in_service.remove(vector);
        if self.state.level.contains(vector) {
            self.domain.end_of_interrupt(vector);
        }
    }

    /// Takes the highest vector that waits, if one does, and ends it. A vector that was raised twice is taken once.
    pub fn take_interrupt(&self) -> Result<Option<u8>, VcpuError> {
        self.resume()?;
        Ok(self.ended(self.accept()))
    }

    /// Halts until an interrupt comes, at most for `timeout` (for ever without one); takes it and ends it. `None`: none came.
    pub fn wait_interrupt(&self, timeout: Option<Duration>) -> Result<Option<u8>, VcpuError> {
        Ok(self.ended(self.wait(timeout)?))
    }

    /// As [`wait_interrupt`](Self::wait_interrupt), but what came is in service until its
    /// [end](Self::end_of_interrupt), and holds off what is not of a higher class (the vector's upper four bits).
    pub fn enter_interrupt(&self, timeout: Option<Duration>) -> Result<Option<u8>, VcpuError> {
        Ok(self.wait(timeout)?.map(|t| t.vector))
    }

    /// Writes the local APIC's EOI register: ends the highest vector in service. A level-triggered one whose line is still
    /// asserted comes again.
    pub fn end_of_interrupt(&self) -> Result<(), VcpuError> {
        self.resume()?;
        self.end();
        Ok(())
    }

    /// Wires the local APIC's LINT0 to the 8259s, as ExtINT, or masks it. Of several vCPUs that are wired the first is served.
    pub fn set_extint(&self, on: bool) -> Result<(), VcpuError> {
        self.resume()?;
        self.state.wired.store(on, Ordering::SeqCst);
        Ok(())
    }

    /// Takes the event that a device model has injected, if there is one. Until then there is no room for another.
    pub fn take_event(&self) -> Result<Option<InjectedEvent>, VcpuError> {
        self.resume()?;
        Ok(self.state.event.lock().take())
    }
}
