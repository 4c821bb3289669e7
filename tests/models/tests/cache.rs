//! The cache of guest memory: handles against invalidation.

use models::model::cache::{self, Notice};
use models::{Checker, Fault};

#[test]
fn a_frame_that_is_replaced_beside_a_reader_is_let_go_and_never_used_after_that() {
    for notice in [Notice::AfterTheChange, Notice::OfTheFrame] {
        cache::frame_is_replaced_beside_readers(Checker::bounded(2), 1, false, notice);
        cache::frame_is_replaced_beside_readers(Checker::bounded(1), 1, true, notice);
    }
}

#[test]
fn two_readers_beside_a_notice() {
    cache::frame_is_replaced_beside_readers(Checker::bounded(1), 2, false, Notice::AfterTheChange);
}

#[test]
fn two_pages_that_want_one_place_are_each_reached_and_none_is_lost() {
    cache::two_pages_in_one_place(Checker::bounded(1), false);
    cache::two_pages_in_one_place(Checker::bounded(2), true);
}

#[test]
#[should_panic(expected = "reaches the old frame")]
fn a_notice_that_comes_before_the_change_leaves_the_old_frame() {
    cache::frame_is_replaced_beside_readers(Checker::bounded(1), 1, false, Notice::BeforeTheChange);
}

fn faulty(fault: Fault) {
    cache::frame_is_replaced_beside_readers(Checker::bounded(2).with(fault), 1, true, Notice::AfterTheChange);
}

#[test]
#[should_panic(expected = "a mapping is lost")]
fn torn_updates_of_the_place_are_found() {
    faulty(Fault::TornUpdates("memory/place.rs"));
}

#[test]
#[should_panic(expected = "Causality violation")]
fn relaxed_updates_of_the_place_are_found() {
    faulty(Fault::RelaxedUpdates("memory/place.rs"));
}

#[test]
#[should_panic(expected = "two threads are where one may be")]
fn a_filler_that_does_not_lock_its_set_is_found() {
    cache::two_pages_in_one_place(Checker::bounded(2).with(Fault::NoLocks("memory/cache.rs")), false);
}
