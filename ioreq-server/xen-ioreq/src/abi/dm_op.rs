//! `hvm/dm_op.h`: what a device model may do to its guest.
//!
//! `struct xen_dm_op` is `{ u32 op; u32 pad; union u }`: [`xen_dm_op_header`] is its head, the structs below are the
//! members of the union, placed at offset 8.

use super::{abi_consts, abi_structs};

abi_structs! {
    header "xen/hvm/dm_op.h";
    /// Head of `struct xen_dm_op`; the payload follows at offset 8.
    struct xen_dm_op = "struct xen_dm_op" {
        /// `XEN_DMOP_*`.
        op: u32,
        /// Must be 0.
        pad: u32,
        /// The operation's struct, zero-extended.
        u: [u64; 3],
    }
    /// Create a server.
    struct xen_dm_op_create_ioreq_server = "struct xen_dm_op_create_ioreq_server" {
        /// In: `HVM_IOREQSRV_BUFIOREQ_*`.
        handle_bufioreq: u8,
        /// Zero.
        pad: [u8; 3],
        /// Out: the server's number.
        id: u16,
        /// Tail padding of the C struct's alignment.
        _tail (""): u16_tail,
    }
}

#[allow(non_camel_case_types, reason = "a placeholder without size")]
type u16_tail = [u16; 0];

abi_consts! {
    header "xen/hvm/dm_op.h";
    /// Create an IOREQ server.
    XEN_DMOP_create_ioreq_server: u32 = 1,
}
