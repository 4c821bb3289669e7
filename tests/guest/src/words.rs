//! Taking words apart, where a cast would need an excuse each time.

/// The lower 32 bits.
#[expect(clippy::cast_possible_truncation, reason = "that is its job")]
pub(crate) const fn lo32(v: u64) -> u32 {
    v as u32
}

/// The upper 32 bits.
pub(crate) const fn hi32(v: u64) -> u32 {
    lo32(v >> 32)
}

/// The lower 16 bits.
#[expect(clippy::cast_possible_truncation, reason = "that is its job")]
pub(crate) const fn lo16(v: u32) -> u16 {
    v as u16
}

/// The lower 8 bits.
#[expect(clippy::cast_possible_truncation, reason = "that is its job")]
pub(crate) const fn lo8(v: u64) -> u8 {
    v as u8
}
