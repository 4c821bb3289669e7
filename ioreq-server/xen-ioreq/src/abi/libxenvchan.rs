//! `io/libxenvchan.h`: the page that the two ends of a byte channel share.
//!
//! *Left* is written by the client and read by the server, *right* the other way round. Behind the struct lie the
//! references of the rings' own pages, left first.

abi_structs! {
    header "xen/io/libxenvchan.h";
    /// Indices of one direction. They run free; the place in the ring is the index modulo the ring's size.
    struct ring_shared = "struct ring_shared" {
        /// Bytes read so far, by the reader.
        cons: u32,
        /// Bytes written so far, by the writer.
        prod: u32,
    }
    /// Head of the shared page.
    struct vchan_interface = "struct vchan_interface" {
        /// From client to server.
        left: ring_shared,
        /// From server to client.
        right: ring_shared,
        /// log2 of the size of the left ring in bytes. 10: 1024 bytes into the page. 11: 2048. 12 and above: pages of its own.
        left_order: u16,
        /// The same of the right one.
        right_order: u16,
        /// 0: the client has gone. 1: it is there. 2: none has come yet.
        cli_live: u8,
        /// 0: the server has gone. 1: it is there.
        srv_live: u8,
        /// `VCHAN_NOTIFY_*`: of what the client is to tell the server.
        cli_notify: u8,
        /// `VCHAN_NOTIFY_*`: of what the server is to tell the client.
        srv_notify: u8,
    }
}

abi_consts! {
    header "xen/io/libxenvchan.h";
    /// Tell when something was written.
    VCHAN_NOTIFY_WRITE: u8 = 1,
    /// Tell when something was read.
    VCHAN_NOTIFY_READ: u8 = 2,
    /// Offset of the references.
    VCHAN_GRANTS ("offsetof(struct vchan_interface, grants)"): usize = core::mem::size_of::<vchan_interface>(),
}
