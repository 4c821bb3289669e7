//! Interrupt lines, MSIs and injected events.

use xen_ioreq::Errno;
use xen_ioreq::abi::dm_op::{
    xen_dm_op_inject_event, xen_dm_op_set_isa_irq_level, xen_dm_op_set_pci_intx_level,
    xen_dm_op_set_pci_link_route,
};

use super::{Call, must};

/// Levels of a domain's interrupt lines, as device models have set them.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct InterruptLines {
    /// By PCI pin, INTA first: one bit for each device of bus 0.
    pub intx: [u32; 4],
    /// One bit for each ISA line.
    pub isa: u16,
    /// By PCI link: the ISA line that it is routed to, 0 for none.
    pub link_route: [u8; 4],
}

impl InterruptLines {
    /// Whether anybody asserts that global interrupt: ISA lines are the first 16 (line 0 is number 2, as on a PC), pins of
    /// PCI devices those from 16 on, and, where their link is routed there, ISA lines too.
    pub fn asserted(&self, gsi: u32) -> bool {
        let pins = || {
            (0u32..4).zip(self.intx).flat_map(|(pin, devices)| {
                (0u32..32).filter(move |d| devices & 1 << d != 0).map(move |d| (d, pin))
            })
        };
        let isa = match gsi {
            0 => false,
            2 => self.isa & (1 << 0 | 1 << 2) != 0,
            n => n < 16 && self.isa & 1 << n != 0,
        };
        let routed = |(device, pin): (u32, u32)| {
            let link = usize::try_from((device + pin) & 3).unwrap_or(0);
            self.link_route.get(link).is_some_and(|to| *to != 0 && u32::from(*to) == gsi)
        };
        isa || pins().any(routed) || pins().any(|(d, pin)| (((d << 2) + (d >> 3) + pin) & 31) + 16 == gsi)
    }
}

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
        let mut lines = self.domain.lines.lock();
        if let Some(pin) = lines.intx.get_mut(usize::from(data.intx)) {
            *pin = *pin & !(1 << data.device) | u32::from(data.level) << data.device;
        }
        Ok(())
    }

    pub(super) fn isa(&self, data: &xen_dm_op_set_isa_irq_level) -> Result<(), Errno> {
        must(data.isa_irq < 16 && data.level < 2)?;
        let mut lines = self.domain.lines.lock();
        lines.isa = lines.isa & !(1 << data.isa_irq) | u16::from(data.level) << data.isa_irq;
        Ok(())
    }

    pub(super) fn link(&self, data: &xen_dm_op_set_pci_link_route) -> Result<(), Errno> {
        must(data.isa_irq < 16)?;
        let mut lines = self.domain.lines.lock();
        *lines.link_route.get_mut(usize::from(data.link)).ok_or(Errno::EINVAL)? = data.isa_irq;
        Ok(())
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
        let matches = |id: u32| destination == 0xff || destination == u64::from(id) * 2;
        let mut targets = self.domain.vcpus.iter().filter(|v| v.has_run() && matches(v.id.0)).peekable();
        if lowest_priority && targets.peek().is_none() {
            return Err(Errno::ESRCH);
        }
        // A local APIC drops vectors below 16.
        let wanted = if lowest_priority { 1 } else { usize::MAX };
        targets.take(wanted).filter(|_| vector >= 16).for_each(|v| v.interrupt(vector));
        Ok(())
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
