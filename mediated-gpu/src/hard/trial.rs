//! Work of this host's own on a GPU, each piece judged: whether a device does what its driver thinks, before a guest depends on it.
//!
//! Everything is in memory that is given for it. The last pieces are those on which the promise rests: an engine that does not
//! end is stopped, and what was taken out of the table is not reached any more.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use xen_ioreq::{Bfn, PAGE_SIZE};

use crate::gen8::blt::{Depth, ROP_PATCOPY, ROP_SRCCOPY, Rect, Surface, XyColorBlt, XySrcCopyBlt};
use crate::gen8::cmd;
use crate::gen8::context::{
    CSB_IDLE_TO_ACTIVE, Descriptor, FreshRing, RCS_IMAGE_PAGES, STATE_OFFSET, register_state,
};
use crate::physical::{CsbEntry, Engine, Interrupt, InterruptSink, PhysicalGpu};
use crate::vfio::DmaMemory;

/// How long a piece of work may take, which needs some microseconds.
const LIMIT: Duration = Duration::from_secs(2);

/// Side of the pictures, in pixels of four bytes.
const SIDE: i16 = 64;
/// Pages of one.
const PICTURE: usize = 4;
/// Pages for an engine: image, ring, batch, data.
const AREA: usize = RCS_IMAGE_PAGES as usize + 3;
const RING: usize = RCS_IMAGE_PAGES as usize;
const BATCH: usize = RING + 1;
const DATA: usize = BATCH + 1;
/// Where the pictures begin. Page 0 is for what an engine fetches ahead.
const PICTURES: usize = 1 + AREA * Engine::ALL.len();

/// How the host itself reaches the ground. Offsets are bytes from its first page's start.
pub trait GroundMemory: Send + Sync {
    /// Copies from it.
    fn read(&self, offset: usize, bytes: &mut [u8]);
    /// Copies to it.
    fn write(&self, offset: usize, bytes: &[u8]);
}

impl GroundMemory for DmaMemory {
    fn read(&self, offset: usize, bytes: &mut [u8]) {
        DmaMemory::read(self, offset, bytes);
    }

    fn write(&self, offset: usize, bytes: &[u8]) {
        DmaMemory::write(self, offset, bytes);
    }
}

/// Memory that the GPU reaches at neighbouring bus frames, and the host too.
#[derive(Clone)]
pub struct Ground {
    /// [`Ground::PAGES`] pages.
    pub memory: Arc<dyn GroundMemory>,
    /// The bus frame of the first.
    pub first: Bfn,
    /// The first of the GPU's entries that are to lead there. All from there on are used.
    pub entry: u32,
}

impl fmt::Debug for Ground {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ground")
            .field("first", &self.first)
            .field("entry", &self.entry)
            .finish_non_exhaustive()
    }
}

impl Ground {
    /// Pages that are needed.
    pub const PAGES: usize = PICTURES + 3 * PICTURE;
}

/// What came of a piece of work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What should hold.
    pub what: String,
    /// What does instead.
    pub wrong: Option<String>,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.wrong {
            None => write!(f, "ok     {}", self.what),
            Some(wrong) => write!(f, "FAILED {}: {wrong}", self.what),
        }
    }
}

/// What the GPU tells.
#[derive(Default)]
struct News {
    told: Mutex<(u64, Option<Engine>)>,
    more: Condvar,
}

impl InterruptSink for News {
    fn interrupt(&self, irq: Interrupt) {
        let mut told = self.told.lock();
        told.0 += 1;
        if let Interrupt::Error(e) = irq {
            told.1 = Some(e);
        }
        self.more.notify_all();
    }
}

type Piece = Result<(), String>;

struct Trial<'a> {
    gpu: &'a dyn PhysicalGpu,
    ground: Ground,
    news: Arc<News>,
    /// Number of the last context.
    id: u32,
    limit: Duration,
}

/// Runs everything on a GPU that has nothing else to do. Its table is empty afterwards.
pub fn run(gpu: &dyn PhysicalGpu, ground: Ground) -> Vec<Finding> {
    run_within(gpu, ground, LIMIT)
}

fn run_within(gpu: &dyn PhysicalGpu, ground: Ground, limit: Duration) -> Vec<Finding> {
    let news = Arc::new(News::default());
    gpu.set_interrupt_sink(news.clone());
    let mut trial = Trial { gpu, ground, news, id: 0, limit };
    let entries = trial.ground.entry..gpu.ggtt_entries();
    let scratch = trial.ground.first;
    entries.clone().for_each(|index| gpu.ggtt_write(index, Some(scratch)));
    (0..Ground::PAGES).for_each(|page| trial.map(page, page));
    gpu.ggtt_flush();
    let mut findings = Vec::new();
    let mut judge = |what: String, piece: Piece| findings.push(Finding { what, wrong: piece.err() });
    for e in Engine::ALL {
        let name = e.name();
        judge(format!("{name} executes a ring, and says so"), trial.stores(e, 0x1111_0000));
        judge(format!("{name} executes a batch"), trial.batch(e));
        judge(format!("{name} is stopped in a batch without end, and goes on"), trial.endless(e));
    }
    judge("BCS fills and copies a picture".into(), trial.picture());
    judge("what was taken out of the table is not reached".into(), trial.taken_away());
    entries.for_each(|index| gpu.ggtt_write(index, None));
    gpu.ggtt_flush();
    findings
}

/// First page of an engine's area.
fn area(e: Engine) -> usize {
    1 + AREA * e.index()
}

const ALL: Rect = Rect { x1: 0, y1: 0, x2: SIDE, y2: SIDE };

impl Trial<'_> {
    /// Graphics address of a page.
    fn gm(&self, page: usize) -> u64 {
        (u64::from(self.ground.entry).saturating_add(page as u64)).saturating_mul(PAGE_SIZE as u64)
    }

    fn surface(&self, page: usize) -> Surface {
        Surface { base: self.gm(page), pitch: 4 * SIDE, tiled: false }
    }

    fn fill(&self, page: usize, rect: Rect, color: u32) -> [u32; 7] {
        let (depth, rop, dst) = (Depth::Bpp32, ROP_PATCOPY, self.surface(page));
        XyColorBlt { write_alpha: true, write_rgb: true, depth, rop, clip: false, dst, rect, color }.encode()
    }

    /// Has a graphics page lead to a page of the ground.
    fn map(&self, at: usize, page: usize) {
        let bfn = Bfn(self.ground.first.0.saturating_add(page as u64));
        let entry = u32::try_from(at).unwrap_or(u32::MAX).saturating_add(self.ground.entry);
        self.gpu.ggtt_write(entry, Some(bfn));
    }

    fn write(&self, page: usize, offset: usize, dwords: &[u32]) {
        let bytes: Vec<u8> = dwords.iter().flat_map(|d| d.to_le_bytes()).collect();
        self.ground.memory.write(page * PAGE_SIZE + offset, &bytes);
    }

    fn read(&self, page: usize, dwords: usize) -> Vec<u32> {
        let mut bytes = vec![0; 4 * dwords];
        self.ground.memory.read(page * PAGE_SIZE, &mut bytes);
        bytes.as_chunks().0.iter().map(|b| u32::from_le_bytes(*b)).collect()
    }

    /// Submits commands to an engine as a context of their own: its number.
    fn submit(&mut self, e: Engine, commands: &[u32]) -> u32 {
        let base = area(e);
        let mut ring = commands.to_vec();
        if !ring.len().is_multiple_of(2) {
            ring.push(cmd::MI_NOOP);
        }
        self.write(base + RING, 0, &ring);
        let dword = |n: u64| u32::try_from(n).unwrap_or(0);
        let tail = dword(4 * ring.len() as u64);
        let fresh = FreshRing { start: dword(self.gm(base + RING)), size: dword(PAGE_SIZE as u64), tail };
        let image = register_state(e, fresh, 0, [0; 4]);
        self.write(base, usize::try_from(STATE_OFFSET).unwrap_or(0), &image);
        self.id += 1;
        let descriptor = Descriptor::ggtt(dword(self.gm(base)), self.id).0 | Descriptor::FORCE_RESTORE;
        self.gpu.submit(e, descriptor, None);
        self.id
    }

    /// Waits until the engine says something of a context.
    fn wait(&self, e: Engine, so: impl Fn(&CsbEntry) -> bool) -> Piece {
        let end = Instant::now() + self.limit;
        loop {
            // What is said comes before the error that it ends with.
            let (seen, error) = *self.news.told.lock();
            if self.gpu.take_csb(e).iter().any(&so) {
                return Ok(());
            }
            let mut told = self.news.told.lock();
            if error == Some(e) {
                told.1 = None;
                return Err(format!("{} met an error", e.name()));
            }
            if told.0 == seen && self.news.more.wait_until(&mut told, end).timed_out() {
                return Err(format!("nothing is heard of {} for {:?}", e.name(), self.limit));
            }
        }
    }

    fn complete(&mut self, e: Engine, commands: &[u32]) -> Piece {
        let id = self.submit(e, commands);
        self.wait(e, |entry| entry.context_id == id && entry.complete())
    }

    /// Whether the first dwords of an engine's data are these.
    fn data(&self, e: Engine, wanted: &[u32]) -> Piece {
        let found = self.read(area(e) + DATA, wanted.len());
        if found == wanted { Ok(()) } else { Err(format!("{found:#x?} is there, not {wanted:#x?}")) }
    }

    /// What makes all that was written before be there, and leaves a mark behind it.
    fn mark(&self, e: Engine, offset: u64, value: u32) -> Vec<u32> {
        let at = self.gm(area(e) + DATA).saturating_add(offset);
        match e {
            Engine::Rcs => cmd::pipe_control_store(at, value.into()).to_vec(),
            Engine::Bcs | Engine::Vcs | Engine::Vecs => cmd::flush_dw_store(at, value).to_vec(),
        }
    }

    fn stores(&mut self, e: Engine, value: u32) -> Piece {
        self.write(area(e) + DATA, 0, &[0; 4]);
        let store = cmd::store_dword(self.gm(area(e) + DATA), value);
        let ring = [store.to_vec(), self.mark(e, 8, value + 1), vec![cmd::MI_USER_INTERRUPT]].concat();
        self.complete(e, &ring)?;
        self.data(e, &[value, 0, value + 1])
    }

    fn batch(&mut self, e: Engine) -> Piece {
        self.write(area(e) + DATA, 0, &[0; 4]);
        let store = cmd::store_dword(self.gm(area(e) + DATA), 0x2222_0000);
        self.write(area(e) + BATCH, 0, &[&store[..], &[cmd::MI_BATCH_BUFFER_END, cmd::MI_NOOP]].concat());
        let start = cmd::batch_buffer_start(self.gm(area(e) + BATCH));
        let ring = [start.to_vec(), self.mark(e, 8, 0x2222_0001)].concat();
        self.complete(e, &ring)?;
        self.data(e, &[0x2222_0000, 0, 0x2222_0001])
    }

    fn endless(&mut self, e: Engine) -> Piece {
        let start = cmd::batch_buffer_start(self.gm(area(e) + BATCH));
        self.write(area(e) + BATCH, 0, &start);
        let id = self.submit(e, &start);
        self.wait(e, |entry| entry.context_id == id && entry.status & CSB_IDLE_TO_ACTIVE != 0)?;
        if self.gpu.is_idle(e) {
            return Err("it has ended by itself".into());
        }
        self.gpu.reset_engine(e, self.limit).map_err(|e| e.to_string())?;
        self.gpu.take_csb(e);
        self.news.told.lock().1 = None;
        self.stores(e, 0x3333_0000)
    }

    /// Whether a picture is of one colour, but for a rectangle of another.
    fn shows(&self, page: usize, color: u32, rect: Rect, other: u32) -> Piece {
        let mut wanted = vec![color; PICTURE * PAGE_SIZE / 4];
        for (i, pixel) in wanted.iter_mut().enumerate() {
            let side = usize::from(SIDE.unsigned_abs());
            let inside = |n: usize, from: i16, to: i16| {
                (i32::from(from)..i32::from(to)).contains(&i32::try_from(n).unwrap_or(-1))
            };
            if inside(i % side, rect.x1, rect.x2) && inside(i / side, rect.y1, rect.y2) {
                *pixel = other;
            }
        }
        let found = self.read(page, wanted.len());
        match found.iter().zip(&wanted).position(|(f, w)| f != w) {
            None => Ok(()),
            Some(i) => Err(format!("pixel {i} is {:#x}, not {:#x}", found[i], wanted[i])),
        }
    }

    fn picture(&mut self) -> Piece {
        let (from, to) = (PICTURES, PICTURES + PICTURE);
        let inner = Rect { x1: 8, y1: 16, x2: 40, y2: 48 };
        let copy = XySrcCopyBlt {
            write_alpha: true,
            write_rgb: true,
            depth: Depth::Bpp32,
            rop: ROP_SRCCOPY,
            clip: false,
            dst: self.surface(to),
            rect: ALL,
            src: self.surface(from),
            src_x: 0,
            src_y: 0,
        };
        let e = Engine::Bcs;
        let ring = [
            self.fill(from, ALL, 0xff20_4060).to_vec(),
            self.fill(from, inner, 0xffe0_a010).to_vec(),
            self.mark(e, 0, 1),
            copy.encode().to_vec(),
            self.mark(e, 0, 2),
        ];
        self.complete(e, &ring.concat())?;
        self.data(e, &[2])?;
        self.shows(from, 0xff20_4060, inner, 0xffe0_a010)?;
        self.shows(to, 0xff20_4060, inner, 0xffe0_a010)
    }

    /// The pages of a picture are taken out of the table and others put there, between two fills.
    fn taken_away(&mut self) -> Piece {
        let (at, others) = (PICTURES, PICTURES + 2 * PICTURE);
        let e = Engine::Bcs;
        let ring =
            |trial: &Self, color| [trial.fill(at, ALL, color).to_vec(), trial.mark(e, 0, color)].concat();
        self.complete(e, &ring(self, 0x1234_5678))?;
        self.shows(at, 0x1234_5678, ALL, 0x1234_5678)?;
        (0..PICTURE).for_each(|n| self.map(at + n, others + n));
        self.gpu.ggtt_flush();
        self.complete(e, &ring(self, 0x0bad_cafe))?;
        self.shows(at, 0x1234_5678, ALL, 0x1234_5678)?;
        self.shows(others, 0x0bad_cafe, ALL, 0x0bad_cafe)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::{BusMaster, DmaAccess, DmaFault, Pin};
    use crate::hard::{SoftBar, StatusPages};
    use crate::physical::ResetFailed;
    use crate::soft::{SoftGpu, SoftGpuConfig};

    const FIRST: Bfn = Bfn(0x4000);

    /// The ground as a bus.
    struct Bus(Arc<DmaMemory>);

    impl BusMaster for Bus {
        fn pin(&self, bfn: Bfn, access: DmaAccess) -> Result<Pin, DmaFault> {
            let index = bfn.0.checked_sub(FIRST.0).and_then(|n| usize::try_from(n).ok());
            let ptr = index.and_then(|n| self.0.page(n)).ok_or(DmaFault { bfn, access })?;
            Ok(Pin { ptr, bfn, token: 0 })
        }
        fn unpin(&self, _: Pin) {}
    }

    /// A GPU that does some things not.
    struct Flawed {
        gpu: Arc<dyn PhysicalGpu>,
        /// Keeps its translations.
        remembers: bool,
        /// Meets an error in whatever this engine is given.
        failing: Option<Engine>,
        /// Cannot be reset.
        lasting: bool,
        sink: Mutex<Option<Arc<dyn InterruptSink>>>,
    }

    impl Flawed {
        fn new(gpu: Arc<dyn PhysicalGpu>) -> Self {
            Self { gpu, remembers: false, failing: None, lasting: false, sink: Mutex::new(None) }
        }
    }

    impl PhysicalGpu for Flawed {
        crate::delegate_gpu!(gpu: read32, write32, ggtt_entries, ggtt_read, ggtt_flush, take_csb);
        crate::delegate_gpu!(gpu: is_idle, has_fast_copy);

        fn ggtt_write(&self, index: u32, bfn: Option<Bfn>) {
            let known = self.gpu.ggtt_read(index).is_some_and(|old| old != FIRST);
            if !(self.remembers && known) {
                self.gpu.ggtt_write(index, bfn);
            }
        }
        fn submit(&self, engine: Engine, first: u64, second: Option<u64>) {
            if self.failing != Some(engine) {
                return self.gpu.submit(engine, first, second);
            }
            let sink = self.sink.lock().clone();
            sink.unwrap().interrupt(Interrupt::Error(engine));
        }
        fn reset_engine(&self, engine: Engine, deadline: Duration) -> Result<(), ResetFailed> {
            if self.lasting {
                return Err(ResetFailed { engine, deadline });
            }
            self.gpu.reset_engine(engine, deadline)
        }
        fn set_interrupt_sink(&self, sink: Arc<dyn InterruptSink>) {
            *self.sink.lock() = Some(sink.clone());
            self.gpu.set_interrupt_sink(sink);
        }
    }

    /// A GPU, and a ground with room for status pages behind it.
    fn soft() -> (Arc<dyn PhysicalGpu>, Ground) {
        let memory = Arc::new(DmaMemory::new(Ground::PAGES + 4).unwrap());
        let config = SoftGpuConfig { ggtt_entries: 1024, ..SoftGpuConfig::default() };
        let gpu = Arc::new(SoftGpu::new(Arc::new(Bus(memory.clone())), config).unwrap());
        (gpu, Ground { memory, first: FIRST, entry: 64 })
    }

    fn wrong(findings: &[Finding]) -> Vec<String> {
        findings.iter().filter(|f| f.wrong.is_some()).map(ToString::to_string).collect()
    }

    #[test]
    fn a_gpu_that_does_its_work_passes_by_itself_and_behind_registers() {
        let (gpu, ground) = soft();
        let findings = run(&*gpu, ground.clone());
        assert_eq!((findings.len(), wrong(&findings)), (14, vec![]));

        let behind = |n| Bfn(FIRST.0 + Ground::PAGES as u64 + n);
        let status = StatusPages::new([0, 1, 2, 3].map(behind), ());
        let hard = SoftBar::drive(gpu, status).unwrap();
        let findings = run(&hard, ground);
        assert_eq!((findings.len(), wrong(&findings)), (14, vec![]));
        assert!((0..1020).all(|n| hard.ggtt_read(n).is_none()), "its table is empty");
    }

    #[test]
    fn a_gpu_that_goes_on_reaching_what_was_taken_away_is_found_out() {
        let (gpu, ground) = soft();
        let gpu = Flawed { remembers: true, ..Flawed::new(gpu) };
        let wrong = wrong(&run(&gpu, ground));
        assert_eq!(
            wrong,
            ["FAILED what was taken out of the table is not reached: pixel 0 is 0xbadcafe, not 0x12345678"]
        );
    }

    #[test]
    fn an_engine_that_stops_with_errors_is_found_out_and_the_others_pass() {
        let (gpu, ground) = soft();
        let gpu = Flawed { failing: Some(Engine::Vcs), ..Flawed::new(gpu) };
        let wrong = wrong(&run(&gpu, ground));
        assert_eq!(wrong.len(), 3, "{wrong:?}");
        assert!(wrong.iter().all(|w| w.starts_with("FAILED VCS") && w.ends_with("VCS met an error")));
    }

    #[test]
    fn an_engine_that_cannot_be_stopped_is_found_out_and_waited_for_no_longer_than_told() {
        let (gpu, ground) = soft();
        let gpu = Flawed { lasting: true, ..Flawed::new(gpu) };
        let limit = Duration::from_millis(200);
        let wrong = wrong(&run_within(&gpu, ground, limit));
        for e in ["RCS", "BCS", "VCS", "VECS"] {
            let stuck = format!("FAILED {e} is stopped in a batch without end, and goes on: engine");
            assert!(wrong.iter().any(|w| w.starts_with(&stuck)), "{wrong:?}");
        }
        let heard = "nothing is heard of BCS for 200ms";
        assert_eq!(wrong.iter().filter(|w| w.ends_with(heard)).count(), 2, "what comes after: {wrong:?}");
    }
}
