//! The shape of a shared picture, and what a viewer is told of it, as bytes from somebody who is not trusted: a message of a
//! channel's, or nodes of XenStore.

use std::io::{Read, Write};

use xen_ioreq::{DomId, Errno, GrantRef, PAGE_SIZE};

use super::SurfaceError;
use crate::xenstore::{Permission, Store, StoreError, Transaction};

/// Most pixels of a line, and most lines.
const MOST: u32 = 16384;
/// Bytes of a pixel.
const PIXEL: u32 = 4;
/// Words of an invitation before the references: a mark, width, height, stride.
const HEAD: usize = 4;
/// Bytes of a node: XenStore's messages have at most 4096, and its paths need some of them.
const PIECE: usize = 2048;
/// Nodes of the longest invitation.
const PIECES: usize =
    (HEAD * 4 + 4 * (1 + (MOST as usize * MOST as usize * 8).div_ceil(PAGE_SIZE))).div_ceil(PIECE);
/// `Surf`.
const MARK: u32 = u32::from_le_bytes(*b"Surf");

/// Lines of pixels of four bytes each. What the bytes of a pixel mean is between the two sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    width: u32,
    height: u32,
    stride: u32,
}

impl Shape {
    /// `height` lines of `width` pixels, which begin `stride` bytes apart.
    ///
    /// # Errors
    /// [`SurfaceError::Shape`]: none, or more than 16384 of either; lines that overlap or are not of whole pixels.
    pub fn new(width: u32, height: u32, stride: u32) -> Result<Self, SurfaceError> {
        let sides = [width, height].iter().all(|side| (1..=MOST).contains(side));
        let lines = stride.is_multiple_of(PIXEL)
            && (width.saturating_mul(PIXEL)..=MOST * PIXEL * 2).contains(&stride);
        let shape = Self { width, height, stride };
        if sides && lines { Ok(shape) } else { Err(SurfaceError::Shape { width, height, stride }) }
    }

    /// Pixels in a line.
    pub fn width(self) -> u32 {
        self.width
    }

    /// Lines.
    pub fn height(self) -> u32 {
        self.height
    }

    /// Bytes from line to line.
    pub fn stride(self) -> u32 {
        self.stride
    }

    /// Bytes of a line's pixels.
    pub fn line(self) -> usize {
        (self.width * PIXEL) as usize
    }

    /// Bytes of the picture, those between the lines among them.
    pub fn bytes(self) -> usize {
        self.stride as usize * self.height as usize
    }

    /// Pages of the picture.
    pub(super) fn pages(self) -> usize {
        self.bytes().div_ceil(PAGE_SIZE)
    }
}

/// What a viewer has to know of a picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invitation {
    pub(super) shape: Shape,
    /// The head's first.
    pub(super) refs: Vec<GrantRef>,
}

impl Invitation {
    /// The shape of the picture.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// As bytes: little-endian words, a mark, width, height, stride, one reference a page.
    pub fn to_bytes(&self) -> Vec<u8> {
        let Shape { width, height, stride } = self.shape;
        let refs = self.refs.iter().map(|gref| gref.0);
        [MARK, width, height, stride].into_iter().chain(refs).flat_map(u32::to_le_bytes).collect()
    }

    /// Writes it below `path`, which `viewer` may read, in place of what was there; `me` is this domain.
    ///
    /// # Errors
    /// Those of the store.
    pub fn publish<T: Read + Write>(
        &self,
        store: &mut Store<T>,
        path: &str,
        me: DomId,
        viewer: DomId,
    ) -> Result<(), StoreError> {
        let (bytes, permissions) = (self.to_bytes(), [Permission::Owner(me), Permission::Read(viewer)]);
        store.transact(|store, tx| {
            remove(store, tx, path)?;
            bytes.chunks(PIECE).enumerate().try_for_each(|(i, piece)| {
                let node = format!("{path}/{i}");
                store.write(tx, &node, piece)?;
                store.set_permissions(tx, &node, &permissions)
            })
        })
    }

    /// Takes away what is written below `path`; nothing there is no error.
    ///
    /// # Errors
    /// Those of the store.
    pub fn withdraw<T: Read + Write>(store: &mut Store<T>, path: &str) -> Result<(), StoreError> {
        remove(store, Transaction::NONE, path)
    }

    /// Reads what a painter has written below `path`. `None`: nothing, or nothing for this domain.
    ///
    /// # Errors
    /// [`SurfaceError::Store`]; those of [`from_bytes`](Self::from_bytes).
    pub fn find<T: Read + Write>(store: &mut Store<T>, path: &str) -> Result<Option<Self>, SurfaceError> {
        // All of one: it may be replaced meanwhile.
        let bytes = store.transact(|store, tx| {
            let mut bytes = Vec::new();
            for i in 0..PIECES {
                match store.read(tx, &format!("{path}/{i}")) {
                    Ok(piece) => bytes.extend(piece),
                    Err(StoreError::Refused { errno: Errno::ENOENT | Errno::EACCES, .. }) => break,
                    Err(e) => return Err(e),
                }
            }
            Ok(bytes)
        });
        let bytes = bytes.map_err(|e| SurfaceError::Store(e.errno()))?;
        if bytes.is_empty() { Ok(None) } else { Self::from_bytes(&bytes).map(Some) }
    }

    /// From bytes.
    ///
    /// # Errors
    /// [`SurfaceError::Invitation`]: no such bytes, or not one reference for each page; [`SurfaceError::Shape`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, SurfaceError> {
        let none = SurfaceError::Invitation(bytes.len());
        let (words, rest) = bytes.as_chunks();
        let words: Vec<u32> = words.iter().map(|word| u32::from_le_bytes(*word)).collect();
        let (Some(&[mark, width, height, stride]), []) = (words.first_chunk::<HEAD>(), rest) else {
            return Err(none);
        };
        if mark != MARK {
            return Err(none);
        }
        let shape = Shape::new(width, height, stride)?;
        let refs: Vec<_> = words.iter().skip(HEAD).map(|word| GrantRef(*word)).collect();
        if refs.len() != 1 + shape.pages() {
            return Err(none);
        }
        Ok(Self { shape, refs })
    }
}

fn remove<T: Read + Write>(store: &mut Store<T>, tx: Transaction, path: &str) -> Result<(), StoreError> {
    match store.remove(tx, path) {
        Err(StoreError::Refused { errno: Errno::ENOENT, .. }) => Ok(()),
        other => other,
    }
}
