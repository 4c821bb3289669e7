//! That work is done once, and over when it is said to be.

use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;
use std::sync::mpsc::channel;
use std::time::Duration;

use super::*;

fn team(helpers: usize) -> Team {
    Team::new(helpers).expect("threads")
}

#[test]
fn every_part_is_done_once_by_however_many() {
    for helpers in 0..4 {
        let mut team = team(helpers);
        for count in [0, 1, 2, 3, 7, 100] {
            for _ in 0..20 {
                team.gather();
                let times: Vec<_> = (0..count).map(|_| AtomicUsize::new(0)).collect();
                team.each(count, &|n| {
                    times[n].fetch_add(1, Ordering::Relaxed);
                });
                assert!(times.iter().all(|n| n.load(Ordering::Relaxed) == 1), "{count} by {helpers} and one");
            }
        }
    }
}

/// Has each of two threads do one part, which is told whether it is a helper's.
fn with_a_helper(team: &mut Team, part: &(dyn Fn(bool) + Sync)) {
    let own = thread::current().id();
    let helped = AtomicBool::new(false);
    while !helped.load(Ordering::Relaxed) {
        team.gather();
        // A helper that did not come in time is waited for anew.
        team.each(2, &|_| {
            let helps = thread::current().id() != own;
            if helps {
                helped.store(true, Ordering::Relaxed);
                part(true);
            } else {
                thread::yield_now();
                part(false);
            }
        });
    }
}

#[test]
fn work_is_over_only_when_the_last_helper_has_let_go() {
    let mut team = team(1);
    for asleep in [false, true] {
        let (inside, (release, released)) = (Mutex::new(None), channel());
        let (tell, told) = channel();
        *inside.lock().expect("no panic") = Some((tell, released));
        let let_go = AtomicBool::new(false);
        thread::scope(|s| {
            s.spawn(move || {
                told.recv().expect("a helper comes");
                // If it were not waited for, the other thread would have gone on long before. It looks, or sleeps.
                thread::sleep(Duration::from_millis(if asleep { 50 } else { 0 }));
                release.send(()).expect("it waits");
            });
            with_a_helper(&mut team, &|helps| {
                if helps && let Some((tell, released)) = inside.lock().expect("no panic").take() {
                    tell.send(()).expect("it is waited for");
                    released.recv().expect("is released");
                    thread::yield_now();
                    let_go.store(true, Ordering::Relaxed);
                }
            });
        });
        assert!(let_go.load(Ordering::Relaxed), "the work was said to be over while a helper was at it");
    }
}

#[test]
#[should_panic(expected = "a helper of an engine has panicked")]
fn panic_of_a_helper_is_the_engines() {
    with_a_helper(&mut team(2), &|helps| assert!(!helps, "a part that panics"));
}

#[test]
fn helper_that_has_nothing_to_do_sleeps() {
    let mut team = team(2);
    for _ in 0..3 {
        team.gather();
        team.each(5, &|_| ());
        while team.helpers.iter().any(|h| h.seat.is_ready()) {
            thread::yield_now();
        }
    }
}

#[test]
fn engine_is_alone_until_help_has_been_called_for_and_after_the_blit() {
    let mut team = team(1);
    assert_eq!(team.hands(), 1);
    let mut seen = 1;
    // Some are done alone, and then some with help, to know of both.
    for _ in 0..pace::TRIAL {
        team.begin(Kind::Copy);
        assert_eq!(team.hands(), 1);
        team.end(Kind::Copy, 1 << 20, Duration::from_micros(40));
    }
    while seen == 1 {
        team.begin(Kind::Copy);
        for _ in 0..1000 {
            seen = seen.max(team.hands());
            thread::yield_now();
        }
    }
    assert_eq!(seen, 2);
    team.end(Kind::Copy, 1 << 20, Duration::from_micros(20));
    assert_eq!(team.hands(), 1);
}

#[test]
fn helper_knows_whether_an_offer_comes_soon() {
    let (seat, work) = (Seat::new(), 7);
    let told = |before: &dyn Fn()| {
        let mut told = Vec::new();
        before();
        let taken = seat.take(|news, soon| {
            told.push(soon);
            match told.len() {
                // The blit is over, while it looks.
                1 if soon => seat.release(),
                // Another one begins.
                2 if !soon => seat.call(),
                _ => assert!(seat.offer(&raw const work), "it looks"),
            }
            assert!(news(), "it is told");
        });
        assert_eq!(taken, Some(&raw const work));
        seat.done();
        told
    };
    assert_eq!(told(&|| seat.call()), [true, false, true]);
    assert_eq!(told(&|| seat.release()), [false]);
}
