//! Two ends of a byte channel: a writer and a reader that ask each other to be told, and sleep until they are.

use std::sync::Arc;

use xen_ioreq::abi::libxenvchan::VCHAN_NOTIFY_WRITE;

use crate::channel::ring::{Consumer, Notify, Producer, Ring};
use crate::checker::{Checker, join, spawn};
use crate::shared::SharedBytes;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::wake::Wake;

/// Offsets in the page: the reader's index, the writer's, what the reader asks, what the writer asks, whether the writer is there.
const INDICES: (usize, usize) = (0, 4);
const READER_ASKS: usize = 22;
const WRITER_ASKS: usize = 23;
const LIVE: usize = 20;
/// Where the ring lies.
const DATA: usize = 1024;

/// How an end looks for what is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// Asks to be told, then looks again.
    AgainAfterAsking,
    /// Asks to be told and sleeps.
    Once,
}

/// An event channel's end: an event that came is not forgotten.
#[derive(Default)]
struct Events {
    pending: AtomicBool,
    wake: Wake,
}

impl Events {
    fn send(&self) {
        // loom lets an exchange overlook a mere store that came after the exchange before it.
        self.pending.swap(true, Ordering::SeqCst);
        self.wake.notify();
    }

    fn wait(&self) {
        self.wake.wait(None, || self.pending.swap(false, Ordering::SeqCst));
    }
}

struct Scene {
    page: SharedBytes,
    size: usize,
    to_reader: Events,
    to_writer: Events,
}

impl Scene {
    /// A ring of so many bytes, in which both indices are at `start`; the reader has asked already, as a server has.
    fn new(size: usize, start: u32) -> Arc<Self> {
        let page = SharedBytes::page();
        page.u32(INDICES.0).store(start, Ordering::Release);
        page.u32(INDICES.1).store(start, Ordering::Release);
        page.u8(READER_ASKS).store(VCHAN_NOTIFY_WRITE, Ordering::Release);
        page.u8(LIVE).store(1, Ordering::Release);
        Arc::new(Self { page, size, to_reader: Events::default(), to_writer: Events::default() })
    }

    fn ring(&self) -> Ring {
        Ring::new(self.page.clone(), INDICES, self.page.part(DATA..DATA + self.size))
    }

    /// Writes bytes 1, 2, … in pieces of `piece`, and goes.
    fn write(&self, start: u32, bytes: u8, piece: usize, look: Look) {
        let notify = Notify::new(self.page.clone(), WRITER_ASKS, READER_ASKS);
        let mut end = Producer::new(self.ring(), notify, start, start).expect("an empty ring");
        let all: Vec<u8> = (1..=bytes).collect();
        let mut rest = all.as_slice();
        while !rest.is_empty() {
            let want = piece.min(rest.len());
            let mut room = 0;
            if look == Look::AgainAfterAsking {
                room = end.room(want).expect("the reader keeps to the protocol");
            } else if end.room(0).expect("the reader keeps to the protocol") >= want {
                room = want;
            } else {
                Notify::new(self.page.clone(), WRITER_ASKS, READER_ASKS)
                    .ask(xen_ioreq::abi::libxenvchan::VCHAN_NOTIFY_READ);
            }
            if room < want {
                self.to_writer.wait();
                continue;
            }
            let (n, tell) = end.put(&rest[..want]);
            assert_eq!(n, want, "there was room");
            if tell {
                self.to_reader.send();
            }
            rest = &rest[n..];
        }
        self.page.u8(LIVE).store(0, Ordering::Release);
        self.to_reader.send();
    }

    /// Reads pieces of `piece` until the writer has gone and nothing is left.
    fn read(&self, start: u32, piece: usize) -> Vec<u8> {
        let notify = Notify::new(self.page.clone(), READER_ASKS, WRITER_ASKS);
        let mut end = Consumer::new(self.ring(), notify, start, start).expect("an empty ring");
        let mut came = Vec::new();
        loop {
            let mut ready = end.ready(piece).expect("the writer keeps to the protocol");
            if ready < piece {
                if self.page.u8(LIVE).load(Ordering::Acquire) != 0 {
                    self.to_reader.wait();
                    continue;
                }
                ready = end.ready(piece).expect("the writer keeps to the protocol");
                if ready < piece {
                    return came;
                }
            }
            let mut out = vec![0; piece];
            let (n, tell) = end.get(&mut out);
            came.extend_from_slice(&out[..n]);
            if tell {
                self.to_writer.send();
            }
        }
    }
}

/// `bytes` bytes cross a ring of `size` in pieces, from index `start` on, and then the writer goes. Each comes once and in turn, and
/// nobody sleeps for ever.
pub fn bytes_cross(
    checker: Checker,
    size: usize,
    start: u32,
    bytes: u8,
    pieces: (usize, usize),
    look: Look,
) -> usize {
    checker.run(move || {
        let scene = Scene::new(size, start);
        let reads = {
            let scene = scene.clone();
            spawn(move || scene.read(start, pieces.1))
        };
        scene.write(start, bytes, pieces.0, look);
        let came = join(reads);
        assert_eq!(came, (1..=bytes).collect::<Vec<_>>(), "each once, in turn");
    })
}
