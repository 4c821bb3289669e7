//! What several CPUs do at once: each performs the whole table, and the server brings them together between the rows.
//!
//! No row tells in which order the CPUs came, since nothing makes them come in one: each counts what was right of what it
//! did itself. That they are at work at the same time is the server's doing: it keeps a CPU waiting for all others.

use super::access::Access;
use super::{MMIO, Row, row, want};
use crate::platform::{Platform, Way, Width};
use crate::words::lo32;

/// CPUs that perform the table.
pub const PERFORMERS: u32 = 3;

/// Offset in the device's memory at which a read is answered when all CPUs have made it: how often they have, so far.
pub const MEET: u64 = 0x400;
/// A read here is answered, with their number, when so many writes to [`GO`] have come as were written here before.
pub const HOLD: u64 = 0x408;
/// A read here is answered when a CPU waits at [`HOLD`].
pub const BEGUN: u64 = 0x410;
/// See [`HOLD`].
pub const GO: u64 = 0x418;
/// A read here tells how many writes of this CPU's have come to its page of [`VGA`] since the last one: 1, 2, 3 and so on, up to
/// the first that was another.
pub const COUNT: u64 = 0x420;
/// A read here tells how many of those that the last read of [`COUNT`] told of came by the ring.
pub const RINGED: u64 = 0x428;
/// First byte of the VGA window, which is the server's too. Writes there need not be waited for.
pub const VGA: u64 = 0xb_8000;
/// Its bytes: a page for each CPU.
pub const VGA_BYTES: u64 = PERFORMERS as u64 * 0x1000;
/// First of the registers that belong to one CPU.
const OWN: u64 = 0x800;
/// Bytes of them.
const OWN_BYTES: u64 = 0x80;

/// What a CPU does. Where nothing else is said the answer is how many rounds were right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Together {
    /// Waits until all are here; the answer is the number of such meetings so far.
    Meet,
    /// In each round waits for all others.
    Lockstep {
        /// Rounds.
        rounds: u32,
    },
    /// In each round writes a register of its own and reads it.
    Registers {
        /// Rounds.
        rounds: u32,
    },
    /// In each round moves a string from a frame of its own to memory of its own at the device, and back to another place.
    Strings {
        /// Rounds.
        rounds: u32,
    },
    /// One CPU waits for an answer, which comes after each of the others has made so many writes. Its answer is how many
    /// those were, the others' how many they have made.
    Hold {
        /// The one.
        holder: u32,
        /// Writes.
        rounds: u32,
    },
    /// Writes 1, 2, 3 and so on to its page of the VGA window, and asks the device how many have come.
    Vga {
        /// Writes.
        writes: u32,
    },
    /// Asks the device how many of them came by the ring.
    Ringed,
}

/// The table.
#[rustfmt::skip]
pub(super) const ROWS: &[Row] = {
    use Access::{AskForMsi, Interrupts, Scratch};
    use Together::{Hold, Lockstep, Meet, Registers, Ringed, Strings, Vga};
    const fn all(what: Together) -> Access { Access::Together(what) }
    &[
        row("ram_of_all", Scratch),
        want("all_are_here", all(Meet), 1),
        want("each_writes_and_reads_a_register_of_its_own", all(Registers { rounds: 150 }), 150),
        want("all_have_used_their_registers", all(Meet), 2),
        want("each_moves_strings_to_the_device_and_back", all(Strings { rounds: 40 }), 40),
        want("all_have_moved_their_strings", all(Meet), 3),
        want("all_wait_for_each_other_in_each_round", all(Lockstep { rounds: 60 }), 60),
        row("one_waits_while_the_others_go_on", all(Hold { holder: 0, rounds: 50 })),
        want("all_are_here_after_one_waited", all(Meet), 64),
        row("another_waits_while_the_others_go_on", all(Hold { holder: PERFORMERS - 1, rounds: 50 })),
        want("all_are_here_after_another_waited", all(Meet), 65),
        // All of them together find room in the ring, which has 511 places.
        want("buffered_writes_of_each_come_in_their_order", all(Vga { writes: 160 }), 160),
        want("they_came_by_the_ring", all(Ringed), 160),
        want("all_have_written_to_the_ring", all(Meet), 66),
        // What finds no room is sent by the CPU's slot, and may not overtake what is still in the ring.
        want("more_than_the_ring_holds_comes_in_order_too", all(Vga { writes: 700 }), 700),
        want("each_asks_for_an_msi", AskForMsi, 0),
        want("each_gets_one", Interrupts { moments: 400 }, 1),
        want("all_are_here_at_the_end", all(Meet), 67),
    ]
};

/// Does it; `base` is the first byte of the scratch RAM, of which the CPU takes a frame of its own.
pub(super) fn perform(platform: &mut impl Platform, base: u64, what: Together) -> u64 {
    let me = platform.vcpu();
    let own = MMIO + OWN + u64::from(me) * OWN_BYTES;
    // A value that no other CPU writes.
    let signed = |round: u32| u64::from(me << 24 | round);
    let mut right = 0;
    match what {
        Together::Ringed => return platform.mmio_read(MMIO + RINGED, Width::B4),
        Together::Meet => return platform.mmio_read(MMIO + MEET, Width::B4),
        Together::Lockstep { rounds } => {
            let mut last = None;
            for _ in 0..rounds {
                let now = platform.mmio_read(MMIO + MEET, Width::B4);
                right += u64::from(last.is_none_or(|l| now == l + 1));
                last = Some(now);
            }
        }
        Together::Registers { rounds } => {
            for round in 0..rounds {
                platform.mmio_write(own, Width::B4, signed(round));
                right += u64::from(platform.mmio_read(own, Width::B4) == signed(round));
            }
        }
        Together::Strings { rounds } => {
            let (from, to) = (base + u64::from(me) * 0x1000, base + u64::from(me) * 0x1000 + 0x100);
            let words = || (0..4).map(|n| 4 * n);
            for round in 0..rounds {
                words().for_each(|n| platform.mmio_write(from + n, Width::B4, signed(round) << 3 | n));
                words().for_each(|n| platform.mmio_write(to + n, Width::B4, 0));
                platform.rep_movs(from, own, Width::B4, 4, Way::Up);
                platform.rep_movs(own, to, Width::B4, 4, Way::Up);
                let same = words().all(|n| {
                    platform.mmio_read(to + n, Width::B4) == u64::from(lo32(signed(round) << 3 | n))
                });
                right += u64::from(same);
            }
        }
        Together::Hold { holder, rounds } if holder == me => {
            platform.mmio_write(MMIO + HOLD, Width::B4, u64::from(rounds * (PERFORMERS - 1)));
            return platform.mmio_read(MMIO + HOLD, Width::B4);
        }
        Together::Hold { rounds, .. } => {
            if platform.mmio_read(MMIO + BEGUN, Width::B4) != 1 {
                return 0;
            }
            for round in 0..rounds {
                platform.mmio_write(MMIO + GO, Width::B4, signed(round));
                right += 1;
            }
        }
        Together::Vga { writes } => {
            let page = VGA + u64::from(me) * 0x1000;
            for n in 1..=writes {
                platform.mmio_write(page + u64::from(n % 0x400) * 4, Width::B4, n.into());
            }
            return platform.mmio_read(MMIO + COUNT, Width::B4);
        }
    }
    right
}
