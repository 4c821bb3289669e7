//! A table that is the guest's own memory: written without a trap, looked at when the guest flushes.

use proptest::prelude::*;
use xen_ioreq::{Bfn, Gfn, PAGE_SIZE};

use super::rig::*;
use crate::gen8::cmd;
use crate::gen8::gtt::PTE_SIZE;
use crate::physical::PhysicalGpu;

/// First frame of the table.
const TABLE: Gfn = Gfn(0x8_0000);
const FLUSH: u32 = 0x101008;

/// The table's page of the slice's first entries, and the first of them in it.
fn place(gm: u64) -> (Gfn, usize) {
    let byte = gm / PAGE_SIZE as u64 * u64::from(PTE_SIZE);
    (Gfn(TABLE.0 + byte / PAGE_SIZE as u64), (byte % PAGE_SIZE as u64) as usize)
}

/// Gives the guest a table, with what is mapped already.
fn lend(g: &TestGuest) {
    for part in [g.vgpu.slice().low, g.vgpu.slice().high] {
        for gm in (part.base..part.end()).step_by(PAGE_SIZE) {
            let (page, at) = place(gm);
            if g.world.mfn(g.domid, page).is_none() {
                g.world.populate(g.domid, page);
            }
            let entry = g.vgpu.mmio_read(TestGuest::entry(gm), 8);
            g.world.write(g.domid, page, at, &entry.to_le_bytes());
        }
    }
    g.vgpu.lend_table(TABLE);
}

fn set(g: &TestGuest, gm: u64, entry: u64) {
    let (page, at) = place(gm);
    g.world.write(g.domid, page, at, &entry.to_le_bytes());
}

#[test]
fn entry_counts_from_the_flush_on_and_none_of_its_writes_traps() {
    let host = Host::new();
    let mut g = host.guest();
    g.start();
    lend(&g);
    g.set_reg(FLUSH, 1);
    let (traps, writes) = (g.vgpu.statistics().mmio_accesses, g.vgpu.statistics().pte_writes);
    let other = Gfn(0x9_0000);
    g.world.populate(g.domid, other);
    set(&g, g.gm(DATA), other.addr() | 1);
    assert_eq!(g.vgpu.statistics().mmio_accesses, traps, "memory does not trap");
    g.run(&cmd::store_dword(g.gm(DATA), 1));
    assert_eq!(g.read32(DATA), 1, "the translation is cached until the flush");
    g.set_reg(FLUSH, 1);
    g.run(&cmd::store_dword(g.gm(DATA), 2));
    let mut bytes = [0; 4];
    g.world.read(g.domid, other, 0, &mut bytes);
    assert_eq!((g.read32(DATA), u32::from_le_bytes(bytes)), (1, 2));
    assert_eq!(g.vgpu.statistics().pte_writes, writes);
}

#[test]
fn context_runs_from_entries_that_were_absent_and_never_flushed() {
    let host = Host::new();
    let mut g = host.guest();
    lend(&g);
    for page in 0..0x20 {
        let offset = page * PAGE_SIZE as u64;
        g.world.populate(g.domid, g.gfn(offset));
        set(&g, g.gm(offset), g.gfn(offset).addr() | 1);
    }
    g.init_engine();
    g.run(&cmd::store_dword(g.gm(DATA), 7));
    assert_eq!(g.read32(DATA), 7);
}

#[test]
fn page_of_the_table_that_is_ballooned_out_holds_nothing_and_its_frame_is_free() {
    let host = Host::new();
    let mut g = host.guest();
    g.start();
    lend(&g);
    g.set_reg(FLUSH, 1);
    let live = g.vgpu.statistics().live_mappings;
    let (page, _) = place(g.gm(0));
    let used = host.world.used();
    g.give_back(page);
    assert_eq!(host.world.used(), used - 1);
    g.set_reg(FLUSH, 1);
    assert!(g.vgpu.statistics().live_mappings < live, "what it mapped is mapped no more");
}

#[test]
fn frame_that_goes_and_comes_is_mapped_again_at_the_next_flush_by_the_same_entry() {
    let host = Host::new();
    let mut g = host.guest();
    g.start();
    lend(&g);
    g.set_reg(FLUSH, 1);
    g.give_back(g.gfn(DATA));
    g.world.populate(g.domid, g.gfn(DATA));
    g.set_reg(FLUSH, 1);
    g.run(&cmd::store_dword(g.gm(DATA), 9));
    assert_eq!(g.read32(DATA), 9);
}

#[derive(Clone, Debug)]
enum Act {
    /// Entry, the frame that it leads to, present.
    Set(u64, u64, bool),
    Balloon(u64),
    /// A page of the table goes or comes.
    Page,
    Flush,
}

const FRAMES: u64 = 8;

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        6 => (0..24u64, 0..FRAMES, any::<bool>()).prop_map(|(e, f, p)| Act::Set(e, f, p)),
        2 => (0..FRAMES).prop_map(Act::Balloon),
        1 => Just(Act::Page),
        3 => Just(Act::Flush),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn after_a_flush_the_shadow_is_what_the_memory_says(acts in prop::collection::vec(act(), 1..120)) {
        let mut host = Host::new();
        let g = host.guest();
        lend(&g);
        (0..FRAMES).for_each(|n| g.world.populate(g.domid, Gfn(n)));
        let base = (g.gm(0) >> 12) as u32;
        let scratch = host.gpu.ggtt_read(base).unwrap();
        let (page, at) = place(g.gm(0));
        for act in acts {
            let there = |gfn| g.world.mfn(g.domid, gfn);
            match act {
                Act::Set(entry, frame, present) if there(page).is_some() => {
                    set(&g, g.gm(entry << 12), frame << 12 | u64::from(present));
                }
                Act::Set(..) => {}
                Act::Balloon(n) if there(Gfn(n)).is_some() => g.give_back(Gfn(n)),
                Act::Balloon(n) => g.world.populate(g.domid, Gfn(n)),
                Act::Page if there(page).is_some() => g.give_back(page),
                Act::Page => g.world.populate(g.domid, page),
                Act::Flush => {
                    g.set_reg(FLUSH, 1);
                    for entry in 0..24 {
                        let mut bytes = [0; 8];
                        if there(page).is_some() {
                            g.world.read(g.domid, page, at + 8 * entry as usize, &mut bytes);
                        }
                        let told = u64::from_le_bytes(bytes);
                        let mfn = if told & 1 == 1 { there(Gfn(told >> 12)) } else { None };
                        let wanted = mfn.or(host.world.frame_at(scratch));
                        let leads = host.gpu.ggtt_read(base + entry).and_then(|b: Bfn| host.world.frame_at(b));
                        prop_assert_eq!(leads, wanted, "entry {}", entry);
                    }
                }
            }
            // Whatever the guest does, no entry leads to a frame that is not mapped any more.
            for entry in 0..24 {
                let bfn = host.gpu.ggtt_read(base + entry).unwrap();
                prop_assert!(host.world.frame_at(bfn).is_some());
            }
        }
        host.mediator().destroy(g.vgpu.id()).unwrap();
        let (world, domid) = (g.world.clone(), g.domid);
        drop(g);
        world.depopulate(domid);
        drop(host.mediator.take());
        prop_assert_eq!(world.used(), host.used_before);
    }
}
