//! The shadow table against a naive walker: after any traffic, each entry is a function of what the guest wrote.

use std::collections::BTreeMap;

use proptest::prelude::*;
use xen_ioreq::{Bfn, Gfn};

use super::rig::*;
use crate::gen8::gtt::GTT_OFFSET;
use crate::physical::PhysicalGpu;

#[derive(Clone, Debug)]
enum Act {
    /// Entry, byte in it, bytes, value.
    Write(u32, u32, u32, u64),
    BalloonOut(u64),
    BalloonIn(u64),
    /// "Something has changed."
    Notice,
}

/// Entries that the test uses, and guest frames that exist now and then.
const ENTRIES: u32 = 24;
const FRAMES: u64 = 12;

fn pte() -> impl Strategy<Value = u64> {
    prop_oneof![
        6 => (0..FRAMES + 2).prop_map(|n| (0x100 + n) << 12 | 1),
        1 => (0..FRAMES).prop_map(|n| (0x100 + n) << 12),
        1 => any::<u64>(),
    ]
}

fn act() -> impl Strategy<Value = Act> {
    let (e, f) = (0..ENTRIES, 0..FRAMES);
    prop_oneof![
        6 => (e.clone(), pte()).prop_map(|(e, v)| Act::Write(e, 0, 8, v)),
        3 => (e.clone(), prop_oneof![Just(0u32), Just(4)], pte())
            .prop_map(|(e, b, v)| Act::Write(e, b, 4, v >> (8 * b))),
        1 => (e, 0u32..8, 1u32..=8, any::<u64>()).prop_map(|(e, b, n, v)| Act::Write(e, b, n, v)),
        2 => f.clone().prop_map(Act::BalloonOut),
        2 => f.prop_map(Act::BalloonIn),
        1 => Just(Act::Notice),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn shadow_is_what_a_naive_walker_says(acts in prop::collection::vec(act(), 1..150)) {
        let host = Host::new();
        let g = host.guest();
        let base = (g.gm(0) >> 12) as u32;
        let scratch = host.gpu.ggtt_read(base);
        // The model: bytes of the table, frames there are, and which frames an entry has lost since it was written.
        let mut bytes = vec![0u8; 8 * ENTRIES as usize];
        let mut present: BTreeMap<Gfn, bool> = (0..FRAMES).map(|n| (Gfn(0x100 + n), false)).collect();
        let mut live: BTreeMap<u32, Gfn> = BTreeMap::new();
        for a in acts {
            match a {
                Act::Write(entry, byte, size, value) => {
                    g.vgpu.mmio_write(GTT_OFFSET + 8 * (base + entry) + byte, size, value);
                    let at = 8 * entry as usize + byte as usize;
                    for (i, b) in value.to_le_bytes().into_iter().take(size as usize).enumerate() {
                        if let Some(to) = bytes.get_mut(at + i) {
                            *to = b;
                        }
                    }
                    for touched in [entry, (at as u32 + size - 1) / 8] {
                        if touched >= ENTRIES {
                            continue;
                        }
                        let word = u64::from_le_bytes(bytes[8 * touched as usize..][..8].try_into().unwrap());
                        let gfn = Gfn((word & 0x3fff_ffff_f000) >> 12);
                        live.remove(&touched);
                        if word & 1 == 1 && present.get(&gfn) == Some(&true) {
                            live.insert(touched, gfn);
                        }
                    }
                }
                Act::BalloonOut(n) => {
                    let gfn = Gfn(0x100 + n);
                    if present.insert(gfn, false) == Some(true) {
                        for bfn in host.world.balloon_out(g.domid, gfn) {
                            g.vgpu.invalidate(bfn.0);
                        }
                        g.vgpu.settle();
                        live.retain(|_, f| *f != gfn);
                    }
                }
                Act::BalloonIn(n) => {
                    let gfn = Gfn(0x100 + n);
                    if present.insert(gfn, true) == Some(false) {
                        host.world.populate(g.domid, gfn);
                    }
                }
                Act::Notice => {
                    g.vgpu.invalidate(pviommu::EVERYTHING);
                    g.vgpu.settle();
                }
            }
            for entry in 0..ENTRIES {
                let word = u64::from_le_bytes(bytes[8 * entry as usize..][..8].try_into().unwrap());
                prop_assert_eq!(g.vgpu.mmio_read(GTT_OFFSET + 8 * (base + entry), 8), word);
                let physical = host.gpu.ggtt_read(base + entry);
                match live.get(&entry) {
                    None => prop_assert_eq!(physical, scratch, "entry {}", entry),
                    Some(gfn) => {
                        let expected = host.world.mapped_at(g.domid, *gfn);
                        prop_assert!(physical.is_some_and(|b| expected.contains(&b)), "entry {}", entry);
                    }
                }
            }
            prop_assert_eq!(g.vgpu.statistics().live_mappings, live.len() as u64);
        }
        // The way back knows every bus frame that an entry leads to, and no other.
        let table = g.vgpu.ggtt().table();
        let mut by_bfn: BTreeMap<Bfn, usize> = BTreeMap::new();
        for entry in 0..ENTRIES {
            if live.contains_key(&entry) {
                *by_bfn.entry(host.gpu.ggtt_read(base + entry).unwrap()).or_default() += 1;
            }
        }
        for (bfn, count) in by_bfn {
            prop_assert_eq!(table.entries(bfn).len(), count);
        }
        prop_assert_eq!(table.all().len(), live.len());
    }
}

#[test]
fn update_of_one_half_merges_with_what_the_entry_held() {
    let host = Host::new();
    let g = host.guest();
    g.world.populate(g.domid, Gfn(0x100));
    g.world.populate(g.domid, Gfn(0x101));
    let at = TestGuest::entry(g.gm(0));
    let index = (g.gm(0) >> 12) as u32;
    g.vgpu.mmio_write(at, 8, 0x100_001);
    // The low half alone, twice: present each time, with the high half that was there.
    for gfn in [0x101u64, 0x100] {
        g.vgpu.mmio_write(at, 4, gfn << 12 | 1);
        let bfns = host.world.mapped_at(g.domid, Gfn(gfn));
        assert_eq!(host.gpu.ggtt_read(index), Some(bfns[0]));
    }
    // A high half that leads nowhere, and back.
    g.vgpu.mmio_write(at + 4, 4, 0x3f);
    assert_eq!(host.gpu.ggtt_read(index), host.gpu.ggtt_read(index + 1));
    g.vgpu.mmio_write(at + 4, 4, 0);
    assert_eq!(host.gpu.ggtt_read(index), Some(host.world.mapped_at(g.domid, Gfn(0x100))[0]));
}

#[test]
fn entries_of_others_read_as_zero_and_take_nothing() {
    let host = Host::new();
    let (g, other) = (host.guest(), host.guest());
    other.map(DATA);
    let at = TestGuest::entry(other.gm(DATA));
    let index = (other.gm(DATA) >> 12) as u32;
    let before = host.gpu.ggtt_read(index);
    g.vgpu.mmio_write(at, 8, 0x100_001);
    assert_eq!(g.vgpu.mmio_read(at, 8), 0);
    assert_eq!(host.gpu.ggtt_read(index), before);
    assert_eq!(g.vgpu.statistics().foreign_accesses, 2);
    // The last entry of the table, and a write that runs out of it.
    g.vgpu.mmio_write(0xff_fffc, 8, u64::MAX);
    assert_eq!(g.vgpu.mmio_read(0xff_fff8, 8), 0);
}
