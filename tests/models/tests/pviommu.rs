//! Mappings: looked up, invalidated, released, and used by a device, at once.

use models::model::guest::{self, Balloon, Beside, Pte, Xen};
use models::model::records::{self, Free};
use models::model::soft::{self, Device};
use models::model::state::{self, Release};
use models::{Checker, Fault};

const SOFT: &str = "pviommu/src/soft.rs";
const STATE: &str = "table/state.rs";

#[test]
fn a_mapping_at_rest_is_released_once_and_after_its_last_use_whoever_looks_it_up_meanwhile() {
    state::release_beside_lookups(Checker::whole(), 1, Release::ItsStand);
    state::release_beside_lookups(Checker::bounded(2), 2, Release::ItsStand);
}

#[test]
#[should_panic(expected = "Concurrent read and write")]
fn a_mapping_at_rest_is_released_too_early_by_a_token_that_says_not_which_rest() {
    state::release_beside_lookups(Checker::bounded(2), 1, Release::AnyStand);
}

#[test]
#[should_panic(expected = "Concurrent read and write")]
fn a_mapping_at_rest_is_released_too_early_with_relaxed_updates() {
    let checker = Checker::bounded(2).with(Fault::RelaxedUpdates(STATE));
    state::release_beside_lookups(checker, 2, Release::ItsStand);
}

#[test]
#[should_panic(expected = "Concurrent read and write")]
fn a_mapping_at_rest_is_released_too_early_with_torn_updates() {
    let checker = Checker::bounded(2).with(Fault::TornUpdates(STATE));
    state::release_beside_lookups(checker, 1, Release::ItsStand);
}

#[test]
fn a_stale_mapping_ends_once_and_after_its_last_use() {
    state::invalidation_beside_lookups(Checker::bounded(3), 1);
    state::invalidation_beside_lookups(Checker::bounded(2), 2);
}

#[test]
#[should_panic(expected = "Concurrent read and write")]
fn a_stale_mapping_ends_in_use_with_relaxed_updates() {
    let checker = Checker::bounded(2).with(Fault::RelaxedUpdates(STATE));
    state::invalidation_beside_lookups(checker, 1);
}

#[test]
#[should_panic(expected = "Concurrent read and write")]
fn a_stale_mapping_ends_in_use_with_torn_updates() {
    let checker = Checker::bounded(2).with(Fault::TornUpdates(STATE));
    state::invalidation_beside_lookups(checker, 1);
}

#[test]
fn a_bus_frame_that_is_used_again_at_once_is_not_released_by_an_earlier_token() {
    records::a_bus_frame_is_used_again_beside_releases(Checker::bounded(2), Free::AfterWithdrawal);
}

#[test]
#[should_panic(expected = "what is free has no record")]
fn a_bus_frame_that_is_free_before_its_record_is_withdrawn_has_one_still() {
    records::a_bus_frame_is_used_again_beside_releases(Checker::bounded(2), Free::Early);
}

#[test]
fn a_page_of_the_soft_iommu_ends_once_and_when_it_is_no_longer_pinned() {
    soft::pins_beside_replacement(Checker::bounded(3), 1, 1, Device::Careful);
    soft::pins_beside_replacement(Checker::bounded(2), 1, 2, Device::Careful);
    soft::pins_beside_replacement(Checker::bounded(2), 2, 1, Device::Careful);
}

#[test]
fn replace_retire_and_remove_at_once_lose_no_page_and_end_none_that_is_pinned() {
    soft::pins_beside_replace_retire_and_remove(Checker::bounded(2));
}

#[test]
#[should_panic(expected = "Concurrent read and write")]
fn a_page_of_the_soft_iommu_ends_in_use_if_its_pin_is_ignored() {
    soft::pins_beside_replacement(Checker::bounded(2), 1, 1, Device::UsesAfterUnpin);
}

#[test]
#[should_panic(expected = "a pin is left when nobody has one")]
fn a_page_of_the_soft_iommu_is_not_found_by_a_pin_that_is_counted_with_relaxed_updates() {
    let checker = Checker::bounded(2).with(Fault::RelaxedUpdates(SOFT));
    soft::pins_beside_replacement(checker, 1, 1, Device::Careful);
}

#[test]
#[should_panic(expected = "Concurrent read and write")]
fn a_page_of_the_soft_iommu_ends_in_use_with_torn_updates() {
    let checker = Checker::bounded(2).with(Fault::TornUpdates(SOFT));
    soft::pins_beside_replacement(checker, 1, 1, Device::Careful);
}

#[test]
#[should_panic(expected = "two threads are where one may be")]
fn replace_retire_and_remove_at_once_meet_without_the_lock() {
    soft::pins_beside_replace_retire_and_remove(Checker::bounded(2).with(Fault::NoLocks(SOFT)));
}

/// Each scene on each hypervisor: with two threads, and with three and fewer interruptions.
fn on_each(scene: impl Fn(Checker, Xen, Beside)) {
    for xen in [Xen::Stock, Xen::PvIommu, Xen::Shipped] {
        scene(Checker::bounded(2), xen, Beside::Dma);
        scene(Checker::bounded(2), xen, Beside::Map);
        scene(Checker::bounded(1), xen, Beside::Both);
    }
}

#[test]
fn a_frame_that_is_ballooned_out_is_reached_by_nobody_after_its_end_and_held_by_nobody_at_the_end() {
    on_each(|checker, xen, beside| {
        guest::invalidation(checker, xen, beside, Balloon::Out, Pte::DroppedFirst);
    });
}

#[test]
fn a_frame_that_is_ballooned_out_and_in_again_has_one_mapping_and_loses_no_reference() {
    on_each(|checker, xen, beside| {
        guest::invalidation(checker, xen, beside, Balloon::OutAndIn, Pte::DroppedFirst);
    });
}

#[test]
fn a_mapping_that_is_released_while_its_frame_is_mapped_again_is_used_again_or_made_anew() {
    on_each(|checker, xen, beside| {
        guest::release(checker, xen, beside);
    });
}

#[test]
fn a_guest_that_dies_while_its_frame_is_mapped_leaves_nothing() {
    on_each(|checker, xen, beside| {
        guest::death(checker, xen, beside);
    });
}

/// Where the emulator looks at a physical device's bus: beside it, the scenes of [`on_each`].
fn looked_at(checker: impl Fn() -> Checker) {
    for xen in [Xen::Viewed, Xen::ViewedShipped] {
        for balloon in [Balloon::Out, Balloon::OutAndIn] {
            guest::invalidation(checker(), xen, Beside::Look, balloon, Pte::DroppedFirst);
        }
        guest::release(checker(), xen, Beside::Look);
        guest::death(checker(), xen, Beside::Look);
    }
}

#[test]
fn what_an_emulator_sees_of_its_devices_bus_is_its_guests_and_is_not_held_for_it_at_the_end() {
    looked_at(|| Checker::bounded(2));
}

#[test]
#[should_panic(expected = "two threads are where one may be")]
fn a_page_is_mapped_while_it_is_taken_away_if_there_are_no_turns() {
    looked_at(|| Checker::bounded(2).with(Fault::NoLocks("pviommu/src/view.rs")));
}

#[test]
#[should_panic(expected = "a page is mapped where a PTE or a reference leads")]
fn a_device_finds_no_page_if_it_is_flushed_before_its_pte_is_dropped() {
    let checker = Checker::bounded(2);
    guest::invalidation(checker, Xen::Stock, Beside::Dma, Balloon::Out, Pte::DroppedLate);
}

#[test]
#[should_panic(expected = "a frame is mapped where a PTE or a reference leads")]
fn a_device_finds_no_frame_if_it_is_flushed_before_its_pte_is_dropped() {
    let checker = Checker::bounded(2);
    guest::invalidation(checker, Xen::PvIommu, Beside::Dma, Balloon::Out, Pte::DroppedLate);
}

#[test]
#[should_panic(expected = "one mapping of one guest frame")]
fn a_mapping_that_is_mapped_while_it_is_released_is_lost_with_torn_updates() {
    guest::release(Checker::bounded(2).with(Fault::TornUpdates(STATE)), Xen::PvIommu, Beside::Map);
}

#[test]
#[should_panic(expected = "two threads are where one may be")]
fn a_mapping_is_made_twice_or_lost_without_the_lock_of_the_slow_path() {
    let checker = Checker::bounded(2).with(Fault::NoLocks("guest/map.rs"));
    guest::invalidation(checker, Xen::PvIommu, Beside::Map, Balloon::OutAndIn, Pte::DroppedFirst);
}

#[test]
#[should_panic(expected = "the oracle has nothing to say")]
fn a_device_reaches_a_frame_that_is_nobodys_if_it_is_flushed_before_its_pte_is_dropped() {
    let checker = Checker::bounded(2);
    guest::invalidation(checker, Xen::Shipped, Beside::Dma, Balloon::Out, Pte::DroppedLate);
}
