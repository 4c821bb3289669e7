//! Interrupts and events that a device model raises in its guest.

use xen_ioreq::abi::dm_op as abi;
use xen_ioreq::{Errno, VcpuId};

use super::{Dm, DmError, operation};
use crate::pci::Sbdf;

/// An interrupt pin of a PCI function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Pin {
    /// INTA#
    A = 0,
    /// INTB#
    B = 1,
    /// INTC#
    C = 2,
    /// INTD#
    D = 3,
}

/// An interrupt line of the ISA bus, 0 to 15.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IsaIrq(u8);

impl IsaIrq {
    /// Line `n`, if there is one.
    pub const fn new(n: u8) -> Option<Self> {
        if n < 16 { Some(Self(n)) } else { None }
    }

    /// Its number.
    pub const fn number(self) -> u8 {
        self.0
    }
}

/// A link of the PCI interrupt router (PIRQA# to PIRQD#), 0 to 3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PciLink(u8);

impl PciLink {
    /// Link `n`, if there is one.
    pub const fn new(n: u8) -> Option<Self> {
        if n < 4 { Some(Self(n)) } else { None }
    }

    /// Its number.
    pub const fn number(self) -> u8 {
        self.0
    }

    /// The link that Xen wires a pin of a device on bus 0 to: they rotate from device to device.
    pub const fn of(device: u8, pin: Pin) -> Self {
        Self(((device & 3) + pin as u8) & 3)
    }
}

/// What is injected into a vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// An interrupt of this vector, as if from outside.
    External {
        /// Vector.
        vector: u8,
    },
    /// A non-maskable interrupt.
    Nmi,
    /// An exception of the processor's.
    Exception {
        /// Vector, 0 to 31.
        vector: u8,
        /// Error code, for those that have one.
        error_code: Option<u32>,
        /// CR2 for a page fault (14), pending debug bits for #DB (1); otherwise 0.
        address: u64,
    },
    /// `int n`, an instruction of `length` bytes.
    Software {
        /// Vector.
        vector: u8,
        /// Bytes of the instruction.
        length: u8,
    },
    /// `int3` (vector 3) or `into` (4), an instruction of `length` bytes.
    SoftwareException {
        /// Vector.
        vector: u8,
        /// Bytes of the instruction.
        length: u8,
    },
    /// `icebp`: a #DB by an instruction.
    Icebp,
}

/// Vector of the NMI.
const NMI: u8 = 2;
/// Vector of #DB, which `icebp` raises.
const DEBUG: u8 = 1;
/// Instead of an error code: there is none (`X86_EVENT_NO_EC`).
const NO_ERROR_CODE: u32 = !0;

/// An interrupt that can be raised without knowing more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interrupt {
    /// A message: see [`Dm::inject_msi`].
    Msi {
        /// Address, as the guest programmed it.
        addr: u64,
        /// Data, as the guest programmed it.
        data: u32,
    },
    /// A function's pin, asserted: see [`Dm::set_pci_intx`].
    Pin {
        /// The function.
        sbdf: Sbdf,
        /// Its pin.
        pin: Pin,
    },
    /// An ISA line, asserted: see [`Dm::set_isa_irq`].
    Isa(IsaIrq),
}

impl Interrupt {
    /// The bytes of the `dm_op` that raises it.
    pub(crate) fn operation(self) -> abi::xen_dm_op {
        match self {
            Self::Msi { addr, data } => operation(abi::XEN_DMOP_inject_msi, msi(addr, data)),
            Self::Pin { sbdf, pin } => operation(abi::XEN_DMOP_set_pci_intx_level, intx(sbdf, pin, true)),
            Self::Isa(irq) => operation(abi::XEN_DMOP_set_isa_irq_level, isa(irq, true)),
        }
    }
}

fn msi(addr: u64, data: u32) -> abi::xen_dm_op_inject_msi {
    abi::xen_dm_op_inject_msi { data, addr, ..Default::default() }
}

fn intx(sbdf: Sbdf, pin: Pin, asserted: bool) -> abi::xen_dm_op_set_pci_intx_level {
    abi::xen_dm_op_set_pci_intx_level {
        domain: sbdf.segment(),
        bus: sbdf.bus(),
        device: sbdf.device(),
        intx: pin as u8,
        level: asserted.into(),
    }
}

fn isa(irq: IsaIrq, asserted: bool) -> abi::xen_dm_op_set_isa_irq_level {
    abi::xen_dm_op_set_isa_irq_level { isa_irq: irq.0, level: asserted.into() }
}

impl Dm {
    /// Raises an interrupt.
    pub fn raise(&self, interrupt: Interrupt) -> Result<(), DmError> {
        match interrupt {
            Interrupt::Msi { addr, data } => self.inject_msi(addr, data),
            Interrupt::Pin { sbdf, pin } => self.set_pci_intx(sbdf, pin, true),
            Interrupt::Isa(irq) => self.set_isa_irq(irq, true),
        }
    }

    /// Injects an MSI with the address and data that the guest programmed, unchanged: a guest that maps
    /// interrupts to event channels puts a vector 0 there (XENFEAT_hvm_pirqs). ERANGE: vector 0 and no event channel.
    /// EINVAL: a delivery mode that Xen does not carry out.
    pub fn inject_msi(&self, addr: u64, data: u32) -> Result<(), DmError> {
        self.call("inject_msi", abi::XEN_DMOP_inject_msi, msi(addr, data)).map(drop)
    }

    /// Sets the level of a function's interrupt pin; the number's function part plays no role, its device does. Saying the same
    /// again changes nothing. EINVAL: not on bus 0 of segment 0.
    ///
    /// Xen raises the guest's GSI of that pin, and the ISA line that its link is [routed](Self::set_pci_link_route) to.
    pub fn set_pci_intx(&self, sbdf: Sbdf, pin: Pin, asserted: bool) -> Result<(), DmError> {
        let payload = intx(sbdf, pin, asserted);
        self.call("set_pci_intx_level", abi::XEN_DMOP_set_pci_intx_level, payload).map(drop)
    }

    /// Sets the level of an ISA interrupt line. Saying the same again changes nothing.
    ///
    /// A PVH guest has no PIC: asserting a line of one has Xen 4.17 (built without assertions) write where there is none, and
    /// panic. The same may become of an INTx pin whose link is routed to an ISA line.
    pub fn set_isa_irq(&self, irq: IsaIrq, asserted: bool) -> Result<(), DmError> {
        self.call("set_isa_irq_level", abi::XEN_DMOP_set_isa_irq_level, isa(irq, asserted)).map(drop)
    }

    /// Routes a link to an ISA line, or to none; a line that is asserted moves along. EINVAL, without a call: line 0,
    /// which the interface takes for none.
    pub fn set_pci_link_route(&self, link: PciLink, to: Option<IsaIrq>) -> Result<(), DmError> {
        const OP: &str = "set_pci_link_route";
        let isa_irq = match to {
            None => 0,
            Some(IsaIrq(0)) => return Err(self.error(OP, Errno::EINVAL)),
            Some(IsaIrq(n)) => n,
        };
        let payload = abi::xen_dm_op_set_pci_link_route { link: link.0, isa_irq };
        self.call(OP, abi::XEN_DMOP_set_pci_link_route, payload).map(drop)
    }

    /// Injects an event into a vCPU, which meets it when it next runs. EINVAL: no such vCPU. EBUSY: it has not met the
    /// one before yet.
    ///
    /// What the processor would not take (an exception with an error code that has none, say) the guest pays for: at worst
    /// Xen crashes it.
    pub fn inject_event(&self, vcpu: VcpuId, event: Event) -> Result<(), DmError> {
        let (r#type, vector, insn_len) = match event {
            Event::External { vector } => (abi::XEN_DMOP_EVENT_ext_int, vector, 0),
            Event::Nmi => (abi::XEN_DMOP_EVENT_nmi, NMI, 0),
            Event::Exception { vector, .. } => (abi::XEN_DMOP_EVENT_hw_exc, vector, 0),
            Event::Software { vector, length } => (abi::XEN_DMOP_EVENT_sw_int, vector, length),
            Event::SoftwareException { vector, length } => (abi::XEN_DMOP_EVENT_sw_exc, vector, length),
            Event::Icebp => (abi::XEN_DMOP_EVENT_pri_sw_exc, DEBUG, 1),
        };
        let (error_code, cr2) = match event {
            Event::Exception { error_code, address, .. } => (error_code.unwrap_or(NO_ERROR_CODE), address),
            _ => (NO_ERROR_CODE, 0),
        };
        let payload = abi::xen_dm_op_inject_event {
            vcpuid: vcpu.0,
            vector,
            r#type,
            insn_len,
            pad0: 0,
            error_code,
            pad1: 0,
            cr2,
        };
        self.call("inject_event", abi::XEN_DMOP_inject_event, payload).map(drop)
    }
}
