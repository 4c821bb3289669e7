//! How often a grant is in use, by kind: as in Xen four counters, none of which may pass 128.

/// The most of each kind.
const MAX: u8 = 128;

/// Who uses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// The CPU: a mapping, or a copy.
    Host,
    /// Devices.
    Device,
}

/// The counters of one grant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pins {
    pub(crate) host_write: u8,
    pub(crate) host_read: u8,
    pub(crate) device_write: u8,
    pub(crate) device_read: u8,
}

impl Pins {
    fn counter(&mut self, side: Side, readonly: bool) -> &mut u8 {
        match (side, readonly) {
            (Side::Host, false) => &mut self.host_write,
            (Side::Host, true) => &mut self.host_read,
            (Side::Device, false) => &mut self.device_write,
            (Side::Device, true) => &mut self.device_read,
        }
    }

    pub(crate) fn any(self) -> bool {
        self != Self::default()
    }

    /// Whether one of them may write.
    pub(crate) fn writing(self) -> bool {
        self.host_write > 0 || self.device_write > 0
    }

    /// Whether one more of this kind is too many.
    pub(crate) fn full(mut self, side: Side, readonly: bool) -> bool {
        *self.counter(side, readonly) >= MAX
    }

    /// One more; the caller has asked whether there is room.
    pub(crate) fn add(&mut self, side: Side, readonly: bool) {
        let n = self.counter(side, readonly);
        *n = n.saturating_add(1);
    }

    /// One less.
    pub(crate) fn sub(&mut self, side: Side, readonly: bool) {
        let n = self.counter(side, readonly);
        *n = n.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_counts_to_128_by_itself() {
        let mut p = Pins::default();
        for _ in 0..128 {
            assert!(!p.full(Side::Host, true));
            p.add(Side::Host, true);
        }
        assert!(p.full(Side::Host, true) && !p.full(Side::Host, false) && !p.full(Side::Device, true));
        assert!(p.any() && !p.writing());
        p.add(Side::Device, false);
        assert!(p.writing());
        p.sub(Side::Device, false);
        (0..128).for_each(|_| p.sub(Side::Host, true));
        assert!(!p.any());
    }
}
