//! A guest's accesses: registers and the translation table in BAR0, graphics memory in the aperture, and what they set off.
//!
//! They never fail: what nobody knows reads as ones and takes nothing. `state` is locked for one access; what it sets off
//! follows after that.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::Vgpu;
use crate::gen8::fence;
use crate::gen8::gtt::GTT_OFFSET;
use crate::gen8::ppgtt::Root;
use crate::gen8::regs::{self, gt};
use crate::vgpu::{Effect, State};

/// How long a read of the reset register waits for an engine that is being stopped: as long as that may take. Hardware takes
/// microseconds, and a driver gives it half a millisecond (i915 `gen6_hw_domain_reset`) before it resets more than the one
/// engine; time in which its vCPU waits is none that it sees.
const RESET_READ_WAIT: Duration = Duration::from_secs(1);

impl Vgpu {
    /// A read of 1 to 8 bytes of BAR0. Never fails: what nobody knows reads as ones.
    pub fn mmio_read(&self, offset: u32, size: u32) -> u64 {
        self.stats.mmio_accesses.add(1);
        if offset >= GTT_OFFSET {
            return self.ggtt.read_table(offset - GTT_OFFSET, size);
        }
        self.accesses.add(offset, false);
        if State::asks(offset) {
            self.tell_who_asks();
        }
        let mut state = self.state.lock();
        let mut unknown = |e| self.count(e);
        let value = state.read(offset, size, &mut unknown);
        if offset == gt::GDRST && value != 0 {
            state.wait_for(&self.reset_done, RESET_READ_WAIT);
            return state.read(offset, size, &mut unknown);
        }
        value
    }

    /// A write of 1 to 8 bytes of BAR0. Never fails: what nobody knows takes nothing.
    pub fn mmio_write(self: &Arc<Self>, offset: u32, size: u32, value: u64) {
        self.stats.mmio_accesses.add(1);
        if offset >= GTT_OFFSET {
            let mut draining = Vec::new();
            self.ggtt.write_table(offset - GTT_OFFSET, size, value, &mut draining);
            return self.maintenance.drain(draining);
        }
        self.accesses.add(offset, true);
        if State::asks(offset) {
            self.tell_who_asks();
        }
        let mut effects = Vec::new();
        self.state.lock().write(offset, size, value, &mut |e| effects.push(e));
        effects.into_iter().for_each(|e| self.act(e));
    }

    fn act(self: &Arc<Self>, effect: Effect) {
        self.count(effect);
        match effect {
            Effect::Work(e) => self.scheduler.ready(e, self),
            Effect::Stop(e) => self.scheduler.stop(e, self.id),
            Effect::Interrupt => self.interrupt(),
            Effect::FlushGgtt => {
                self.compare_table();
                self.ggtt.flush_if_dirty();
            }
            Effect::Notify(what, pointers) => self.notified(what, pointers),
            Effect::Reset(_) | Effect::Dropped(_) | Effect::Unknown(_) => {}
        }
    }

    /// A notification through PVINFO. Tables and contexts are looked at when they are submitted, so that one comes
    /// in time which says that something was made; what goes is let go at once.
    fn notified(&self, what: u32, pointers: [u64; 4]) {
        match what {
            regs::G2V_PPGTT_L3_DESTROY | regs::G2V_PPGTT_L4_DESTROY => {
                let four_level = what == regs::G2V_PPGTT_L4_DESTROY;
                self.ggtt.tables_destroyed(Root::of_pointers(four_level, pointers));
                self.maintenance.drain(self.ggtt.take_stale());
            }
            regs::G2V_PPGTT_L3_CREATE
            | regs::G2V_PPGTT_L4_CREATE
            | regs::G2V_EXECLIST_CONTEXT_CREATE
            | regs::G2V_EXECLIST_CONTEXT_DESTROY => {}
            _ => log::debug!("{}: nobody knows notification {what}", self.id),
        }
    }

    fn count(&self, effect: Effect) {
        match effect {
            Effect::Unknown(offset) => {
                self.stats.unknown_registers.add(1);
                log::trace!("{}: nobody knows register {offset:#x}", self.id);
            }
            Effect::Dropped(e) => {
                self.stats.dropped.add(1);
                log::debug!("{}: a submission to {} was dropped", self.id, e.name());
            }
            Effect::Reset(_) => self.stats.guest_resets.add(1),
            _ => {}
        }
    }

    /// A read of 1 to 8 bytes of the aperture: by the guest's fences, through the shadow, into the page. Ones where nothing
    /// is mapped.
    pub fn aperture_read(&self, offset: u64, size: u32) -> u64 {
        self.stats.aperture_accesses.add(1);
        let mut bytes = [0; 8];
        for (at, piece) in self.aperture_pieces(offset, size) {
            if let Some(part) = bytes.get_mut(piece)
                && (!self.owns(at, part.len()) || self.ggtt.read(at, part).is_err())
            {
                part.fill(0xff);
            }
        }
        u64::from_le_bytes(bytes)
    }

    /// A write of 1 to 8 bytes of the aperture. Ignored where nothing is mapped.
    pub fn aperture_write(&self, offset: u64, size: u32, value: u64) {
        self.stats.aperture_accesses.add(1);
        let bytes = value.to_le_bytes();
        for (at, piece) in self.aperture_pieces(offset, size) {
            if let Some(part) = bytes.get(piece)
                && self.owns(at, part.len())
                && self.ggtt.write(at, part).is_err()
            {
                log::trace!("{}: write to unmapped aperture at {at:#x}", self.id);
            }
        }
    }

    /// Where the bytes of an access to the aperture lie in graphics memory.
    fn aperture_pieces(&self, offset: u64, size: u32) -> Vec<(u64, Range<usize>)> {
        let fences = self.state.lock().fences();
        fence::pieces(&fences, offset, usize::try_from(size.min(8)).unwrap_or(0)).collect()
    }

    /// Whether bytes behind the aperture are the guest's. If not, it is counted.
    fn owns(&self, at: u64, len: usize) -> bool {
        let own = self.ggtt.slice().low.contains(at, len as u64);
        self.stats.foreign_accesses.add(u64::from(!own));
        own
    }
}
