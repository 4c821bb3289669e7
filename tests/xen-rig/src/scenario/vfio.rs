//! VFIO on Linux alone, with an IOMMU of QEMU's and a device that does DMA and interrupts: what is taken back is out of its reach.

use std::time::Duration;

use super::{Checks, Run, Scenario};
use crate::cpio::Tree;
use crate::error::Result;
use crate::kit::Kit;
use crate::qemu::{Below, Machine};

/// As modprobe would load them.
const MODULES: &[&str] = &[
    "virt/lib/irqbypass",
    "drivers/vfio/vfio",
    "drivers/vfio/vfio_virqfd",
    "drivers/vfio/vfio_iommu_type1",
    "drivers/vfio/pci/vfio-pci-core",
    "drivers/vfio/pci/vfio-pci",
];

/// One `edu` by itself; another whose neighbour, which no IOMMU can tell from it, has a driver; and a device that does more.
const DEVICES: &[&str] = &[
    "intel-iommu,intremap=on",
    "edu,addr=03.0",
    "nvme,addr=04.0,serial=1",
    "edu,addr=05.0,multifunction=on",
    "virtio-rng-pci,addr=05.1",
];
const NVME: &str = "0000:00:04.0";
const ALONE: &str = "0000:00:03.0";
const SHARED: &str = "0000:00:05.0";

/// See [`Scenario::about`].
#[derive(Debug)]
pub(super) struct Vfio;

impl Scenario for Vfio {
    fn name(&self) -> &'static str {
        "vfio"
    }

    fn about(&self) -> &'static str {
        "Linux without Xen: a device is opened by VFIO, interrupts the event loop and reaches what is mapped for it, no more"
    }

    fn machine(&self) -> Machine {
        let below = Below::Linux { devices: DEVICES, command_line: "intel_iommu=on" };
        Machine { below, timeout: Duration::from_secs(600), ..Machine::default() }
    }

    fn prepare(&self, kit: &Kit, files: &mut Tree) -> Result<String> {
        kit.install(files, &kit.program("mgpu")?)?;
        for example in ["edu", "nvme"] {
            kit.install(files, &kit.example(example)?)?;
        }
        kit.install_modules(files, MODULES)?;
        Ok(format!(
            "load $(cat /rig/modules/order)\n\
             record unbound mgpu probe --vfio {ALONE}\n\
             for device in {ALONE} {NVME} {SHARED}; do\n\
             echo vfio-pci >/sys/bus/pci/devices/$device/driver_override\n\
             echo $device >/sys/bus/pci/drivers_probe\n\
             done\n\
             record probe mgpu probe --vfio {ALONE}\n\
             record json mgpu probe --vfio {ALONE} --json\n\
             record shared mgpu probe --vfio {SHARED}\n\
             record work mgpu probe --vfio {ALONE} --work\n\
             record nothing mgpu probe --vfio 0000:00:1e.7\n\
             dmesg >/results/before\n\
             record edu edu {ALONE}\n\
             record nvme nvme {NVME}\n\
             record controller mgpu probe --vfio {NVME}\n\
             dmesg >/results/after\n\
             record serve mgpu serve --domid 1 --gpu vfio:{ALONE}\n"
        ))
    }

    fn judge(&self, _kit: &Kit, run: &Run, checks: &mut Checks) -> Result<()> {
        for command in ["unbound", "probe", "json", "shared", "edu", "nvme", "controller"] {
            checks.succeeded(run, command);
        }
        probed(run, checks);
        for program in ["edu", "nvme"] {
            checks.facts(run, program);
        }
        faulted(run, checks);
        checks.equal("a device that is not there: status", run.status("nothing"), Some(1));
        checks.equal(
            "a device that is not there: one line says so",
            run.text("nothing.err").as_str(),
            "mgpu: 0000:00:1e.7: there is no such PCI device here\n",
        );
        checks.equal("a device that is no GPU gets no work: status", run.status("work"), Some(1));
        checks.equal(
            "a device that is no GPU gets no work: one line says so",
            run.text("work.err").as_str(),
            "mgpu: 0000:00:03.0: work is not allowed\n",
        );
        checks.equal("without Xen nobody is served: status", run.status("serve"), Some(1));
        Ok(())
    }
}

/// What `mgpu probe` tells of devices that are bound to VFIO, or not, or not by themselves.
fn probed(run: &Run, checks: &mut Checks) {
    let mut says = |name: &str, lines: &[&str]| {
        let out = run.text(&format!("{name}.out"));
        for line in lines {
            checks.that(out.lines().any(|said| said.trim() == *line), format!("{name} says {line:?}"));
        }
    };
    says("unbound", &["0000:00:03.0: 1234:11e8, class 00ff00, driver none", "probe: not allowed"]);
    says(
        "probe",
        &[
            "0000:00:03.0: 1234:11e8, class 00ff00, driver vfio-pci",
            "region 0 (BAR0): 0x100000 bytes, read write mmap",
            "region 7 (config): 0x100 bytes, read write",
            "interrupts INTx: 1, eventfd maskable automasked",
            "interrupts MSI: 1, eventfd fixed",
            "hypervisor: no Xen that this system may ask",
            "probe: allowed",
            "work: not allowed",
            "1234:11e8 is no GPU of Intel's gen8 (Broadwell)",
            "serve: not allowed",
            "there is no Xen here whose guests could be served",
        ],
    );
    says(
        "controller",
        &[
            "region 0 (BAR0): 0x4000 bytes, read write mmap",
            "interrupts MSI-X: 65, eventfd fixed",
            "reset: flr",
        ],
    );
    says("shared", &["0000:00:05.0: 1234:11e8, class 00ff00, driver vfio-pci", "probe: not allowed"]);
    let shared = run.text("shared.out");
    checks.that(
        shared.contains(": not viable, with 0000:00:05.1 (virtio-pci, which keeps it)"),
        "shared names the neighbour that keeps its group",
    );
    let json = run.text("json.out");
    checks.that(
        json.contains("\"address\":\"0000:00:03.0\"") && json.contains("\"name\":\"BAR0\",\"size\":1048576"),
        "the same is told as JSON",
    );
}

/// The IOMMU's own word: that, and where, devices wrote and read where nothing was mapped any more.
fn faulted(run: &Run, checks: &mut Checks) {
    let (before, after) = (run.text("before"), run.text("after"));
    let refused = |log: &str, parts: [&str; 3]| {
        log.lines().any(|line| line.contains("DMAR") && parts.iter().all(|part| line.contains(part)))
    };
    for (program, device, kind, said) in [
        ("edu", "[00:03.0]", "DMA Write", "written to "),
        ("edu", "[00:03.0]", "DMA Read", "read from "),
        ("nvme", "[00:04.0]", "DMA Write", "written to "),
    ] {
        checks
            .that(!refused(&before, [device, kind, ""]), format!("no {kind} of {device} is refused before"));
        let out = run.text(&format!("{program}.out"));
        let frame = out.lines().find_map(|l| l.strip_prefix(said)?.split_once(',').map(|l| l.0));
        let at = frame.map(|bfn| format!("fault addr {bfn}000 "));
        checks.that(
            at.as_ref().is_some_and(|at| refused(&after, [device, kind, at])),
            format!("the IOMMU reports the {kind} of {device} that it refused ({})", at.unwrap_or_default()),
        );
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::log::Log;
    use crate::qemu::End;

    fn failed(after: &str) -> usize {
        let edu = "written to 0x101, where nothing is\nread from 0x100, where nothing is\n";
        let nvme = "written to 0x103, where nothing is\n";
        let results = [
            ("edu.out", edu),
            ("nvme.out", nvme),
            ("before", "DMAR: Host address width 39\n"),
            ("after", after),
        ];
        let results: BTreeMap<_, _> = results.map(|(n, t)| (n.to_owned(), t.as_bytes().to_vec())).into();
        let mut checks = Checks::default();
        faulted(&Run { log: Log::default(), end: End::TimedOut, results }, &mut checks);
        checks.failed().len()
    }

    #[test]
    fn a_fault_counts_only_where_the_page_was() {
        let line = |kind: &str, device: &str, at: &str| {
            format!("DMAR: [{kind} NO_PASID] Request device [{device}] fault addr {at} [fault reason 0x05]\n")
        };
        let write = line("DMA Write", "00:03.0", "0x101000");
        let read = line("DMA Read", "00:03.0", "0x100000");
        let nvme = line("DMA Write", "00:04.0", "0x103000");
        assert_eq!(failed(&format!("{write}{read}{nvme}")), 0);
        assert_eq!(failed(&format!("{write}{nvme}")), 1);
        assert_eq!(failed(&format!("{}{read}{nvme}", write.replace("0x101000", "0x1010000"))), 1);
        assert_eq!(failed(&format!("{}{read}{nvme}", write.replace("00:03.0", "00:05.0"))), 1);
        assert_eq!(failed(""), 3);
    }
}
