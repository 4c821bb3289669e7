//! A guest with a vGPU: memory, table, a context, a ring; and a GPU that can be made to hang.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::{Condvar, Mutex, MutexGuard};
use xen_ioreq::{DomId, Gfn, IoServerId, PAGE_SIZE};

use super::world::{OwnOf, Traps, World};
use crate::gen8::context::{Descriptor, STATE_OFFSET, hwsp, state};
use crate::gen8::gtt::GTT_OFFSET;
use crate::gen8::regs;
use crate::mediator::scheduler::{Clock, Monotonic, Queue};
use crate::mediator::{Below, Config, Mediator, MsiSink, Policy, SavedError, Vgpu};
use crate::physical::{Engine, PhysicalGpu, ResetFailed};
use crate::saved::SavedGuest;
use crate::soft::{SoftGpu, SoftGpuConfig};
use crate::vgpu::slice::{MIB, SliceSize, VgpuType};

/// 64 MiB of low memory for all slices.
pub(super) const CONFIG: Config =
    // Nothing is found by itself.
    Config {
        aperture: 64 * MIB,
        policy: Policy::BestEffort,
        slice: Duration::from_millis(2),
        deadline: Duration::from_secs(60),
        batch_limit: 64 << 10,
        sweep_every: Duration::from_secs(3600),
    };
pub(super) const SIZE: SliceSize = SliceSize { low: MIB, high: MIB, fences: 2 };
const FRAMES: usize = 16384;

/// The software GPU, with an engine that hangs on demand: it takes submissions and does nothing.
pub(super) struct Hanging {
    soft: SoftGpu,
    /// The next so many submissions hang.
    hang: AtomicUsize,
    /// What hangs on an engine until its reset: it takes nothing more.
    hung: Mutex<Option<(Engine, u32)>>,
    pub(super) resets: AtomicUsize,
    /// Says whether the submission that comes hangs. If it is there the others are done when they have been submitted.
    pub(super) hangs: OnceLock<Box<dyn Fn(Engine) -> bool + Send + Sync>>,
    /// Locked by a test, it keeps flushes from coming to their end.
    pub(super) flush_gate: Mutex<()>,
    pub(super) flushes_begun: AtomicUsize,
    pub(super) flushes_done: AtomicUsize,
}

impl Hanging {
    pub(super) fn hang(&self, submissions: usize) {
        self.hang.store(submissions, Ordering::SeqCst);
    }

    pub(super) fn hanging_left(&self) -> usize {
        self.hang.load(Ordering::SeqCst)
    }
}

impl PhysicalGpu for Hanging {
    crate::delegate_gpu!(soft: read32, write32, ggtt_entries, ggtt_write, ggtt_read, take_csb, is_idle);
    crate::delegate_gpu!(soft: has_fast_copy, set_interrupt_sink);

    fn ggtt_flush(&self) {
        self.flushes_begun.fetch_add(1, Ordering::SeqCst);
        drop(self.flush_gate.lock());
        self.soft.ggtt_flush();
        self.flushes_done.fetch_add(1, Ordering::SeqCst);
    }
    fn submit(&self, engine: Engine, first: u64, second: Option<u64>) {
        if let Some(hangs) = self.hangs.get() {
            if !hangs(engine) {
                self.soft.submit(engine, first, second);
                while !self.soft.is_idle(engine) {
                    std::thread::yield_now();
                }
            }
            return;
        }
        let mut hung = self.hung.lock();
        let it = (engine, Descriptor(first).id());
        if *hung == Some(it) {
            return;
        }
        let one_less = |n: usize| n.checked_sub(1);
        if self.hang.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less).is_ok() {
            *hung = Some(it);
        } else {
            self.soft.submit(engine, first, second);
        }
    }
    fn reset_engine(&self, engine: Engine, deadline: Duration) -> Result<(), ResetFailed> {
        self.resets.fetch_add(1, Ordering::SeqCst);
        self.hung.lock().take_if(|(e, _)| *e == engine);
        self.soft.reset_engine(engine, deadline)
    }
}

/// The mediator and what is below.
pub(super) struct Host {
    pub(super) world: Arc<World>,
    pub(super) gpu: Arc<Hanging>,
    pub(super) client: pviommu::Client,
    pub(super) mediator: Option<Mediator>,
    /// Frames in use before the mediator took any.
    pub(super) used_before: usize,
    guests: Mutex<u16>,
}

impl Host {
    pub(super) fn new() -> Self {
        Self::with(CONFIG)
    }

    pub(super) fn with(config: Config) -> Self {
        Self::with_clock(config, Box::new(Monotonic::new()))
    }

    pub(super) fn with_clock(config: Config, clock: Box<dyn Clock>) -> Self {
        Self::over(World::new(FRAMES), config, clock)
    }

    /// Another one, over the memory that there is.
    pub(super) fn on(world: Arc<World>) -> Self {
        Self::over(world, CONFIG, Box::new(Monotonic::new()))
    }

    fn over(world: Arc<World>, config: Config, clock: Box<dyn Clock>) -> Self {
        let client = world.client();
        let soft_config = SoftGpuConfig { ggtt_entries: 1 << 16, ..SoftGpuConfig::default() };
        let soft = SoftGpu::new(world.clone(), soft_config).unwrap();
        let gpu = Arc::new(Hanging {
            soft,
            hang: AtomicUsize::new(0),
            hung: Mutex::new(None),
            hangs: OnceLock::new(),
            resets: AtomicUsize::new(0),
            flush_gate: Mutex::new(()),
            flushes_begun: AtomicUsize::new(0),
            flushes_done: AtomicUsize::new(0),
        });
        let used_before = world.used();
        let below = Below {
            gpu: gpu.clone(),
            client: client.clone(),
            own: Arc::new(OwnOf(world.clone())),
            bus: world.clone(),
        };
        let mediator = Some(Mediator::with_clock(below, config, clock).unwrap());
        Self { world, gpu, client, mediator, used_before, guests: Mutex::new(0) }
    }

    pub(super) fn mediator(&self) -> &Mediator {
        self.mediator.as_ref().unwrap()
    }

    pub(super) fn guest(&self) -> TestGuest {
        self.guest_of(VgpuType::Custom(SIZE))
    }

    /// Makes a guest's vGPU anew.
    pub(super) fn restore(&self, saved: &SavedGuest, guest: &TestGuest) -> Result<Arc<Vgpu>, SavedError> {
        // It may be attached already.
        let frames = self.client.attach(guest.domid, IoServerId(1)).unwrap_or_else(|_| guest.frames.clone());
        let msi = Count(guest.msis.clone(), guest.on_msi.clone());
        self.mediator().restore(saved.vgpu(), frames, Box::new(msi))
    }

    /// A guest that has lost its vGPU.
    pub(super) fn stranger(&self, domid: DomId) -> TestGuest {
        let lost = self.guest_for(VgpuType::Custom(SIZE), domid);
        self.mediator().destroy(lost.vgpu.id()).unwrap();
        lost
    }

    pub(super) fn guest_of(&self, kind: VgpuType) -> TestGuest {
        let domid = {
            let mut guests = self.guests.lock();
            *guests += 1;
            DomId(*guests)
        };
        self.guest_for(kind, domid)
    }

    fn guest_for(&self, kind: VgpuType, domid: DomId) -> TestGuest {
        let frames = self.client.attach(domid, IoServerId(1)).unwrap();
        let msis = Arc::new(AtomicU64::new(0));
        let on_msi = Handler::default();
        let msi = Count(msis.clone(), on_msi.clone());
        let vgpu = self.mediator().create(kind, frames.clone(), Box::new(msi)).unwrap();
        let (world, engine) = (self.world.clone(), Engine::Bcs);
        TestGuest { world, domid, frames, vgpu, msis, on_msi, engine, tail: 0, next_gfn: 0x100 }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let violations = self.world.violations();
        if !std::thread::panicking() {
            assert_eq!(violations, Vec::<String>::new());
        }
    }
}

/// What a guest does at an interrupt, on the thread that sends it.
pub(super) type Handler = Arc<Mutex<Option<Box<dyn FnMut() + Send>>>>;

struct Count(Arc<AtomicU64>, Handler);

impl MsiSink for Count {
    fn interrupt(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
        if let Some(handle) = &mut *self.1.lock() {
            handle();
        }
    }
}

/// A clock that stands but for whoever lets time pass: no deadline is met because a machine is slow.
#[derive(Clone, Debug, Default)]
pub(super) struct Standing(Arc<AtomicU64>);

impl Standing {
    /// A second passes, again and again, until something is done. What begins then has its time before it.
    pub(super) fn until(&self, what: &str, mut done: impl FnMut() -> bool) {
        eventually(what, || {
            self.0.fetch_add(1_000_000_000, Ordering::SeqCst);
            done()
        });
    }
}

impl Clock for Standing {
    fn now(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::SeqCst))
    }

    fn wait(&self, changed: &Condvar, queue: &mut MutexGuard<'_, Queue>, until: Option<Duration>) -> bool {
        // Nobody says that time has passed.
        changed.wait_for(queue, Duration::from_millis(1));
        until.is_some_and(|until| self.now() >= until)
    }
}

/// Calls `done` until it says yes. A minute is for ever.
pub(super) fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..60_000 {
        if done() {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("never: {what}");
}

/// A guest. GM addresses are offsets in its low slice; page n of it is guest frame 0x100 + n once mapped.
pub(super) struct TestGuest {
    pub(super) world: Arc<World>,
    pub(super) domid: DomId,
    frames: pviommu::Guest,
    pub(super) vgpu: Arc<Vgpu>,
    pub(super) msis: Arc<AtomicU64>,
    pub(super) on_msi: Handler,
    /// Where its context runs.
    engine: Engine,
    pub(super) tail: u32,
    next_gfn: u64,
}

pub(super) const HWSP: u64 = 0;
pub(super) const CONTEXT: u64 = 0x1000;
pub(super) const RING: u64 = 0x3000;
pub(super) const RING_SIZE: u32 = 0x2000;
pub(super) const BATCH: u64 = 0x5000;
/// 16 pages.
pub(super) const DATA: u64 = 0x10000;
pub(super) const ID: u32 = 0x20;
pub(super) const BCS: u32 = 0x22000;

impl TestGuest {
    /// GM address of an offset in the low slice.
    pub(super) fn gm(&self, offset: u64) -> u64 {
        self.vgpu.slice().low.base + offset
    }

    pub(super) fn gfn(&self, offset: u64) -> Gfn {
        Gfn(self.next_gfn + offset / PAGE_SIZE as u64)
    }

    /// Its tables are tracked once they have been quiet for so many uses.
    pub(super) fn track(&self, quiet: u32) {
        let tracker = Arc::new(Traps(self.world.clone(), self.domid));
        self.vgpu.ggtt().track_tables(tracker, quiet);
    }

    /// The table's offset of the entry for a GM address.
    pub(super) fn entry(gm: u64) -> u32 {
        GTT_OFFSET + u32::try_from(gm / PAGE_SIZE as u64 * 8).unwrap()
    }

    pub(super) fn write_pte(&self, gm: u64, value: u64) {
        self.vgpu.mmio_write(Self::entry(gm), 8, value);
    }

    /// Populates the frame of an offset and maps it.
    pub(super) fn map(&self, offset: u64) {
        if self.world.mapped_at(self.domid, self.gfn(offset)).is_empty() {
            self.world.populate(self.domid, self.gfn(offset));
        }
        self.write_pte(self.gm(offset), self.gfn(offset).addr() | 1);
    }

    pub(super) fn reg(&self, offset: u32) -> u32 {
        self.vgpu.mmio_read(offset, 4) as u32
    }

    pub(super) fn set_reg(&self, offset: u32, value: u32) {
        self.vgpu.mmio_write(offset, 4, value.into());
    }

    /// As the guest's CPU, at an offset of the low slice, and at once: whoever reads meanwhile finds the old value or the new one.
    pub(super) fn write32(&self, offset: u64, value: u32) {
        let at = (offset % PAGE_SIZE as u64) as usize;
        self.world.write(self.domid, self.gfn(offset), at, &value.to_le_bytes());
    }

    pub(super) fn read32(&self, offset: u64) -> u32 {
        let mut bytes = [0; 4];
        self.world.read(self.domid, self.gfn(offset), (offset % PAGE_SIZE as u64) as usize, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    /// Maps status page, context, ring, batch and data, and starts the blitter.
    pub(super) fn start(&mut self) {
        (0..0x20).for_each(|page| self.map(page * PAGE_SIZE as u64));
        self.init_engine();
    }

    /// From now on its context, which is complete, runs on this engine.
    pub(super) fn move_to(&mut self, engine: Engine) {
        if self.engine != engine {
            self.engine = engine;
            self.init_engine();
        }
    }

    /// Everything of the engine, as after a reset.
    pub(super) fn init_engine(&mut self) {
        self.set_state(state::RING_HEAD, 0);
        self.set_state(state::RING_TAIL, 0);
        self.set_state(state::RING_START, self.gm(RING) as u32);
        self.set_state(state::RING_CTL, (RING_SIZE - 4096) | regs::RING_VALID);
        self.tail = 0;
        let base = self.engine.mmio_base();
        self.set_reg(base + 0x29c, regs::masked_enable(1 << 15));
        self.set_reg(base + 0x80, self.gm(HWSP) as u32);
        self.set_reg(base + 0x3a0, 0xffff_0505);
        self.write32(HWSP + hwsp::CSB_WRITE, 5);
        self.set_reg(base + 0xa8, 0);
        self.set_reg(base + 0xb4, 0);
        self.set_reg(0x44304, 0);
        self.set_reg(0x4430c, u32::MAX);
        self.set_reg(0x44200, 1 << 31);
    }

    pub(super) fn set_state(&self, index: usize, value: u32) {
        self.write32(CONTEXT + STATE_OFFSET + 4 * index as u64, value);
    }

    pub(super) fn state(&self, index: usize) -> u32 {
        self.read32(CONTEXT + STATE_OFFSET + 4 * index as u64)
    }

    /// Puts commands on the ring.
    pub(super) fn emit(&mut self, commands: &[u32]) {
        let padding = commands.len() % 2;
        for dword in commands.iter().chain(&[0][..padding]) {
            self.write32(RING + u64::from(self.tail), *dword);
            self.tail = (self.tail + 4) % RING_SIZE;
        }
        self.set_state(state::RING_TAIL, self.tail);
    }

    pub(super) fn descriptor(&self) -> Descriptor {
        Descriptor::ggtt(self.gm(CONTEXT) as u32, ID)
    }

    pub(super) fn submit_raw(&self, first: u64, second: u64) {
        for value in [second >> 32, second & 0xffff_ffff, first >> 32, first & 0xffff_ffff] {
            self.set_reg(self.engine.mmio_base() + 0x230, value as u32);
        }
    }

    pub(super) fn submit(&self) {
        self.submit_raw(self.descriptor().0, 0);
    }

    /// Entries of the status buffer in the status page, up to the newest.
    pub(super) fn csb(&self) -> Vec<(u32, u32)> {
        let last = self.read32(HWSP + hwsp::CSB_WRITE);
        if last > 4 {
            return vec![];
        }
        (0..=u64::from(last))
            .map(|i| (self.read32(HWSP + hwsp::CSB + 8 * i), self.read32(HWSP + hwsp::CSB + 8 * i + 4)))
            .collect()
    }

    /// Puts commands on the ring, submits, and waits until the context is complete.
    pub(super) fn run(&mut self, commands: &[u32]) {
        let before = self.vgpu.statistics().completions;
        self.emit(commands);
        self.submit();
        self.wait(before + 1);
    }

    /// Waits until so many contexts are complete, and the guest can see it.
    pub(super) fn wait(&self, completions: u64) {
        eventually("the context completes", || {
            let s = self.vgpu.statistics();
            assert_eq!((s.refusals, s.gpu_errors, s.overruns), (0, 0, 0), "{s:?}");
            s.completions >= completions && self.idle()
        });
    }

    /// Whether nothing waits or runs on its engine.
    pub(super) fn idle(&self) -> bool {
        self.reg(self.engine.mmio_base() + 0x234) == 0
    }

    /// Puts commands on the ring, submits, and waits until they are refused.
    pub(super) fn run_refused(&mut self, commands: &[u32]) {
        let before = self.vgpu.statistics();
        self.emit(commands);
        self.submit();
        eventually("the context is refused", || {
            let s = self.vgpu.statistics();
            assert_eq!(s.completions, before.completions, "{commands:x?} were executed");
            s.refusals > before.refusals && self.idle()
        });
    }

    /// Resets the blitter and starts anew.
    pub(super) fn reset(&mut self) {
        self.set_reg(BCS + 0xd0, 0x0001_0001);
        assert_eq!(self.reg(BCS + 0xd0), 3);
        self.set_reg(0x941c, regs::GRDOM_BLT);
        eventually("the engine has stopped", || self.reg(0x941c) == 0);
        self.set_reg(BCS + 0xd0, 0x0001_0000);
        self.init_engine();
    }

    /// Balloons out the frame of an offset, and passes the notices on.
    pub(super) fn balloon_out(&self, offset: u64) {
        self.balloon_out_frame(self.gfn(offset));
    }

    /// The same of any frame, until nothing of it is left to do.
    pub(super) fn give_back(&self, gfn: Gfn) {
        self.balloon_out_frame(gfn);
        self.vgpu.settle();
    }

    fn balloon_out_frame(&self, gfn: Gfn) {
        for bfn in self.world.balloon_out(self.domid, gfn) {
            self.vgpu.invalidate(bfn.0);
        }
    }
}
