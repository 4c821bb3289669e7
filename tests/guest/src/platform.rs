//! What the driver needs from whoever runs it: a virtual CPU's accesses, memory, hypercalls, interrupts.
//!
//! The model's vCPU threads and the PVH kernel implement [`Platform`]; everything above it is the same code.
//! Every method returns in bounded time; what nobody answers reads as all-ones.

use core::fmt;
use core::ops::Range;

use xen_ioreq::{DomId, Gfn, PAGE_SHIFT};

use crate::run::Report;

/// Width of one access.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Width {
    /// One byte.
    B1,
    /// Two bytes.
    B2,
    /// Four bytes.
    B4,
    /// Eight bytes; for memory only, a port has no such access.
    B8,
}

impl Width {
    /// In bytes.
    pub const fn bytes(self) -> u8 {
        match self {
            Self::B1 => 1,
            Self::B2 => 2,
            Self::B4 => 4,
            Self::B8 => 8,
        }
    }

    /// All bits of this width.
    pub const fn mask(self) -> u64 {
        match self {
            Self::B1 => 0xff,
            Self::B2 => 0xffff,
            Self::B4 => 0xffff_ffff,
            Self::B8 => u64::MAX,
        }
    }
}

/// Way of a string instruction: the direction flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Addresses grow (DF = 0).
    Up,
    /// Addresses fall (DF = 1). The address given is that of the first element moved, the highest.
    Down,
}

/// A run of guest frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RamRange {
    /// The first frame.
    pub first: Gfn,
    /// Length in frames.
    pub frames: u64,
}

/// What a device writes to raise an interrupt at this CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsiMessage {
    /// Address, `0xfee0_0000` and the APIC id in bits 19:12.
    pub address: u64,
    /// Data: the vector in bits 7:0.
    pub data: u32,
}

/// A guest-physical range that is not (wholly) RAM at the moment, e.g. ballooned out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RamFault {
    /// First byte of the refused range.
    pub gpa: u64,
}

impl fmt::Display for RamFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no RAM at {:#x}", self.gpa)
    }
}

/// One virtual CPU and its domain, as the driver sees them.
pub trait Platform {
    /// Number of the domain that this CPU belongs to.
    fn domid(&self) -> DomId;
    /// Frames of RAM that the driver may use as it likes, ballooning included. Must not change.
    fn ram(&self) -> &[RamRange];
    /// Guest-physical bytes in which the driver may place BARs: no RAM, nothing else decoded there.
    fn mmio_window(&self) -> Range<u64>;
    /// How a device interrupts this CPU; `None` makes the driver poll.
    fn msi(&self) -> Option<MsiMessage>;

    /// `in`: the result is zero-extended. `width` is at most [`Width::B4`].
    fn pio_read(&mut self, port: u16, width: Width) -> u32;
    /// `out`.
    fn pio_write(&mut self, port: u16, width: Width, value: u32);
    /// One load from guest-physical memory, be it a device's, RAM or a hole; the result is zero-extended.
    fn mmio_read(&mut self, gpa: u64, width: Width) -> u64;
    /// One store to guest-physical memory.
    fn mmio_write(&mut self, gpa: u64, width: Width, value: u64);

    /// `rep ins`: `count` elements from `port` to RAM at `ram`.
    fn rep_ins(&mut self, port: u16, width: Width, ram: u64, count: u32, way: Way);
    /// `rep outs`: `count` elements from RAM at `ram` to `port`.
    fn rep_outs(&mut self, port: u16, width: Width, ram: u64, count: u32, way: Way);
    /// `rep movs`: `count` elements from guest-physical `from` to `to`; one of them may be a device.
    fn rep_movs(&mut self, from: u64, to: u64, width: Width, count: u32, way: Way);

    /// Copies out of RAM.
    fn ram_read(&mut self, gpa: u64, out: &mut [u8]) -> Result<(), RamFault>;
    /// Copies into RAM; what was written is visible to a device that is told about it afterwards.
    fn ram_write(&mut self, gpa: u64, bytes: &[u8]) -> Result<(), RamFault>;

    /// `XENMEM_decrease_reservation`: how many of `gfns`, from the first on, were given back.
    fn decrease_reservation(&mut self, gfns: &[Gfn]) -> usize;
    /// `XENMEM_populate_physmap`: how many of `gfns`, from the first on, have RAM behind them again.
    fn populate_physmap(&mut self, gfns: &[Gfn]) -> usize;

    /// Waits for an interrupt, or for a moment (at most some 10 ms) where none comes.
    fn wait(&mut self);
    /// Takes the MSIs that have arrived since the last call: how many.
    fn take_interrupts(&mut self) -> u32;
    /// Number of this CPU in its domain.
    fn vcpu(&self) -> u32;
    /// Takes the interrupts that have come at a vector from 0x20 to 0x3f since the last call: how many. A local APIC keeps each
    /// in service until its [end](Self::end_of_interrupt).
    fn arrived(&mut self, vector: u8) -> u32;
    /// Writes the local APIC's EOI register.
    fn end_of_interrupt(&mut self);
    /// Wires the local APIC's LINT0 to the 8259s (ExtINT), or masks it.
    fn set_extint(&mut self, on: bool);
    /// Whether a run without a number of frames is to end.
    fn stop_requested(&self) -> bool {
        false
    }
    /// Called after every frame with the figures so far.
    fn progress(&mut self, _so_far: &Report) {}
    /// One line for the log.
    fn log(&mut self, line: fmt::Arguments<'_>);
}

/// The frame `index` frames into the platform's RAM, ranges joined in order.
pub(crate) fn nth_frame(ram: &[RamRange], mut index: u64) -> Option<Gfn> {
    for range in ram {
        if index < range.frames {
            return range.first.checked_add(index);
        }
        index -= range.frames;
    }
    None
}

/// Whether `gpa` lies in the platform's RAM.
pub fn is_ram(ram: &[RamRange], gpa: u64) -> bool {
    let gfn = gpa >> PAGE_SHIFT;
    ram.iter().any(|r| gfn.checked_sub(r.first.0).is_some_and(|d| d < r.frames))
}
