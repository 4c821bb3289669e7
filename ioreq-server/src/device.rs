//! What a device is to this crate: something that offers one or more kinds of access.
//!
//! A device is a small trait whose methods hand out capabilities; the bus asks once, when a range is mapped. Devices are
//! shared by threads (`&self`), so each chooses its own locking. What an error looks like to the guest is the
//! guest's policy, never the device's business.

use std::fmt;

use xen_ioreq::VcpuId;

use crate::outcome::Outcome;

/// Width of one access.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Width {
    /// 1 byte
    Byte = 1,
    /// 2 bytes
    Word = 2,
    /// 4 bytes
    Dword = 4,
    /// 8 bytes
    Qword = 8,
}

impl Width {
    /// From a number of bytes, if it is one that a CPU can access at once.
    pub const fn from_bytes(bytes: u32) -> Option<Self> {
        match bytes {
            1 => Some(Self::Byte),
            2 => Some(Self::Word),
            4 => Some(Self::Dword),
            8 => Some(Self::Qword),
            _ => None,
        }
    }

    /// In bytes.
    pub const fn bytes(self) -> u32 {
        self as u32
    }

    /// The bits of a value of this width; also what all-ones reads as.
    pub const fn mask(self) -> u64 {
        u64::MAX >> (64 - 8 * self.bytes())
    }
}

/// An address space in which a server claims ranges.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Space {
    /// I/O ports.
    Pio,
    /// Guest physical memory, in bytes.
    Mmio,
    /// PCI functions, by [`Sbdf`](crate::pci::Sbdf) code.
    Pci,
}

impl fmt::Display for Space {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pio => "ports",
            Self::Mmio => "memory",
            Self::Pci => "PCI",
        })
    }
}

/// What a device calls one of its ranges, such as a BAR's index. It comes back with each access, so that a device
/// need not know where its range is at the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Region(pub u32);

/// Where an access goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Which range of the device.
    pub region: Region,
    /// Byte offset in that range. For PCI, the register.
    pub offset: u64,
    /// Width; the whole access is inside the range.
    pub width: Width,
    /// The vCPU that waits for the answer, or `None` where nobody does (the buffered ring).
    pub vcpu: Option<VcpuId>,
}

/// Something that answers guest accesses.
pub trait Device: Send + Sync {
    /// For messages.
    fn name(&self) -> &str;
    /// Offered by a device with I/O ports.
    fn supports_pio(&self) -> Option<&dyn PioDevice> {
        None
    }
    /// Offered by a device with memory-mapped registers.
    fn supports_mmio(&self) -> Option<&dyn MmioDevice> {
        None
    }
    /// Offered by a PCI function.
    fn supports_pci(&self) -> Option<&dyn PciConfigDevice> {
        None
    }
}

/// Accesses to I/O ports, 1, 2 or 4 bytes wide.
pub trait PioDevice: Send + Sync {
    /// Reads; bits beyond the width are dropped.
    fn pio_read(&self, access: &Access) -> Outcome<u64>;
    /// Writes; `value` has no bits beyond the width.
    fn pio_write(&self, access: &Access, value: u64) -> Outcome<()>;
}

/// Accesses to memory-mapped registers, 1, 2, 4 or 8 bytes wide, not necessarily aligned.
pub trait MmioDevice: Send + Sync {
    /// Reads; bits beyond the width are dropped.
    fn mmio_read(&self, access: &Access) -> Outcome<u64>;
    /// Writes; `value` has no bits beyond the width.
    fn mmio_write(&self, access: &Access, value: u64) -> Outcome<()>;
}

/// Accesses to PCI configuration space, 1, 2 or 4 bytes wide. [`Access::offset`] is any 32-bit number that the guest
/// chose.
pub trait PciConfigDevice: Send + Sync {
    /// Reads; bits beyond the width are dropped.
    fn config_read(&self, access: &Access) -> Outcome<u64>;
    /// Writes; `value` has no bits beyond the width.
    fn config_write(&self, access: &Access, value: u64) -> Outcome<()>;
}
