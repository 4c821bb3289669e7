#![allow(clippy::cast_possible_truncation, reason = "test values are small")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Seek, SeekFrom, Write};

use proptest::prelude::*;
use tempfile::TempDir;
use xen_ioreq::{DomId, IoServerId};

use super::file::{Found, suffixed};
use super::record::{HEADER_SIZE, Header, RECORD_SIZE};
use super::*;

const BOOT: Boot = Boot([7; 16]);
const A: Peer = Peer { domid: DomId(3), ioserver: IoServerId(0) };
const B: Peer = Peer { domid: DomId(4), ioserver: IoServerId(0) };

struct Place {
    dir: TempDir,
}

impl Place {
    fn new() -> Self {
        Self { dir: TempDir::new().unwrap() }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("ledger")
    }

    fn open(&self) -> Ledger {
        Ledger::open_in(&self.path(), BOOT).unwrap()
    }

    fn error(&self) -> LedgerError {
        Ledger::open_in(&self.path(), BOOT).unwrap_err()
    }

    fn bytes(&self) -> Vec<u8> {
        fs::read(self.path()).unwrap()
    }
}

fn done(bfns: &[u64]) -> Vec<Answer> {
    bfns.iter().map(|b| Answer::Done(Bfn(*b))).collect()
}

fn look_up(ledger: &Ledger, peer: Peer, pairs: &[(u64, u64)]) {
    let gfns: Vec<Gfn> = pairs.iter().map(|(g, _)| Gfn(*g)).collect();
    let seqs = ledger.intend(peer, &gfns).unwrap();
    ledger.answered(seqs, peer, &gfns, &done(&pairs.iter().map(|(_, b)| *b).collect::<Vec<_>>()));
}

/// What is known, in an order.
fn known(book: &Book) -> Vec<(u16, u64, u64)> {
    let mut out: Vec<_> = book.known.iter().map(|(((d, _), b), g)| (d.0, g.0, b.0)).collect();
    out.sort_unstable();
    out
}

fn adrift(book: &Book) -> Vec<(u16, u64)> {
    book.adrift.iter().map(|((d, _), g)| (d.0, g.0)).collect()
}

#[test]
fn what_is_held_is_known_in_the_next_life_and_in_the_one_after_that() {
    let place = Place::new();
    let ledger = place.open();
    look_up(&ledger, A, &[(1, 101), (2, 102), (3, 103)]);
    look_up(&ledger, B, &[(1, 201)]);
    ledger.gone(A, [Bfn(102), Bfn(201)].into_iter());
    drop(ledger);
    for _ in 0..2 {
        let left = place.open().take_left();
        assert_eq!(
            known(&left),
            [(3, 1, 101), (3, 3, 103), (4, 1, 201)],
            "another guest's end of a bus frame is not ours"
        );
        assert!(left.adrift.is_empty());
    }
}

#[test]
fn what_was_not_answered_is_adrift() {
    let place = Place::new();
    let ledger = place.open();
    look_up(&ledger, A, &[(1, 101)]);
    let seqs = ledger.intend(A, &[Gfn(5), Gfn(6), Gfn(7), Gfn(8)]).unwrap();
    let answers = [Answer::Done(Bfn(105)), Answer::Refused(Errno::ENXIO), Answer::NotDone(Errno::EFAULT)];
    ledger.answered(seqs, A, &[Gfn(5), Gfn(6), Gfn(7)], &answers);
    let _ = ledger.intend(B, &[Gfn(9)]).unwrap();
    drop(ledger);
    let left = place.open().take_left();
    assert_eq!(known(&left), [(3, 1, 101), (3, 5, 105)]);
    assert_eq!(adrift(&left), [(3, 7), (3, 8), (4, 9)]);
}

#[test]
fn what_was_being_asked_about_is_adrift_and_known() {
    let place = Place::new();
    let ledger = place.open();
    look_up(&ledger, A, &[(1, 101), (2, 102), (9, 109)]);
    look_up(&ledger, B, &[(1, 201)]);
    let seq = ledger.ask(A, [Gfn(9)].into_iter()).unwrap();
    ledger.asked(seq, A, &[(Gfn(9), Bfn(119))], &[Gfn(9)]);
    let _ = ledger.ask(A, [Gfn(2), Gfn(1)].into_iter()).unwrap();
    drop(ledger);
    let left = place.open().take_left();
    assert_eq!(known(&left), [(3, 1, 101), (3, 2, 102), (3, 9, 109), (3, 9, 119), (4, 1, 201)]);
    assert_eq!(adrift(&left), [(3, 1), (3, 2), (3, 9)]);
}

#[test]
fn what_was_adrift_is_found_or_lost_and_lost_it_stays() {
    let place = Place::new();
    let ledger = place.open();
    let _ = ledger.intend(A, &[Gfn(5), Gfn(6), Gfn(7)]).unwrap();
    drop(ledger);
    let ledger = place.open();
    ledger.found(A, &[(Gfn(5), Bfn(105))]);
    ledger.lost(A, &[Gfn(6)]);
    drop(ledger);
    for _ in 0..2 {
        let left = place.open().take_left();
        assert_eq!((known(&left), adrift(&left)), (vec![(3, 5, 105)], vec![(3, 7)]));
        assert_eq!(left.lost, BTreeSet::from([((A.domid, A.ioserver), Gfn(6))]));
    }
}

#[test]
fn own_pages_are_known_by_their_bus_frames() {
    let place = Place::new();
    let ledger = place.open();
    let pairs = [(Gfn(77), Bfn(1)), (Gfn(78), Bfn(2)), (Gfn(79), Bfn(3)), (Gfn(80), Bfn(4))];
    let seqs = ledger.intend_own(&pairs).unwrap();
    let answers = [
        Answer::Done(Bfn(1)),
        Answer::Unsure(Bfn(2), Errno::EIO),
        Answer::Refused(Errno::EPERM),
        Answer::NotDone(Errno::EFAULT),
    ];
    ledger.answered_own(seqs, &pairs, &answers);
    ledger.own_gone([Bfn(1)].into_iter());
    let _ = ledger.intend_own(&[(Gfn(81), Bfn(5))]).unwrap();
    drop(ledger);
    let left = place.open().take_left();
    assert_eq!(left.own, BTreeMap::from([(Bfn(2), Gfn(78))]));
    assert_eq!(left.own_adrift, BTreeMap::from([(Bfn(4), Gfn(80)), (Bfn(5), Gfn(81))]));
}

#[test]
fn two_processes_do_not_share_a_ledger() {
    let place = Place::new();
    let ledger = place.open();
    assert_eq!(place.error(), LedgerError::Busy);
    look_up(&ledger, A, &[(1, 101)]);
    ledger.rewrite();
    assert_eq!(place.error(), LedgerError::Busy, "a rewritten one neither");
    drop(ledger);
    assert_eq!(known(&place.open().take_left()), [(3, 1, 101)]);
}

#[test]
fn a_ledger_is_free_for_the_next_though_a_forked_process_still_has_its_descriptors() {
    let place = Place::new();
    let ledger = place.open();
    let copy = ledger._lock.0.try_clone().unwrap();
    drop(ledger);
    place.open();
    drop(copy);
}

#[test]
fn of_another_boot_nothing_is_believed() {
    let place = Place::new();
    look_up(&place.open(), A, &[(1, 101)]);
    let later = Ledger::open_in(&place.path(), Boot([8; 16])).unwrap();
    assert_eq!(later.take_left(), Book::default());
    drop(later);
    assert_eq!(place.open().take_left(), Book::default(), "it was written anew");
}

#[test]
fn this_boot_has_a_name() {
    assert_eq!(file::this_boot().unwrap(), file::this_boot().unwrap());
    assert_ne!(file::this_boot().unwrap(), Boot([0; 16]));
}

#[test]
fn what_is_no_ledger_is_an_error_that_says_so() {
    let place = Place::new();
    fs::write(place.path(), "a".repeat(1000)).unwrap();
    assert_eq!(place.error(), LedgerError::Foreign);
    assert_eq!(place.bytes(), "a".repeat(1000).as_bytes(), "and stays as it is");
    fs::write(place.path(), "").unwrap();
    assert_eq!(place.error(), LedgerError::Truncated { needed: HEADER_SIZE as u64, found: 0 });
    fs::remove_file(place.path()).unwrap();
    fs::create_dir(place.path()).unwrap();
    assert!(matches!(place.error(), LedgerError::Io { what: "open", .. }));
    let e = Ledger::open_in(&place.path().join("no/such"), BOOT).unwrap_err();
    assert!(matches!(e, LedgerError::Io { what: "open the lock of", .. }), "{e}");
}

#[test]
fn a_ledger_that_was_cut_off_anywhere_is_an_error() {
    let place = Place::new();
    look_up(&place.open(), A, &[(1, 101), (2, 102)]);
    let whole = place.bytes();
    for len in (0..200).chain(whole.len() - 100..whole.len()) {
        fs::write(place.path(), &whole[..len]).unwrap();
        let e = place.error();
        assert!(matches!(e, LedgerError::Truncated { found, .. } if found == len as u64), "{e}");
    }
}

/// A process that is killed while it writes has written whole records, up to some page.
#[test]
fn a_write_that_ended_between_records_leaves_what_was_written() {
    let place = Place::new();
    let ledger = place.open();
    look_up(&ledger, A, &[(1, 101)]);
    let _ = ledger.intend(A, &[2, 3, 4].map(Gfn)).unwrap();
    drop(ledger);
    let whole = place.bytes();
    // Two of the first lookup, and as many as were written of the three.
    for written in 0..=3 {
        let mut bytes = whole.clone();
        bytes[HEADER_SIZE + (2 + written) * RECORD_SIZE..].fill(0);
        fs::write(place.path(), &bytes).unwrap();
        let ledger = place.open();
        assert_eq!(ledger.damaged(), 0);
        let left = ledger.take_left();
        let wanted: Vec<_> = (2..2 + written as u64).map(|g| (3, g)).collect();
        assert_eq!((known(&left), adrift(&left)), (vec![(3, 1, 101)], wanted));
    }
}

#[test]
fn what_a_process_was_killed_over_while_it_rewrote_is_written_anew() {
    let place = Place::new();
    look_up(&place.open(), A, &[(1, 101)]);
    fs::write(suffixed(&place.path(), "new"), [0xa5; 100_000]).unwrap();
    for _ in 0..2 {
        let ledger = place.open();
        assert_eq!(ledger.damaged(), 0);
        assert_eq!(known(&ledger.take_left()), [(3, 1, 101)]);
        ledger.rewrite();
    }
}

#[test]
fn a_header_that_promises_too_much_is_damaged() {
    let place = Place::new();
    drop(place.open());
    for capacity in [1 << 40, u64::MAX] {
        let mut file = fs::OpenOptions::new().write(true).open(place.path()).unwrap();
        file.write_all(Header::new(BOOT, capacity).as_bytes()).unwrap();
        assert_eq!(place.error(), LedgerError::Damaged);
    }
}

use zerocopy::IntoBytes;

/// The records that a file holds, and how many are damaged.
fn read(place: &Place) -> Found {
    Log::read(&place.path(), BOOT).unwrap().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn bytes_that_were_changed_are_noticed_and_never_become_a_bus_frame(
        changes in prop::collection::vec((0usize..HEADER_SIZE + 20 * RECORD_SIZE, any::<u8>()), 1..6),
    ) {
        let place = Place::new();
        let ledger = place.open();
        look_up(&ledger, A, &[(1, 101), (2, 102), (3, 103)]);
        ledger.gone(A, [Bfn(102)].into_iter());
        look_up(&ledger, B, &[(1, 201), (2, 202)]);
        drop(ledger);
        let before = read(&place);
        let whole = place.bytes();
        let mut changed = whole.clone();
        changes.iter().for_each(|(at, value)| changed[*at] = *value);
        fs::write(place.path(), &changed).unwrap();
        match Ledger::open_in(&place.path(), BOOT) {
            Err(_) => prop_assert_ne!(&changed[..HEADER_SIZE], &whole[..HEADER_SIZE]),
            Ok(ledger) => {
                prop_assert_eq!(ledger.damaged() != 0, changed != whole);
                for ((_, bfn), gfn) in &ledger.take_left().known {
                    let written = |r: &Record| matches!(r, Record::Known { gfn: g, bfn: b, .. } if g == gfn && b == bfn);
                    prop_assert!(before.records.iter().any(written));
                }
            }
        }
    }

    #[test]
    fn garbage_is_an_error(bytes in prop::collection::vec(any::<u8>(), 0..4000)) {
        let place = Place::new();
        fs::write(place.path(), bytes).unwrap();
        prop_assert!(Ledger::open_in(&place.path(), BOOT).is_err());
    }
}

#[test]
fn garbage_after_the_header_is_counted_and_not_believed() {
    let place = Place::new();
    drop(place.open());
    let mut file = fs::OpenOptions::new().write(true).open(place.path()).unwrap();
    file.seek(SeekFrom::Start((HEADER_SIZE + 3 * RECORD_SIZE) as u64)).unwrap();
    file.write_all(&[0xa5; 4 * RECORD_SIZE]).unwrap();
    let ledger = place.open();
    assert_eq!(ledger.damaged(), 7, "and so is the gap before it");
    assert_eq!(ledger.take_left(), Book::default());
}

#[test]
fn what_cannot_be_written_is_said_before_anything_is_asked_for() {
    let place = Place::new();
    let ledger = place.open();
    ledger.log.lock().break_writes();
    assert_eq!(ledger.intend(A, &[Gfn(1)]).unwrap_err(), Errno::EBADF);
    assert_eq!(ledger.ask(A, [Gfn(1)].into_iter()).unwrap_err(), Errno::EBADF);
    assert_eq!(ledger.intend_own(&[(Gfn(1), Bfn(1))]).unwrap_err(), Errno::EBADF);
}

#[test]
fn a_long_life_leaves_a_short_file() {
    let place = Place::new();
    let ledger = place.open();
    look_up(&ledger, A, &[(7, 7007)]);
    let gfns: Vec<Gfn> = (0..1000).map(Gfn).collect();
    for _ in 0..300 {
        let seqs = ledger.intend(B, &gfns).unwrap();
        ledger.answered(seqs, B, &gfns, &done(&(0..1000).collect::<Vec<_>>()));
        ledger.gone(B, (0..1000).map(Bfn));
    }
    assert!(place.bytes().len() <= 4 << 20, "{}", place.bytes().len());
    // Nor does one in which nothing is ever there.
    for _ in 0..300 {
        let seqs = ledger.intend(B, &gfns).unwrap();
        ledger.answered(seqs, B, &gfns, &vec![Answer::Refused(Errno::ENXIO); 1000]);
    }
    assert!(place.bytes().len() <= 8 << 20, "{}", place.bytes().len());
    drop(ledger);
    assert_eq!(known(&place.open().take_left()), [(3, 7, 7007)]);
    assert!(!suffixed(&place.path(), "new").exists());
}

#[test]
fn a_log_is_rewritten_while_others_write_it() {
    let place = Place::new();
    let ledger = place.open();
    std::thread::scope(|s| {
        let writers: Vec<_> = (0..3)
            .map(|d| {
                let ledger = &ledger;
                s.spawn(move || {
                    let peer = Peer { domid: DomId(10 + d), ioserver: IoServerId(0) };
                    for round in 0..2000u64 {
                        look_up(ledger, peer, &[(round, 10_000 + round)]);
                        if round % 100 != 0 {
                            ledger.gone(peer, [Bfn(10_000 + round)].into_iter());
                        }
                    }
                })
            })
            .collect();
        while writers.iter().any(|w| !w.is_finished()) {
            ledger.rewrite();
        }
    });
    drop(ledger);
    let wanted: Vec<_> =
        (10..13).flat_map(|d| (0..20).map(move |i| (d, 100 * i, 10_000 + 100 * i))).collect();
    let left = place.open().take_left();
    assert_eq!((known(&left), adrift(&left)), (wanted, vec![]));
}

/// One thing that happens to a ledger.
#[derive(Clone, Debug)]
enum Step {
    /// Frames are looked up; whether the life ends before the answers are written.
    Lookup {
        domid: u16,
        gfns: Vec<u64>,
        outcome: u8,
        killed: bool,
    },
    Gone {
        domid: u16,
        which: usize,
    },
    Ask {
        domid: u16,
        gfn: u64,
        killed: bool,
    },
    Rewrite,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let killed = || prop::bool::weighted(0.1);
    prop_oneof![
        4 => (0..3u16, prop::collection::vec(0..20u64, 1..5), 0..3u8, killed())
            .prop_map(|(domid, gfns, outcome, killed)| Step::Lookup { domid, gfns, outcome, killed }),
        3 => (0..3u16, any::<usize>()).prop_map(|(domid, which)| Step::Gone { domid, which }),
        1 => (0..3u16, 0..20u64, killed()).prop_map(|(domid, gfn, killed)| Step::Ask { domid, gfn, killed }),
        1 => Just(Step::Rewrite),
        1 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// The naive one: a list of references, and a set of questions.
    #[test]
    fn what_is_left_is_what_a_naive_list_says(steps in prop::collection::vec(step(), 1..60)) {
        let place = Place::new();
        let mut ledger = place.open();
        let mut held: Vec<(u16, u64, u64)> = Vec::new();
        let mut open: BTreeSet<(u16, u64)> = BTreeSet::new();
        let mut next_bfn = 1000;
        for step in steps {
            let mut killed = false;
            match step {
                Step::Lookup { domid, mut gfns, outcome, killed: k } => {
                    gfns.sort_unstable();
                    gfns.dedup();
                    let peer = Peer { domid: DomId(domid), ioserver: IoServerId(1) };
                    let list: Vec<Gfn> = gfns.iter().copied().map(Gfn).collect();
                    let seqs = ledger.intend(peer, &list).unwrap();
                    if k {
                        killed = true;
                        open.extend(gfns.iter().map(|g| (domid, *g)));
                    } else {
                        let answers: Vec<Answer> = gfns.iter().map(|g| match outcome {
                            0 => Answer::Refused(Errno::ENXIO),
                            1 => { open.insert((domid, *g)); Answer::NotDone(Errno::EFAULT) }
                            _ => {
                                next_bfn += 1;
                                held.push((domid, *g, next_bfn));
                                Answer::Done(Bfn(next_bfn))
                            }
                        }).collect();
                        ledger.answered(seqs, peer, &list, &answers);
                    }
                }
                Step::Gone { domid, which } => {
                    let mine: Vec<_> = held.iter().copied().filter(|h| h.0 == domid).collect();
                    if let Some(i) = which.checked_rem(mine.len()) {
                        held.retain(|h| *h != mine[i]);
                        let peer = Peer { domid: DomId(domid), ioserver: IoServerId(1) };
                        ledger.gone(peer, [Bfn(mine[i].2)].into_iter());
                    }
                }
                Step::Ask { domid, gfn, killed: k } => {
                    let peer = Peer { domid: DomId(domid), ioserver: IoServerId(1) };
                    let seq = ledger.ask(peer, [Gfn(gfn)].into_iter()).unwrap();
                    if k {
                        killed = true;
                        open.extend(held.iter().filter(|h| h.0 == domid && h.1 == gfn).map(|h| (h.0, h.1)));
                    } else {
                        ledger.asked(seq, peer, &[], &[]);
                    }
                }
                Step::Rewrite => ledger.rewrite(),
                Step::Reopen => killed = true,
            }
            if killed {
                drop(ledger);
                ledger = place.open();
                let left = ledger.take_left();
                let mut wanted = held.clone();
                wanted.sort_unstable();
                prop_assert_eq!(known(&left), wanted);
                prop_assert_eq!(adrift(&left), open.iter().copied().collect::<Vec<_>>());
            }
        }
    }
}
