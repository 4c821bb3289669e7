//! A page that is taken back is its owner's alone, whatever others do meanwhile.

use schedules::Checker;
use schedules::scene::{By, Granter, Version, revoke};

const N: usize = 3000;

#[test]
fn a_mapping_beside_a_revocation_is_switched_or_refused() {
    for by in [By::Cpu, By::Vcpu, By::Device] {
        revoke::beside_a_map(Checker::sampled(N), by, Version::One, Granter::Right);
    }
    revoke::beside_a_map(Checker::sampled(N), By::Cpu, Version::Two, Granter::Right);
}

#[test]
fn copies_beside_a_revocation_are_waited_for_and_no_new_one_gets_in() {
    for version in [Version::One, Version::Two] {
        revoke::beside_copies(Checker::sampled(N), version, Granter::Right);
    }
}

#[test]
fn an_unmapping_beside_a_revocation_ends_the_mapping_once() {
    revoke::beside_unmaps(Checker::sampled(N));
}

#[test]
fn a_revocation_beside_an_unmapping_waits_for_the_copy_and_not_for_the_mapping() {
    revoke::beside_an_unmap_and_a_copy(Checker::sampled(N));
}

#[test]
fn a_revocation_beside_everything_at_once_has_the_page_back() {
    for version in [Version::One, Version::Two] {
        revoke::beside_everything(Checker::sampled(N), version);
    }
}

#[test]
fn a_reader_beside_a_revocation_sees_the_old_page_and_then_the_new_one() {
    for by in [By::Cpu, By::Vcpu, By::Device] {
        revoke::beside_a_reader(Checker::sampled(N), by);
    }
}

#[test]
fn a_revocation_beside_another_leaves_alone_what_is_granted_after_the_first() {
    revoke::beside_another(Checker::sampled(N));
}

#[test]
fn a_revocation_that_waits_for_a_copy_keeps_nobody_out_of_the_table() {
    revoke::beside_copies_and_a_change_of_the_table(Checker::sampled(N));
}

#[test]
fn a_granter_that_dies_while_it_revokes_leaves_nothing_behind() {
    for version in [Version::One, Version::Two] {
        revoke::beside_the_granters_death(Checker::sampled(N), version);
    }
}

#[test]
fn a_mapper_that_never_unmaps_keeps_nothing_of_a_dead_granter() {
    for by in [By::Cpu, By::Vcpu, By::Device] {
        revoke::of_a_mapper_that_keeps_it_by_death(Checker::sampled(N), by);
    }
}

#[test]
fn a_mapper_that_dies_beside_a_revocation_ends_each_use_once() {
    for by in [By::Cpu, By::Vcpu, By::Device] {
        revoke::beside_the_mappers_death(Checker::sampled(N), by);
    }
    revoke::beside_the_end_of_a_process(Checker::sampled(N));
}

#[test]
#[should_panic(expected = "the granter's again")]
fn a_granter_that_does_not_take_its_page_back_is_found_out() {
    revoke::beside_a_map(Checker::sampled(N), By::Cpu, Version::One, Granter::Hasty);
}

#[test]
fn a_revocation_at_the_root_ends_copies_by_who_handed_it_on() {
    revoke::at_the_root_of_a_grant_that_is_handed_on(Checker::sampled(N));
}
