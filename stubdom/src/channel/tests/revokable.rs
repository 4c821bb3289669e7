//! A server that takes its pages back, or dies with its domain, whatever its client does.

use mock_xen::Caller;

use super::*;
use crate::grants::{Granter as _, Mapper as _};

type Ends = (Channel<EvtchnDevice>, Channel<EvtchnDevice>);

fn channel(pair: &Pair, sizes: Sizes) -> Ends {
    let granter = pair.granter.revokable().expect("the hypervisor has them");
    let events = pair.events(pair.server);
    let server = Channel::serve_revokably(granter, events, pair.server, DOM0, sizes);
    let (server, address) = server.expect("a server's end");
    let mapper = pair.mapper.revokable().expect("the hypervisor has them");
    let client = Channel::connect_revokably(mapper, pair.events(DOM0), address).expect("a client's end");
    (server, client)
}

/// What every operation of an end says.
fn all(channel: &mut Channel<EvtchnDevice>) -> [Result<(), ChannelError>; 4] {
    let mut buf = [0; 4];
    [
        channel.read(&mut buf).map(drop),
        channel.write(b"1234").map(drop),
        channel.recv(&mut buf),
        channel.send(b"1234"),
    ]
}

#[test]
fn a_server_has_its_pages_back_from_a_client_that_holds_on_and_the_client_finds_the_channel_closed() {
    for sizes in [SMALL, PAGED] {
        let pair = Pair::new();
        let free = pair.machine.free_frames();
        let (mut server, mut client) = channel(&pair, sizes);
        let pages = (free - pair.machine.free_frames()) / 2;
        server.send(b"hello").expect("room");
        client.send(b"world").expect("room");
        let mut hello = [0; 5];
        client.recv(&mut hello).expect("there");
        server.send(b"not read in time").expect("room");
        let Close::RevokableServer(grant) = server.close() else { panic!("a revokable server's") };
        assert_eq!(grant.refs().len() as u64, pages);
        assert_eq!(grant.revoke(), Ok(()));
        assert_eq!(
            pair.machine.free_frames(),
            free - pages,
            "the server's are free, the client's own are not"
        );
        assert!(told(&client), "it is told");
        assert_eq!(all(&mut client), [Err(ChannelError::Closed); 4]);
        assert_eq!(client.peer(), Peer::Gone);
        drop(client);
        assert_eq!(pair.machine.free_frames(), free);
        pair.machine.assert_clean();
    }
}

#[test]
fn without_revokable_grants_the_server_gets_nothing_back_before_the_client_lets_go() {
    let pair = Pair::new();
    let free = pair.machine.free_frames();
    let (server, client) = pair.channel(PAGED);
    let held = pair.machine.free_frames();
    let Close::Server(pages) = server.close() else { panic!("a server's") };
    let still = pages.end().expect_err("the client holds on");
    assert_eq!(pair.machine.free_frames(), held);
    drop(still);
    assert!(pair.granter.retry() > 0 && pair.machine.free_frames() == held);
    drop(client);
    assert_eq!((pair.granter.retry(), pair.machine.free_frames()), (0, free));
    pair.machine.assert_clean();
}

/// The client reads as fast as it can, at most `piece` bytes at a time, while `end` happens after some time: what it has got is what
/// was written, and then the channel is closed.
fn read_until(pair: &Pair, ends: Ends, seed: u64, piece: usize, end: impl FnOnce(Channel<EvtchnDevice>)) {
    let (mut server, mut client) = ends;
    let mut rng = fastrand::Rng::with_seed(seed);
    let text = pattern(300_000, seed);
    let got = std::thread::scope(|scope| {
        let reads = scope.spawn(|| {
            let (mut got, mut buf) = (Vec::new(), vec![0; piece]);
            loop {
                match client.read(&mut buf) {
                    Ok(n) => got.extend_from_slice(&buf[..n]),
                    Err(ChannelError::WouldBlock) => std::thread::yield_now(),
                    Err(e) => return (got, e),
                }
            }
        });
        let stop_at = rng.usize(..30 * piece);
        let mut sent = 0;
        while sent < stop_at {
            match server.write(&text[sent..sent + rng.usize(1..3000)]) {
                Ok(n) => sent += n,
                Err(ChannelError::WouldBlock) => std::thread::yield_now(),
                Err(e) => panic!("{e}"),
            }
        }
        // The client has something to read when it ends.
        while let Ok(n) = server.write(&text[sent..sent + 3000]) {
            sent += n;
        }
        (0..rng.u32(..1000)).for_each(|_| std::hint::spin_loop());
        end(server);
        let (got, why) = reads.join().expect("no fault, no panic");
        assert_eq!(why, ChannelError::Closed);
        got
    });
    assert!(text.starts_with(&got), "nothing that the server did not write");
    pair.machine.assert_clean();
}

#[test]
fn pages_that_are_taken_back_while_the_client_reads_give_it_nothing_but_what_was_written() {
    for (seed, piece) in (0..250).flat_map(|seed| [1, 16, 300, 2000].map(|piece| (seed, piece))) {
        let pair = Pair::new();
        let ends = channel(&pair, if seed % 2 == 0 { SMALL } else { PAGED });
        read_until(&pair, ends, seed, piece, |server| match server.close() {
            Close::RevokableServer(grant) => assert_eq!(grant.revoke(), Ok(())),
            other => panic!("{other:?}"),
        });
    }
}

#[test]
fn a_domain_that_dies_while_its_client_reads_closes_the_channel_and_has_all_its_frames_back() {
    for seed in 0..240 {
        let pair = Pair::new();
        let ends = channel(&pair, if seed % 2 == 0 { SMALL } else { PAGED });
        let (machine, domid, process) = (pair.machine.clone(), pair.server, pair.process.clone());
        read_until(&pair, ends, seed, if seed % 3 == 0 { 3000 } else { 1 }, |server| {
            machine.destroy_domain(domid).expect("it is there");
            // Nothing of the dead domain runs on.
            process.kill();
            std::mem::forget(server);
        });
        assert_eq!(pair.machine.domain_info(pair.server), None, "no zombie is left");
    }
}

#[test]
fn a_client_of_the_wrong_kind_is_told_by_the_hypervisor() {
    let pair = Pair::new();
    let granter = pair.granter.revokable().expect("the hypervisor has them");
    let events = pair.events(pair.server);
    let (_server, address) =
        Channel::serve_revokably(granter, events, pair.server, DOM0, SMALL).expect("a server's end");
    assert!(matches!(pair.connect(address), Err(SetupError::Grant(_))));
    let (_plain, address) = pair.serve(SMALL);
    let mapper = pair.mapper.revokable().expect("the hypervisor has them");
    let client: Result<Channel<Caller>, _> =
        Channel::connect_revokably(mapper, pair.machine.caller(DOM0).expect("a caller"), address);
    assert!(matches!(client, Err(SetupError::Grant(_))));
}
