//! Tables that the GPU itself writes: by each command that can, through the process's addresses and through the GGTT. What it
//! wrote counts for the next context, whoever watched.

use super::*;
use crate::gen8::blt::{Rect, XyColorBlt};
use crate::gen8::cmd::{AtomicOp, AtomicSize};

/// Where the process has its own page table mapped.
const TABLE_AT: u64 = DATA_AT + (1 << 21);
/// A register of the blitter's for general use.
const GPR: u32 = BCS + 0x600;

/// Commands that make an entry at an address lead to a frame, the address being one of the process's or of the GGTT. The entry
/// leads to its neighbour before.
type Writes = fn(at: u64, entry: u64) -> Vec<u32>;

fn low(value: u64) -> u32 {
    cmd::split(value)[0]
}

const WAYS: [(&str, Writes); 6] = [
    ("MI_STORE_DATA_IMM", |at, entry| cmd::store_dword(at, low(entry)).to_vec()),
    ("MI_STORE_DATA_IMM of 8 bytes", |at, entry| cmd::store_qword(at, entry).to_vec()),
    ("MI_STORE_REGISTER_MEM", |at, entry| {
        [cmd::load_register_imm(GPR, low(entry)).as_slice(), &cmd::store_register_mem(GPR, at)].concat()
    }),
    ("MI_FLUSH_DW", |at, entry| cmd::flush_dw_store(at, low(entry)).to_vec()),
    ("MI_ATOMIC", |at, entry| cmd::atomic(at, AtomicOp::Move, AtomicSize::Qword, entry, 0)),
    ("XY_COLOR_BLT", |at, entry| {
        let pixel = Rect { x1: 0, y1: 0, x2: 1, y2: 1 };
        XyColorBlt::fill(at, 64, pixel, low(entry)).encode().to_vec()
    }),
];

/// The commands as a process has them, whose addresses are its own.
fn of_process(commands: Vec<u32>) -> Vec<u32> {
    let mut rest = commands.as_slice();
    let mut out = Vec::new();
    while let Some(header) = rest.first() {
        let decoded = cmd::decode(*header).unwrap();
        let (now, later) = rest.split_at(decoded.dwords as usize);
        let mut command = now.to_vec();
        match decoded.name() {
            "MI_FLUSH_DW" => command[1] &= !cmd::FLUSH_DW_USE_GTT,
            name if name.starts_with("MI_") && name != "MI_LOAD_REGISTER_IMM" => command[0] &= !cmd::USE_GGTT,
            _ => {}
        }
        out.extend(command);
        rest = later;
    }
    out
}

#[test]
fn entry_that_a_batch_writes_through_the_process_leads_there_for_the_next_context() {
    for (name, writes) in WAYS {
        let host = Host::new();
        let (mut g, mut p) = Process::started(&host);
        let (code, first) = (p.map_fresh(&g, CODE), p.map_fresh(&g, DATA_AT));
        let table = p.table(&g, Level::Pt, DATA_AT);
        p.map(&g, TABLE_AT, table);
        store(&mut g, code, DATA_AT, 1);
        let second = p.frame(&g);
        let at = TABLE_AT + (Level::Pt.index(DATA_AT) * ENTRY_SIZE) as u64;
        let mut batch = of_process(writes(at, second.addr() | RW | 1));
        batch.push(cmd::MI_BATCH_BUFFER_END);
        let bytes: Vec<_> = batch.iter().flat_map(|d| d.to_le_bytes()).collect();
        g.world.write(g.domid, code, 0, &bytes);
        run(&mut g, &start(CODE));
        assert_eq!(
            entry(&g, table, Level::Pt.index(DATA_AT)),
            second.addr() | RW | 1,
            "{name}: it is written"
        );
        store(&mut g, code, DATA_AT, 2);
        assert_eq!((dword(&g, first), dword(&g, second)), (1, 2), "{name}");
    }
}

#[test]
fn entry_that_a_ring_writes_through_the_ggtt_leads_there_for_the_next_context() {
    for (name, writes) in WAYS.iter().filter(|(name, _)| !name.starts_with("XY_")) {
        let host = Host::new();
        let (mut g, mut p) = Process::started(&host);
        let (code, first) = (p.map_fresh(&g, CODE), p.map_fresh(&g, DATA_AT));
        let table = p.table(&g, Level::Pt, DATA_AT);
        store(&mut g, code, DATA_AT, 1);
        // From now on the GPU reaches it; before, nobody did but the guest.
        g.write_pte(g.gm(DATA), table.addr() | 1);
        let second = p.frame(&g);
        let at = g.gm(DATA) + (Level::Pt.index(DATA_AT) * ENTRY_SIZE) as u64;
        run(&mut g, &writes(at, second.addr() | RW | 1));
        g.write_pte(g.gm(DATA), 0);
        store(&mut g, code, DATA_AT, 2);
        assert_eq!((dword(&g, first), dword(&g, second)), (1, 2), "{name}");
    }
}
