//! Random tables, read by a walker that knows nothing of shadows, against what the shadows lead to: written by the guest's
//! processor, by the GPU with every command that can and through every way that leads there, and by who does not trap; compared at
//! each use, or tracked.

use std::collections::BTreeSet;

use proptest::prelude::*;
use xen_ioreq::{Bfn, Gfn, PAGE_SHIFT};

use super::written_by_the_gpu::WAYS;
use super::*;
use crate::bus::{BusMaster, DmaAccess};
use crate::gen8::ppgtt::{Entry, Leaf, walk};

/// Frames of the guest's: each may be a table of any level, and data, at once.
const FRAMES: u64 = 12;
/// The page that blits copy from.
const SOURCE: u64 = DATA + 0x1000;
/// Places in tables that are used.
const PLACES: [usize; 5] = [0, 1, 16, 17, 511];

#[derive(Clone, Debug)]
enum Act {
    /// Writes an entry.
    Set { table: u64, place: usize, leads_to: u64, flags: u64 },
    /// A frame goes, or comes.
    Balloon(u64),
    /// A context with this root is submitted.
    Enter(u64),
    /// The guest says that the root goes.
    Destroyed(u64),
    /// A page of graphics memory is a frame from now on.
    Window(u64),
    /// A command writes there.
    Command { way: usize, place: usize, leads_to: u64, flags: u64 },
    /// The context on an engine writes to where one of its addresses leads.
    Through { root: u64, addr: usize, place: usize, leads_to: u64, flags: u64 },
    /// Somebody writes whose writes do not trap; a sweep comes after that.
    Unseen { table: u64, place: usize, leads_to: u64, flags: u64 },
    /// The vGPU is paused for a while.
    Pause,
}

fn act() -> impl Strategy<Value = Act> {
    let frame = 0..FRAMES;
    // Present and writable most of the time, large now and then.
    let flags = prop::sample::select(vec![3, 3, 3, 3, 1, 0, 3 | PS, 3 | IPS_64K, 3 | IPS_64K, 2]);
    let place = 0..PLACES.len();
    let write = (frame.clone(), place, frame.clone(), flags);
    prop_oneof![
        8 => write.clone()
            .prop_map(|(table, place, leads_to, flags)| Act::Set { table, place, leads_to, flags }),
        2 => frame.clone().prop_map(Act::Balloon),
        4 => (0..2u64).prop_map(Act::Enter),
        1 => (0..2u64).prop_map(Act::Destroyed),
        2 => frame.clone().prop_map(Act::Window),
        2 => (0..WAYS.len(), write.clone())
            .prop_map(|(way, (_, place, leads_to, flags))| Act::Command { way, place, leads_to, flags }),
        2 => (0..2u64, 0..addresses().len(), write.clone()).prop_map(
            |(root, addr, (_, place, leads_to, flags))| Act::Through { root, addr, place, leads_to, flags }
        ),
        1 => write.prop_map(|(table, place, leads_to, flags)| Act::Unseen { table, place, leads_to, flags }),
        1 => Just(Act::Pause),
    ]
}

/// What the guest's own tables say: the number of the page and whether it may be written.
fn told(g: &TestGuest, root: Gfn, addr: u64) -> Option<(Gfn, bool)> {
    let there = |gfn: Gfn| g.world.mfn(g.domid, gfn).is_some();
    let (mut table, mut writable, mut medium) = (root, true, false);
    for shift in [39, 30, 21, 12] {
        if !there(table) {
            return None;
        }
        let mut index = (addr >> shift) as usize % 512;
        if shift == 12 && medium {
            index = index / 16 * 16;
        }
        let e = entry(g, table, index);
        if e & 1 == 0 || (shift == 30 && e & PS != 0) {
            return None;
        }
        writable &= e & 2 != 0;
        let frame = (e >> 12) % (1 << 34);
        if shift == 21 && e & PS != 0 {
            return Some((Gfn(frame / 512 * 512 + (addr >> 12) % 512), writable));
        }
        if shift == 12 && medium {
            return Some((Gfn(frame / 16 * 16 + (addr >> 12) % 16), writable));
        }
        medium = shift == 21 && e & IPS_64K != 0;
        table = Gfn(frame);
    }
    Some((table, writable))
}

/// Where the GPU comes, through the shadow.
fn reached(g: &TestGuest, shadow: Root, addr: u64) -> Option<Leaf> {
    let read = |frame: u64, index: usize| {
        let pin = g.world.pin(Bfn(frame), DmaAccess::Read).unwrap();
        let mut bytes = [0; 8];
        crate::mediator::memory::Memory::new(g.world.clone())
            .read(Bfn(frame), index * ENTRY_SIZE, &mut bytes)
            .unwrap();
        g.world.unpin(pin);
        Ok::<_, ()>(Entry(u64::from_le_bytes(bytes)))
    };
    walk(shadow, addr, read).unwrap()
}

fn addresses() -> Vec<u64> {
    let mut all = Vec::new();
    for a in [0, 1, 511] {
        for b in [0, 1] {
            for c in [0, 16, 511] {
                for d in PLACES {
                    all.push(a << 39 | b << 30 | c << 21 | (d as u64) << 12);
                }
            }
        }
    }
    all
}

/// The frames that the shadow lets the GPU reach are the guest's own, or scratch.
fn only_own(g: &TestGuest, shadow: Root, scratch: u64) {
    let own: BTreeSet<_> = (0..FRAMES).filter_map(|n| g.world.mfn(g.domid, Gfn(n))).collect();
    for addr in addresses() {
        let leaf = reached(g, shadow, addr).expect("a shadow leads somewhere, always");
        let frame = g.world.frame_at(Bfn(leaf.frame)).expect("what it leads to is mapped");
        assert!(own.contains(&frame) || (frame == scratch && !leaf.writable), "{addr:#x} reaches {frame:#x}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn shadows_lead_where_a_naive_walker_comes(
        acts in prop::collection::vec(act(), 1..160),
        quiet in prop::option::of(0u32..3),
    ) {
        let host = Host::new();
        let mut g = host.guest();
        g.start();
        if let Some(quiet) = quiet {
            g.track(quiet);
        }
        let vgpu = g.vgpu.clone();
        let scratch = host.world.frame_at(host.mediator().scratch_bfn).unwrap();
        (0..FRAMES).for_each(|n| g.world.populate(g.domid, Gfn(n)));
        // The contexts that are "on engines": one for each root at most.
        let mut running = [None, None];
        for act in acts {
            match act {
                Act::Set { table, place, leads_to, flags } => {
                    if g.world.mfn(g.domid, Gfn(table)).is_some() {
                        set(&g, Gfn(table), PLACES[place], leads_to << PAGE_SHIFT | flags);
                    }
                }
                Act::Balloon(n) if g.world.mfn(g.domid, Gfn(n)).is_some() => g.give_back(Gfn(n)),
                Act::Balloon(n) => g.world.populate(g.domid, Gfn(n)),
                Act::Enter(n) => {
                    let tables = vgpu.ggtt().tables(Root::FourLevel(n)).unwrap();
                    for addr in addresses() {
                        let told = told(&g, Gfn(n), addr).and_then(|(gfn, writable)| {
                            Some((g.world.mfn(g.domid, gfn)?, writable))
                        });
                        let leaf = reached(&g, tables.shadow(), addr).expect("somewhere");
                        let frame = g.world.frame_at(Bfn(leaf.frame)).unwrap();
                        prop_assert_eq!((frame, leaf.writable), told.unwrap_or((scratch, false)), "{:#x}", addr);
                    }
                    running[n as usize] = Some(tables);
                }
                Act::Window(n) => g.write_pte(g.gm(DATA), Gfn(n).addr() | 1),
                Act::Command { way, place, leads_to, flags } => {
                    let at = g.gm(DATA) + (PLACES[place] * ENTRY_SIZE) as u64;
                    let entry = leads_to << PAGE_SHIFT | flags;
                    // What a blit copies.
                    g.world.write(g.domid, g.gfn(SOURCE), 0, &entry.to_le_bytes());
                    let from = g.gm(SOURCE);
                    let commands = WAYS[way].begin(&mut g, at, from, entry);
                    g.run(&commands);
                }
                Act::Through { root, addr, place, leads_to, flags } => {
                    if let Some(tables) = &running[root as usize] {
                        let leaf = reached(&g, tables.shadow(), addresses()[addr]).expect("somewhere");
                        let entry = leads_to << PAGE_SHIFT | flags;
                        if leaf.writable {
                            crate::mediator::memory::Memory::new(g.world.clone())
                                .write(Bfn(leaf.frame), PLACES[place] * ENTRY_SIZE, &entry.to_le_bytes())
                                .unwrap();
                        }
                    }
                }
                Act::Unseen { table, place, leads_to, flags } => {
                    if g.world.mfn(g.domid, Gfn(table)).is_some() {
                        let entry = leads_to << PAGE_SHIFT | flags;
                        let at = PLACES[place] * ENTRY_SIZE;
                        g.world.write_unseen(g.domid, Gfn(table), at, &entry.to_le_bytes());
                        g.vgpu.ggtt().sweep();
                    }
                }
                Act::Pause => {
                    g.vgpu.pause();
                    prop_assert_eq!(g.world.trapped(g.domid), vec![]);
                    g.vgpu.resume();
                }
                Act::Destroyed(n) => {
                    g.vgpu.ggtt().tables_destroyed(Root::FourLevel(n));
                    if n == 0 {
                        running[0] = None;
                    }
                }
            }
            for tables in running.iter().flatten() {
                only_own(&g, tables.shadow(), scratch);
            }
        }
        drop(running);
        host.mediator().destroy(g.vgpu.id()).unwrap();
        prop_assert_eq!(g.world.trapped(g.domid), vec![]);
        let (world, domid) = (g.world.clone(), g.domid);
        drop((g, vgpu));
        world.depopulate(domid);
        let mut host = host;
        drop(host.mediator.take());
        prop_assert_eq!(world.used(), host.used_before);
    }
}
