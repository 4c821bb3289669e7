//! A vGPU's state, and what an access to a register does to it.
//!
//! An access changes the state at once; what must happen outside it (run work, stop work, flush, interrupt) is
//! told by an [`Effect`], for the mediator to do after it has let go of the state.

use std::time::{Duration, Instant};

use super::display::{self, Scanout, SurfaceError};
use super::engine::{PortWrite, VirtualEngine};
use super::events::Events;
use super::interrupts;
use super::registers::{Kind, RegisterFile};
use super::slice::{FENCES, Slice};
use super::{Turn, VgpuId};
use crate::gen8::context::{CSB_ENTRIES, Descriptor};
use crate::gen8::fence::Fence;
use crate::gen8::regs::{self, Access, display as de, engine, gt, irq, pvinfo};
use crate::physical::Engine;

/// What an access asks of the mediator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Work waits for the engine.
    Work(Engine),
    /// A submission was thrown away.
    Dropped(Engine),
    /// The guest reset the engine.
    Reset(Engine),
    /// What runs on the engine for the guest must stop.
    Stop(Engine),
    /// An MSI is due.
    Interrupt,
    /// The guest wants its GGTT's translations flushed.
    FlushGgtt,
    /// The guest notified (a `G2V_*` number), with these page directory pointers in PVINFO.
    Notify(u32, [u64; 4]),
    /// Nobody knows the register.
    Unknown(u32),
}

/// A status entry that was written to the registers and is due in the guest's status page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StatusEntry {
    /// GM address of the status page.
    pub(crate) page: u64,
    /// The entry's place, and the new write pointer.
    pub(crate) slot: u32,
    /// `CSB_*` bits.
    pub(crate) status: u32,
    /// The guest's context id.
    pub(crate) id: u32,
}

/// Why a context stopped, as an engine tells it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct EngineError {
    /// Header of the command.
    pub(crate) header: u32,
    /// GM address of the command.
    pub(crate) address: u64,
}

/// The state.
#[derive(Debug)]
pub(crate) struct State {
    pub(super) file: RegisterFile,
    pub(super) engines: [VirtualEngine; 4],
    /// What it has not been told yet, and why.
    pub(super) events: Events,
    slice: Slice,
    /// `GRDOM_*` bits whose engine has not stopped yet.
    resetting: u32,
    started: Instant,
    /// How long it had been on when it was started here.
    before: Duration,
}

impl State {
    /// A GPU after power-on.
    pub(crate) fn new(id: VgpuId, slice: Slice) -> Self {
        Self {
            file: RegisterFile::new(id, &slice),
            engines: Default::default(),
            events: Events::default(),
            slice,
            resetting: 0,
            started: Instant::now(),
            before: Duration::ZERO,
        }
    }

    /// An engine.
    pub(crate) fn engine(&mut self, e: Engine) -> &mut VirtualEngine {
        // The index of an Engine is 0 to 3.
        let [rcs, bcs, vcs, vecs] = &mut self.engines;
        match e {
            Engine::Rcs => rcs,
            Engine::Bcs => bcs,
            Engine::Vcs => vcs,
            Engine::Vecs => vecs,
        }
    }

    /// A guest's read of `size` bytes (1 to 8) at a byte offset. Bytes that nobody knows are ones.
    pub(crate) fn read(&mut self, offset: u32, size: u32, effect: &mut dyn FnMut(Effect)) -> u64 {
        let mut value = 0;
        for_dwords(offset, size, |dword, byte, count, shift| {
            let v = self.read32(dword, effect) >> (8 * byte);
            value |= (u64::from(v) & mask(count)) << shift;
        });
        value
    }

    /// A guest's write of `size` bytes (1 to 8) at a byte offset.
    pub(crate) fn write(&mut self, offset: u32, size: u32, value: u64, effect: &mut dyn FnMut(Effect)) {
        for_dwords(offset, size, |dword, byte, count, shift| {
            let part = low32((value >> shift & mask(count)) << (8 * byte));
            let kept = if count == 4 || !keeps_bytes(dword) {
                0
            } else {
                self.file.get(dword) & !low32(mask(count) << (8 * byte))
            };
            self.write32(dword, part | kept, effect);
        });
    }

    fn read32(&mut self, offset: u32, effect: &mut dyn FnMut(Effect)) -> u32 {
        if let Some((e, rel)) = Engine::of_mmio(offset) {
            match rel {
                engine::RING_EXECLIST_STATUS_LO => return self.execlist_status(e),
                engine::RING_EXECLIST_STATUS_HI => return self.engine(e).active().unwrap_or(0),
                engine::RING_TIMESTAMP => return low32(self.ticks()),
                engine::RING_TIMESTAMP_UDW => return low32(self.ticks() >> 32),
                _ => {}
            }
        }
        match offset {
            irq::GEN8_MASTER_IRQ => interrupts::master(&self.file),
            gt::GDRST => self.resetting,
            _ if matches!(RegisterFile::kind(offset), Kind::Unknown) => {
                effect(Effect::Unknown(offset));
                u32::MAX
            }
            _ => self.file.get(offset),
        }
    }

    fn write32(&mut self, offset: u32, value: u32, effect: &mut dyn FnMut(Effect)) {
        if self.foreign_fence(offset) {
            return;
        }
        let concerns = interrupts::concerns(offset);
        let (out, line) = (interrupts::enabled(&self.file), concerns && interrupts::line(&self.file));
        if !self.file.guest_write(offset, value) {
            return effect(Effect::Unknown(offset));
        }
        if concerns && !out && interrupts::enabled(&self.file) {
            self.events.handled();
        }
        if concerns && !line && interrupts::line(&self.file) {
            self.events.sent();
            effect(Effect::Interrupt);
        }
        match offset {
            gt::GDRST => self.reset(value, effect),
            gt::GFX_FLSH_CNTL_GEN6 => effect(Effect::FlushGgtt),
            de::DSPASURF => display::flip(&mut self.file),
            pvinfo::G2V_NOTIFY => effect(Effect::Notify(value, self.pointers())),
            _ => {}
        }
        if let Some((e, engine::RING_ELSP)) = Engine::of_mmio(offset) {
            // Without its mode an engine takes no execlists.
            if self.file.engine(e, engine::RING_MODE_GEN7) & regs::GFX_RUN_LIST_ENABLE == 0 {
                return effect(Effect::Dropped(e));
            }
            match self.engine(e).write_port(value) {
                PortWrite::Latched => {}
                PortWrite::Queued => effect(Effect::Work(e)),
                PortWrite::Dropped => effect(Effect::Dropped(e)),
            }
        }
    }

    /// The page directory pointers in PVINFO.
    fn pointers(&self) -> [u64; 4] {
        [0, 8, 16, 24].map(|at| {
            let half = |at| u64::from(self.file.get(pvinfo::PDP + at));
            half(at + 4) << 32 | half(at)
        })
    }

    /// Fences beyond the guest's share read as zero and take nothing.
    fn foreign_fence(&self, offset: u32) -> bool {
        match regs::lookup(offset) {
            Some(r) if r.def.offset == gt::FENCE_REG_GEN6 => r.index / 2 >= self.slice.fences,
            _ => false,
        }
    }

    fn reset(&mut self, domains: u32, effect: &mut dyn FnMut(Effect)) {
        let full = domains & regs::GRDOM_FULL != 0;
        for e in Engine::ALL {
            if !full && domains & e.reset_bit() == 0 {
                continue;
            }
            self.engine(e).reset();
            self.events.reset(e);
            self.file.reset_engine(e);
            effect(Effect::Reset(e));
            if self.engine(e).running() {
                self.resetting |= e.reset_bit() | (domains & regs::GRDOM_FULL);
                effect(Effect::Stop(e));
            }
        }
        if full {
            self.file.reset_gt();
        }
    }

    /// The next turn of an engine.
    pub(crate) fn take(&mut self, e: Engine) -> Option<Turn> {
        self.engine(e).take()
    }

    /// What was taken runs no more.
    pub(crate) fn ended(&mut self, e: Engine) {
        self.engine(e).ended();
        self.resetting &= !e.reset_bit();
        if self.resetting & !regs::GRDOM_FULL == 0 {
            self.resetting = 0;
        }
    }

    /// Writes a status entry to the registers, unless a reset has come between.
    pub(crate) fn push_status(&mut self, e: Engine, epoch: u64, status: u32, id: u32) -> Option<StatusEntry> {
        if self.engine(e).epoch() != epoch {
            return None;
        }
        let pointer = self.file.engine(e, engine::RING_CONTEXT_STATUS_PTR);
        let slot = match pointer & 7 {
            last if last + 1 < CSB_ENTRIES => last + 1,
            _ => 0,
        };
        let at = engine::RING_CONTEXT_STATUS_BUF + 8 * slot;
        self.file.set_engine(e, at, status);
        self.file.set_engine(e, at + 4, id);
        self.file.set_engine(e, engine::RING_CONTEXT_STATUS_PTR, pointer & !7 | slot);
        let page = u64::from(self.file.engine(e, engine::RING_HWS_PGA) & 0xffff_f000);
        Some(StatusEntry { page, slot, status, id })
    }

    /// Shows a context's ring in the engine's registers, unless a reset has come between.
    pub(crate) fn show_ring(
        &mut self,
        e: Engine,
        epoch: u64,
        head: u32,
        tail: u32,
        start: u32,
        control: u32,
    ) {
        if self.engine(e).epoch() == epoch {
            for (rel, value) in [
                (engine::RING_HEAD, head),
                (engine::RING_TAIL, tail),
                (engine::RING_START, start),
                (engine::RING_CTL, control),
                (engine::RING_ACTHD, start.wrapping_add(head)),
            ] {
                self.file.set_engine(e, rel, value);
            }
        }
    }

    /// Bans a context, and shows why in the engine's registers. `true`: an MSI is due.
    pub(crate) fn fail(&mut self, e: Engine, epoch: u64, context: Descriptor, error: EngineError) -> bool {
        if self.engine(e).epoch() != epoch {
            return false;
        }
        self.engine(e).ban(context.lrca());
        let identity = regs::I915_ERROR_INSTRUCTION & !self.file.engine(e, engine::RING_EMR);
        let old = self.file.engine(e, engine::RING_EIR);
        for (rel, value) in [
            (engine::RING_IPEHR, error.header),
            (engine::RING_IPEIR, 1),
            (engine::RING_ESR, regs::I915_ERROR_INSTRUCTION),
            (engine::RING_EIR, old | identity),
            (engine::RING_ACTHD, low32(error.address)),
            (engine::RING_ACTHD_UDW, low32(error.address >> 32)),
        ] {
            self.file.set_engine(e, rel, value);
        }
        let due = identity != 0 && interrupts::raise(&mut self.file, e, regs::GT_CS_MASTER_ERROR_INTERRUPT);
        self.due(due)
    }

    /// Puts events (`GT_*` bits) into the identity registers, unless a reset has come between. `true`: an MSI is due.
    pub(crate) fn raise(&mut self, e: Engine, epoch: u64, bits: u32) -> bool {
        let due = self.engine(e).epoch() == epoch && interrupts::raise(&mut self.file, e, bits);
        self.due(due)
    }

    /// Notes an MSI that is due.
    fn due(&mut self, due: bool) -> bool {
        if due {
            self.events.sent();
        }
        due
    }

    /// The guest's fences that are in use.
    pub(crate) fn fences(&self) -> Vec<Fence> {
        let register = |at| u64::from(self.file.get(at + 4)) << 32 | u64::from(self.file.get(at));
        (0..self.slice.fences.min(FENCES))
            .filter_map(|n| Fence::decode(register(gt::FENCE_REG_GEN6 + 8 * n)))
            .collect()
    }

    /// Where the guest's picture is.
    pub(crate) fn scanout(&self) -> Result<Scanout, SurfaceError> {
        display::scanout(&self.file, &self.slice)
    }

    /// Status as i915 and GVT-g lay it out: b2 full, b3/b4 element 1/0 valid, b15:14 the active one.
    fn execlist_status(&mut self, e: Engine) -> u32 {
        let engine = self.engine(e);
        let valid = u32::from(engine.running() || engine.goes_on());
        let full = u32::from(engine.waiting() > 0);
        full << 2 | valid << 4 | valid << 14
    }

    /// How long it has been on.
    pub(super) fn on_for(&self) -> Duration {
        self.before.saturating_add(self.started.elapsed())
    }

    /// It has been on for so long before.
    pub(super) fn go_on_from(&mut self, before: Duration) {
        (self.before, self.started) = (before, Instant::now());
    }

    fn ticks(&self) -> u64 {
        let ns = u64::try_from(self.on_for().as_nanos()).unwrap_or(u64::MAX);
        ns / regs::TIMESTAMP_NS
    }
}

/// Whether a write of some bytes of a dword leaves the others as they are.
fn keeps_bytes(offset: u32) -> bool {
    match RegisterFile::kind(offset) {
        Kind::Plain => true,
        Kind::Row(row) => row.def.access == Access::ReadWrite,
        Kind::Unknown => false,
    }
}

/// Calls `f(dword offset, first byte in it, bytes, shift in the access)` for each dword that an access touches.
fn for_dwords(offset: u32, size: u32, mut f: impl FnMut(u32, u32, u32, u32)) {
    let size = size.min(8);
    let mut done = 0;
    while done < size {
        let at = offset.saturating_add(done);
        let byte = at % 4;
        let count = (4 - byte).min(size - done);
        f(at - byte, byte, count, 8 * done);
        done += count;
    }
}

/// Ones for `bytes` (up to 8) low bytes.
fn mask(bytes: u32) -> u64 {
    u64::MAX.checked_shr(64u32.saturating_sub(8 * bytes)).unwrap_or(0)
}

fn low32(value: u64) -> u32 {
    u32::try_from(value & u64::from(u32::MAX)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vgpu::slice::GmRange;

    fn state() -> State {
        let slice = Slice {
            low: GmRange { base: 0, size: 1 << 20 },
            high: GmRange { base: 1 << 28, size: 1 << 20 },
            fences: 4,
        };
        State::new(VgpuId(1), slice)
    }

    fn write(s: &mut State, offset: u32, value: u32) -> Vec<Effect> {
        let mut effects = vec![];
        s.write(offset, 4, value.into(), &mut |e| effects.push(e));
        effects
    }

    fn read(s: &mut State, offset: u32, size: u32) -> u64 {
        s.read(offset, size, &mut |_| {})
    }

    fn submit(s: &mut State, lrca: u32, id: u32) -> Vec<Effect> {
        [0, 0, id, lrca | 1].into_iter().flat_map(|v| write(s, 0x22230, v)).collect()
    }

    #[test]
    fn magic_reads_whole_and_in_parts() {
        let mut s = state();
        assert_eq!(read(&mut s, 0x78000, 8), regs::MAGIC_VALUE);
        assert_eq!(read(&mut s, 0x78004, 4), regs::MAGIC_VALUE >> 32);
        assert_eq!(read(&mut s, 0x78008, 2), 1);
        assert_eq!(read(&mut s, 0x78001, 1), regs::MAGIC_VALUE >> 8 & 0xff);
        assert_eq!(read(&mut s, 0x78003, 2), regs::MAGIC_VALUE >> 24 & 0xffff);
    }

    #[test]
    fn unknown_register_reads_as_ones_and_is_told_of() {
        let mut s = state();
        let mut effects = vec![];
        assert_eq!(s.read(0x50000, 4, &mut |e| effects.push(e)), 0xffff_ffff);
        assert_eq!(s.read(0x1f_fffe, 4, &mut |_| {}), 0xffff_ffff);
        assert_eq!(effects, [Effect::Unknown(0x50000)]);
        assert_eq!(write(&mut s, 0x50000, 1), [Effect::Unknown(0x50000)]);
    }

    #[test]
    fn write_of_bytes_keeps_the_rest_of_a_plain_register_and_clears_nothing_else() {
        let mut s = state();
        write(&mut s, 0xb100, 0x1122_3344);
        s.write(0xb101, 2, 0xaabb, &mut |_| {});
        assert_eq!(read(&mut s, 0xb100, 4), 0x11aa_bb44);
        s.file.set(0x44308, 0x0101_0101);
        s.write(0x44308, 1, 0x01, &mut |_| {});
        assert_eq!(read(&mut s, 0x44308, 4), 0x0101_0100);
    }

    #[test]
    fn submission_needs_the_execlist_mode() {
        let mut s = state();
        assert!(!submit(&mut s, 0x1000, 1).contains(&Effect::Work(Engine::Bcs)));
        write(&mut s, 0x2229c, 0x8000_8000);
        assert_eq!(submit(&mut s, 0x1000, 1), [Effect::Work(Engine::Bcs)]);
    }

    #[test]
    fn status_entries_go_round_and_start_after_what_the_guest_set() {
        let mut s = state();
        write(&mut s, 0x22080, 0x8_0123);
        let epoch = s.engine(Engine::Bcs).epoch();
        let first = s.push_status(Engine::Bcs, epoch, 1, 9).unwrap();
        assert_eq!((first.slot, first.page), (0, 0x8_0000), "after a reset the first entry is 0");
        write(&mut s, 0x223a0, 0xffff_0505);
        let slots: Vec<_> = (0..7).map(|i| s.push_status(Engine::Bcs, epoch, i, 9).unwrap().slot).collect();
        assert_eq!(slots, [0, 1, 2, 3, 4, 5, 0]);
        assert_eq!(read(&mut s, 0x223a0, 4), 0x0500);
        assert_eq!((read(&mut s, 0x22370, 4), read(&mut s, 0x22374, 4)), (6, 9));
    }

    #[test]
    fn reset_of_an_idle_engine_is_done_at_once() {
        let mut s = state();
        assert_eq!(write(&mut s, 0x941c, 1), Engine::ALL.map(Effect::Reset));
        assert_eq!(read(&mut s, 0x941c, 4), 0);
    }

    #[test]
    fn reset_of_a_busy_engine_reads_as_pending_until_it_has_stopped() {
        let mut s = state();
        write(&mut s, 0x2229c, 0x8000_8000);
        submit(&mut s, 0x1000, 1);
        let epoch = s.take(Engine::Bcs).unwrap().epoch;
        assert_eq!(
            write(&mut s, 0x941c, regs::GRDOM_BLT),
            [Effect::Reset(Engine::Bcs), Effect::Stop(Engine::Bcs)]
        );
        assert_eq!(read(&mut s, 0x941c, 4), u64::from(regs::GRDOM_BLT));
        assert_eq!(s.push_status(Engine::Bcs, epoch, 1, 1), None, "the old epoch has no more to tell");
        assert!(!s.raise(Engine::Bcs, epoch, 1));
        s.ended(Engine::Bcs);
        assert_eq!(read(&mut s, 0x941c, 4), 0);
    }

    #[test]
    fn error_shows_in_the_engine_and_interrupts_where_it_is_let() {
        let mut s = state();
        let epoch = s.engine(Engine::Bcs).epoch();
        let bad = Descriptor::ggtt(0x5000, 1);
        let error = EngineError { header: 0x1234_5678, address: 0x1_0000_0040 };
        assert!(!s.fail(Engine::Bcs, epoch, bad, error));
        assert_eq!(read(&mut s, 0x220b0, 4), 0, "masked");
        assert_eq!(read(&mut s, 0x220b8, 4), 1);
        for (offset, value) in
            [(0x220b4, !1u32), (0x220a8, 0), (0x44304, 0), (0x4430c, u32::MAX), (0x44200, 1 << 31)]
        {
            write(&mut s, offset, value);
        }
        assert!(s.fail(Engine::Bcs, epoch, bad, error));
        assert_eq!(read(&mut s, 0x220b0, 4), 1);
        assert_eq!((read(&mut s, 0x22068, 4), read(&mut s, 0x22074, 4)), (0x1234_5678, 0x40));
        assert_eq!(read(&mut s, 0x44308, 4), 0x0008_0000);
        assert!(s.engine(Engine::Bcs).is_banned(0x5000));
    }

    #[test]
    fn fence_beyond_the_share_takes_nothing() {
        let mut s = state();
        write(&mut s, 0x100018, 5);
        write(&mut s, 0x100020, 5);
        assert_eq!((read(&mut s, 0x100018, 4), read(&mut s, 0x100020, 4)), (5, 0));
    }
}
