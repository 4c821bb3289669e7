//! The PCI numbers of gen8 graphics (i915 `i915_pciids.h`: Broadwell; Cherryview, whose registers differ, is left out).

/// Intel.
pub const VENDOR: u16 = 0x8086;

/// A GPU of gen8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Id {
    /// PCI device number.
    pub device: u16,
    /// Its size, 1 to 3. A GT3 has a second video engine, which is not used.
    pub gt: u8,
}

const fn of(gt: u8, devices: [u16; 6]) -> [Id; 6] {
    let mut ids = [Id { device: 0, gt }; 6];
    let mut i = 0;
    while i < 6 {
        ids[i].device = devices[i];
        i += 1;
    }
    ids
}

/// Broadwell, by size: halo, ULT, server, Iris, workstation, ULX.
pub const BROADWELL: [[Id; 6]; 3] = [
    of(1, [0x1602, 0x1606, 0x160a, 0x160b, 0x160d, 0x160e]),
    of(2, [0x1612, 0x1616, 0x161a, 0x161b, 0x161d, 0x161e]),
    of(3, [0x1622, 0x1626, 0x162a, 0x162b, 0x162d, 0x162e]),
];

/// The GPU of these PCI numbers, if it is one of gen8.
pub fn find(vendor: u16, device: u16) -> Option<Id> {
    BROADWELL.as_flattened().iter().copied().find(|id| vendor == VENDOR && id.device == device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpu_of_gen8_is_known_by_its_numbers_and_no_other_is() {
        assert_eq!(find(0x8086, 0x1616), Some(Id { device: 0x1616, gt: 2 }));
        assert_eq!(find(0x8086, 0x162b).map(|id| id.gt), Some(3));
        // another vendor, Skylake, Cherryview, QEMU's edu
        for (vendor, device) in [(0x1002, 0x1616), (0x8086, 0x1916), (0x8086, 0x22b0), (0x1234, 0x11e8)] {
            assert_eq!(find(vendor, device), None);
        }
    }
}
