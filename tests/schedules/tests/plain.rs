//! Grants, transfers, tables and deaths: whatever meets, everything adds up and nobody has what is not theirs.

use schedules::scene::plain::{self, Change, Receiver};
use schedules::scene::{By, Granter, Version};
use schedules::{Checker, Fault};

const N: usize = 3000;

#[test]
fn what_is_mapped_and_copied_by_many_is_the_granters_again_when_the_last_has_gone() {
    let check = plain::maps_and_copies_beside_a_withdrawal;
    for by in [By::Cpu, By::Vcpu, By::Device] {
        check(Checker::sampled(N), by, Version::One, Granter::Right);
    }
    check(Checker::sampled(N), By::Cpu, Version::Two, Granter::Right);
}

#[test]
#[should_panic(expected = "the granter's again")]
fn a_granter_that_does_not_wait_for_its_mappers_is_found_out() {
    let check = plain::maps_and_copies_beside_a_withdrawal;
    check(Checker::sampled(N), By::Cpu, Version::One, Granter::Hasty);
}

#[test]
fn an_entry_that_is_withdrawn_beside_a_map_is_withdrawn_or_mapped_in_every_schedule() {
    for version in [Version::One, Version::Two] {
        plain::a_map_beside_one_withdrawal(Checker::all(), version);
    }
}

#[test]
#[should_panic(expected = "the granter's again, and mapped")]
fn a_claim_in_two_steps_is_found_out() {
    let checker = Checker::all().with(Fault::TornUpdates("grant/entry.rs"));
    plain::a_map_beside_one_withdrawal(checker, Version::One);
}

#[test]
fn a_page_is_transferred_only_if_nobody_uses_it_and_then_nobody_does() {
    plain::a_transfer_beside_a_map(Checker::sampled(N));
}

#[test]
fn a_page_that_is_given_back_while_it_is_used_goes_to_nobody_else() {
    plain::a_balloon_beside_a_map(Checker::sampled(N));
}

#[test]
fn a_page_is_shown_nowhere_when_it_goes_to_somebody_else() {
    plain::a_balloon_beside_an_unmap(Checker::sampled(N));
}

#[test]
fn a_page_that_is_transferred_to_who_goes_is_one_owners_or_free() {
    for how in [Receiver::Withdraws, Receiver::Dies] {
        plain::a_transfer_to_who_goes(Checker::sampled(N), how);
    }
}

#[test]
fn a_table_that_changes_beside_a_map_keeps_what_is_in_use() {
    for what in [Change::Version, Change::Swap] {
        plain::a_change_of_the_table_beside_a_map(Checker::sampled(N), what);
    }
}

#[test]
fn a_granter_that_dies_is_held_by_who_has_its_page_and_no_longer() {
    for both in [false, true] {
        plain::beside_a_death(Checker::sampled(N), both);
    }
}

#[test]
fn a_guest_and_its_emulator_die_at_once() {
    plain::a_guest_and_its_emulator_die(Checker::sampled(N));
}
