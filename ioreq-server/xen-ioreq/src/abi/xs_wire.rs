//! `io/xs_wire.h`: messages between XenStore and its clients. Each is a head and a payload of mostly nul-terminated strings.

abi_structs! {
    header "xen/io/xs_wire.h";
    /// Head of a message.
    struct xsd_sockmsg = "struct xsd_sockmsg" {
        /// `XS_*`.
        r#type ("type"): u32,
        /// Echoed in the answer.
        req_id: u32,
        /// Transaction, 0 for none.
        tx_id: u32,
        /// Bytes of payload.
        len: u32,
    }
}

abi_consts! {
    header "xen/io/xs_wire.h";
    /// Children of a node.
    XS_DIRECTORY: u32 = 1,
    /// Value of a node.
    XS_READ: u32 = 2,
    /// Who may use a node.
    XS_GET_PERMS: u32 = 3,
    /// Tell of changes below a node.
    XS_WATCH: u32 = 4,
    /// No longer.
    XS_UNWATCH: u32 = 5,
    /// Begin a transaction.
    XS_TRANSACTION_START: u32 = 6,
    /// End it; payload `T` or `F`.
    XS_TRANSACTION_END: u32 = 7,
    /// Path of a domain.
    XS_GET_DOMAIN_PATH: u32 = 10,
    /// Set a node's value.
    XS_WRITE: u32 = 11,
    /// Make an empty node.
    XS_MKDIR: u32 = 12,
    /// Remove a node and all below it.
    XS_RM: u32 = 13,
    /// Say who may use a node.
    XS_SET_PERMS: u32 = 14,
    /// Not an answer: a watched node has changed.
    XS_WATCH_EVENT: u32 = 15,
    /// The answer is an error, by name.
    XS_ERROR: u32 = 16,
    /// Whether a domain is known and not on its way out: `T` or `F`.
    XS_IS_DOMAIN_INTRODUCED: u32 = 17,
    /// Longest payload, in bytes.
    XENSTORE_PAYLOAD_MAX: usize = 4096,
    /// Longest absolute path, in bytes.
    XENSTORE_ABS_PATH_MAX: usize = 3072,
}
