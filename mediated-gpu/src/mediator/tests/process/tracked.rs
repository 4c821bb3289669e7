//! Tables that are tracked: which, for how long, and what becomes of one that is written, goes, or changes without a word.

use super::*;
use crate::mediator::Vgpu;

/// A guest whose tables are tracked after so many quiet uses, its process, code and a data page.
fn guest_of(host: &Host, quiet: u32) -> (TestGuest, Process, Gfn, Gfn) {
    let (g, mut p) = Process::started(host);
    g.track(quiet);
    let (code, data) = (p.map_fresh(&g, CODE), p.map_fresh(&g, DATA_AT));
    (g, p, code, data)
}

/// The same, whose tables are tracked as soon as they are known. They are, and 1 is in the data page.
fn known(host: &Host) -> (TestGuest, Process, Gfn, Gfn) {
    let (mut g, p, code, data) = guest_of(host, 0);
    store(&mut g, code, DATA_AT, 1);
    use_once(&g.vgpu);
    (g, p, code, data)
}

/// The tables through which code and data are mapped, without the root.
fn tables(g: &TestGuest, p: &mut Process) -> Vec<Gfn> {
    let levels = [Level::Pdp, Level::Pd, Level::Pt];
    let of = |p: &mut Process, addr| levels.map(|level| p.table(g, level, addr));
    [of(p, CODE), of(p, DATA_AT)].concat()
}

fn use_once(vgpu: &Vgpu) {
    drop(vgpu.ggtt().tables(Process::root()).unwrap());
}

#[test]
fn tables_that_are_quiet_are_tracked_and_a_write_lets_only_that_one_go() {
    let host = Host::new();
    let (mut g, mut p, code, first) = guest_of(&host, 3);
    let mut all = tables(&g, &mut p);
    all.push(PML4);
    all.sort();
    for n in 0..3 {
        store(&mut g, code, DATA_AT, n);
        assert_eq!(g.world.trapped(g.domid), [], "use {n}");
    }
    store(&mut g, code, DATA_AT, 3);
    store(&mut g, code, DATA_AT, 4);
    assert_eq!(g.world.trapped(g.domid), all);
    assert_eq!(g.vgpu.statistics().tracked_tables, 7);
    let second = p.map_fresh(&g, DATA_AT);
    assert_eq!((g.world.traps(), dword(&g, first)), (1, 4));
    store(&mut g, code, DATA_AT, 5);
    assert_eq!((dword(&g, first), dword(&g, second)), (4, 5));
    let table = p.table(&g, Level::Pt, DATA_AT);
    all.retain(|gfn| *gfn != table);
    assert_eq!(g.world.trapped(g.domid), all);
    let s = g.vgpu.statistics();
    assert_eq!((s.tracked_tables, s.table_writes), (6, 1));
    // It must be quiet for twice as long now, and the use in which it changed does not count.
    for _ in 0..6 {
        store(&mut g, code, DATA_AT, 6);
        assert!(!g.world.trapped(g.domid).contains(&table));
    }
    store(&mut g, code, DATA_AT, 6);
    assert!(g.world.trapped(g.domid).contains(&table));
}

#[test]
fn table_that_is_rewritten_with_each_use_is_never_trapped() {
    let host = Host::new();
    let (mut g, mut p, code, _) = guest_of(&host, 2);
    for n in 0..20 {
        let data = p.map_fresh(&g, DATA_AT);
        store(&mut g, code, DATA_AT, n);
        assert_eq!(dword(&g, data), n);
    }
    assert_eq!(g.world.traps(), 0);
    assert_eq!(g.vgpu.statistics().tracked_tables, 6, "the others are");
}

#[test]
fn table_that_is_rewritten_now_and_then_costs_ever_fewer_traps() {
    let host = Host::new();
    let (g, mut p, _, _) = guest_of(&host, 2);
    let mut traps = Vec::new();
    for n in 0..2000 {
        if n % 5 == 0 {
            p.map_fresh(&g, DATA_AT);
        }
        use_once(&g.vgpu);
        traps.extend((n % 500 == 499).then(|| g.world.traps()));
    }
    assert_eq!(traps, [1; 4], "from then on it would have to be quiet for longer than it is");
}

#[test]
fn table_that_changes_without_a_word_is_seen_after_a_sweep_or_a_notice() {
    let host = Host::new();
    let (mut g, mut p, code, first) = known(&host);
    let table = p.table(&g, Level::Pt, DATA_AT);
    let other = p.frame(&g);
    let write = |g: &TestGuest, gfn: Gfn| {
        let entry = gfn.addr() | RW | 1;
        g.world.write_unseen(g.domid, table, Level::Pt.index(DATA_AT) * ENTRY_SIZE, &entry.to_le_bytes());
    };
    write(&g, other);
    store(&mut g, code, DATA_AT, 2);
    assert_eq!((dword(&g, first), dword(&g, other)), (2, 0), "it was not compared");
    g.vgpu.ggtt().sweep();
    store(&mut g, code, DATA_AT, 3);
    assert_eq!((dword(&g, first), dword(&g, other)), (2, 3));
    assert!(!g.world.trapped(g.domid).contains(&table), "somebody writes there of whom nobody tells");
    store(&mut g, code, DATA_AT, 4);
    assert!(g.world.trapped(g.domid).contains(&table));
    write(&g, first);
    // Of another page altogether.
    let gone = p.map_fresh(&g, CODE + 4096);
    store(&mut g, code, CODE + 4096, 1);
    g.give_back(gone);
    store(&mut g, code, DATA_AT, 5);
    assert_eq!((dword(&g, first), dword(&g, other)), (5, 4));
}

#[test]
fn table_that_came_back_as_it_was_is_compared_after_the_notice_of_it() {
    let host = Host::new();
    let (mut g, mut p, code, first) = known(&host);
    let other = p.map_fresh(&g, CODE + 4096);
    store(&mut g, code, DATA_AT, 1);
    g.world.make_plain(g.domid, p.table(&g, Level::Pt, DATA_AT));
    // A notice may say no more than that something has changed.
    g.give_back(other);
    store(&mut g, code, DATA_AT, 2);
    let second = p.map_fresh(&g, DATA_AT);
    store(&mut g, code, DATA_AT, 3);
    assert_eq!((dword(&g, first), dword(&g, second)), (2, 3));
}

#[test]
fn page_that_comes_while_its_table_is_tracked_is_mapped() {
    let host = Host::new();
    let (mut g, mut p, code, first) = known(&host);
    let (missing, table) = (p.frame(&g), p.table(&g, Level::Pt, DATA_AT));
    g.give_back(missing);
    p.map(&g, DATA_AT, missing);
    for n in 2..4 {
        store(&mut g, code, DATA_AT, n);
    }
    assert!(g.world.trapped(g.domid).contains(&table), "an entry that leads nowhere does not change");
    assert_eq!(dword(&g, first), 1);
    // Of a page that comes nobody tells.
    g.world.populate(g.domid, missing);
    store(&mut g, code, DATA_AT, 4);
    assert_eq!(dword(&g, missing), 4);
}

#[test]
fn tracked_table_of_any_level_that_is_ballooned_out_maps_nothing_and_its_successor_counts() {
    for level in [Level::Pml4, Level::Pdp, Level::Pd, Level::Pt] {
        let host = Host::new();
        let (mut g, mut p, code, data) = known(&host);
        let table = p.table(&g, level, DATA_AT);
        assert!(g.world.trapped(g.domid).contains(&table));
        let page = g.world.page(g.domid, table);
        let used = host.world.used();
        g.give_back(table);
        assert!(host.world.used() < used, "{level:?}: the frame is the host's again");
        g.world.populate(g.domid, table);
        g.world.write(g.domid, table, 0, &page);
        store(&mut g, code, DATA_AT, 2);
        assert_eq!(dword(&g, data), 2, "{level:?}");
        use_once(&g.vgpu);
        assert!(g.world.trapped(g.domid).contains(&table), "{level:?}");
    }
}

#[test]
fn table_that_its_directory_leads_to_no_more_is_let_go() {
    let host = Host::new();
    let (mut g, mut p, code, _) = known(&host);
    let (pd, pt) = (p.table(&g, Level::Pd, DATA_AT), p.table(&g, Level::Pt, DATA_AT));
    set(&g, pd, Level::Pd.index(DATA_AT), 0);
    store(&mut g, code, CODE + 8, 1);
    assert!(!g.world.trapped(g.domid).contains(&pt));
    // It is plain memory of the guest's now.
    let traps = g.world.traps();
    g.world.write(g.domid, pt, 0, &[0; PAGE_SIZE]);
    assert_eq!(g.world.traps(), traps);
    g.vgpu.ggtt().tables_destroyed(Process::root());
    assert_eq!((g.world.trapped(g.domid), g.vgpu.statistics().tracked_tables), (vec![], 0));
}

#[test]
fn page_that_is_two_tables_is_tracked_as_long_as_it_is_one() {
    let host = Host::new();
    let (mut g, mut p, code, data) = guest_of(&host, 0);
    let (pd, pt) = (p.table(&g, Level::Pd, DATA_AT), p.table(&g, Level::Pt, DATA_AT));
    // The same page as a table of 64K pages, too.
    let at = DATA_AT + (1 << 21);
    set(&g, pd, Level::Pd.index(at), pt.addr() | IPS_64K | RW | 1);
    store(&mut g, code, DATA_AT, 1);
    store(&mut g, code, DATA_AT, 1);
    assert!(g.world.trapped(g.domid).contains(&pt));
    set(&g, pd, Level::Pd.index(at), 0);
    store(&mut g, code, DATA_AT, 2);
    assert!(g.world.trapped(g.domid).contains(&pt));
    let next = p.map_fresh(&g, DATA_AT);
    store(&mut g, code, DATA_AT, 3);
    assert_eq!((dword(&g, data), dword(&g, next)), (2, 3));
}

#[test]
fn tables_are_plain_memory_while_the_vgpu_is_paused_and_after_it_has_gone() {
    let host = Host::new();
    let (mut g, mut p, code, data) = known(&host);
    assert!(!g.world.trapped(g.domid).is_empty());
    g.vgpu.pause();
    assert_eq!(g.world.trapped(g.domid), []);
    let next = p.map_fresh(&g, DATA_AT);
    g.vgpu.resume();
    store(&mut g, code, DATA_AT, 2);
    assert_eq!((dword(&g, data), dword(&g, next)), (1, 2));
    assert!(!g.world.trapped(g.domid).is_empty());
    host.mediator().destroy(g.vgpu.id()).unwrap();
    assert_eq!(g.world.trapped(g.domid), []);
}

#[test]
fn tables_that_cannot_be_tracked_are_compared_and_tried_again_later() {
    let host = Host::new();
    let (mut g, mut p, code, first) = guest_of(&host, 1);
    host.world.refuse_traps(true);
    for n in 0..10 {
        store(&mut g, code, DATA_AT, n);
    }
    let second = p.map_fresh(&g, DATA_AT);
    store(&mut g, code, DATA_AT, 10);
    assert_eq!((dword(&g, first), dword(&g, second)), (9, 10));
    assert_eq!((g.world.traps(), g.world.trapped(g.domid)), (0, vec![]));
    host.world.refuse_traps(false);
    eventually("they are tracked", || {
        use_once(&g.vgpu);
        g.world.trapped(g.domid).len() == 7
    });
}

#[test]
fn reset_of_the_guests_leaves_tables_tracked_and_right() {
    let host = Host::new();
    let (mut g, mut p, code, first) = known(&host);
    g.reset();
    let second = p.map_fresh(&g, DATA_AT);
    store(&mut g, code, DATA_AT, 2);
    assert_eq!((dword(&g, first), dword(&g, second)), (1, 2));
}

#[test]
fn no_more_than_a_few_tables_are_begun_with_in_one_use() {
    let host = Host::new();
    let (g, mut p, _, _) = guest_of(&host, 0);
    for n in 0..40u64 {
        p.map_fresh(&g, DATA_AT + (n << 21));
    }
    // In the first use all is new.
    use_once(&g.vgpu);
    use_once(&g.vgpu);
    assert_eq!(g.world.trapped(g.domid).len(), 8);
    for _ in 0..5 {
        use_once(&g.vgpu);
    }
    assert_eq!(g.world.trapped(g.domid).len(), 7 + 39);
}
