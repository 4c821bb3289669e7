//! `mgpu` as a user meets it: what it prints, what it writes, how it ends.
#![cfg(feature = "embedded")]

use std::path::Path;
use std::process::{Command, Output};

use guest::scene::{self, FINAL, HEIGHT, PIXELS, WIDTH};

fn mgpu(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_mgpu")).args(args).env_remove("RUST_LOG").output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Ends with an error that is one line, and that names these.
#[track_caller]
fn fails_in_one_line(args: &[&str], names: &[&str]) {
    let out = mgpu(args);
    let said = text(&out.stderr);
    assert_eq!(out.status.code(), Some(1), "{said}");
    assert!(said.starts_with("mgpu: ") && said.lines().count() == 1, "{said}");
    names.iter().for_each(|n| assert!(said.contains(n), "{said}"));
}

/// Refused by the command line's own rules, with a word on how it is used.
#[track_caller]
fn is_refused(args: &[&str], names: &str) {
    let out = mgpu(args);
    let said = text(&out.stderr);
    assert_eq!(out.status.code(), Some(2), "{said}");
    assert!(said.contains(names) && said.contains("--help"), "{said}");
}

/// The picture is a PNG, and each pixel the reference's.
#[track_caller]
fn shows_the_reference(file: &Path, seed: u64, number: u16) {
    let file = std::io::BufReader::new(std::fs::File::open(file).unwrap());
    let mut reader = png::Decoder::new(file).read_info().unwrap();
    let mut rgb = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut rgb).unwrap();
    assert_eq!((info.width, info.height), (WIDTH.into(), HEIGHT.into()));
    assert_eq!((info.color_type, info.bit_depth), (png::ColorType::Rgb, png::BitDepth::Eight));
    let mut wanted = vec![0; PIXELS];
    scene::reference(seed, number, FINAL, &mut wanted);
    let have = rgb.as_chunks::<3>().0.iter().map(|[r, g, b]| u32::from_be_bytes([0, *r, *g, *b]));
    assert!(have.eq(wanted), "another picture than seed {seed} gives guest {number}");
}

#[test]
fn demo_ends_well_and_its_pictures_are_the_reference() {
    for hypervisor in ["draft", "stock"] {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().to_str().unwrap();
        let args = ["demo", "--seconds", "1", "--guests", "2", "--seed", "5", "--out", out, "--hypervisor"];
        let done = mgpu(&[&args[..], &[hypervisor]].concat());
        let (said, wrong) = (text(&done.stdout), text(&done.stderr));
        assert!(done.status.success(), "{said}{wrong}");
        assert!(said.contains("saw nothing wrong"), "{said}");
        for number in 1..=2 {
            assert!(said.lines().any(|l| l.trim_start().starts_with(&format!("d{number} "))), "{said}");
            shows_the_reference(&dir.path().join(format!("dom{number}.png")), 5, number);
        }
    }
}

#[test]
fn demo_ends_as_well_while_things_go_wrong_below() {
    for hypervisor in ["draft", "stock"] {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().to_str().unwrap();
        let args = ["demo", "--seconds", "2", "--guests", "2", "--faults", "--out", out, "--hypervisor"];
        let done = mgpu(&[&args[..], &[hypervisor]].concat());
        let (said, wrong) = (text(&done.stdout), text(&done.stderr));
        assert!(done.status.success(), "{said}{wrong}");
        assert!(said.contains("faults were made") && !said.contains("\n0 faults"), "{said}");
        (1..=2).for_each(|n| shows_the_reference(&dir.path().join(format!("dom{n}.png")), 1, n));
    }
}

#[test]
fn demo_ends_well_with_a_hostile_guest_among_three() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().to_str().unwrap();
    let done = mgpu(&["demo", "--seconds", "1", "--guests", "3", "--hostile", "1", "--out", out]);
    assert!(done.status.success(), "{}{}", text(&done.stdout), text(&done.stderr));
    (1..=2).for_each(|n| shows_the_reference(&dir.path().join(format!("dom{n}.png")), 1, n));
    assert!(!dir.path().join("dom3.png").exists(), "the hostile guest has no picture");
}

/// `--seconds 600` is the long form of it, see docs/many-guests.md.
#[test]
fn demo_ends_well_with_three_hostile_guests_among_fifteen_and_each_has_its_share() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().to_str().unwrap();
    let args = [
        "demo",
        "--seconds",
        "20",
        "--guests",
        "15",
        "--hostile",
        "3",
        "--policy",
        "equal-share",
        "--out",
        out,
    ];
    let done = mgpu(&args);
    let (said, wrong) = (text(&done.stdout), text(&done.stderr));
    assert!(done.status.success(), "{said}{wrong}");
    assert!(said.contains("12 guests drew") && said.contains("saw nothing wrong"), "{said}");
    assert!(!said.contains(" 0 times a vGPU was taken away"), "{said}");
    (1..=12).for_each(|n| shows_the_reference(&dir.path().join(format!("dom{n}.png")), 1, n));
}

#[test]
fn picture_is_the_reference_and_says_where_it_cannot_be_written() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("deep/er.png");
    assert!(mgpu(&["picture", "--domid", "3", "--seed", "8", file.to_str().unwrap()]).status.success());
    shows_the_reference(&file, 8, 3);
    let below = file.join("x.png");
    fails_in_one_line(&["picture", "--domid", "3", below.to_str().unwrap()], &["er.png"]);
}

#[test]
fn wrong_arguments_are_refused_with_what_is_wrong() {
    is_refused(&["demo", "--guests", "0"], "--guests");
    is_refused(&["demo", "--seconds", "soon"], "soon");
    is_refused(&["demo", "--faults=map:EIO"], "PLACE:FAULT:1/N");
    is_refused(&["serve"], "--domid");
    is_refused(&["serve", "--domid", "1", "--type", "V9_9"], "V9_9");
    is_refused(&["serve", "--domid", "1", "--gpu", "i915"], "i915");
    is_refused(&["serve", "--domid", "1", "--gpu", "vfio:00:02.0"], "0000:00:02.0");
    is_refused(&["probe", "--vfio", "00:02.0"], "0000:00:02.0");
    is_refused(&["probe", "--json"], "--vfio");
    is_refused(&["probe", "--vfio", "0000:00:02.0", "--work", "--json"], "--work");
    is_refused(&["ask", "/run/nobody"], "COMMAND");
    is_refused(&["draw"], "draw");
    fails_in_one_line(&["demo", "--guests", "2", "--hostile", "3"], &["--hostile 3", "2 guests"]);
}

#[test]
fn ask_names_the_socket_that_nobody_listens_at() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("socket");
    fails_in_one_line(&["ask", socket.to_str().unwrap(), "status"], &["socket", "--control"]);
}

#[test]
fn without_xen_serve_says_so_in_one_line() {
    if Path::new("/dev/xen/privcmd").exists() {
        return;
    }
    fails_in_one_line(&["serve", "--domid", "1"], &["/dev/xen/privcmd"]);
}

#[test]
fn a_device_that_is_not_there_is_named_in_one_line() {
    fails_in_one_line(&["probe", "--vfio", "ffff:ff:1f.7"], &["ffff:ff:1f.7", "no such PCI device"]);
}

#[test]
fn types_lists_what_there_could_be() {
    let out = mgpu(&["types", "--aperture", "1024"]);
    assert!(out.status.success());
    let rows: Vec<Vec<String>> =
        text(&out.stdout).lines().map(|l| l.split_whitespace().map(str::to_owned).collect()).collect();
    let names = ["type", "low_gm_mib", "high_gm_mib", "fences", "weight", "available_instances"];
    assert_eq!(rows[0], names);
    assert_eq!(rows[1], ["V4_1", "512", "2048", "4", "16", "1"]);
    assert_eq!(rows[4], ["V4_8", "64", "384", "4", "2", "7"]);
}
