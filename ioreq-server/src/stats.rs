//! What a guest's server has done, in counters that cost next to nothing.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$m:meta])* $name:ident),* $(,)?) => {
        /// Counters of one guest, written by its loop, read by anybody.
        #[derive(Debug, Default)]
        pub struct Stats { $($(#[$m])* $name: AtomicU64,)* }

        /// Counters at one moment.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Snapshot { $($(#[$m])* pub $name: u64,)* }

        impl Snapshot {
            /// Each counter's name and value.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name),)*].into_iter()
            }
        }

        impl Stats {
            /// The counters now. Each is exact; together they are of about the same moment.
            pub fn snapshot(&self) -> Snapshot {
                Snapshot { $($name: self.$name.load(Ordering::Relaxed),)* }
            }

            $(pub(crate) fn $name(&self) { self.$name.fetch_add(1, Ordering::Relaxed); })*
        }
    };
}

counters! {
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
    /// Requests, of all kinds, that came through the buffered ring.
    buffered,
    /// Requests whose answer was deferred.
    deferred,
    /// Requests of no known type, width or count, answered with all-ones.
    malformed,
    /// Accesses that no device of ours claims.
    unclaimed,
    /// Accesses to registers that the device does not have.
    unknown_register,
    /// Accesses that failed otherwise.
    failed,
    /// Panics of a device or handler that were contained.
    panics,
    /// Entries of the buffered ring, or all of it, dropped because they made no sense.
    ring_faults,
    /// Times the event ring had overflowed and every slot was looked at.
    event_ring_resets,
    /// Sync requests that were found by looking, before their event was taken.
    unannounced,
    /// Times the loop woke up for this guest.
    wakeups,
}
