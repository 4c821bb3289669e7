//! A picture as a PNG file.

use std::fs;
use std::io::BufWriter;
use std::path::Path;

use mediated_gpu::vgpu::display::Surface;

use crate::Error;

/// Writes pixels of 32 bits (blue in the lowest byte, the highest unused) as an RGB PNG. The same pixels give the same
/// bytes.
pub(crate) fn write(path: &Path, width: u32, height: u32, pixels: &[u32]) -> Result<(), Error> {
    let say = |e: &dyn std::fmt::Display| format!("{}: {e}", path.display());
    if let Some(dir) = path.parent().filter(|d| !d.as_os_str().is_empty()) {
        fs::create_dir_all(dir).map_err(|e| say(&e))?;
    }
    let file = fs::File::create(path).map_err(|e| say(&e))?;
    encode(file, width, height, pixels).map_err(|e| say(&e).into())
}

/// The same, to an empty file.
pub(crate) fn encode(
    file: fs::File,
    width: u32,
    height: u32,
    pixels: &[u32],
) -> Result<(), png::EncodingError> {
    let rgb: Vec<u8> = pixels
        .iter()
        .flat_map(|p| {
            let [b, g, r, _] = p.to_le_bytes();
            [r, g, b]
        })
        .collect();
    let mut encoder = png::Encoder::new(BufWriter::new(file), width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_compression(png::Compression::Balanced);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(&rgb)?;
    writer.finish()
}

/// The pixels of a surface, each as the guest stored it.
pub(crate) fn pixels(surface: &Surface) -> Vec<u32> {
    surface.bgrx.as_chunks::<4>().0.iter().map(|p| u32::from_le_bytes(*p)).collect()
}
