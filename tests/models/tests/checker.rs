//! The checker tried on what is known: it sees all that may be seen, and nothing else.

use std::collections::BTreeSet;

use models::model::litmus::{self, Order};
use models::{Checker, Fault};

#[test]
fn of_two_that_write_and_then_read_one_sees_the_other_only_in_a_total_order() {
    let all = BTreeSet::from([(0, 0), (0, 1), (1, 0), (1, 1)]);
    let one = BTreeSet::from([(0, 1), (1, 0), (1, 1)]);
    let seen = |checker, order| litmus::both_write_then_read(checker, order);
    assert_eq!(seen(Checker::whole(), Order::Total), one);
    assert_eq!(seen(Checker::whole(), Order::Handover), all);
    assert_eq!(seen(Checker::whole(), Order::Relaxed), all);
    assert_eq!(seen(Checker::whole().with(Fault::NoTotalOrder("litmus.rs")), Order::Total), all);
    assert_eq!(seen(Checker::bounded(2), Order::Total), one);
}

#[test]
fn a_flag_is_seen_without_its_word_only_if_it_does_not_hand_over() {
    let all = BTreeSet::from([(0, 0), (0, 1), (1, 0), (1, 1)]);
    let mut handed_over = all.clone();
    handed_over.remove(&(1, 0));
    let seen = |checker, order| litmus::a_word_and_its_flag(checker, order);
    assert_eq!(seen(Checker::whole(), Order::Total), handed_over);
    assert_eq!(seen(Checker::whole(), Order::Handover), handed_over);
    assert_eq!(seen(Checker::whole(), Order::Relaxed), all);
    assert_eq!(seen(Checker::whole().with(Fault::RelaxedLoads("litmus.rs")), Order::Handover), all);
    assert_eq!(seen(Checker::whole().with(Fault::RelaxedStores("litmus.rs")), Order::Handover), all);
    assert_eq!(seen(Checker::bounded(2), Order::Handover), handed_over);
}

#[test]
fn two_that_read_and_exchange_meet_in_every_order() {
    let all = BTreeSet::from([(0, 0), (0, 1), (1, 0)]);
    assert_eq!(litmus::both_read_then_exchange(Checker::whole()), all);
    assert_eq!(litmus::both_read_then_exchange(Checker::bounded(1)), all);
}

#[test]
fn halves_that_are_written_one_by_one_are_read_so() {
    let all = BTreeSet::from([(0, 0), (1, 0), (1, 1)]);
    assert_eq!(litmus::halves_and_a_whole(Checker::whole()), all);
}

#[test]
#[should_panic(expected = "exceeded maximum number of branches")]
fn a_thread_that_never_ends_is_told() {
    litmus::a_wait_without_end(Checker::bounded(1));
}
