//! How the two ends come together: the server makes and grants the pages, the client maps what it is told of.
//!
//! What a client is told, by XenStore or otherwise, is an [`Address`]. With revokable grants the server's pages are its own
//! again whenever it likes; without, a client that holds on to them keeps them, and each side chooses whether it goes on then.

use std::io::{Read, Write};
use std::ops::Deref;

use xen_ioreq::abi::libxenvchan::{VCHAN_GRANTS, VCHAN_NOTIFY_WRITE, vchan_interface};
use xen_ioreq::linux::UnmapNotify;
use xen_ioreq::seam::{EventChannels, Prot};
use xen_ioreq::{DomId, Errno, GrantRef, PAGE_SIZE, Port};
use zerocopy::{FromZeros, IntoBytes};

use super::layout::{Direction, Layout, LayoutError, Place, indices};
use super::ring::{BadIndex, Consumer, Notify, Producer, Ring};
use super::{CLI_LIVE, Channel, GONE, NOT_YET, Role, SRV_LIVE, TAKEN_BACK, THERE};
use crate::grants::{
    GrantError, Granted, GrantedPages, Granter, Mapper, PlainMapping, RevokableGrant, RevokableGranter,
    RevokableMapper, RevokableMapping,
};
use crate::shared::SharedBytes;
use crate::sync::atomic::Ordering;
use crate::xenstore::{Permission, RELEASE, Store, StoreError, Transaction};

/// Why there is no channel.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// the pages cannot be shared
    #[error(transparent)]
    Grant(#[from] GrantError),
    /// the rings cannot be laid out
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// the event channel cannot be bound
    #[error("an event channel between us and {peer}: {errno}")]
    Events {
        /// The other side.
        peer: DomId,
        /// Why.
        errno: Errno,
    },
    /// the server has gone
    #[error("the server of the channel has gone")]
    Gone,
    /// the store does not do what it is asked for
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl SetupError {
    /// Whether it is about a server that is not there, or not any more, and may be over when one comes.
    fn may_pass(&self) -> bool {
        match self {
            Self::Gone | Self::Grant(GrantError::Refused { .. }) => true,
            // What Linux says to a reference that is nobody's; not to want of memory.
            Self::Grant(GrantError::Map { errno, .. }) => *errno == Errno::EINVAL,
            // Nothing is bound there, or it is for somebody else.
            Self::Events { errno, .. } => [Errno::EINVAL, Errno::EPERM, Errno::ESRCH].contains(errno),
            // Not written, not for us yet, or somebody else's attempt at it.
            Self::Store(StoreError::Refused { errno, .. }) => [Errno::ENOENT, Errno::EACCES].contains(errno),
            Self::Store(StoreError::NotANumber { .. }) => true,
            Self::Store(_)
            | Self::Layout(_)
            | Self::Grant(GrantError::Open(_) | GrantError::Grant { .. }) => false,
        }
    }
}

/// How large the rings are to be, at least; in bytes, at most [`MAX_RING`](super::MAX_RING) each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// From client to server.
    pub to_server: usize,
    /// From server to client.
    pub to_client: usize,
}

/// What a client has to know of a server's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// The server's domain.
    pub server: DomId,
    /// Reference of the shared page.
    pub page: GrantRef,
    /// The server's event channel.
    pub port: Port,
}

impl Address {
    /// Writes it below `path`, which the client may read, as libxenvchan does. A client that is linked with libxenvchan finds paths
    /// of at most 49 bytes.
    ///
    /// # Errors
    /// [`SetupError::Store`].
    pub fn publish<T: Read + Write>(
        &self,
        store: &mut Store<T>,
        path: &str,
        client: DomId,
    ) -> Result<(), SetupError> {
        let values =
            [(format!("{path}/ring-ref"), self.page.0), (format!("{path}/event-channel"), self.port.0)];
        let permissions = [Permission::Owner(self.server), Permission::Read(client)];
        Ok(store.transact(|store, tx| {
            values.iter().try_for_each(|(path, value)| {
                store.write(tx, path, value.to_string().as_bytes())?;
                store.set_permissions(tx, path, &permissions)
            })
        })?)
    }

    /// Takes `path` with what was written below it away again, as libxenvchan does, so that no client finds a server that has
    /// gone. Nothing there is no error.
    ///
    /// # Errors
    /// [`SetupError::Store`].
    pub fn withdraw<T: Read + Write>(store: &mut Store<T>, path: &str) -> Result<(), SetupError> {
        match store.remove(Transaction::NONE, path) {
            Err(StoreError::Refused { errno: Errno::ENOENT, .. }) => Ok(()),
            other => Ok(other?),
        }
    }

    /// Waits for a server of domain `server` at `path`, and does `connect`, until that is done: a server that is not there yet, or
    /// that has left only its address, is waited for. The store's connection is for this alone meanwhile.
    ///
    /// # Errors
    /// [`SetupError::Gone`]: the server's domain has gone, of which only dom0 is told. [`SetupError::Store`]. Others that
    /// `connect` has, which waiting does not help.
    pub fn wait<T: Read + Write, R>(
        store: &mut Store<T>,
        path: &str,
        server: DomId,
        mut connect: impl FnMut(Self) -> Result<R, SetupError>,
    ) -> Result<R, SetupError> {
        const PLACES: &str = "server";
        const DEATHS: &str = "deaths";
        store.watch(path, PLACES)?;
        store.watch(RELEASE, DEATHS)?;
        let done = loop {
            // What changes after this fires again.
            store.wait()?;
            match Self::find(store, path, server).and_then(&mut connect) {
                Err(e) if !e.may_pass() => break Err(e),
                Err(_) if store.is_known_gone(server)? => break Err(SetupError::Gone),
                Err(_) => {}
                done => break done,
            }
        };
        store.unwatch(path, PLACES)?;
        store.unwatch(RELEASE, DEATHS)?;
        done
    }

    /// Reads what a server has written below `path`. The server's domain is what the caller knows, not what it is told.
    ///
    /// # Errors
    /// [`SetupError::Store`]: ENOENT while there is no server.
    pub fn find<T: Read + Write>(
        store: &mut Store<T>,
        path: &str,
        server: DomId,
    ) -> Result<Self, SetupError> {
        let none = Transaction::NONE;
        let page = GrantRef(store.read_number(none, &format!("{path}/ring-ref"))?);
        let port = Port(store.read_number(none, &format!("{path}/event-channel"))?);
        Ok(Self { server, page, port })
    }
}

/// What holds the pages of an end.
#[derive(Debug, Default)]
pub(super) enum Memory {
    /// Handed out.
    #[default]
    None,
    Granted(Granted),
    Revokable(RevokableGrant),
    Mapped {
        _mappings: Vec<PlainMapping>,
    },
    MappedRevokably {
        _mappings: Vec<RevokableMapping>,
    },
}

/// What a closed end leaves to its owner.
#[derive(Debug)]
pub enum Close {
    /// Nothing.
    Client,
    /// Pages that the client may still map, see [`Granted::end`].
    Server(Granted),
    /// Pages that come back by [`RevokableGrant::revoke`], or when they are dropped.
    RevokableServer(RevokableGrant),
}

impl Memory {
    pub(super) fn may_be_taken_back(&self) -> bool {
        matches!(self, Self::MappedRevokably { .. })
    }

    pub(super) fn into_close(self) -> Close {
        match self {
            Self::Granted(grants) => Close::Server(grants),
            Self::Revokable(grants) => Close::RevokableServer(grants),
            Self::None | Self::Mapped { .. } | Self::MappedRevokably { .. } => Close::Client,
        }
    }
}

impl<E: EventChannels> Channel<E> {
    /// A server's end for `client`, and what the client has to know; `me` is this domain. Its pages are the client's for as
    /// long as it holds on to them. `events` is for this channel alone.
    ///
    /// # Errors
    /// [`SetupError::Grant`], [`SetupError::Layout`], [`SetupError::Events`].
    pub fn serve(
        granter: &dyn Granter,
        events: E,
        me: DomId,
        client: DomId,
        sizes: Sizes,
    ) -> Result<(Self, Address), SetupError> {
        Self::serve_with(events, me, client, sizes, Memory::Granted, |port, pages| {
            let on_end = UnmapNotify { clear_byte: Some(SRV_LIVE), send_event: Some(port) };
            granter.grant(client, pages, Prot::ReadWrite, on_end)
        })
    }

    /// As [`serve`](Self::serve), with pages that come back whatever the client does.
    ///
    /// # Errors
    /// As [`serve`](Self::serve).
    pub fn serve_revokably(
        granter: &dyn RevokableGranter,
        events: E,
        me: DomId,
        client: DomId,
        sizes: Sizes,
    ) -> Result<(Self, Address), SetupError> {
        Self::serve_with(events, me, client, sizes, Memory::Revokable, |_, pages| {
            granter.grant_revokable(client, pages, Prot::ReadWrite)
        })
    }

    /// `grant` makes so many pages: the shared one, and behind it those of the rings. All at once, so that the shared page has the
    /// first of the references and is the first that a client loses.
    fn serve_with<P: Deref<Target = GrantedPages>>(
        events: E,
        me: DomId,
        client: DomId,
        sizes: Sizes,
        memory: impl FnOnce(P) -> Memory,
        grant: impl FnOnce(Port, usize) -> Result<P, GrantError>,
    ) -> Result<(Self, Address), SetupError> {
        let layout = Layout::of_sizes(sizes.to_server, sizes.to_client)?;
        let port = events.bind_unbound(client).map_err(|errno| SetupError::Events { peer: client, errno })?;
        // The port is closed with the event channels if anything fails from here on.
        let pages = grant(port, 1 + layout.pages(Direction::Left) + layout.pages(Direction::Right))?;
        let (page, head) = (
            pages.bytes().part(0..PAGE_SIZE),
            vchan_interface {
                left_order: layout.order(Direction::Left),
                right_order: layout.order(Direction::Right),
                cli_live: NOT_YET,
                srv_live: THERE,
                cli_notify: VCHAN_NOTIFY_WRITE,
                ..vchan_interface::default()
            },
        );
        let (first, own) = pages.refs().split_first().map_or((GrantRef(0), [].as_slice()), |(f, o)| (*f, o));
        for (at, gref) in (VCHAN_GRANTS..).step_by(size_of::<u32>()).zip(own) {
            page.write(at, gref.0.as_bytes());
        }
        let mut behind = PAGE_SIZE;
        let mut data = |direction| match layout.place(direction) {
            Place::InPage(range) => page.part(range),
            Place::Own { pages: count, .. } => {
                let start = behind;
                behind += count * PAGE_SIZE;
                pages.bytes().part(start..behind)
            }
        };
        let (left, right) = (data(Direction::Left), data(Direction::Right));
        page.write(0, head.as_bytes());
        let ends = ends(&page, Role::Server, (left, right), &head)?;
        let memory = memory(pages);
        let channel = Self::whole(Role::Server, page, ends, (events, port), memory);
        Ok((channel, Address { server: me, page: first, port }))
    }

    /// A client's end. The server's pages cannot be taken back while it lives. `events` is for this channel alone.
    ///
    /// # Errors
    /// [`SetupError::Grant`], also where the server has granted revokably; [`SetupError::Events`]; [`SetupError::Layout`]:
    /// a page that is no channel's; [`SetupError::Gone`].
    pub fn connect(mapper: &dyn Mapper, events: E, address: Address) -> Result<Self, SetupError> {
        let map = |port, prot, refs: &[GrantRef]| {
            let on_end = match port {
                Some(port) => UnmapNotify { clear_byte: Some(CLI_LIVE), send_event: Some(port) },
                None => UnmapNotify::default(),
            };
            let mapping = mapper.map(address.server, refs, prot, on_end)?;
            Ok((mapping.bytes().clone(), mapping))
        };
        Self::connect_with(events, address, map, |_mappings| Memory::Mapped { _mappings })
    }

    /// As [`connect`](Self::connect), to a server that can take its pages back at any time: then the channel is closed.
    ///
    /// # Errors
    /// As [`connect`](Self::connect), and [`SetupError::Grant`] where the server has granted plainly.
    pub fn connect_revokably(
        mapper: &dyn RevokableMapper,
        events: E,
        address: Address,
    ) -> Result<Self, SetupError> {
        let map = |_, prot, refs: &[GrantRef]| {
            let mapping = mapper.map_revokable(address.server, refs, prot, TAKEN_BACK)?;
            Ok((mapping.bytes().clone(), mapping))
        };
        Self::connect_with(events, address, map, |_mappings| Memory::MappedRevokably { _mappings })
    }

    fn connect_with<M>(
        events: E,
        address: Address,
        mut map: impl FnMut(Option<Port>, Prot, &[GrantRef]) -> Result<(SharedBytes, M), GrantError>,
        memory: impl FnOnce(Vec<M>) -> Memory,
    ) -> Result<Self, SetupError> {
        let peer = address.server;
        let port = events.bind_interdomain(peer, address.port);
        let port = port.map_err(|errno| SetupError::Events { peer, errno })?;
        let (page, mapping) = map(Some(port), Prot::ReadWrite, &[address.page])?;
        let mut mappings = vec![mapping];
        // Read once: what the server writes there later does not matter.
        let mut head = vchan_interface::new_zeroed();
        page.read(0, head.as_mut_bytes());
        if head.srv_live == GONE || head.srv_live == TAKEN_BACK {
            return Err(SetupError::Gone);
        }
        let layout = Layout::of_orders(head.left_order, head.right_order)?;
        let mut data = |direction, prot| match layout.place(direction) {
            Place::InPage(range) => Ok(page.part(range)),
            Place::Own { refs, .. } => {
                let mut bytes = vec![0; refs.len()];
                page.read(refs.start, &mut bytes);
                let refs = bytes.as_chunks().0.iter().map(|r| GrantRef(u32::from_ne_bytes(*r)));
                let (data, mapping) = map(None, prot, &refs.collect::<Vec<_>>())?;
                mappings.push(mapping);
                Ok::<_, GrantError>(data)
            }
        };
        let (left, right) = (data(Direction::Left, Prot::ReadWrite)?, data(Direction::Right, Prot::Read)?);
        let ends = ends(&page, Role::Client, (left, right), &head)?;
        page.u8(CLI_LIVE).store(THERE, Ordering::Release);
        let memory = memory(mappings);
        let channel = Self::whole(Role::Client, page, ends, (events, port), memory);
        // The server is told when the client is there, and tells when there is something.
        channel.notify().ask(VCHAN_NOTIFY_WRITE);
        channel.events.notify(port).map_err(|errno| SetupError::Events { peer, errno })?;
        Ok(channel)
    }

    /// An end at which nothing has happened yet.
    fn whole(
        role: Role,
        page: SharedBytes,
        (reads, writes): (Consumer, Producer),
        (events, port): (E, Port),
        memory: Memory,
    ) -> Self {
        Self { role, page, reads, writes, events, port, broken: false, dead: false, outlives: false, memory }
    }

    fn notify(&self) -> Notify {
        notify(&self.page, self.role)
    }
}

fn notify(page: &SharedBytes, role: Role) -> Notify {
    // Each asks in the byte of what the other is to do.
    let (cli, srv) = (
        std::mem::offset_of!(vchan_interface, cli_notify),
        std::mem::offset_of!(vchan_interface, srv_notify),
    );
    let (ours, peers) = if role == Role::Server { (cli, srv) } else { (srv, cli) };
    Notify::new(page.clone(), ours, peers)
}

/// What an end reads from and writes to, going on from the indices of `head`.
fn ends(
    page: &SharedBytes,
    role: Role,
    (left, right): (SharedBytes, SharedBytes),
    head: &vchan_interface,
) -> Result<(Consumer, Producer), LayoutError> {
    let left = (Ring::new(page.clone(), indices(Direction::Left), left), head.left);
    let right = (Ring::new(page.clone(), indices(Direction::Right), right), head.right);
    let ((reads, r), (writes, w)) = if role == Role::Server { (left, right) } else { (right, left) };
    let bad = |BadIndex| LayoutError::Indices;
    Ok((
        Consumer::new(reads, notify(page, role), r.cons, r.prod).map_err(bad)?,
        Producer::new(writes, notify(page, role), w.cons, w.prod).map_err(bad)?,
    ))
}
