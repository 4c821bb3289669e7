//! The register file: a word for each dword of the tables that the GPU has. What a write sets off is the device's.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::gen8::regs::{Access, RegDef, engine, gt, irq, masked_write};
use crate::physical::Engine;

/// The words of one table.
pub(super) struct Bank {
    table: &'static [RegDef],
    /// Where each row begins in `words`.
    starts: Box<[usize]>,
    words: Box<[AtomicU32]>,
}

impl Bank {
    fn new(table: &'static [RegDef]) -> Self {
        let mut words = Vec::new();
        let starts = table
            .iter()
            .map(|def| {
                let start = words.len();
                words.extend((0..def.count).map(|_| AtomicU32::new(0)));
                start
            })
            .collect();
        Self { table, starts, words: words.into_boxed_slice() }
    }

    fn find(&self, offset: u32) -> Option<(&'static RegDef, &AtomicU32)> {
        let row = self.table.partition_point(|r| r.offset <= offset).checked_sub(1)?;
        let (def, start) = (self.table.get(row)?, self.starts.get(row)?);
        let dword = usize::try_from((offset - def.offset) / 4).ok()?;
        if offset >= def.end() {
            return None;
        }
        self.words.get(start + dword).map(|w| (def, w))
    }

    /// What the register holds; 0 for one that is not in the table.
    pub(super) fn get(&self, offset: u32) -> u32 {
        self.find(offset).map_or(0, |(_, w)| w.load(Ordering::Acquire))
    }

    /// The hardware's own write.
    pub(super) fn set(&self, offset: u32, value: u32) {
        if let Some((_, w)) = self.find(offset) {
            w.store(value, Ordering::Release);
        }
    }

    /// The hardware sets bits.
    pub(super) fn set_bits(&self, offset: u32, bits: u32) {
        if let Some((_, w)) = self.find(offset) {
            w.fetch_or(bits, Ordering::AcqRel);
        }
    }

    /// A write from outside, as the register takes it.
    fn write(&self, offset: u32, value: u32) {
        let Some((def, word)) = self.find(offset) else { return };
        match def.access {
            Access::ReadOnly | Access::Trigger => {}
            Access::ReadWrite => word.store(value, Ordering::Release),
            Access::WriteOneClear => {
                word.fetch_and(!value, Ordering::AcqRel);
            }
            Access::Masked => {
                // The update never fails: it always gives a value.
                let _ = word
                    .fetch_update(Ordering::AcqRel, Ordering::Acquire, |old| Some(masked_write(old, value)));
            }
        }
    }

    fn clear(&self) {
        for w in &self.words {
            w.store(0, Ordering::Release);
        }
    }
}

/// All registers.
pub(super) struct Registers {
    engines: [Bank; 4],
    pub(super) gt: Bank,
    pub(super) irq: Bank,
}

impl Registers {
    /// As a driver leaves them: execlists on, no interrupt masked.
    pub(super) fn new() -> Self {
        use crate::gen8::regs::MASTER_IRQ_CONTROL;
        let this = Self {
            engines: std::array::from_fn(|_| Bank::new(engine::TABLE)),
            gt: Bank::new(gt::TABLE),
            irq: Bank::new(irq::TABLE),
        };
        this.irq.set(irq::GEN8_MASTER_IRQ, MASTER_IRQ_CONTROL);
        for ier in [irq::GEN8_GT_IER0, irq::GEN8_GT_IER1, irq::GEN8_GT_IER3] {
            this.irq.set(ier, u32::MAX);
        }
        for e in Engine::ALL {
            this.reset_engine(e);
        }
        this
    }

    pub(super) fn engine(&self, engine: Engine) -> &Bank {
        &self.engines[engine.index()]
    }

    /// What an engine's registers hold after its reset.
    pub(super) fn reset_engine(&self, e: Engine) {
        use crate::gen8::regs::GFX_RUN_LIST_ENABLE;
        let bank = self.engine(e);
        let (hws, imr) = (bank.get(engine::RING_HWS_PGA), bank.get(engine::RING_IMR));
        bank.clear();
        // Where the status page is and what is masked are the host's settings: its own reset path keeps them.
        bank.set(engine::RING_HWS_PGA, hws);
        bank.set(engine::RING_IMR, imr);
        bank.set(engine::RING_MODE_GEN7, GFX_RUN_LIST_ENABLE);
        // The newest entry is the last: the next one goes to the first place.
        bank.set(engine::RING_CONTEXT_STATUS_PTR, 0x0505);
    }

    fn bank(&self, offset: u32) -> Option<(&Bank, u32)> {
        if let Some((e, rel)) = Engine::of_mmio(offset) {
            return Some((self.engine(e), rel));
        }
        [&self.gt, &self.irq].into_iter().find(|b| b.find(offset).is_some()).map(|b| (b, offset))
    }

    /// `None`: no such register.
    pub(super) fn read(&self, offset: u32) -> Option<u32> {
        let (bank, rel) = self.bank(offset)?;
        bank.find(rel).map(|(_, w)| w.load(Ordering::Acquire))
    }

    /// A write from outside; nothing happens if there is no such register.
    pub(super) fn write(&self, offset: u32, value: u32) {
        if let Some((bank, rel)) = self.bank(offset) {
            bank.write(rel, value);
        }
    }

    /// The engines' bits of the master register.
    pub(super) fn pending(&self) -> u32 {
        let of = |e: &Engine| {
            let (group, shift) = e.irq_group();
            self.irq.get(irq::GEN8_GT_IIR0 + group * 0x10) >> shift & 0xffff != 0
        };
        Engine::ALL.iter().filter(|e| of(e)).fold(0, |bits, e| bits | e.master_irq_bit())
    }

    /// Notes an interrupt of an engine. Whether it leaves the GPU.
    pub(super) fn raise(&self, e: Engine, bit: u32) -> bool {
        use crate::gen8::regs::MASTER_IRQ_CONTROL;
        let (group, shift) = e.irq_group();
        let (at, bit) = (group * 0x10, bit << shift);
        // An engine's own mask has its bits where they stand in the group.
        if self.engine(e).get(engine::RING_IMR) & bit != 0 {
            return false;
        }
        if self.irq.get(irq::GEN8_GT_IMR0 + at) & bit != 0 {
            return false;
        }
        self.irq.set_bits(irq::GEN8_GT_IIR0 + at, bit);
        self.irq.get(irq::GEN8_GT_IER0 + at) & bit != 0
            && self.irq.get(irq::GEN8_MASTER_IRQ) & MASTER_IRQ_CONTROL != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_takes_a_write_in_its_way() {
        let r = Registers::new();
        let bcs = Engine::Bcs.mmio_base();
        for (offset, before, write, after) in [
            (bcs + engine::RING_HWS_PGA, 0, 0x1234_5000, 0x1234_5000),
            (bcs + engine::BCS_SWCTRL, 0, 0x0003_0001, 1),
            (bcs + engine::RING_ACTHD, 0, 7, 0),
            (bcs + engine::RING_EIR, 0x11, 0x10, 1),
            (gt::GDRST, 0, 1, 0),
        ] {
            match Engine::of_mmio(offset) {
                Some((e, rel)) => r.engine(e).set(rel, before),
                None => r.gt.set(offset, before),
            }
            r.write(offset, write);
            assert_eq!(r.read(offset), Some(after), "{offset:#x}");
        }
    }

    #[test]
    fn unknown_register_is_none_and_a_write_is_lost() {
        let r = Registers::new();
        for offset in [0, 0x22000, 0x227fc, 0x60000, u32::MAX] {
            r.write(offset, 1);
            assert_eq!(r.read(offset), None, "{offset:#x}");
        }
    }

    #[test]
    fn masked_interrupt_does_not_leave() {
        let r = Registers::new();
        let e = Engine::Bcs;
        assert!(r.raise(e, 1));
        assert_eq!(r.read(irq::GEN8_GT_IIR0), Some(1 << 16));
        r.write(irq::GEN8_GT_IIR0, 1 << 16);
        r.write(irq::GEN8_GT_IMR0, 1 << 16);
        assert!(!r.raise(e, 1));
        assert_eq!(r.read(irq::GEN8_GT_IIR0), Some(0));
        r.write(irq::GEN8_GT_IMR0, 0);
        r.write(irq::GEN8_MASTER_IRQ, 0);
        assert!(!r.raise(e, 1));
        assert_eq!(r.read(irq::GEN8_GT_IIR0), Some(1 << 16), "identity is kept though the master is off");
    }
}
