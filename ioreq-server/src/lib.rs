//! Be an IOREQ server.
