//! What is told of a PCI device, as text and as JSON.

use std::fmt;

use mediated_gpu::vfio::{DmaSpace, Facts, Inspection, Irq, Member, Region, Use, VfioDevice};
use serde::Serialize;
use xen_ioreq::PAGE_SHIFT;

/// All of it. Sizes and addresses are bytes.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    address: String,
    vendor: u16,
    device: u16,
    class: u32,
    driver: Option<String>,
    group: Option<Group>,
    /// By what it was opened.
    opened: Option<String>,
    regions: Vec<RegionLine>,
    interrupts: Vec<IrqLine>,
    /// Ways to reset it that the kernel has; none if VFIO cannot.
    reset: Vec<String>,
    dma: Option<Dma>,
    hypervisor: String,
    /// Where guests' bus addresses come from.
    bus_addresses: Option<String>,
    allows: Vec<Allowed>,
}

#[derive(Debug, Serialize)]
struct Group {
    number: u32,
    noiommu: bool,
    viable: bool,
    /// The others in it.
    others: Vec<Other>,
}

#[derive(Debug, Serialize)]
struct Other {
    address: String,
    driver: Option<String>,
    yields: bool,
}

#[derive(Debug, Serialize)]
struct RegionLine {
    index: u32,
    name: &'static str,
    size: u64,
    readable: bool,
    writable: bool,
    /// First byte and the one past the last of each part.
    mappable: Vec<(u64, u64)>,
}

#[derive(Debug, Serialize)]
struct IrqLine {
    kind: String,
    count: u32,
    eventfd: bool,
    maskable: bool,
    automasked: bool,
    fixed: bool,
}

#[derive(Debug, Serialize)]
struct Dma {
    /// First and last usable byte.
    ranges: Vec<(u64, u64)>,
    page_sizes: Vec<u64>,
    mappings: Option<u32>,
}

#[derive(Debug, Serialize)]
struct Allowed {
    name: String,
    allowed: bool,
    reasons: Vec<String>,
}

impl Report {
    pub(super) fn new(
        found: &Inspection,
        device: Option<&VfioDevice>,
        facts: &Facts,
        bus_addresses: Option<String>,
    ) -> Self {
        let group = found.group.as_ref().map(|group| Group {
            number: group.number,
            noiommu: group.noiommu,
            viable: group.blockers().next().is_none(),
            others: group.members.iter().filter(|m| m.address != found.address).map(other).collect(),
        });
        let allowed = |what: Use| {
            let reasons: Vec<_> = facts.against(what).iter().map(ToString::to_string).collect();
            Allowed { name: what.to_string(), allowed: reasons.is_empty(), reasons }
        };
        let reset = device.filter(|d| d.can_reset()).map(|_| found.reset_methods.clone());
        Self {
            address: found.address.to_string(),
            vendor: found.vendor,
            device: found.device,
            class: found.class,
            driver: found.driver.clone(),
            group,
            opened: device.map(|d| d.opened().to_string()),
            regions: device.map_or(Vec::new(), |d| d.regions().iter().map(region).collect()),
            interrupts: device.map_or(Vec::new(), |d| d.irqs().iter().map(irq).collect()),
            reset: reset.unwrap_or_default(),
            dma: device.and_then(VfioDevice::space).map(|space| dma(space)),
            hypervisor: facts.hypervisor.to_string(),
            bus_addresses,
            allows: Use::ALL.into_iter().map(allowed).collect(),
        }
    }
}

fn other(member: &Member) -> Other {
    let yields = member.yields();
    Other { address: member.address.to_string(), driver: member.driver.clone(), yields }
}

fn region(region: &Region) -> RegionLine {
    RegionLine {
        index: region.index,
        name: region.name(),
        size: region.size,
        readable: region.readable(),
        writable: region.writable(),
        mappable: region.mappable().iter().map(|r| (r.start, r.end)).collect(),
    }
}

fn irq(irq: &Irq) -> IrqLine {
    IrqLine {
        kind: irq.kind.to_string(),
        count: irq.count,
        eventfd: irq.eventfd(),
        maskable: irq.maskable(),
        automasked: irq.automasked(),
        fixed: irq.fixed(),
    }
}

fn dma(space: &DmaSpace) -> Dma {
    let bytes = |frame: u64| u64::try_from(u128::from(frame) << PAGE_SHIFT).ok();
    // The last byte, since one past it may be no number.
    let last = |frame| bytes(frame).unwrap_or(0).wrapping_sub(1);
    Dma {
        ranges: space.ranges().iter().filter_map(|r| Some((bytes(r.start.0)?, last(r.end.0)))).collect(),
        page_sizes: (0..64).map(|bit| 1 << bit).filter(|size| space.page_sizes() & size != 0).collect(),
        mappings: space.mappings(),
    }
}

/// The words whose condition holds.
fn words<'a>(list: &[(bool, &'a str)]) -> String {
    let words: Vec<&'a str> = list.iter().filter(|w| w.0).map(|w| w.1).collect();
    words.join(" ")
}

/// A power of two, in the largest unit that divides it.
fn size(bytes: u64) -> String {
    match [(30, "G"), (20, "M"), (10, "K")].into_iter().find(|(bits, _)| bytes.trailing_zeros() >= *bits) {
        Some((bits, unit)) => format!("{}{unit}", bytes >> bits),
        None => bytes.to_string(),
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let driver = self.driver.as_deref().unwrap_or("none");
        let Self { vendor, device, class, .. } = self;
        writeln!(f, "{}: {vendor:04x}:{device:04x}, class {class:06x}, driver {driver}", self.address)?;
        match &self.group {
            None => writeln!(f, "  group: none")?,
            Some(group) => group.fmt(f)?,
        }
        if let Some(opened) = &self.opened {
            writeln!(f, "  opened by {opened}")?;
        }
        for r in &self.regions {
            let mapped: Vec<_> = r.mappable.iter().map(|(a, b)| format!("{a:#x}..{b:#x}")).collect();
            let mapped = match mapped.as_slice() {
                [_] if r.mappable == [(0, r.size)] => "mmap".to_owned(),
                [] => String::new(),
                parts => format!("mmap {}", parts.join(" ")),
            };
            let flags = [(r.readable, "read"), (r.writable, "write"), (!mapped.is_empty(), mapped.as_str())];
            writeln!(f, "  region {} ({}): {:#x} bytes, {}", r.index, r.name, r.size, words(&flags))?;
        }
        for i in &self.interrupts {
            let flags = [
                (i.eventfd, "eventfd"),
                (i.maskable, "maskable"),
                (i.automasked, "automasked"),
                (i.fixed, "fixed"),
            ];
            writeln!(f, "  interrupts {}: {}, {}", i.kind, i.count, words(&flags))?;
        }
        if self.opened.is_some() {
            let ways = self.reset.join(" ");
            writeln!(f, "  reset: {}", if ways.is_empty() { "no" } else { &ways })?;
        }
        if let Some(dma) = &self.dma {
            let ranges: Vec<_> = dma.ranges.iter().map(|(a, b)| format!("{a:#x}..={b:#x}")).collect();
            let sizes: Vec<_> = dma.page_sizes.iter().map(|s| size(*s)).collect();
            write!(f, "  IOMMU: bus addresses {}, pages of {}", ranges.join(" "), sizes.join(" "))?;
            match dma.mappings {
                Some(n) => writeln!(f, ", {n} mappings left")?,
                None => writeln!(f)?,
            }
        }
        let addresses = self.bus_addresses.as_ref().map(|mode| format!(": {mode}"));
        writeln!(f, "  hypervisor: {}{}", self.hypervisor, addresses.unwrap_or_default())?;
        for a in &self.allows {
            writeln!(f, "  {}: {}", a.name, if a.allowed { "allowed" } else { "not allowed" })?;
            for reason in &a.reasons {
                writeln!(f, "    {reason}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.noiommu { ", without an IOMMU" } else { "" };
        let viable = if self.viable { "viable" } else { "not viable" };
        write!(f, "  group {}{kind}: {viable}, ", self.number)?;
        if self.others.is_empty() {
            return writeln!(f, "no other device in it");
        }
        let others: Vec<_> = self.others.iter().map(ToString::to_string).collect();
        writeln!(f, "with {}", others.join(", "))
    }
}

impl fmt::Display for Other {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keeps = if self.yields { "" } else { ", which keeps it" };
        write!(f, "{} ({}{keeps})", self.address, self.driver.as_deref().unwrap_or("no driver"))
    }
}

#[cfg(test)]
mod tests {
    use mediated_gpu::vfio::{Address, Group as Found, Hypervisor};

    use super::*;

    fn report() -> Report {
        let address: Address = "0000:00:02.0".parse().unwrap();
        let member = |address: &str, driver: Option<&str>| Member {
            address: address.parse().unwrap(),
            driver: driver.map(str::to_owned),
        };
        let members = vec![
            member("0000:00:02.0", Some("i915")),
            member("0000:00:02.1", None),
            member("0000:00:03.0", Some("snd_hda_intel")),
        ];
        let found = Inspection {
            address,
            vendor: 0x8086,
            device: 0x1616,
            class: 0x03_0000,
            driver: Some("i915".into()),
            group: Some(Found { number: 7, noiommu: false, members }),
            node: None,
            reset_methods: vec!["flr".into()],
        };
        let why = mediated_gpu::vfio::VfioError::NotViable { group: "/dev/vfio/7".into() };
        let facts = Facts::new(&found, Err(&why), Hypervisor::Plain, Ok(()));
        Report::new(&found, None, &facts, Some("soft".into()))
    }

    #[test]
    fn a_device_that_cannot_be_opened_is_told_with_who_keeps_it() {
        let text = report().to_string();
        let head: Vec<_> = text.lines().take(4).collect();
        assert_eq!(
            head,
            [
                "0000:00:02.0: 8086:1616, class 030000, driver i915",
                "  group 7: not viable, with 0000:00:02.1 (no driver), 0000:00:03.0 (snd_hda_intel, which keeps it)",
                "  hypervisor: Xen without PV-IOMMU: soft",
                "  probe: not allowed",
            ]
        );
        assert_eq!(text.matches("    VFIO group /dev/vfio/7 is not viable").count(), 3);
    }

    #[test]
    fn the_same_is_json() {
        let json: serde_json::Value =
            serde_json::from_str(&serde_json::to_string(&report()).unwrap()).unwrap();
        assert_eq!(json["vendor"], 0x8086);
        assert_eq!(json["group"]["others"][1]["driver"], "snd_hda_intel");
        assert_eq!(json["group"]["viable"], false);
        let allows = json["allows"].as_array().unwrap();
        assert!(allows.iter().all(|a| a["allowed"] == false && a["reasons"].as_array().unwrap().len() == 1));
    }

    #[test]
    fn sizes_have_the_largest_unit_that_divides_them() {
        assert_eq!([4096, 2 << 20, 1 << 30, 512].map(size), ["4K", "2M", "1G", "512"]);
    }
}
