//! What each command does.

use super::blit::Blit;
use super::device::Device;
use super::engine::{Core, Flow, Stop};
use super::tlb::Space;
use crate::gen8::blt::{BltTilings, Rect, XyColorBlt, XyFastCopyBlt, XySrcCopyBlt};
use crate::gen8::cmd::{self, Client, Decoded, PostSync, address, op};
use crate::gen8::regs::{self, engine as reg};
use crate::physical::{Engine, Interrupt};

/// Bits of a dword that hold a register's offset in register commands.
const REGISTER: u32 = 0x007f_fffc;
/// Bits of an index into the status page: quadwords of one page.
const INDEX: u64 = 0xff8;

impl Core {
    /// Executes the current command. Its length and its engine have been checked; its fields have not.
    pub(super) fn execute(&mut self, dev: &Device, d: &Decoded, header: u32) -> Result<Flow, Stop> {
        match d.client {
            Client::Mi => self.mi(dev, d, header),
            Client::Blt => self.blt(dev, d),
            Client::Pipe if d.def.is_some() && d.opcode == op::PIPE_CONTROL => self.pipe_control(dev, d),
            // 3D and media state: there are no units that it could set up.
            Client::Pipe => Ok(Flow::Next),
        }
    }

    fn mi(&mut self, dev: &Device, d: &Decoded, header: u32) -> Result<Flow, Stop> {
        match d.opcode {
            op::MI_NOOP => {
                if header & cmd::NOOP_WRITE_NOPID != 0 {
                    dev.regs.engine(self.engine).set(reg::RING_NOPID, header & 0x003f_ffff);
                }
            }
            op::MI_USER_INTERRUPT => {
                self.raise(dev, regs::GT_RENDER_USER_INTERRUPT, Interrupt::User(self.engine));
            }
            op::MI_ARB_CHECK => return Ok(Flow::Arbitrate),
            op::MI_ARB_ON_OFF => {
                if let Some(ctx) = &mut self.running {
                    ctx.arbitration = header & 1 != 0;
                }
            }
            op::MI_BATCH_BUFFER_START => return self.batch_start(dev, d, header),
            op::MI_BATCH_BUFFER_END => return self.batch_end(d),
            op::MI_STORE_DATA_IMM => self.store_data_imm(d, header)?,
            op::MI_LOAD_REGISTER_IMM => self.load_register_imm(dev, d, header)?,
            op::MI_LOAD_REGISTER_REG => {
                let [_, from, to] = self.exactly(d)?;
                let value = read_register(dev, from);
                dev.regs.write(to & REGISTER, value);
            }
            op::MI_STORE_REGISTER_MEM => self.store_register(dev, d, header)?,
            op::MI_MATH => self.math(dev, d)?,
            op::MI_ATOMIC => self.atomic(dev, d, header)?,
            op::MI_SEMAPHORE_WAIT => return self.semaphore_wait(d, header),
            op::MI_SEMAPHORE_SIGNAL => self.semaphore_signal(dev, d, header)?,
            op::MI_CONDITIONAL_BATCH_BUFFER_END => return self.conditional_end(d, header),
            op::MI_PREDICATE => self.predicate(dev, d, header)?,
            op::MI_SET_PREDICATE => self.set_predicate(d, header)?,
            op::MI_REPORT_HEAD => self.report_head()?,
            op::MI_STORE_DATA_INDEX => self.store_data_index(dev, d, header)?,
            op::MI_LOAD_REGISTER_MEM => {
                let [_, register, lo, hi] = self.exactly(d)?;
                let value = self.load32(address(lo, hi))?;
                dev.regs.write(register & REGISTER, value);
            }
            op::MI_COPY_MEM_MEM => {
                let [_, to_lo, to_hi, from_lo, from_hi] = self.exactly(d)?;
                let side = |bit| if header & bit != 0 { Space::Global } else { Space::Process };
                let (from, to) = (address(from_lo, from_hi), address(to_lo, to_hi));
                let value = self.within(side(cmd::USE_GGTT), |core| core.load32(from))?;
                self.within(side(cmd::COPY_DST_GGTT), |core| core.store32(to, value))?;
            }
            op::MI_FLUSH_DW => self.flush_dw(dev, d, header)?,
            // Hints, and waits for units that are not there.
            op::MI_WAIT_FOR_EVENT
            | op::MI_RS_CONTROL
            | op::MI_SUSPEND_FLUSH
            | op::MI_FORCE_WAKEUP
            | op::MI_TOPOLOGY_FILTER
            | op::MI_SET_APPID
            | op::MI_RS_CONTEXT
            | op::MI_LOAD_SCAN_LINES_INCL
            | op::MI_LOAD_SCAN_LINES_EXCL
            | op::MI_CLFLUSH => {}
            _ => return Err(Stop::Unsupported(d.name())),
        }
        Ok(Flow::Next)
    }

    /// The dwords of a command that has one length only.
    pub(super) fn exactly<const N: usize>(&mut self, d: &Decoded) -> Result<[u32; N], Stop> {
        if usize::try_from(d.dwords) != Ok(N) {
            return Err(Stop::Malformed(d.name()));
        }
        self.dwords()
    }

    fn batch_start(&mut self, dev: &Device, d: &Decoded, header: u32) -> Result<Flow, Stop> {
        let [_, lo, hi] = self.exactly(d)?;
        if header & cmd::BB_PREDICATE != 0 && !self.predicate_is_set(dev) {
            return Ok(Flow::Next);
        }
        let offset = match header & cmd::BB_ADD_OFFSET {
            0 => 0,
            _ => u64::from(dev.regs.engine(self.engine).get(reg::RING_BB_OFFSET) & !3),
        };
        let target = address(lo, hi).wrapping_add(offset) & cmd::ADDR_MASK;
        let Some(ctx) = &mut self.running else { return Ok(Flow::Next) };
        // A batch with the context's addresses has no privilege to give.
        let space = match ctx.space() {
            Space::Global if header & cmd::BB_PPGTT == 0 => Space::Global,
            _ => Space::Process,
        };
        let second = header & cmd::BB_SECOND_LEVEL != 0;
        match (ctx.batch, ctx.second) {
            // From the ring; the batch's end comes back behind this command.
            (None, _) if !second => {
                ctx.ring.advance(d.dwords * 4);
                (ctx.batch, ctx.batch_space) = (Some(target), space);
            }
            // Into the second level; its end comes back behind this command.
            (Some(at), None) if second => {
                ctx.batch = Some(at.saturating_add(u64::from(d.dwords) * 4));
                (ctx.second, ctx.second_space) = (Some(target), space);
            }
            // A chain: this batch has nothing to come back to here.
            (Some(_), None) => (ctx.batch, ctx.batch_space) = (Some(target), space),
            (Some(_), Some(_)) if !second => (ctx.second, ctx.second_space) = (Some(target), space),
            // From the ring into the second level, or a third level.
            _ => return Err(Stop::Illegal(d.name())),
        }
        Ok(Flow::Jump)
    }

    fn batch_end(&mut self, d: &Decoded) -> Result<Flow, Stop> {
        let Some(ctx) = &mut self.running else { return Ok(Flow::Next) };
        if ctx.second.take().is_none() {
            if ctx.in_ring() {
                return Err(Stop::Illegal(d.name()));
            }
            ctx.end_batches();
        }
        Ok(Flow::Jump)
    }

    fn store_data_imm(&mut self, d: &Decoded, header: u32) -> Result<(), Stop> {
        let qword = header & cmd::SDI_QWORD != 0;
        if d.dwords < 4 || (qword && d.dwords.is_multiple_of(2)) {
            return Err(Stop::Malformed(d.name()));
        }
        let [_, lo, hi] = self.dwords()?;
        let mut at = address(lo, hi);
        let mut n = 3;
        while n < d.dwords {
            let low = self.dword(n)?;
            if qword {
                let high = self.dword(n + 1)?;
                self.store64(at, (u64::from(high) << 32) | u64::from(low))?;
                (at, n) = (at.saturating_add(8), n + 2);
            } else {
                self.store32(at, low)?;
                (at, n) = (at.saturating_add(4), n + 1);
            }
        }
        Ok(())
    }

    fn load_register_imm(&mut self, dev: &Device, d: &Decoded, header: u32) -> Result<(), Stop> {
        if d.dwords.is_multiple_of(2) {
            return Err(Stop::Malformed(d.name()));
        }
        // 11:8: bytes that are not written.
        let keep = (0..4).filter(|b| header & (0x100 << b) != 0).fold(0u32, |m, b| m | 0xff << (8 * b));
        for n in (1..d.dwords).step_by(2) {
            let (register, value) = (self.dword(n)? & REGISTER, self.dword(n + 1)?);
            let old = if keep == 0 { 0 } else { read_register(dev, register) };
            dev.regs.write(register, old & keep | value & !keep);
        }
        Ok(())
    }

    fn flush_dw(&mut self, dev: &Device, d: &Decoded, header: u32) -> Result<(), Stop> {
        let post_sync = PostSync::of(header);
        if post_sync != PostSync::None {
            let [_, lo, hi, imm_lo] =
                if d.dwords >= 4 { self.dwords()? } else { return Err(Stop::Malformed(d.name())) };
            let at = self.post_sync_address(header & cmd::FLUSH_DW_STORE_INDEX != 0, address(lo & !7, hi));
            match post_sync {
                PostSync::Immediate if d.dwords == 4 => self.store32(at, imm_lo)?,
                PostSync::Immediate => {
                    let imm = (u64::from(self.dword(4)?) << 32) | u64::from(imm_lo);
                    self.store64(at, imm)?;
                }
                PostSync::Timestamp => self.store64(at, dev.clock.ticks())?,
                PostSync::DepthCount | PostSync::None => return Err(Stop::Malformed(d.name())),
            }
        }
        self.flush_end(dev, header & cmd::FLUSH_DW_TLB_INVALIDATE != 0, header & cmd::FLUSH_DW_NOTIFY != 0);
        Ok(())
    }

    fn pipe_control(&mut self, dev: &Device, d: &Decoded) -> Result<Flow, Stop> {
        let [_, flags, lo, hi, imm_lo, imm_hi] = self.exactly(d)?;
        if flags & cmd::PIPE_CONTROL_MMIO_WRITE != 0 {
            if PostSync::of(flags) != PostSync::None {
                return Err(Stop::Malformed(d.name()));
            }
            dev.regs.write(lo & REGISTER, imm_lo);
        }
        let at = self.post_sync_address(flags & cmd::PIPE_CONTROL_STORE_INDEX != 0, address(lo & !7, hi));
        match PostSync::of(flags) {
            PostSync::None => {}
            PostSync::Immediate => self.store64(at, (u64::from(imm_hi) << 32) | u64::from(imm_lo))?,
            // Nothing is ever drawn: the register holds what a driver wrote there.
            PostSync::DepthCount => {
                let bank = dev.regs.engine(self.engine);
                let (lo, hi) = (bank.get(reg::PS_DEPTH_COUNT), bank.get(reg::PS_DEPTH_COUNT + 4));
                self.store64(at, u64::from(hi) << 32 | u64::from(lo))?;
            }
            PostSync::Timestamp => self.store64(at, dev.clock.ticks())?,
        }
        let tlb = flags & cmd::PIPE_CONTROL_TLB_INVALIDATE != 0;
        self.flush_end(dev, tlb, flags & cmd::PIPE_CONTROL_NOTIFY != 0);
        Ok(Flow::Next)
    }

    /// With execlists an index is one into the context's own status page.
    fn post_sync_address(&self, index: bool, at: u64) -> u64 {
        match &self.running {
            Some(ctx) if index => ctx.descriptor.lrca() + (at & INDEX),
            _ => at,
        }
    }

    fn flush_end(&mut self, dev: &Device, tlb: bool, notify: bool) {
        if tlb {
            self.tlb.flush();
        }
        if notify {
            self.raise(dev, regs::GT_RENDER_PIPECTL_NOTIFY_INTERRUPT, Interrupt::User(self.engine));
        }
    }

    fn blt(&mut self, dev: &Device, d: &Decoded) -> Result<Flow, Stop> {
        let tilings = BltTilings::of(dev.regs.engine(self.engine).get(reg::BCS_SWCTRL));
        let Some(clip) = self.running.as_ref().map(|c| c.clip) else { return Ok(Flow::Next) };
        let blit = match d.opcode {
            op::XY_COLOR_BLT => Blit::fill(&XyColorBlt::decode(&self.exactly(d)?), clip, tilings)?,
            op::XY_SRC_COPY_BLT => Blit::copy(&XySrcCopyBlt::decode(&self.exactly(d)?), clip, tilings)?,
            op::XY_FAST_COPY_BLT => Blit::fast_copy(&XyFastCopyBlt::decode(&self.exactly(d)?))?,
            op::XY_SETUP_CLIP_BLT => {
                let [_, top_left, bottom_right] = self.exactly(d)?;
                if let Some(ctx) = &mut self.running {
                    ctx.clip = Rect::of(top_left, bottom_right);
                }
                None
            }
            _ => return Err(Stop::Unsupported(d.name())),
        };
        self.blit = blit;
        Ok(if self.blit.is_some() { Flow::Blit } else { Flow::Next })
    }
}

/// A register as a command reads it: zero if there is none.
pub(super) fn read_register(dev: &Device, offset: u32) -> u32 {
    let offset = offset & REGISTER;
    match Engine::of_mmio(offset) {
        Some((_, reg::RING_TIMESTAMP)) => dev.timestamp(false),
        Some((_, reg::RING_TIMESTAMP_UDW)) => dev.timestamp(true),
        _ => dev.regs.read(offset).unwrap_or(0),
    }
}
