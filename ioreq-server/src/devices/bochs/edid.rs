//! What the display says of itself as a monitor, so that the guest chooses a small mode.

/// A monitor that prefers 800x600 at 60 Hz: VESA EDID 1.4, one detailed timing.
pub(super) const EDID: [u8; 128] = {
    let header = [0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0];
    // "XEN", product, serial, 2026; version 1.4; digital, no size, gamma 2.2, the preferred timing comes first
    let monitor = [0x60, 0xae, 1, 0, 1, 0, 0, 0, 1, 36, 1, 4, 0x80, 0, 0, 120, 2];
    // 40 MHz; 800 + 256, 600 + 28; sync 40 + 128, 1 + 4, both positive
    let timing = [0xa0, 0x0f, 0x20, 0, 0x31, 0x58, 0x1c, 0x20, 0x28, 0x80, 0x14, 0, 0, 0, 0, 0, 0, 0x1e];
    let mut edid = [0; 128];
    edid.split_at_mut(8).0.copy_from_slice(&header);
    edid.split_at_mut(8).1.split_at_mut(17).0.copy_from_slice(&monitor);
    edid.split_at_mut(54).1.split_at_mut(18).0.copy_from_slice(&timing);
    let mut i = 0;
    let mut sum: u8 = 0;
    while i < 127 {
        if i >= 38 && i < 54 {
            // no standard timing
            edid[i] = 1;
        }
        sum = sum.wrapping_add(edid[i]);
        i += 1;
    }
    edid[127] = sum.wrapping_neg();
    edid
};
