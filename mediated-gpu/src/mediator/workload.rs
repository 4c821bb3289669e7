//! From a context of the guest's to one that the engine may have: image, ring and batches read once, audited,
//! written anew into the engine's own area.

use super::audit::{self, CommandSource, Effects, Refusal, Refused, Space, Terms};
use super::ppgtt::TablesError;
use super::reserve::{Area, Own};
use super::shadow::{ShadowGgtt, Tables};
use crate::gen8::cmd;
use crate::gen8::context::{
    CTX_RESTORE_INHIBIT, Descriptor, FreshRing, OTHER_IMAGE_PAGES, RCS_IMAGE_PAGES, RING_PAGE, STATE_DWORDS,
    STATE_OFFSET, register_state, state,
};
use crate::gen8::ppgtt::Root;
use crate::gen8::regs;
use crate::physical::Engine;
use crate::vgpu::slice::GmRange;
use pviommu::OwnError;
use xen_ioreq::{Bfn, PAGE_MASK, PAGE_SIZE};

/// Areas of an engine: what runs, and what is to follow it.
pub(super) const AREAS: usize = 2;
/// Bytes of the largest ring that RING_CTL can say.
pub(super) const RING_LIMIT: u64 = 2 << 20;
/// Where an image has the registers that go with the context, from its first byte on. Hardware has them somewhere behind
/// what a driver sets up, in an order that drivers do not know.
const REGISTERS_OFFSET: u64 = STATE_OFFSET + 0x800;
const CONTEXT_BYTES: u64 = OTHER_IMAGE_PAGES as u64 * PAGE_SIZE as u64;
/// Where the engine's own context has them: behind the largest image that hardware saves.
const OWN_REGISTERS_OFFSET: u64 = RCS_IMAGE_PAGES as u64 * PAGE_SIZE as u64;
const OWN_CONTEXT_BYTES: u64 = OWN_REGISTERS_OFFSET + PAGE_SIZE as u64;
/// No-ops behind the tail of the engine's own ring.
const MORE: usize = 2;

/// A guest's context, as its image said when it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct GuestContext {
    pub(super) lrca: u64,
    pub(super) head: u32,
    pub(super) tail: u32,
    pub(super) start: u32,
    pub(super) control: u32,
    timestamp: u32,
    /// The image is to be taken as if nothing had been saved in it.
    fresh: bool,
    /// Where its own tables begin, if it has any.
    root: Option<Root>,
}

impl GuestContext {
    /// Reads the image at the descriptor's address.
    fn read(ggtt: &ShadowGgtt, descriptor: Descriptor) -> Result<Self, Refusal> {
        let lrca = descriptor.lrca();
        if !ggtt.slice().contains(lrca, CONTEXT_BYTES) {
            return Err(Refusal::OutOfSlice { addr: lrca, len: CONTEXT_BYTES });
        }
        let mode = descriptor.0 & Descriptor::ADDRESSING_MODE;
        if mode != Descriptor::LEGACY_32B && mode != Descriptor::LEGACY_64B {
            return Err(Refusal::Context("addressing mode"));
        }
        let mut bytes = [0; 4 * STATE_DWORDS];
        let at = lrca.saturating_add(STATE_OFFSET);
        ggtt.read(at, &mut bytes).map_err(|e| Refusal::NotMapped(e.0))?;
        let dword = |i: usize| match bytes.get(4 * i..4 * i + 4) {
            Some(&[a, b, c, d]) => u32::from_le_bytes([a, b, c, d]),
            _ => 0,
        };
        let pointer = |(upper, lower)| u64::from(dword(upper)) << 32 | u64::from(dword(lower));
        let four_level = mode == Descriptor::LEGACY_64B;
        let root = Root::of_pointers(four_level, state::PDPS.map(pointer));
        Ok(Self {
            lrca,
            root: descriptor.ppgtt().then_some(root),
            head: dword(state::RING_HEAD) & regs::HEAD_ADDR,
            tail: dword(state::RING_TAIL) & regs::TAIL_ADDR,
            start: dword(state::RING_START),
            control: dword(state::RING_CTL),
            timestamp: dword(state::CTX_TIMESTAMP),
            fresh: dword(state::CONTEXT_CONTROL) & u32::from(CTX_RESTORE_INHIBIT) != 0,
        })
    }

    /// The ring's bytes from head to tail, in the order of execution.
    fn ring(&self, ggtt: &ShadowGgtt) -> Result<Vec<u32>, Refusal> {
        if self.control & regs::RING_VALID == 0 {
            return Err(Refusal::Context("the ring is not valid"));
        }
        let size = self.size();
        if u64::from(self.start) & PAGE_MASK != 0 {
            return Err(Refusal::Context("the ring is not page-aligned"));
        }
        if self.head >= size || self.tail >= size {
            return Err(Refusal::Context("head or tail lie outside the ring"));
        }
        let start = u64::from(self.start);
        if !ggtt.slice().contains(start, size.into()) {
            return Err(Refusal::OutOfSlice { addr: start, len: size.into() });
        }
        let (from, to) = (self.head as usize, self.tail as usize);
        let end = size as usize;
        let pieces = if from <= to { [from..to, 0..0] } else { [from..end, 0..to] };
        let mut bytes = vec![0; pieces.iter().map(|p| p.len()).sum()];
        let mut rest = bytes.as_mut_slice();
        for piece in pieces {
            let (now, later) = rest.split_at_mut(piece.len());
            ggtt.read(start.saturating_add(piece.start as u64), now).map_err(|e| Refusal::NotMapped(e.0))?;
            rest = later;
        }
        Ok(bytes.chunks_exact(4).map(|c| u32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect())
    }

    fn size(&self) -> u32 {
        (self.control & regs::RING_NR_PAGES).saturating_add(RING_PAGE)
    }

    /// GM address of the ring's dword that is `index` dwords after the head.
    fn address(&self, index: usize) -> u64 {
        u64::from(self.start).saturating_add(self.offset(index).into())
    }

    /// The same from the ring's start on.
    fn offset(&self, index: usize) -> u32 {
        let offset = u64::from(self.head).saturating_add(4 * index as u64) % u64::from(self.size());
        u32::try_from(offset).unwrap_or(0)
    }

    /// The registers that went with it, as its image has them.
    fn registers(&self, ggtt: &ShadowGgtt, engine: Engine) -> Result<Vec<u32>, Refusal> {
        let mut bytes = vec![0; 4 * audit::of_context(engine).count()];
        if !self.fresh {
            let at = self.lrca.saturating_add(REGISTERS_OFFSET);
            ggtt.read(at, &mut bytes).map_err(|e| Refusal::NotMapped(e.0))?;
        }
        Ok(bytes.chunks_exact(4).map(|c| u32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect())
    }

    /// Tells the guest's image that all up to the tail is done. A page that has gone meanwhile is not told.
    fn finish(&self, ggtt: &ShadowGgtt, timestamp: u32, registers: &[u32]) {
        let state = |index: usize| self.lrca.saturating_add(STATE_OFFSET + 4 * index as u64);
        let registers: Vec<u8> = registers.iter().flat_map(|r| r.to_le_bytes()).collect();
        let parts: [(u64, &[u8]); 3] = [
            // What was saved is there before anything says so.
            (self.lrca.saturating_add(REGISTERS_OFFSET), &registers),
            (state(state::RING_HEAD), &self.tail.to_le_bytes()),
            (state(state::CTX_TIMESTAMP), &timestamp.to_le_bytes()),
        ];
        for (at, bytes) in parts {
            if ggtt.write(at, bytes).is_err() {
                log::debug!("the context image at {:#x} went while it ran", self.lrca);
            }
        }
    }
}

/// What a context's commands are in.
struct GuestMemory<'a> {
    ggtt: &'a ShadowGgtt,
    tables: Option<&'a Tables<'a>>,
}

impl CommandSource for GuestMemory<'_> {
    fn copy(&self, space: Space, addr: u64, buf: &mut [u8]) -> Result<(), Refusal> {
        let read = match (space, self.tables) {
            (Space::Process, Some(tables)) => tables.read(addr, buf),
            _ => self.ggtt.read(addr, buf),
        };
        read.map_err(|e| Refusal::NotMapped(e.0))
    }
}

/// A context that cannot be submitted.
#[derive(Debug, thiserror::Error)]
pub(super) enum PrepareError {
    /// The guest's fault.
    #[error("{}", .0.why)]
    Refused(Refused),
    /// Ours.
    #[error(transparent)]
    NoPages(#[from] OwnError),
    /// Its page tables.
    #[error(transparent)]
    Tables(#[from] TablesError),
    /// It needs what the one before it leaves in the image.
    #[error("the context before it has not ended")]
    TooEarly,
}

/// What the engine gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Prepared {
    /// What to submit.
    pub(super) descriptor: Descriptor,
    /// Whose it is.
    pub(super) guest: GuestContext,
    /// What it does beyond memory. Interrupts are the guest's when it is done.
    pub(super) effects: Effects,
    /// Where in its ring the guest's context stands then, in bytes.
    pub(super) stands: u32,
    /// Why it does not come to its tail: the context stands at this command.
    pub(super) refused: Option<Refused>,
    /// Bytes of the engine's own ring.
    tail: u32,
}

impl Prepared {
    /// Whether there is nothing to execute.
    pub(super) fn is_empty(&self) -> bool {
        self.tail == 0
    }

    /// Whether another one may be put behind it: it runs to its tail, and its ring has room for what that takes.
    pub(super) fn can_be_followed(&self) -> bool {
        self.refused.is_none() && u64::from(self.tail) + 4 * MORE as u64 + 8 <= RING_LIMIT
    }
}

/// One engine's own context, ring and batches.
#[derive(Debug)]
pub(super) struct EngineArea {
    engine: Engine,
    fast_copy: bool,
    context: Area,
    ring: Area,
    batch: Area,
}

impl EngineArea {
    /// Graphics memory that an engine's area takes, with batches of up to `batch_limit` bytes.
    pub(super) fn size(batch_limit: u64) -> u64 {
        OWN_CONTEXT_BYTES + RING_LIMIT + (batch_limit & !PAGE_MASK)
    }

    /// Divides `range`, which is of [`size`](Self::size).
    pub(super) fn new(engine: Engine, range: GmRange, own: &Own, scratch: Bfn) -> Result<Self, OwnError> {
        let mut at = range.base;
        let mut take = |size: u64| {
            let part = GmRange { base: at, size: size.min(range.end().saturating_sub(at)) };
            at = part.end();
            Area::new(own.clone(), part, scratch)
        };
        let (mut context, mut ring) = (take(OWN_CONTEXT_BYTES), take(RING_LIMIT));
        let batch = take(u64::MAX);
        context.grow(context.limit())?;
        ring.grow(PAGE_SIZE)?;
        Ok(Self { engine, fast_copy: own.gpu.has_fast_copy(), context, ring, batch })
    }

    /// Audits the context that the guest's `descriptor` names and makes one that the engine may have, with the
    /// number `id`: whole, or as far as it may be executed, if that is something. The tables that come with it are kept until it
    /// is on the engine no more. It is to run after `before`, which has not ended yet: as if it came in the same ring.
    pub(super) fn prepare<'a>(
        &mut self,
        ggtt: &'a ShadowGgtt,
        descriptor: Descriptor,
        id: u32,
        before: Option<&Prepared>,
    ) -> Result<(Prepared, Option<Tables<'a>>), PrepareError> {
        let malformed = |why| PrepareError::Refused(Refused { why, header: 0, addr: descriptor.lrca() });
        let mut guest = GuestContext::read(ggtt, descriptor).map_err(malformed)?;
        let before = before.filter(|before| before.guest.lrca == guest.lrca);
        if let Some(before) = before {
            guest.head = before.guest.tail;
        }
        let dwords = guest.ring(ggtt).map_err(malformed)?;
        let tables = guest.root.map(|root| ggtt.tables(root)).transpose()?;
        let source = GuestMemory { ggtt, tables: tables.as_ref() };
        let terms = Terms {
            engine: self.engine,
            slice: ggtt.slice(),
            status_page: guest.lrca,
            ppgtt: descriptor.ppgtt(),
            batch_base: self.batch.base(),
            batch_limit: self.batch.limit(),
            fast_copy: self.fast_copy,
        };
        let audited = audit::ring(terms, &source, &dwords, |i| guest.address(i));
        if let (Some(refused), []) = (audited.refused, audited.ring.as_slice()) {
            return Err(PrepareError::Refused(refused));
        }
        let registers = match audited.effects.registers {
            true if before.is_some() => return Err(PrepareError::TooEarly),
            true => guest.registers(ggtt, self.engine).map_err(malformed)?,
            false => Vec::new(),
        };
        let ring = self.around(&audited.ring, &registers);
        // A full ring would look empty.
        if 4 * ring.len() as u64 >= RING_LIMIT {
            return Err(malformed(Refusal::LongRing));
        }
        let root = tables.as_ref().map(Tables::shadow);
        let tail = self.fill(&ring, &audited.batches, &guest, root)?;
        let lrca = u32::try_from(self.context.base()).unwrap_or(0);
        let global = Descriptor::ggtt(lrca, id).0 | Descriptor::FORCE_RESTORE;
        let own = match root {
            None => global,
            Some(root) => {
                let mode = match root {
                    Root::FourLevel(_) => Descriptor::LEGACY_64B,
                    Root::ThreeLevel(_) => Descriptor::LEGACY_32B,
                };
                global & !Descriptor::ADDRESSING_MODE
                    | mode
                    | Descriptor::PPGTT
                    | Descriptor::FORCE_PD_RESTORE
            }
        };
        let (effects, refused) = (audited.effects, audited.refused);
        let stands = guest.offset(audited.dwords);
        Ok((Prepared { descriptor: Descriptor(own), guest, effects, stands, refused, tail }, tables))
    }

    /// A ring's commands, between those that bring the context's registers and those that save them, if it uses any.
    fn around(&self, commands: &[u32], registers: &[u32]) -> Vec<u32> {
        let mut ring = Vec::with_capacity(commands.len() + 7 * registers.len() + 3);
        if let Some(pairs) = u32::try_from(registers.len()).ok().filter(|n| *n > 0) {
            let [header, ..] = cmd::load_register_imm(0, 0);
            ring.push(header + 2 * (pairs - 1));
            let writes = audit::of_context(self.engine).zip(registers);
            ring.extend(writes.flat_map(|(register, value)| [register.offset, register.write(*value)]));
        }
        ring.extend(commands);
        for (n, register) in (0..).zip(audit::of_context(self.engine)).take(registers.len()) {
            let at = self.context.base().saturating_add(OWN_REGISTERS_OFFSET + 4 * n);
            ring.extend(cmd::store_register_mem(register.offset, at));
        }
        if !ring.len().is_multiple_of(2) {
            ring.push(cmd::MI_NOOP);
        }
        ring
    }

    fn fill(
        &mut self,
        ring: &[u32],
        batches: &[u32],
        guest: &GuestContext,
        root: Option<Root>,
    ) -> Result<u32, OwnError> {
        self.batch.grow(4 * batches.len())?;
        self.batch.write(0, batches);
        let tail = 4 * ring.len();
        let size = (tail + 4 * MORE + 8).next_multiple_of(PAGE_SIZE).min(self.ring.limit());
        self.ring.grow(size)?;
        self.ring.write(0, ring);
        self.ring.write(tail, &[cmd::MI_NOOP; MORE]);
        let dword = |n: usize| u32::try_from(n).unwrap_or(0);
        let start = u32::try_from(self.ring.base()).unwrap_or(0);
        let ring = FreshRing { start, size: dword(size), tail: dword(tail) };
        // Nothing of the guest's but its timestamp.
        let pointers = root.map_or([0; 4], Root::pointers);
        let image = register_state(self.engine, ring, guest.timestamp, pointers);
        self.context.write(PAGE_SIZE, &image);
        Ok(dword(tail))
    }

    /// Readies the context to be submitted once more while it runs, or has just run, so that another can follow it. The descriptor
    /// for that. With nothing new in its ring hardware does not go on with it (i915 `WaIdleLiteRestore`), so there is: no-ops.
    pub(super) fn again(&self, prepared: &Prepared) -> Descriptor {
        let tail = prepared.tail.saturating_add(4 * u32::try_from(MORE).unwrap_or(0));
        self.context.write(PAGE_SIZE + 4 * state::RING_TAIL, &[tail]);
        let restored = Descriptor::FORCE_RESTORE | Descriptor::FORCE_PD_RESTORE;
        Descriptor(prepared.descriptor.0 & !restored)
    }

    /// Tells the guest that its context ran to the tail, and what the engine saved with it: also the time that it has had, in
    /// ticks. Where that was not known yet when it was prepared it is `had`.
    pub(super) fn finish(&self, ggtt: &ShadowGgtt, prepared: &Prepared, had: Option<u32>) -> u32 {
        let saved = |offset: u64| self.context.read32(usize::try_from(offset).unwrap_or(usize::MAX));
        let registers = match prepared.effects.registers {
            true => audit::of_context(self.engine).count() as u64,
            false => 0,
        };
        let registers: Vec<u32> = (0..registers).map(|n| saved(OWN_REGISTERS_OFFSET + 4 * n)).collect();
        let began = prepared.guest.timestamp;
        let ran = saved(STATE_OFFSET + 4 * state::CTX_TIMESTAMP as u64).wrapping_sub(began);
        let timestamp = had.unwrap_or(began).wrapping_add(ran);
        prepared.guest.finish(ggtt, timestamp, &registers);
        timestamp
    }
}
