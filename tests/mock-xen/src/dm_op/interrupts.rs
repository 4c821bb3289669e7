//! Interrupt lines, MSIs and injected events, as calls.

use xen_ioreq::Errno;
use xen_ioreq::abi::dm_op::{
    xen_dm_op_inject_event, xen_dm_op_set_isa_irq_level, xen_dm_op_set_pci_intx_level,
    xen_dm_op_set_pci_link_route,
};

use super::{Call, must};
use crate::irq::Message;

/// An event that a device model has injected into a vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InjectedEvent {
    /// Vector.
    pub vector: u8,
    /// `XEN_DMOP_EVENT_*`
    pub kind: u8,
    /// Length of the instruction, for software interrupts.
    pub insn_len: u8,
    /// Error code; all-ones for none.
    pub error_code: u32,
    /// CR2, or pending debug bits.
    pub cr2: u64,
}

impl Call<'_> {
    pub(super) fn intx(&self, data: &xen_dm_op_set_pci_intx_level) -> Result<(), Errno> {
        must(data.domain == 0 && data.bus == 0 && data.device < 32 && data.intx < 4 && data.level < 2)?;
        self.domain.change_lines(None, |lines| {
            if let Some(pin) = lines.intx.get_mut(usize::from(data.intx)) {
                *pin = *pin & !(1 << data.device) | u32::from(data.level) << data.device;
            }
        })
    }

    pub(super) fn isa(&self, data: &xen_dm_op_set_isa_irq_level) -> Result<(), Errno> {
        must(data.isa_irq < 16 && data.level < 2)?;
        self.domain.change_lines(Some(data.isa_irq), |lines| {
            lines.isa = lines.isa & !(1 << data.isa_irq) | u16::from(data.level) << data.isa_irq;
        })
    }

    pub(super) fn link(&self, data: &xen_dm_op_set_pci_link_route) -> Result<(), Errno> {
        must(data.isa_irq < 16 && data.link < 4)?;
        self.domain.change_lines(None, |lines| {
            if let Some(route) = lines.link_route.get_mut(usize::from(data.link)) {
                *route = data.isa_irq;
            }
        })
    }

    /// Delivers a message-signalled interrupt: fixed or lowest-priority, physical destination; the APIC id of a vCPU
    /// is twice its number. That of a vCPU which has never run is off and takes nothing.
    pub(super) fn msi(&self, addr: u64, data: u32) -> Result<(), Errno> {
        let [vector, mode, ..] = data.to_le_bytes();
        let destination = addr >> 12 & 0xff;
        if vector == 0 {
            // An event channel of the guest's, by the number in the address. No guest here has bound one, so nobody hears.
            let pirq = addr >> 32 & 0xffff_ff00 | destination;
            return if pirq == 0 { Err(Errno::ERANGE) } else { Ok(()) };
        }
        must(mode & 7 < 2)?;
        let lowest_priority = mode & 7 == 1;
        let [destination, ..] = destination.to_le_bytes();
        let message = Message { vector, destination, lowest_priority, level: mode & 0x80 != 0 };
        let reached = self.domain.message(message);
        if lowest_priority && reached == 0 { Err(Errno::ESRCH) } else { Ok(()) }
    }

    pub(super) fn inject_event(&self, data: &xen_dm_op_inject_event) -> Result<(), Errno> {
        must(data.pad0 == 0 && data.pad1 == 0)?;
        let index = usize::try_from(data.vcpuid).map_err(|_| Errno::EINVAL)?;
        let vcpu = self.domain.vcpus.get(index).ok_or(Errno::EINVAL)?;
        let event = InjectedEvent {
            vector: data.vector,
            kind: data.r#type,
            insn_len: data.insn_len,
            error_code: data.error_code,
            cr2: data.cr2,
        };
        if vcpu.inject(event) { Ok(()) } else { Err(Errno::EBUSY) }
    }
}
