//! How an end finds the other, outlives it, and learns of the death of its domain.

use crate::xenstore::naive::{Manners, Naive, Nodes};
use crate::xenstore::{DomainWatch, StoreError};

use super::*;

/// A store that knows both domains, at which nobody has written anything.
fn naive(pair: &Pair) -> Naive {
    Naive::new(Nodes::new(), &[DOM0, pair.server])
}

const PATH: &str = "/local/domain/1/data/vchan";

#[test]
fn a_client_waits_for_its_server_past_what_one_that_has_gone_has_left_and_finds_the_next() {
    let pair = Pair::new();
    let naive = naive(&pair);
    // An address of which only half is there, and then a server's that has gone.
    naive.write(&format!("{PATH}/ring-ref"), "8");
    let (server, old) = pair.serve(SMALL);
    let Close::Server(pages) = server.close() else { panic!("a server's") };
    std::thread::scope(|scope| {
        let (tried, tries) = std::sync::mpsc::channel();
        let connects = scope.spawn({
            let (naive, pair) = (&naive, &pair);
            move || {
                let (mut store, _) = naive.connect(Manners::Good);
                Address::wait(&mut store, PATH, pair.server, |address| {
                    let done = pair.connect(address);
                    tried.send(address).expect("somebody looks");
                    done
                })
            }
        });
        let (mut store, _) = naive.connect(Manners::Good);
        old.publish(&mut store, PATH, DOM0).expect("published");
        assert_eq!(tries.recv().expect("tries"), old);
        let (mut server, address) = pair.serve(SMALL);
        address.publish(&mut store, PATH, DOM0).expect("published");
        let mut client = connects.join().expect("no panic").expect("connects");
        server.send(b"there").expect("room");
        let mut there = [0; 5];
        client.recv(&mut there).expect("it is there");
        Address::withdraw(&mut store, PATH).expect("withdrawn");
        Address::withdraw(&mut store, PATH).expect("and what is not there is no error");
    });
    assert!(naive.nodes().is_empty());
    pages.end().expect("nobody maps them");
}

#[test]
fn a_client_stops_waiting_for_a_server_whose_domain_dies() {
    let pair = Pair::new();
    let naive = naive(&pair);
    std::thread::scope(|scope| {
        let (tried, tries) = std::sync::mpsc::channel::<()>();
        let waits = scope.spawn({
            let (naive, pair) = (&naive, &pair);
            move || {
                let (mut store, _) = naive.connect(Manners::Good);
                Address::wait(&mut store, PATH, pair.server, |address| {
                    tried.send(()).expect("somebody looks");
                    pair.connect(address)
                })
            }
        });
        // Nobody's.
        naive.write(&format!("{PATH}/event-channel"), "77");
        naive.write(&format!("{PATH}/ring-ref"), "8");
        tries.recv().expect("tries");
        naive.domain_goes(pair.server);
        assert!(matches!(waits.join().expect("no panic"), Err(SetupError::Gone)));
    });
}

#[test]
fn what_waiting_does_not_help_is_an_error_at_once() {
    let pair = Pair::new();
    let (server, address) = pair.serve(SMALL);
    server.page.u16(std::mem::offset_of!(vchan_interface, left_order)).store(5, Ordering::Release);
    let (mut store, _) = naive(&pair).connect(Manners::Good);
    address.publish(&mut store, PATH, DOM0).expect("published");
    let found = Address::wait(&mut store, PATH, pair.server, |address| pair.connect(address));
    assert!(matches!(found, Err(SetupError::Layout(LayoutError::Impossible { left: 5, .. }))));
    drop(store);
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().expect("a socket");
    drop(theirs);
    let mut store = crate::xenstore::Store::over(ours);
    let found = Address::wait(&mut store, PATH, pair.server, |address| pair.connect(address));
    assert!(matches!(found, Err(SetupError::Store(StoreError::Io(_)))));
}

#[test]
fn a_server_that_outlives_its_clients_keeps_what_it_wrote_for_the_next_and_closes_when_it_does_not_any_more()
{
    let pair = Pair::new();
    for sizes in [SMALL, PAGED] {
        let (mut server, address) = pair.serve(sizes);
        server.outlive_clients(true);
        for round in 0..5u8 {
            let mut client = pair.connect(address).expect("connects");
            assert_eq!(server.peer(), Peer::Connected);
            client.send(&[round; 700]).expect("room");
            let mut got = [9; 700];
            server.recv(&mut got).expect("there");
            assert_eq!(got, [round; 700]);
            if round > 0 {
                client.recv(&mut got[..5]).expect("what was written between the two");
                assert_eq!(&got[..5], b"early");
            }
            drop(client);
            assert_eq!(server.peer(), Peer::Awaited);
            assert_eq!(server.read(&mut got), Err(ChannelError::WouldBlock));
            server.send(b"early").expect("room");
        }
        server.outlive_clients(false);
        assert_eq!(server.peer(), Peer::Gone);
        assert_eq!(server.write(b"x"), Err(ChannelError::Closed));
    }
    pair.machine.assert_clean();
}

#[test]
fn a_client_does_not_outlive_its_server() {
    let pair = Pair::new();
    let (server, mut client) = pair.channel(SMALL);
    client.outlive_clients(true);
    drop(server);
    assert_eq!((client.peer(), client.write(b"x")), (Peer::Gone, Err(ChannelError::Closed)));
}

#[test]
fn an_end_whose_peer_s_domain_dies_in_the_middle_reads_the_rest_and_stops_waiting() {
    for role in [Role::Server, Role::Client] {
        let pair = Pair::new();
        let naive = naive(&pair);
        let (server, client) = pair.channel(PAGED);
        let dies = if role == Role::Server { pair.server } else { DOM0 };
        let (mut dying, mut stays) = if role == Role::Server { (server, client) } else { (client, server) };
        dying.send(b"last").expect("room");
        let (store, _) = naive.connect(Manners::Good);
        let mut watch = DomainWatch::over(store, dies).expect("watched");
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| {
                let mut blocking = stays.blocking().watching(&mut watch);
                let mut last = [0; 8];
                assert_eq!(blocking.read(&mut last), Ok(4));
                // Nobody writes, and nobody says goodbye.
                (blocking.read(&mut last), blocking.write_all(&[0; 1 << 16]), blocking.channel().peer())
            });
            naive.domain_goes(dies);
            let closed = Err(ChannelError::Closed);
            assert_eq!(waits.join().expect("no panic"), (closed.map(|()| 0), closed, Peer::Gone), "{role:?}");
        });
        drop(dying);
    }
}

#[test]
fn a_watch_whose_store_ends_ends_the_wait_with_its_error() {
    let pair = Pair::new();
    let (mut server, _client) = pair.channel(SMALL);
    let (store, serves) = naive(&pair).connect(Manners::Wrong([0, 99, 0]));
    assert!(DomainWatch::over(store, DOM0).is_ok(), "the watch itself is answered");
    serves.join().expect("no panic");
    let (store, _serves) = naive(&pair).connect(Manners::Wrong([0, 99, 0]));
    let mut watch = DomainWatch::over(store, DOM0).expect("watched");
    let waits = server.blocking().watching(&mut watch).read(&mut [0; 1]);
    assert_eq!(waits, Err(ChannelError::Watch(Errno::EIO)));
}
