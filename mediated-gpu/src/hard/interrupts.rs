//! The GT's interrupts: what is let out, and what an interrupt stands for (i915 `intel_gt_irq.c`, `gen8_irq_handler`).
//!
//! The display's are masked at their sources: nothing here shows anything.

use super::core::Core;
use crate::gen8::regs::{
    DISPLAY_IMRS, GT_CONTEXT_SWITCH_INTERRUPT, GT_CS_MASTER_ERROR_INTERRUPT,
    GT_RENDER_PIPECTL_NOTIFY_INTERRUPT, GT_RENDER_USER_INTERRUPT, MASTER_IRQ_CONTROL, engine, irq,
};
use crate::physical::{Engine, Interrupt};

/// Distance of the GT groups' registers.
const GROUP: u32 = 0x10;
/// The groups there are. Power management is 2.
const GROUPS: [u32; 4] = [0, 1, 2, 3];

/// What an engine tells.
const BITS: u32 = GT_RENDER_USER_INTERRUPT
    | GT_RENDER_PIPECTL_NOTIFY_INTERRUPT
    | GT_CONTEXT_SWITCH_INTERRUPT
    | GT_CS_MASTER_ERROR_INTERRUPT;

/// What an engine tells, where it stands in its group.
pub(super) fn of_engine(e: Engine) -> u32 {
    BITS << e.irq_group().1
}

/// What the engines of a group tell.
fn of_group(group: u32) -> u32 {
    Engine::ALL.into_iter().filter(|e| e.irq_group().0 == group).fold(0, |bits, e| bits | of_engine(e))
}

impl Core {
    /// Lets nothing out, and forgets what there was.
    pub(super) fn mask_interrupts(&self) {
        self.write(irq::GEN8_MASTER_IRQ, 0);
        self.read(irq::GEN8_MASTER_IRQ);
        for group in GROUPS {
            self.source(irq::GEN8_GT_IMR0 + GROUP * group, u32::MAX, 0);
        }
        for imr in DISPLAY_IMRS {
            self.source(imr, u32::MAX, 0);
        }
        Engine::ALL.into_iter().for_each(|e| self.write(e.mmio_base() + engine::RING_IMR, u32::MAX));
    }

    /// Lets out what the engines tell.
    pub(super) fn enable_interrupts(&self) {
        for group in GROUPS {
            let bits = of_group(group);
            self.source(irq::GEN8_GT_IMR0 + GROUP * group, !bits, bits);
        }
        self.write(irq::GEN8_MASTER_IRQ, MASTER_IRQ_CONTROL);
        self.read(irq::GEN8_MASTER_IRQ);
    }

    /// Mask, identity and enable registers, which follow one another.
    fn source(&self, imr: u32, mask: u32, enable: u32) {
        self.write(imr, u32::MAX);
        self.write(imr + 8, 0);
        // Identity holds one more of each behind what it shows.
        for _ in 0..2 {
            self.write(imr + 4, u32::MAX);
            self.read(imr + 4);
        }
        self.write(imr + 8, enable);
        self.write(imr, mask);
    }

    /// The device has interrupted: takes back what it asserts, and tells the sink. By one thread at a time.
    pub(super) fn interrupt(&self) {
        // While the master is off nothing is let out; what comes meanwhile interrupts when it is on again.
        self.write(irq::GEN8_MASTER_IRQ, 0);
        let master = self.read(irq::GEN8_MASTER_IRQ);
        let mut told = Vec::new();
        for group in GROUPS {
            let engines = Engine::ALL.into_iter().filter(|e| e.irq_group().0 == group);
            if !engines.clone().any(|e| master & e.master_irq_bit() != 0) {
                continue;
            }
            let iir = irq::GEN8_GT_IIR0 + GROUP * group;
            let bits = self.read(iir);
            self.write(iir, bits);
            for e in engines {
                let bits = bits >> e.irq_group().1;
                let kinds = [
                    (GT_CONTEXT_SWITCH_INTERRUPT, Interrupt::ContextSwitch(e)),
                    (GT_RENDER_USER_INTERRUPT | GT_RENDER_PIPECTL_NOTIFY_INTERRUPT, Interrupt::User(e)),
                    (GT_CS_MASTER_ERROR_INTERRUPT, Interrupt::Error(e)),
                ];
                told.extend(kinds.into_iter().filter(|(bit, _)| bits & bit != 0).map(|(_, irq)| irq));
            }
        }
        self.write(irq::GEN8_MASTER_IRQ, MASTER_IRQ_CONTROL);
        for irq in told {
            match irq {
                // The next submission goes out at once, not only when somebody asks.
                Interrupt::ContextSwitch(e) => self.go_on(e, &mut self.port(e).lock()),
                // Told only while no reset can come between: what runs after one is not to blame.
                Interrupt::Error(e) => {
                    let port = self.port(e).lock();
                    if self.read(e.mmio_base() + engine::RING_EIR) != 0 {
                        self.tell(irq);
                    }
                    drop(port);
                    continue;
                }
                Interrupt::User(_) => {}
            }
            self.tell(irq);
        }
    }
}
