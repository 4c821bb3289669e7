//! A painter and a viewer on the model hypervisor.

use std::sync::atomic::AtomicBool;

use proptest::collection::vec;
use proptest::prelude::*;
use xen_ioreq::GrantRef;

use super::*;
use crate::channel::{Channel, ChannelError, Sizes};
use crate::grants::{Ended, Granter as _, Mapper as _};
use crate::testing::{DOM0, NOTHING, Pair};
use crate::xenstore::naive::{Manners, Naive, Nodes};

const SHAPE: (u32, u32, u32) = (100, 50, 416);

fn shape() -> Shape {
    Shape::new(SHAPE.0, SHAPE.1, SHAPE.2).expect("a shape")
}

fn share(pair: &Pair) -> Surface {
    Surface::share(pair.granter.revokable().expect("there"), DOM0, shape()).expect("shares")
}

fn open(pair: &Pair, invitation: &Invitation) -> Result<View, SurfaceError> {
    View::open(pair.mapper.revokable().expect("there"), pair.server, invitation)
}

/// A picture of one value.
fn flat(value: u8) -> Vec<u8> {
    vec![value; shape().bytes()]
}

#[test]
fn what_is_drawn_is_seen_line_by_line_without_what_lies_between() {
    let pair = Pair::new();
    let mut surface = share(&pair);
    let view = open(&pair, &surface.invitation()).expect("opens");
    let mut picture = vec![9; shape().bytes()];
    for line in 0..50usize {
        picture[line * 416..line * 416 + 400].fill(u8::try_from(line).expect("few"));
    }
    surface.draw([(0, picture.as_slice())]).expect("inside");
    let mut seen = Vec::new();
    assert_eq!((view.shape(), view.copy(&mut seen)), (shape(), Ok(Copy::Whole)));
    let wanted: Vec<u8> = (0..50).flat_map(|line| [line; 400]).collect();
    assert!(seen == wanted);
    let outside = surface.draw([(shape().bytes() - 1, [1, 2].as_slice())]);
    assert!(matches!(outside, Err(OutOfRange { size: 20800, .. })));
    assert_eq!(view.copy(&mut seen), Ok(Copy::Whole), "a drawing that failed has ended, too");
    pair.machine.assert_clean();
}

#[test]
fn a_copy_in_the_middle_of_a_drawing_is_torn() {
    let pair = Pair::new();
    let mut surface = share(&pair);
    let view = open(&pair, &surface.invitation()).expect("opens");
    let (mut seen, white) = (Vec::new(), flat(0xfe));
    let (upper, lower) = white.split_at(10_000);
    let mut parts = [(0, upper), (10_000, lower)].into_iter();
    let mut copies = Vec::new();
    let drawn = surface.draw(std::iter::from_fn(|| {
        copies.push(view.copy(&mut seen));
        parts.next()
    }));
    drawn.expect("inside");
    assert_eq!(copies, [Ok(Copy::Torn); 3]);
    assert_eq!((view.copy(&mut seen), seen.iter().all(|b| *b == 0xfe)), (Ok(Copy::Whole), true));
}

#[test]
fn a_picture_that_is_taken_back_is_gone_for_a_viewer_that_holds_on_and_its_frames_are_free() {
    let pair = Pair::new();
    let free = pair.machine.free_frames();
    let surface = share(&pair);
    let invitation = surface.invitation();
    let view = open(&pair, &invitation).expect("opens");
    let pages = 1 + shape().pages() as u64;
    assert_eq!(pair.machine.free_frames(), free - 2 * pages);
    assert_eq!(surface.take_back(), Ok(()));
    assert_eq!(pair.machine.free_frames(), free - pages, "the viewer's own are left");
    let mut seen = vec![1];
    assert_eq!((view.copy(&mut seen), seen.len()), (Err(SurfaceError::TakenBack), 0));
    assert!(matches!(open(&pair, &invitation), Err(SurfaceError::Grant(_))));
    drop(view);
    assert_eq!(pair.machine.free_frames(), free);
    pair.machine.assert_clean();
}

#[test]
fn a_guest_invites_its_viewer_over_a_channel_and_when_it_dies_both_end() {
    let pair = Pair::new();
    let (granter, mapper) =
        (pair.granter.revokable().expect("there"), pair.mapper.revokable().expect("there"));
    let (events, sizes) = (pair.events(pair.server), Sizes { to_server: 1024, to_client: 2048 });
    let (mut guest, address) =
        Channel::serve_revokably(granter, events, pair.server, DOM0, sizes).expect("a server's end");
    let mut viewer = Channel::connect_revokably(mapper, pair.events(DOM0), address).expect("a client's end");
    let mut surface = share(&pair);
    surface.draw([(0, flat(3).as_slice())]).expect("inside");
    let invitation = surface.invitation().to_bytes();
    guest.send(&u32::try_from(invitation.len()).expect("short").to_le_bytes()).expect("room");
    guest.send(&invitation).expect("room");
    let mut len = [0; 4];
    viewer.recv(&mut len).expect("there");
    let mut got = vec![0; u32::from_le_bytes(len) as usize];
    viewer.recv(&mut got).expect("there");
    let view = open(&pair, &Invitation::from_bytes(&got).expect("an invitation")).expect("opens");
    let mut seen = Vec::new();
    assert_eq!((view.copy(&mut seen), seen[0]), (Ok(Copy::Whole), 3));
    pair.machine.destroy_domain(pair.server).expect("it is there");
    pair.process.kill();
    std::mem::forget((guest, surface));
    assert_eq!(view.copy(&mut seen), Err(SurfaceError::TakenBack));
    assert_eq!(viewer.read(&mut len), Err(ChannelError::Closed));
    assert_eq!(pair.machine.domain_info(pair.server), None, "no zombie is left");
    pair.machine.assert_clean();
}

/// A viewer copies as fast as it can while the painter draws pictures of one value each, until `end`. Every whole copy is one of the
/// pictures.
fn show_until(pair: &Pair, drawings: u8, end: impl FnOnce(Surface)) -> usize {
    let mut surface = share(pair);
    let view = open(pair, &surface.invitation()).expect("opens");
    std::thread::scope(|scope| {
        let shows = scope.spawn(|| {
            let (mut seen, mut whole, mut last) = (Vec::new(), 0, 0);
            loop {
                match view.copy(&mut seen) {
                    Ok(Copy::Torn) => {}
                    Ok(Copy::Whole) => {
                        let first = seen[0];
                        assert!(seen.iter().all(|b| *b == first), "of one picture");
                        assert!((last..=drawings).contains(&first), "and not of an earlier one, nor of none");
                        (last, whole) = (first, whole + 1);
                    }
                    Err(e) => {
                        assert_eq!(e, SurfaceError::TakenBack);
                        return whole;
                    }
                }
            }
        });
        for value in 1..=drawings {
            surface.draw([(0, flat(value).as_slice())]).expect("inside");
            std::thread::yield_now();
        }
        end(surface);
        shows.join().expect("no fault, no panic")
    })
}

#[test]
fn a_guest_that_dies_while_its_viewer_reads_is_gone_and_every_whole_copy_was_a_picture() {
    let mut whole = 0;
    for drawings in 1..40 {
        let pair = Pair::new();
        whole += show_until(&pair, drawings, |surface| {
            pair.machine.destroy_domain(pair.server).expect("it is there");
            pair.process.kill();
            std::mem::forget(surface);
        });
        assert_eq!(pair.machine.domain_info(pair.server), None, "no zombie is left");
        pair.machine.assert_clean();
    }
    assert!(whole > 0, "something was seen");
}

#[test]
fn a_picture_that_is_taken_back_while_its_viewer_reads_is_gone_and_every_whole_copy_was_a_picture() {
    for drawings in 1..40 {
        let pair = Pair::new();
        show_until(&pair, drawings, |surface| assert_eq!(surface.take_back(), Ok(())));
        pair.machine.assert_clean();
    }
}

#[test]
fn a_painter_that_scribbles_over_the_head_gives_torn_pictures_and_nothing_worse() {
    let pair = Pair::new();
    let surface = share(&pair);
    let view = open(&pair, &surface.invitation()).expect("opens");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut rng = fastrand::Rng::with_seed(7);
            while !stop.load(Ordering::Acquire) {
                surface.pages.bytes().u8(rng.usize(..PAGE_SIZE)).store(rng.u8(..2), Ordering::Release);
            }
        });
        let mut seen = Vec::new();
        for _ in 0..2000 {
            match view.copy(&mut seen) {
                Ok(_) => assert_eq!(seen.len(), 20_000),
                Err(e) => assert_eq!((e, seen.len()), (SurfaceError::TakenBack, 0)),
            }
        }
        stop.store(true, Ordering::Release);
    });
}

/// The two ways to share with a viewer that never lets go: what it sees after the guest has drawn something else into what it
/// wanted back, and how many of the guest's frames are free.
#[test]
fn a_hostile_mapper_keeps_plain_pages_for_ever_and_loses_revokable_ones_in_one_call() {
    // Plain: the granter cannot free, and what it does with the page the mapper sees.
    let pair = Pair::new();
    let free = pair.machine.free_frames();
    let granted = pair.granter.grant(DOM0, 1, Prot::Read, NOTHING).expect("grants");
    granted.write(0, b"shown").expect("inside");
    let held = pair.mapper.map(pair.server, granted.refs(), Prot::Read, NOTHING).expect("maps");
    let still = granted.end().expect_err("it is mapped");
    still.granted.write(0, b"never shown").expect("inside");
    let mut seen = [0; 11];
    held.read(0, &mut seen).expect("inside");
    assert_eq!((&seen, pair.machine.free_frames()), (b"never shown", free - 1));
    drop(held);
    assert_eq!(still.granted.end().expect("let go at last"), Ended::Free);

    // Revokable: its page is its own again, and the mapper runs on, on its own.
    let pair = Pair::new();
    let free = pair.machine.free_frames();
    let granter = pair.granter.revokable().expect("there");
    let granted = granter.grant_revokable(DOM0, 1, Prot::Read).expect("grants");
    granted.write(0, b"shown").expect("inside");
    let mapper = pair.mapper.revokable().expect("there");
    let held = mapper.map_revokable(pair.server, granted.refs(), Prot::Read, b'.').expect("maps");
    assert_eq!(granted.revoke(), Ok(()));
    assert_eq!(pair.machine.free_frames(), free - 1, "all but the mapper's own");
    let reused = pair.granter.grant(DOM0, 1, Prot::Read, NOTHING).expect("grants");
    reused.write(0, b"never shown").expect("inside");
    held.read(0, &mut seen).expect("inside");
    assert_eq!(&seen, b"...........");
    pair.machine.assert_clean();
}

#[test]
fn a_plain_picture_that_is_taken_back_is_gone_for_its_viewer_but_free_only_when_that_lets_go() {
    let pair = Pair::new();
    let free = pair.machine.free_frames();
    let mut surface = Surface::share_plainly(&pair.granter, DOM0, shape()).expect("shares");
    let view = View::open_plainly(&pair.mapper, pair.server, &surface.invitation()).expect("opens");
    surface.draw([(0, flat(7).as_slice())]).expect("inside");
    let mut seen = Vec::new();
    assert_eq!((view.copy(&mut seen), seen[0]), (Ok(Copy::Whole), 7));
    assert_eq!(surface.take_back(), Err(Errno::EBUSY));
    assert_eq!((view.copy(&mut seen), seen.len()), (Err(SurfaceError::TakenBack), 0));
    assert_eq!(
        (pair.granter.retry(), pair.machine.free_frames()),
        (1 + shape().pages(), free - 1 - shape().pages() as u64)
    );
    drop(view);
    assert_eq!((pair.granter.retry(), pair.machine.free_frames()), (0, free));
    // And one that is only dropped.
    let surface = Surface::share_plainly(&pair.granter, DOM0, shape()).expect("shares");
    let view = View::open_plainly(&pair.mapper, pair.server, &surface.invitation()).expect("opens");
    let late = surface.invitation();
    drop(surface);
    assert_eq!(view.copy(&mut seen), Err(SurfaceError::TakenBack));
    let again = View::open_plainly(&pair.mapper, pair.server, &late);
    assert_eq!(again.err(), Some(SurfaceError::TakenBack), "as long as the pages are there");
    drop(view);
    assert_eq!((pair.granter.retry(), pair.machine.free_frames()), (0, free));
    pair.machine.assert_clean();
}

#[test]
fn shapes_that_cannot_be_are_refused() {
    for (width, height, stride) in [
        (0, 1, 4),
        (1, 0, 4),
        (1, 1, 0),
        (1, 1, 6),
        (2, 1, 4),
        (16385, 1, 65540),
        (1, 16385, 4),
        (u32::MAX, 1, u32::MAX),
        (1, u32::MAX, 4),
        (1, 1, 131_076),
        (1 << 30, 1, 4),
    ] {
        assert_eq!(Shape::new(width, height, stride), Err(SurfaceError::Shape { width, height, stride }));
    }
    assert_eq!(Shape::new(16384, 16384, 131_072).map(Shape::bytes), Ok(1 << 31));
}

#[test]
fn an_invitation_in_the_store_is_found_whole_however_long_it_is_and_whatever_was_there_before() {
    let naive = Naive::new(Nodes::new(), &[]);
    let (mut store, _serves) = naive.connect(Manners::Busy(1));
    let path = "/local/domain/0/data/mgpu/3";
    assert_eq!(Invitation::find(&mut store, path), Ok(None));
    for (width, height) in [(1920, 1080), (1, 1), (16384, 16384), (1024, 768)] {
        let shape = Shape::new(width, height, width * 4).expect("a shape");
        let refs = (0..=shape.pages()).map(|i| GrantRef(u32::try_from(i * 3).expect("small"))).collect();
        let invitation = Invitation { shape, refs };
        invitation.publish(&mut store, path, DomId(0), DomId(5)).expect("published");
        assert_eq!(Invitation::find(&mut store, path), Ok(Some(invitation)));
    }
    assert!(naive.nodes().values().all(|(piece, who)| piece.len() <= 2048 && who == "n0 r5 "));
    naive.write(&format!("{path}/1"), "somebody else's");
    assert!(matches!(Invitation::find(&mut store, path), Err(SurfaceError::Invitation(_))));
    Invitation::withdraw(&mut store, path).expect("withdrawn");
    assert_eq!((naive.nodes().len(), Invitation::find(&mut store, path)), (0, Ok(None)));
    Invitation::withdraw(&mut store, path).expect("nothing is left, which is no error");
}

proptest! {
    #[test]
    fn an_invitation_is_read_back_as_it_was_written_and_nothing_else_is_one(
        width in 1..200u32, height in 1..200u32, extra in 0..50u32, bytes in vec(any::<u8>(), 0..100),
        cut in 1..20usize,
    ) {
        let shape = Shape::new(width, height, (width + extra) * 4).expect("a shape");
        let refs = (0..=shape.pages()).map(|i| GrantRef(u32::try_from(i * 7).expect("small"))).collect();
        let invitation = Invitation { shape, refs };
        let written = invitation.to_bytes();
        prop_assert_eq!(Invitation::from_bytes(&written), Ok(invitation));
        prop_assert!(Invitation::from_bytes(&written[..written.len() - cut]).is_err());
        prop_assert!(Invitation::from_bytes(&[&written[..], &[0; 4]].concat()).is_err());
        prop_assert!(Invitation::from_bytes(&bytes).is_err(), "without the mark");
        let mut marked = written[..4].to_vec();
        marked.extend(&bytes);
        if let Ok(read) = Invitation::from_bytes(&marked) {
            prop_assert_eq!(read.to_bytes(), marked);
        }
    }
}
