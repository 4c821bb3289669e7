//! What a server sees of a row: the bytes of each request, in words, and the guest's answer.
//!
//! The log of real Xen and of the model are compared as text, so what differs between two runs by chance alone is made
//! alike: addresses of the guest's scratch RAM, and how often a notice that says nothing is repeated.

use std::fmt::Write as _;

use guest::rows::{
    END, END_VALUE, LINE, Line, MSI, NEXT, ORDER, Order, RESULT, SCRATCH_FRAMES, Table, VGA, VGA_BYTES,
};
use xen_ioreq::abi::ioreq::{
    Bits, IOREQ_TYPE_COPY, IOREQ_TYPE_INVALIDATE, IOREQ_TYPE_PCI_CONFIG, IOREQ_TYPE_PIO, ioreq,
};
use xen_ioreq::{PAGE_SHIFT, PAGE_SIZE};

/// A row of more requests than these shows their number and a digest of their lines.
const SHOWN: usize = 12;

/// FNV-1a, 64 bits.
fn digest(lines: &[String]) -> u64 {
    let bytes = lines.iter().flat_map(|l| l.bytes().chain([b'\n']));
    bytes.fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3))
}

/// How a request came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// In the slot of the vCPU that performs the rows.
    Slot,
    /// In another vCPU's.
    Others,
    /// In the buffered ring.
    Ring,
}

/// One row as it was seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// The guest's answer.
    pub answer: u64,
    /// One line a request.
    pub requests: Vec<String>,
}

/// The log of a run, filled while it lasts.
#[derive(Debug, Default)]
pub(super) struct Log {
    done: Vec<Seen>,
    open: Vec<ioreq>,
    ways: Vec<Way>,
    low: Option<u32>,
    scratch: Option<u64>,
    ended: bool,
}

impl Log {
    /// Takes a request in.
    pub(super) fn request(&mut self, way: Way, r: &ioreq) {
        let write = !Bits::unpack(r.bits).read;
        if way != Way::Ring && r.r#type == IOREQ_TYPE_PIO && r.size == 4 && r.count == 1 {
            let value = (r.data & 0xffff_ffff) as u32;
            let performs = way == Way::Slot;
            match u16::try_from(r.addr) {
                Ok(RESULT) if write && performs => return self.result(value),
                Ok(END) if write && value == END_VALUE && performs => {
                    self.ended = true;
                    return;
                }
                // The guest asks for a table, which is no row's doing.
                Ok(NEXT) if !write => return,
                _ => {}
            }
        }
        // It is chance which of several vCPUs' writes there find the ring full; the device keeps the account.
        if r.r#type == IOREQ_TYPE_COPY && (VGA..VGA + VGA_BYTES).contains(&r.addr) {
            return;
        }
        self.open.push(*r);
        self.ways.push(way);
    }

    fn result(&mut self, value: u32) {
        let Some(low) = self.low.take() else {
            self.low = Some(value);
            return;
        };
        let mut answer = u64::from(value) << 32 | u64::from(low);
        // The first row tells where the scratch RAM is.
        let scratch = *self.scratch.get_or_insert(answer);
        if self.done.is_empty() {
            answer = 0;
        }
        let mut requests: Vec<String> = Vec::new();
        for (r, way) in self.open.drain(..).zip(self.ways.drain(..)) {
            let line = words(&r, way, scratch);
            // Xen repeats the notice for each time that the hypercall was interrupted.
            if r.r#type == IOREQ_TYPE_INVALIDATE && requests.last() == Some(&line) {
                continue;
            }
            requests.push(line);
        }
        if requests.len() > SHOWN {
            requests = vec![format!("{} requests, {:#018x}", requests.len(), digest(&requests))];
        }
        self.done.push(Seen { answer, requests });
    }

    /// Whether the guest has said that it is done.
    pub(super) fn ended(&self) -> bool {
        self.ended
    }

    /// The rows seen so far.
    pub(super) fn take(&mut self) -> Vec<Seen> {
        std::mem::take(&mut self.done)
    }
}

/// A request in words.
fn words(r: &ioreq, way: Way, scratch: u64) -> String {
    let bits = Bits::unpack(r.bits);
    let mut line = String::new();
    let ram = |at: u64| at.checked_sub(scratch).filter(|o| *o < (SCRATCH_FRAMES * PAGE_SIZE) as u64);
    // Writing to a String cannot fail.
    let _ = match r.r#type {
        IOREQ_TYPE_PIO => write!(line, "port {:#x}", r.addr),
        IOREQ_TYPE_COPY => match ram(r.addr) {
            Some(offset) => write!(line, "memory ram+{offset:#x}"),
            None => write!(line, "memory {:#x}", r.addr),
        },
        IOREQ_TYPE_PCI_CONFIG => {
            let sbdf = r.addr >> 32;
            write!(line, "config {:02x}.{} register {:#x}", sbdf >> 3, sbdf & 7, r.addr & 0xffff_ffff)
        }
        IOREQ_TYPE_INVALIDATE => write!(line, "invalidate {:#x}", r.addr),
        other => write!(line, "type {other} {:#x}", r.addr),
    };
    let dir = if bits.read { "read" } else { "write" };
    let _ = write!(line, " {dir} {} x {}", r.size, r.count);
    if bits.df {
        line.push_str(" downwards");
    }
    let order = || {
        let order = Order::ALL.into_iter().find(|o| *o as u64 == r.data & 0xf)?;
        Some((order, ram(r.data >> 4 << PAGE_SHIFT)? >> PAGE_SHIFT))
    };
    let _ = match (bits.data_is_ptr, ram(r.data)) {
        (true, Some(offset)) => write!(line, " at ram+{offset:#x}"),
        (true, None) => write!(line, " at {:#x}", r.data),
        // Which vector a guest wants its interrupt at is its own affair.
        (false, _) if r.r#type == IOREQ_TYPE_PIO && r.addr == u64::from(MSI) => write!(line, " vector"),
        (false, _) if r.r#type == IOREQ_TYPE_PIO && r.addr == u64::from(ORDER) && !bits.read => match order()
        {
            Some((order, frame)) => write!(line, " {order:?} frame {frame}"),
            None => write!(line, " no order {:#x}", r.data),
        },
        (false, _) if r.r#type == IOREQ_TYPE_PIO && r.addr == u64::from(LINE) && !bits.read => {
            match u32::try_from(r.data & 0xffff_ffff).ok().and_then(Line::of_word) {
                Some(of) => write!(line, " {of:?}"),
                None => write!(line, " no line {:#x}", r.data),
            }
        }
        (false, _) => write!(line, " data {:#x}", r.data),
    };
    match way {
        Way::Slot => {}
        Way::Others => line.push_str(" by another vCPU"),
        Way::Ring => line.push_str(" in the ring"),
    }
    line
}

/// A log as text: `name = answer`, and indented below it one line a request. `label` stands before each name.
pub fn text(label: &str, table: Table, seen: &[Seen]) -> String {
    let mut out = String::new();
    for (row, seen) in table.rows().iter().zip(seen) {
        let _ = writeln!(out, "{label}{} = {:#x}", row.name, seen.answer);
        for line in &seen.requests {
            let _ = writeln!(out, "    {line}");
        }
    }
    out
}

/// Reads such a text: name and row, in order. Lines that begin with `#` are comments.
pub fn parse(text: &str) -> Vec<(String, Seen)> {
    let mut out: Vec<(String, Seen)> = Vec::new();
    for line in text.lines().filter(|l| !l.starts_with('#') && !l.trim().is_empty()) {
        if let Some(request) = line.strip_prefix("    ") {
            if let Some((_, seen)) = out.last_mut() {
                seen.requests.push(request.to_owned());
            }
        } else if let Some((name, answer)) = line.split_once(" = 0x") {
            // What is no number matches no answer that is expected: the row of that name is missing then.
            if let Ok(answer) = u64::from_str_radix(answer, 16) {
                out.push((name.to_owned(), Seen { answer, requests: Vec::new() }));
            }
        }
    }
    out
}
