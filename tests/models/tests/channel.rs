//! The two ends of a byte channel: what is written comes, and who waits is woken.

use models::model::channel::{Look, bytes_cross};
use models::{Checker, Fault};

const RING: &str = "channel/ring.rs";

#[test]
fn bytes_cross_a_ring_that_is_full_and_empty_in_turn_and_nobody_sleeps_on() {
    // Across the end of the indices.
    bytes_cross(Checker::bounded(2), 1, u32::MAX, 2, (1, 1), Look::AgainAfterAsking);
    bytes_cross(Checker::bounded(1), 2, u32::MAX - 1, 3, (1, 1), Look::AgainAfterAsking);
}

#[test]
fn packets_cross_whole() {
    bytes_cross(Checker::bounded(1), 4, 3, 4, (3, 2), Look::AgainAfterAsking);
    bytes_cross(Checker::bounded(1), 2, 1, 4, (2, 1), Look::AgainAfterAsking);
}

fn faulty(fault: Fault) {
    bytes_cross(Checker::bounded(2).with(fault), 1, 0, 2, (1, 1), Look::AgainAfterAsking);
}

#[test]
#[should_panic(expected = "deadlock")]
fn a_writer_that_does_not_look_again_after_it_has_asked_sleeps_on() {
    bytes_cross(Checker::bounded(2), 1, 0, 2, (1, 1), Look::Once);
}

#[test]
#[should_panic(expected = "deadlock")]
fn an_end_sleeps_on_if_requests_are_a_load_and_a_store() {
    faulty(Fault::TornUpdates(RING));
}

#[test]
#[should_panic(expected = "deadlock")]
fn an_end_sleeps_on_if_requests_order_nothing() {
    faulty(Fault::RelaxedUpdates(RING));
}

#[test]
#[should_panic(expected = "each once, in turn")]
fn bytes_are_read_before_they_are_written_if_the_writer_does_not_release_its_index() {
    faulty(Fault::RelaxedStores(RING));
}

#[test]
#[should_panic(expected = "each once, in turn")]
fn bytes_are_read_before_they_are_written_if_the_reader_does_not_acquire_the_index() {
    faulty(Fault::RelaxedLoads(RING));
}
