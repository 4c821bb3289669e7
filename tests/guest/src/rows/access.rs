//! What a row can do, and how it is done on a [`Platform`].

use xen_ioreq::Gfn;

use super::together::{self, Together};
use super::{LINE, Line, MSI, ORDER, Order, SCRATCH_FRAMES};
use crate::platform::{Platform, Way, Width};
use crate::words::lo32;

/// Where a PC has its I/O APIC: a register that chooses one of those behind the window.
const IOAPIC: u64 = 0xfec0_0000;
const IOAPIC_WINDOW: u64 = 0x10;

/// One access. `ram` is a byte offset in the scratch RAM, `port` and `gpa` are absolute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are named above; counts are in elements")]
pub enum Access {
    /// `in`; the answer is the value.
    In { port: u16, width: Width },
    /// `out`; the answer is 0.
    Out { port: u16, width: Width, value: u32 },
    /// `rep ins`; the answer is 0, see [`Access::Digest`].
    RepIn { port: u16, width: Width, ram: u64, count: u32, way: Way },
    /// `rep outs`; the answer is 0.
    RepOut { port: u16, width: Width, ram: u64, count: u32, way: Way },
    /// A load from memory; the answer is the value.
    Load { gpa: u64, width: Width },
    /// A store to memory; the answer is 0.
    Store { gpa: u64, width: Width, value: u64 },
    /// `rep movs` from the device to RAM; the answer is 0.
    RepLoad { gpa: u64, width: Width, ram: u64, count: u32, way: Way },
    /// `rep movs` from RAM to the device; the answer is 0.
    RepStore { gpa: u64, width: Width, ram: u64, count: u32, way: Way },
    /// `rep movs` from RAM to RAM; the answer is 0.
    RepMove { from: u64, to: u64, width: Width, count: u32, way: Way },
    /// A read of configuration space by CF8/CFC; the answer is the value.
    ConfigRead { device: u8, reg: u8, width: Width },
    /// A write of it; the answer is 0.
    ConfigWrite { device: u8, reg: u8, width: Width, value: u32 },
    /// Fills scratch RAM with the bytes `first`, `first + 1`, ...; the answer is 0.
    Fill { ram: u64, bytes: u32, first: u8 },
    /// Reads scratch RAM; the answer is the value.
    Peek { ram: u64, width: Width },
    /// Writes scratch RAM; the answer is 0.
    Poke { ram: u64, width: Width, value: u64 },
    /// Has the server do something with a frame of the scratch RAM; the answer is what came of it.
    Order { order: Order, frame: u64 },
    /// FNV-1a (64 bits) of scratch RAM.
    Digest { ram: u64, bytes: u32 },
    /// Asks the server for an MSI at this CPU, see [`MSI`]; the answer is 0, or all-ones where the platform takes none.
    AskForMsi,
    /// Waits until an MSI has come, at most this many moments; the answer is how many have.
    Interrupts { moments: u32 },
    /// Tells where the scratch RAM is: the answer is its first byte's address. Addresses of it in a server's log can
    /// then be told apart from where this guest happens to have it.
    Scratch,
    /// Gives frames of the scratch RAM to the hypervisor; the answer is how many it took.
    BalloonOut { frame: u64, frames: u32 },
    /// Takes frames back; the answer is how many came.
    BalloonIn { frame: u64, frames: u32 },
    /// Has the server change an interrupt line; the answer is what came of it.
    Line(Line),
    /// Waits until an interrupt has come at this vector, at most so many moments; the answer is how many have.
    Arrived { vector: u8, moments: u32 },
    /// Ends the interrupt in service at the local APIC; the answer is 0.
    EndOfInterrupt,
    /// Lets the 8259s interrupt this CPU, or not; the answer is 0.
    ExtInt { on: bool },
    /// A read of a register of the I/O APIC; the answer is the value.
    IoapicRead { register: u8 },
    /// A write of it; the answer is 0.
    IoapicWrite { register: u8, value: u32 },
    /// What a CPU does while others do the same.
    Together(Together),
}

/// Performs one access; `scratch` is the first of [`SCRATCH_FRAMES`] frames.
pub fn perform(platform: &mut impl Platform, scratch: Gfn, access: Access) -> u64 {
    let base = scratch.addr();
    match access {
        Access::In { port, width } => return platform.pio_read(port, width).into(),
        Access::Out { port, width, value } => platform.pio_write(port, width, value),
        Access::RepIn { port, width, ram, count, way } => {
            platform.rep_ins(port, width, base + ram, count, way)
        }
        Access::RepOut { port, width, ram, count, way } => {
            platform.rep_outs(port, width, base + ram, count, way)
        }
        Access::Load { gpa, width } => return platform.mmio_read(gpa, width),
        Access::Store { gpa, width, value } => platform.mmio_write(gpa, width, value),
        Access::RepLoad { gpa, width, ram, count, way } => {
            platform.rep_movs(gpa, base + ram, width, count, way)
        }
        Access::RepStore { gpa, width, ram, count, way } => {
            platform.rep_movs(base + ram, gpa, width, count, way)
        }
        Access::RepMove { from, to, width, count, way } => {
            platform.rep_movs(base + from, base + to, width, count, way)
        }
        Access::ConfigRead { device, reg, width } => {
            return crate::pci::Function { device, function: 0 }.read(platform, reg, width).into();
        }
        Access::ConfigWrite { device, reg, width, value } => {
            crate::pci::Function { device, function: 0 }.write(platform, reg, width, value);
        }
        Access::Fill { ram, bytes, first } => {
            for (at, n) in (base + ram..).zip(0..bytes) {
                // holes are part of the game: a store there is dropped
                let _dropped = platform.ram_write(at, &[first.wrapping_add(crate::words::lo8(n.into()))]);
            }
        }
        // an access of the CPU, not a copy: what is not RAM at the moment still answers
        Access::Peek { ram, width } => return platform.mmio_read(base + ram, width),
        Access::Poke { ram, width, value } => platform.mmio_write(base + ram, width, value),
        Access::Order { order, frame } => {
            platform.pio_write(ORDER, Width::B4, lo32(scratch.0 + frame) << 4 | order as u32);
            return platform.pio_read(ORDER, Width::B4).into();
        }
        Access::Digest { ram, bytes } => {
            return (base + ram..).zip(0..bytes).fold(crate::FNV_START, |hash, (at, _)| {
                let mut byte = [0xff];
                let _hole_reads_as_ones = platform.ram_read(at, &mut byte);
                crate::fnv1a(hash, byte[0])
            });
        }
        Access::AskForMsi => match platform.msi() {
            Some(message) => platform.pio_write(MSI, Width::B4, message.data),
            None => return u64::MAX,
        },
        Access::Interrupts { moments } => {
            return come(platform, moments, |p| p.take_interrupts()).into();
        }
        Access::Scratch => return base,
        Access::BalloonOut { frame, frames } => {
            return balloon(scratch, frame, frames, |l| platform.decrease_reservation(l));
        }
        Access::BalloonIn { frame, frames } => {
            return balloon(scratch, frame, frames, |l| platform.populate_physmap(l));
        }
        Access::Line(line) => {
            platform.pio_write(LINE, Width::B4, line.word());
            return platform.pio_read(LINE, Width::B4).into();
        }
        Access::Arrived { vector, moments } => return come(platform, moments, |p| p.arrived(vector)).into(),
        Access::EndOfInterrupt => platform.end_of_interrupt(),
        Access::ExtInt { on } => platform.set_extint(on),
        Access::IoapicRead { register } => {
            platform.mmio_write(IOAPIC, Width::B4, register.into());
            return platform.mmio_read(IOAPIC + IOAPIC_WINDOW, Width::B4);
        }
        Access::IoapicWrite { register, value } => {
            platform.mmio_write(IOAPIC, Width::B4, register.into());
            platform.mmio_write(IOAPIC + IOAPIC_WINDOW, Width::B4, value.into());
        }
        Access::Together(what) => return together::perform(platform, base, what),
    }
    0
}

/// Waits until something has come, at most so many moments; how many.
fn come<P: Platform>(platform: &mut P, moments: u32, mut take: impl FnMut(&mut P) -> u32) -> u32 {
    let mut came = take(platform);
    for _ in 0..moments {
        if came > 0 {
            break;
        }
        platform.wait();
        came = take(platform);
    }
    came
}

fn balloon(scratch: Gfn, frame: u64, frames: u32, mut f: impl FnMut(&[Gfn]) -> usize) -> u64 {
    let mut list = [Gfn(0); SCRATCH_FRAMES];
    let count = (frames as usize).min(list.len());
    for (n, gfn) in (0..).zip(list.iter_mut()) {
        *gfn = Gfn(scratch.0 + frame + n);
    }
    f(&list[..count]) as u64
}
