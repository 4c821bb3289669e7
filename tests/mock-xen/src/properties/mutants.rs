//! That the comparison can fail: emulators that do not do what they say, and naive models with one rule turned round. Each has
//! to be found out, and by few steps.

use xen_ioreq::DomId;
use xen_ioreq::abi::iommu_op::{
    IOMMUOP_lookup_foreign_page, IOMMUOP_map_foreign_page, IOMMUOP_query_caps, IOMMUOP_swap_mfn,
    IOMMUOP_unmap_foreign_page, IOMMUOP_writeable, pv_iommu_op,
};

use super::book::{Book, Page, Why};
use super::step::Step;
use super::{LIFE, limits, live, shorten, steps};
use crate::{Config, Profile};

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mutant {
    /// An emulator says that it has unmapped, and has not.
    UnmapIsSkipped,
    /// It maps for writing what it was to map for reading.
    ReadersMayWrite,
    /// It does not let scratch take a frame's place.
    SwapIsForgotten,
    /// It has its mappings made for the first server, whosever they are.
    ServersAreMixedUp,
    /// It does not see its first notice of a step.
    NoticeIsOverlooked,
    /// A CPU mapping that has ended is kept.
    MappingIsKept,
    /// The naive model: a page that is ballooned out is free whoever holds it.
    HeldPagesAreFree,
    /// An entry that is there already takes a reference once more.
    IdenticalEntryCounts,
    /// What was unmapped is not held until a flush that is late.
    LateFlushHoldsNothing,
    /// One mapper is enough to let scratch take a frame's place.
    OneMapperMaySwap,
    /// Pages of the dead that others hold go with them.
    DeathFreesAll,
    /// Lookups of the shipped hypervisor are counted.
    LookupsCount,
}
use Mutant::*;

const ALL: [Mutant; 12] = [
    UnmapIsSkipped,
    ReadersMayWrite,
    SwapIsForgotten,
    ServersAreMixedUp,
    NoticeIsOverlooked,
    MappingIsKept,
    HeldPagesAreFree,
    IdenticalEntryCounts,
    LateFlushHoldsNothing,
    OneMapperMaySwap,
    DeathFreesAll,
    LookupsCount,
];

impl Mutant {
    /// What an emulator sends in place of an operation.
    pub(super) fn sends(self, op: &pv_iommu_op) -> pv_iommu_op {
        let map = op.subop_id == IOMMUOP_map_foreign_page;
        match self {
            UnmapIsSkipped if op.subop_id == IOMMUOP_unmap_foreign_page => {
                pv_iommu_op::new(IOMMUOP_query_caps, 0)
            }
            ReadersMayWrite if map => pv_iommu_op { flags: op.flags | IOMMUOP_writeable, ..*op },
            SwapIsForgotten if map => pv_iommu_op { flags: op.flags & !IOMMUOP_swap_mfn, ..*op },
            ServersAreMixedUp if map => pv_iommu_op { ioserver: 0, ..*op },
            _ => *op,
        }
    }

    /// Before a step is taken by the naive model.
    pub(super) fn before(self, book: &mut Book, step: &Step) {
        if let (OneMapperMaySwap, Step::Memory { .. }) = (self, step) {
            let may = |page| book.why(page).any(|w| matches!(w, Why::Map(_, _, _, true)));
            let turned = book.holds.iter().map(|h| match h.1 {
                Why::Map(by, f, Some(s), _) if may(h.0) => (h.0, Why::Map(by, f, Some(s), true)),
                _ => *h,
            });
            book.holds = turned.collect();
        }
    }

    /// Before an operation that was done is done by the naive model.
    pub(super) fn before_op(self, book: &mut Book, by: DomId, op: &pv_iommu_op, got: &pv_iommu_op) {
        let Some(page) = book.p2m.get(&(DomId(op.domid), op.gfn)).copied() else { return };
        let there = |w| match w {
            Why::Map(b, f, s, _) => {
                self == IdenticalEntryCounts && (b, f, s) == (by, got.bfn, Some(op.ioserver))
            }
            Why::Lookup => self == LookupsCount,
            _ => false,
        };
        let names = matches!(op.subop_id, IOMMUOP_map_foreign_page | IOMMUOP_lookup_foreign_page);
        if names && got.status == 0 && book.why(page).any(there) {
            book.n += 1;
            book.holds.insert((page, Why::Host(u64::MAX - book.n)));
        }
    }

    /// After a step was taken and before it is looked at.
    pub(super) fn after(self, book: &mut Book, step: &Step, dead: DomId) {
        let there: Vec<Page> = book.p2m.values().copied().collect();
        let wrong = |h: &(Page, Why)| match (self, step) {
            (HeldPagesAreFree, Step::Memory { .. }) => {
                matches!(h.1, Why::Map(_, _, Some(_), _)) && !there.contains(&h.0)
            }
            (LateFlushHoldsNothing, Step::Iommu { .. }) => matches!(h.1, Why::Flush(..)),
            (DeathFreesAll, Step::GuestDies { .. }) => book.pages.get(&h.0).is_some_and(|p| p.0 == dead),
            _ => false,
        };
        book.holds.retain(|h| !wrong(h));
        book.settle();
    }
}

/// A life with the mutant in it that is found out, and how many steps of it are needed.
fn found(mutant: Mutant) -> (Config, Vec<Step>) {
    let profile = if mutant == LookupsCount { Profile::Xs } else { Profile::Draft };
    let config = limits(&Config { profile, ..Config::default() });
    for seed in 0..20 {
        let all = steps(seed, false);
        if let Err((last, _)) = live(&config, Some(mutant), &all) {
            let few = shorten(&config, Some(mutant), &all[..(last + 1).min(LIFE)]);
            return (config, few);
        }
    }
    panic!("{mutant:?} is not found out in 20 lives");
}

#[test]
fn what_is_wrong_is_found_out_in_few_steps_which_are_right_without_it() {
    for mutant in ALL {
        let (config, few) = found(mutant);
        assert!(few.len() <= 10, "{mutant:?}: {few:#?}");
        assert!(live(&config, Some(mutant), &few).is_err(), "{mutant:?}");
        assert!(live(&config, None, &few).is_ok(), "{mutant:?}");
    }
}
