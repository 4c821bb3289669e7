//! `vcpu.h`: a guest's own virtual CPUs.

abi_structs! {
    header "xen/vcpu.h";
}

abi_consts! {
    header "xen/vcpu.h";
    /// Give a virtual CPU its first registers ([`vcpu_hvm_context`](super::hvm_vcpu::vcpu_hvm_context) in HVM guests).
    VCPUOP_initialise: u32 = 0,
    /// Let it run.
    VCPUOP_up: u32 = 1,
    /// Stop it.
    VCPUOP_down: u32 = 2,
    /// Whether it runs.
    VCPUOP_is_up: u32 = 3,
    /// How long it has been in which state.
    VCPUOP_get_runstate_info: u32 = 4,
    /// The same, kept up to date in the guest's memory.
    VCPUOP_register_runstate_memory_area: u32 = 5,
    /// A timer that repeats.
    VCPUOP_set_periodic_timer: u32 = 6,
    /// Stop it.
    VCPUOP_stop_periodic_timer: u32 = 7,
    /// A timer that does not.
    VCPUOP_set_singleshot_timer: u32 = 8,
    /// Stop it.
    VCPUOP_stop_singleshot_timer: u32 = 9,
    /// Where its `struct vcpu_info` is.
    VCPUOP_register_vcpu_info: u32 = 10,
    /// Send it an NMI.
    VCPUOP_send_nmi: u32 = 11,
    /// Which physical CPU it runs on.
    VCPUOP_get_physid: u32 = 12,
    /// Where its `struct vcpu_time_info` is, by address.
    VCPUOP_register_vcpu_time_memory_area: u32 = 13,
}
