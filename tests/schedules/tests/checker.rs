//! The checker itself: the scheduler decides everything, and what must be found is found.

use schedules::scene::{Version, basics, revoke};
use schedules::{Checker, Fault};

#[test]
fn a_schedule_runs_the_same_way_each_time() {
    revoke::beside_everything(Checker::twice(300), Version::One);
}

#[test]
fn every_schedule_of_two_steps_is_tried() {
    let whole = basics::two_count(Checker::all());
    assert!((2..100).contains(&whole), "{whole}");
}

#[test]
#[should_panic(expected = "each is counted")]
fn two_steps_are_miscounted_when_they_are_torn() {
    basics::two_count(Checker::all().with(Fault::TornUpdates("scene/basics.rs")));
}

#[test]
#[should_panic(expected = "deadlock")]
fn threads_that_wait_for_each_other_are_found() {
    basics::locks_in_two_orders(Checker::sampled(100));
}

#[test]
#[should_panic(expected = "locks what it reads already")]
fn a_thread_that_may_wait_for_itself_is_found() {
    basics::a_reader_reads_again(Checker::sampled(1));
}

#[test]
fn a_reader_that_waits_for_another_ends() {
    basics::a_reader_waits_for_another(Checker::sampled(400), false);
}

#[test]
#[should_panic(expected = "exceeded max_steps")]
fn a_writer_that_waits_keeps_readers_out_and_who_waits_for_one_is_found() {
    basics::a_reader_waits_for_another(Checker::sampled(400), true);
}
