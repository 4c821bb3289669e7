//! Base address registers: what a function has, and where the guest has put it.

use super::config::ConfigError;
use crate::device::Space;

/// A base address register, as a function declares it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bar {
    pub(super) kind: Kind,
    pub(super) size: u64,
    pub(super) prefetchable: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Io,
    Mem32,
    Mem64,
}

impl Bar {
    /// `size` I/O ports: a power of two, 4 to 256.
    pub const fn io(size: u64) -> Self {
        Self { kind: Kind::Io, size, prefetchable: false }
    }

    /// `size` bytes below 4 GiB: a power of two, 16 or more.
    pub const fn mem32(size: u64) -> Self {
        Self { kind: Kind::Mem32, size, prefetchable: false }
    }

    /// `size` bytes anywhere: a power of two, 16 or more. Takes two registers.
    pub const fn mem64(size: u64) -> Self {
        Self { kind: Kind::Mem64, size, prefetchable: false }
    }

    /// Reads have no side effects.
    pub const fn prefetchable(self) -> Self {
        Self { prefetchable: true, ..self }
    }

    pub(super) fn check(&self, index: u8) -> Result<(), ConfigError> {
        let (min, max) = match self.kind {
            Kind::Io => (4, 256),
            Kind::Mem32 => (16, 1 << 31),
            Kind::Mem64 => (16, 1 << 62),
        };
        let good = self.size.is_power_of_two() && (min..=max).contains(&self.size);
        if good { Ok(()) } else { Err(ConfigError::BarSize { index, size: self.size }) }
    }

    /// The bits below the address that say what it is.
    pub(super) fn flags(&self) -> u32 {
        let kind = match self.kind {
            Kind::Io => 1,
            Kind::Mem32 => 0,
            Kind::Mem64 => 0b100,
        };
        kind | if self.prefetchable { 0b1000 } else { 0 }
    }

    /// The address bits that a guest can write; the others read as 0, which is how it learns the size.
    pub(super) fn address_mask(&self) -> u64 {
        let mask = !(self.size - 1);
        if self.kind == Kind::Mem64 { mask } else { mask & 0xffff_ffff }
    }

    /// Where the range is that the registers say, or `None` where it cannot be meant: at 0 it was never placed, and one
    /// that ends with the address space is being sized. (So does QEMU.)
    pub(super) fn place(&self, index: u8, registers: u64) -> Option<Placement> {
        let start = registers & self.address_mask();
        let last = start.checked_add(self.size - 1)?;
        let (space, end) = match self.kind {
            Kind::Io => (Space::Pio, 0xffff),
            Kind::Mem32 => (Space::Mmio, 0xffff_fffe),
            Kind::Mem64 => (Space::Mmio, u64::MAX - 1),
        };
        (start != 0 && last <= end).then_some(Placement { index, space, start, last })
    }
}

/// Where a BAR is decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Which BAR.
    pub index: u8,
    /// Ports or memory.
    pub space: Space,
    /// First port or byte.
    pub start: u64,
    /// Last one, inclusive.
    pub last: u64,
}
