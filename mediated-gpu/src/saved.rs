//! A guest's vGPU as a file: what `xl save` is for the guest's memory.
//!
//! A head of 20 bytes (all little-endian): [`MAGIC`], [`VERSION`], length and CRC-32 of what follows; then that, in postcard's
//! wire format. A file is an allegation: what does not add up is an error, and nothing is taken in advance for it.

use ioreq_server::pci::ConfigSpace;
use serde::{Deserialize, Serialize};
use xen_ioreq::Gfn;

use crate::mediator::SavedVgpu;
use crate::vgpu::slice::VgpuType;

/// The first bytes of such a file.
pub const MAGIC: [u8; 8] = *b"mgpuVGPU";
/// The format. Another one is refused: it would be read wrongly.
pub const VERSION: u32 = 1;
/// Bytes of the head.
const HEAD: usize = 20;
/// Bytes that a file may have at most; the largest type's are some 6 MiB.
pub const MOST_BYTES: u64 = 64 << 20;
/// Bytes of a function's configuration space.
const CONFIG_BYTES: usize = 256;

/// What a file holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedGuest {
    /// Bytes of the aperture, BAR2.
    aperture: u64,
    config: Vec<u8>,
    vgpu: SavedVgpu,
}

/// A file is not what it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    /// Another kind of file.
    #[error("this is no saved vGPU")]
    Magic,
    /// Of another mgpu.
    #[error("a saved vGPU of version {0}; this mgpu reads version {VERSION}")]
    Version(u32),
    /// Cut short, or gone on with.
    #[error("a saved vGPU of {said} bytes, of which there are {there}")]
    Length {
        /// What its head says.
        said: u64,
        /// What there is.
        there: u64,
    },
    /// Damaged.
    #[error("a saved vGPU that is damaged: its checksum is wrong")]
    Checksum,
    /// Whole, and still nonsense.
    #[error("a saved vGPU that makes no sense: {0}")]
    Content(String),
}

impl SavedGuest {
    /// A vGPU that is paused, with its function's configuration space.
    pub(crate) fn new(aperture: u64, config: &ConfigSpace, vgpu: SavedVgpu) -> Self {
        Self { aperture, config: config.bytes().to_vec(), vgpu }
    }

    /// The file.
    pub fn to_bytes(&self) -> Result<Vec<u8>, FileError> {
        let content = postcard::to_stdvec(self).map_err(|e| FileError::Content(e.to_string()))?;
        let mut file = Vec::with_capacity(HEAD + content.len());
        file.extend(MAGIC);
        file.extend(VERSION.to_le_bytes());
        file.extend(u32::try_from(content.len()).unwrap_or(u32::MAX).to_le_bytes());
        file.extend(crc32fast::hash(&content).to_le_bytes());
        file.extend(content);
        Ok(file)
    }

    /// What a file holds.
    pub fn from_bytes(file: &[u8]) -> Result<Self, FileError> {
        let (magic, rest) = file.split_first_chunk::<8>().ok_or(FileError::Magic)?;
        if *magic != MAGIC {
            return Err(FileError::Magic);
        }
        let short = || FileError::Length { said: HEAD as u64, there: file.len() as u64 };
        let (version, rest) = rest.split_first_chunk::<4>().ok_or_else(short)?;
        let version = u32::from_le_bytes(*version);
        if version != VERSION {
            return Err(FileError::Version(version));
        }
        let (length, rest) = rest.split_first_chunk::<4>().ok_or_else(short)?;
        let (checksum, content) = rest.split_first_chunk::<4>().ok_or_else(short)?;
        let said = HEAD as u64 + u64::from(u32::from_le_bytes(*length));
        if said != file.len() as u64 {
            return Err(FileError::Length { said, there: file.len() as u64 });
        }
        if crc32fast::hash(content) != u32::from_le_bytes(*checksum) {
            return Err(FileError::Checksum);
        }
        let (saved, rest) =
            postcard::take_from_bytes::<Self>(content).map_err(|e| FileError::Content(e.to_string()))?;
        if !rest.is_empty() {
            return Err(FileError::Content(format!("{} bytes are left over", rest.len())));
        }
        if saved.config.len() != CONFIG_BYTES {
            return Err(FileError::Content("a configuration space that is not of 256 bytes".into()));
        }
        Ok(saved)
    }

    /// The vGPU's type.
    pub fn kind(&self) -> VgpuType {
        VgpuType::of_size(self.vgpu.size())
    }

    /// Bytes of the aperture that it needs.
    pub fn aperture(&self) -> u64 {
        self.aperture
    }

    /// The first frame of its translation table, if that is memory of the guest's.
    pub fn table(&self) -> Option<Gfn> {
        self.vgpu.table()
    }

    pub(crate) fn vgpu(&self) -> &SavedVgpu {
        &self.vgpu
    }

    /// Writes what was saved to a configuration space, as the guest would: what it cannot change stays as it is.
    pub(crate) fn configure(&self, config: &mut ConfigSpace) {
        if let Some(image) = self.config.first_chunk::<CONFIG_BYTES>() {
            config.restore(image);
        }
    }
}

#[cfg(test)]
mod tests;
