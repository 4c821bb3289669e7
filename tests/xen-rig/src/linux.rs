//! A stock Linux guest: Debian's kernel as it is, with an initramfs of busybox, a few of its modules, and what a scenario
//! has it do.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Command;

use crate::cpio::Tree;
use crate::dom0::Dom0;
use crate::error::{At as _, Error, Result};
use crate::host;
use crate::kit::Kit;

/// What a guest has besides kernel and busybox.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Linux<'a> {
    /// What runs as the first program.
    pub(crate) init: &'a str,
    /// Modules in the order in which they can be loaded; where each is below `kernel/`.
    pub(crate) modules: &'a [(&'a str, &'a str)],
    /// Files, with their paths.
    pub(crate) files: &'a [(&'a str, u32, &'a [u8])],
    /// Programs for `/bin`, with the libraries that they are linked with.
    pub(crate) programs: &'a [PathBuf],
}

/// Where a guest's devices come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Nowhere, but for what the scenario gives it.
    Pvh,
    /// From QEMU in dom0, which is started by xl.
    Hvm,
}

/// What an HVM guest starts with, below the roots of Xen's and of QEMU's packages.
const HVMLOADER: &str = "usr/lib/xen-4.17/boot/hvmloader";
const QEMU: &str = "usr/libexec/xen-qemu-system-i386";
const FIRMWARE: &[&str] = &[
    "usr/share/seabios/bios-256k.bin",
    "usr/share/qemu/linuxboot.bin",
    "usr/share/qemu/linuxboot_dma.bin",
    "usr/share/qemu/kvmvapic.bin",
    "usr/share/qemu/keymaps/en-us",
];

/// An HVM guest's firmware reads its kernel and this through a port of QEMU's, byte by byte: the longest part of its boot.
fn compressed(archive: &[u8]) -> Result<Vec<u8>> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    gzip.write_all(archive).and_then(|()| gzip.finish()).at("rig/linux-initrd")
}

impl Kit {
    /// Puts dom0's QEMU and the firmware of its guests where they are looked for.
    fn install_qemu(&self, files: &mut Tree) -> Result<()> {
        // It finds its data from where it is itself.
        let dom0 = Dom0 { unpacked: &self.unpacked };
        dom0.program(files, &self.base, QEMU, &self.unpacked.qemu.join(QEMU))?;
        let hvmloader = self.unpacked.xen.join(HVMLOADER);
        files.file(HVMLOADER, 0o644, fs::read(&hvmloader).at(&hvmloader)?);
        for path in FIRMWARE {
            let from = self.unpacked.qemu.join(path);
            files.file(path, 0o644, fs::read(&from).at(&from)?);
        }
        Ok(())
    }

    /// Puts kernel and initramfs where `linux` in dom0's script finds them.
    ///
    /// # Errors
    /// A piece that the packages do not hold.
    pub(crate) fn install_linux(&self, files: &mut Tree, kind: Kind, guest: Linux<'_>) -> Result<()> {
        let root = &self.unpacked.xen;
        match kind {
            Kind::Pvh => {
                // Without its symbols it is half as large, which dom0 holds in memory.
                let kernel = self.places.work.join("linux-guest.elf");
                host::output(Command::new("strip").arg("-o").arg(&kernel).arg(&self.images.vmlinux))?;
                files.file("rig/linux", 0o644, fs::read(&kernel).at(&kernel)?);
            }
            Kind::Hvm => {
                let kernel = root.join(format!("boot/vmlinuz-{}", self.unpacked.linux));
                files.file("rig/linux", 0o644, fs::read(&kernel).at(&kernel)?);
                self.install_qemu(files)?;
            }
        }

        let mut tree = Tree::new();
        tree.file("init", 0o755, guest.init).dir("dev");
        let busybox = root.join("bin/busybox");
        tree.file("bin/busybox", 0o755, fs::read(&busybox).at(&busybox)?);
        for (name, path) in guest.modules {
            let from = root.join("lib/modules").join(&self.unpacked.linux).join("kernel").join(path);
            tree.file(&format!("modules/{name}.ko"), 0o644, host::module(&from)?);
        }
        let order: String = guest.modules.iter().map(|(name, _)| format!("{name}\n")).collect();
        tree.file("modules/order", 0o644, order);
        for (path, mode, bytes) in guest.files {
            tree.file(path, *mode, *bytes);
        }
        for program in guest.programs {
            let name = program.file_name().unwrap_or_default().to_string_lossy();
            let dom0 = Dom0 { unpacked: &self.unpacked };
            let program = self.without_debug_info(program)?;
            dom0.program(&mut tree, &Tree::new(), &format!("bin/{name}"), &program)?;
        }
        let archive = tree
            .archive()
            .map_err(|file| Error::Image { path: file.into(), what: "too large for an initramfs".into() })?;
        let archive = match kind {
            Kind::Pvh => archive,
            Kind::Hvm => compressed(&archive)?,
        };
        files.file("rig/linux-initrd", 0o644, archive);
        Ok(())
    }
}
