//! An engine: takes submissions, restores contexts, walks rings and batches, tells what became of them.
//!
//! It is a state machine. [`Core::step`] does a bounded amount of work (some commands, or some bytes of a blit)
//! and keeps no pointer into memory afterwards, so that whoever holds the core between two steps may flush its
//! translations, reset it, or drop it. It has no thread and no clock of its own and can be driven by hand.

use xen_ioreq::PAGE_SIZE;

use super::blit::{Blit, Refused};
use super::device::Device;
use super::port::{Elements, Wait};
use super::team::Team;
use super::tlb::{Fault, Space, Tlb};
use crate::bus::DmaAccess;
use crate::gen8::blt::Rect;
use crate::gen8::cmd::{self, SetPredicate};
use crate::gen8::context::{
    CSB_ACTIVE_TO_IDLE, CSB_COMPLETE, CSB_ELEMENT_SWITCH, CSB_ENTRIES, CSB_IDLE_TO_ACTIVE, CSB_LITE_RESTORE,
    CSB_PREEMPTED, Descriptor, STATE_OFFSET, hwsp, state,
};
use crate::gen8::ppgtt::Root;
use crate::gen8::regs::{self, engine as reg, gt};
use crate::physical::{CsbEntry, Engine, Interrupt};

/// Dwords of commands in one step, but for the last command's.
const STEP_DWORDS: u32 = 256;
/// Bytes of a blit in one step for each thread that draws: some ten microseconds.
const STEP_BYTES: u64 = 256 << 10;

/// Why an engine stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Stop {
    /// Memory.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// No client parses this.
    #[error("no command begins with {0:#010x}")]
    Unknown(u32),
    /// Not a command of this engine, or not here.
    #[error("{0} is not legal here")]
    Illegal(&'static str),
    /// A command that gen8 has and this GPU does not execute.
    #[error("{0} is not executed by the software GPU")]
    Unsupported(&'static str),
    /// The length or a field makes no sense.
    #[error("{0} is malformed")]
    Malformed(&'static str),
    /// A command goes on beyond the tail.
    #[error("the ring ends within {0}")]
    Truncated(&'static str),
    /// A blit.
    #[error("blit: {0}")]
    Blit(#[from] Refused),
    /// A descriptor that cannot be run.
    #[error("context descriptor {0:#x}: {1}")]
    Descriptor(u64, &'static str),
    /// A context image that cannot be run.
    #[error("context image at {0:#x}: {1}")]
    Image(u64, &'static str),
}

/// What a step came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Something was done; go on.
    Worked,
    /// Nothing to do until what is told happens.
    Idle(Wait),
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    /// On to the next.
    Next,
    /// A blit begins; the next command comes after it.
    Blit,
    /// The place to go on has been set.
    Jump,
    /// On to the next, unless a submission waits that wants the engine.
    Arbitrate,
    /// The same command again, later; a submission that waits may have the engine before.
    Poll,
}

/// A ring as its context's image describes it. Offsets in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ring {
    start: u64,
    ctl: u32,
    size: u32,
    head: u32,
    tail: u32,
    wraps: u32,
}

impl Ring {
    /// From the values in the image.
    fn new(head: u32, tail: u32, start: u32, ctl: u32) -> Result<Self, &'static str> {
        if ctl & regs::RING_VALID == 0 {
            return Err("the ring is not enabled");
        }
        let size = (ctl & regs::RING_NR_PAGES) + 4096;
        let ring = Self {
            start: u64::from(start & !0xfff),
            ctl,
            size,
            head: head & regs::HEAD_ADDR,
            tail: tail & regs::TAIL_ADDR,
            wraps: head & !(regs::HEAD_WRAP_ONE - 1),
        };
        if ring.head >= size {
            return Err("the head is outside the ring");
        }
        if ring.tail >= size {
            return Err("the tail is outside the ring");
        }
        Ok(ring)
    }

    /// Bytes from head to tail.
    fn available(&self) -> u32 {
        if self.tail >= self.head { self.tail - self.head } else { self.size - self.head + self.tail }
    }

    /// Address of the byte `ahead` bytes (less than the size) from the head.
    fn addr(&self, ahead: u32) -> u64 {
        self.start + u64::from((self.head + ahead) % self.size)
    }

    pub(super) fn advance(&mut self, bytes: u32) {
        self.head += bytes;
        if self.head >= self.size {
            self.head -= self.size;
            self.wraps = self.wraps.wrapping_add(regs::HEAD_WRAP_ONE);
        }
    }

    /// RING_HEAD.
    pub(super) fn head_register(&self) -> u32 {
        self.wraps | self.head
    }
}

/// The context that runs.
pub(super) struct Context {
    elements: Elements,
    /// Which of them.
    at: usize,
    pub(super) descriptor: Descriptor,
    pub(super) ring: Ring,
    /// Next dword of the batch.
    pub(super) batch: Option<u64>,
    /// Next dword of the second-level batch.
    pub(super) second: Option<u64>,
    /// Whose addresses `batch` and `second` are.
    pub(super) batch_space: Space,
    pub(super) second_space: Space,
    pub(super) arbitration: bool,
    /// MI_SET_PREDICATE, for as long as the batch goes on.
    pub(super) predicated: SetPredicate,
    /// XY_SETUP_CLIP_BLT. A context loses the engine only in its ring, so a batch keeps it.
    pub(super) clip: Rect,
    /// When it got the engine.
    since: u64,
}

impl Context {
    pub(super) fn in_ring(&self) -> bool {
        self.batch.is_none()
    }

    /// Back to the ring.
    pub(super) fn end_batches(&mut self) {
        (self.batch, self.second) = (None, None);
        self.predicated = SetPredicate::Never;
    }

    /// Whose addresses those of the current command's dwords are.
    pub(super) fn space(&self) -> Space {
        match (self.second, self.batch) {
            (Some(_), _) => self.second_space,
            (None, Some(_)) => self.batch_space,
            (None, None) => Space::Global,
        }
    }

    /// Address of a dword of the current command.
    fn addr(&self, dword: u32) -> u64 {
        match self.second.or(self.batch) {
            Some(at) => at.saturating_add(u64::from(dword) * 4),
            None => self.ring.addr(dword * 4),
        }
    }

    fn advance(&mut self, dwords: u32) {
        match self.second.as_mut().or(self.batch.as_mut()) {
            Some(at) => *at = at.saturating_add(u64::from(dwords) * 4),
            None => self.ring.advance(dwords * 4),
        }
    }
}

/// An engine's whole state.
pub(super) struct Core {
    pub(super) engine: Engine,
    pub(super) tlb: Tlb,
    /// Helps with blits.
    team: Team,
    pub(super) running: Option<Context>,
    pub(super) blit: Option<Blit>,
    /// Stopped by an error, until reset.
    stopped: bool,
    /// The last command waits for memory to change.
    polling: bool,
    header: u32,
    irqs: Vec<Interrupt>,
}

impl Core {
    pub(super) fn new(engine: Engine, tlb: Tlb, team: Team) -> Self {
        Self {
            engine,
            tlb,
            team,
            running: None,
            blit: None,
            stopped: false,
            polling: false,
            header: 0,
            irqs: Vec::new(),
        }
    }

    /// Does a bounded amount of work.
    pub(super) fn step(&mut self, dev: &Device) -> Step {
        let mode = dev.regs.engine(self.engine).get(reg::RING_MI_MODE);
        if self.stopped || mode & regs::STOP_RING != 0 {
            return Step::Idle(Wait::ForKick);
        }
        let result = match &mut self.blit {
            Some(blit) => {
                // A blit has no bit that says whose addresses it means: the context's, if it has any.
                self.tlb.select(Space::Process);
                let done = blit.advance(&mut self.tlb, &mut self.team, STEP_BYTES);
                self.tlb.select(Space::Global);
                done.map(|done| {
                    if done {
                        self.blit = None;
                    }
                    Step::Worked
                })
                .map_err(Stop::from)
            }
            None => {
                let result = self.advance(dev);
                self.publish(dev);
                result
            }
        };
        result.unwrap_or_else(|stop| {
            self.stop(dev, stop);
            Step::Worked
        })
    }

    /// Interrupts that came since the last call.
    pub(super) fn take_irqs(&mut self) -> Vec<Interrupt> {
        std::mem::take(&mut self.irqs)
    }

    /// Forgets everything, translations included.
    pub(super) fn reset(&mut self, dev: &Device) {
        self.running = None;
        self.blit = None;
        (self.stopped, self.polling) = (false, false);
        self.header = 0;
        self.irqs.clear();
        self.tlb.flush();
        self.tlb.select(Space::Global);
        dev.regs.reset_engine(self.engine);
        dev.port(self.engine).reset();
    }

    fn advance(&mut self, dev: &Device) -> Result<Step, Stop> {
        if self.running.is_none() {
            let Some(elements) = dev.port(self.engine).take() else { return Ok(Step::Idle(Wait::ForWork)) };
            self.report(dev, CSB_IDLE_TO_ACTIVE, elements[0].map_or(0, Descriptor::id), false)?;
            self.load(dev, elements, 0)?;
        }
        let mut dwords = 0;
        self.polling = false;
        while dwords < STEP_DWORDS && self.blit.is_none() && self.running.is_some() {
            dwords += self.command(dev)?;
        }
        Ok(if self.polling { Step::Idle(Wait::Briefly) } else { Step::Worked })
    }

    /// Executes the next command, or does what is due at the ring's end. Gives the dwords that this counts for.
    fn command(&mut self, dev: &Device) -> Result<u32, Stop> {
        let Some(ctx) = &self.running else { return Ok(1) };
        if ctx.in_ring() && ctx.ring.head == ctx.ring.tail {
            self.ring_empty(dev)?;
            return Ok(STEP_DWORDS);
        }
        self.header = self.dword(0)?;
        let decoded = cmd::decode(self.header).ok_or(Stop::Unknown(self.header))?;
        if !decoded.legal_on(self.engine) {
            return Err(match decoded.def {
                Some(d) => Stop::Illegal(d.name),
                None => Stop::Unknown(self.header),
            });
        }
        if let Some(ctx) = &self.running
            && ctx.in_ring()
            && decoded.dwords * 4 > ctx.ring.available()
        {
            return Err(Stop::Truncated(decoded.name()));
        }
        let flow = if self.skips(dev, &decoded) {
            Flow::Next
        } else {
            let space = self.data_space(&decoded, self.header)?;
            self.tlb.select(space);
            let flow = self.execute(dev, &decoded, self.header);
            self.tlb.select(Space::Global);
            flow?
        };
        if let Some(ctx) = &mut self.running
            && !matches!(flow, Flow::Jump | Flow::Poll)
        {
            ctx.advance(decoded.dwords);
        }
        if matches!(flow, Flow::Arbitrate | Flow::Poll) {
            self.arbitrate(dev)?;
        }
        self.polling = flow == Flow::Poll;
        Ok(if self.polling { STEP_DWORDS } else { decoded.dwords })
    }

    /// A dword of the current command.
    pub(super) fn dword(&mut self, n: u32) -> Result<u32, Stop> {
        let Some((addr, space)) = self.running.as_ref().map(|c| (c.addr(n), c.space())) else { return Ok(0) };
        Ok(self.within(space, |core| core.load32(addr))?)
    }

    /// The current command, the header included.
    pub(super) fn dwords<const N: usize>(&mut self) -> Result<[u32; N], Stop> {
        let mut all = [0; N];
        for (n, d) in (0..).zip(&mut all) {
            *d = self.dword(n)?;
        }
        Ok(all)
    }

    /// Makes an element of a submission the context that runs.
    fn load(&mut self, dev: &Device, elements: Elements, at: usize) -> Result<(), Stop> {
        let descriptor = elements.get(at).copied().flatten().unwrap_or_default();
        if !descriptor.valid() {
            return Err(Stop::Descriptor(descriptor.0, "not valid"));
        }
        let root = self.read_root(descriptor)?;
        self.tlb.set_root(root);
        let ring = self.read_ring(descriptor)?;
        let since = dev.clock.ticks();
        let clip = Rect { x1: 0, y1: 0, x2: 0, y2: 0 };
        self.running = Some(Context {
            elements,
            at,
            descriptor,
            ring,
            batch: None,
            second: None,
            batch_space: Space::Global,
            second_space: Space::Global,
            arbitration: true,
            predicated: SetPredicate::Never,
            clip,
            since,
        });
        Ok(())
    }

    fn read_ring(&mut self, descriptor: Descriptor) -> Result<Ring, Stop> {
        let base = descriptor.lrca() + STATE_OFFSET;
        let page = self.tlb.page(base, DmaAccess::Read)?;
        let [head, tail, start, ctl] =
            [state::RING_HEAD, state::RING_TAIL, state::RING_START, state::RING_CTL]
                .map(|i| page.load32(i * 4));
        Ring::new(head, tail, start, ctl).map_err(|why| Stop::Image(descriptor.lrca(), why))
    }

    /// Where the context's own tables begin, if it has any.
    fn read_root(&mut self, descriptor: Descriptor) -> Result<Option<Root>, Stop> {
        if !descriptor.ppgtt() {
            return Ok(None);
        }
        let four_level = match descriptor.0 & Descriptor::ADDRESSING_MODE {
            Descriptor::LEGACY_64B => true,
            Descriptor::LEGACY_32B => false,
            _ => return Err(Stop::Descriptor(descriptor.0, "its addressing mode is none of gen8's")),
        };
        let page = self.tlb.page(descriptor.lrca() + STATE_OFFSET, DmaAccess::Read)?;
        let pointers = state::PDPS.map(|(upper, lower)| {
            u64::from(page.load32(upper * 4)) << 32 | u64::from(page.load32(lower * 4))
        });
        Ok(Some(Root::of_pointers(four_level, pointers)))
    }

    /// Does something with addresses of another space than the selected one.
    pub(super) fn within<T>(&mut self, space: Space, f: impl FnOnce(&mut Self) -> T) -> T {
        let before = self.tlb.select(space);
        let result = f(self);
        self.tlb.select(before);
        result
    }

    /// Writes back what the context keeps in its image.
    fn save(&mut self, dev: &Device) -> Result<(), Stop> {
        let Some(ctx) = &self.running else { return Ok(()) };
        let ran = dev.clock.ticks().wrapping_sub(ctx.since);
        let page = self.tlb.page(ctx.descriptor.lrca() + STATE_OFFSET, DmaAccess::Write)?;
        page.store32(state::RING_HEAD * 4, ctx.ring.head_register());
        let at = state::CTX_TIMESTAMP * 4;
        page.store32(at, page.load32(at).wrapping_add(cmd::split(ran)[0]));
        Ok(())
    }

    /// The head has met the tail: a newer submission of the same context goes on with it, else it is complete.
    fn ring_empty(&mut self, dev: &Device) -> Result<(), Stop> {
        let Some(ctx) = &self.running else { return Ok(()) };
        let (descriptor, elements, at) = (ctx.descriptor, ctx.elements, ctx.at);
        if let Some(newer) = dev.port(self.engine).take_if(|newer| goes_on(descriptor, newer)) {
            return self.lite_restore(dev, newer);
        }
        self.save(dev)?;
        self.running = None;
        if at == 0 && elements[1].is_some() {
            self.report(dev, CSB_COMPLETE | CSB_ELEMENT_SWITCH, descriptor.id(), false)?;
            self.load(dev, elements, 1)
        } else {
            self.report(dev, CSB_COMPLETE | CSB_ACTIVE_TO_IDLE, descriptor.id(), true)
        }
    }

    /// A point at which a newer submission may take the engine. It may while the context is in its ring.
    fn arbitrate(&mut self, dev: &Device) -> Result<(), Stop> {
        let Some(ctx) = &self.running else { return Ok(()) };
        let descriptor = ctx.descriptor;
        if !ctx.arbitration || !ctx.in_ring() {
            return Ok(());
        }
        // One look: what is taken may have come a moment ago, and be of the same context.
        let Some(newer) = dev.port(self.engine).take() else { return Ok(()) };
        if goes_on(descriptor, &newer) {
            return self.lite_restore(dev, newer);
        }
        self.save(dev)?;
        self.running = None;
        self.report(dev, CSB_PREEMPTED, descriptor.id(), false)?;
        self.load(dev, newer, 0)
    }

    /// Goes on with the same context under a newer submission: only the tail is read again.
    fn lite_restore(&mut self, dev: &Device, newer: Elements) -> Result<(), Stop> {
        let Some(id) = self.running.as_ref().map(|c| c.descriptor.id()) else { return Ok(()) };
        self.report(dev, CSB_LITE_RESTORE | CSB_PREEMPTED, id, false)?;
        if let Some(descriptor) = newer[0] {
            let tail = self.read_ring(descriptor)?.tail;
            if let Some(ctx) = &mut self.running {
                if tail >= ctx.ring.size {
                    return Err(Stop::Image(descriptor.lrca(), "the tail is outside the ring"));
                }
                (ctx.elements, ctx.at, ctx.descriptor, ctx.ring.tail) = (newer, 0, descriptor, tail);
            }
        }
        Ok(())
    }

    /// Puts an entry into the status buffer: the status page, then the registers, then the interrupt.
    fn report(&mut self, dev: &Device, status: u32, context_id: u32, last: bool) -> Result<(), Stop> {
        let bank = dev.regs.engine(self.engine);
        let pointers = bank.get(reg::RING_CONTEXT_STATUS_PTR);
        let newest = (pointers & 7) + 1;
        let newest = if newest >= CSB_ENTRIES { 0 } else { newest };
        let page = u64::from(bank.get(reg::RING_HWS_PGA) & !0xfff);
        if page != 0 {
            let entry = page + hwsp::CSB + u64::from(newest) * 8;
            self.store32(entry, status)?;
            self.store32(entry + 4, context_id)?;
            self.store32(page + hwsp::CSB_WRITE, newest)?;
        }
        bank.set(reg::RING_CONTEXT_STATUS_BUF + newest * 8, status);
        bank.set(reg::RING_CONTEXT_STATUS_BUF + newest * 8 + 4, context_id);
        bank.set(reg::RING_CONTEXT_STATUS_PTR, pointers & !7 | newest);
        dev.port(self.engine).report(CsbEntry { status, context_id }, last);
        self.raise(dev, regs::GT_CONTEXT_SWITCH_INTERRUPT, Interrupt::ContextSwitch(self.engine));
        Ok(())
    }

    pub(super) fn raise(&mut self, dev: &Device, bit: u32, irq: Interrupt) {
        // Several of a kind in one step are one, as in the identity register.
        if dev.regs.raise(self.engine, bit) && !self.irqs.contains(&irq) {
            self.irqs.push(irq);
        }
    }

    fn stop(&mut self, dev: &Device, stop: Stop) {
        log::debug!("{} stopped: {stop}", self.engine.name());
        self.stopped = true;
        let bank = dev.regs.engine(self.engine);
        if let Stop::Fault(fault) = stop {
            let [lo, hi] = cmd::split(fault.addr() >> 12);
            dev.regs.gt.set(gt::GEN8_FAULT_TLB_DATA0, lo);
            dev.regs.gt.set(gt::GEN8_FAULT_TLB_DATA1, hi & 0xf | regs::FAULT_GTT_SEL);
            let engine = u32::try_from(self.engine.index()).unwrap_or(0);
            dev.regs.gt.set(gt::RING_FAULT_REG, regs::RING_FAULT_VALID | engine << 12);
            bank.set_bits(reg::RING_EIR, regs::ERROR_PAGE_TABLE);
        } else {
            bank.set_bits(reg::RING_EIR, regs::I915_ERROR_INSTRUCTION);
        }
        self.raise(dev, regs::GT_CS_MASTER_ERROR_INTERRUPT, Interrupt::Error(self.engine));
    }

    /// Shows where the engine is in its registers.
    fn publish(&self, dev: &Device) {
        let bank = dev.regs.engine(self.engine);
        bank.set(reg::RING_IPEHR, self.header);
        let Some(ctx) = &self.running else {
            bank.set(reg::RING_EXECLIST_STATUS_LO, 0);
            return;
        };
        let ([acthd, acthd_hi], [bb, bb_hi], [sbb, sbb_hi]) = (
            cmd::split(ctx.addr(0)),
            cmd::split(ctx.batch.unwrap_or(0)),
            cmd::split(ctx.second.unwrap_or(0)),
        );
        for (offset, value) in [
            (reg::RING_HEAD, ctx.ring.head_register()),
            (reg::RING_TAIL, ctx.ring.tail),
            (reg::RING_START, cmd::split(ctx.ring.start)[0]),
            (reg::RING_CTL, ctx.ring.ctl),
            (reg::RING_ACTHD, acthd),
            (reg::RING_ACTHD_UDW, acthd_hi),
            (reg::RING_BBADDR, bb | u32::from(ctx.batch.is_some())),
            (reg::RING_BBADDR_UDW, bb_hi),
            (reg::RING_SBBADDR, sbb | u32::from(ctx.second.is_some())),
            (reg::RING_SBBADDR_UDW, sbb_hi),
            (reg::RING_EXECLIST_STATUS_LO, 1 << (ctx.at + 14)),
            (reg::RING_EXECLIST_STATUS_HI, ctx.descriptor.id()),
        ] {
            bank.set(offset, value);
        }
    }

    pub(super) fn load32(&mut self, addr: u64) -> Result<u32, Fault> {
        Ok(self.tlb.page(addr, DmaAccess::Read)?.load32(in_page(addr, 4)))
    }

    pub(super) fn store32(&mut self, addr: u64, value: u32) -> Result<(), Fault> {
        self.tlb.page(addr, DmaAccess::Write)?.store32(in_page(addr, 4), value);
        Ok(())
    }

    /// One store if the address is a multiple of 8, else two.
    pub(super) fn store64(&mut self, addr: u64, value: u64) -> Result<(), Fault> {
        if addr.is_multiple_of(8) {
            self.tlb.page(addr, DmaAccess::Write)?.store64(in_page(addr, 8), value);
            return Ok(());
        }
        let [lo, hi] = cmd::split(value);
        self.store32(addr, lo)?;
        self.store32(addr.saturating_add(4), hi)
    }
}

/// Whether a submission goes on with the context that runs: it begins with it, and does not want its image to be read anew.
fn goes_on(running: Descriptor, newer: &Elements) -> bool {
    newer[0].is_some_and(|first| {
        let same = (first.lrca(), first.id()) == (running.lrca(), running.id());
        same && first.0 & Descriptor::FORCE_RESTORE == 0
    })
}

/// The offset in the page, rounded down to a multiple of `unit`.
#[expect(clippy::cast_possible_truncation, reason = "a remainder of the page size")]
pub(super) fn in_page(addr: u64, unit: usize) -> usize {
    (addr % PAGE_SIZE as u64) as usize / unit * unit
}

#[cfg(test)]
#[path = "engine_tests.rs"]
mod tests;
