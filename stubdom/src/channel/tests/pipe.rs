//! Random operations of both ends against two naive pipes, and who is woken when.

use std::collections::VecDeque;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// An end's operation.
#[derive(Clone, Copy, Debug)]
enum Op {
    Read(usize),
    Recv(usize),
    Write(usize),
    Send(usize),
    Acknowledge,
    Close,
}

/// Bytes under way, and who wants to be told.
#[derive(Debug, Default)]
struct Pipe {
    bytes: VecDeque<u8>,
    size: usize,
    /// Its writer wants to know of room.
    writer_waits: bool,
    /// Its reader wants to know of bytes.
    reader_waits: bool,
}

#[derive(Debug)]
struct Naive {
    /// From the client, from the server; an end is the number of the pipe that it writes to.
    pipes: [Pipe; 2],
    closed: [bool; 2],
    told: [bool; 2],
    next: u8,
}

impl Naive {
    fn new(sizes: [usize; 2]) -> Self {
        let pipe = |size| Pipe { size, reader_waits: true, ..Pipe::default() };
        Self { pipes: sizes.map(pipe), closed: [false; 2], told: [false; 2], next: 0 }
    }

    fn data(&mut self, len: usize) -> Vec<u8> {
        (0..len)
            .map(|_| {
                self.next = self.next.wrapping_add(1);
                self.next
            })
            .collect()
    }

    fn read(&mut self, end: usize, len: usize, whole: bool) -> Result<Vec<u8>, ChannelError> {
        let (peer, pipe) = (1 - end, &mut self.pipes[1 - end]);
        if whole && len > pipe.size {
            return Err(ChannelError::TooLong { len, size: pipe.size });
        }
        let least = if whole { len } else { len.min(1) };
        if pipe.bytes.len() < least {
            pipe.reader_waits = true;
            return Err(if self.closed[peer] { ChannelError::Closed } else { ChannelError::WouldBlock });
        }
        let got: Vec<u8> = pipe.bytes.drain(..len.min(pipe.bytes.len())).collect();
        if !got.is_empty() && std::mem::take(&mut pipe.writer_waits) {
            self.told[peer] = true;
        }
        Ok(got)
    }

    fn write(&mut self, end: usize, data: &[u8], whole: bool) -> Result<usize, ChannelError> {
        let (peer, pipe) = (1 - end, &mut self.pipes[end]);
        if whole && data.len() > pipe.size {
            return Err(ChannelError::TooLong { len: data.len(), size: pipe.size });
        }
        if data.is_empty() {
            return Ok(0);
        }
        if self.closed[peer] {
            return Err(ChannelError::Closed);
        }
        let room = pipe.size - pipe.bytes.len();
        if room < if whole { data.len() } else { 1 } {
            pipe.writer_waits = true;
            return Err(ChannelError::WouldBlock);
        }
        let n = room.min(data.len());
        pipe.bytes.extend(&data[..n]);
        if std::mem::take(&mut pipe.reader_waits) {
            self.told[peer] = true;
        }
        Ok(n)
    }
}

fn op() -> impl Strategy<Value = Op> {
    let len = || prop_oneof![4 => 0..300usize, 2 => 0..3000usize, 1 => 0..9000usize];
    prop_oneof![
        6 => len().prop_map(Op::Read),
        3 => len().prop_map(Op::Recv),
        6 => len().prop_map(Op::Write),
        3 => len().prop_map(Op::Send),
        3 => Just(Op::Acknowledge),
    ]
}

/// Many operations, and perhaps an end.
fn ops() -> impl Strategy<Value = Vec<(usize, Op)>> {
    let close = prop_oneof![Just(None), (0..2usize, 0..100usize).prop_map(Some)];
    (vec((0..2usize, op()), 1..100), close).prop_map(|(mut ops, close)| {
        if let Some((end, at)) = close {
            ops.insert(at.min(ops.len()), (end, Op::Close));
        }
        ops
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn a_channel_is_two_pipes_and_wakes_who_waits_and_nobody_else(
        ops in ops(),
        sizes in prop_oneof![
            Just(SMALL), Just(PAGED), Just(Sizes { to_server: 2048, to_client: 100 }),
            Just(Sizes { to_server: 4096, to_client: 2048 }),
        ],
    ) {
        let pair = Pair::new();
        let (server, client) = pair.channel(sizes);
        let mut naive = Naive::new([server.receive_size(), server.send_size()]);
        let mut ends = [Some(client), Some(server)];
        for (end, op) in ops {
            let Some(channel) = ends[end].as_mut() else { continue };
            match op {
                Op::Read(len) => {
                    let mut out = vec![0; len];
                    let got = channel.read(&mut out).map(|n| out[..n].to_vec());
                    prop_assert_eq!(got, naive.read(end, len, false), "{:?}", op);
                }
                Op::Recv(len) => {
                    let mut out = vec![0; len];
                    let got = channel.recv(&mut out).map(|()| out);
                    prop_assert_eq!(got, naive.read(end, len, true), "{:?}", op);
                }
                Op::Write(len) => {
                    let data = naive.data(len);
                    prop_assert_eq!(channel.write(&data), naive.write(end, &data, false), "{:?}", op);
                }
                Op::Send(len) => {
                    let data = naive.data(len);
                    let sent = channel.send(&data).map(|()| len);
                    prop_assert_eq!(sent, naive.write(end, &data, true), "{:?}", op);
                }
                Op::Acknowledge => {
                    channel.acknowledge().expect("events");
                    naive.told[end] = false;
                }
                Op::Close => {
                    ends[end] = None;
                    naive.closed[end] = true;
                    naive.told[1 - end] = true;
                }
            }
            for (end, channel) in ends.iter().enumerate() {
                if let Some(channel) = channel {
                    prop_assert_eq!(told(channel), naive.told[end], "end {} after {:?}", end, op);
                }
            }
        }
    }
}
