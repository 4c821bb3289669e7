//! Boots real Xen under QEMU.

fn main() {}
