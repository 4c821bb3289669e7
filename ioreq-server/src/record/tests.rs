use std::os::unix::fs::{PermissionsExt as _, symlink};

use proptest::prelude::*;

use super::*;

const GUEST: Incarnation =
    Incarnation { domid: DomId(7), uuid: [0xab; 16], shared_info: 0x1_2345, boot: [0x17; 16] };
const A: IoServerId = IoServerId(1);
const B: IoServerId = IoServerId(2);

/// A directory of its own, and the path of a record in it.
fn place() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("7");
    (dir, path)
}

#[test]
fn a_record_that_was_not_there_is_empty_and_its_owners_alone() {
    let (_dir, path) = place();
    let record = Record::open(&path, GUEST).unwrap();
    assert!(record.left().is_empty() && record.note().is_empty());
    let meta = std::fs::metadata(&path).unwrap();
    assert_eq!((meta.permissions().mode() & 0o777, meta.len()), (0o600, LENGTH as u64));
}

#[test]
fn what_was_not_struck_out_is_left_to_the_successor_with_the_last_note() {
    let (_dir, path) = place();
    let first = Record::open(&path, GUEST).unwrap();
    first.add(A).unwrap();
    first.keep(b"a longer note").unwrap();
    first.keep(b"note").unwrap();
    assert!(first.left().is_empty(), "ours are not left by anybody");
    drop(first);
    let second = Record::open(&path, GUEST).unwrap();
    assert_eq!((second.left(), second.note()), (vec![A], b"note".to_vec()));
    // Killed again before it has buried the first one's: both are left.
    second.add(B).unwrap();
    drop(second);
    let third = Record::open(&path, GUEST).unwrap();
    assert_eq!(third.left(), [A, B]);
    third.strike(A).unwrap();
    third.add(A).unwrap();
    assert_eq!(third.left(), [B]);
    third.strike(A).unwrap();
    third.strike(B).unwrap();
    drop(third);
    let last = Record::open(&path, GUEST).unwrap();
    assert_eq!((last.left(), last.note()), (vec![], b"note".to_vec()));
}

#[test]
fn a_number_that_xen_has_given_to_us_is_nobodys_legacy() {
    let (_dir, path) = place();
    Record::open(&path, GUEST).unwrap().add(A).unwrap();
    let record = Record::open(&path, GUEST).unwrap();
    record.add(A).unwrap();
    assert!(record.left().is_empty());
}

#[test]
fn what_is_of_another_guest_or_run_or_boot_is_forgotten() {
    let others = [
        Incarnation { domid: DomId(8), ..GUEST },
        Incarnation { uuid: [0xac; 16], ..GUEST },
        Incarnation { shared_info: 0x1_2346, ..GUEST },
        Incarnation { boot: [0x18; 16], ..GUEST },
    ];
    for other in others {
        let (_dir, path) = place();
        let before = Record::open(&path, GUEST).unwrap();
        before.add(A).unwrap();
        before.keep(b"note").unwrap();
        drop(before);
        let record = Record::open(&path, other).unwrap();
        assert!(record.left().is_empty() && record.note().is_empty(), "{other:?}");
        drop(record);
        // For good: the numbers may be used again.
        assert!(Record::open(&path, GUEST).unwrap().left().is_empty());
    }
}

#[test]
fn guest_that_has_put_its_shared_info_page_somewhere_since_is_the_same_and_one_that_has_not_yet_is_not() {
    let early = Incarnation { shared_info: Incarnation::NOWHERE, ..GUEST };
    let (_dir, path) = place();
    Record::open(&path, early).unwrap().add(A).unwrap();
    assert_eq!(Record::open(&path, early).unwrap().left(), [A]);
    assert_eq!(Record::open(&path, GUEST).unwrap().left(), [A]);
    assert_eq!(Record::open(&path, GUEST).unwrap().left(), [A]);
    assert!(Record::open(&path, early).unwrap().left().is_empty());
}

#[test]
fn two_living_processes_do_not_have_the_same_record() {
    let (_dir, path) = place();
    let _first = Record::open(&path, GUEST).unwrap();
    let error = Record::open_within(Duration::ZERO, path.clone(), GUEST).unwrap_err();
    assert_eq!(error, RecordError::InUse { path, domid: DomId(7) });
}

#[test]
fn a_predecessor_that_takes_its_time_to_end_is_waited_for() {
    let (_dir, path) = place();
    let first = Record::open(&path, GUEST).unwrap();
    first.add(A).unwrap();
    let second = std::thread::spawn(move || Record::open(&path, GUEST));
    drop(first);
    assert_eq!(second.join().unwrap().unwrap().left(), [A]);
}

#[test]
fn what_is_no_plain_file_is_refused_and_left_alone() {
    let (dir, path) = place();
    let victim = dir.path().join("victim");
    std::fs::write(&victim, "precious").unwrap();
    symlink(&victim, &path).unwrap();
    assert!(matches!(Record::open(&path, GUEST), Err(RecordError::File { op: "opening", .. })));
    assert_eq!(std::fs::read(&victim).unwrap(), b"precious");
    std::fs::remove_file(&path).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
        .unwrap();
    assert!(matches!(Record::open(&path, GUEST), Err(RecordError::File { op: "opening", .. })));
    // A directory, and one that is not there.
    assert!(Record::open(dir.path(), GUEST).is_err());
    assert!(Record::open(dir.path().join("no/such"), GUEST).is_err());
}

/// The text, cut or filled up to the length of a record.
fn fit(text: &str) -> String {
    text.chars().chain(std::iter::repeat('\n')).take(LENGTH).collect()
}

#[test]
fn a_record_that_is_damaged_says_where_and_stays() {
    let (_dir, path) = place();
    Record::open(&path, GUEST).unwrap().add(A).unwrap();
    let good = std::fs::read_to_string(&path).unwrap();
    let damages = [
        (1, "version 1", "version 2"),
        (2, "domid 7", "domid 70000"),
        (3, "abab", "abxy"),
        (4, "frame 12345", "frame +2345"),
        (5, "1717", "171 "),
        (6, "servers 1", "servers -"),
        (6, "servers 1", "servers 1 1"),
        (6, "servers 1", "servers1"),
        (6, "servers 1", "servers 1 2 3 4 5 6 7 8 9"),
        (7, "note ", "note f"),
        (8, "end", "end."),
        (8, "end\n", "end\nx"),
    ];
    let damaged = damages.map(|(line, from, to)| (line, fit(&good.replacen(from, to, 1))));
    let lengths = [good.clone() + "\n", good[..LENGTH - 1].to_owned(), "\0".repeat(LENGTH)];
    for (line, text) in damaged.into_iter().chain(lengths.map(|text| (1, text))) {
        std::fs::write(&path, &text).unwrap();
        let error = Record::open(&path, GUEST).unwrap_err();
        assert_eq!(error, RecordError::Damaged { path: path.clone(), line }, "{text}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
    }
}

#[test]
fn there_is_room_for_as_many_servers_as_xen_allows_and_a_note_of_its_length() {
    let (_dir, path) = place();
    let record = Record::open(&path, GUEST).unwrap();
    (0..8).for_each(|id| record.add(IoServerId(id)).unwrap());
    assert!(matches!(record.add(IoServerId(8)), Err(RecordError::Full { what: "a server", .. })));
    record.keep(&[0xff; NOTE_MAX]).unwrap();
    assert!(matches!(record.keep(&[0; NOTE_MAX + 1]), Err(RecordError::Full { what: "a note", .. })));
    drop(record);
    let record = Record::open(&path, GUEST).unwrap();
    assert_eq!((record.left().len(), record.note()), (8, vec![0xff; NOTE_MAX]));
}

fn contents() -> impl Strategy<Value = Contents> {
    let servers = prop::collection::hash_set(any::<u16>(), 0..=SERVERS);
    let note = prop::collection::vec(any::<u8>(), 0..=NOTE_MAX);
    (any::<u16>(), any::<[u8; 16]>(), any::<u64>(), any::<[u8; 16]>(), servers, note).prop_map(
        |(domid, uuid, shared_info, boot, servers, note)| Contents {
            guest: Incarnation { domid: DomId(domid), uuid, shared_info, boot },
            servers: servers.into_iter().map(IoServerId).collect(),
            note,
        },
    )
}

proptest! {
    #[test]
    fn any_record_is_read_as_it_was_written(contents in contents()) {
        prop_assert_eq!(text::parse(&text::print(&contents)), Ok(Some(contents)));
    }

    #[test]
    fn any_bytes_are_refused_or_are_exactly_what_we_would_write(
        contents in contents(),
        changes in prop::collection::vec((0..LENGTH, any::<u8>()), 0..4),
    ) {
        let mut bytes = text::print(&contents);
        changes.iter().for_each(|(at, byte)| bytes[*at] = *byte);
        if let Ok(Some(read)) = text::parse(&bytes) {
            prop_assert_eq!(text::print(&read), bytes);
        }
    }
}
