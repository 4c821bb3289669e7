//! Tables that the GPU itself writes: by each command that can, through the process's addresses and through the GGTT. What it
//! wrote counts for the next context, whoever watched.

use super::*;
use crate::gen8::blt::{FastDepth, FastSurface, FastTiling, Rect, XyColorBlt, XyFastCopyBlt};
use crate::gen8::cmd::{AtomicOp, AtomicSize};
use crate::physical::Engine;

/// Where the process has its own page table mapped.
const TABLE_AT: u64 = DATA_AT + (1 << 21);
/// A register of the blitter's for general use.
const GPR: u32 = BCS + 0x600;

/// Commands that write an entry to an address, or the low half of it, the address being one of the process's or of the GGTT. The entry
/// leads to its neighbour before. It is at `from`, too.
type Writes = fn(at: u64, from: u64, entry: u64) -> Vec<u32>;

/// A way by which the GPU writes.
#[derive(Clone, Copy)]
pub(super) struct Way {
    name: &'static str,
    engine: Engine,
    writes: Writes,
}

impl Way {
    const fn of(engine: Engine, name: &'static str, writes: Writes) -> Self {
        Self { name, engine, writes }
    }

    /// The commands, for the GGTT's addresses, on the engine that has them.
    pub(super) fn begin(&self, g: &mut TestGuest, at: u64, from: u64, entry: u64) -> Vec<u32> {
        g.move_to(self.engine);
        (self.writes)(at, from, entry)
    }
}

fn low(value: u64) -> u32 {
    cmd::split(value)[0]
}

pub(super) const WAYS: [Way; 11] = [
    Way::of(Engine::Bcs, "MI_STORE_DATA_IMM", |at, _, entry| cmd::store_dword(at, low(entry)).to_vec()),
    Way::of(Engine::Bcs, "MI_STORE_DATA_IMM of 8 bytes", |at, _, entry| cmd::store_qword(at, entry).to_vec()),
    Way::of(Engine::Bcs, "MI_STORE_REGISTER_MEM", |at, _, entry| {
        [cmd::load_register_imm(GPR, low(entry)).as_slice(), &cmd::store_register_mem(GPR, at)].concat()
    }),
    Way::of(Engine::Bcs, "MI_FLUSH_DW", |at, _, entry| cmd::flush_dw_store(at, low(entry)).to_vec()),
    Way::of(Engine::Bcs, "MI_ATOMIC", |at, _, entry| {
        cmd::atomic(at, AtomicOp::Move, AtomicSize::Qword, entry, 0)
    }),
    Way::of(Engine::Bcs, "XY_COLOR_BLT", |at, _, entry| {
        let pixel = Rect { x1: 0, y1: 0, x2: 1, y2: 1 };
        XyColorBlt::fill(at, 64, pixel, low(entry)).encode().to_vec()
    }),
    Way::of(Engine::Bcs, "XY_SRC_COPY_BLT", |at, from, _| {
        let pixel = guest::cmd::Rect { x1: 0, y1: 0, x2: 1, y2: 1 };
        let linear = |address| guest::cmd::Linear { address, pitch: 64 };
        guest::cmd::xy_src_copy_blt(linear(at), pixel, linear(from), 0, 0).to_vec()
    }),
    Way::of(Engine::Bcs, "XY_FAST_COPY_BLT", |at, from, _| fast_copy(at, from)),
    Way::of(Engine::Bcs, "MI_COPY_MEM_MEM", |at, from, _| {
        let header = COPY_MEM_MEM | cmd::USE_GGTT | cmd::COPY_DST_GGTT;
        [[header].as_slice(), &cmd::split(at), &cmd::split(from)].concat()
    }),
    Way::of(Engine::Rcs, "PIPE_CONTROL", |at, _, entry| cmd::pipe_control_store(at, entry).to_vec()),
    Way::of(Engine::Rcs, "MI_STORE_DATA_IMM of the render engine", |at, _, entry| {
        cmd::store_qword(at, entry).to_vec()
    }),
];

/// MI_COPY_MEM_MEM, of 5 dwords.
const COPY_MEM_MEM: u32 = 0x2e << 23 | 3;

/// One pixel, by a command whose surfaces begin at a multiple of 64 bytes.
fn fast_copy(at: u64, from: u64) -> Vec<u32> {
    let surface = |at: u64| FastSurface { base: at & !63, pitch: 64, tiling: FastTiling::Linear };
    let x = |at: u64| i16::try_from(at % 64 / 4).unwrap();
    let rect = Rect { x1: x(at), y1: 0, x2: x(at) + 1, y2: 1 };
    let (dst, src) = (surface(at), surface(from));
    XyFastCopyBlt { depth: FastDepth::Bpp32, dst, rect, src, src_x: x(from), src_y: 0 }.encode().to_vec()
}

/// The commands as a process has them, whose addresses are its own.
fn of_process(commands: Vec<u32>) -> Vec<u32> {
    let mut rest = commands.as_slice();
    let mut out = Vec::new();
    while let Some(header) = rest.first() {
        let decoded = cmd::decode(*header).unwrap();
        let (now, later) = rest.split_at(decoded.dwords as usize);
        let mut command = now.to_vec();
        match decoded.name() {
            "MI_COPY_MEM_MEM" => command[0] &= !(cmd::USE_GGTT | cmd::COPY_DST_GGTT),
            "MI_FLUSH_DW" => command[1] &= !cmd::FLUSH_DW_USE_GTT,
            "PIPE_CONTROL" => command[1] &= !cmd::PIPE_CONTROL_GLOBAL_GTT,
            name if name.starts_with("MI_") && name != "MI_LOAD_REGISTER_IMM" => command[0] &= !cmd::USE_GGTT,
            _ => {}
        }
        out.extend(command);
        rest = later;
    }
    out
}

/// With tables that are compared, tracked at once, and tracked after a while.
const QUIET: [Option<u32>; 3] = [None, Some(0), Some(2)];
/// Where the process, or the guest, has a page with what is copied.
const SOURCE_AT: u64 = DATA_AT + (2 << 21);
const SOURCE: u64 = DATA + 0x1000;

/// A guest whose tables are tracked, its process, and the pages of that: code and data.
fn tracked(host: &Host, quiet: Option<u32>) -> (TestGuest, Process, Gfn, Gfn) {
    let (mut g, mut p) = Process::started(host);
    quiet.into_iter().for_each(|quiet| g.track(quiet));
    let (code, first) = (p.map_fresh(&g, CODE), p.map_fresh(&g, DATA_AT));
    for _ in 0..4 {
        store(&mut g, code, DATA_AT, 1);
    }
    (g, p, code, first)
}

#[test]
fn entry_that_a_batch_writes_through_the_process_leads_there_for_the_next_context() {
    for (quiet, way) in QUIET.iter().flat_map(|quiet| WAYS.map(|way| (*quiet, way))) {
        let name = way.name;
        let host = Host::new();
        let (mut g, mut p, code, first) = tracked(&host, quiet);
        let table = p.table(&g, Level::Pt, DATA_AT);
        assert_eq!(g.world.trapped(g.domid).contains(&table), quiet.is_some(), "{quiet:?}");
        let source = p.map_fresh(&g, SOURCE_AT);
        // The table is reached from here on, though it was tracked before.
        p.map(&g, TABLE_AT, table);
        store(&mut g, code, DATA_AT, 1);
        let second = p.frame(&g);
        let entry_of = second.addr() | RW | 1;
        g.world.write(g.domid, source, 0, &entry_of.to_le_bytes());
        let at = TABLE_AT + (Level::Pt.index(DATA_AT) * ENTRY_SIZE) as u64;
        let mut batch = of_process(way.begin(&mut g, at, SOURCE_AT, entry_of));
        batch.push(cmd::MI_BATCH_BUFFER_END);
        let bytes: Vec<_> = batch.iter().flat_map(|d| d.to_le_bytes()).collect();
        g.world.write(g.domid, code, 0, &bytes);
        run(&mut g, &start(CODE));
        assert_eq!(entry(&g, table, Level::Pt.index(DATA_AT)), entry_of, "{name}: it is written");
        store(&mut g, code, DATA_AT, 2);
        assert_eq!((dword(&g, first), dword(&g, second)), (1, 2), "{name} {quiet:?}");
    }
}

#[test]
fn entry_that_a_ring_writes_through_the_ggtt_leads_there_for_the_next_context() {
    let ways = WAYS.into_iter().filter(|way| !way.name.starts_with("XY_"));
    for (way, quiet) in ways.flat_map(|way| QUIET.map(|quiet| (way, quiet))) {
        let name = way.name;
        let host = Host::new();
        let (mut g, mut p, code, first) = tracked(&host, quiet);
        let table = p.table(&g, Level::Pt, DATA_AT);
        // From now on the GPU reaches it; before, nobody did but the guest.
        g.write_pte(g.gm(DATA), table.addr() | 1);
        let second = p.frame(&g);
        let entry_of = second.addr() | RW | 1;
        g.world.write(g.domid, g.gfn(SOURCE), 0, &entry_of.to_le_bytes());
        let at = g.gm(DATA) + (Level::Pt.index(DATA_AT) * ENTRY_SIZE) as u64;
        let from = g.gm(SOURCE);
        let commands = way.begin(&mut g, at, from, entry_of);
        run(&mut g, &commands);
        g.write_pte(g.gm(DATA), 0);
        store(&mut g, code, DATA_AT, 2);
        assert_eq!((dword(&g, first), dword(&g, second)), (1, 2), "{name} {quiet:?}");
    }
}
