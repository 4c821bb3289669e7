//! Where clients come in: a socket's file, or a port of this host that only this host reaches.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use mio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use mio::{Interest, Registry, Token, event::Source};

/// An address for clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A socket's file. Who may open it may look.
    Path(PathBuf),
    /// A port of a loopback address. Everybody on this host may look.
    Local(SocketAddr),
}

/// An address that is none, or that others than this host reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadAddress {
    /// Neither a path nor an address.
    #[error("write 127.0.0.1:5900, or a path with a / in it")]
    Neither,
    /// An address that other hosts reach, too.
    #[error(
        "only this host may look, since there is no password: use 127.0.0.1, and a tunnel from elsewhere"
    )]
    Public,
}

impl FromStr for Address {
    type Err = BadAddress;

    fn from_str(s: &str) -> Result<Self, BadAddress> {
        if s.contains('/') {
            return Ok(Self::Path(s.into()));
        }
        let address: SocketAddr = s.parse().map_err(|_| BadAddress::Neither)?;
        if address.ip().is_loopback() { Ok(Self::Local(address)) } else { Err(BadAddress::Public) }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => path.display().fmt(f),
            Self::Local(address) => address.fmt(f),
        }
    }
}

/// A bound address.
#[derive(Debug)]
pub enum Listener {
    /// A socket's file.
    Unix(UnixListener),
    /// A port.
    Tcp(TcpListener),
}

/// A client's connection.
#[derive(Debug)]
pub(super) enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Listener {
    /// Binds an address. A socket's file is this process's user's alone, and must not be there yet.
    pub fn bind(address: &Address) -> io::Result<Self> {
        match address {
            Address::Local(address) => TcpListener::bind(*address).map(Self::Tcp),
            Address::Path(path) => {
                let listener = UnixListener::bind(path)?;
                // Between the two nobody else's connection is accepted, and the mode counts when one is made.
                std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
                Ok(Self::Unix(listener))
            }
        }
    }

    /// The port that was bound, if it is one.
    pub fn local(&self) -> Option<SocketAddr> {
        match self {
            Self::Unix(_) => None,
            Self::Tcp(listener) => listener.local_addr().ok(),
        }
    }

    pub(super) fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Unix(listener) => listener.accept().map(|(stream, _)| Stream::Unix(stream)),
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept()?;
                // A picture's last bytes are not to wait for more; a client that has gone already is met soon enough.
                if let Err(e) = stream.set_nodelay(true) {
                    log::debug!("a viewer's socket: {e}");
                }
                Ok(Stream::Tcp(stream))
            }
        }
    }

    pub(super) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        let source: &mut dyn Source = match self {
            Self::Unix(listener) => listener,
            Self::Tcp(listener) => listener,
        };
        source.register(registry, token, Interest::READABLE)
    }
}

impl Stream {
    pub(super) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        let source: &mut dyn Source = match self {
            Self::Unix(stream) => stream,
            Self::Tcp(stream) => stream,
        };
        source.register(registry, token, Interest::READABLE | Interest::WRITABLE)
    }
}

impl io::Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.read(buf),
            Self::Tcp(stream) => stream.read(buf),
        }
    }
}

impl io::Write for Stream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.write(buf),
            Self::Tcp(stream) => stream.write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_is_a_path_or_this_hosts_alone() {
        assert_eq!("/run/a".parse(), Ok(Address::Path("/run/a".into())));
        assert!(matches!("127.0.0.1:5900".parse(), Ok(Address::Local(_))));
        assert!(matches!("[::1]:5900".parse(), Ok(Address::Local(_))));
        for public in ["0.0.0.0:5900", "10.0.0.1:1", "[::]:5900"] {
            assert_eq!(public.parse::<Address>(), Err(BadAddress::Public), "{public}");
        }
        for neither in ["", "5900", "localhost:5900", "127.0.0.1"] {
            assert_eq!(neither.parse::<Address>(), Err(BadAddress::Neither), "{neither}");
        }
    }
}
