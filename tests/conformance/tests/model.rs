//! Every area on the model: all rows hold, and a row whose expectation is wrong fails.

use std::collections::BTreeSet;
use std::process::Command;
use std::rc::Rc;

use conformance::bench::{Bench, model_guest};
use conformance::ioreq::{Others, access};
use conformance::{On, Row, grants, iommu, ioreq};
use guest::rows::Table;
use mock_xen::{Config, Machine, Profile};
use xen_ioreq::{Errno, VcpuId};

fn failed(rows: &[Row]) -> Vec<&Row> {
    rows.iter().filter(|r| !r.ok).collect()
}

fn bench() -> Rc<Bench> {
    let config = Config { frames: 2048, profile: Profile::Stock, ..Config::default() };
    let machine = Machine::new(config).expect("a machine");
    let guest = model_guest(&machine, 64, 1).expect("a guest");
    Rc::new(Bench::on_model(&machine, guest).expect("a bench"))
}

#[test]
fn every_row_of_ioreq_holds_and_every_access_has_one() {
    let report = ioreq::run_all(On::Model, Others::default()).expect("runs");
    assert!(failed(&report.rows).is_empty(), "{:#?}", failed(&report.rows));
    let of = |area: &str| report.rows.iter().filter(|r| r.name.starts_with(area)).count();
    assert_eq!(of("access"), 3 * Table::Accesses.rows().len(), "of a vCPU alone, and of each of two");
    assert_eq!(of("move"), Table::Moves.rows().len());
    assert_eq!(of("line"), Table::Lines.rows().len());
    assert_eq!(of("together"), 3 * Table::Together.rows().len(), "of each of three vCPUs");
    let accesses = of("access") + of("move") + of("line") + of("together");
    let calls: usize = ioreq::tables().iter().map(|(_, cases)| cases.len()).sum();
    let others = ioreq::notices() + ioreq::last_table().1.len();
    assert_eq!(report.rows.len(), accesses + calls + others);
}

#[test]
fn every_row_of_iommu_holds() {
    let rows = [iommu::rows(On::Model).expect("runs"), iommu::last_rows(On::Model).expect("runs")].concat();
    assert!(failed(&rows).is_empty(), "{:#?}", failed(&rows));
}

#[test]
fn every_row_of_grants_holds() {
    let rows = grants::rows(On::Model, grants::Others::default()).expect("runs").0;
    assert!(failed(&rows).is_empty(), "{:#?}", failed(&rows));
}

#[test]
fn names_of_rows_are_unique() {
    let rows = [
        grants::rows(On::Model, grants::Others::default()).expect("runs").0,
        ioreq::run_all(On::Model, Others::default()).expect("runs").rows,
        iommu::rows(On::Model).expect("runs"),
        iommu::last_rows(On::Model).expect("runs"),
    ]
    .concat();
    let mut names = BTreeSet::new();
    for row in &rows {
        assert!(names.insert(&row.name), "{} twice", row.name);
    }
}

/// The file of what is expected of a table, without its comments.
fn file(table: Table) -> String {
    let text = access::expected(table).expect("a file");
    text.lines().filter(|l| !l.starts_with('#')).flat_map(|l| [l, "\n"]).collect()
}

#[test]
fn the_files_of_expected_accesses_are_the_logs_of_a_run() {
    let logs = ioreq::run_all(On::Model, Others::default()).expect("runs").logs;
    let (single, together) = logs.split_at(5);
    let tables = [Table::Accesses, Table::Moves, Table::Accesses, Table::Accesses, Table::Lines];
    assert_eq!(single, tables.map(file), "whichever vCPU makes the accesses");
    assert_eq!(together.concat(), file(Table::Together));
}

#[test]
fn a_call_whose_expectation_is_wrong_fails_and_says_what_came() {
    let bench = bench();
    for (area, cases) in ioreq::tables() {
        for case in cases {
            let mut wrong = *case;
            wrong.want = match case.want {
                Ok(n) => Ok(n ^ 1),
                Err(_) => Err(Errno::EDOM),
            };
            let row = wrong.run(area, &mut ioreq::Stage::new(&bench));
            assert!(!row.ok && row.detail.contains(", wanted "), "{row:?}");
        }
    }
}

#[test]
fn a_state_that_cannot_be_made_is_no_answer() {
    let bench = bench();
    let case = conformance::case::Case::<ioreq::Stage> {
        name: "no_such_server",
        source: "",
        want: Err(Errno::ENOENT),
        call: |s| {
            s.destroy(5)?;
            Ok(s.destroy(5))
        },
    };
    let row = case.run("test", &mut ioreq::Stage::new(&bench));
    assert!(!row.ok && row.detail == "the state could not be made: ENOENT", "{row:?}");
}

#[test]
fn each_change_of_the_expected_accesses_fails_the_row_of_that_name() {
    let expected = file(Table::Accesses);
    let mut all = ioreq::accesses(&bench(), Table::Accesses, &[VcpuId(0)]).expect("runs");
    let seen = all.remove(0);
    let rows_without = |from: &str, to: &str| {
        assert!(expected.contains(from), "{from}");
        access::judge("access", "", Table::Accesses, &seen, &expected.replacen(from, to, 1))
    };
    for (from, to, name) in [
        ("in_of_one_byte = 0xef", "in_of_one_byte = 0xee", "in_of_one_byte"),
        ("write 1 x 1 data 0x41", "write 1 x 1 data 0x42", "out_of_one_byte"),
        ("    port 0x1000 write 4 x 1 data 0xdeadbeef\n", "", "out_of_four_bytes"),
        ("write 1 x 16 at ram+0x0", "write 1 x 15 at ram+0x0", "rep_outsb"),
        ("    invalidate", "    inval1date", "decrease_reservation_of_two_frames"),
        ("config_read_after_it = ", "config_read_behind_it = ", "config_read_after_it"),
    ] {
        let rows = rows_without(from, to);
        let names: Vec<_> = failed(&rows).iter().map(|r| r.name.clone()).collect();
        assert_eq!(names, [format!("access: {name}")], "{from:?}");
    }
    // A guest that stopped half-way: the rows that it did not come to have failed.
    let half = seen.len() / 2;
    let rows = access::judge("access", "", Table::Accesses, &seen[..half], &expected);
    assert_eq!(failed(&rows).len(), rows.len() - half);
}

#[test]
fn without_xen_one_line_says_so() {
    if std::path::Path::new("/dev/xen/privcmd").exists() {
        return;
    }
    for area in ["ioreq", "iommu", "grants"] {
        let args = [area, "--on", "xen", "--domid", "1"];
        let out = Command::new(env!("CARGO_BIN_EXE_conformance")).args(args).output().expect("runs");
        let stdout = String::from_utf8_lossy(&out.stdout);
        assert!(stdout.starts_with(&format!("FAILED {area}: /dev/xen/privcmd is not there")), "{stdout}");
        assert_eq!(stdout.lines().count(), 2, "{stdout}");
        assert_eq!(out.status.code(), Some(1));
    }
    let out = Command::new(env!("CARGO_BIN_EXE_conformance"))
        .args(["ioreq", "--on", "xen"])
        .output()
        .expect("runs");
    assert!(!out.status.success());
    assert!(String::from_utf8_lossy(&out.stderr).contains("--domid"), "{out:?}");
}
