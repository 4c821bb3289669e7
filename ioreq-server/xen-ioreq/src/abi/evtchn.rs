//! `sys/evtchn.h`: Linux's `/dev/xen/evtchn`. Reading gives pending ports (u32 each), writing ports unmasks them.

abi_structs! {
    header "xen/sys/evtchn.h";
    /// [`IOCTL_EVTCHN_BIND_VIRQ`]; the port is the ioctl's value.
    struct ioctl_evtchn_bind_virq = "struct ioctl_evtchn_bind_virq" {
        /// `VIRQ_*`.
        virq: u32,
    }
    /// [`IOCTL_EVTCHN_BIND_INTERDOMAIN`]; the local port is the ioctl's value.
    struct ioctl_evtchn_bind_interdomain = "struct ioctl_evtchn_bind_interdomain" {
        /// Domain at the other end.
        remote_domain: u32,
        /// Its port.
        remote_port: u32,
    }
    /// [`IOCTL_EVTCHN_BIND_UNBOUND_PORT`]; the port is the ioctl's value.
    struct ioctl_evtchn_bind_unbound_port = "struct ioctl_evtchn_bind_unbound_port" {
        /// Domain that may bind to it.
        remote_domain: u32,
    }
    /// [`IOCTL_EVTCHN_UNBIND`].
    struct ioctl_evtchn_unbind = "struct ioctl_evtchn_unbind" {
        /// Local port.
        port: u32,
    }
    /// [`IOCTL_EVTCHN_NOTIFY`].
    struct ioctl_evtchn_notify = "struct ioctl_evtchn_notify" {
        /// Local port.
        port: u32,
    }
    /// [`IOCTL_EVTCHN_RESTRICT_DOMID`].
    struct ioctl_evtchn_restrict_domid = "struct ioctl_evtchn_restrict_domid" {
        /// The one domain that may be bound to from then on.
        domid: u16,
    }
}

abi_consts! {
    header "xen/sys/evtchn.h";
    /// Bind to a virtual interrupt.
    IOCTL_EVTCHN_BIND_VIRQ: u32 = super::ioc('E', 0, core::mem::size_of::<ioctl_evtchn_bind_virq>()),
    /// Bind to a port of another domain.
    IOCTL_EVTCHN_BIND_INTERDOMAIN: u32 = super::ioc('E', 1, core::mem::size_of::<ioctl_evtchn_bind_interdomain>()),
    /// A port to which another domain may bind.
    IOCTL_EVTCHN_BIND_UNBOUND_PORT: u32 = super::ioc('E', 2, core::mem::size_of::<ioctl_evtchn_bind_unbound_port>()),
    /// Close a port.
    IOCTL_EVTCHN_UNBIND: u32 = super::ioc('E', 3, core::mem::size_of::<ioctl_evtchn_unbind>()),
    /// Send an event.
    IOCTL_EVTCHN_NOTIFY: u32 = super::ioc('E', 4, core::mem::size_of::<ioctl_evtchn_notify>()),
    /// Empty the ring.
    IOCTL_EVTCHN_RESET: u32 = super::ioc('E', 5, 0),
    /// Restrict the descriptor to one domain.
    IOCTL_EVTCHN_RESTRICT_DOMID: u32 = super::ioc('E', 6, core::mem::size_of::<ioctl_evtchn_restrict_domid>()),
}
