//! A stock Linux guest on two devices of the library's examples, each with an IOREQ server of its own: it finds them with its
//! own PCI code, draws its console on one and takes MSIs from the other.

use std::time::Duration;

use super::{Checks, Run, Scenario};
use crate::cpio::Tree;
use crate::error::Result;
use crate::kit::Kit;
use crate::linux::{Kind, Linux};
use crate::qemu::Machine;
use crate::screen::{Line, Picture};

/// See [`Scenario::about`].
#[derive(Debug)]
pub(super) struct StockLinux(pub(super) Kind);

const INIT: &str = include_str!("../../linux/init");

/// The display driver with what it needs.
pub(super) const MODULES: &[(&str, &str)] = &[
    ("drm", "drivers/gpu/drm/drm.ko"),
    ("drm_kms_helper", "drivers/gpu/drm/drm_kms_helper.ko"),
    ("ttm", "drivers/gpu/drm/ttm/ttm.ko"),
    ("drm_ttm_helper", "drivers/gpu/drm/drm_ttm_helper.ko"),
    ("drm_vram_helper", "drivers/gpu/drm/drm_vram_helper.ko"),
    ("bochs", "drivers/gpu/drm/tiny/bochs.ko"),
];

/// The mode that the display's EDID asks for.
const SIZE: (usize, usize) = (800, 600);

/// What the guest writes to its console. Colours are those of the Linux console, as (escape sequence, RGB).
pub(super) const GREY: (&str, [u8; 3]) = ("0", [0xaa; 3]);
const RED: (&str, [u8; 3]) = ("31", [0xaa, 0, 0]);
pub(super) const GREEN: (&str, [u8; 3]) = ("32", [0, 0xaa, 0]);
const BLUE: (&str, [u8; 3]) = ("34", [0, 0, 0xaa]);
pub(super) type Written = (&'static str, (&'static str, [u8; 3]));
const FIRST: &[Written] = &[
    ("The stock bochs-drm of Debian's kernel draws this console", GREY),
    ("on a PCI function that a process in dom0 emulates.", GREY),
    ("", GREY),
    ("red", RED),
    ("green", GREEN),
    ("blue", BLUE),
    ("", GREY),
    (
        "!\"#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\\]^_`abcdefghijklmnopqrstuvwxyz{|}~",
        GREY,
    ),
];
const SECOND: &[Written] = &[("This line came later, after an interrupt from dom0.", GREY)];

impl Scenario for StockLinux {
    fn name(&self) -> &'static str {
        match self.0 {
            Kind::Pvh => "bochs-console",
            Kind::Hvm => "bochs-console-hvm",
        }
    }

    fn about(&self) -> &'static str {
        match self.0 {
            Kind::Pvh => "a stock Debian guest finds our PCI functions, draws its console on one, takes MSIs",
            Kind::Hvm => "the same beside QEMU, in an HVM guest whose BARs hvmloader places",
        }
    }

    fn machine(&self) -> Machine {
        let timeout = Duration::from_secs(840);
        match self.0 {
            Kind::Pvh => Machine { memory: 1280, dom0_memory: 640, timeout, ..Machine::default() },
            Kind::Hvm => Machine { memory: 1536, dom0_memory: 896, timeout, ..Machine::default() },
        }
    }

    fn prepare(&self, kit: &Kit, files: &mut Tree) -> Result<String> {
        for example in ["bochs-display", "serial-port"] {
            kit.install(files, &kit.example(example)?)?;
        }
        let first = format!("{CLEARED}{}", terminal(FIRST));
        let second = terminal(SECOND);
        let texts = [("text/first", 0o644, first.as_bytes()), ("text/second", 0o644, second.as_bytes())];
        kit.install_linux(
            files,
            self.0,
            Linux { init: INIT, modules: MODULES, files: &texts, programs: &[] },
        )?;
        // Why the command line has what it has: without `noacpi` Linux scans no bus of a PVH guest, since libxl's tables name
        // none; with early accesses it looks for an AGP bridge, 16,000 requests long.
        let (create, pci, root) = match self.0 {
            Kind::Pvh => ("linux", "noacpi,noearly", "--pci-root"),
            Kind::Hvm => ("linux_hvm", "noearly", ""),
        };
        Ok(format!(
            "{create} stock 256 console=hvc0 loglevel=7 pci={pci}\n\
            background display bochs-display --domid $DOMID {root} --out /results/screen.png\n\
            ready display 20 serving\n\
            background serial serial-port --domid $DOMID\n\
            ready serial 20 serving\n\
            xl unpause stock || say FAILED xl unpause\n\
            ready serial 240 'guest: the first text' || finish display 5 TERM\n\
            kill -USR1 $(cat /tmp/display.pid)\n\
            ready display 20 wrote\n\
            mv /results/screen.png /results/first.png\n\
            kill -USR1 $(cat /tmp/serial.pid)\n\
            ended stock 60 display\n\
            finish display 10\n\
            finish serial 10\n\
            record destroy xl destroy stock\n"
        ))
    }

    fn judge(&self, _kit: &Kit, run: &Run, checks: &mut Checks) -> Result<()> {
        for command in ["display", "serial", "destroy"] {
            checks.succeeded(run, command);
        }
        let log = run.text("guest-stock.log");
        found(self.0, &log, checks);
        talked(&log, &run.text("serial.out"), checks);
        let all: Vec<Written> = FIRST.iter().chain(SECOND).copied().collect();
        shown(run, "first.png", FIRST, checks);
        shown(run, "screen.png", &all, checks);
        Ok(())
    }
}

/// What is sent to a terminal first: no cursor, an empty screen, its first line.
pub(super) const CLEARED: &str = "\x1b[?25l\x1b[2J\x1b[H";

/// The text as it is sent to a terminal.
pub(super) fn terminal(lines: &[Written]) -> String {
    lines.iter().map(|(text, (escape, _))| format!("\x1b[{escape}m{text}\x1b[0m\n")).collect()
}

/// What the guest says of its PCI bus.
fn found(kind: Kind, log: &str, checks: &mut Checks) {
    let said = |line: &str| log.lines().any(|said| said.trim_end() == format!("GUEST: {line}"));
    let bridge = match kind {
        Kind::Pvh => "pci 0000:00:00.0 0x8086:0x1237 class 0x060000",
        // QEMU's
        Kind::Hvm => "pci 0000:00:01.0 0x8086:0x7000 class 0x060100",
    };
    for function in [
        bridge,
        "pci 0000:00:10.0 0x1234:0x1111 class 0x038000",
        "pci 0000:00:11.0 0x9710:0x9900 class 0x070002",
    ] {
        checks.that(said(function), format!("the guest lists {function}"));
    }
    for bar in [
        "pci 0000:00:10.0 bar 0 size 16777216 flags 0x0000000000042208",
        "pci 0000:00:10.0 bar 2 size 4096 flags 0x0000000000040200",
        "pci 0000:00:11.0 bar 0 size 8 flags 0x0000000000040101",
    ] {
        checks.that(said(bar), format!("the guest has sized and placed {bar}"));
    }
    checks.that(said("fb0 is bochs-drmdrmfb, 800,600"), "the display's EDID has chosen the mode");
    checks.that(said("the end"), "the guest comes to its end");
    checks.that(!log.contains("GUEST: FAILED"), "the guest's modules load");
    for bar in ["0000:00:10.0: BAR 0", "0000:00:10.0: BAR 2", "0000:00:11.0: BAR 0"] {
        let mut lines = log.lines().filter(|line| line.contains(bar));
        // An HVM guest finds them placed by hvmloader.
        let placed = lines.any(|line| kind == Kind::Hvm || line.contains("assigned"));
        checks.that(placed, format!("the guest's kernel sizes and places {bar}"));
    }
    // This one is about the CPU that QEMU shows it.
    let complaint = log.lines().find(|l| {
        ["WARNING: CPU", "BUG:", "Oops"].iter().any(|sign| l.contains(sign)) && !l.contains("fpu/xstate.c")
    });
    checks.equal("the guest's kernel complains of nothing", complaint, None);
}

/// What went through the serial port, and that it went by interrupts.
fn talked(log: &str, port: &str, checks: &mut Checks) {
    let said =
        |text: &str| log.lines().find_map(|line| line.trim_end().strip_prefix("GUEST: ")?.strip_prefix(text));
    checks.that(
        said("answer ").is_some_and(|a| a.starts_with("THE FIRST TEXT IS WRITTEN BY 6.1.")),
        "the guest reads the answer to its line",
    );
    checks.equal("the guest reads what dom0 sent by itself", said("signal "), Some("a signal came"));
    checks.that(port.contains("guest: the second text is written"), "the guest's second line arrives");
    let interrupts = said("interrupts ").unwrap_or_default();
    checks.that(interrupts.to_lowercase().contains("msi"), format!("they are MSIs ({interrupts})"));
    let taken = interrupts.split_whitespace().nth(1).and_then(|n| n.parse::<u64>().ok());
    let raised = port.lines().find_map(|l| l.strip_prefix("interrupts ")?.parse::<u64>().ok());
    // Two that come before the first is taken are one.
    checks.that(
        taken.zip(raised).is_some_and(|(taken, raised)| (4..=raised).contains(&taken)),
        format!("the guest takes 4 or more, and no more than were raised ({taken:?}, {raised:?})"),
    );
}

/// A picture of the console, which dom0 has kept, shows this text and no more.
pub(super) fn shown(run: &Run, name: &str, text: &[Written], checks: &mut Checks) {
    let Some(png) = run.results.get(name) else {
        return checks.that(false, format!("dom0 writes {name}"));
    };
    let lines: Vec<Line<'_>> = text.iter().map(|(text, (_, colour))| (*text, *colour)).collect();
    match Picture::from_png(png) {
        Ok(picture) => {
            checks.equal(&format!("{name}: size"), picture.size(), SIZE);
            checks.equal(&format!("{name} shows the text"), picture.shows(&lines), Ok(()));
        }
        Err(e) => checks.that(false, format!("{name} is a picture: {e}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_that_took_no_msi_or_more_than_there_were_is_found_out() {
        let log = |interrupts: &str| {
            format!(
                "GUEST: answer THE FIRST TEXT IS WRITTEN BY 6.1.0\r\nGUEST: signal a signal came\r\n\
                 GUEST: interrupts {interrupts}\r\n"
            )
        };
        let port = "serving d1\nguest: the second text is written\ninterrupts 9\n";
        let failed = |interrupts: &str| {
            let mut checks = Checks::default();
            talked(&log(interrupts), port, &mut checks);
            checks.failed().len()
        };
        assert_eq!(failed(" 25:  8  xen-pirq  -msi  ttyS4"), 0);
        assert_eq!(failed(" 25:  8  PCI-MSI 49152-edge  ttyS4"), 0);
        assert_eq!(failed(" 25:  10  PCI-MSI 49152-edge  ttyS4"), 1);
        assert_eq!(failed(" 25:  0  PCI-MSI 49152-edge  ttyS4"), 1);
        assert_eq!(failed(" 4:  8  IO-APIC 4-edge  ttyS4"), 1);
        assert_eq!(failed(""), 2);
    }
}
