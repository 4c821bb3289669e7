//! Contexts with tables of their own, on an engine of the GPU.

use xen_ioreq::{Bfn, PAGE_SIZE};

use crate::gen8::blt::{Depth, ROP_SRCCOPY, Rect, Surface, XyColorBlt, XySrcCopyBlt};
use crate::gen8::cmd;
use crate::gen8::ppgtt::{ENTRY_SIZE, Level, RW, Root};
use crate::physical::{Engine, PhysicalGpu};
use crate::soft::rig::Rig;

/// A graphics address that every level translates.
const VA: u64 = 3 << 39 | 5 << 30 | 7 << 21 | 9 << 12;
/// Pages of the rig that hold tables and data.
const PAGES: u64 = 64;
/// Marks a store as one to the context's own memory.
const OWN: u32 = !cmd::USE_GGTT;

/// A rig whose free pages are handed out one by one as tables and data.
struct Tables {
    rig: Rig,
    next: u64,
    pml4: u64,
}

impl Tables {
    fn new(engine: Engine) -> Self {
        let rig = Rig::new(engine, PAGES * PAGE_SIZE as u64).unwrap();
        let mut this = Self { rig, next: 0, pml4: 0 };
        this.pml4 = this.frame();
        this.rig.set_root(Root::FourLevel(this.pml4));
        this
    }

    /// A frame that nothing else uses; the GGTT maps it, too.
    fn frame(&mut self) -> u64 {
        let page = Rig::FREE / PAGE_SIZE as u64 + self.next;
        self.next += 1;
        self.rig.gpu.ggtt_read(u32::try_from(page).unwrap()).unwrap().0
    }

    fn entry(&self, frame: u64, index: usize) -> u64 {
        let mut bytes = [0; 8];
        self.rig.bus.read(Bfn(frame), ENTRY_SIZE * index, &mut bytes);
        u64::from_le_bytes(bytes)
    }

    fn set(&self, frame: u64, index: usize, entry: u64) {
        self.rig.bus.write(Bfn(frame), ENTRY_SIZE * index, &entry.to_le_bytes());
    }

    /// Maps the page of `addr` to a frame, making tables on the way.
    fn map(&mut self, addr: u64, frame: u64, flags: u64) {
        let mut table = self.pml4;
        for level in [Level::Pml4, Level::Pdp, Level::Pd] {
            let index = level.index(addr);
            if self.entry(table, index) == 0 {
                let below = self.frame();
                self.set(table, index, below << 12 | RW | 1);
            }
            table = self.entry(table, index) >> 12;
        }
        self.set(table, Level::Pt.index(addr), frame << 12 | flags | 1);
    }

    /// Maps fresh frames at `addr`, writable.
    fn map_fresh(&mut self, addr: u64, pages: u64) -> Vec<u64> {
        let frames: Vec<_> = (0..pages).map(|_| self.frame()).collect();
        for (n, frame) in (0..).zip(&frames) {
            self.map(addr + n * PAGE_SIZE as u64, *frame, RW);
        }
        frames
    }

    fn dword(&self, frame: u64, offset: usize) -> u32 {
        let mut bytes = [0; 4];
        self.rig.bus.read(Bfn(frame), offset, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    fn write(&self, frame: u64, dwords: &[u32]) {
        let bytes: Vec<_> = dwords.iter().flat_map(|d| d.to_le_bytes()).collect();
        self.rig.bus.write(Bfn(frame), 0, &bytes);
    }
}

fn own_store(addr: u64, value: u32) -> Vec<u32> {
    let [header, rest @ ..] = cmd::store_dword(addr, value);
    [[header & OWN].as_slice(), &rest].concat()
}

fn own_batch(addr: u64) -> Vec<u32> {
    let [header, rest @ ..] = cmd::batch_buffer_start(addr);
    [[header | cmd::BB_PPGTT].as_slice(), &rest].concat()
}

#[test]
fn store_goes_to_the_contexts_own_page_or_the_gpus_as_its_bit_says() {
    for engine in Engine::ALL {
        let mut t = Tables::new(engine);
        let data = t.map_fresh(VA, 1)[0];
        // The same number is a GGTT address, too.
        let shared = Rig::FREE + 50 * PAGE_SIZE as u64;
        let own = t.map_fresh(shared, 1)[0];
        let mut ring = own_store(VA + 16, 1);
        ring.extend(own_store(shared, 2));
        ring.extend(cmd::store_dword(shared, 3));
        t.rig.run(&ring).unwrap();
        assert_eq!((t.dword(data, 16), t.dword(own, 0), t.rig.read32(shared)), (1, 2, 3), "{engine:?}");
    }
}

#[test]
fn batch_is_fetched_from_the_contexts_own_pages_across_their_border() {
    let mut t = Tables::new(Engine::Vecs);
    let pages = t.map_fresh(VA, 2);
    let data = t.map_fresh(VA + (1 << 30), 1)[0];
    let mut batch = vec![cmd::MI_NOOP; 1022];
    batch.extend(own_store(VA + (1 << 30), 7));
    batch.push(cmd::MI_BATCH_BUFFER_END);
    t.write(pages[0], &batch[..1024]);
    t.write(pages[1], &batch[1024..]);
    t.rig.run(&own_batch(VA)).unwrap();
    assert_eq!(t.dword(data, 0), 7);
}

#[test]
fn batch_of_the_context_cannot_chain_to_one_of_the_gpus() {
    let mut t = Tables::new(Engine::Bcs);
    let first = t.map_fresh(VA, 1)[0];
    let target = Rig::FREE + 50 * PAGE_SIZE as u64;
    let (own, data) = (t.map_fresh(target, 1)[0], t.map_fresh(VA + (1 << 30), 1)[0]);
    t.write(first, &cmd::batch_buffer_start(target));
    let end = |value| [own_store(VA + (1 << 30), value), vec![cmd::MI_BATCH_BUFFER_END]].concat();
    t.write(own, &end(1));
    let shared: Vec<_> = end(2).iter().flat_map(|d| d.to_le_bytes()).collect();
    t.rig.write(target, &shared);
    t.rig.run(&own_batch(VA)).unwrap();
    assert_eq!(t.dword(data, 0), 1);
}

#[test]
fn blit_means_the_contexts_own_surfaces() {
    let mut t = Tables::new(Engine::Bcs);
    let (a, b) = (t.map_fresh(VA, 2), t.map_fresh(VA + (1 << 39), 2));
    let rect = Rect { x1: 0, y1: 0, x2: 16, y2: 128 };
    let fill = XyColorBlt::fill(VA, 64, rect, 0x1234_5678);
    let copy = XySrcCopyBlt {
        depth: Depth::Bpp32,
        rop: ROP_SRCCOPY,
        rect,
        dst: Surface { base: VA + (1 << 39), pitch: 64, tiled: false },
        src: fill.dst,
        src_x: 0,
        src_y: 0,
        clip: false,
        write_alpha: true,
        write_rgb: true,
    };
    t.rig.run(&[fill.encode().as_slice(), &copy.encode()].concat()).unwrap();
    for page in [a[0], a[1], b[0], b[1]] {
        assert_eq!((t.dword(page, 0), t.dword(page, 4092)), (0x1234_5678, 0x1234_5678));
    }
}

#[test]
fn store_to_a_read_only_page_is_lost_and_the_engine_goes_on() {
    let mut t = Tables::new(Engine::Rcs);
    let page = t.frame();
    t.map(VA, page, 0);
    let after = t.map_fresh(VA + 4096, 1)[0];
    t.write(page, &[5]);
    t.rig.run(&[own_store(VA, 6), own_store(VA + 4096, 7)].concat()).unwrap();
    assert_eq!((t.dword(page, 0), t.dword(after, 0)), (5, 7));
}

#[test]
fn address_that_no_table_maps_stops_the_engine() {
    for addr in [VA + 4096, VA + (1 << 39)] {
        let mut t = Tables::new(Engine::Rcs);
        t.map_fresh(VA, 1);
        t.rig.run(&own_store(addr, 1)).unwrap_err();
    }
}

#[test]
fn other_tables_are_another_space_and_a_changed_entry_is_seen_after_the_flush() {
    let mut t = Tables::new(Engine::Bcs);
    let one = t.map_fresh(VA, 1)[0];
    t.rig.run(&own_store(VA, 1)).unwrap();
    // Another root with the same tables but for the last.
    let (first, second) = (t.pml4, t.frame());
    t.pml4 = second;
    let two = t.map_fresh(VA, 1)[0];
    t.rig.set_root(Root::FourLevel(second));
    t.rig.run(&own_store(VA, 2)).unwrap();
    assert_eq!((t.dword(one, 0), t.dword(two, 0)), (1, 2));
    t.pml4 = first;
    t.map(VA, two, RW);
    t.rig.set_root(Root::FourLevel(first));
    t.rig.gpu.ggtt_flush();
    t.rig.run(&own_store(VA, 3)).unwrap();
    assert_eq!((t.dword(one, 0), t.dword(two, 0)), (1, 3));
}

#[test]
fn three_level_tables_begin_at_the_directories() {
    let mut t = Tables::new(Engine::Bcs);
    let (pd, pt, data) = (t.frame(), t.frame(), t.frame());
    t.set(pd, 511, pt << 12 | RW | 1);
    t.set(pt, 0, data << 12 | RW | 1);
    t.rig.set_root(Root::ThreeLevel([0, 0, pd, 0]));
    t.rig.run(&own_store(2 << 30 | 511 << 21, 9)).unwrap();
    assert_eq!(t.dword(data, 0), 9);
}
