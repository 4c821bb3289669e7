//! What the program needs inside a stub domain, and to know that it is in one.
//!
//! [`Place`] says where the program runs, which decides what it may hope for: in dom0 every hypercall, in a domain of its own
//! only what Xen lets a device model do to its target. [`grants`] shares pages with other domains, [`channel`] is a byte
//! channel on top of them, [`surface`] a picture that another domain shows, and [`xenstore`] is how two ends find each other.

pub mod channel;
pub mod grants;
mod place;
mod shared;
pub mod surface;
mod sync;
#[cfg(test)]
mod testing;
pub mod xenstore;

pub use place::Place;
