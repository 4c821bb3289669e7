use std::sync::Arc;

use super::*;

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

impl Log for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() != "off"
    }
    fn log(&self, record: &Record<'_>) {
        let line = record.args().to_string();
        self.0.lock().push(line);
    }
    fn flush(&self) {}
}

struct Rig {
    quiet: Quiet<Lines>,
    lines: Lines,
    seconds: Arc<AtomicU64>,
}

fn rig() -> Rig {
    let (lines, seconds) = (Lines::default(), Arc::new(AtomicU64::new(0)));
    let clock = seconds.clone();
    let quiet = Quiet::with_clock(lines.clone(), move || Duration::from_secs(clock.load(Ordering::SeqCst)));
    Rig { quiet, lines, seconds }
}

impl Rig {
    fn say(&self, line: u32, text: &str) {
        self.say_at(Level::Warn, "on", line, text);
    }

    fn say_at(&self, level: Level, target: &str, line: u32, text: &str) {
        let mut record = Record::builder();
        record.level(level).target(target).file_static(Some("a.rs")).line(Some(line));
        self.quiet.log(&record.args(format_args!("{text}")).build());
    }

    fn pass(&self, seconds: u64) {
        self.seconds.fetch_add(seconds, Ordering::SeqCst);
    }

    fn lines(&self) -> Vec<String> {
        std::mem::take(&mut self.lines.0.lock())
    }
}

#[test]
fn first_lines_are_whole_then_one_in_a_while_tells_how_many_are_missing() {
    let r = rig();
    (0..100).for_each(|n| r.say(1, &format!("line {n}")));
    assert_eq!(r.lines(), (0..10).map(|n| format!("line {n}")).collect::<Vec<_>>());
    r.pass(EVERY.as_secs() - 1);
    r.say(1, "too early");
    assert!(r.lines().is_empty());
    r.pass(1);
    r.say(1, "again");
    r.say(1, "and again");
    assert_eq!(r.lines(), ["again (left out before: 91 like this)"]);
    assert_eq!(r.quiet.left_out(), 92);
    // Who has been still for long may speak as at first.
    r.pass(100 * EVERY.as_secs());
    (0..100).for_each(|_| r.say(1, "x"));
    let lines = r.lines();
    assert_eq!((lines.len(), lines[0].as_str()), (10, "x (left out before: 1 like this)"));
}

#[test]
fn a_flood_hides_no_other_line_and_no_other_guests() {
    let r = rig();
    for _ in 0..1000 {
        r.say(1, "d5: a fault");
        r.say(1, "d6: a fault");
        r.say(1, "vgpu6: a fault");
        r.say(1, "0x7: no name, and no other than the next");
        r.say(1, "0x8: no name");
        r.say(2, "d5: another");
    }
    let lines = r.lines();
    let of = |text: &str| lines.iter().filter(|l| l.starts_with(text)).count();
    assert_eq!([of("d5: a"), of("d6: a"), of("vgpu6: a"), of("0x")], [20, 10, 10, 10]);
    assert_eq!(of("d5: another"), 10);
}

#[test]
fn what_was_left_out_is_told_though_no_line_like_it_comes_any_more() {
    let r = rig();
    (0..1000).for_each(|_| r.say(1, "a fault"));
    r.lines();
    r.quiet.tell();
    assert!(r.lines().is_empty(), "not before its time");
    r.pass(EVERY.as_secs());
    r.quiet.tell();
    r.quiet.tell();
    assert_eq!(r.lines(), ["a fault (left out before: 990 like this)"]);
    (0..5).for_each(|_| r.say(1, "a fault"));
    r.quiet.tell_all();
    r.quiet.tell_all();
    assert_eq!(r.lines(), ["a fault (left out before: 5 like this)"]);
}

#[test]
fn names_without_end_share_one_allowance_when_there_are_too_many() {
    let r = rig();
    (0..100_000).for_each(|n| r.say(n, "d1: x"));
    assert_eq!(r.lines().len(), KINDS + BURST as usize);
    assert!(r.quiet.kinds.lock().len() <= KINDS + 1);
}

#[test]
fn what_the_log_below_does_not_want_counts_for_nothing_and_debug_is_not_limited() {
    let r = rig();
    (0..100).for_each(|_| r.say_at(Level::Error, "off", 1, "x"));
    (0..100).for_each(|_| r.say_at(Level::Debug, "on", 2, "y"));
    assert_eq!((r.lines().len(), r.quiet.left_out()), (100, 0));
}

#[test]
fn long_lines_are_whole_but_for_the_one_that_is_kept() {
    let r = rig();
    let long = "ä".repeat(1000);
    (0..11).for_each(|_| r.say(1, &long));
    r.quiet.tell_all();
    let lines = r.lines();
    assert!(lines[..10].iter().all(|l| *l == long));
    assert_eq!(lines[10], format!("{} (left out before: 1 like this)", "ä".repeat(KEPT / 2)));
}

#[test]
fn what_a_line_tells_of_may_log_while_it_is_told() {
    struct Loud<'a>(&'a Rig);
    impl fmt::Display for Loud<'_> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            self.0.say(2, "it is looked at");
            f.write_str("loud")
        }
    }
    let r = rig();
    let loud = Loud(&r);
    let mut record = Record::builder();
    record.level(Level::Warn).target("on").file_static(Some("a.rs")).line(Some(1));
    r.quiet.log(&record.args(format_args!("{loud}")).build());
    assert!(r.lines().contains(&"loud".to_owned()));
}
