//! How an engine of the software GPU hands parts of a blit to a helper.

use models::model::seat::{Settle, work_is_shared};
use models::{Checker, Fault};

const SEAT: &str = "team/seat.rs";

#[test]
fn work_is_done_once_and_over_when_it_is_settled() {
    work_is_shared(Checker::bounded(2), 1, Settle::First);
    work_is_shared(Checker::bounded(1), 2, Settle::First);
}

#[test]
#[should_panic(expected = "Concurrent read and write")]
fn a_page_ends_in_use_if_the_helper_is_not_waited_for() {
    work_is_shared(Checker::bounded(2), 1, Settle::Late);
}

#[test]
#[should_panic(expected = "what is offered")]
fn a_helper_takes_what_was_never_offered_with_relaxed_updates_of_the_seat() {
    work_is_shared(Checker::bounded(2).with(Fault::RelaxedUpdates(SEAT)), 1, Settle::First);
}

#[test]
#[should_panic(expected = "Concurrent read and write")]
fn a_page_ends_in_use_with_relaxed_looks_at_the_seat() {
    work_is_shared(Checker::bounded(2).with(Fault::RelaxedLoads(SEAT)), 1, Settle::First);
}
