//! The peer of the round trip: two threads, two eventfds, nothing else.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use rustix::event::{EventfdFlags, eventfd};

use crate::processors::stay_on;

/// A thread that answers every event on one descriptor with an event on the other.
pub(crate) struct PingPong {
    ping: Arc<OwnedFd>,
    pong: Arc<OwnedFd>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

fn signal(fd: &OwnedFd) {
    rustix::io::write(fd, &1u64.to_ne_bytes()).expect("an eventfd takes 1");
}

fn wait(fd: &OwnedFd) {
    let mut count = [0; 8];
    rustix::io::read(fd, &mut count).expect("an eventfd gives its count");
}

impl PingPong {
    /// Starts the answering thread, on processor `cpu` if one is given.
    pub(crate) fn start(cpu: Option<usize>) -> Self {
        let fd = || Arc::new(eventfd(0, EventfdFlags::CLOEXEC).expect("eventfd"));
        let (ping, pong, stop) = (fd(), fd(), Arc::new(AtomicBool::new(false)));
        let thread = {
            let (ping, pong, stop) = (ping.clone(), pong.clone(), stop.clone());
            std::thread::spawn(move || {
                if let Some(cpu) = cpu {
                    stay_on(cpu).expect("a processor of this process");
                }
                loop {
                    wait(&ping);
                    if stop.load(Ordering::Acquire) {
                        return;
                    }
                    signal(&pong);
                }
            })
        };
        Self { ping, pong, stop, thread: Some(thread) }
    }

    /// One there and back.
    pub(crate) fn round_trip(&self) {
        signal(&self.ping);
        wait(&self.pong);
    }
}

impl Drop for PingPong {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        signal(&self.ping);
        if let Some(thread) = self.thread.take() {
            // A panic over there has already been printed.
            let _ = thread.join();
        }
    }
}
