//! A stock Linux guest: Debian's kernel as it is, with an initramfs of busybox, a few of its modules, and `linux/init`.

use std::fs;
use std::process::Command;

use crate::cpio::Tree;
use crate::error::{At as _, Error, Result};
use crate::host;
use crate::kit::Kit;

const INIT: &str = include_str!("../linux/init");

/// The display driver with what it needs, in the order in which they can be loaded; where each is below `kernel/`.
const MODULES: &[(&str, &str)] = &[
    ("drm", "drivers/gpu/drm/drm.ko"),
    ("drm_kms_helper", "drivers/gpu/drm/drm_kms_helper.ko"),
    ("ttm", "drivers/gpu/drm/ttm/ttm.ko"),
    ("drm_ttm_helper", "drivers/gpu/drm/drm_ttm_helper.ko"),
    ("drm_vram_helper", "drivers/gpu/drm/drm_vram_helper.ko"),
    ("bochs", "drivers/gpu/drm/tiny/bochs.ko"),
];

impl Kit {
    /// Puts kernel and initramfs where `linux` in dom0's script finds them; `texts` are files below the guest's `/text`.
    ///
    /// # Errors
    /// A piece that the packages do not hold.
    pub fn install_linux(&self, files: &mut Tree, texts: &[(&str, &str)]) -> Result<()> {
        // Without its symbols it is half as large, which dom0 holds in memory.
        let kernel = self.places.work.join("linux-guest.elf");
        host::output(Command::new("strip").arg("-o").arg(&kernel).arg(&self.images.vmlinux))?;
        files.file("rig/linux", 0o644, fs::read(&kernel).at(&kernel)?);

        let mut tree = Tree::new();
        tree.file("init", 0o755, INIT).dir("dev");
        let root = &self.unpacked.xen;
        let busybox = root.join("bin/busybox");
        tree.file("bin/busybox", 0o755, fs::read(&busybox).at(&busybox)?);
        for (name, path) in MODULES {
            let from = root.join("lib/modules").join(&self.unpacked.linux).join("kernel").join(path);
            tree.file(&format!("modules/{name}.ko"), 0o644, fs::read(&from).at(&from)?);
        }
        let order: String = MODULES.iter().map(|(name, _)| format!("{name}\n")).collect();
        tree.file("modules/order", 0o644, order);
        for (name, text) in texts {
            tree.file(&format!("text/{name}"), 0o644, *text);
        }
        let archive = tree
            .archive()
            .map_err(|file| Error::Image { path: file.into(), what: "too large for an initramfs".into() })?;
        files.file("rig/linux-initrd", 0o644, archive);
        Ok(())
    }
}
