//! dom0's base image: busybox, Xen's tools with their libraries, the kernel modules they need, and `init`.
//!
//! What a scenario adds comes as a second archive behind this one, so that this one is made once.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cpio::Tree;
use crate::error::{At as _, Error, Result};
use crate::host;
use crate::packages::Unpacked;

const INIT: &str = include_str!("../dom0/init");

/// In the order in which they can be loaded; where each is below `kernel/`.
const MODULES: &[(&str, &str)] = &[
    ("xen-privcmd", "drivers/xen/xen-privcmd.ko"),
    ("xen-evtchn", "drivers/xen/xen-evtchn.ko"),
    ("xen-gntdev", "drivers/xen/xen-gntdev.ko"),
    ("xen-gntalloc", "drivers/xen/xen-gntalloc.ko"),
    ("xenfs", "drivers/xen/xenfs/xenfs.ko"),
    // the disk on which results leave
    ("virtio_ring", "drivers/virtio/virtio_ring.ko"),
    ("virtio", "drivers/virtio/virtio.ko"),
    ("virtio_pci_modern_dev", "drivers/virtio/virtio_pci_modern_dev.ko"),
    ("virtio_pci_legacy_dev", "drivers/virtio/virtio_pci_legacy_dev.ko"),
    ("virtio_pci", "drivers/virtio/virtio_pci.ko"),
    ("virtio_blk", "drivers/block/virtio_blk.ko"),
];

const XEN_BIN: &str = "usr/lib/xen-4.17/bin";
const TOOLS: &[&str] = &["xl", "libxl-save-helper", "xenstored", "xenconsoled", "xen-init-dom0"];
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";
const UNWINDER: &str = "libgcc_s.so.1";
const LOADER: &str = "/lib64/ld-linux-x86-64.so.2";

/// Where the pieces of dom0 come from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dom0<'a> {
    /// The unpacked packages.
    pub(crate) unpacked: &'a Unpacked,
}

impl Dom0<'_> {
    /// The image without any scenario.
    ///
    /// # Errors
    /// A piece that the packages do not hold.
    pub(crate) fn base(&self) -> Result<Tree> {
        let root = &self.unpacked.xen;
        let mut tree = Tree::new();
        for dir in [
            "dev",
            "proc",
            "sys",
            "tmp",
            "run/xen",
            "etc/xen",
            "var/lib/xen",
            "var/lib/xenstored",
            "var/log/xen",
        ] {
            tree.dir(dir);
        }
        tree.link("var/run", "/run").file("etc/xen/xl.conf", 0o644, "").file("init", 0o755, INIT);

        let busybox = root.join("bin/busybox");
        for applet in host::output(Command::new(&busybox).arg("--list"))?.lines() {
            tree.link(&format!("bin/{applet}"), "/bin/busybox");
        }
        tree.file("bin/busybox", 0o755, fs::read(&busybox).at(&busybox)?);

        for module in MODULES {
            let from = root.join("lib/modules").join(&self.unpacked.linux).join("kernel").join(module.1);
            tree.file(&format!("lib/modules/{}.ko", module.0), 0o644, host::module(&from)?);
        }
        let order: String = MODULES.iter().map(|m| format!("{}\n", m.0)).collect();
        tree.file("lib/modules/order", 0o644, order);

        for tool in TOOLS {
            let from = root.join(XEN_BIN).join(tool);
            self.program(&mut tree, &Tree::new(), &format!("{XEN_BIN}/{tool}"), &from)?;
        }
        self.program(&mut tree, &Tree::new(), "usr/bin/xenstore", &root.join("usr/bin/xenstore"))?;
        // loaded by name when a thread of xl ends, so that no program lists it
        let from = root.join("lib/x86_64-linux-gnu").join(UNWINDER);
        tree.file(&format!("{LIBRARIES}/{UNWINDER}"), 0o755, fs::read(&from).at(&from)?);
        for name in ["read", "write", "ls", "list", "rm", "exists", "watch"] {
            tree.link(&format!("usr/bin/xenstore-{name}"), "/usr/bin/xenstore");
        }
        Ok(tree)
    }

    /// A dynamically linked program with all libraries that it needs and neither `tree` nor `base` have yet.
    ///
    /// # Errors
    /// A library that is nowhere.
    pub(crate) fn program(&self, tree: &mut Tree, base: &Tree, path: &str, from: &Path) -> Result<()> {
        for library in self.libraries(from)? {
            let name = library.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let to = if Path::new(LOADER).file_name() == library.file_name() {
                LOADER.to_owned()
            } else {
                format!("{LIBRARIES}/{name}")
            };
            if !tree.has(&to) && !base.has(&to) {
                tree.file(&to, 0o755, fs::read(&library).at(&library)?);
            }
        }
        tree.file(path, 0o755, fs::read(from).at(from)?);
        Ok(())
    }

    fn libraries(&self, program: &Path) -> Result<BTreeSet<PathBuf>> {
        let roots = [&self.unpacked.xen, &self.unpacked.qemu];
        let search: Vec<String> = roots
            .iter()
            .flat_map(|root| [root.join(LIBRARIES), root.join("lib/x86_64-linux-gnu")])
            .map(|dir| dir.display().to_string())
            .collect();
        let listed = host::output(Command::new("ldd").arg(program).env("LD_LIBRARY_PATH", search.join(":")))?;
        resolved(&listed).map_err(|library| Error::Library { program: program.to_owned(), library })
    }
}

/// The files in ldd's output, or the name of the first library that was not found.
fn resolved(listed: &str) -> std::result::Result<BTreeSet<PathBuf>, String> {
    let mut files = BTreeSet::new();
    for line in listed.lines().map(str::trim) {
        let (name, target) = line.split_once(" => ").unwrap_or((line, line));
        if target.starts_with("not found") {
            return Err(name.to_owned());
        }
        if target.starts_with('/') {
            files.insert(PathBuf::from(target.split(" (").next().unwrap_or(target)));
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_read_from_what_ldd_says() {
        let listed = "\
\tlinux-vdso.so.1 (0x00007ffd2b5f2000)
\tlibxenlight.so.4.17 => /rig/xen/usr/lib/x86_64-linux-gnu/libxenlight.so.4.17 (0x00007f0000000000)
\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f1111111111)
\t/lib64/ld-linux-x86-64.so.2 (0x00007f2222222222)
";
        let files: Vec<PathBuf> = resolved(listed).unwrap().into_iter().collect();
        let expected = [
            "/lib/x86_64-linux-gnu/libc.so.6",
            "/lib64/ld-linux-x86-64.so.2",
            "/rig/xen/usr/lib/x86_64-linux-gnu/libxenlight.so.4.17",
        ];
        assert_eq!(files, expected.map(PathBuf::from));
    }

    #[test]
    fn a_missing_library_is_named() {
        let listed = "\tlibyajl.so.2 => not found\n\tlibc.so.6 => /lib/libc.so.6 (0x0)\n";
        assert_eq!(resolved(listed).unwrap_err(), "libyajl.so.2");
    }
}
