//! What a record looks like: lines of text, always a page long.

use std::fmt::Write as _;

use xen_ioreq::{DomId, IoServerId, PAGE_SIZE};

use super::{Incarnation, NOTE_MAX, SERVERS};

/// Bytes of a record that is not empty.
pub(super) const LENGTH: usize = PAGE_SIZE;

const HEAD: &str = "IOREQ servers of a guest, version 1";
const END: &str = "end";

/// What is in a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Contents {
    pub(super) guest: Incarnation,
    /// All different, at most [`SERVERS`].
    pub(super) servers: Vec<IoServerId>,
    /// At most [`NOTE_MAX`] bytes.
    pub(super) note: Vec<u8>,
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut out, byte| {
        // Writing to a String does not fail.
        let _ = write!(out, "{byte:02x}");
        out
    })
}

/// The bytes that pairs of lower-case digits stand for.
pub(super) fn bytes(digits: &str) -> Option<Vec<u8>> {
    let digit = |b: u8| match b {
        b'0'..=b'9' => Some(b - b'0'),
        b'a'..=b'f' => Some(b - b'a' + 10),
        _ => None,
    };
    let (pairs, rest) = digits.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    pairs.iter().map(|&[high, low]| Some(digit(high)? << 4 | digit(low)?)).collect()
}

pub(super) fn print(contents: &Contents) -> Vec<u8> {
    let Contents { guest, servers, note } = contents;
    let servers: String = servers.iter().map(|s| format!(" {}", s.0)).collect();
    let mut text = format!(
        "{HEAD}\ndomid {}\nuuid {}\nframe {:x}\nboot {}\nservers{servers}\nnote {}\n{END}\n",
        guest.domid.0,
        hex(&guest.uuid),
        guest.shared_info,
        hex(&guest.boot),
        hex(note),
    )
    .into_bytes();
    text.resize(LENGTH, b'\n');
    text
}

/// `None`: nothing was ever written. `Err`: the number of the line that is wrong.
pub(super) fn parse(text: &[u8]) -> Result<Option<Contents>, usize> {
    if text.is_empty() {
        return Ok(None);
    }
    let whole = std::str::from_utf8(text).ok().filter(|t| t.len() == LENGTH).ok_or(1usize)?;
    let mut lines = (1..).zip(whole.split('\n'));
    // The next line's number and what is behind its key.
    let mut value = |key: &'static str| {
        let (number, line) = lines.next().ok_or(0usize)?;
        line.strip_prefix(key).map(|rest| (number, rest)).ok_or(number)
    };
    let (head, rest) = value(HEAD)?;
    if !rest.is_empty() {
        return Err(head);
    }
    let (at, domid) = value("domid ")?;
    let domid = DomId(number(domid, 10).and_then(|n| n.try_into().ok()).ok_or(at)?);
    let sixteen = |(at, digits): (usize, &str)| -> Result<[u8; 16], usize> {
        bytes(digits).and_then(|b| b.try_into().ok()).ok_or(at)
    };
    let uuid = sixteen(value("uuid ")?)?;
    let (at, frame) = value("frame ")?;
    let shared_info = number(frame, 16).ok_or(at)?;
    let boot = sixteen(value("boot ")?)?;
    let (at, ids) = value("servers")?;
    let mut servers: Vec<IoServerId> = Vec::new();
    for word in ids.split(' ').skip(1) {
        let id = IoServerId(number(word, 10).and_then(|n| n.try_into().ok()).ok_or(at)?);
        if servers.len() == SERVERS || servers.contains(&id) {
            return Err(at);
        }
        servers.push(id);
    }
    if !ids.is_empty() && !ids.starts_with(' ') {
        return Err(at);
    }
    let (at, note) = value("note ")?;
    let note = bytes(note).filter(|n| n.len() <= NOTE_MAX).ok_or(at)?;
    let (at, rest) = value(END)?;
    if !rest.is_empty() || lines.any(|(_, line)| !line.is_empty()) {
        return Err(at);
    }
    Ok(Some(Contents { guest: Incarnation { domid, uuid, shared_info, boot }, servers, note }))
}

/// A number as we write it: no sign, no zeros before it.
fn number(digits: &str, radix: u32) -> Option<u64> {
    let plain = digits == "0" || !digits.starts_with(['0', '+']);
    u64::from_str_radix(digits, radix).ok().filter(|_| plain)
}
