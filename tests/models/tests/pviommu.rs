//! Mappings: looked up, invalidated, released, and used by a device, at once.

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
