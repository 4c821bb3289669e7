//! The commands that compute, compare, wait and decide: MI_MATH, MI_ATOMIC, semaphores, predicates.

use super::device::Device;
use super::engine::{Core, Flow, Stop};
use super::exec::read_register;
use super::tlb::Space;
use super::{alu, atomic};
use crate::bus::DmaAccess;
use crate::gen8::cmd::{
    self, AtomicSize, Compare, Decoded, PredicateCombine, PredicateCompare, PredicateLoad, SetPredicate,
    address,
};
use crate::gen8::context::hwsp;
use crate::gen8::regs::engine as reg;

/// Slices that this GPU says it has, as a Broadwell GT2.
const SLICES: u32 = 1;

impl Core {
    fn wide(&self, dev: &Device, register: u32) -> u64 {
        let bank = dev.regs.engine(self.engine);
        u64::from(bank.get(register + 4)) << 32 | u64::from(bank.get(register))
    }

    fn set_wide(&self, dev: &Device, register: u32, value: u64) {
        let (bank, [lo, hi]) = (dev.regs.engine(self.engine), cmd::split(value));
        bank.set(register, lo);
        bank.set(register + 4, hi);
    }

    fn gpr(&self, dev: &Device, n: u32) -> u64 {
        self.wide(dev, reg::GEN8_RING_CS_GPR + 8 * n)
    }

    /// MI_MATH. What was computed before an instruction that is none stays.
    pub(super) fn math(&mut self, dev: &Device, d: &Decoded) -> Result<(), Stop> {
        let program: Vec<u32> = (1..d.dwords).map(|n| self.dword(n)).collect::<Result<_, _>>()?;
        let mut r = [0; 16];
        for (n, r) in (0..).zip(&mut r) {
            *r = self.gpr(dev, n);
        }
        let done = alu::run(&mut r, program);
        for (n, r) in (0..).zip(r) {
            self.set_wide(dev, reg::GEN8_RING_CS_GPR + 8 * n, r);
        }
        done.map_err(|alu::Bad(_)| Stop::Malformed(d.name()))
    }

    /// MI_ATOMIC.
    pub(super) fn atomic(&mut self, dev: &Device, d: &Decoded, header: u32) -> Result<(), Stop> {
        let bad = Stop::Malformed(d.name());
        let (op, size) = cmd::atomic_fields(header).ok_or(bad)?;
        let inline = header & cmd::ATOMIC_INLINE != 0;
        let least = 3 + if inline { 2 * size.dwords() } else { 0 };
        if d.dwords < least || d.dwords > if inline { 11 } else { 3 } {
            return Err(bad);
        }
        let [_, lo, hi] = self.dwords()?;
        let at = address(lo, hi);
        let (a, b) = match (inline, size) {
            (false, _) => (self.gpr(dev, 0), self.gpr(dev, 2)),
            (true, AtomicSize::Dword) => (u64::from(self.dword(3)?), u64::from(self.dword(4)?)),
            (true, AtomicSize::Qword) => {
                let [_, _, _, a_lo, b_lo, a_hi, b_hi] = self.dwords()?;
                let wide = |lo: u32, hi: u32| u64::from(hi) << 32 | u64::from(lo);
                (wide(a_lo, a_hi), wide(b_lo, b_hi))
            }
        };
        let old = match size {
            AtomicSize::Dword => {
                let change = |v: u32| cmd::split(atomic::apply(op, 32, v.into(), a, b))[0];
                let page = self.tlb.page(at, DmaAccess::Write)?;
                u64::from(page.update32(super::engine::in_page(at, 4), change))
            }
            AtomicSize::Qword if !at.is_multiple_of(8) => return Err(bad),
            AtomicSize::Qword => {
                let page = self.tlb.page(at, DmaAccess::Write)?;
                page.update64(super::engine::in_page(at, 8), |v| atomic::apply(op, 64, v, a, b))
            }
        };
        if header & cmd::ATOMIC_RETURN != 0 {
            self.set_wide(dev, reg::GEN8_RING_CS_GPR + 8 * 4, old);
        }
        Ok(())
    }

    /// MI_SEMAPHORE_WAIT. One in signal mode looks again now and then, too: a signal only makes it sooner.
    pub(super) fn semaphore_wait(&mut self, d: &Decoded, header: u32) -> Result<Flow, Stop> {
        let [_, data, lo, hi] = self.exactly(d)?;
        let compare = Compare::of(header).ok_or(Stop::Malformed(d.name()))?;
        let memory = self.load32(address(lo, hi))?;
        Ok(if compare.holds(memory, data) { Flow::Next } else { Flow::Poll })
    }

    /// MI_SEMAPHORE_SIGNAL.
    pub(super) fn semaphore_signal(&mut self, dev: &Device, d: &Decoded, header: u32) -> Result<(), Stop> {
        let [_, _context] = self.exactly(d)?;
        let target = cmd::signalled(header).ok_or(Stop::Malformed(d.name()))?;
        dev.port(target).kick();
        Ok(())
    }

    /// MI_CONDITIONAL_BATCH_BUFFER_END: ends the batch and, from a second-level one, the one that called it.
    pub(super) fn conditional_end(&mut self, d: &Decoded, header: u32) -> Result<Flow, Stop> {
        let [_, data, lo, hi] = self.exactly(d)?;
        if self.running.as_ref().is_none_or(super::engine::Context::in_ring) {
            return Err(Stop::Illegal(d.name()));
        }
        if header & cmd::COND_COMPARE == 0 || self.load32(address(lo, hi))? > data {
            return Ok(Flow::Next);
        }
        if let Some(ctx) = &mut self.running {
            ctx.end_batches();
        }
        Ok(Flow::Jump)
    }

    /// MI_PREDICATE.
    pub(super) fn predicate(&mut self, dev: &Device, d: &Decoded, header: u32) -> Result<(), Stop> {
        let (load, combine, compare) = cmd::predicate_fields(header).ok_or(Stop::Malformed(d.name()))?;
        let (a, b) = (self.wide(dev, reg::MI_PREDICATE_SRC0), self.wide(dev, reg::MI_PREDICATE_SRC1));
        let answer = match compare {
            PredicateCompare::True => true,
            PredicateCompare::False => false,
            PredicateCompare::SourcesEqual => a == b,
            PredicateCompare::DeltasEqual => a.wrapping_sub(b) == self.wide(dev, reg::MI_PREDICATE_DATA),
        };
        let operand = match load {
            PredicateLoad::Keep => return Ok(()),
            PredicateLoad::Load => answer,
            PredicateLoad::LoadInv => !answer,
        };
        let before = self.predicate_is_set(dev);
        let after = match combine {
            PredicateCombine::Set => operand,
            PredicateCombine::And => before & operand,
            PredicateCombine::Or => before | operand,
            PredicateCombine::Xor => before ^ operand,
        };
        dev.regs.engine(self.engine).set(reg::MI_PREDICATE_RESULT, after.into());
        Ok(())
    }

    pub(super) fn predicate_is_set(&self, dev: &Device) -> bool {
        dev.regs.engine(self.engine).get(reg::MI_PREDICATE_RESULT) & 1 != 0
    }

    /// MI_SET_PREDICATE. Its scope is the batch, and within it all commands but itself and those that end the batch.
    pub(super) fn set_predicate(&mut self, d: &Decoded, header: u32) -> Result<(), Stop> {
        let when = SetPredicate::of(header).ok_or(Stop::Malformed(d.name()))?;
        if let Some(ctx) = &mut self.running {
            ctx.predicated = when;
        }
        Ok(())
    }

    /// Whether MI_SET_PREDICATE makes the current command do nothing.
    pub(super) fn skips(&self, dev: &Device, d: &Decoded) -> bool {
        let Some(ctx) = &self.running else { return false };
        if d.is_mi(cmd::op::MI_SET_PREDICATE) || d.is_mi(cmd::op::MI_BATCH_BUFFER_END) {
            return false;
        }
        let second = || dev.regs.engine(self.engine).get(reg::MI_PREDICATE_RESULT_2) & 1 != 0;
        match ctx.predicated {
            SetPredicate::Never => false,
            SetPredicate::Result2Clear => !second(),
            SetPredicate::Result2Set => second(),
            SetPredicate::ResultClear => !self.predicate_is_set(dev),
            SetPredicate::ResultSet => self.predicate_is_set(dev),
            SetPredicate::UnlessSlices(n) => n != SLICES,
            SetPredicate::Always => true,
        }
    }

    /// MI_REPORT_HEAD: the ring's head, into the context's own status page.
    pub(super) fn report_head(&mut self) -> Result<(), Stop> {
        let Some(ctx) = &self.running else { return Ok(()) };
        let (at, head) = (ctx.descriptor.lrca() + hwsp::RING_HEAD, ctx.ring.head_register());
        self.within(Space::Global, |core| core.store32(at, head))?;
        Ok(())
    }

    /// MI_STORE_DATA_INDEX: into the status page, or the context's own.
    pub(super) fn store_data_index(&mut self, dev: &Device, d: &Decoded, header: u32) -> Result<(), Stop> {
        if !(3..=4).contains(&d.dwords) {
            return Err(Stop::Malformed(d.name()));
        }
        let [_, offset, low] = self.dwords()?;
        let page = match &self.running {
            Some(ctx) if header & cmd::INDEX_OWN_PAGE != 0 => ctx.descriptor.lrca(),
            _ => u64::from(dev.regs.engine(self.engine).get(reg::RING_HWS_PGA) & !0xfff),
        };
        let at = page + u64::from(offset & 0xffc);
        if d.dwords == 3 {
            return Ok(self.store32(at, low)?);
        }
        let value = u64::from(self.dword(3)?) << 32 | u64::from(low);
        Ok(self.store64(at & !7, value)?)
    }

    /// MI_STORE_REGISTER_MEM.
    pub(super) fn store_register(&mut self, dev: &Device, d: &Decoded, header: u32) -> Result<(), Stop> {
        let [_, register, lo, hi] = self.exactly(d)?;
        if header & cmd::SRM_PREDICATE == 0 || self.predicate_is_set(dev) {
            self.store32(address(lo, hi), read_register(dev, register))?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "mi_tests.rs"]
mod tests;
