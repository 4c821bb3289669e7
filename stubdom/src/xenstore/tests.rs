//! Against a store that keeps its nodes in a map and answers as xenstored does.

use std::collections::BTreeMap;
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;

use super::*;

/// What the naive store does beside what it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manners {
    Good,
    /// An event comes before each answer.
    Events,
    /// So many transactions meet others.
    Busy(u32),
    /// Answers have this number, type and length.
    Wrong([u32; 3]),
}

type Nodes = BTreeMap<String, (Vec<u8>, String)>;

fn store(manners: Manners, mut nodes: Nodes) -> (Store<UnixStream>, JoinHandle<Nodes>) {
    let (ours, mut theirs) = UnixStream::pair().expect("a socket");
    let serves = std::thread::spawn(move || {
        let (mut inside, mut busy) = (None, if let Manners::Busy(n) = manners { n } else { 0 });
        loop {
            let mut head = xsd_sockmsg::default();
            if theirs.read_exact(head.as_mut_bytes()).is_err() {
                return nodes;
            }
            let mut payload = vec![0; head.len as usize];
            theirs.read_exact(&mut payload).expect("a payload");
            let mut parts = payload.splitn(2, |b| *b == 0);
            let path = String::from_utf8(parts.next().expect("a path").to_vec()).expect("UTF-8");
            let rest = parts.next().unwrap_or_default().to_vec();
            let answer: Result<Vec<u8>, &str> = match head.r#type {
                XS_READ => nodes.get(&path).map(|(value, _)| value.clone()).ok_or("ENOENT"),
                XS_WRITE => {
                    nodes.entry(path).or_default().0 = rest;
                    Ok(b"OK\0".to_vec())
                }
                XS_RM => nodes.remove(&path).map(|_| b"OK\0".to_vec()).ok_or("ENOENT"),
                XS_SET_PERMS => {
                    let text = String::from_utf8(rest).expect("UTF-8").replace('\0', " ");
                    nodes.get_mut(&path).map(|n| n.1 = text).map(|()| b"OK\0".to_vec()).ok_or("ESTRANGE")
                }
                XS_TRANSACTION_START => {
                    inside = Some(nodes.clone());
                    Ok(b"7\0".to_vec())
                }
                XS_TRANSACTION_END => {
                    assert_eq!(head.tx_id, 7);
                    let before = inside.take().expect("a transaction");
                    if path == "F" {
                        nodes = before;
                        Ok(b"OK\0".to_vec())
                    } else if busy > 0 {
                        (nodes, busy) = (before, busy - 1);
                        Err("EAGAIN")
                    } else {
                        Ok(b"OK\0".to_vec())
                    }
                }
                _ => Err("ENOSYS"),
            };
            let (kind, bytes) = match answer {
                Ok(bytes) => (head.r#type, bytes),
                Err(name) => (XS_ERROR, format!("{name}\0").into_bytes()),
            };
            let mut say = |head: xsd_sockmsg, bytes: &[u8]| {
                let _ = theirs.write_all(&[head.as_bytes(), bytes].concat());
            };
            let len = u32::try_from(bytes.len()).expect("short");
            if manners == Manners::Events {
                say(xsd_sockmsg { r#type: XS_WATCH_EVENT, req_id: 0, tx_id: 0, len: 4 }, b"a\0b\0");
            }
            if let Manners::Wrong([add, kind, len]) = manners {
                say(xsd_sockmsg { r#type: kind, req_id: head.req_id + add, tx_id: 0, len }, &bytes);
            } else {
                say(xsd_sockmsg { r#type: kind, req_id: head.req_id, tx_id: head.tx_id, len }, &bytes);
            }
        }
    });
    (Store::over(ours), serves)
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
