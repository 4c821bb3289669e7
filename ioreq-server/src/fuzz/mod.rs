//! What fuzzers throw at the crate: each target takes any bytes, and panics where something does not hold.
//!
//! The bodies are here, where the private parts are. `fuzz/` has a libFuzzer program for each; the tests drive the same bodies
//! with a small corpus and mutations of it, so they run everywhere.
#![allow(missing_docs, clippy::missing_panics_doc, reason = "not part of the interface")]

mod config_space;
mod dm_op;
mod ring;
#[cfg(test)]
mod seeds;
mod slot;
#[cfg(test)]
mod tests;

pub use self::config_space::config_space;
pub use self::dm_op::dm_op;
pub use self::ring::ring;
pub use self::slot::slot;

/// Input, read from the front; zeros after its end.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        let (now, later) = self.0.split_at(N.min(self.0.len()));
        out[..now.len()].copy_from_slice(now);
        self.0 = later;
        out
    }

    fn u8(&mut self) -> u8 {
        self.take::<1>()[0]
    }

    fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.take())
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }
}
