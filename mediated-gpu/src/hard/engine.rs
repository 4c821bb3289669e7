//! An engine's registers: starting it, its execlist port, its status buffer, its reset (i915 `intel_execlists_submission.c`,
//! `intel_reset.c`).

use std::time::{Duration, Instant};

use super::core::{Core, wait};
use super::port::Port;
use crate::gen8::cmd::split;
use crate::gen8::regs::{
    GFX_RUN_LIST_ENABLE, I915_ERROR_INSTRUCTION, MODE_IDLE, RESET_CTL_READY_TO_RESET,
    RESET_CTL_REQUEST_RESET, STOP_RING, engine as reg, masked_disable, masked_enable, masked_field,
};
use crate::physical::{CsbEntry, Engine, ResetFailed};

/// The status pointers: 2:0 write, 10:8 read.
const CSB_WRITE: u32 = 0x7;
const CSB_READ: u16 = 0x7 << 8;
/// How long a ring is waited for that was told to stop. One that does not is reset all the same.
const STOP_LIMIT: Duration = Duration::from_millis(1);

const fn low(bits: u32) -> u16 {
    (bits & 0xffff) as u16
}

impl Core {
    fn get(&self, e: Engine, rel: u32) -> u32 {
        self.read(e.mmio_base() + rel)
    }

    fn set(&self, e: Engine, rel: u32, value: u32) {
        self.write(e.mmio_base() + rel, value);
    }

    /// Sets an engine up for execlists, with nothing to do.
    pub(super) fn enable(&self, e: Engine, port: &mut Port) {
        port.reset();
        // Nothing is told in the status page but what the engine cannot help.
        self.set(e, reg::RING_HWSTAM, u32::MAX);
        self.set(e, reg::RING_MODE_GEN7, masked_enable(low(GFX_RUN_LIST_ENABLE)));
        self.set(e, reg::RING_MI_MODE, masked_disable(low(STOP_RING)));
        self.set(e, reg::RING_HWS_PGA, self.status_entry(e) << 12);
        self.get(e, reg::RING_HWS_PGA);
        self.set(e, reg::RING_EMR, u32::MAX);
        self.set(e, reg::RING_EIR, u32::MAX);
        self.set(e, reg::RING_EMR, !I915_ERROR_INSTRUCTION);
        let pointers = Port::RESET_POINTER << 8 | Port::RESET_POINTER;
        self.set(
            e,
            reg::RING_CONTEXT_STATUS_PTR,
            masked_field(low(CSB_READ.into()) | low(CSB_WRITE), pointers),
        );
        self.set(e, reg::RING_IMR, !super::interrupts::of_engine(e));
    }

    /// Reads what the engine says, and writes what it may have next. The buffer is read through registers, since what an engine
    /// writes to its status page comes late behind an IOMMU (i915 has read it so, too).
    pub(super) fn go_on(&self, e: Engine, port: &mut Port) {
        let newest = self.get(e, reg::RING_CONTEXT_STATUS_PTR) & CSB_WRITE;
        let mut last = None;
        for place in port.places(newest) {
            let at = reg::RING_CONTEXT_STATUS_BUF + 8 * place;
            let entry = CsbEntry { status: self.get(e, at), context_id: self.get(e, at + 4) };
            port.told(place, entry);
            last = Some(place);
        }
        if let Some(place) = last {
            self.set(e, reg::RING_CONTEXT_STATUS_PTR, masked_field(CSB_READ, place << 8));
        }
        if let Some([first, second]) = port.next() {
            // The last of the four sets the engine off.
            for dword in [second, first].map(split).into_iter().flat_map(|[low, high]| [high, low]) {
                self.set(e, reg::RING_ELSP, dword);
            }
        }
    }

    /// Stops an engine and sets it up anew.
    pub(super) fn reset(&self, e: Engine, deadline: Duration) -> Result<(), ResetFailed> {
        let failed = ResetFailed { engine: e, deadline };
        let end = Instant::now() + deadline;
        let left = || end.saturating_duration_since(Instant::now());
        let mut port = self.port(e).try_lock_for(deadline).ok_or(failed)?;
        // What it has said so far is lost with the reset.
        self.go_on_reading(e, &mut port);
        self.set(e, reg::RING_MI_MODE, masked_enable(low(STOP_RING)));
        wait(STOP_LIMIT.min(left()), || self.get(e, reg::RING_MI_MODE) & MODE_IDLE != 0);
        self.set(e, reg::RING_RESET_CTL, masked_enable(low(RESET_CTL_REQUEST_RESET)));
        let ready = wait(left(), || self.get(e, reg::RING_RESET_CTL) & RESET_CTL_READY_TO_RESET != 0);
        let done = ready && self.reset_domain(e.reset_bit(), left());
        self.set(e, reg::RING_RESET_CTL, masked_disable(low(RESET_CTL_REQUEST_RESET)));
        if !done {
            return Err(failed);
        }
        self.enable(e, &mut port);
        Ok(())
    }

    /// As [`go_on`](Self::go_on), and gives the engine nothing more.
    fn go_on_reading(&self, e: Engine, port: &mut Port) {
        port.hold();
        self.go_on(e, port);
    }
}
