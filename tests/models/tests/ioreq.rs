//! Rings, slots and wake-ups between a guest's vCPU and its emulator.

use models::model::ring::{self, Drain, Mode};
use models::model::slot::{self, Answer, Notified};
use models::model::wake::{self, Notify};
use models::{Checker, Fault};

const EMULATOR: &str = "ioreq-server/src/slot.rs";
const EMULATORS_RING: &str = "ioreq-server/src/ring.rs";
const XEN: &str = "mock-xen/src/ioreq/slot.rs";
const XENS_RING: &str = "mock-xen/src/ioreq/ring.rs";

#[test]
fn a_sleeper_that_is_notified_after_each_change_never_sleeps_on() {
    wake::sleeper_waits_for_all(Checker::bounded(3), 1, Notify::After);
    wake::sleeper_waits_for_all(Checker::bounded(2), 2, Notify::After);
}

#[test]
#[should_panic(expected = "deadlock")]
fn a_sleeper_that_is_notified_before_the_change_sleeps_on() {
    wake::sleeper_waits_for_all(Checker::bounded(2), 1, Notify::Before);
}

#[test]
#[should_panic(expected = "deadlock")]
fn a_sleeper_sleeps_on_without_the_total_order_of_its_two_words() {
    let fault = Fault::NoTotalOrder("vcpu/wake.rs");
    wake::sleeper_waits_for_all(Checker::bounded(2).with(fault), 1, Notify::After);
}

#[test]
fn a_vcpu_gets_the_answer_to_its_request_whoever_gives_it() {
    slot::requests_are_answered(Checker::bounded(2), 1, Answer::AtOnce, Notified::Yes);
    slot::requests_are_answered(Checker::bounded(2), 1, Answer::Deferred, Notified::Yes);
    slot::requests_are_answered(Checker::bounded(2), 1, Answer::Dropped, Notified::Yes);
    slot::requests_are_answered(Checker::bounded(1), 2, Answer::AtOnce, Notified::Yes);
}

#[test]
#[should_panic(expected = "deadlock")]
fn a_vcpu_waits_for_ever_if_the_answer_is_not_announced() {
    slot::requests_are_answered(Checker::bounded(2), 1, Answer::AtOnce, Notified::No);
}

#[test]
#[should_panic(expected = "the answer to this request")]
fn a_vcpu_gets_another_answer_if_the_emulator_does_not_release_its_own() {
    let checker = Checker::bounded(2).with(Fault::RelaxedStores(EMULATOR));
    slot::requests_are_answered(checker, 1, Answer::AtOnce, Notified::Yes);
}

#[test]
#[should_panic(expected = "all of one request")]
fn an_emulator_takes_half_a_request_if_xen_does_not_release_it() {
    let checker = Checker::bounded(2).with(Fault::RelaxedStores(XEN));
    slot::requests_are_answered(checker, 1, Answer::AtOnce, Notified::Yes);
}

#[test]
#[should_panic(expected = "all of one request")]
fn an_emulator_takes_half_a_request_if_it_does_not_acquire_it() {
    let checker = Checker::bounded(2).with(Fault::RelaxedLoads(EMULATOR));
    slot::requests_are_answered(checker, 1, Answer::AtOnce, Notified::Yes);
}

#[test]
fn a_vcpu_never_waits_for_ever_and_gets_no_answer_of_another_while_the_server_ends() {
    slot::the_server_ends_beside_requests(Checker::bounded(2));
}

#[test]
#[should_panic(expected = "two threads are where one may be")]
fn the_end_of_a_server_and_a_late_answer_meet_without_the_lock() {
    slot::the_server_ends_beside_requests(Checker::bounded(2).with(Fault::NoLocks(EMULATOR)));
}

#[test]
fn entries_cross_the_ring_once_whole_and_in_turn_in_both_modes() {
    for mode in [Mode::Legacy, Mode::Atomic] {
        // Before the end of the ring, and where atomic mode takes a turn off.
        for start in [510, 511] {
            ring::entries_cross_the_ring(Checker::bounded(2), mode, start, 3);
        }
    }
    ring::entries_cross_the_ring(Checker::bounded(2), Mode::Legacy, u32::MAX - 1, 3);
}

#[test]
#[should_panic(expected = "each once, in turn")]
fn entries_are_torn_if_xen_does_not_release_the_pointer_in_legacy_mode() {
    let checker = Checker::bounded(2).with(Fault::RelaxedStores(XENS_RING));
    ring::entries_cross_the_ring(checker, Mode::Legacy, 510, 2);
}

#[test]
#[should_panic(expected = "each once, in turn")]
fn entries_are_torn_if_xen_does_not_release_the_pointer_in_atomic_mode() {
    let checker = Checker::bounded(2).with(Fault::RelaxedUpdates(XENS_RING));
    ring::entries_cross_the_ring(checker, Mode::Atomic, 510, 2);
}

#[test]
#[should_panic(expected = "each once, in turn")]
fn entries_are_torn_if_the_emulator_does_not_acquire_the_pointer() {
    let checker = Checker::bounded(2).with(Fault::RelaxedLoads(EMULATORS_RING));
    ring::entries_cross_the_ring(checker, Mode::Atomic, 510, 2);
}

#[test]
#[should_panic(expected = "each once, in turn")]
fn entries_are_doubled_or_lost_if_the_emulator_advances_by_load_and_store_in_atomic_mode() {
    let checker = Checker::bounded(2).with(Fault::TornUpdates(EMULATORS_RING));
    ring::entries_cross_the_ring(checker, Mode::Atomic, 511, 3);
}

#[test]
fn what_finds_no_room_in_the_ring_goes_by_the_slot_once_and_in_turn() {
    for mode in [Mode::Legacy, Mode::Atomic] {
        ring::what_finds_no_room_goes_by_the_slot(Checker::bounded(2), mode, 3, Drain::Copies);
    }
}

#[test]
#[should_panic(expected = "nothing is overwritten")]
fn entries_are_overwritten_if_the_emulator_gives_back_their_room_before_it_has_copied_them() {
    ring::what_finds_no_room_goes_by_the_slot(Checker::bounded(2), Mode::Atomic, 2, Drain::GivesBackFirst);
}

#[test]
fn an_emulator_that_writes_garbage_to_the_pointers_stops_nobody() {
    for mode in [Mode::Legacy, Mode::Atomic] {
        for garbage in [[0, u32::MAX], [u32::MAX, 0], [0xdead_beef, 0xdead_beee], [1023, 511]] {
            ring::garbage_in_the_pointers_stops_nobody(Checker::bounded(2), mode, garbage);
        }
    }
}
