//! The hypervisor and the dom0 kernel as QEMU's multiboot loader takes them: decompressed.
//!
//! Emulated, Xen would spend seconds at every boot on what takes the host a fraction of one.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use crate::error::{At as _, Error, Result};

/// What QEMU boots.
#[derive(Clone, Debug)]
pub(crate) struct Images {
    /// The hypervisor, 32-bit multiboot ELF.
    pub(crate) xen: PathBuf,
    /// The dom0 kernel, ELF.
    pub(crate) vmlinux: PathBuf,
}

impl Images {
    /// Decompresses both into `work`.
    ///
    /// # Errors
    /// A package that does not hold what it should.
    pub(crate) fn extract(unpacked: &crate::packages::Unpacked, work: &Path) -> Result<Self> {
        let images = Self { xen: work.join("xen.elf"), vmlinux: work.join("vmlinux.elf") };
        let from = unpacked.xen.join("boot/xen-4.17-amd64.gz");
        write_if_older(&from, &images.xen, |bytes| {
            let mut elf = Vec::new();
            let mut gzip = flate2::read::GzDecoder::new(bytes);
            gzip.read_to_end(&mut elf).map_err(|e| format!("not gzip: {e}"))?;
            Ok(elf)
        })?;
        let from = unpacked.xen.join(format!("boot/vmlinuz-{}", unpacked.linux));
        write_if_older(&from, &images.vmlinux, vmlinux_of)?;
        Ok(images)
    }
}

fn write_if_older(
    from: &Path,
    to: &Path,
    extract: impl Fn(&[u8]) -> std::result::Result<Vec<u8>, String>,
) -> Result<()> {
    let source = to.with_extension("source");
    let stamp = fs::metadata(from).at(from)?.modified().at(from)?;
    let stamp = format!("{} {stamp:?}", from.display());
    if to.is_file() && fs::read_to_string(&source).is_ok_and(|had| had == stamp) {
        return Ok(());
    }
    let bytes = fs::read(from).at(from)?;
    let elf = extract(&bytes)
        .and_then(|elf| if elf.starts_with(b"\x7fELF") { Ok(elf) } else { Err("no ELF image inside".into()) })
        .map_err(|what| Error::Image { path: from.to_owned(), what })?;
    fs::write(to, elf).at(to)?;
    fs::write(&source, stamp).at(&source)
}

/// The ELF kernel inside a bzImage: the payload that its setup header names, here one xz stream.
///
/// Offsets: Documentation/arch/x86/boot.rst of Linux, protocol 2.08.
fn vmlinux_of(image: &[u8]) -> std::result::Result<Vec<u8>, String> {
    let short = || "too short for a bzImage".to_owned();
    let word = |at: usize| -> std::result::Result<usize, String> {
        let bytes = image.get(at..at + 4).ok_or_else(short)?;
        let value = u32::from_le_bytes(bytes.try_into().map_err(|_| short())?);
        usize::try_from(value).map_err(|_| short())
    };
    if image.get(0x202..0x206) != Some(b"HdrS") {
        return Err("no bzImage setup header".to_owned());
    }
    let setup_sects = match *image.get(0x1f1).ok_or_else(short)? {
        0 => 4,
        n => usize::from(n),
    };
    let start = (setup_sects + 1) * 512 + word(0x248)?;
    let payload = image.get(start..start.saturating_add(word(0x24c)?)).ok_or_else(short)?;
    if !payload.starts_with(b"\xfd7zXZ\0") {
        return Err("the kernel's payload is not xz".to_owned());
    }
    let mut elf = Vec::new();
    // Behind the stream stands the length of the result, which is no part of it.
    let mut xz = lzma_rust2::XzReader::new(payload, false);
    xz.read_to_end(&mut elf).map_err(|e| format!("xz: {e}"))?;
    Ok(elf)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A bzImage with a setup of `sects` sectors and this payload `gap` bytes into the code.
    fn image(sects: u8, gap: u32, payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0; (usize::from(sects) + 1) * 512];
        image[0x1f1] = sects;
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x248..0x24c].copy_from_slice(&gap.to_le_bytes());
        let length = u32::try_from(payload.len()).unwrap();
        image[0x24c..0x250].copy_from_slice(&length.to_le_bytes());
        image.resize(image.len() + gap as usize, 0xcc);
        image.extend_from_slice(payload);
        image
    }

    /// `printf '\x7fELF' | xz`
    #[rustfmt::skip]
    const XZ_OF_ELF: &[u8] = &[
        0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00, 0x00, 0x04, 0xe6, 0xd6, 0xb4, 0x46, 0x02, 0x00, 0x21, 0x01,
        0x16, 0x00, 0x00, 0x00, 0x74, 0x2f, 0xe5, 0xa3, 0x01, 0x00, 0x03, 0x7f, 0x45, 0x4c, 0x46, 0x00,
        0x43, 0xd4, 0xa6, 0x8c, 0x22, 0xac, 0x14, 0x35, 0x00, 0x01, 0x1c, 0x04, 0x6f, 0x2c, 0x9c, 0xc1,
        0x1f, 0xb6, 0xf3, 0x7d, 0x01, 0x00, 0x00, 0x00, 0x00, 0x04, 0x59, 0x5a,
    ];

    #[test]
    fn the_payload_is_found_by_the_header_and_decompressed() {
        let mut payload = XZ_OF_ELF.to_vec();
        payload.extend_from_slice(&4u32.to_le_bytes());
        assert_eq!(vmlinux_of(&image(27, 0x2b0, &payload)).unwrap(), b"\x7fELF");
    }

    #[test]
    fn other_compressions_and_other_files_are_refused_by_name() {
        assert_eq!(vmlinux_of(&image(27, 8, b"\x1f\x8b\x08")).unwrap_err(), "the kernel's payload is not xz");
        assert_eq!(vmlinux_of(b"MZ").unwrap_err(), "no bzImage setup header");
        let mut cut = image(27, 8, XZ_OF_ELF);
        cut.truncate(cut.len() - 1);
        assert_eq!(vmlinux_of(&cut).unwrap_err(), "too short for a bzImage");
    }

    #[test]
    fn damaged_xz_is_an_error() {
        let mut payload = XZ_OF_ELF.to_vec();
        let middle = payload.len() / 2;
        payload[middle] ^= 0x40;
        assert!(vmlinux_of(&image(27, 8, &payload)).unwrap_err().starts_with("xz:"));
    }
}
