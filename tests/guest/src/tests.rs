//! The driver against the naive machine of [`fake`](crate::fake).

use std::vec;
use std::vec::Vec;

use crate::fake::{Fake, Faults};
use crate::rows::Table;
use crate::run::{Config, Report, run};
use crate::scene::{FINAL, PIXELS, digest, reference};
use crate::{DriverError, hostile, rows};

fn draw(faults: Faults, config: &Config) -> (Fake, Result<Report, DriverError>) {
    let mut machine = Fake::new(faults);
    let mut buffer = vec![0; PIXELS];
    let result = run(&mut machine, config, &mut buffer);
    (machine, result)
}

fn final_digest(seed: u64, number: u16) -> u64 {
    let mut buffer = vec![0; PIXELS];
    reference(seed, number, FINAL, &mut buffer);
    digest(&buffer)
}

#[test]
fn undisturbed_frames_are_drawn_without_a_reset_and_the_picture_is_right() {
    let config = Config { frames: Some(2), balloon: 0, seed: 5, ..Config::default() };
    let (mut machine, result) = draw(Faults::default(), &config);
    let report = result.unwrap();
    assert_eq!((report.frames_drawn, report.resets, report.checks, report.checks_failed), (2, 0, 2, 0));
    assert_eq!(report.picture, final_digest(5, 7));
    // what the display registers name is what was drawn
    assert_eq!((machine.reg(0x6_001c), machine.reg(0x7_0188)), (0x027f_01df, 2560));
    assert_eq!(machine.reg(0x7_0180), 0x9800_0000);
    let shown = u64::from(machine.reg(0x7_019c));
    let pixels: Vec<u32> = (0..PIXELS as u64).map(|n| machine.gm(shown + 4 * n)).collect();
    assert_eq!(digest(&pixels), report.picture);
}

#[test]
fn ballooned_frames_are_repaired_and_every_page_comes_back() {
    let config = Config { frames: Some(30), balloon: 24, patience: 20, check_every: 7, ..Config::default() };
    let (machine, result) = draw(Faults { refuse: 3, ..Faults::default() }, &config);
    let report = result.unwrap();
    assert_eq!((report.frames_drawn, report.damaged_redrawn, report.checks_failed), (30, 29, 0));
    assert!(report.ballooned_out > 500 && report.ballooned_in == report.ballooned_out);
    assert!(report.resets > 0, "no page of the engine was ever hit");
    assert_eq!((report.starved, machine.frames()), (3, 1024));
    assert!(machine.holes_hit > 0, "the blitter never met a hole");
    assert_eq!(report.picture, final_digest(1, 7));
}

#[test]
fn without_interrupts_the_driver_polls() {
    let config = Config { frames: Some(2), balloon: 0, ..Config::default() };
    let (_, result) = draw(Faults { no_msi: true, ..Faults::default() }, &config);
    let report = result.unwrap();
    assert_eq!((report.frames_drawn, report.interrupts, report.checks_failed), (2, 0, 0));
}

#[test]
fn a_fill_left_out_is_a_failed_check() {
    let config = Config { frames: Some(1), ..Config::default() };
    let (machine, result) = draw(Faults { skip_fill: 50, ..Faults::default() }, &config);
    assert_eq!(result.unwrap().checks_failed, 1);
    assert!(machine.logged.iter().any(|l| l.contains("pixels differ")));
}

#[test]
fn an_error_that_the_engine_reports_is_not_waited_out() {
    let config =
        Config { frames: Some(12), balloon: 40, patience: 1000, check_every: 0, ..Config::default() };
    for no_msi in [false, true] {
        let (machine, result) = draw(Faults { reports_errors: true, no_msi, ..Faults::default() }, &config);
        let report = result.unwrap();
        assert!(report.resets > 0 && report.checks_failed == 0);
        assert!(machine.waits < 1000, "{} moments", machine.waits);
    }
}

#[test]
fn a_device_that_is_replaced_at_any_access_and_once_more_at_any_other_shows_the_last_picture() {
    let config = Config { frames: Some(1), balloon: 0, check_every: 0, patience: 3, ..Config::default() };
    let mut picture = vec![0; PIXELS];
    reference(1, 7, FINAL, &mut picture);
    let (wanted, first_pixel) = (digest(&picture), picture[0]);
    let mut resets = 0;
    let mut is_right = |replaced: &[u32]| {
        let mut machine = Fake::new(Faults::default());
        machine.replaced = replaced.to_vec();
        let report = run(&mut machine, &config, &mut vec![0; PIXELS]).unwrap();
        resets += report.resets;
        assert_eq!((report.picture, report.checks_failed), (wanted, 0), "{replaced:?}");
        // Only of one that came after the last drawing has the driver seen nothing.
        if replaced.iter().all(|&n| n < machine.submitted) {
            let shown = [0x6_001c, 0x7_0188, 0x7_0180].map(|reg| machine.reg(reg));
            assert_eq!(shown, [0x027f_01df, 2560, 0x9800_0000], "{replaced:?}");
            assert_eq!(machine.gm(machine.reg(0x7_019c).into()), first_pixel, "{replaced:?}");
        }
        machine.accesses
    };
    let undisturbed = is_right(&[]);
    for first in 0..undisturbed {
        is_right(&[first]);
    }
    let first = undisturbed - 10;
    for second in first + 1..is_right(&[first]) {
        is_right(&[first, second]);
    }
    assert!(resets > undisturbed / 2, "{resets} resets");
}

#[test]
fn a_dead_engine_is_given_up_after_some_resets() {
    let config = Config { frames: Some(1), patience: 3, ..Config::default() };
    let (_, result) = draw(Faults { dead: true, ..Faults::default() }, &config);
    assert_eq!(result, Err(DriverError::Stuck(FINAL)));
}

#[test]
fn pages_that_never_come_back_are_an_error() {
    let config = Config { frames: Some(2), balloon: 4, ..Config::default() };
    let (_, result) = draw(Faults { refuse: u32::MAX, ..Faults::default() }, &config);
    assert!(matches!(result, Err(DriverError::Starved(_))));
}

#[test]
fn without_a_gpu_the_driver_says_so() {
    let (_, result) = draw(Faults { absent: true, ..Faults::default() }, &Config::default());
    assert_eq!(result, Err(DriverError::NoDevice));
}

#[test]
fn the_hostile_driver_ends_and_takes_all_its_pages_back() {
    for seed in 0..4 {
        let mut machine = Fake::new(Faults { dead: true, ..Faults::default() });
        let report = hostile::run(&mut machine, seed, 600).unwrap();
        assert_eq!((report.rounds, report.lost, machine.frames()), (600, 0, 1024));
        assert!(report.honest > 0 && report.finished == 0 && report.long > 0);
        assert!(report.submissions > 0 && report.endless > 0 && report.moves > 0 && report.ballooned > 0);
    }
}

#[test]
fn where_nobody_serves_every_row_has_the_answer_that_it_must_have() {
    let mut wrong = Vec::new();
    // The others are about what a server does.
    for table in [Table::Accesses, Table::Give] {
        let rows = table.rows();
        let mut machine = Fake::new(Faults { absent: true, populates_over: true, ..Faults::default() });
        // What frames do that were ordered to be something else than RAM takes somebody who does as ordered.
        let is_order = |r: &rows::Row| matches!(r.access, rows::Access::Order { .. });
        let first = rows.iter().position(is_order).unwrap_or(rows.len());
        let ordered = &rows[first..rows.iter().rposition(is_order).map_or(first, |last| last + 1)];
        rows::run(&mut machine, rows, &mut |row, answer| {
            if row.expect.is_some_and(|e| e != answer) && ordered.iter().all(|o| o.name != row.name) {
                wrong.push((row.name, answer));
            }
        })
        .unwrap();
        assert!(ordered.len() < rows.len() / 2, "most rows are judged");
        assert_eq!(machine.frames(), 1024, "what was given was taken back");
    }
    assert_eq!(wrong, []);
}

#[test]
fn tables_are_run_as_they_are_asked_for_and_numbers_of_none_are_waited_out() {
    let mut machine = Fake::new(Faults { absent: true, populates_over: true, ..Faults::default() });
    machine.asks = std::vec![0, u32::MAX, 2, 99, 1, 2];
    let mut names = Vec::new();
    let mut tables = 0;
    let mut done = || {
        tables += 1;
        tables == 2
    };
    rows::serve(&mut machine, &mut |row, _| names.push(row.name), &mut done).unwrap();
    let wanted: Vec<_> =
        [Table::Give, Table::Accesses].iter().flat_map(|t| t.rows()).map(|r| r.name).collect();
    assert_eq!(names, wanted);
    assert_eq!((machine.asks.len(), tables), (1, 2));
    assert!(machine.waits >= 3);
}

#[test]
fn rows_have_names_of_their_own() {
    let rows: Vec<_> = Table::ALL.iter().flat_map(|t| t.rows()).collect();
    let names: std::collections::BTreeSet<_> = rows.iter().map(|r| r.name).collect();
    assert_eq!(names.len(), rows.len());
}
