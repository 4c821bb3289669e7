//! What the threads of a process that drives a device need of the kernel for it.

use ioreq_server::privilege::{Syscalls, registers};

use super::{VfioDevice, ioctl};

/// What a thread needs that takes a device's interrupts, or may have to end its DMA: its config space, its interrupts, its reset. Its
/// registers are memory.
pub fn needs(device: &VfioDevice) -> Syscalls {
    [ioctl::DEVICE_SET_IRQS, ioctl::DEVICE_RESET]
        .into_iter()
        .fold(registers(&device.fd), |set, request| set.ioctl_of(&device.fd, request))
}
