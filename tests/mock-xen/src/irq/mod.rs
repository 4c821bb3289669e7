//! Interrupt lines of a domain, and the controllers that an HVM guest has behind them: an I/O APIC and two 8259s.
//!
//! A PVH guest has lines but no controllers. What is modelled is what a guest sees of fixed and lowest-priority interrupts with
//! physical destinations, and of 8259s without rotation, polling and special masks; as Xen's `irq.c` does it. Whether a
//! processor takes what arrives is the vCPU's affair.

mod ioapic;
mod pic;
#[cfg(test)]
mod tests;

use xen_ioreq::Errno;
use xen_ioreq::abi::ioreq::{IOREQ_TYPE_COPY, IOREQ_TYPE_PIO};

use self::ioapic::{IoApic, PINS};
use self::pic::Pics;
use crate::domain::Domain;
use crate::ioreq::request::Request;
use crate::vcpu::VcpuState;

/// The input at which the second 8259 sits. No line reaches it.
const CASCADE: u8 = 2;

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

/// An interrupt on its way to local APICs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) vector: u8,
    /// An APIC's number, or 0xff for all.
    pub(crate) destination: u8,
    /// To one of those that match.
    pub(crate) lowest_priority: bool,
    /// Its end is to be told to the I/O APIC.
    pub(crate) level: bool,
}

/// The controllers.
#[derive(Debug, Default)]
pub(crate) struct Chips {
    ioapic: IoApic,
    pics: Pics,
}

/// Lines and what is behind them.
#[derive(Debug, Default)]
pub(crate) struct Interrupts {
    pub(crate) lines: InterruptLines,
    chips: Option<Chips>,
}

impl Interrupts {
    /// With controllers, or without.
    pub(crate) fn new(controllers: bool) -> Self {
        Self { lines: InterruptLines::default(), chips: controllers.then(Chips::default) }
    }

    /// Changes lines. `isa` is the ISA line, if it is about one: line 0 is number 2 of the I/O APIC and 0 of the 8259.
    ///
    /// ENODEV, and nothing has changed: there are no controllers, and an 8259 would hear of a line that rises. Xen 4.17 does not
    /// survive that: it takes the 8259s of such a domain, which nobody has set up, for cascaded ones, and looks for the
    /// one above them below the start of the array.
    fn change(
        &mut self,
        isa: Option<u8>,
        f: impl FnOnce(&mut InterruptLines),
    ) -> Result<Vec<Message>, Errno> {
        let before = self.lines;
        let mut after = before;
        f(&mut after);
        let rises = |gsi: u8| after.asserted(gsi.into()) && !before.asserted(gsi.into());
        let falls = |gsi: u8| before.asserted(gsi.into()) && !after.asserted(gsi.into());
        let input = |gsi: u8| isa.unwrap_or(gsi);
        let Some(chips) = &mut self.chips else {
            let heard = (0..16).any(|gsi| rises(gsi) && input(gsi) != CASCADE);
            if heard {
                return Err(Errno::ENODEV);
            }
            self.lines = after;
            return Ok(Vec::new());
        };
        self.lines = after;
        let mut sent = Vec::new();
        for gsi in 0..PINS {
            if rises(gsi) {
                sent.extend(chips.ioapic.rise(gsi));
                if gsi < 16 {
                    chips.pics.rise(input(gsi));
                }
            } else if falls(gsi) && gsi < 16 {
                chips.pics.fall(input(gsi));
            }
        }
        Ok(sent)
    }
}

impl Domain {
    /// Changes interrupt lines, see [`Interrupts::change`].
    pub(crate) fn change_lines(
        &self,
        isa: Option<u8>,
        f: impl FnOnce(&mut InterruptLines),
    ) -> Result<(), Errno> {
        let sent = self.interrupts.lock().change(isa, f)?;
        self.send(sent);
        self.look();
        Ok(())
    }

    /// The 8259s have no message: who is wired to them looks.
    fn look(&self) {
        self.vcpus.iter().for_each(|v| v.wake.notify());
    }

    /// A vCPU has come to the end of a level-triggered interrupt.
    pub(crate) fn end_of_interrupt(&self, vector: u8) {
        let sent = {
            let mut here = self.interrupts.lock();
            let Interrupts { lines, chips: Some(chips) } = &mut *here else { return };
            chips.ioapic.end(vector, lines)
        };
        self.send(sent);
    }

    fn send(&self, messages: impl IntoIterator<Item = Message>) {
        for message in messages {
            self.message(message);
        }
    }

    /// Brings an interrupt to the local APICs that it names; how many that were. That of a vCPU which has never run is off.
    pub(crate) fn message(&self, m: Message) -> usize {
        let matches = |v: &VcpuState| m.destination == 0xff || u32::from(m.destination) == v.apic();
        let targets = self.vcpus.iter().filter(|v| v.has_run() && matches(v));
        let wanted = if m.lowest_priority { 1 } else { usize::MAX };
        targets.take(wanted).inspect(|v| v.interrupt(m.vector, m.level)).count()
    }

    /// The interrupt that the 8259s have for this vCPU, taken from them.
    pub(crate) fn legacy_interrupt(&self, vcpu: &VcpuState) -> Option<u8> {
        let mut here = self.interrupts.lock();
        let chips = here.chips.as_mut()?;
        let wired = self.vcpus.iter().find(|v| v.is_wired() || chips.ioapic.passes_legacy_to(v.apic()))?;
        if wired.id == vcpu.id { chips.pics.acknowledge() } else { None }
    }

    /// Whether this access is one to a controller, and what it reads. Strings are not looked at.
    pub(crate) fn controller_access(&self, r: &Request) -> Option<u64> {
        if r.data_is_ptr || r.count != 1 {
            return None;
        }
        let mut here = self.interrupts.lock();
        let Interrupts { lines, chips: Some(chips) } = &mut *here else { return None };
        let last = r.addr.checked_add(u64::from(r.size).checked_sub(1)?)?;
        let mut sent = None;
        let read = match r.ty {
            IOREQ_TYPE_COPY if ioapic::BYTES.contains(&r.addr) && ioapic::BYTES.contains(&last) => {
                let register = r.addr - ioapic::BYTES.start;
                if r.read {
                    chips.ioapic.read(register)
                } else {
                    let [a, b, c, d, ..] = r.data.to_le_bytes();
                    sent = chips.ioapic.write(register, u32::from_le_bytes([a, b, c, d]), lines);
                    0
                }
            }
            IOREQ_TYPE_PIO => {
                let (port, last) = (u16::try_from(r.addr).ok()?, u16::try_from(last).ok()?);
                let [value, ..] = r.data.to_le_bytes();
                chips.pics.access(port, last, (!r.read).then_some(value))?
            }
            _ => return None,
        };
        drop(here);
        self.send(sent);
        if !r.read {
            self.look();
        }
        Some(read.into())
    }
}
