//! Rings, slots and wake-ups between a guest's vCPU and its emulator.

use models::model::wake::{self, Notify};
use models::{Checker, Fault};

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
