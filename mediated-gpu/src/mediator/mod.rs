//! Stands between guests and the GPU: shadows, audits, schedules, and lets go of frames in time.
//!
//! [`Mediator`] owns the physical GPU alone and makes [`Vgpu`]s; `shadow` is a slice's translation table, `audit`
//! judges commands, `workload` copies what may run, `scheduler` runs it, `maintenance` carries out invalidations,
//! `sweeping` finds what nobody announced, `telling` has a guest hear of its engines, both at the times of `timetable`.

mod accesses;
mod audit;
mod by_bfn;
mod function;
mod guest;
mod legacy;
mod maintenance;
mod memory;
mod place;
mod ppgtt;
mod reserve;
mod reverse;
mod saved;
mod scheduler;
mod shadow;
mod shown;
mod stats;
mod sweeping;
mod telling;
#[cfg(test)]
mod tests;
mod timetable;
mod tracker;
mod workload;

use std::collections::HashMap;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use pviommu::{Client, Guest, OwnError, OwnFrames, OwnPages};
use xen_ioreq::{Bfn, PAGE_SIZE};

pub use self::accesses::RegisterAccesses;
pub use self::function::{Claim, PlugError, Plugged, Seat, Told};
use self::guest::Task;
pub use self::guest::{MsiSink, Usage, Vgpu};
pub use self::legacy::Legacy;
use self::maintenance::Maintenance;
use self::memory::Memory;
pub(crate) use self::place::Place;
pub use self::place::TABLE_FRAMES;
pub use self::ppgtt::TRACK_AFTER;
use self::reserve::Own;
pub use self::saved::{SavedError, SavedVgpu};
use self::scheduler::{Clock, Monotonic, Scheduler, Worker};
pub use self::scheduler::{Policy, Share, WHOLE_WEIGHT};
use self::shadow::{Parts, ShadowGgtt};
use self::shown::{Registers, ShownPages};
pub use self::stats::Snapshot;
use self::stats::Stats;
use self::sweeping::{Sweeping, Ticks};
use self::telling::Teller;
use self::timetable::Timetable;
pub(crate) use self::tracker::Trapping;
pub use self::tracker::{PageTracker, Untracked};
use self::workload::{AREAS, EngineArea};
use crate::bus::BusMaster;
use crate::physical::{Engine, PhysicalGpu};
use crate::privilege::ThreadKind;
use crate::vgpu::slice::{GmLayout, GmRange, MIB, Slice, SliceAllocator, SliceError, VgpuType};
use crate::vgpu::{State, VgpuId};

/// What an operator may choose.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Size of the aperture in bytes: the low parts of all slices fit in it, and BAR2 is of this size.
    pub aperture: u64,
    /// How engines are shared.
    pub policy: Policy,
    /// How long a vGPU keeps an engine while others wait for it. A context that runs is not interrupted, nor is one that stands
    /// behind it because nobody waited when it was put there; what is taken too much is made up for afterwards.
    pub slice: Duration,
    /// How long a context may be on an engine before the engine is reset, unless its vGPU's [`Share`] says otherwise.
    pub deadline: Duration,
    /// Bytes of batches that one context may run.
    pub batch_limit: u64,
    /// How often some of a guest's mappings (a sixteenth, 64 to 256) are asked about, since a guest can put another frame
    /// behind a number and nobody is told: after 16 times, or more if there are very many, all have had their turn. For a vGPU
    /// that does not work four times are done at once, four times as rarely. A vGPU without mappings asks nothing.
    pub sweep_every: Duration,
}

impl Default for Config {
    /// 256 MiB, best effort, 2 ms, 1 s, 4 MiB, 1 s.
    fn default() -> Self {
        Self {
            aperture: 256 * MIB,
            policy: Policy::default(),
            slice: Duration::from_millis(2),
            deadline: Duration::from_secs(1),
            batch_limit: 4 * MIB,
            sweep_every: Duration::from_secs(1),
        }
    }
}

impl Config {
    /// How a table of so many entries is divided.
    pub fn layout(&self, entries: u32) -> GmLayout {
        let areas = (Engine::ALL.len() * AREAS) as u64;
        let host = EngineArea::size(self.batch_limit).saturating_mul(areas);
        GmLayout { aperture: self.aperture, total: u64::from(entries) * PAGE_SIZE as u64, host }
    }
}

/// What the mediator stands on.
pub struct Below {
    /// The GPU: idle, and nobody else's.
    pub gpu: Arc<dyn PhysicalGpu>,
    /// Where guests' frames get their bus addresses.
    pub client: Client,
    /// Where the mediator's own pages come from.
    pub own: Arc<dyn OwnFrames + Send + Sync>,
    /// How the mediator itself reads and writes what the GPU reaches.
    pub bus: Arc<dyn BusMaster>,
}

/// A vGPU, or the mediator itself, could not be made.
#[derive(Debug, thiserror::Error)]
pub enum MediatorError {
    /// The slice does not fit.
    #[error(transparent)]
    Slice(#[from] SliceError),
    /// There are no pages for the mediator itself.
    #[error(transparent)]
    NoPages(#[from] OwnError),
    /// The GPU's table is too small for the mediator's own part of it.
    #[error(
        "the GPU's table of {entries} entries is too small: {needed} are needed for the aperture and the mediator"
    )]
    TableTooSmall {
        /// Entries there are.
        entries: u32,
        /// Entries needed.
        needed: u64,
    },
    /// A thread could not be started.
    #[error("a thread could not be started: {0}")]
    Thread(#[from] std::io::Error),
    /// There is no such vGPU.
    #[error("there is no {0}")]
    NoVgpu(VgpuId),
}

/// The mediator. Dropping it destroys its vGPUs and stops the engines' threads.
pub struct Mediator {
    own: Own,
    scratch: Option<OwnPages>,
    scratch_bfn: Bfn,
    scheduler: Arc<Scheduler>,
    /// Taken with no other lock held.
    vgpus: Mutex<Vgpus>,
    /// The engines' threads, and the timetable's.
    workers: Vec<JoinHandle<()>>,
    times: Arc<Timetable<Vgpu>>,
    /// When vGPUs are swept.
    ticks: Ticks,
    aperture: u64,
}

struct Vgpus {
    slices: SliceAllocator,
    live: HashMap<VgpuId, Live>,
    last: u32,
}

struct Live {
    vgpu: Arc<Vgpu>,
    thread: JoinHandle<()>,
}

impl Mediator {
    /// Takes the GPU and starts a thread for each engine.
    pub fn new(below: Below, config: Config) -> Result<Self, MediatorError> {
        Self::with_clock(below, config, Box::new(Monotonic::new()))
    }

    fn with_clock(below: Below, config: Config, clock: Box<dyn Clock>) -> Result<Self, MediatorError> {
        let Below { gpu, client, own: source, bus } = below;
        let own = Own { gpu, client, source, memory: Memory::new(bus) };
        let area = EngineArea::size(config.batch_limit);
        let entries = own.gpu.ggtt_entries();
        let layout = config.layout(entries);
        let slices = SliceAllocator::new(layout);
        if slices.host().size < layout.host {
            let needed = config.aperture.saturating_add(layout.host) / PAGE_SIZE as u64;
            return Err(MediatorError::TableTooSmall { entries, needed });
        }
        let scratch = own.take(1)?;
        let scratch_bfn = scratch.bfn(0).unwrap_or_default();
        let scheduler = Arc::new(Scheduler::new(config.policy, config.slice, clock));
        own.gpu.set_interrupt_sink(scheduler.clone());
        let mut base = slices.host().base;
        let vgpus = Mutex::new(Vgpus { slices, live: HashMap::new(), last: 0 });
        let mut mediator = Self {
            own,
            scratch: Some(scratch),
            scratch_bfn,
            scheduler,
            vgpus,
            workers: Vec::new(),
            times: Arc::new(Timetable::new()),
            ticks: Ticks::new(config.sweep_every),
            aperture: config.aperture,
        };
        mediator.workers.push(mediator.times.spawn("timetable", ThreadKind::Device)?);
        for engine in Engine::ALL {
            let mut next = || {
                let range = GmRange { base, size: area };
                base = range.end();
                EngineArea::new(engine, range, &mediator.own, scratch_bfn)
            };
            let areas = [next()?, next()?];
            let (gpu, scheduler) = (mediator.own.gpu.clone(), mediator.scheduler.clone());
            let worker = Worker::new(engine, gpu, scheduler, areas, config.deadline);
            mediator.workers.push(worker.spawn()?);
        }
        Ok(mediator)
    }

    /// Makes a vGPU of a type for a guest, whose interrupts go to `msi`.
    pub fn create(
        &self,
        kind: VgpuType,
        frames: Guest,
        msi: Box<dyn MsiSink>,
    ) -> Result<Arc<Vgpu>, MediatorError> {
        let state = |id, slice| Ok::<_, MediatorError>(State::new(id, slice));
        self.make(kind, None, frames, msi, state)
    }

    /// Makes a vGPU with a slice, anywhere unless a place is named, and a state.
    fn make<E: From<MediatorError>>(
        &self,
        kind: VgpuType,
        at: Option<Slice>,
        frames: Guest,
        msi: Box<dyn MsiSink>,
        state: impl FnOnce(VgpuId, Slice) -> Result<State, E>,
    ) -> Result<Arc<Vgpu>, E> {
        let mut vgpus = self.vgpus.lock();
        let slice = match at {
            Some(slice) => vgpus.slices.allocate_at(slice).map(|()| slice),
            None => vgpus.slices.allocate(kind.size()),
        };
        let slice = slice.map_err(MediatorError::from)?;
        vgpus.last = vgpus.last.wrapping_add(1).max(1);
        let id = VgpuId(vgpus.last);
        let state = state(id, slice).inspect_err(|_| vgpus.slices.free(slice))?;
        let stats = Arc::new(Stats::default());
        let maintenance = Maintenance::new(frames.clone());
        let shown = ShownPages::new(self.own.memory.clone());
        let state = Registers::new(state, shown.clone());
        let ggtt = ShadowGgtt::new(Parts {
            slice,
            scratch: self.scratch_bfn,
            own: self.own.clone(),
            frames,
            stats: stats.clone(),
            shown: shown.clone(),
        });
        ggtt.flush_if_dirty();
        let (scheduler, share) = (self.scheduler.clone(), Share::of(kind));
        let (teller, sweeping) = (Teller::new(self.times.clone()), Sweeping::new(self.ticks));
        let vgpu = Vgpu::new(id, state, ggtt, stats, msi, teller, sweeping, scheduler, maintenance, share);
        let vgpu = Arc::new(vgpu);
        match Maintenance::spawn(vgpu.clone()) {
            Ok(thread) => vgpus.live.insert(id, Live { vgpu: vgpu.clone(), thread }),
            Err(e) => {
                self.scheduler.forget(id);
                vgpus.slices.free(slice);
                return Err(MediatorError::from(e).into());
            }
        };
        self.times.add(id, vgpu.clone());
        if let Some(first) = self.ticks.after(Instant::now(), 1) {
            self.times.set(id, Task::Sweep, first);
        }
        Ok(vgpu)
    }

    /// Destroys a vGPU, whatever it is doing: its work is stopped, its entries lead to scratch, all its frames are
    /// released, its slice is free again. The caller has seen to it that no more accesses come.
    pub fn destroy(&self, id: VgpuId) -> Result<Snapshot, MediatorError> {
        let Live { vgpu, thread } = self.vgpus.lock().live.remove(&id).ok_or(MediatorError::NoVgpu(id))?;
        vgpu.retire();
        self.times.remove(id);
        vgpu.maintenance().close();
        if thread.join().is_err() {
            log::error!("{id}: the thread that releases frames had panicked");
        }
        if !vgpu.maintenance().last_rounds(vgpu.ggtt()) {
            log::error!("{id}: the hypervisor has not taken all frames back");
        }
        self.vgpus.lock().slices.free(vgpu.slice());
        Ok(vgpu.statistics())
    }

    /// How many more vGPUs of a type there could be now.
    pub fn available(&self, kind: VgpuType) -> u32 {
        self.vgpus.lock().slices.available(kind.size())
    }

    /// The vGPUs there are, by number.
    pub fn vgpus(&self) -> Vec<Arc<Vgpu>> {
        let mut all: Vec<_> = self.vgpus.lock().live.values().map(|l| l.vgpu.clone()).collect();
        all.sort_by_key(|v| v.id());
        all
    }

    /// Size of the aperture, BAR2, in bytes.
    pub fn aperture(&self) -> u64 {
        self.aperture
    }
}

impl Drop for Mediator {
    fn drop(&mut self) {
        let ids: Vec<_> = self.vgpus.get_mut().live.keys().copied().collect();
        for id in ids {
            if let Err(e) = self.destroy(id) {
                log::error!("{e}");
            }
        }
        self.scheduler.close();
        self.times.close();
        for worker in self.workers.drain(..) {
            if worker.join().is_err() {
                log::error!("an engine's thread, or the timetable's, had panicked");
            }
        }
        // The areas went with their threads; what is left of the table is the slices' scratch.
        for index in 0..self.own.gpu.ggtt_entries() {
            self.own.gpu.ggtt_write(index, None);
        }
        self.scratch.take().into_iter().for_each(|pages| self.own.give_back(pages));
    }
}

impl std::fmt::Debug for Below {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Below").field("client", &self.client).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Mediator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mediator").field("scratch", &self.scratch_bfn).finish_non_exhaustive()
    }
}
