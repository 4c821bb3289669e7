//! What a guest's server has done, in counters that cost next to nothing.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    (
        loop { $($(#[$lm:meta])* $l:ident,)* }
        batches { $($(#[$bm:meta])* $b:ident,)* }
        anybody { $($(#[$am:meta])* $a:ident,)* }
    ) => {
        /// Counters of one guest, written by its loop, read by anybody.
        #[derive(Debug, Default)]
        pub struct Stats {
            $($(#[$lm])* $l: AtomicU64,)*
            $($(#[$bm])* $b: AtomicU64,)*
            $($(#[$am])* $a: AtomicU64,)*
        }

        /// Counters at one moment.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Snapshot {
            $($(#[$lm])* pub $l: u64,)*
            $($(#[$bm])* pub $b: u64,)*
            $($(#[$am])* pub $a: u64,)*
        }

        impl Snapshot {
            /// Each counter's name and value.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($l), self.$l),)* $((stringify!($b), self.$b),)* $((stringify!($a), self.$a),)*].into_iter()
            }
        }

        impl Stats {
            /// The counters now. Each is exact; together they are of about the same moment.
            pub fn snapshot(&self) -> Snapshot {
                Snapshot {
                    $($l: self.$l.load(Ordering::Relaxed),)*
                    $($b: self.$b.load(Ordering::Relaxed),)*
                    $($a: self.$a.load(Ordering::Relaxed),)*
                }
            }

            $(pub(crate) fn $l(&self) { Self::add(&self.$l, 1); })*
            $(pub(crate) fn $b(&self, n: u64) { Self::add(&self.$b, n); })*
            $(pub(crate) fn $a(&self) { self.$a.fetch_add(1, Ordering::Relaxed); })*

            /// As `mmio`, several at once.
            pub(crate) fn mmio_all(&self, n: u64) { Self::add(&self.mmio, n); }

            /// One thread at a time, so nothing comes between the load and the store.
            fn add(counter: &AtomicU64, n: u64) {
                counter.store(counter.load(Ordering::Relaxed) + n, Ordering::Relaxed);
            }
        }
    };
}

counters! {
    // Only the loop of the guest counts these.
    loop {
        /// Requests for ports.
        pio,
        /// Requests for memory-mapped registers.
        mmio,
        /// Requests for configuration space.
        pci,
        /// Changes of the guest's clock.
        time_offset,
        /// Invalidations.
        invalidate,
        /// Requests whose answer was deferred.
        deferred,
        /// Requests of no known type, width or count, answered with all-ones.
        malformed,
        /// Entries of the buffered ring, or all of it, dropped because they made no sense.
        ring_faults,
        /// Times the event ring had overflowed and every slot was looked at.
        event_ring_resets,
        /// Sync requests that were found by looking, before their event was taken.
        unannounced,
        /// Times the loop woke up for this guest.
        wakeups,
        /// Times the loop, awake, looked for the next request before its event.
        looks,
    }
    // As these, several at once.
    batches {
        /// Requests, of all kinds, that came through the buffered ring.
        buffered,
    }
    // These also whoever answers a deferred access.
    anybody {
        /// Accesses that no device of ours claims.
        unclaimed,
        /// Accesses to registers that the device does not have.
        unknown_register,
        /// Accesses that failed otherwise.
        failed,
        /// Writes to the guest's RAM, which came here because their frame was trapped, and were carried out.
        ram_writes,
        /// Times the guest was paused, so that frames whose writes were trapped could become RAM.
        pauses,
        /// Panics of a device or handler that were contained.
        panics,
    }
}
