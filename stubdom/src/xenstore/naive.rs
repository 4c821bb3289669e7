//! A store that keeps its nodes in a map and answers as xenstored does: what the tests of its clients talk to.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;

use xen_ioreq::DomId;
use xen_ioreq::abi::xs_wire::*;
use zerocopy::IntoBytes;

use super::{Store, watch};

/// What the store does beside what it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manners {
    Good,
    /// An event comes before each answer.
    Events,
    /// So many transactions meet others.
    Busy(u32),
    /// Answers have this number, type and length.
    Wrong([u32; 3]),
    /// As towards a domain that is not dom0.
    Unprivileged,
}

/// Value and permissions by path.
pub(crate) type Nodes = BTreeMap<String, (Vec<u8>, String)>;

#[derive(Default)]
struct State {
    nodes: Nodes,
    domains: BTreeSet<String>,
    /// Path, token, and whom to tell.
    watches: Vec<(String, String, UnixStream)>,
}

/// All connections see the same nodes.
#[derive(Clone, Default)]
pub(crate) struct Naive(Arc<Mutex<State>>);

impl Naive {
    /// With these nodes, and these domains.
    pub(crate) fn new(nodes: Nodes, domains: &[DomId]) -> Self {
        let domains = domains.iter().map(|domid| domid.0.to_string()).collect();
        Self(Arc::new(Mutex::new(State { nodes, domains, watches: Vec::new() })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no panic")
    }

    pub(crate) fn nodes(&self) -> Nodes {
        self.state().nodes.clone()
    }

    /// A node is written by somebody.
    pub(crate) fn write(&self, path: &str, value: &str) {
        let mut state = self.state();
        state.nodes.entry(path.into()).or_default().0 = value.into();
        state.fire(path);
    }

    /// A domain dies.
    pub(crate) fn domain_goes(&self, domid: DomId) {
        let mut state = self.state();
        assert!(state.domains.remove(&domid.0.to_string()), "it was there");
        state.fire(watch::RELEASE);
    }

    /// A connection, and the thread that serves it until it is dropped.
    pub(crate) fn connect(&self, manners: Manners) -> (Store<UnixStream>, JoinHandle<()>) {
        let (ours, theirs) = UnixStream::pair().expect("a socket");
        let naive = self.clone();
        (Store::over(ours), std::thread::spawn(move || naive.serve(theirs, manners)))
    }

    fn serve(&self, mut stream: UnixStream, manners: Manners) {
        let (mut before, mut busy) = (None, if let Manners::Busy(n) = manners { n } else { 0 });
        loop {
            let mut head = xsd_sockmsg::default();
            if stream.read_exact(head.as_mut_bytes()).is_err() {
                return;
            }
            let mut payload = vec![0; head.len as usize];
            stream.read_exact(&mut payload).expect("a payload");
            let (path, rest) = payload.split_at(payload.iter().position(|b| *b == 0).expect("a path"));
            let (path, rest) = (text(path), &rest[1..]);
            let mut state = self.state();
            let ok = |_| b"OK\0".to_vec();
            let answer: Result<Vec<u8>, &str> = match head.r#type {
                XS_READ => state.nodes.get(&path).map(|(value, _)| value.clone()).ok_or("ENOENT"),
                XS_WRITE => {
                    state.nodes.entry(path.clone()).or_default().0 = rest.to_vec();
                    state.fire(&path);
                    Ok(ok(()))
                }
                XS_RM => {
                    let below = format!("{path}/");
                    let count = state.nodes.len();
                    state.nodes.retain(|p, _| *p != path && !p.starts_with(&below));
                    let gone = state.nodes.len() < count;
                    state.fire(&path);
                    if gone { Ok(ok(())) } else { Err("ENOENT") }
                }
                XS_SET_PERMS => {
                    let set = state.nodes.get_mut(&path).map(|n| n.1 = text(rest).replace('\0', " "));
                    set.map(ok).ok_or("ESTRANGE")
                }
                XS_IS_DOMAIN_INTRODUCED if manners == Manners::Unprivileged => Err("EACCES"),
                XS_IS_DOMAIN_INTRODUCED => {
                    Ok(if state.domains.contains(&path) { b"T\0" } else { b"F\0" }.to_vec())
                }
                XS_WATCH => {
                    let token = text(&rest[..rest.len() - 1]);
                    let to = stream.try_clone().expect("a descriptor");
                    // A client has its answer first, then the first event.
                    say(&stream, head.r#type, head.req_id, b"OK\0");
                    state.watches.push((path.clone(), token, to));
                    state.fire(&path);
                    continue;
                }
                XS_UNWATCH => {
                    let (token, count) = (text(&rest[..rest.len() - 1]), state.watches.len());
                    state.watches.retain(|(p, t, _)| (p, t) != (&path, &token));
                    if state.watches.len() < count { Ok(ok(())) } else { Err("ENOENT") }
                }
                XS_TRANSACTION_START => {
                    before = Some(state.nodes.clone());
                    Ok(b"7\0".to_vec())
                }
                XS_TRANSACTION_END => {
                    assert_eq!(head.tx_id, 7);
                    let before = before.take().expect("a transaction");
                    if path == "F" {
                        state.nodes = before;
                        Ok(ok(()))
                    } else if busy > 0 {
                        (state.nodes, busy) = (before, busy - 1);
                        Err("EAGAIN")
                    } else {
                        Ok(ok(()))
                    }
                }
                _ => Err("ENOSYS"),
            };
            let (kind, bytes) = match answer {
                Ok(bytes) => (head.r#type, bytes),
                Err(name) => (XS_ERROR, format!("{name}\0").into_bytes()),
            };
            if manners == Manners::Events {
                say(&stream, XS_WATCH_EVENT, 0, b"a\0b\0");
            }
            if let Manners::Wrong([add, kind, len]) = manners {
                let head = xsd_sockmsg { r#type: kind, req_id: head.req_id + add, tx_id: 0, len };
                let _ = stream.write_all(&[head.as_bytes(), &bytes].concat());
            } else {
                say(&stream, kind, head.req_id, &bytes);
            }
        }
    }
}

impl State {
    /// Tells those who watch this, or what is above it.
    fn fire(&self, path: &str) {
        for (watched, token, to) in &self.watches {
            if path == watched
                || path.strip_prefix(watched.as_str()).is_some_and(|rest| rest.starts_with('/'))
            {
                say(to, XS_WATCH_EVENT, 0, format!("{path}\0{token}\0").as_bytes());
            }
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

fn say(mut to: &UnixStream, kind: u32, req_id: u32, payload: &[u8]) {
    let head =
        xsd_sockmsg { r#type: kind, req_id, tx_id: 0, len: u32::try_from(payload.len()).expect("short") };
    // Who has gone hears nothing.
    let _ = to.write_all(&[head.as_bytes(), payload].concat());
}
