//! The blitter: status page, context, ring, execlist submission, completion, reset.
//!
//! One context, one submission in flight. Waiting is bounded by a count; what does not come back is reset, and a reset
//! sets everything up anew.

use crate::cmd;
use crate::context::{CTX_RING_TAIL, descriptor, register_state};
use crate::gpu::{DriverError, Gpu};
use crate::layout::RING_PAGES;
use crate::platform::{Platform, RamFault};
use crate::regs::{self, BLT_RING_BASE, masked_bit_disable, masked_bit_enable, ring};
use crate::words::{hi32, lo32};

/// Bytes of the ring.
#[expect(clippy::cast_possible_truncation, reason = "a few pages")]
const RING_BYTES: u32 = RING_PAGES as u32 * 4096;
/// Room that one submission takes, with something to spare.
const SUBMISSION_BYTES: u32 = 128;
/// Number of the driver's context: what a stock driver uses for its first.
const CONTEXT_ID: u32 = 0x20;

/// Offset of the context status buffer in the status page, 8 bytes an entry.
const HWS_CSB: u64 = 0x10 * 4;
/// Entries of it.
const CSB_ENTRIES: u32 = 6;
/// Offset of its write pointer in the status page.
const HWS_CSB_WRITE: u64 = 0x1f * 4;
/// Offset of the sequence number.
const HWS_SEQNO: u64 = 0x40 * 4;
/// Offset of the number of the submission that was begun last.
const HWS_BEGUN: u64 = 0x42 * 4;

/// Context status: active to idle.
const CSB_ACTIVE_TO_IDLE: u32 = 1 << 3;
/// Context status: complete.
const CSB_COMPLETE: u32 = 1 << 4;

/// How often the reset registers are read before giving up.
const RESET_READS: u32 = 200;

/// What the driver knows of the engine.
#[derive(Debug)]
pub(crate) struct Engine {
    /// Of the last submission.
    seqno: u32,
    /// Byte offset in the ring at which the next command goes.
    tail: u32,
    /// Last entry of the status buffer that was looked at.
    csb_read: u32,
    /// The context was written afresh: the engine must not use what it holds.
    force_restore: bool,
    /// The last submission left the engine idle.
    idle: bool,
    /// It has reported an error.
    failed: bool,
    /// User interrupts taken.
    pub(crate) interrupts: u64,
}

impl Engine {
    pub(crate) const fn new() -> Self {
        Self {
            seqno: 0,
            tail: 0,
            csb_read: CSB_ENTRIES - 1,
            force_restore: true,
            idle: true,
            failed: false,
            interrupts: 0,
        }
    }
}

impl Gpu {
    /// Sets the engine and its objects up from nothing; it must be idle.
    pub fn init_engine(&mut self, platform: &mut impl Platform) -> Result<(), DriverError> {
        let layout = self.layout;
        for region in [layout.hwsp, layout.context, layout.ring] {
            region.clear(platform)?;
        }
        layout.hwsp.write32(platform, HWS_CSB_WRITE, CSB_ENTRIES - 1)?;
        layout.hwsp.write32(platform, HWS_SEQNO, self.engine.seqno)?;
        for (index, dword) in (0u64..).zip(register_state(lo32(layout.ring.gm), RING_BYTES)) {
            self.layout.context.write32(platform, 4096 + 4 * index, dword)?;
        }
        self.engine.tail = 0;
        self.engine.csb_read = CSB_ENTRIES - 1;
        self.engine.force_restore = true;
        self.engine.idle = true;
        self.engine.failed = false;

        let base = BLT_RING_BASE;
        let wanted = (regs::GT_RENDER_USER_INTERRUPT
            | regs::GT_CS_MASTER_ERROR_INTERRUPT
            | regs::GT_CONTEXT_SWITCH_INTERRUPT)
            << regs::GEN8_BCS_IRQ_SHIFT;
        self.write32(platform, base + ring::HWSTAM, u32::MAX);
        self.write32(platform, base + ring::IMR, !wanted);
        self.write32(platform, base + ring::MODE, masked_bit_enable(regs::GFX_RUN_LIST_ENABLE));
        self.write32(platform, base + ring::MI_MODE, masked_bit_disable(regs::STOP_RING));
        self.write32(platform, base + ring::HWS_PGA, lo32(layout.hwsp.gm));
        // a read behind the writes, as on a real bus
        self.read32(platform, base + ring::HWS_PGA);
        self.write32(platform, base + ring::EMR, u32::MAX);
        let errors = self.read32(platform, base + ring::EIR);
        self.write32(platform, base + ring::EIR, errors);
        self.write32(platform, base + ring::EMR, !regs::I915_ERROR_INSTRUCTION);
        self.write32(
            platform,
            base + ring::CONTEXT_STATUS_PTR,
            0xffff_0000 | (CSB_ENTRIES - 1) << 8 | (CSB_ENTRIES - 1),
        );
        self.init_interrupts(platform, wanted);
        Ok(())
    }

    fn init_interrupts(&self, platform: &mut impl Platform, wanted: u32) {
        self.write32(platform, regs::GEN8_MASTER_IRQ, 0);
        let on = if self.msi { wanted } else { 0 };
        self.write32(platform, regs::GEN8_GT_IMR0, !on);
        self.write32(platform, regs::GEN8_GT_IER0, on);
        let pending = self.read32(platform, regs::GEN8_GT_IIR0);
        self.write32(platform, regs::GEN8_GT_IIR0, pending);
        if self.msi {
            self.write32(platform, regs::GEN8_MASTER_IRQ, regs::GEN8_MASTER_IRQ_CONTROL);
        }
    }

    /// Resets the engine: the handshake of i915's gen8 reset, then the blitter's reset domain, then all of them if
    /// that was not acknowledged. After it the engine is idle and must be set up again.
    pub fn reset_engine(&mut self, platform: &mut impl Platform) -> Result<(), DriverError> {
        let control = BLT_RING_BASE + ring::RESET_CTL;
        self.write32(platform, control, masked_bit_enable(regs::RESET_CTL_REQUEST_RESET));
        self.poll(platform, control, |v| v & regs::RESET_CTL_READY_TO_RESET != 0);
        let done = [regs::GEN6_GRDOM_BLT, regs::GEN6_GRDOM_FULL].into_iter().any(|domain| {
            self.write32(platform, regs::GEN6_GDRST, domain);
            self.poll(platform, regs::GEN6_GDRST, |v| v & domain == 0)
        });
        self.write32(platform, control, masked_bit_disable(regs::RESET_CTL_REQUEST_RESET));
        if done { Ok(()) } else { Err(DriverError::ResetFailed) }
    }

    fn poll(&self, platform: &mut impl Platform, reg: u32, done: impl Fn(u32) -> bool) -> bool {
        (0..RESET_READS).any(|_| done(self.read32(platform, reg)))
    }

    /// Puts the batch on the ring and submits the context.
    pub fn submit(&mut self, platform: &mut impl Platform) -> Result<(), RamFault> {
        let (hwsp, batch) = (self.layout.hwsp.gm, self.layout.batch.gm);
        self.engine.seqno = self.engine.seqno.wrapping_add(1);
        let seqno = self.engine.seqno;
        self.make_room(platform)?;
        self.emit(platform, &cmd::store_dword(hwsp + HWS_BEGUN, seqno))?;
        let linear = masked_bit_disable(0b11);
        self.emit(platform, &[cmd::MI_ARB_CHECK, cmd::mi_load_register_imm(1), regs::BCS_SWCTRL, linear])?;
        self.emit(platform, &cmd::batch_buffer_start(batch))?;
        self.emit(platform, &cmd::flush_dw_store(hwsp + HWS_SEQNO, seqno))?;
        self.emit(platform, &[cmd::MI_USER_INTERRUPT])?;
        if !self.engine.tail.is_multiple_of(8) {
            self.emit(platform, &[cmd::MI_NOOP])?;
        }
        let tail_at = 4096 + 4 * CTX_RING_TAIL as u64;
        self.layout.context.write32(platform, tail_at, self.engine.tail)?;
        let d = descriptor(self.layout.context.gm, CONTEXT_ID, self.engine.force_restore);
        self.engine.force_restore = false;
        self.engine.idle = false;
        self.submit_raw(platform, 0, d);
        Ok(())
    }

    /// Writes two descriptors to the submit port, in the order that it wants: element 1, then element 0, each with its
    /// upper dword first. The last write starts them.
    pub(crate) fn submit_raw(&self, platform: &mut impl Platform, element1: u64, element0: u64) {
        for dword in [hi32(element1), lo32(element1), hi32(element0), lo32(element0)] {
            self.write32(platform, BLT_RING_BASE + ring::ELSP, dword);
        }
    }

    /// Where a whole submission does not fit before the ring's end, fills the rest with no-ops and goes to its start.
    fn make_room(&mut self, platform: &mut impl Platform) -> Result<(), RamFault> {
        if self.engine.tail + SUBMISSION_BYTES <= RING_BYTES {
            return Ok(());
        }
        while self.engine.tail < RING_BYTES {
            self.emit(platform, &[cmd::MI_NOOP])?;
        }
        self.engine.tail = 0;
        Ok(())
    }

    fn emit(&mut self, platform: &mut impl Platform, dwords: &[u32]) -> Result<(), RamFault> {
        for dword in dwords {
            self.layout.ring.write32(platform, u64::from(self.engine.tail), *dword)?;
            self.engine.tail += 4;
        }
        Ok(())
    }

    /// Whether the last submission has finished and the engine gone idle. Reads memory only.
    pub fn finished(&mut self, platform: &mut impl Platform) -> Result<bool, RamFault> {
        let hwsp = self.layout.hwsp;
        let write = hwsp.read32(platform, HWS_CSB_WRITE)? & 7;
        while self.engine.csb_read != write && write < CSB_ENTRIES {
            self.engine.csb_read = (self.engine.csb_read + 1) % CSB_ENTRIES;
            let at = HWS_CSB + 8 * u64::from(self.engine.csb_read);
            let (status, id) = (hwsp.read32(platform, at)?, hwsp.read32(platform, at + 4)?);
            let ended = CSB_ACTIVE_TO_IDLE | CSB_COMPLETE;
            if id == CONTEXT_ID && status & ended == ended {
                self.engine.idle = true;
            }
        }
        Ok(self.engine.idle && hwsp.read32(platform, HWS_SEQNO)? == self.engine.seqno)
    }

    /// Waits for the last submission, at most `patience` moments. `false`: it did not finish, or the engine reports an
    /// error, so that it never will.
    pub fn wait(&mut self, platform: &mut impl Platform, patience: u32) -> Result<bool, RamFault> {
        for n in 0..=patience {
            self.serve_interrupts(platform);
            if self.finished(platform)? {
                return Ok(true);
            }
            // without interrupts nobody tells: asked seldom, for each is a trap
            if !self.msi && n % 16 == 15 {
                self.look_for_error(platform);
            }
            if self.engine.failed {
                return Ok(false);
            }
            if n < patience {
                platform.wait();
            }
        }
        Ok(false)
    }

    /// The interrupt handler: master off, identity read and cleared, master on. It runs from the waiting loop.
    fn serve_interrupts(&mut self, platform: &mut impl Platform) {
        if platform.take_interrupts() == 0 || !self.msi {
            return;
        }
        self.write32(platform, regs::GEN8_MASTER_IRQ, 0);
        let identity = self.read32(platform, regs::GEN8_GT_IIR0);
        self.write32(platform, regs::GEN8_GT_IIR0, identity);
        self.write32(platform, regs::GEN8_MASTER_IRQ, regs::GEN8_MASTER_IRQ_CONTROL);
        let blitter = identity >> regs::GEN8_BCS_IRQ_SHIFT;
        if blitter & regs::GT_RENDER_USER_INTERRUPT != 0 {
            self.engine.interrupts += 1;
        }
        if blitter & regs::GT_CS_MASTER_ERROR_INTERRUPT != 0 {
            self.look_for_error(platform);
        }
    }

    fn look_for_error(&mut self, platform: &mut impl Platform) {
        let errors = self.read32(platform, BLT_RING_BASE + ring::EIR);
        self.engine.failed |= errors & regs::I915_ERROR_INSTRUCTION != 0;
    }

    /// Whether the engine has begun the last submission.
    pub fn begun(&self, platform: &mut impl Platform) -> Result<bool, RamFault> {
        Ok(self.layout.hwsp.read32(platform, HWS_BEGUN)? == self.engine.seqno)
    }
}
