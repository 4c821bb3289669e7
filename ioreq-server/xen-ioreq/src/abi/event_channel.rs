//! `event_channel.h`: the operations on event channels.

abi_structs! {
    header "xen/event_channel.h";
    /// [`EVTCHNOP_alloc_unbound`].
    struct evtchn_alloc_unbound = "struct evtchn_alloc_unbound" {
        /// Domain that gets the port.
        dom: u16,
        /// Domain that may bind to it.
        remote_dom: u16,
        /// Out: the port.
        port: u32,
    }
    /// [`EVTCHNOP_bind_interdomain`].
    struct evtchn_bind_interdomain = "struct evtchn_bind_interdomain" {
        /// Domain at the other end.
        remote_dom: u16,
        /// Padding to the C struct's alignment.
        _pad (""): u16,
        /// Its port.
        remote_port: u32,
        /// Out: the caller's port.
        local_port: u32,
    }
    /// [`EVTCHNOP_bind_virq`].
    struct evtchn_bind_virq = "struct evtchn_bind_virq" {
        /// `VIRQ_*`.
        virq: u32,
        /// vCPU.
        vcpu: u32,
        /// Out: the port.
        port: u32,
    }
    /// [`EVTCHNOP_bind_pirq`].
    struct evtchn_bind_pirq = "struct evtchn_bind_pirq" {
        /// Interrupt.
        pirq: u32,
        /// [`BIND_PIRQ__WILL_SHARE`].
        flags: u32,
        /// Out: the port.
        port: u32,
    }
    /// [`EVTCHNOP_bind_ipi`].
    struct evtchn_bind_ipi = "struct evtchn_bind_ipi" {
        /// vCPU.
        vcpu: u32,
        /// Out: the port.
        port: u32,
    }
    /// [`EVTCHNOP_close`].
    struct evtchn_close = "struct evtchn_close" {
        /// The port.
        port: u32,
    }
    /// [`EVTCHNOP_send`].
    struct evtchn_send = "struct evtchn_send" {
        /// The port.
        port: u32,
    }
    /// [`EVTCHNOP_status`].
    struct evtchn_status = "struct evtchn_status" {
        /// Domain.
        dom: u16,
        /// Padding to the C struct's alignment.
        _pad (""): u16,
        /// Its port.
        port: u32,
        /// Out: `EVTCHNSTAT_*`.
        status: u32,
        /// Out: vCPU that is notified.
        vcpu: u32,
        /// Out: remote domain if unbound or interdomain; low half of the pirq or virq number otherwise.
        remote_dom ("u.interdomain.dom"): u16,
        /// High half of the pirq or virq number.
        _pad2 (""): u16,
        /// Out: remote port if interdomain.
        remote_port ("u.interdomain.port"): u32,
    }
    /// [`EVTCHNOP_bind_vcpu`].
    struct evtchn_bind_vcpu = "struct evtchn_bind_vcpu" {
        /// The port.
        port: u32,
        /// vCPU to notify.
        vcpu: u32,
    }
    /// [`EVTCHNOP_unmask`].
    struct evtchn_unmask = "struct evtchn_unmask" {
        /// The port.
        port: u32,
    }
    /// [`EVTCHNOP_reset`].
    struct evtchn_reset = "struct evtchn_reset" {
        /// Domain.
        dom: u16,
    }
    /// [`EVTCHNOP_init_control`].
    struct evtchn_init_control = "struct evtchn_init_control" {
        /// Frame of the control block.
        control_gfn: u64,
        /// Offset in it.
        offset: u32,
        /// vCPU.
        vcpu: u32,
        /// Out: bits of a link field.
        link_bits: u8,
        /// Zero.
        _pad: [u8; 7],
    }
    /// [`EVTCHNOP_expand_array`].
    struct evtchn_expand_array = "struct evtchn_expand_array" {
        /// Frame for more event words.
        array_gfn: u64,
    }
    /// [`EVTCHNOP_set_priority`].
    struct evtchn_set_priority = "struct evtchn_set_priority" {
        /// The port.
        port: u32,
        /// 0 highest to 15.
        priority: u32,
    }
}

abi_consts! {
    header "xen/event_channel.h";
    /// Bind to a port of another domain.
    EVTCHNOP_bind_interdomain: u32 = 0,
    /// Bind to a virtual interrupt.
    EVTCHNOP_bind_virq: u32 = 1,
    /// Bind to a physical interrupt.
    EVTCHNOP_bind_pirq: u32 = 2,
    /// Close a port.
    EVTCHNOP_close: u32 = 3,
    /// Send an event.
    EVTCHNOP_send: u32 = 4,
    /// What a port is bound to.
    EVTCHNOP_status: u32 = 5,
    /// A port to which another domain may bind.
    EVTCHNOP_alloc_unbound: u32 = 6,
    /// A port between vCPUs of the caller.
    EVTCHNOP_bind_ipi: u32 = 7,
    /// Which vCPU is notified.
    EVTCHNOP_bind_vcpu: u32 = 8,
    /// Unmask a port.
    EVTCHNOP_unmask: u32 = 9,
    /// Close all ports.
    EVTCHNOP_reset: u32 = 10,
    /// Set up the FIFO ABI for a vCPU.
    EVTCHNOP_init_control: u32 = 11,
    /// More event words for the FIFO ABI.
    EVTCHNOP_expand_array: u32 = 12,
    /// Priority of a port (FIFO ABI).
    EVTCHNOP_set_priority: u32 = 13,
    /// bind_pirq: the line may be shared.
    BIND_PIRQ__WILL_SHARE: u32 = 1,
    /// Free.
    EVTCHNSTAT_closed: u32 = 0,
    /// Waits to be bound by another domain.
    EVTCHNSTAT_unbound: u32 = 1,
    /// Connected to another domain.
    EVTCHNSTAT_interdomain: u32 = 2,
    /// Bound to a physical interrupt.
    EVTCHNSTAT_pirq: u32 = 3,
    /// Bound to a virtual interrupt.
    EVTCHNSTAT_virq: u32 = 4,
    /// Bound to a vCPU of the caller.
    EVTCHNSTAT_ipi: u32 = 5,
    /// Ports of a domain with the 2-level ABI.
    EVTCHN_2L_NR_CHANNELS: u32 = 4096,
    /// Ports of a domain with the FIFO ABI.
    EVTCHN_FIFO_NR_CHANNELS: u32 = 1 << 17,
}
