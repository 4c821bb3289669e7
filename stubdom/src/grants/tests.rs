//! Both sides on the model hypervisor: what is granted, mapped, ended and taken back, and where the frames are.

use mock_xen::{Config, Fault, FaultPlan, Profile, Rule, Site, When};
use proptest::collection::vec;
use proptest::prelude::*;
use xen_ioreq::abi::grant_table::{
    GNTST_bad_gntref, GNTST_general_error, GNTST_no_space, GNTST_permission_denied,
};
use xen_ioreq::{Gfn, PAGE_SIZE, VcpuId};

use super::*;
use crate::testing::{DOM0, MEMORY, NOTHING, Pair, WINDOW};

fn byte(read: impl FnOnce(usize, &mut [u8]) -> Result<(), OutOfRange>, at: usize) -> u8 {
    let mut b = [0];
    read(at, &mut b).expect("inside");
    b[0]
}

fn refused<T: fmt::Debug>(result: Result<T, GrantError>) -> Option<i16> {
    match result.expect_err("refused") {
        GrantError::Refused { status, .. } => Some(status),
        _ => None,
    }
}

fn granter(pair: &Pair) -> &dyn RevokableGranter {
    pair.granter.revokable().expect("the hypervisor has them")
}

fn mapper(pair: &Pair) -> &dyn RevokableMapper {
    pair.mapper.revokable().expect("the hypervisor has them")
}

#[test]
fn what_one_side_writes_the_other_reads_and_all_frames_come_back() {
    let pair = Pair::new();
    let free = pair.machine.free_frames();
    let granted = pair.granter.grant(DOM0, 3, Prot::ReadWrite, NOTHING).expect("grants");
    let mapping = pair.mapper.map(pair.server, granted.refs(), Prot::ReadWrite, NOTHING).expect("maps");
    assert_eq!((granted.peer(), granted.refs().len(), mapping.len()), (DOM0, 3, 3 * PAGE_SIZE));
    granted.write(PAGE_SIZE - 1, b"ab").expect("inside");
    mapping.write(2 * PAGE_SIZE, b"c").expect("inside");
    let mut seen = [0; 2];
    mapping.read(PAGE_SIZE - 1, &mut seen).expect("inside");
    assert_eq!((&seen, byte(|at, b| granted.read(at, b), 2 * PAGE_SIZE)), (b"ab", b'c'));
    pair.machine.assert_clean();
    assert_eq!(pair.machine.free_frames(), free - 3);
    drop(mapping);
    assert_eq!(granted.end().expect("nobody maps them"), Ended::Free);
    assert_eq!(pair.machine.free_frames(), free);
    pair.machine.assert_clean();
}

#[test]
fn what_does_not_lie_in_the_mapping_or_may_not_be_written_is_an_error() {
    let pair = Pair::new();
    let granted = pair.granter.grant(DOM0, 1, Prot::Read, NOTHING).expect("grants");
    let map = |prot| pair.mapper.map(pair.server, granted.refs(), prot, NOTHING);
    assert_eq!(refused(map(Prot::ReadWrite)), Some(GNTST_general_error));
    let mapping = map(Prot::Read).expect("maps");
    let out = |at, len, writable| OutOfRange { at, len, size: PAGE_SIZE, writable };
    assert_eq!(mapping.write(0, b"x"), Err(out(0, 1, false)));
    assert_eq!(mapping.read(PAGE_SIZE - 1, &mut [0; 2]), Err(out(PAGE_SIZE - 1, 2, true)));
    assert_eq!(granted.write(usize::MAX, b"x"), Err(out(usize::MAX, 1, true)));
    assert_eq!(
        mapping.write(0, b"x").expect_err("read-only").to_string(),
        "1 bytes at 0 of a mapping of 4096 bytes that is not writable"
    );
}

#[test]
fn a_batch_in_which_one_is_refused_names_it_and_leaves_nothing_mapped() {
    let pair = Pair::new();
    let granted = pair.granter.grant(DOM0, 3, Prot::ReadWrite, NOTHING).expect("grants");
    let mut refs = granted.refs().to_vec();
    refs.insert(2, GrantRef(100_000));
    let error = pair.mapper.map(pair.server, &refs, Prot::Read, NOTHING).expect_err("one is none");
    let wanted = GrantError::Refused { peer: pair.server, gref: GrantRef(100_000), status: GNTST_bad_gntref };
    assert_eq!(error, wanted);
    assert_eq!(error.to_string(), format!("mapping ref100000 of {}: GNTST_bad_gntref", pair.server));
    assert_eq!(granted.end().expect("nobody maps them"), Ended::Free);
    let none = pair.mapper.map(pair.server, &[], Prot::Read, NOTHING).expect_err("nothing to map");
    assert!(matches!(none, GrantError::Map { errno: Errno::EINVAL, .. }));
    pair.machine.assert_clean();
}

#[test]
fn a_page_that_a_peer_holds_on_to_cannot_be_freed_and_is_as_soon_as_the_peer_lets_go() {
    let pair = Pair::new();
    let free = pair.machine.free_frames();
    let granted = pair.granter.grant(DOM0, 2, Prot::ReadWrite, NOTHING).expect("grants");
    let held = pair.mapper.map(pair.server, &granted.refs()[..1], Prot::ReadWrite, NOTHING).expect("maps");
    granted.write(0, b"secret").expect("inside");
    let still = granted.end().expect_err("it is mapped");
    assert_eq!((still.peer, still.to_string()), (DOM0, "d0 still maps pages that were granted to it".into()));
    drop(still);
    assert_eq!(pair.granter.retry(), 1, "one of the two is in use");
    assert_eq!(pair.machine.free_frames(), free - 2, "and neither is free: they were made together");
    assert_eq!(byte(|at, b| held.read(at, b), 0), b's', "it is still read");
    drop(held);
    assert_eq!((pair.granter.retry(), pair.machine.free_frames()), (0, free));
    pair.machine.assert_clean();
}

#[test]
fn a_page_that_is_taken_back_is_free_at_once_and_its_mapper_goes_on_with_its_own() {
    let pair = Pair::new();
    let free = pair.machine.free_frames();
    let granted = granter(&pair).grant_revokable(DOM0, 2, Prot::ReadWrite).expect("grants");
    let held = mapper(&pair).map_revokable(pair.server, granted.refs(), Prot::ReadWrite, 0xee).expect("maps");
    granted.write(PAGE_SIZE, b"secret").expect("inside");
    assert_eq!(
        (held.len(), held.stand_in(), byte(|at, b| held.read(at, b), PAGE_SIZE)),
        (2 * PAGE_SIZE, 0xee, b's')
    );
    assert_eq!(granted.revoke(), Ok(()));
    assert_eq!(pair.machine.free_frames(), free - 2, "the granter's are free, the mapper's own are not");
    let mut all = vec![0; 2 * PAGE_SIZE];
    held.read(0, &mut all).expect("inside");
    assert!(all.iter().all(|b| *b == 0xee), "nothing but the stand-in");
    held.write(0, b"mine").expect("inside");
    assert_eq!(byte(|at, b| held.read(at, b), 0), b'm');
    pair.machine.assert_clean();
    drop(held);
    assert_eq!(pair.machine.free_frames(), free);
    pair.machine.assert_clean();
}

#[test]
fn a_revokable_grant_that_is_dropped_is_taken_back_too() {
    let pair = Pair::new();
    let free = pair.machine.free_frames();
    let granted = granter(&pair).grant_revokable(DOM0, 1, Prot::Read).expect("grants");
    let held = mapper(&pair).map_revokable(pair.server, granted.refs(), Prot::Read, 1).expect("maps");
    drop(granted);
    assert_eq!((byte(|at, b| held.read(at, b), 9), pair.granter.retry()), (1, 0));
    drop(held);
    assert_eq!(pair.machine.free_frames(), free);
}

#[test]
fn a_revocation_that_the_hypervisor_refuses_is_tried_again_until_it_is_done() {
    let pair = Pair::new();
    let free = pair.machine.free_frames();
    let granted = granter(&pair).grant_revokable(DOM0, 3, Prot::Read).expect("grants");
    let held = mapper(&pair).map_revokable(pair.server, granted.refs(), Prot::Read, 7).expect("maps");
    // The second page is refused; then, when what is left is dropped, that one again.
    let refused =
        |nth| Rule { site: Site::GrantCall, when: When::Nth(nth), fault: Fault::Error(Errno::EAGAIN) };
    pair.machine.inject(FaultPlan { rules: vec![refused(2), refused(3)], seed: 0 });
    assert_eq!(granted.revoke(), Err(Errno::EAGAIN));
    let seen = |page| byte(|at, b| held.read(at, b), page * PAGE_SIZE);
    assert_eq!([seen(0), seen(1), seen(2)], [7, 0, 0], "the first is taken back");
    assert_eq!((pair.granter.retry(), [seen(0), seen(1), seen(2)]), (0, [7; 3]));
    drop(held);
    assert_eq!(pair.machine.free_frames(), free);
    pair.machine.assert_clean();
}

#[test]
fn the_two_kinds_of_grants_are_not_mapped_by_the_other_operation() {
    let pair = Pair::new();
    let plain = pair.page();
    let revokable = granter(&pair).grant_revokable(DOM0, 1, Prot::ReadWrite).expect("grants");
    let map = |refs| pair.mapper.map(pair.server, refs, Prot::Read, NOTHING);
    let map_revokable = |refs| mapper(&pair).map_revokable(pair.server, refs, Prot::Read, 0);
    assert_eq!(refused(map(revokable.refs())), Some(GNTST_permission_denied));
    assert_eq!(refused(map_revokable(plain.refs())), Some(GNTST_bad_gntref));
    let _both =
        [map_revokable(revokable.refs()).expect("maps"), map_revokable(revokable.refs()).expect("maps")];
    assert_eq!(refused(map_revokable(revokable.refs())), Some(GNTST_no_space), "two at a time");
    pair.machine.assert_clean();
}

#[test]
fn without_revokable_grants_in_the_hypervisor_the_caller_is_told() {
    for config in [
        Config { revokable: false, ..Config::default() },
        Config { profile: Profile::Xs, ..Config::default() },
    ] {
        let pair = Pair::with(config);
        assert!(pair.granter.revokable().is_none() && pair.mapper.revokable().is_none());
        let _page = pair.page();
    }
}

#[test]
fn the_table_grows_as_far_as_it_may_and_references_are_used_again() {
    let pair = Pair::with(Config { max_grant_frames: 2, ..Config::default() });
    let many = pair
        .granter
        .grant(DOM0, 1000, Prot::Read, NOTHING)
        .expect("fits two frames of 512, but for 8 reserved");
    let rest = pair.granter.grant(DOM0, 16, Prot::Read, NOTHING).expect("fits just");
    let refs: std::collections::BTreeSet<_> = many.refs().iter().chain(rest.refs()).collect();
    assert_eq!((refs.len(), refs.first().map(|r| r.0)), (1016, Some(8)));
    let full = pair.granter.grant(DOM0, 1, Prot::Read, NOTHING).expect_err("full");
    assert_eq!(full, GrantError::Grant { peer: DOM0, pages: 1, errno: Errno::ENOSPC });
    let mapped = pair.mapper.map(pair.server, many.refs(), Prot::Read, NOTHING).expect("maps");
    assert!(pair.granter.grant(DOM0, 1, Prot::Read, NOTHING).is_err());
    drop((mapped, many));
    let again = pair.granter.grant(DOM0, 1000, Prot::Read, NOTHING).expect("room again");
    drop((again, rest));
    pair.machine.assert_clean();
}

#[test]
fn a_translated_domain_maps_at_its_free_frame_numbers_and_reads_what_its_cpu_reads_there() {
    let pair = Pair::translated();
    let free = pair.machine.free_frames();
    let granted = pair.granter.grant(pair.client, 3, Prot::ReadWrite, NOTHING).expect("grants");
    let mapping = pair.mapper.map(pair.server, granted.refs(), Prot::ReadWrite, NOTHING).expect("maps");
    let second = pair.mapper.map(pair.server, granted.refs(), Prot::Read, NOTHING).expect("maps again");
    granted.write(2 * PAGE_SIZE + 5, b"x").expect("inside");
    assert_eq!(byte(|at, b| mapping.read(at, b), 2 * PAGE_SIZE + 5), b'x');
    let cpu = pair.machine.vcpu(pair.client, VcpuId(0)).expect("a vCPU");
    let mut seen = [0];
    for first in [WINDOW.start, WINDOW.start + 3] {
        cpu.read(Gfn(first + 2).addr() + 5, &mut seen).expect("a frame is there");
        assert_eq!(&seen, b"x");
    }
    cpu.write(Gfn(WINDOW.start).addr(), b"y").expect("and it may be written");
    assert_eq!(byte(|at, b| granted.read(at, b), 0), b'y');
    drop(mapping);
    let third = pair.mapper.map(pair.server, &granted.refs()[..2], Prot::Read, NOTHING).expect("maps");
    cpu.read(Gfn(WINDOW.start).addr(), &mut seen).expect("where the first was");
    assert_eq!(&seen, b"y");
    pair.machine.assert_clean();
    drop((second, third));
    assert_eq!(granted.end().expect("nobody maps them"), Ended::Free);
    assert_eq!(pair.machine.free_frames(), free);
}

#[test]
fn what_a_translated_domain_has_mapped_is_switched_in_its_sight_and_in_its_cpu_s_when_it_is_revoked() {
    let pair = Pair::translated();
    let free = pair.machine.free_frames();
    let granted = granter(&pair).grant_revokable(pair.client, 2, Prot::Read).expect("grants");
    granted.write(PAGE_SIZE, b"x").expect("inside");
    let mapping = mapper(&pair).map_revokable(pair.server, granted.refs(), Prot::Read, 0xee).expect("maps");
    assert_eq!(byte(|at, b| mapping.read(at, b), PAGE_SIZE), b'x');
    assert_eq!(granted.revoke(), Ok(()));
    assert_eq!(byte(|at, b| mapping.read(at, b), PAGE_SIZE), 0xee);
    let cpu = pair.machine.vcpu(pair.client, VcpuId(0)).expect("a vCPU");
    let mut seen = [0];
    cpu.read(Gfn(WINDOW.start + 1).addr(), &mut seen).expect("a frame is there");
    assert_eq!(seen, [0xee]);
    pair.machine.assert_clean();
    drop(mapping);
    assert_eq!(pair.machine.free_frames(), free);
    pair.machine.assert_clean();
}

#[test]
fn a_translated_domain_maps_neither_where_it_has_memory_nor_beyond_its_window_nor_without_one() {
    let pair = Pair::translated();
    let kernel = std::sync::Arc::new(pair.machine.caller(pair.client).expect("a caller"));
    let granted = pair.granter.grant(pair.client, 2, Prot::Read, NOTHING).expect("grants");
    let why = |mapper: &TableMapper<_>| {
        let mapped = mapper.map(pair.server, granted.refs(), Prot::Read, NOTHING);
        match mapped.expect_err("not here") {
            GrantError::Map { errno, .. } => errno,
            e => panic!("{e}"),
        }
    };
    let at = |first, end| TableMapper::translated(kernel.clone(), Gfn(first)..Gfn(end));
    assert_eq!(why(&TableMapper::new(kernel.clone())), Errno::EOPNOTSUPP);
    assert_eq!(why(&at(MEMORY.end - 1, 100)), Errno::EBUSY, "its memory");
    assert_eq!(why(&at(100, 101)), Errno::ENOSPC);
    assert_eq!(why(&at(u64::MAX - 10, u64::MAX)), Errno::EINVAL);
    let taken = pair.mapper.map(pair.server, granted.refs(), Prot::Read, NOTHING).expect("maps");
    assert_eq!(why(&at(WINDOW.start - 1, WINDOW.start + 2)), Errno::EBUSY, "another one's window");
    assert_eq!(why(&TableMapper::translated(pair.process.clone(), Gfn(0)..Gfn(9))), Errno::EOPNOTSUPP);
    drop(taken);
    pair.machine.assert_clean();
}

/// What the two sides do.
#[derive(Clone, Copy, Debug)]
enum Act {
    Grant { pages: usize, revokable: bool },
    Map { grant: usize },
    Unmap { mapping: usize },
    End { grant: usize },
    Revoke { grant: usize },
    Drop { grant: usize },
    Retry,
    Write { grant: usize, value: u8 },
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        3 => (1..5usize, any::<bool>()).prop_map(|(pages, revokable)| Act::Grant { pages, revokable }),
        5 => any::<usize>().prop_map(|grant| Act::Map { grant }),
        3 => any::<usize>().prop_map(|mapping| Act::Unmap { mapping }),
        2 => any::<usize>().prop_map(|grant| Act::End { grant }),
        2 => any::<usize>().prop_map(|grant| Act::Revoke { grant }),
        1 => any::<usize>().prop_map(|grant| Act::Drop { grant }),
        1 => Just(Act::Retry),
        3 => (any::<usize>(), any::<u8>()).prop_map(|(grant, value)| Act::Write { grant, value }),
    ]
}

#[derive(Debug)]
enum Either {
    Plain(Granted),
    Revokable(RevokableGrant),
}

#[derive(Debug)]
enum Map {
    Plain(PlainMapping),
    Revokable(RevokableMapping),
}

/// A grant as it should be: how many pages, what it holds, how many mappings; and whether the granter still has it.
#[derive(Clone, Copy, Debug)]
struct Naive {
    pages: u64,
    value: u8,
    maps: usize,
    revokable: bool,
    there: bool,
    freed: bool,
}

const STAND_IN: u8 = 0xee;

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn frames_and_bytes_are_where_a_naive_book_says(acts in vec(act(), 1..80), translated in any::<bool>()) {
        let pair = if translated { Pair::translated() } else { Pair::new() };
        let free = pair.machine.free_frames();
        // Index in `book`, which only grows.
        let mut grants: Vec<(usize, Either)> = Vec::new();
        let mut maps: Vec<(usize, Map)> = Vec::new();
        let mut book: Vec<Naive> = Vec::new();
        for act in acts {
            let pick = |i: usize, len: usize| (len > 0).then(|| i % len);
            match act {
                Act::Grant { pages, revokable } => {
                    let grant = if revokable {
                        Either::Revokable(granter(&pair).grant_revokable(pair.client, pages, Prot::ReadWrite).expect("grants"))
                    } else {
                        Either::Plain(pair.granter.grant(pair.client, pages, Prot::ReadWrite, NOTHING).expect("grants"))
                    };
                    grants.push((book.len(), grant));
                    book.push(Naive { pages: pages as u64, value: 0, maps: 0, revokable, there: true, freed: false });
                    // Granting frees what has become free.
                    book.iter_mut().for_each(|n| n.freed |= !n.there && n.maps == 0);
                }
                Act::Map { grant } => {
                    let Some(i) = pick(grant, grants.len()) else { continue };
                    let (number, grant) = &grants[i];
                    let full = book[*number].revokable && book[*number].maps == 2;
                    let mapped = match grant {
                        Either::Plain(g) => pair.mapper.map(pair.server, g.refs(), Prot::ReadWrite, NOTHING).map(Map::Plain),
                        Either::Revokable(g) => mapper(&pair)
                            .map_revokable(pair.server, g.refs(), Prot::Read, STAND_IN)
                            .map(Map::Revokable),
                    };
                    prop_assert_eq!(mapped.is_ok(), !full);
                    if let Ok(mapped) = mapped {
                        maps.push((*number, mapped));
                        book[*number].maps += 1;
                    }
                }
                Act::Unmap { mapping } => {
                    let Some(i) = pick(mapping, maps.len()) else { continue };
                    book[maps.swap_remove(i).0].maps -= 1;
                }
                Act::End { grant } => {
                    let Some(i) = pick(grant, grants.len()) else { continue };
                    let (number, Either::Plain(_)) = &grants[i] else { continue };
                    let number = *number;
                    let (_, Either::Plain(granted)) = grants.swap_remove(i) else { continue };
                    match granted.end() {
                        Ok(ended) => {
                            prop_assert_eq!((ended, book[number].maps), (Ended::Free, 0));
                            book[number].there = false;
                            book[number].freed = true;
                        }
                        Err(still) => {
                            prop_assert!(book[number].maps > 0);
                            grants.push((number, Either::Plain(still.granted)));
                        }
                    }
                }
                Act::Revoke { grant } => {
                    let Some(i) = pick(grant, grants.len()) else { continue };
                    if !book[grants[i].0].revokable { continue }
                    let (number, Either::Revokable(granted)) = grants.swap_remove(i) else { continue };
                    prop_assert_eq!(granted.revoke(), Ok(()));
                    book[number].there = false;
                    book[number].freed = true;
                    book[number].value = STAND_IN;
                }
                Act::Drop { grant } => {
                    let Some(i) = pick(grant, grants.len()) else { continue };
                    let number = grants.swap_remove(i).0;
                    let n = &mut book[number];
                    n.there = false;
                    if n.revokable {
                        n.value = STAND_IN;
                    }
                    n.freed = n.revokable || n.maps == 0;
                }
                Act::Retry => {
                    pair.granter.retry();
                    book.iter_mut().for_each(|n| n.freed |= !n.there && n.maps == 0);
                }
                Act::Write { grant, value } => {
                    let Some(i) = pick(grant, grants.len()) else { continue };
                    let (number, grant) = &grants[i];
                    match grant {
                        Either::Plain(g) => g.write(7, &[value]),
                        Either::Revokable(g) => g.write(7, &[value]),
                    }
                    .expect("inside");
                    book[*number].value = value;
                }
            }
            for (number, map) in &maps {
                let seen = match map {
                    Map::Plain(m) => byte(|at, b| m.read(at, b), 7),
                    Map::Revokable(m) => byte(|at, b| m.read(at, b), 7),
                };
                prop_assert_eq!(seen, book[*number].value, "after {:?}", act);
            }
            let granted: u64 = book.iter().filter(|n| !n.freed).map(|n| n.pages).sum();
            let stand_ins: u64 =
                book.iter().filter(|n| n.revokable).map(|n| n.pages * n.maps as u64).sum();
            // The first frame of the table is there from the start; no sequence needs a second.
            prop_assert_eq!(pair.machine.free_frames(), free - granted - stand_ins, "after {:?}", act);
            prop_assert_eq!(pair.machine.audit(), Vec::<String>::new());
        }
        drop((grants, maps));
        pair.granter.retry();
        prop_assert_eq!(pair.machine.free_frames(), free);
        pair.machine.assert_clean();
    }
}
