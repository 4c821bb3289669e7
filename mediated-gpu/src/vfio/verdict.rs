//! What a device may be used for, and why not for more.
//!
//! A use is allowed when nothing speaks against it; each reason says what is missing, so that an operator knows what to change.

use std::fmt;

use super::{Inspection, Iommu, IrqKind, VfioDevice, VfioError};
use crate::gen8::{gtt, ids};

/// What a device can be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// To look at it: its regions, config space, interrupts; to reset it.
    Probe,
    /// To run work of this host's own on it, in memory that the IOMMU lets it reach and no other.
    Work,
    /// To serve guests with it.
    Serve,
}

impl Use {
    /// All of them; each asks for more than the one before.
    pub const ALL: [Self; 3] = [Self::Probe, Self::Work, Self::Serve];
}

impl fmt::Display for Use {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Probe => "probe",
            Self::Work => "work",
            Self::Serve => "serve",
        })
    }
}

/// What is below this system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hypervisor {
    /// Not Xen, or this is no domain that may ask it.
    None,
    /// Xen without PV-IOMMU.
    Plain,
    /// Xen that gives bus addresses.
    PvIommu,
}

impl fmt::Display for Hypervisor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "no Xen that this system may ask",
            Self::Plain => "Xen without PV-IOMMU",
            Self::PvIommu => "Xen with PV-IOMMU",
        })
    }
}

/// Why a device may not be used so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// It cannot be opened.
    #[error("{0}")]
    Closed(String),
    /// It is something else.
    #[error("{vendor:04x}:{device:04x} is no GPU of Intel's gen8 (Broadwell)")]
    NotGen8 {
        /// Vendor number.
        vendor: u16,
        /// Device number.
        device: u16,
    },
    /// Its registers and its table are not where they must be.
    #[error("BAR0 has {size:#x} bytes, of which {mapped:#x} can be mapped: {} are needed", 2 * gtt::GTT_OFFSET)]
    Bar0 {
        /// Bytes.
        size: u64,
        /// Bytes that can be mapped.
        mapped: u64,
    },
    /// Nobody would be told that work is done.
    #[error("it has no MSI that can be sent to an eventfd")]
    NoMsi,
    /// A GPU that hangs could not be got back.
    #[error("it cannot be reset")]
    NoReset,
    /// It could reach all memory.
    #[error("no IOMMU keeps it from memory that is not its own")]
    NoIommu,
    /// There are no guests to serve.
    #[error("there is no Xen here whose guests could be served")]
    NoXen,
    /// Guests' frames have no bus addresses.
    #[error("this Xen has no PV-IOMMU, and nothing else gives a guest's frame a bus address that is safe")]
    NoPvIommu,
    /// This kernel would have to be told of each page, and knows none of guests'.
    #[error("this kernel's own IOMMU driver translates for it, and what Xen maps it does not see")]
    KernelIommu,
    /// The mediator's rings and contexts have no bus addresses.
    #[error("rings and contexts must be in memory whose frames are known, and there is none: {0}")]
    NoOwnMemory(String),
}

/// What of a device decides how it may be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Vendor number.
    pub vendor: u16,
    /// Device number.
    pub device: u16,
    /// Who translates its addresses; or why it could not be opened.
    pub opened: Result<Iommu, String>,
    /// Bytes of BAR0, and how many of them can be mapped.
    pub bar0: (u64, u64),
    /// MSIs that can be sent to an eventfd.
    pub messages: u32,
    /// Whether it can be reset.
    pub can_reset: bool,
    /// What is below.
    pub hypervisor: Hypervisor,
    /// Why there is no memory of this domain's own whose frames are known, if that is so.
    pub own_memory: Result<(), String>,
}

impl Facts {
    /// Of a device that was found, and opened or not. `own_memory` is only looked at where guests' frames have bus addresses.
    pub fn new(
        found: &Inspection,
        device: Result<&VfioDevice, &VfioError>,
        hypervisor: Hypervisor,
        own_memory: Result<(), String>,
    ) -> Self {
        let bar0 = device.ok().and_then(|d| d.region(0)).map_or((0, 0), |bar| {
            let mapped = bar.mappable().iter().map(|r| r.end.saturating_sub(r.start)).sum();
            (bar.size, mapped)
        });
        let messages = device.ok().and_then(|d| d.irqs().iter().find(|i| i.kind == IrqKind::Msi));
        Self {
            vendor: found.vendor,
            device: found.device,
            opened: device.map(VfioDevice::iommu).map_err(ToString::to_string),
            bar0,
            messages: messages.filter(|i| i.eventfd()).map_or(0, |i| i.count),
            can_reset: device.is_ok_and(VfioDevice::can_reset),
            hypervisor,
            own_memory,
        }
    }

    /// What speaks against a use; nothing if it is allowed.
    pub fn against(&self, what: Use) -> Vec<Reason> {
        let iommu = match &self.opened {
            Err(why) => return vec![Reason::Closed(why.clone())],
            Ok(iommu) => *iommu,
        };
        if what == Use::Probe {
            return Vec::new();
        }
        let &Self { vendor, device, bar0: (size, mapped), .. } = self;
        let needed = 2 * u64::from(gtt::GTT_OFFSET);
        let hypervisor = match (what, self.hypervisor) {
            (Use::Probe | Use::Work, _) => None,
            (Use::Serve, Hypervisor::None) => Some(Reason::NoXen),
            (Use::Serve, Hypervisor::Plain) => Some(Reason::NoPvIommu),
            (Use::Serve, Hypervisor::PvIommu) => self.own_memory.clone().err().map(Reason::NoOwnMemory),
        };
        let of_xen = what == Use::Serve && self.hypervisor == Hypervisor::PvIommu;
        let reasons = [
            ids::find(vendor, device).is_none().then_some(Reason::NotGen8 { vendor, device }),
            (size < needed || mapped < needed).then_some(Reason::Bar0 { size, mapped }),
            (self.messages == 0).then_some(Reason::NoMsi),
            (!self.can_reset).then_some(Reason::NoReset),
            // PV-IOMMU is one, where guests are served.
            (what == Use::Work && iommu == Iommu::None).then_some(Reason::NoIommu),
            (of_xen && iommu == Iommu::Type1).then_some(Reason::KernelIommu),
            hypervisor,
        ];
        reasons.into_iter().flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broadwell() -> Facts {
        Facts {
            vendor: 0x8086,
            device: 0x1616,
            opened: Ok(Iommu::Type1),
            bar0: (16 << 20, 16 << 20),
            messages: 1,
            can_reset: true,
            hypervisor: Hypervisor::None,
            own_memory: Ok(()),
        }
    }

    #[test]
    fn a_gpu_behind_an_iommu_may_work_for_its_host_and_serve_nobody_without_xen() {
        let facts = broadwell();
        assert_eq!(facts.against(Use::Probe), []);
        assert_eq!(facts.against(Use::Work), []);
        assert_eq!(facts.against(Use::Serve), [Reason::NoXen]);
    }

    #[test]
    fn without_an_iommu_no_work_and_on_xen_no_guests_without_bus_addresses() {
        let facts = Facts { opened: Ok(Iommu::None), hypervisor: Hypervisor::Plain, ..broadwell() };
        assert_eq!(facts.against(Use::Probe), []);
        assert_eq!(facts.against(Use::Work), [Reason::NoIommu]);
        assert_eq!(facts.against(Use::Serve), [Reason::NoPvIommu]);
    }

    #[test]
    fn with_pv_iommu_guests_are_served_if_memory_of_its_own_is_known_and_the_kernel_keeps_out() {
        let facts = Facts { opened: Ok(Iommu::None), hypervisor: Hypervisor::PvIommu, ..broadwell() };
        assert_eq!(facts.against(Use::Serve), []);
        let no_memory = Facts { own_memory: Err("there is no table".into()), ..facts.clone() };
        assert_eq!(no_memory.against(Use::Serve), [Reason::NoOwnMemory("there is no table".into())]);
        let others = Facts { opened: Ok(Iommu::Type1), ..facts };
        assert_eq!(others.against(Use::Serve), [Reason::KernelIommu]);
        assert_eq!(others.against(Use::Work), []);
    }

    #[test]
    fn another_device_may_be_looked_at_and_every_lack_is_named() {
        let facts = Facts {
            vendor: 0x1234,
            device: 0x11e8,
            bar0: (1 << 20, 1 << 20),
            messages: 0,
            can_reset: false,
            ..broadwell()
        };
        assert_eq!(facts.against(Use::Probe), []);
        let lacks = facts.against(Use::Work);
        let names = lacks.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(
            names,
            [
                "1234:11e8 is no GPU of Intel's gen8 (Broadwell)",
                "BAR0 has 0x100000 bytes, of which 0x100000 can be mapped: 16777216 are needed",
                "it has no MSI that can be sent to an eventfd",
                "it cannot be reset",
            ]
        );
    }

    #[test]
    fn what_cannot_be_opened_is_allowed_nothing_and_says_why_once() {
        let facts = Facts { opened: Err("VFIO has no node for 0000:00:02.0".into()), ..broadwell() };
        for what in Use::ALL {
            assert_eq!(facts.against(what), [Reason::Closed("VFIO has no node for 0000:00:02.0".into())]);
        }
    }
}
