//! Registers of a type 0 header and of the capabilities, as the PCI Local Bus Specification 3.0 and the PCI Power
//! Management Interface Specification 1.2 number them. Byte offsets.

/// Vendor, 16 bits.
pub const VENDOR_ID: u16 = 0x00;
/// Device, 16 bits.
pub const DEVICE_ID: u16 = 0x02;
/// Command, 16 bits.
pub const COMMAND: u16 = 0x04;
/// Status, 16 bits.
pub const STATUS: u16 = 0x06;
/// Revision, 8 bits; the class code follows.
pub const REVISION_ID: u16 = 0x08;
/// Programming interface, 8 bits.
pub const PROG_IF: u16 = 0x09;
/// Subclass, 8 bits.
pub const SUBCLASS: u16 = 0x0a;
/// Base class, 8 bits.
pub const BASE_CLASS: u16 = 0x0b;
/// Cache line size, 8 bits.
pub const CACHE_LINE_SIZE: u16 = 0x0c;
/// Latency timer, 8 bits.
pub const LATENCY_TIMER: u16 = 0x0d;
/// Header type, 8 bits.
pub const HEADER_TYPE: u16 = 0x0e;
/// First of six base address registers, 32 bits each.
pub const BAR0: u16 = 0x10;
/// Subsystem vendor, 16 bits.
pub const SUBSYSTEM_VENDOR_ID: u16 = 0x2c;
/// Subsystem, 16 bits.
pub const SUBSYSTEM_ID: u16 = 0x2e;
/// First capability, 8 bits.
pub const CAPABILITY_LIST: u16 = 0x34;
/// Interrupt line, 8 bits, for the guest's own use.
pub const INTERRUPT_LINE: u16 = 0x3c;
/// Interrupt pin, 8 bits: 0 none, 1 INTA.
pub const INTERRUPT_PIN: u16 = 0x3d;
/// First byte after the header.
pub const HEADER_END: u16 = 0x40;
/// Size of the configuration space of a conventional function.
pub const CONFIG_SIZE: u16 = 0x100;

/// Command: answers to I/O ports.
pub const COMMAND_IO: u16 = 1 << 0;
/// Command: answers to memory.
pub const COMMAND_MEMORY: u16 = 1 << 1;
/// Command: may write to memory itself, which is also what an MSI is.
pub const COMMAND_MASTER: u16 = 1 << 2;
/// Command: reports parity errors.
pub const COMMAND_PARITY: u16 = 1 << 6;
/// Command: drives SERR#.
pub const COMMAND_SERR: u16 = 1 << 8;
/// Command: does not drive INTx.
pub const COMMAND_INTX_DISABLE: u16 = 1 << 10;
/// Status: there is a capability list.
pub const STATUS_CAP_LIST: u16 = 1 << 4;

/// Capability: power management.
pub const CAP_ID_PM: u8 = 0x01;
/// Capability: message signalled interrupts.
pub const CAP_ID_MSI: u8 = 0x05;

/// PM: capabilities, 16 bits, from the start of the capability.
pub const PM_CAPABILITIES: u16 = 2;
/// PM: control and status, 16 bits.
pub const PM_CONTROL: u16 = 4;
/// PM: length of the capability.
pub const PM_LENGTH: u16 = 8;
/// PM capabilities: version 1.2 of the specification.
pub const PM_CAP_VERSION_3: u16 = 3;
/// PM control: power state, 0 is D0, 3 is D3hot.
pub const PM_STATE_MASK: u16 = 3;
/// PM control: going from D3hot to D0 does not reset the function.
pub const PM_NO_SOFT_RESET: u16 = 1 << 3;

/// MSI: message control, 16 bits, from the start of the capability.
pub const MSI_CONTROL: u16 = 2;
/// MSI: message address, 32 bits.
pub const MSI_ADDRESS: u16 = 4;
/// MSI: message data, 16 bits, in the 32-bit form.
pub const MSI_DATA_32: u16 = 8;
/// MSI: length of the capability in its 32-bit form without masking.
pub const MSI_LENGTH_32: u16 = 10;
/// MSI control: enabled.
pub const MSI_ENABLE: u16 = 1 << 0;
