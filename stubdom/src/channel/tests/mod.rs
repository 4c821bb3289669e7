//! Both ends on the model hypervisor, and one end against a peer that writes what it likes.

mod ends;
mod hostile;
mod pipe;
mod revokable;

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};

use mio::{Events, Interest, Poll, Token};
use mock_xen::EvtchnDevice;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::*;
use crate::testing::{DOM0, Pair};

const SMALL: Sizes = Sizes { to_server: 1024, to_client: 2048 };
const PAGED: Sizes = Sizes { to_server: 8192, to_client: 4096 };

/// Whether the end would be woken.
fn told(channel: &Channel<EvtchnDevice>) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(channel.events.pollable(), PollFlags::IN)];
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).expect("polls") == 1
}

/// Bytes that differ from place to place.
fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(seed);
    (0..len).map(|_| rng.u8(..)).collect()
}

#[test]
fn a_server_awaits_its_client_and_what_it_writes_before_waits_for_it() {
    let pair = Pair::new();
    for sizes in [SMALL, PAGED] {
        let (mut server, address) = pair.serve(sizes);
        assert_eq!((server.role(), server.peer()), (Role::Server, Peer::Awaited));
        server.send(b"early").expect("there is room");
        assert_eq!(server.read(&mut [0; 8]), Err(ChannelError::WouldBlock));
        let mut client = pair.connect(address).expect("connects");
        assert_eq!(
            (client.role(), client.peer(), server.peer()),
            (Role::Client, Peer::Connected, Peer::Connected)
        );
        assert!(told(&server), "it is told that the client is there");
        let mut early = [0; 5];
        client.recv(&mut early).expect("it is there");
        assert_eq!(&early, b"early");
        assert_eq!((server.send_size(), server.receive_size()), (client.receive_size(), client.send_size()));
        assert_eq!((server.receive_size(), server.send_size()), (sizes.to_server, sizes.to_client));
    }
}

#[test]
fn what_was_written_before_the_end_can_be_read_after_it_and_then_it_is_closed() {
    let pair = Pair::new();
    let (server, mut client) = pair.channel(SMALL);
    client.send(b"last words").expect("room");
    let mut server = server;
    assert_eq!(server.recv(&mut [0; 11]), Err(ChannelError::WouldBlock));
    server.acknowledge().expect("events");
    drop(client);
    assert!(told(&server), "it is told of the end");
    assert_eq!(server.peer(), Peer::Gone);
    assert_eq!(server.write(b"x"), Err(ChannelError::Closed));
    assert_eq!(server.recv(&mut [0; 11]), Err(ChannelError::Closed), "not all of a packet");
    let mut words = [0; 10];
    server.recv(&mut words).expect("they are there");
    assert_eq!(&words, b"last words");
    assert_eq!(server.read(&mut words), Err(ChannelError::Closed));
    assert_eq!(std::io::Read::read(&mut server, &mut words).expect("the end of a stream"), 0);
}

#[test]
fn a_closed_server_leaves_its_pages_to_its_owner_and_its_client_reads_the_rest() {
    let pair = Pair::new();
    let (mut server, mut client) = pair.channel(PAGED);
    server.send(b"rest").expect("room");
    let Close::Server(pages) = server.close() else { panic!("a server's") };
    assert_eq!(pages.refs().len(), 4, "the shared one, two, and one");
    assert!(told(&client));
    let mut rest = [0; 4];
    client.recv(&mut rest).expect("it is there");
    assert_eq!(&rest, b"rest");
    assert_eq!(client.read(&mut rest), Err(ChannelError::Closed));
    assert!(matches!(client.close(), Close::Client));
}

#[test]
fn a_packet_longer_than_the_ring_is_refused_and_one_as_long_goes() {
    let pair = Pair::new();
    let (mut server, mut client) = pair.channel(SMALL);
    let too_long = Err(ChannelError::TooLong { len: 1025, size: 1024 });
    assert_eq!((client.send(&[0; 1025]), server.recv(&mut [0; 1025])), (too_long, too_long));
    let whole = pattern(1024, 1);
    client.send(&whole).expect("as long as the ring");
    assert_eq!(client.write(b"x"), Err(ChannelError::WouldBlock));
    let mut got = vec![0; 1024];
    server.recv(&mut got).expect("all of it");
    assert_eq!(got, whole);
}

#[test]
fn a_domain_that_the_server_did_not_mean_cannot_connect() {
    let pair = Pair::new();
    let (_server, address) = pair.serve(SMALL);
    let wrong = Address { port: xen_ioreq::Port(address.port.0 + 1), ..address };
    assert!(matches!(pair.connect(wrong), Err(SetupError::Events { .. })));
    let wrong = Address { page: xen_ioreq::GrantRef(100_000), ..address };
    assert!(crate::testing::is_no_reference(&pair.connect(wrong).expect_err("nothing there")));
}

#[test]
fn a_client_that_comes_after_the_server_went_is_told_so() {
    let pair = Pair::new();
    let (server, address) = pair.serve(SMALL);
    // The pages are still there, for their owner to deal with.
    server.page.u8(SRV_LIVE).store(GONE, Ordering::Release);
    assert!(matches!(pair.connect(address), Err(SetupError::Gone)));
}

#[test]
fn a_second_client_goes_on_where_the_first_one_stopped() {
    let pair = Pair::new();
    let (mut server, address) = pair.serve(SMALL);
    let mut first = pair.connect(address).expect("connects");
    first.send(b"abc").expect("room");
    server.recv(&mut [0; 2]).expect("there");
    server.send(b"xyz").expect("room");
    first.recv(&mut [0; 1]).expect("there");
    // The first one's port must be free again before another can bind.
    drop(first);
    let mut second = pair.connect(address).expect("connects");
    second.send(b"d").expect("room");
    let (mut at_server, mut at_client) = ([0; 2], [0; 2]);
    server.recv(&mut at_server).expect("there");
    second.recv(&mut at_client).expect("there");
    assert_eq!((&at_server, &at_client), (b"cd", b"yz"));
}

#[test]
fn streams_of_both_directions_arrive_whole_whatever_the_sizes_of_writes_and_reads() {
    let pair = Pair::new();
    for (sizes, bytes) in [(SMALL, 200_000), (PAGED, 2_000_000)] {
        let (mut server, mut client) = pair.channel(sizes);
        let (up, down) = (pattern(bytes, 2), pattern(bytes, 3));
        let run = |channel: &mut Channel<EvtchnDevice>, sends: &[u8], seed| {
            let mut rng = fastrand::Rng::with_seed(seed);
            let (mut sent, mut got) = (0, Vec::new());
            let mut buf = vec![0; 10_000];
            while sent < sends.len() || got.len() < bytes {
                let mut stuck = true;
                if sent < sends.len() {
                    let end = (sent + rng.usize(1..10_000)).min(sends.len());
                    match channel.write(&sends[sent..end]) {
                        Ok(n) => (sent, stuck) = (sent + n, false),
                        Err(e) => assert_eq!(e, ChannelError::WouldBlock),
                    }
                }
                if got.len() < bytes {
                    match channel.read(&mut buf[..rng.usize(1..10_000)]) {
                        Ok(n) => {
                            got.extend_from_slice(&buf[..n]);
                            stuck = false;
                        }
                        Err(e) => assert_eq!(e, ChannelError::WouldBlock),
                    }
                }
                if stuck {
                    channel.blocking().wait().expect("events");
                }
            }
            got
        };
        std::thread::scope(|scope| {
            let client = scope.spawn(|| run(&mut client, &up, 4));
            assert!(run(&mut server, &down, 5) == up, "what the server got");
            assert!(client.join().expect("no panic") == down, "what the client got");
        });
    }
}

#[test]
fn packets_and_streams_can_be_mixed_by_threads_that_wait() {
    let pair = Pair::new();
    // Room for a packet of either length beside most of another: with less, each end could wait for the other.
    let (mut server, mut client) = pair.channel(Sizes { to_server: 2048, to_client: 1024 });
    let bytes = pattern(100_000, 6);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut client = client.blocking();
            let (packets, rest) = bytes.split_at(50_000);
            packets.chunks(1000).for_each(|packet| client.send(packet).expect("goes"));
            client.write_all(rest).expect("goes");
            assert_eq!(client.read(&mut [0; 1]), Ok(1), "waits for the answer");
        });
        let mut got = vec![0; bytes.len()];
        let (streamed, packets) = got.split_at_mut(30_000);
        std::io::Read::read_exact(&mut server.blocking(), streamed).expect("comes");
        packets.chunks_mut(700).for_each(|packet| server.blocking().recv(packet).expect("comes"));
        assert!(got == bytes);
        server.blocking().send(b"!").expect("goes");
    });
}

#[test]
fn a_thread_that_waits_ends_when_the_other_end_goes() {
    let pair = Pair::new();
    let (mut server, mut client) = pair.channel(SMALL);
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| server.blocking().recv(&mut [0; 4]));
        client.send(b"abc").expect("room");
        drop(client);
        assert_eq!(waits.join().expect("no panic"), Err(ChannelError::Closed));
    });
}

#[test]
fn in_a_loop_of_mio_many_channels_each_get_what_is_theirs() {
    let pair = Pair::new();
    let mut poll = Poll::new().expect("a poll");
    let (mut servers, mut clients): (Vec<_>, Vec<_>) = (0..4).map(|_| pair.channel(SMALL)).unzip();
    for (i, server) in servers.iter_mut().enumerate() {
        poll.registry().register(server, Token(i), Interest::READABLE).expect("registers");
    }
    let texts: Vec<_> = (0..4).map(|i| pattern(20_000 + i, i as u64)).collect();
    std::thread::scope(|scope| {
        for (client, text) in clients.drain(..).zip(&texts) {
            // Dropped when all is written: that is the end of the stream.
            scope.spawn(move || {
                let mut client = client;
                client.blocking().write_all(text).expect("goes");
            });
        }
        let mut got = vec![Vec::new(); 4];
        let mut open = BTreeSet::from([0, 1, 2, 3]);
        let mut events = Events::with_capacity(8);
        while !open.is_empty() {
            poll.poll(&mut events, None).expect("polls");
            for i in events.iter().map(|e| e.token().0) {
                servers[i].acknowledge().expect("events");
                let mut buf = [0; 300];
                loop {
                    match std::io::Read::read(&mut servers[i], &mut buf) {
                        Ok(0) => {
                            open.remove(&i);
                            break;
                        }
                        Ok(n) => got[i].extend_from_slice(&buf[..n]),
                        Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => break,
                        Err(e) => panic!("{e}"),
                    }
                }
            }
        }
        assert!(got == texts);
    });
    poll.registry().deregister(&mut servers[0]).expect("deregisters");
}

#[test]
fn as_a_stream_of_std_it_writes_and_reads() {
    let pair = Pair::new();
    let (mut server, mut client) = pair.channel(SMALL);
    client.write_all(b"hello").expect("room");
    client.flush().expect("nothing to do");
    let mut hello = [0; 5];
    server.read_exact(&mut hello).expect("there");
    assert_eq!(&hello, b"hello");
    let kind = std::io::Read::read(&mut server, &mut hello).expect_err("nothing there").kind();
    assert_eq!(kind, std::io::ErrorKind::WouldBlock);
    assert_eq!(pair.machine.domain_info(DOM0).map(|d| d.dying), Some(false));
}
