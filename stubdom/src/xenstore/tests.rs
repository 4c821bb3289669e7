//! Against a naive store.

use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;

use rustix::event::{PollFd, PollFlags, poll};

use super::naive::{Manners, Naive, Nodes};
use super::*;

/// A store with these nodes, a connection to it, and the thread that serves that.
fn store(manners: Manners, nodes: Nodes) -> (Store<UnixStream>, JoinHandle<Nodes>) {
    let naive = Naive::new(nodes, &[DomId(0), DomId(3)]);
    let (store, serves) = naive.connect(manners);
    let ends = std::thread::spawn(move || {
        serves.join().expect("no panic");
        naive.nodes()
    });
    (store, ends)
}

const NONE: Transaction = Transaction::NONE;

fn refused(error: &StoreError) -> Option<Errno> {
    if let StoreError::Refused { errno, .. } = error { Some(*errno) } else { None }
}

#[test]
fn nodes_are_written_read_and_removed_also_with_events_in_between() {
    for manners in [Manners::Good, Manners::Events] {
        let (mut store, serves) =
            store(manners, Nodes::from([("domid".into(), (b"3".to_vec(), String::new()))]));
        assert_eq!(store.domid().expect("a number"), DomId(3));
        store.write(NONE, "a/b", b"12\n").expect("written");
        assert_eq!(store.read(NONE, "a/b").expect("there"), b"12\n");
        assert_eq!(store.read_number(NONE, "a/b").expect("a number"), 12);
        store.write(NONE, "a/c", b"").expect("written");
        assert!(matches!(store.read_number(NONE, "a/c"), Err(StoreError::NotANumber { .. })));
        store.remove(NONE, "a/b").expect("removed");
        let error = store.read(NONE, "a/b").expect_err("gone");
        assert_eq!(refused(&error), Some(Errno::ENOENT));
        assert_eq!(error.to_string(), "XenStore: a/b: ENOENT");
        drop(store);
        assert_eq!(serves.join().expect("no panic").len(), 2);
    }
}

#[test]
fn a_transaction_is_tried_again_as_long_as_it_meets_others_and_undone_if_its_work_fails() {
    let (mut store, serves) = store(Manners::Busy(3), Nodes::new());
    let mut tries = 0;
    store
        .transact(|store, tx| {
            tries += 1;
            store.write(tx, "a", b"1")?;
            store.set_permissions(tx, "a", &[Permission::Owner(DomId(1)), Permission::Read(DomId(2))])
        })
        .expect("goes through");
    assert_eq!(tries, 4);
    let failed: Result<(), _> = store.transact(|store, tx| {
        store.write(tx, "b", b"1")?;
        store.remove(tx, "c")
    });
    assert_eq!(refused(&failed.expect_err("no c")), Some(Errno::ENOENT));
    let odd = store.set_permissions(NONE, "c", &[]).expect_err("no c");
    assert_eq!(refused(&odd), Some(Errno::EIO), "an error of an unknown name");
    drop(store);
    let nodes = serves.join().expect("no panic");
    assert_eq!(nodes, Nodes::from([("a".into(), (b"1".to_vec(), "n1 r2 ".into()))]));
}

#[test]
fn an_answer_that_is_none_is_an_error() {
    for wrong in [[1, XS_READ, 0], [0, XS_WRITE, 0], [0, XS_READ, 5000], [0, XS_READ, u32::MAX]] {
        let (mut store, serves) = store(Manners::Wrong(wrong), Nodes::new());
        assert!(matches!(store.read(NONE, "a"), Err(StoreError::Protocol { .. })), "{wrong:?}");
        drop(store);
        serves.join().expect("no panic");
    }
}

#[test]
fn what_cannot_be_sent_is_refused_before_it_is_sent() {
    let (mut store, serves) = store(Manners::Good, Nodes::new());
    let long = "x".repeat(4000);
    for (path, value) in [("a\0b", b"1".to_vec()), (long.as_str(), b"1".to_vec()), ("a", vec![0; 4096])] {
        assert!(matches!(store.write(NONE, path, &value), Err(StoreError::Unsendable(_))));
    }
    drop(store);
    assert!(serves.join().expect("no panic").is_empty());
}

#[test]
fn a_store_that_goes_away_is_an_error() {
    let (ours, theirs) = UnixStream::pair().expect("a socket");
    drop(theirs);
    assert!(matches!(Store::over(ours).read(NONE, "a"), Err(StoreError::Io(_))));
}

#[test]
fn a_watch_fires_at_once_and_at_each_change_below_and_however_often_that_was_it_is_told_once() {
    let naive = Naive::new(Nodes::new(), &[]);
    let (mut store, serves) = naive.connect(Manners::Good);
    store.watch("a", "first").expect("watched");
    assert_eq!(store.wait().expect("fires"), "first");
    for i in 0..50 {
        naive.write(&format!("a/{i}"), "x");
    }
    naive.write("ab", "not below");
    store.watch("c", "second").expect("watched, and events of the first wait meanwhile");
    assert_eq!(store.fired().expect("both"), ["first", "second"]);
    assert_eq!(store.fired().expect("no more"), [""; 0]);
    naive.write("a", "x");
    store.unwatch("a", "first").expect("it was there");
    assert_eq!(store.fired().expect("forgotten"), [""; 0]);
    let error = store.unwatch("a", "first").expect_err("it was not there");
    assert_eq!((refused(&error), error.errno()), (Some(Errno::ENOENT), Errno::ENOENT));
    drop(store);
    serves.join().expect("no panic");
}

#[test]
fn a_domain_that_goes_is_known_to_have_gone_and_another_one_s_death_is_not_its() {
    let naive = Naive::new(Nodes::new(), &[DomId(3), DomId(4)]);
    let (store, serves) = naive.connect(Manners::Good);
    let mut watch = DomainWatch::over(store, DomId(3)).expect("watched");
    assert!(!watch.has_gone().expect("asked"));
    naive.domain_goes(DomId(4));
    assert!(!watch.has_gone().expect("asked"));
    naive.domain_goes(DomId(3));
    let mut fds = [PollFd::from_borrowed_fd(watch.pollable(), PollFlags::IN)];
    assert_eq!(poll(&mut fds, None).expect("polls"), 1);
    assert!(watch.has_gone().expect("asked") && watch.has_gone().expect("asked again"));
    drop(watch);
    serves.join().expect("no panic");
}

#[test]
fn a_domain_that_may_not_ask_takes_its_peer_for_there() {
    let naive = Naive::new(Nodes::new(), &[]);
    let (mut store, serves) = naive.connect(Manners::Unprivileged);
    assert_eq!(store.is_introduced(DomId(3)).map_err(|e| e.errno()), Err(Errno::EACCES));
    let mut watch = DomainWatch::over(store, DomId(3)).expect("watched");
    assert!(!watch.has_gone().expect("not known"));
    drop(watch);
    serves.join().expect("no panic");
}

#[test]
fn events_that_are_none_and_answers_without_a_question_are_errors() {
    let say = |kind, payload: &[u8]| {
        let (ours, mut theirs) = UnixStream::pair().expect("a socket");
        let len = u32::try_from(payload.len()).expect("short");
        let head = xsd_sockmsg { r#type: kind, req_id: 0, tx_id: 0, len };
        theirs.write_all(&[head.as_bytes(), payload].concat()).expect("sent");
        drop(theirs);
        Store::over(ours).fired()
    };
    assert!(matches!(say(XS_WATCH_EVENT, b"path"), Err(StoreError::Protocol { kind: XS_WATCH_EVENT, .. })));
    assert!(matches!(say(XS_READ, b"a\0b\0"), Err(StoreError::Protocol { kind: XS_READ, .. })));
    assert!(matches!(say(XS_WATCH_EVENT, b"a\0b\0"), Err(StoreError::Io(_))), "then it ends");
}
