//! Contexts with tables of their own: what their shadows lead to, while the guest changes its tables and pages go.

mod against_a_walker;
mod tracked;
mod written_by_the_gpu;

use xen_ioreq::{Gfn, PAGE_SIZE};

use super::rig::*;
use crate::gen8::cmd;
use crate::gen8::context::{Descriptor, state};
use crate::gen8::ppgtt::{ENTRY_SIZE, IPS_64K, Level, PS, RW, Root};
use crate::gen8::regs;
use crate::vgpu::display::Scanout;

/// Addresses of the process: a batch and data, each under directories of its own.
const CODE: u64 = 2 << 39 | 3 << 30 | 4 << 21 | 5 << 12;
const DATA_AT: u64 = 200 << 39 | 7 << 30 | 8 << 21 | 9 << 12;
/// The root's number.
const PML4: Gfn = Gfn(0x1000);

/// The tables of a process of a guest's.
struct Process {
    next: u64,
}

impl Process {
    fn new(g: &TestGuest) -> Self {
        g.world.populate(g.domid, PML4);
        Self { next: PML4.0 + 1 }
    }

    /// A guest whose driver has started, and the process.
    fn started(host: &Host) -> (TestGuest, Self) {
        let mut g = host.guest();
        g.start();
        let p = Self::new(&g);
        (g, p)
    }

    fn root() -> Root {
        Root::FourLevel(PML4.0)
    }

    /// A new frame of the guest's.
    fn frame(&mut self, g: &TestGuest) -> Gfn {
        let gfn = Gfn(self.next);
        self.next += 1;
        g.world.populate(g.domid, gfn);
        gfn
    }

    /// The table of a level through which an address goes, made if it is not there.
    fn table(&mut self, g: &TestGuest, level: Level, addr: u64) -> Gfn {
        let mut table = PML4;
        for above in [Level::Pml4, Level::Pdp, Level::Pd] {
            if above == level {
                break;
            }
            let index = above.index(addr);
            if entry(g, table, index) == 0 {
                let below = self.frame(g);
                set(g, table, index, below.addr() | RW | 1);
            }
            table = Gfn(entry(g, table, index) >> 12);
        }
        table
    }

    /// Maps a page.
    fn map(&mut self, g: &TestGuest, addr: u64, gfn: Gfn) {
        let table = self.table(g, Level::Pt, addr);
        set(g, table, Level::Pt.index(addr), gfn.addr() | RW | 1);
    }

    /// Maps a new page.
    fn map_fresh(&mut self, g: &TestGuest, addr: u64) -> Gfn {
        let gfn = self.frame(g);
        self.map(g, addr, gfn);
        gfn
    }
}

fn entry(g: &TestGuest, table: Gfn, index: usize) -> u64 {
    let mut bytes = [0; 8];
    g.world.read(g.domid, table, index * ENTRY_SIZE, &mut bytes);
    u64::from_le_bytes(bytes)
}

fn set(g: &TestGuest, table: Gfn, index: usize, entry: u64) {
    g.world.write(g.domid, table, index * ENTRY_SIZE, &entry.to_le_bytes());
}

fn dword(g: &TestGuest, gfn: Gfn) -> u32 {
    let mut bytes = [0; 4];
    g.world.read(g.domid, gfn, 0, &mut bytes);
    u32::from_le_bytes(bytes)
}

fn own(command: [u32; 4]) -> Vec<u32> {
    let [header, rest @ ..] = command;
    [[header & !cmd::USE_GGTT].as_slice(), &rest].concat()
}

/// Runs a batch of the process's that stores a value.
fn store(g: &mut TestGuest, code: Gfn, addr: u64, value: u32) {
    let batch = [own(cmd::store_dword(addr, value)), vec![cmd::MI_BATCH_BUFFER_END]].concat();
    let bytes: Vec<_> = batch.iter().flat_map(|d| d.to_le_bytes()).collect();
    g.world.write(g.domid, code, 0, &bytes);
    run(g, &start(CODE));
}

fn start(addr: u64) -> Vec<u32> {
    let [header, rest @ ..] = cmd::batch_buffer_start(addr);
    [[header | cmd::BB_PPGTT].as_slice(), &rest].concat()
}

/// Runs a ring in the context of the process.
fn run(g: &mut TestGuest, commands: &[u32]) {
    let before = g.vgpu.statistics().completions;
    for ((upper, lower), pointer) in state::PDPS.into_iter().zip(Process::root().pointers()) {
        let [low, high] = cmd::split(pointer);
        g.set_state(upper, high);
        g.set_state(lower, low);
    }
    g.emit(commands);
    g.submit_raw(g.descriptor().0 | Descriptor::PPGTT, 0);
    g.wait(before + 1);
}

#[test]
fn batch_of_a_process_stores_in_its_pages() {
    let host = Host::new();
    let (mut g, mut p) = Process::started(&host);
    let (code, data) = (p.map_fresh(&g, CODE), p.map_fresh(&g, DATA_AT));
    store(&mut g, code, DATA_AT, 0x1234);
    assert_eq!(dword(&g, data), 0x1234);
}

#[test]
fn entry_that_was_changed_without_a_word_is_seen_by_the_next_context() {
    let host = Host::new();
    let (mut g, mut p) = Process::started(&host);
    let (code, first) = (p.map_fresh(&g, CODE), p.map_fresh(&g, DATA_AT));
    store(&mut g, code, DATA_AT, 1);
    let second = p.map_fresh(&g, DATA_AT);
    store(&mut g, code, DATA_AT, 2);
    assert_eq!((dword(&g, first), dword(&g, second)), (1, 2));
    // A whole subtree, too.
    let pml4_entry = Level::Pml4.index(DATA_AT);
    set(&g, PML4, pml4_entry, 0);
    let third = p.map_fresh(&g, DATA_AT);
    store(&mut g, code, DATA_AT, 3);
    assert_eq!((dword(&g, first), dword(&g, second), dword(&g, third)), (1, 2, 3));
}

#[test]
fn data_page_that_is_ballooned_out_goes_and_comes_back_with_the_same_entry() {
    let host = Host::new();
    let (mut g, mut p) = Process::started(&host);
    let (code, data) = (p.map_fresh(&g, CODE), p.map_fresh(&g, DATA_AT));
    let next = p.map_fresh(&g, DATA_AT + 4096);
    store(&mut g, code, DATA_AT, 1);
    let used = host.world.used();
    g.give_back(data);
    assert_eq!(host.world.used(), used - 1, "the frame is the host's again");
    store(&mut g, code, DATA_AT, 2);
    store(&mut g, code, DATA_AT + 4096, 3);
    assert_eq!(dword(&g, next), 3, "its neighbours are as they were");
    g.world.populate(g.domid, data);
    store(&mut g, code, DATA_AT, 4);
    assert_eq!(dword(&g, data), 4);
}

#[test]
fn table_of_any_level_that_is_ballooned_out_maps_nothing_until_it_is_back() {
    for level in [Level::Pt, Level::Pd, Level::Pdp] {
        let host = Host::new();
        let (mut g, mut p) = Process::started(&host);
        let (code, data) = (p.map_fresh(&g, CODE), p.map_fresh(&g, DATA_AT));
        store(&mut g, code, DATA_AT, 1);
        let table = p.table(&g, level, DATA_AT);
        let index = level.index(DATA_AT);
        let old = entry(&g, table, index);
        let used = host.world.used();
        g.give_back(table);
        assert!(host.world.used() < used, "{level:?}: the frame is the host's again");
        store(&mut g, code, DATA_AT, 2);
        assert_eq!(dword(&g, data), 1, "{level:?}: it maps nothing");
        g.world.populate(g.domid, table);
        set(&g, table, index, old);
        store(&mut g, code, DATA_AT, 3);
        assert_eq!(dword(&g, data), 3, "{level:?}: it maps what it did");
    }
}

#[test]
fn root_that_is_ballooned_out_ends_the_context_and_its_frames_are_free() {
    let host = Host::new();
    let (mut g, mut p) = Process::started(&host);
    let code = p.map_fresh(&g, CODE);
    p.map_fresh(&g, DATA_AT);
    store(&mut g, code, DATA_AT, 1);
    g.give_back(PML4);
    assert_eq!(g.vgpu.statistics().live_process_mappings, 0);
    let before = g.vgpu.statistics().refusals;
    g.emit(&start(CODE));
    g.submit_raw(g.descriptor().0 | Descriptor::PPGTT, 0);
    eventually("the context is refused", || g.vgpu.statistics().refusals > before);
}

#[test]
fn picture_of_a_process_is_read_line_by_line_from_where_its_tables_lead() {
    let host = Host::new();
    let (mut g, mut p) = Process::started(&host);
    let code = p.map_fresh(&g, CODE);
    // Two lines, each at the end of a page of its own.
    let pages = [p.map_fresh(&g, DATA_AT), p.map_fresh(&g, DATA_AT + 4096)];
    for (n, page) in (0u8..).zip(pages) {
        g.world.write(g.domid, page, 4088, &[n + 1; 8]);
    }
    let picture = Scanout { width: 2, height: 2, stride: 4096, address: DATA_AT + 4088 };
    assert_eq!(g.vgpu.process_surface(picture), None, "no context has had these tables");
    store(&mut g, code, DATA_AT, 1);
    let seen = |g: &TestGuest| g.vgpu.process_surface(picture).map(|s| (s.missing_pages, s.bgrx));
    assert_eq!(seen(&g), Some((0, [[1; 8], [2; 8]].concat())));
    let middle = Scanout { height: 3, stride: 2048, ..picture };
    g.world.write(g.domid, pages[1], 4088 - 2048, &[3; 8]);
    g.give_back(pages[0]);
    assert_eq!(seen(&g), None, "it does not begin there any more");
    g.world.populate(g.domid, pages[0]);
    store(&mut g, code, DATA_AT, 1);
    let lines = g.vgpu.process_surface(middle).map(|s| (s.missing_pages, s.bgrx));
    assert_eq!(lines, Some((0, [[0; 8], [3; 8], [2; 8]].concat())));
}

#[test]
fn picture_is_taken_from_the_process_that_has_memory_there_and_not_from_one_page_for_all() {
    let host = Host::new();
    let (mut g, mut p) = Process::started(&host);
    let code = p.map_fresh(&g, CODE);
    let page = p.map_fresh(&g, DATA_AT);
    p.map(&g, DATA_AT + 4096, page);
    store(&mut g, code, DATA_AT, 1);
    let picture = Scanout { width: 1, height: 2, stride: 4096, address: DATA_AT };
    assert_eq!(g.vgpu.process_surface(picture), None, "it has one page there, over and over");
    let one = g.vgpu.process_surface(Scanout { height: 1, ..picture });
    assert_eq!(one.map(|s| s.bgrx), Some(vec![1, 0, 0, 0]));
}

#[test]
fn tables_go_when_the_guest_says_so_and_all_frames_are_let_go() {
    let host = Host::new();
    let (mut g, mut p) = Process::started(&host);
    let (code, data) = (p.map_fresh(&g, CODE), p.map_fresh(&g, DATA_AT));
    store(&mut g, code, DATA_AT, 1);
    assert!(g.vgpu.statistics().live_process_mappings >= 9, "7 tables, 2 pages");
    for (offset, value) in
        [(0x78838, PML4.addr() as u32), (0x7883c, 0), (0x78818, regs::G2V_PPGTT_L4_DESTROY)]
    {
        g.set_reg(offset, value);
    }
    g.vgpu.settle();
    assert_eq!(g.vgpu.statistics().live_process_mappings, 0);
    assert!(host.world.mapped_at(g.domid, data).is_empty());
    // It may be used again at once.
    store(&mut g, code, DATA_AT, 2);
    assert_eq!(dword(&g, data), 2);
}

#[test]
fn large_entries_map_every_page_of_their_reach_that_is_there() {
    let host = Host::new();
    let (mut g, mut p) = Process::started(&host);
    let code = p.map_fresh(&g, CODE);
    // 2 MiB, of which two pages are there.
    let base = Gfn(0x2000);
    for n in [0, 0x1ff] {
        g.world.populate(g.domid, Gfn(base.0 + n));
    }
    let directory = p.table(&g, Level::Pd, DATA_AT);
    set(&g, directory, Level::Pd.index(DATA_AT), base.addr() | PS | RW | 1);
    let start_of = DATA_AT & !0x1f_ffff;
    for (n, value) in [(0, 1), (0x1ff, 2), (5, 3)] {
        store(&mut g, code, start_of + n * PAGE_SIZE as u64, value);
    }
    assert_eq!((dword(&g, base), dword(&g, Gfn(base.0 + 0x1ff))), (1, 2));
    // 64 KiB: the first entry counts for 16.
    let table = p.frame(&g);
    let base = Gfn(0x3000);
    (0..16).for_each(|n| g.world.populate(g.domid, Gfn(base.0 + n)));
    set(&g, table, 32, base.addr() | RW | 1);
    set(&g, directory, Level::Pd.index(DATA_AT), table.addr() | IPS_64K | RW | 1);
    for n in [0, 7, 15] {
        store(&mut g, code, start_of + (32 + n) * PAGE_SIZE as u64, 0x100 + n as u32);
        assert_eq!(dword(&g, Gfn(base.0 + n)), 0x100 + n as u32);
    }
}

#[test]
fn guest_with_more_tables_than_it_may_have_is_refused_and_can_go_on_with_fewer() {
    let host = Host::new();
    let (mut g, mut p) = Process::started(&host);
    let (code, data) = (p.map_fresh(&g, CODE), p.map_fresh(&g, DATA_AT));
    // One page as 512 directories, each with as many tables.
    let directory = p.frame(&g);
    for n in 0..512u64 {
        set(&g, directory, n as usize, (0x4000 + n) << 12 | RW | 1);
    }
    for n in 0..8 {
        let above = p.frame(&g);
        (0..512).for_each(|i| set(&g, above, i, (0x8000 + 512 * n + i as u64) << 12 | RW | 1));
        set(&g, PML4, 300 + n as usize, above.addr() | RW | 1);
    }
    let before = g.vgpu.statistics();
    g.set_state(state::PDP0_L, PML4.addr() as u32);
    g.emit(&start(CODE));
    g.submit_raw(g.descriptor().0 | Descriptor::PPGTT, 0);
    eventually("the context is given up", || g.idle());
    assert_eq!(g.vgpu.statistics().completions, before.completions);
    (0..8).for_each(|n| set(&g, PML4, 300 + n, 0));
    g.reset();
    store(&mut g, code, DATA_AT, 5);
    assert_eq!(dword(&g, data), 5);
}

#[test]
fn vgpu_that_goes_leaves_no_frame_behind_whatever_its_tables_map() {
    let mut host = Host::new();
    let used = host.used_before;
    let (mut g, mut p) = Process::started(&host);
    let code = p.map_fresh(&g, CODE);
    for n in 0..600 {
        p.map_fresh(&g, DATA_AT + n * PAGE_SIZE as u64);
    }
    store(&mut g, code, DATA_AT, 1);
    host.mediator().destroy(g.vgpu.id()).unwrap();
    let (world, domid) = (g.world.clone(), g.domid);
    world.depopulate(domid);
    drop(host.mediator.take());
    assert_eq!(world.used(), used);
}
