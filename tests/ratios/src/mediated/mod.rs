//! What a guest draws through the mediator in a time, against what a process draws that has such a GPU to itself.
//!
//! Both GPUs are software GPUs on the model's bus, and both sides have the same driver, commands, surfaces and number of batches in
//! flight; the guest's accesses to registers are trapped, the process's are calls. A round is so many batches from the first
//! until the last has ended. What is the same in each batch is written before; tables are written with each.
//!
//! A GPU takes no time of its host's processors. So the engines of both GPUs have a processor to themselves, and all else has
//! another one: the guest, its loop and the mediator, or the process.

mod driver;
mod sides;

use std::cell::RefCell;

use guest::cmd::{Linear, Rect, xy_color_blt, xy_src_copy_blt};
use integration::drawing::Switch;
use integration::{Profile, World};
use mediated_gpu::gen8::cmd::MI_BATCH_BUFFER_END;
use mediated_gpu::gen8::gtt::PTE_PRESENT;
use mediated_gpu::gen8::ppgtt::{ENTRIES, RW, Root};
use mediated_gpu::physical::Engine;
use mediated_gpu::vgpu::slice::MIB;
use xen_ioreq::PAGE_SIZE;

use self::driver::{BATCH_PAGES, BATCHES, Device, Driver, FREE, IN_FLIGHT};
use self::sides::{Alone, Mediated};
use crate::harness::{Figure, Target, interleave, seconds};
use crate::processors::{Processors, named_stay_on, stay_on};

/// Names of the figures, by the kind of work.
pub(crate) const LARGE_BLITS: &[&str] = &["mediated-large"];
pub(crate) const SMALL_ONES: &[&str] = &["mediated-small"];
pub(crate) const MAPPED_ANEW: &[&str] = &["mediated-tables"];

const ROUNDS: usize = 41;
/// Pages of a surface of 4 MiB: 1024 lines of 1024 pixels.
const LARGE: usize = 1024;
const SIDE: u16 = 1024;
const PITCH: u16 = 4096;
/// Blits of a batch of small ones, and their side.
const SMALL_BLITS: u16 = 100;
const SMALL: u16 = 64;
/// Surfaces that are mapped by turns: 256 lines of 1024 pixels, 1 MiB.
const MAPPED: usize = 256;
/// Places at which they are mapped: more than batches in flight and the one before.
const PLACES: u32 = 6;
/// Frames for them: as many surfaces, so that each time another one is mapped at a place.
const POOL: usize = 7;
/// Pages of tables: one of each upper level, and one for each 2 MiB of addresses: batches, then the places.
const TABLES: usize = 3 + 1 + PLACES as usize;
/// Bytes that one table of pages maps.
const STRIDE: u64 = 2 << 20;
/// Pages of each side.
const PAGES: usize = FREE + TABLES + 2 * LARGE;
const SURFACES: usize = FREE + TABLES;
/// RAM of the guest: that, and what its driver has besides.
const GUEST_FRAMES: u64 = PAGES as u64 + 1024;

/// A kind of work.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Work {
    /// One copy of 4 MiB a batch.
    Large,
    /// A hundred copies of 64 x 64 pixels a batch.
    Small,
    /// A surface of 1 MiB is mapped in the context's tables, filled, and gets half of the one before.
    Tables,
}

impl Work {
    fn batch_page(n: u32) -> usize {
        BATCHES + BATCH_PAGES * (n % IN_FLIGHT) as usize
    }

    /// Graphics address of a surface that is mapped in the context's tables.
    fn place(n: u32) -> u64 {
        STRIDE * (1 + u64::from(n % PLACES))
    }

    /// The commands of the n-th batch.
    fn commands(self, device: &impl Device, n: u32) -> Vec<u32> {
        let to = Linear { address: device.gm(SURFACES), pitch: PITCH };
        let from = Linear { address: device.gm(SURFACES + LARGE), pitch: PITCH };
        let rect = |x, y, width, height| Rect { x1: x, y1: y, x2: x + width, y2: y + height };
        let mut commands = match self {
            Self::Large => xy_src_copy_blt(to, rect(0, 0, SIDE, SIDE), from, 0, 0).to_vec(),
            Self::Small => (0..SMALL_BLITS)
                .flat_map(|i| {
                    // 100 of the 256 places, in an order that is none of memory's.
                    let (x, y) = (i * 7 % 16 * SMALL, i * 11 % 16 * SMALL);
                    xy_src_copy_blt(to, rect(x, y, SMALL, SMALL), from, y, x)
                })
                .collect(),
            Self::Tables => {
                let new = Linear { address: Self::place(n), pitch: PITCH };
                let before = Linear { address: Self::place(n + PLACES - 1), pitch: PITCH };
                let mut commands = xy_color_blt(new, rect(0, 0, SIDE, 256), n).to_vec();
                commands.extend(xy_src_copy_blt(new, rect(0, 128, SIDE, 128), before, 0, 0));
                commands
            }
        };
        commands.extend([MI_BATCH_BUFFER_END, 0]);
        commands
    }

    /// Readies the n-th batch.
    fn start(self, device: &mut impl Device, n: u32) -> (u64, bool) {
        let page = Self::batch_page(n);
        match self {
            Self::Large | Self::Small => (device.gm(page), false),
            Self::Tables => {
                map(device, n);
                let commands = self.commands(device, n);
                device.write_dwords(page, &commands);
                (((page - BATCHES) * PAGE_SIZE) as u64, true)
            }
        }
    }

    /// What comes before the first batch: where its tables begin, if it has any.
    fn ready(self, device: &mut impl Device) -> Option<Root> {
        if self != Self::Tables {
            for n in 0..IN_FLIGHT {
                let commands = self.commands(device, n);
                device.write_dwords(Self::batch_page(n), &commands);
            }
            return None;
        }
        let [pml4, pdp, pd, first] = [FREE, FREE + 1, FREE + 2, FREE + 3];
        entries(device, pml4, &[pdp]);
        entries(device, pdp, &[pd]);
        entries(device, pd, &(first..first + 1 + PLACES as usize).collect::<Vec<_>>());
        entries(device, first, &(BATCHES..FREE).collect::<Vec<_>>());
        (0..PLACES).for_each(|n| map(device, n));
        Some(Root::FourLevel(device.address(pml4) / PAGE_SIZE as u64))
    }
}

/// Writes a table's first entries.
fn entries(device: &mut impl Device, table: usize, pages: &[usize]) {
    let mut bytes = Vec::with_capacity(8 * ENTRIES);
    pages.iter().for_each(|page| bytes.extend((device.address(*page) | PTE_PRESENT | RW).to_le_bytes()));
    device.write(table, 0, &bytes);
}

/// The surface that the n-th batch draws in.
fn pool(n: u32) -> usize {
    SURFACES + MAPPED * (n as usize % POOL)
}

/// Maps it at its place.
fn map(device: &mut impl Device, n: u32) {
    let pages: Vec<_> = (pool(n)..pool(n) + MAPPED).collect();
    entries(device, FREE + 4 + (n % PLACES) as usize, &pages);
}

/// Whether the surfaces are as so many batches leave them.
fn is_right(work: Work, device: &mut impl Device, batches: u32) -> bool {
    let last = [0, 4 * SIDE as usize - 4];
    match work {
        // Whatever was there, both are the same now.
        Work::Large => (0..LARGE).all(|page| {
            let (mut to, mut from) = ([0; PAGE_SIZE], [1; PAGE_SIZE]);
            device.read(SURFACES + page, 0, &mut to);
            device.read(SURFACES + LARGE + page, 0, &mut from);
            to == from
        }),
        Work::Small => (0..SMALL_BLITS).all(|i| {
            let (x, y) = (usize::from(i * 7 % 16 * SMALL), usize::from(i * 11 % 16 * SMALL));
            device.read32(SURFACES + y, 4 * x) == device.read32(SURFACES + LARGE + x, 4 * y)
        }),
        Work::Tables => (batches - 2..batches).all(|n| {
            let colours = [(0, n), (127, n), (128, n - 1), (255, n - 1)];
            colours
                .iter()
                .all(|(line, colour)| last.iter().all(|at| device.read32(pool(n) + line, *at) == *colour))
        }),
    }
}

/// Marks every pixel of the source.
fn paint(device: &mut impl Device) {
    for page in 0..LARGE {
        let pixels = (0..PAGE_SIZE / 4).map(|x| u32::try_from(page << 16 | x).unwrap_or(0));
        let pixels: Vec<u32> = pixels.collect();
        device.write_dwords(SURFACES + LARGE + page, &pixels);
    }
}

fn driver<D: Device>(work: Work, mut device: D) -> Driver<D> {
    if work != Work::Tables {
        paint(&mut device);
    }
    let root = work.ready(&mut device);
    Driver::new(device, root)
}

/// Measures one.
fn figure(name: &'static str, work: Work, batches: u32, least: f64) -> Result<Figure, String> {
    let processors = Processors::of_this_thread()?;
    let [engines, others] = processors.two()?;
    stay_on(others)?;
    let world = World::for_guests(Profile::Draft, 4);
    let domid = world.domain_of(1, GUEST_FRAMES);
    let service = world.serve(domid);
    let base = service.vgpu().slice().high.base + 4 * MIB;
    let cpu = world.cpu_of(domid, GUEST_FRAMES, &Switch::default());
    let mediated = RefCell::new(driver(work, Mediated::new(cpu, base, PAGES)?));
    let alone = RefCell::new(driver(work, Alone::new(world.native(PAGES))));

    if named_stay_on("gpu-", engines)? < 2 * Engine::ALL.len() {
        return Err("the engines' threads are not found".into());
    }
    let failed = RefCell::new(None);
    let timed = |result: &mut dyn FnMut() -> Result<(), String>| {
        seconds(|| {
            if failed.borrow().is_none()
                && let Err(e) = result()
            {
                failed.replace(Some(e));
            }
        })
    };
    let (ratio, ours, peer) = interleave(
        ROUNDS,
        || timed(&mut || mediated.borrow_mut().run(batches, |device, n| work.start(device, n))),
        || timed(&mut || alone.borrow_mut().run(batches, |device, n| work.start(device, n))),
    );
    // What was measured must have happened, on both sides.
    let stats = service.vgpu().statistics();
    let all = batches * u32::try_from(ROUNDS + 1).map_err(|e| e.to_string())?;
    let (mut mediated, mut alone) = (mediated.into_inner(), alone.into_inner());
    let right = [is_right(work, &mut mediated.device, all), is_right(work, &mut alone.device, all)];
    alone.device.end();
    drop((mediated, service));
    world.end();
    if let Some(why) = failed.into_inner() {
        return Err(format!("{why}; {stats:?}"));
    }
    if right != [true, true] || stats.refusals + stats.gpu_errors + stats.overruns > 0 {
        return Err(format!("what was drawn is wrong: {right:?}, {stats:?}"));
    }
    let us = |s: f64| s * 1e6 / f64::from(batches);
    let detail = format!(
        "a batch {:.1} us, without a mediator {:.1} us; {:.1} batches a submission",
        us(ours),
        us(peer),
        f64::from(all) / stats.submissions as f64,
    );
    // interleave gives seconds; as a speed it is the other way round.
    Ok(Figure { name, ratio: 1.0 / ratio, target: Target::AtLeast(least), detail })
}

/// Measures copies of 4 MiB.
pub(crate) fn large() -> Result<Vec<Figure>, String> {
    figure(LARGE_BLITS[0], Work::Large, 200, 0.97).map(|f| vec![f])
}

/// Copies of 64 x 64 pixels.
pub(crate) fn small() -> Result<Vec<Figure>, String> {
    figure(SMALL_ONES[0], Work::Small, 600, 0.85).map(|f| vec![f])
}

/// Surfaces that are mapped anew.
pub(crate) fn tables() -> Result<Vec<Figure>, String> {
    figure(MAPPED_ANEW[0], Work::Tables, 300, 0.6).map(|f| vec![f])
}
