use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;

use super::*;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Task {
    Note,
    Again,
    Panic,
    Linger,
}

/// Reports what is done with it.
struct Member {
    name: char,
    done: mpsc::Sender<(char, Task)>,
    /// How often `Again` and `Panic` have been done.
    times: AtomicUsize,
    /// `Linger` is done.
    used: AtomicBool,
}

impl Timed for Member {
    type Task = Task;

    fn do_in_time(&self, task: Task) -> Option<Instant> {
        let before = self.times.fetch_add(usize::from(task != Task::Note), Ordering::SeqCst);
        let _ = self.done.send((self.name, task));
        match task {
            Task::Note => None,
            Task::Again => (before < 3).then(Instant::now),
            Task::Panic if before == 0 => panic!("as it is told"),
            Task::Panic => None,
            Task::Linger => {
                self.used.store(true, Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(2));
                self.used.store(false, Ordering::SeqCst);
                None
            }
        }
    }
}

/// A timetable with its thread, and what is done.
struct Scene {
    table: Arc<Timetable<Member>>,
    report: mpsc::Sender<(char, Task)>,
    done: mpsc::Receiver<(char, Task)>,
    thread: Option<JoinHandle<()>>,
}

impl Scene {
    fn new() -> Self {
        let (report, done) = mpsc::channel();
        Self { table: Arc::new(Timetable::new()), report, done, thread: None }
    }

    /// What was set before is due together.
    fn start(&mut self) {
        self.thread = Some(self.table.spawn("timetable", ThreadKind::Device).unwrap());
    }

    fn add(&self, id: u32, name: char) -> Arc<Member> {
        let (done, times) = (self.report.clone(), AtomicUsize::new(0));
        let member = Arc::new(Member { name, done, times, used: AtomicBool::new(false) });
        self.table.add(VgpuId(id), member.clone());
        member
    }

    fn set(&self, id: u32, task: Task, time: Instant) {
        self.table.set(VgpuId(id), task, time);
    }

    fn next(&self) -> (char, Task) {
        self.done.recv().unwrap()
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.table.close();
        let ended = self.thread.take().is_none_or(|thread| thread.join().is_ok());
        assert!(ended || std::thread::panicking(), "the thread has panicked");
    }
}

#[test]
fn what_is_due_is_done_earliest_first_and_once() {
    let mut scene = Scene::new();
    let now = Instant::now();
    let at = |ms| now.checked_sub(Duration::from_millis(ms)).unwrap();
    scene.add(1, 'a');
    scene.add(2, 'b');
    scene.set(1, Task::Note, at(2));
    scene.set(2, Task::Note, at(5));
    scene.set(2, Task::Linger, at(3));
    scene.start();
    let done = [scene.next(), scene.next(), scene.next()];
    assert_eq!(done, [('b', Task::Note), ('b', Task::Linger), ('a', Task::Note)]);
    scene.set(1, Task::Linger, now);
    assert_eq!(scene.next(), ('a', Task::Linger), "nothing came twice");
}

#[test]
fn a_time_that_is_set_while_the_thread_sleeps_until_a_later_one_is_met() {
    let mut scene = Scene::new();
    scene.start();
    scene.add(1, 'a');
    scene.add(2, 'b');
    let hour = Instant::now() + Duration::from_secs(3600);
    scene.set(1, Task::Note, hour);
    scene.set(2, Task::Note, hour);
    let soon = Instant::now() + Duration::from_millis(3);
    scene.set(2, Task::Note, soon);
    assert_eq!(scene.next(), ('b', Task::Note));
    assert!(Instant::now() >= soon);
    // It is put off, which the thread need not know; long before, on a machine that is busy too.
    scene.set(2, Task::Note, Instant::now() + Duration::from_millis(300));
    scene.set(2, Task::Note, hour);
    scene.set(1, Task::Note, Instant::now() + Duration::from_millis(400));
    assert_eq!(scene.next(), ('a', Task::Note));
    assert!(scene.done.try_recv().is_err());
}

#[test]
fn what_asks_for_another_time_has_it() {
    let mut scene = Scene::new();
    scene.start();
    scene.add(1, 'a');
    scene.set(1, Task::Again, Instant::now());
    (0..4).for_each(|_| assert_eq!(scene.next(), ('a', Task::Again)));
    scene.set(1, Task::Note, Instant::now());
    assert_eq!(scene.next(), ('a', Task::Note), "the fourth asked for none");
}

#[test]
fn what_has_panicked_is_tried_again_and_the_others_are_served() {
    let mut scene = Scene::new();
    let (a, _b) = (scene.add(1, 'a'), scene.add(2, 'b'));
    scene.set(1, Task::Panic, Instant::now());
    scene.start();
    assert_eq!(scene.next(), ('a', Task::Panic));
    scene.set(2, Task::Note, Instant::now());
    assert_eq!(scene.next(), ('b', Task::Note));
    assert_eq!(scene.next(), ('a', Task::Panic));
    assert_eq!(a.times.load(Ordering::SeqCst), 2);
}

#[test]
fn nobody_uses_a_member_whose_removal_has_returned() {
    let mut scene = Scene::new();
    scene.start();
    for id in 0..100 {
        let member = scene.add(id, 'a');
        scene.set(id, Task::Linger, Instant::now());
        // Sometimes before it has begun, mostly in the midst of it.
        if id % 4 != 0 {
            assert_eq!(scene.next(), ('a', Task::Linger));
        }
        scene.table.remove(VgpuId(id));
        assert!(!member.used.load(Ordering::SeqCst), "it is used");
        assert_eq!(Arc::strong_count(&member), 1, "it is held");
        scene.set(id, Task::Linger, Instant::now());
        while scene.done.try_recv().is_ok() {}
    }
    scene.add(100, 'b');
    scene.set(100, Task::Note, Instant::now());
    assert_eq!(scene.next(), ('b', Task::Note), "nobody has come after his removal");
}

#[test]
fn a_member_that_goes_while_it_asks_for_another_time_does_not_come_back() {
    let mut scene = Scene::new();
    scene.start();
    for id in 0..20 {
        scene.add(id, 'a');
        scene.set(id, Task::Again, Instant::now());
        assert_eq!(scene.next(), ('a', Task::Again));
        scene.table.remove(VgpuId(id));
    }
    assert!(scene.table.list.lock().members.is_empty());
}
