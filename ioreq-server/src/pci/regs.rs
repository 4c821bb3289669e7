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
/// Status: the function wants to drive INTx, whether it may or not.
pub const STATUS_INTERRUPT: u16 = 1 << 3;
/// Status: there is a capability list.
pub const STATUS_CAP_LIST: u16 = 1 << 4;
/// Status: a parity error met the function as a master.
pub const STATUS_MASTER_PARITY: u16 = 1 << 8;
/// Status: the function has ended an access as a target.
pub const STATUS_SIGNALLED_TARGET_ABORT: u16 = 1 << 11;
/// Status: a target has ended an access of the function's.
pub const STATUS_RECEIVED_TARGET_ABORT: u16 = 1 << 12;
/// Status: nobody has answered an access of the function's.
pub const STATUS_RECEIVED_MASTER_ABORT: u16 = 1 << 13;
/// Status: the function has driven SERR#.
pub const STATUS_SIGNALLED_SYSTEM_ERROR: u16 = 1 << 14;
/// Status: the function has met a parity error.
pub const STATUS_PARITY: u16 = 1 << 15;
/// Status: the bits that a guest clears by writing 1.
pub const STATUS_CLEARABLE: u16 = STATUS_MASTER_PARITY
    | STATUS_SIGNALLED_TARGET_ABORT
    | STATUS_RECEIVED_TARGET_ABORT
    | STATUS_RECEIVED_MASTER_ABORT
    | STATUS_SIGNALLED_SYSTEM_ERROR
    | STATUS_PARITY;

/// Header type: the device has further functions.
pub const HEADER_MULTIFUNCTION: u8 = 1 << 7;

/// Capability: power management.
pub const CAP_ID_PM: u8 = 0x01;
/// Capability: message signalled interrupts.
pub const CAP_ID_MSI: u8 = 0x05;
/// Capability: of the vendor's own.
pub const CAP_ID_VENDOR: u8 = 0x09;
/// Capability: message signalled interrupts with a table of messages.
pub const CAP_ID_MSIX: u8 = 0x11;

/// PM: capabilities, 16 bits, from the start of the capability.
pub const PM_CAPABILITIES: u16 = 2;
/// PM: control and status, 16 bits.
pub const PM_CONTROL: u16 = 4;
/// PM: length of the capability.
pub const PM_LENGTH: u16 = 8;
/// PM capabilities: version 1.2 of the specification.
pub const PM_CAP_VERSION_3: u16 = 3;
/// PM capabilities: there is a state D1.
pub const PM_CAP_D1: u16 = 1 << 9;
/// PM capabilities: there is a state D2.
pub const PM_CAP_D2: u16 = 1 << 10;
/// PM capabilities: PME# can be signalled from D0; D1, D2, D3hot and D3cold follow.
pub const PM_CAP_PME_D0: u16 = 1 << 11;
/// PM capabilities: PME# can be signalled from D3hot.
pub const PM_CAP_PME_D3_HOT: u16 = 1 << 14;
/// PM control: power state, 0 is D0, 3 is D3hot.
pub const PM_STATE_MASK: u16 = 3;
/// PM control: going from D3hot to D0 does not reset the function.
pub const PM_NO_SOFT_RESET: u16 = 1 << 3;
/// PM control: the function may signal PME#.
pub const PM_PME_ENABLE: u16 = 1 << 8;
/// PM control: the function signals PME#, or would if it might; cleared by writing 1.
pub const PM_PME_STATUS: u16 = 1 << 15;

/// MSI: message control, 16 bits, from the start of the capability.
pub const MSI_CONTROL: u16 = 2;
/// MSI: message address, 32 bits.
pub const MSI_ADDRESS: u16 = 4;
/// MSI: upper half of the message address, in the 64-bit form.
pub const MSI_ADDRESS_HIGH: u16 = 8;
/// MSI: message data, 16 bits, in the 32-bit form.
pub const MSI_DATA_32: u16 = 8;
/// MSI: message data, 16 bits, in the 64-bit form.
pub const MSI_DATA_64: u16 = 12;
/// MSI: length of the capability in its 32-bit form without masking.
pub const MSI_LENGTH_32: u16 = 10;
/// MSI: length of the capability in its 64-bit form without masking.
pub const MSI_LENGTH_64: u16 = 14;
/// MSI control: enabled.
pub const MSI_ENABLE: u16 = 1 << 0;
/// MSI control: how many messages the function has, as a power of two.
pub const MSI_CAPABLE_SHIFT: u16 = 1;
/// MSI control: how many of them the guest allows, as a power of two.
pub const MSI_ALLOWED_SHIFT: u16 = 4;
/// MSI control: three bits of either.
pub const MSI_COUNT_MASK: u16 = 7;
/// MSI control: addresses have 64 bits.
pub const MSI_64: u16 = 1 << 7;

/// MSI-X: message control, 16 bits, from the start of the capability.
pub const MSIX_CONTROL: u16 = 2;
/// MSI-X: where the table is, 32 bits: BAR in the lowest three, offset in the others.
pub const MSIX_TABLE: u16 = 4;
/// MSI-X: where the pending bits are, likewise.
pub const MSIX_PBA: u16 = 8;
/// MSI-X: length of the capability.
pub const MSIX_LENGTH: u16 = 12;
/// MSI-X control: number of messages less one.
pub const MSIX_SIZE_MASK: u16 = 0x7ff;
/// MSI-X control: every message is masked.
pub const MSIX_MASK_ALL: u16 = 1 << 14;
/// MSI-X control: enabled.
pub const MSIX_ENABLE: u16 = 1 << 15;
/// MSI-X: bytes of a table entry: address, 64 bits, data, 32, control, 32.
pub const MSIX_ENTRY: u64 = 16;
/// MSI-X, an entry's control: masked.
pub const MSIX_ENTRY_MASKED: u32 = 1 << 0;
