//! What the model hypervisor says of devices: exact, whatever devices do meanwhile.

use models::model::bus::{self, Change, Flush, Unmap};
use models::model::grants::{self, Granter, Version};
use models::{Checker, Fault};

const TABLE: &str = "iommu/table.rs";
const ENTRY: &str = "grant/entry.rs";
const FRAMES: &str = "mock-xen/src/frames/watch.rs";

#[test]
fn an_unmap_counts_exactly_the_translations_that_it_breaks_and_the_next_entry_begins_with_none() {
    bus::translations_beside_a_change(Checker::bounded(3), 1, Change::Remap);
    bus::translations_beside_a_change(Checker::bounded(2), 2, Change::Remap);
}

#[test]
fn a_repointed_entry_leads_devices_to_the_old_frame_or_the_new_one_and_counts_those_of_the_old() {
    bus::translations_beside_a_change(Checker::bounded(3), 1, Change::Repoint);
    bus::translations_beside_a_change(Checker::bounded(1), 2, Change::Repoint);
}

#[test]
fn an_entry_that_is_repointed_only_when_idle_breaks_no_translation() {
    bus::translations_beside_a_change(Checker::bounded(3), 1, Change::RepointIdle);
    bus::translations_beside_a_change(Checker::bounded(1), 2, Change::RepointIdle);
}

#[test]
#[should_panic(expected = "each that was broken is told")]
fn translations_are_miscounted_with_torn_updates() {
    let checker = Checker::bounded(2).with(Fault::TornUpdates(TABLE));
    bus::translations_beside_a_change(checker, 1, Change::Remap);
}

#[test]
#[should_panic(expected = "one entry's parts")]
fn a_translation_mixes_two_entries_with_relaxed_updates() {
    let checker = Checker::bounded(2).with(Fault::RelaxedUpdates(TABLE));
    bus::translations_beside_a_change(checker, 1, Change::Repoint);
}

#[test]
fn a_frame_that_is_freed_in_use_is_told_by_the_pin_or_by_the_freeing() {
    bus::a_frame_is_freed_beside_a_pin(Checker::bounded(3));
}

#[test]
#[should_panic(expected = "Concurrent read and write")]
fn a_frame_that_is_freed_in_use_is_told_by_nobody_without_a_total_order() {
    bus::a_frame_is_freed_beside_a_pin(Checker::bounded(3).with(Fault::NoTotalOrder(FRAMES)));
}

#[test]
fn an_entry_that_is_unmapped_in_use_is_told_and_none_leads_to_a_free_frame() {
    bus::an_entry_is_unmapped_beside_a_pin(Checker::bounded(3), Unmap::EntryFirst);
}

#[test]
#[should_panic(expected = "no entry leads to a free frame")]
fn an_entry_whose_reference_goes_first_leads_to_a_free_frame() {
    bus::an_entry_is_unmapped_beside_a_pin(Checker::bounded(3), Unmap::ReferenceFirst);
}

#[test]
fn a_device_that_goes_by_what_a_late_flush_left_lets_go_before_the_frame_is_freed_or_is_told() {
    bus::a_late_flush_beside_a_pin(Checker::bounded(3), Flush::First);
}

#[test]
#[should_panic(expected = "Concurrent read and write")]
fn a_device_uses_a_free_frame_if_the_flush_comes_after_the_freeing() {
    bus::a_late_flush_beside_a_pin(Checker::bounded(3), Flush::TooLate);
}

#[test]
fn a_page_is_never_the_granters_again_and_in_a_mappers_use() {
    grants::a_withdrawal_beside_a_claim(Checker::bounded(3), Version::One);
    grants::a_withdrawal_beside_a_claim(Checker::bounded(3), Version::Two);
}

#[test]
#[should_panic(expected = "Concurrent")]
fn a_page_is_both_with_torn_claims() {
    grants::a_withdrawal_beside_a_claim(Checker::bounded(3).with(Fault::TornUpdates(ENTRY)), Version::One);
}

#[test]
#[should_panic(expected = "Concurrent")]
fn a_page_is_both_without_a_total_order_of_entry_and_status() {
    grants::a_withdrawal_beside_a_claim(Checker::bounded(3).with(Fault::NoTotalOrder(ENTRY)), Version::Two);
}

#[test]
fn a_revocation_waits_for_copies_and_lets_no_new_one_in() {
    grants::a_revocation_beside_copies(Checker::bounded(3), 1, Granter::Right);
    grants::a_revocation_beside_copies(Checker::bounded(2), 2, Granter::Right);
}

#[test]
#[should_panic(expected = "Concurrent")]
fn a_copy_goes_on_after_a_revocation_that_does_not_wait() {
    grants::a_revocation_beside_copies(Checker::bounded(3), 1, Granter::Hasty);
}

#[test]
fn a_mapping_beside_a_revocation_shows_the_old_page_or_the_new_one() {
    grants::a_revocation_beside_a_mapping(Checker::bounded(3), Granter::Right);
}

#[test]
#[should_panic(expected = "Concurrent")]
fn a_mapping_that_is_not_switched_shows_a_page_that_is_the_granters_again() {
    grants::a_revocation_beside_a_mapping(Checker::bounded(3), Granter::Hasty);
}
