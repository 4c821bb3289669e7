//! A peer that writes to the shared pages whatever it likes, whenever it likes.

use std::sync::atomic::{AtomicBool, AtomicU32};

use proptest::collection::vec;
use proptest::prelude::*;
use xen_ioreq::PAGE_SIZE;

use super::layout::{Direction, indices};
use super::*;

/// One end, whose peer's index of each ring is what the test says.
struct Alone {
    channel: Channel<EvtchnDevice>,
    /// Offsets of the peer's indices: what it has written to us, what it has read of ours.
    peers: [usize; 2],
    /// Bytes read and written by us, and by the peer as far as we believe it.
    read: u64,
    written: u64,
    shown: [u64; 2],
}

impl Alone {
    fn new(role: Role) -> (Self, impl Sized) {
        let pair = Pair::new();
        let (server, client) = pair.channel(SMALL);
        let (ours, theirs) = if role == Role::Server { (server, client) } else { (client, server) };
        let (from, to) = if role == Role::Server {
            (Direction::Left, Direction::Right)
        } else {
            (Direction::Right, Direction::Left)
        };
        let peers = [indices(from).1, indices(to).0];
        (Self { channel: ours, peers, read: 0, written: 0, shown: [0; 2] }, (pair, theirs))
    }

    /// What the number stands for, if it may: found by trying each that it could.
    fn meaning(value: u32, possible: std::ops::RangeInclusive<u64>) -> Option<u64> {
        possible.into_iter().find(|n| *n % (1 << 32) == u64::from(value))
    }

    /// The peer shows a number; what reading up to `len` bytes must give.
    fn read_after(&mut self, value: u32, len: usize) -> Result<usize, ChannelError> {
        self.channel.page.u32(self.peers[0]).store(value, Ordering::Release);
        let size = self.channel.receive_size() as u64;
        let end = Self::meaning(value, self.shown[0]..=self.read + size).ok_or(ChannelError::Protocol)?;
        self.shown[0] = end;
        let n = (end - self.read).min(len as u64);
        self.read += n;
        if n == 0 { Err(ChannelError::WouldBlock) } else { Ok(usize::try_from(n).expect("small")) }
    }

    fn write_after(&mut self, value: u32, len: usize) -> Result<usize, ChannelError> {
        self.channel.page.u32(self.peers[1]).store(value, Ordering::Release);
        let end = Self::meaning(value, self.shown[1]..=self.written).ok_or(ChannelError::Protocol)?;
        self.shown[1] = end;
        let n = (self.channel.send_size() as u64 - (self.written - end)).min(len as u64);
        self.written += n;
        if n == 0 { Err(ChannelError::WouldBlock) } else { Ok(usize::try_from(n).expect("small")) }
    }
}

/// Steps of the peer's index, most of them such as it could be.
fn shown() -> impl Strategy<Value = u32> {
    prop_oneof![6 => 0..700u32, 1 => 0..3000u32, 1 => any::<u32>(), 1 => (1..50u32).prop_map(u32::wrapping_neg)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn an_index_is_believed_as_far_as_it_can_be_true_and_a_false_one_ends_the_channel(
        steps in vec((any::<bool>(), shown(), 1..900usize), 1..60),
        role in prop_oneof![Just(Role::Server), Just(Role::Client)],
    ) {
        let (mut alone, _peer) = Alone::new(role);
        let mut at = [0u32; 2];
        for (reads, step, len) in steps {
            let index = &mut at[usize::from(!reads)];
            *index = index.wrapping_add(step);
            let value = *index;
            let (wanted, got) = if reads {
                (alone.read_after(value, len), alone.channel.read(&mut vec![0; len]))
            } else {
                (alone.write_after(value, len), alone.channel.write(&vec![7; len]))
            };
            prop_assert_eq!(got, wanted);
            if wanted == Err(ChannelError::Protocol) {
                prop_assert_eq!(alone.channel.peer(), Peer::Gone);
                prop_assert_eq!(alone.channel.read(&mut [0; 4]), wanted);
                prop_assert_eq!(alone.channel.write(&[0; 4]), wanted);
                break;
            }
        }
    }

    #[test]
    fn a_page_of_anything_is_no_channel_or_one_whose_end_can_be_used(
        mut head in vec(any::<u8>(), 24), orders in (9..22u16, 9..22u16), sane in any::<bool>(),
    ) {
        let pair = Pair::new();
        let page = pair.page();
        if sane {
            head[16..18].copy_from_slice(&orders.0.to_ne_bytes());
            head[18..20].copy_from_slice(&orders.1.to_ne_bytes());
            head[..16].fill(0);
        }
        page.write(0, &head).expect("in the page");
        let events = pair.events(pair.server);
        let port = events.bind_unbound(DOM0).expect("a port");
        let address = Address { server: pair.server, page: page.refs()[0], port };
        if let Ok(mut client) = pair.connect(address) {
            let (size, mut out) = (client.receive_size(), vec![0; MAX_RING]);
            prop_assert!(matches!(client.read(&mut out), Err(_) | Ok(1..)));
            if let Ok(n) = client.write(&out) {
                prop_assert!(n <= client.send_size() && size <= MAX_RING);
            }
        }
    }
}

/// Lets the other thread end, also when a check fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

#[test]
fn a_peer_that_scribbles_all_the_time_ends_its_channel_and_no_other() {
    let (mut ends, mut goes_on) = (0, 0);
    for (seed, sizes) in (0..40).flat_map(|seed| [(seed, SMALL), (seed, PAGED)]) {
        let pair = Pair::new();
        let guard = pair.page();
        guard.write(0, &[0x5a; PAGE_SIZE]).expect("in the page");
        let (server, client) = pair.channel(sizes);
        let (mut beside, mut besides_peer) = pair.channel(SMALL);
        let (mut victim, scribbler) = if seed % 2 == 0 { (server, client) } else { (client, server) };
        let (begin, stop, scribbles) = (AtomicBool::new(false), AtomicBool::new(false), AtomicU32::new(0));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut rng = fastrand::Rng::with_seed(seed);
                while !begin.load(Ordering::Acquire) && !stop.load(Ordering::Acquire) {
                    std::thread::yield_now();
                }
                while !stop.load(Ordering::Acquire) {
                    scribbles.fetch_add(1, Ordering::AcqRel);
                    // The head more often than the rest, and mostly with what could be an index.
                    let at = if rng.bool() { rng.usize(..24) } else { rng.usize(..PAGE_SIZE) };
                    let value = if rng.u8(..) < 250 { rng.u8(..8) } else { rng.u8(..) };
                    scribbler.page.u8(at).store(value, Ordering::Release);
                }
            });
            let _stop = Stop(&stop);
            let mut rng = fastrand::Rng::with_seed(!seed);
            let mut buf = vec![0; 5000];
            let mut ended = false;
            let peaceful = rng.u32(1..50);
            for round in 0..200u32 {
                if round >= peaceful && !ended {
                    // However the two are scheduled, something is scribbled in every round.
                    begin.store(true, Ordering::Release);
                    let before = scribbles.load(Ordering::Acquire);
                    while scribbles.load(Ordering::Acquire) == before {
                        std::thread::yield_now();
                    }
                }
                let len = rng.usize(..buf.len());
                let outcome = match rng.u8(..4) {
                    0 => victim.read(&mut buf[..len]).map(drop),
                    1 => victim.write(&buf[..len]).map(drop),
                    2 => victim.recv(&mut buf[..len]),
                    _ => victim.send(&buf[..len]),
                };
                match outcome {
                    Err(ChannelError::Protocol) => ended = true,
                    Ok(()) if len > 0 => {
                        assert!(!ended, "over is over");
                        goes_on += 1;
                    }
                    Ok(())
                    | Err(ChannelError::WouldBlock | ChannelError::TooLong { .. } | ChannelError::Closed) => {
                    }
                    Err(e @ (ChannelError::Events(_) | ChannelError::Watch(_))) => panic!("{e}"),
                }
                victim.acknowledge().expect("events");
                if round % 100 == 0 {
                    besides_peer.send(&round.to_ne_bytes()).expect("room");
                    let mut got = [0; 4];
                    beside.recv(&mut got).expect("it is there");
                    assert_eq!(got, round.to_ne_bytes());
                }
            }
            ends += u32::from(ended);
        });
        let mut after = [0; PAGE_SIZE];
        guard.read(0, &mut after).expect("in the page");
        assert!(after == [0x5a; PAGE_SIZE], "a page beside is as it was");
        pair.machine.assert_clean();
    }
    assert!(ends > 0 && goes_on > 0, "some end, after a while: {ends} channels, {goes_on} operations");
}
