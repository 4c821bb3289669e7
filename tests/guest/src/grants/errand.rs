//! What a guest does on a server's behalf: one access to its memory or one hypercall at a time, so that rows in which several domains
//! take part can be written where all of them are at hand.
//!
//! An errand and its answer go over ports as words of four bytes; structs and lists of them lie in the guest's RAM, where the server
//! puts them and finds them again.

use xen_ioreq::{Errno, Gfn};

use super::stage::{BYTES, most_ram};
use super::{Hypercalls, Workspace};
use crate::platform::{RamRange, Width};
use crate::words::{hi32, lo32};

/// Words of an errand.
pub const WORDS: usize = 6;

/// One thing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Errand {
    /// Tell where the most RAM is that a server may use: the number of its first frame in the upper half, their number in the lower.
    Ram,
    /// Load from this guest-physical address; the answer is what was read.
    Load(u64, Width),
    /// Store this value there.
    Store(u64, Width, u64),
    /// `grant_table_op` on so many structs.
    GrantTable(Args, u32),
    /// `memory_op` on one struct.
    Memory(Args),
    /// Give this frame up; the answer is how many were.
    GiveUp(Gfn),
}

const fn u64_of(low: u32, high: u32) -> u64 {
    low as u64 | (high as u64) << 32
}

/// A hypercall and its structs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Args {
    /// Number of the operation.
    pub cmd: u32,
    /// Where in the guest's RAM the structs begin.
    pub at: u64,
    /// Bytes that they have together.
    pub bytes: u32,
}

fn width(bytes: u32) -> Option<Width> {
    [Width::B1, Width::B2, Width::B4, Width::B8].into_iter().find(|w| u32::from(w.bytes()) == bytes)
}

impl Errand {
    /// As it goes over the port.
    pub fn words(&self) -> [u32; WORDS] {
        let of = |kind, at: u64, [a, b, c]: [u32; 3]| [kind, lo32(at), hi32(at), a, b, c];
        match *self {
            Self::Ram => of(1, 0, [0; 3]),
            Self::Load(at, width) => of(2, at, [width.bytes().into(), 0, 0]),
            Self::Store(at, width, value) => of(3, at, [width.bytes().into(), lo32(value), hi32(value)]),
            Self::GrantTable(Args { cmd, at, bytes }, count) => of(4, at, [cmd, bytes, count]),
            Self::Memory(Args { cmd, at, bytes }) => of(5, at, [cmd, bytes, 0]),
            Self::GiveUp(gfn) => of(6, gfn.0, [0; 3]),
        }
    }

    /// The inverse of [`words`](Self::words). `None`: no such errand.
    pub fn of_words([kind, low, high, a, b, c]: [u32; WORDS]) -> Option<Self> {
        let at = u64_of(low, high);
        Some(match kind {
            1 => Self::Ram,
            2 => Self::Load(at, width(a)?),
            3 => Self::Store(at, width(a)?, u64_of(b, c)),
            4 => Self::GrantTable(Args { cmd: a, at, bytes: b }, c),
            5 => Self::Memory(Args { cmd: a, at, bytes: b }),
            6 => Self::GiveUp(Gfn(at)),
            _ => return None,
        })
    }

    /// Does it; an error is the negative number that a hypercall would return. EINVAL: more bytes than there is room for. EFAULT: they
    /// are not in RAM.
    pub(super) fn run(&self, platform: &mut impl Hypercalls, work: &mut Workspace) -> u64 {
        let rc = |done: Result<(), Errno>| match done {
            Ok(()) => 0,
            Err(e) => i64::from(-e.0).cast_unsigned(),
        };
        match *self {
            Self::Ram => {
                let none = RamRange { first: Gfn(0), frames: 0 };
                let RamRange { first, frames } = most_ram(platform).unwrap_or(none);
                first.0 << 32 | u64::from(lo32(frames))
            }
            Self::Load(at, width) => platform.mmio_read(at, width),
            Self::Store(at, width, value) => {
                platform.mmio_write(at, width, value);
                0
            }
            Self::GrantTable(args, count) => {
                rc(on_ram(platform, work, args, |p, bytes| p.grant_table_op(args.cmd, bytes, count)))
            }
            Self::Memory(args) => rc(on_ram(platform, work, args, |p, bytes| p.memory_op(args.cmd, bytes))),
            Self::GiveUp(gfn) => platform.decrease_reservation(&[gfn]) as u64,
        }
    }
}

/// A call on a copy of what is in RAM, which goes back there whatever came of it.
fn on_ram<P: Hypercalls>(
    platform: &mut P,
    work: &mut Workspace,
    Args { at, bytes, .. }: Args,
    call: impl FnOnce(&mut P, &mut [u8]) -> Result<(), Errno>,
) -> Result<(), Errno> {
    let len = usize::try_from(bytes).ok().filter(|n| *n <= BYTES).ok_or(Errno::EINVAL)?;
    let args = &mut work.bytes[..len];
    platform.ram_read(at, args).map_err(|_| Errno::EFAULT)?;
    let done = call(platform, args);
    platform.ram_write(at, args).map_err(|_| Errno::EFAULT)?;
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_errand_goes_over_the_port_and_comes_back() {
        let far = 0x1234_5678_9abc_def0;
        for errand in [
            Errand::Ram,
            Errand::Load(far, Width::B1),
            Errand::Load(1, Width::B8),
            Errand::Store(far, Width::B4, u64::MAX),
            Errand::GrantTable(Args { cmd: 5, at: far, bytes: 40 }, u32::MAX),
            Errand::Memory(Args { cmd: 7, at: far, bytes: 24 }),
            Errand::GiveUp(Gfn(far)),
        ] {
            assert_eq!(Errand::of_words(errand.words()), Some(errand));
        }
        for words in [[0; WORDS], [u32::MAX; WORDS], [2, 0, 0, 3, 0, 0], [7, 0, 0, 0, 0, 0]] {
            assert_eq!(Errand::of_words(words), None, "{words:x?}");
        }
    }
}
